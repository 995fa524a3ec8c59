//! One query's state: its stages, tasks and pools.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Action, Attempt, PartitionId, PoolId, QueryId, ReplicaId, Resources, StageId, TaskId, WorkerId};
use crate::error::{Error, TaskFailure};

/// What the scheduler needs to know of a query. Inputs come before the stages that read them; the last stage yields the result.
#[derive(Debug, Clone)]
pub(crate) struct QuerySpec {
    pub(crate) id: QueryId,
    pub(crate) stages: Vec<StageSpec>,
}

#[derive(Debug, Clone)]
pub(crate) struct StageSpec {
    pub(crate) inputs: Vec<StageId>,
    pub(crate) tasks: usize,
    pub(crate) pools: Vec<PoolSpec>,
}

#[derive(Debug, Clone)]
pub(crate) struct PoolSpec {
    pub(crate) udf: String,
    pub(crate) cpus: Resources,
    pub(crate) least: usize,
    pub(crate) most: usize,
    /// In place of the session's.
    pub(crate) ready_timeout: Option<Duration>,
}

/// A sealed partition that a task left in its worker's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) id: PartitionId,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// What whoever submitted the query hears. After `Done` or `Failed`, nothing.
#[derive(Debug, Clone)]
pub(crate) enum Report {
    /// A partition of the result: which in order, and where.
    Partition {
        index: usize,
        worker: WorkerId,
        output: Output,
    },
    /// All partitions of the result have been reported.
    Done,
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct Query {
    pub(super) spec: QuerySpec,
    pub(super) stages: Vec<Stage>,
    /// Workers that hold partitions of it.
    pub(super) holders: BTreeSet<WorkerId>,
    /// Where tasks ran whose attempt was superseded: charges to be given back.
    pub(super) superseded: Vec<WorkerId>,
    /// `Done` has been reported; partitions are kept until the query is released.
    pub(super) done: bool,
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) phase: Phase,
    pub(super) tasks: Vec<Task>,
    /// Tasks to be started, by index.
    pub(super) pending: VecDeque<usize>,
    /// Tasks that wait before their next attempt, and until when.
    pub(super) delayed: Vec<(Instant, usize)>,
    /// Tasks that are not done.
    pub(super) left: usize,
    pub(super) pools: Vec<Pool>,
    /// Workers that have the stage's program.
    pub(super) prepared: BTreeSet<WorkerId>,
    /// The worker with most of what its tasks read: they run there if there is room.
    pub(super) near: Option<WorkerId>,
    /// When it entered its phase.
    pub(super) since: Instant,
    /// How long it ran, once it is done.
    pub(super) ran: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// For its inputs, or for room.
    Waiting,
    Running,
    Done,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) attempt: Attempt,
    pub(super) state: TaskState,
}

#[derive(Debug)]
pub(super) enum TaskState {
    Pending,
    Running(WorkerId),
    Done(WorkerId, Output),
}

/// Replicas by rank. A rank is never used twice.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) replicas: Vec<Replica>,
    /// How many went with their workers.
    pub(super) lost: usize,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) worker: WorkerId,
    pub(super) state: ReplicaState,
    pub(super) since: Instant,
    pub(super) progress: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaState {
    Starting,
    Ready,
    Stopped,
}

impl Query {
    pub(super) fn new(spec: QuerySpec, now: Instant) -> Self {
        let stages = spec.stages.iter().map(|stage| Stage::new(stage, now)).collect();
        Self { spec, stages, holders: BTreeSet::new(), superseded: Vec::new(), done: false }
    }

    pub(super) fn task_id(&self, stage: usize, index: usize) -> TaskId {
        TaskId { query: self.spec.id, stage: StageId(stage as u32), index: index as u32 }
    }

    pub(super) fn replica_id(&self, stage: usize, step: usize, rank: usize) -> ReplicaId {
        let pool = PoolId { query: self.spec.id, stage: StageId(stage as u32), step: step as u32 };
        ReplicaId { pool, rank: rank as u32 }
    }

    /// The worker that holds most bytes of a stage's inputs, the lowest number among equals.
    pub(super) fn nearest(&self, stage: usize) -> Option<WorkerId> {
        let inputs = self.spec.stages[stage].inputs.iter().filter_map(|id| self.stages.get(id.0 as usize));
        let mut held: BTreeMap<WorkerId, u64> = BTreeMap::new();
        for task in inputs.flat_map(|input| &input.tasks) {
            if let TaskState::Done(worker, output) = task.state {
                *held.entry(worker).or_default() += output.bytes;
            }
        }
        held.into_iter().max_by_key(|(worker, bytes)| (*bytes, Reverse(*worker))).map(|(worker, _)| worker)
    }

    /// What nothing but room keeps from starting: tasks, and replicas up to the least that was asked for.
    pub(super) fn backlog(&self, task: Resources) -> Resources {
        let stages = self.stages.iter().enumerate().filter(|(index, stage)| match stage.phase {
            Phase::Waiting => self.inputs_done(*index),
            Phase::Running => true,
            Phase::Done => false,
        });
        let waits = stages.map(|(index, stage)| {
            let pools = self.spec.stages[index].pools.iter().zip(&stage.pools);
            let missing = pools.map(|(spec, pool)| spec.cpus.times(spec.least.max(1).saturating_sub(pool.alive())));
            missing.fold(task.times(stage.pending.len()), Resources::plus)
        });
        waits.fold(Resources::NONE, Resources::plus)
    }

    pub(super) fn start_replica(
        &mut self,
        stage: usize,
        step: usize,
        worker: WorkerId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let replicas = &mut self.stages[stage].pools[step].replicas;
        let rank = replicas.len();
        replicas.push(Replica { worker, state: ReplicaState::Starting, since: now, progress: None });
        actions.push(Action::StartReplica { worker, replica: self.replica_id(stage, step, rank) });
    }

    pub(super) fn inputs_done(&self, stage: usize) -> bool {
        let done = |id: &StageId| self.stages.get(id.0 as usize).is_some_and(|s| s.phase == Phase::Done);
        self.spec.stages[stage].inputs.iter().all(done)
    }
}

impl Stage {
    fn new(spec: &StageSpec, now: Instant) -> Self {
        let task = || Task { attempt: Attempt(1), state: TaskState::Pending };
        Self {
            phase: Phase::Waiting,
            tasks: std::iter::repeat_with(task).take(spec.tasks).collect(),
            pending: (0..spec.tasks).collect(),
            delayed: Vec::new(),
            left: spec.tasks,
            pools: spec.pools.iter().map(|_| Pool::default()).collect(),
            prepared: BTreeSet::new(),
            near: None,
            since: now,
            ran: Duration::ZERO,
        }
    }

    /// Every pool has a replica that can take a batch.
    pub(super) fn is_served(&self) -> bool {
        self.pools.iter().all(|pool| pool.ready().next().is_some())
    }
}

impl Pool {
    pub(super) fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        self.replicas.iter().enumerate().filter(|(_, r)| r.state == ReplicaState::Ready).map(|(rank, _)| rank)
    }

    pub(super) fn alive(&self) -> usize {
        self.replicas.iter().filter(|r| r.state != ReplicaState::Stopped).count()
    }
}

/// How an attempt ended.
pub(crate) type Outcome = Result<Output, TaskFailure>;
