//! The life of a replica that has many calls in flight.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::poll_fn;
use regatta_remote::catch;
use tokio::sync::{Mutex, RwLock, Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::ending::{AtRest, ends};
use super::life::log_stop;
use super::{Call, Ends, Fault, Job, ReplicaSpec, Reply, Said, Tell};
use crate::udf::context::Seat;
use crate::udf::drive::drive;
use crate::udf::found::Keeps;
use crate::udf::isolate::{Ended, IsolatedAsync};
use crate::udf::pool::IN_FLIGHT;
use crate::udf::registry::{AsyncReplica, Kind, as_high_as, open, panicked_in};
use crate::udf::{Batch, Context, Meter, Metrics, Report, Start, UdfError, UdfResult};
use polars::prelude::DataFrame;

/// Starts the replica and serves its calls, on a runtime of its own, until nobody can call any more.
pub(super) fn live(spec: ReplicaSpec, seat: Arc<Seat>, inbox: mpsc::Receiver<Job>, tell: Tell) {
    let tell = Rc::new(RefCell::new(tell));
    if let Err(error) = drive(serve(spec, seat, inbox, Rc::clone(&tell))) {
        (tell.borrow_mut())(Said::Started(Err(UdfError::new(format!("no runtime for the replica: {error}")))));
    }
}

async fn serve(spec: ReplicaSpec, seat: Arc<Seat>, mut inbox: mpsc::Receiver<Job>, tell: Rc<RefCell<Tell>>) {
    let slots = Arc::new(Semaphore::new(spec.options.in_flight.unwrap_or(IN_FLIGHT)));
    let life = Rc::new(Life {
        spec,
        seat,
        tell: Rc::clone(&tell),
        slots,
        running: Mutex::default(),
        crowd: RwLock::default(),
        ends: RefCell::default(),
        carried: RefCell::default(),
        keeps: RefCell::default(),
    });
    let started = tokio::select! {
        biased;
        started = life.start().instrument(life.spec.span(life.seat.step, None)) => started,
        () = nobody_calls(&inbox) => return,
    };
    let failed = started.is_err();
    match started {
        Ok(replica) => *life.running.lock().await = Some(replica),
        Err(error) => (tell.borrow_mut())(Said::Started(Err(error))),
    }
    if failed {
        return;
    }
    (tell.borrow_mut())(Said::Started(Ok(())));
    let (mut calls, mut served, mut ends) = (JoinSet::new(), life.seat.step, ends());
    // Calls in flight are dropped when the process ends.
    let _rest = AtRest::new();
    while let Some(job) = tokio::select! {
        biased;
        _ = ends.wait_for(|ends| *ends) => None,
        job = inbox.recv() => job,
    } {
        while calls.try_join_next().is_some() {}
        served = job.call.of.or(served);
        let span = life.spec.span(served, job.call.by);
        calls.spawn_local(Rc::clone(&life).answer(job).instrument(span));
    }
    // Nobody waits for them any more.
    calls.shutdown().await;
    let left = life.stop().instrument(life.spec.span(served, None)).await;
    (tell.borrow_mut())(Said::Stopped(served, left));
}

/// Ends when nobody can call any more.
async fn nobody_calls(inbox: &mpsc::Receiver<Job>) {
    while !inbox.is_closed() {
        tokio::time::sleep(LOOK).await;
    }
}

/// How often is looked whether a replica that starts is still wanted.
const LOOK: Duration = Duration::from_millis(20);

struct Life {
    spec: ReplicaSpec,
    seat: Arc<Seat>,
    tell: Rc<RefCell<Tell>>,
    slots: Arc<Semaphore>,
    /// `None` after a panic or a death: what the panic left is not trusted. Locked while it is started anew.
    running: Mutex<Option<Rc<dyn AsyncReplica>>>,
    /// Calls share it; one that is to be alone has it for itself.
    crowd: RwLock<()>,
    /// How often it has panicked or died.
    ends: RefCell<Ends>,
    /// What `start` has reported: goes with the next reply.
    carried: RefCell<Metrics>,
    /// And found.
    keeps: RefCell<Keeps>,
}

impl Life {
    async fn start(&self) -> UdfResult<Rc<dyn AsyncReplica>> {
        let meter = Meter::default();
        let tell = Rc::clone(&self.tell);
        let progress = move |doing: &str| (tell.borrow_mut())(Said::Progress(doing));
        if self.spec.options.isolated {
            let (spec, seat) = (self.spec.clone(), Arc::clone(&self.seat));
            let (started, metrics, found) = IsolatedAsync::start(spec, seat, progress).await?;
            self.carried.borrow_mut().merge(&metrics);
            *self.keeps.borrow_mut() = Keeps::new(found);
            return Ok(started);
        }
        let mut cx = Start::new(Context::new(&self.seat, &meter), self.spec.directory.clone(), progress);
        let Kind::Async(udf) = cx.decoding(|| open(&self.spec.udf, &self.spec.arguments))?.kind() else {
            return Err(UdfError::new("it is no async UDF"));
        };
        let started = fenced(udf.start(&mut cx)).await.unwrap_or_else(|panic| Err(panicked_in("start ", panic)))?;
        self.carried.borrow_mut().merge(&meter.take());
        *self.keeps.borrow_mut() = Keeps::new(cx.found());
        Ok(started)
    }

    /// Answers a call, unless its asker is gone: then it is not begun, or dropped where it is.
    async fn answer(self: Rc<Self>, mut job: Job) {
        if !job.is_wanted() {
            return;
        }
        let Job { inputs, call, asker, began, done } = job;
        let run = async {
            self.leave_what_has_outlived(call).await;
            let _beside_others = if call.alone { None } else { Some(self.crowd.read().await) };
            let _alone = if call.alone { Some(self.crowd.write().await) } else { None };
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

    /// Ends the replica, once its calls have ended, if it has outlived an actor that it found in `start`.
    async fn leave_what_has_outlived(&self, call: Call) {
        let to_look_at = self.keeps.borrow().to_look_at(call);
        let Some(found) = to_look_at else { return };
        let stands = found.clone().stands(&self.spec.directory).await;
        if stands {
            return self.keeps.borrow().looked(call);
        }
        let _alone = self.crowd.write().await;
        // Another call may have done it meanwhile.
        if self.keeps.borrow().to_look_at(call) == Some(found) {
            tracing::debug!("an actor that it has found has ended: starts anew");
            *self.keeps.borrow_mut() = Keeps::default();
            let left = self.stop().await;
            self.carried.borrow_mut().merge(&left);
        }
    }

    async fn run(&self, replica: Rc<dyn AsyncReplica>, inputs: DataFrame, call: Call) -> Result<Reply, Fault> {
        let (meter, height) = (Meter::default(), inputs.height());
        let context = Context::new(&self.seat, &meter);
        let batch = Batch::with_slots(inputs, call, context, Arc::clone(&self.slots));
        let run = fenced(Rc::clone(&replica).run(batch));
        // Of a process, its proxy looks after the time.
        let outcome = match call.timeout.filter(|_| !self.spec.options.isolated) {
            None => run.await,
            Some(limit) => match tokio::time::timeout(limit, run).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Err(Ended::Late)),
            },
        };
        let outcome = outcome.unwrap_or_else(|panic| Err(Ended::Failed(panicked_in("", panic), true)));
        let column = match outcome {
            Ok(column) => as_high_as(column, height)?,
            Err(Ended::Failed(error, panicked)) => {
                if panicked {
                    self.take_away(&replica, call, error.to_string()).await;
                }
                return Err(error.into());
            }
            Err(Ended::Died(why) | Ended::DiedBefore(why)) => {
                self.take_away(&replica, call, why.clone()).await;
                return Err(Fault::Died(why));
            }
            Err(Ended::Late) => {
                let limit = call.timeout.unwrap_or_default();
                return Err(UdfError::timed_out(limit, "it was dropped").into());
            }
        };
        let (mut metrics, report) = (self.carried.take(), meter.report_of_call());
        metrics.merge(&report.metrics);
        Ok(Reply { column, report: Report { metrics, ..report } })
    }

    async fn replica(&self, call: Call) -> UdfResult<Rc<dyn AsyncReplica>> {
        let mut running = self.running.lock().await;
        // A process that has ended while it had nothing to do has ended of no batch.
        running.take_if(|replica| replica.has_ended());
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

    /// The replica has ended in one of its calls. Of several that see it, the first takes it away; those that run go on in it.
    async fn take_away(&self, replica: &Rc<dyn AsyncReplica>, call: Call, why: String) {
        let mut running = self.running.lock().await;
        if running.as_ref().is_some_and(|running| Rc::ptr_eq(running, replica)) {
            *running = None;
            self.ends.borrow_mut().note(call.of, why);
        }
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
pub(in crate::udf) async fn fenced<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match catch(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
