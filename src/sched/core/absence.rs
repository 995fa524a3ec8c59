//! A cluster without workers: queries wait for the first to join, but not for ever.

use std::time::Instant;

use super::{Action, Core};
use crate::error::ClusterError;
use crate::sched::{Resources, WorkerId};

impl Core {
    pub(super) fn join(&mut self, worker: WorkerId, capacity: Resources, now: Instant, actions: &mut Vec<Action>) {
        let first = self.ledger.len() == 0;
        self.ledger.add(worker, capacity);
        // What waited for the first worker may be too large for it.
        if first {
            self.end_infeasible(now, actions);
        }
    }

    /// Fails queries that none of the workers can hold.
    pub(super) fn end_infeasible(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // Workers are not what they were when these were submitted.
        for id in self.turns.clone() {
            let Some(mut query) = self.queries.remove(&id) else { continue };
            self.share_cpus(&mut query.spec);
            self.queries.insert(id, query);
        }
        let live = self.turns.iter().filter_map(|id| self.queries.get(id));
        let refused: Vec<_> = live.filter_map(|query| Some((query.spec.id, self.infeasible(&query.spec)?))).collect();
        for (query, error) in refused {
            self.end(query, Some(error), now, actions);
        }
    }

    /// Fails queries that have waited for any worker for too long.
    pub(super) fn check_workers(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.ledger.len() > 0 {
            self.deserted = None;
            return;
        }
        let (deserted, timeout) = (*self.deserted.get_or_insert(now), self.settings.worker_timeout);
        let live = self.turns.iter().filter_map(|id| self.queries.get(id));
        let overdue = live.filter(|query| {
            let moved = query.stages.iter().map(|stage| stage.since.max(stage.moved)).max().unwrap_or(now);
            now.duration_since(moved.max(deserted)) >= timeout
        });
        for query in overdue.map(|query| query.spec.id).collect::<Vec<_>>() {
            self.end(query, Some(ClusterError::NoWorkers { waited: timeout }.into()), now, actions);
        }
    }
}
