//! A cluster without workers: queries wait for the first to join, but not for ever.

use std::time::Instant;

use super::{Action, Core};
use crate::error::ClusterError;
use crate::sched::autoscale::Autoscaler;
use crate::sched::{Resources, WorkerId};

impl Core {
    pub(super) fn join(&mut self, worker: WorkerId, capacity: Resources, now: Instant, actions: &mut Vec<Action>) {
        let first = self.ledger.staying() == 0;
        self.ledger.add(worker, capacity);
        self.autoscaler.iter_mut().for_each(Autoscaler::joined);
        if first {
            self.share_again();
        }
        // What waited for the first worker may be too large for it, unless those that were lost may come back.
        if first && self.shrunk.is_none() {
            self.end_infeasible(now, actions);
        }
    }

    /// A worker that was asked for ended before it joined.
    pub(super) fn not_joined(&mut self, why: &str) {
        self.autoscaler.iter_mut().for_each(|scaler| scaler.note_not_joined(why.to_owned()));
    }

    /// What the provider of workers waits for by now.
    pub(crate) fn provider_waits(&mut self, waits: Option<String>) {
        self.provider_waits = waits;
    }

    /// A worker is lost. What only it could hold waits for a while for it or its like to come back; pools that do not fit
    /// together any more share what is left.
    pub(super) fn shrink(&mut self, now: Instant) {
        self.shrunk = Some(now);
        self.share_again();
    }

    /// Workers are not what they were when these were submitted.
    fn share_again(&mut self) {
        for id in self.turns.iter().collect::<Vec<_>>() {
            let Some(mut query) = self.queries.remove(&id) else { continue };
            self.share_cpus(&mut query.spec);
            self.queries.insert(query);
        }
    }

    /// Fails queries that none of the workers can hold.
    pub(super) fn end_infeasible(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let live = self.turns.iter().filter_map(|id| self.queries.get(&id));
        let refused: Vec<_> = live.filter_map(|query| Some((query.spec.id, self.infeasible(&query.spec)?))).collect();
        for (query, error) in refused {
            self.end(query, Some(error), now, actions);
        }
    }

    /// Fails queries that have waited for too long for any worker, or for one that can hold them to come back.
    pub(super) fn check_workers(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.shrunk.is_some_and(|at| now.duration_since(at) >= self.settings.worker_timeout) {
            self.shrunk = None;
            self.end_infeasible(now, actions);
        }
        if self.ledger.staying() > 0 {
            self.deserted = None;
            return;
        }
        let (deserted, timeout) = (*self.deserted.get_or_insert(now), self.settings.worker_timeout);
        let live = self.turns.iter().filter_map(|id| self.queries.get(&id));
        let overdue = live.filter(|query| {
            let moved = query.stages.iter().map(|stage| stage.since.max(stage.moved)).max().unwrap_or(now);
            now.duration_since(moved.max(deserted)) >= timeout
        });
        let overdue: Vec<_> = overdue.map(|query| query.spec.id).collect();
        let not_joined = self.autoscaler.as_ref().and_then(Autoscaler::not_joined);
        for query in overdue {
            let (not_joined, provider_waits) = (not_joined.clone(), self.provider_waits.clone());
            let error = ClusterError::NoWorkers { waited: timeout, not_joined, provider_waits };
            self.end(query, Some(error.into()), now, actions);
        }
    }
}
