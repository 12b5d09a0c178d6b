//! The modules layer: what a node's network is made of, with all that it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Cpio;
use super::host::Host;
use crate::sh;

/// Present in every kernel, as a module or built in; absence is an error.
const NEEDED: &[&str] = &[
    "br_netfilter",
    "bridge",
    "cls_bpf",
    "dummy",
    "ip_set",
    "ip_tables",
    "ip6_tables",
    "ip_vs",
    "ipip",
    "ip_gre",
    "ipvlan",
    "iptable_nat",
    "macvlan",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "sch_ingress",
    "sch_netem",
    "tun",
    "veth",
    "virtio_blk",
    "virtio_pci",
    "vxlan",
    "xt_MASQUERADE",
    "xt_conntrack",
];

/// Every module whose name is like this, where the kernel has one; `*` stands for any ending.
const WANTED: &[&str] = &[
    "act_*",
    "arp_tables",
    "arptable_filter",
    "arpt_*",
    "authenc*",
    "bonding",
    "cls_*",
    "crypto_null",
    "drop_monitor",
    "ebt*",
    "em_*",
    "esp4",
    "geneve",
    "hmac",
    "ifb",
    "ip6_*",
    "ip6t_*",
    "ip6table_*",
    "ip_set_*",
    "ip_tunnel",
    "ip_vs_*",
    "ipt_*",
    "iptable_*",
    "netkit",
    "nf_*",
    "nfnetlink*",
    "nft_*",
    "sch_*",
    "sha256*",
    "sit",
    "tcp_*",
    "virtio_rng",
    "vrf",
    "wireguard",
    "xfrm_*",
    "xt_*",
    "8021q",
];

/// Changes when the layer would.
pub(super) fn recipe() -> String {
    format!("1 {NEEDED:?} {WANTED:?}")
}

/// Writes the layer from `root`, which holds `lib/modules/RELEASE` as packaged, uncompressed.
///
/// # Errors
///
/// When a needed module is missing or kmod fails.
pub(super) fn layer(to: &Path, root: &Path, release: &str, host: &Host) -> Result<()> {
    depmod(host, root, release)?;
    let dir = root.join("lib/modules").join(release);
    let all = Dependencies::parse(&fs::read_to_string(dir.join("modules.dep"))?);
    let builtin = fs::read_to_string(dir.join("modules.builtin"))?;
    let builtin: BTreeSet<_> = builtin.lines().map(name).collect();
    let files = all.closure(&builtin)?;
    // depmod once more, on these alone: an alias must not lead to what is not there.
    let small = root.join("small");
    let small_dir = small.join("lib/modules").join(release);
    for file in &files {
        let to = small_dir.join(file);
        fs::create_dir_all(to.parent().unwrap_or(&small_dir))?;
        fs::rename(dir.join(file), to)?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(dir.join(list), small_dir.join(list)).with_context(|| list.to_owned())?;
    }
    depmod(host, &small, release)?;
    let mut cpio = Cpio::create(to)?;
    cpio.tree(&format!("usr/lib/modules/{release}"), &small_dir)?;
    cpio.finish()?;
    sh::note(format!("{release}: {} modules", files.len()));
    Ok(())
}

fn depmod(host: &Host, root: &Path, release: &str) -> Result<()> {
    let mut depmod = Command::new(host.program("kmod")?);
    depmod.arg0("depmod").env("LD_LIBRARY_PATH", host.libraries());
    sh::output(depmod.arg("-b").arg(root).arg(release)).map(|_| ())
}

/// `kernel/net/bridge/br_netfilter.ko` is `br_netfilter`; a dash is an underscore.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// `modules.dep`: by name, the file and all the files that it needs.
struct Dependencies(BTreeMap<String, Vec<String>>);

impl Dependencies {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let entry = |(file, needs): (&str, &str)| {
            let needs = needs.split_whitespace().map(str::to_owned);
            (name(file), std::iter::once(file.to_owned()).chain(needs).collect())
        };
        Self(lines.map(entry).collect())
    }

    /// The files of the modules in the lists.
    fn closure(&self, builtin: &BTreeSet<String>) -> Result<BTreeSet<&str>> {
        let missing = |name: &&&str| !self.0.contains_key(**name) && !builtin.contains(**name);
        let missing: Vec<_> = NEEDED.iter().filter(missing).copied().collect();
        if !missing.is_empty() {
            bail!("this kernel has no {}", missing.join(", "));
        }
        let chosen = self.0.iter().filter(|(name, _)| {
            NEEDED.contains(&name.as_str()) || WANTED.iter().any(|pattern| is_like(name, pattern))
        });
        Ok(chosen.flat_map(|(_, files)| files).map(String::as_str).collect())
    }
}

fn is_like(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_modprobe_takes() {
        assert_eq!(name("kernel/net/netfilter/nf-nat.ko.xz"), "nf_nat");
        assert!(is_like("xt_TRACE", "xt_*") && !is_like("nxt_a", "xt_*"));
        assert!(is_like("vrf", "vrf") && !is_like("vrfs", "vrf"));
    }

    #[test]
    fn a_module_brings_what_it_needs_and_a_missing_one_is_an_error() {
        let text = "k/vrf.ko: k/helper.ko k/deep.ko\nk/helper.ko: k/deep.ko\nk/other.ko:\n";
        let dependencies = Dependencies::parse(text);
        let builtin = NEEDED.iter().map(|&name| name.to_owned()).collect();
        let files = dependencies.closure(&builtin).expect("all built in");
        assert_eq!(files.into_iter().collect::<Vec<_>>(), ["k/deep.ko", "k/helper.ko", "k/vrf.ko"]);
        assert!(dependencies.closure(&BTreeSet::new()).is_err());
    }
}
