//! `cargo xtask demo`: a cluster lab, a healthy ping and a Service call, a fault named and healed.

mod lab;

use std::io::IsTerminal;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::process::{self, Tracer};
use crate::{build, setup, sh};
use lab::Lab;

/// Pod p3 on node n2; p1 is on n1.
const P3: &str = "10.244.2.2";
/// A Service whose only endpoint is p3.
const SERVICE: &str = "10.96.45.103";
/// What is broken, and the finding that names it.
const FAULT: &str = "forward-policy-drop";

/// Runs the tour; whatever happens, the lab is gone afterwards.
///
/// # Errors
///
/// Without root, or when a step does not show what it should.
pub(crate) fn run(layout: &Layout) -> Result<()> {
    if !sh::is_root() {
        bail!("the demo makes network namespaces and loads BPF programs: run it as root");
    }
    setup::run(layout)?;
    build::run(layout)?;
    process::catch_signals();
    let result = tour(layout);
    if process::check().is_err() {
        bail!("interrupted; the lab is removed");
    }
    result
}

fn tour(layout: &Layout) -> Result<()> {
    say(&[
        "A cluster of two nodes, made of network namespaces on this machine: pods on a bridge,",
        "a VXLAN overlay between the nodes, Services as kube-proxy writes them.",
    ]);
    let lab = Lab::up(layout.binary(), "cluster")?;

    say(&["Pod p1 on node n1 pings pod p3 on node n2. Every hop of the request and the reply:"]);
    let ping = ["ping", "-c1", "-W2", P3];
    expect(&trace(&lab, &["--dst", P3, "--proto", "icmp", "-c", "2"], &ping, true)?, P3)?;

    say(&[
        "p1 calls a Service. Its address belongs to no device: PREROUTING rewrites it to p3's,",
        "and the answer is rewritten back. The first two packets of the connection:",
    ]);
    let url = format!("http://{SERVICE}/");
    let curl = ["curl", "-sS", "-m", "3", "-o", "/dev/null", "-w", "HTTP %{http_code}", &url];
    let filter = ["--dst", SERVICE, "--proto", "tcp", "--dport", "80", "-c", "2"];
    expect(&trace(&lab, &filter, &curl, true)?, SERVICE)?;

    say(&["Now the node's firewall changes: policy DROP, and flannel's accepts are gone."]);
    pkttrace(&lab, &["lab", "break", FAULT, "--prefix", lab.prefix()], &[0])?;

    say(&["The same ping. The client only sees silence; the trace says where it ends and why:"]);
    let broken = ["--dst", P3, "--proto", "icmp", "-c", "1", "--rules"];
    expect(&trace(&lab, &broken, &ping, false)?.to_lowercase(), "drop")?;

    say(&["And `diagnose` names the cause, shows its evidence and prints what heals it:"]);
    let from = lab.netns("p1");
    let ask = ["diagnose", "--from", &from, "--to", P3];
    expect(&pkttrace(&lab, &ask, &[1])?, FAULT)?;

    say(&["The fix, as it is printed:"]);
    for command in fixes(&lab, &ask)? {
        shown(&command);
        sh::run_quiet(Command::new("sh").args(["-c", &command]))?;
    }

    say(&["And the ping again, and what `diagnose` says now:"]);
    expect(&trace(&lab, &["--dst", P3, "--proto", "icmp", "-c", "2"], &ping, true)?, P3)?;
    expect(&pkttrace(&lab, &ask, &[0])?, P3)?;
    say(&["Healthy. Now on your own node: `pkttrace --dst ADDRESS`."]);
    Ok(())
}

/// Runs pkttrace in the foreground, shows and returns what it prints.
fn pkttrace(lab: &Lab, args: &[&str], codes: &[i32]) -> Result<String> {
    process::check()?;
    shown(&format!("pkttrace {}", args.join(" ")));
    let mut command = lab.pkttrace();
    let out = command.args(args).output().context("cannot start pkttrace")?;
    let printed = String::from_utf8_lossy(&out.stdout).into_owned();
    print!("{printed}");
    if !out.status.code().is_some_and(|code| codes.contains(&code)) {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("`pkttrace {}` ended with {}: {said}", args.join(" "), out.status);
    }
    Ok(printed)
}

/// The commands that heal the first finding.
fn fixes(lab: &Lab, ask: &[&str]) -> Result<Vec<String>> {
    let out = lab.pkttrace().args(ask).args(["-o", "json"]).output();
    let out = out.context("cannot start pkttrace")?;
    let diagnosis: serde_json::Value =
        serde_json::from_slice(&out.stdout).context("reading the diagnosis")?;
    let fix = diagnosis["findings"][0]["fix"].as_array();
    let commands = fix.into_iter().flatten().filter_map(|c| c.as_str().map(str::to_owned));
    let commands: Vec<String> = commands.collect();
    if commands.is_empty() {
        bail!("the diagnosis prints no command that heals the fault");
    }
    Ok(commands)
}

/// Follows packets while a command in pod p1 makes them; returns what the tracer printed.
fn trace(lab: &Lab, filter: &[&str], traffic: &[&str], works: bool) -> Result<String> {
    process::check()?;
    let mut tracer = lab.pkttrace();
    tracer.args(filter).args(["-o", "tree"]);
    shown(&format!("pkttrace {} &", filter.join(" ")));
    if std::io::stdout().is_terminal() {
        tracer.args(["--color", "always"]);
    }
    let ready = std::env::temp_dir().join(format!("pkttrace-demo-{}.ready", std::process::id()));
    let tracer = Tracer::start(tracer, &ready)?;
    let (answered, result) = lab.exec("p1", traffic)?;
    if answered != works {
        let outcome = if answered { "works" } else { "fails" };
        bail!("`{}` in p1 {outcome}, against this step ({result})", traffic.join(" "));
    }
    let printed = tracer.finish(Duration::from_secs(5))?;
    println!("\n# p1 sees: {result}");
    Ok(printed)
}

/// A step that shows nothing of what it is about is a failure, not a tour.
fn expect(printed: &str, what: &str) -> Result<()> {
    if !printed.contains(what) {
        bail!("the trace shows nothing of {what}");
    }
    Ok(())
}

fn say(lines: &[&str]) {
    println!();
    for line in lines {
        println!("# {line}");
    }
}

/// A command as the user would type it.
pub(super) fn shown(command: &str) {
    println!("$ {command}");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A program that writes down how it was called; it traces and answers, but makes no lab.
    const STAND_IN: &str = r#"#!/bin/sh
echo "$@" >> "$0.calls"
case "$1" in
lab) exit 0 ;;
*) while [ $# -gt 1 ]; do [ "$1" = --ready-file ] && : > "$2"; shift; done
   echo "10.244.2.2 10.96.45.103 drop" ;;
esac
"#;

    #[test]
    fn the_lab_is_removed_when_a_step_fails() {
        let root = std::env::temp_dir().join(format!("xtask-demo-{}", std::process::id()));
        let layout = Layout { root: root.clone(), target: root.clone(), cache: root.clone() };
        let binary = layout.binary();
        fs::create_dir_all(root.join("release")).expect("makes its directory");
        // Another process writes the program: a file that this one holds open for writing could
        // be inherited by another test's child, and would then not run ("text file busy").
        let text = root.join("stand-in");
        fs::write(&text, STAND_IN).expect("writes the stand-in");
        sh::output(Command::new("install").arg("-m755").args([&text, &binary])).expect("install");

        // It finds nothing wrong, so its diagnosis ends with the wrong code.
        tour(&layout).expect_err("the stand-in made no lab");

        let calls = fs::read_to_string(binary.with_extension("calls")).expect("calls");
        let calls: Vec<_> = calls.lines().collect();
        let first_words = |n: usize| calls.get(n).map(|call| call.starts_with("lab up cluster"));
        assert_eq!(first_words(0), Some(true), "{calls:?}");
        assert!(calls.last().is_some_and(|call| call.starts_with("lab down --prefix demo-")));
        fs::remove_dir_all(root).expect("clears up");
    }
}
