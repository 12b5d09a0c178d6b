//! Latency: a table with sparklines, and Prometheus' text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::style::Role;
use super::{Style, text};
use crate::perf::exporter::label;
use crate::report::{Latency, Segment, TcpConnection};

/// Lines of a terminal that are not for segments.
const FRAME: usize = 4;
/// Columns of a sparkline, where there is room for one.
const SPARK: usize = 24;
/// Narrowest terminal with sparklines.
const WIDE: usize = 110;
/// From least to most.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Connections that a table shows at most.
const CONNECTIONS: usize = 10;
/// Upper bounds of Prometheus' buckets: powers of two from 1 µs to 17 s, nanoseconds.
const BOUNDS: std::ops::RangeInclusive<u32> = 10..=34;

/// The table; at most `height` lines.
#[must_use]
pub fn table(report: &Latency, style: Style, height: Option<usize>) -> String {
    let width = style.width.unwrap_or(usize::MAX);
    let has_spark = width >= WIDE;
    let (lowest, highest) = range(report);
    let mut out = String::new();
    let head = format!(
        "{} of {} watched, profile {}",
        text::duration(report.observed_ns),
        text::duration(report.duration_ns),
        report.profile
    );
    let _ = writeln!(out, "{}", style.paint(Role::Heading, &text::cut(&head, width)));
    let spark = if has_spark { format!("  {}", axis(lowest, highest)) } else { String::new() };
    let numbers =
        format!("{:>8} {:>9} {:>9} {:>9} {:>9}{spark}", "COUNT", "P50", "P90", "P99", "MAX");
    let room = width.min(200).saturating_sub(numbers.chars().count() + 14).clamp(10, 60);
    let _ = writeln!(
        out,
        "{}",
        style.paint(Role::Faint, &format!("{:<12} {:<room$} {numbers}", "SEGMENT", "WHERE"))
    );
    let lines = height.map_or(usize::MAX, |height| height.saturating_sub(FRAME));
    for segment in report.segments.iter().take(lines) {
        let spark = if has_spark {
            format!("  {}", sparkline(segment, lowest, highest))
        } else {
            String::new()
        };
        let time = |ns| text::duration(ns);
        let numbers = format!(
            "{:>8} {:>9} {:>9} {:>9} {:>9}{spark}",
            segment.count,
            time(segment.p50_ns),
            time(segment.p90_ns),
            time(segment.p99_ns),
            time(segment.max_ns)
        );
        let name = match &segment.proto {
            Some(proto) => format!("{} {proto}", short(&segment.segment)),
            None => segment.segment.clone(),
        };
        let place = within(segment, room);
        let _ = writeln!(out, "{name:<12} {place:<room$} {numbers}");
    }
    if report.segments.len() > lines {
        let _ = writeln!(out, "and {} segments more", report.segments.len() - lines);
    }
    if report.segments.is_empty() {
        let _ = writeln!(out, "no packet was timed");
    }
    if report.unplaced > 0 {
        let _ = writeln!(out, "{} times not counted: too many segments", report.unplaced);
    }
    if report.missed > 0 {
        let _ = writeln!(out, "{} runs of probes left out by the kernel", report.missed);
    }
    connections(&report.tcp, style, width, &mut out);
    if let Some(said) = sent_again(report) {
        for line in text::fold(&text::escape(&said), Some(width)) {
            let _ = writeln!(out, "{line}");
        }
    }
    findings(report, style, width, &mut out);
    out
}

fn connections(all: &[TcpConnection], style: Style, width: usize, out: &mut String) {
    if all.is_empty() {
        return;
    }
    let head = format!(
        "\n{:>9} {:>9} {:>7}  {:<7}  CONNECTION OF TCP",
        "RTT", "LEAST", "RETRANS", "LIMIT"
    );
    let _ = writeln!(out, "{}", style.paint(Role::Faint, head.trim_start_matches('\n')));
    for tcp in all.iter().take(CONNECTIONS) {
        let whose = tcp.owner.as_ref().and_then(|o| o.pod.clone().or_else(|| o.container.clone()));
        let line = format!(
            "{:>9} {:>9} {:>7}  {:<7}  {} {} → {}",
            text::duration(tcp.rtt_us * 1_000),
            tcp.min_rtt_us.map_or("-".to_owned(), |us| text::duration(us * 1_000)),
            tcp.retrans,
            tcp.limited.as_deref().unwrap_or("-"),
            whose.unwrap_or_else(|| tcp.netns.name.clone()),
            tcp.src,
            tcp.dst
        );
        let _ = writeln!(out, "{}", text::cut(&text::escape(&line), width));
    }
    if all.len() > CONNECTIONS {
        let _ = writeln!(out, "and {} connections more", all.len() - CONNECTIONS);
    }
}

/// How many segments were sent again, why, and the last of them.
pub(super) fn sent_again(report: &Latency) -> Option<String> {
    let last = report.retransmissions.last()?;
    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &report.retransmissions {
        *causes.entry(&event.cause).or_default() += 1;
    }
    let causes = causes.into_iter().map(|(cause, n)| format!("{n} {}", why(cause)));
    let ago = text::duration(report.t_ns.saturating_sub(last.t_ns));
    Some(format!(
        "{} segments of TCP sent again; of the last {}: {}; the last {ago} ago, {} → {} seq {}",
        report.retransmitted,
        report.retransmissions.len(),
        causes.collect::<Vec<_>>().join(", "),
        last.src,
        last.dst,
        last.seq
    ))
}

fn why(cause: &str) -> &str {
    match cause {
        "syn" => "SYN",
        "timeout" => "after a time-out",
        "fast" => "told by the other end",
        "probe" => "probing",
        other => other,
    }
}

fn findings(report: &Latency, style: Style, width: usize, out: &mut String) {
    let mut line = |indent: usize, role: Role, said: &str| {
        // Half of a remedy is none.
        for part in text::fold(&text::escape(said), Some(width.saturating_sub(indent))) {
            let _ = writeln!(out, "{}{}", " ".repeat(indent), style.paint(role, &part));
        }
    };
    for finding in &report.findings {
        let role = match finding.severity.as_str() {
            "error" => Role::Bad,
            "warning" => Role::Warning,
            _ => Role::Plain,
        };
        line(0, role, &format!("{}: {}", finding.severity, finding.title));
        finding.evidence.iter().for_each(|fact| line(8, Role::Plain, fact));
        finding.fix.iter().for_each(|fix| line(8, Role::Faint, fix));
    }
}

fn short(name: &str) -> &str {
    if name == "end-to-end" { "e2e" } else { name }
}

/// The shortest end of a name that still tells something.
const SHORTEST: usize = 4;

/// Where a segment lies, in so many columns: what many names begin with goes first.
fn within(segment: &Segment, room: usize) -> String {
    let of = |most: usize| text::escape(&place_of(segment, &|name| tail(name, most)));
    let fits = |place: &String| place.chars().count() <= room;
    let all = std::iter::once(usize::MAX).chain((SHORTEST..room).rev());
    all.map(of).find(fits).unwrap_or_else(|| text::cut(&of(SHORTEST), room))
}

/// The end of a name, with a mark where it has lost its beginning.
fn tail(name: &str, most: usize) -> String {
    let length = name.chars().count();
    if length <= most {
        return name.to_owned();
    }
    let kept = name.chars().skip(length + 1 - most);
    std::iter::once('…').chain(kept).collect()
}

/// Where a segment lies.
#[must_use]
pub fn place(segment: &Segment) -> String {
    place_of(segment, &str::to_owned)
}

fn place_of(segment: &Segment, shown: &dyn Fn(&str) -> String) -> String {
    let end = |netns: Option<&str>, dev: Option<&str>| match (netns, dev) {
        (Some(netns), Some(dev)) => format!("{netns} {dev}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => String::new(),
    };
    let name = |netns: &Option<crate::report::Netns>| netns.as_ref().map(|n| shown(&n.name));
    let owner = segment.owner.as_ref().and_then(|o| o.pod.as_ref().or(o.container.as_ref()));
    let from = owner.map(|owner| shown(owner)).or_else(|| name(&segment.netns));
    let dev = segment.dev.as_ref().map(|d| d.name.as_str());
    let out_dev = segment.out_dev.as_ref().map(|d| d.name.as_str());
    let to = end(name(&segment.out_netns).as_deref(), out_dev);
    let from = end(from.as_deref(), dev);
    if to.is_empty() { from } else { format!("{from} → {to}") }
}

/// Lowest and highest power of two of all times.
fn range(report: &Latency) -> (u32, u32) {
    let all = report.segments.iter().flat_map(|s| &s.buckets).map(|(ns, _)| ns.max(&1).ilog2());
    let (low, high) = all.fold((u32::MAX, 0), |(low, high), log| (low.min(log), high.max(log)));
    if low > high { (0, 1) } else { (low, high.max(low + 1)) }
}

fn column(ns: u64, lowest: u32, highest: u32) -> usize {
    let log = (ns.max(1) as f64).log2() - f64::from(lowest);
    let share = log / f64::from(highest + 1 - lowest);
    ((share * SPARK as f64) as usize).min(SPARK - 1)
}

/// All times of a segment on one scale with the others, as a row of bars.
fn sparkline(segment: &Segment, lowest: u32, highest: u32) -> String {
    let mut columns = [0_u64; SPARK];
    for (ns, count) in &segment.buckets {
        columns[column(*ns, lowest, highest)] += count;
    }
    let most = columns.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: u64| match count {
        0 => ' ',
        count => BARS[((count * 8).div_ceil(most) as usize).clamp(1, 8) - 1],
    };
    columns.iter().map(|count| bar(*count)).collect()
}

/// What the columns of the sparklines mean.
fn axis(lowest: u32, highest: u32) -> String {
    let (from, to) = (text::duration(1 << lowest), text::duration(1 << (highest + 1)));
    let gap = SPARK.saturating_sub(from.chars().count() + to.chars().count());
    format!("{from}{}{to}", " ".repeat(gap))
}

/// The histograms as Prometheus wants them, and what was sent again by namespace and cause.
#[must_use]
pub fn metrics(report: &Latency, again: &BTreeMap<(String, String), u64>) -> String {
    let mut out = String::from(
        "# HELP pkttrace_segment_seconds Time that packets spend in a part of their way.\n\
         # TYPE pkttrace_segment_seconds histogram\n",
    );
    for segment in &report.segments {
        let labels = labels(segment);
        let mut line = |suffix: &str, more: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(out, "pkttrace_segment_seconds{suffix}{{{labels}{more}}} {value}");
        };
        for log in BOUNDS {
            let bound = 1_u64 << log;
            let below = segment.buckets.iter().filter(|(ns, _)| *ns < bound);
            let count: u64 = below.map(|(_, count)| count).sum();
            line("_bucket", &format!(",le=\"{}\"", bound as f64 / 1e9), &count);
        }
        line("_bucket", ",le=\"+Inf\"", &segment.count);
        line("_sum", "", &(segment.sum_ns as f64 / 1e9));
        line("_count", "", &segment.count);
    }
    out.push_str(
        "# HELP pkttrace_tcp_retransmissions_total Segments that TCP sent again.\n\
         # TYPE pkttrace_tcp_retransmissions_total counter\n",
    );
    for ((netns, cause), count) in again {
        let (netns, cause) = (label(netns), label(cause));
        let labels = format!("netns=\"{netns}\",cause=\"{cause}\"");
        let _ = writeln!(out, "pkttrace_tcp_retransmissions_total{{{labels}}} {count}");
    }
    out
}

fn labels(segment: &Segment) -> String {
    let name = |value: Option<&str>| label(value.unwrap_or(""));
    let owner = segment.owner.as_ref();
    format!(
        "segment=\"{}\",netns=\"{}\",device=\"{}\",out_netns=\"{}\",out_device=\"{}\",proto=\"{}\",pod=\"{}\",container=\"{}\"",
        name(Some(&segment.segment)),
        name(segment.netns.as_ref().map(|n| n.name.as_str())),
        name(segment.dev.as_ref().map(|d| d.name.as_str())),
        name(segment.out_netns.as_ref().map(|n| n.name.as_str())),
        name(segment.out_dev.as_ref().map(|d| d.name.as_str())),
        name(segment.proto.as_deref()),
        name(owner.and_then(|o| o.pod.as_deref())),
        name(owner.and_then(|o| o.container.as_deref())),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::{Dev, Netns};

    pub(in crate::render) fn report() -> Latency {
        let mut report = Latency::new("n".to_owned(), "waits");
        let netns = |name: &str| Some(Netns { inum: 7, name: name.to_owned() });
        let dev = |name: &str| Some(Dev { index: 2, name: name.to_owned() });
        report.segments = vec![Segment {
            segment: "veth".to_owned(),
            netns: netns("pod"),
            owner: None,
            dev: dev("eth0"),
            out_netns: netns("node<1>"),
            out_dev: dev("vethweb"),
            proto: None,
            count: 5,
            sum_ns: 61_000,
            p50_ns: 2_000,
            p90_ns: 50_000,
            p99_ns: 50_000,
            max_ns: 52_000,
            buckets: vec![(1_984, 4), (50_176, 1)],
        }];
        report
    }

    #[test]
    fn a_table_fits_its_terminal() {
        for width in [80, 110, 200] {
            let table = table(
                &report(),
                Style { has_color: false, width: Some(width), ..Style::default() },
                None,
            );
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}\n{table}");
            assert!(table.contains("veth") && table.contains("50.0 µs"), "{table}");
            assert_eq!(table.contains('█'), width >= WIDE, "{table}");
        }
    }

    #[test]
    fn names_lose_their_beginning_before_a_place_loses_its_end() {
        let mut report = report();
        let segment = &mut report.segments[0];
        let netns = |name: &str| Some(Netns { inum: 7, name: name.to_owned() });
        (segment.netns, segment.out_netns) =
            (netns("shop-cluster-app"), netns("shop-cluster-node"));
        assert_eq!(within(segment, 80), "shop-cluster-app eth0 → shop-cluster-node vethweb");
        assert_eq!(within(segment, 26), "…-app eth0 → …node vethweb");
        assert_eq!(within(segment, 24), "…app eth0 → …ode vethweb");
    }

    #[test]
    fn metrics_are_cumulative() {
        let again = [(("pod".to_owned(), "syn".to_owned()), 3)].into();
        let text = metrics(&report(), &again);
        let told = "pkttrace_tcp_retransmissions_total{netns=\"pod\",cause=\"syn\"} 3";
        assert!(text.lines().any(|line| line == told), "{text}");
        let value = |le: &str| {
            let le = format!("le=\"{le}\"");
            let line = text.lines().find(|line| line.contains(&le)).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!((value("0.000001024").as_str(), value("0.000002048").as_str()), ("0", "4"));
        assert_eq!((value("0.000065536").as_str(), value("+Inf").as_str()), ("5", "5"));
        assert!(text.contains("_sum{segment=\"veth\""), "{text}");
    }
}
