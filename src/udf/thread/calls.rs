//! The life of a replica that has many calls in flight.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::poll_fn;
use regatta_remote::catch;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tracing::Instrument;

use super::life::log_stop;
use super::{Call, Ends, Fault, Job, ReplicaSpec, Reply, Said, Tell, span_of};
use crate::udf::context::Seat;
use crate::udf::pool::IN_FLIGHT;
use crate::udf::registry::{AsyncReplica, Kind, as_high_as, open, panicked_in};
use crate::udf::{Batch, Context, Meter, Metrics, Start, UdfError, UdfResult};
use polars::prelude::DataFrame;

/// Starts the replica and serves its calls, on a runtime of its own, until nobody can call any more.
pub(super) fn live(spec: ReplicaSpec, seat: Arc<Seat>, inbox: mpsc::Receiver<Job>, mut tell: Tell) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(spec, seat, inbox, tell)),
        Err(error) => tell(Said::Started(Err(UdfError::new(format!("no runtime for the replica: {error}"))))),
    }
}

async fn serve(spec: ReplicaSpec, seat: Arc<Seat>, mut inbox: mpsc::Receiver<Job>, tell: Tell) {
    let slots = Arc::new(Semaphore::new(spec.options.in_flight.unwrap_or(IN_FLIGHT)));
    let tell = Rc::new(RefCell::new(tell));
    let life = Rc::new(Life {
        spec,
        seat,
        tell: Rc::clone(&tell),
        slots,
        running: Mutex::default(),
        ends: RefCell::default(),
        carried: RefCell::default(),
    });
    let started = life.start().await;
    let failed = started.is_err();
    match started {
        Ok(replica) => *life.running.lock().await = Some(replica),
        Err(error) => (tell.borrow_mut())(Said::Started(Err(error))),
    }
    if failed {
        return;
    }
    (tell.borrow_mut())(Said::Started(Ok(())));
    let (mut calls, mut served) = (JoinSet::new(), life.seat.step);
    while let Some(job) = inbox.recv().await {
        while calls.try_join_next().is_some() {}
        served = job.call.of.or(served);
        calls.spawn_local(Rc::clone(&life).answer(job));
    }
    // Nobody waits for them any more.
    calls.shutdown().await;
    let left = life.stop().await;
    (tell.borrow_mut())(Said::Stopped(served, left));
}

struct Life {
    spec: ReplicaSpec,
    seat: Arc<Seat>,
    tell: Rc<RefCell<Tell>>,
    slots: Arc<Semaphore>,
    /// `None` after a panic: what the panic left is not trusted. Locked while it is started anew.
    running: Mutex<Option<Rc<dyn AsyncReplica>>>,
    /// How often it has panicked.
    ends: RefCell<Ends>,
    /// What `start` has reported: goes with the next reply.
    carried: RefCell<Metrics>,
}

impl Life {
    async fn start(&self) -> UdfResult<Rc<dyn AsyncReplica>> {
        let meter = Meter::default();
        let tell = Rc::clone(&self.tell);
        let progress = move |doing: &str| (tell.borrow_mut())(Said::Progress(doing));
        let mut cx = Start::new(Context::new(&self.seat, &meter), self.spec.directory.clone(), progress);
        let Kind::Async(udf) = cx.decoding(|| open(&self.spec.udf, &self.spec.arguments))?.kind() else {
            return Err(UdfError::new("it is no async UDF"));
        };
        let started = fenced(udf.start(&mut cx)).await.unwrap_or_else(|panic| Err(panicked_in("start ", panic)))?;
        self.carried.borrow_mut().merge(&meter.take());
        Ok(started)
    }

    /// Answers a call, unless its asker is gone: then it is not begun, or dropped where it is.
    async fn answer(self: Rc<Self>, mut job: Job) {
        if !job.is_wanted() {
            return;
        }
        let Job { inputs, call, asker, began, done } = job;
        let run = async {
            // To start the replica anew is not part of the call's time.
            let replica = self.replica(call).await;
            began();
            self.run(replica?, inputs, call).await
        };
        tokio::select! {
            biased;
            _ = asker => (),
            result = run => done(result),
        }
    }

    async fn run(&self, replica: Rc<dyn AsyncReplica>, inputs: DataFrame, call: Call) -> Result<Reply, Fault> {
        let (meter, height) = (Meter::default(), inputs.height());
        let context = Context::new(&self.seat, &meter);
        let batch = Batch::with_slots(inputs, call, context, Arc::clone(&self.slots));
        let run = fenced(Rc::clone(&replica).run(batch)).instrument(span_of(call.of));
        let outcome = match call.timeout {
            None => run.await,
            Some(limit) => match tokio::time::timeout(limit, run).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(UdfError::timed_out(limit, "it was dropped").into()),
            },
        };
        let column = match outcome {
            Ok(result) => as_high_as(result?, height)?,
            Err(panic) => {
                let panic = panicked_in("", panic);
                self.ends.borrow_mut().note(call.of, panic.to_string());
                // Another call may have panicked too: only the first takes the replica away.
                let mut running = self.running.lock().await;
                if running.as_ref().is_some_and(|running| Rc::ptr_eq(running, &replica)) {
                    *running = None;
                }
                return Err(panic.into());
            }
        };
        let mut metrics = self.carried.take();
        metrics.merge(&meter.take());
        Ok(Reply { column, metrics })
    }

    async fn replica(&self, call: Call) -> UdfResult<Rc<dyn AsyncReplica>> {
        let mut running = self.running.lock().await;
        if let Some(replica) = &*running {
            return Ok(Rc::clone(replica));
        }
        if let Some(error) = self.ends.borrow().spent(call.of) {
            return Err(error);
        }
        let failed = |error: &UdfError| self.ends.borrow_mut().note(call.of, error.to_string());
        let replica = self.start().await.inspect_err(failed)?;
        *running = Some(Rc::clone(&replica));
        Ok(replica)
    }

    async fn stop(&self) -> Metrics {
        let meter = Meter::default();
        if let Some(replica) = self.running.lock().await.take() {
            let cx = Context::new(&self.seat, &meter);
            log_stop(fenced(replica.stop(&cx)).await);
        }
        let mut metrics = self.carried.take();
        metrics.merge(&meter.take());
        metrics
    }
}

/// A future whose panic is its text.
async fn fenced<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match catch(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
