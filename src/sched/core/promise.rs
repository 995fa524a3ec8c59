//! A stage that is admitted whole must not wait for ever while tasks of others take every bit of room that comes free.

use std::time::{Duration, Instant};

use super::place::Whole;
use super::{Action, Core};
use crate::sched::ledger::Grant;
use crate::sched::query::Phase;
use crate::sched::{QueryId, WorkerId};

/// Workers that take nothing new until a stage that has waited for long fits there.
#[derive(Debug, Default)]
pub(super) struct Promise {
    to: Option<(QueryId, usize)>,
    workers: Vec<WorkerId>,
    looked_at: Option<Instant>,
}

/// How long a stage waits for room before some is kept for it; and how often is looked.
const PATIENCE: Duration = Duration::from_secs(1);

impl Core {
    /// Keeps room for the stage that has waited longest, on workers where it fits as soon as the tasks that run there have
    /// ended. Those end by themselves; replicas may not, so none is counted on.
    pub(super) fn promise_room(&mut self, now: Instant) {
        let looked = self.promise.looked_at.is_some_and(|at| now.duration_since(at) < PATIENCE);
        if looked || self.promise.to.is_some() {
            return;
        }
        self.promise.looked_at = Some(now);
        let waiting = self.unadmitted.iter().filter_map(|(id, stages)| Some((self.queries.get(id)?, stages)));
        let waiting = waiting.flat_map(|(query, stages)| stages.iter().map(move |stage| (query, *stage)));
        let longest = waiting.min_by_key(|(query, stage)| (query.stages[*stage].since, query.spec.id, *stage));
        let Some((query, stage)) = longest else { return };
        if now.duration_since(query.stages[stage].since) < PATIENCE {
            return;
        }
        let mut without_tasks = self.ledger.clone();
        for (worker, desk) in self.queues.desks() {
            let task = Grant::without_gpus(worker, self.settings.task);
            (0..desk.running).for_each(|_| without_tasks.undo(&task));
        }
        let Some((replicas, tasks)) =
            Whole::of(query, stage, &self.pools, |_| true).place(self.settings.task, &mut without_tasks)
        else {
            return;
        };
        self.promise.to = Some((query.spec.id, stage));
        self.promise.workers = replicas.iter().chain(&tasks).map(|grant| grant.worker).collect();
    }

    /// Admits the stage if its room is there by now, else keeps others away from it.
    pub(super) fn keep_promise(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some((query, stage)) = self.promise.to else { return };
        self.reserve(false);
        self.admit(query, stage, now, actions);
        let waits = self.queries.get(&query).filter(|query| query.open.contains(&stage));
        if waits.is_some_and(|query| query.stages[stage].phase == Phase::Waiting) {
            return self.reserve(true);
        }
        self.promise = Promise { looked_at: Some(now), ..Promise::default() };
        self.ledger.note_room();
    }

    /// A worker goes on which room was kept: some is to be looked for elsewhere.
    pub(super) fn break_promise(&mut self, worker: WorkerId) {
        if self.promise.workers.contains(&worker) {
            self.reserve(false);
            self.promise = Promise::default();
            self.ledger.note_room();
        }
    }

    fn reserve(&mut self, reserved: bool) {
        for worker in &self.promise.workers {
            self.ledger.set_reserved(*worker, reserved);
        }
    }
}
