//! The process of an async replica, from its parent: many calls at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::future::{FutureExt, LocalBoxFuture};
use polars::prelude::Column;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::slab::Lease;
use super::wire::{FromChild, Link, Outcome, ToChild};
use super::{Ended, Isolated, STOP, result_of};
use crate::spans;
use crate::udf::context::Seat;
use crate::udf::found::Found;
use crate::udf::registry::AsyncReplica;
use crate::udf::thread::ReplicaSpec;
use crate::udf::{Batch, Context, Metrics, Report, UdfError, UdfResult};

/// An async replica that is a process.
pub(in crate::udf) struct IsolatedAsync {
    child: RefCell<Isolated>,
    calls: Arc<Mutex<Calls>>,
}

/// What the process is to answer.
#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, Waiting>,
    stopped: Option<oneshot::Sender<Metrics>>,
    /// Why nothing more comes from it.
    gone: Option<String>,
}

struct Waiting {
    /// It stays until the process has done with it.
    lease: Lease,
    done: oneshot::Sender<(Lease, Outcome)>,
}

/// How long a read waits; then it waits again.
const WAIT: Duration = Duration::from_secs(3600);
/// How long the process may take to say that it has forgotten a call. One that blocks its thread never does.
const FORGETS: Duration = Duration::from_secs(1);

impl IsolatedAsync {
    /// Starts the process and the replica in it. Dropped before its end, it ends the process.
    ///
    /// # Errors
    /// As [`Isolated::start`].
    pub(in crate::udf) async fn start(
        spec: ReplicaSpec,
        seat: Arc<Seat>,
        progress: impl Fn(&str),
    ) -> UdfResult<(Rc<Self>, Metrics, Found)> {
        let (said, mut words) = mpsc::unbounded_channel::<String>();
        let wanted = Arc::new(());
        let (asked, span) = (Arc::downgrade(&wanted), tracing::Span::current());
        let mut starting = tokio::task::spawn_blocking(move || {
            let _span = span.entered();
            let progress = |doing: &str| drop(said.send(doing.to_owned()));
            Isolated::start(&spec, &seat, &progress, &mut || asked.strong_count() > 0, None, true)
        });
        let started = loop {
            tokio::select! {
                biased;
                Some(doing) = words.recv() => progress(&doing),
                started = &mut starting => break started,
            }
        };
        let (mut child, metrics, found) = started??;
        let to_child = child.link.other_way()?;
        let from_child = std::mem::replace(&mut child.link, to_child);
        let calls: Arc<Mutex<Calls>> = Arc::default();
        let answers = Arc::clone(&calls);
        thread::Builder::new().name("regatta-answers".to_owned()).spawn(move || listen(from_child, &answers))?;
        Ok((Rc::new(Self { child: RefCell::new(child), calls }), metrics, found))
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn died(&self, why: String) -> Ended {
        let why = self.calls().gone.clone().unwrap_or(why);
        Ended::Died(self.child.borrow().process.last_words(why))
    }

    async fn call(self: Rc<Self>, batch: Batch) -> Result<Column, Ended> {
        let call = batch.call();
        let until = call.timeout.and_then(|limit| Instant::now().checked_add(limit));
        // As many batches wait in slabs as may be in flight, not as many as there are. The wait is part of the call's time, as
        // it is in a thread.
        let place = within(until, batch.slots().acquire()).await.ok_or(Ended::Late)?;
        let _place = place.map_err(UdfError::from)?;
        let (number, lease, parcel) = self.child.borrow_mut().hand_over(batch.frame())?;
        let (done, mut answer) = oneshot::channel();
        {
            let mut calls = self.calls();
            if calls.gone.is_none() {
                calls.waiting.insert(number, Waiting { lease, done });
            }
        }
        let said = self.child.borrow_mut().say_run(number, call, parcel);
        said.map_err(|error| self.died(error.to_string()))?;
        let forget = Forget { replica: Rc::clone(&self), number };
        let mut late = false;
        let answered = match within(until, &mut answer).await {
            Some(answered) => answered,
            None => {
                late = true;
                drop(forget);
                tokio::time::timeout(FORGETS, answer).await.map_err(|_| self.hangs())?
            }
        };
        let (mut lease, outcome) = answered.map_err(|_| self.died("it says nothing more".to_owned()))?;
        if late {
            return Err(Ended::Late);
        }
        let (column, report) = result_of(&mut lease, outcome)?;
        batch.metrics().add(report);
        Ok(column)
    }

    fn say(&self, word: &ToChild) -> Result<(), Ended> {
        let sent = self.child.borrow_mut().link.send(word);
        sent.map_err(|error| self.died(error.to_string()))
    }

    /// Ends a process that does not even forget.
    fn hangs(&self) -> Ended {
        self.calls().gone.get_or_insert_with(|| "its thread was blocked by some call".to_owned());
        self.died(String::new())
    }
}

impl AsyncReplica for IsolatedAsync {
    fn has_ended(&self) -> bool {
        self.calls().gone.is_some()
    }

    fn run(self: Rc<Self>, batch: Batch) -> LocalBoxFuture<'static, Result<Column, Ended>> {
        self.call(batch).boxed_local()
    }

    fn stop<'a>(self: Rc<Self>, cx: &'a Context) -> LocalBoxFuture<'a, UdfResult<()>> {
        let stop = async move {
            let (stopped, report) = oneshot::channel();
            self.calls().stopped = Some(stopped);
            if self.say(&ToChild::Stop).is_err() {
                return Ok(()); // it has gone by itself
            }
            // A process that does not end in order is killed.
            if let Ok(Ok(metrics)) = tokio::time::timeout(STOP, report).await {
                cx.metrics().add(Report { metrics, failed: None });
            }
            Ok(())
        };
        stop.boxed_local()
    }
}

/// What comes until then, if it comes.
async fn within<T>(until: Option<Instant>, what: impl Future<Output = T>) -> Option<T> {
    match until {
        None => Some(what.await),
        Some(until) => tokio::time::timeout_at(until, what).await.ok(),
    }
}

/// Tells the process to forget a call that has no answer when this is dropped.
struct Forget {
    replica: Rc<IsolatedAsync>,
    number: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        // A process that cannot be told has gone.
        if self.replica.calls().waiting.contains_key(&self.number) {
            let _ = self.replica.child.borrow_mut().link.send(&ToChild::Forget { number: self.number });
        }
    }
}

/// Hands on what the process says until it says nothing more.
fn listen(mut link: Link, calls: &Mutex<Calls>) {
    let calls = || calls.lock().unwrap_or_else(PoisonError::into_inner);
    let why = loop {
        match link.receive(WAIT) {
            Ok(Some(FromChild::Spans(ended, forgotten))) => spans::adopt(ended, forgotten),
            Ok(Some(FromChild::Done { number, outcome, spent })) => {
                let answered = calls().waiting.remove(&number);
                if let Some(Waiting { mut lease, done }) = answered {
                    lease.answered(spent);
                    let _ = done.send((lease, outcome)); // awaited, or forgotten
                }
            }
            Ok(Some(FromChild::Stopped(metrics))) => {
                if let Some(stopped) = calls().stopped.take() {
                    let _ = stopped.send(metrics);
                }
            }
            Ok(_) => (),
            Err(error) => break error.to_string(),
        }
    };
    let mut calls = calls();
    calls.gone.get_or_insert(why);
    // Who waits hears that nothing comes.
    calls.waiting.clear();
}
