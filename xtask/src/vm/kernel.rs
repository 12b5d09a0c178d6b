//! The kernels that guests run: Debian's packages made into an image and a layer of modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Installed, fresh_dir};
use super::host::Host;
use super::lock::{Lock, Pin};
use super::store::{Part, Store};
use super::{modules, store};
use crate::sh;

/// A kernel by its series, and the suites that carry it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) series: &'static str,
    /// Options of its own for the command line.
    pub(super) options: &'static str,
    suites: &'static [&'static str],
}

const fn kernel(series: &'static str, suites: &'static [&'static str]) -> Kernel {
    Kernel { series, options: "", suites }
}

/// Programs may be preempted by others: netfilter's anywhere, tracepoints' from 7.0 on.
const PREEMPTED: &str = "preempt=full";

/// Oldest first. Debian has no suite with 6.6.
pub(crate) const KERNELS: &[Kernel] = &[
    kernel("5.10", &["bullseye"]),
    kernel("6.1", &["bookworm"]),
    Kernel { options: PREEMPTED, ..kernel("6.12", &["trixie", "bookworm-backports"]) },
    kernel("6.18", &["trixie-backports"]),
    Kernel { options: PREEMPTED, ..kernel("7.2", &["trixie-backports", "sid"]) },
];

/// Small and without drivers for hardware that no guest has.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel ready to boot.
#[derive(Debug)]
pub(crate) struct Image {
    pub(super) vmlinuz: PathBuf,
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// Fetches the packages and builds the layer, unless both were done before.
    ///
    /// # Errors
    ///
    /// When no suite has the kernel, or a package is not as expected.
    pub(super) fn fetch(&self, store: &Store, host: &Host, lock: &mut Lock) -> Result<Image> {
        let part = store.part(&format!("kernel-{}", self.series));
        let recipe = modules::recipe();
        let pins = lock.wanted(self.series);
        if lock.is_renewed() || !part.is_fresh(&store.stamp(&pins, &recipe)) {
            sh::step(format!("kernel {}", self.series));
            fresh_dir(&part.dir)?;
            let tree = part.file("tree");
            let taken = self.unpack(store, &pins, &tree).with_context(|| self.context())?;
            build(&part, &tree, host).with_context(|| self.context())?;
            fs::remove_dir_all(&tree)?;
            lock.renew(self.series, &taken);
            part.done(&store.stamp(&lock.of(self.series), &recipe), &taken)?;
        }
        Ok(Image { vmlinuz: part.file("vmlinuz"), modules: part.file("modules.cpio") })
    }

    fn context(&self) -> String {
        format!("kernel {} from {}", self.series, self.suites.join(" or "))
    }

    fn unpack(&self, store: &Store, pins: &[Pin], tree: &Path) -> Result<Vec<Pin>> {
        let mut last = None;
        for suite in self.suites {
            let dir = store.apt(suite);
            let result = Apt::update(dir.clone(), &[suite], Installed::Nothing).and_then(|apt| {
                let chosen = self.choose(&apt, suite, pins)?;
                let specs: Vec<_> = chosen.iter().map(Pin::spec).collect();
                apt.unpack(&specs, tree)?;
                Ok(chosen)
            });
            fs::remove_dir_all(dir)?;
            match result {
                Ok(chosen) => return Ok(chosen),
                Err(error) => {
                    sh::note(format!("{suite}: {error:#}"));
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no suite has it")))
    }

    /// The pinned packages while the suite has them, else its newest of the series.
    fn choose(&self, apt: &Apt, suite: &str, pins: &[Pin]) -> Result<Vec<Pin>> {
        let here: Vec<_> = pins.iter().filter(|pin| pin.suite == suite).cloned().collect();
        if !here.is_empty() && here.iter().all(|pin| apt.offers(pin)) {
            return Ok(here);
        }
        let prefix = format!("linux-image-{}.", self.series);
        let names = apt.names(&prefix)?.into_iter().filter(|name| name.ends_with(FLAVOUR));
        let newest = names.max_by_key(|name| numbers(name));
        let newest = newest.with_context(|| format!("{suite} has no {prefix}*{FLAVOUR}"))?;
        for pin in here {
            sh::note(format!("{} is no longer on the mirror: {newest} instead", pin.spec()));
        }
        self.follow(apt, suite, &newest)
    }

    /// A package and those of its kernel; from 6.19 on the image is one of several.
    fn follow(&self, apt: &Apt, suite: &str, first: &str) -> Result<Vec<Pin>> {
        let mut wanted = vec![first.to_owned()];
        let mut found: Vec<Pin> = Vec::new();
        while let Some(name) = wanted.pop() {
            if found.iter().any(|pin| pin.package == name) {
                continue;
            }
            let Some(stanza) = apt.show(&name) else {
                // Lists of what is built in; older ones are gone from the mirror, and the image
                // of their time has the lists itself.
                if name.starts_with("linux-base-") {
                    continue;
                }
                bail!("{suite} has no {name}");
            };
            wanted.extend(parts(&stanza.depends));
            found.push(Pin {
                part: self.series.to_owned(),
                suite: suite.to_owned(),
                package: stanza.package,
                version: stanza.version,
                sha256: stanza.sha256,
            });
        }
        Ok(found)
    }
}

/// The kernels of these series, all for none.
///
/// # Errors
///
/// When there is none of that name.
pub(crate) fn pick(series: &[String]) -> Result<Vec<Kernel>> {
    if series.is_empty() {
        return Ok(KERNELS.to_vec());
    }
    let known = || KERNELS.iter().map(|kernel| kernel.series).collect::<Vec<_>>().join(", ");
    let pick = |name: &String| {
        let kernel = KERNELS.iter().find(|kernel| kernel.series == name);
        kernel.copied().with_context(|| format!("no guest kernel {name}; there are {}", known()))
    };
    series.iter().map(pick).collect()
}

/// Image and layer from the unpacked packages.
fn build(part: &Part, tree: &Path, host: &Host) -> Result<()> {
    let mut roots = ["usr", ""].map(|dir| tree.join(dir)).into_iter();
    let root = roots.find(|root| root.join("lib/modules").is_dir());
    let root = root.context("the packages hold no modules")?;
    let mut releases = fs::read_dir(root.join("lib/modules"))?;
    let release = releases.next().context("the packages hold no modules")??.file_name();
    let release = release.to_string_lossy();
    let dir = root.join("lib/modules").join(&*release);
    let image = [tree.join(format!("boot/vmlinuz-{release}")), dir.join("vmlinuz")];
    let Some(image) = image.iter().find(|path| path.is_file()) else {
        bail!("the packages hold no vmlinuz of {release}");
    };
    fs::copy(image, part.file("vmlinuz"))?;
    decompress(&dir)?;
    modules::layer(&part.file("modules.cpio"), &root, &release, host)
}

/// The kernel could load them as they are, much slower under emulation.
fn decompress(dir: &Path) -> Result<()> {
    let mut find = Command::new("find");
    find.arg(store::text(dir)).args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]);
    sh::output(&mut find).map(|_| ())
}

/// Those dependencies that carry a part of the kernel.
fn parts(depends: &str) -> Vec<String> {
    let names = depends.split(',').filter_map(|one| one.split_whitespace().next());
    let is_part = |name: &&str| {
        let prefixes = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    names.filter(is_part).map(str::to_owned).collect()
}

/// For ordering names by the versions in them.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_by_number() {
        let (old, new) = ("linux-image-6.18.9+deb13-cloud", "linux-image-6.18.15+deb13-cloud");
        assert!(numbers(old) < numbers(new));
    }

    #[test]
    fn the_parts_of_a_split_kernel_are_followed() {
        let depends = "kmod, linux-binary-7.2.12-cloud-amd64 (= 7.2.12-1), \
            linux-base (>= 4.12), linux-modules-7.2.12-cloud-amd64 (= 1)";
        let expected = ["linux-binary-7.2.12-cloud-amd64", "linux-modules-7.2.12-cloud-amd64"];
        assert_eq!(parts(depends), expected);
    }

    #[test]
    fn kernels_are_picked_by_series() {
        assert_eq!(pick(&[]).expect("all").len(), KERNELS.len());
        assert_eq!(pick(&["6.1".to_owned()]).expect("known")[0].series, "6.1");
        assert!(pick(&["6.6".to_owned()]).is_err());
    }
}
