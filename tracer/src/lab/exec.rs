//! Becoming a command inside a lab host, as `ip netns exec` does it: the network namespace, a
//! `/sys` that shows its devices, and the host's own files over those in `/etc`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::host::Host;
use super::{Error, sys};

/// Replaces this process by `command` inside `host`; returns only with an error.
///
/// # Errors
///
/// That the namespace cannot be entered, or the command not started.
#[must_use]
pub fn exec(host: Host<'_>, command: &[OsString]) -> Error {
    let netns = host.prefix.netns(host.name);
    if let Err(e) = enter(host) {
        return Error::netns(netns, "enter the namespace")(e);
    }
    let Some((program, args)) = command.split_first() else {
        return Error::BadSpec("there is no command to run".to_owned());
    };
    let cause = Command::new(program).args(args).exec();
    Error::netns(netns, format!("run `{}`", program.to_string_lossy()))(cause)
}

fn enter(host: Host<'_>) -> io::Result<()> {
    let netns = File::open(host.prefix.netns_path(host.name))?;
    sys::enter_netns(&netns)?;
    sys::unshare(libc::CLONE_NEWNS)?;
    // What is mounted from here on is this command's own; unmounts outside still come in.
    sys::mount(Path::new(""), Path::new("/"), c"none", libc::MS_SLAVE | libc::MS_REC)?;
    mount_sysfs(&host.prefix.netns(host.name))?;
    bind_etc(&host.prefix.etc_dir(host.name))
}

/// `/sys/class/net` shows the namespace of the process that mounted it.
fn mount_sysfs(name: &str) -> io::Result<()> {
    let sys_dir = Path::new("/sys");
    let flags = if sys::is_read_only(sys_dir) { libc::MS_RDONLY } else { 0 };
    // Where there was no /sys there is nothing to take away.
    let _ = sys::unmount(sys_dir);
    sys::mount(Path::new(name), sys_dir, c"sysfs", flags)
}

fn bind_etc(dir: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let target = Path::new("/etc").join(entry.file_name());
        sys::mount(&entry.path(), &target, c"none", libc::MS_BIND).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("bind its {} over {}: {e}", dir.display(), target.display()),
            )
        })?;
    }
    Ok(())
}
