//! What a container may do to whoever reads its files.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use std::ffi::CString;

/// A directory that vanishes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("pkttrace-foreign-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("root/etc")).unwrap();
        Self(dir)
    }

    fn root(&self) -> Root {
        Root::open(&self.0.join("root")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(spot: &Spot) -> Option<String> {
    spot.read(64).ok().map(|c| String::from_utf8(c.bytes).unwrap())
}

#[test]
fn links_stay_below_their_root() {
    let scratch = Scratch::new("links");
    let (root, host) = (scratch.0.join("root"), scratch.0.join("host"));
    fs::write(&host, "host").unwrap();
    fs::create_dir(root.join("run")).unwrap();
    fs::write(root.join("run/stub"), "own").unwrap();
    symlink("/run/stub", root.join("etc/absolute")).unwrap();
    symlink("../../../../run/stub", root.join("etc/upwards")).unwrap();
    symlink("../../host", root.join("etc/out")).unwrap();
    symlink(&host, root.join("etc/away")).unwrap();
    symlink("/proc/self/root", root.join("etc/magic")).unwrap();
    symlink("loop", root.join("etc/loop")).unwrap();
    let at = |path: &str| scratch.root().at(path);
    for own in ["/etc/absolute", "etc/upwards", "/run/stub", "/../../run/./stub"] {
        assert_eq!(text(&at(own)).as_deref(), Some("own"), "{own}");
        assert_eq!(at(own).settled().unwrap().outside(), root.join("run/stub"), "{own}");
    }
    for other in ["/etc/out", "/etc/away", "/etc/magic/etc/passwd", "/etc/loop", "/etc/none"] {
        assert_eq!(text(&at(other)), None, "{other}");
        assert!(at(other).settled().is_err(), "{other}");
    }
}

#[test]
fn nothing_but_a_regular_file_of_a_sensible_size_is_read() {
    let scratch = Scratch::new("kinds");
    let etc = scratch.0.join("root/etc");
    let fifo = CString::new(etc.join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: the path ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let _socket = std::os::unix::net::UnixListener::bind(etc.join("socket")).unwrap();
    fs::write(etc.join("fits"), [b'x'; 64]).unwrap();
    fs::write(etc.join("large"), [b'x'; 65]).unwrap();
    let at = |name: &str| scratch.root().at("/etc").join(name);
    assert_eq!(text(&at("fits")).unwrap().len(), 64);
    for refused in ["fifo", "socket", "large", "/"] {
        assert!(at(refused).read(64).is_err(), "{refused}");
    }
    // A device that never ends.
    assert!(Root::open(Path::new("/")).unwrap().at("/dev/zero").read(64).is_err());
    let names: Vec<_> = at("").entries().iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(names, ["fifo", "fits", "large", "socket"]);
    assert!(at("nowhere").entries().is_empty());
}

#[test]
fn a_namespace_is_known_by_its_magic_link_and_by_no_imitation() {
    let own = crate::net::discover::own().unwrap();
    let root = Root::open(Path::new("/")).unwrap();
    assert_eq!(root.at("/proc/self/ns/net").netns(), Some(own));
    assert_eq!(root.at("/proc/self/ns/mnt").netns(), None);
    let scratch = Scratch::new("imitation");
    symlink(format!("net:[{own}]"), scratch.0.join("root/net")).unwrap();
    symlink("/proc/self/ns/net", scratch.0.join("root/out")).unwrap();
    for path in ["/net", "/out", "/etc", "/none"] {
        assert_eq!(scratch.root().at(path).netns(), None, "{path}");
    }
}

#[test]
fn what_hangs_is_left_behind() {
    let wait = Duration::from_millis(20);
    let (_keep, never) = mpsc::channel::<()>();
    assert_eq!(at_most(wait, move || never.recv().is_ok()), None);
    assert_eq!(at_most(Duration::from_secs(10), || 7), Some(7));
}
