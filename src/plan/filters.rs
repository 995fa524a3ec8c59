//! Rows that a join drops anyway are dropped where they are read: by the keys of its other side, if those turn out to be few.
//!
//! A semi join stands on the scan then, and reads the keys that the other side's stage has left; a mode without it, in which it
//! hands on what is below, is taken if they are many. What a broadcast drops in the same tasks is left to that: this is for sides
//! that may not be read along with the other (what is preserved), and for aggregations below a join, whatever they are of.
//! (reference: exchanges.md §3.4, which would carry bloom filters; a semi join is exact and needs no operator of ours.)

use std::sync::Arc;

use polars::prelude::*;
use polars_plan::dsl::FileScanIR;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, IR};
use polars_plan::prelude::JoinOptionsIR;
use polars_utils::arena::Node;

use super::aggregate::counts_rows;
use super::common::varies;
use super::cut::Cutter;
use super::join;
use super::rowwise::expr_is_row_wise;
use super::scan::{Choice, Splits};
use crate::error::PlanError;
use crate::sched::{Fits, Small, StageId, Way};

/// Where a join's side is read, by which of its columns, and whether its rows are aggregated above that.
struct Place {
    scan: Node,
    keys: Vec<PlSmallStr>,
    is_aggregated: bool,
}

impl Cutter {
    /// Lets one side of a join be read by the keys of the other, which then is a stage of its own.
    pub(super) fn filter_side(&mut self, node: Node) -> Result<(), PlanError> {
        if !self.target.travels || self.target.tasks < 2 {
            return Ok(());
        }
        let ir = self.ir.get(node).clone();
        let IR::Join { input_left, input_right, left_on, right_on, options, .. } = &ir else { return Ok(()) };
        // Who looks whether keys are unique must see those without a match, too.
        if options.args.validation != JoinValidation::ManyToMany {
            return Ok(());
        }
        let (left, right) = ((*input_left, left_on), (*input_right, right_on));
        let fits = |parts: join::Parts| parts.by_keys;
        if !join::parts(&ir, &self.schema(left.0), &self.schema(right.0), &self.exprs).is_ok_and(fits) {
            return Ok(());
        }
        // Which side may lack rows without a match on the other, and whether a broadcast of that other would drop them.
        let ways: &[_] = match &options.args.how {
            JoinType::Inner => &[(left, right, true), (right, left, true)],
            JoinType::Semi => &[(left, right, false), (right, left, true)],
            JoinType::Left | JoinType::Anti => &[(left, right, false)],
            JoinType::Right => &[(right, left, false)],
            _ => &[],
        };
        for ((first, by), (second, of), dropped) in ways {
            let (Some(by), Some(of)) = (self.columns(by), self.columns(of)) else { continue };
            let Some(place) = self.place(*second, of).filter(|place| place.is_aggregated || !dropped) else { continue };
            let (few, many) = (self.estimate(*first), self.estimate(place.scan));
            if few.is_filtered() && few.bytes <= many.bytes / 2 && self.split_base(place.scan, 2).are_several() {
                return self.filter_by(node, *first, by, place, options.args.nulls_equal);
            }
        }
        Ok(())
    }

    fn filter_by(
        &mut self,
        join: Node,
        first: Node,
        by: Vec<PlSmallStr>,
        place: Place,
        nulls_equal: bool,
    ) -> Result<(), PlanError> {
        let ir = self.ir.get(join).clone();
        let IR::Join { input_left, left_on, right_on, .. } = &ir else { return Ok(()) };
        let on = if *input_left == first { left_on } else { right_on };
        self.lower(first)?;
        let top = self.draw_in(first);
        let scatter = self.scatter_by(on, top)?;
        let (stage, left) = self.leave_for(top, Some(scatter));
        self.early.insert(left.0, stage);
        let inputs: Vec<_> = ir.inputs().map(|input| if input == first { left } else { input }).collect();
        self.ir.replace(join, ir.with_inputs(inputs));

        let Place { scan, keys, .. } = place;
        let schema = self.schema(scan);
        let below = self.ir.add(self.ir.get(scan).clone());
        let known = self.layouts(scan);
        self.layouts.borrow_mut().insert(below.0, known);
        let of_left = self.schema(left);
        let columns = by.iter().filter_map(|name| Some((name.clone(), of_left.get(name)?.clone())));
        let columns = Arc::new(columns.collect::<Schema>());
        let input_right = self.ir.add(IR::SimpleProjection { input: left, columns });
        let mut on = |names: Vec<PlSmallStr>| {
            names.into_iter().map(|name| ExprIR::from_column_name(name, &mut self.exprs)).collect::<Vec<_>>()
        };
        let (left_on, right_on) = (on(keys), on(by));
        let mut args = JoinArgs::new(JoinType::Semi);
        (args.nulls_equal, args.maintain_order) = (nulls_equal, MaintainOrderJoin::Left);
        let options = Arc::new(JoinOptionsIR { allow_parallel: true, force_parallel: false, args, options: None });
        let filter = IR::Join { input_left: below, input_right, schema, left_on, right_on, options };
        self.ir.replace(scan, filter);
        self.filters.insert(scan.0, stage);
        Ok(())
    }

    /// What filters by the keys of a stage may do so or not.
    pub(super) fn filter(&mut self, node: Node, stage: StageId) {
        let Some(input) = self.ir.get(node).inputs().next() else { return };
        let (splits, beside) = (self.splits(input), self.estimate(input).bytes);
        let with = Choice::ways(vec![(stage, Way::All)], Fits::Small(Small { input: stage, beside }));
        let without = Choice::ways(vec![(stage, Way::Without)], Fits::Always);
        let why = format!("{}; less what has no match in stage {}, if that is small", splits.why, stage.0);
        self.decided.insert(node.0, Splits { choices: vec![with, without], why, ..splits });
    }

    /// The columns that these keys are.
    fn columns(&self, keys: &[ExprIR]) -> Option<Vec<PlSmallStr>> {
        let column = |key: &ExprIR| match self.exprs.get(key.node()) {
            AExpr::Column(name) => Some(name.clone()),
            _ => None,
        };
        let columns = keys.iter().map(column).collect::<Option<Vec<_>>>()?;
        // One that is two keys would be two columns.
        let is_one = |name| columns.iter().filter(|other| *other == name).count() == 1;
        columns.iter().all(is_one).then_some(columns)
    }

    /// The scan that yields these columns of a node, if rows that lack their values may be left out there.
    fn place(&self, mut node: Node, mut keys: Vec<PlSmallStr>) -> Option<Place> {
        let mut is_aggregated = false;
        loop {
            // What others stand on, too, has all rows.
            if self.met.contains(&node.0) {
                return None;
            }
            let passes = |exprs: &[ExprIR], key: &PlSmallStr| {
                let expr = exprs.iter().find(|expr| expr.output_name() == key)?;
                match self.exprs.get(expr.node()) {
                    AExpr::Column(name) => Some(name.clone()),
                    _ => None,
                }
            };
            let varies = |exprs: &[ExprIR]| exprs.iter().any(|e| varies(e.node(), &self.exprs));
            let are_row_wise =
                |exprs: &[ExprIR]| exprs.iter().all(|e| expr_is_row_wise(e.node(), &self.exprs)) && !varies(exprs);
            node = match self.ir.get(node) {
                IR::Scan { scan_type, unified_scan_args: args, predicate, .. } => {
                    let plain = args.pre_slice.is_none()
                        && args.row_index.is_none()
                        && predicate.as_ref().is_none_or(|predicate| are_row_wise(std::slice::from_ref(predicate)))
                        && !matches!(**scan_type, FileScanIR::Anonymous { .. });
                    return plain.then_some(Place { scan: node, keys, is_aggregated });
                }
                IR::SimpleProjection { input, .. } => *input,
                IR::Filter { input, predicate } if are_row_wise(std::slice::from_ref(predicate)) => *input,
                IR::Select { input, expr, .. } if are_row_wise(expr) => {
                    keys = keys.iter().map(|key| passes(expr, key)).collect::<Option<_>>()?;
                    *input
                }
                IR::HStack { input, exprs, .. } if are_row_wise(exprs) => {
                    if keys.iter().any(|key| exprs.iter().any(|expr| expr.output_name() == key)) {
                        return None;
                    }
                    *input
                }
                // A group whose key is computed of other rows, or that knows its rows by their numbers, is another without them.
                IR::GroupBy { input, keys: groups, aggs, apply: None, options, .. }
                    if options.slice.is_none()
                        && !options.is_dynamic()
                        && !options.is_rolling()
                        && are_row_wise(groups)
                        && !varies(aggs)
                        && !counts_rows(self.ir.get(node), &self.exprs) =>
                {
                    keys = keys.iter().map(|key| passes(groups, key)).collect::<Option<_>>()?;
                    is_aggregated = true;
                    *input
                }
                _ => return None,
            };
        }
    }
}
