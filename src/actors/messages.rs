//! Every message between the actors, and from whom it comes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use polars::prelude::DataFrame;
use regatta_observe::{LogFilter, LogPage, Profile, Progress, Sample, SpanPage, Spent};
use regatta_remote::{ActorId, ActorRef, Address, NodeId, Publication, Role, messages};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::feed::Feed;
use super::leaving::{Departs, TakeOver, TookOver};
use super::{GatewayActor, SchedulerActor, SwordfishActor, UdfActor};
use crate::actor::ActorSpec;
use crate::error::{ActorError, ClusterError, Error};
use crate::plan::{Fragment, QueryPlan, Split, StageProgram};
use crate::sched::{
    Attempt, GpuInfo, Outcome, Output, PartitionId, QueryId, QueryStatus, ReplicaId, Resources, SessionStatus, Sizes,
    StageId, StepId, TaskId, WorkerId,
};
use crate::store::{Rows, Ticket};
use crate::udf::{Call, Fault, Metrics, MetricsByUdf, PoolOptions, Report, UdfError};

/// Declares what an actor takes from other processes, from nodes of which roles, and of what the sender may speak. The roles are
/// checked before the message is decoded; the rest its handler checks, by [`Sender`](regatta_remote::Sender). `docs/book/src/semantics.md`
/// has the whole as a table.
macro_rules! takes {
    ($($actor:ident, $name:literal {
        $($id:literal $message:ident from [$($role:ident),+], $of:literal => $reply:ty,)*
    })*) => {
        messages! { $($($id $message => $reply,)*)* }

        $(impl $actor {
            /// Names the messages that it takes from other processes.
            pub(super) fn taking(published: Publication<Self>) -> Publication<Self> {
                published$(.on::<$message>(&[$(Role::$role),+]))*
            }
        })*

        /// The table of it all.
        #[cfg(test)]
        pub(super) const TABLE: &[super::ownership::Line] = &[$($(super::ownership::Line {
            to: $name,
            message: stringify!($message),
            from: &[$(Role::$role),+],
            of: $of,
            send: super::ownership::send::<$id>,
        },)*)*];
    };
}

takes! {
    SchedulerActor, "scheduler" {
        0x0101 Register from [Worker], "itself, once, under a number that nobody else has or was given" => Result<(), ClusterError>,
        0x0102 TasksEnded from [Worker], "attempts that run on it" => (),
        0x0103 ReplicaSays from [Worker], "replicas that are on it" => (),
        0x0104 CreditWaits from [Worker], "its own batches" => (),
        0x0107 ActorEnded from [Worker], "actors that are on it" => (),
        0x0113 TookOver from [Worker], "what it was to take over" => (),
        0x0114 Departs from [Worker], "itself" => bool,
        0x010c Locate from [Worker], "any query, for a task of the same driver" => Located,
        0x0105 SpawnActor from [Driver], "an actor of its own" => Result<Hosted, ActorError>,
        0x0106 StopActor from [Driver], "actors that it has started" => Result<(), ActorError>,
        0x0109 Status from [Driver], "its own queries" => Option<QueryStatus>,
        0x010e ProfileOf from [Driver], "its own queries, also when they have ended" => Option<Box<Profile>>,
        0x010f ProgressOf from [Driver], "its own queries, also when they have ended" => Option<Box<Progress>>,
        0x0112 Known from [Driver], "its own queries, also when they have ended" => Vec<QueryId>,
        0x010a WholeStatus from [Driver], "the whole cluster, without what others read or make" => SessionStatus,
        0x0110 Find from [Driver], "its own queries" => Found,
        0x0111 Taken from [Driver], "its own queries" => (),
    }
    SwordfishActor, "swordfish" {
        0x0201 Prepare from [Head], "all" => (),
        0x0202 RunTasks from [Head], "all" => (),
        0x0203 StartReplica from [Head], "all" => (),
        0x0204 StopReplica from [Head], "all" => (),
        0x0205 Serve from [Head], "all" => (),
        0x0206 End from [Head], "all" => (),
        0x0207 Gone from [Head], "all" => (),
        0x0208 Enough from [Head], "all" => (),
        0x0209 Dismiss from [Head], "all" => (),
        0x020a HostActor from [Head], "all" => Result<Hosted, ActorError>,
        0x020b DropActor from [Head], "all" => bool,
        0x020c Withdraw from [Head], "all" => (),
        0x0210 DropStage from [Head], "all" => (),
        0x0211 TakeOver from [Head], "all" => (),
        0x0212 LogsOf from [Head], "all" => LogPage,
        0x0213 SpansOf from [Head], "all" => SpanPage,
    }
    UdfActor, "replica" {
        0x0301 Evaluate from [Worker], "a batch that it holds" => Result<Evaluated, CallFailure>,
    }
    GatewayActor, "gateway" {
        0x0401 Enrol from [Worker], "itself: a node has one number" => Result<WorkerId, ClusterError>,
        0x0404 Admit from [Worker], "a process of its own, which enters as a guest" => Result<String, ClusterError>,
        0x0402 SubmitFrom from [Driver], "a query of its own, under a number that nobody has, which reads what it has persisted" => Result<(), ClusterError>,
        0x0403 Hear from [Driver], "its own queries" => Result<Vec<RunEvent>, ClusterError>,
        0x0108 Release from [Driver], "its own queries" => (),
    }
}

/// A worker, as other processes find it. Without a node it is in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) worker: WorkerId,
    pub(crate) node: Option<(NodeId, SocketAddr)>,
}

/// A worker joins: its swordfish takes messages already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Register {
    pub(crate) worker: WorkerId,
    pub(crate) capacity: Resources,
    /// What its GPUs are, by their number, or why it has none: for people. What counts is the capacity.
    pub(crate) devices: Result<Vec<GpuInfo>, String>,
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
}

/// An attempt of a task has ended: its one and only end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskEnded {
    pub(crate) task: TaskId,
    pub(crate) attempt: Attempt,
    pub(crate) outcome: Outcome,
    /// Of the result of a query.
    pub(crate) rows: Rows,
    /// Bytes of what it has left in sections, in each.
    pub(crate) sections: Sizes,
    /// What its UDF calls have reported.
    pub(crate) metrics: MetricsByUdf,
    /// How long it ran, in nanoseconds.
    pub(crate) ran: u64,
}

/// Attempts of tasks that have ended on one worker, in this order; it is said again and again while some run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TasksEnded {
    pub(crate) ended: Vec<TaskEnded>,
    /// What they took, those of one stage together.
    pub(crate) spent: Vec<(QueryId, StageId, Spent)>,
    /// What the worker's process uses, now and then.
    pub(crate) sample: Option<(WorkerId, Sample)>,
}

/// A replica reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicaSays {
    pub(crate) replica: ReplicaId,
    pub(crate) word: Word,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Word {
    Progress(String),
    /// It takes batches, at this actor of its node.
    Ready(ActorId),
    /// It has had nothing to do for a while, or has something to do again.
    Idle(bool),
    Failed(UdfError),
    /// It hangs in a call that took longer than it may.
    Hung,
    /// It does not come back from a call that nobody waits for any more.
    Stuck,
    /// It has ended in order; what it still had to report, to the step that it served last.
    Stopped(StepId, Metrics),
    /// Its thread has ended.
    Ended,
}

/// Batches of tasks on this worker wait for room at a replica; 0: no longer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct CreditWaits {
    pub(crate) worker: WorkerId,
    pub(crate) step: StepId,
    pub(crate) batches: usize,
}

/// A stage's program, before its first task on this worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Prepare {
    pub(crate) query: QueryId,
    pub(crate) stage: StageId,
    pub(crate) program: StageProgram,
    /// The whole plan, before the first stage of it on this worker.
    pub(crate) whole: Option<Fragment>,
    /// Whose query it is; `None`: of this process.
    pub(crate) driver: Option<NodeId>,
    /// What its tasks leave is what the driver reads.
    pub(crate) is_result: bool,
    /// It is wanted what each node of the engine does.
    pub(crate) metered: bool,
    /// What its tasks leave goes over a network: compressed.
    pub(crate) compress: bool,
}

/// One attempt of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunTask {
    pub(crate) task: TaskId,
    pub(crate) attempt: Attempt,
    pub(crate) split: Split,
    /// What it reads of each stage.
    pub(crate) inputs: Vec<(StageId, Feed)>,
    /// Replicas that are ready so far; [`Serve`] names the others.
    pub(crate) replicas: Vec<ReplicaAt>,
    /// Only once this attempt has ended, if it runs here.
    pub(crate) after: Option<(TaskId, Attempt)>,
}

/// Attempts of tasks, in the order in which they were placed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunTasks(pub(crate) Vec<RunTask>);

/// A replica that takes batches of a step.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ReplicaAt {
    pub(crate) step: StepId,
    pub(crate) replica: ReplicaId,
    pub(crate) place: Place,
    pub(crate) actor: ActorId,
}

/// Start one replica of a UDF.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartReplica {
    pub(crate) replica: ReplicaId,
    /// For whom: others may use it too.
    pub(crate) step: StepId,
    pub(crate) udf: String,
    pub(crate) arguments: Vec<u8>,
    pub(crate) options: PoolOptions,
    /// GPUs that it may use, by their number on the worker.
    pub(crate) devices: Vec<u32>,
}

/// Stop a replica. It may be gone already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StopReplica(pub(crate) ReplicaId);

/// A replica has become ready while tasks of its stage run here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Serve(pub(crate) ReplicaAt);

/// A replica will be stopped, because others are enough: no more batches for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Dismiss(pub(crate) ReplicaId);

/// Drop what the tasks of a stage have left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DropStage {
    pub(crate) query: QueryId,
    pub(crate) stage: StageId,
}

/// Lines of this worker's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LogsOf {
    /// Only those after this number; 0: the newest.
    pub(crate) after: u64,
    pub(crate) filter: LogFilter,
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

/// Spans of authors' programs that have ended on this worker, which notes them for so long from now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpansOf {
    /// Only those after this number; 0: all that there are.
    pub(crate) after: u64,
    pub(crate) bytes: usize,
    pub(crate) noted: Duration,
}

/// Stop the tasks of a stage: there are enough rows without them, or they run again elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enough {
    pub(crate) query: QueryId,
    pub(crate) stage: StageId,
}

/// An attempt is not to run here if it still waits; or is to stop also if it runs, and what it has left is to go. Its end is reported
/// all the same.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Withdraw {
    pub(crate) task: TaskId,
    pub(crate) attempt: Attempt,
    pub(crate) stop: bool,
}

/// Stop all work of a query and drop what it left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct End(pub(crate) QueryId);

/// Nodes of the cluster are gone: what waits for them need not wait any longer, and they are not let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gone(pub(crate) Vec<NodeId>);

/// Start a user's actor on some worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpawnActor(pub(crate) ActorSpec);

/// Stop a user's actor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StopActor(pub(crate) Address);

/// A user's actor has ended on this worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ActorEnded(pub(crate) WorkerId, pub(crate) ActorId);

/// Start a user's actor here, under this number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HostActor {
    pub(crate) id: ActorId,
    pub(crate) spec: ActorSpec,
}

/// A user's actor that runs, and where to dial its node.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Hosted {
    pub(crate) address: Address,
    pub(crate) at: Option<SocketAddr>,
}

/// Stop a user's actor that runs here: whether there was one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DropActor(pub(crate) ActorId);

/// Run a UDF on one batch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Evaluate {
    pub(crate) inputs: BatchAt,
    pub(crate) call: Call,
}

/// What a UDF has made of a batch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Evaluated {
    pub(crate) column: BatchAt,
    pub(crate) report: Report,
    /// How long the replica was at it.
    pub(crate) busy: Duration,
}

/// Why a replica has no result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum CallFailure {
    Failed(UdfError),
    /// This call outlasted its time-out; the replica is lost in it.
    TimedOut,
    /// An earlier call did. This one has not run.
    Hung,
    /// The batch could not be brought to the replica. It has not run, and is no failure of the UDF.
    NotFetched(String),
    /// The replica's process has died, of this batch or beside it. The replica is started anew.
    Died(String),
}

impl From<UdfError> for CallFailure {
    fn from(error: UdfError) -> Self {
        Self::Failed(error)
    }
}

impl From<Fault> for CallFailure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Failed(error) => Self::Failed(error),
            Fault::Died(why) => Self::Died(why),
        }
    }
}

/// A batch: handed over in this process, or waiting in a store. Bytes never ride on control messages.
#[derive(Serialize, Deserialize)]
pub(crate) enum BatchAt {
    There(Place, Ticket),
    #[serde(skip)]
    Here(DataFrame),
}

impl fmt::Debug for BatchAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::There(place, ticket) => write!(f, "{ticket:?} on {}", place.worker),
            Self::Here(frame) => write!(f, "{} rows here", frame.height()),
        }
    }
}

/// A query, from a session of this process.
#[derive(Debug)]
pub(crate) struct Submit {
    pub(crate) query: QueryId,
    pub(crate) plan: QueryPlan,
    /// For each stage that is a frame, its partitions in the driver's store.
    pub(crate) given: BTreeMap<StageId, Vec<Output>>,
    /// How long it took to plan it.
    pub(crate) planned: Duration,
    /// Where that store is.
    pub(crate) driver: Place,
    /// The result is to stay: what is lost of it with a worker is made again.
    pub(crate) persist: bool,
    /// Holds every event of the query: one for each task of its last stage, and the end.
    pub(crate) events: mpsc::Sender<RunEvent>,
}

impl Submit {
    /// A query, and where its events come.
    pub(crate) fn new(from: SubmitFrom) -> (Self, mpsc::Receiver<RunEvent>) {
        let SubmitFrom { driver, query, plan, given, planned, persist } = from;
        let tasks = plan.widest();
        // Room for every event, so that the scheduler never waits for a session: a partition that is made again is no other.
        let (events, heard) = mpsc::channel(tasks + 2);
        (Self { query, plan, given, planned, driver, persist, events }, heard)
    }
}

/// A query, from a driver elsewhere. It is released when the driver's node is lost.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SubmitFrom {
    pub(crate) driver: Place,
    pub(crate) query: QueryId,
    pub(crate) plan: QueryPlan,
    /// For each stage that is a frame, its partitions in the driver's store.
    pub(crate) given: BTreeMap<StageId, Vec<Output>>,
    /// How long it took to plan it.
    pub(crate) planned: Duration,
    /// The result is to stay, on the workers.
    pub(crate) persist: bool,
}

/// What has become of a query since the last time; waits a while for something to tell.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Hear(pub(crate) QueryId);

/// A worker that nobody of this cluster started asks for its number.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Enrol;

/// A worker asks for a token with which one process of its own may enter: an isolated replica that looks for actors.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Admit;

/// A driver is lost.
#[derive(Debug)]
pub(crate) struct DriverDown(pub(crate) NodeId);

/// The worker at a node gets its number.
#[derive(Debug)]
pub(crate) struct Enlist(pub(crate) NodeId);

/// What a session hears of its query. `Done` or `Failed` is the last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum RunEvent {
    Partition {
        index: usize,
        place: Place,
        output: Output,
        rows: Rows,
    },
    /// Of so many partitions.
    Done(usize),
    Failed(Error),
}

/// The session wants no more of a query.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Release(pub(crate) QueryId);

/// The same of a driver elsewhere, to the scheduler, which knows whose query it is.
#[derive(Debug)]
pub(crate) struct ReleaseOf(pub(crate) QueryId, pub(crate) NodeId);

/// A task reads these partitions of what a query has persisted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Locate {
    pub(crate) query: QueryId,
    /// The query of the task: as its plan says, whatever was said when it was submitted.
    pub(crate) reader: QueryId,
    pub(crate) partitions: Vec<usize>,
}

/// Where persisted partitions are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Located {
    /// All that were asked for, in this order.
    There(Vec<(Place, PartitionId)>),
    /// Some were lost and are being made again.
    MadeAgain,
    /// There is no such query, or it has no such partition.
    Nowhere,
}

/// The session could not read a partition of its result, by its number, where it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Find {
    pub(crate) query: QueryId,
    pub(crate) partition: usize,
    /// Which attempt left what cannot be read though its worker answers, and why not.
    pub(crate) unread: Option<(TaskId, Attempt, String)>,
}

/// Where a partition of a result is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Found {
    There(Place, Output),
    /// It is being made again.
    MadeAgain,
    /// It could not be made again.
    Failed(Error),
    /// There is no such query.
    Nowhere,
}

/// The session has all that it wants of a query's result: what is lost of it from here on is not made again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Taken(pub(crate) QueryId);

/// Where a query stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Status(pub(crate) QueryId);

/// What a query does, or did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ProfileOf(pub(crate) QueryId);

/// Where a query stands, for people who wait for it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ProgressOf(pub(crate) QueryId);

/// Which queries are known.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Known;

/// Where everything stands.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct WholeStatus;

/// A worker of this process joins.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) worker: WorkerId,
    pub(crate) capacity: Resources,
    pub(crate) devices: Result<Vec<GpuInfo>, String>,
    pub(crate) actor: ActorRef<SwordfishActor>,
}

/// A node is silent, or heard again.
#[derive(Debug)]
pub(crate) struct WorkerSilent {
    pub(crate) node: NodeId,
    pub(crate) silent: bool,
}

/// A node is lost. `None`: a worker that was asked for could not even be started.
#[derive(Debug)]
pub(crate) struct WorkerDown {
    pub(crate) node: Option<NodeId>,
    pub(crate) why: String,
}

impl actix::Message for Submit {
    type Result = ();
}
impl actix::Message for DriverDown {
    type Result = ();
}
impl actix::Message for ReleaseOf {
    type Result = ();
}

impl actix::Message for Enlist {
    type Result = WorkerId;
}
impl actix::Message for Worker {
    type Result = ();
}
impl actix::Message for WorkerSilent {
    type Result = ();
}
impl actix::Message for WorkerDown {
    type Result = ();
}
