//! Latency as one HTML page: plots as inline SVG, no script, nothing from elsewhere.

use std::fmt::Write as _;

use super::latency::{place, sent_again};
use super::text;
use crate::report::{Latency, Segment};

/// Size of a plot, in its own units; about as wide as a card, so that its text is as large as it
/// says.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 60.0;
/// Columns of a plot for each doubling.
const PER_DOUBLING: f64 = 8.0;
/// Doublings of a plot at least: one packet is no block.
const DOUBLINGS: f64 = 4.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2330;--dim:#5b6474;--line:#d5dae2;--bar:#2f6fbb;--bad:#b3261e;--paper:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#9aa4b2;--line:#3a4250;--bar:#6ea8e6;--bad:#ff8a80;--paper:#14181f}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:76rem;padding:1rem;font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper)}\
h1{font-size:1.35rem;margin:.2rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .5rem}p{margin:.3rem 0;color:var(--dim)}\
.cards{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr))}\
.card{border:1px solid var(--line);border-radius:6px;padding:.6rem .7rem;min-width:0;break-inside:avoid}\
.card h3{font-size:.95rem;margin:0;overflow-wrap:anywhere}.card p{font-size:.85rem}\
svg{display:block;width:100%;height:auto;margin:.3rem 0}.bar{fill:var(--bar)}.axis{stroke:var(--line)}.mark{stroke:var(--bad);stroke-dasharray:3 2}\
svg text{fill:var(--dim);font:11px system-ui,sans-serif}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;width:100%}\
th,td{text-align:right;padding:.2rem .5rem;border-bottom:1px solid var(--line);white-space:nowrap}\
th:first-child,td:first-child,.left{text-align:left}th{color:var(--dim);font-weight:500}.slow{color:var(--bad)}.info{color:var(--ink)}ul{margin:.2rem 0;padding-left:1.2rem;overflow-wrap:anywhere}code{font-size:.85rem}";

/// The page.
#[must_use]
pub fn page(report: &Latency) -> String {
    let node = html(&report.node);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Latency on {node}</title><style>{STYLE}</style></head><body>\
         <h1>Where packets spend their time on {node}</h1>\
         <p>{}: {} of {} watched, profile {}</p>",
        html(&text::time(report.t_ns)),
        text::duration(report.observed_ns),
        text::duration(report.duration_ns),
        html(&report.profile)
    );
    out.push_str(
        "<p>Each plot has a scale of its own, doubling by doubling; dashed: p50 and p99.</p>",
    );
    if let Some(said) = sent_again(report) {
        let _ = write!(out, "<p>{}</p>", html(&said));
    }
    findings(report, &mut out);
    segments(report, &mut out);
    connections(report, &mut out);
    out.push_str("</body></html>\n");
    out
}

fn findings(report: &Latency, out: &mut String) {
    if report.findings.is_empty() {
        return;
    }
    out.push_str("<h2>Findings</h2>");
    for finding in &report.findings {
        let class = if finding.severity == "info" { "info" } else { "slow" };
        let (severity, title) = (html(&finding.severity), html(&finding.title));
        let _ = write!(out, "<p class=\"{class}\">{severity}: {title}</p><ul>");
        for fact in &finding.evidence {
            let _ = write!(out, "<li>{}</li>", html(fact));
        }
        for fix in &finding.fix {
            let _ = write!(out, "<li><code>{}</code></li>", html(fix));
        }
        let _ = write!(out, "</ul><p>{}</p>", html(&finding.explain));
    }
}

fn segments(report: &Latency, out: &mut String) {
    out.push_str("<h2>Segments, slowest first</h2>");
    if report.segments.is_empty() {
        out.push_str("<p>No packet was timed.</p>");
        return;
    }
    out.push_str("<div class=\"cards\">");
    for segment in &report.segments {
        let proto = segment.proto.as_ref().map_or(String::new(), |proto| format!(" {proto}"));
        let _ = write!(
            out,
            "<div class=\"card\"><h3>{}{} · {}</h3>{}<p>p50 {} · p90 {} · p99 {} · max {} · {}</p></div>",
            html(&segment.segment),
            html(&proto),
            html(&place(segment)),
            plot(segment),
            text::duration(segment.p50_ns),
            text::duration(segment.p90_ns),
            text::duration(segment.p99_ns),
            text::duration(segment.max_ns),
            packets(segment.count)
        );
    }
    out.push_str("</div>");
}

fn packets(count: u64) -> String {
    if count == 1 { "1 packet".to_owned() } else { format!("{count} packets") }
}

/// A histogram on a logarithmic scale, its median and p99 marked.
fn plot(segment: &Segment) -> String {
    let log = |ns: u64| (ns.max(1) as f64).log2();
    let logs = segment.buckets.iter().map(|(ns, _)| log(*ns));
    let (low, high) = logs.fold((f64::MAX, 0.0_f64), |(low, high), l| (low.min(l), high.max(l)));
    let (low, high) = (low.floor().min(high), high.floor() + 1.0);
    let missing = (DOUBLINGS - (high - low)).max(0.0);
    let (low, high) = ((low - (missing / 2.0).floor()).max(0.0), high + (missing / 2.0).ceil());
    let columns = ((high - low) * PER_DOUBLING).ceil().max(1.0);
    let mut counts = vec![0_u64; columns as usize];
    for (ns, count) in &segment.buckets {
        let at = ((log(*ns) - low) * PER_DOUBLING) as usize;
        if let Some(column) = counts.get_mut(at) {
            *column += count;
        }
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let name = html(&format!("Histogram of {}", segment.segment));
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{name}\"><title>{name}</title>",
        HEIGHT + 16.0
    );
    let step = WIDTH / columns;
    for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (*count as f64 / most * HEIGHT).max(1.5);
        let (x, y) = (at as f64 * step, HEIGHT - height);
        let width = (step - 1.0).max(0.8);
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        );
    }
    let _ = write!(svg, "<path class=\"axis\" d=\"M0 {HEIGHT}H{WIDTH}\"/>");
    for ns in [segment.p50_ns, segment.p99_ns] {
        let x = ((log(ns) - low) * PER_DOUBLING * step).clamp(0.0, WIDTH);
        let _ = write!(svg, "<path class=\"mark\" d=\"M{x:.1} 0V{HEIGHT}\"/>");
    }
    let ends = [(low, "start", 0.0), (high, "end", WIDTH)];
    for (log, anchor, x) in ends {
        let time = text::duration(log.exp2() as u64);
        let y = HEIGHT + 13.0;
        let _ = write!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{time}</text>");
    }
    svg + "</svg>"
}

fn connections(report: &Latency, out: &mut String) {
    if report.tcp.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Connections of TCP</h2><div class=\"scroll\"><table><tr><th>where</th>\
         <th class=\"left\">from</th><th class=\"left\">to</th><th>round trip</th><th>least</th>\
         <th>sent again</th><th>limited by</th></tr>",
    );
    for tcp in &report.tcp {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"left\">{}</td><td class=\"left\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            html(&tcp.netns.name),
            html(&tcp.src),
            html(&tcp.dst),
            text::duration(tcp.rtt_us * 1_000),
            tcp.min_rtt_us.map_or(String::new(), |us| text::duration(us * 1_000)),
            tcp.retrans,
            html(tcp.limited.as_deref().unwrap_or(""))
        );
    }
    out.push_str("</table></div>");
}

/// Text that a page cannot take for anything else.
fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text::escape(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::latency::tests::report;

    #[test]
    fn names_are_text_and_nothing_else() {
        let page = page(&report());
        assert!(page.contains("node&lt;1&gt;") && !page.contains("node<1>"));
        assert!(page.contains("<svg") && page.contains("p50 2.0 µs"));
        assert!(!page.contains("<script") && !page.contains("http:"));
    }
}
