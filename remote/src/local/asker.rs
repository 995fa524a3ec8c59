//! Whether somebody still waits for a reply.

use std::cell::RefCell;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

/// The asker of the message that is being handled, so that long work can stop when nobody waits any more.
///
/// ```
/// # use std::time::Duration;
/// # async fn work() {}
/// // in a handler, before its future is made:
/// let asker = regatta_remote::Asker::current();
/// let reply = async move {
///     tokio::select! { () = work() => (), () = asker.gone() => () }
/// };
/// ```
#[derive(Clone, Debug)]
pub struct Asker(Option<Arc<State>>);

impl Asker {
    /// The asker of the message whose `handle` runs on this thread. For a `tell`, and elsewhere, an asker that
    /// never leaves.
    pub fn current() -> Self {
        CURRENT.with(|current| Self(current.borrow().clone()))
    }

    /// Whether the asker has given up: its deadline passed, it cancelled, or its node was lost.
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.gone.load(Ordering::Acquire))
    }

    /// Waits until the asker has given up.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn gone(&self) {
        let Some(state) = &self.0 else {
            return pending().await;
        };
        loop {
            let left = state.left.notified(); // before the check: it sees every later leave
            if self.is_gone() {
                return;
            }
            left.await;
        }
    }

    pub(crate) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    pub(crate) fn leave(&self) {
        if let Some(state) = &self.0 {
            state.gone.store(true, Ordering::Release);
            state.left.notify_waiters();
        }
    }

    /// Marks the message as started, by an actor that has panicked so often before; false if the asker has left.
    pub(crate) fn start(&self, panics: u32) -> bool {
        let Some(state) = &self.0 else { return true };
        let here = !self.is_gone();
        if here {
            state.started.store(panics.saturating_add(1), Ordering::Release);
        }
        here
    }

    /// How often the actor had panicked when the message started; `None` if it has not.
    pub(crate) fn panics_before(&self) -> Option<u32> {
        self.0.as_ref()?.started.load(Ordering::Acquire).checked_sub(1)
    }

    /// Makes this the current asker until the guard is dropped.
    pub(crate) fn enter(&self) -> Current {
        Current(CURRENT.with(|current| current.replace(self.0.clone())))
    }
}

#[derive(Debug, Default)]
struct State {
    /// 0: not yet; else one more than the panics before it.
    started: AtomicU32,
    gone: AtomicBool,
    left: Notify,
}

/// Restores the asker that was current before.
pub(crate) struct Current(Option<Arc<State>>);

impl Drop for Current {
    fn drop(&mut self) {
        let before = self.0.take();
        // Fails only while the thread ends; then no handler runs on it.
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<State>>> = const { RefCell::new(None) };
}
