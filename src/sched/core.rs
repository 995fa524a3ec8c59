//! The scheduler as a state machine: events in, actions out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::autoscale::{Autoscaler, Load, ScaleSettings};
use super::ledger::Ledger;
use super::query::{Outcome, Phase, PoolSpec, Query, QuerySpec, Replica, ReplicaState, Report, TaskState};
use super::status::{QueryStatus, SessionStatus, WorkerStatus};
use super::{Attempt, Output, QueryId, ReplicaId, Resources, StageId, TaskId, WorkerId};
use crate::error::{ClusterError, Error, PoolError, PoolFailure, TaskError};
use crate::udf::UdfError;

/// What the scheduler is told once.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) task_cpus: Resources,
    pub(crate) ready_timeout: Duration,
    /// One task in flight, of all queries: for debugging.
    pub(crate) linear: bool,
    /// `None`: workers neither come nor go.
    pub(crate) scale: Option<ScaleSettings>,
}

/// What happens to the scheduler.
#[derive(Debug)]
pub(crate) enum Event {
    Joined {
        worker: WorkerId,
        capacity: Resources,
    },
    Lost {
        worker: WorkerId,
        why: String,
    },
    /// A worker is silent: it may be lost, so nothing new is placed there; or it is heard again.
    Silent {
        worker: WorkerId,
        silent: bool,
    },
    Submit(QuerySpec),
    /// The submitter wants no more of the query: running ones are cancelled, finished ones lose their partitions.
    Release(QueryId),
    TaskEnded {
        task: TaskId,
        attempt: Attempt,
        outcome: Outcome,
    },
    ReplicaProgress {
        replica: ReplicaId,
        doing: String,
    },
    ReplicaReady(ReplicaId),
    ReplicaFailed {
        replica: ReplicaId,
        error: UdfError,
    },
    /// Time has passed. Wanted often: deadlines and the autoscaler are looked at then.
    Tick,
}

/// What the shell is to do. Actions for one worker are to be carried out in order.
#[derive(Debug)]
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
    },
    StartReplica {
        worker: WorkerId,
        replica: ReplicaId,
    },
    StopReplica {
        worker: WorkerId,
        replica: ReplicaId,
    },
    /// A replica can take batches: tell the workers that have the stage.
    Serve {
        replica: ReplicaId,
        on: WorkerId,
        tell: Vec<WorkerId>,
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
    /// Let an idle worker go. Nothing is placed there any more.
    Retire {
        worker: WorkerId,
    },
    Report(QueryId, Report),
}

/// All workers, all queries, one ledger.
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    ledger: Ledger,
    queries: BTreeMap<QueryId, Query>,
    /// Tasks that run, of all queries.
    running: usize,
    /// Whose turn it is: queries take turns at free room, task by task.
    turns: VecDeque<QueryId>,
    autoscaler: Option<Autoscaler>,
}

impl Core {
    pub(crate) fn new(settings: Settings) -> Self {
        let autoscaler = settings.scale.clone().map(Autoscaler::new);
        Self {
            settings,
            ledger: Ledger::default(),
            queries: BTreeMap::new(),
            running: 0,
            turns: VecDeque::new(),
            autoscaler,
        }
    }

    /// Takes one event. The actions leave the state as if they were done.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let tick = matches!(event, Event::Tick);
        match event {
            Event::Joined { worker, capacity } => self.ledger.add(worker, capacity),
            Event::Lost { worker, why } => self.lose(worker, &why, now, &mut actions),
            Event::Silent { worker, silent } => self.ledger.hold(worker, silent),
            Event::Submit(spec) => self.submit(spec, now, &mut actions),
            Event::Release(query) => self.end(query, None, &mut actions),
            Event::TaskEnded { task, attempt, outcome } => self.task_ended(task, attempt, outcome, now, &mut actions),
            Event::ReplicaProgress { replica, doing } => {
                if let Some(replica) = self.replica(replica) {
                    replica.progress = Some(doing);
                }
            }
            Event::ReplicaReady(replica) => self.replica_ready(replica, &mut actions),
            Event::ReplicaFailed { replica, error } => self.replica_failed(replica, error, &mut actions),
            Event::Tick => {
                self.check_readiness(now, &mut actions);
                self.wake(now);
            }
        }
        self.advance(now, &mut actions);
        if tick && self.autoscaler.is_some() {
            self.scale(now, &mut actions);
        }
        actions
    }

    /// The partitions that a finished stage left, in task order.
    pub(crate) fn outputs(&self, query: QueryId, stage: StageId) -> Vec<(WorkerId, Output)> {
        let stage = self.queries.get(&query).and_then(|q| q.stages.get(stage.0 as usize));
        let tasks = stage.into_iter().flat_map(|stage| &stage.tasks);
        tasks
            .filter_map(
                |task| if let TaskState::Done(worker, output) = task.state { Some((worker, output)) } else { None },
            )
            .collect()
    }

    /// The replicas of a stage's steps that can take batches: `(step, rank, worker)`.
    pub(crate) fn ready_replicas(&self, query: QueryId, stage: StageId) -> Vec<(ReplicaId, WorkerId)> {
        let Some(query) = self.queries.get(&query) else { return Vec::new() };
        let pools = query.stages.get(stage.0 as usize).map_or(&[][..], |s| &s.pools);
        let ready = pools.iter().enumerate().flat_map(|(step, pool)| {
            pool.ready().map(move |rank| (query.replica_id(stage.0 as usize, step, rank), pool.replicas[rank].worker))
        });
        ready.collect()
    }

    /// What a query waits for, and since when.
    pub(crate) fn status(&self, query: QueryId, now: Instant) -> Option<QueryStatus> {
        Some(QueryStatus::of(self.queries.get(&query)?, now))
    }

    /// Where everything stands.
    pub(crate) fn session_status(&self, now: Instant) -> SessionStatus {
        let workers = self.ledger.accounts().map(|(worker, capacity, free)| {
            let all = capacity.as_cpus();
            WorkerStatus { worker, cpus: (all, all - free.as_cpus()) }
        });
        let queries = self.turns.iter().filter_map(|id| Some((*id, self.status(*id, now)?)));
        SessionStatus { workers: workers.collect(), backlog: self.backlog().as_cpus(), queries: queries.collect() }
    }

    fn backlog(&self) -> Resources {
        let live = self.queries.values().filter(|query| !query.done);
        live.map(|query| query.backlog(self.settings.task_cpus)).fold(Resources::NONE, Resources::plus)
    }

    fn submit(&mut self, spec: QuerySpec, now: Instant, actions: &mut Vec<Action>) {
        let id = spec.id;
        let infeasible = self.infeasible(&spec);
        self.queries.insert(id, Query::new(spec, now));
        self.turns.push_back(id);
        if let Some(error) = infeasible {
            self.end(id, Some(error), actions);
        }
    }

    /// What of this query could not be placed even if every worker were idle, and all that can be added were there.
    pub(super) fn infeasible(&self, spec: &QuerySpec) -> Option<Error> {
        let added = self.autoscaler.as_ref().map(|scaler| scaler.settings().each);
        let largest = self.ledger.largest().max(added).unwrap_or_default().as_cpus();
        let refused = |request| Some(ClusterError::Infeasible { request, largest }.into());
        for (index, stage) in spec.stages.iter().enumerate() {
            let mut amounts = Vec::new();
            for pool in &stage.pools {
                amounts.push(pool.cpus);
                if !self.ledger.could_place_all(&amounts, added) {
                    let beside = if amounts.len() > 1 { " beside one replica of each UDF before it" } else { "" };
                    return refused(format!("a replica of UDF {} ({} CPU){beside}", pool.udf, pool.cpus.as_cpus()));
                }
            }
            amounts.push(self.settings.task_cpus);
            if !self.ledger.could_place_all(&amounts, added) {
                let beside = if stage.pools.is_empty() { "" } else { " beside one replica of each of its UDFs" };
                return refused(format!("a task of stage {index} ({} CPU){beside}", self.settings.task_cpus.as_cpus()));
            }
        }
        None
    }

    /// Starts what can be started. Queries take turns, one task each; within a query, stages nearest to the result come first.
    fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut passed = 0;
        while passed < self.turns.len() {
            let Some(query) = self.turns.pop_front() else { break };
            self.turns.push_back(query);
            passed = if self.start_one(query, now, actions) { 0 } else { passed + 1 };
        }
        for query in self.turns.clone() {
            // Extras, from what tasks leave.
            for stage in 0..self.queries.get(&query).map_or(0, |query| query.stages.len()) {
                self.extend(query, stage, |pool| pool.most, now, actions);
            }
        }
    }

    /// Admits stages of this query and starts one of its tasks, if there is room.
    fn start_one(&mut self, id: QueryId, now: Instant, actions: &mut Vec<Action>) -> bool {
        let stages = self.queries.get(&id).filter(|query| !query.done).map_or(0, |query| query.stages.len());
        (0..stages).rev().any(|stage| {
            self.admit(id, stage, now, actions);
            self.start_task(id, stage, actions)
        })
    }

    /// A stage is admitted whole: one replica of each of its pools and room for one task, or nothing.
    fn admit(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        if query.stages[stage].phase != Phase::Waiting || !query.inputs_done(stage) {
            return;
        }
        let mut amounts: Vec<_> = query.spec.stages[stage].pools.iter().map(|pool| pool.cpus).collect();
        amounts.push(self.settings.task_cpus);
        let Some(mut placed) = self.ledger.place_all(&amounts) else { return };
        // The task is charged when it starts; until then the place was only tried.
        placed.pop().into_iter().for_each(|worker| self.ledger.release(worker, self.settings.task_cpus));
        query.stages[stage].phase = Phase::Running;
        query.stages[stage].near = query.nearest(stage);
        query.stages[stage].since = now;
        for (step, worker) in placed.into_iter().enumerate() {
            query.start_replica(stage, step, worker, now, actions);
        }
        // Up to the least that was asked for before any task starts.
        self.extend(id, stage, |pool| pool.least, now, actions);
    }

    fn start_task(&mut self, id: QueryId, stage: usize, actions: &mut Vec<Action>) -> bool {
        let Some(query) = self.queries.get_mut(&id) else { return false };
        let state = &query.stages[stage];
        let (Phase::Running, true, Some(&index)) = (state.phase, state.is_served(), state.pending.front()) else {
            return false;
        };
        // Inputs may have been lost since the stage was admitted.
        if !query.inputs_done(stage) {
            return false;
        }
        if self.settings.linear && self.running > 0 {
            return false;
        }
        let cpus = self.settings.task_cpus;
        let near = state.near.filter(|worker| self.ledger.place_on(*worker, cpus));
        let Some(worker) = near.or_else(|| self.ledger.place(cpus, Resources::NONE)) else { return false };
        self.running += 1;
        let task = query.task_id(stage, index);
        let state = &mut query.stages[stage];
        state.pending.pop_front();
        state.tasks[index].state = TaskState::Running(worker);
        if state.prepared.insert(worker) {
            actions.push(Action::Prepare { worker, query: id, stage: task.stage });
        }
        actions.push(Action::Run { worker, task, attempt: state.tasks[index].attempt });
        true
    }

    /// Adds replicas to each pool of a running stage until it has as many as `count` says, never taking the last room for
    /// a task from a worker.
    fn extend(
        &mut self,
        id: QueryId,
        stage: usize,
        count: impl Fn(&PoolSpec) -> usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(query) = self.queries.get_mut(&id).filter(|q| q.stages[stage].phase == Phase::Running) else { return };
        for step in 0..query.stages[stage].pools.len() {
            let pool = &query.spec.stages[stage].pools[step];
            let (count, cpus) = (count(pool), pool.cpus);
            while query.stages[stage].pools[step].alive() < count {
                let spare = spare(query.stages[stage].pools[step].alive(), self.settings.task_cpus);
                let Some(worker) = self.ledger.place(cpus, spare) else { break };
                query.start_replica(stage, step, worker, now, actions);
            }
        }
    }

    fn scale(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let idle = |worker| self.ledger.is_free(worker) && !self.queries.values().any(|q| q.holders.contains(&worker));
        let load = Load {
            backlog: self.backlog(),
            capacity: self.ledger.capacity(),
            queries: self.queries.values().filter(|query| !query.done).count(),
            workers: self.ledger.workers().map(|worker| (worker, idle(worker))).collect(),
        };
        let Some(scaler) = &mut self.autoscaler else { return };
        let decision = scaler.step(&load, now);
        for worker in decision.retire {
            self.ledger.remove(worker);
            actions.push(Action::Retire { worker });
        }
        actions.extend(decision.demand.map(|workers| Action::Demand { workers }));
    }

    fn task_ended(&mut self, id: TaskId, attempt: Attempt, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let Some(stage) = query.stages.get_mut(id.stage.0 as usize) else { return };
        let Some(task) = stage.tasks.get_mut(id.index as usize).filter(|task| task.attempt == attempt) else { return };
        // A second word on the same attempt is not heard: every attempt has one end.
        let TaskState::Running(worker) = task.state else { return };
        self.ledger.release(worker, self.settings.task_cpus);
        self.running -= 1;
        match outcome {
            Ok(output) => {
                task.state = TaskState::Done(worker, output);
                self.task_done(id, worker, output, now, actions);
            }
            Err(cause) => {
                task.state = TaskState::Pending; // its charge has been given back
                let (stage, index) = (id.stage.0 as usize, id.index as usize);
                if !(cause.is_retryable() && query.retry(stage, index, Some(now))) {
                    let error = TaskError { task: id, attempt: attempt.0, worker: worker.to_string(), cause };
                    self.end(id.query, Some(error.into()), actions);
                }
            }
        }
    }

    fn task_done(&mut self, id: TaskId, worker: WorkerId, output: Output, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let stage = id.stage.0 as usize;
        query.holders.insert(worker);
        let is_result = stage + 1 == query.stages.len();
        if is_result {
            let index = id.index as usize;
            actions.push(Action::Report(id.query, Report::Partition { index, worker, output }));
        }
        query.stages[stage].left -= 1;
        if query.stages[stage].left > 0 {
            return;
        }
        query.stages[stage].phase = Phase::Done;
        query.stages[stage].ran = now.duration_since(query.stages[stage].since);
        query.stages[stage].since = now;
        stop_pools(query, stage, &mut self.ledger, actions);
        if is_result {
            query.done = true;
            actions.push(Action::Report(id.query, Report::Done));
        }
    }

    fn replica(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        let stage = self.queries.get_mut(&id.pool.query)?.stages.get_mut(id.pool.stage.0 as usize)?;
        stage.pools.get_mut(id.pool.step as usize)?.replicas.get_mut(id.rank as usize)
    }

    fn replica_ready(&mut self, id: ReplicaId, actions: &mut Vec<Action>) {
        let Some(replica) = self.replica(id).filter(|r| r.state == ReplicaState::Starting) else { return };
        replica.state = ReplicaState::Ready;
        let on = replica.worker;
        let prepared = self.queries.get(&id.pool.query).map(|q| &q.stages[id.pool.stage.0 as usize].prepared);
        let tell = prepared.into_iter().flatten().copied().collect();
        actions.push(Action::Serve { replica: id, on, tell });
    }

    fn replica_failed(&mut self, id: ReplicaId, error: UdfError, actions: &mut Vec<Action>) {
        let Some(replica) = self.replica(id).filter(|r| r.state != ReplicaState::Stopped) else { return };
        let worker = replica.worker.to_string();
        self.fail_pool(id, PoolFailure::Start { rank: id.rank, worker, error }, actions);
    }

    fn fail_pool(&mut self, id: ReplicaId, cause: PoolFailure, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get(&id.pool.query) else { return };
        let udf = query.spec.stages[id.pool.stage.0 as usize].pools[id.pool.step as usize].udf.clone();
        self.end(id.pool.query, Some(PoolError { pool: id.pool, udf, cause }.into()), actions);
    }

    /// A pool without a ready replica after the time-out fails its query; where some are ready, the others are given up.
    fn check_readiness(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut late = Vec::new();
        for query in self.queries.values() {
            for (stage, state) in query.stages.iter().enumerate() {
                for (step, pool) in state.pools.iter().enumerate() {
                    let timeout = query.spec.stages[stage].pools[step].ready_timeout;
                    let timeout = timeout.unwrap_or(self.settings.ready_timeout);
                    let starting = pool.replicas.iter().enumerate().filter(|(_, r)| r.state == ReplicaState::Starting);
                    let overdue = starting.filter(|(_, r)| now.duration_since(r.since) >= timeout);
                    let ready = pool.ready().next().is_some();
                    late.extend(overdue.map(|(rank, _)| (query.replica_id(stage, step, rank), ready, timeout)));
                }
            }
        }
        for (id, others_are_ready, timeout) in late {
            let Some(replica) = self.replica(id) else { continue };
            let (worker, progress) = (replica.worker, replica.progress.clone());
            if others_are_ready {
                replica.state = ReplicaState::Stopped;
                self.release_replica(id, worker);
                actions.push(Action::StopReplica { worker, replica: id });
            } else {
                let cause = PoolFailure::NotReady { rank: id.rank, worker: worker.to_string(), timeout, progress };
                self.fail_pool(id, cause, actions);
            }
        }
    }

    fn release_replica(&mut self, id: ReplicaId, worker: WorkerId) {
        let Some(query) = self.queries.get(&id.pool.query) else { return };
        let cpus = query.spec.stages[id.pool.stage.0 as usize].pools[id.pool.step as usize].cpus;
        self.ledger.release(worker, cpus);
    }

    /// The one way in which a query leaves, whatever the reason.
    fn end(&mut self, id: QueryId, error: Option<Error>, actions: &mut Vec<Action>) {
        let Some(mut query) = self.queries.remove(&id) else { return };
        self.turns.retain(|turn| *turn != id);
        for stage in 0..query.stages.len() {
            stop_pools(&mut query, stage, &mut self.ledger, actions);
            for task in &query.stages[stage].tasks {
                if let TaskState::Running(worker) = task.state {
                    self.ledger.release(worker, self.settings.task_cpus);
                    self.running -= 1;
                }
            }
        }
        actions.extend(self.ledger.workers().map(|worker| Action::End { worker, query: id }));
        if !query.done {
            let error = error.unwrap_or(Error::Cancelled);
            actions.push(Action::Report(id, Report::Failed(error)));
        }
    }
}

fn stop_pools(query: &mut Query, stage: usize, ledger: &mut Ledger, actions: &mut Vec<Action>) {
    for step in 0..query.stages[stage].pools.len() {
        for rank in 0..query.stages[stage].pools[step].replicas.len() {
            let id = query.replica_id(stage, step, rank);
            let replica = &mut query.stages[stage].pools[step].replicas[rank];
            if replica.state != ReplicaState::Stopped {
                replica.state = ReplicaState::Stopped;
                ledger.release(replica.worker, query.spec.stages[stage].pools[step].cpus);
                actions.push(Action::StopReplica { worker: replica.worker, replica: id });
            }
        }
    }
}

mod recover;

pub(crate) use recover::MAX_ATTEMPTS;
use recover::spare;

#[cfg(test)]
mod tests;
