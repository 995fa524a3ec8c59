//! Connections: so many at once, and those of strangers make room for others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Connections at once.
pub(crate) const CONNECTIONS: usize = 64;

/// Connections that are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came.
    seats: Vec<Taker>,
}

#[derive(Debug)]
struct Taker {
    number: u64,
    /// It has shown the token.
    is_known: bool,
    /// None before it has begun.
    task: Option<AbortHandle>,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
    number: u64,
}

impl Seats {
    /// Begins a connection, if there is room for one of at most so many; the oldest of those that have not shown the token makes room.
    pub(crate) fn take(&self, most: usize, begin: impl FnOnce(Seat) -> AbortHandle) -> bool {
        let number = {
            let mut taken = self.lock();
            if taken.seats.len() >= most {
                let Some(stranger) = taken.seats.iter().position(|taker| !taker.is_known) else { return false };
                let stranger = taken.seats.remove(stranger);
                stranger.task.iter().for_each(AbortHandle::abort);
            }
            let number = taken.next;
            taken.next += 1;
            taken.seats.push(Taker { number, is_known: false, task: None });
            number
        };
        // It may end, and give its place back, while it begins.
        let task = begin(Seat { seats: self.clone(), number });
        self.taker(number, |taker| taker.task = Some(task));
        true
    }

    fn taker(&self, number: u64, change: impl FnOnce(&mut Taker)) {
        if let Some(taker) = self.lock().seats.iter_mut().find(|taker| taker.number == number) {
            change(taker);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().seats.len()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// It has shown the token.
    pub(crate) fn is_known(&self) {
        self.seats.taker(self.number, |taker| taker.is_known = true);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.retain(|taker| taker.number != self.number);
    }
}
