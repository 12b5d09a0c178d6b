//! Journeys of one connection, both directions.

use std::collections::BTreeMap;

use super::{Journey, Lineage};
use crate::event::Tuple;

/// The journeys of one connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The first packet's tuple as first seen; `None` for journeys without headers.
    pub tuple: Option<Tuple>,
    /// Indices of the journeys in the direction of the first packet, by begin.
    pub forward: Vec<usize>,
    /// Of those against it.
    pub backward: Vec<usize>,
}

/// Groups journeys into flows, by the begin of their first journey. Journeys belong together when
/// one has a tuple of the other (translated or not, either direction) or comes from it.
#[must_use]
pub fn group(journeys: &[Journey]) -> Vec<Flow> {
    let mut order: Vec<usize> = (0..journeys.len()).collect();
    order.sort_by_key(|i| (journeys[*i].start_ns, journeys[*i].id));
    let roots = join(journeys);
    let mut flows: BTreeMap<usize, Flow> = BTreeMap::new();
    let mut firsts: Vec<usize> = Vec::new();
    for i in order {
        let journey = &journeys[i];
        let tuple = journey.first.map(|h| h.tuple);
        let flow = flows.entry(roots[i]).or_insert_with(|| {
            firsts.push(roots[i]);
            Flow { tuple, forward: Vec::new(), backward: Vec::new() }
        });
        if is_backward(journey, flow.tuple) {
            flow.backward.push(i);
        } else {
            flow.forward.push(i);
        }
    }
    firsts.into_iter().filter_map(|root| flows.remove(&root)).collect()
}

/// Against the direction of the flow's first packet: an answer, or a tuple that is its reverse
/// before or after translation.
fn is_backward(journey: &Journey, flow: Option<Tuple>) -> bool {
    let Some(flow) = flow else { return false };
    let Some(first) = journey.first.map(|h| h.tuple) else { return false };
    if first == flow || journey.last_tuple == Some(flow) {
        return false;
    }
    if let Some(about) = journey.quoted {
        return about != flow.reversed();
    }
    let reverse = Some(flow.reversed());
    Some(first) == reverse
        || journey.last_tuple == reverse
        || journey.parent.is_some_and(|p| matches!(p.kind, Lineage::Reply | Lineage::IcmpError))
}

/// For each journey the smallest index of those that it belongs together with.
fn join(journeys: &[Journey]) -> Vec<usize> {
    let mut roots: Vec<usize> = (0..journeys.len()).collect();
    let mut by_tuple: BTreeMap<Tuple, usize> = BTreeMap::new();
    let by_id: BTreeMap<u64, usize> = journeys.iter().enumerate().map(|(i, j)| (j.id, i)).collect();
    for (i, journey) in journeys.iter().enumerate() {
        for tuple in tuples(journey) {
            let other = *by_tuple.entry(tuple.undirected()).or_insert(i);
            unite(&mut roots, i, other);
        }
        if let Some(other) = journey.parent.and_then(|p| by_id.get(&p.id)) {
            unite(&mut roots, i, *other);
        }
    }
    (0..roots.len()).map(|i| root(&roots, i)).collect()
}

/// What a journey has in common with others of its flow. An ICMP error has the tuple of what it is
/// about: its own is that of every error of its sender.
fn tuples(journey: &Journey) -> impl Iterator<Item = Tuple> {
    let own = [journey.first.map(|h| h.tuple), journey.last_tuple];
    match journey.quoted {
        Some(about) => [Some(about), None],
        None => own,
    }
    .into_iter()
    .flatten()
}

fn root(roots: &[usize], mut i: usize) -> usize {
    while roots[i] != i {
        i = roots[i];
    }
    i
}

fn unite(roots: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(roots, a), root(roots, b));
    roots[a.max(b)] = a.min(b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Headers, L4, PayloadHead, Proto};

    fn journey(id: u64, proto: Proto, (src, dst): (&str, &str), sport: u16) -> Journey {
        let ip = |text: &str| text.parse().unwrap();
        let dport = if proto == Proto::Tcp { 80 } else { 0 };
        let headers = Headers {
            tuple: Tuple { src: ip(src), dst: ip(dst), proto, sport, dport },
            len: 60,
            ttl: Some(64),
            ip_id: Some(1),
            fragment: None,
            dont_fragment: false,
            l4: L4::Unknown,
            payload: PayloadHead::default(),
        };
        let mut journey = Journey::of(headers, Vec::new());
        (journey.id, journey.start_ns) = (id, id);
        journey
    }

    #[test]
    fn errors_of_one_router_belong_to_what_they_are_about() {
        let way = ("10.1.0.2", "10.96.0.5");
        let mut all = vec![
            journey(1, Proto::Tcp, way, 4000),
            journey(2, Proto::Icmp, way, 77),
            journey(3, Proto::Icmp, ("10.1.0.1", "10.1.0.2"), 0),
            journey(4, Proto::Icmp, ("10.1.0.1", "10.1.0.2"), 0),
        ];
        all[2].quoted = all[1].first.map(|h| h.tuple);
        all[3].quoted = all[0].first.map(|h| h.tuple);
        let flows: Vec<_> = group(&all).into_iter().map(|f| (f.forward, f.backward)).collect();
        assert_eq!(flows, [(vec![0], vec![3]), (vec![1], vec![2])]);
    }
}
