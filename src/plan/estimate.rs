//! How many bytes nodes yield, as far as the plan tells. Guesses: a wrong one costs time, and never an answer.

use polars::prelude::*;
use polars_plan::dsl::FileScanIR;
use polars_plan::plans::{AExpr, ArenaExprIter, IR, MintermIter};
use polars_utils::arena::Node;

use super::cut::Cutter;
use super::files::Layout;
use super::held::held_by;
use super::wire::placeholder_of;

/// Of the rows, a filter leaves one in so many; one that asks for certain values, one in more.
const FILTERED: u64 = 3;
const CHOSEN: u64 = 10;
/// And all terms of one together no more than one in so many.
const RAREST: u64 = 300;
/// Groups have so many rows.
const GROUPED: u64 = 4;
/// A persisted partition.
const HELD: u64 = 8 << 20;
/// A file of which nothing is known.
const UNKNOWN: u64 = 1 << 30;

/// What a node yields.
#[derive(Clone, Copy)]
pub(super) struct Estimate {
    pub(super) bytes: u64,
    /// Of those that were in its sources, one row in so many is left.
    one_in: u64,
}

impl Estimate {
    /// All rows of a source.
    pub(super) const fn all(bytes: u64) -> Self {
        Self { bytes, one_in: 1 }
    }

    /// Whether some rows of its sources are known to be left out.
    pub(super) fn is_filtered(&self) -> bool {
        self.one_in > 1
    }

    fn filtered(self, one_in: u64) -> Self {
        Self { bytes: self.bytes / one_in, one_in: self.one_in.saturating_mul(one_in) }
    }
}

impl Cutter {
    pub(super) fn estimate(&self, node: Node) -> Estimate {
        let ir = self.ir.get(node);
        if let Some(stage) = self.cuts.get(&node.0).copied().or_else(|| placeholder_of(ir)) {
            let known = self.open.get(stage.0 as usize).map(|stage| stage.estimate);
            return known.unwrap_or(const { Estimate::all(UNKNOWN) });
        }
        let inputs: Vec<_> = ir.inputs().map(|input| (input, self.estimate(input))).collect();
        let largest = inputs.iter().map(|(_, of)| *of).max_by_key(|of| of.bytes).unwrap_or(const { Estimate::all(0) });
        match ir {
            IR::DataFrameScan { df, .. } => Estimate::all(df.estimated_size() as u64),
            IR::Scan { predicate, .. } => {
                let all = Estimate::all(self.scanned(node));
                predicate.as_ref().map_or(all, |predicate| all.filtered(self.kept_by(predicate.node())))
            }
            IR::Filter { predicate, .. } => largest.filtered(self.kept_by(predicate.node())),
            IR::Join { options, .. } => match (&options.args.how, &inputs[..]) {
                (JoinType::Semi | JoinType::Anti, [(_, left), (_, right)]) => match right.one_in {
                    1 => *left,
                    _ => left.filtered(FILTERED),
                },
                // Of the rows on the one side, those are left whose keys have been left on the other.
                (JoinType::Inner, [(_, left), (_, right)]) => {
                    let (small, large) = if left.bytes <= right.bytes { (left, right) } else { (right, left) };
                    large.filtered(small.one_in)
                }
                _ => largest,
            },
            IR::GroupBy { .. } | IR::Distinct { .. } => Estimate { bytes: largest.bytes / GROUPED, ..largest },
            IR::Slice { len, .. } => {
                let most = u64::from(*len).saturating_mul(width(&self.schema(node)));
                Estimate { bytes: largest.bytes.min(most), ..largest }
            }
            // The same rows twice, of which one is read.
            IR::Union { .. } if self.others.contains_key(&node.0) => largest,
            IR::Union { .. } => Estimate::all(inputs.iter().map(|(_, of)| of.bytes).sum()),
            IR::Select { .. } | IR::SimpleProjection { .. } | IR::HStack { .. } => {
                let before = inputs.first().map_or(1, |(input, _)| width(&self.schema(*input))).max(1);
                let bytes = u128::from(largest.bytes) * u128::from(width(&self.schema(node))) / u128::from(before);
                Estimate { bytes: bytes as u64, ..largest }
            }
            _ => largest,
        }
    }

    /// What a scan reads of its files.
    fn scanned(&self, scan: Node) -> u64 {
        let IR::Scan { file_info, output_schema, scan_type, .. } = self.ir.get(scan) else { return UNKNOWN };
        let held = held_by(self.ir.get(scan)).len() as u64;
        if held > 0 {
            return held * HELD;
        }
        let files = self.layouts(scan);
        let known: Option<u64> = files.iter().map(Layout::bytes).sum();
        let (all, known) = (width(&file_info.schema).max(1), known.filter(|_| !files.is_empty()).unwrap_or(UNKNOWN));
        if let FileScanIR::Parquet { .. } = **scan_type {
            // Of the columns that are read.
            return known;
        }
        let wanted = output_schema.as_ref().map_or(all, |schema| width(schema)).min(all);
        (u128::from(known) * u128::from(wanted) / u128::from(all)) as u64
    }

    /// Of how many rows this lets one pass: each of its terms one in some, though hardly ever one in very many.
    fn kept_by(&self, predicate: Node) -> u64 {
        let is_equal = |(_, expr): (Node, &AExpr)| matches!(expr, AExpr::BinaryExpr { op: Operator::Eq, .. });
        let kept_by = |term| if self.exprs.iter(term).any(is_equal) { CHOSEN } else { FILTERED };
        MintermIter::new(predicate, &self.exprs).map(kept_by).fold(1, u64::saturating_mul).min(RAREST)
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
