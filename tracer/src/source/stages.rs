//! When to watch packets everywhere, and when only where they begin and are dropped.
//!
//! Pure: time is the caller's. A trace starts with everything attached, so that whoever starts it
//! and then reproduces a fault sees the first packet whole.

use std::time::Duration;

/// How long nothing has to match before the points that only follow are let go of: longer than what
/// a TCP connection waits before it sends its third request again.
const QUIET: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Let go of what only follows.
    Thin,
    /// Attach it again.
    Complete,
}

/// Which stage it is. Times are CLOCK_MONOTONIC.
#[derive(Debug)]
pub(super) struct Stages {
    is_thin: bool,
    /// When something was seen last, or everything attached.
    active_ns: u64,
}

impl Stages {
    /// Everything is attached.
    pub(super) fn new(now_ns: u64) -> Self {
        Self { is_thin: false, active_ns: now_ns }
    }

    /// Everything is attached, and goes with the first turn that sees nothing.
    pub(super) fn armed() -> Self {
        Self::new(0)
    }

    pub(super) fn is_thin(&self) -> bool {
        self.is_thin
    }

    /// What was to be done could not be: to be tried again.
    pub(super) fn is_refused(&mut self, switch: Switch) {
        self.is_thin = switch == Switch::Complete;
    }

    /// What is to be done after a look at the events: whether there were any, and how many journeys
    /// are open.
    pub(super) fn turn(&mut self, now_ns: u64, has_events: bool, open: usize) -> Option<Switch> {
        if has_events || open > 0 {
            self.active_ns = now_ns;
            return self.is_thin.then(|| {
                self.is_thin = false;
                Switch::Complete
            });
        }
        let quiet_ns = u128::from(now_ns.saturating_sub(self.active_ns));
        (!self.is_thin && quiet_ns >= QUIET.as_nanos()).then(|| {
            self.is_thin = true;
            Switch::Thin
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn what_follows_goes_when_it_is_quiet_and_comes_with_a_packet() {
        let mut stages = Stages::new(5 * S);
        assert_eq!(stages.turn(14 * S, false, 0), None);
        assert_eq!(stages.turn(15 * S, false, 0), Some(Switch::Thin));
        assert_eq!(stages.turn(60 * S, false, 0), None);
        assert_eq!(stages.turn(61 * S, true, 1), Some(Switch::Complete));
        assert_eq!(stages.turn(62 * S, true, 1), None);
        assert_eq!(stages.turn(71 * S, false, 0), None);
        assert_eq!(stages.turn(72 * S, false, 0), Some(Switch::Thin));
    }

    #[test]
    fn armed_it_goes_at_once_and_what_is_refused_is_tried_again() {
        let mut stages = Stages::armed();
        assert_eq!(stages.turn(20 * S, true, 1), None);
        let mut stages = Stages::armed();
        assert_eq!(stages.turn(20 * S, false, 0), Some(Switch::Thin));
        stages.is_refused(Switch::Thin);
        assert_eq!(stages.turn(21 * S, false, 0), Some(Switch::Thin));
        assert_eq!(stages.turn(22 * S, true, 1), Some(Switch::Complete));
        stages.is_refused(Switch::Complete);
        assert_eq!(stages.turn(23 * S, true, 1), Some(Switch::Complete));
    }

    #[test]
    fn nothing_goes_while_a_packet_is_under_way() {
        let mut stages = Stages::new(0);
        assert_eq!(stages.turn(30 * S, false, 1), None);
        assert_eq!(stages.turn(39 * S, false, 0), None);
        assert_eq!(stages.turn(40 * S, false, 0), Some(Switch::Thin));
    }
}
