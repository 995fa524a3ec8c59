//! The replicas of one UDF step, and what they do for it.

use std::collections::BTreeMap;

use crate::{Calls, PoolFigures, Replica, UdfPlan};

#[derive(Debug)]
pub(super) struct Step {
    plan: UdfPlan,
    /// Replicas that serve it, and since when.
    serving: BTreeMap<Replica, u64>,
    /// Replicas that start for it, since when, where, and their last word.
    starting: BTreeMap<Replica, (u64, u32, Option<String>)>,
    most_ready: u32,
    started: u32,
    pub(super) failed: u32,
    pub(super) hung: u32,
    lost: u32,
    start: u64,
    alive: u64,
    pub(super) calls: Calls,
    /// Batches that wait for room, by worker, and since when there are so many.
    waiting: BTreeMap<u32, (u32, u64)>,
    waited: u64,
}

/// Bytes of the last word of a start.
const WORD: usize = 200;

impl Step {
    pub(super) fn new(plan: UdfPlan) -> Self {
        Self {
            plan,
            serving: BTreeMap::new(),
            starting: BTreeMap::new(),
            most_ready: 0,
            started: 0,
            failed: 0,
            hung: 0,
            lost: 0,
            start: 0,
            alive: 0,
            calls: Calls::default(),
            waiting: BTreeMap::new(),
            waited: 0,
        }
    }

    pub(super) fn udf(&self) -> &str {
        &self.plan.udf
    }

    pub(super) fn starts(&mut self, replica: Replica, worker: u32, now: u64) {
        self.started += 1;
        self.starting.insert(replica, (now, worker, None));
    }

    pub(super) fn says(&mut self, replica: Replica, doing: &str) {
        if let Some((_, _, word)) = self.starting.get_mut(&replica) {
            *word = Some(crate::text::ends(doing, WORD / 2));
        }
    }

    pub(super) fn ready(&mut self, replica: Replica, now: u64) {
        if let Some((since, ..)) = self.starting.remove(&replica) {
            self.start += now.saturating_sub(since);
        }
    }

    pub(super) fn serves(&mut self, replica: Replica, now: u64) {
        self.serving.entry(replica).or_insert(now);
        self.most_ready = self.most_ready.max(self.serving.len() as u32);
    }

    /// Whether it had it.
    pub(super) fn gone(&mut self, replica: Replica, now: u64) -> bool {
        let started = self.starting.remove(&replica).map(|(since, ..)| since);
        let served = self.serving.remove(&replica);
        self.start += started.map_or(0, |since| now.saturating_sub(since));
        self.alive += served.map_or(0, |since| now.saturating_sub(since));
        started.is_some() || served.is_some()
    }

    pub(super) fn lost(&mut self, replicas: &[Replica], now: u64) {
        for replica in replicas {
            self.lost += u32::from(self.gone(*replica, now));
        }
    }

    pub(super) fn credit(&mut self, worker: u32, batches: u32, now: u64) {
        if let Some((before, since)) = self.waiting.remove(&worker) {
            self.waited += u64::from(before) * now.saturating_sub(since);
        }
        if batches > 0 {
            self.waiting.insert(worker, (batches, now));
        }
    }

    /// The stage has no more use for them.
    pub(super) fn leave(&mut self, now: u64) {
        let all: Vec<_> = self.serving.keys().chain(self.starting.keys()).copied().collect();
        all.into_iter().for_each(|replica| _ = self.gone(replica, now));
        let waiting: Vec<_> = self.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|worker| self.credit(worker, 0, now));
    }

    /// What it did; what its UDF reports is known of the query.
    pub(super) fn figures(&self, stage: u32, now: u64) -> PoolFigures {
        let plan = &self.plan;
        let since = |at: &u64| now.saturating_sub(*at);
        PoolFigures {
            stage,
            step: plan.step,
            udf: plan.udf.clone(),
            replicas: plan.replicas,
            batch: plan.batch.map(|(_, most)| most),
            gpus: plan.gpus,
            ready: self.serving.len() as u32,
            most_ready: self.most_ready,
            starting: self.starting.values().map(|(_, worker, word)| (*worker, word.clone())).collect(),
            started: self.started,
            failed: self.failed,
            hung: self.hung,
            lost: self.lost,
            start: self.start + self.starting.values().map(|(at, ..)| since(at)).sum::<u64>(),
            alive: self.alive + self.serving.values().map(since).sum::<u64>(),
            calls: self.calls.clone(),
            waiting: self.waiting.values().map(|(batches, _)| batches).sum(),
            waited: self.waited + self.waiting.values().map(|(n, at)| u64::from(*n) * since(at)).sum::<u64>(),
            reported: Vec::new(),
            in_vain: Vec::new(),
        }
    }

    /// How long those that start have been at it, at most; with their worker and last word.
    pub(super) fn longest_start(&self, now: u64) -> Option<(u64, u32, Option<&str>)> {
        let first = self.starting.values().min_by_key(|(since, ..)| *since)?;
        Some((now.saturating_sub(first.0), first.1, first.2.as_deref()))
    }

    pub(super) fn bytes(&self) -> usize {
        let maps = self.serving.len() * 40 + self.starting.len() * (80 + WORD) + self.waiting.len() * 40;
        size_of::<Self>() + maps + self.calls.call.bytes() + self.plan.udf.len()
    }
}
