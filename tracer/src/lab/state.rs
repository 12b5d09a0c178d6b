//! What is known about a lab that is up, in `/run/pkttrace/labs/PREFIX/`:
//! `lab.json` (what was built), `servers` (what the daemon listens on), `server.json` (the daemon's
//! process), `serve.log` (its complaints). `/run` and named namespaces end together at a reboot.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::topology::Proxy;
use super::{Backend, Error, Prefix, sys};

const LABS_DIR: &str = "/run/pkttrace/labs";

/// `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub lab: String,
    pub iptables: Backend,
    pub ipv6: bool,
    #[serde(default)]
    pub proxy: Proxy,
    /// False from before the first namespace is made until the lab works.
    pub is_complete: bool,
    /// The hosts whose namespaces belong to this lab, so that `down` needs no topology.
    pub hosts: Vec<String>,
    /// The faults that are active, in the order in which they were made.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// The state directory of one prefix.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    #[must_use]
    pub(crate) fn new(prefix: &Prefix) -> Self {
        Self(Path::new(LABS_DIR).join(prefix.as_str()))
    }

    /// The path of a file in it.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory; `false` if it is there already. Making it is what claims the prefix.
    pub(crate) fn claim(&self) -> Result<bool, Error> {
        loop {
            fs::create_dir_all(LABS_DIR).map_err(Error::io("make", LABS_DIR))?;
            match fs::create_dir(&self.0) {
                Ok(()) => return Ok(true),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
                // Another lab's `down` has just found the parent empty and removed it.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("make", &self.0)(e)),
            }
        }
    }

    /// The record; `None` where no lab is, or where it was ended before it wrote one.
    pub(crate) fn load(&self) -> Result<Option<Record>, Error> {
        let path = self.file("lab.json");
        match read_json(&path) {
            Ok(record) => Ok(Some(record)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    pub(crate) fn store(&self, record: &Record) -> Result<(), Error> {
        let path = self.file("lab.json");
        write_json(&path, record).map_err(Error::io("write", path))
    }

    /// Waits until nobody else changes this lab, and keeps it so until the lock is dropped.
    pub(crate) fn lock(&self) -> Result<fs::File, Error> {
        let dir = fs::File::open(&self.0).map_err(Error::io("open", &self.0))?;
        sys::lock(&dir).map_err(Error::io("lock", &self.0))?;
        Ok(dir)
    }

    #[must_use]
    pub(crate) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Removes the directory, and its parents where they are empty now.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::io("remove", &self.0)(e));
            }
            _ => {}
        }
        for parent in self.0.ancestors().skip(1).take(2) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Every prefix that has a state directory.
pub(crate) fn prefixes() -> Vec<Prefix> {
    let Ok(entries) = fs::read_dir(LABS_DIR) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut prefixes: Vec<Prefix> = names.filter_map(|name| name.parse().ok()).collect();
    prefixes.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    prefixes
}

pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Writes beside and renames, so that a reader never sees half a file.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    fs::write(&beside, serde_json::to_vec(value)?)?;
    fs::rename(beside, path)
}
