//! Which replica gets the next batch. Pure: the caller holds the lock and the wake-ups.

use std::time::Duration;

/// Calls that one task stream may have at one replica: one that runs, one that waits, so that the replica never idles
/// for the length of a round trip.
const CREDITS: usize = 2;

/// Replicas in the order in which they became ready, with what is under way at each.
#[derive(Debug, Default)]
pub(crate) struct Router {
    seats: Vec<Seat>,
    /// Calls at one replica, if not [`CREDITS`].
    credits: Option<usize>,
    /// How long the last call of a replica of this worker took.
    took: Option<Duration>,
}

#[derive(Debug)]
struct Seat {
    local: bool,
    gone: bool,
    hung: bool,
    calls: usize,
    rows: usize,
}

impl Seat {
    fn is_there(&self) -> bool {
        !self.gone && !self.hung
    }
}

impl Router {
    /// For replicas that have many calls in flight.
    pub(crate) fn with_credits(credits: Option<usize>) -> Self {
        Self { credits, ..Self::default() }
    }

    /// Adds a replica; its number is the count of those before it.
    pub(crate) fn add(&mut self, local: bool) {
        self.seats.push(Seat { local, gone: false, hung: false, calls: 0, rows: 0 });
    }

    /// Takes a credit at the replica with the least rows under way, one of this worker first among equals; `None` while
    /// every replica has as many calls as it may. Where calls of this worker's replicas take less time than the `travel` of
    /// the rows to another worker and back, at those only.
    pub(crate) fn acquire(&mut self, rows: usize, travel: Duration) -> Option<usize> {
        let credits = self.credits.unwrap_or(CREDITS);
        let stay = self.took.is_some_and(|took| took < travel) && self.there().any(|seat| seat.local);
        let free = self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.is_there() && seat.calls < credits);
        let free = free.filter(|(_, seat)| seat.local || !stay);
        let (index, seat) = free.min_by_key(|(index, seat)| (seat.rows, !seat.local, *index))?;
        seat.calls += 1;
        seat.rows += rows;
        Some(index)
    }

    /// Takes a replica out, because it was lost, or in again, because the scheduler says that it is there.
    pub(crate) fn set_gone(&mut self, index: usize, gone: bool) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.gone = gone;
        }
    }

    /// Takes a replica out for good: it hangs in a call.
    pub(crate) fn retire(&mut self, index: usize) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.hung = true;
        }
    }

    /// Whether there is no replica to wait for.
    pub(crate) fn is_empty(&self) -> bool {
        self.there().next().is_none()
    }

    fn there(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| seat.is_there())
    }

    /// Gives back what [`acquire`](Self::acquire) took, after a call that `took` so long.
    pub(crate) fn release(&mut self, index: usize, rows: usize, took: Duration) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.calls = seat.calls.saturating_sub(1);
            seat.rows = seat.rows.saturating_sub(rows);
            if seat.local {
                self.took = Some(took);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAVEL: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_secs(1);
    const FAST: Duration = Duration::from_micros(10);

    #[test]
    fn the_least_loaded_replica_is_taken_local_first_and_credits_bound_the_calls() {
        let mut router = Router::default();
        assert_eq!(router.acquire(1, TRAVEL), None, "no replica, no credit");
        router.add(false);
        router.add(true);
        assert_eq!(router.acquire(10, TRAVEL), Some(1), "equal load: the local one");
        assert_eq!(router.acquire(5, TRAVEL), Some(0), "then the idle one");
        assert_eq!(router.acquire(5, TRAVEL), Some(0), "5 rows under way are fewer than 10");
        assert_eq!(router.acquire(1, TRAVEL), Some(1), "the other has used its credits");
        assert_eq!(router.acquire(1, TRAVEL), None, "both have");
        router.release(1, 10, SLOW);
        assert_eq!(router.acquire(1, TRAVEL), Some(1), "a credit that came back is used");
        router.release(1, 1, SLOW);
        router.set_gone(1, true);
        assert_eq!(router.acquire(1, TRAVEL), None, "a lost replica gets no more");
        router.set_gone(1, false);
        assert_eq!(router.acquire(1, TRAVEL), Some(1), "until it is there again");
        router.release(0, 5, SLOW);
        router.retire(0);
        assert!(!router.is_empty());
        router.release(1, 1, SLOW);
        router.retire(1);
        assert_eq!(router.acquire(1, TRAVEL), None, "one that hangs gets nothing");
        router.set_gone(1, false);
        assert!(router.is_empty(), "and does not come back");
    }

    #[test]
    fn rows_do_not_travel_for_calls_that_are_sooner_done_here() {
        let mut router = Router::default();
        router.add(true);
        router.add(false);
        assert_eq!([router.acquire(1, TRAVEL), router.acquire(1, TRAVEL)], [Some(0), Some(1)], "not known yet");
        router.release(0, 1, FAST);
        assert_eq!([(); 3].map(|()| router.acquire(1, TRAVEL)), [Some(0), Some(0), None], "the other has room");
        assert_eq!(router.acquire(1, Duration::ZERO), Some(1), "for who has waited long enough");
        router.release(0, 1, SLOW);
        router.release(1, 1, FAST);
        assert_eq!(router.acquire(1, TRAVEL), Some(0), "one here, one there");
        router.set_gone(0, true);
        assert_eq!(router.acquire(1, TRAVEL), Some(1));
        router.release(0, 1, FAST);
        router.release(1, 1, FAST);
        assert_eq!(router.acquire(1, TRAVEL), Some(1), "there is none here any more");
    }
}
