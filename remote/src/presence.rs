//! Whether somebody still waits for an answer: said by who asks, seen by who works on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

/// An asker, as far as the work for it goes. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presence(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// 0: not yet; else one more than the panics before it.
    started: AtomicU32,
    gone: AtomicBool,
    left: Notify,
}

impl Presence {
    pub(crate) fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    /// Waits until it is gone.
    pub(crate) async fn gone(&self) {
        loop {
            let left = self.0.left.notified(); // before the check: it sees every later leave
            if self.is_gone() {
                return;
            }
            left.await;
        }
    }

    pub(crate) fn leave(&self) {
        if !self.0.gone.swap(true, Ordering::AcqRel) {
            self.0.left.notify_waiters();
        }
    }

    /// Marks the message as started, by an actor that has panicked so often before; false if the asker has left.
    pub(crate) fn start(&self, panics: u32) -> bool {
        let here = !self.is_gone();
        if here {
            self.0.started.store(panics.saturating_add(1), Ordering::Release);
        }
        here
    }

    /// How often the actor had panicked when the message started; `None` if it has not.
    pub(crate) fn panics_before(&self) -> Option<u32> {
        self.0.started.load(Ordering::Acquire).checked_sub(1)
    }
}
