//! Aggregations in two stages: tasks aggregate their own rows, and one merges what they made of them.
//!
//! Only those that call aggregate UDFs: Polars' own run whole until rows are exchanged between tasks.

use std::collections::BTreeMap;

use polars::prelude::*;
use polars_plan::dsl::LazySerde;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, ArenaExprIter, IR, IRAggExpr};
use polars_plan::prelude::{AnonymousColumnsUdf, OpaqueColumnUdf, SpecialEq};
use polars_utils::arena::{Arena, Node};

use super::lift::{below, replaced};
use super::rowwise::{expr_is_row_wise, maps_its_inputs, reads_a_column};
use crate::udf::UdfCall;

/// The two nodes. Both still stand on the input of the one.
pub(super) struct Parts {
    pub(super) partial: IR,
    /// What `partial` yields.
    pub(super) kept: SchemaRef,
    pub(super) merge: IR,
}

/// Whether this is an aggregation that calls a UDF for it.
pub(super) fn calls_aggregate_udf(ir: &IR, exprs: &Arena<AExpr>) -> bool {
    let mut nodes = ir.exprs().flat_map(|root| exprs.iter(root.node()));
    matches!(ir, IR::Select { .. } | IR::GroupBy { .. }) && nodes.any(|(_, expr)| aggregate_udf(expr).is_some())
}

/// Takes an aggregation apart; `names` gives names that no column has.
///
/// # Errors
/// In words, why it has to run whole.
pub(super) fn in_parts(
    ir: &IR,
    rows: &Schema,
    exprs: &mut Arena<AExpr>,
    mut names: impl FnMut() -> PlSmallStr,
) -> Result<Parts, String> {
    let mut parts = Splitter { rows, exprs, names: &mut names, partials: Vec::new(), kept: Schema::default() };
    match ir {
        IR::Select { input, expr, schema, options } => {
            let (input, schema, options) = (*input, Arc::clone(schema), *options);
            let merges = parts.split_all(expr)?;
            let kept = Arc::new(parts.kept);
            let partial = IR::Select { input, expr: parts.partials, schema: Arc::clone(&kept), options };
            Ok(Parts { partial, kept, merge: IR::Select { input, expr: merges, schema, options } })
        }
        IR::GroupBy { input, keys, aggs, schema, maintain_order, options, apply: None }
            if !options.is_dynamic() && !options.is_rolling() =>
        {
            let mut merge_keys = Vec::with_capacity(keys.len());
            for key in keys {
                if !(expr_is_row_wise(key.node(), parts.exprs) && reads_a_column(key.node(), parts.exprs)) {
                    return Err(format!("the key {} is not computed row by row", shown(key.node(), parts.exprs)));
                }
                let name = key.output_name().clone();
                let dtype = key.dtype(rows, parts.exprs).map_err(|error| error.to_string())?.clone();
                parts.kept.insert(name.clone(), dtype);
                merge_keys.push(ExprIR::from_column_name(name, parts.exprs));
            }
            let merges = parts.split_all(aggs)?;
            let kept = Arc::new(parts.kept);
            let partial = IR::GroupBy {
                input: *input,
                keys: keys.clone(),
                aggs: parts.partials,
                schema: Arc::clone(&kept),
                maintain_order: *maintain_order,
                // A slice is of all groups.
                options: Arc::new(GroupbyOptions { slice: None, ..options.as_ref().clone() }),
                apply: None,
            };
            let merge = IR::GroupBy {
                input: *input,
                keys: merge_keys,
                aggs: merges,
                schema: Arc::clone(schema),
                maintain_order: *maintain_order,
                options: Arc::clone(options),
                apply: None,
            };
            Ok(Parts { partial, kept, merge })
        }
        _ => Err("its groups are windows, or a closure's".to_owned()),
    }
}

struct Splitter<'a> {
    rows: &'a Schema,
    exprs: &'a mut Arena<AExpr>,
    names: &'a mut dyn FnMut() -> PlSmallStr,
    partials: Vec<ExprIR>,
    kept: Schema,
}

impl Splitter<'_> {
    /// The expressions over what is kept of the rows.
    fn split_all(&mut self, roots: &[ExprIR]) -> Result<Vec<ExprIR>, String> {
        let merges = roots.iter().map(|root| {
            let mut merged = BTreeMap::new();
            self.split(root.node(), &mut merged)?;
            let merge = replaced(root.node(), &merged, self.exprs);
            Ok(ExprIR::new(merge, OutputName::Alias(root.output_name().clone())))
        });
        merges.collect()
    }

    /// Finds the aggregates at and below a node, and for each what merges it.
    fn split(&mut self, at: Node, merged: &mut BTreeMap<usize, Node>) -> Result<(), String> {
        let expr = self.exprs.get(at).clone();
        let inputs = below(&expr);
        if is_mergeable(&expr) {
            let rows = |input: &Node| expr_is_row_wise(*input, self.exprs) && reads_a_column(*input, self.exprs);
            if let Some(input) = inputs.iter().find(|input| !rows(input)) {
                return Err(format!("its input {} is not computed row by row", shown(*input, self.exprs)));
            }
            let merge = self.keep(at, expr).map_err(|error| error.to_string())?;
            merged.insert(at.0, merge);
            return Ok(());
        }
        let maps = maps_its_inputs(&expr, self.exprs) && !matches!(expr, AExpr::Column(_));
        if !maps || (inputs.is_empty() && !matches!(expr, AExpr::Literal(_))) {
            return Err(format!("{} cannot be merged of parts", shown(at, self.exprs)));
        }
        inputs.into_iter().try_for_each(|input| self.split(input, merged))
    }

    /// Has each task keep what this aggregate makes of its rows, and returns what merges it.
    fn keep(&mut self, at: Node, expr: AExpr) -> PolarsResult<Node> {
        let name = (self.names)();
        let kept = self.exprs.add(AExpr::Column(name.clone()));
        let (partial, merge) = match (aggregate_udf(&expr), expr) {
            (Some(call), AExpr::AnonymousFunction { input, options, .. }) => {
                let dtype = ExprIR::from_node(at, self.exprs).dtype(self.rows, self.exprs)?.clone();
                let (partial, merge) = call.in_parts(dtype);
                let call = |call: UdfCall, input, what| AExpr::AnonymousFunction {
                    input,
                    fmt_str: Box::new(format!("{} ({what})", call.name()).into()),
                    function: opaque(call),
                    options,
                };
                let kept = ExprIR::new(kept, OutputName::ColumnLhs(name.clone()));
                let (partial, merge) = (call(partial, input, "partial"), call(merge, vec![kept], "merge"));
                (self.exprs.add(partial), merge)
            }
            (_, AExpr::Agg(IRAggExpr::Min { propagate_nans, .. })) => {
                (at, AExpr::Agg(IRAggExpr::Min { input: kept, propagate_nans }))
            }
            (_, AExpr::Agg(IRAggExpr::Max { propagate_nans, .. })) => {
                (at, AExpr::Agg(IRAggExpr::Max { input: kept, propagate_nans }))
            }
            // Sums of sums, and of counts.
            _ => (at, AExpr::Agg(IRAggExpr::Sum(kept))),
        };
        let partial = ExprIR::new(partial, OutputName::Alias(name.clone()));
        self.kept.insert(name, partial.dtype(self.rows, self.exprs)?.clone());
        self.partials.push(partial);
        Ok(self.exprs.add(merge))
    }
}

fn is_mergeable(expr: &AExpr) -> bool {
    match expr {
        AExpr::Len => true,
        AExpr::Agg(aggregate) => matches!(
            aggregate,
            IRAggExpr::Min { .. } | IRAggExpr::Max { .. } | IRAggExpr::Sum(_) | IRAggExpr::Count { .. }
        ),
        _ => aggregate_udf(expr).is_some(),
    }
}

fn aggregate_udf(expr: &AExpr) -> Option<UdfCall> {
    match expr {
        AExpr::AnonymousFunction { function, .. } => UdfCall::of(function).filter(UdfCall::is_aggregate),
        _ => None,
    }
}

fn opaque(call: UdfCall) -> OpaqueColumnUdf {
    LazySerde::Deserialized(SpecialEq::new(Arc::new(call) as Arc<dyn AnonymousColumnsUdf>))
}

/// An expression as people write it.
fn shown(at: Node, exprs: &Arena<AExpr>) -> String {
    ExprIR::from_node(at, exprs).display(exprs).to_string()
}
