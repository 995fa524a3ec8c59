//! Whether an actor that panicked is built again, and when. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often a supervised actor is built again after a panic. The default is 5 times within 60 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// So many times in each period; with 0 the first panic is the end.
    pub times: u32,
    /// The period.
    pub within: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self { times: 5, within: Duration::from_secs(60) }
    }
}

/// The first restart waits so long; each further one of a period twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(10);
/// No restart waits longer.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The restarts of one actor so far.
#[derive(Debug)]
pub(crate) struct History {
    limit: Restarts,
    /// When it panicked, in the last period; since any fixed moment.
    panics: VecDeque<Duration>,
}

impl History {
    pub(crate) fn new(limit: Restarts) -> Self {
        Self { limit, panics: VecDeque::new() }
    }

    /// Notes a panic. How long to wait before the actor is built again; `None` if it is not.
    pub(crate) fn panicked(&mut self, now: Duration) -> Option<Duration> {
        while self.panics.front().is_some_and(|at| now.saturating_sub(*at) > self.limit.within) {
            self.panics.pop_front();
        }
        if self.panics.len() >= self.limit.times as usize {
            return None;
        }
        let delay = FIRST_DELAY.saturating_mul(1 << self.panics.len().min(16));
        self.panics.push_back(now);
        Some(delay.min(LONGEST_DELAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn restarts_back_off_and_end_at_the_limit() {
        let mut history = History::new(Restarts { times: 3, within: 10 * SECOND });
        let delays: Vec<_> = (1..=4).map(|at| history.panicked(at * SECOND)).collect();
        assert_eq!(delays, [Some(FIRST_DELAY), Some(2 * FIRST_DELAY), Some(4 * FIRST_DELAY), None]);
    }

    #[test]
    fn panics_of_an_older_period_are_forgotten() {
        let mut history = History::new(Restarts { times: 1, within: 10 * SECOND });
        assert_eq!(history.panicked(SECOND), Some(FIRST_DELAY));
        assert_eq!(history.panicked(11 * SECOND), None);
        assert_eq!(history.panicked(12 * SECOND), Some(FIRST_DELAY));
    }

    #[test]
    fn the_longest_wait_is_a_second_and_no_restarts_are_none() {
        let mut history = History::new(Restarts { times: 100, within: 100 * SECOND });
        assert_eq!((0..100).filter_map(|at| history.panicked(at * SECOND)).max(), Some(LONGEST_DELAY));
        assert_eq!(History::new(Restarts { times: 0, within: SECOND }).panicked(SECOND), None);
    }
}
