//! Pools: used, left, warm; their replicas: ready, failed, late, hung, idle, let go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Action, Core, Timer};
use crate::error::{PoolError, PoolFailure};
use crate::sched::ledger::{Grant, Ledger};
use crate::sched::pool::{FED, Pool, ReplicaState};
use crate::sched::query::Query;
use crate::sched::{PoolId, QueryId, ReplicaId, Resources, StageId, StepId, WorkerId};
use crate::udf::UdfError;

/// Who may be let go to make room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Evict<'a> {
    /// Replicas of pools that nobody uses.
    Unused,
    /// Those first, then idle extras of the others. Of these pools, which are about to be used, one replica stays.
    Idle(&'a [PoolId]),
    /// The same, but nobody of these pools: what is to be placed is a task that they wait for.
    IdleBut(&'a [PoolId]),
}

impl Core {
    pub(super) fn replica_progress(&mut self, id: ReplicaId, doing: String) {
        if let Some(replica) = self.pools.replica_mut(id) {
            replica.progress = Some(doing);
        }
    }

    pub(super) fn replica_ready(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        let Some(replica) = self.pools.replica_mut(id).filter(|r| r.state == ReplicaState::Starting) else { return };
        replica.state = ReplicaState::Ready;
        replica.at_work = Some(now);
        self.timers.insert((now + FED, Timer::Fed(id)));
        let on = replica.grant.worker;
        // Another one of its pool may go now.
        self.ledger.note_room();
        let users = self.pools.get(id.pool).into_iter().flat_map(|pool| &pool.users);
        actions.extend(users.map(|step| Action::Serve { step: *step, replica: id, on, tell: self.prepared(*step) }));
    }

    pub(super) fn replica_idle(&mut self, id: ReplicaId, idle: bool, now: Instant) {
        self.pools.says_idle(id, idle, now);
        if !idle {
            self.timers.insert((now + FED, Timer::Fed(id)));
        }
        self.ledger.note_room();
    }

    pub(super) fn replica_failed(&mut self, id: ReplicaId, error: UdfError, now: Instant, actions: &mut Vec<Action>) {
        let Some(replica) = self.pools.replica(id) else { return };
        let worker = replica.grant.worker.to_string();
        self.fail_pool(id, PoolFailure::Start { rank: id.rank, worker, error }, now, actions);
    }

    /// A replica hangs in a call that took longer than it may. Those who use it hear it from itself.
    pub(super) fn replica_hung(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        let Some(replica) = self.pools.replica_mut(id) else { return };
        replica.state = ReplicaState::Hung;
        self.pools.set_idle(id, None);
        if self.pools.get(id.pool).is_some_and(|pool| pool.users.is_empty()) {
            self.stop_replica(id, now, actions);
        }
    }

    pub(super) fn credit_wait(&mut self, worker: WorkerId, step: StepId, batches: usize, now: Instant) {
        let stage = self.queries.get_mut(&step.query).and_then(|query| query.stages.get_mut(step.stage.0 as usize));
        let Some(step) = stage.and_then(|stage| stage.steps.get_mut(step.step as usize)) else { return };
        if batches == 0 {
            step.waiting.remove(&worker);
        } else {
            step.waiting.entry(worker).or_insert((batches, now)).0 = batches;
        }
    }

    /// A pool without a ready replica after the time-out fails its queries; where some are ready, the others are given up.
    pub(super) fn check_ready(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        let Some(pool) = self.pools.get(id.pool) else { return };
        let Some(replica) = pool.replicas.get(&id.rank).filter(|r| r.state == ReplicaState::Starting) else { return };
        if pool.ready().next().is_some() {
            return self.stop_replica(id, now, actions);
        }
        let (worker, progress) = (replica.grant.worker.to_string(), replica.progress.clone());
        let cause = PoolFailure::NotReady { rank: id.rank, worker, timeout: self.ready_timeout(pool), progress };
        self.fail_pool(id, cause, now, actions);
    }

    /// How long the replicas of a pool may take to become ready.
    pub(super) fn ready_timeout(&self, pool: &Pool) -> Duration {
        pool.spec.ready_timeout.unwrap_or(self.settings.ready_timeout)
    }

    /// Whether every pool of a stage has a replica that can take a batch.
    pub(super) fn is_served(&self, query: &Query, stage: usize) -> bool {
        let mut pools = query.stages[stage].steps.iter().map(|step| self.pools.get(step.pool?));
        pools.all(|pool| pool.is_some_and(Pool::is_served))
    }

    /// A stage needs its pools no more. Those that nobody else uses stay warm for their time.
    pub(super) fn leave_pools(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) {
        let steps = self.queries.get(&id).map_or(0, |query| query.stages[stage].steps.len());
        for step in 0..steps {
            let Some(query) = self.queries.get_mut(&id) else { return };
            let (user, state) = (query.step_id(stage, step), &mut query.stages[stage].steps[step]);
            state.waiting.clear();
            let Some(pool) = state.pool.take() else { continue };
            let Some(left) = self.pools.get_mut(pool) else { continue };
            left.users.remove(&user);
            if left.users.is_empty() {
                self.unused(pool, now, actions);
            }
        }
    }

    /// Nobody uses a pool any more: what is not ready goes, the rest waits for the next query.
    fn unused(&mut self, id: PoolId, now: Instant, actions: &mut Vec<Action>) {
        let Some(pool) = self.pools.get_mut(id) else { return };
        let warm = pool.spec.keep_warm.unwrap_or(self.settings.pool_warm);
        pool.unused = Some(now);
        self.ledger.note_room();
        let replicas: Vec<_> =
            pool.replicas.iter().map(|(rank, replica)| (*rank, replica.state, replica.idle)).collect();
        for (rank, state, idle) in replicas {
            let replica = ReplicaId { pool: id, rank };
            if state != ReplicaState::Ready || warm.is_zero() {
                self.stop_replica(replica, now, actions);
            } else if idle.is_none() {
                self.pools.set_idle(replica, Some(now));
            }
        }
        self.pools.drop_if_empty(id);
        self.cool_later(id, now);
    }

    /// Has a pool that nobody uses looked at when its time is over. It may be used again until then.
    fn cool_later(&mut self, id: PoolId, now: Instant) {
        let Some(pool) = self.pools.get_mut(id).filter(|pool| !pool.cools) else { return };
        let warm = pool.spec.keep_warm.unwrap_or(self.settings.pool_warm);
        let until = pool.unused.unwrap_or(now).checked_add(warm);
        pool.cools = until.is_some();
        self.timers.extend(until.map(|until| (until, Timer::Cool(id))));
    }

    /// A pool that nobody has used for its time goes.
    pub(super) fn cool(&mut self, id: PoolId, now: Instant, actions: &mut Vec<Action>) {
        let Some(pool) = self.pools.get_mut(id) else { return };
        pool.cools = false;
        let Some(since) = pool.unused else { return };
        let warm = pool.spec.keep_warm.unwrap_or(self.settings.pool_warm);
        if now.duration_since(since) < warm {
            return self.cool_later(id, now);
        }
        let ranks: Vec<_> = pool.replicas.keys().copied().collect();
        ranks.into_iter().for_each(|rank| self.stop_replica(ReplicaId { pool: id, rank }, now, actions));
    }

    /// Makes room by letting idle replicas go, if `place` then succeeds: those that nobody uses first, the longest idle first.
    /// No more than are needed. `all`: what is to be placed; nothing is tried if some of it could not be, whoever goes.
    pub(super) fn evict_for<T>(
        &mut self,
        who: Evict<'_>,
        all: &[Resources],
        mut place: impl FnMut(&mut Ledger) -> Option<T>,
        actions: &mut Vec<Action>,
    ) -> Option<T> {
        let candidates = self.candidates(who);
        let mut freed: BTreeMap<WorkerId, Resources> = BTreeMap::new();
        for (_, grant) in &candidates {
            let on_worker = freed.entry(grant.worker).or_default();
            *on_worker = on_worker.plus(grant.amount());
        }
        let could_fit = |amount: &Resources| {
            self.ledger.fits(*amount)
                || freed.iter().any(|(worker, more)| self.ledger.could_fit(*worker, *amount, *more))
        };
        if candidates.is_empty() || !all.iter().all(could_fit) {
            return None;
        }
        let mut freed: Vec<(ReplicaId, Grant)> = Vec::new();
        let mut placed = None;
        for (id, grant) in candidates {
            self.ledger.undo(&grant);
            freed.push((id, grant));
            placed = place(&mut self.ledger);
            if placed.is_some() {
                break;
            }
        }
        // The longest idle may have been of no use: what fits again stays.
        freed.retain(|(_, grant)| !self.ledger.take_back(grant));
        for (id, _) in freed {
            self.let_go(id, actions);
            self.ledger.note_room();
        }
        placed
    }

    /// Who may go, in this order: of each pool as many as can be done without.
    fn candidates(&self, who: Evict<'_>) -> Vec<(ReplicaId, Grant)> {
        let (wanted, spared, also_used) = match who {
            Evict::Unused => (&[][..], &[][..], false),
            Evict::Idle(wanted) => (wanted, &[][..], true),
            Evict::IdleBut(spared) => (&[][..], spared, true),
        };
        let mut spare: BTreeMap<PoolId, usize> = BTreeMap::new();
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for (_, id) in self.pools.idle() {
            let Some(pool) = self.pools.get(id.pool).filter(|pool| also_used || pool.users.is_empty()) else {
                continue;
            };
            if spared.contains(&id.pool) {
                continue;
            }
            let spare = spare.entry(id.pool).or_insert_with(|| spare_of(pool, wanted.contains(&id.pool)));
            if *spare > 0
                && let Some(replica) = pool.replicas.get(&id.rank)
            {
                *spare -= 1;
                let who = if pool.users.is_empty() { &mut first } else { &mut then };
                who.push((id, replica.grant.clone()));
            }
        }
        first.extend(then);
        first
    }

    /// Extras of pools in use that have been idle for as long as a worker may be go.
    pub(super) fn retire_replicas(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(scale) = self.autoscaler.as_ref().map(|scaler| scaler.settings()).filter(|scale| scale.downscale)
        else {
            return;
        };
        let long = self.pools.idle().take_while(|(since, _)| now.duration_since(*since) >= scale.idle);
        let long = long.map(|(_, replica)| replica);
        let used = |id: &ReplicaId| self.pools.get(id.pool).is_some_and(|pool| !pool.users.is_empty());
        for id in long.filter(used).collect::<Vec<_>>() {
            let Some(pool) = self.pools.get(id.pool).filter(|pool| spare_of(pool, false) > 0) else { continue };
            let grant = pool.replicas.get(&id.rank).map(|replica| replica.grant.clone());
            self.let_go(id, actions);
            grant.iter().for_each(|grant| self.ledger.release(grant));
        }
    }

    /// Stops a replica, whose charge the caller has: its pool does not grow again, for others were enough.
    fn let_go(&mut self, id: ReplicaId, actions: &mut Vec<Action>) {
        actions.push(self.dismissal(id));
        self.take_out(id, actions);
        if let Some(pool) = self.pools.get_mut(id.pool) {
            pool.most = pool.alive();
        }
    }

    /// Stops a replica. It keeps its charge until its thread has ended: what the author's code does until then, it does with that.
    pub(super) fn stop_replica(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        let has_ended = self.pools.replica(id).is_some_and(|replica| replica.ended);
        match self.take_out(id, actions) {
            Some(grant) if has_ended => self.ledger.release(&grant),
            Some(grant) => drop(self.stopping.insert(id, (grant, now))),
            None => (),
        }
    }

    pub(super) fn replica_ended(&mut self, id: ReplicaId) {
        match self.stopping.remove(&id) {
            Some((grant, _)) => self.ledger.release(&grant),
            None => self.pools.replica_mut(id).into_iter().for_each(|replica| replica.ended = true),
        }
    }

    /// Stops a replica, once; its charge is then the caller's.
    fn take_out(&mut self, id: ReplicaId, actions: &mut Vec<Action>) -> Option<Grant> {
        let grant = self.pools.take(id)?;
        actions.push(Action::StopReplica { worker: grant.worker, replica: id });
        Some(grant)
    }

    fn fail_pool(&mut self, id: ReplicaId, cause: PoolFailure, now: Instant, actions: &mut Vec<Action>) {
        let Some(pool) = self.pools.get(id.pool) else { return };
        let (udf, users) = (pool.spec.udf.clone(), pool.users.clone());
        for step in users {
            let error = PoolError { step, udf: udf.clone(), cause: cause.clone() };
            self.end(step.query, Some(error.into()), now, actions);
        }
    }

    pub(super) fn dismissal(&self, replica: ReplicaId) -> Action {
        let users = self.pools.get(replica.pool).into_iter().flat_map(|pool| &pool.users);
        let mut tell: Vec<_> = users.flat_map(|step| self.prepared(*step)).collect();
        tell.sort_unstable();
        tell.dedup();
        Action::Dismiss { replica, tell }
    }

    /// Workers that have the stage of a step.
    fn prepared(&self, step: StepId) -> Vec<WorkerId> {
        let StepId { query, stage: StageId(stage), .. } = step;
        let stage = self.queries.get(&query).and_then(|query| query.stages.get(stage as usize));
        stage.map(|stage| stage.prepared.iter().copied().collect()).unwrap_or_default()
    }
}

/// How many replicas of a pool can be done without: of one in use, a replica that takes batches stays, and as many as must be
/// there; of one that nobody uses, one stays if it is wanted.
fn spare_of(pool: &Pool, wanted: bool) -> usize {
    let stay = match (pool.users.is_empty(), wanted) {
        (true, false) => return pool.replicas.len(),
        (true, true) => 1,
        (false, _) => pool.spec.least.max(1),
    };
    pool.alive().saturating_sub(stay).min(pool.ready().count().saturating_sub(1))
}
