//! The scheduler as a state machine: events in, actions out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::actors::Actors;
use super::autoscale::{Autoscaler, ScaleSettings};
use super::ledger::{Grant, Ledger};
use super::policy::{DefaultScheduler, LinearScheduler, Policy};
use super::pool::{PoolSpec, Pools};
use super::queries::Queries;
use super::query::{Outcome, Phase, Query, QuerySpec, Report, Task, TaskState};
use super::queues::{Queues, Run};
use super::shape::Forced;
use super::status::{PoolStatus, QueryStatus, SessionStatus, StageWaits, WorkerStatus};
use super::turns::Turns;
use super::{Attempt, DriverId, Output, PoolId, QueryId, ReplicaId, Resources, StageId, StepId, TaskId, WorkerId};
use crate::error::{Error, TaskError, TaskFailure};

/// What the scheduler is told once.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What one task takes.
    pub(crate) task: Resources,
    pub(crate) ready_timeout: Duration,
    /// How long a pool stays when nobody uses it.
    pub(crate) pool_warm: Duration,
    /// How long queries wait while there is no worker at all.
    pub(crate) worker_timeout: Duration,
    /// One task in flight, of all queries: for debugging.
    pub(crate) linear: bool,
    /// Tasks that may wait at one worker behind those that run; unset, what takes ten milliseconds behind each.
    pub(crate) max_task_backlog: Option<usize>,
    /// `None`: workers neither come nor go.
    pub(crate) scale: Option<ScaleSettings>,
    /// Shapes that tests want.
    pub(crate) forced: Option<Forced>,
}

/// All workers, all queries, one ledger.
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    policy: Box<dyn Policy>,
    ledger: Ledger,
    queries: Queries,
    /// What runs or waits at workers, of all queries, also of those that have ended.
    queues: Queues,
    /// Attempts that nobody wants any more, though their workers have not said yet that they have ended; and since when.
    leaving: BTreeMap<Run, Instant>,
    /// Replicas that were stopped and whose threads have not ended yet: what they are charged, and since when.
    stopping: BTreeMap<ReplicaId, (Grant, Instant)>,
    /// Whose turn it is at free room: drivers take turns, and their queries, task by task. Queries that are done have none.
    turns: Turns<Wants>,
    /// What had been counted that may have made room when was looked last.
    looked: u64,
    timers: BTreeSet<(Instant, Timer)>,
    /// Of all queries.
    pools: Pools,
    /// Stages that wait for room to be admitted.
    unadmitted: BTreeMap<QueryId, Vec<usize>>,
    promise: Promise,
    /// Who ran on the workers that were lost last.
    losses: Losses,
    /// Drivers of which a query was ended for losing workers, and when.
    convicted: BTreeMap<DriverId, Instant>,
    /// Who may have ended a worker, beside others; and who of them is tried alone, and where.
    suspects: BTreeSet<Suspect>,
    trials: BTreeMap<Suspect, WorkerId>,
    autoscaler: Option<Autoscaler>,
    /// What the provider of workers waits for, as far as it was told.
    provider_waits: Option<String>,
    /// Workers that are to leave, and the last that have.
    drains: BTreeMap<WorkerId, Drain>,
    departed: VecDeque<WorkerId>,
    /// Users' actors: they cost nothing, and keep their worker.
    actors: Actors,
    machines: BTreeMap<WorkerId, IpAddr>,
    /// Why workers have no GPU.
    no_gpu: BTreeMap<WorkerId, String>,
    /// Since when there is no worker.
    deserted: Option<Instant>,
    /// When a worker was lost whose like may come back: what fits on none of those that are left waits for a while.
    shrunk: Option<Instant>,
    /// A query has ended since the autoscaler looked.
    ended: bool,
}

/// What is to be looked at when its time has come. It may be over by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A replica must be ready.
    Ready(ReplicaId),
    /// A task's back-off is over.
    Retry(TaskId, Attempt),
    /// A pool may have been unused for its time.
    Cool(PoolId),
    /// A worker whose disk was full may have room again.
    Full(WorkerId),
    /// A replica has had work for so long that idle ones beside it may go.
    Fed(ReplicaId),
}

impl Core {
    pub(crate) fn new(settings: Settings) -> Self {
        let policy: Box<dyn Policy> =
            if settings.linear { Box::new(LinearScheduler) } else { Box::new(DefaultScheduler) };
        Self {
            policy,
            ledger: Ledger::default(),
            queries: Queries::default(),
            queues: Queues::new(settings.max_task_backlog),
            leaving: BTreeMap::new(),
            stopping: BTreeMap::new(),
            turns: Turns::default(),
            looked: 0,
            timers: BTreeSet::new(),
            pools: Pools::default(),
            unadmitted: BTreeMap::new(),
            promise: Promise::default(),
            losses: Losses::default(),
            convicted: BTreeMap::new(),
            suspects: BTreeSet::new(),
            trials: BTreeMap::new(),
            autoscaler: settings.scale.clone().map(Autoscaler::new),
            provider_waits: None,
            drains: BTreeMap::new(),
            departed: VecDeque::new(),
            actors: Actors::default(),
            machines: BTreeMap::new(),
            no_gpu: BTreeMap::new(),
            deserted: None,
            shrunk: None,
            ended: false,
            settings,
        }
    }

    /// The worker for one more of users' actors, of these.
    pub(crate) fn place_actor(&self, workers: impl Iterator<Item = WorkerId>) -> Option<WorkerId> {
        self.actors.place(workers.filter(|worker| self.ledger.stays(*worker)))
    }

    /// A user's actor starts on a worker, which does not retire before it has ended.
    pub(crate) fn actor_started(&mut self, worker: WorkerId) {
        self.actors.started(worker);
        self.ledger.keep(worker, true);
    }

    pub(crate) fn actor_ended(&mut self, worker: WorkerId) {
        if self.actors.ended(worker) {
            self.ledger.keep(worker, false);
        }
    }

    /// Takes one event. The actions leave the state as if they were done.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let tick = matches!(event, Event::Tick);
        match event {
            Event::Joined { worker, capacity, no_gpu, machine } => {
                self.machines.extend(machine.map(|machine| (worker, machine)));
                self.no_gpu.extend(no_gpu.map(|why| (worker, why)));
                self.join(worker, capacity, now, &mut actions);
            }
            Event::Lost { worker, why } => {
                self.actors.lost(worker);
                self.lose(worker, &why, now, &mut actions);
            }
            Event::NotJoined { why } => self.not_joined(&why),
            Event::Silent { worker, silent: true } if self.drains.contains_key(&worker) => {
                // It was about to go, and has gone.
                self.depart(worker, "it was silent while it was leaving", now, &mut actions);
            }
            Event::Silent { worker, silent } => self.ledger.set_silent(worker, silent.then_some(now)),
            Event::Drain { worker, until } => self.drain(worker, until, now, &mut actions),
            Event::Moved { from, to, taken, full } => self.moved(from, to, &taken, full, now, &mut actions),
            Event::Submit(spec) => self.submit(spec, now, &mut actions),
            Event::Persist(query) => self.persist(query, &mut actions),
            Event::Taken(query) => self.taken(query),
            Event::Unread { task, attempt, why } => self.unread(task, attempt, &why, now, &mut actions),
            Event::Release(query) => self.end(query, None, now, &mut actions),
            Event::Fail(query, error) => self.end(query, Some(error), now, &mut actions),
            Event::TaskEnded { task, attempt, outcome } => {
                self.task_ended(task, attempt, outcome, None, now, &mut actions)
            }
            Event::TaskBrought { task, attempt, output } => {
                self.task_ended(task, attempt, Ok(output), Some(WorkerId::DRIVER), now, &mut actions);
            }
            Event::ReplicaProgress { replica, doing } => self.replica_progress(replica, doing),
            Event::ReplicaReady(replica) => self.replica_ready(replica, now, &mut actions),
            Event::ReplicaIdle { replica, idle } => self.replica_idle(replica, idle, now),
            Event::CreditWait { worker, step, batches } => self.credit_wait(worker, step, batches, now),
            Event::ReplicaFailed { replica, error } => self.replica_failed(replica, error, now, &mut actions),
            Event::ReplicaHung(replica) => self.replica_hung(replica, now, &mut actions),
            Event::ReplicaStuck(replica) => self.replica_stuck(replica, now, &mut actions),
            Event::ReplicaEnded(replica) => self.replica_ended(replica),
            Event::Tick => self.tick(now, &mut actions),
        }
        self.advance(now, &mut actions);
        if tick {
            self.run_late_twice(now, &mut actions);
            self.scale(now, &mut actions);
        }
        actions
    }

    /// How many tasks a stage has, if that is known, and whether it is done: for what is shown.
    pub(crate) fn stage(&self, query: QueryId, stage: usize) -> Option<(Option<usize>, bool)> {
        let stage = self.queries.get(&query)?.stages.get(stage)?;
        // A stage whose work is a part of another's tasks has none, and is done.
        let is_known = stage.is_launched || stage.phase == Phase::Done;
        Some((is_known.then_some(stage.tasks.len()), stage.phase == Phase::Done))
    }

    /// Whether a worker of this machine is not wanted, because one was let go a short while ago.
    pub(crate) fn excludes(&self, machine: IpAddr, now: Instant) -> bool {
        self.autoscaler.as_ref().is_some_and(|scaler| scaler.excludes(machine, now))
    }

    /// What a task of a query's result has left; `None` while it is made, or made again.
    pub(crate) fn partition(&self, query: QueryId, index: usize) -> Option<(WorkerId, Output)> {
        match self.queries.get(&query)?.stages.last()?.tasks.get(index)?.state {
            TaskState::Done(worker, output) => Some((worker, output)),
            _ => None,
        }
    }

    /// The partitions that a finished stage left, in task order; `None` while some of them are not there.
    pub(crate) fn outputs(&self, query: QueryId, stage: StageId) -> Option<Vec<(WorkerId, Output)>> {
        let query = self.queries.get(&query)?;
        let is_done = query.stages.get(stage.0 as usize)?.phase == Phase::Done;
        is_done.then(|| query.outputs(stage.0 as usize))
    }

    /// Whether some worker has a GPU, or one that may be added.
    pub(crate) fn has_gpus(&self) -> bool {
        let added = self.autoscaler.as_ref().is_some_and(|scaler| scaler.settings().each.wants_gpu());
        added || self.ledger.capacity().wants_gpu()
    }

    /// Why workers, and those that may be added, have no GPU: each reason once.
    pub(crate) fn why_no_gpu(&self) -> String {
        let added = self.autoscaler.as_ref().and_then(|scaler| scaler.settings().no_gpu.as_ref());
        let reasons: BTreeSet<&str> = self.no_gpu.values().chain(added).map(String::as_str).collect();
        reasons.into_iter().collect::<Vec<_>>().join("; ")
    }

    /// The replicas that can take batches of a stage's steps, and where they are.
    pub(crate) fn ready_replicas(&self, query: QueryId, stage: StageId) -> Vec<(StepId, ReplicaId, WorkerId)> {
        let Some(query) = self.queries.get(&query) else { return Vec::new() };
        let steps = query.stages.get(stage.0 as usize).map_or(&[][..], |stage| &stage.steps);
        let pools = steps.iter().enumerate().filter_map(|(step, state)| {
            let id = state.pool?;
            Some((query.step_id(stage.0 as usize, step), id, self.pools.get(id)?))
        });
        let ready = pools.flat_map(|(step, id, pool)| {
            pool.ready().map(move |rank| (step, ReplicaId { pool: id, rank }, pool.replicas[&rank].grant.worker))
        });
        ready.collect()
    }

    /// Where a replica is that has neither been stopped nor gone with its worker.
    pub(crate) fn replica_on(&self, replica: ReplicaId) -> Option<WorkerId> {
        Some(self.pools.replica(replica)?.grant.worker)
    }

    /// Where a replica is that was stopped and has not ended.
    pub(crate) fn replica_stops_on(&self, replica: ReplicaId) -> Option<WorkerId> {
        Some(self.stopping.get(&replica)?.0.worker)
    }

    /// Where an attempt of a task is, until it has ended.
    pub(crate) fn runs_on(&self, task: TaskId, attempt: Attempt) -> Option<WorkerId> {
        self.queues.worker_of((task, attempt))
    }

    /// Whether all partitions of a query's result are there.
    pub(crate) fn is_done(&self, query: QueryId) -> bool {
        self.queries.get(&query).is_some_and(|query| query.done)
    }

    /// What each stage of a query waits for, and since when.
    pub(crate) fn waits(&self, query: QueryId, now: Instant) -> Option<Vec<StageWaits>> {
        let (query, no_workers) = (self.queries.get(&query)?, self.ledger.staying() == 0);
        let room = |stage| (self.settings.task, self.next_need(query, stage));
        let of = |stage| StageWaits::of(query, stage, &self.pools, room(stage), no_workers, now);
        Some((0..query.stages.len()).map(of).collect())
    }

    /// Where everything stands; `of` says it of a query.
    pub(crate) fn session_status(&self, now: Instant, of: impl Fn(QueryId) -> Option<QueryStatus>) -> SessionStatus {
        let done = self.queries.iter().filter(|(_, query)| query.done).map(|(id, _)| *id);
        let queries = self.turns.in_order().into_iter().chain(done).filter_map(|id| Some((id, of(id)?)));
        let scaler = self.autoscaler.as_ref();
        let mut leaving: BTreeMap<WorkerId, (usize, Instant)> = BTreeMap::new();
        let runs = self.leaving.iter().filter_map(|(run, since)| Some((self.queues.worker_of(*run)?, since)));
        let replicas = self.stopping.values().map(|(grant, since)| (grant.worker, since));
        for (worker, since) in runs.chain(replicas) {
            let (count, longest) = leaving.entry(worker).or_insert((0, *since));
            (*count, *longest) = (*count + 1, *since.min(longest));
        }
        let workers = self.ledger.workers().map(|worker| {
            let idle = scaler.and_then(|scaler| scaler.idle_since(worker));
            let leaving = leaving.get(&worker).copied();
            let drains = self.drains.get(&worker).map(|drain| drain.times(now));
            WorkerStatus {
                drains,
                ..WorkerStatus::of(worker, &self.ledger, self.queues.desk(worker), leaving, idle, now)
            }
        });
        let wanted = scaler.map(Autoscaler::demanded).filter(|(wanted, _)| *wanted > self.ledger.staying());
        SessionStatus {
            workers: workers.collect(),
            wanted: wanted.map(|(wanted, since)| (wanted, since.map_or(Duration::ZERO, |at| now.duration_since(at)))),
            not_joined: scaler.and_then(Autoscaler::not_joined),
            provider_waits: self.provider_waits.clone(),
            backlog: self.backlog().as_cpus(),
            queries: queries.collect(),
            pools: self.pools.iter().map(|pool| PoolStatus::of(pool, now)).collect(),
        }
    }

    /// What nothing but room keeps from starting: tasks, and replicas up to the least that was asked for.
    fn backlog(&self) -> Resources {
        let live = || self.turns.iter().filter_map(|id| self.queries.get(&id));
        let tasks = live().flat_map(|query| self.tasks_that_wait(query)).fold(Resources::NONE, Resources::plus);
        let open = live().flat_map(|query| query.open.iter().map(|stage| &query.spec.stages[*stage].pools));
        let wanted: BTreeMap<&[u8], &PoolSpec> = open.flatten().map(|pool| (&*pool.key, pool)).collect();
        let missing = wanted.values().map(|spec| {
            let there = self.pools.of(spec).map_or(0, |(_, pool)| pool.alive());
            spec.each.in_all().times(spec.least.max(1).saturating_sub(there))
        });
        missing.fold(tasks, Resources::plus)
    }

    fn submit(&mut self, mut spec: QuerySpec, now: Instant, actions: &mut Vec<Action>) {
        let (id, driver) = (spec.id, spec.driver);
        self.share_cpus(&mut spec);
        // While a worker may come back, the next look decides.
        let infeasible = if self.shrunk.is_none() { self.infeasible(&spec) } else { None };
        self.queries.insert(Query::new(spec, now));
        self.turns.enter(id, driver);
        self.decide(id, now, actions);
        let is_done = |query: &Query| query.stages.last().is_none_or(|last| last.phase == Phase::Done);
        let is_done = self.queries.get(&id).is_some_and(is_done);
        match infeasible {
            Some(error) => self.end(id, Some(error), now, actions),
            None if is_done => self.query_done(id, now, actions),
            None => (),
        }
    }

    /// `holder`: who holds what it left, if that is not its worker.
    fn task_ended(
        &mut self,
        id: TaskId,
        attempt: Attempt,
        outcome: Outcome,
        holder: Option<WorkerId>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        // Every attempt has one end, whatever has become of its query. A second word on it is not heard.
        if !self.vacate((id, attempt), now) {
            return;
        }
        let Some(outcome) = self.end_of_two(id, attempt, outcome, now, actions) else { return };
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let (stage, index) = (id.stage.0 as usize, id.index as usize);
        let Some(state) = query.stages.get_mut(stage) else { return };
        let Some(task) = state.tasks.get_mut(index).filter(|task| task.attempt == attempt) else { return };
        let on = match std::mem::replace(&mut task.state, TaskState::Pending) {
            TaskState::Running { on, since } => {
                state.running -= 1;
                if outcome.is_ok() {
                    state.ended = (state.ended.0 + 1, state.ended.1 + now.duration_since(since));
                }
                on
            }
            TaskState::Queued { on } => {
                state.queued -= 1;
                on
            }
            other => {
                task.state = other;
                return;
            }
        };
        let is_over = state.phase == Phase::Done;
        match outcome {
            Ok(output) => self.task_done(id, holder.unwrap_or(on), output, now, actions),
            // Its stage has enough without it.
            Err(cause) if is_over || matches!(cause, TaskFailure::Cancelled) => self.put_back(id),
            // However often: those rows come, or their query fails and is gone.
            Err(TaskFailure::MadeAgain(persisted)) if self.queries.contains_key(&persisted) => self.wait(id, now),
            // It was told where its input was before that was moved.
            Err(TaskFailure::Transfer { from, .. }) if self.has_departed(&from) => self.put_back(id),
            Err(TaskFailure::LostInput { task, attempt, from, why }) => {
                let reads = self.queries.get(&id.query).map_or(&[][..], |query| &query.spec.stages[stage].held);
                let is_its_own = task.query == id.query || reads.contains(&task.query);
                self.put_back(id);
                if is_its_own {
                    self.unread(task, Attempt(attempt), &format!("{why} (on {from})"), now, actions);
                }
            }
            // It has not failed before all is tried.
            Err(TaskFailure::DiskFull { .. }) if self.make_disk_room(on, actions) => self.put_back(id),
            Err(cause) => {
                if matches!(cause, TaskFailure::DiskFull { .. }) {
                    self.avoid_full(on, now);
                }
                let Some(state) = self.stage_mut(id) else { return };
                let failed = state.note_failure(index, attempt, on, &cause);
                let before = state.before_last(index);
                let again = cause.is_retryable() && self.retry(id, failed, now);
                if !again {
                    let error = TaskError { task: id, attempt: attempt.0, worker: on.to_string(), cause, before };
                    self.end(id.query, Some(error.into()), now, actions);
                }
            }
        }
        self.step_back(id.query, stage, now, actions);
    }

    fn task_done(&mut self, id: TaskId, worker: WorkerId, output: Output, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let (stage, index) = (id.stage.0 as usize, id.index as usize);
        let is_result = query.is_result(stage);
        let state = &mut query.stages[stage];
        let task = &mut state.tasks[index];
        task.state = TaskState::Done(worker, output);
        if state.failures.remove(&index).is_some_and(|failures| failures.lost > 0) || state.accused.contains(&index) {
            self.losses.clear(id);
        }
        state.steps.iter_mut().for_each(|step| step.forgive(now));
        let is_cleared = state.accused.remove(&index) && state.accused.is_empty();
        let first = !std::mem::replace(&mut task.reported, true);
        state.output = (state.output.0 + output.rows, state.output.1 + output.bytes);
        state.left -= 1;
        if worker != WorkerId::DRIVER && state.holders.insert(worker) && state.kept {
            self.ledger.keep(worker, true);
        }
        // One that was made again is asked for by who misses the first.
        if is_result && first {
            actions.push(Action::Report(id.query, Report::Partition { index, worker, output }));
        }
        if is_cleared {
            query.reopen(stage, now);
        }
        let state = &query.stages[stage];
        if state.phase == Phase::Done || (state.left > 0 && !query.has_enough(stage)) {
            return;
        }
        let state = &mut query.stages[stage];
        state.phase = Phase::Done;
        state.since = now;
        if state.running + state.queued > 0 {
            let still_there = state.tasks.iter().filter_map(Task::is_on);
            let still_there = still_there.chain(state.seconds.values().map(|second| second.on));
            let still_there: BTreeSet<WorkerId> = still_there.collect();
            for worker in still_there {
                // Should the stage be needed again, its program goes there again.
                state.prepared.remove(&worker);
                actions.push(Action::Enough { worker, query: id.query, stage: id.stage });
            }
        }
        query.reopen(stage, now);
        // What it has left has been measured now.
        self.decide(id.query, now, actions);
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let readers = query.stages[stage].readers.clone();
        readers.into_iter().for_each(|reader| self.reopen(id.query, reader, now, actions));
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        // What nobody reads any more keeps no worker.
        for input in query.spec.stages[stage].inputs.clone() {
            let needed = query.is_needed(input.0 as usize);
            query.settle_kept(input.0 as usize, needed, &mut self.ledger);
        }
        self.leave_pools(id.query, stage, now, actions);
        if is_result {
            self.query_done(id.query, now, actions);
        }
    }

    fn query_done(&mut self, id: QueryId, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        query.done = true;
        let told = std::mem::replace(&mut query.told, true);
        let stages = query.stages.len();
        for stage in query.stages.iter_mut().filter(|stage| stage.phase == Phase::Running && !stage.steps.is_empty()) {
            stage.phase = Phase::Waiting;
        }
        self.turns.leave(id);
        self.note_unadmitted(id, Vec::new());
        self.ended = true;
        // An input that was lost and is made again is not needed any more.
        (0..stages).for_each(|stage| self.leave_pools(id, stage, now, actions));
        if !told {
            actions.push(Action::Report(id, Report::Done));
        }
        self.drop_inputs(id, actions);
        self.note_readers_of(id);
    }

    fn stage_mut(&mut self, task: TaskId) -> Option<&mut super::query::Stage> {
        self.queries.get_mut(&task.query)?.stages.get_mut(task.stage.0 as usize)
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Ready(replica) => self.check_ready(replica, now, actions),
                Timer::Retry(task, attempt) => self.wake(task, attempt),
                Timer::Cool(pool) => self.cool(pool, now, actions),
                Timer::Full(worker) => drop(self.ledger.set_full(worker, false)),
                Timer::Fed(_) => self.ledger.note_room(),
            }
        }
        self.end_probations(now);
        self.check_workers(now, actions);
        self.retire_replicas(now, actions);
        self.take_back(now, actions);
        self.go_on_draining(now, actions);
        self.promise_room(now);
        // Whatever was missed: nobody waits longer than to here.
        self.turns.look_again();
    }

    /// The one way in which a query leaves, whatever the reason.
    fn end(&mut self, id: QueryId, error: Option<Error>, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        let (mut left, mut seconds) = (Vec::new(), Vec::new());
        for stage in 0..query.stages.len() {
            query.settle_kept(stage, false, &mut self.ledger);
            for (index, second) in query.stages[stage].take_seconds(None) {
                seconds.push((query.task_id(stage, index), second.attempt));
            }
            for index in 0..query.stages[stage].tasks.len() {
                let task = query.task_id(stage, index);
                let Task { attempt, state, .. } = &mut query.stages[stage].tasks[index];
                if matches!(state, TaskState::Running { .. } | TaskState::Queued { .. }) {
                    left.push(((task, *attempt), std::mem::replace(state, TaskState::Pending)));
                }
            }
        }
        let (stages, told, visited) = (query.stages.len(), query.told, std::mem::take(&mut query.visited));
        let driver = query.spec.driver;
        left.into_iter().for_each(|(run, was)| self.abandon(run, was, now));
        seconds.into_iter().for_each(|run| self.leave_behind(run, now));
        (0..stages).for_each(|stage| self.leave_pools(id, stage, now, actions));
        self.queries.remove(&id);
        self.note_readers_of(id);
        self.note_unadmitted(id, Vec::new());
        self.turns.leave(id);
        self.ended = true;
        if error.as_ref().is_some_and(suspects::is_of_lost_workers) {
            self.convicted.insert(driver, now);
        }
        let there = visited.into_iter().filter(|worker| self.ledger.has(*worker));
        actions.extend(there.map(|worker| Action::End { worker, query: id }));
        match (told, error) {
            (true, error) => actions.extend(error.map(|error| Action::Report(id, Report::Lost(error)))),
            (false, error) => actions.push(Action::Report(id, Report::Failed(error.unwrap_or(Error::Cancelled)))),
        }
    }
}

mod absence;
mod attempts;
mod blame;
mod disk;
mod drain;
mod events;
mod feasible;
mod place;
mod pools;
mod promise;
mod recover;
#[cfg(test)]
mod rest;
mod rollback;
mod scale;
mod shaping;
mod suspects;
mod twice;

use blame::Losses;
use drain::Drain;
pub(crate) use events::{Action, Event};
use place::Wants;
use promise::Promise;
use suspects::Suspect;
pub(super) use twice::Second;

#[cfg(test)]
mod tests;
