//! Where UDFs report numbers about themselves. How those add up is of `regatta-observe`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use regatta_observe::{Metric, Metrics, MetricsByUdf};
use serde::{Deserialize, Serialize};

use super::retry::FailedRows;

/// Where a UDF reports numbers: see [`Context::metrics`](super::Context::metrics). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    reported: Arc<Mutex<Report>>,
}

/// What a call says beside its column.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) metrics: Metrics,
    /// Rows of which the column has nothing, since they failed.
    pub(crate) failed: Option<FailedRows>,
}

impl Meter {
    /// Adds to a counter. Over batches, replicas and tasks, counters add up.
    pub fn count(&self, name: &str, amount: u64) {
        self.report(name, Metric::Counter(amount));
    }

    /// Says what a gauge shows now. Over batches, replicas and tasks, the least, the most and the last to arrive are kept.
    pub fn gauge(&self, name: &str, value: f64) {
        self.report(name, Metric::Gauge { least: value, most: value, last: value });
    }

    fn report(&self, name: &str, metric: Metric) {
        if !self.reported().metrics.add(name, metric) {
            let begins: String = name.chars().take(Metrics::LONGEST_NAME).collect();
            let (names, bytes) = (Metrics::NAMES, Metrics::LONGEST_NAME);
            tracing::warn!(
                begins,
                "a UDF reports under more than {names} names, or one of more than {bytes} bytes: it is dropped"
            );
        }
    }

    /// Takes over what was reported elsewhere.
    pub(super) fn add(&self, report: Report) {
        let mut reported = self.reported();
        reported.metrics.merge(&report.metrics);
        reported.failed = report.failed.or_else(|| reported.failed.take());
    }

    pub(super) fn rows_failed(&self, rows: FailedRows) {
        self.reported().failed = Some(rows);
    }

    pub(crate) fn take(&self) -> Metrics {
        self.report_of_call().metrics
    }

    pub(super) fn report_of_call(&self) -> Report {
        std::mem::take(&mut *self.reported())
    }

    fn reported(&self) -> MutexGuard<'_, Report> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

fn merge_into(udfs: &mut MetricsByUdf, udf: &str, metrics: &Metrics) {
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
        const NAMES: usize = Metrics::NAMES;
        const LONGEST_NAME: usize = Metrics::LONGEST_NAME;
        let meter = Meter::default();
        (0..10 * NAMES).for_each(|n| meter.count(&n.to_string(), 1));
        assert_eq!(meter.take().iter().count(), NAMES);
        let longest = "x".repeat(LONGEST_NAME);
        meter.count(&longest, 1);
        meter.count(&format!("{longest}x"), 1);
        assert_eq!(meter.take().iter().map(|(name, _)| name.len()).collect::<Vec<_>>(), [LONGEST_NAME]);
    }
}
