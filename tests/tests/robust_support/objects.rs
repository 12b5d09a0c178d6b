//! What a process holds in the kernel.

use std::collections::BTreeSet;

use super::{PATIENCE, wait_until};

/// The BPF objects of one process, by the commands that find them again.
#[derive(Debug, Default)]
pub struct Objects(BTreeSet<(libc::c_long, u32)>);

impl Objects {
    /// What the descriptors of a process hold.
    pub fn of(pid: libc::pid_t) -> Self {
        // BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID.
        const KEYS: [(&str, libc::c_long); 3] =
            [("prog_id:", 13), ("map_id:", 14), ("link_id:", 30)];
        let mut objects = BTreeSet::new();
        let Ok(infos) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            return Self::default();
        };
        for info in infos.flatten() {
            let Ok(text) = std::fs::read_to_string(info.path()) else { continue };
            for line in text.lines() {
                for (key, command) in KEYS {
                    if let Some(id) = line.strip_prefix(key).and_then(|id| id.trim().parse().ok()) {
                        objects.insert((command, id));
                    }
                }
            }
        }
        Self(objects)
    }

    /// How many of one kind, by the command that finds it again.
    pub fn count(&self, command: libc::c_long) -> usize {
        self.0.iter().filter(|(c, _)| *c == command).count()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The kernel frees in its own time, but it does.
    #[track_caller]
    pub fn await_gone(&self) {
        wait_until("programs, maps and links are gone", PATIENCE, || {
            !self.0.iter().any(|(command, id)| exists(*command, *id))
        });
    }
}

fn exists(command: libc::c_long, id: u32) -> bool {
    let mut attr = [0u32; 32];
    attr[0] = id;
    // SAFETY: the attribute is as long as said; the call writes nothing to it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), 128) };
    if fd >= 0 {
        // SAFETY: a new descriptor that is used no more.
        unsafe { libc::close(fd as libc::c_int) };
    }
    fd >= 0
}
