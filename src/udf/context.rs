//! What a UDF is handed: where it runs, where it reports, and the rows.

use std::cell::RefCell;
use std::fmt;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
#[cfg(feature = "gpu")]
use bytes::Bytes;
use polars::prelude::*;
use regatta_remote::{ActorRef, shorten};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::found::Found;
use super::{Call, Meter, UdfError, UdfResult, arrow::column_to_arrow};
use crate::actor::{Directory, LOOK_UP, RemoteActor};
use crate::sched::{QueryId, StageId, StepId, WorkerId};

/// Where a replica runs and for whom, and where it reports numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    seat: Arc<Seat>,
    /// Who calls. A replica may serve several queries.
    step: Option<StepId>,
    metrics: Meter,
    attempt: u32,
}

/// What a replica is told once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// For whom it is started; `None` where Polars calls the UDF itself.
    pub(crate) step: Option<StepId>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) rank: usize,
    pub(crate) replicas: usize,
    pub(crate) devices: Vec<u32>,
    /// Of its worker, until the replica has made a folder of its own in it.
    pub(crate) scratch: PathBuf,
}

/// The number of no step.
const IN_PLACE: u32 = u32::MAX;

impl Seat {
    pub(crate) fn of(
        step: StepId,
        rank: u32,
        worker: WorkerId,
        replicas: usize,
        devices: Vec<u32>,
        scratch: &Path,
    ) -> Self {
        Self {
            step: Some(step),
            worker: Some(worker),
            rank: rank as usize,
            replicas,
            devices,
            scratch: scratch.to_owned(),
        }
    }

    /// A call that Polars makes itself: one replica, next to whoever calls.
    pub(crate) fn in_place(task: Option<(QueryId, StageId, WorkerId)>, scratch: PathBuf) -> Self {
        Self {
            step: task.map(|(query, stage, _)| StepId { query, stage, step: IN_PLACE }),
            worker: task.map(|(_, _, worker)| worker),
            rank: 0,
            replicas: 1,
            devices: Vec::new(),
            scratch,
        }
    }

    /// Whether Polars makes the call itself, in a task.
    #[cfg(feature = "gpu")]
    pub(crate) fn is_in_place(&self) -> bool {
        self.step.is_some_and(|at| at.step == IN_PLACE)
    }
}

impl Context {
    pub(super) fn new(seat: &Arc<Seat>, metrics: &Meter) -> Self {
        Self { seat: Arc::clone(seat), step: seat.step, metrics: metrics.clone(), attempt: 1 }
    }

    /// The same, that reports elsewhere.
    pub(super) fn with_meter(&self, metrics: &Meter) -> Self {
        Self { metrics: metrics.clone(), ..self.clone() }
    }

    /// The query whose batch it is; in `start` and `stop` the one for which the replica was started, though others may use it
    /// too. `None` where Polars runs the query without a session.
    pub fn query(&self) -> Option<QueryId> {
        self.step.map(|step| step.query)
    }

    /// The stage of the query that calls.
    pub fn stage(&self) -> Option<StageId> {
        self.step.map(|step| step.stage)
    }

    /// This replica's number in its pool, from 0.
    pub fn rank(&self) -> usize {
        self.seat.rank
    }

    /// How many replicas the pool may have. How many there are varies while it runs.
    pub fn replicas(&self) -> usize {
        self.seat.replicas
    }

    /// The worker that this replica runs on.
    pub fn worker(&self) -> Option<WorkerId> {
        self.seat.worker
    }

    /// How often the batch at hand, or the row where a function on Rust values is called, has been tried, with this time: from 1.
    /// More than 1 only with [`Pool::max_retries`](super::Pool::max_retries).
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The GPUs that this replica was given, by their number on the worker.
    pub fn devices(&self) -> &[u32] {
        &self.seat.devices
    }

    /// A folder of this replica's own, removed with it: what one query leaves there, the next one finds, as `start` may want it. What
    /// is of one query alone, keep under its [`query`](Self::query), and remove it when the batch is done.
    pub fn scratch(&self) -> &Path {
        &self.seat.scratch
    }

    /// A number for this replica's random choices: the same each time that the replica is started for the same query,
    /// another one for each replica and query. What `start` is told is that of the query for which it starts.
    pub fn seed(&self) -> u64 {
        let of_nobody = StepId { query: QueryId(0), stage: StageId(0), step: 0 };
        let StepId { query, stage, step } = self.step.unwrap_or(of_nobody);
        // `DefaultHasher::new` has fixed keys.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u64(query.0);
        hasher.write_u32(stage.0);
        hasher.write_u32(step);
        hasher.write_usize(self.seat.rank);
        hasher.finish()
    }

    /// Where to report numbers. They come back with each reply and add up in [`Run::status`](crate::Run::status).
    ///
    /// Each batch counts once, and of a function on Rust values each row: what an attempt has reported that failed is dropped
    /// with it, also where a whole task runs again. What `start` and `stop` report counts for each replica that was started. Without a session nobody hears it.
    pub fn metrics(&self) -> &Meter {
        &self.metrics
    }
}

pub(super) fn no_directory() -> UdfError {
    UdfError::new("actors are found in replicas of a session, not where Polars evaluates the call itself")
}

/// What `start` is told, and where it reports progress.
pub struct Start {
    context: Context,
    directory: Directory,
    found: RefCell<Found>,
    report: Box<dyn FnMut(&str)>,
}

impl Start {
    pub(super) fn new(context: Context, directory: Directory, report: impl FnMut(&str) + 'static) -> Self {
        Self { context, directory, found: RefCell::default(), report: Box::new(report) }
    }

    /// Where this replica runs, and for whom.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// This replica's number in its pool, from 0.
    pub fn rank(&self) -> usize {
        self.context.rank()
    }

    /// Where to report numbers: see [`Context::metrics`].
    pub fn metrics(&self) -> &Meter {
        self.context.metrics()
    }

    /// The actor of that name, as [`Session::actor`](crate::Session::actor) finds it. Keep it in the state;
    /// [`run`](super::Udf::run) asks it by [`ask_blocking`](ActorRef::ask_blocking). When it has ended, or another has its name,
    /// the replica is started anew: before the first batch of each query, and before a batch is tried again.
    ///
    /// # Errors
    /// Nobody has the name, or an actor of another type; or Polars evaluates the call itself.
    pub fn actor<A: RemoteActor>(&self, name: &str) -> UdfResult<ActorRef<A>> {
        let (names, runtime) = self.directory.as_ref().ok_or_else(no_directory)?.names()?;
        let (found, result) = std::sync::mpsc::sync_channel(1);
        let asked = name.to_owned();
        runtime.spawn(async move { found.send(names.find(&asked, LOOK_UP).await) });
        let actor: ActorRef<A> = result.recv().map_err(|_| UdfError::new("the session is closed"))??;
        self.found.borrow_mut().add(name, actor.address());
        Ok(actor)
    }

    /// The actors that were found so far.
    pub(super) fn found(&self) -> Found {
        self.found.borrow().clone()
    }

    /// Runs `decode` so that handles of actors among a UDF's arguments can be used.
    pub(super) fn decoding<T>(&self, decode: impl FnOnce() -> T) -> T {
        match self.directory.as_ref().and_then(|directory| directory.receiver()) {
            Some(node) => node.decoding(decode),
            None => decode(),
        }
    }

    /// Says what is being done. It shows in the query's status, and the last such word stands in the error if the replica is
    /// not ready in time.
    pub fn progress(&mut self, doing: impl AsRef<str>) {
        (self.report)(&shorten(doing.as_ref()));
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("context", &self.context).finish_non_exhaustive()
    }
}

/// The input columns of one call, in the order in which [`Pool::on`](super::Pool::on) was given them; all of equal length.
#[derive(Debug, Clone)]
pub struct Batch {
    columns: DataFrame,
    call: Call,
    context: Context,
    /// What bounds the calls of an async UDF that its replica has in flight.
    slots: Arc<Semaphore>,
    /// What the columns lie in, where several batches do one after the other.
    #[cfg(feature = "gpu")]
    memory: Option<Bytes>,
}

impl Batch {
    pub(super) fn new(columns: DataFrame, call: Call, context: Context) -> Self {
        Self::with_slots(columns, call, context, Arc::new(Semaphore::new(1)))
    }

    pub(super) fn with_slots(columns: DataFrame, call: Call, context: Context, slots: Arc<Semaphore>) -> Self {
        let context = Context { step: call.of.or(context.step), attempt: call.attempt, ..context };
        Self {
            columns,
            call,
            context,
            slots,
            #[cfg(feature = "gpu")]
            memory: None,
        }
    }

    #[cfg(feature = "gpu")]
    pub(super) fn in_memory(self, memory: Option<Bytes>) -> Self {
        Self { memory, ..self }
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn memory(&self) -> Option<&Bytes> {
        self.memory.as_ref()
    }

    /// Another batch of the same call.
    #[cfg(feature = "gpu")]
    pub(crate) fn with_columns(&self, columns: DataFrame) -> Self {
        Self { columns, ..self.clone() }
    }

    /// Where this replica runs, and for whom.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where to report numbers: see [`Context::metrics`].
    pub fn metrics(&self) -> &Meter {
        self.context.metrics()
    }

    /// How often this batch has been tried: see [`Context::attempt`].
    pub fn attempt(&self) -> u32 {
        self.context.attempt()
    }

    pub(super) fn call(&self) -> Call {
        self.call
    }

    pub(super) fn slots(&self) -> &Semaphore {
        &self.slots
    }

    /// Rows in this batch.
    pub fn height(&self) -> usize {
        self.columns.height()
    }

    /// The input at `index`.
    ///
    /// # Errors
    /// There are fewer inputs.
    pub fn column(&self, index: usize) -> UdfResult<&Column> {
        self.columns.columns().get(index).ok_or_else(|| {
            UdfError::new(format!("input {index} was read, but the UDF was called on {}", self.columns.width()))
        })
    }

    /// All inputs as a Polars frame.
    pub fn frame(&self) -> &DataFrame {
        &self.columns
    }

    /// All inputs as an arrow-rs batch; buffers are shared, not copied.
    ///
    /// # Errors
    /// A dtype that arrow-rs does not have (128-bit integers, objects).
    pub fn record_batch(&self) -> UdfResult<RecordBatch> {
        let arrays = self.columns.columns().iter().map(column_to_arrow).collect::<UdfResult<Vec<_>>>()?;
        let names = self.columns.columns().iter().map(|c| c.name().as_str());
        Ok(RecordBatch::try_from_iter(names.zip(arrays))?)
    }
}

#[cfg(test)]
impl Batch {
    /// The only attempt at these columns.
    pub(crate) fn once(columns: DataFrame) -> Self {
        Self::tried(columns, Call::ONCE)
    }

    pub(super) fn tried(columns: DataFrame, call: Call) -> Self {
        let seat = Arc::new(Seat::in_place(None, PathBuf::new()));
        Self::new(columns, call, Context::new(&seat, &Meter::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_the_same_for_the_same_replica_and_no_other() {
        let context = |query, rank| {
            let step = StepId { query: QueryId(query), stage: StageId(0), step: 0 };
            let seat = Seat::of(step, rank, WorkerId(rank), 4, vec![rank, 7], Path::new(""));
            Context::new(&Arc::new(seat), &Meter::default())
        };
        assert_eq!(context(1, 2).seed(), context(1, 2).seed());
        assert_eq!(context(1, 2).devices(), [2, 7], "those that the scheduler gave it");
        let seeds: std::collections::BTreeSet<_> =
            (0..10).flat_map(|query| (0..10).map(move |rank| context(query, rank).seed())).collect();
        assert_eq!(seeds.len(), 100);
    }
}
