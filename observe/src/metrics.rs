//! Numbers that UDFs report about themselves, and how they add up.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

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

/// What the UDFs of a query or a task have reported, by UDF.
pub type MetricsByUdf = BTreeMap<String, Metrics>;

impl Metrics {
    /// Names that one UDF may report under: they travel with each reply.
    pub const NAMES: usize = 256;
    /// Bytes of such a name.
    pub const LONGEST_NAME: usize = 128;

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

    /// Takes in what was reported later, as far as there is room for its names.
    pub fn merge(&mut self, later: &Self) {
        later.iter().for_each(|(name, metric)| _ = self.add(name, metric));
    }

    /// Takes in what was reported later under one name. Whether there was room for it: names are few and short.
    pub fn add(&mut self, name: &str, later: Metric) -> bool {
        if let Some(metric) = self.0.get_mut(name) {
            metric.merge(later);
        } else if name.len() > Self::LONGEST_NAME || self.0.len() >= Self::NAMES {
            return false;
        } else {
            self.0.insert(name.to_owned(), later);
        }
        true
    }

    /// One number for each name: the sum of a counter, and what a gauge showed last.
    pub(crate) fn figures(&self) -> Vec<(String, f64)> {
        let figure = |metric| match metric {
            Metric::Counter(sum) => sum as f64,
            Metric::Gauge { last, .. } => last,
        };
        self.iter().map(|(name, metric)| (name.to_owned(), figure(metric))).collect()
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.keys().map(|name| name.len() + 72).sum()
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
            let (comma, name) = (if index == 0 { "" } else { ", " }, crate::line(name));
            match metric {
                Metric::Counter(sum) => write!(f, "{comma}{name} {sum}")?,
                Metric::Gauge { least, most, last } => write!(f, "{comma}{name} {last} ({least} to {most})")?,
            }
        }
        Ok(())
    }
}
