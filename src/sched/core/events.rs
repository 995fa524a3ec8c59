//! What happens to the scheduler, and what its shell is to do.

use std::net::IpAddr;
use std::time::Instant;

use crate::error::Error;
use crate::sched::query::{Outcome, QuerySpec, Report};
use crate::sched::{Attempt, Output, PartitionId, QueryId, ReplicaId, Resources, StageId, StepId, TaskId, WorkerId};
use crate::udf::UdfError;

/// What happens to the scheduler.
#[derive(Debug)]
pub(crate) enum Event {
    Joined {
        worker: WorkerId,
        capacity: Resources,
        /// Why it has no GPU.
        no_gpu: Option<String>,
        /// `None`: a process that was started for us, and never comes back.
        machine: Option<IpAddr>,
    },
    Lost {
        worker: WorkerId,
        why: String,
    },
    /// A worker that was asked for did not start, or ended before it joined.
    NotJoined {
        why: String,
    },
    /// A worker is silent: it may be lost, so nothing new is placed there; or it is heard again.
    Silent {
        worker: WorkerId,
        silent: bool,
    },
    /// A worker is to leave, at the latest then.
    Drain {
        worker: WorkerId,
        until: Instant,
    },
    /// A worker has taken over some of what another held, or none; its disk may be full.
    Moved {
        from: WorkerId,
        to: WorkerId,
        taken: Vec<PartitionId>,
        full: bool,
    },
    Submit(QuerySpec),
    /// What the query leaves is to stay until it is released, for other queries.
    Persist(QueryId),
    /// The submitter has taken all of the result: what is lost of it is not made again.
    Taken(QueryId),
    /// What an attempt left cannot be read where it is, though its worker lives.
    Unread {
        task: TaskId,
        attempt: Attempt,
        why: String,
    },
    /// The submitter wants no more of the query: running ones are cancelled, finished ones lose their partitions.
    Release(QueryId),
    /// A query cannot be run, as its workers were to be told.
    Fail(QueryId, Error),
    TaskEnded {
        task: TaskId,
        attempt: Attempt,
        outcome: Outcome,
    },
    /// The same of one that has succeeded, and whose rows, of the result, have come to the driver with its end.
    TaskBrought {
        task: TaskId,
        attempt: Attempt,
        output: Output,
    },
    ReplicaProgress {
        replica: ReplicaId,
        doing: String,
    },
    ReplicaReady(ReplicaId),
    /// A replica has had nothing to do for a while, or has something to do again.
    ReplicaIdle {
        replica: ReplicaId,
        idle: bool,
    },
    /// Batches of tasks on this worker wait for a replica to have room; 0: no longer.
    CreditWait {
        worker: WorkerId,
        step: StepId,
        batches: usize,
    },
    ReplicaFailed {
        replica: ReplicaId,
        error: UdfError,
    },
    /// A replica hangs in a call that took longer than it may, and will not take another.
    ReplicaHung(ReplicaId),
    /// A replica does not come back from a call that nobody waits for any more.
    ReplicaStuck(ReplicaId),
    /// The thread of a replica has ended, because it was stopped or by itself.
    ReplicaEnded(ReplicaId),
    /// Time has passed. Wanted often: deadlines and the autoscaler are looked at then.
    Tick,
}

/// What the shell is to do. Actions for one worker are to be carried out in order.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Hand the stage's program to a worker; before its first task there, once.
    Prepare {
        worker: WorkerId,
        query: QueryId,
        stage: StageId,
    },
    Run {
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
        /// Only once this attempt has ended, which runs on the same worker.
        after: Option<(TaskId, Attempt)>,
    },
    /// An attempt is not to run there if it still waits. Its end is said all the same.
    Withdraw {
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
    },
    /// An attempt is to stop, and what it has left is to go: another has done its task.
    Stop {
        worker: WorkerId,
        task: TaskId,
        attempt: Attempt,
    },
    StartReplica {
        worker: WorkerId,
        replica: ReplicaId,
        /// Who is the first to need it.
        step: StepId,
        /// GPUs that it may use, by their number on the worker.
        devices: Vec<u32>,
    },
    StopReplica {
        worker: WorkerId,
        replica: ReplicaId,
    },
    /// A replica can take batches of this step: tell the workers that have its stage.
    Serve {
        step: StepId,
        replica: ReplicaId,
        on: WorkerId,
        tell: Vec<WorkerId>,
    },
    /// A replica will be stopped: tell the workers that have a stage which uses it.
    Dismiss {
        replica: ReplicaId,
        tell: Vec<WorkerId>,
    },
    /// Stop the tasks of a stage there: they are not needed, or run again elsewhere.
    Enough {
        worker: WorkerId,
        query: QueryId,
        stage: StageId,
    },
    /// Drop what the tasks of a stage have left there.
    Drop {
        worker: WorkerId,
        query: QueryId,
        stage: StageId,
    },
    /// Stop all work of the query there and drop what it left.
    End {
        worker: WorkerId,
        query: QueryId,
    },
    /// There are to be so many workers; replaces what was asked for before.
    Demand {
        workers: usize,
    },
    /// Have a worker take over outputs of a query that are on another, and say which it has.
    Move {
        from: WorkerId,
        to: WorkerId,
        query: QueryId,
        outputs: Vec<PartitionId>,
    },
    /// Let a worker go that is idle, or was to leave. Nothing is placed there any more.
    Retire {
        worker: WorkerId,
    },
    Report(QueryId, Report),
}
