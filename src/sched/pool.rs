//! Pools of replicas. Stages that call the same UDF with the same arguments and options use the same pool, of whatever
//! query; one that nobody uses stays for a while, so that the next one need not start it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::Grant;
use super::{PoolId, QueryId, ReplicaId, Resources, StepId, WorkerId};

/// What a step asks for.
#[derive(Debug, Clone)]
pub(crate) struct PoolSpec {
    /// Steps with equal keys are served by one pool: the UDF, its arguments and its options.
    pub(crate) key: Arc<[u8]>,
    pub(crate) udf: String,
    /// What one replica takes.
    pub(crate) each: Resources,
    pub(crate) least: usize,
    pub(crate) most: usize,
    /// In place of the session's.
    pub(crate) ready_timeout: Option<Duration>,
    /// How long it stays when nobody uses it, in place of what the session says.
    pub(crate) keep_warm: Option<Duration>,
}

/// All pools, by number and by key.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: BTreeMap<PoolId, Pool>,
    by_key: BTreeMap<Arc<[u8]>, PoolId>,
    made: u64,
    /// Replicas that have nothing to do, the longest idle first.
    idle: BTreeSet<(Instant, ReplicaId)>,
    /// Pools in use that could have more replicas.
    growing: BTreeSet<(Kind, PoolId)>,
    /// Pools that may have changed for who uses them, and those of which only a replica has become idle or busy.
    changed: BTreeSet<PoolId>,
    stirred: BTreeSet<PoolId>,
}

/// What one more replica of a pool takes, and whether it must be there: if there is no room for one, there is none for another
/// of its kind.
pub(super) type Kind = (Resources, bool);

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) spec: PoolSpec,
    /// By rank. A rank is never used twice.
    pub(super) replicas: BTreeMap<u32, Replica>,
    started: u32,
    /// Steps of running stages.
    pub(super) users: BTreeSet<StepId>,
    /// Since when there is none.
    pub(super) unused: Option<Instant>,
    /// A timer will look whether it has been unused for its time.
    pub(super) cools: bool,
    /// How many replicas there may be: fewer than asked for, once an extra was idle and let go.
    pub(super) most: usize,
    /// As what it stands among those that grow.
    grows: Option<Kind>,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) grant: Grant,
    pub(super) state: ReplicaState,
    pub(super) since: Instant,
    pub(super) progress: Option<String>,
    /// Since when it has had nothing to do, as it says itself, or because nobody uses its pool.
    pub(super) idle: Option<Instant>,
    /// The same, only as it says itself.
    says_idle: Option<Instant>,
    /// Since when it could be at work: it has said since then that it has something to do, or is ready, and has not said that it
    /// has nothing.
    pub(super) at_work: Option<Instant>,
    /// Its thread has ended, by itself.
    pub(super) ended: bool,
    /// Its worker is to leave: others are to be started in its place.
    pub(super) leaves: bool,
    /// It gets no further batch.
    pub(super) dismissed: bool,
}

/// How long after one replica has begun to work the others have said that they do, if they do: they look twice a second.
pub(super) const FED: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaState {
    Starting,
    Ready,
    /// It hangs in a call and is of no more use. Whoever used it then knows; nobody else gets it.
    Hung,
}

impl Pools {
    pub(super) fn get(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.changed.insert(id);
        self.pools.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    /// The pool that serves such steps, if there is one.
    pub(super) fn of(&self, spec: &PoolSpec) -> Option<(PoolId, &Pool)> {
        let id = *self.by_key.get(&spec.key)?;
        Some((id, self.pools.get(&id)?))
    }

    /// Has a step served by its pool, which is made if need be. It may then have all its replicas again.
    pub(super) fn join(&mut self, step: StepId, spec: &PoolSpec, now: Instant) -> PoolId {
        let id = *self.by_key.entry(Arc::clone(&spec.key)).or_insert_with(|| {
            self.made += 1;
            PoolId(self.made)
        });
        let pool = self.pools.entry(id).or_insert_with(|| Pool {
            spec: spec.clone(),
            replicas: BTreeMap::new(),
            started: 0,
            users: BTreeSet::new(),
            unused: None,
            cools: false,
            most: spec.most,
            grows: None,
        });
        pool.users.insert(step);
        pool.most = pool.spec.most;
        if pool.unused.take().is_some() {
            // What they were at, they were at for somebody else.
            pool.replicas.values_mut().for_each(|replica| replica.at_work = replica.at_work.map(|_| now));
            // Now what they say of themselves counts.
            let said: Vec<_> = pool.replicas.iter().map(|(rank, replica)| (*rank, replica.says_idle)).collect();
            said.into_iter().for_each(|(rank, since)| self.set_idle(ReplicaId { pool: id, rank }, since));
        }
        self.changed.insert(id);
        id
    }

    /// Adds a replica to a pool, which starts now: its rank.
    pub(super) fn start(&mut self, id: PoolId, grant: Grant, now: Instant) -> Option<u32> {
        let rank = self.get_mut(id)?.start(grant, now);
        self.file(id);
        Some(rank)
    }

    pub(super) fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.pools.get(&id.pool)?.replicas.get(&id.rank)
    }

    pub(super) fn replica_mut(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        self.get_mut(id.pool)?.replicas.get_mut(&id.rank)
    }

    /// A replica says that it has nothing to do, or has something to do. While nobody uses its pool, that is for nobody.
    pub(super) fn says_idle(&mut self, id: ReplicaId, idle: bool, now: Instant) {
        let since = idle.then_some(now);
        let Some(pool) = self.pools.get_mut(&id.pool) else { return };
        let Some(replica) = pool.replicas.get_mut(&id.rank).filter(|r| r.state == ReplicaState::Ready) else { return };
        replica.says_idle = since;
        replica.at_work = if since.is_none() { Some(now) } else { None };
        if !pool.users.is_empty() {
            self.set_idle(id, since);
        }
    }

    /// Notes that a replica has nothing to do since then, or has something to do.
    pub(super) fn set_idle(&mut self, id: ReplicaId, since: Option<Instant>) {
        let replica = self.pools.get_mut(&id.pool).and_then(|pool| pool.replicas.get_mut(&id.rank));
        let Some(replica) = replica else { return };
        if let Some(before) = std::mem::replace(&mut replica.idle, since) {
            self.idle.remove(&(before, id));
        }
        self.idle.extend(since.map(|since| (since, id)));
        self.stirred.insert(id.pool);
    }

    /// Steps whose pools may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<StepId> {
        if self.changed.is_empty() && self.stirred.is_empty() {
            return Vec::new();
        }
        let changed = std::mem::take(&mut self.changed);
        for id in std::mem::take(&mut self.stirred).iter().chain(&changed) {
            self.file(*id);
        }
        changed.iter().filter_map(|id| self.pools.get(id)).flat_map(|pool| &pool.users).copied().collect()
    }

    /// The next pool in use that could have more replicas.
    pub(super) fn growing(&self, after: Option<(Kind, PoolId)>) -> Option<(Kind, PoolId)> {
        let next = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.growing.range((next, Bound::Unbounded)).next().copied()
    }

    /// Has a pool stand among those that grow, if it may.
    fn file(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let grows = pool.may_grow().then(|| (pool.spec.each, pool.is_short())).filter(|_| !pool.users.is_empty());
        if pool.grows != grows {
            if let Some(before) = std::mem::replace(&mut pool.grows, grows) {
                self.growing.remove(&(before, id));
            }
            self.growing.extend(grows.map(|kind| (kind, id)));
        }
    }

    /// Replicas that have nothing to do, the longest idle first.
    pub(super) fn idle(&self) -> impl Iterator<Item = (Instant, ReplicaId)> + '_ {
        self.idle.iter().copied()
    }

    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Takes a replica out; its charge, unless it was not there any more. With the last one goes a pool that nobody uses.
    pub(super) fn take(&mut self, id: ReplicaId) -> Option<Grant> {
        self.set_idle(id, None);
        let pool = self.get_mut(id.pool)?;
        let replica = pool.replicas.remove(&id.rank)?;
        self.drop_if_empty(id.pool);
        Some(replica.grant)
    }

    /// Forgets a pool that nobody uses and that has no replica.
    pub(super) fn drop_if_empty(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get(&id).filter(|pool| pool.users.is_empty() && pool.replicas.is_empty()) {
            self.by_key.remove(&pool.spec.key);
            if let Some(kind) = pool.grows {
                self.growing.remove(&(kind, id));
            }
            self.pools.remove(&id);
        }
    }

    /// The replicas on a worker.
    pub(super) fn on(&self, worker: WorkerId) -> Vec<ReplicaId> {
        let all =
            self.pools.iter().flat_map(|(id, pool)| pool.replicas.iter().map(|(rank, replica)| (*id, *rank, replica)));
        let there = all.filter(|(.., replica)| replica.grant.worker == worker);
        there.map(|(pool, rank, _)| ReplicaId { pool, rank }).collect()
    }
}

impl Replica {
    /// Whether it has had nothing to do for a while, as it says.
    pub(super) fn is_at_rest(&self) -> bool {
        self.says_idle.is_some()
    }
}

impl Pool {
    fn start(&mut self, grant: Grant, now: Instant) -> u32 {
        let rank = self.started;
        self.started += 1;
        let (state, progress, idle, says_idle, at_work) = (ReplicaState::Starting, None, None, None, None);
        let replica = Replica {
            grant,
            state,
            since: now,
            progress,
            idle,
            says_idle,
            at_work,
            ended: false,
            leaves: false,
            dismissed: false,
        };
        self.replicas.insert(rank, replica);
        rank
    }

    /// Replicas whose workers are not to leave.
    pub(super) fn staying(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values().filter(|replica| !replica.leaves)
    }

    pub(super) fn starting(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values().filter(|replica| replica.state == ReplicaState::Starting)
    }

    /// Ranks of the replicas that take batches.
    pub(super) fn ready(&self) -> impl Iterator<Item = u32> + '_ {
        let takes = |replica: &Replica| replica.state == ReplicaState::Ready && !replica.dismissed;
        self.replicas.iter().filter(move |(_, replica)| takes(replica)).map(|(rank, _)| *rank)
    }

    /// Replicas that take batches or will, and stay.
    pub(super) fn alive(&self) -> usize {
        self.staying().filter(|replica| replica.state != ReplicaState::Hung).count()
    }

    /// Whether some replica takes batches and stays.
    pub(super) fn has_ready(&self) -> bool {
        self.staying().any(|replica| replica.state == ReplicaState::Ready)
    }

    /// Whether tasks can run. With nothing but replicas that hang they fail, and say so. With nothing but replicas that leave they
    /// would take the room of those that are to take their place.
    pub(super) fn is_served(&self) -> bool {
        let starts = self.staying().any(|replica| replica.state == ReplicaState::Starting);
        self.has_ready() || (!starts && self.staying().next().is_some())
    }

    /// Some replica has nothing to do: another would have nothing to do either.
    pub(super) fn has_idle(&self) -> bool {
        self.staying().any(|replica| replica.state == ReplicaState::Ready && replica.idle.is_some())
    }

    /// Some replica has had work for long enough that another which says that it has none is not wanted: its tasks do not keep
    /// all of them busy. Before that, what they say is only that no task has come to its first batch.
    pub(super) fn is_fed(&self, now: Instant) -> bool {
        let fed = |since: Instant| now.duration_since(since) >= FED;
        self.replicas.values().any(|replica| replica.state == ReplicaState::Ready && replica.at_work.is_some_and(fed))
    }

    /// Whether it could have one more replica, if there were room.
    pub(super) fn may_grow(&self) -> bool {
        self.staying().count() < self.most.max(self.spec.least) && !self.has_idle()
    }

    /// Whether it has fewer replicas than must be there.
    pub(super) fn is_short(&self) -> bool {
        self.staying().count() < self.spec.least
    }

    /// Queries that use it.
    pub(super) fn queries(&self) -> Vec<QueryId> {
        let mut queries: Vec<_> = self.users.iter().map(|step| step.query).collect();
        queries.dedup();
        queries
    }
}

/// Each of these pools once, in order, with the first step that it serves.
pub(super) fn distinct(pools: &[PoolSpec]) -> impl Iterator<Item = (usize, &PoolSpec)> {
    pools.iter().enumerate().filter(|(step, pool)| pools[..*step].iter().all(|before| before.key != pool.key))
}
