//! What all queries of a scheduler did, together, since it began: figures that only grow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Calls, Dropped, Fetched, Histogram};

/// What all queries did, those that are forgotten too. Times are in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Totals {
    /// Queries that were submitted.
    pub submitted: u64,
    /// Queries whose whole result was there.
    pub done: u64,
    /// Queries that failed.
    pub failed: u64,
    /// Queries that nobody wanted any more.
    pub cancelled: u64,
    /// How long those that have ended took, in microseconds.
    pub took: Histogram,
    /// What attempts of tasks did.
    pub attempts: Attempts,
    /// What stages read of each other, also for attempts that do not count.
    pub fetched: Fetched,
    /// What was waited for: so many of it, times so long. Sampled, by kind.
    pub waits: BTreeMap<String, u64>,
    /// UDFs by their registered name; those beyond a hundred together, as `other`.
    pub udfs: BTreeMap<String, UdfTotals>,
    /// Workers that were lost.
    pub workers_lost: u64,
    /// What was left out of all figures.
    pub dropped: Dropped,
}

/// What attempts of tasks did. Those that run are in none of the counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Attempts {
    /// How long those took that succeeded, in microseconds.
    pub done: Histogram,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that were lost with their worker, or given up for another.
    pub lost: u64,
    /// Attempts that were stopped, or found their input gone.
    pub stopped: u64,
    /// Attempts that did again what had been done.
    pub again: u64,
    /// They waited for their inputs to be fetched.
    pub fetch: u64,
    /// They waited for the engine.
    pub engine: u64,
    /// They waited for UDFs.
    pub udf: u64,
    /// They wrote.
    pub write: u64,
}

/// What a UDF's replicas did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UdfTotals {
    /// Its calls.
    pub calls: Calls,
    /// Replicas that were started.
    pub started: u64,
    /// How long starts took.
    pub start: u64,
    /// Replicas that failed.
    pub failed: u64,
    /// Replicas that hung in a call.
    pub hung: u64,
    /// Replicas that went with their worker.
    pub lost: u64,
    /// How long batches waited for room.
    pub waited: u64,
}

/// UDFs that are told of one by one.
const UDFS: usize = 100;
/// What the others are called.
pub(crate) const OTHER: &str = "other";

impl Totals {
    /// What was done of a UDF.
    pub(crate) fn udf(&mut self, name: &str) -> &mut UdfTotals {
        let is_room = self.udfs.len() < UDFS || self.udfs.contains_key(name);
        self.udfs.entry(if is_room { name } else { OTHER }.to_owned()).or_default()
    }

    /// Takes in others.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { submitted, done, failed, cancelled, took, attempts, fetched, waits, udfs, workers_lost, dropped } =
            other;
        let counts = [(submitted, &mut self.submitted), (done, &mut self.done), (failed, &mut self.failed)];
        let more = [(cancelled, &mut self.cancelled), (workers_lost, &mut self.workers_lost)];
        add(counts.into_iter().chain(more));
        self.took.merge(took);
        self.attempts.merge(attempts);
        self.fetched.merge(fetched);
        for (kind, time) in waits {
            add([(time, self.waits.entry(kind.clone()).or_default())]);
        }
        udfs.iter().for_each(|(name, of)| self.udf(name).merge(of));
        self.dropped.merge(dropped);
    }
}

impl Attempts {
    fn merge(&mut self, other: &Self) {
        let Self { done, failed, lost, stopped, again, fetch, engine, udf, write } = other;
        self.done.merge(done);
        let counts = [(failed, &mut self.failed), (lost, &mut self.lost), (stopped, &mut self.stopped)];
        let times =
            [(fetch, &mut self.fetch), (engine, &mut self.engine), (udf, &mut self.udf), (write, &mut self.write)];
        add(counts.into_iter().chain(times).chain([(again, &mut self.again)]));
    }
}

impl UdfTotals {
    fn merge(&mut self, other: &Self) {
        let Self { calls, started, start, failed, hung, lost, waited } = other;
        self.calls.merge(calls);
        let counts = [(started, &mut self.started), (failed, &mut self.failed), (hung, &mut self.hung)];
        add(counts.into_iter().chain([(lost, &mut self.lost), (start, &mut self.start), (waited, &mut self.waited)]));
    }
}

fn add<'a>(all: impl IntoIterator<Item = (&'a u64, &'a mut u64)>) {
    all.into_iter().for_each(|(more, sum)| *sum = sum.saturating_add(*more));
}
