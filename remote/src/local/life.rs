//! What an actor goes through, for those who wait for its end.
//!
//! tokio's `watch` would do, but draws by a die of its own whom it wakes first: then a seed of the simulation, in which two
//! nodes watch one actor, would not repeat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::Down;

/// What an actor has gone through.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// Panics after which it was built again, and what the last one said.
    pub(super) panics: (u32, String),
    /// Its end.
    pub(super) down: Option<Down>,
}

/// The life of one actor. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Story(Arc<Inner>);

#[derive(Default)]
struct Inner {
    life: Mutex<Life>,
    changed: Notify,
}

impl Story {
    /// What it has gone through so far.
    pub(super) fn so_far(&self) -> MutexGuard<'_, Life> {
        self.0.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it and wakes all who wait, in the order in which they began to.
    pub(super) fn change(&self, change: impl FnOnce(&mut Life)) {
        change(&mut self.so_far());
        self.0.changed.notify_waiters();
    }

    /// Waits until it is as somebody wants it.
    pub(super) async fn wait<T>(&self, wanted: impl Fn(&Life) -> Option<T>) -> T {
        loop {
            let changed = self.0.changed.notified(); // before the look: it sees every later change
            if let Some(found) = wanted(&self.so_far()) {
                return found;
            }
            changed.await;
        }
    }
}
