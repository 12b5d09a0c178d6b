//! The last line of a run.

use serde::{Deserialize, Serialize};

use super::SCHEMA;

/// The last line of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `summary`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Finished journeys.
    pub journeys: u64,
    /// Events read.
    pub events: u64,
    /// Events lost.
    pub lost_events: u64,
    /// Journeys that were refused for want of room.
    pub refused_journeys: u64,
    /// Probe points.
    pub probes: Probes,
}

impl Summary {
    /// A summary of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: SCHEMA,
            kind: "summary".to_owned(),
            journeys: 0,
            events: 0,
            lost_events: 0,
            refused_journeys: 0,
            probes: Probes::default(),
        }
    }
}

impl Default for Summary {
    fn default() -> Self {
        Self::new()
    }
}

/// Probe points of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// How many are attached.
    pub attached: u32,
    /// Those that are not.
    pub unavailable: Vec<Unavailable>,
}

/// A probe point that is not attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailable {
    /// Which.
    pub probe: String,
    /// Why.
    pub why: String,
}
