//! The replicas that serve one stage, as its tasks on one worker see them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polars::prelude::{Column, DataFrame, DataType};
use regatta_remote::{ActorRef, AskError, LocalRef};
use tokio::sync::Notify;

use super::messages::{BatchAt, CallFailure, Evaluate, Evaluated, Place, ReplicaAt};
use super::{Host, UdfActor};
use crate::engine::{Called, Pools};
use crate::error::{PolarsFailure, TaskFailure};
use crate::os;
use crate::plan::UdfStep;
use crate::sched::{QueryId, ReplicaId, StageId, StepId};
use crate::store::{decode_frame, encode_frame};
use crate::udf::{Call, Deaths, Fault, PoolOptions, Reply, Retry, Router, UdfError, UdfResult};

/// How long a batch takes to a replica of another worker and back, at least, and for each byte.
const TRAVEL: Duration = Duration::from_millis(1);
const TRAVEL_NS_PER_BYTE: u64 = 2;

/// A call may take as long as it does, unless its author says otherwise: the end of the query or of the replica's worker ends it.
/// This is the longest time that a message can name, seven weeks.
const CALL: Duration = Duration::from_millis(u32::MAX as u64);

/// The pools of one stage on one worker: one for each UDF step.
pub(super) struct StagePools {
    host: Arc<Host>,
    here: Place,
    steps: Vec<StepPool>,
}

/// What a pool needs to know of its step.
pub(super) struct UdfOfStep {
    name: String,
    options: PoolOptions,
    dtype: DataType,
}

impl UdfOfStep {
    pub(super) fn of(step: &UdfStep) -> Self {
        Self { name: step.udf.clone(), options: step.options.clone(), dtype: step.output.1.clone() }
    }
}

struct StepPool {
    id: StepId,
    udf: UdfOfStep,
    seats: Mutex<Seats>,
    /// A credit came back, or a replica came.
    room: Notify,
    /// Batches that wait for one.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Seats {
    router: Router,
    replicas: Vec<Seat>,
    /// Why the pool is spent: the last replica that hung.
    hung: Option<usize>,
}

#[derive(Clone)]
struct Seat {
    at: ReplicaAt,
    local: Option<LocalRef<UdfActor>>,
}

impl StagePools {
    pub(super) fn new(
        host: Arc<Host>,
        here: Place,
        (query, stage): (QueryId, StageId),
        udfs: impl IntoIterator<Item = UdfOfStep>,
    ) -> Self {
        let steps = udfs.into_iter().enumerate().map(|(step, udf)| {
            let id = StepId { query, stage, step: step as u32 };
            let seats = Seats { router: Router::with_credits(udf.options.in_flight), ..Seats::default() };
            StepPool { id, udf, seats: Mutex::new(seats), room: Notify::new(), waiting: AtomicUsize::new(0) }
        });
        Self { host, here, steps: steps.collect() }
    }

    /// Adds a replica, or takes one in again that was thought lost. `local`: it runs in this process.
    pub(super) fn add(&self, at: ReplicaAt, local: Option<LocalRef<UdfActor>>) {
        let Some(step) = self.steps.get(at.step.step as usize) else { return };
        let mut seats = step.seats();
        match seats.replicas.iter().position(|seat| seat.at.replica == at.replica) {
            Some(known) => seats.router.set_gone(known, false),
            None => {
                seats.router.add(local.is_some());
                seats.replicas.push(Seat { at, local });
            }
        }
        drop(seats);
        step.room.notify_waiters();
    }

    /// A replica will be stopped: it gets no further batch.
    pub(super) fn dismiss(&self, replica: ReplicaId) {
        for step in &self.steps {
            let mut seats = step.seats();
            if let Some(known) = seats.replicas.iter().position(|seat| seat.at.replica == replica) {
                seats.router.set_gone(known, true);
                drop(seats);
                step.room.notify_waiters();
            }
        }
    }

    /// For each step, how many batches wait for room at a replica.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> + '_ {
        self.steps.iter().map(|step| step.waiting.load(Ordering::Relaxed))
    }

    /// Runs a batch until it succeeds, or is tried for the last time. The wait between attempts is here, where no replica is
    /// held up and the query's end drops it.
    async fn call(&self, step: usize, inputs: DataFrame, by: (u32, u32)) -> Result<Called, TaskFailure> {
        let unknown = || TaskFailure::Panicked(format!("step {step} has no pool"));
        let step = self.steps.get(step).ok_or_else(unknown)?;
        let UdfOfStep { name, options, dtype } = &step.udf;
        let (mut retry, mut deaths, mut again) = (Retry::new(options, Some(step.id), Some(by)), Deaths::default(), 0);
        let mut busy = Duration::ZERO;
        let (seat, error) = loop {
            let rows = retry.rows(&inputs).map_err(PolarsFailure::from)?;
            let (seat, result) = self.attempt(step, &rows, deaths.before(retry.call())).await?;
            let answered = result.and_then(|(reply, took)| {
                busy += took;
                Ok(retry.answered(reply, dtype)?)
            });
            let error = match answered {
                Ok(reply) => return Ok(Called { reply, busy, again }),
                Err(Fault::Failed(error)) => error,
                Err(Fault::Died(why)) => match deaths.another(&why, &rows) {
                    Some(error) => break (seat, error),
                    None => {
                        again += 1;
                        continue;
                    }
                },
            };
            again += 1;
            match retry.failed(&error) {
                Some(delay) => {
                    tracing::debug!(udf = name, ?delay, %error, "a batch will be tried again");
                    tokio::time::sleep(delay).await;
                }
                None => break (seat, error),
            }
        };
        let settled = retry.settle(name, error, inputs.height(), dtype);
        let reply = settled.map_err(|error| step.failed(&seat, error))?;
        Ok(Called { reply, busy, again: again - 1 })
    }

    /// One attempt: what the UDF did, and where. A replica that is lost, or hung before it began, is not an attempt: the batch
    /// goes to another one, so it may run more than once.
    async fn attempt(
        &self,
        step: &StepPool,
        inputs: &DataFrame,
        call: Call,
    ) -> Result<(Seat, Result<(Reply, Duration), Fault>), TaskFailure> {
        loop {
            let (seat, credit) = step.credit(inputs).await?;
            let fault = match self.evaluate(&seat, inputs, call).await {
                Ok(reply) => return Ok((seat, Ok(reply))),
                Err(CallEnd::Replica(CallFailure::Failed(error))) => Fault::Failed(error),
                Err(CallEnd::Replica(CallFailure::Died(why))) => {
                    let (udf, rank, worker) = (&step.udf.name, seat.at.replica.rank, seat.at.place.worker);
                    tracing::warn!(udf, rank, %worker, why, "a replica's process has died with a batch in it");
                    Fault::Died(why)
                }
                Err(CallEnd::Replica(CallFailure::Hung)) => {
                    step.retire(&credit, &seat);
                    continue;
                }
                Err(CallEnd::Replica(CallFailure::TimedOut)) => {
                    step.retire(&credit, &seat);
                    let then = "its replica hangs in it and is not used again";
                    Fault::Failed(UdfError::timed_out(call.timeout.unwrap_or_default(), then))
                }
                Err(CallEnd::Replica(CallFailure::NotFetched(why)) | CallEnd::Lost(why)) => {
                    let (udf, rank, worker) = (&step.udf.name, seat.at.replica.rank, seat.at.place.worker);
                    tracing::warn!(udf, rank, %worker, why, "a replica is lost; its batch goes to another");
                    step.lose(&credit);
                    continue;
                }
                // As when another one's worker was lost, and the stage begins anew: its own worker is not to blame.
                Err(CallEnd::Stopped) => {
                    let (udf, rank, worker) = (&step.udf.name, seat.at.replica.rank, seat.at.place.worker);
                    tracing::warn!(udf, rank, %worker, "a replica was stopped; its batch goes to another");
                    step.lose(&credit);
                    continue;
                }
                Err(CallEnd::Task(failure)) => return Err(failure),
            };
            return Ok((seat, Err(fault)));
        }
    }

    async fn evaluate(&self, seat: &Seat, inputs: &DataFrame, call: Call) -> Result<(Reply, Duration), CallEnd> {
        let reply = match &seat.local {
            Some(actor) => actor.ask(Evaluate { inputs: BatchAt::Here(inputs.clone()), call }, CALL).await,
            None => {
                let bytes = encode_frame(inputs).map_err(PolarsFailure::from).map_err(TaskFailure::from)?;
                // Taken back if the call is cancelled before the replica has fetched it.
                let offer = self.host.store.offer(bytes, seat.at.place.node.map(|(node, _)| node));
                let actor: ActorRef<UdfActor> = self.host.replica(&seat.at.place, seat.at.actor).await?;
                actor.ask(Evaluate { inputs: BatchAt::There(self.here, offer.ticket()), call }, CALL).await
            }
        };
        match reply? {
            Ok(Evaluated { column, report, busy }) => {
                let column = one_column(self.result(column).await?);
                let column = column.map_err(|error| CallEnd::Replica(CallFailure::Failed(error)))?;
                Ok((Reply { column, report }, busy))
            }
            Err(failure) => Err(CallEnd::Replica(failure)),
        }
    }

    async fn result(&self, reply: BatchAt) -> Result<DataFrame, TaskFailure> {
        match reply {
            BatchAt::Here(frame) => Ok(frame),
            BatchAt::There(place, ticket) => {
                let bytes = self.host.fetch(&place, ticket).await?;
                Ok(decode_frame(bytes).map_err(PolarsFailure::from)?)
            }
        }
    }
}

fn one_column(frame: DataFrame) -> UdfResult<Column> {
    let got = frame.width();
    let column = frame.into_columns().pop().filter(|_| got == 1);
    column.ok_or_else(|| UdfError::new(format!("the reply has {got} columns")))
}

impl Pools for StagePools {
    fn call(
        &self,
        step: usize,
        inputs: DataFrame,
        by: (u32, u32),
    ) -> Pin<Box<dyn Future<Output = Result<Called, TaskFailure>> + Send + '_>> {
        Box::pin(self.call(step, inputs, by))
    }
}

impl StepPool {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, seat: &Seat, error: UdfError) -> TaskFailure {
        let (rank, worker) = (seat.at.replica.rank, seat.at.place.worker.to_string());
        TaskFailure::Udf { udf: self.udf.name.clone(), rank, worker, error }
    }

    /// Why there is no replica to wait for.
    fn spent(&self, seats: &Seats) -> TaskFailure {
        let Some(hung) = seats.hung.and_then(|hung| seats.replicas.get(hung)) else {
            let why = "all its replicas are lost".to_owned();
            return TaskFailure::Transfer { from: format!("the pool of UDF {}", self.udf.name), why };
        };
        let text = "no replica is left for the next batch: each hangs in a call that ran longer than its timeout. Raise \
                    .timeout(..), or make them .isolated(): a process that hangs is killed, and another takes its place";
        self.failed(hung, UdfError::new(text))
    }

    /// A replica hangs: it gets no further batch, and whoever waits for room looks again.
    fn retire(&self, at: &Credit<'_>, seat: &Seat) {
        let (udf, rank, worker) = (&self.udf.name, seat.at.replica.rank, seat.at.place.worker);
        tracing::warn!(udf, rank, %worker, "a replica hangs in a call longer than its timeout; it is not used again");
        let mut seats = self.seats();
        seats.router.retire(at.index);
        seats.hung = Some(at.index);
        drop(seats);
        self.room.notify_waiters();
    }

    /// A replica is lost, or was stopped: its batch goes to another, until the scheduler says that it is there again.
    fn lose(&self, at: &Credit<'_>) {
        self.seats().router.set_gone(at.index, true);
        self.room.notify_waiters();
    }

    /// Waits for a replica with room. The query's end cancels the wait; it shows in the status as a running task.
    ///
    /// # Errors
    /// Every replica hangs in an earlier call, or is lost. Those that may still be starting are not waited for.
    async fn credit(&self, inputs: &DataFrame) -> Result<(Seat, Credit<'_>), TaskFailure> {
        let (rows, bytes) = (inputs.height(), inputs.estimated_size() as u64);
        let travel = TRAVEL + Duration::from_nanos(bytes.saturating_mul(TRAVEL_NS_PER_BYTE));
        // A batch waits no longer for a replica here than it would travel to another.
        let patient = os::now() + travel;
        loop {
            let room = self.room.notified(); // before the look: it hears every later change
            let waits_here = os::now() < patient;
            {
                let mut seats = self.seats();
                if let Some(index) = seats.router.acquire(rows, if waits_here { travel } else { Duration::ZERO }) {
                    let credit = Credit { step: self, index, rows, since: os::now() };
                    return Ok((seats.replicas[index].clone(), credit));
                }
                if seats.router.is_empty() {
                    return Err(self.spent(&seats));
                }
            }
            let _waits = Waits::new(&self.waiting);
            match waits_here {
                true => drop(tokio::time::timeout_at(patient.into(), room).await),
                false => room.await,
            }
        }
    }
}

/// Counts a batch that waits, for as long as it does.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a call ended that has no result.
enum CallEnd {
    /// The replica says so.
    Replica(CallFailure),
    /// The way to the replica.
    Lost(String),
    /// The replica was stopped.
    Stopped,
    /// Here.
    Task(TaskFailure),
}

impl From<TaskFailure> for CallEnd {
    fn from(failure: TaskFailure) -> Self {
        if failure.is_retryable() { Self::Lost(failure.to_string()) } else { Self::Task(failure) }
    }
}

impl From<AskError> for CallEnd {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NotConnected | AskError::ConnectionLost { .. } => Self::Lost(error.to_string()),
            AskError::NoSuchActor | AskError::NoReply | AskError::Stopped => Self::Stopped,
            AskError::Panicked { text } => Self::Task(TaskFailure::Panicked(text)),
            // Not the UDF's failure, so its retries and its policy have no say: the task is tried again.
            error => Self::Task(TaskFailure::Transfer { from: "a UDF replica".to_owned(), why: error.to_string() }),
        }
    }
}

/// A place at a replica; given back on drop, however the call ended.
struct Credit<'a> {
    step: &'a StepPool,
    index: usize,
    rows: usize,
    since: Instant,
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.step.seats().router.release(self.index, self.rows, os::since(self.since));
        // All: one that waits for a replica here leaves what came free elsewhere to others.
        self.step.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_timeout_is_cut_by_no_time_of_ours() {
        assert_eq!(CALL.as_millis(), u128::from(u32::MAX), "the most that the header of a message holds");
    }

    /// `on_error(Null)` is about what the UDF did: a batch that was not run must never become nulls.
    #[test]
    fn a_call_that_did_not_reach_the_udf_is_no_failure_of_the_udf() {
        assert!(matches!(CallEnd::from(AskError::NotConnected), CallEnd::Lost(_)));
        for error in [AskError::NoSuchActor, AskError::Stopped, AskError::NoReply] {
            // Its worker is there, and nobody is to say otherwise.
            assert!(matches!(CallEnd::from(error), CallEnd::Stopped));
        }
        for error in [AskError::Busy, AskError::Deadline, AskError::BadReply { text: String::new() }] {
            assert!(matches!(CallEnd::from(error), CallEnd::Task(failure) if failure.is_retryable()));
        }
        let panicked = CallEnd::from(AskError::Panicked { text: "a bug of ours".to_owned() });
        assert!(matches!(panicked, CallEnd::Task(TaskFailure::Panicked(_))));
    }
}
