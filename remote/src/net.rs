//! The network's runtime, for all that runs on it or waits for it.

use std::future::Future;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::ambient::Ambient;
use crate::complaints::{About, Complaints, Line};
use crate::fence;
#[cfg(feature = "sim")]
use crate::lockstep;
use crate::patience::at_once;

/// The network's runtime as the rest of the crate uses it, from any thread and any executor. Clones share it.
#[derive(Clone)]
pub(crate) struct Net(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) handle: Handle,
    closed: watch::Receiver<bool>,
    pub(crate) ambient: Ambient,
    made: Instant,
    complaints: Mutex<Complaints>,
}

impl Deref for Net {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Net {
    /// It is over when `closed` says so.
    pub(crate) fn new(handle: Handle, closed: watch::Receiver<bool>, ambient: Ambient) -> Self {
        Self(Arc::new(Inner { handle, closed, ambient, made: Instant::now(), complaints: Mutex::default() }))
    }

    /// Whether a line that somebody else has caused may be written to the log. Where it may not, it is counted, and a later line
    /// says how many those were.
    pub(crate) fn may_say(&self, about: impl Into<About>) -> bool {
        let line = self.complain(|complaints| complaints.line(about.into(), self.made.elapsed()));
        if let Line::First(about, left) = line {
            let net = self.clone();
            self.handle.spawn(async move {
                tokio::time::sleep(left).await;
                let count = net.complain(|complaints| complaints.over(about));
                tracing::warn!(%about, count, "lines about what it did were left out here");
            });
        }
        line == Line::Written
    }

    fn complain<T>(&self, f: impl FnOnce(&mut Complaints) -> T) -> T {
        f(&mut self.complaints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Runs a task of the network for as long as somebody waits for it.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Aborting<T> {
        Aborting(self.handle.spawn(task))
    }

    /// Waits for `future` until `limit`, on our timer whatever the caller's executor is. `None` also when
    /// the runtime shuts down, because its timer panics after that.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        self.timed(|| tokio::time::sleep(limit.min(FOREVER)), future).await
    }

    /// [`within`](Self::within), until then.
    pub(crate) async fn until<F: Future>(&self, end: Instant, future: F) -> Option<F::Output> {
        self.timed(|| tokio::time::sleep_until(end), future).await
    }

    async fn timed<F: Future>(&self, sleep: impl FnOnce() -> Sleep, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        if let Some(output) = at_once(future.as_mut()).await {
            return Some(output);
        }
        let mut closed = self.closed.clone();
        let sleep = {
            let _inside = self.handle.enter();
            sleep()
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            _ = closed.wait_for(|closed| *closed) => None,
            () = sleep => None,
        }
    }
}

/// Stops a task when its awaiter goes.
pub(crate) struct Aborting<T>(JoinHandle<T>);

impl<T> Future for Aborting<T> {
    /// `None` if the task panicked or the runtime ended it.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs what may touch the disk; a panic becomes its text.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    #[cfg(feature = "sim")]
    if is_simulated() {
        return lockstep::run(lockstep::Pace::default(), move || fence::catch(f)).await;
    }
    let done = tokio::task::spawn_blocking(move || fence::catch(f)).await;
    done.unwrap_or_else(|error| Err(error.to_string()))
}

/// Runs what keeps a thread of the network busy; other tasks are moved out of its way.
pub(crate) fn busy<T>(f: impl FnOnce() -> T) -> T {
    if is_simulated() { f() } else { tokio::task::block_in_place(f) }
}

/// On a simulation's only thread: our own network always has several.
fn is_simulated() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Later than any deadline that matters, early enough that no clock overflows.
pub(crate) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The end of so long a time from now.
pub(crate) fn deadline(after: Duration) -> Instant {
    Instant::now() + after.min(FOREVER)
}
