//! What a rule has to say.

use super::remedy::{self, Remedy, Step};
use crate::firewall;
use crate::journey::Hook;
use crate::net::{Inum, Netns, NetworkState};

/// How bad it is. `Error` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The target is not reached because of it.
    Error,
    /// Part of the traffic fails because of it, or it will sooner or later.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// How sure it is. `Certain` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// Proved by what was seen, or by configuration that leaves no other way.
    Certain,
    /// What was seen has hardly another cause.
    Likely,
    /// Fits what was seen, as other causes do.
    Possible,
}

impl Confidence {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}

/// Which kind of connection is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// Pods or containers of one node.
    SameNode,
    /// Pods of different nodes.
    CrossNode,
    /// Name resolution.
    Dns,
    /// A Service's address.
    Service,
    /// To the outside.
    Egress,
    /// From the outside: NodePort, hostPort, published port.
    Ingress,
    /// Forbidden on purpose, as it seems.
    Policy,
    /// The node itself.
    Host,
}

impl Scenario {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::CrossNode => "cross-node",
            Self::Dns => "dns",
            Self::Service => "service",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Policy => "policy",
            Self::Host => "host",
        }
    }
}

/// The place that a finding is about; what does not apply is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Where {
    /// Namespace.
    pub netns: Option<Inum>,
    /// Its name.
    pub netns_name: Option<String>,
    /// Device name.
    pub dev: Option<String>,
    /// Netfilter hook.
    pub hook: Option<&'static str>,
    /// Firewall table.
    pub table: Option<String>,
    /// Firewall chain.
    pub chain: Option<String>,
    /// Firewall rule, as its own tool prints it.
    pub rule: Option<String>,
    /// Setting: `net.ipv4.ip_forward`.
    pub sysctl: Option<String>,
    /// Route, as `ip route` prints it.
    pub route: Option<String>,
}

impl Where {
    /// A namespace.
    #[must_use]
    pub fn netns(state: &NetworkState, inum: Inum) -> Self {
        Self { netns: Some(inum), netns_name: Some(state.netns_name(inum)), ..Self::default() }
    }

    /// With a device.
    #[must_use]
    pub fn dev(mut self, name: &str) -> Self {
        self.dev = Some(name.to_owned());
        self
    }

    /// With a hook.
    #[must_use]
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook.name());
        self
    }

    /// With a rule of a chain; without the rule it is the chain's policy.
    #[must_use]
    pub fn rule(mut self, table: &str, chain: &str, rule: Option<&firewall::Rule>) -> Self {
        self.table = Some(table.to_owned());
        self.chain = Some(chain.to_owned());
        self.rule = rule.map(|r| r.text.clone());
        self
    }

    /// With a setting, by the name that `sysctl` has for it.
    #[must_use]
    pub fn sysctl(mut self, name: &str) -> Self {
        self.sysctl = Some(name.to_owned());
        self
    }

    /// With a route.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        self.route = Some(route.to_owned());
        self
    }
}

/// One cause, or one observation that has no cause yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable, kebab-case; see [`super::Rule::covers`].
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// How sure it is.
    pub confidence: Confidence,
    /// Which kind of connection is concerned.
    pub scenario: Scenario,
    /// One sentence that names the cause.
    pub title: String,
    /// Where it is.
    pub place: Where,
    /// Facts that were seen, each in one sentence: a hop, a counter, a line of configuration.
    pub evidence: Vec<String>,
    /// What heals it, as a rule proposes it.
    pub steps: Vec<Step>,
    /// Other ways to heal it, the narrowest first: of these and `steps`, the first that is proved is
    /// printed.
    pub narrower: Vec<Vec<Step>>,
    /// The commands among them; see [`remedy::conclude`].
    pub remedies: Vec<remedy::Command>,
    /// Those that are proved, for a shell; a line that begins with `#` is advice.
    pub fix: Vec<String>,
    /// Why this breaks it, in a few sentences.
    pub explain: String,
    /// The journeys that show it.
    pub journeys: Vec<u64>,
    /// Where along the way it stops packets: smaller is earlier, the whole request before its
    /// reply. See [`super::Case::depth`]. What stops nothing by itself has `u32::MAX`.
    pub depth: u32,
    /// Ids of findings that this one is only a consequence of, should one of them be there.
    pub follows: &'static [&'static str],
}

impl Finding {
    /// A finding of severity error that is certain; the rest is filled in by the `with` methods.
    #[must_use]
    pub fn error(id: &'static str, scenario: Scenario, title: impl Into<String>) -> Self {
        Self {
            id,
            severity: Severity::Error,
            confidence: Confidence::Certain,
            scenario,
            title: title.into(),
            place: Where::default(),
            evidence: Vec::new(),
            steps: Vec::new(),
            narrower: Vec::new(),
            remedies: Vec::new(),
            fix: Vec::new(),
            explain: String::new(),
            journeys: Vec::new(),
            depth: u32::MAX,
            follows: &[],
        }
    }

    /// With another severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// With another confidence.
    #[must_use]
    pub fn confidence(mut self, confidence: Confidence) -> Self {
        self.confidence = confidence;
        self
    }

    /// With its place.
    #[must_use]
    pub fn at(mut self, place: Where) -> Self {
        self.place = place;
        self
    }

    /// With a fact.
    #[must_use]
    pub fn fact(mut self, fact: impl Into<String>) -> Self {
        let fact = fact.into();
        if !self.evidence.contains(&fact) {
            self.evidence.push(fact);
        }
        self
    }

    /// With facts.
    #[must_use]
    pub fn facts(self, facts: impl IntoIterator<Item = String>) -> Self {
        facts.into_iter().fold(self, Self::fact)
    }

    /// With a remedy, or a sentence of advice.
    #[must_use]
    pub fn fix(mut self, step: impl Into<Step>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// With several, in order.
    #[must_use]
    pub fn fixes<S: Into<Step>>(self, steps: impl IntoIterator<Item = S>) -> Self {
        steps.into_iter().fold(self, Self::fix)
    }

    /// With a narrower way to heal it than `steps`; the narrowest has to come first.
    #[must_use]
    pub fn rather(mut self, steps: Vec<Step>) -> Self {
        if !steps.is_empty() {
            self.narrower.push(steps);
        }
        self
    }

    /// Something can be done about it here.
    #[must_use]
    pub fn has_remedy(&self) -> bool {
        !self.narrower.is_empty() || self.steps.iter().any(|step| step.remedy().is_some())
    }

    /// With a setting as its place, and what it is as a fact. `path` is below `/proc/sys/net`.
    #[must_use]
    pub fn sysctl(mut self, netns: &Netns, path: &str, is: &str) -> Self {
        let name = remedy::sysctl_name(path);
        let fact = format!("{name} = {is} in {}", netns.name);
        self.place.sysctl = Some(name);
        self.fact(fact)
    }

    /// With a setting as its cause: its place, what it is as a fact, and the command that sets it
    /// to what it should be.
    #[must_use]
    pub fn wrong_sysctl(self, netns: &Netns, path: &str, is: &str, should_be: &str) -> Self {
        self.sysctl(netns, path, is).fix(Remedy::sysctl(path, should_be).at(netns.inum))
    }

    /// With the reason why it breaks things.
    #[must_use]
    pub fn explain(mut self, text: impl Into<String>) -> Self {
        self.explain = text.into();
        self
    }

    /// With the journeys that show it.
    #[must_use]
    pub fn journeys(mut self, ids: impl IntoIterator<Item = u64>) -> Self {
        for id in ids {
            if !self.journeys.contains(&id) {
                self.journeys.push(id);
            }
        }
        self
    }

    /// With its place along the way.
    #[must_use]
    pub fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// With what it would be only a consequence of.
    #[must_use]
    pub fn follows(mut self, ids: &'static [&'static str]) -> Self {
        self.follows = ids;
        self
    }
}
