//! All that one run of the tracer said about one lab.

use serde_json::Value;

use crate::{Journey, Pick};

/// A run's output.
#[derive(Debug)]
pub struct Run {
    /// Journeys that touch the lab, in the order in which they were printed.
    pub journeys: Vec<Journey>,
    /// How many journeys were printed in all.
    pub printed: usize,
    /// The summary line; null before the end.
    pub summary: Value,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: Option<i32>,
    /// The hooks of pods are not watched from the start: there are too many namespaces, or no
    /// netfilter links.
    pub is_crowded: bool,
}

impl Run {
    pub(crate) fn new(
        (prefix, is_crowded): (&str, bool),
        lines: &[String],
        stderr: String,
        code: Option<i32>,
    ) -> Self {
        let objects = lines.iter().map(|line| {
            let value: Value = serde_json::from_str(line).expect("each line is one JSON object");
            assert_eq!(value["schema"], 1, "{line}");
            value
        });
        let (journeys, rest): (Vec<_>, Vec<_>) = objects.partition(|o| o["type"] == "journey");
        assert!(rest.len() <= 1, "more than one line that is no journey: {rest:?}");
        let printed = journeys.len();
        let journeys = journeys.into_iter().map(|o| Journey::new(prefix, o, is_crowded));
        Self {
            journeys: journeys.filter(Journey::is_of_lab).collect(),
            printed,
            summary: rest.into_iter().next().unwrap_or(Value::Null),
            stderr,
            code,
            is_crowded,
        }
    }

    /// The journeys that are as described.
    #[must_use]
    pub fn all(&self, pick: &Pick) -> Vec<&Journey> {
        self.journeys.iter().filter(|j| pick.matches(j)).collect()
    }

    /// The only journey that is as described.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[must_use]
    pub fn one(&self, pick: &Pick) -> &Journey {
        let all = self.all(pick);
        assert_eq!(all.len(), 1, "number of {pick}; of this lab there are:\n{}", self.listing());
        all[0]
    }

    /// The first journey that is as described.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn first(&self, pick: &Pick) -> &Journey {
        let all = self.all(pick);
        assert!(!all.is_empty(), "there is no {pick}; of this lab there are:\n{}", self.listing());
        all[0]
    }

    /// Asserts that no journey is as described.
    ///
    /// # Panics
    ///
    /// If there is one.
    pub fn none(&self, pick: &Pick) {
        if let Some(journey) = self.all(pick).first() {
            panic!("unexpected {pick}:\n{journey}\n{}", self.listing());
        }
    }

    /// Asserts that no journey ended in a drop. Not meant are segments that a slow machine sent
    /// twice and whose receiver, which had the first, wanted no second, an acknowledgement that a
    /// later segment overtook on another processor, and what comes for a socket that is gone since
    /// its connection was over.
    ///
    /// # Panics
    ///
    /// If one did.
    pub fn assert_no_drops(&self) {
        let dropped = self.all(&crate::packets().fate("dropped"));
        let is_meant = |j: &&Journey| !(self.is_second(j) || self.is_late(j) || is_overtaken(j));
        if let Some(journey) = dropped.into_iter().find(is_meant) {
            panic!("unexpected drop:\n{journey}\n{}", self.listing());
        }
    }

    /// It repeats a segment that arrived, and got as far.
    fn is_second(&self, journey: &Journey) -> bool {
        let parent = &journey.json["parent"];
        let first = self.journeys.iter().find(|j| j.id() == parent["id"]);
        parent["kind"] == "retransmit"
            && first.is_some_and(|j| j.fate() == "delivered" && j.end() == journey.end())
    }

    /// A segment that carries nothing came to its end when the socket there had sent its FIN, and
    /// TCP itself let go of it: a repeated acknowledgement, say, as timers make them.
    fn is_late(&self, journey: &Journey) -> bool {
        let drop = &journey.json["drop"];
        let is_tcp =
            ["tcp_v4_rcv", "tcp_v6_rcv"].contains(&drop["function"].as_str().unwrap_or(""));
        let said = journey.json["packet"]["tcp"]["flags"].as_str().unwrap_or("");
        let has_data = said.contains('P') || said.contains('S');
        let finished = self.journeys.iter().any(|j| {
            let flags = j.json["packet"]["tcp"]["flags"].as_str().unwrap_or("");
            flags.contains('F') && j.start() == journey.end() && j.end() == journey.start()
        });
        is_tcp && !has_data && finished
    }

    /// Every journey in a line.
    #[must_use]
    pub fn listing(&self) -> String {
        let lines = self.journeys.iter().map(|j| format!("  {}\n", j.line()));
        lines.chain([self.stderr.clone()]).collect()
    }
}

/// An acknowledgement without data whose time stamp is older than one that has come already
/// (`tcp_validate_incoming`).
fn is_overtaken(journey: &Journey) -> bool {
    journey.json["packet"]["tcp"]["flags"] == "."
        && journey.json["drop"]["reason"] == "TCP_RFC7323_PAWS"
}
