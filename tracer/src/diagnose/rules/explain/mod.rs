//! Why a fault breaks connections: a few plain sentences for each id, about that fault and nothing
//! else.

mod ends;
mod firewall;
mod links;
mod routes;
mod translation;

/// Ids, and what is to be said of each of them.
type Texts = &'static [(&'static [&'static str], &'static str)];

/// All of them.
pub(super) fn texts() -> impl Iterator<Item = &'static (&'static [&'static str], &'static str)> {
    let parts = [routes::TEXTS, firewall::TEXTS, translation::TEXTS, links::TEXTS, ends::TEXTS];
    parts.into_iter().flatten()
}
