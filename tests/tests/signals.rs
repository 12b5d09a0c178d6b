//! A signal at any moment ends any command, and nothing stays behind.

mod robust_support;

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use pkttrace_tests::{Lab, binary, interruptible, is_fast, side_by_side};
use robust_support::objects::Objects;
use robust_support::{PATIENCE, Running};

/// Half a second is the aim; a machine that does other things too takes longer. What waits for
/// ever does not end in this either.
const PROMPT: Duration = Duration::from_secs(20);

/// Signals are sent so many milliseconds after the start, at most: loading and attaching lie before.
const LATEST: u64 = 900;

/// How many signals are sent.
const RUNS: u64 = 100;
const FAST_RUNS: u64 = 14;

/// Numbers that look random and are the same in every run.
fn dice(n: u64) -> u64 {
    let mut x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 27
}

/// Every command that works for a while.
fn commands(lab: &Lab, n: u64) -> Vec<Vec<String>> {
    let (n1, p1) = (lab.netns("n1"), lab.netns("p1"));
    let prefix = format!("{}s{n}", lab.prefix());
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    vec![
        words(&format!("--netns {n1}")),
        words("--dst 10.244.2.2 --rules"),
        words(&format!("diagnose --from {p1} --to 10.244.2.99 --timeout 10m")),
        words(&format!("diagnose --view {n1} --duration 10m")),
        words(&format!("drops --netns {n1} -o json")),
        words(&format!("latency --netns {n1} -o json --duration 10m")),
        words(&format!("lab up pair --prefix {prefix}")),
    ]
}

/// Starts one of the commands and ends it; what it was and how long that took.
fn one(lab: &Lab, n: u64) -> (Duration, String) {
    let commands = commands(lab, n);
    let words = &commands[n as usize % commands.len()];
    let signal = [libc::SIGINT, libc::SIGTERM, libc::SIGKILL][(dice(n) >> 32) as usize % 3];
    let moment = dice(n) % LATEST;
    let what = format!("{}, signal {signal} after {moment} ms", words.join(" "));
    let mut command = interruptible();
    let running = Running::spawn(command.args(words).stdout(Stdio::null()));
    sleep(Duration::from_millis(moment));
    let (pid, objects) = (running.pid(), Objects::of(running.pid()));
    running.signal(signal);
    let (status, stderr, took) = running.wait(PATIENCE);
    assert!(took < PROMPT, "{what}: took {took:?}, {status}: {stderr}");
    objects.await_gone();
    if words[0] == "lab" {
        let mut down = Command::new(binary());
        let down = down.args(["lab", "down", "--prefix", &words[4]]).output().expect("it starts");
        // What a killed one has left is found by its prefix; else there is nothing any more.
        assert!(down.status.success() || signal != libc::SIGKILL || moment < 300, "{what}");
        let names = Command::new("ip").args(["netns", "list"]).output().expect("ip starts");
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        assert!(!names.contains(&words[4]), "{what}: {names}");
    }
    for host in ["n1", "n2"] {
        let left = lab.exec(host, "nft list tables; tc qdisc show");
        assert!(!left.contains(&format!("pkttrace_{pid}")), "{what}: {left}");
        assert!(!left.contains("clsact"), "{what}: {left}");
    }
    // What a killed one took does not count: that is the kernel's.
    (if signal == libc::SIGKILL { Duration::ZERO } else { took }, what)
}

#[test]
fn a_signal_at_any_moment_ends_any_command_and_leaves_nothing() {
    let lab = Lab::cluster();
    let numbers: Vec<u64> = (0..if is_fast() { FAST_RUNS } else { RUNS }).collect();
    let ended =
        side_by_side(&numbers, |numbers| numbers.map(|n| one(&lab, *n)).collect::<Vec<_>>());
    let mut ended: Vec<_> = ended.into_iter().flatten().collect();
    ended.sort();
    assert_eq!(ended.len(), numbers.len());
    println!("the slowest three of {}: {:#?}", ended.len(), &ended[ended.len() - 3..]);
}
