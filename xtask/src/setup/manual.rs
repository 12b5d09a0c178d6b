//! The steps to do by hand where the set-up cannot do them.

use anyhow::{Error, anyhow};

use crate::linker;

/// Adds the manual steps to what went wrong.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn explain(error: Error) -> Error {
    let version = linker::VERSION;
    anyhow!(
        "the set-up cannot finish by itself: {error:#}.\n\
        By hand, with an administrator's help where needed:\n\
        \x20 1. apt-get install gcc libc6-dev iproute2 iptables nftables conntrack ipset \
        iputils-ping ethtool tcpdump curl bpftool procps docker.io \
        containernetworking-plugins busybox-static wireguard-tools\n\
        \x20 2. an eBPF compiler: `rustup toolchain install nightly --component rust-src`, or \
        `apt-get install rustc-web rust-web-src cargo-web`\n\
        \x20 3. bpf-linker {version} in PATH, from https://github.com/aya-rs/bpf-linker/releases \
        (built with the LLVM of that compiler, or a later one)\n\
        \x20 4. for lint and tests: `cargo install --locked cargo-deny`\n\
        Then run `cargo xtask setup` again."
    )
}
