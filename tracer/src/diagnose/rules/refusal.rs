//! Rules by which kube-proxy refuses what it does not translate, in all its modes.

use super::{kube_nft, local_endpoint};
use crate::diagnose::walk::RuleRef;

/// What the chains of source ranges are named by.
pub(super) const RANGES: &str = "KUBE-FW-";

/// A rule by which kube-proxy refuses what has no endpoint, or none on this node.
pub(super) fn says_no_endpoints(rule: &RuleRef) -> bool {
    rule.text.contains("has no endpoints")
        || rule.comment.as_deref().is_some_and(|c| c.contains("has no endpoints"))
        || kube_nft::is_empty_service(rule)
        || local_endpoint::says(rule)
}

/// A rule by which kube-proxy refuses a Service's address in place of translating it.
pub(super) fn refuses(rule: &RuleRef) -> bool {
    says_no_endpoints(rule) || is_source_range(rule)
}

/// A rule for clients that the source ranges of a load balancer leave out.
pub(super) fn is_source_range(rule: &RuleRef) -> bool {
    kube_nft::is_source_range(rule)
        || rule.chain.contains("KUBE-PROXY-FIREWALL")
        || rule.chain.starts_with(RANGES)
}
