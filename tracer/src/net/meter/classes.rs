//! Classes of queueing disciplines with their limits and figures, and the filters that lead to them.

use std::collections::BTreeSet;

use super::queues::{HEADER, Queue, TCA_OPTIONS, TCA_STATS2, figures};
use crate::net::inspect::tc;
use crate::net::inspect::wire::{Netlink, attributes, attributes_after, u32_at, u64_at};

/// A class, whose packets have a rate of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Interface index.
    pub dev: u32,
    /// `tc`'s class id, major and minor number.
    pub id: u32,
    /// The class that it is in; `0xffff_ffff`, or the discipline's own, for none.
    pub parent: u32,
    /// Bytes a second that are its own.
    pub rate: u64,
    /// Bytes a second that it gets at most, with what its parent has left.
    pub ceiling: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets dropped.
    pub drops: u64,
    /// Times that it had to wait (since 5.5).
    pub overlimits: u64,
    /// Bytes waiting.
    pub backlog: u64,
}

/// A filter that leads packets to a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Interface index.
    pub dev: u32,
    /// The class.
    pub class: u32,
    /// Kind and match, in tc's words.
    pub text: String,
}

/// Those of the devices whose disciplines have classes.
pub(super) fn classes(netlink: &mut Netlink, queues: &[Queue]) -> Vec<Class> {
    let devices: BTreeSet<u32> = queues.iter().filter(|q| q.has_classes()).map(|q| q.dev).collect();
    let mut all = Vec::new();
    for dev in devices {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&dev.to_ne_bytes());
        // What cannot be read is not there.
        let Ok(answer) = netlink.dump(libc::RTM_GETTCLASS, &header) else { continue };
        all.extend(answer.messages().filter_map(|(_, body)| class(body)));
    }
    all
}

fn class(body: &[u8]) -> Option<Class> {
    let mut class = Class {
        dev: u32_at(body, 4)?,
        id: u32_at(body, 8)?,
        parent: u32_at(body, 12)?,
        ..Class::default()
    };
    let (mut options, kind) = (&[][..], tc::kind(body)?);
    for (attribute, value) in attributes_after(body, HEADER) {
        match attribute {
            TCA_OPTIONS => options = value,
            TCA_STATS2 => {
                let now = figures(value);
                (class.bytes, class.drops) = (now.bytes, now.drops);
                (class.overlimits, class.backlog) = (now.overlimits, now.backlog);
            }
            _ => {}
        }
    }
    (class.rate, class.ceiling) = match kind.as_str() {
        "htb" => htb_rates(options)?,
        "hfsc" => hfsc_rates(options),
        _ => return None,
    };
    Some(class)
}

/// `TCA_HTB_PARMS`, a `struct tc_htb_opt` that begins with the two rates; those of more than 32 bits
/// have attributes of their own.
fn htb_rates(options: &[u8]) -> Option<(u64, u64)> {
    const PARAMETERS: u16 = 1;
    const RATE64: u16 = 6;
    const CEILING64: u16 = 7;
    let of = |wanted| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let short = |at| u32_at(of(PARAMETERS)?, at).map(u64::from);
    let long = |wanted| u64_at(of(wanted)?, 0);
    Some((long(RATE64).or_else(|| short(8))?, long(CEILING64).or_else(|| short(20))?))
}

/// `struct tc_service_curve`: its last rate lasts. Without an upper limit the ceiling is none.
fn hfsc_rates(options: &[u8]) -> (u64, u64) {
    const REAL_TIME: u16 = 1;
    const SHARE: u16 = 2;
    const UPPER: u16 = 3;
    let of = |wanted| {
        let (_, curve) = attributes(options).find(|(kind, _)| *kind == wanted)?;
        u32_at(curve, 8).map(u64::from).filter(|rate| *rate > 0)
    };
    (of(SHARE).or_else(|| of(REAL_TIME)).unwrap_or(0), of(UPPER).unwrap_or(u64::MAX))
}

/// The filters of those disciplines.
pub(super) fn steering(netlink: &mut Netlink, queues: &[Queue]) -> Vec<Steering> {
    let mut all = Vec::new();
    for queue in queues.iter().filter(|q| q.has_classes()) {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&queue.dev.to_ne_bytes());
        header[12..16].copy_from_slice(&queue.handle.to_ne_bytes());
        let Ok(answer) = netlink.dump(libc::RTM_GETTFILTER, &header) else { continue };
        all.extend(answer.messages().filter_map(|(_, body)| leads(body)));
    }
    all
}

fn leads(body: &[u8]) -> Option<Steering> {
    let filter = tc::filter(body, false)?;
    let attribute = match filter.kind.as_str() {
        "bpf" => 3,
        "u32" | "flower" | "fw" | "matchall" | "basic" => 1,
        _ => return None,
    };
    let (_, options) = attributes_after(body, HEADER).find(|(kind, _)| *kind == TCA_OPTIONS)?;
    let (_, class) = attributes(options).find(|(kind, _)| *kind == attribute)?;
    let text = format!("{} {}", filter.kind, filter.text).trim_end().to_owned();
    Some(Steering { dev: filter.dev, class: u32_at(class, 0)?, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::inspect::wire::attribute;

    #[test]
    fn rates_of_more_than_32_bits_have_their_own_attributes() {
        let mut parameters = [0; 44];
        parameters[8..12].copy_from_slice(&250_000_u32.to_ne_bytes());
        parameters[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        let short = attribute(1, &parameters);
        assert_eq!(htb_rates(&short), Some((250_000, u32::MAX.into())));
        let long = [short, attribute(7, &5_000_000_000_u64.to_ne_bytes())].concat();
        assert_eq!(htb_rates(&long), Some((250_000, 5_000_000_000)));
        let upper = attribute(3, &[[0; 8].as_slice(), &125_000_u32.to_ne_bytes()].concat());
        assert_eq!(hfsc_rates(&upper), (0, 125_000));
    }
}
