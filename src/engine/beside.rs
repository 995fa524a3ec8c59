//! A single row beside each of many, as a cross join has it, is a literal: nothing is repeated for it, and what the row holds is there
//! before the engine begins.

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, ArenaLpIter, IR, LiteralValue};
use polars_plan::prelude::ProjectionOptions;
use polars_utils::arena::{Arena, Node};

/// Does so where the right side of a cross join is a frame of one row.
pub(super) fn write_out_single_rows(top: Node, ir: &mut Arena<IR>, exprs: &mut Arena<AExpr>) {
    let nodes: Vec<_> = ir.iter(top).map(|(node, _)| node).collect();
    for node in nodes {
        let IR::Join { input_left, input_right, schema, options, .. } = ir.get(node) else { continue };
        let plain = options.args.how.is_cross() && options.args.slice.is_none() && options.options.is_none();
        let Some(row) = plain.then(|| single_row(*input_right, ir)).flatten() else { continue };
        let (input, schema) = (*input_left, SchemaRef::clone(schema));
        // A column of a name that is on the left side too has another here.
        let names = schema.iter_names().skip(ir.get(input).schema(ir).len());
        let values = names.zip(row).map(|(name, value)| {
            let literal = exprs.add(AExpr::Literal(LiteralValue::Scalar(value)));
            ExprIR::new(literal, OutputName::Alias(name.clone()))
        });
        let values: Vec<_> = values.collect();
        let options = ProjectionOptions::default();
        ir.replace(node, IR::HStack { input, exprs: values, schema, options });
    }
}

/// The values of a frame, if it is one of one row.
fn single_row(node: Node, ir: &Arena<IR>) -> Option<Vec<Scalar>> {
    let columns = ir.get(node).schema(ir).into_owned();
    let mut below = node;
    while let IR::SimpleProjection { input, .. } = ir.get(below) {
        below = *input;
    }
    let IR::DataFrameScan { df, .. } = ir.get(below) else { return None };
    let value = |name: &PlSmallStr| {
        let column = df.column(name).ok()?;
        Some(Scalar::new(column.dtype().clone(), column.get(0).ok()?.into_static()))
    };
    if df.height() == 1 { columns.iter_names().map(value).collect() } else { None }
}
