//! Programs at the devices' tc hooks: ours, and at tcx those of others, for the description of a
//! node.

use std::collections::BTreeMap;

use aya::programs::TcAttachType;
use aya::programs::tc::SchedClassifier;

use crate::net::detail::TcFilter;

/// Program, direction, whether it comes first.
pub(super) const CLASSIFIERS: [(&str, TcAttachType, bool); 4] = [
    ("tc_in_first", TcAttachType::Ingress, true),
    ("tc_in_last", TcAttachType::Ingress, false),
    ("tc_out_first", TcAttachType::Egress, true),
    ("tc_out_last", TcAttachType::Egress, false),
];

/// Program, direction; see [`super::edges`].
pub(super) const EDGES: [(&str, TcAttachType); 2] =
    [("tc_enters", TcAttachType::Ingress), ("tc_leaves", TcAttachType::Egress)];

/// Whether a program of this name is one of ours (or another pkttrace's).
pub(super) fn is_classifier(name: &str) -> bool {
    CLASSIFIERS.iter().any(|(ours, ..)| *ours == name)
        || EDGES.iter().any(|(ours, _)| *ours == name)
}

/// The programs on these devices (name by interface index) of the calling thread's namespace, in
/// the order that they run in. Empty before Linux 6.6, which has no tcx.
#[must_use]
pub fn classifiers_here(devices: &BTreeMap<u32, String>) -> Vec<TcFilter> {
    let mut found = Vec::new();
    for (dev, name) in devices {
        for (direction, is_ingress) in
            [(TcAttachType::Ingress, true), (TcAttachType::Egress, false)]
        {
            // Not known to the kernel, or the device is gone: there is nothing to tell.
            let Ok((_, programs)) = SchedClassifier::query_tcx(name, direction) else { continue };
            let names = programs.iter().map(|p| p.name_as_str().unwrap_or_default());
            found.extend(names.filter(|name| !is_classifier(name)).map(|name| TcFilter {
                dev: *dev,
                is_ingress,
                kind: "tcx".to_owned(),
                text: name.to_owned(),
                place: None,
                drops: false,
            }));
        }
    }
    found
}
