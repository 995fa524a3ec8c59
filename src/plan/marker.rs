//! Verbs that Polars does not know, as nodes that pass its optimiser: identity functions with a name of ours.
//!
//! To Polars a marker is an opaque function over whole frames: projections pass through it, filters too unless it has keys,
//! slices do not, and it keeps order. The planner takes every marker out; plain Polars runs it as the identity.

use std::sync::{Arc, Once};

use polars::prelude::*;
use polars_plan::dsl::DslPlan;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, DslFunction, FunctionIR, IR};
use polars_plan::prelude::{FunctionOptions, PlanCallback, SpecialEq};
use polars_utils::arena::Arena;

use super::names::Names;

/// What a marker asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// So many partitions by the hash of some columns, which [`hash_keys`] finds.
    Repartition(usize),
    /// So many partitions of equal row counts, in order.
    IntoPartitions(usize),
    /// The same, of all rows of a source: what filters them was asked for later.
    SplitSource(usize),
    /// Batches of at most so many rows, and of at least 0.8 of them but for the last of a partition.
    IntoBatches(usize),
}

const MARK: &str = "regatta:";
const REPARTITION: &str = "repartition";
const INTO_PARTITIONS: &str = "into_partitions";
const SPLIT_SOURCE: &str = "into_partitions of a source";
const INTO_BATCHES: &str = "into_batches";

impl Marker {
    /// Puts the marker on top of a query.
    pub(crate) fn on(self, query: LazyFrame) -> LazyFrame {
        let (verb, n) = match self {
            Self::Repartition(n) => (REPARTITION, n),
            Self::IntoPartitions(n) if is_whole_source(&query.logical_plan) => (SPLIT_SOURCE, n),
            Self::IntoPartitions(n) => (INTO_PARTITIONS, n),
            Self::SplitSource(n) => (SPLIT_SOURCE, n),
            Self::IntoBatches(rows) => (INTO_BATCHES, rows),
        };
        let function = FunctionIR::Opaque {
            function: Arc::new(Ok::<DataFrame, PolarsError>),
            schema: None,
            // What is filtered later must not get between this marker and the filter that keeps its keys.
            predicate_pd: !matches!(self, Self::Repartition(_)),
            projection_pd: true,
            streamable: true,
            fmt_str: format!("{MARK}{verb}:{n}").into(),
        };
        let flags = query.get_current_optimizations();
        let input = Arc::new(query.logical_plan);
        LazyFrame::from(DslPlan::MapFunction { input, function: DslFunction::FunctionIR(function) })
            .with_optimizations(flags)
    }

    /// Asks for `partitions` partitions of a query, by the hash of what these expressions yield.
    ///
    /// Polars drops columns that nobody reads, so a filter below the marker reads the keys. It lets all rows through, and is not
    /// row-wise: it stays where it is. Computed keys are one column there, which is dropped above.
    pub(crate) fn repartition(query: LazyFrame, partitions: usize, by: &[Expr]) -> LazyFrame {
        if by.iter().all(|key| matches!(key, Expr::Column(_))) {
            return Self::Repartition(partitions).on(query.filter(reads(by)));
        }
        let named = by.iter().enumerate().map(|(at, key)| key.clone().alias(format!("{at}")));
        let keys = as_struct(named.collect());
        beside_columns(query, move |query, names| {
            let key = names.fresh("key");
            let query = query.with_column(keys.clone().alias(key.clone())).filter(reads(&[col(key.clone())]));
            Self::Repartition(partitions).on(query).drop(by_name([key], true, false))
        })
    }

    /// Says once that where all is in one process there is one partition, whatever is asked for.
    pub(super) fn say_without_effect(self) {
        static SAID: [Once; 2] = [const { Once::new() }; 2];
        let [repartition, into_partitions] = &SAID;
        let say = |verb: &'static str| move || tracing::warn!("{verb} has no effect in a native session");
        match self {
            Self::Repartition(_) => repartition.call_once(say("repartition")),
            Self::IntoPartitions(_) | Self::SplitSource(_) => into_partitions.call_once(say("into_partitions")),
            Self::IntoBatches(_) => (),
        }
    }

    /// The marker that this node is.
    pub(super) fn of(ir: &IR) -> Option<Self> {
        let IR::MapFunction { function: FunctionIR::Opaque { fmt_str, .. }, .. } = ir else { return None };
        let (verb, n) = fmt_str.strip_prefix(MARK)?.split_once(':')?;
        let n = n.parse().ok()?;
        match verb {
            REPARTITION => Some(Self::Repartition(n)),
            INTO_PARTITIONS => Some(Self::IntoPartitions(n)),
            SPLIT_SOURCE => Some(Self::SplitSource(n)),
            INTO_BATCHES => Some(Self::IntoBatches(n)),
            _ => None,
        }
    }
}

/// Whether the query has a row for each row of its source.
fn is_whole_source(mut query: &DslPlan) -> bool {
    loop {
        query = match query {
            DslPlan::Scan { .. } | DslPlan::DataFrameScan { .. } => return true,
            DslPlan::HStack { input, .. } => input,
            _ => return false,
        }
    }
}

/// Builds on a query once its columns are known, with names that none of them has.
pub(crate) fn beside_columns(
    query: LazyFrame,
    build: impl Fn(LazyFrame, &mut Names) -> LazyFrame + Send + Sync + 'static,
) -> LazyFrame {
    let flags = query.get_current_optimizations();
    let on_plan = move |(plans, schemas): (Vec<DslPlan>, Vec<SchemaRef>)| {
        let mut names = Names::beside(schemas.iter().flat_map(|schema| schema.iter_names()));
        let plan = plans.into_iter().next().ok_or_else(|| polars_err!(ComputeError: "no plan to build on"))?;
        Ok(build(LazyFrame::from(plan).with_optimizations(flags), &mut names).logical_plan)
    };
    query.pipe_with_schema(PlanCallback::Rust(SpecialEq::new(Arc::new(on_plan) as Arc<_>)))
}

const READS: &str = "regatta:reads";

/// True for every row, whatever is in these columns.
fn reads(keys: &[Expr]) -> Expr {
    let all = |columns: &mut [Column]| {
        let height = columns.iter().map(Column::len).max().unwrap_or_default();
        Ok(Column::new_scalar(READS.into(), true.into(), height))
    };
    let mut reads = map_multiple(all, keys, |_, _| Ok(Field::new(READS.into(), DataType::Boolean)));
    if let Expr::AnonymousFunction { options, fmt_str, .. } = &mut reads {
        *options = FunctionOptions::length_preserving();
        **fmt_str = READS.into();
    }
    reads
}

/// The keys of the marker above this filter, if it is such a filter.
pub(super) fn hash_keys(filter: &IR, exprs: &Arena<AExpr>) -> Option<Vec<PlSmallStr>> {
    let IR::Filter { predicate, .. } = filter else { return None };
    let AExpr::AnonymousFunction { input, fmt_str, .. } = exprs.get(predicate.node()) else { return None };
    let column = |key: &ExprIR| match exprs.get(key.node()) {
        AExpr::Column(name) => Some(name.clone()),
        _ => None,
    };
    (fmt_str.as_str() == READS).then(|| input.iter().map(column).collect()).flatten()
}
