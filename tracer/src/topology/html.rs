//! The map as one page without any other file: a box per namespace, devices in tables, links
//! between the two ends of a veth.

use std::fmt::Write as _;

use super::model::{Dev, Map, Namespace, is_setting};

/// So many routes are shown at once, more on demand.
const ROUTES: usize = 12;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2rem;color:#1b1f24;background:#fff}\
section{border:1px solid #c8ced6;border-radius:8px;margin:0 0 1.2rem;padding:.6rem 1rem}\
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:.2rem 0 .5rem}\
nav{margin:0 0 1.2rem}nav a{margin-right:1rem}.set{border:1px solid #c8ced6;border-radius:4px;\
padding:0 .3rem;font-size:12px}col.d{width:16%}col.a{width:18%}col.e{width:16%}col.n{width:25%}\
table{border-collapse:collapse;width:100%;table-layout:fixed}td{overflow-wrap:anywhere}\
summary{color:#57606a;margin:.3rem 0}td,th{text-align:left;padding:.15rem .8rem .15rem 0;\
vertical-align:top}th{font-weight:600;color:#57606a}.k,.f{color:#57606a}.bad{color:#b42318;\
font-weight:600}.port td:first-child{padding-left:1.4rem}code{font:13px ui-monospace,monospace}\
:target{background:#fff4cc}a{color:#0b5cad}\
@media(prefers-color-scheme:dark){body{background:#15181c;color:#e3e6ea}section{border-color:#3a414a}\
.set{border-color:#3a414a}.k,.f,th,summary{color:#9aa4b0}.bad{color:#ff8a7a}a{color:#7ab8ff}:target{background:#4a4215}}";

pub(super) fn text(map: &Map) -> String {
    let title = escape(&format!("Network of {}", map.node));
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    if map.namespaces.len() > 1 {
        let links = map
            .namespaces
            .iter()
            .map(|n| format!("<a href=\"#n{}\">{}</a>", n.inum, escape(&n.name)));
        let _ = writeln!(text, "<nav>{}</nav>", links.collect::<Vec<_>>().join(" "));
    }
    for namespace in &map.namespaces {
        section(&mut text, map, namespace);
    }
    for note in &map.unread {
        let _ = writeln!(text, "<p class=\"bad\">not read: {}</p>", escape(note));
    }
    text + "</body></html>\n"
}

fn section(text: &mut String, map: &Map, namespace: &Namespace) {
    let name = escape(&namespace.name);
    let owner = namespace.owner.pod.as_ref().or(namespace.owner.container.as_ref());
    let owner = owner.map(|owner| format!(" {}", escape(owner))).unwrap_or_default();
    let _ = writeln!(
        text,
        "<section id=\"n{}\"><h2>{name}{owner} <span class=\"k\">{}</span></h2>\n<table>\
         <colgroup><col class=\"d\"><col class=\"a\"><col class=\"e\"><col class=\"n\"><col></colgroup>\
         <tr><th>device</th><th>addresses</th><th>other end</th><th>notes</th><th>in Kubernetes</th></tr>",
        namespace.inum,
        escape(&[namespace.forwards().unwrap_or_default(), namespace.kubernetes].join(" · "))
            .trim_start_matches(" · "),
    );
    // Loopback is everywhere; it says something only when it is not as usual.
    let is_plain = |dev: &&Dev| {
        dev.kind == "loopback"
            && dev.marks.is_empty()
            && dev.addresses.iter().all(|a| ["127.0.0.1/8", "::1/128"].contains(&a.as_str()))
    };
    let is_port = |dev: &&Dev| dev.master.is_some();
    for dev in namespace.devices.iter().filter(|d| !is_port(d) && !is_plain(d)) {
        row(text, map, namespace, dev, "");
        for port in namespace.devices.iter().filter(|d| d.master.as_ref() == Some(&dev.name)) {
            row(text, map, namespace, port, " class=\"port\"");
        }
    }
    *text += "</table>\n";
    if !namespace.routes.is_empty() {
        let count = namespace.routes.len();
        let open = if count <= ROUTES { " open" } else { "" };
        let routes = if count == 1 { "route" } else { "routes" };
        let _ = writeln!(
            text,
            "<details{open}><summary>{count} {routes} in table main</summary><table>"
        );
        for route in &namespace.routes {
            let kind = if route.kind == "unicast" { "" } else { &route.kind };
            let _ = writeln!(
                text,
                "<tr><td><code>{} {}</code></td><td><code>{}</code></td><td class=\"k\">{}</td></tr>",
                escape(kind),
                escape(&route.dst),
                escape(&route.via.join(", ")),
                escape(route.kubernetes)
            );
        }
        *text += "</table></details>\n";
    }
    for rule in &namespace.rules {
        let _ = writeln!(text, "<p>rule <code>{}</code></p>", escape(rule));
    }
    *text += "</section>\n";
}

/// The other end of a veth, or the device below; a link to where it is on the page.
fn end(map: &Map, namespace: &Namespace, dev: &Dev) -> String {
    let Some(peer) = &dev.peer else { return String::new() };
    let name = peer.name.clone().unwrap_or_else(|| format!("if{}", peer.index));
    let label = match &peer.netns_name {
        Some(_) if dev.kind != "veth" && peer.netns == Some(namespace.inum) => format!("on {name}"),
        netns => format!("{name}@{}", netns.as_deref().unwrap_or("?")),
    };
    let is_shown = |inum: &u32| map.namespaces.iter().any(|n| n.inum == *inum);
    match peer.netns.filter(is_shown) {
        Some(inum) => format!("<a href=\"#d{inum}-{}\">{}</a>", peer.index, escape(&label)),
        None => escape(&label),
    }
}

fn row(text: &mut String, map: &Map, namespace: &Namespace, dev: &Dev, class: &str) {
    let end = end(map, namespace, dev);
    let mut notes = vec![format!("{}, mtu {}", escape(&dev.kind), dev.mtu)];
    if let Some(tunnel) = &dev.tunnel {
        let local = tunnel.local.as_ref().map_or(String::new(), |local| format!(" {local}"));
        let told = format!("vni {}{local} → {}", tunnel.vni, tunnel.remotes.join(" "));
        notes[0] += &format!(", {}", escape(&told));
    }
    notes.extend(dev.marks.iter().map(|m| {
        let class = if is_setting(m) { "set" } else { "bad" };
        format!("<span class=\"{class}\">{}</span>", escape(m))
    }));
    let _ = writeln!(
        text,
        "<tr{class} id=\"d{}-{}\"><td><code>{}</code></td><td><code>{}</code></td><td>{end}</td>\
         <td>{}</td><td class=\"k\">{}</td></tr>",
        namespace.inum,
        dev.index,
        escape(&dev.name),
        escape(&dev.addresses.join(" ")),
        notes.join(" "),
        escape(dev.kubernetes)
    );
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in crate::render::escape(text).chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape("<b>'\"&\u{7}"), "&lt;b&gt;&#39;&quot;&amp;\\u{7}");
        // Nor turn around what is behind them.
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
    }
}
