//! `pkttrace topology`: the node's map, from one reading of its namespaces.

mod dot;
mod html;
mod kube;
mod model;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::net::{self, Inum, NetworkState, What, view};
use crate::render::Style;
use crate::report::Owner;
use model::Map;

/// How to print the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Tree,
    /// One JSON object.
    Json,
    /// For graphviz.
    Dot,
    /// One page without any other file.
    Html,
}

/// Which part of the node to show.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// As the node with this root namespace sees it.
    pub view: Option<String>,
    /// This namespace alone.
    pub netns: Option<String>,
}

/// The map, printed.
///
/// # Errors
///
/// When a namespace is not found, or nothing can be read.
pub async fn draw(
    scope: &Scope,
    owners: &BTreeMap<Inum, Owner>,
    format: Format,
    style: Style,
) -> Result<String> {
    let (state, shown, unread) = read(scope).await?;
    let map = Map::of(&state, &shown, owners, node_name(), unread);
    Ok(match format {
        Format::Tree => tree::text(&map, style),
        Format::Json => serde_json::to_string(&map)? + "\n",
        Format::Dot => dot::text(&map),
        Format::Html => html::text(&map),
    })
}

async fn read(scope: &Scope) -> Result<(NetworkState, BTreeSet<Inum>, Vec<String>)> {
    let view = scope.view.as_deref().map(net::resolve).transpose().context("--view")?;
    let only = scope.netns.as_deref().map(net::resolve).transpose().context("--netns")?;
    let (mut state, mut skipped) = net::snapshot::take().await?;
    let mut shown: BTreeSet<Inum> = match view {
        Some(root) => view::view(&state, root),
        None => state.netns.keys().copied().collect(),
    };
    if let Some(only) = only {
        shown.retain(|inum| *inum == only);
    }
    let wanted = |netns: &net::Netns| shown.contains(&netns.inum);
    skipped.extend(net::inspect(&mut state, &wanted, What::TOPOLOGY).await);
    let unread = skipped.into_iter().map(|s| format!("{}: {}", s.what, plain(&s.why))).collect();
    Ok((state, shown, unread))
}

/// The system's words without their number.
fn plain(why: &str) -> &str {
    why.split(" (os error ").next().unwrap_or(why)
}

fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
