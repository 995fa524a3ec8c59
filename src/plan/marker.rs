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
}

const MARK: &str = "regatta:into_partitions:";

impl Marker {
    /// Puts the marker on top of a query.
    pub(crate) fn on(self, query: LazyFrame) -> LazyFrame {
        let Self::IntoPartitions(n) = self;
        let function = FunctionIR::Opaque {
            function: Arc::new(Ok::<DataFrame, PolarsError>),
            schema: None,
            predicate_pd: true,
            projection_pd: true,
            streamable: true,
            fmt_str: format!("{MARK}{n}").into(),
        };
        let flags = query.get_current_optimizations();
        let input = Arc::new(query.logical_plan);
        LazyFrame::from(DslPlan::MapFunction { input, function: DslFunction::FunctionIR(function) })
            .with_optimizations(flags)
    }

    /// The marker that this node is.
    pub(super) fn of(ir: &IR) -> Option<Self> {
        let IR::MapFunction { function: FunctionIR::Opaque { fmt_str, .. }, .. } = ir else { return None };
        Some(Self::IntoPartitions(fmt_str.strip_prefix(MARK)?.parse().ok()?))
    }
}
