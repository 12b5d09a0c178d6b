//! What limits each TCP connection, by its own account.

use std::time::Duration;

use super::evidence::{bits, human};
use super::{Check, Evidence};
use crate::diagnose::finding::{Finding, Severity};
use crate::net::Inum;
use crate::net::meter::Connection;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-window-scaling",
            "Without window scaling a receiver can offer at most 64 KiB at a time, so a connection \
             moves no more than 64 KiB a round trip, however fast the link is. Both ends have to \
             offer it when they connect (net.ipv4.tcp_window_scaling).",
        ),
        (
            "slow-receive-buffer",
            "A receiver offers what its buffer has room for: one that may not grow to rate times \
             round trip (the third number of net.ipv4.tcp_rmem) limits the connection, though the \
             application reads all that comes.",
        ),
        (
            "slow-send-buffer",
            "What is sent is kept until it is acknowledged, a round trip later: a send buffer that \
             may not grow to rate times round trip (the third number of net.ipv4.tcp_wmem) limits \
             the connection.",
        ),
        (
            "slow-reader",
            "The receiving application reads slower than data comes: its receive buffer is full, \
             and the window closes. That is how TCP tells the sender to wait; the network is not \
             the cause.",
        ),
        (
            "slow-application",
            "Most of the time the connection has nothing to send: the application produces it no \
             faster, or waits for something itself. The network is not the cause.",
        ),
        (
            "slow-far-end",
            "The round trip is as long as the shortest that was ever measured, and hardly any of \
             it is spent on this node: the distance, or what lies beyond, decides. A new \
             connection pays for it twice before the first answer.",
        ),
        (
            "slow-reordering",
            "Segments came in another order and were sent again needlessly: the receiver says so \
             (DSACK). Across veth devices this happens whenever the sender changes the processor; \
             it costs little and is no loss.",
        ),
    ],
    find,
};

/// Less traffic tells nothing about limits.
const SOME: u64 = 200_000;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let connections = evidence.connections();
    let ends: Vec<End<'_>> = connections
        .iter()
        .map(|(netns, now, before)| End { evidence, netns: *netns, now, before: before.as_ref() })
        .collect();
    // Several connections of a flow tell the same: the first one that does is enough.
    let kinds: [fn(&End<'_>) -> Option<Finding>; 7] =
        [unscaled, small_receive_buffer, small_send_buffer, unread, idle, reordered, far];
    kinds.into_iter().filter_map(|kind| ends.iter().find_map(kind)).collect()
}

/// One end of a connection.
struct End<'a> {
    evidence: &'a Evidence<'a>,
    netns: Inum,
    now: &'a Connection,
    before: Option<&'a Connection>,
}

impl End<'_> {
    fn grown(&self, of: impl Fn(&Connection) -> u64) -> u64 {
        of(self.now).saturating_sub(self.before.map_or(0, &of))
    }

    fn finding(&self, id: &'static str, title: String) -> Finding {
        self.evidence.finding(id, self.netns, title)
    }

    /// Share of the time with data under way in which the receiver's window was the limit.
    fn window_limited(&self) -> f64 {
        let busy = self.grown(|c| c.busy_us);
        if busy == 0 { 0.0 } else { self.grown(|c| c.window_limited_us) as f64 / busy as f64 }
    }

    /// Bytes a second, in the direction of the data.
    fn rate(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.evidence.span.as_secs_f64().max(0.1)) as u64
    }

    fn what(&self) -> String {
        format!("{} to {}", self.now.local, self.now.peer)
    }
}

/// The receiver's end: no scaling, a reader that keeps up, and as much as the window allows.
fn unscaled(end: &End<'_>) -> Option<Finding> {
    let received = end.grown(|c| c.received);
    let sent = end.grown(|c| c.acked);
    if end.now.scales_window || received.max(sent) < SOME {
        return None;
    }
    let rtt = end.now.rtt.max(end.now.min_rtt);
    let (receives, moved) = (received > sent, received.max(sent));
    let history = end.evidence.history(end.netns, end.now);
    let unread = history.iter().map(|c| c.unread).max().unwrap_or(0);
    let is_full = receives && unread > end.now.receive_buffer / 4;
    let a_window = end.rate(moved) as f64 * rtt.as_secs_f64();
    let is_limited = end.window_limited() > 0.2 || receives && a_window > 20_000.0;
    if is_full || !is_limited || rtt < Duration::from_millis(2) {
        return None;
    }
    let (netns, is_here) = refuser(end);
    let title = "Window scaling is off: 64 KiB a round trip at most".to_owned();
    let mut finding = end
        .evidence
        .finding("slow-window-scaling", netns, title)
        .fact(format!("{}: no window scaling was agreed upon", end.what()))
        .fact(format!(
            "{} at a round trip of {}: {:.0} kB a round trip",
            bits(end.rate(moved)),
            human(rtt),
            a_window / 1e3
        ));
    if receives {
        finding = finding.fact(format!("the application reads: {unread} bytes unread at most"));
    }
    let place = end.evidence.netns(netns).filter(|_| is_here);
    Some(match place {
        Some(place) => finding
            .wrong_sysctl(place, "ipv4/tcp_window_scaling", "0", "1")
            .fix("connections that exist keep what they agreed upon: connect anew"),
        None => {
            finding.fix("the other end did not offer it: set net.ipv4.tcp_window_scaling=1 there")
        }
    })
}

/// The namespace in which it is switched off, where that is seen.
fn refuser(end: &End<'_>) -> (Inum, bool) {
    let is_off = |netns: &Inum| {
        end.evidence.sysctl(*netns, "ipv4/tcp_window_scaling").map(str::trim) == Some("0")
    };
    let ends = [end.netns].into_iter().chain(end.evidence.namespaces());
    let found = ends.into_iter().find(is_off);
    (found.unwrap_or(end.netns), found.is_some())
}

/// The kernel's usual limits of `tcp_rmem` and `tcp_wmem`: what is below was set.
const USUAL_RMEM: u64 = 6_291_456;
const USUAL_WMEM: u64 = 4_194_304;
/// Shorter round trips need no large buffers.
const LONG: Duration = Duration::from_millis(2);

/// The reader keeps up, and as much comes in a round trip as its buffer has room for.
fn small_receive_buffer(end: &End<'_>) -> Option<Finding> {
    const PATH: &str = "ipv4/tcp_rmem";
    let received = end.grown(|c| c.received);
    let (limits, most) = limits(end, PATH, USUAL_RMEM)?;
    let rtt = end.now.rtt.max(end.now.min_rtt);
    let unread = end.evidence.history(end.netns, end.now).iter().map(|c| c.unread).max();
    let buffer = u64::from(end.now.receive_buffer);
    let a_window = end.rate(received) as f64 * rtt.as_secs_f64();
    let is_it = received > SOME
        && rtt >= LONG
        && unread.is_none_or(|n| u64::from(n) < buffer / 2)
        // About half of the buffer is the kernel's own.
        && buffer <= most
        && a_window > buffer as f64 * 0.2;
    is_it.then(|| {
        let title = format!("The receive buffer holds no more than {most} bytes");
        let finding = end.finding("slow-receive-buffer", title);
        let finding = a_buffer(finding, end, (rtt, a_window), "received");
        grown(finding, end, (PATH, limits), USUAL_RMEM)
    })
}

/// The sender waits for room in its own buffer.
fn small_send_buffer(end: &End<'_>) -> Option<Finding> {
    const PATH: &str = "ipv4/tcp_wmem";
    let (sent, busy) = (end.grown(|c| c.acked), end.grown(|c| c.busy_us));
    let (limits, most) = limits(end, PATH, USUAL_WMEM)?;
    let waited = end.grown(|c| c.buffer_limited_us);
    let rtt = end.now.rtt.max(end.now.min_rtt);
    let is_it = sent > SOME && rtt >= LONG && busy > 0 && waited * 10 > busy * 3;
    is_it.then(|| {
        let title = format!("The send buffer holds no more than {most} bytes");
        let finding = end.finding("slow-send-buffer", title).fact(format!(
            "{}: the send buffer was the limit for {} % of the time",
            end.what(),
            waited * 100 / busy
        ));
        let a_window = end.rate(sent) as f64 * rtt.as_secs_f64();
        let finding = a_buffer(finding, end, (rtt, a_window), "sent");
        grown(finding, end, (PATH, limits), USUAL_WMEM)
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

/// The receiver does not read: not the network's fault.
fn unread(end: &End<'_>) -> Option<Finding> {
    let history = end.evidence.history(end.netns, end.now);
    let full = history.iter().filter(|c| c.unread > 50_000.max(c.receive_buffer / 4)).count();
    if full * 2 < history.len() || history.len() < 3 {
        return None;
    }
    let most = history.iter().map(|c| c.unread).max().unwrap_or(0);
    let process = end.now.process.as_ref();
    let who = process
        .map_or_else(|| "The receiver".to_owned(), |(pid, name)| format!("{name} (PID {pid})"));
    let finding =
        end.finding("slow-reader", format!("{who} reads slower than data comes")).fact(format!(
            "{}: {most} bytes unread at most, a full buffer in {full} of {} looks",
            end.what(),
            history.len()
        ));
    Some(
        finding
            .severity(Severity::Info)
            .fix("not the network's fault: let the application read faster"),
    )
}

/// The sender has nothing to send: not the network's fault.
fn idle(end: &End<'_>) -> Option<Finding> {
    let history = end.evidence.history(end.netns, end.now);
    let empty = history.iter().filter(|c| c.is_app_limited && c.unsent == 0).count();
    let span = end.evidence.span.as_micros().max(1);
    let busy = u128::from(end.grown(|c| c.busy_us)) * 100 / span;
    let has_sent = end.grown(|c| c.data_segments.into()) >= 20;
    if history.len() < 3 || empty * 5 < history.len() * 4 || busy > 50 || !has_sent {
        return None;
    }
    let title = format!("{} has nothing to send most of the time", end.now.local);
    let finding = end.finding("slow-application", title).fact(format!(
        "{}: data under way for {busy} % of the time, nothing waiting to be sent in {empty} of {} \
         looks",
        end.what(),
        history.len()
    ));
    Some(finding.severity(Severity::Info).fix(
        "not the network's fault: look at what the application waits for between its messages",
    ))
}

/// Retransmissions that nobody needed.
fn reordered(end: &End<'_>) -> Option<Finding> {
    let (again, needless) = (end.grown(|c| c.retransmits.into()), end.grown(|c| c.needless.into()));
    if again < 50 || needless * 100 < again * 75 {
        return None;
    }
    let title = format!("{again} segments were sent again, {needless} of them needlessly");
    Some(
        end.finding("slow-reordering", title)
            .severity(Severity::Info)
            .fact(format!("{}: {} reorderings", end.what(), end.grown(|c| c.reorderings.into())))
            .fix("no loss: nothing to heal"),
    )
}

/// The time is spent beyond this node.
fn far(end: &End<'_>) -> Option<Finding> {
    let is_local = end.evidence.connections().iter().any(|(netns, other, _)| {
        *netns != end.netns && (other.local, other.peer) == (end.now.peer, end.now.local)
    });
    let (rtt, least) = (end.now.rtt, end.now.min_rtt);
    if is_local || least < Duration::from_millis(20) || rtt > least * 2 {
        return None;
    }
    let longest = end.evidence.on_node()?;
    if longest * 5 > least {
        return None;
    }
    let title = format!("The way beyond this node takes {}", human(least));
    Some(
        end.finding("slow-far-end", title)
            .severity(Severity::Info)
            .fact(format!(
                "{}: round trip {}, never below {}",
                end.what(),
                human(rtt),
                human(least)
            ))
            .fact(format!("its packets took {} on this node at most", human(longest)))
            .fix("nothing on this node: keep connections open, or serve from nearer"),
    )
}
