//! Attaching the `fn` backend: each function by what this kernel allows, those of modules when
//! the module is there.

use std::os::fd::OwnedFd;
use std::path::Path;

use aya::Ebpf;
use aya::programs::KProbe;
use tracer_common::Control;

use super::attached::ProbeStatus;
use super::points::{At, Function, POINTS, Point, When};
use super::raw::{Kind, RawObject, link_tracing, module_btf};
use super::root_cause;
use crate::kernel::btf::KernelBtf;

const TRAMPOLINE: &str = "fentry/fexit";
const KPROBE: &str = "kprobe/kretprobe";
/// There when the kernel was built with kprobes.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// What became of one function.
#[derive(Debug)]
enum Outcome {
    Attached(&'static str),
    /// Its module is not loaded.
    Waiting,
    Failed(String),
}

/// The function probes, attached and waiting.
#[derive(Debug)]
pub(super) struct Functions {
    rows: Vec<(&'static Point, &'static Function, Outcome)>,
    /// Programs and links; closing them detaches.
    held: Vec<OwnedFd>,
}

/// A word of [`Control`] and its value.
pub(super) type Word = (Control, u64);

impl Functions {
    /// Attaches what can be attached now; also gives what the programs must know of the modules'
    /// structures.
    pub(super) fn attach(
        raw: &RawObject,
        ebpf: &mut Ebpf,
        btf: &KernelBtf,
        has_links: bool,
    ) -> (Self, Vec<Word>) {
        let wanted = |point: &&Point| match point.when {
            When::Always => true,
            When::WithoutLinks => !has_links,
            When::Without(tracepoint) => btf.tracepoint_arguments(tracepoint).is_none(),
        };
        let rows = POINTS.iter().filter(wanted).flat_map(|point| {
            point.functions.iter().map(move |function| (point, function, Outcome::Waiting))
        });
        let mut functions = Self { rows: rows.collect(), held: Vec::new() };
        let words = functions.attach_waiting(raw, ebpf, btf);
        (functions, words)
    }

    /// Whether a module has come that a function waits for.
    pub(super) fn has_news(&self) -> bool {
        let waiting = self.rows.iter().filter(|r| matches!(r.2, Outcome::Waiting));
        waiting.filter_map(|r| r.1.module).any(is_loaded)
    }

    /// Attaches to the functions whose module has come.
    pub(super) fn attach_waiting(
        &mut self,
        raw: &RawObject,
        ebpf: &mut Ebpf,
        btf: &KernelBtf,
    ) -> Vec<Word> {
        let mut words = Vec::new();
        for (point, function, outcome) in &mut self.rows {
            if !matches!(outcome, Outcome::Waiting) {
                continue;
            }
            *outcome = attach(point, function, raw, ebpf, btf, &mut self.held);
            if let (Outcome::Attached(_), Some(module)) = (&outcome, function.module) {
                words.extend(layout(module, btf));
            }
        }
        words
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = ProbeStatus> + '_ {
        self.rows.iter().map(|(_, function, outcome)| ProbeStatus {
            probe: format!("fn:{}", function.name),
            by: match outcome {
                Outcome::Attached(by) => Some(by),
                _ => None,
            },
            why: match outcome {
                Outcome::Attached(_) => None,
                Outcome::Waiting => {
                    let module = function.module.unwrap_or_default();
                    Some(format!("the module {module} is not loaded"))
                }
                Outcome::Failed(why) => Some(why.clone()),
            },
        })
    }
}

fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

/// Tries the trampolines, then the kprobes.
fn attach(
    point: &Point,
    function: &Function,
    raw: &RawObject,
    ebpf: &mut Ebpf,
    btf: &KernelBtf,
    held: &mut Vec<OwnedFd>,
) -> Outcome {
    // Built in, or in a module.
    let own = function.module.filter(|_| btf.function(function.name).is_none());
    if let Some(module) = own
        && !is_loaded(module)
    {
        return Outcome::Waiting;
    }
    let trampoline = match trampolines(point, function, own, raw, btf) {
        Ok(fds) => {
            held.extend(fds);
            return Outcome::Attached(TRAMPOLINE);
        }
        Err(why) => why,
    };
    if !Path::new(KPROBES).exists() {
        return Outcome::Failed(format!("fentry: {trampoline}; no kprobes here"));
    }
    if point.kprobes.is_empty() {
        return Outcome::Failed(format!("fentry: {trampoline}"));
    }
    match kprobes(point, function, ebpf) {
        Ok(()) => Outcome::Attached(KPROBE),
        Err(kprobe) => Outcome::Failed(format!("fentry: {trampoline}; kprobe: {kprobe}")),
    }
}

fn trampolines(
    point: &Point,
    function: &Function,
    module: Option<&str>,
    raw: &RawObject,
    btf: &KernelBtf,
) -> Result<Vec<OwnedFd>, String> {
    let (id, fd) = match module {
        None => (btf.function(function.name), None),
        Some(module) => {
            let types = btf.module(module).ok_or("no type information of its module")?;
            let fd = module_btf(module).map_err(|e| e.to_string())?;
            (types.function(function.name), Some(fd))
        }
    };
    let id = id.ok_or("no such function")?;
    let mut held = Vec::with_capacity(2 * point.trampolines.len());
    // Exits first: an entry alone would open a traversal that nothing closes.
    for (program, at) in point.trampolines.iter().rev() {
        let kind = Kind::trampoline(*at == At::Exit, id, fd.as_ref());
        let program = raw.load(program, kind).map_err(|e| match e {
            super::Error::NotPermitted => "the kernel refuses".to_owned(),
            e => e.to_string(),
        })?;
        held.push(link_tracing(&program).map_err(|e| e.to_string())?);
        held.push(program);
    }
    Ok(held)
}

fn kprobes(point: &Point, function: &Function, ebpf: &mut Ebpf) -> Result<(), String> {
    for name in point.kprobes.iter().rev() {
        let found = ebpf.program_mut(name).ok_or("not in the object")?;
        let program: &mut KProbe = found.try_into().map_err(|e| root_cause(&e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| root_cause(&e))?;
        }
        program.attach(function.name, 0).map_err(|e| root_cause(&e))?;
    }
    Ok(())
}

/// Where the structures of a module keep what the programs read.
fn layout(module: &str, btf: &KernelBtf) -> Vec<Word> {
    let own = btf.module(module);
    // Built in: the kernel's own type information has it.
    let types = own.as_ref().unwrap_or(btf);
    let at = |structure: &str, member: &str| {
        types.member(structure, member).map(|p| u64::from(p.byte())).filter(|n| *n != 0)
    };
    // Each by itself: the kernel may know one structure of a module and not the next.
    let old = |structure: &str, place: u64| {
        (own.is_none() && !btf.has_structure(structure)).then_some(place)
    };
    let words = match module {
        "ip_tables" | "ip6_tables" => {
            let function = if module == "ip_tables" { "ipt_do_table" } else { "ip6t_do_table" };
            let is_first = types.first_argument(function).is_some_and(|name| name == "priv");
            vec![
                (Control::XtName, at("xt_table", "name").or(old("xt_table", OLD_XT_NAME))),
                (Control::IptTableFirst, Some(u64::from(is_first))),
            ]
        }
        "nf_tables" => {
            // `struct rhltable` is part of `nft_table`, and is as large as the `struct rhashtable`
            // in it, which depends on the configuration. Only the latter is always known.
            let old_table = btf.size("rhashtable").map(|n| n as u64 + OLD_NFT_TABLE_NAME);
            vec![
                (
                    Control::NftChainTable,
                    at("nft_chain", "table").or(old("nft_chain", OLD_NFT_CHAIN_TABLE)),
                ),
                (
                    Control::NftChainName,
                    at("nft_chain", "name").or(old("nft_chain", OLD_NFT_CHAIN_NAME)),
                ),
                (
                    Control::NftTableName,
                    at("nft_table", "name").or(old_table.and_then(|place| old("nft_table", place))),
                ),
            ]
        }
        _ => Vec::new(),
    };
    words.into_iter().filter_map(|(word, value)| Some((word, value?))).collect()
}

/// Modules have no type information before 5.11: these are the places of 5.8 to 5.10 on machines
/// of 64 bits (`include/linux/netfilter/x_tables.h`, `include/net/netfilter/nf_tables.h`).
const OLD_XT_NAME: u64 = 56;
const OLD_NFT_CHAIN_TABLE: u64 = 64;
const OLD_NFT_CHAIN_NAME: u64 = 88;
/// Behind `chains_ht`, whose size is to be added.
const OLD_NFT_TABLE_NAME: u64 = 104;

/// Why BPF netfilter links cannot be had, as the kernel's answer to loading the programs says.
pub(super) fn no_links(error: &super::Error) -> String {
    match error {
        super::Error::Sys { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
            "this kernel has no BPF netfilter links (since 6.4)".to_owned()
        }
        e => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_way_for_each_of_its_functions() {
        for point in &POINTS {
            assert!(!point.functions.is_empty(), "{point:?}");
            assert!(!point.trampolines.is_empty(), "{point:?}");
            assert!(point.kprobes.len() <= 2, "{point:?}");
        }
    }

    #[test]
    fn programs_belong_to_one_point() {
        let mut names: Vec<&str> = POINTS
            .iter()
            .flat_map(|p| p.trampolines.iter().map(|t| t.0).chain(p.kprobes.iter().copied()))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
