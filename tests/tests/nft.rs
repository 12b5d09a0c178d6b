//! nftables as the kernel has it: read without nft, shown as nft shows it, whatever is in it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use pkttrace::firewall::{Firewall, Flavour, Target, read_in};
use pkttrace::net::setns::inum_of;

/// How the table of a tracer is named that has nftables trace packets.
const TRACERS: &str = "pkttrace_";

/// A namespace of its own, with nothing in it but `lo`.
struct Bare(String);

impl Bare {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let bare = Self(format!("pktnft-{}-{number}", std::process::id()));
        let made = Command::new("ip").args(["netns", "add", &bare.0]).status();
        assert!(made.is_ok_and(|status| status.success()));
        bare
    }

    /// What the command prints, which reads `input`.
    fn run(&self, command: &[&str], input: &str) -> String {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.0])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().expect("it ends");
        writer.join().expect("the writer ends");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn load(&self, rules: &str) {
        self.run(&["nft", "-f", "-"], rules);
    }

    /// What is in it, but for the tables of tracers that watch all namespaces meanwhile: tests run
    /// side by side.
    fn read(&self) -> Firewall {
        let path = PathBuf::from(format!("/run/netns/{}", self.0));
        let inum = inum_of(&path.metadata().expect("it is there"));
        let mut fw = read_in(&path, inum).expect("it can be entered");
        fw.tables.retain(|table| !table.name.starts_with(TRACERS));
        fw
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// The rules in what `nft -a list ruleset` prints: by table, chain and handle, without counters.
fn printed(text: &str) -> BTreeMap<String, String> {
    let (mut table, mut chain) = (String::new(), String::new());
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("table"), Some(family), Some(name)) => table = format!("{family} {name}"),
            (Some("chain"), Some(name), _) => name.clone_into(&mut chain),
            _ => {}
        }
        if let Some((rule, handle)) = line.rsplit_once(" # handle ")
            && !rule.ends_with('{')
            && !table.contains(&format!(" {TRACERS}"))
        {
            let rule = match rule.split_once("counter packets 0 bytes 0") {
                Some((before, after)) => format!("{}{after}", before.trim_end()),
                None => rule.to_owned(),
            };
            found.insert(format!("{table} {chain} {handle}"), rule.trim().to_owned());
        }
    }
    found
}

fn shown(fw: &Firewall) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for table in &fw.tables {
        for chain in &table.chains {
            for rule in &chain.rules {
                let handle = rule.handle.expect("every rule has one");
                let key = format!("{} {} {} {handle}", table.family, table.name, chain.name);
                found.insert(key, rule.text.clone());
            }
        }
    }
    found
}

#[test]
fn rules_read_from_the_kernel_are_shown_as_nft_shows_them() {
    let bare = Bare::new();
    bare.load(include_str!("data/words.nft"));
    let fw = bare.read();
    assert_eq!(fw.unread, Vec::<String>::new());
    let (shown, printed) = (shown(&fw), printed(&bare.run(&["nft", "-a", "list", "ruleset"], "")));
    let differ: Vec<_> = printed
        .iter()
        .filter(|(key, rule)| shown.get(*key) != Some(rule))
        .map(|(key, rule)| format!("{key}\n  nft {rule}\n  we  {:?}", shown.get(key)))
        .collect();
    assert!(differ.is_empty(), "{} of {}:\n{}", differ.len(), printed.len(), differ.join("\n"));
    assert_eq!(shown.len(), printed.len());
    let unknown =
        |target: &Target| matches!(target, Target::Other(text) if text.contains("unknown"));
    let rules = fw.tables.iter().flat_map(|t| &t.chains).flat_map(|c| &c.rules);
    let opaque: Vec<_> = rules.filter(|rule| unknown(&rule.target)).map(|r| &r.text).collect();
    assert!(opaque.is_empty(), "{opaque:?}");
}

/// Adds a table by netlink itself: nft's own grammar takes no such name.
const HOSTILE: &str = r#"
import os, socket, struct, sys
def attr(kind, value):
    data = struct.pack("HH", 4 + len(value), kind) + value
    return data + b"\0" * (-len(data) % 4)
def message(kind, flags, seq, family, body):
    data = struct.pack("BBH", family, 0, 0) + body
    return struct.pack("IHHII", 16 + len(data), kind, flags, seq, 0) + data
end = struct.pack(">BBH", 0, 0, 10)[0:4]
def batch(kind, seq):
    data = struct.pack("BB", 0, 0) + struct.pack(">H", 10)
    return struct.pack("IHHII", 16 + len(data), kind, 1, seq, 0) + data
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
out = batch(16, 1)
for n, name in enumerate(sys.argv[1:]):
    out += message(10 << 8 | 0, 0x401 | 4, 2 + n, 2, attr(1, name.encode() + b"\0"))
out += batch(17, 100)
s.send(out)
for _ in sys.argv[1:]:
    kind, = struct.unpack_from("H", s.recv(65536), 4)
    assert kind == 2, kind
"#;

#[test]
fn names_and_comments_are_only_text() {
    let bare = Bare::new();
    let names = ["x; add table ip pwned", "$(touch x)", "a\nb", "-a"];
    bare.run(&[&["python3", "-c", HOSTILE][..], &names].concat(), "");
    let braces = "{\n".repeat(60);
    let mut rules = "table inet t {\n chain c {\n".to_owned();
    for _ in 0..500 {
        rules.push_str(&format!(" ip daddr 9.9.9.9 counter comment \"a\n{braces}\"\n"));
    }
    let forged = "x\n}\n}\ntable ip forged {\n chain c {\n";
    rules.push_str(&format!(" ip daddr 9.9.9.8 drop comment \"{forged}\"\n }}\n}}\n"));
    bare.load(&rules);
    let fw = bare.read();
    assert_eq!(fw.unread, Vec::<String>::new());
    let mut tables: Vec<&str> = fw.tables.iter().map(|t| t.name.as_str()).collect();
    tables.sort_unstable();
    let mut expected = [&names[..], &["t"]].concat();
    expected.sort_unstable();
    assert_eq!(tables, expected);
    let chain = fw.chains("inet", "t", "c")[0].1;
    assert_eq!(chain.rules.len(), 501);
    assert_eq!(chain.rules[0].comment.as_deref(), Some(format!("a\n{braces}").as_str()));
    assert_eq!(chain.rules[500].target, Target::Drop);
    let is_broken = |text: &str| text.contains(char::is_control);
    assert!(!chain.rules.iter().any(|rule| is_broken(&rule.text)));
    let tables = bare.run(&["nft", "list", "tables"], "");
    assert!(tables.lines().all(|line| line != "table ip pwned"), "{tables}");
}

#[test]
fn a_comment_of_iptables_forges_nothing() {
    let comment = "x\n*nat\n:PREROUTING ACCEPT [0:0]\n[0:0] -A PREROUTING -j DROP\nCOMMIT\n*raw";
    for tool in ["iptables-nft", "iptables-legacy"] {
        let bare = Bare::new();
        let rule = ["-A", "INPUT", "-m", "comment", "--comment", comment, "-j", "ACCEPT"];
        bare.run(&[&[tool][..], &rule].concat(), "");
        bare.run(&[tool, "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP"], "");
        let fw = bare.read();
        assert_eq!(fw.unread, Vec::<String>::new());
        let tables: Vec<&str> = fw.tables.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(tables, ["filter"], "{tool}");
        let rules = &fw.chains("ip", "filter", "INPUT")[0].1.rules;
        assert_eq!(rules.len(), 2, "{tool}");
        assert_eq!(rules[0].comment.as_deref(), Some(comment), "{tool}");
        assert_eq!(rules[1].target, Target::Drop, "{tool}");
    }
}

#[test]
fn rules_of_iptables_and_nft_side_by_side_have_one_owner_each() {
    let bare = Bare::new();
    bare.load("table ip filter { chain INPUT { type filter hook input priority 0; }; }\n");
    bare.run(&["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-j", "RETURN"], "");
    bare.run(&["iptables-legacy", "-A", "OUTPUT", "-s", "192.0.2.1", "-j", "DROP"], "");
    let fw = bare.read();
    let owners: Vec<_> = fw.tables.iter().map(|t| (t.name.as_str(), t.flavour)).collect();
    assert!(owners.contains(&("nat", Flavour::IptablesNft)), "{owners:?}");
    assert!(owners.contains(&("filter", Flavour::IptablesLegacy)), "{owners:?}");
}

/// A set as large as a blocklist, and chains as many as a large cluster has.
#[test]
fn many_elements_and_chains_are_read_whole() {
    let bare = Bare::new();
    let elements = (0..100_000_u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string());
    let elements: Vec<String> = elements.collect();
    let mut rules = format!(
        "table ip big {{\n set s {{ type ipv4_addr; elements = {{ {} }}; }}\n",
        elements.join(", ")
    );
    for n in 0..2000 {
        rules.push_str(&format!(
            " chain service-{n} {{ meta l4proto tcp dnat ip to numgen random mod 2 \
             map {{ 0 : 10.1.0.1 . 80, 1 : 10.1.0.2 . 80 }}; }}\n"
        ));
    }
    // A loop is refused by the kernel, a tree as deep as it allows is not.
    rules.push_str("}\n");
    bare.load(&rules);
    let fw = bare.read();
    assert_eq!(fw.unread, Vec::<String>::new());
    let table = fw.tables.iter().find(|t| t.name == "big").expect("it is read");
    let set = table.set("s").expect("it is read");
    assert!(set.is_whole);
    assert_eq!(set.elements.len(), 100_000);
    assert_eq!(table.chains.len(), 2000);
    assert!(table.chains.iter().all(|c| matches!(c.rules[0].target, Target::Map(_))));
}
