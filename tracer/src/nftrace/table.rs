//! The table that switches tracing on: one chain where packets come in, one where they are made,
//! each with the single rule `meta nftrace set 1`.
//!
//! It is owned by the socket that makes it (`NFT_TABLE_F_OWNER`, since 5.12): the kernel removes
//! it with the socket, whatever ends the process.

use super::wire::{self, BATCH_BEGIN, BATCH_END, Batch, Message, SUBSYS_NFTABLES};

const NEWTABLE: u16 = SUBSYS_NFTABLES << 8;
const GETTABLE: u16 = SUBSYS_NFTABLES << 8 | 1;
const DELTABLE: u16 = SUBSYS_NFTABLES << 8 | 2;
const NEWCHAIN: u16 = SUBSYS_NFTABLES << 8 | 3;
const NEWRULE: u16 = SUBSYS_NFTABLES << 8 | 6;
const TABLE_F_OWNER: u32 = 2;
const NF_ACCEPT: u32 = 1;
const REG32_00: u32 = 8;
const META_NFTRACE: u32 = 12;
/// Before everything, defragmentation (-400) included.
const PRIORITY: i32 = -500;

/// `NFPROTO_INET`
pub(super) const INET: i32 = 1;
/// `NFPROTO_BRIDGE`
pub(super) const BRIDGE: i32 = 7;

/// Chain and its hook (`NF_INET_*`, and the same numbers for `NF_BR_*`).
const CHAINS: [(&str, u32); 2] = [("in", 0), ("out", 3)];

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
    let is_name = |(kind, _): &(u16, &[u8])| *kind == NAME;
    let name = || message.attributes().find(is_name).map(|(_, value)| wire::text(value));
    (message.kind == DELTABLE).then(name).flatten()
}

/// The messages that make table `name` of `family`. The last rule is acknowledged, once all of it
/// is committed or not: the end of a batch is not before 6.10.
pub(super) fn make(name: &str, family: i32) -> Batch {
    let create = libc::NLM_F_CREATE;
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, libc::AF_UNSPEC, SUBSYS_NFTABLES, |_| {});
    batch.message(NEWTABLE, create | libc::NLM_F_EXCL, family, 0, |a| {
        a.text(1, name);
        a.number(2, TABLE_F_OWNER);
    });
    for (chain, hook) in CHAINS {
        let ack = if hook == CHAINS[CHAINS.len() - 1].1 { libc::NLM_F_ACK } else { 0 };
        batch.message(NEWCHAIN, create, family, 0, |a| {
            a.text(1, name);
            a.text(3, chain);
            a.nest(4, |a| {
                a.number(1, hook);
                a.bytes(2, &PRIORITY.to_be_bytes());
            });
            a.number(5, NF_ACCEPT);
            a.text(7, "filter");
        });
        batch.message(NEWRULE, create | libc::NLM_F_APPEND | ack, family, 0, |a| {
            a.text(1, name);
            a.text(2, chain);
            a.nest(4, |a| {
                a.nest(1, |a| {
                    a.text(1, "immediate");
                    a.nest(2, |a| {
                        a.number(1, REG32_00);
                        a.nest(2, |a| a.bytes(1, &[1]));
                    });
                });
                a.nest(1, |a| {
                    a.text(1, "meta");
                    a.nest(2, |a| {
                        a.number(2, META_NFTRACE);
                        a.number(3, REG32_00);
                    });
                });
            });
        });
    }
    batch.message(BATCH_END, 0, libc::AF_UNSPEC, SUBSYS_NFTABLES, |_| {});
    batch
}
