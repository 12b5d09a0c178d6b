//! Commands as argument vectors, and the only writer of them.
//!
//! A word of a command is one of three things: written here (`&'static str`), a number or an
//! address, or [`Foreign`]: a name that somebody else gave (a device, a chain, a namespace). Nothing
//! else becomes a [`Word`], so that no text from outside reaches a command without having been
//! looked at, and nothing reaches a shell unquoted.

use std::net::{IpAddr, SocketAddr};

use crate::net::Mac;
use crate::net::detail::Prefix;

/// A name from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign<'a>(pub &'a str);

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    text: String,
    /// Says to whoever reads it, and to the tool that gets it, what it is.
    is_plain: bool,
}

impl Word {
    /// The same word, going on with another.
    #[must_use]
    pub fn then(mut self, more: impl Into<Self>) -> Self {
        let more = more.into();
        self.text += &more.text;
        self.is_plain &= more.is_plain;
        self
    }

    /// The same word, which nobody may be told to run unless `is_fit`.
    #[must_use]
    pub fn only_if(mut self, is_fit: bool) -> Self {
        self.is_plain &= is_fit;
        self
    }

    /// `10.0.0.0/8`, with its length always.
    #[must_use]
    pub fn net((addr, len): Prefix) -> Self {
        Self::from(addr).then("/").then(len)
    }

    /// `0x4000`.
    #[must_use]
    pub fn hex(value: u32) -> Self {
        Self { text: format!("{value:#x}"), is_plain: true }
    }

    /// `default`, an address alone, or a network.
    #[must_use]
    pub fn prefix(net: Prefix) -> Self {
        match net {
            (addr, 0) if addr.is_unspecified() => Self::from("default"),
            (addr, len) if len == full(addr) => Self::from(addr),
            net => Self::net(net),
        }
    }
}

/// The length of a prefix that is one address.
#[must_use]
pub fn full(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl From<&'static str> for Word {
    fn from(text: &'static str) -> Self {
        Self { text: text.to_owned(), is_plain: true }
    }
}

impl From<Foreign<'_>> for Word {
    fn from(name: Foreign<'_>) -> Self {
        Self { text: name.0.to_owned(), is_plain: name.0.chars().all(|c| !is_hidden(c)) }
    }
}

impl From<Mac> for Word {
    fn from(mac: Mac) -> Self {
        Self { text: crate::diagnose::show::mac(mac), is_plain: true }
    }
}

macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Word {
            fn from(value: $kind) -> Self {
                Self { text: value.to_string(), is_plain: true }
            }
        }
    )*};
}
plain!(u8, u16, u32, u64, usize, IpAddr, SocketAddr);

/// What a terminal acts upon, hides or turns round instead of showing it, and what stands for bytes
/// that are no text.
#[must_use]
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}' | '\u{e0000}'..='\u{e007f}')
}

/// Text for people, with what a terminal would not show written out.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{fffd}' => shown.push(c),
            c if is_hidden(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// A command: its words, the program's name first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argv(Vec<Word>);

/// `argv!["ip", "link", "set", "dev", Foreign(name), "up"]`.
macro_rules! argv {
    ($($word:expr),* $(,)?) => {
        $crate::diagnose::remedy::Argv::of([$($crate::diagnose::remedy::Word::from($word)),*])
    };
}
pub(crate) use argv;

impl Argv {
    /// These words.
    #[must_use]
    pub fn of(words: impl IntoIterator<Item = Word>) -> Self {
        Self(words.into_iter().collect())
    }

    /// With one more word.
    #[must_use]
    pub fn with(mut self, word: impl Into<Word>) -> Self {
        self.0.push(word.into());
        self
    }

    /// With all words of another one behind its own.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    /// The same, where there is something to add.
    #[must_use]
    pub fn and_if<T>(self, value: Option<T>, more: impl FnOnce(T) -> Self) -> Self {
        match value {
            Some(value) => self.and(more(value)),
            None => self,
        }
    }

    /// Its words, as `execve(2)` takes them. `None` where one of them cannot be said to people or to
    /// the tool as what it is.
    #[must_use]
    pub fn words(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|w| w.is_plain.then_some(w.text.as_str())).collect()
    }

    /// As a POSIX shell takes it.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let words: Vec<String> = self.words()?.into_iter().map(quote).collect();
        Some(words.join(" "))
    }

    /// The words with a blank between, for whoever parses them again (nftables' own grammar, the
    /// model): not for a shell.
    #[must_use]
    pub fn joined(&self) -> String {
        let words: Vec<&str> = self.0.iter().map(|w| w.text.as_str()).collect();
        words.join(" ")
    }

    /// Its words for the model, which takes any.
    pub fn raw(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|w| w.text.as_str())
    }
}

/// A word for a POSIX shell.
#[must_use]
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    // Alone, and not the first, these are no words of the shell's.
    let is_lone = matches!(word, "!" | "{" | "}");
    if is_lone || !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_when_they_need_it() {
        assert_eq!(quote("veth-p1@if3"), "veth-p1@if3");
        assert_eq!(quote("a b'c"), r"'a b'\''c'");
        assert_eq!(quote("$(touch${IFS}x)"), "'$(touch${IFS}x)'");
        assert_eq!(quote(""), "''");
        let line = argv!["ip", "link", "set", "dev", Foreign("a;b"), "up"].line();
        assert_eq!(line.as_deref(), Some("ip link set dev 'a;b' up"));
    }

    #[test]
    fn a_shell_reads_back_every_word() {
        let hostile = ["$(id)", "`id`", "a'b", "a\"b", "-x", "~", "*", "a b", "#", "\\", "!x", "&"];
        for word in hostile {
            let out = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            // printf's own options are no matter of quoting.
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(word.starts_with('-') || said == word, "{word}: {said}");
        }
    }

    #[test]
    fn what_cannot_be_shown_is_no_command() {
        for name in ["a\nb", "a\x1b[2Jb", "a\u{202e}b", "a\u{fffd}"] {
            assert_eq!(argv!["ip", "link", "del", "dev", Foreign(name)].line(), None, "{name:?}");
        }
        assert_eq!(clean("a\nb\x1b"), "a\\nb\\u{1b}");
        assert_eq!(clean("ä → ß"), "ä → ß");
    }
}
