//! Expectations about a journey, one per line:
//!
//! ```text
//! path TEXT                  fate FATE                drop REASON FUNCTION HOOK|-
//! stages STAGE…              parent JOURNEY KIND      lost N | gap BEFORE_HOP N
//! nat HOP KIND SRC DST -> SRC DST                     none nat|parent|drop|gap
//! route HOP TYPE [via=] [dev=] [table=]               hop N KEY=VALUE… (hook, verdict, dev, out,
//! note TEXT                  flow SRC DST             master, layer, table, chain, note, …)
//! ```

use pkttrace::report::{Endpoints, Flow, Hop, Journey};

use super::value;

/// Checks one expectation.
pub(crate) fn check(line: &str, journey: &Journey) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let seen = match word {
        "path" => journey.path.clone(),
        "fate" => journey.fate.clone(),
        "stages" => journey.hops.iter().map(|h| h.stage.as_ref()).collect::<Vec<_>>().join(" "),
        "drop" => drop(journey),
        "parent" => {
            let parent = journey.parent.as_ref();
            parent.map_or_else(|| "none".to_owned(), |p| format!("{} {}", p.id, p.kind))
        }
        "lost" => {
            let lost = journey.gaps.iter().map(|gap| gap.events).sum::<u32>();
            assert_eq!(lost, journey.lost_events);
            assert_eq!(journey.complete, journey.gaps.is_empty());
            journey.lost_events.to_string()
        }
        "gap" | "nat" | "note" => return check_any(word, rest, journey),
        "none" => return check_none(rest, journey),
        "route" => return check_route(&words, journey),
        "hop" => return check_hop(&words, journey),
        "flow" => journey.flow.as_ref().map_or_else(String::new, flow),
        other => panic!("no expectation {other}"),
    };
    assert_eq!(seen, rest, "{word} of journey {}", journey.id);
}

fn drop(journey: &Journey) -> String {
    let Some(drop) = &journey.drop else { return "none".to_owned() };
    assert_eq!(journey.hops[drop.hop].stage, "drop");
    let function = drop.function.as_deref().unwrap_or("-");
    format!("{} {function} {}", drop.reason, drop.hook.as_deref().unwrap_or("-"))
}

/// One of several must be it.
fn check_any(word: &str, expected: &str, journey: &Journey) {
    let seen: Vec<String> = match word {
        "gap" => journey.gaps.iter().map(|g| format!("{} {}", g.before_hop, g.events)).collect(),
        "note" => journey.hops.iter().filter_map(|h| h.note.clone()).collect(),
        _ => {
            let nats = journey.nat.iter();
            nats.map(|n| format!("{} {} {} -> {}", n.hop, n.kind, ends(&n.before), ends(&n.after)))
                .collect()
        }
    };
    assert!(
        seen.iter().any(|s| s == expected),
        "journey {}: no {word} {expected:?} in {seen:#?}",
        journey.id
    );
}

fn check_none(what: &str, journey: &Journey) {
    let is_absent = match what {
        "nat" => journey.nat.is_empty(),
        "parent" => journey.parent.is_none(),
        "drop" => journey.drop.is_none(),
        "gap" => journey.gaps.is_empty(),
        other => panic!("none {other}?"),
    };
    assert!(is_absent, "journey {} has a {what}: {journey:#?}", journey.id);
}

fn check_route(words: &[&str], journey: &Journey) {
    let hop = hop(words, journey);
    let route = hop.route.as_ref().unwrap_or_else(|| panic!("hop {} is no route", hop.n));
    assert_eq!(Some(route.kind.as_str()), words.get(1).copied());
    for (key, seen) in [("via", &route.via), ("dev", &route.dev), ("table", &route.table)] {
        assert_eq!(seen.as_deref(), value(words, key), "{key} of the route at hop {}", hop.n);
    }
}

fn check_hop(words: &[&str], journey: &Journey) {
    let hop = hop(words, journey);
    let name = |dev: &Option<pkttrace::report::Dev>| dev.as_ref().map(|d| d.name.clone());
    for word in &words[1..] {
        let (key, expected) = word.split_once('=').expect("KEY=VALUE");
        let seen = match key {
            "stage" => Some(hop.stage.to_string()),
            "hook" => hop.hook.as_ref().map(ToString::to_string),
            "verdict" => hop.verdict.as_ref().map(ToString::to_string),
            "dev" => name(&hop.dev),
            "out" => name(&hop.out_dev),
            "master" => hop.master.clone(),
            "table" => hop.table.clone(),
            "chain" => hop.chain.clone(),
            "note" => hop.note.as_ref().map(|note| note.replace(' ', "_")),
            "layer" => hop.layer.as_ref().map(ToString::to_string),
            "netns" => Some(hop.netns.name.clone()),
            "source" => Some(hop.source.join("+")),
            "flow" => hop.flow.as_ref().map(flow).map(|f| f.replace(' ', ">")),
            "vni" => hop.tunnel.as_ref().and_then(|t| t.vni).map(|v| v.to_string()),
            "neigh" => hop.neigh.as_ref().map(|n| {
                let outcome = n.outcome.as_ref().map(|o| format!("/{o}")).unwrap_or_default();
                format!("{}/{}{outcome}", n.address, n.state)
            }),
            "ct" => hop.ct.as_ref().map(ToString::to_string),
            "conntrack" => hop.conntrack.as_ref().map(|c| format!("{}/{}", c.zone, c.mark)),
            "icmp" => hop.icmp_error.as_ref().map(|i| format!("{}/{}", i.kind, i.code)),
            other => panic!("hop {other}="),
        };
        let seen = seen.unwrap_or_else(|| "-".to_owned());
        assert_eq!(seen, expected, "{key} of hop {} of journey {}", hop.n, journey.id);
    }
}

fn hop<'a>(words: &[&str], journey: &'a Journey) -> &'a Hop {
    let n: usize = words.first().and_then(|n| n.parse().ok()).expect("number of a hop");
    journey.hops.get(n).unwrap_or_else(|| panic!("journey {} has no hop {n}", journey.id))
}

fn ends(e: &Endpoints) -> String {
    let port = |port: Option<u16>| port.map_or(String::new(), |p| format!(":{p}"));
    format!("{}{} {}{}", e.src, port(e.sport), e.dst, port(e.dport))
}

fn flow(f: &Flow) -> String {
    let Flow { src, dst, sport, dport, .. } = f.clone();
    ends(&Endpoints { src, sport, dst, dport })
}
