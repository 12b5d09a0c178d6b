//! `--ready-file`: how a script learns that every probe is attached.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Makes the file. It may lie where others can write: no link is followed, nobody is waited for,
/// and what is there already keeps its contents.
pub(crate) fn say(path: &Path) -> Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).custom_flags(flags).open(path);
    let at = || format!("--ready-file {}", path.display());
    let file = match file {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            bail!("{}: it is a symbolic link, and those are not followed", at())
        }
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => bail!("{}: it is no regular file", at()),
        file => file.with_context(|| format!("cannot create {}", path.display()))?,
    };
    if !file.metadata()?.is_file() {
        bail!("{}: it is no regular file", at());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;

    use super::*;

    #[test]
    fn only_a_regular_file_is_made_and_none_is_overwritten() {
        let dir = std::env::temp_dir().join(format!("pkttrace-ready-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("other"), "kept").unwrap();
        std::os::unix::fs::symlink("other", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
        let fifo = CString::new(dir.join("fifo").to_str().unwrap()).unwrap();
        // SAFETY: the path ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let said = |name: &str| say(&dir.join(name));
        assert!(said("new").is_ok() && said("other").is_ok());
        for refused in ["link", "dangling", "fifo", "none/x"] {
            assert!(said(refused).is_err(), "{refused}");
        }
        // With a reader, a pipe could be opened.
        let _reader =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(dir.join("fifo"));
        assert!(said("fifo").is_err());
        let kept = fs::read_to_string(dir.join("other")).unwrap();
        assert!(dir.join("new").exists() && !dir.join("nowhere").exists());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(kept, "kept");
    }
}
