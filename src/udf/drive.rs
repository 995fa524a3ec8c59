//! Futures of async UDFs, on a thread of theirs.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use regatta_remote::{is_simulated, wait_simulated};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Runs a future, and what it spawns on this thread, to its end.
///
/// The thread is in no runtime's hands, for Polars refuses to run on one that is: authors may call it. Timers and sockets are
/// those of a runtime beside it.
pub(super) fn drive<T>(work: impl Future<Output = T>) -> io::Result<T> {
    if is_simulated() {
        // Timers are the simulation's.
        return Ok(block_on(LocalSet::new().run_until(work)));
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _within_reach = runtime.enter();
    let here = LocalSet::new();
    Ok(block_on(here.run_until(work)))
}

/// Wakes the thread. What the thread waits for meanwhile, inside the future, may use up the word to it, but not the flag.
struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let work = match wait_simulated(work) {
        Ok(result) => return result,
        Err(work) => work,
    };
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let (mut work, mut context) = (pin!(work), Context::from_waker(&waker));
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_wake_is_not_lost_on_what_the_thread_waits_for_inside_the_future() {
        let mut polls = 0;
        block_on(poll_fn(|context| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            let (sender, receiver) = mpsc::channel();
            let waker = context.waker().clone();
            thread::spawn(move || {
                waker.wake();
                sender.send(()).unwrap();
            });
            receiver.recv().unwrap();
            // Whatever word there was is used up.
            thread::park_timeout(std::time::Duration::ZERO);
            Poll::Pending
        }));
    }
}
