//! Commands that heal: each runs as it stands, as root on the node.

use std::ffi::OsStr;
use std::path::Path;

use crate::net::Netns;
use crate::net::discover::HOST;

/// `command`, entered into a namespace: `ip netns exec NAME` where `ip netns` knows it, plain on the
/// node itself, `nsenter` by its file or one of its processes else.
#[must_use]
pub fn in_netns(netns: &Netns, command: &str) -> String {
    if netns.name == HOST {
        return command.to_owned();
    }
    // Its name may be its owner's, of whom `ip netns` knows nothing.
    if netns.path.parent() == Some(Path::new("/run/netns"))
        && let Some(name) = netns.path.file_name().and_then(OsStr::to_str)
    {
        return format!("ip netns exec {} {command}", quote(name));
    }
    format!("nsenter --net={} {command}", quote(&netns.path.to_string_lossy()))
}

/// The namespace as `ip link … netns` takes it: a name of `ip netns`, or a process in it.
#[must_use]
pub fn netns_arg(netns: &Netns) -> Option<String> {
    if netns.path.parent() == Some(Path::new("/run/netns")) {
        return Some(quote(&netns.name));
    }
    let rest = netns.path.strip_prefix("/proc").ok()?;
    let pid = rest.components().next()?.as_os_str().to_str()?;
    pid.parse::<u32>().ok().map(|pid| pid.to_string())
}

/// The name that `sysctl` has for a path below `/proc/sys/net`: dots and slashes change places.
#[must_use]
pub fn sysctl_name(path: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("net.{}", path.chars().map(swap).collect::<String>())
}

/// Sets a sysctl, by its path below `/proc/sys/net`.
#[must_use]
pub fn sysctl(netns: &Netns, path: &str, value: &str) -> String {
    in_netns(netns, &format!("sysctl -w {}={value}", quote(&sysctl_name(path))))
}

/// A word for the shell.
#[must_use]
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns(name: &str, path: &str) -> Netns {
        Netns { name: name.to_owned(), path: path.into(), ..Netns::default() }
    }

    #[test]
    fn a_command_enters_its_namespace() {
        let up = |name, path| in_netns(&netns(name, path), "ip link set eth0 up");
        assert_eq!(up("p1", "/run/netns/p1"), "ip netns exec p1 ip link set eth0 up");
        assert_eq!(up("shop/web", "/run/netns/cni-1"), "ip netns exec cni-1 ip link set eth0 up");
        assert_eq!(up("host", "/proc/self/ns/net"), "ip link set eth0 up");
        assert_eq!(
            up("nginx/812", "/proc/812/ns/net"),
            "nsenter --net=/proc/812/ns/net ip link set eth0 up"
        );
        assert_eq!(
            up("1-ab", "/run/docker/netns/1-ab"),
            "nsenter --net=/run/docker/netns/1-ab ip link set eth0 up"
        );
    }

    #[test]
    fn dots_of_device_names_stay_in_sysctl_paths() {
        let n1 = netns("n1", "/run/netns/n1");
        assert_eq!(
            sysctl(&n1, "ipv4/conf/flannel.1/rp_filter", "0"),
            "ip netns exec n1 sysctl -w net.ipv4.conf.flannel/1.rp_filter=0"
        );
    }

    #[test]
    fn words_are_quoted_when_they_need_it() {
        assert_eq!(quote("veth-p1@if3"), "veth-p1@if3");
        assert_eq!(quote("a b'c"), r"'a b'\''c'");
        assert_eq!(quote(""), "''");
    }
}
