//! What the user calls a namespace (`--netns NAME|PATH|PID|INUM`) to its inode number.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::discover::{Found, inum_of_link, netns_of_pid, scan};
use super::error::Error;
use super::setns::{inum_of, open_any};
use super::state::Inum;

/// PIDs stay below this (`PID_MAX_LIMIT`); inode numbers of namespaces start far above.
const PID_LIMIT: u32 = 1 << 22;
/// How many names an error suggests.
const SUGGESTIONS: usize = 3;

/// Finds the namespace that `spec` names: a name, a path, a PID or an inode number.
///
/// # Errors
///
/// [`Error::Unknown`] with the names that come near, [`Error::NotNetns`], or that of reading.
pub fn resolve(spec: &str) -> Result<Inum, Error> {
    resolve_among(&scan()?.found, spec)
}

/// [`resolve`] among namespaces that are known already.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_among(found: &BTreeMap<Inum, Found>, spec: &str) -> Result<Inum, Error> {
    if let Some(by_name) = found.values().find(|f| f.name == spec) {
        return Ok(by_name.inum);
    }
    if let Some(number) = number(spec) {
        let inum = if number < PID_LIMIT {
            netns_of_pid(number)
        } else {
            found.contains_key(&number).then_some(number)
        };
        return inum.ok_or_else(|| unknown(found, spec));
    }
    if spec.starts_with(['/', '.']) {
        return at_path(Path::new(spec));
    }
    Err(unknown(found, spec))
}

/// `4026532001`, `net:[4026532001]` or a PID.
fn number(spec: &str) -> Option<u32> {
    spec.parse().ok().or_else(|| inum_of_link(Path::new(spec)))
}

/// The namespace that a file is mounted on. The file is opened to ask what it is and closed at
/// once.
fn at_path(path: &Path) -> Result<Inum, Error> {
    let error = |source| Error::io("opening", path.display().to_string())(source);
    let file = open_any(path).map_err(error)?;
    // SAFETY: the request takes no argument; anything but a namespace file refuses it.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind != libc::CLONE_NEWNET {
        return Err(Error::NotNetns(path.to_owned()));
    }
    Ok(inum_of(&file.metadata().map_err(error)?))
}

fn unknown(found: &BTreeMap<Inum, Found>, spec: &str) -> Error {
    let names = found.values().map(|f| f.name.as_str());
    Error::Unknown { spec: spec.to_owned(), near: near(spec, names) }
}

/// The names most like `spec`: those that contain it, then those a few typing errors away.
pub fn near<'a>(spec: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let spec = spec.to_lowercase();
    let limit = (spec.chars().count() / 3).max(1);
    let mut ranked: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let contains = !spec.is_empty() && (lower.contains(&spec) || spec.contains(&lower));
            let rank = if contains { 0 } else { distance(&spec, &lower) };
            (rank <= limit).then_some((rank, name))
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, name)| name.to_owned()).take(SUGGESTIONS).collect()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> BTreeMap<Inum, Found> {
        ["host", "lab-n1", "lab-p1", "lab-p2", "nginx/812"]
            .iter()
            .zip(4_026_532_001..)
            .map(|(name, inum)| {
                (inum, Found { inum, name: (*name).to_owned(), ..Found::default() })
            })
            .collect()
    }

    #[test]
    fn names_and_inode_numbers_are_found() {
        let lab = lab();
        assert_eq!(resolve_among(&lab, "lab-p1").unwrap(), 4_026_532_003);
        assert_eq!(resolve_among(&lab, "nginx/812").unwrap(), 4_026_532_005);
        assert_eq!(resolve_among(&lab, "4026532002").unwrap(), 4_026_532_002);
        assert_eq!(resolve_among(&lab, "net:[4026532002]").unwrap(), 4_026_532_002);
    }

    #[test]
    fn paths_and_pids_lead_to_the_own_namespace() {
        let own = super::super::discover::own().unwrap();
        assert_eq!(resolve("/proc/self/ns/net").unwrap(), own);
        assert_eq!(resolve(&std::process::id().to_string()).unwrap(), own);
    }

    #[test]
    fn another_file_is_refused() {
        let error = resolve("/proc/self/ns/mnt").unwrap_err();
        assert!(error.to_string().starts_with("/proc/self/ns/mnt is not a network namespace"));
        assert!(matches!(resolve("/nowhere/at/all").unwrap_err(), Error::Io { .. }));
    }

    #[test]
    fn an_unknown_name_gets_suggestions() {
        let error = resolve_among(&lab(), "p1").unwrap_err().to_string();
        assert_eq!(error, "no network namespace `p1`; did you mean lab-p1?");
        let error = resolve_among(&lab(), "lab-q1").unwrap_err().to_string();
        assert_eq!(error, "no network namespace `lab-q1`; did you mean lab-n1, lab-p1, lab-p2?");
        let error = resolve_among(&lab(), "kube-system").unwrap_err().to_string();
        assert!(error.ends_with("with names"), "{error}");
    }

    #[test]
    fn distance_counts_typing_errors() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
