//! Which replica gets the next batch. Pure: the caller holds the lock and the wake-ups.

/// Calls that one task stream may have at one replica: one that runs, one that waits, so that the replica never idles
/// for the length of a round trip.
const CREDITS: usize = 2;

/// Replicas in the order in which they became ready, with what is under way at each.
#[derive(Debug, Default)]
pub(crate) struct Router {
    seats: Vec<Seat>,
    /// Calls at one replica, if not [`CREDITS`].
    credits: Option<usize>,
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
        Self { seats: Vec::new(), credits }
    }

    /// Adds a replica; its number is the count of those before it.
    pub(crate) fn add(&mut self, local: bool) {
        self.seats.push(Seat { local, gone: false, hung: false, calls: 0, rows: 0 });
    }

    /// Takes a credit at the replica with the least rows under way, one of this worker first among equals; `None` while
    /// every replica has as many calls as it may.
    pub(crate) fn acquire(&mut self, rows: usize) -> Option<usize> {
        let credits = self.credits.unwrap_or(CREDITS);
        let free = self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.is_there() && seat.calls < credits);
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
        !self.seats.iter().any(Seat::is_there)
    }

    /// Gives back what [`acquire`](Self::acquire) took.
    pub(crate) fn release(&mut self, index: usize, rows: usize) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.calls = seat.calls.saturating_sub(1);
            seat.rows = seat.rows.saturating_sub(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_replica_is_taken_local_first_and_credits_bound_the_calls() {
        let mut router = Router::default();
        assert_eq!(router.acquire(1), None, "no replica, no credit");
        router.add(false);
        router.add(true);
        assert_eq!(router.acquire(10), Some(1), "equal load: the local one");
        assert_eq!(router.acquire(5), Some(0), "then the idle one");
        assert_eq!(router.acquire(5), Some(0), "5 rows under way are fewer than 10");
        assert_eq!(router.acquire(1), Some(1), "the other has used its credits");
        assert_eq!(router.acquire(1), None, "both have");
        router.release(1, 10);
        assert_eq!(router.acquire(1), Some(1), "a credit that came back is used");
        router.release(1, 1);
        router.set_gone(1, true);
        assert_eq!(router.acquire(1), None, "a lost replica gets no more");
        router.set_gone(1, false);
        assert_eq!(router.acquire(1), Some(1), "until it is there again");
        router.release(0, 5);
        router.retire(0);
        assert!(!router.is_empty());
        router.release(1, 1);
        router.retire(1);
        assert_eq!(router.acquire(1), None, "one that hangs gets nothing");
        router.set_gone(1, false);
        assert!(router.is_empty(), "and does not come back");
    }
}
