//! What a lost worker costs: its running tasks and the partitions that only it held. They run again elsewhere, as new
//! attempts; what reads them waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::blame::MAX_LOSSES;
use super::suspects::Suspect;
use super::{Action, Core, Timer};
use crate::error::{Error, PoolError, PoolFailure, TaskError, TaskFailure};
use crate::sched::ledger::Ledger;
use crate::sched::query::{Phase, Query, TaskState};
use crate::sched::queues::Run;
use crate::sched::resources::Bytes;
use crate::sched::shape::{Reader, Tasks};
use crate::sched::{Attempt, PoolId, QueryId, ReplicaId, TaskId, WorkerId};

/// Failures of one task before they are the query's.
pub(crate) const MAX_ATTEMPTS: u32 = 5;
/// A task that needs more memory than its worker had, and was alone there, is tried so often on workers that are lost.
const TOO_LARGE: u32 = 2;
/// How long a task waits before its second attempt; each further one waits twice as long. A worker that is lost is known to
/// be before the attempts are used up.
const BACK_OFF: Duration = Duration::from_millis(250);

/// How long nothing new is placed on a worker whose disk is full. Its tasks end soon, so that it would have most room for those that
/// run elsewhere.
const FULL: Duration = Duration::from_secs(5);

/// What a pool has lost.
struct LostReplicas {
    last: ReplicaId,
    on: WorkerId,
    /// None is left.
    all: bool,
}

/// What is lost.
#[derive(Default)]
pub(super) struct Loss {
    worker: Option<WorkerId>,
    why: String,
    pools: BTreeMap<PoolId, LostReplicas>,
    /// Stages that are not charged with the worker: they are tried alone.
    suspects: BTreeSet<Suspect>,
    /// Nobody is charged with it.
    excused: bool,
    /// The task that has ended it, and those before, beyond chance.
    poison: Option<TaskId>,
    /// The memory that it had.
    memory: u64,
}

/// What a query has lost with a worker, or with a pool.
#[derive(Default)]
struct Lost {
    /// Attempts that are over, as they were: their room is to be given back.
    attempts: Vec<(Run, TaskState)>,
    /// Stages of which a pool has no replica left. They are admitted whole again: what is left of them must not hold the room
    /// that the others need.
    stages: Vec<usize>,
    /// Some of the result.
    result: bool,
    failed: Option<Error>,
}

impl Core {
    pub(super) fn lose(&mut self, worker: WorkerId, why: &str, now: Instant, actions: &mut Vec<Action>) {
        // Who was about to leave anyway proves nothing against anybody.
        let excused = self.drains.remove(&worker).is_some();
        let suspects = if excused { BTreeSet::new() } else { self.suspects_of(worker) };
        let poison = if excused { None } else { self.poison_of(worker) };
        self.suspects.extend(&suspects);
        self.break_promise(worker);
        self.drains.values_mut().for_each(|drain| drain.forget(worker));
        let memory = self.ledger.account(worker).map_or(0, |(capacity, _)| capacity.memory);
        self.ledger.remove(worker);
        self.queues.lose(worker);
        self.leaving.retain(|run, _| self.queues.worker_of(*run).is_some());
        self.stopping.retain(|_, (grant, _)| grant.worker != worker);
        self.machines.remove(&worker);
        self.no_gpu.remove(&worker);
        if let Some(scaler) = self.autoscaler.as_mut().filter(|_| !excused) {
            scaler.lost();
        }
        let pools = self.lose_replicas(worker);
        self.stop_pools_of(&suspects, now, actions);
        let loss = Loss { worker: Some(worker), why: why.to_owned(), pools, suspects, excused, poison, memory };
        self.lose_from_queries(&loss, now, actions);
        self.make_room_for_a_task(now, actions);
        self.shrink(now);
    }

    /// The room that stages were admitted with for their tasks may have been on the worker that is lost. If no task runs and
    /// none could, they give up their pools and are admitted whole again, one after the other.
    fn make_room_for_a_task(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.queues.len() > 0 || self.ledger.has_room(self.settings.task) {
            return;
        }
        for id in self.turns.iter().collect::<Vec<_>>() {
            for stage in 0..self.queries.get(&id).map_or(0, |query| query.stages.len()) {
                let Some(state) = self.queries.get_mut(&id).map(|query| &mut query.stages[stage]) else { break };
                if state.phase == Phase::Running && !state.steps.is_empty() {
                    state.phase = Phase::Waiting;
                    state.since = now;
                    self.leave_pools(id, stage, now, actions);
                }
            }
        }
    }

    /// A replica is of no more use through no fault of those who use it now. If it was the last one of its pool, they begin
    /// anew with another.
    pub(super) fn replica_stuck(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        let Some(on) = self.pools.replica(id).map(|replica| replica.grant.worker) else { return };
        actions.push(self.dismissal(id));
        self.stop_replica(id, now, actions);
        if self.pools.get(id.pool).is_some_and(|pool| pool.alive() == 0) {
            let pools = [(id.pool, LostReplicas { last: id, on, all: true })].into();
            let why = "it does not come back from a call of a query that has ended".to_owned();
            self.lose_from_queries(&Loss { why, pools, ..Loss::default() }, now, actions);
        }
    }

    fn lose_from_queries(&mut self, loss: &Loss, now: Instant, actions: &mut Vec<Action>) {
        // What is done is made again as long as somebody may want it.
        let done = self.queries.iter().filter(|(_, query)| query.done && !query.taken).map(|(id, _)| *id);
        let concerned: Vec<_> = self.turns.iter().chain(done).collect();
        for id in concerned {
            self.lose_from_query(id, loss, now, actions);
        }
    }

    pub(super) fn lose_from_query(&mut self, id: QueryId, loss: &Loss, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        let lost = query.lose(loss, now, &mut self.ledger);
        if query.done && query.stages.last().is_some_and(|last| last.phase != Phase::Done) {
            query.done = false;
            self.turns.enter(id, query.spec.driver);
        }
        // Attempts that go on in vain, where workers are left.
        let there = lost.attempts.iter().filter_map(|((task, _), was)| match was {
            TaskState::Running { on, .. } | TaskState::Queued { on } if Some(*on) != loss.worker => {
                Some((*on, task.stage))
            }
            _ => None,
        });
        for (worker, stage) in there.collect::<BTreeSet<_>>() {
            query.stages[stage.0 as usize].prepared.remove(&worker);
            actions.push(Action::Enough { worker, query: id, stage });
        }
        lost.attempts.into_iter().for_each(|(run, was)| self.abandon(run, was, now));
        lost.stages.into_iter().for_each(|stage| self.leave_pools(id, stage, now, actions));
        if let Some(error) = lost.failed {
            return self.end(id, Some(error), now, actions);
        }
        self.reopen_all(id, now, actions);
        if lost.result {
            self.tell_readers_of(id, now, actions);
        }
        self.step_back_all(id, now, actions);
    }

    /// Takes the replicas of a lost worker out of their pools. Their charges are gone with it.
    fn lose_replicas(&mut self, worker: WorkerId) -> BTreeMap<PoolId, LostReplicas> {
        let mut lost = BTreeMap::new();
        for id in self.pools.on(worker) {
            self.pools.take(id);
            let all = self.pools.get(id.pool).is_none_or(|pool| pool.alive() == 0);
            lost.insert(id.pool, LostReplicas { last: id, on: worker, all });
        }
        lost
    }

    /// Makes the next attempt of a task that has failed so often wait for its back-off. False if there is none.
    pub(super) fn retry(&mut self, id: TaskId, failed: u32, now: Instant) -> bool {
        if failed < MAX_ATTEMPTS {
            self.delay(id, BACK_OFF * 2u32.pow(failed - 1), now);
        }
        failed < MAX_ATTEMPTS
    }

    /// Places nothing new on a worker whose disk is full, for a while, as long as there is another.
    pub(super) fn avoid_full(&mut self, worker: WorkerId, now: Instant) {
        if self.ledger.set_full(worker, true) {
            self.timers.insert((now + FULL, Timer::Full(worker)));
        }
    }

    /// Makes the next attempt of a task wait for persisted rows that are being made again. It has not failed.
    pub(super) fn wait(&mut self, id: TaskId, now: Instant) {
        self.delay(id, BACK_OFF, now);
    }

    fn delay(&mut self, id: TaskId, time: Duration, now: Instant) {
        let Some(stage) = self.stage_mut(id) else { return };
        let Some(task) = stage.tasks.get_mut(id.index as usize) else { return };
        task.supersede();
        let timer = Timer::Retry(id, task.attempt);
        stage.delayed.insert(id.index as usize, now);
        self.timers.insert((now + time, timer));
    }

    /// An attempt has ended through no fault of its own: its stage had enough without it, or its input could not be read. It
    /// runs again if it is needed.
    pub(super) fn put_back(&mut self, id: TaskId) {
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let Some(stage) = query.stages.get_mut(id.stage.0 as usize) else { return };
        let index = id.index as usize;
        stage.tasks[index].supersede();
        stage.enqueue(index, &query.spec.stages[id.stage.0 as usize], |worker| self.ledger.stays(worker));
    }

    /// Puts a task whose back-off is over into the queue again.
    pub(super) fn wake(&mut self, id: TaskId, attempt: Attempt) {
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let Some(stage) = query.stages.get_mut(id.stage.0 as usize) else { return };
        let index = id.index as usize;
        if stage.tasks[index].attempt == attempt && stage.delayed.remove(&index).is_some() {
            stage.enqueue(index, &query.spec.stages[id.stage.0 as usize], |worker| self.ledger.stays(worker));
        }
    }

    fn step_back_all(&mut self, id: QueryId, now: Instant, actions: &mut Vec<Action>) {
        for stage in 0..self.queries.get(&id).map_or(0, |query| query.stages.len()) {
            self.step_back(id, stage, now, actions);
        }
    }

    /// A stage whose inputs have been lost gives up its replicas once none of its tasks runs: what makes the inputs again may
    /// need their room.
    pub(super) fn step_back(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get(&id) else { return };
        let blocked = !query.inputs_done(stage) || self.waits_for_held(query, stage);
        let Some(query) = self.queries.get_mut(&id) else { return };
        let state = &mut query.stages[stage];
        if blocked && state.phase == Phase::Running && state.running + state.queued == 0 {
            state.phase = Phase::Waiting;
            state.since = now;
            self.leave_pools(id, stage, now, actions);
        }
    }
}

impl Query {
    fn lose(&mut self, loss: &Loss, now: Instant, ledger: &mut Ledger) -> Lost {
        let mut lost = Lost::default();
        // Readers before what they read: who must run again needs its inputs again.
        for stage in (0..self.stages.len()).rev() {
            if let Some(worker) = loss.worker {
                self.stages[stage].prepared.remove(&worker);
                self.stages[stage].holders.remove(&worker);
                self.stages[stage].waiting.lose(worker);
                self.stages[stage].steps.iter_mut().for_each(|step| _ = step.waiting.remove(&worker));
            }
            let needed = self.is_needed(stage);
            self.settle_kept(stage, needed, ledger);
            let replicas = self.lose_replicas(stage, loss, now);
            let tasks = replicas.and_then(|pool_is_gone| {
                self.lose_tasks(stage, loss, pool_is_gone, ledger, &mut lost)?;
                Ok(pool_is_gone)
            });
            let pool_is_gone = match tasks {
                Ok(gone) => gone,
                Err(error) => return Lost { failed: Some(error), ..lost },
            };
            lost.stages.extend(pool_is_gone.then_some(stage));
            let state = &mut self.stages[stage];
            let is_short = state.left > 0 && state.phase == Phase::Done;
            if pool_is_gone || (is_short && !self.has_enough(stage)) {
                let state = &mut self.stages[stage];
                state.phase = Phase::Waiting;
                state.since = now;
            }
        }
        if lost.result && !self.is_stable() {
            self.epoch += 1;
        }
        lost
    }

    /// True if a pool of a running stage has no replica left.
    fn lose_replicas(&mut self, stage: usize, loss: &Loss, now: Instant) -> Result<bool, Error> {
        let is_suspect = loss.suspects.contains(&(self.spec.id, stage));
        // Those of a suspect have been stopped.
        let mut gone = is_suspect && !self.stages[stage].steps.is_empty();
        for step in 0..self.stages[stage].steps.len() {
            let id = self.step_id(stage, step);
            let state = &mut self.stages[stage].steps[step];
            let Some(lost) = state.pool.and_then(|pool| loss.pools.get(&pool)) else { continue };
            gone |= lost.all;
            if loss.excused || is_suspect {
                continue;
            }
            state.lost.push(now);
            if state.lost.len() as u32 >= MAX_LOSSES {
                let (rank, worker) = (lost.last.rank, lost.on.to_string());
                let cause = PoolFailure::Lost { rank, worker, why: loss.why.clone() };
                let udf = self.spec.stages[stage].pools[step].udf.clone();
                return Err(PoolError { step: id, udf, cause }.into());
            }
        }
        Ok(gone)
    }

    fn lose_tasks(
        &mut self,
        stage: usize,
        loss: &Loss,
        pool_is_gone: bool,
        ledger: &Ledger,
        lost: &mut Lost,
    ) -> Result<(), Error> {
        let (needed, worker) = (self.is_needed(stage), loss.worker);
        let suspected = loss.suspects.contains(&(self.spec.id, stage));
        self.stages[stage].accused_before += u32::from(suspected);
        for (index, second) in worker.map(|worker| self.stages[stage].take_seconds(Some(worker))).unwrap_or_default() {
            match suspected {
                true => drop(self.stages[stage].accused.insert(index)),
                false if loss.excused => (),
                false => self.charge_loss(stage, (index, second.attempt), second.on, loss)?,
            }
        }
        for index in 0..self.stages[stage].tasks.len() {
            let was = self.stages[stage].tasks[index].state;
            match was {
                TaskState::Running { on, .. } | TaskState::Queued { on, .. } if Some(on) == worker || pool_is_gone => {
                    let attempt = self.stages[stage].tasks[index].attempt;
                    if let TaskState::Running { on, .. } = was {
                        // It ran there, or had batches there: it may be why.
                        match suspected {
                            true => drop(self.stages[stage].accused.insert(index)),
                            false if Some(on) == worker && !loss.excused => {
                                self.charge_loss(stage, (index, attempt), on, loss)?
                            }
                            false => (),
                        }
                    }
                    if self.stages[stage].promote(index) {
                        continue;
                    }
                    lost.attempts.push(((self.task_id(stage, index), attempt), was));
                    self.stages[stage].tasks[index].state = TaskState::Pending;
                }
                TaskState::Done(on, output) if Some(on) == worker => {
                    let (rows, bytes) = self.stages[stage].output;
                    self.stages[stage].output = (rows - output.rows, bytes - output.bytes);
                    self.stages[stage].lead = (0, 0);
                    if !needed {
                        self.stages[stage].tasks[index].state = TaskState::Dropped;
                        continue;
                    }
                    self.lose_output(stage, lost);
                }
                TaskState::Dropped if needed => self.lose_output(stage, lost),
                _ => continue,
            }
            let task = &mut self.stages[stage].tasks[index];
            task.state = TaskState::Pending;
            task.supersede();
            let state = &mut self.stages[stage];
            match state.accused.contains(&index) && self.spec.stages[stage].limit.is_none() {
                true => state.waiting.push_front(index),
                false => state.enqueue(index, &self.spec.stages[stage], |worker| ledger.stays(worker)),
            }
        }
        Ok(())
    }

    /// What a task had left is to be made again.
    fn lose_output(&mut self, stage: usize, lost: &mut Lost) {
        self.stages[stage].left += 1;
        self.stages[stage].epoch += 1;
        self.stages[stage].lead = (0, 0);
        lost.result |= self.is_result(stage);
    }

    /// In words, that a task needs more memory than the worker had on which it ran, where no other task was.
    fn more_than(&self, stage: usize, index: usize, memory: u64) -> Option<String> {
        let held = self.held(stage, index);
        if memory == 0 || held <= memory {
            return None;
        }
        let (spec, shape) = (&self.spec.stages[stage], self.stages[stage].shape.as_ref()?);
        let of = match &shape.tasks {
            Tasks::Sections(readers) => readers.get(index).map(Reader::to_string),
            Tasks::Splits(..) => None,
        };
        let of = of.unwrap_or_else(|| "all that it reads".to_owned());
        Some(format!(
            "it takes about {} of memory for {of}, which cannot be cut further, and its worker has {} (stage {stage}: {}). Give workers more \
             memory (REGATTA_MEMORY says what each has), or let the query hold fewer rows of one key at once",
            Bytes(held),
            Bytes(memory),
            spec.what
        ))
    }

    /// A task ran on a worker that is lost. It may be what ended it.
    fn charge_loss(
        &mut self,
        stage: usize,
        (index, attempt): (usize, Attempt),
        on: WorkerId,
        loss: &Loss,
    ) -> Result<(), Error> {
        let task = self.task_id(stage, index);
        let mut why = loss.why.clone();
        let lost = self.stages[stage].note_loss(index, attempt, on, &TaskFailure::WorkerLost(why.clone()));
        if loss.poison == Some(task) {
            why.push_str("; this task ran on each of the workers that were lost last, and no other did");
        } else if let Some(too_much) = self.more_than(stage, index, loss.memory).filter(|_| lost >= TOO_LARGE) {
            why = format!("{why}; {too_much}");
        } else if lost < MAX_LOSSES {
            return Ok(());
        }
        let (cause, before) = (TaskFailure::WorkerLost(why), self.stages[stage].before_last(index));
        Err(TaskError { task, attempt: attempt.0, worker: on.to_string(), cause, before }.into())
    }
}
