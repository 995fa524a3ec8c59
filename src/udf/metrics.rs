//! Numbers that UDFs report about themselves, and how they add up.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Names that one UDF may report under: they travel with each reply.
const NAMES: usize = 256;
/// Bytes of such a name.
const LONGEST_NAME: usize = 128;

/// Where a UDF reports numbers: see [`Context::metrics`](super::Context::metrics). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    reported: Arc<Mutex<Metrics>>,
}

impl Meter {
    /// Adds to a counter. Over batches, replicas and tasks, counters add up.
    pub fn count(&self, name: &str, amount: u64) {
        self.reported().add(name, Metric::Counter(amount));
    }

    /// Says what a gauge shows now. Over batches, replicas and tasks, the least, the most and the last to arrive are kept.
    pub fn gauge(&self, name: &str, value: f64) {
        self.reported().add(name, Metric::Gauge { least: value, most: value, last: value });
    }

    /// Takes over what was reported elsewhere.
    pub(super) fn add(&self, metrics: &Metrics) {
        self.reported().merge(metrics);
    }

    pub(crate) fn take(&self) -> Metrics {
        std::mem::take(&mut *self.reported())
    }

    fn reported(&self) -> MutexGuard<'_, Metrics> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a UDF has reported under one name. What comes as the other kind than before replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Metric {
    /// The sum of what was counted.
    Counter(u64),
    /// What a gauge has shown.
    Gauge {
        /// The least value.
        least: f64,
        /// The greatest value.
        most: f64,
        /// The value that arrived last.
        last: f64,
    },
}

/// What a UDF has reported, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics(BTreeMap<String, Metric>);

impl Metrics {
    /// A counter; 0 if nothing was counted under that name.
    pub fn counter(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(Metric::Counter(sum)) => *sum,
            _ => 0,
        }
    }

    /// What was reported under that name.
    pub fn get(&self, name: &str) -> Option<Metric> {
        self.0.get(name).copied()
    }

    /// All names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Metric)> + '_ {
        self.0.iter().map(|(name, metric)| (name.as_str(), *metric))
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn merge(&mut self, later: &Self) {
        later.iter().for_each(|(name, metric)| self.add(name, metric));
    }

    fn add(&mut self, name: &str, later: Metric) {
        if let Some(metric) = self.0.get_mut(name) {
            metric.merge(later);
        } else if name.len() > LONGEST_NAME {
            let begins: String = name.chars().take(LONGEST_NAME).collect();
            tracing::warn!(begins, "a UDF reports under a name of more than {LONGEST_NAME} bytes: it is dropped");
        } else if self.0.len() == NAMES {
            tracing::warn!(name, "a UDF reports under more than {NAMES} names: this one is dropped");
        } else {
            self.0.insert(name.to_owned(), later);
        }
    }
}

impl Metric {
    fn merge(&mut self, later: Self) {
        match (self, later) {
            (Self::Counter(sum), Self::Counter(amount)) => *sum = sum.saturating_add(amount),
            (Self::Gauge { least, most, last }, Self::Gauge { least: low, most: high, last: now }) => {
                (*least, *most, *last) = (least.min(low), most.max(high), now);
            }
            (other, later) => *other = later,
        }
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, metric)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match metric {
                Metric::Counter(sum) => write!(f, "{comma}{name} {sum}")?,
                Metric::Gauge { least, most, last } => write!(f, "{comma}{name} {last} ({least} to {most})")?,
            }
        }
        Ok(())
    }
}

/// What the UDFs of a query or a task have reported, by UDF.
pub type MetricsByUdf = BTreeMap<String, Metrics>;

/// Where one attempt of a task collects what its UDF calls have reported.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskMeter {
    udfs: Arc<Mutex<MetricsByUdf>>,
}

impl TaskMeter {
    pub(crate) fn add(&self, udf: &str, metrics: &Metrics) {
        if !metrics.is_empty() {
            merge_into(&mut self.udfs.lock().unwrap_or_else(PoisonError::into_inner), udf, metrics);
        }
    }

    pub(crate) fn take(&self) -> MetricsByUdf {
        std::mem::take(&mut *self.udfs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn merge_into(udfs: &mut MetricsByUdf, udf: &str, metrics: &Metrics) {
    match udfs.get_mut(udf) {
        Some(known) => known.merge(metrics),
        None => drop(udfs.insert(udf.to_owned(), metrics.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_gauges_keep_least_most_and_last() {
        let meter = Meter::default();
        meter.count("rows", 2);
        meter.clone().count("rows", 3);
        meter.gauge("heat", 7.0);
        let mut all = meter.take();
        assert!(meter.take().is_empty(), "what was taken is gone");
        meter.count("rows", 10);
        meter.gauge("heat", 9.0);
        meter.gauge("heat", 5.0);
        all.merge(&meter.take());
        assert_eq!(all.counter("rows"), 15);
        assert_eq!(all.get("heat"), Some(Metric::Gauge { least: 5.0, most: 9.0, last: 5.0 }));
        assert_eq!(all.to_string(), "heat 5 (5 to 9), rows 15");
    }

    #[test]
    fn a_udf_that_makes_up_names_without_end_is_stopped() {
        let meter = Meter::default();
        (0..10 * NAMES).for_each(|n| meter.count(&n.to_string(), 1));
        assert_eq!(meter.take().iter().count(), NAMES);
        let longest = "x".repeat(LONGEST_NAME);
        meter.count(&longest, 1);
        meter.count(&format!("{longest}x"), 1);
        assert_eq!(meter.take().iter().map(|(name, _)| name.len()).collect::<Vec<_>>(), [LONGEST_NAME]);
    }
}
