//! What gives way where a disk is full: what tasks have left and nobody reads any more. Should it be needed again, it is made again.

use super::{Action, Core};
use crate::sched::query::{Query, TaskState};
use crate::sched::{StageId, WorkerId};

impl Core {
    /// Drops what nobody reads any more on a worker and those of its machine, which write to the same disk. Whether there was any.
    pub(super) fn make_disk_room(&mut self, worker: WorkerId, actions: &mut Vec<Action>) -> bool {
        let machine = self.machines.get(&worker);
        let is_beside = |other: &WorkerId| self.machines.get(other) == machine;
        let workers: Vec<_> = self.ledger.workers().filter(is_beside).collect();
        let queries: Vec<_> = self.queries.iter().map(|(id, _)| *id).collect();
        let mut made = false;
        for id in queries {
            let Some(query) = self.queries.get_mut(&id) else { continue };
            for stage in 0..query.stages.len() {
                if query.is_needed(stage) {
                    continue;
                }
                for worker in &workers {
                    if query.drop_from(stage, *worker) {
                        let (worker, stage) = (*worker, StageId(stage as u32));
                        actions.push(Action::Drop { worker, query: id, stage });
                        made = true;
                    }
                }
            }
        }
        made
    }
}

impl Query {
    /// What tasks of a stage have left on a worker is gone. Whether there was any.
    pub(super) fn drop_from(&mut self, stage: usize, worker: WorkerId) -> bool {
        let state = &mut self.stages[stage];
        if !state.holders.remove(&worker) {
            return false;
        }
        for task in &mut state.tasks {
            if let TaskState::Done(on, output) = task.state
                && on == worker
            {
                task.state = TaskState::Dropped;
                state.output = (state.output.0 - output.rows, state.output.1 - output.bytes);
            }
        }
        // What sufficed is gone with it.
        state.lead = (0, 0);
        true
    }
}
