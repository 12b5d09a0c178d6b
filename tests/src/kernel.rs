//! What the kernel that runs the tests can say of a drop. Expectations are written for a new
//! kernel; these tables say what an older or a newer one has in their place.

use std::path::Path;

/// Major and minor number.
pub type Version = (u32, u32);

/// Drop reasons by the first kernel that gives them; an older one gives none.
const REASONS: [(&str, Version); 11] = [
    ("NO_SOCKET", (5, 17)),
    ("NETFILTER_DROP", (5, 18)),
    ("IP_RPFILTER", (5, 18)),
    ("NEIGH_FAILED", (5, 18)),
    ("TC_INGRESS", (5, 18)),
    ("TC_EGRESS", (5, 18)),
    ("OTHERHOST", (5, 18)),
    ("IP_INHDR", (5, 19)),
    ("IP_INADDRERRORS", (5, 19)),
    ("IP_INNOROUTES", (5, 19)),
    // `vxlan_xmit` freed without a reason before. Of 6.13, and in 6.12's later point releases
    // (seen in 6.12.107).
    ("NO_TX_TARGET", (6, 12)),
];

/// Functions that drop, by the first kernel in which it is they, and the one that it was before.
const FUNCTIONS: [(&str, Version, &str); 1] =
    // nf_tables left the free to its caller until `NF_DROP_REASON` came.
    [("nft_do_chain", (6, 7), "nf_hook_slow")];

/// Functions that a kernel's compiler made part of their caller, from this version on.
const INLINED: [(&str, Version, &str); 2] = [
    ("netif_receive_generic_xdp", (6, 1), "do_xdp_generic"),
    ("__udp4_lib_rcv", (7, 0), "udp_rcv"),
];

/// What the kernel here says for a drop that a new one calls so.
pub(crate) fn expected<'a>(reason: &'a str, function: &'a str) -> (&'a str, &'a str) {
    expected_of(version(), reason, function)
}

fn expected_of<'a>(kernel: Version, reason: &'a str, function: &'a str) -> (&'a str, &'a str) {
    let since = REASONS.iter().find(|(name, _)| *name == reason);
    let reason = if since.is_some_and(|(_, v)| kernel < *v) { "NOT_SPECIFIED" } else { reason };
    let before = FUNCTIONS.iter().find(|(name, v, _)| *name == function && kernel < *v);
    let within = INLINED.iter().find(|(name, v, _)| *name == function && kernel >= *v);
    let function = before.or(within).map_or(function, |(_, _, other)| other);
    (reason, function)
}

/// What a kernel may be built without, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `CONFIG_IP_VS`.
    Ipvs,
    /// `CONFIG_VLAN_8021Q`; where that is, bridges filter VLANs too.
    Vlan,
    /// `CONFIG_NET_SCH_NETEM`.
    Netem,
}

impl Feature {
    /// Whether the kernel here lacks it, which is then said. Where `PKTTRACE_TEST_FEATURES` names
    /// it, as in every guest, it must be there.
    ///
    /// # Panics
    ///
    /// If it must be there and is not.
    #[must_use]
    pub fn is_missing(self) -> bool {
        let (name, module) = match self {
            Self::Ipvs => ("ipvs", "ip_vs"),
            Self::Vlan => ("vlan", "8021q"),
            Self::Netem => ("netem", "sch_netem"),
        };
        if has_module(module) {
            return false;
        }
        let wanted = std::env::var("PKTTRACE_TEST_FEATURES").unwrap_or_default();
        assert!(!wanted.split(',').any(|w| w == name), "this kernel must have {module}");
        eprintln!("this kernel has no {module}: seen in guests alone");
        true
    }
}

/// Built in, loaded, or waiting to be asked for.
fn has_module(module: &str) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let lists = ["modules.builtin", "modules.dep"].into_iter();
    let mut lists = lists.filter_map(|list| {
        std::fs::read_to_string(format!("/lib/modules/{}/{list}", release.trim())).ok()
    });
    Path::new("/sys/module").join(module).exists()
        || lists.any(|list| list.contains(&format!("/{module}.ko")))
}

/// Of the kernel here.
///
/// # Panics
///
/// If `/proc` is not mounted.
#[must_use]
pub fn version() -> Version {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.trim().parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_reasons_gives_none_and_others_their_own() {
        let said = |kernel| expected_of(kernel, "NETFILTER_DROP", "nft_do_chain");
        assert_eq!(said((5, 10)), ("NOT_SPECIFIED", "nf_hook_slow"));
        assert_eq!(said((6, 1)), ("NETFILTER_DROP", "nf_hook_slow"));
        assert_eq!(said((6, 12)), ("NETFILTER_DROP", "nft_do_chain"));
        assert_eq!(expected_of((7, 2), "NO_SOCKET", "__udp4_lib_rcv"), ("NO_SOCKET", "udp_rcv"));
    }
}
