//! `pkttrace diagnose`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::filter::{FilterArgs, Proto};
use super::trace::{Color, Span};
use crate::diagnose::run::{self, Ask, To, Watch};
use crate::diagnose::{Method, Verdict};
use crate::render::{self, Style};
use crate::report;
use crate::signals::{self, Signals};
use crate::{output, terminal};

/// How long traffic of others is watched unless it is said.
const WATCH: Duration = Duration::from_secs(3);
/// The same to see why it is slow: a round of retransmissions and of name look-ups goes by.
const WATCH_SLOW: Duration = Duration::from_secs(6);

/// Name the cause of a connectivity failure, with evidence and the command that fixes it.
///
/// With --from and --to it sends probes of its own from inside that network namespace, follows
/// exactly those packets and their replies, and concludes. With filters it watches the traffic of
/// others meanwhile. With neither it checks the whole node.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    pkttrace diagnose --from web --to 10.244.2.2          ping from namespace web\n  \
    pkttrace diagnose --from web --to 10.96.0.10:80       a Service, all its endpoints\n  \
    pkttrace diagnose --from web --to db.prod --proto dns the name, by web's own resolver\n  \
    pkttrace diagnose --dst 10.244.2.2 --duration 10s     while you reproduce the fault\n  \
    pkttrace diagnose --slow --from web --to 10.96.0.9:80 while it is slow\n\n\
    Exit codes: 0 what was asked works and nothing wrong was found, 1 a finding of severity error, \
    2 could not run, 3 inconclusive: nothing was seen to work and nothing to fail.")]
pub struct DiagnoseArgs {
    /// Where to send probes from: a network namespace, container, pod, process, or host.
    #[arg(long, value_name = "NETNS|CONTAINER|POD|PID|host", requires = "to")]
    from: Option<String>,
    /// Whom to reach. With a name, the resolver of --from is asked first.
    #[arg(long, value_name = "IP[:PORT]|NAME[:PORT]", requires = "from")]
    to: Option<To>,
    /// How to probe: icmp, tcp, udp, dns; without it an echo, and TCP too when there is a port.
    /// Without --from, a filter: also icmp6, sctp, arp or a number.
    #[arg(long, value_name = "PROTO")]
    proto: Option<String>,
    /// How long to wait for an answer.
    #[arg(long, value_name = "TIME", default_value = "3s")]
    timeout: Span,
    /// Say why it is slow, not why it fails: watch what grows on its way while its traffic runs.
    #[arg(long)]
    slow: bool,
    /// How long to watch without --from, or with --slow [default: 3s, with --slow 6s].
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// See the world as the node with this root network namespace does: it and its pods.
    #[arg(long, value_name = "NETNS")]
    view: Option<String>,
    /// Create FILE once every probe is attached: traffic may begin then.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    filter: WatchArgs,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Tree)]
    output: Output,
    /// Colours: auto is a terminal without NO_COLOR.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    color: Color,
    /// Do not say on stderr what is being done.
    #[arg(short, long)]
    quiet: bool,
}

/// [`FilterArgs`] but for the protocol, which probes have too.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters (without --from, but for --sport)")]
pub struct WatchArgs {
    /// Source address or network of the flow, as its first packet shows it.
    #[arg(long, value_name = "IP|CIDR", conflicts_with = "from")]
    src: Option<super::filter::Network>,
    /// Destination address or network of the flow, as its first packet shows it.
    #[arg(long, value_name = "IP|CIDR", conflicts_with = "from")]
    dst: Option<super::filter::Network>,
    /// Address or network at either end.
    #[arg(long, value_name = "IP|CIDR", conflicts_with = "from")]
    host: Option<super::filter::Network>,
    /// Source port; with --from that of the probe.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    sport: Option<u16>,
    /// Destination port.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "from")]
    dport: Option<u16>,
    /// Port at either end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "from")]
    port: Option<u16>,
    /// Network namespace in which a packet is first met.
    #[arg(long, value_name = "NAME|PATH|PID|INUM", conflicts_with = "from")]
    netns: Option<String>,
    /// Network device on which a packet is first met.
    #[arg(long, value_name = "IFNAME", conflicts_with = "from")]
    dev: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Tree,
    /// One JSON object on one line.
    Json,
}

/// Runs the command.
///
/// # Errors
///
/// What keeps it from running, in one line.
pub fn run(args: &DiagnoseArgs) -> Result<ExitCode> {
    if args.from.is_some() && !args.slow && (args.duration.is_some() || args.ready_file.is_some()) {
        bail!("--duration and --ready-file are for watching: with --from they need --slow");
    }
    let outcome = signals::block_on(async {
        let mut signals = Signals::new()?;
        match (&args.from, &args.to) {
            (Some(from), Some(to)) if args.slow => {
                let ask = args.ask(from, to)?;
                run::slow(Some(&ask), &args.watch()?, signals.recv()).await
            }
            _ if args.slow => run::slow(None, &args.watch()?, signals.recv()).await,
            (Some(from), Some(to)) => {
                let ask = args.ask(from, to)?;
                tokio::select! {
                    outcome = run::active(&ask) => outcome,
                    _ = signals.recv() => bail!(run::INTERRUPTED),
                }
            }
            _ => run::passive(&args.watch()?, signals.recv()).await,
        }
    })?;
    print(args, &outcome)?;
    Ok(ExitCode::from(match outcome.diagnosis.verdict {
        Verdict::Healthy => 0,
        Verdict::Broken => 1,
        Verdict::Inconclusive => 3,
    }))
}

impl DiagnoseArgs {
    /// What becomes of words on what is being done.
    fn say(&self) -> fn(&str) {
        if self.quiet { |_| () } else { output::say }
    }

    fn ask(&self, from: &str, to: &To) -> Result<Ask> {
        let proto = match self.proto.as_deref() {
            None => None,
            Some("icmp" | "icmp6") => Some(Method::Icmp),
            Some("tcp") => Some(Method::Tcp),
            Some("udp") => Some(Method::Udp),
            Some("dns") => Some(Method::Dns),
            Some(other) => bail!("--proto {other}: probes are icmp, tcp, udp or dns"),
        };
        Ok(Ask {
            from: from.to_owned(),
            to: to.clone(),
            proto,
            sport: self.filter.sport,
            timeout: self.timeout.0,
            view: self.view.clone(),
            say: self.say(),
        })
    }

    fn watch(&self) -> Result<Watch> {
        // Of probes, it says how to ask.
        let proto = self.proto.as_deref().filter(|_| self.from.is_none());
        let proto = proto.map(str::parse::<Proto>).transpose();
        let proto = proto.map_err(|why| anyhow::anyhow!("--proto: {why}"))?;
        let WatchArgs { src, dst, host, sport, dport, port, netns, dev } = self.filter.clone();
        Ok(Watch {
            filter: FilterArgs {
                src,
                dst,
                host,
                sport,
                dport,
                port,
                proto,
                netns,
                dev,
                ..FilterArgs::default()
            },
            duration: self.duration.map_or(if self.slow { WATCH_SLOW } else { WATCH }, |d| d.0),
            view: self.view.clone(),
            ready_file: self.ready_file.clone(),
            say: self.say(),
        })
    }
}

fn print(args: &DiagnoseArgs, outcome: &run::Outcome) -> Result<()> {
    let node = output::node_name();
    let twin = report::diagnosis::Diagnosis::new(outcome, &node);
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => {
            serde_json::to_writer(&mut out, &twin)?;
            out.write_all(b"\n")?;
        }
        Output::Tree => {
            let is_plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
            let has_color = match args.color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => io::stdout().is_terminal() && !is_plain,
            };
            let style = Style { has_color, width: terminal::width(), ..Style::default() };
            let paths = render::diagnosis::paths(&outcome.journeys);
            render::diagnosis::write(&twin, &paths, style, &mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}
