//! What each command needs of the kernel, what it loses without, and the way out: the one table
//! that errors, warnings, `doctor` and README are made of. And letting go of the rest.

use std::fmt::Write as _;
use std::io;

use anyhow::{Result, bail};

use crate::output;

/// `/proc/self/ns/user` of the first user namespace (`PROC_USER_INIT_INO`).
const FIRST_USERS: u64 = 0xefff_fffd;
/// Likewise the first process namespace (`PROC_PID_INIT_INO`).
const FIRST_PROCESSES: u64 = 0xefff_fffc;

/// A command, as far as privileges go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `trace`, `drops` and `latency`.
    Trace,
    /// `diagnose` without probes of its own.
    Watch,
    /// `diagnose` that sends probes.
    Probe,
    /// `topology`.
    Topology,
}

/// A capability (`CAP_*`, capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cap {
    name: &'static str,
    bit: u32,
}

/// Something that may be had or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A capability, or one that includes it.
    Cap(Cap, Option<Cap>),
    /// To see the node's processes.
    Processes,
}

/// A row of the table.
struct Row {
    what: What,
    /// What it is for.
    why: &'static str,
    /// Without it these do not run.
    needed_by: &'static [Command],
    /// Without it these lose something.
    missed_by: &'static [Command],
    /// What they lose.
    without: &'static str,
}

const fn cap(name: &'static str, bit: u32) -> Cap {
    Cap { name, bit }
}

const SYS_ADMIN: Cap = cap("SYS_ADMIN", 21);

use Command::{Probe, Topology, Trace, Watch};

const ATTACHING: &[Command] = &[Trace, Watch, Probe];
const ALL: &[Command] = &[Trace, Watch, Probe, Topology];

const TABLE: &[Row] = &[
    Row {
        what: What::Cap(cap("BPF", 39), Some(SYS_ADMIN)),
        why: "load eBPF programs",
        needed_by: ATTACHING,
        missed_by: &[],
        without: "",
    },
    Row {
        what: What::Cap(cap("PERFMON", 38), Some(SYS_ADMIN)),
        why: "attach them to tracepoints and functions",
        needed_by: ATTACHING,
        missed_by: &[],
        without: "",
    },
    Row {
        what: What::Cap(cap("NET_ADMIN", 12), None),
        why: "attach them to devices and netfilter, read firewalls, conntrack, tc",
        needed_by: ATTACHING,
        missed_by: &[Topology],
        without: "what firewalls and conntrack hold is not read",
    },
    Row {
        what: What::Cap(SYS_ADMIN, None),
        why: "enter other network namespaces",
        needed_by: ATTACHING,
        missed_by: &[Topology],
        without: "other network namespaces are not read",
    },
    Row {
        what: What::Cap(cap("NET_RAW", 13), None),
        why: "send ICMP probes, run iptables-legacy",
        needed_by: &[],
        missed_by: &[Trace, Watch, Probe],
        without: "no ICMP probes (`diagnose --proto icmp` does not run), and the rules of iptables-legacy are not read",
    },
    Row {
        what: What::Cap(cap("SYS_PTRACE", 19), None),
        why: "look at the namespaces, sockets and resolv.conf of other users' processes",
        needed_by: &[],
        missed_by: ALL,
        without: "namespaces that only processes keep, owners of sockets and resolv.conf of containers are not found",
    },
    Row {
        what: What::Cap(cap("SYSLOG", 34), None),
        why: "read the addresses of kernel functions (kernel.kptr_restrict)",
        needed_by: &[],
        missed_by: &[Trace, Watch, Probe],
        without: "drops name no kernel function",
    },
    Row {
        what: What::Processes,
        why: "find the pods and containers of the node",
        needed_by: &[],
        missed_by: ALL,
        without: "pods and containers whose namespaces have no file are not seen",
    },
];

/// What stays when everything is attached: namespaces come and go, and so do links and rules.
const KEPT: &[&str] = &["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "NET_RAW", "SYS_PTRACE"];
/// `CAP_DAC_READ_SEARCH`: runtimes keep files in places of other users.
const READ_ALL: u32 = 2;
/// `CAP_NET_BIND_SERVICE`, for probes from a low port.
const LOW_PORTS: u32 = 10;

/// Capabilities in effect, and whether they count on the node.
#[derive(Clone, Copy, Debug)]
struct Held {
    bits: u64,
    sees_processes: bool,
}

impl Held {
    fn now() -> Self {
        // In a user namespace of one's own all of them are there, and mean nothing outside.
        let is_nodes = inode("user").is_none_or(|inum| inum == FIRST_USERS);
        let bits = if is_nodes { effective() } else { 0 };
        Self { bits, sees_processes: inode("pid").is_none_or(|inum| inum == FIRST_PROCESSES) }
    }

    fn has(self, what: What) -> bool {
        let holds = |cap: Cap| self.bits >> cap.bit & 1 == 1;
        match what {
            What::Cap(cap, includes_it) => holds(cap) || includes_it.is_some_and(holds),
            What::Processes => self.sees_processes,
        }
    }

    fn missing(self) -> impl Iterator<Item = &'static Row> {
        TABLE.iter().filter(move |row| !self.has(row.what))
    }
}

impl What {
    fn name(self) -> String {
        match self {
            Self::Cap(cap, _) => format!("CAP_{}", cap.name),
            Self::Processes => "the node's processes".to_owned(),
        }
    }

    /// How a container gets it.
    fn option(self) -> String {
        match self {
            Self::Cap(cap, _) => format!("--cap-add {}", cap.name),
            Self::Processes => "--pid=host (hostPID: true)".to_owned(),
        }
    }
}

/// Fails without what `command` cannot do without, and says what else it will lose.
///
/// # Errors
///
/// One line: what is missing, and how to get it.
pub fn check(command: Command, is_quiet: bool) -> Result<()> {
    let held = Held::now();
    let needed: Vec<_> = held.missing().filter(|r| r.needed_by.contains(&command)).collect();
    if !needed.is_empty() {
        bail!(
            "not permitted: {} {} missing; run it as root, in a container with {}",
            needed.iter().map(|row| row.what.name()).collect::<Vec<_>>().join(", "),
            if needed.len() == 1 { "is" } else { "are" },
            needed.iter().map(|row| row.what.option()).collect::<Vec<_>>().join(" "),
        );
    }
    if !is_quiet && let Some(warning) = loss(held, command) {
        output::say(&warning);
    }
    Ok(())
}

/// What a command loses, in one line.
fn loss(held: Held, command: Command) -> Option<String> {
    let lost: Vec<_> = held.missing().filter(|r| r.missed_by.contains(&command)).collect();
    let each = |row: &&Row| format!("without {} {}", row.what.name(), row.without);
    let options: Vec<_> = lost.iter().map(|row| row.what.option()).collect();
    (!lost.is_empty()).then(|| {
        let lost: Vec<_> = lost.iter().map(each).collect();
        format!("{} (in a container: {})", lost.join("; "), options.join(" "))
    })
}

/// Whether probes can be sent that the kernel lets nobody else send.
#[must_use]
pub fn may_send_icmp() -> bool {
    TABLE
        .iter()
        .filter(|row| matches!(row.what, What::Cap(cap, _) if cap.name == "NET_RAW"))
        .all(|row| Held::now().has(row.what))
}

/// Each thing that is missing here, and what follows.
pub fn findings() -> impl Iterator<Item = (String, String)> {
    Held::now().missing().map(|row| {
        let effect = match row.needed_by.is_empty() {
            true => row.without.to_owned(),
            false => format!("needed to {}", row.why),
        };
        (row.what.name(), format!("{effect}; in a container: {}", row.what.option()))
    })
}

/// Lets go of all capabilities that nothing needs any more, for this thread and those that it
/// starts, and of ever getting them back. What cannot be let go of is kept.
pub fn shed() {
    let of = |row: &Row| match row.what {
        What::Cap(cap, _) => Some(cap).filter(|cap| KEPT.contains(&cap.name)),
        What::Processes => None,
    };
    let kept = TABLE.iter().filter_map(of).fold(0_u64, |bits, cap| bits | 1 << cap.bit);
    let kept = effective() & (kept | 1 << READ_ALL | 1 << LOW_PORTS);
    // SAFETY: takes integers only. Tools that are run get no more than what is kept either.
    let is_fixed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    if !is_fixed || set(kept).is_err() {
        log::debug!("capabilities stay as they are: {}", io::Error::last_os_error());
    }
}

/// `struct __user_cap_header_struct`, for this thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: the lower and the upper half.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`
const VERSION: u32 = 0x2008_0522;

fn effective() -> u64 {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both have the layout of version 3.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if rc != 0 {
        return 0;
    }
    u64::from(data[1].effective) << 32 | u64::from(data[0].effective)
}

fn set(bits: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let half = |bits: u64| {
        let bits = (bits & u64::from(u32::MAX)) as u32;
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let data = [half(bits), half(bits >> 32)];
    // SAFETY: both have the layout of version 3.
    match unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn inode(kind: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/self/ns/{kind}")).ok().map(|m| m.ino())
}

/// The table as README has it.
#[must_use]
pub fn markdown() -> String {
    let mut text =
        String::from("| needed | to | without it | in a container |\n|---|---|---|---|\n");
    let name = |commands: &[Command]| {
        let names = commands.iter().map(|command| match command {
            Trace => "`trace`, `drops`, `latency`",
            Watch => "`diagnose`",
            Probe => "`diagnose --from`",
            Topology => "`topology`",
        });
        names.collect::<Vec<_>>().join(", ")
    };
    for row in TABLE {
        let mut without = Vec::new();
        if !row.needed_by.is_empty() {
            without.push(format!("exit code 2: {}", name(row.needed_by)));
        }
        if !row.missed_by.is_empty() {
            without.push(format!("{}: {}", name(row.missed_by), row.without));
        }
        let (what, option) = (row.what.name(), row.what.option());
        let without = without.join("; ");
        let _ = writeln!(text, "| {what} | {} | {without} | `{option}` |", row.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(names: &[&str]) -> Held {
        let is_named = |row: &&Row| matches!(row.what, What::Cap(c, _) if names.contains(&c.name));
        let bits = TABLE.iter().filter(is_named).fold(0, |bits, row| match row.what {
            What::Cap(cap, _) => bits | 1 << cap.bit,
            What::Processes => bits,
        });
        Held { bits, sees_processes: true }
    }

    #[test]
    fn readme_says_what_the_program_says() {
        let readme = std::fs::read_to_string("../README.md").expect("README.md");
        assert!(readme.contains(&markdown()), "README.md should hold:\n{}", markdown());
    }

    #[test]
    fn one_capability_includes_others() {
        let needed = |names: &[&str]| -> Vec<String> {
            let missing = held(names).missing().filter(|row| !row.needed_by.is_empty());
            missing.map(|row| row.what.name()).collect()
        };
        assert_eq!(needed(&["SYS_ADMIN", "NET_ADMIN"]), Vec::<String>::new());
        assert_eq!(needed(&["BPF", "PERFMON", "NET_ADMIN"]), ["CAP_SYS_ADMIN"]);
        assert_eq!(needed(&[]).len(), 4);
    }

    #[test]
    fn what_is_lost_comes_with_the_way_out() {
        let most = ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYSLOG"];
        assert_eq!(loss(held(&most), Trace), None);
        let blind = Held { sees_processes: false, ..held(&most) };
        assert!(loss(blind, Trace).is_some_and(|text| text.contains("--pid=host")));
        let text = loss(held(&most[..2]), Probe).unwrap();
        assert!(text.contains("no ICMP probes") && text.contains("--cap-add NET_RAW"), "{text}");
    }

    #[test]
    fn what_is_shed_is_gone_for_the_thread_and_its_children() {
        std::thread::spawn(|| {
            let before = effective();
            shed();
            let chown = 1;
            assert_eq!(effective() & chown, 0);
            assert_eq!(effective() & 1 << SYS_ADMIN.bit, before & 1 << SYS_ADMIN.bit);
            let child = std::process::Command::new("cat").arg("/proc/self/status").output();
            let status = String::from_utf8(child.unwrap().stdout).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
            let bits = u64::from_str_radix(line.trim(), 16).unwrap();
            assert_eq!(bits & !effective(), 0, "{line}");
        })
        .join()
        .unwrap();
    }
}
