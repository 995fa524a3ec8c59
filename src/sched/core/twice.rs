//! A task that takes far longer than those of its stage runs a second time, on another worker that has room. The first end is the
//! task's, and the other attempt is stopped. Only where nobody notices that it runs twice: no UDF is called, no file written.

use std::time::{Duration, Instant};

use super::place::run;
use super::recover::MAX_ATTEMPTS;
use super::{Action, Core};
use crate::error::{Error, TaskError, TaskFailure};
use crate::sched::query::{Outcome, Phase, Query, Stage, TaskState};
use crate::sched::queues::Run;
use crate::sched::shape::Tasks;
use crate::sched::{Attempt, TaskId, WorkerId};

/// The second attempt of a task that is late.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Second {
    pub(in super::super) attempt: Attempt,
    pub(in super::super) on: WorkerId,
    since: Instant,
}

/// A task is late that has run so many times as long as those of its stage that have ended, on average; more than half of them have.
const LATE: u32 = 2;
/// And for so long at least: a second attempt costs a moment, too.
const LEAST: Duration = Duration::from_secs(1);

impl Core {
    /// Starts second attempts of tasks that are late, in room that nobody else wants.
    pub(super) fn run_late_twice(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let task = self.settings.task;
        if !self.ledger.has_room(task) || !self.unadmitted.is_empty() {
            return;
        }
        let mut late = Vec::new();
        for (id, query) in self.queries.iter().filter(|(_, query)| !query.done) {
            if query.open.iter().any(|stage| query.stages[*stage].waiting.len() > 0) {
                return;
            }
            late.extend(query.open.iter().flat_map(|stage| query.late(*stage, now)).map(|late| (*id, late)));
        }
        for (id, (stage, index, on)) in late {
            if !self.policy.admits(self.queues.len()) {
                return;
            }
            let mut others: Vec<_> = self.ledger.workers().filter(|worker| *worker != on).collect();
            others.sort_by_key(|worker| (self.queues.desk(*worker).running, *worker));
            let Some(need) = self.queries.get(&id).map(|query| self.need(query, stage, index)) else { continue };
            let Some(room) = others.into_iter().find_map(|worker| self.ledger.place_task_on(worker, need)) else {
                continue;
            };
            let worker = room.worker;
            let Some(query) = self.queries.get_mut(&id) else { continue };
            let attempt = query.stages[stage].tasks[index].next();
            query.stages[stage].seconds.insert(index, Second { attempt, on: worker, since: now });
            // Nothing waits behind it.
            self.queues.start((query.task_id(stage, index), attempt), (need, room), 0, now);
            run(query, stage, index, attempt, worker, None, actions);
        }
    }

    /// Whether the end of this attempt would be its task's.
    pub(crate) fn counts(&self, task: TaskId, attempt: Attempt) -> bool {
        let stage = self.queries.get(&task.query).and_then(|query| query.stages.get(task.stage.0 as usize));
        stage.is_some_and(|stage| stage.counts(task.index as usize, attempt))
    }

    /// Whether this attempt is the second of its task, beside the first.
    pub(crate) fn is_second(&self, task: TaskId, attempt: Attempt) -> bool {
        let stage = self.queries.get(&task.query).and_then(|query| query.stages.get(task.stage.0 as usize));
        stage
            .and_then(|stage| stage.seconds.get(&(task.index as usize)))
            .is_some_and(|second| second.attempt == attempt)
    }

    /// One of two attempts of a task has ended: the other is stopped, or is the only one from now on. Yields the end if there is more to
    /// be made of it.
    pub(super) fn end_of_two(
        &mut self,
        id: TaskId,
        attempt: Attempt,
        outcome: Outcome,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Option<Outcome> {
        let index = id.index as usize;
        let Some(state) = self.stage_mut(id) else { return Some(outcome) };
        let Some(task) = state.tasks.get(index) else { return Some(outcome) };
        let Some(second) = state.seconds.get(&index).copied() else { return Some(outcome) };
        let (first, is_second) = (task.attempt, second.attempt == attempt);
        let TaskState::Running { on: first_on, .. } = task.state else { return Some(outcome) };
        if !is_second && first != attempt {
            return Some(outcome);
        }
        let (on, (other, other_on)) = match is_second {
            true => (second.on, (first, first_on)),
            false => (first_on, (second.attempt, second.on)),
        };
        if is_second == outcome.is_ok() {
            state.promote(index);
        }
        state.seconds.remove(&index);
        match outcome {
            Ok(output) => {
                actions.push(Action::Stop { worker: other_on, task: id, attempt: other });
                self.leave_behind((id, other), now);
                Some(Ok(output))
            }
            Err(cause) => {
                self.fail_beside(id, attempt, on, cause, now, actions);
                None
            }
        }
    }

    /// An attempt has failed beside another that goes on.
    fn fail_beside(
        &mut self,
        id: TaskId,
        attempt: Attempt,
        on: WorkerId,
        cause: TaskFailure,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let is_over = self.stage_mut(id).is_none_or(|stage| stage.phase == Phase::Done);
        match cause {
            _ if is_over => (),
            TaskFailure::Cancelled | TaskFailure::MadeAgain(_) => (),
            TaskFailure::Transfer { from, .. } if self.has_departed(&from) => (),
            TaskFailure::LostInput { task, attempt, from, why } => {
                self.unread(task, Attempt(attempt), &format!("{why} (on {from})"), now, actions);
            }
            cause => {
                if matches!(cause, TaskFailure::DiskFull { .. }) {
                    self.avoid_full(on, now);
                }
                let Some(state) = self.stage_mut(id) else { return };
                let index = id.index as usize;
                let failed = state.note_failure(index, attempt, on, &cause);
                if cause.is_retryable() && failed < MAX_ATTEMPTS {
                    return;
                }
                let before = state.before_last(index);
                let error = TaskError { task: id, attempt: attempt.0, worker: on.to_string(), cause, before };
                self.end(id.query, Some(Error::from(error)), now, actions);
            }
        }
    }

    /// An attempt is not wanted any more, of a task that does not run there as far as its stage knows. It keeps its room until its worker
    /// says that it has ended.
    pub(super) fn leave_behind(&mut self, run: Run, now: Instant) {
        if self.queues.worker_of(run).is_some() {
            self.leaving.insert(run, now);
        }
    }
}

impl Query {
    /// Tasks of a stage that are late and run only once, and where.
    fn late(&self, stage: usize, now: Instant) -> Vec<(usize, usize, WorkerId)> {
        let (spec, state) = (&self.spec.stages[stage], &self.stages[stage]);
        let (ended, ran) = state.ended;
        let most_have = ended as usize * 2 >= state.tasks.len();
        if !spec.may_run_twice || state.phase != Phase::Running || state.running == 0 || ended == 0 || !most_have {
            return Vec::new();
        }
        let each = ran / ended;
        let late = state.tasks.iter().enumerate().filter_map(|(index, task)| match task.state {
            TaskState::Running { on, since } if !state.seconds.contains_key(&index) => {
                let is_late = now.duration_since(since) > (each * LATE).mul_f64(state.size_of(index)).max(LEAST);
                is_late.then_some((stage, index, on))
            }
            _ => None,
        });
        late.collect()
    }
}

impl Stage {
    /// How many times as much as on average a task has to read, if it is more.
    fn size_of(&self, index: usize) -> f64 {
        let Some(Tasks::Sections(readers)) = self.shape.as_ref().map(|shape| &shape.tasks) else { return 1.0 };
        let all: u64 = readers.iter().map(|reader| reader.bytes).sum();
        let one = readers.get(index).map_or(0, |reader| reader.bytes);
        if all == 0 { 1.0 } else { (one as f64 * readers.len() as f64 / all as f64).max(1.0) }
    }

    pub(in super::super) fn counts(&self, index: usize, attempt: Attempt) -> bool {
        let is_first = self.tasks.get(index).is_some_and(|task| task.attempt == attempt);
        is_first || self.seconds.get(&index).is_some_and(|second| second.attempt == attempt)
    }

    /// The second attempt of a task takes the place of the first, if there is one. Whether there is.
    pub(in super::super) fn promote(&mut self, index: usize) -> bool {
        let Some(Second { attempt, on, since }) = self.seconds.remove(&index) else { return false };
        let Some(task) = self.tasks.get_mut(index) else { return false };
        (task.attempt, task.state) = (attempt, TaskState::Running { on, since });
        true
    }

    /// Takes out the second attempts, all of them or those on one worker.
    pub(in super::super) fn take_seconds(&mut self, on: Option<WorkerId>) -> Vec<(usize, Second)> {
        let mut taken = Vec::new();
        self.seconds.retain(|index, second| {
            let goes = on.is_none_or(|worker| second.on == worker);
            taken.extend(goes.then_some((*index, *second)));
            !goes
        });
        taken
    }

    /// How many second attempts of its tasks run on a worker.
    pub(in super::super) fn seconds_on(&self, worker: WorkerId) -> usize {
        self.seconds.values().filter(|second| second.on == worker).count()
    }
}
