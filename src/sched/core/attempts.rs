//! Attempts at workers: how their room is given back, also when nobody wants them any more.

use std::time::Instant;

use super::{Action, Core};
use crate::sched::Affinity;
use crate::sched::query::{QUICK, TaskState};
use crate::sched::queues::{Left, Run};

impl Core {
    /// Gives the room of an attempt that has ended to who waits behind it, or to all. False if it has ended before, or went with
    /// its worker.
    pub(super) fn vacate(&mut self, run: Run, now: Instant) -> bool {
        self.leaving.remove(&run);
        match self.queues.end(run, now) {
            Some(Left::Next(next)) => self.begin(next, now),
            Some(Left::Room(room)) => self.ledger.release(&room),
            Some(Left::Nothing) => (),
            None => return false,
        }
        true
    }

    /// An attempt is not wanted any more. It keeps its room until its worker says that it has ended: what cannot be interrupted
    /// takes its CPU until then.
    pub(super) fn abandon(&mut self, (task, attempt): Run, was: TaskState, now: Instant) {
        let stage = self.stage_mut(task);
        let waits = match was {
            TaskState::Running { .. } => {
                stage.into_iter().for_each(|stage| stage.running -= 1);
                false
            }
            TaskState::Queued { .. } => {
                stage.into_iter().for_each(|stage| stage.queued -= 1);
                true
            }
            TaskState::Pending | TaskState::Done(..) | TaskState::Dropped => return,
        };
        if self.queues.worker_of((task, attempt)).is_some() {
            self.leaving.insert((task, attempt), now);
        }
        if waits {
            self.queues.leaves((task, attempt));
        }
    }

    /// An attempt that waited at its worker runs from now on, unless it is about to leave.
    fn begin(&mut self, (id, attempt): Run, now: Instant) {
        let Some(stage) = self.stage_mut(id) else { return };
        let Some(task) = stage.tasks.get_mut(id.index as usize).filter(|task| task.attempt == attempt) else { return };
        let TaskState::Queued { on } = task.state else { return };
        task.state = TaskState::Running { on, since: now };
        stage.queued -= 1;
        stage.running += 1;
        let depth = stage.depth();
        self.queues.begun((id, attempt), depth);
    }

    /// What waits at a worker behind a task that takes longer than was thought is asked for back, if it could run now elsewhere.
    pub(super) fn take_back(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(before) = now.checked_sub(QUICK).filter(|_| self.ledger.has_room(self.settings.task)) else { return };
        for ((task, attempt), worker) in self.queues.take_back(before) {
            let wish = self.queries.get(&task.query).and_then(|query| query.spec.stages.get(task.stage.0 as usize));
            let wish = wish.and_then(|stage| stage.affinity.get(&(task.index as usize)));
            if wish != Some(&Affinity::Hard(worker)) && !self.leaving.contains_key(&(task, attempt)) {
                actions.push(Action::Withdraw { worker, task, attempt });
            }
        }
    }
}
