//! Sockets, tables and processors that had no room or no time.

use super::{Check, Evidence};
use crate::diagnose::finding::{Finding, Severity};
use crate::net::Inum;
use crate::net::detail::Socket;
use crate::net::meter::Cpu;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-socket-buffer",
            "A datagram that finds the socket's receive buffer full is dropped. The application \
             reads too slowly for the bursts that come, or the buffer is smaller than they are; \
             nothing on the network is wrong.",
        ),
        (
            "slow-accept-queue",
            "Connections that are set up wait until the application accepts them, in a queue as \
             long as it asked for in listen(2), but not longer than net.core.somaxconn in its \
             network namespace. When it is full the kernel ignores SYNs, and the client sends them \
             again after 1, 3, 7 seconds. No packet is counted as dropped.",
        ),
        (
            "slow-syn-queue",
            "A connection that has not answered the SYN-ACK yet has a place in the listener's SYN \
             queue (net.ipv4.tcp_max_syn_backlog). Without SYN cookies a SYN that finds no place is \
             dropped, and the client sends it again after 1, 3, 7 seconds. Clients that never answer \
             (a flood, or a way back that is broken) fill it for everybody.",
        ),
        (
            "slow-conntrack-full",
            "Connection tracking has room for nf_conntrack_max entries on the node. When the table \
             is full, unanswered entries are thrown out early, and then new connections are \
             dropped.",
        ),
        (
            "slow-conntrack-buckets",
            "Connection tracking looks a packet up in a hash table. With many entries for each of \
             its buckets (nf_conntrack_buckets) every packet walks a long chain, and where a chain \
             is too long new connections are refused.",
        ),
        (
            "slow-backlog-drops",
            "Packets from veth devices wait for the processor's softirq in a queue of \
             net.core.netdev_max_backlog packets; what finds it full is dropped.",
        ),
        (
            "slow-softirq-budget",
            "A softirq takes at most net.core.netdev_budget packets, or netdev_budget_usecs of \
             time, before it lets others run (time_squeeze of softnet_stat). What is left waits for \
             its next turn: nothing is lost, but it comes later.",
        ),
        (
            "slow-one-cpu",
            "All packets are handled by one processor's softirq, which is busy, while others are \
             idle. Receive packet steering (rps_cpus of the device's queues; RFS leads each flow to \
             where its application runs) or threaded NAPI spreads them. A veth whose GRO is on \
             has NAPI, and hands on fewer, larger packets.",
        ),
    ],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (netns, history) in evidence.receivers() {
        found.extend(buffer(evidence, netns, &history));
        found.extend(backlog(evidence, netns, &history));
        found.extend(half_open(evidence, netns, &history));
    }
    for netns in evidence.namespaces() {
        found.extend(conntrack(evidence, netns));
        found.extend(buckets(evidence, netns));
    }
    found.extend(softirqs(evidence));
    found
}

fn holder(socket: &Socket) -> String {
    let process = socket.process.as_ref();
    process.map_or_else(|| "a process".to_owned(), |(pid, name)| format!("{name} (PID {pid})"))
}

fn growth(history: &[&Socket], of: fn(&Socket) -> u64) -> u64 {
    let (Some(first), Some(last)) = (history.first(), history.last()) else { return 0 };
    of(last).saturating_sub(of(first))
}

fn buffer(evidence: &Evidence<'_>, netns: Inum, history: &[&Socket]) -> Option<Finding> {
    let socket = history.last().filter(|s| i32::from(s.proto) == libc::IPPROTO_UDP)?;
    let own = growth(history, |s| s.drops);
    if own == 0 {
        return None;
    }
    let all = evidence.grown(netns, "UdpRcvbufErrors");
    let title =
        format!("The receive buffer of UDP port {} ({}) overflows", socket.port, holder(socket));
    let fullest = history.iter().map(|s| s.queued).max().unwrap_or(0);
    let mut finding = evidence
        .finding("slow-socket-buffer", netns, title)
        .fact(format!(
            "the socket dropped {own} datagrams in {:.1} s (UdpRcvbufErrors in the namespace: {all})",
            evidence.span.as_secs_f64()
        ))
        .fact(format!("its buffer has {} bytes, {fullest} of them were waiting at most", socket.limit));
    finding.place.sysctl = Some("net.core.rmem_default".to_owned());
    Some(finding.fix(format!(
        "start {} with a larger receive buffer (SO_RCVBUF, up to net.core.rmem_max; without it net.core.rmem_default counts), or let it read faster",
        holder(socket)
    )))
}

fn backlog(evidence: &Evidence<'_>, netns: Inum, history: &[&Socket]) -> Option<Finding> {
    let socket = history.last().filter(|s| i32::from(s.proto) == libc::IPPROTO_TCP)?;
    let overflows = evidence.grown(netns, "TcpExtListenOverflows");
    let own = growth(history, |s| s.drops);
    let fullest = history.iter().map(|s| s.queued).max().unwrap_or(0);
    // The counter is the namespace's: the socket's own drops, or its full queue, say that it is this.
    if overflows == 0 || own == 0 && fullest < socket.limit {
        return None;
    }
    let limit: Option<u32> =
        evidence.sysctl(netns, "core/somaxconn").and_then(|v| v.trim().parse().ok());
    let is_cut = limit == Some(socket.limit);
    let title = format!(
        "The accept queue of port {} ({}) overflows: it holds {} connections",
        socket.port,
        holder(socket),
        socket.limit
    );
    let finding = evidence.finding("slow-accept-queue", netns, title);
    let mut finding = finding.follows(&["slow-open-files"]).fact(format!(
        "ListenOverflows grew by {overflows} in {:.1} s, the listener dropped {own} SYNs, up to \
         {fullest} connections waited to be accepted",
        evidence.span.as_secs_f64()
    ));
    if !is_cut {
        return Some(finding.fix(format!(
            "let {} ask for a longer queue in listen(2) (it has {}), or accept faster",
            holder(socket),
            socket.limit
        )));
    }
    finding.place.sysctl = Some("net.core.somaxconn".to_owned());
    finding = finding.fact(format!("net.core.somaxconn = {} in the namespace", socket.limit));
    // The setting alone heals nothing.
    Some(finding.fix(format!(
        "set net.core.somaxconn to 4096 in namespace {}, and restart {}: a listener keeps the \
         length it got",
        evidence.netns(netns)?.name,
        holder(socket)
    )))
}

/// SYNs that find no room among the connections that are half set up.
fn half_open(evidence: &Evidence<'_>, netns: Inum, history: &[&Socket]) -> Option<Finding> {
    const PATH: &str = "ipv4/tcp_max_syn_backlog";
    let socket = history.last().filter(|s| i32::from(s.proto) == libc::IPPROTO_TCP)?;
    let own = growth(history, |s| s.drops);
    // What finds the accept queue full is counted as that, too.
    let has_cookies = evidence.sysctl(netns, "ipv4/tcp_syncookies").map(str::trim) != Some("0");
    if own < 3 || has_cookies || evidence.grown(netns, "TcpExtListenOverflows") > 0 {
        return None;
    }
    let most = evidence.sysctl(netns, PATH)?.trim();
    let title = format!(
        "Half-open connections fill the SYN queue of port {} ({})",
        socket.port,
        holder(socket)
    );
    let finding = evidence
        .finding("slow-syn-queue", netns, title)
        .fact(format!(
            "the listener dropped {own} SYNs in {:.1} s, none of them since its accept queue was full",
            evidence.span.as_secs_f64()
        ))
        .fact(format!("net.ipv4.tcp_max_syn_backlog = {most}, and SYN cookies are off"));
    Some(finding.wrong_sysctl(evidence.netns(netns)?, "ipv4/tcp_syncookies", "0", "1").fix(
        "a longer net.ipv4.tcp_max_syn_backlog, where cookies are not wanted; and who begins \
         connections and never ends the handshake?",
    ))
}

fn conntrack(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let (used, max) = evidence.detail(netns)?.conntrack?;
    let early = evidence.grown(netns, "ct.early_drop");
    let dropped = evidence.grown(netns, "ct.drop");
    let is_full = max > 0 && used * 100 >= max * 95;
    if early == 0 && !(dropped > 0 && is_full) {
        return None;
    }
    let title = format!("Connection tracking is full: {used} of {max} entries");
    let mut finding = evidence.finding("slow-conntrack-full", netns, title).fact(format!(
        "{early} entries were thrown out early and {dropped} packets dropped in {:.1} s",
        evidence.span.as_secs_f64()
    ));
    finding.place.sysctl = Some("net.netfilter.nf_conntrack_max".to_owned());
    Some(finding.fix(format!(
        "sysctl -w net.netfilter.nf_conntrack_max={} on the node (kube-proxy: conntrack.maxPerCore)",
        max.saturating_mul(2)
    )))
}

/// Entries for each bucket, counted in both directions, from which on a look-up is slow.
const LONG_CHAIN: u64 = 16;

fn buckets(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let (used, _) = evidence.detail(netns)?.conntrack?;
    let all = evidence.sysctl(netns, "netfilter/nf_conntrack_buckets")?;
    let all: u64 = all.trim().parse().ok().filter(|n| *n > 0)?;
    let refused = evidence.grown(netns, "ct.chain_toolong");
    let mean = used.saturating_mul(2) / all;
    if refused == 0 && mean < LONG_CHAIN {
        return None;
    }
    let title = format!("Connection tracking has {all} buckets for {used} entries");
    let mut finding = evidence.finding("slow-conntrack-buckets", netns, title).fact(format!(
        "{mean} entries in a bucket on average, and {refused} connections refused for chains that \
         are too long in {:.1} s",
        evidence.span.as_secs_f64()
    ));
    finding.place.sysctl = Some("net.netfilter.nf_conntrack_buckets".to_owned());
    if refused == 0 {
        finding = finding.severity(Severity::Warning);
    }
    Some(finding.fix(format!(
        "sysctl -w net.netfilter.nf_conntrack_buckets={} on the node",
        used.max(all).saturating_mul(2)
    )))
}

/// The node's processors.
fn softirqs(evidence: &Evidence<'_>) -> Vec<Finding> {
    let (before, now) = &evidence.cpus;
    let grown = |(a, b): (&Cpu, &Cpu)| Cpu {
        packets: b.packets.saturating_sub(a.packets),
        backlog_drops: b.backlog_drops.saturating_sub(a.backlog_drops),
        squeezed: b.squeezed.saturating_sub(a.squeezed),
        ticks: b.ticks.saturating_sub(a.ticks),
        softirq: b.softirq.saturating_sub(a.softirq),
        idle: b.idle.saturating_sub(a.idle),
    };
    let cpus: Vec<Cpu> = before.iter().zip(now).map(grown).collect();
    let drops: u64 = cpus.iter().map(|c| c.backlog_drops).sum();
    let node = evidence.state.own;
    let squeezed: u64 = cpus.iter().map(|c| c.squeezed).sum();
    let mut found = Vec::new();
    if drops == 0 {
        found.extend(budget(evidence, squeezed));
    } else {
        let title = "The backlog of a processor overflows".to_owned();
        let mut finding = evidence.finding("slow-backlog-drops", node, title).fact(format!(
            "softnet_stat: {drops} packets dropped, {squeezed} times out of budget in {:.1} s",
            evidence.span.as_secs_f64()
        ));
        finding.place.sysctl = Some("net.core.netdev_max_backlog".to_owned());
        let is_now = evidence.sysctl(node, "core/netdev_max_backlog").unwrap_or("1000").trim();
        let more = is_now.parse::<u64>().unwrap_or(1000).saturating_mul(4);
        // It is the node's, and who sent all that is not known: others may be the cause.
        found.push(finding.severity(Severity::Warning).fix(format!(
            "sysctl -w net.core.netdev_max_backlog={more} on the node (now {is_now})"
        )));
    }
    found.extend(one_cpu(evidence, &cpus));
    found
}

/// Softirqs stopped a second from which on it is worth a word.
const SQUEEZED: f64 = 50.0;

fn budget(evidence: &Evidence<'_>, squeezed: u64) -> Option<Finding> {
    let seconds = evidence.span.as_secs_f64();
    if (squeezed as f64) < seconds * SQUEEZED {
        return None;
    }
    let title = format!("Softirqs stopped {squeezed} times with packets left");
    let node = evidence.state.own;
    let mut finding = evidence.finding("slow-softirq-budget", node, title).fact(format!(
        "softnet_stat: time_squeeze grew by {squeezed} in {seconds:.1} s, nothing was dropped"
    ));
    finding.place.sysctl = Some("net.core.netdev_budget".to_owned());
    Some(finding.severity(Severity::Info).fix(
        "more of net.core.netdev_budget and netdev_budget_usecs on the node, if latency matters \
         less than throughput there",
    ))
}

/// One processor works off all packets and has no time left, while another has.
fn one_cpu(evidence: &Evidence<'_>, cpus: &[Cpu]) -> Option<Finding> {
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let total: u64 = cpus.iter().map(|c| c.packets).sum();
    let (at, busy) = cpus.iter().enumerate().max_by_key(|(_, c)| c.packets)?;
    let has_all = share(busy.packets, total) > 0.9 && total > 10_000;
    let is_full = share(busy.softirq, busy.ticks) > 0.7 && share(busy.idle, busy.ticks) < 0.1;
    let idle = cpus.iter().filter(|c| share(c.idle, c.ticks) > 0.7).count();
    if !has_all || !is_full || idle == 0 {
        return None;
    }
    let title = format!("CPU {at} handles all packets by itself while {idle} others are idle");
    let finding = evidence.finding("slow-one-cpu", evidence.state.own, title).fact(format!(
        "CPU {at}: {:.0} % of {total} packets, {:.0} % of its time in softirqs",
        share(busy.packets, total) * 100.0,
        share(busy.softirq, busy.ticks) * 100.0
    ));
    Some(finding.fix(
        "spread the work: rps_cpus of the receiving devices' queues, more queues of the network \
         card, or on a veth `ethtool -K DEV gro on`",
    ))
}
