//! How many workers there should be, and which idle ones may go. Pure: told what is there, it answers what to ask for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Resources, WorkerId};

/// When to ask for more workers and when to let them go. The fields are the `DAFT_*` variables of the same names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScaleSettings {
    /// Workers that are there also without a query, and the most that the provider can give.
    pub(crate) workers: (usize, usize),
    /// What one more worker would bring.
    pub(crate) each: Resources,
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
}

/// What a step of the autoscaler sees.
#[derive(Debug)]
pub(super) struct Load {
    /// What waits for room: tasks and replicas that nothing but room keeps from starting.
    pub(super) backlog: Resources,
    pub(super) capacity: Resources,
    /// Queries that are not done.
    pub(super) queries: usize,
    /// Each worker, and whether it is idle: nothing charged, no partition that somebody needs.
    pub(super) workers: Vec<(WorkerId, bool)>,
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
    idle_since: BTreeMap<WorkerId, Instant>,
}

impl Autoscaler {
    pub(super) fn new(settings: ScaleSettings) -> Self {
        let demanded = settings.workers.0;
        Self { settings, demanded, asked_at: None, idle_since: BTreeMap::new() }
    }

    pub(super) fn settings(&self) -> &ScaleSettings {
        &self.settings
    }

    pub(super) fn step(&mut self, load: &Load, now: Instant) -> Decision {
        self.note_idle(load, now);
        let (least, most) = self.settings.workers;
        let wanted = self.wanted(load).clamp(least, most.max(least));
        let mut decision = Decision::default();
        if wanted > load.workers.len() {
            // A step that asks for growth retires nobody.
            if wanted != self.demanded.max(load.workers.len()) && self.may_ask(now) {
                self.asked_at = Some(now);
                self.demanded = wanted;
                decision.demand = Some(wanted);
            }
            return decision;
        }
        if load.queries == 0 && self.demanded > least.max(load.workers.len()) {
            // Nobody waits any more: what was asked for and has not come need not come.
            self.demanded = least.max(load.workers.len());
            decision.demand = Some(self.demanded);
        }
        if self.settings.downscale && load.backlog == Resources::NONE {
            decision.retire = self.candidates(load, now);
        }
        if !decision.retire.is_empty() {
            self.demanded = load.workers.len() - decision.retire.len();
            decision.demand = Some(self.demanded);
            self.idle_since.retain(|worker, _| !decision.retire.contains(worker));
        }
        decision
    }

    /// A worker has gone that was not retired: it may be asked for again.
    pub(super) fn lost(&mut self) {
        self.demanded = self.demanded.saturating_sub(1);
    }

    /// Workers for everything that waits and runs, once the backlog is past the threshold; else those that are there.
    fn wanted(&self, load: &Load) -> usize {
        let (backlog, capacity) = (load.backlog.as_cpus(), load.capacity.as_cpus());
        if backlog > capacity * self.settings.threshold && backlog > 0.0 {
            let each = self.settings.each.as_cpus().max(f64::MIN_POSITIVE);
            return ((backlog + capacity) / each).ceil() as usize;
        }
        load.workers.len()
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.asked_at.is_none_or(|at| now.duration_since(at) >= self.settings.interval)
    }

    fn note_idle(&mut self, load: &Load, now: Instant) {
        self.idle_since.retain(|worker, _| load.workers.contains(&(*worker, true)));
        for (worker, idle) in &load.workers {
            if *idle {
                self.idle_since.entry(*worker).or_insert(now);
            }
        }
    }

    /// Idle for long enough, the longest first, the lowest number among equals; never below the floor.
    fn candidates(&self, load: &Load, now: Instant) -> Vec<WorkerId> {
        let floor = if load.queries > 0 {
            self.settings.survivors.max(self.settings.workers.0)
        } else {
            self.settings.workers.0
        };
        let spare = load.workers.len().saturating_sub(floor);
        let long = self.idle_since.iter().filter(|(_, since)| now.duration_since(**since) >= self.settings.idle);
        let mut long: Vec<_> = long.map(|(worker, since)| (*since, *worker)).collect();
        long.sort_unstable();
        long.into_iter().take(spare).map(|(_, worker)| worker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(5);

    fn settings(workers: (usize, usize)) -> ScaleSettings {
        let each = Resources::cpus(1.0);
        ScaleSettings { workers, each, threshold: 1.25, interval: INTERVAL, downscale: true, idle: IDLE, survivors: 1 }
    }

    /// `idle`: for each worker, whether it is.
    fn load(backlog: f64, queries: usize, idle: &[bool]) -> Load {
        Load {
            backlog: Resources::cpus(backlog),
            capacity: Resources::cpus(idle.len() as f64),
            queries,
            workers: idle.iter().enumerate().map(|(n, idle)| (WorkerId(n as u32), *idle)).collect(),
        }
    }

    #[test]
    fn more_are_asked_for_only_past_the_threshold_and_never_past_the_most() {
        let mut scaler = Autoscaler::new(settings((1, 4)));
        let now = Instant::now();
        assert_eq!(scaler.step(&load(1.25, 1, &[false]), now).demand, None, "1.25 of capacity is not above it");
        assert_eq!(scaler.step(&load(1.3, 1, &[false]), now).demand, Some(3), "what waits and what runs, rounded up");
        let mut scaler = Autoscaler::new(settings((1, 4)));
        assert_eq!(scaler.step(&load(50.0, 1, &[false]), now).demand, Some(4));
    }

    #[test]
    fn with_no_worker_any_backlog_asks() {
        let mut scaler = Autoscaler::new(settings((0, 4)));
        assert_eq!(scaler.step(&load(0.5, 1, &[]), Instant::now()).demand, Some(1));
    }

    #[test]
    fn demand_is_replaced_not_added_and_asked_for_at_most_once_an_interval() {
        let mut scaler = Autoscaler::new(settings((1, 9)));
        let now = Instant::now();
        assert_eq!(scaler.step(&load(2.0, 1, &[false]), now).demand, Some(3));
        assert_eq!(scaler.step(&load(5.0, 1, &[false]), now).demand, None, "too soon");
        assert_eq!(scaler.step(&load(5.0, 1, &[false]), now + INTERVAL).demand, Some(6));
        assert_eq!(scaler.step(&load(5.0, 1, &[false]), now + INTERVAL * 2).demand, None, "asked for already");
        assert_eq!(scaler.step(&load(0.0, 0, &[false]), now + INTERVAL * 2).demand, Some(1), "cleared with its query");
    }

    #[test]
    fn a_worker_that_was_lost_is_asked_for_again() {
        let mut scaler = Autoscaler::new(settings((2, 2)));
        assert_eq!(scaler.step(&load(0.0, 0, &[true]), Instant::now()).demand, None, "it is still to come");
        scaler.lost();
        assert_eq!(scaler.step(&load(0.0, 0, &[true]), Instant::now()).demand, Some(2));
    }

    #[test]
    fn the_longest_idle_go_first_down_to_the_survivors() {
        let mut scaler = Autoscaler::new(ScaleSettings { survivors: 2, ..settings((0, 4)) });
        let start = Instant::now();
        assert_eq!(scaler.step(&load(0.0, 1, &[false, true, false, false]), start), Decision::default());
        assert_eq!(scaler.step(&load(0.0, 1, &[true, true, true, false]), start + IDLE / 2), Decision::default());
        let decision = scaler.step(&load(0.0, 1, &[true, true, true, false]), start + IDLE);
        assert_eq!(decision.retire, [WorkerId(1)], "the others are idle for half of the time");
        let mut late = Autoscaler::new(ScaleSettings { survivors: 2, ..settings((0, 4)) });
        late.step(&load(0.0, 1, &[true, true, true, false]), start);
        let decision = late.step(&load(0.0, 1, &[true, true, true, false]), start + IDLE);
        assert_eq!(decision, Decision { demand: Some(2), retire: vec![WorkerId(0), WorkerId(1)] }, "two survive");
    }

    #[test]
    fn work_resets_the_idle_clock() {
        let mut scaler = Autoscaler::new(settings((0, 4)));
        let start = Instant::now();
        scaler.step(&load(0.0, 1, &[true, true]), start);
        scaler.step(&load(0.0, 1, &[false, true]), start + IDLE / 2);
        scaler.step(&load(0.0, 1, &[true, true]), start + IDLE / 2);
        assert_eq!(scaler.step(&load(0.0, 1, &[true, true]), start + IDLE).retire, [WorkerId(1)]);
    }

    #[test]
    fn nobody_retires_while_work_waits_or_growth_was_asked_for() {
        let mut scaler = Autoscaler::new(settings((0, 4)));
        let start = Instant::now();
        scaler.step(&load(0.0, 1, &[true, true]), start);
        assert_eq!(scaler.step(&load(0.5, 1, &[true, true]), start + IDLE).retire, []);
        assert_eq!(scaler.step(&load(9.0, 1, &[true, true]), start + IDLE).retire, []);
    }

    #[test]
    fn after_the_last_query_the_least_remain_and_with_the_switch_off_all() {
        let start = Instant::now();
        let mut scaler = Autoscaler::new(settings((0, 4)));
        scaler.step(&load(0.0, 0, &[true, true]), start);
        assert_eq!(scaler.step(&load(0.0, 0, &[true, true]), start + IDLE).retire.len(), 2);
        let mut off = Autoscaler::new(ScaleSettings { downscale: false, ..settings((0, 4)) });
        off.step(&load(0.0, 0, &[true, true]), start);
        assert_eq!(off.step(&load(0.0, 0, &[true, true]), start + IDLE), Decision::default());
    }
}
