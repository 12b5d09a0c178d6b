//! What a rule of diagnosis is.

use super::{Case, Finding};

/// A diagnosis rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The id of its findings (the most general one, when it has several).
    pub id: &'static str,
    /// Every id that its findings may have, and more special names of the same fault.
    pub covers: &'static [&'static str],
    /// Looks at a case.
    pub check: fn(&Case<'_>) -> Vec<Finding>,
}
