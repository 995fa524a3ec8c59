//! Aggregations in two stages: tasks aggregate their own rows, and others merge what they made of them.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, ArenaExprIter, IR, IRAggExpr};
use polars_plan::prelude::ProjectionOptions;
use polars_utils::arena::{Arena, Node};

use super::lift::{below, replaced};
use super::rowwise::{expr_is_row_wise, maps_its_inputs, reads_a_column};
use single::of_one_row;
pub(super) use states::shown;
use states::{States, is_mergeable};
pub(super) use variances::Variances;

mod single;
mod states;
mod variances;

/// The two nodes. Both still stand on the input of the one.
pub(super) struct Parts {
    pub(super) partial: IR,
    /// What `partial` yields.
    pub(super) kept: SchemaRef,
    /// The same of each row by itself, if that can be made row by row.
    pub(super) by_pass: Option<IR>,
    pub(super) merge: IR,
}

/// Whether this node makes rows of many.
pub(super) fn is_aggregation(ir: &IR) -> bool {
    matches!(ir, IR::Select { .. } | IR::GroupBy { .. })
}

/// The keys by which groups may be told apart by several tasks: none, if their order or their number matters.
pub(super) fn keys_of(ir: &IR) -> Option<Vec<ExprIR>> {
    match ir {
        IR::GroupBy { keys, maintain_order: false, options, apply: None, .. }
            if options.slice.is_none() && !options.is_dynamic() && !options.is_rolling() =>
        {
            Some(keys.clone())
        }
        _ => None,
    }
}

/// Whether an aggregate yields numbers of rows, which are of all of them.
pub(super) fn counts_rows(ir: &IR, exprs: &Arena<AExpr>) -> bool {
    let groups = |(_, expr): (Node, &AExpr)| matches!(expr, AExpr::Agg(IRAggExpr::AggGroups(_)));
    ir.exprs().any(|root| exprs.iter(root.node()).any(groups))
}

/// Takes an aggregation apart; `names` gives names that no column has.
///
/// # Errors
/// In words, why all rows must be seen at once.
pub(super) fn in_parts(
    ir: &IR,
    rows: &Schema,
    exprs: &mut Arena<AExpr>,
    mut names: impl FnMut() -> PlSmallStr,
) -> Result<Parts, String> {
    let (keyed, names) = (matches!(ir, IR::GroupBy { .. }), &mut names);
    let (partials, alike, kept) = (Vec::new(), HashMap::new(), Schema::default());
    let mut parts = States { rows, exprs, names, partials, alike, kept, keyed };
    match ir {
        IR::Select { input, expr, schema, options } => {
            let (input, schema, options) = (*input, Arc::clone(schema), *options);
            let merges = split_all(&mut parts, expr)?;
            if parts.partials.is_empty() {
                return Err("it aggregates no column".to_owned());
            }
            let kept = Arc::new(parts.kept);
            let partial = IR::Select { input, expr: parts.partials, schema: Arc::clone(&kept), options };
            Ok(Parts { partial, kept, by_pass: None, merge: IR::Select { input, expr: merges, schema, options } })
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
            let merges = split_all(&mut parts, aggs)?;
            let singles: Option<Vec<_>> =
                parts.partials.iter().map(|kept| of_one_row(kept, rows, parts.exprs)).collect();
            let kept = Arc::new(parts.kept);
            let by_pass = singles.map(|singles| IR::Select {
                input: *input,
                expr: keys.iter().cloned().chain(singles).collect(),
                schema: Arc::clone(&kept),
                options: ProjectionOptions::default(),
            });
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
            Ok(Parts { partial, kept, by_pass, merge })
        }
        _ => Err("its groups are windows, or a closure's".to_owned()),
    }
}

/// The expressions over what is kept of the rows.
fn split_all(parts: &mut States<'_>, roots: &[ExprIR]) -> Result<Vec<ExprIR>, String> {
    let merges = roots.iter().map(|root| {
        let mut merged = BTreeMap::new();
        split(parts, root.node(), &mut merged)?;
        let merge = replaced(root.node(), &merged, parts.exprs);
        Ok(ExprIR::new(merge, OutputName::Alias(root.output_name().clone())))
    });
    merges.collect()
}

/// Finds the aggregates at and below a node, and for each what merges it.
fn split(parts: &mut States<'_>, at: Node, merged: &mut BTreeMap<usize, Node>) -> Result<(), String> {
    let expr = parts.exprs.get(at).clone();
    let inputs = below(&expr);
    if is_mergeable(&expr) {
        if let Some(input) = inputs.iter().find(|input| !are_rows(**input, parts.exprs)) {
            return Err(format!("its input {} is not computed row by row", shown(*input, parts.exprs)));
        }
        let merge = parts.keep(at).map_err(|error| error.to_string())?;
        merged.insert(at.0, merge);
        return Ok(());
    }
    // What a struct is given anew is no input of the expression, and may hold aggregates.
    let maps = maps_its_inputs(&expr, parts.exprs) && !matches!(expr, AExpr::Column(_) | AExpr::StructEval { .. });
    if !maps || (inputs.is_empty() && !matches!(expr, AExpr::Literal(_))) {
        return Err(format!("{} cannot be merged of parts", shown(at, parts.exprs)));
    }
    inputs.into_iter().try_for_each(|input| split(parts, input, merged))
}

/// Whether an aggregate's input is made row by row, or is some of such rows.
fn are_rows(input: Node, exprs: &Arena<AExpr>) -> bool {
    let rows = |node: Node| expr_is_row_wise(node, exprs) && reads_a_column(node, exprs);
    match exprs.get(input) {
        AExpr::Filter { input, by } => rows(*input) && rows(*by),
        _ => rows(input),
    }
}
