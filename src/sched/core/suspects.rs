//! Whose fault the loss of a worker is. What ran there alone is charged with it. Of several queries each is a suspect: the tasks that
//! ran there, and the replicas, run again on a worker of their own, and only a loss there counts. Who has come through is cleared, and
//! goes on as before. A driver of which a query was ended for that is on probation: while others have queries here, its own run on
//! workers of their own from the start.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::blame::MAX_LOSSES;
use super::{Action, Core};
use crate::error::{Error, PoolFailure, TaskFailure};
use crate::sched::pool::distinct;
use crate::sched::query::{Phase, TaskState};
use crate::sched::{QueryId, ReplicaId, TaskId, WorkerId};

/// For how long a driver's queries are suspects from the start, after one of them was ended for losing workers.
const PROBATION: Duration = Duration::from_secs(60);

/// Whether a query is ended for the workers that it has lost.
pub(super) fn is_of_lost_workers(error: &Error) -> bool {
    match error {
        Error::Task(error) => matches!(error.cause, TaskFailure::WorkerLost(_)),
        Error::Pool(error) => matches!(error.cause, PoolFailure::Lost { .. }),
        _ => false,
    }
}

/// A stage that is suspected of having ended a worker.
pub(super) type Suspect = (QueryId, usize);

impl Core {
    /// The stages that a worker which is about to be lost does not prove guilty: others ran beside them.
    pub(super) fn suspects_of(&self, lost: WorkerId) -> BTreeSet<Suspect> {
        let mut there = BTreeSet::new();
        for (id, query) in self.queries.iter().filter(|(_, query)| !query.done) {
            let runs = |state: &TaskState| matches!(state, TaskState::Running { on, .. } if *on == lost);
            let stages = query.stages.iter().enumerate();
            let running = stages.filter(|(_, stage)| {
                stage.running > 0 && (stage.tasks.iter().any(|t| runs(&t.state)) || stage.seconds_on(lost) > 0)
            });
            there.extend(running.map(|(stage, _)| (*id, stage)));
        }
        for replica in self.pools.on(lost) {
            let users = self.pools.get(replica.pool).into_iter().flat_map(|pool| &pool.users);
            there.extend(users.map(|step| (step.query, step.stage.0 as usize)));
        }
        let queries: BTreeSet<QueryId> = there.iter().map(|(query, _)| *query).collect();
        if queries.len() < 2 {
            return BTreeSet::new();
        }
        there.retain(|suspect| self.can_be_alone(*suspect, lost));
        there
    }

    /// The task that has ended a worker which is about to be lost, if that is clear.
    pub(super) fn poison_of(&mut self, lost: WorkerId) -> Option<TaskId> {
        let ran = self.queues.running_on(lost).filter(|run| !self.leaving.contains_key(run)).map(|(task, _)| task);
        let ran = ran.collect();
        self.losses.note(ran, self.ledger.workers().count())
    }

    /// Whether a stage fits on some worker beside the lost one, all of it. And whoever was often beside others when a worker was
    /// lost is not the victim of each.
    fn can_be_alone(&self, suspect: Suspect, lost: WorkerId) -> bool {
        let Some(stage) = self.queries.get(&suspect.0).map(|query| &query.stages[suspect.1]) else { return false };
        let pinned = stage.waiting.pins().next().is_some();
        let tried = stage.accused_before >= MAX_LOSSES;
        !pinned && !tried && self.could_hold(suspect).iter().any(|worker| *worker != lost)
    }

    /// Workers on which all of a stage fits if nothing else is there.
    fn could_hold(&self, (id, stage): Suspect) -> BTreeSet<WorkerId> {
        let Some(query) = self.queries.get(&id) else { return BTreeSet::new() };
        let mut amounts = vec![self.settings.task];
        amounts.extend(distinct(&query.spec.stages[stage].pools).map(|(_, pool)| pool.each));
        let all: Vec<_> = self.ledger.workers().filter(|worker| self.ledger.stays(*worker)).collect();
        let mut empty = self.ledger.emptied(&all, 0);
        let mut fits = |worker: &WorkerId| {
            empty.set_only(Some(*worker));
            let placed = empty.place_all(&amounts);
            placed.iter().flatten().for_each(|grant| empty.undo(grant));
            placed.is_some()
        };
        all.into_iter().filter(|worker| fits(worker)).collect()
    }

    /// Replicas of suspects serve nobody until they are cleared.
    pub(super) fn stop_pools_of(&mut self, suspects: &BTreeSet<Suspect>, now: Instant, actions: &mut Vec<Action>) {
        for (id, stage) in suspects {
            let steps = self.queries.get(id).map_or(&[][..], |query| &query.stages[*stage].steps);
            let pools: Vec<_> = steps.iter().filter_map(|step| step.pool).collect();
            self.leave_pools(*id, *stage, now, actions);
            for pool in pools {
                let unused = self.pools.get(pool).filter(|pool| pool.users.is_empty());
                let ranks: Vec<u32> = unused.map(|pool| pool.replicas.keys().copied().collect()).unwrap_or_default();
                ranks.into_iter().for_each(|rank| self.stop_replica(ReplicaId { pool, rank }, now, actions));
            }
        }
    }

    pub(super) fn end_probations(&mut self, now: Instant) {
        self.convicted.retain(|_, at| now.duration_since(*at) < PROBATION);
    }

    /// Suspects the stages of a query that have just got their tasks, if its driver is on probation and others are to be spared.
    pub(super) fn suspect_launched(&mut self, id: QueryId, now: Instant) {
        self.end_probations(now);
        let Some(query) = self.queries.get(&id) else { return };
        if !self.convicted.contains_key(&query.spec.driver) || self.turns.drivers() < 2 {
            return;
        }
        for stage in 0..query.stages.len() {
            let Some(query) = self.queries.get(&id) else { return };
            let state = &query.stages[stage];
            let is_new = state.is_launched && state.phase == Phase::Waiting && !state.has_begun();
            let pinned = state.waiting.pins().next().is_some();
            if !is_new || pinned || !state.accused.is_empty() || self.could_hold((id, stage)).is_empty() {
                continue;
            }
            self.suspects.insert((id, stage));
            if let Some(query) = self.queries.get_mut(&id) {
                let state = &mut query.stages[stage];
                state.accused = (0..state.tasks.len()).collect();
            }
        }
    }

    /// Has suspects run on workers of their own, once those are empty; not on more than half of all.
    pub(super) fn try_suspects(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.suspects.is_empty() {
            return;
        }
        for (suspect, on) in self.trials.clone() {
            if !self.can_be_tried(suspect) || !self.ledger.stays(on) || self.serves_others(suspect, on) {
                self.trials.remove(&suspect);
                self.ledger.set_alone(on, false);
                self.give_up_pools(suspect, now, actions);
            }
        }
        let queries = &self.queries;
        self.suspects
            .retain(|(id, stage)| queries.get(id).is_some_and(|query| !query.stages[*stage].accused.is_empty()));
        while self.trials.len() < (self.ledger.staying() / 2).max(1)
            && let Some((suspect, on)) = self.next_trial()
        {
            self.trials.insert(suspect, on);
            self.ledger.set_alone(on, true);
        }
        for ((id, stage), on) in self.trials.clone() {
            if !self.is_alone_on((id, stage), on) {
                continue;
            }
            // Nor does anybody come to use what is there.
            for replica in self.pools.on(on) {
                if self.pools.get(replica.pool).is_some_and(|pool| pool.users.is_empty()) {
                    self.stop_replica(replica, now, actions);
                }
            }
            self.ledger.set_only(Some(on));
            self.admit(id, stage, now, actions);
            while self.start_task(id, stage, now, actions) {}
            self.ledger.set_only(None);
        }
    }

    /// A suspect that cannot go on just now keeps no room from the next.
    fn give_up_pools(&mut self, suspect: Suspect, now: Instant, actions: &mut Vec<Action>) {
        let state = self.queries.get_mut(&suspect.0).and_then(|query| query.stages.get_mut(suspect.1));
        let Some(state) = state.filter(|state| !state.accused.is_empty() && state.running + state.queued == 0) else {
            return;
        };
        if state.phase == Phase::Running {
            state.phase = Phase::Waiting;
            self.stop_pools_of(&[suspect].into(), now, actions);
        }
    }

    /// Whether a stage is a suspect that has something to run. One that waits for rows which another makes again lets that one go
    /// first.
    fn can_be_tried(&self, (id, stage): Suspect) -> bool {
        let Some(query) = self.queries.get(&id).filter(|query| query.inputs_done(stage)) else { return false };
        let waits = self.waits_for_held(query, stage);
        let stage = &query.stages[stage];
        let there = stage.running + stage.queued;
        let has_work = if waits { there > 0 } else { stage.waiting.len() + there > 0 };
        !stage.accused.is_empty() && stage.phase != Phase::Done && has_work
    }

    /// A suspect and the worker that is, or will soonest be, empty. Replicas in use may stay for long: none of theirs.
    fn next_trial(&self) -> Option<(Suspect, WorkerId)> {
        let suspects = self.suspects.iter().copied();
        let mut waiting = suspects.filter(|suspect| !self.trials.contains_key(suspect) && self.can_be_tried(*suspect));
        waiting.find_map(|suspect| {
            let taken = |worker: &WorkerId| self.trials.values().any(|on| on == worker);
            let free = |worker: &WorkerId| !taken(worker) && !self.serves_others(suspect, *worker);
            let without = self.could_hold(suspect).into_iter().filter(free);
            let on = without.min_by_key(|worker| (self.queues.desk(*worker).running, *worker))?;
            Some((suspect, on))
        })
    }

    fn serves_others(&self, (id, stage): Suspect, worker: WorkerId) -> bool {
        let users = |replica: &ReplicaId| self.pools.get(replica.pool).map(|pool| &pool.users);
        let of_others = |step: &crate::sched::StepId| (step.query, step.stage.0 as usize) != (id, stage);
        self.pools.on(worker).iter().filter_map(users).flatten().any(of_others)
    }

    /// Whether nothing but the suspect runs on a worker.
    fn is_alone_on(&self, suspect: Suspect, worker: WorkerId) -> bool {
        let of = self.queries.get(&suspect.0).and_then(|query| query.stages.get(suspect.1));
        let own = of.map_or(0, |stage| {
            stage.tasks.iter().filter(|task| task.is_on() == Some(worker)).count() + stage.seconds_on(worker)
        });
        let desk = self.queues.desk(worker);
        desk.running + desk.queued == own && !self.serves_others(suspect, worker)
    }
}
