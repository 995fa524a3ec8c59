//! What is made again is never mixed with what was made before. Where it may be other rows, all tasks that have read the first
//! run again; what they left is lost in turn, which their readers see once it is made again. What has been given out is never
//! contradicted: then the query fails.

use std::collections::BTreeSet;
use std::time::Instant;

use super::recover::{Loss, MAX_ATTEMPTS};
use super::{Action, Core};
use crate::error::{MadeOtherwise, TaskError, TaskFailure};
use crate::sched::query::{Phase, Query, TaskState};
use crate::sched::{Attempt, QueryId, StageId, TaskId, WorkerId};

impl Core {
    /// Notes whether a stage has work to give out, after its phase or that of an input has changed; and whether those that
    /// follow would read what goes with what was read before.
    pub(super) fn reopen(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        query.reopen(stage, now);
        if query.is_outdated(stage) {
            self.roll_back(id, stage, now, actions);
        }
        if let Some(persisted) = self.reads_another_epoch(id, stage) {
            let error = MadeOtherwise::Persisted { query: id, persisted };
            self.end(id, Some(error.into()), now, actions);
        }
    }

    pub(super) fn reopen_all(&mut self, id: QueryId, now: Instant, actions: &mut Vec<Action>) {
        for stage in 0..self.queries.get(&id).map_or(0, |query| query.stages.len()) {
            self.reopen(id, stage, now, actions);
        }
    }

    /// Makes all tasks of a stage run again, and of those above it that must be made of the same.
    fn roll_back(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) {
        let mut stages = BTreeSet::from([stage]);
        while let Some(stage) = stages.pop_first() {
            let Some(query) = self.queries.get_mut(&id) else { return };
            let was_reported = query.stages[stage].tasks.iter().any(|task| task.reported);
            if query.is_result(stage) && was_reported && !query.persisted {
                let error = MadeOtherwise::Result { query: id, stage: StageId(stage as u32) };
                return self.end(id, Some(error.into()), now, actions);
            }
            self.run_again(id, stage, now, actions);
            let Some(query) = self.queries.get(&id) else { return };
            let with_others = |reader: &&usize| {
                let spec = &query.spec.stages[**reader];
                spec.with_others && spec.one_attempt.contains(&StageId(stage as u32))
            };
            stages.extend(query.stages[stage].readers.iter().filter(with_others));
        }
        // Of what these need again, some may be gone.
        self.lose_from_query(id, &Loss::default(), now, actions);
        self.tell_readers_of(id, now, actions);
    }

    /// Makes all tasks of a stage run again.
    fn run_again(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        query.settle_kept(stage, false, &mut self.ledger);
        let (spec, state) = (&query.spec.stages[stage], &mut query.stages[stage]);
        let (mut left, mut again) = (Vec::new(), 0);
        state.lead = (0, 0);
        for index in 0..state.tasks.len() {
            let task = &mut state.tasks[index];
            match std::mem::replace(&mut task.state, TaskState::Pending) {
                // It waits already.
                TaskState::Pending => continue,
                TaskState::Done(..) | TaskState::Dropped => again += 1,
                was @ (TaskState::Running { on, .. } | TaskState::Queued { on }) => {
                    left.push((index, task.attempt, on, was));
                }
            }
            task.supersede();
            state.enqueue(index, spec, |worker| self.ledger.stays(worker));
        }
        state.epoch += again;
        state.left = state.tasks.len();
        state.output = (0, 0);
        if state.phase == Phase::Done {
            state.phase = Phase::Waiting;
            state.since = now;
        }
        let holders = std::mem::take(&mut state.holders);
        let seconds = state.take_seconds(None);
        let stopped = left.iter().map(|(_, _, on, _)| *on).chain(seconds.iter().map(|(_, second)| second.on));
        let stopped: BTreeSet<WorkerId> = stopped.collect();
        state.prepared.retain(|worker| !stopped.contains(worker));
        let stage_id = StageId(stage as u32);
        actions.extend(stopped.into_iter().map(|worker| Action::Enough { worker, query: id, stage: stage_id }));
        actions.extend(holders.into_iter().map(|worker| Action::Drop { worker, query: id, stage: stage_id }));
        let needed = query.is_needed(stage);
        query.settle_kept(stage, needed, &mut self.ledger);
        query.reopen(stage, now);
        if query.is_result(stage) && !query.is_stable() && again > 0 {
            query.epoch += 1;
        }
        for (index, attempt, _, was) in left {
            self.abandon((TaskId { query: id, stage: stage_id, index: index as u32 }, attempt), was, now);
        }
        for (index, second) in seconds {
            self.leave_behind((TaskId { query: id, stage: stage_id, index: index as u32 }, second.attempt), now);
        }
    }

    /// A persisted result has become another: who has read some of it fails.
    pub(super) fn tell_readers_of(&mut self, persisted: QueryId, now: Instant, actions: &mut Vec<Action>) {
        let live = self.queries.iter().filter(|(_, query)| !query.done && query.read.contains_key(&persisted));
        for reader in live.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.reopen_all(reader, now, actions);
        }
    }

    /// The persisted result of which tasks of this query have read some, if others would read another now.
    fn reads_another_epoch(&mut self, id: QueryId, stage: usize) -> Option<QueryId> {
        let reads = |query: &&Query| query.stages[stage].phase != Phase::Done && query.inputs_done(stage);
        let query = self.queries.get(&id).filter(reads)?;
        let held = query.spec.stages[stage].held.iter();
        let held: Vec<_> = held.filter_map(|of| Some((*of, self.queries.get(of)?.epoch))).collect();
        let query = self.queries.get_mut(&id)?;
        held.into_iter().find_map(|(of, epoch)| {
            let read = query.read.insert(of, epoch).unwrap_or(epoch);
            let mut readers = query.stages.iter().zip(&query.spec.stages).filter(|(_, spec)| spec.held.contains(&of));
            // What they have left may have been read, also if it is lost by now.
            let begun = readers.any(|(stage, _)| stage.has_begun() || stage.epoch > 0);
            (read != epoch && begun).then_some(of)
        })
    }

    /// Whether some persisted result that a stage reads is being made again. What makes it may need the stage's room.
    pub(super) fn waits_for_held(&self, query: &Query, stage: usize) -> bool {
        let mut held = query.spec.stages[stage].held.iter().filter_map(|of| self.queries.get(of));
        held.any(|of| !of.done)
    }

    /// Those who read what a query has persisted may go on, or hear that it is gone.
    pub(super) fn note_readers_of(&mut self, persisted: QueryId) {
        let reads =
            |query: &Query| !query.done && query.spec.stages.iter().any(|stage| stage.held.contains(&persisted));
        let readers: Vec<_> = self.queries.iter().filter(|(_, query)| reads(query)).map(|(id, _)| *id).collect();
        readers.into_iter().for_each(|reader| self.queries.note(reader));
    }

    /// What an attempt left cannot be read, though its worker lives: it is made again. Its reader is not to blame.
    pub(super) fn unread(&mut self, id: TaskId, attempt: Attempt, why: &str, now: Instant, actions: &mut Vec<Action>) {
        let (stage, index) = (id.stage.0 as usize, id.index as usize);
        let Some(query) = self.queries.get_mut(&id.query) else { return };
        let Some(state) = query.stages.get_mut(stage) else { return };
        let Some(task) = state.tasks.get_mut(index).filter(|task| task.attempt == attempt) else { return };
        // It may be lost already, or be made again.
        let TaskState::Done(on, output) = task.state else { return };
        task.unread += 1;
        // What a driver holds nobody can make again.
        if on == WorkerId::DRIVER || task.unread >= MAX_ATTEMPTS {
            let (worker, attempt) = (on.to_string(), attempt.0);
            let cause = TaskFailure::LostInput { task: id, attempt, from: worker.clone(), why: why.to_owned() };
            let error = TaskError { task: id, attempt, worker, cause, before: Vec::new() };
            return self.end(id.query, Some(error.into()), now, actions);
        }
        task.state = TaskState::Dropped;
        state.lead = (0, 0);
        state.output = (state.output.0 - output.rows, state.output.1 - output.bytes);
        self.lose_from_query(id.query, &Loss::default(), now, actions);
    }

    pub(super) fn persist(&mut self, id: QueryId, actions: &mut Vec<Action>) {
        if let Some(query) = self.queries.get_mut(&id) {
            query.persisted = true;
            self.drop_inputs(id, actions);
        }
    }

    pub(super) fn taken(&mut self, id: QueryId) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        query.taken = true;
        if let Some(result) = query.stages.len().checked_sub(1) {
            query.settle_kept(result, false, &mut self.ledger);
        }
    }

    /// Of a persisted result nobody needs what it was made of. Should some of it be lost, that is made again, too.
    pub(super) fn drop_inputs(&mut self, id: QueryId, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get_mut(&id).filter(|query| query.done && query.persisted) else { return };
        let Some((_, inputs)) = query.stages.split_last_mut() else { return };
        for (stage, state) in inputs.iter_mut().enumerate() {
            // What the driver holds is a frame of its own.
            let made = state
                .tasks
                .iter_mut()
                .filter(|task| matches!(task.state, TaskState::Done(on, _) if on != WorkerId::DRIVER));
            made.for_each(|task| task.state = TaskState::Dropped);
            // What sufficed is gone with it.
            state.lead = (0, 0);
            let holders = std::mem::take(&mut state.holders).into_iter();
            actions.extend(holders.map(|worker| Action::Drop { worker, query: id, stage: StageId(stage as u32) }));
        }
    }
}
