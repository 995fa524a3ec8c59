//! Replicas: ready, failed, late, idle, let go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Action, Core};
use crate::error::{PoolError, PoolFailure};
use crate::sched::ledger::{Grant, Ledger};
use crate::sched::query::{Pool, Query, Replica, ReplicaState};
use crate::sched::{PoolId, QueryId, ReplicaId, WorkerId};
use crate::udf::UdfError;

impl Core {
    pub(super) fn replica(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        self.pool_mut(id.pool)?.replicas.get_mut(id.rank as usize)
    }

    pub(super) fn replica_ready(&mut self, id: ReplicaId, actions: &mut Vec<Action>) {
        let Some(replica) = self.replica(id).filter(|r| r.state == ReplicaState::Starting) else { return };
        replica.state = ReplicaState::Ready;
        let on = replica.grant.worker;
        actions.push(Action::Serve { replica: id, on, tell: self.prepared(id.pool) });
    }

    pub(super) fn replica_idle(&mut self, id: ReplicaId, idle: bool, now: Instant) {
        let Some(replica) = self.replica(id).filter(|r| r.state == ReplicaState::Ready) else { return };
        let was = std::mem::replace(&mut replica.idle, idle.then_some(now));
        if let Some(since) = was {
            self.idle.remove(&(since, id));
        }
        if idle {
            self.idle.insert((now, id));
        }
    }

    pub(super) fn replica_failed(&mut self, id: ReplicaId, error: UdfError, now: Instant, actions: &mut Vec<Action>) {
        let Some(replica) = self.replica(id).filter(|r| r.state != ReplicaState::Stopped) else { return };
        let worker = replica.grant.worker.to_string();
        self.fail_pool(id, PoolFailure::Start { rank: id.rank, worker, error }, now, actions);
    }

    pub(super) fn credit_wait(&mut self, worker: WorkerId, pool: PoolId, batches: usize, now: Instant) {
        let Some(pool) = self.pool_mut(pool) else { return };
        if batches == 0 {
            pool.waiting.remove(&worker);
        } else {
            pool.waiting.entry(worker).or_insert((batches, now)).0 = batches;
        }
    }

    /// A pool without a ready replica after the time-out fails its query; where some are ready, the others are given up.
    pub(super) fn check_ready(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        let timeout = self.ready_timeout(id.pool);
        let Some(replica) = self.replica(id).filter(|r| r.state == ReplicaState::Starting) else { return };
        let (worker, progress) = (replica.grant.worker.to_string(), replica.progress.clone());
        if self.pool_mut(id.pool).is_some_and(|pool| pool.ready().next().is_some()) {
            self.stop_replica(id, actions);
        } else {
            let cause = PoolFailure::NotReady { rank: id.rank, worker, timeout, progress };
            self.fail_pool(id, cause, now, actions);
        }
    }

    /// How long the replicas of a pool may take to become ready.
    pub(super) fn ready_timeout(&self, id: PoolId) -> Duration {
        let stage = self.queries.get(&id.query).and_then(|query| query.spec.stages.get(id.stage.0 as usize));
        let pool = stage.and_then(|stage| stage.pools.get(id.step as usize));
        pool.and_then(|pool| pool.ready_timeout).unwrap_or(self.settings.ready_timeout)
    }

    pub(super) fn stop_pools(&mut self, id: QueryId, stage: usize, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get(&id) else { return };
        let pools = query.stages[stage].pools.iter().enumerate();
        let ranks = pools.flat_map(|(step, pool)| (0..pool.replicas.len()).map(move |rank| (step, rank)));
        let replicas: Vec<_> = ranks.map(|(step, rank)| query.replica_id(stage, step, rank)).collect();
        replicas.into_iter().for_each(|replica| self.stop_replica(replica, actions));
    }

    /// Makes room by letting idle extras go, the longest idle first, if `place` then succeeds. No more than are needed.
    pub(super) fn evict_for<T>(
        &mut self,
        mut place: impl FnMut(&mut Ledger) -> Option<T>,
        actions: &mut Vec<Action>,
    ) -> Option<T> {
        let mut freed: Vec<(ReplicaId, Grant)> = Vec::new();
        let mut taken: BTreeMap<PoolId, usize> = BTreeMap::new();
        let mut placed = None;
        for (_, id) in &self.idle {
            let taken = taken.entry(id.pool).or_default();
            let Some(grant) = extra(&self.queries, *id, *taken) else { continue };
            *taken += 1;
            self.ledger.undo(&grant);
            freed.push((*id, grant));
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

    /// Extras that have been idle for as long as a worker may be go.
    pub(super) fn retire_replicas(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(scale) = self.autoscaler.as_ref().map(|scaler| scaler.settings()).filter(|scale| scale.downscale)
        else {
            return;
        };
        let long = self.idle.iter().take_while(|(since, _)| now.duration_since(*since) >= scale.idle);
        let long: Vec<_> = long.map(|(_, replica)| *replica).collect();
        for id in long {
            if let Some(grant) = extra(&self.queries, id, 0) {
                self.let_go(id, actions);
                self.ledger.release(&grant);
            }
        }
    }

    /// Stops an extra, whose charge the caller has: its pool does not grow again, for others were enough.
    fn let_go(&mut self, id: ReplicaId, actions: &mut Vec<Action>) {
        actions.push(Action::Dismiss { replica: id, tell: self.prepared(id.pool) });
        self.take_out(id, actions);
        if let Some(pool) = self.pool_mut(id.pool) {
            pool.most = pool.alive;
        }
    }

    fn stop_replica(&mut self, id: ReplicaId, actions: &mut Vec<Action>) {
        let grant = self.take_out(id, actions);
        grant.iter().for_each(|grant| self.ledger.release(grant));
    }

    /// Stops a replica, once; its charge is then the caller's.
    fn take_out(&mut self, id: ReplicaId, actions: &mut Vec<Action>) -> Option<Grant> {
        let grant = self.pool_mut(id.pool)?.stop(id.rank as usize)?;
        self.forget_idle(id);
        actions.push(Action::StopReplica { worker: grant.worker, replica: id });
        Some(grant)
    }

    /// A replica that has stopped is not idle.
    pub(super) fn forget_idle(&mut self, id: ReplicaId) {
        if let Some(since) = self.replica(id).and_then(|replica| replica.idle.take()) {
            self.idle.remove(&(since, id));
        }
    }

    fn fail_pool(&mut self, id: ReplicaId, cause: PoolFailure, now: Instant, actions: &mut Vec<Action>) {
        let Some(query) = self.queries.get(&id.pool.query) else { return };
        let udf = query.spec.stages[id.pool.stage.0 as usize].pools[id.pool.step as usize].udf.clone();
        self.end(id.pool.query, Some(PoolError { pool: id.pool, udf, cause }.into()), now, actions);
    }

    /// Workers that have the stage of a pool.
    fn prepared(&self, pool: PoolId) -> Vec<WorkerId> {
        let stage = self.queries.get(&pool.query).and_then(|query| query.stages.get(pool.stage.0 as usize));
        stage.map(|stage| stage.prepared.iter().copied().collect()).unwrap_or_default()
    }

    fn pool_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.queries.get_mut(&id.query)?.stages.get_mut(id.stage.0 as usize)?.pools.get_mut(id.step as usize)
    }
}

/// The charge of a replica that its pool can do without, when `taken` others are let go: one that takes batches stays.
fn extra(queries: &BTreeMap<QueryId, Query>, id: ReplicaId, taken: usize) -> Option<Grant> {
    let (stage, step) = (id.pool.stage.0 as usize, id.pool.step as usize);
    let query = queries.get(&id.pool.query)?;
    let (pool, spec) = (query.stages.get(stage)?.pools.get(step)?, query.spec.stages.get(stage)?.pools.get(step)?);
    let replica = pool.replicas.get(id.rank as usize)?;
    let enough = pool.alive > spec.least.max(1) + taken && pool.ready().count() > 1 + taken;
    enough.then(|| replica.grant.clone())
}
