//! What the workshop needs besides Rust, each with its reason.

use std::path::Path;

use super::apt;
use crate::sh;

/// A package and why it is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// A program that the package brings; found, the package is not asked for.
    program: &'static str,
    pub(super) package: &'static str,
    pub(super) why: &'static str,
}

const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { program, package, why }
}

/// Programs that labs, tests and the benchmark call.
const TOOLS: &[Need] = &[
    need("bpftool", "bpftool", "reads the cost of each BPF program"),
    need("conntrack", "conntrack", "fills and empties connection tracking in labs"),
    need("curl", "curl", "makes HTTP traffic in labs"),
    need("dockerd", "docker.io", "a real container engine for tests, in namespaces of its own"),
    need("ethtool", "ethtool", "switches offloads in labs"),
    need("gcc", "gcc", "links Rust programs"),
    need("ip", "iproute2", "makes network namespaces and devices"),
    need("ipset", "ipset", "firewall sets in labs"),
    need("iptables", "iptables", "firewall rules in labs"),
    need("nft", "nftables", "firewall rules in labs"),
    need("ping", "iputils-ping", "makes ICMP traffic in labs"),
    need("python3", "python3", "speaks protocols by hand in tests"),
    need("sysctl", "procps", "switches forwarding in labs"),
    need("tcpdump", "tcpdump", "reads back the captures that tests write"),
    need("wg", "wireguard-tools", "sets up encrypted tunnels in tests"),
];

/// What brings no program of its own, known by a file.
const FILES: &[(&str, Need)] = &[
    (
        "/usr/share/doc/busybox-static",
        need("", "busybox-static", "fills the image of the containers in tests"),
    ),
    (
        "/usr/lib/cni/bridge",
        need("", "containernetworking-plugins", "the plugins that connect pods, for tests"),
    ),
];

const LIBC_HEADERS: &str = "/usr/include/stdio.h";

const COMPILER: &[&str] = &["rustc-web", "rust-web-src", "cargo-web", "rust-web-clippy"];

/// The programs that this machine lacks.
pub(super) fn missing_tools() -> Vec<Need> {
    let tools = TOOLS.iter().filter(|tool| sh::which(tool.program).is_none()).copied();
    let files = FILES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, need)| *need);
    tools.chain(files).collect()
}

/// What linking a Rust program takes.
pub(super) fn missing_user_libraries() -> Vec<Need> {
    let libc = need("", "libc6-dev", "start files and headers for linking");
    if Path::new(LIBC_HEADERS).is_file() { Vec::new() } else { vec![libc] }
}

/// The packages of Debian's compiler that are not installed; all of them when dpkg cannot be asked.
pub(super) fn missing_debian_compiler() -> Vec<&'static str> {
    apt::absent(COMPILER).unwrap_or_else(|_| COMPILER.to_vec())
}
