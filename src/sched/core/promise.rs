//! A stage that is admitted whole must not wait for ever while tasks of others take every bit of room that comes free. Nor must one
//! whose next task needs more memory than they leave.

use std::time::{Duration, Instant};

use super::place::Whole;
use super::{Action, Core};
use crate::sched::query::{Phase, Query};
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
        let unadmitted = waiting.map(|(query, stage)| (query.stages[stage].since, query, stage));
        let live = self.turns.iter().filter_map(|id| self.queries.get(&id));
        let starving = live.flat_map(|query| query.open.iter().map(move |stage| (query, *stage)));
        let starving = starving.filter(|(query, stage)| self.wants_memory(query, *stage));
        let starving = starving.map(|(query, stage)| (query.stages[stage].moved, query, stage));
        let longest = unadmitted.chain(starving).min_by_key(|(since, query, stage)| (*since, query.spec.id, *stage));
        let Some((since, query, stage)) = longest else { return };
        if now.duration_since(since) < PATIENCE {
            return;
        }
        let mut without_tasks = self.ledger.clone();
        self.queues.rooms().for_each(|room| without_tasks.undo(room));
        let placed = match query.stages[stage].phase {
            Phase::Running => {
                let need = self.next_need(query, stage);
                let room =
                    need.and_then(|need| without_tasks.place_task(need).or_else(|| without_tasks.place_alone(need)));
                room.map(|room| vec![room])
            }
            _ => Whole::of(query, stage, &self.pools, |_| true)
                .place(self.settings.task, &mut without_tasks)
                .map(|(replicas, tasks)| replicas.into_iter().chain(tasks).collect()),
        };
        let Some(placed) = placed else { return };
        self.promise.to = Some((query.spec.id, stage));
        self.promise.workers = placed.iter().map(|grant| grant.worker).collect();
    }

    /// Whether none of a stage's tasks runs, and the next one needs more memory than what passes by.
    fn wants_memory(&self, query: &Query, stage: usize) -> bool {
        let state = &query.stages[stage];
        let waits = state.phase == Phase::Running && state.running + state.queued == 0;
        waits && self.is_served(query, stage) && self.next_need(query, stage).is_some_and(|need| need.least > 0)
    }

    /// Admits the stage, or starts its task, if its room is there by now, else keeps others away from it.
    pub(super) fn keep_promise(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some((query, stage)) = self.promise.to else { return };
        self.reserve(false);
        let is_starving = |core: &Self| {
            let query = core.queries.get(&query).filter(|query| query.open.contains(&stage));
            query.is_some_and(|query| core.wants_memory(query, stage))
        };
        match is_starving(self) {
            true => drop(self.start_task(query, stage, now, actions)),
            false => drop(self.admit(query, stage, now, actions)),
        }
        let waits = self.queries.get(&query).filter(|query| query.open.contains(&stage));
        if waits.is_some_and(|query| query.stages[stage].phase == Phase::Waiting) || is_starving(self) {
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
