//! Flooded frames: a bridge that does not know the destination sends a copy out of every port,
//! and every host but one frees its copy as `OTHERHOST`. That is no loss as long as another copy
//! went on; when none did, it is the drop it looks like (a stale neighbour entry).

use std::collections::{BTreeMap, BTreeSet};

use super::{Fate, Journey, Lineage, Stage};

const OTHERHOST: &str = "OTHERHOST";

/// Whether the journey ends as the copy for another host.
pub(super) fn is_other_hosts(journey: &Journey) -> bool {
    journey.dropped.as_ref().is_some_and(|d| d.reason == OTHERHOST)
}

/// Takes back the drop of copies of which another copy went on.
pub(super) fn settle<'a>(journeys: impl Iterator<Item = &'a mut Journey>) {
    let mut all: Vec<&mut Journey> = journeys.collect();
    let parents: BTreeMap<u64, u64> = all
        .iter()
        .filter_map(|j| Some((j.id, j.parent.filter(|p| p.kind == Lineage::Clone)?.id)))
        .collect();
    let root = |mut id: u64| {
        // A parent is older than its child, so this ends.
        while let Some(parent) = parents.get(&id) {
            id = *parent;
        }
        id
    };
    let went_on: BTreeSet<u64> =
        all.iter().filter(|j| !is_other_hosts(j)).map(|j| root(j.id)).collect();
    for journey in &mut all {
        if is_other_hosts(journey) && went_on.contains(&root(journey.id)) {
            forgive(journey);
        }
    }
}

fn forgive(journey: &mut Journey) {
    journey.fate = Fate::Consumed;
    journey.dropped = None;
    if let Some(hop) = journey.hops.last_mut() {
        hop.stage = Stage::Free;
        hop.note = Some("a flooded copy: the frame is for another host".to_owned());
    }
    if let Some(path) = journey.path.strip_suffix(&format!(" ✗ {OTHERHOST}")) {
        journey.path = path.to_owned();
    }
}
