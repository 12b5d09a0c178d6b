//! Writing the archives that a kernel unpacks as its first root: cpio in the `newc` format, owned
//! by root whoever builds it. Several may follow each other in one file (kernel
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// An archive being written; paths are relative to the guest's root.
#[derive(Debug)]
pub(super) struct Cpio<W: Write> {
    out: W,
    inode: u32,
    seen: BTreeSet<String>,
}

impl Cpio<BufWriter<File>> {
    /// A new archive in a file.
    ///
    /// # Errors
    ///
    /// When it cannot be created.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self::new(BufWriter::new(file)))
    }
}

impl<W: Write> Cpio<W> {
    fn new(out: W) -> Self {
        Self { out, inode: 0, seen: BTreeSet::new() }
    }

    /// A directory, and those above it.
    ///
    /// # Errors
    ///
    /// When writing fails; as all of these.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        self.once(path, DIRECTORY, &[])
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.once(path, LINK, target.as_bytes())
    }

    /// A file of these bytes; `mode` is its permissions.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.once(path, REGULAR | mode, bytes)
    }

    /// A copy of a file of this machine.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let why = || format!("cannot read {}", from.display());
        let mode = fs::metadata(from).with_context(why)?.permissions().mode() & 0o755;
        let bytes = fs::read(from).with_context(why)?;
        self.file(path, mode, &bytes)
    }

    /// A copy of a whole directory, its links as links.
    pub(super) fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        self.directory(path)?;
        let entries = fs::read_dir(from).with_context(|| format!("no {}", from.display()))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inner = format!("{path}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.tree(&inner, &entry.path())?;
            } else if kind.is_symlink() {
                self.link(&inner, &fs::read_link(entry.path())?.to_string_lossy())?;
            } else {
                self.copy(&inner, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let mut at = 0;
        while let Some(length) = path.get(at..).and_then(|rest| rest.find('/')) {
            at += length;
            let parent = path.get(..at).unwrap_or_default().to_owned();
            self.once(&parent, DIRECTORY, &[])?;
            at += 1;
        }
        Ok(())
    }

    fn once(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        if self.seen.insert(path.to_owned()) { self.entry(path, mode, bytes) } else { Ok(()) }
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(bytes.len()).context("a file of over 4 GB")?;
        let name = u32::try_from(path.len() + 1).context("a name of over 4 GB")?;
        // inode, mode, uid, gid, links, mtime, size, 2 × device, 2 × rdevice, name size, checksum
        write!(self.out, "070701")?;
        for field in [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0] {
            write!(self.out, "{field:08X}")?;
        }
        self.padded(110, &[path.as_bytes(), &[0]].concat())?;
        self.padded(0, bytes)
    }

    /// Bytes, and zeros until what is written since a multiple of 4 and `before` is one again.
    fn padded(&mut self, before: usize, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        let zeros = (before + bytes.len()).next_multiple_of(4) - before - bytes.len();
        Ok(self.out.write_all(&[0; 3][..zeros])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_directories_come_first_and_once() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("a/b", 0o755, b"hello").expect("writes");
        cpio.file("a/c", 0o644, b"").expect("writes");
        let bytes = cpio.finish().expect("writes");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("ASCII");
        let heads: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(heads.len(), 4);
        assert!(heads.iter().all(|at| at % 4 == 0), "{heads:?}");
        let names = ["a\0", "a/b\0", "a/c\0", "TRAILER!!!\0"];
        for (at, name) in heads.iter().zip(names) {
            assert!(text[at + 110..].starts_with(name), "{name}");
        }
        assert_eq!(&text[heads[1] + 14..heads[1] + 22], "000081ED", "mode of a file");
        assert_eq!(&text[heads[1] + 54..heads[1] + 62], "00000005", "its size");
    }
}
