//! An async replica, in its process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument;

use super::super::slab::{Known, Visit};
use super::super::wire::{FromChild, Link, Outcome, StartChild, ToChild};
use super::entry::Entry;
use super::{Reported, leave, say_ended, told, unseen};
use crate::udf::context::Seat;
use crate::udf::drive::drive;
use crate::udf::isolate::Ended;
use crate::udf::registry::{AsyncReplica, Kind, open, panicked_in};
use crate::udf::thread::{fenced, log_stop};
use crate::udf::{Batch, Call, Context, Meter, UdfError, UdfResult};

/// Serves its calls, on a runtime of its own.
pub(super) fn serve(
    start: StartChild,
    words: Rc<RefCell<Link>>,
    inbox: &mut UnboundedReceiver<ToChild>,
    entry: &Arc<Entry>,
) -> io::Result<()> {
    drive(answer_all(start, words, inbox, entry))?
}

async fn answer_all(
    start: StartChild,
    words: Rc<RefCell<Link>>,
    inbox: &mut UnboundedReceiver<ToChild>,
    entry: &Arc<Entry>,
) -> io::Result<()> {
    let say = |word: FromChild| words.borrow_mut().send(&word);
    let begun = begin(&start, &words, entry).instrument(start.span(None, None)).await;
    let running = match begun {
        Ok((replica, reported)) => {
            say(FromChild::Started(Ok(reported)))?;
            let (slots, seat) = (Arc::new(Semaphore::new(start.in_flight)), Arc::new(start.seat.clone()));
            let words = Rc::clone(&words);
            Rc::new(Running { replica, seat, slots, words, slabs: RefCell::default(), calls: RefCell::default() })
        }
        Err(error) => return say(FromChild::Started(Err(error))),
    };
    let mut tasks = JoinSet::new();
    while let Some(word) = inbox.recv().await {
        while tasks.try_join_next().is_some() {}
        match word {
            ToChild::Run { number, call, inputs, noted } => {
                crate::spans::note(noted);
                let visit = running.slabs.borrow_mut().open(inputs);
                let span = start.span(call.of, call.by);
                let task = tasks.spawn_local(Rc::clone(&running).answer(number, call, visit).instrument(span));
                running.calls.borrow_mut().insert(number, task);
            }
            ToChild::Forget { number } => {
                // Not there any more: it has its answer.
                if let Some(call) = running.calls.borrow_mut().remove(&number) {
                    call.abort();
                    let outcome = Err((UdfError::new("it was forgotten"), false));
                    // The slab goes with the call.
                    say(FromChild::Done { number, outcome, spent: true })?;
                }
            }
            // Goes to who waits for it.
            ToChild::Admitted(_) => (),
            ToChild::Stop | ToChild::Start(_) => break,
        }
    }
    // Nobody waits for them any more, and the replica is not stopped while one holds on to it.
    tasks.shutdown().await;
    let meter = Meter::default();
    if let Some(Running { replica, seat, .. }) = Rc::into_inner(running) {
        log_stop(fenced(replica.stop(&Context::new(&seat, &meter))).await);
    }
    say_ended(&words)?;
    say(FromChild::Stopped(meter.take()))
}

async fn begin(
    start: &StartChild,
    words: &Rc<RefCell<Link>>,
    entry: &Arc<Entry>,
) -> UdfResult<(Rc<dyn AsyncReplica>, Reported)> {
    let meter = Meter::default();
    let mut cx = told(start, words, entry, &meter);
    let Kind::Async(udf) = cx.decoding(|| open(&start.udf, &start.arguments))?.kind() else {
        return Err(UdfError::new("it is no async UDF"));
    };
    let started = fenced(udf.start(&mut cx)).await.unwrap_or_else(|panic| Err(panicked_in("start ", panic)))?;
    Ok((started, (meter.take(), cx.found())))
}

struct Running {
    replica: Rc<dyn AsyncReplica>,
    seat: Arc<Seat>,
    slots: Arc<Semaphore>,
    words: Rc<RefCell<Link>>,
    slabs: RefCell<Known>,
    /// Those that have no answer yet.
    calls: RefCell<HashMap<u64, AbortHandle>>,
}

impl Running {
    async fn answer(self: Rc<Self>, number: u64, call: Call, visit: io::Result<Visit>) {
        let (outcome, spent) = match visit {
            Ok(mut visit) => {
                let outcome = self.run(&mut visit, call).await;
                (outcome, self.slabs.borrow_mut().close(visit))
            }
            Err(error) => (Err((unseen(&error), false)), true),
        };
        self.calls.borrow_mut().remove(&number);
        // A parent that cannot be told has gone, and this process goes with it.
        let _ = say_ended(&self.words);
        let _ = self.words.borrow_mut().send(&FromChild::Done { number, outcome, spent });
    }

    async fn run(&self, visit: &mut Visit, call: Call) -> Outcome {
        let meter = Meter::default();
        let inputs = visit.inputs().map_err(|error| (error.into(), false))?;
        let batch = Batch::with_slots(inputs, call, Context::new(&self.seat, &meter), Arc::clone(&self.slots));
        let result = match fenced(Rc::clone(&self.replica).run(batch)).await {
            Ok(Ok(column)) => Ok(column),
            Ok(Err(Ended::Failed(error, panicked))) => return Err((error, panicked)),
            Ok(Err(Ended::Died(why) | Ended::DiedBefore(why))) => Err(UdfError::new(why)),
            Ok(Err(Ended::Late)) => Err(UdfError::new("it was forgotten")),
            Err(panic) => return Err((panicked_in("", panic), true)),
        };
        let place = leave(result, visit).map_err(|error| (error, false))?;
        Ok((meter.report_of_call(), place))
    }
}
