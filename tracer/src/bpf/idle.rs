//! What stays attached while nothing matches.

/// What stays attached while nothing matches. What drops and what a namespace sends as its own is
/// seen at all times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Everything.
    Warm,
    /// What is received by any device, and where edges do not stand in for it, what is sent.
    Cold,
    /// What enters the node and what leaves it.
    Armed,
}

/// What the trace would be without a tracepoint, and when it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Worthless; packets are dropped there.
    Drops,
    /// Worthless; packets are received there.
    Receives,
    /// Worthless; packets are sent there.
    Sends,
    /// Worthless, but nothing begins there.
    Ends,
    /// Poorer.
    Follows,
}

impl Role {
    /// Whether there is no trace without it.
    pub(super) fn is_needed(self) -> bool {
        self != Self::Follows
    }

    /// Whether it stays attached while nothing matches.
    pub(super) fn stays(self, idle: Idle, has_edges: bool) -> bool {
        match self {
            Self::Drops => true,
            Self::Receives => idle == Idle::Cold || !has_edges,
            Self::Sends => !has_edges,
            Self::Ends | Self::Follows => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_where_packets_begin_and_are_dropped() {
        let all = [Role::Drops, Role::Receives, Role::Sends, Role::Ends, Role::Follows];
        let staying = |idle, has_edges| -> Vec<Role> {
            all.into_iter().filter(|role| role.stays(idle, has_edges)).collect()
        };
        assert_eq!(staying(Idle::Cold, true), [Role::Drops, Role::Receives]);
        assert_eq!(staying(Idle::Armed, true), [Role::Drops]);
        // Where nothing stands in for them, neither may go.
        for idle in [Idle::Cold, Idle::Armed] {
            assert_eq!(staying(idle, false), [Role::Drops, Role::Receives, Role::Sends]);
        }
    }
}
