//! The autoscaler's step: tells it what has changed, does what it decides.

use std::time::Instant;

use super::{Action, Core};
use crate::sched::WorkerId;
use crate::sched::autoscale::Load;

impl Core {
    pub(super) fn scale(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let changed = self.ledger.take_changed();
        let load = Load {
            backlog: self.backlog(),
            capacity: self.ledger.capacity(),
            workers: self.ledger.staying(),
            queries: self.turns.len(),
            ended: std::mem::take(&mut self.ended),
        };
        let Some(scaler) = &mut self.autoscaler else { return };
        for worker in changed {
            scaler.note(worker, self.ledger.stays(worker) && self.ledger.is_idle(worker), now);
        }
        let decision = scaler.step(&load, now);
        for worker in decision.retire {
            self.retire(worker, now);
            actions.push(Action::Retire { worker });
        }
        let leaving = self.drains.len();
        actions.extend(decision.demand.map(|workers| Action::Demand { workers: workers + leaving }));
    }

    /// Nothing is placed there any more, and nobody needs what it holds; should it be needed again, it is made again.
    fn retire(&mut self, worker: WorkerId, now: Instant) {
        self.ledger.remove(worker);
        self.no_gpu.remove(&worker);
        let machine = self.machines.remove(&worker);
        if let (Some(scaler), Some(machine)) = (&mut self.autoscaler, machine) {
            scaler.release(machine, now);
        }
        if let Some(scaler) = &mut self.autoscaler {
            scaler.note(worker, false, now);
        }
        for query in self.queries.values_mut() {
            for stage in 0..query.stages.len() {
                query.stages[stage].prepared.remove(&worker);
                query.stages[stage].waiting.lose(worker);
                query.drop_from(stage, worker);
            }
        }
    }
}
