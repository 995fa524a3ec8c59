//! What blocks, in a simulation: on a thread that runs only while the simulation's own stands still, so that there is one order of
//! everything. Where such a thread waits, the simulation goes on, until what it waits for is there.

use std::future::Future;
use std::io;
use std::thread;

#[cfg(feature = "sim")]
pub(crate) use simulated::{Here, Pace, run};

/// Whether this thread is a simulation's.
#[doc(hidden)]
pub fn is_simulated() -> bool {
    #[cfg(feature = "sim")]
    return simulated::is_here();
    #[cfg(not(feature = "sim"))]
    false
}

/// Starts a thread. One that a simulation's own thread starts runs in turns with it.
///
/// # Errors
/// The operating system gave none.
#[doc(hidden)]
pub fn spawn_thread(name: String, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    #[cfg(feature = "sim")]
    if simulated::is_its_own() {
        drop(tokio::runtime::Handle::current().spawn(run(Pace::default(), f)));
        return Ok(());
    }
    thread::Builder::new().name(name).spawn(f).map(drop)
}

/// Waits for a future, on a thread of a simulation that may; on others it comes back.
#[doc(hidden)]
pub fn wait_simulated<F: Future>(future: F) -> Result<F::Output, F> {
    #[cfg(feature = "sim")]
    return simulated::wait(future);
    #[cfg(not(feature = "sim"))]
    Err(future)
}

#[cfg(feature = "sim")]
mod simulated {
    use std::cell::{Cell, RefCell};
    use std::future::{Future, poll_fn};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::pin::pin;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread;
    use std::time::Duration;

    use tokio::runtime::Handle;

    use crate::ambient::Ambient;

    /// How long a process takes for each piece of what blocks, between two waits: drawn from a range.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Pace {
        pub(crate) range: Arc<Mutex<(Duration, Duration)>>,
        pub(crate) ambient: Option<Ambient>,
    }

    impl Pace {
        fn draw(&self) -> Duration {
            let (least, most) = *self.range.lock().unwrap_or_else(PoisonError::into_inner);
            let span = (most.saturating_sub(least).as_micros() as u64).saturating_add(1);
            let drawn = self.ambient.as_ref().filter(|_| span > 1).and_then(|ambient| ambient.random().ok());
            least + Duration::from_micros(drawn.map_or(0, u64::from_le_bytes) % span)
        }
    }

    thread_local! {
        static HERE: Cell<bool> = const { Cell::new(false) };
        static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
    }

    pub(super) fn is_here() -> bool {
        HERE.get()
    }

    /// Whether it is the one that runs its actors.
    pub(super) fn is_its_own() -> bool {
        HERE.get() && TURN.with_borrow(Option::is_none)
    }

    /// This thread is a simulation's, while this lives.
    pub(crate) struct Here;

    impl Here {
        pub(crate) fn begin() -> Self {
            HERE.set(true);
            Self
        }
    }

    impl Drop for Here {
        fn drop(&mut self) {
            HERE.set(false);
        }
    }

    /// The thread's side of the hand-over.
    struct Turn {
        goes: Receiver<()>,
        /// What it waits for; nothing once it has ended.
        rests: SyncSender<Option<Arc<Woken>>>,
    }

    /// Runs what may block.
    ///
    /// # Panics
    /// It does.
    pub(crate) async fn run<T: Send + 'static>(pace: Pace, f: impl FnOnce() -> T + Send + 'static) -> T {
        let ((go, goes), (rests, rest)) = (sync_channel(1), sync_channel(1));
        let (result, made) = sync_channel(1);
        let handle = Handle::current();
        let work = move || {
            let (_here, _within) = (Here::begin(), handle.enter());
            TURN.set(Some(Turn { goes, rests: rests.clone() }));
            let done = catch_unwind(AssertUnwindSafe(|| {
                next_turn();
                f()
            }));
            // Nobody hears it when the simulation is over.
            drop((result.send(done), rests.send(None)));
        };
        let started = thread::Builder::new().name("simulated".to_owned()).spawn(work);
        let started = started.expect("a simulation needs threads");
        let mut thread = Thread { go: Some(go), rest, thread: Some(started) };
        loop {
            let takes = pace.draw();
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let Some(woken) = thread.go_on() else { break };
            poll_fn(|cx| woken.poll(cx)).await;
        }
        let ended = thread.thread.take().map_or(Ok(()), thread::JoinHandle::join);
        match ended.and_then(|()| made.recv().unwrap_or_else(|gone| Err(Box::new(gone)))) {
            Ok(made) => made,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The simulation's side of the hand-over.
    struct Thread {
        go: Option<SyncSender<()>>,
        rest: Receiver<Option<Arc<Woken>>>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Thread {
        /// Lets it run until it waits for something: for this. `None` once it has ended.
        fn go_on(&self) -> Option<Arc<Woken>> {
            // The thread holds the other ends until it says that it has ended.
            self.go.as_ref()?.send(()).ok().and_then(|()| self.rest.recv().ok()).flatten()
        }
    }

    impl Drop for Thread {
        /// Where nobody wants its result any more it ends before anything else happens: what it drops then wakes others.
        fn drop(&mut self) {
            drop(self.go.take());
            let Some(thread) = self.thread.take() else { return };
            // If what it drops waits for something, it stays where it is for ever.
            if !matches!(self.rest.recv(), Ok(Some(_))) {
                // How it ended is nothing to anybody.
                drop(thread.join());
            }
        }
    }

    /// Waits for a future on such a thread.
    pub(super) fn wait<F: Future>(future: F) -> Result<F::Output, F> {
        if TURN.with_borrow(Option::is_none) {
            return Err(future);
        }
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return Ok(output);
            }
            TURN.with_borrow(|turn| turn.as_ref().map(|turn| turn.rests.send(Some(Arc::clone(&woken)))));
            next_turn();
        }
    }

    /// Stands still until it is this thread's turn.
    fn next_turn() {
        let goes_on = TURN.with_borrow(|turn| turn.as_ref().is_some_and(|turn| turn.goes.recv().is_ok()));
        if goes_on {
            return;
        }
        // The simulation is over. What runs here ends; what is dropped meanwhile may want to wait again.
        while thread::panicking() {
            thread::park();
        }
        resume_unwind(Box::new("the simulation is over"));
    }

    /// Whether the thread has been woken, and whom that wakes.
    #[derive(Default)]
    struct Woken(Mutex<(bool, Option<Waker>)>);

    impl Woken {
        fn poll(&self, cx: &Context<'_>) -> Poll<()> {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut state.0) {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            if let Some(waker) = state.1.take() {
                drop(state);
                waker.wake();
            }
        }
    }
}
