//! What is measured of a cluster, as one table: names, kinds and units, and where each is read. Whoever exports figures reads them here.

mod prometheus;
mod table;

use serde::{Deserialize, Serialize};

use crate::{ClusterView, Histogram, Totals};

pub use prometheus::prometheus;
pub use table::INSTRUMENTS;

/// The bounds of the buckets of a histogram: two to these powers, in microseconds: from 1 ms to 18 minutes.
pub(crate) const BOUNDS: [u32; 11] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];

/// All that instruments read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Where the cluster stands; its queries are not needed.
    pub cluster: ClusterView,
    /// What all queries did.
    pub totals: Totals,
}

/// One figure of the cluster, or one for each worker, UDF and so on. No query, stage or task is among its attributes: there is no end
/// to those.
pub struct Instrument {
    /// As OpenTelemetry writes names.
    pub name: &'static str,
    /// What kind of figure it is.
    pub kind: InstrumentKind,
    /// In UCUM: `s`, `By`, `1`, or what is counted, as `{task}`.
    pub unit: &'static str,
    /// The names of its attributes.
    pub attributes: &'static [&'static str],
    /// What it is, for people.
    pub about: &'static str,
    read: fn(&Measured) -> Vec<Point>,
}

/// What kind of figure an instrument has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstrumentKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How values are spread: its figures are in microseconds, its unit is `s`.
    Histogram,
}

/// A figure of an instrument.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The values of the attributes, in the order of the names.
    pub attributes: Vec<String>,
    /// The figure.
    pub figure: Figure,
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// A number.
    Number(f64),
    /// Values of which it is known how they are spread, in microseconds.
    Spread(Histogram),
}

impl Instrument {
    /// Its figures now.
    pub fn points(&self, of: &Measured) -> Vec<Point> {
        (self.read)(of)
    }
}

impl std::fmt::Debug for Instrument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instrument").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
