//! From events to journeys: what one skb went through, in order, with its fate.
//!
//! Pure: no I/O, no clock, no failure. What is missing from the events is part of the result
//! ([`Journey::gaps`]), and the same events give the same journeys.

mod assemble;
mod builder;
mod caller;
mod conntracked;
mod device;
mod fate;
mod flood;
mod flow;
pub mod forwarding;
mod hop;
mod lineage;
mod midway;
mod model;
mod nat;
mod netfilter;
mod order;
mod path;
mod prefix;
mod recent;
mod route;
mod tunnel;
mod view;
mod walk;
mod watch;

pub use builder::{Builder, Options};
pub use flow::{Flow, group};
pub use hop::{
    Basis, Dev, Fdb, FdbWay, Frame, Freed, Hook, Hop, Layer, Neigh, Outcome, Process, Route,
    RouteKind, Rule, Sources, Stage, Tunnel, Verdict,
};
pub use model::{DropPoint, Fate, Gap, GapCause, Journey, Lineage, Nat, NatKind, Parent, UnNat};
pub use order::Sequencer;
pub(crate) use path::path as path_of;

/// Names that only the running kernel knows (or the recording that came from it).
pub trait Names {
    /// `enum skb_drop_reason` by number, without `SKB_DROP_REASON_`.
    fn drop_reason(&self, reason: u32) -> Option<String>;
    /// Whether the kernel is new enough to give this reason.
    fn gives(&self, reason: &str) -> bool;
    /// The function that contains this kernel address.
    fn symbol(&self, address: u64) -> Option<String>;
}
