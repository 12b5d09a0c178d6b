//! Yes, no, or it depends on something that is not known.

/// Ordered so that the least of several is their conjunction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    No,
    Maybe,
    Yes,
}

impl Truth {
    /// Negated if `not`.
    pub(super) fn negate_if(self, not: bool) -> Self {
        match (self, not) {
            (Self::No, true) => Self::Yes,
            (Self::Yes, true) => Self::No,
            (truth, _) => truth,
        }
    }

    /// All of them.
    pub(super) fn all(truths: impl IntoIterator<Item = Self>) -> Self {
        truths.into_iter().min().unwrap_or(Self::Yes)
    }

    /// Any of them.
    pub(super) fn any(truths: impl IntoIterator<Item = Self>) -> Self {
        truths.into_iter().max().unwrap_or(Self::No)
    }
}

impl From<bool> for Truth {
    fn from(is_true: bool) -> Self {
        if is_true { Self::Yes } else { Self::No }
    }
}
