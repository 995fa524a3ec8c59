//! One query's state: its stages, tasks and pools.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::core::Second;
use super::ledger::Ledger;
use super::need::Holds;
use super::pool::PoolSpec;
use super::shape::{Mode, Shape, Tasks};
use super::sizes::Sizes;
use super::waiting::Waiting;
use super::{Affinity, Attempt, DriverId, PartitionId, PoolId, QueryId, StageId, StepId, TaskId, WorkerId};
use crate::error::{EarlierAttempt, Error, TaskFailure};

/// What the scheduler needs to know of a query. Inputs come before the stages that read them; the last stage yields the result.
#[derive(Debug, Clone)]
pub(crate) struct QuerySpec {
    pub(crate) id: QueryId,
    /// Who submits it.
    pub(crate) driver: DriverId,
    pub(crate) stages: Vec<StageSpec>,
    /// The result, made again, has the same rows, in whichever mode. Else who has read some of it must not read on in what is made again.
    pub(crate) stable: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct StageSpec {
    pub(crate) inputs: Vec<StageId>,
    /// Inputs that, made again, may not be what its tasks have read: all of them must read one attempt.
    pub(crate) one_attempt: Vec<StageId>,
    /// And one that other stages read, too, or made of what they read: then that holds for what it has made as well.
    pub(crate) with_others: bool,
    /// Queries whose persisted results its tasks read.
    pub(crate) held: Vec<QueryId>,
    /// How many it has, if its shape does not decide that.
    pub(crate) tasks: usize,
    /// How many sections its inputs have left, where it reads some.
    pub(crate) sections: u32,
    /// How it may be run: the first mode that fits is. None: its tasks read all of its inputs.
    pub(crate) modes: Vec<Mode>,
    /// What its tasks hold in memory of what they read.
    pub(crate) holds: Holds,
    /// And bytes that come to what makes groups of each task's own rows, in all of them: a guess.
    pub(crate) grouped: u64,
    /// What they do, for people.
    pub(crate) what: String,
    pub(crate) pools: Vec<PoolSpec>,
    /// Tasks that want to run on some worker, by index. Others run where most of their input is, if there is room.
    pub(crate) affinity: BTreeMap<usize, Affinity>,
    /// Nobody notices if a task of it runs twice at once: it calls no UDF and writes no file.
    pub(crate) may_run_twice: bool,
    /// How many rows of its first tasks are enough. Tasks after those need not run.
    pub(crate) limit: Option<u64>,
    /// Its partitions, if the driver holds them already: then it needs no run.
    pub(crate) given: Vec<Output>,
}

impl StageSpec {
    /// The input that some mode takes in; all those that do take in the same.
    fn taken_in(&self) -> Option<StageId> {
        self.inputs.get(self.modes.iter().find_map(Mode::takes_in)?).copied()
    }
}

/// A sealed partition that a task left in its worker's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) id: PartitionId,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// What whoever submitted the query hears. After `Failed` nothing, after `Done` nothing but `Lost`.
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
    /// What was lost of the result after `Done` could not be made again.
    Lost(Error),
}

#[derive(Debug)]
pub(super) struct Query {
    pub(super) spec: QuerySpec,
    pub(super) stages: Vec<Stage>,
    /// Stages that are not done and whose inputs are there.
    pub(super) open: BTreeSet<usize>,
    /// All of the result is there.
    pub(super) done: bool,
    /// `Done` has been reported. What is lost of the result is made again until it is taken.
    pub(super) told: bool,
    /// The result stays where it is, for other queries. The submitter reads nothing of it.
    pub(super) persisted: bool,
    /// Workers that have had something of it.
    pub(super) visited: BTreeSet<WorkerId>,
    /// The submitter has all that it wants: what is lost of the result stays lost.
    pub(super) taken: bool,
    /// How often the result may have become another for who had read some of it.
    pub(super) epoch: u64,
    /// Which epochs it has read of others' persisted results.
    pub(super) read: BTreeMap<QueryId, u64>,
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) phase: Phase,
    /// The stage that some of its modes take in.
    pub(super) may_take: Option<StageId>,
    /// In which of its modes it is run, and how, once that is known.
    pub(super) mode: Option<usize>,
    pub(super) shape: Option<Shape>,
    /// It has its tasks. Else it waits for its shape; or, if it is done, it is a part of another's tasks.
    pub(super) is_launched: bool,
    pub(super) tasks: Vec<Task>,
    /// Tasks to be started, by index.
    pub(super) waiting: Waiting,
    /// Tasks of which attempts have failed, or were lost, since the last that succeeded.
    pub(super) failures: BTreeMap<usize, Failures>,
    /// Tasks that wait before their next attempt, and since when.
    pub(super) delayed: BTreeMap<usize, Instant>,
    /// Tasks of which a second attempt runs beside the first.
    pub(super) seconds: BTreeMap<usize, Second>,
    /// Tasks that run, and that wait at a worker behind one that does.
    pub(super) running: usize,
    pub(super) queued: usize,
    /// Tasks that are not done.
    pub(super) left: usize,
    /// How often something that its tasks had left was lost, to be made again.
    pub(super) epoch: u64,
    /// Tasks that ran on a worker which was lost, beside those of other queries: the stage runs alone until they have succeeded.
    pub(super) accused: BTreeSet<usize>,
    /// How often that was so.
    pub(super) accused_before: u32,
    /// Epochs of the inputs of which its tasks read one attempt, together, when the first of them started.
    pub(super) seen: u64,
    /// How many attempts have succeeded, and how long they ran.
    pub(super) ended: (u32, Duration),
    /// Rows and bytes that its tasks have left.
    pub(super) output: (u64, u64),
    /// What tasks have left in each section, by their index, until it is decided who reads what.
    pub(super) sections: BTreeMap<usize, Sizes>,
    /// How many of its first tasks are known to be done, and how many rows they have left: as far as its limit goes.
    pub(super) lead: (usize, u64),
    pub(super) steps: Vec<Step>,
    /// Stages that read it.
    pub(super) readers: Vec<usize>,
    /// Workers that have the stage's program.
    pub(super) prepared: BTreeSet<WorkerId>,
    /// Workers that hold its partitions.
    pub(super) holders: BTreeSet<WorkerId>,
    /// Its holders have been asked to keep them.
    pub(super) kept: bool,
    /// The worker with most of what its tasks read: they run there if there is room.
    pub(super) near: Option<WorkerId>,
    /// When it entered its phase, or its inputs were there.
    pub(super) since: Instant,
    /// When a task of it was started last.
    pub(super) moved: Instant,
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
    /// The last number that an attempt of it was given.
    tried: u32,
    pub(super) state: TaskState,
    /// How often what it had left could not be read where it was.
    pub(super) unread: u32,
    /// It is a task of the result whose partition has been reported.
    pub(super) reported: bool,
}

impl Task {
    /// A number for one more attempt.
    pub(super) fn next(&mut self) -> Attempt {
        self.tried += 1;
        Attempt(self.tried)
    }

    /// Its attempt, if there is one, does not count any more: the next one will.
    pub(super) fn supersede(&mut self) {
        self.attempt = self.next();
    }

    /// Where it runs, or waits behind one that does.
    pub(super) fn is_on(&self) -> Option<WorkerId> {
        match self.state {
            TaskState::Running { on, .. } | TaskState::Queued { on, .. } => Some(on),
            TaskState::Pending | TaskState::Done(..) | TaskState::Dropped => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TaskState {
    Pending,
    Running {
        on: WorkerId,
        since: Instant,
    },
    /// At a worker, behind a task that runs there and whose room it will take.
    Queued {
        on: WorkerId,
    },
    Done(WorkerId, Output),
    /// Done, and what it left is gone; nobody reads it.
    Dropped,
}

/// What has come of a task in vain: attempts that failed, and those that ran on a worker that was lost.
#[derive(Debug, Default)]
pub(super) struct Failures {
    of: Vec<EarlierAttempt>,
    pub(super) failed: u32,
    pub(super) lost: u32,
}

impl Failures {
    fn note(&mut self, attempt: Attempt, on: WorkerId, why: &TaskFailure) {
        let why = why.to_string().chars().take(SAID).collect();
        self.of.push(EarlierAttempt { attempt: attempt.0, worker: on.to_string(), why });
    }
}

/// A UDF step of a stage, and what it has of its pool.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// While the stage runs.
    pub(super) pool: Option<PoolId>,
    /// When workers were lost on which it had replicas; those of long ago are forgiven when tasks succeed.
    pub(super) lost: Vec<Instant>,
    /// Batches that wait for a replica to have room, by the worker of their tasks, and since when.
    pub(super) waiting: BTreeMap<WorkerId, (usize, Instant)>,
}

/// Tasks that take longer do not wait at workers: another worker might be free sooner, and nothing would be gained.
pub(super) const QUICK: Duration = Duration::from_millis(100);
/// How much work may wait behind a task: far more than the time in which the scheduler hears of an end and answers.
const AHEAD: Duration = Duration::from_millis(10);
/// The same in tasks, at most; and one for each so many that have ended, for the next ones may be others.
const DEEPEST: usize = 64;
const ENDED_EACH: u32 = 64;
/// After so long a lost worker is not held against a UDF that does its work.
const FORGIVEN: Duration = Duration::from_secs(600);
/// So many characters are kept of why an attempt failed that was not the last.
const SAID: usize = 300;

impl Query {
    pub(super) fn new(spec: QuerySpec, now: Instant) -> Self {
        let stages = spec.stages.iter().map(|stage| Stage::new(stage, now)).collect();
        let mut query = Self {
            spec,
            stages,
            open: BTreeSet::new(),
            visited: BTreeSet::new(),
            done: false,
            told: false,
            persisted: false,
            taken: false,
            epoch: 0,
            read: BTreeMap::new(),
        };
        for stage in 0..query.stages.len() {
            for input in query.spec.stages[stage].inputs.clone() {
                let readers = query.stages.get_mut(input.0 as usize).map(|input| &mut input.readers);
                readers.into_iter().for_each(|readers| readers.push(stage));
            }
        }
        query
    }

    pub(super) fn task_id(&self, stage: usize, index: usize) -> TaskId {
        TaskId { query: self.spec.id, stage: StageId(stage as u32), index: index as u32 }
    }

    pub(super) fn step_id(&self, stage: usize, step: usize) -> StepId {
        StepId { query: self.spec.id, stage: StageId(stage as u32), step: step as u32 }
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

    /// Stages with tasks that nothing but room keeps from starting, and how many.
    pub(super) fn backlog(&self) -> impl Iterator<Item = (usize, usize)> {
        let waits = |index: &usize| (*index, self.stages[*index].waiting.len() + self.stages[*index].queued);
        self.open.iter().map(waits).filter(|(_, tasks)| *tasks > 0)
    }

    pub(super) fn inputs_done(&self, stage: usize) -> bool {
        let done = |id: &StageId| self.stages.get(id.0 as usize).is_some_and(|s| s.phase == Phase::Done);
        self.spec.stages[stage].inputs.iter().all(done)
    }

    /// Whether the first tasks of a stage have left as many rows as it is to have. Then no other task is needed.
    pub(super) fn has_enough(&mut self, stage: usize) -> bool {
        let Some(limit) = self.spec.stages[stage].limit else { return false };
        let stage = &mut self.stages[stage];
        let (first, mut rows) = stage.lead;
        let next = stage.tasks[first..].iter().map_while(|task| match task.state {
            TaskState::Done(_, output) if rows < limit => {
                rows += output.rows;
                Some(())
            }
            _ => None,
        });
        let looked = next.count();
        stage.lead = (first + looked, rows);
        rows >= limit
    }

    /// The partitions that a finished stage left, in task order. Of one that had enough before its end, those of the first
    /// tasks that suffice.
    pub(super) fn outputs(&self, stage: usize) -> Vec<(WorkerId, Output)> {
        let mut left = self.spec.stages[stage].limit.unwrap_or(u64::MAX);
        let done = self.stages[stage].tasks.iter().map_while(|task| match task.state {
            TaskState::Done(worker, output) if left > 0 => {
                left = left.saturating_sub(output.rows);
                Some((worker, output))
            }
            _ => None,
        });
        done.collect()
    }

    /// Whether somebody still reads what this stage leaves: the submitter, or a stage that is not done.
    pub(super) fn is_needed(&self, stage: usize) -> bool {
        let reads = |reader: &usize| self.stages[*reader].phase != Phase::Done;
        (stage + 1 == self.stages.len() && !self.taken) || self.stages[stage].readers.iter().any(reads)
    }

    /// Whether the result, made again, has the same rows, as it is run.
    pub(super) fn is_stable(&self) -> bool {
        let last = self.stages.last().and_then(|stage| stage.mode).zip(self.spec.stages.last());
        self.spec.stable || last.and_then(|(mode, last)| last.modes.get(mode)).is_some_and(|mode| mode.stable)
    }

    pub(super) fn is_result(&self, stage: usize) -> bool {
        stage + 1 == self.stages.len()
    }

    /// Whether tasks of a stage have read, or are reading, an attempt of an input that is not the one which others would read,
    /// though all of them must read one.
    pub(super) fn is_outdated(&mut self, stage: usize) -> bool {
        // Where all have ended, nobody else reads; unless other stages do.
        let reads = self.stages[stage].phase != Phase::Done || self.spec.stages[stage].with_others;
        if !reads || !self.inputs_done(stage) {
            return false;
        }
        let inputs = self.spec.stages[stage].one_attempt.iter().filter_map(|id| self.stages.get(id.0 as usize));
        let epochs = inputs.map(|input| input.epoch).sum();
        // Each of them only grows: the sum is the same only if all are.
        let seen = std::mem::replace(&mut self.stages[stage].seen, epochs);
        // What was given out has been read from, also if all of it is lost by now.
        let given =
            self.is_result(stage) && !self.persisted && self.stages[stage].tasks.iter().any(|task| task.reported);
        seen != epochs && (given || self.stages[stage].has_begun())
    }

    /// Notes whether a stage has work to give out, after its phase or that of an input has changed.
    pub(super) fn reopen(&mut self, stage: usize, now: Instant) {
        let inputs_done = self.inputs_done(stage);
        let state = &mut self.stages[stage];
        if state.phase == Phase::Done {
            state.accused.clear();
        }
        // Suspects are not started in their turn.
        if state.phase == Phase::Done || !state.is_launched || !inputs_done || !state.accused.is_empty() {
            self.open.remove(&stage);
        } else if self.open.insert(stage) && self.stages[stage].phase == Phase::Waiting {
            self.stages[stage].since = now;
        }
    }

    /// Asks the holders of what somebody still reads to stay, and lets the others go.
    pub(super) fn settle_kept(&mut self, stage: usize, needed: bool, ledger: &mut Ledger) {
        let stage = &mut self.stages[stage];
        if stage.kept != needed {
            stage.kept = needed;
            stage.holders.iter().for_each(|worker| ledger.keep(*worker, needed));
        }
    }
}

impl Step {
    /// A task has succeeded: the losses of long ago were not its UDF's fault.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.lost.retain(|at| now.duration_since(*at) < FORGIVEN);
    }
}

impl Stage {
    fn new(spec: &StageSpec, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting,
            may_take: spec.taken_in(),
            mode: None,
            shape: None,
            is_launched: false,
            tasks: Vec::new(),
            waiting: Waiting::default(),
            failures: BTreeMap::new(),
            delayed: BTreeMap::new(),
            seconds: BTreeMap::new(),
            running: 0,
            queued: 0,
            left: 0,
            epoch: 0,
            accused: BTreeSet::new(),
            accused_before: 0,
            seen: 0,
            ended: (0, Duration::ZERO),
            output: (0, 0),
            sections: BTreeMap::new(),
            lead: (0, 0),
            steps: spec.pools.iter().map(|_| Step::default()).collect(),
            readers: Vec::new(),
            prepared: BTreeSet::new(),
            holders: BTreeSet::new(),
            kept: true,
            near: None,
            since: now,
            moved: now,
        }
    }

    /// Gives it its tasks. Wishes for workers that are not there are soft ones.
    pub(super) fn launch(&mut self, spec: &StageSpec, is_there: impl Fn(WorkerId) -> bool) {
        let task = |state| Task { attempt: Attempt(1), tried: 1, state, unread: 0, reported: false };
        let given = spec.given.iter().map(|output| task(TaskState::Done(WorkerId::DRIVER, *output)));
        let to_run = spec.tasks.saturating_sub(spec.given.len());
        self.tasks = given.chain(std::iter::repeat_with(|| task(TaskState::Pending)).take(to_run)).collect();
        self.output =
            spec.given.iter().fold((0, 0), |(rows, bytes), output| (rows + output.rows, bytes + output.bytes));
        self.left = to_run;
        // A stage without a task has nothing to wait for.
        if to_run == 0 {
            self.phase = Phase::Done;
        }
        self.is_launched = true;
        let mut order: Vec<_> = (spec.given.len()..spec.tasks).collect();
        // The largest first: small ones fill the time in which the last of them ends.
        if let Some(Shape { tasks: Tasks::Sections(readers), .. }) = &self.shape {
            order.sort_by_key(|index| Reverse(readers.get(*index).map(|reader| reader.bytes)));
        }
        order.into_iter().for_each(|index| self.enqueue(index, spec, &is_there));
    }

    /// What those of its tasks that are done have left in each section, where that is known: by their number.
    pub(super) fn measured(&self) -> impl Iterator<Item = (u32, &Sizes)> {
        let is_done = |index: usize| self.tasks.get(index).is_some_and(|t| matches!(t.state, TaskState::Done(..)));
        self.sections.iter().filter(move |(index, _)| is_done(**index)).map(|(index, sizes)| (*index as u32, sizes))
    }

    /// Puts a task where it waits for its turn: the last, but where not all may be needed, in order.
    pub(super) fn enqueue(&mut self, index: usize, spec: &StageSpec, is_there: impl Fn(WorkerId) -> bool) {
        let wish = spec.affinity.get(&index).copied();
        let wish = wish.filter(|(Affinity::Hard(worker) | Affinity::Soft(worker))| is_there(*worker));
        match wish {
            Some(Affinity::Soft(_)) | None if spec.limit.is_some() => self.waiting.insert(index),
            _ => self.waiting.push(index, wish),
        }
    }

    /// Notes that an attempt of a task has failed: how many there were of late.
    pub(super) fn note_failure(&mut self, index: usize, attempt: Attempt, on: WorkerId, why: &TaskFailure) -> u32 {
        let failures = self.failures.entry(index).or_default();
        failures.note(attempt, on, why);
        failures.failed += 1;
        failures.failed
    }

    /// Notes that an attempt of a task ran on a worker that is lost: how many did of late.
    pub(super) fn note_loss(&mut self, index: usize, attempt: Attempt, on: WorkerId, why: &TaskFailure) -> u32 {
        let failures = self.failures.entry(index).or_default();
        failures.note(attempt, on, why);
        failures.lost += 1;
        failures.lost
    }

    /// The attempts before the last one that failed, or was lost.
    pub(super) fn before_last(&self, index: usize) -> Vec<EarlierAttempt> {
        let failures = self.failures.get(&index).and_then(|failures| failures.of.split_last());
        failures.map_or_else(Vec::new, |(_, before)| before.to_vec())
    }

    /// Whether some task runs or has run, in the attempts that count.
    pub(super) fn has_begun(&self) -> bool {
        self.tasks.iter().any(|task| !matches!(task.state, TaskState::Pending))
    }

    /// How many tasks may wait at a worker behind one of this stage. None, unless its tasks are so short that the worker would
    /// wait for the scheduler between two of them.
    pub(super) fn depth(&self) -> usize {
        let (ended, ran) = self.ended;
        if ended == 0 || ran >= QUICK * ended {
            return 0;
        }
        let ahead = AHEAD.as_nanos() * u128::from(ended) / ran.as_nanos().max(1);
        ahead.min(u128::from(ended / ENDED_EACH)).clamp(1, DEEPEST as u128) as usize
    }
}

/// How an attempt ended.
pub(crate) type Outcome = Result<Output, TaskFailure>;
