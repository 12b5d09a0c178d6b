//! Why a connection fails: observed packets joined with the node's configuration.
//!
//! The core is pure. A [`Case`] holds what was asked, what was sent, what was seen and how the node
//! is configured; [`rules`] look at it and return [`Finding`]s; [`engine`] puts them in order. Only
//! [`probe`] sends packets.

mod case;
mod cause;
mod checked;
pub mod engine;
mod finding;
mod overlay;
pub mod place;
pub mod probe;
pub mod remedy;
mod routing;
mod rule;
pub mod rules;
pub mod run;
pub mod show;
pub mod slow;
pub mod view;
pub mod walk;

pub use case::{
    Case, Counters, Direction, Drop, Met, Method, Outcome, Probed, Purpose, Target, Way,
};
pub use engine::{Diagnosis, Verdict, conclude};
pub use finding::{Confidence, Finding, Scenario, Severity, Where};
pub use rule::Rule;
pub use rules::RULES;
