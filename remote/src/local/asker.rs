//! Whether somebody still waits for a reply.

use std::cell::RefCell;
use std::future::pending;

use crate::presence::Presence;

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
pub struct Asker(Option<Presence>);

impl Asker {
    /// The asker of the message whose `handle` runs on this thread. For a `tell`, and elsewhere, an asker that
    /// never leaves.
    pub fn current() -> Self {
        CURRENT.with(|current| Self(current.borrow().clone()))
    }

    /// Whether the asker has given up: its deadline passed, it cancelled, or its node was lost.
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(Presence::is_gone)
    }

    /// Waits until the asker has given up.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn gone(&self) {
        match &self.0 {
            Some(presence) => presence.gone().await,
            None => pending().await,
        }
    }

    /// Makes this the current asker until the guard is dropped.
    pub(crate) fn enter(presence: Presence) -> Current {
        Current(CURRENT.replace(Some(presence)))
    }
}

/// Restores the asker that was current before.
pub(crate) struct Current(Option<Presence>);

impl Drop for Current {
    fn drop(&mut self) {
        let before = self.0.take();
        // Fails only while the thread ends; then no handler runs on it.
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Presence>> = const { RefCell::new(None) };
}
