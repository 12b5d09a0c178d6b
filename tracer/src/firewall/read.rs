//! Reading the rules of a namespace: nftables from the kernel itself, and the extensions of iptables,
//! which only it understands, with its own tools.
//!
//! nf_tables is asked first which tables there are: where iptables owns none, no tool runs.
//! Only listing commands run, and those of iptables-legacy only where the namespace has such
//! tables already: listing one creates it (`ip_tables` registers a table on first use).

use std::io;
use std::path::Path;

use super::tool::{self, Backend};
use super::{Chain, Firewall, Flavour, Ipset, Table, ipset, iptables, nft};
use crate::net::{Inum, nftables, setns};
use crate::nftrace;

/// Reads the rules of the namespace that the calling thread is in. Blocks while the tools run.
#[must_use]
pub fn read_here() -> Firewall {
    let mut fw = Firewall::default();
    match nftables::tables_here() {
        Ok(tables) => {
            // Tables of a trace under way, ours or another's, are no configuration.
            let is_rule = |(_, name): &(&str, String)| !name.starts_with(nftrace::TABLE_PREFIX);
            read_nf_tables(&mut fw, tables.into_iter().filter(is_rule).collect());
        }
        Err(error) => fw.unread.push(format!("nftables rules: {error}")),
    }
    match legacy() {
        Ok(tables) => {
            fw.tables.extend(tables);
            fw.read.push(Flavour::IptablesLegacy);
        }
        Err(reason) => fw.unread.push(format!("iptables-legacy rules: {reason}")),
    }
    match ipsets() {
        Ok(sets) => fw.ipsets = sets,
        Err(reason) => fw.unread.push(format!("ipsets: {reason}")),
    }
    fw
}

/// [`read_here`] for the namespace `inum` at `path`.
///
/// # Errors
///
/// Those of entering it; what cannot be read there is in [`Firewall::unread`].
pub fn read_in(path: &Path, inum: Inum) -> io::Result<Firewall> {
    setns::run_in_inum(path, inum, || Ok(read_here()))
}

/// Family and name.
type Name = (&'static str, String);

/// The tables that iptables-nft may own, and whose.
const OWNED: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

fn read_nf_tables(fw: &mut Firewall, names: Vec<Name>) {
    let is_candidate =
        |(family, name): &Name| family.starts_with("ip") && OWNED.contains(&name.as_str());
    let (candidates, mut native): (Vec<_>, Vec<_>) = names.into_iter().partition(is_candidate);
    let (mut owned, mut is_read) = (Vec::new(), true);
    // A spawned tool is in the namespace of the thread that spawned it, and a new thread begins in
    // that of its parent: all of this stays here.
    std::thread::scope(|scope| {
        let saves = [("ip", "iptables"), ("ip6", "ip6tables")].map(|(family, base)| {
            let names: Vec<&str> =
                candidates.iter().filter(|(of, _)| *of == family).map(|c| c.1.as_str()).collect();
            let is_any = !names.is_empty();
            (family, base, is_any.then(|| scope.spawn(move || save(family, base, &names))))
        });
        for (family, base, save) in saves {
            let Some(save) = save else { continue };
            match save.join().unwrap_or_else(|_| Err("the reading thread panicked".to_owned())) {
                Ok(tables) => owned.extend(tables),
                Err(reason) => {
                    is_read = false;
                    fw.unread.push(format!("{base}-nft rules of family {family}: {reason}"));
                }
            }
        }
    });
    if is_read {
        fw.read.push(Flavour::IptablesNft);
    }
    // What iptables does not own, or does not show, the kernel shows as its own.
    let is_owned = |(family, name): &Name| {
        owned.iter().any(|t: &Table| t.family == *family && t.name == *name)
    };
    native.extend(candidates.into_iter().filter(|name| !is_owned(name)));
    let failed = fw.unread.len();
    fw.tables.extend(nft::read(&native, &mut fw.unread));
    if fw.unread.len() == failed {
        fw.read.extend([Flavour::Nft, Flavour::Ebtables]);
    }
    fw.tables.extend(owned);
}

/// The tables of these names that iptables-nft owns, with the kernel's handles.
fn save(family: &str, base: &str, names: &[&str]) -> Result<Vec<Table>, String> {
    let text = tool::run(&tool::save(base, Backend::Nft)?, &["-c"])?;
    let command = tool::command(base, Backend::Nft);
    let mut tables = iptables::parse(&text, Flavour::IptablesNft, family, &command);
    let mut seen = Vec::new();
    tables.retain(|table| {
        let is_first = !seen.contains(&table.name);
        seen.push(table.name.clone());
        is_first && names.contains(&table.name.as_str()) && !is_foreign(&text, &table.name)
    });
    tables.retain_mut(take_handles);
    Ok(tables)
}

/// iptables-nft-save says so of a table that `nft` made and it cannot show:
/// ``# Table `raw' contains incompatible base-chains, use 'nft' tool to list them.``
fn is_foreign(text: &str, table: &str) -> bool {
    let head = format!("# Table `{table}' ");
    text.lines().any(|line| line.starts_with(&head) && line.contains("incompatible"))
}

/// The kernel has the rules in the same order; where a chain has others by now, they have no
/// handle. False where the table has no such chains: what was printed is not what is there, as
/// where a name with a line break in it looks like more than one line.
fn take_handles(table: &mut Table) -> bool {
    let handles = match nftables::handles_here(&table.family, &table.name) {
        Ok(handles) => handles,
        Err(error) => {
            log::debug!("handles of table {}: {error}", table.name);
            return true;
        }
    };
    let is_there =
        |chain: &Chain| chain.rules.is_empty() || handles.contains_key(chain.name.as_str());
    if !table.chains.iter().all(is_there) {
        return false;
    }
    for chain in &mut table.chains {
        let Some(handles) = handles.get(&chain.name) else { continue };
        if handles.len() == chain.rules.len() {
            for (rule, handle) in chain.rules.iter_mut().zip(handles) {
                rule.handle = Some(*handle);
            }
        }
    }
    true
}

/// Family, command, where the names of its tables are.
const LEGACY: [(&str, &str, &str); 2] = [
    ("ip", "iptables", "/proc/thread-self/net/ip_tables_names"),
    ("ip6", "ip6tables", "/proc/thread-self/net/ip6_tables_names"),
];

/// The file is absent while the module is not loaded, and then there is no table.
fn legacy_names(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// Whether the namespace of the calling thread has tables of iptables-legacy.
#[must_use]
pub fn has_legacy_here() -> bool {
    LEGACY.iter().any(|(.., names)| !legacy_names(names).is_empty())
}

fn legacy() -> Result<Vec<Table>, String> {
    let mut tables = Vec::new();
    for (family, base, names) in LEGACY {
        let names = legacy_names(names);
        let command = tool::command(base, Backend::Legacy);
        for name in names.lines() {
            let save = tool::save(base, Backend::Legacy)?;
            let text = tool::run(&save, &["-c", "-t", name])?;
            let saved = iptables::parse(&text, Flavour::IptablesLegacy, family, &command);
            tables.extend(saved.into_iter().find(|table| table.name == name));
        }
    }
    Ok(tables)
}

fn ipsets() -> Result<Vec<Ipset>, String> {
    // Without the module there is no set, and asking would load it.
    if !Path::new("/sys/module/ip_set").exists() {
        return Ok(Vec::new());
    }
    Ok(ipset::parse(&tool::run("ipset", &["save"])?))
}
