//! Debian's packages without touching the machine's own apt: lists, cache and (where packages are
//! to be complete in themselves) the status of installed packages are private.
//!
//! apt checks the mirror's signature and every file's hash; nothing here does it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::lock::Pin;
use crate::sh;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What is installed here; read, never written.
const HOST_STATUS: &str = "/var/lib/dpkg/status";

/// Whose installed packages count as there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installed {
    /// None: every dependency is seen.
    Nothing,
    /// This machine's: only what it lacks is seen.
    Host,
}

/// An apt of our own that knows some suites of the machine's Debian mirror.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Fetches the lists of `suites`; `dir` is where the state lives.
    ///
    /// # Errors
    ///
    /// When the machine has no Debian mirror, or the mirror lacks one of the suites.
    pub(super) fn update(dir: PathBuf, suites: &[&str], installed: Installed) -> Result<Self> {
        for sub in ["lists/partial", "archives/partial", "sources"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install debian-archive-keyring");
        }
        let mirror = mirror()?;
        let all = suites.join(" ");
        let source = format!(
            "Types: deb\nURIs: {mirror}\nSuites: {all}\nComponents: main\n\
             Architectures: amd64\nSigned-By: {KEYRING}\n"
        );
        fs::write(dir.join("sources/vm.sources"), source)?;
        let nothing = dir.join("status");
        fs::write(&nothing, "")?;
        let status = match installed {
            Installed::Nothing => nothing,
            Installed::Host => PathBuf::from(HOST_STATUS),
        };
        let configuration =
            configuration(&dir.to_string_lossy(), &status.to_string_lossy(), suites);
        fs::write(dir.join("apt.conf"), configuration)?;
        let apt = Self { dir };
        sh::output(apt.command("apt-get").arg("update"))
            .with_context(|| format!("the mirror's lists of {all} cannot be fetched"))?;
        Ok(apt)
    }

    /// Names of packages that begin like this.
    ///
    /// # Errors
    ///
    /// When apt-cache fails.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = sh::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// A package in its newest version, or `name=version`; none if the lists do not have it.
    pub(super) fn show(&self, package: &str) -> Option<Stanza> {
        let mut show = self.command("apt-cache");
        let text = sh::output(show.args(["show", "--no-all-versions", package])).ok()?;
        Stanza::parse(&text)
    }

    /// Whether exactly these bits are still offered.
    pub(super) fn offers(&self, pin: &Pin) -> bool {
        let found = self.show(&format!("{}={}", pin.package, pin.version));
        found.is_some_and(|stanza| stanza.sha256 == pin.sha256)
    }

    /// What installing `wanted` (names, or `name=version`) would bring, each as `name=version`.
    ///
    /// # Errors
    ///
    /// When they cannot be installed together with what is there.
    pub(super) fn missing(&self, wanted: &[String]) -> Result<Vec<String>> {
        let mut install = self.command("apt-get");
        install.args(["install", "--print-uris", "-qq", "-y", "--no-install-recommends"]);
        let text = sh::output(install.arg("--no-remove").args(wanted))?;
        Ok(text.lines().filter_map(uri_line).collect())
    }

    /// Downloads packages and unpacks them into one tree.
    ///
    /// # Errors
    ///
    /// When one cannot be fetched, or is not what the signed lists say.
    pub(super) fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        fs::create_dir_all(tree)?;
        for package in packages {
            sh::note(package);
            let debs = self.dir.join("debs");
            fresh_dir(&debs)?;
            let mut download = self.command("apt-get");
            download.args(["download", package]).current_dir(&debs);
            sh::output(&mut download).with_context(|| format!("{package} cannot be fetched"))?;
            for deb in fs::read_dir(&debs)? {
                sh::output(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(tree))?;
            }
            fs::remove_dir_all(&debs)?;
        }
        Ok(())
    }

    /// The machine's own configuration (a proxy, say) stays in force beside ours.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("APT_CONFIG", self.dir.join("apt.conf")).arg("-q");
        command
    }
}

/// apt's configuration: everything below `dir`, of the newest of `suites` where they differ.
fn configuration(dir: &str, status: &str, suites: &[&str]) -> String {
    let release = suites.last().copied().unwrap_or_default();
    format!(
        "Dir::Etc::SourceList \"/dev/null\";\n\
         Dir::Etc::SourceParts \"{dir}/sources\";\n\
         Dir::Etc::Preferences \"/dev/null\";\n\
         Dir::Etc::PreferencesParts \"/dev/null\";\n\
         Dir::State \"{dir}\";\n\
         Dir::State::Lists \"{dir}/lists\";\n\
         Dir::State::Status \"{status}\";\n\
         Dir::Cache \"{dir}\";\n\
         Dir::Cache::Archives \"{dir}/archives\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         APT::Default-Release \"{release}\";\n\
         # The tree is root's: apt's own user could not write into it.\n\
         APT::Sandbox::User \"root\";\n"
    )
}

/// The fields of a package that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) depends: String,
    pub(super) sha256: String,
}

impl Stanza {
    fn parse(text: &str) -> Option<Self> {
        let stanza = text.split("\n\n").find(|part| !part.trim().is_empty())?;
        let field = |name: &str| {
            let mut values = stanza.lines().filter_map(|line| line.strip_prefix(name));
            values.find_map(|rest| rest.strip_prefix(": ")).map(str::to_owned)
        };
        Some(Self {
            package: field("Package")?,
            version: field("Version")?,
            depends: field("Depends").unwrap_or_default(),
            sha256: field("SHA256")?,
        })
    }
}

/// An empty directory in place of whatever is there.
///
/// # Errors
///
/// When it cannot be made.
pub(super) fn fresh_dir(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

/// `'http://…/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 123 SHA256:…` as `a=1:2`.
fn uri_line(line: &str) -> Option<String> {
    let file = line.strip_prefix('\'')?.split_whitespace().nth(1)?;
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(format!("{name}={}", version.replace("%3a", ":")))
}

/// The machine's own Debian mirror.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(|text| debian_uri(&text)).next().context(
        "no Debian mirror (an address that ends in /debian) among this machine's apt sources: \
         guests' kernels come from there",
    )
}

fn debian_uri(sources: &str) -> Option<String> {
    let lines = sources.lines().filter(|l| l.starts_with("URIs:") || l.starts_with("deb "));
    let mut words = lines.flat_map(str::split_whitespace);
    let is_mirror = |w: &&str| w.contains("://") && w.trim_end_matches('/').ends_with("/debian");
    words.find(is_mirror).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_that_ends_in_debian() {
        let deb822 = "Types: deb\nURIs: http://h/debian-security\n\nURIs: http://h/debian/\n";
        assert_eq!(debian_uri(deb822).as_deref(), Some("http://h/debian/"));
        let one_line = "# deb http://no/debian x\ndeb [arch=amd64] https://h/debian bookworm main";
        assert_eq!(debian_uri(one_line).as_deref(), Some("https://h/debian"));
        assert_eq!(debian_uri("deb http://h/ubuntu jammy main"), None);
    }

    #[test]
    fn a_uri_line_names_package_and_version() {
        let line = "'http://h/q_10.deb' qemu-system-x86_1%3a10.0.2+ds-2_amd64.deb 9 SHA256:ab";
        assert_eq!(uri_line(line).as_deref(), Some("qemu-system-x86=1:10.0.2+ds-2"));
        assert_eq!(uri_line("Reading package lists..."), None);
    }

    #[test]
    fn a_stanza_is_read() {
        let text = "Package: a\nVersion: 1:2\nDepends: b (= 3), c\nSHA256: ff\n\nPackage: z\n";
        let stanza = Stanza::parse(text).expect("complete");
        assert_eq!((stanza.package.as_str(), stanza.version.as_str()), ("a", "1:2"));
        assert_eq!((stanza.depends.as_str(), stanza.sha256.as_str()), ("b (= 3), c", "ff"));
        assert_eq!(Stanza::parse("Package: a\n"), None);
    }
}
