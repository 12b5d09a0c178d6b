//! The map for graphviz: a cluster per namespace, a node per device, an edge per cable.

use std::fmt::Write as _;

use super::model::{Dev, Map, is_setting};

pub(super) fn text(map: &Map) -> String {
    let mut text = String::from(
        "graph topology {\n  graph [rankdir=LR, fontname=\"sans-serif\", compound=true];\n  \
         node [shape=box, fontname=\"sans-serif\", fontsize=10];\n  edge [fontsize=9];\n",
    );
    for namespace in &map.namespaces {
        let _ = writeln!(text, "  subgraph \"cluster_{}\" {{", namespace.inum);
        let owner = namespace.owner.pod.as_deref().map_or(String::new(), |pod| format!(" ({pod})"));
        let forwards = namespace.forwards().map_or(String::new(), |text| format!("\n{text}"));
        let name = quoted(&format!("{}{owner}{forwards}", namespace.name));
        let _ = writeln!(text, "    label={name}; style=rounded;");
        for dev in namespace.devices.iter().filter(|d| d.kind != "loopback") {
            let is_bad = dev.marks.iter().any(|mark| !is_setting(mark));
            let colour = if dev.up && dev.carrier && !is_bad { "black" } else { "red" };
            let id = id(namespace.inum, dev.index);
            let label = quoted(&label(dev));
            let _ = writeln!(text, "    {id} [label={label}, color={colour}];");
        }
        text += "  }\n";
    }
    for namespace in &map.namespaces {
        for dev in &namespace.devices {
            let here = id(namespace.inum, dev.index);
            let master = dev.master.as_ref();
            let bridge = master.and_then(|m| namespace.devices.iter().find(|d| d.name == *m));
            if let Some(bridge) = bridge {
                let _ = writeln!(text, "  {} -- {here};", id(namespace.inum, bridge.index));
            }
            let Some(peer) = &dev.peer else { continue };
            let Some(netns) = peer.netns.filter(|_| peer.name.is_some()) else { continue };
            let is_shown = map.namespaces.iter().any(|n| n.inum == netns);
            // Both ends of a veth name each other: one edge is enough.
            let is_second = dev.kind == "veth" && (netns, peer.index) < (namespace.inum, dev.index);
            if is_shown && !is_second {
                let style = if dev.kind == "veth" { "bold" } else { "dashed" };
                let _ = writeln!(text, "  {here} -- {} [style={style}];", id(netns, peer.index));
            }
        }
    }
    text + "}\n"
}

fn id(inum: u32, index: u32) -> String {
    format!("\"{inum}/{index}\"")
}

fn label(dev: &Dev) -> String {
    let mut lines = vec![format!("{} ({})", dev.name, dev.kind)];
    lines.extend(dev.addresses.iter().cloned());
    if let Some(tunnel) = &dev.tunnel {
        lines.push(format!("vni {} → {}", tunnel.vni, tunnel.remotes.join(" ")));
    }
    lines.extend(dev.marks.iter().map(|mark| format!("[{mark}]")));
    lines.join("\n")
}

/// A quoted string: only quotes, backslashes and line ends are special in one.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            '\n' => quoted += "\\n",
            c => quoted += &crate::render::escape(c.encode_utf8(&mut [0; 4])).replace('\\', "\\\\"),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(quoted("a\"b\\c\nd\u{1b}"), r#""a\"b\\c\nd\\u{1b}""#);
    }
}
