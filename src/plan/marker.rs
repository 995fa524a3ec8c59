//! Verbs that Polars does not know, as nodes that pass its optimiser: identity functions with a name of ours.
//!
//! To Polars a marker is an opaque function over whole frames: filters and projections pass through it, slices do not,
//! and it keeps order. The planner takes every marker out; plain Polars runs it as the identity.

use std::sync::Arc;

use polars::prelude::*;
use polars_plan::dsl::DslPlan;
use polars_plan::plans::{DslFunction, FunctionIR, IR};

/// What a marker asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// So many partitions of equal row counts, in order.
    IntoPartitions(usize),
    /// Batches of at most so many rows, and of at least 0.8 of them but for the last of a partition.
    IntoBatches(usize),
}

const MARK: &str = "regatta:";
const INTO_PARTITIONS: &str = "into_partitions";
const INTO_BATCHES: &str = "into_batches";

impl Marker {
    /// Puts the marker on top of a query.
    pub(crate) fn on(self, query: LazyFrame) -> LazyFrame {
        let (verb, n) = match self {
            Self::IntoPartitions(n) => (INTO_PARTITIONS, n),
            Self::IntoBatches(rows) => (INTO_BATCHES, rows),
        };
        let function = FunctionIR::Opaque {
            function: Arc::new(Ok::<DataFrame, PolarsError>),
            schema: None,
            predicate_pd: true,
            projection_pd: true,
            streamable: true,
            fmt_str: format!("{MARK}{verb}:{n}").into(),
        };
        let flags = query.get_current_optimizations();
        let input = Arc::new(query.logical_plan);
        LazyFrame::from(DslPlan::MapFunction { input, function: DslFunction::FunctionIR(function) })
            .with_optimizations(flags)
    }

    /// The marker that this node is.
    pub(super) fn of(ir: &IR) -> Option<Self> {
        let IR::MapFunction { function: FunctionIR::Opaque { fmt_str, .. }, .. } = ir else { return None };
        let (verb, n) = fmt_str.strip_prefix(MARK)?.split_once(':')?;
        let n = n.parse().ok()?;
        match verb {
            INTO_PARTITIONS => Some(Self::IntoPartitions(n)),
            INTO_BATCHES => Some(Self::IntoBatches(n)),
            _ => None,
        }
    }
}
