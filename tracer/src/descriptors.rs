//! Open files: probe points are descriptors, and so is listening to a namespace. There may be
//! thousands, and a shell's limit is a thousand.

use std::io;

/// What stays open without any namespace: programs, maps, the ring, global links.
const BASE: u64 = 256;
/// Netfilter positions of both families in one namespace, with its sockets.
const ATTACHED: u64 = 24;
/// Sockets in one that is only listened to.
const WATCHED: u64 = 2;

/// Raises the limit of this process as far as it may; what it is then.
pub(crate) fn raise() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        log::debug!("cannot read RLIMIT_NOFILE: {}", io::Error::last_os_error());
        return u64::MAX;
    }
    // With CAP_SYS_RESOURCE beyond the hard limit, without it up to that.
    for most in [system_limit().max(limit.rlim_max), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: reads the structure.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return most;
        }
    }
    limit.rlim_cur
}

/// The most that the kernel lets one process have.
fn system_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// What to say where `limit` is too little for so many namespaces, `attached` of them with all
/// their probe points.
pub(crate) fn shortage(limit: u64, namespaces: usize, attached: usize) -> Option<String> {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let needed = BASE
        .saturating_add(count(namespaces).saturating_mul(WATCHED))
        .saturating_add(count(attached).saturating_mul(ATTACHED));
    (needed > limit).then(|| {
        format!(
            "the limit of open files is {limit}, and {namespaces} network namespaces may take \
             {needed}: hooks of some may be missing; raise it (ulimit -n, LimitNOFILE=)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_and_never_lowered() {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes the structure.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) };
        assert!(raise() >= before.rlim_max);
        assert_eq!(raise(), raise());
    }

    #[test]
    fn too_few_are_told_of() {
        assert_eq!(shortage(1024, 10, 10), None);
        assert_eq!(shortage(u64::MAX, usize::MAX, usize::MAX), None);
        let text = shortage(1024, 500, 500).unwrap();
        assert!(text.contains("1024") && text.contains("500 network namespaces"), "{text}");
    }
}
