//! The table that switches tracing on: a chain where packets come in and one where they are made,
//! whose rules say `meta nftrace set 1` of what is wanted. Where a packet may become that only by a
//! translation, the same is asked once more behind that.
//!
//! It is owned by the socket that makes it (`NFT_TABLE_F_OWNER`, since 5.12): the kernel removes
//! it with the socket, whatever ends the process.

use super::select::{Against, Field, Selection, Set, Test};
use super::wire::{self, Attributes, BATCH_BEGIN, BATCH_END, Batch, Message, SUBSYS_NFTABLES};

const NEWTABLE: u16 = SUBSYS_NFTABLES << 8;
const GETTABLE: u16 = SUBSYS_NFTABLES << 8 | 1;
const DELTABLE: u16 = SUBSYS_NFTABLES << 8 | 2;
const NEWCHAIN: u16 = SUBSYS_NFTABLES << 8 | 3;
const NEWRULE: u16 = SUBSYS_NFTABLES << 8 | 6;
const NEWSET: u16 = SUBSYS_NFTABLES << 8 | 9;
const NEWSETELEM: u16 = SUBSYS_NFTABLES << 8 | 12;
const NEWGEN: u16 = SUBSYS_NFTABLES << 8 | 15;
const TABLE_F_OWNER: u32 = 2;
const NF_ACCEPT: u32 = 1;
/// `NFT_JUMP`, −3
const JUMP: u32 = 0xffff_fffd;
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const META_NFTRACE: u32 = 12;
/// `NFT_CMP_*`
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const LESS: u32 = 2;
/// Elements in one message, whose length has 16 bits.
const CHUNK: usize = 1024;

/// `NFPROTO_INET`
pub(super) const INET: i32 = 1;
/// `NFPROTO_BRIDGE`
pub(super) const BRIDGE: i32 = 7;

/// Chain, its hook (`NF_INET_*`, and the same numbers for `NF_BR_*`) and its priority: before
/// everything, defragmentation (−400) included.
const EARLY: [(&str, u32, i32); 2] = [("in", 0, -500), ("out", 3, -500)];
/// Right behind the translation of destinations (−100).
const LATE: [(&str, u32, i32); 2] = [("late_in", 0, -99), ("late_out", 3, -99)];
/// The rules for packets that may hold others or be about them.
const AROUND: &str = "around";
/// The rules for packets inside others.
const INNER: &str = "inner";

/// Whether a chain of the tracing table lies behind a translation: packets are met there twice.
pub(super) fn is_late(chain: &str) -> bool {
    LATE.iter().any(|(late, ..)| *late == chain)
}

/// `NFTA_TABLE_NAME`
pub(super) const NAME: u16 = 1;

/// The question which tables there are.
pub(super) fn list() -> Batch {
    let mut batch = Batch::default();
    batch.message(GETTABLE, libc::NLM_F_DUMP, libc::AF_UNSPEC, 0, |_| {});
    batch
}

/// The name of the table that a message says is gone.
pub(super) fn deleted(message: &Message<'_>) -> Option<String> {
    (message.kind == DELTABLE).then(|| named(message)).flatten()
}

/// Whether a message tells of a change in a table that is no tracer's. Each says of which table;
/// the last one of a change only counts.
pub(super) fn is_change(message: &Message<'_>) -> bool {
    let is_tracers = || named(message).is_some_and(|name| name.starts_with(super::TABLE_PREFIX));
    message.error().is_none() && message.kind != NEWGEN && !is_tracers()
}

/// Whether it is elements of a set.
#[cfg(test)]
pub(super) fn is_elements(message: &Message<'_>) -> bool {
    message.kind == NEWSETELEM
}

fn named(message: &Message<'_>) -> Option<String> {
    let name = message.attributes().find(|(kind, _)| *kind == NAME);
    name.map(|(_, value)| wire::text(value))
}

/// A table: its name and family.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) name: &'a str,
    pub(super) family: i32,
}

impl Table<'_> {
    /// The messages that make it. The last rule is acknowledged, once all of it is committed or
    /// not: the end of a batch is not before 6.10.
    pub(super) fn make(self, selection: &Selection, is_behind: bool) -> Batch {
        let mut batch = begin();
        self.fill(&mut batch, selection, is_behind);
        end(batch)
    }

    /// The messages that make it anew, at once: no packet is missed between.
    pub(super) fn replace(self, selection: &Selection, is_behind: bool) -> Batch {
        let mut batch = begin();
        batch.message(DELTABLE, 0, self.family, 0, |a| a.text(NAME, self.name));
        self.fill(&mut batch, selection, is_behind);
        end(batch)
    }

    fn fill(self, batch: &mut Batch, selection: &Selection, is_behind: bool) {
        let exclusive = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        batch.message(NEWTABLE, exclusive, self.family, 0, |a| {
            a.text(NAME, self.name);
            a.number(2, TABLE_F_OWNER);
        });
        for (number, set) in (1..).zip(&selection.sets) {
            self.set(batch, set, number);
        }
        self.beside(batch, selection);
        let late = LATE.iter().filter(|_| is_behind && self.family == INET);
        // The early ones last, so that the acknowledged message is always there.
        for (chain, hook, priority) in late.chain(&EARLY) {
            self.chain(batch, chain, Some((*hook, *priority)));
            selection.rules.iter().for_each(|tests| self.rule(batch, chain, tests, trace));
            if is_late(chain) {
                continue;
            }
            selection.frames.iter().for_each(|tests| self.rule(batch, chain, tests, trace));
            if let Some(test) = selection.holders() {
                self.rule(batch, chain, &[test], |a| verdict(a, JUMP, Some(AROUND)));
            }
        }
        batch.acknowledge_last();
    }

    /// The chains that are jumped to.
    fn beside(self, batch: &mut Batch, selection: &Selection) {
        if selection.holders.is_none() {
            return;
        }
        if !selection.inner.is_empty() {
            self.chain(batch, INNER, None);
            selection.inner.iter().for_each(|tests| self.rule(batch, INNER, tests, trace));
        }
        self.chain(batch, AROUND, None);
        if !selection.inner.is_empty() {
            let jump = |a: &mut Attributes<'_>| verdict(a, JUMP, Some(INNER));
            self.rule(batch, AROUND, &selection.tunnels, jump);
        }
        selection.around.iter().for_each(|tests| self.rule(batch, AROUND, tests, trace));
    }

    fn set(self, batch: &mut Batch, set: &Set, number: u32) {
        batch.message(NEWSET, libc::NLM_F_CREATE, self.family, 0, |a| {
            a.text(1, self.name);
            a.text(2, &set.name);
            a.number(4, set.kind);
            a.number(5, set.len);
            a.number(10, number);
        });
        for elements in set.elements.chunks(CHUNK) {
            batch.message(NEWSETELEM, libc::NLM_F_CREATE, self.family, 0, |a| {
                a.text(1, self.name);
                a.text(2, &set.name);
                a.nest(3, |a| {
                    for element in elements {
                        a.nest(1, |a| a.nest(1, |a| a.bytes(1, element)));
                    }
                });
                a.number(4, number);
            });
        }
    }

    fn chain(self, batch: &mut Batch, chain: &str, hook: Option<(u32, i32)>) {
        batch.message(NEWCHAIN, libc::NLM_F_CREATE, self.family, 0, |a| {
            a.text(1, self.name);
            a.text(3, chain);
            if let Some((hook, priority)) = hook {
                a.nest(4, |a| {
                    a.number(1, hook);
                    a.bytes(2, &priority.to_be_bytes());
                });
                a.number(5, NF_ACCEPT);
                a.text(7, "filter");
            }
        });
    }

    /// A rule: when all tests hold, `then`.
    fn rule(
        self,
        batch: &mut Batch,
        chain: &str,
        tests: &[Test],
        then: impl Fn(&mut Attributes<'_>),
    ) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        batch.message(NEWRULE, flags, self.family, 0, |a| {
            a.text(1, self.name);
            a.text(2, chain);
            a.nest(4, |a| {
                tests.iter().for_each(|test| express(a, test));
                then(a);
            });
        });
    }
}

fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, libc::AF_UNSPEC, SUBSYS_NFTABLES, |_| {});
    batch
}

fn end(mut batch: Batch) -> Batch {
    batch.message(BATCH_END, 0, libc::AF_UNSPEC, SUBSYS_NFTABLES, |_| {});
    batch
}

/// An expression of a rule.
fn expression(a: &mut Attributes<'_>, kind: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    a.nest(1, |a| {
        a.text(1, kind);
        a.nest(2, fill);
    });
}

/// A test: the field into a register, and what is asked of that.
fn express(a: &mut Attributes<'_>, Test(field, against): &Test) {
    match *field {
        Field::Meta(key) => expression(a, "meta", |a| {
            a.number(1, REG_1);
            a.number(2, key);
        }),
        Field::Payload { base, offset, len } => expression(a, "payload", |a| {
            for (kind, value) in (1..).zip([REG_1, base, offset, len]) {
                a.number(kind, value);
            }
        }),
    }
    match against {
        Against::Is(value) => compare(a, EQUAL, value),
        Against::Below(limit) => compare(a, LESS, &[*limit]),
        Against::Under { mask, value } => {
            and(a, mask);
            compare(a, EQUAL, value);
        }
        Against::IsNot { mask, value } => {
            and(a, mask);
            compare(a, UNEQUAL, value);
        }
        Against::In(set) => expression(a, "lookup", |a| {
            a.text(1, set);
            a.number(2, REG_1);
        }),
    }
}

fn compare(a: &mut Attributes<'_>, operation: u32, value: &[u8]) {
    expression(a, "cmp", |a| {
        a.number(1, REG_1);
        a.number(2, operation);
        a.nest(3, |a| a.bytes(1, value));
    });
}

fn and(a: &mut Attributes<'_>, mask: &[u8]) {
    expression(a, "bitwise", |a| {
        a.number(1, REG_1);
        a.number(2, REG_1);
        a.number(3, u32::try_from(mask.len()).unwrap_or(0));
        a.nest(4, |a| a.bytes(1, mask));
        a.nest(5, |a| a.bytes(1, &vec![0; mask.len()]));
    });
}

/// `meta nftrace set 1 accept`: one rule is enough.
fn trace(a: &mut Attributes<'_>) {
    expression(a, "immediate", |a| {
        a.number(1, REG_1);
        a.nest(2, |a| a.bytes(1, &[1]));
    });
    expression(a, "meta", |a| {
        a.number(2, META_NFTRACE);
        a.number(3, REG_1);
    });
    verdict(a, NF_ACCEPT, None);
}

fn verdict(a: &mut Attributes<'_>, code: u32, chain: Option<&str>) {
    expression(a, "immediate", |a| {
        a.number(1, REG_VERDICT);
        a.nest(2, |a| {
            a.nest(2, |a| {
                a.number(1, code);
                chain.into_iter().for_each(|chain| a.text(2, chain));
            });
        });
    });
}
