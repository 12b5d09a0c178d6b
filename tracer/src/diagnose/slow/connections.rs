//! What limits each TCP connection, by its own account.

use std::time::Duration;

use super::buffers::{small_receive_buffer, small_send_buffer};
use super::end::{End, SOME};
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
            "slow-pacing",
            "A program may tell the kernel how fast each of its sockets sends at most \
             (SO_MAX_PACING_RATE; a rate limit of a file server or a proxy often is one). The kernel \
             waits between segments then: nothing is lost, no queue is full, and no link is.",
        ),
        (
            "slow-nagle",
            "A segment that is not full is held back while one before it is not acknowledged (Nagle's \
             algorithm), and a receiver that has nothing to answer acknowledges after 40 ms: an \
             application that writes a message in two parts and waits for the answer pays that each \
             time. TCP_NODELAY, or one write, ends it; the network is not the cause.",
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

/// A receiver acknowledges what it has nothing to answer to after 40 ms.
const LONG_ACK: Duration = Duration::from_millis(15);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let connections = evidence.connections();
    let ends = End::all(evidence, &connections);
    // Several connections of a flow tell the same: the first one that does is enough.
    let kinds: [fn(&End<'_>) -> Option<Finding>; 9] = [
        unscaled,
        small_receive_buffer,
        small_send_buffer,
        paced,
        unread,
        held,
        idle,
        reordered,
        far,
    ];
    kinds.into_iter().filter_map(|kind| ends.iter().find_map(kind)).collect()
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

/// A short segment waits until the one before is acknowledged, and the receiver waits for more before
/// it does: only the application can end that.
fn held(end: &End<'_>) -> Option<Finding> {
    let history = end.evidence.history(end.netns, end.now);
    let is_held = |c: &&&Connection| {
        (1..c.mss).contains(&c.held_back) && c.unsent.saturating_sub(c.held_back) < c.mss
    };
    let held = history.iter().filter(is_held).count();
    let is_late = end.now.rtt > LONG_ACK && end.now.rtt > end.now.min_rtt * 4;
    if history.len() < 3 || held * 2 < history.len() || !is_late {
        return None;
    }
    let title = format!("{} holds back short segments (Nagle's algorithm)", end.now.local);
    let finding = end.finding("slow-nagle", title).fact(format!(
        "{}: a short segment was held back in {held} of {} looks, until the one before was \
         acknowledged after {} ({} at the least)",
        end.what(),
        history.len(),
        human(end.now.rtt),
        human(end.now.min_rtt)
    ));
    Some(
        finding
            .severity(Severity::Warning)
            .fix("let the application write its message at once, or set TCP_NODELAY on its socket"),
    )
}

/// The application lets the kernel send no faster.
fn paced(end: &End<'_>) -> Option<Finding> {
    let most = end.now.max_pacing;
    let sent = end.rate(end.grown(|c| c.acked));
    let history = end.evidence.history(end.netns, end.now);
    let waiting = history.iter().filter(|c| c.held_back > c.mss).count();
    let reaches_it = most > 0 && sent * 10 > most * 6 && sent < most.saturating_mul(2);
    if history.len() < 3 || waiting * 4 < history.len() * 3 || !reaches_it {
        return None;
    }
    let process = end.now.process.as_ref();
    let who = process
        .map_or_else(|| "The sender".to_owned(), |(pid, name)| format!("{name} (PID {pid})"));
    let title = format!("{who} paces its connections to {} at most", bits(most));
    let finding = end.finding("slow-pacing", title).fact(format!(
        "{}: {} sent, SO_MAX_PACING_RATE allows {}, and data waited in {waiting} of {} looks",
        end.what(),
        bits(sent),
        bits(most),
        history.len()
    ));
    Some(finding.fix(
        "raise that limit where the application (or a program of BPF that sets socket options) has \
         it from",
    ))
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
