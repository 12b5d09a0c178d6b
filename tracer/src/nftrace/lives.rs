//! Which of several tables of one name is meant: a table that is made anew (`iptables-restore`,
//! `flush ruleset` before a reload) gives its handles from the beginning, and what is known of
//! the old one's rules is not true of the new one's.

use std::collections::HashMap;

/// The how-manieth table of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Times that any table may have gone without being told of.
    unseen: u32,
    /// Times that it was told to have gone.
    seen: u32,
}

/// The lives of a namespace's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    unseen: u32,
    /// By `NFPROTO_*` and name.
    seen: HashMap<(u8, String), u32>,
}

impl Lives {
    /// The one that a table is in.
    #[must_use]
    pub(super) fn of(&self, family: u8, table: &str) -> Life {
        let seen = match self.seen.is_empty() {
            // Hardly ever is one gone: the name need not be copied for the look-up.
            true => 0,
            false => self.seen.get(&(family, table.to_owned())).copied().unwrap_or(0),
        };
        Life { unseen: self.unseen, seen }
    }

    /// The table is gone.
    pub(super) fn end(&mut self, family: u8, table: &str) {
        *self.seen.entry((family, table.to_owned())).or_default() += 1;
    }

    /// Any of them may be gone.
    pub(super) fn end_all(&mut self) {
        self.unseen += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_has_gone_is_another_one_afterwards() {
        let mut lives = Lives::default();
        let (read, other) = (lives.of(2, "filter"), lives.of(10, "filter"));
        lives.end(2, "filter");
        assert_ne!(lives.of(2, "filter"), read);
        assert_eq!(lives.of(10, "filter"), other);
        lives.end_all();
        assert_ne!(lives.of(10, "filter"), other);
    }
}
