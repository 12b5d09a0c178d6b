//! One journey, and what can be claimed about it.
//!
//! A hop is described as `HOST/DEV/WHAT` or, where no device is meant, `HOST/WHAT`. `WHAT` is a
//! stage (`xmit`, `route`, …) or a netfilter hook in capitals; `DEV` matches the hop's device or
//! the one it is about to leave by, `IN>OUT` both. `=DETAIL` asks further for the route's device
//! or type, a translation at this hop, the verdict, the layer, or the drop reason.
//!
//! Among more than a hundred namespaces (tests run side by side, and so do people) the tracer
//! watches the hooks of those that forward, of others only once a packet came: what pods' hooks
//! tell is then not insisted on.

use std::fmt;

use serde_json::Value;

use crate::kernel::expected;
use crate::tracer::has_netfilter_links;

/// A `journey` object of a run.
#[derive(Clone, Debug)]
pub struct Journey {
    /// All of it.
    pub json: Value,
    prefix: String,
    is_crowded: bool,
}

/// Hosts that forward: their hooks are watched from the start, however many namespaces there are.
const ROUTERS: [&str; 3] = ["n1", "n2", "dh"];

impl Journey {
    pub(crate) fn new(prefix: &str, json: Value, is_crowded: bool) -> Self {
        Self { json, prefix: format!("{prefix}-"), is_crowded }
    }

    pub(crate) fn is_of_lab(&self) -> bool {
        self.hops().iter().any(|hop| {
            hop["netns"]["name"].as_str().is_some_and(|name| name.starts_with(&self.prefix))
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        word(&self.json["id"])
    }

    /// What became of it.
    #[must_use]
    pub fn fate(&self) -> &str {
        word(&self.json["fate"])
    }

    /// The host where it was first seen.
    #[must_use]
    pub fn start(&self) -> &str {
        self.hops().first().map_or("", |hop| self.host(hop))
    }

    /// The host where it was last seen.
    #[must_use]
    pub fn end(&self) -> &str {
        self.hops().last().map_or("", |hop| self.host(hop))
    }

    /// The pod or container whose namespace each hop is in; empty where that is nobody's.
    #[must_use]
    pub fn owners(&self) -> Vec<&str> {
        let owners = self.hops().iter().map(|hop| &hop["owner"]);
        owners.map(|o| o["pod"].as_str().or(o["container"].as_str()).unwrap_or_default()).collect()
    }

    /// A packet of its own, not a piece, a copy or a repetition of another.
    #[must_use]
    pub fn is_root(&self) -> bool {
        let parent = &self.json["parent"];
        parent.is_null() || parent["kind"] == "reply" || parent["kind"] == "icmp-error"
    }

    /// The path, without the lab's prefix.
    #[must_use]
    pub fn path(&self) -> String {
        word(&self.json["path"]).replace(&self.prefix, "")
    }

    /// Every hop.
    #[must_use]
    pub fn hops(&self) -> &[Value] {
        self.json["hops"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The hops that are as described.
    #[must_use]
    pub fn hops_at(&self, description: &str) -> Vec<&Value> {
        self.hops().iter().filter(|hop| self.is_at(hop, description)).collect()
    }

    /// Every hop, described.
    #[must_use]
    pub fn trail(&self) -> Vec<String> {
        self.hops().iter().map(|hop| self.describe(hop)).collect()
    }

    /// Asserts that hops as described occur in this order, others between them or not.
    ///
    /// # Panics
    ///
    /// If they do not.
    pub fn assert_order(&self, descriptions: &[&str]) -> &Self {
        let mut hops = self.hops().iter();
        for wanted in descriptions.iter().filter(|d| !self.is_optional(d)) {
            let found = hops.any(|hop| self.is_at(hop, wanted));
            assert!(found, "no {wanted:?} in its place of {descriptions:?}:\n{self}");
        }
        self
    }

    /// Asserts that these are all hops but waits for neighbours, which depend on what was asked
    /// before, and the packet's end.
    ///
    /// # Panics
    ///
    /// If they are not.
    pub fn assert_trail(&self, descriptions: &[&str]) -> &Self {
        let is_step = |hop: &&Value| {
            !matches!(word(&hop["stage"]), "neigh" | "free" | "socket")
                && !self.is_optional(&self.describe(hop))
        };
        let hops: Vec<_> = self.hops().iter().filter(is_step).collect();
        let descriptions: Vec<_> =
            descriptions.iter().filter(|d| !self.is_optional(d)).copied().collect();
        for (n, wanted) in descriptions.iter().enumerate() {
            let found = hops.get(n).is_some_and(|hop| self.is_at(hop, wanted));
            assert!(found, "step {n} is not {wanted:?} of {descriptions:#?}:\n{self}");
        }
        assert_eq!(hops.len(), descriptions.len(), "steps beyond {descriptions:#?}:\n{self}");
        self
    }

    /// Asserts that no hop is as described.
    ///
    /// # Panics
    ///
    /// If one is.
    pub fn assert_absent(&self, description: &str) -> &Self {
        assert!(self.hops_at(description).is_empty(), "there is {description:?}:\n{self}");
        self
    }

    /// Asserts the line that a person reads.
    ///
    /// # Panics
    ///
    /// If it reads otherwise.
    pub fn assert_path(&self, path: &str) -> &Self {
        assert_eq!(self.path(), path, "the path of:\n{self}");
        self
    }

    /// Asserts what became of it, where, and that nothing of it was lost.
    ///
    /// # Panics
    ///
    /// If it did not.
    pub fn assert_fate(&self, fate: &str, host: &str) -> &Self {
        assert_eq!((self.fate(), self.end()), (fate, host), "fate of:\n{self}");
        assert_eq!(self.json["complete"], true, "events are missing:\n{self}");
        assert_eq!(self.json["drop"].is_null(), fate != "dropped", "{self}");
        self
    }

    /// Asserts that it was dropped for this reason, in this function and place (`HOST/DEV`, or
    /// `HOST` where the kernel knows no device); reason and function as new kernels have them.
    ///
    /// # Panics
    ///
    /// If it was not.
    pub fn assert_drop(&self, reason: &str, function: &str, place: &str) -> &Self {
        assert_eq!(self.fate(), "dropped", "{self}");
        let drop = &self.json["drop"];
        let hop = &self.hops()[usize::try_from(drop["hop"].as_u64().unwrap_or(0)).unwrap_or(0)];
        let dev = hop["dev"]["name"].as_str().map(|dev| format!("/{dev}")).unwrap_or_default();
        let found = (word(&drop["reason"]), word(&drop["function"]));
        assert_eq!(found, expected(reason, function), "drop of:\n{self}");
        let found = if place.contains('/') {
            self.host(hop).to_owned() + &dev
        } else {
            self.host(hop).to_owned()
        };
        assert_eq!(found, place, "place of the drop of:\n{self}");
        self
    }

    /// Asserts its only translation of this kind: where, and the endpoints before and after, as
    /// `SRC > DST`. An end with `:*` may have any port.
    ///
    /// # Panics
    ///
    /// If there is another or none.
    pub fn assert_nat(&self, kind: &str, at: &str, before: &str, after: &str) -> &Self {
        let nats = self.json["nat"].as_array().map_or(&[][..], Vec::as_slice);
        let of_kind: Vec<_> = nats.iter().filter(|nat| nat["kind"] == kind).collect();
        assert_eq!(of_kind.len(), 1, "number of {kind}:\n{self}");
        let nat = of_kind[0];
        let hop = &self.hops()[usize::try_from(nat["hop"].as_u64().unwrap_or(0)).unwrap_or(0)];
        assert!(
            self.is_at(hop, at),
            "{kind} is not at {at:?} but at {:?}:\n{self}",
            self.describe(hop)
        );
        for (what, wanted, found) in
            [("before", before, &nat["before"]), ("after", after, &nat["after"])]
        {
            assert!(is_between(found, wanted), "{kind}: {what} is not {wanted:?}: {found}\n{self}");
        }
        self
    }

    /// Asserts that it is related to `other` in this way.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn assert_child_of(&self, other: &Self, kind: &str) -> &Self {
        let parent = &self.json["parent"];
        let found = (word(&parent["id"]), word(&parent["kind"]));
        assert_eq!(found, (other.id(), kind), "parent of:\n{self}\nwhich should be:\n{other}");
        self
    }

    /// One line about it.
    #[must_use]
    pub fn line(&self) -> String {
        let flow = &self.json["flow"];
        let packet = &self.json["packet"];
        let end = |address: &str, port: &str| match flow[port].as_u64() {
            Some(port) => format!("{}:{port}", word(&flow[address])),
            None => word(&flow[address]).to_owned(),
        };
        let mut kind = word(&flow["proto"]).to_owned();
        if let Some(icmp) = packet["icmp"].as_object() {
            kind += &format!(" {}/{}", icmp["type"], icmp["code"]);
        }
        for detail in [&packet["tcp"]["flags"], &packet["arp"]["op"]] {
            if let Some(detail) = detail.as_str() {
                kind += &format!(" {detail}");
            }
        }
        let parent = match self.json["parent"].as_object() {
            Some(parent) => format!(", {} of #{}", word(&parent["kind"]), word(&parent["id"])),
            None => String::new(),
        };
        let (src, dst) = (end("src", "sport"), end("dst", "dport"));
        format!("#{} {kind} {src} > {dst} {}{parent}: {}", self.id(), self.fate(), self.path())
    }

    /// The host of a hop.
    fn host(&self, hop: &'_ Value) -> &str {
        let id = hop["n"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let name = word(&self.hops()[id]["netns"]["name"]);
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }

    /// A hook, or the route that it implies, that is not watched from the start: a pod's, and where
    /// only hooks with functions are seen any of IPv6, for which the lab has no rules.
    fn is_optional(&self, description: &str) -> bool {
        let (place, _) = description.split_once('=').unwrap_or((description, ""));
        let host = place.split('/').next().unwrap_or_default();
        let what = place.rsplit('/').next().unwrap_or_default();
        let is_hook = what == "route" || what.chars().all(|c| c.is_ascii_uppercase());
        let is_v6 = word(&self.json["flow"]["src"]).contains(':');
        let is_watched = ROUTERS.contains(&host) && (has_netfilter_links() || !is_v6);
        self.is_crowded && is_hook && !is_watched
    }

    fn is_at(&self, hop: &Value, description: &str) -> bool {
        let (place, detail) = match description.split_once('=') {
            Some((place, detail)) => (place, Some(detail)),
            None => (description, None),
        };
        let mut parts: Vec<_> = place.split('/').collect();
        if parts.len() == 2 {
            parts.insert(1, "");
        }
        let [host, dev, what] = parts[..] else { panic!("not HOST/DEV/WHAT: {description:?}") };
        (host.is_empty() || self.host(hop) == host)
            && is_dev(hop, dev)
            && name_of(hop) == what
            && detail.is_none_or(|detail| self.has_detail(hop, detail))
    }

    fn has_detail(&self, hop: &Value, detail: &str) -> bool {
        let nats = self.json["nat"].as_array().map_or(&[][..], Vec::as_slice);
        let nats = nats.iter().filter(|nat| nat["hop"] == hop["n"]).map(|nat| &nat["kind"]);
        [
            &hop["route"]["dev"],
            &hop["route"]["type"],
            &hop["verdict"],
            &hop["layer"],
            &hop["reason"],
        ]
        .into_iter()
        .chain(nats)
        .any(|have| have.as_str().is_some_and(|have| have.eq_ignore_ascii_case(detail)))
    }

    fn describe(&self, hop: &Value) -> String {
        let dev = [&hop["dev"]["name"], &hop["out_dev"]["name"]].map(Value::as_str);
        let dev = match dev {
            [Some(dev), Some(out)] => format!("{dev}>{out}/"),
            [Some(dev), None] | [None, Some(dev)] => format!("{dev}/"),
            [None, None] => String::new(),
        };
        let nats = self.json["nat"].as_array().map_or(&[][..], Vec::as_slice);
        let nat = nats.iter().find(|nat| nat["hop"] == hop["n"]).map(|nat| &nat["kind"]);
        let details = [
            nat.unwrap_or(&Value::Null),
            &hop["route"]["dev"],
            &hop["route"]["type"],
            &hop["layer"],
            &hop["reason"],
        ];
        let detail = details.into_iter().find_map(Value::as_str);
        let detail = detail.map(|detail| format!("={detail}")).unwrap_or_default();
        format!("{}/{dev}{}{detail}", self.host(hop), name_of(hop))
    }
}

impl fmt::Display for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line())?;
        for (hop, text) in self.hops().iter().zip(self.trail()) {
            writeln!(f, "  {:>3} {text}", hop["n"])?;
        }
        for name in ["drop", "nat", "parent", "gaps"] {
            if !self.json[name].is_null() && self.json[name] != Value::Array(Vec::new()) {
                writeln!(f, "  {name}: {}", self.json[name])?;
            }
        }
        Ok(())
    }
}

/// A hook's name in capitals, or the stage.
fn name_of(hop: &Value) -> String {
    match (word(&hop["stage"]), hop["hook"].as_str()) {
        ("netfilter", Some(hook)) => hook.to_ascii_uppercase(),
        (stage, _) => stage.to_owned(),
    }
}

fn is_dev(hop: &Value, dev: &str) -> bool {
    let (of, to) = (&hop["dev"]["name"], &hop["out_dev"]["name"]);
    match dev.split_once('>') {
        Some((dev, out)) => of == dev && to == out,
        None => dev.is_empty() || of == dev || to == dev,
    }
}

/// Does a translation's side run between these two ends?
fn is_between(found: &Value, wanted: &str) -> bool {
    let (src, dst) = wanted.split_once(" > ").expect("SRC > DST");
    let is_end = |wanted: &str, address: &str, port: &str| match wanted.rsplit_once(':') {
        Some((wanted, "*")) => found[address] == wanted,
        Some((wanted, number)) if !wanted.contains(':') => {
            found[address] == wanted && found[port].as_u64() == number.parse().ok()
        }
        _ => found[address] == wanted,
    };
    is_end(src, "src", "sport") && is_end(dst, "dst", "dport")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
