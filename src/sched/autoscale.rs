//! How many workers there should be, and which idle ones may go. Pure: told what is there, it answers what to ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Resources, WorkerId};

/// When to ask for more workers and when to let them go. The fields are the `DAFT_*` variables of the same names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScaleSettings {
    /// Workers that are there also without a query, and the most that the provider can give.
    pub(crate) workers: (usize, usize),
    /// What one more worker would bring.
    pub(crate) each: Resources,
    /// Why that has no GPU.
    pub(crate) no_gpu: Option<String>,
    /// Backlog over capacity above which more are asked for.
    pub(crate) threshold: f64,
    /// Least time between two requests for more.
    pub(crate) interval: Duration,
    /// Off: scale-up only, and no final downscale.
    pub(crate) downscale: bool,
    /// How long a worker must be idle before it may go.
    pub(crate) idle: Duration,
    /// Workers that are kept while queries run.
    pub(crate) survivors: usize,
    /// How long a machine whose worker was let go is not taken in again.
    pub(crate) exclude: Duration,
}

/// What a step of the autoscaler sees.
#[derive(Debug)]
pub(super) struct Load {
    /// What waits for room: tasks and replicas that nothing but room keeps from starting.
    pub(super) backlog: Resources,
    pub(super) capacity: Resources,
    pub(super) workers: usize,
    /// Queries that are not done.
    pub(super) queries: usize,
    /// A query has ended since the last step: what was asked for on its behalf is asked for no more.
    pub(super) ended: bool,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// How many workers are wanted in all; replaces what was asked for before.
    pub(super) demand: Option<usize>,
    pub(super) retire: Vec<WorkerId>,
}

#[derive(Debug)]
pub(super) struct Autoscaler {
    settings: ScaleSettings,
    demanded: usize,
    asked_at: Option<Instant>,
    /// Idle workers, the longest idle first, the lowest number among equals.
    idle: BTreeSet<(Instant, WorkerId)>,
    idle_since: BTreeMap<WorkerId, Instant>,
    /// Machines whose workers were let go, and when.
    released: BTreeMap<IpAddr, Instant>,
    /// How many that were asked for did not join since the last one did, and why the last did not.
    not_joined: Option<(usize, String)>,
}

/// The longest pause between two requests for workers that do not join.
const PAUSE: Duration = Duration::from_secs(60);

impl Autoscaler {
    pub(super) fn new(settings: ScaleSettings) -> Self {
        Self {
            demanded: settings.workers.0,
            settings,
            asked_at: None,
            idle: BTreeSet::new(),
            idle_since: BTreeMap::new(),
            released: BTreeMap::new(),
            not_joined: None,
        }
    }

    pub(super) fn settings(&self) -> &ScaleSettings {
        &self.settings
    }

    /// How many workers were asked for last, and when more were.
    pub(super) fn demanded(&self) -> (usize, Option<Instant>) {
        (self.demanded, self.asked_at)
    }

    /// A worker has worked, has come or has gone since the last step. Idle: nothing is charged there, and it holds no partition
    /// that somebody needs.
    pub(super) fn note(&mut self, worker: WorkerId, idle: bool, now: Instant) {
        if let Some(since) = self.idle_since.remove(&worker) {
            self.idle.remove(&(since, worker));
        }
        if idle {
            self.idle_since.insert(worker, now);
            self.idle.insert((now, worker));
        }
    }

    /// Since when a worker is idle.
    pub(super) fn idle_since(&self, worker: WorkerId) -> Option<Instant> {
        self.idle_since.get(&worker).copied()
    }

    pub(super) fn step(&mut self, load: &Load, now: Instant) -> Decision {
        let (least, most) = self.settings.workers;
        let wanted = self.wanted(load).clamp(least, most.max(least));
        let mut decision = Decision::default();
        if wanted > load.workers {
            // A step that asks for growth retires nobody.
            if wanted != self.demanded.max(load.workers) && self.may_ask(now) {
                self.asked_at = Some(now);
                self.demanded = wanted;
                decision.demand = Some(wanted);
                // Every machine is welcome again.
                self.released.clear();
            }
            return decision;
        }
        if (load.queries == 0 || load.ended) && self.demanded > least.max(load.workers) {
            // Nobody waits any more: what was asked for and has not come need not come.
            self.demanded = least.max(load.workers);
            decision.demand = Some(self.demanded);
        }
        if self.settings.downscale && load.backlog == Resources::NONE {
            decision.retire = self.candidates(load, now);
        }
        if !decision.retire.is_empty() {
            self.demanded = load.workers - decision.retire.len();
            decision.demand = Some(self.demanded);
        }
        decision
    }

    /// A worker has gone that was not retired: it may be asked for again.
    pub(super) fn lost(&mut self) {
        self.demanded = self.demanded.saturating_sub(1);
    }

    /// A worker that was asked for has ended before it joined, or could not be started: it is asked for again, after a pause that
    /// doubles each time.
    pub(super) fn note_not_joined(&mut self, why: String) {
        let before = self.not_joined.as_ref().map_or(0, |(count, _)| *count);
        self.not_joined = Some((before + 1, why));
        self.lost();
    }

    /// A worker has joined: they can.
    pub(super) fn joined(&mut self) {
        self.not_joined = None;
    }

    /// How many workers that were asked for did not join, one after the other, and why the last did not.
    pub(super) fn not_joined(&self) -> Option<(usize, String)> {
        self.not_joined.clone()
    }

    /// The worker of this machine was let go.
    pub(super) fn release(&mut self, machine: IpAddr, now: Instant) {
        self.released.insert(machine, now);
    }

    /// Whether this machine was let go a short while ago, and not asked for since.
    pub(super) fn excludes(&self, machine: IpAddr, now: Instant) -> bool {
        let released = self.released.get(&machine);
        released.is_some_and(|at| now.duration_since(*at) < self.settings.exclude)
    }

    /// Workers for everything that waits and runs, once the backlog of some kind is past the threshold; else those that are
    /// there.
    fn wanted(&self, load: &Load) -> usize {
        let (backlog, capacity) = (load.backlog.kinds(), load.capacity.kinds());
        let waits = || backlog.into_iter().zip(capacity).filter(|(waits, _)| *waits > 0);
        if !waits().any(|(waits, has)| waits as f64 > has as f64 * self.settings.threshold) {
            return load.workers;
        }
        let each = self.settings.each.in_all().kinds();
        let all = backlog.into_iter().zip(capacity).zip(each).filter(|((waits, _), each)| *waits > 0 && *each > 0);
        let wanted = all.map(|((waits, has), each)| (waits + has).div_ceil(each) as usize);
        wanted.max().unwrap_or(load.workers)
    }

    fn may_ask(&self, now: Instant) -> bool {
        let failed = self.not_joined.as_ref().map_or(0, |(count, _)| *count).saturating_sub(1).min(16);
        let interval = self.settings.interval;
        let pause = interval.saturating_mul(1 << failed).min(PAUSE.max(interval));
        self.asked_at.is_none_or(|at| now.duration_since(at) >= pause)
    }

    /// Idle for long enough, the longest first; never below the floor.
    fn candidates(&self, load: &Load, now: Instant) -> Vec<WorkerId> {
        let least = self.settings.workers.0;
        let floor = if load.queries > 0 { self.settings.survivors.max(least) } else { least };
        let long = self.idle.iter().take_while(|(since, _)| now.duration_since(*since) >= self.settings.idle);
        long.take(load.workers.saturating_sub(floor)).map(|(_, worker)| *worker).collect()
    }
}

#[cfg(test)]
mod tests;
