//! How many bytes nodes yield, as far as the plan tells. Guesses: a wrong one costs time, and never an answer.

use polars::prelude::*;
use polars_plan::plans::{AExpr, ArenaExprIter, IR};
use polars_utils::arena::Node;

use super::cut::Cutter;
use super::files::Layout;
use super::held::held_by;
use super::wire::placeholder_of;

/// Of the rows, a filter leaves one in so many; one that asks for certain values, one in more.
const FILTERED: u64 = 3;
const CHOSEN: u64 = 10;
/// Groups have so many rows.
const GROUPED: u64 = 4;
/// A persisted partition.
const HELD: u64 = 8 << 20;
/// A file of which nothing is known.
const UNKNOWN: u64 = 1 << 30;

impl Cutter {
    pub(super) fn bytes(&self, node: Node) -> u64 {
        let ir = self.ir.get(node);
        if let Some(stage) = self.cuts.get(&node.0).copied().or_else(|| placeholder_of(ir)) {
            return self.open.get(stage.0 as usize).map_or(UNKNOWN, |stage| stage.bytes);
        }
        let inputs: Vec<(Node, u64)> = ir.inputs().map(|input| (input, self.bytes(input))).collect();
        let largest = inputs.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default();
        match ir {
            IR::DataFrameScan { df, .. } => df.estimated_size() as u64,
            IR::Scan { predicate, .. } => {
                let all = self.scanned(node);
                predicate.as_ref().map_or(all, |predicate| all / self.filtered(predicate.node()))
            }
            IR::Filter { predicate, .. } => largest / self.filtered(predicate.node()),
            IR::GroupBy { .. } | IR::Distinct { .. } => largest / GROUPED,
            IR::Slice { len, .. } => largest.min(u64::from(*len).saturating_mul(width(&self.schema(node)))),
            IR::Union { .. } => inputs.iter().map(|(_, bytes)| bytes).sum(),
            IR::Select { .. } | IR::SimpleProjection { .. } | IR::HStack { .. } => {
                let before = inputs.first().map_or(1, |(input, _)| width(&self.schema(*input))).max(1);
                (u128::from(largest) * u128::from(width(&self.schema(node))) / u128::from(before)) as u64
            }
            _ => largest,
        }
    }

    /// What a scan reads of its files.
    fn scanned(&self, scan: Node) -> u64 {
        let IR::Scan { file_info, output_schema, .. } = self.ir.get(scan) else { return UNKNOWN };
        let held = held_by(self.ir.get(scan)).len() as u64;
        if held > 0 {
            return held * HELD;
        }
        let files = self.layouts(scan);
        let known: Option<u64> = files.iter().map(Layout::bytes).sum();
        let (all, known) = (width(&file_info.schema).max(1), known.filter(|_| !files.is_empty()).unwrap_or(UNKNOWN));
        let wanted = output_schema.as_ref().map_or(all, |schema| width(schema)).min(all);
        (u128::from(known) * u128::from(wanted) / u128::from(all)) as u64
    }

    fn filtered(&self, predicate: Node) -> u64 {
        let is_equal = |(_, expr): (Node, &AExpr)| matches!(expr, AExpr::BinaryExpr { op: Operator::Eq, .. });
        if self.exprs.iter(predicate).any(is_equal) { CHOSEN } else { FILTERED }
    }
}

/// Bytes of a row, roughly.
fn width(schema: &Schema) -> u64 {
    let each = |dtype: &DataType| match dtype.to_physical() {
        DataType::Boolean | DataType::Int8 | DataType::UInt8 => 1,
        DataType::Int16 | DataType::UInt16 | DataType::Float16 => 2,
        DataType::Int32 | DataType::UInt32 | DataType::Float32 => 4,
        DataType::Int128 | DataType::UInt128 => 16,
        dtype if dtype.is_primitive_numeric() => 8,
        DataType::String | DataType::Binary => 24,
        _ => 64,
    };
    schema.iter_values().map(each).sum()
}
