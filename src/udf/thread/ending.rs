//! The end of a process that has replicas: those that are in no call are stopped first, as their authors were promised.

use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

static ENDS: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));
/// How many replicas could be stopped now.
static AT_REST: Mutex<usize> = Mutex::new(0);
static FEWER: Condvar = Condvar::new();

/// A replica could be stopped, while this lives: it is in no call, or stops already.
pub(super) struct AtRest;

impl AtRest {
    pub(super) fn new() -> Self {
        *at_rest() += 1;
        Self
    }
}

impl Drop for AtRest {
    fn drop(&mut self) {
        *at_rest() -= 1;
        FEWER.notify_all();
    }
}

fn at_rest() -> MutexGuard<'static, usize> {
    AT_REST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True once this process ends.
pub(super) fn ends() -> watch::Receiver<bool> {
    ENDS.subscribe()
}

/// Stops the replicas of this process that are in no call, which is about to end, and waits no longer than so for it.
pub(crate) fn stop_replicas(limit: Duration) {
    ENDS.send_replace(true);
    let until = Instant::now() + limit;
    let mut left = at_rest();
    while *left > 0
        && let Some(time) = until.checked_duration_since(Instant::now())
    {
        left = FEWER.wait_timeout(left, time).unwrap_or_else(PoisonError::into_inner).0;
    }
}
