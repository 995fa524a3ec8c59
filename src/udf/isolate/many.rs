//! The process of an async replica, from its parent: many calls at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, LocalBoxFuture};
use polars::prelude::Column;
use tokio::sync::{mpsc, oneshot};

use super::wire::{FromChild, Link, Outcome, ToChild};
use super::{Ended, Files, Isolated, STOP};
use crate::udf::context::Seat;
use crate::udf::registry::AsyncReplica;
use crate::udf::thread::{GRACE, ReplicaSpec};
use crate::udf::{Batch, Context, Metrics, UdfResult};

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
    /// They stay until the process is done with them.
    files: Files,
    done: oneshot::Sender<(Files, Outcome)>,
    /// Since when nobody wants it any more.
    forgotten: Option<Instant>,
}

/// How often is looked whether the process answers what is forgotten.
const LOOK: Duration = Duration::from_millis(500);

impl IsolatedAsync {
    /// Starts the process and the replica in it. Dropped before its end, it ends the process.
    ///
    /// # Errors
    /// As [`Isolated::start`].
    pub(in crate::udf) async fn start(
        spec: ReplicaSpec,
        seat: Arc<Seat>,
        progress: impl Fn(&str),
    ) -> UdfResult<(Rc<Self>, Metrics)> {
        let (said, mut words) = mpsc::unbounded_channel::<String>();
        let wanted = Arc::new(());
        let (asked, span) = (Arc::downgrade(&wanted), tracing::Span::current());
        let mut starting = tokio::task::spawn_blocking(move || {
            let _span = span.entered();
            let progress = |doing: &str| drop(said.send(doing.to_owned()));
            Isolated::start(&spec, &seat, &progress, &mut || asked.strong_count() > 0)
        });
        let started = loop {
            tokio::select! {
                biased;
                Some(doing) = words.recv() => progress(&doing),
                started = &mut starting => break started,
            }
        };
        let (mut child, metrics) = started??;
        let to_child = child.link.other_way()?;
        let from_child = std::mem::replace(&mut child.link, to_child);
        let calls: Arc<Mutex<Calls>> = Arc::default();
        let answers = Arc::clone(&calls);
        thread::Builder::new().name("regatta-answers".to_owned()).spawn(move || listen(from_child, &answers))?;
        Ok((Rc::new(Self { child: RefCell::new(child), calls }), metrics))
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn died(&self, why: String) -> Ended {
        let why = self.calls().gone.clone().unwrap_or(why);
        Ended::Died(self.child.borrow_mut().last_words(why))
    }

    async fn call(self: Rc<Self>, batch: Batch) -> Result<Column, Ended> {
        let (number, files) = self.child.borrow_mut().hand_over(batch.frame())?;
        let (done, answer) = oneshot::channel();
        let forget = Forget { replica: Rc::clone(&self), number };
        {
            let mut calls = self.calls();
            if calls.gone.is_none() {
                calls.waiting.insert(number, Waiting { files, done, forgotten: None });
            }
        }
        let sent = self.child.borrow_mut().link.send(&ToChild::Run { number, call: batch.call() });
        sent.map_err(|error| self.died(error.to_string()))?;
        let answer = answer.await;
        drop(forget);
        let (files, outcome) = answer.map_err(|_| self.died("it says nothing more".to_owned()))?;
        let (column, metrics) = files.result_of(outcome)?;
        batch.metrics().add(&metrics);
        Ok(column)
    }
}

impl AsyncReplica for IsolatedAsync {
    fn run(self: Rc<Self>, batch: Batch) -> LocalBoxFuture<'static, Result<Column, Ended>> {
        self.call(batch).boxed_local()
    }

    fn stop<'a>(self: Rc<Self>, cx: &'a Context) -> LocalBoxFuture<'a, UdfResult<()>> {
        let stop = async move {
            let (stopped, report) = oneshot::channel();
            self.calls().stopped = Some(stopped);
            self.child.borrow_mut().link.send(&ToChild::Stop)?;
            // A process that does not end in order is killed.
            if let Ok(Ok(metrics)) = tokio::time::timeout(STOP, report).await {
                cx.metrics().add(&metrics);
            }
            Ok(())
        };
        stop.boxed_local()
    }
}

/// Tells the process to forget a call that has no answer when this is dropped.
struct Forget {
    replica: Rc<IsolatedAsync>,
    number: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let mut calls = self.replica.calls();
        let Some(waiting) = calls.waiting.get_mut(&self.number) else { return };
        waiting.forgotten = Some(Instant::now());
        drop(calls);
        // What cannot be told it has gone.
        let _ = self.replica.child.borrow_mut().link.send(&ToChild::Forget { number: self.number });
    }
}

/// Hands on what the process says until it says nothing more. One that does not even answer what it is to forget hangs: it
/// ends with the socket.
fn listen(mut link: Link, calls: &Mutex<Calls>) {
    let calls = || calls.lock().unwrap_or_else(PoisonError::into_inner);
    let why = loop {
        match link.receive(LOOK) {
            Ok(Some(FromChild::Done { number, outcome })) => {
                let answered = calls().waiting.remove(&number);
                if let Some(Waiting { files, done, .. }) = answered {
                    let _ = done.send((files, outcome)); // forgotten, or awaited
                }
            }
            Ok(Some(FromChild::Stopped(metrics))) => {
                if let Some(stopped) = calls().stopped.take() {
                    let _ = stopped.send(metrics);
                }
            }
            Ok(Some(_)) => (),
            Ok(None) => {
                let hangs = |waiting: &Waiting| waiting.forgotten.is_some_and(|since| since.elapsed() > GRACE);
                if calls().waiting.values().any(hangs) {
                    link.close();
                    break "a call blocked its thread".to_owned();
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    let mut calls = calls();
    calls.gone = Some(why);
    // Who waits hears that nothing comes.
    calls.waiting.clear();
}
