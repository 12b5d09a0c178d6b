//! The prefix that sets one lab's namespaces apart from another's, and the names made from it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Error;

/// Where `ip netns` keeps named namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// Where `ip netns exec` finds the files it binds over those in `/etc`.
pub(crate) const ETC_NETNS_DIR: &str = "/etc/netns";

const MAX_LEN: usize = 32;

/// A valid prefix: `[a-z0-9-]`, 1 to 32 characters, not beginning with `-`.
///
/// Host names have no `-`, so `PREFIX-HOST` belongs to one prefix only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace's name of a host: `PREFIX-HOST`.
    #[must_use]
    pub fn netns(&self, host: &str) -> String {
        format!("{}-{host}", self.0)
    }

    /// The path that a host's namespace is bound on.
    #[must_use]
    pub fn netns_path(&self, host: &str) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(self.netns(host))
    }

    /// The directory with the host's own versions of files in `/etc`.
    #[must_use]
    pub fn etc_dir(&self, host: &str) -> PathBuf {
        PathBuf::from(ETC_NETNS_DIR).join(self.netns(host))
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_valid = !text.is_empty()
            && text.len() <= MAX_LEN
            && !text.starts_with('-')
            && text.bytes().all(allowed);
        if is_valid { Ok(Self(text.to_owned())) } else { Err(Error::BadPrefix(text.to_owned())) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_takes_lower_case_digits_and_dashes() {
        for good in ["lab", "t1", "a-b-3", "0", &"x".repeat(32)] {
            assert!(good.parse::<Prefix>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "Lab", "a_b", "a/b", "..", "a b", "é", &"x".repeat(33)] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_made_like_those_of_ip_netns() {
        let prefix: Prefix = "t1".parse().unwrap();
        assert_eq!(prefix.netns("p1"), "t1-p1");
        assert_eq!(prefix.netns_path("p1").to_str(), Some("/run/netns/t1-p1"));
        assert_eq!(prefix.etc_dir("p1").to_str(), Some("/etc/netns/t1-p1"));
    }
}
