//! Futures of async UDFs, on a thread of theirs.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Runs a future, and what it spawns on this thread, to its end.
///
/// The thread is in no runtime's hands, for Polars refuses to run on one that is: authors may call it. Timers and sockets are
/// those of a runtime beside it.
pub(super) fn drive<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _within_reach = runtime.enter();
    let here = LocalSet::new();
    Ok(block_on(here.run_until(work)))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut work, mut context) = (pin!(work), Context::from_waker(&waker));
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
        thread::park();
    }
}
