//! Which replica gets the next batch. Pure: the caller holds the lock and the wake-ups.

/// Calls that one task stream may have at one replica: one that runs, one that waits, so that the replica never idles
/// for the length of a round trip.
const CREDITS: usize = 2;

/// Replicas in the order in which they became ready, with what is under way at each.
#[derive(Debug, Default)]
pub(crate) struct Router {
    seats: Vec<Seat>,
}

#[derive(Debug)]
struct Seat {
    local: bool,
    calls: usize,
    rows: usize,
    retired: bool,
}

impl Router {
    /// Adds a replica; its number is the count of those before it.
    pub(crate) fn add(&mut self, local: bool) {
        self.seats.push(Seat { local, calls: 0, rows: 0, retired: false });
    }

    /// Takes a credit at the replica with the least rows under way, one of this worker first among equals; `None` while
    /// every replica has as many calls as it may.
    pub(crate) fn acquire(&mut self, rows: usize) -> Option<usize> {
        let free = self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.calls < CREDITS && !seat.retired);
        let (index, seat) = free.min_by_key(|(index, seat)| (seat.rows, !seat.local, *index))?;
        seat.calls += 1;
        seat.rows += rows;
        Some(index)
    }

    /// Hands no further call to this replica.
    pub(crate) fn retire(&mut self, index: usize) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.retired = true;
        }
    }

    /// Whether there were replicas and all are retired.
    pub(crate) fn is_spent(&self) -> bool {
        !self.seats.is_empty() && self.seats.iter().all(|seat| seat.retired)
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
        router.release(0, 5);
        router.retire(0);
        assert_eq!(router.acquire(1), None, "a retired replica gets nothing");
        assert!(!router.is_spent());
        router.retire(1);
        assert!(router.is_spent() && !Router::default().is_spent());
    }
}
