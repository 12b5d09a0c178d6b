//! Zones of conntrack: a connection is known in the zone that a rule gave its first packet, and an
//! answer is looked for in its own.

use super::verdict::reference;
use super::walker::Walker;
use super::{Effect, ObstacleKind, RuleRef};
use crate::firewall::Hit;
use crate::net::Inum;

/// The zone of a packet, in the direction that made the connection and in the other one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// In the direction of the first packet.
    pub original: u16,
    /// In the other direction.
    pub reply: u16,
    /// The rule that gave it; none is zone 0.
    pub rule: Option<RuleRef>,
}

/// The zone that the rules of a hook have given; the last one holds.
pub(super) fn given(hits: &[Hit<'_>]) -> Zone {
    let set = |hit: &Hit<'_>| {
        let (original, reply) = set_by(&hit.rule?.text)?;
        Some(Zone { original, reply, rule: Some(reference(hit)) })
    };
    hits.iter().rev().filter(|h| h.is_certain).find_map(set).unwrap_or_default()
}

/// `CT --zone 7`, `CT --zone-orig 7`, `ct zone set 7`, `ct original zone set 7`.
fn set_by(text: &str) -> Option<(u16, u16)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |key: &[&str]| {
        let at = words.windows(key.len()).position(|w| w == key)?;
        words.get(at + key.len())?.parse().ok()
    };
    let both = || after(&["--zone"]).or_else(|| after(&["ct", "zone", "set"]));
    let original = || after(&["--zone-orig"]).or_else(|| after(&["ct", "original", "zone", "set"]));
    let reply = || after(&["--zone-reply"]).or_else(|| after(&["ct", "reply", "zone", "set"]));
    both()
        .map(|id| (id, id))
        .or_else(|| original().map(|id| (id, 0)))
        .or_else(|| reply().map(|id| (0, id)))
}

impl Walker<'_> {
    /// Where the connection is kept, or, for the answer, whether it is found there: what is not is
    /// taken for another connection and not translated back (`resolve_normal_ct`).
    pub(super) fn zone(&mut self, netns: Inum, hits: &[Hit<'_>]) {
        let Some(at) = self.flight.track else { return };
        let zone = given(hits);
        if !self.flight.is_reply {
            if let Some(track) = self.walk.tracks.get_mut(at).filter(|t| t.netns == netns) {
                track.zone = zone;
            }
            return;
        }
        let Some(track) = self.request.and_then(|r| r.tracks.get(at)) else { return };
        let is_found = [zone.original, zone.reply].contains(&track.zone.reply);
        if is_found || track.orig == track.now {
            return;
        }
        let kind =
            ObstacleKind::OtherZone { kept: Box::new(track.zone.clone()), sought: Box::new(zone) };
        self.hinder(Effect::Stops, netns, None, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_from_both_kinds_of_rules() {
        assert_eq!(set_by("-A PREROUTING -i eth1 -j CT --zone 7"), Some((7, 7)));
        assert_eq!(set_by("-A PREROUTING -j CT --zone-orig 7"), Some((7, 0)));
        assert_eq!(set_by("iifname \"eth1\" ct zone set 7"), Some((7, 7)));
        assert_eq!(set_by("ct original zone set 7 accept"), Some((7, 0)));
        assert_eq!(set_by("-A PREROUTING -j CT --notrack"), None);
        assert_eq!(set_by("ct zone 7 drop"), None);
    }
}
