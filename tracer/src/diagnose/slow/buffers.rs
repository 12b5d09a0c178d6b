//! Socket buffers that may not grow to what the way needs.

use std::time::Duration;

use super::end::{End, SOME};
use super::evidence::human;
use crate::diagnose::finding::Finding;

/// The kernel's usual limits of `tcp_rmem` and `tcp_wmem`: what is below was set.
const RMEM: &str = "ipv4/tcp_rmem";
const USUAL_RMEM: u64 = 6_291_456;
const USUAL_WMEM: u64 = 4_194_304;
/// Shorter round trips need no large buffers.
const LONG: Duration = Duration::from_millis(2);

/// The reader keeps up, and as much comes in a round trip as its buffer has room for.
pub(super) fn small_receive_buffer(end: &End<'_>) -> Option<Finding> {
    let received = end.grown(|c| c.received);
    let rtt = end.now.rtt.max(end.now.min_rtt);
    let history = end.evidence.history(end.netns, end.now);
    let unread = history.iter().map(|c| c.unread).max();
    let buffer = u64::from(end.now.receive_buffer);
    let a_window = end.rate(received) as f64 * rtt.as_secs_f64();
    let is_read = unread.is_none_or(|n| u64::from(n) < buffer / 2);
    if received <= SOME || rtt < LONG || !is_read {
        return None;
    }
    let fact = |finding| a_buffer(finding, end, (rtt, a_window), "received");
    if let Some((limits, most)) = limits(end, RMEM, USUAL_RMEM) {
        // About half of the buffer is the kernel's own.
        let is_it = buffer <= most && a_window > buffer as f64 * 0.2;
        let title = format!("The receive buffer holds no more than {most} bytes");
        let finding = || fact(end.finding("slow-receive-buffer", title));
        return is_it.then(|| grown(finding(), end, (RMEM, limits), USUAL_RMEM));
    }
    // One that may grow has room for four times of what comes in a round trip.
    let is_fixed = history.iter().all(|c| u64::from(c.receive_buffer) == buffer);
    let is_full = a_window > buffer as f64 * 0.3 && buffer < USUAL_RMEM / 4;
    (history.len() >= 3 && is_fixed && is_full).then(|| {
        let title = format!("The receive buffer stays at {buffer} bytes");
        fixed(fact(end.finding("slow-receive-buffer", title)), end)
    })
}

/// With what keeps the buffer as it is.
fn fixed(finding: Finding, end: &End<'_>) -> Finding {
    const PATH: &str = "ipv4/tcp_moderate_rcvbuf";
    let is_off = end.evidence.sysctl(end.netns, PATH).map(str::trim) == Some("0");
    match end.evidence.netns(end.netns).filter(|_| is_off) {
        Some(netns) => finding
            .wrong_sysctl(netns, PATH, "0", "1")
            .fix("connections that exist grow then, too"),
        None => finding.fix(
            "let the application not set SO_RCVBUF, which ends the kernel's tuning, or set it to rate \
             times round trip",
        ),
    }
}

/// The sender waits for room in its own buffer.
pub(super) fn small_send_buffer(end: &End<'_>) -> Option<Finding> {
    const PATH: &str = "ipv4/tcp_wmem";
    let (sent, busy) = (end.grown(|c| c.acked), end.grown(|c| c.busy_us));
    let waited = end.grown(|c| c.buffer_limited_us);
    let rtt = end.now.rtt.max(end.now.min_rtt);
    if sent <= SOME || rtt < LONG || busy == 0 || waited * 10 <= busy * 3 {
        return None;
    }
    let fact = |title: String| {
        let finding = end.finding("slow-send-buffer", title).fact(format!(
            "{}: the send buffer was the limit for {} % of the time",
            end.what(),
            waited * 100 / busy
        ));
        let a_window = end.rate(sent) as f64 * rtt.as_secs_f64();
        a_buffer(finding, end, (rtt, a_window), "sent")
    };
    if let Some((limits, most)) = limits(end, PATH, USUAL_WMEM) {
        let title = format!("The send buffer holds no more than {most} bytes");
        return Some(grown(fact(title), end, (PATH, limits), USUAL_WMEM));
    }
    // One that may grow does so while it is the limit.
    let buffer = u64::from(end.now.send_buffer);
    let history = end.evidence.history(end.netns, end.now);
    let is_fixed = history.iter().all(|c| u64::from(c.send_buffer) == buffer);
    (history.len() >= 3 && is_fixed && (1..USUAL_WMEM / 4).contains(&buffer)).then(|| {
        fact(format!("The send buffer stays at {buffer} bytes")).fix(
            "let the application not set SO_SNDBUF, which ends the kernel's tuning, or set it to rate \
             times round trip",
        )
    })
}

/// The three numbers of a buffer's setting, and the last, where that is less than usual.
fn limits<'a>(end: &'a End<'_>, path: &str, usual: u64) -> Option<(&'a str, u64)> {
    let text = end.evidence.sysctl(end.netns, path)?.trim();
    let most = text.split_whitespace().nth(2)?.parse().ok()?;
    (most < usual).then_some((text, most))
}

fn a_buffer(
    finding: Finding,
    end: &End<'_>,
    (rtt, a_window): (Duration, f64),
    what: &str,
) -> Finding {
    finding.fact(format!(
        "{}: {:.0} kB {what} in each round trip of {}",
        end.what(),
        a_window / 1e3,
        human(rtt)
    ))
}

/// With the setting as it usually is.
fn grown(finding: Finding, end: &End<'_>, (path, limits): (&str, &str), usual: u64) -> Finding {
    let Some(netns) = end.evidence.netns(end.netns) else { return finding };
    let numbers: Vec<&str> = limits.split_whitespace().collect();
    let should_be = format!("{} {} {usual}", numbers[0], numbers[1]);
    finding
        .wrong_sysctl(netns, path, &numbers.join(" "), &should_be)
        .fix("connections that exist may grow then, too; those with SO_RCVBUF or SO_SNDBUF may not")
}
