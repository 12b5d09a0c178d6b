//! The container that a process belongs to, by the path of its cgroup.
//!
//! Runtimes put a container into a cgroup named after its id, as a systemd scope
//! (`docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`) or as a
//! plain directory (`/docker/ID`, `/kubepods/burstable/podUID/ID`).

use super::Runtime;

/// A container, as a cgroup path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Who made the cgroup, where the path says so.
    pub(super) runtime: Option<Runtime>,
    /// 64 hexadecimal digits.
    pub(super) id: String,
}

const SCOPES: [(&str, Runtime); 6] = [
    ("docker-", Runtime::Docker),
    ("cri-containerd-", Runtime::Containerd),
    ("nerdctl-", Runtime::Containerd),
    ("crio-", Runtime::Crio),
    ("libpod-", Runtime::Podman),
    ("libpod_pod_", Runtime::Podman),
];

/// The innermost container of `/proc/PID/cgroup`. With version 1, any hierarchy may say.
pub(super) fn member(file: &str) -> Option<Member> {
    // `ID:CONTROLLERS:PATH`; the path may hold colons (`/system.slice:docker:ID`, by runc).
    let paths = file.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(of_path).next()
}

fn of_path(path: &str) -> Option<Member> {
    let parts: Vec<&str> = path.split(['/', ':']).collect();
    (0..parts.len()).rev().find_map(|n| {
        let name = parts[n].strip_suffix(".scope").unwrap_or(parts[n]);
        let scope = SCOPES.iter().find_map(|(prefix, runtime)| {
            name.strip_prefix(prefix).filter(|id| is_id(id)).map(|id| (Some(*runtime), id))
        });
        let (runtime, id) = scope.or_else(|| {
            let runtime = match parts[..n].last().copied() {
                Some("docker") => Some(Runtime::Docker),
                Some("libpod_parent") => Some(Runtime::Podman),
                _ => None,
            };
            is_id(name).then_some((runtime, name))
        })?;
        Some(Member { runtime, id: id.to_owned() })
    })
}

/// 64 lower-case hexadecimal digits.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c1234";

    fn found(path: &str) -> Option<(Option<Runtime>, bool)> {
        let member = member(&path.replace("ID", ID))?;
        Some((member.runtime, member.id == ID))
    }

    #[test]
    fn scopes_of_systemd_name_runtime_and_container() {
        use Runtime::{Containerd, Crio, Docker, Podman};
        for (path, runtime) in [
            ("0::/system.slice/docker-ID.scope", Docker),
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod4a_b.slice/\
                 cri-containerd-ID.scope",
                Containerd,
            ),
            ("0::/kubepods.slice/kubepods-pod1.slice/crio-ID.scope/container", Crio),
            ("0::/machine.slice/libpod-ID.scope/container", Podman),
            ("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", Podman),
        ] {
            assert_eq!(found(path), Some((Some(runtime), true)), "{path}");
        }
    }

    #[test]
    fn plain_directories_name_the_container() {
        let v1 = "9:name=systemd:/\n5:devices:/docker/ID\n4:memory:/docker/ID\n0::/\n";
        assert_eq!(found(v1), Some((Some(Runtime::Docker), true)));
        assert_eq!(found("0::/kubepods/besteffort/pod9f/ID"), Some((None, true)));
        assert_eq!(found("3:cpu:/system.slice:docker:ID"), Some((Some(Runtime::Docker), true)));
    }

    #[test]
    fn a_container_in_a_container_is_the_inner_one() {
        let outer = "f".repeat(64);
        let path = format!("0::/docker/{outer}/kubelet/kubepods/pod1/cri-containerd-{ID}.scope");
        assert_eq!(member(&path).unwrap().id, ID);
    }

    #[test]
    fn other_cgroups_are_nobodys() {
        for path in ["0::/", "0::/user.slice/session-3.scope", "0::/docker/buildx", "", "x"] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
