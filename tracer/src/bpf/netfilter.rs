//! BPF netfilter programs and links (since 6.4), by `bpf(2)`: aya 0.14 has no such program type.

use std::io;
use std::os::fd::OwnedFd;

use super::Error;
use super::raw::{Kind, RawObject, link_netfilter};
use crate::net::{Netns, setns};

/// How many priorities are tried when another tracer holds the outermost ones.
const PRIORITIES: i32 = 32;

/// `NFPROTO_IPV4`.
pub(super) const IPV4: u32 = 2;
/// `NFPROTO_IPV6`.
pub(super) const IPV6: u32 = 10;

/// Which of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Before everything in `LOCAL_OUT`, where packets of this node are met first.
    Output,
    /// After everything.
    Last,
}

/// Hook number, program.
///
/// Every position costs every packet of the namespace. The last function of each hook is enough:
/// it proves the verdict, shows what the hook translated (the packet was seen before it), and a
/// packet that is dropped was dropped in the hook after the last one that it passed.
const POSITIONS: [(u32, Position); 6] = [
    (0, Position::Last),
    (1, Position::Last),
    (2, Position::Last),
    (3, Position::Output),
    (3, Position::Last),
    (4, Position::Last),
];

/// The links of a namespace; closing them detaches.
#[derive(Debug, Default)]
pub(super) struct HookLinks {
    /// Where its packets begin.
    output: Vec<OwnedFd>,
    /// Where they are followed; empty between packets, see [`super::stages`].
    last: Vec<OwnedFd>,
}

impl HookLinks {
    pub(super) fn len(&self) -> usize {
        self.output.len() + self.last.len()
    }

    /// Leaves only what packets begin at.
    pub(super) fn thin(&mut self) {
        self.last.clear();
    }
}

/// The loaded programs.
#[derive(Debug)]
pub(super) struct NetfilterPrograms {
    output: OwnedFd,
    last: OwnedFd,
}

impl NetfilterPrograms {
    /// Loads them.
    pub(super) fn load(object: &RawObject) -> Result<Self, Error> {
        Ok(Self {
            output: object.load("nf_output", Kind::NETFILTER)?,
            last: object.load("nf_last", Kind::NETFILTER)?,
        })
    }

    /// Attaches them in the namespace at `netns` for the protocol families `families`; not all of
    /// them: only where packets begin.
    pub(super) fn attach(
        &self,
        netns: &Netns,
        families: &[u32],
        all: bool,
    ) -> io::Result<HookLinks> {
        setns::run_in_inum(&netns.path, netns.inum, || {
            let mut links = HookLinks::default();
            for family in families {
                for (hook, position) in POSITIONS {
                    match position {
                        Position::Output => links.output.push(self.link(*family, hook, position)?),
                        Position::Last if all => {
                            links.last.push(self.link(*family, hook, position)?);
                        }
                        Position::Last => {}
                    }
                }
            }
            Ok(links)
        })
    }

    /// Attaches those that [`HookLinks::thin`] let go of.
    pub(super) fn complete(
        &self,
        links: &mut HookLinks,
        netns: &Netns,
        families: &[u32],
    ) -> io::Result<()> {
        if !links.last.is_empty() {
            return Ok(());
        }
        links.last = setns::run_in_inum(&netns.path, netns.inum, || {
            let all = POSITIONS.iter().filter(|(_, position)| *position == Position::Last);
            let all = families.iter().flat_map(|family| all.clone().map(move |p| (*family, *p)));
            all.map(|(family, (hook, position))| self.link(family, hook, position)).collect()
        })?;
        Ok(())
    }

    fn link(&self, family: u32, hook: u32, position: Position) -> io::Result<OwnedFd> {
        match position {
            Position::Output => link_at_edge(&self.output, family, hook, true),
            Position::Last => link_at_edge(&self.last, family, hook, false),
        }
    }
}

/// Links a program in the namespace of the calling thread, before everything in the hook or after
/// it. Two BPF programs may not share a priority, so where another tracer sits at the edge, the
/// next place inwards is taken.
pub(super) fn link_at_edge(
    program: &OwnedFd,
    family: u32,
    hook: u32,
    is_first: bool,
) -> io::Result<OwnedFd> {
    // The very first and last priorities are the kernel's own.
    let (edge, step) = if is_first { (i32::MIN + 1, 1) } else { (i32::MAX - 1, -1) };
    let mut result = Err(io::Error::from_raw_os_error(libc::EBUSY));
    for n in 0..PRIORITIES {
        result = link_netfilter(program, family, hook, edge + n * step);
        match &result {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            _ => break,
        }
    }
    result
}
