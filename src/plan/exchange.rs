//! Operators that see more than a row at a time, as several tasks: rows that belong together come together, or each task does
//! its part and another puts the parts together.

use std::collections::BTreeSet;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IR, IRAggExpr};
use polars_plan::prelude::{DistinctOptionsIR, ProjectionOptions, UnionOptions};
use polars_utils::arena::Node;

use super::aggregate::{Parts, counts_rows, in_parts, is_aggregation, keys_of, shown};
use super::cut::{Cutter, Head, single_input};
use super::join::{self, may_be_key};
use super::rowwise::{expr_is_row_wise, reads_a_column};
use super::scan::{Choice, Splits};
use super::wire::{Fragment, placeholder};
use super::{Scatter, Split};
use crate::error::PlanError;
use crate::sched::{Fits, Small, StageId, Way};

/// Rows that a sort or a slice may keep of each task.
pub(super) const TOP: usize = 1 << 20;
/// A side that is no larger is worth waiting for.
const SOON: u64 = 64 << 20;

impl Cutter {
    /// Makes a node one of several tasks, if it can be and there is something to share. Whether that was done.
    pub(super) fn exchange(&mut self, node: Node) -> Result<bool, PlanError> {
        if !self.target.travels || self.target.tasks < 2 {
            return Ok(false);
        }
        if let Some(stage) = self.filters.get(&node.0).copied() {
            self.filter(node, stage);
            return Ok(true);
        }
        if self.take_out_scalars(node)? || self.windows(node)? || self.neighbours(node) || self.running(node)? {
            return Ok(true);
        }
        match self.ir.get(node) {
            IR::Join { .. } => self.join(node),
            IR::Distinct { .. } => self.distinct(node),
            IR::Sort { .. } => Ok(self.sort(node)),
            IR::Slice { .. } => Ok(self.last(node)),
            IR::Union { .. } => Ok(self.union(node)),
            IR::MergeSorted { .. } => Ok(self.merge_sorted(node)),
            ir if is_aggregation(ir) => self.aggregate(node),
            _ => Ok(false),
        }
    }

    /// An aggregation: of parts, which are merged, or of all rows of a group at once.
    fn aggregate(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        let Some(input) = single_input(&ir) else { return Ok(false) };
        let top = self.draw_in(input);
        let top = self.share_out(top).unwrap_or(top);
        let splits = self.splits(top);
        if !splits.are_several() {
            return Ok(false);
        }
        let keys = keys_of(&ir).filter(|keys| self.are_keys(keys, top));
        let (names, rows) = (&mut self.names, self.ir.get(top).schema(&self.ir).into_owned());
        let Parts { partial, kept, by_pass, merge } =
            match in_parts(&ir, &rows, &mut self.exprs, || names.fresh("kept")) {
                Ok(parts) => parts,
                Err(_) if self.counts_values(node, top) => return self.count_values(node, top),
                Err(why) => return self.aggregate_whole(node, top, keys, &why),
            };
        let partial = self.ir.add(partial.with_inputs([top]));
        self.decided.insert(partial.0, splits);
        self.partials.insert(partial.0);
        if let Some(by_pass) = by_pass {
            let by_pass = self.ir.add(by_pass.with_inputs([top]));
            self.by_pass.insert(partial.0, by_pass);
        }
        self.merges.insert(node.0);
        let Some(keys) = keys else {
            let (_, left) = self.leave(partial, None);
            self.ir.replace(node, merge.with_inputs([left]));
            self.decided.insert(node.0, Splits::whole("it merges what the tasks of its input have aggregated"));
            return Ok(true);
        };
        let named = keys.iter().map(|key| ExprIR::from_column_name(key.output_name().clone(), &mut self.exprs));
        let named: Vec<_> = named.collect();
        let names = named.iter().map(|key| key.output_name().to_string()).collect();
        let scatter = Scatter::by_hash(names, None, self.target.sections() as usize);
        let (left, choices) = self.leave_by(partial, scatter, &named);
        debug_assert_eq!(self.schema(left), kept, "what is kept is what is read");
        self.ir.replace(node, merge.with_inputs([left]));
        let shown = self.shown_keys(&keys);
        let why = format!("it merges what tasks have aggregated; rows of equal {shown} come to one");
        self.decided.insert(node.0, Splits::chosen(choices, why));
        self.note_by(node, &named);
        Ok(true)
    }

    /// Whether a node only says how many different values there are.
    fn counts_values(&self, node: Node, top: Node) -> bool {
        let IR::Select { expr, .. } = self.ir.get(node) else { return false };
        let [only] = &expr[..] else { return false };
        let AExpr::Agg(IRAggExpr::NUnique(of)) = self.exprs.get(only.node()) else { return false };
        let (schema, of) = (self.schema(top), ExprIR::from_node(*of, &self.exprs));
        self.are_keys(std::slice::from_ref(&of), top)
            && of.dtype(&schema, &self.exprs).is_ok_and(|dtype| !dtype.is_nested())
    }

    /// Of equal values one is left; they are counted.
    fn count_values(&mut self, node: Node, top: Node) -> Result<bool, PlanError> {
        let IR::Select { mut expr, schema, options, .. } = self.ir.get(node).clone() else { return Ok(false) };
        let (Some(count), rows) = (expr.first_mut(), self.schema(top)) else { return Ok(false) };
        let AExpr::Agg(IRAggExpr::NUnique(of)) = *self.exprs.get(count.node()) else { return Ok(false) };
        let of = ExprIR::new(of, OutputName::Alias(count.output_name().clone()));
        let dtype = of.dtype(&rows, &self.exprs).map_err(PlanError::polars)?.clone();
        let columns = Arc::new(Schema::from_iter([(of.output_name().clone(), dtype)]));
        let values = self.ir.add(IR::Select { input: top, expr: vec![of], schema: columns, options });
        let keep_strategy = UniqueKeepStrategy::Any;
        let distinct = DistinctOptionsIR { subset: None, maintain_order: false, keep_strategy, slice: None };
        let input = self.ir.add(IR::Distinct { input: values, options: distinct });
        if !self.exchange(input)? {
            self.gather(input);
        }
        count.set_node(self.exprs.add(AExpr::Len));
        self.ir.replace(node, IR::Select { input, expr, schema, options });
        self.aggregate(node)
    }

    /// An aggregation that wants all rows of a group at once: they come together by their keys.
    fn aggregate_whole(
        &mut self,
        node: Node,
        top: Node,
        keys: Option<Vec<ExprIR>>,
        why: &str,
    ) -> Result<bool, PlanError> {
        let keys = keys.filter(|_| !counts_rows(self.ir.get(node), &self.exprs));
        let Some(keys) = keys else {
            self.whole.insert(node.0, format!("it aggregates all rows at once, because {why}"));
            return Ok(false);
        };
        let scatter = self.scatter_by(&keys, top)?;
        let shown = self.shown_keys(&keys);
        let (left, choices) = self.leave_by(top, scatter, &keys);
        let ir = self.ir.get(node).clone().with_inputs([left]);
        self.ir.replace(node, ir);
        let why = format!("rows of equal {shown} come to one task, which aggregates them at once, because {why}");
        self.decided.insert(node.0, Splits::chosen(choices, why));
        let are_columns = keys
            .iter()
            .all(|key| matches!(self.exprs.get(key.node()), AExpr::Column(name) if name == key.output_name()));
        if are_columns {
            self.note_by(node, &keys);
        }
        Ok(true)
    }

    /// Each task yields one of the frames, or a part of it, in their order.
    fn union(&mut self, node: Node) -> bool {
        let IR::Union { inputs, options } = self.ir.get(node).clone() else { return false };
        if options.slice.is_some() {
            return false;
        }
        let inputs: Vec<_> = inputs.into_iter().map(|input| self.draw_in(input)).collect();
        if !inputs.iter().any(|top| self.growing_at(*top).is_some() || self.splits(*top).are_several()) {
            return false;
        }
        let (mut tops, mut all) = (Vec::with_capacity(inputs.len()), Vec::new());
        for (input, top) in inputs.into_iter().enumerate() {
            let top = match self.share_out(top) {
                Some(shares) => shares,
                None if !self.splits(top).choices.is_empty() => {
                    let (_, left) = self.leave(top, None);
                    self.decided.insert(left.0, Splits::shares(self.target.tasks));
                    left
                }
                None => top,
            };
            let splits = self.splits(top).splits.into_iter();
            all.extend(splits.map(|split| Split::Branch { input, split: Box::new(split) }));
            tops.push(top);
        }
        let why = format!("{} frames, one below the other", tops.len());
        let ir = self.ir.get(node).clone().with_inputs(tops);
        self.ir.replace(node, ir);
        self.decided.insert(node.0, Splits::of(all, false, why));
        true
    }

    /// Of frames that are sorted: the rows of both, sorted, where equal ones of the left come first.
    fn merge_sorted(&mut self, node: Node) -> bool {
        let IR::MergeSorted { input_left, input_right, key, .. } = self.ir.get(node).clone() else { return false };
        let schema = self.schema(node);
        // Categories are sorted by their text, and merged by their numbers.
        let is_plain = |dtype: &DataType| {
            dtype.is_primitive_numeric() || dtype.is_temporal() || dtype.is_string() || dtype.is_bool()
        };
        if let Some(key) = key.iter().find(|key| !schema.get(key).is_some_and(is_plain)) {
            let why = schema.get(key).map_or_else(String::new, |dtype| format!(" of type {dtype}"));
            self.whole.insert(node.0, format!("it merges all rows at once, because the key {key} is{why}"));
            return false;
        }
        let inputs = vec![input_left, input_right];
        let options = UnionOptions { maintain_order: true, ..Default::default() };
        let input = self.ir.add(IR::Union { inputs, options });
        if !self.union(input) {
            return false;
        }
        let by_column = key.iter().map(|key| ExprIR::from_column_name(key.clone(), &mut self.exprs)).collect();
        let sort_options = SortMultipleOptions::default().with_maintain_order(true);
        self.ir.replace(node, IR::Sort { input, by_column, slice: None, sort_options });
        if !self.sort(node) {
            self.gather(node);
        }
        true
    }

    /// Of the first rows in some order, each task yields its own; the node takes those of them.
    pub(super) fn top(&mut self, node: Node) -> bool {
        let IR::Sort { input, by_column, slice: Some((offset, len, _)), sort_options } = self.ir.get(node).clone()
        else {
            return false;
        };
        let Some(most) = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(len)) else { return false };
        let top = self.draw_in(input);
        let splits = self.splits(top);
        // A key that looks at other rows is of all of them.
        let are_rows = by_column.iter().all(|key| expr_is_row_wise(key.node(), &self.exprs));
        if most > TOP || !are_rows || !splits.are_several() || self.growing_at(top).is_some() {
            return false;
        }
        // No predicate tells scans what the sort has seen already: it is dropped with the slice, and lets all rows through.
        let first = IR::Sort {
            input: top,
            by_column: by_column.clone(),
            slice: Some((0, most, None)),
            sort_options: sort_options.clone(),
        };
        let first = self.ir.add(first);
        self.decided.insert(first.0, splits);
        let (_, left) = self.leave(first, None);
        self.ir.replace(node, IR::Sort { input: left, by_column, slice: Some((offset, len, None)), sort_options });
        self.decided.insert(node.0, Splits::whole(format!("it takes the first rows of the first {most} of each task")));
        true
    }

    /// Of the last rows, each task yields its own; the node takes those of them.
    pub(super) fn last(&mut self, node: Node) -> bool {
        let IR::Slice { input, offset, len } = *self.ir.get(node) else { return false };
        if offset >= 0 {
            return false;
        }
        let top = self.draw_in(input);
        let splits = self.splits(top);
        if !self.is_several(top) {
            return false;
        }
        let Some(most) = usize::try_from(offset.unsigned_abs()).ok().filter(|most| *most <= TOP) else {
            let stage = self.kept(top);
            self.share_slice(node, stage, (offset, u64::from(len)));
            return true;
        };
        if self.growing_at(top).is_some() {
            return false;
        }
        let last = self.ir.add(IR::Slice { input: top, offset, len: most as IdxSize });
        self.decided.insert(last.0, splits);
        let (_, left) = self.leave(last, None);
        self.ir.replace(node, IR::Slice { input: left, offset, len });
        self.decided.insert(node.0, Splits::whole(format!("it takes some of the last {most} rows of each task")));
        true
    }

    /// Rows of equal keys come to one task; or, if one side turns out to be small, all of it comes to each task of the other.
    fn join(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        let IR::Join { input_left, input_right, left_on, right_on, options, .. } = &ir else { return Ok(false) };
        let (left, right) = (self.draw_in(*input_left), self.draw_in(*input_right));
        if !self.splits(left).are_several() && !self.splits(right).are_several() {
            return Ok(false);
        }
        let parts = match join::parts(&ir, &self.schema(left), &self.schema(right), &self.exprs) {
            Ok(parts) => parts,
            Err(why) => {
                self.whole.insert(node.0, format!("it joins all rows at once, because {why}"));
                return Ok(false);
            }
        };
        let may_take = |side: Node| self.growing_at(side).is_none() && !self.early.contains_key(&side.0);
        let (may_take_left, may_take_right) = (may_take(left), may_take(right));
        let (left_along, right_along) = (parts.left_along && may_take_left, parts.right_along && may_take_right);
        if !parts.by_keys && !left_along && !right_along {
            return Ok(false);
        }
        let (left_bytes, right_bytes) = (self.estimate(left).bytes, self.estimate(right).bytes);
        // The smaller side comes to the other, if it may.
        let takes_left = match (left_along, right_along) {
            (true, true) => Some(right_bytes <= left_bytes),
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        let worth_waiting = |small: u64, large: u64| small <= large / 2 || small <= SOON;
        let (mut scatters, mut shown) = ([None, None], String::new());
        if parts.by_keys {
            let (by_left, by_right) = (self.scatter_by(left_on, left)?, self.scatter_by(right_on, right)?);
            shown = self.shown_keys(left_on);
            scatters = [Some(by_left), Some(by_right)];
        }
        let [by_left, by_right] = scatters;
        let (left_stage, left) = self.leave_for(left, by_left);
        let (right_stage, right) = self.leave_for(right, by_right);
        let mut choices = Vec::new();
        if let Some(takes_left) = takes_left {
            let (along, small, beside, bytes) = match takes_left {
                true => (left_stage, right_stage, left_bytes, right_bytes),
                false => (right_stage, left_stage, right_bytes, left_bytes),
            };
            let ways = vec![(along, Way::Along), (small, Way::All)];
            let is_choice = if parts.by_keys { worth_waiting(bytes, beside) } else { parts.in_order };
            if is_choice {
                choices.push(Choice::ways(ways, Fits::Small(Small { input: small, beside })));
            } else if !parts.by_keys {
                choices.push(Choice::ways(ways, Fits::Always));
            }
        }
        if parts.in_order {
            let ways = vec![(left_stage, Way::All), (right_stage, Way::All)];
            choices.push(Choice::ways(ways, Fits::Always));
        }
        let is_small = !choices.is_empty();
        if parts.by_keys {
            // A stage takes in one of its inputs, whichever way it is run.
            let from_left = takes_left.filter(|_| is_small).unwrap_or(right_bytes <= left_bytes);
            let (side, on, may_take, other) = match from_left {
                true => (left, left_on, may_take_left, right_stage),
                false => (right, right_on, may_take_right, left_stage),
            };
            choices.extend(may_take.then(|| self.join_along(side, on, other)).flatten());
            // Of other joins a row need not have the left side's keys.
            if let JoinType::Inner | JoinType::Left | JoinType::Semi | JoinType::Anti = options.args.how {
                self.note_by(node, left_on);
            }
            let shared = [(parts.left_along, left_stage), (parts.right_along, right_stage)];
            // Some rows of a stage that is both sides would be some of both.
            let shared = shared.into_iter().filter(|(may_be, _)| *may_be && left_stage != right_stage);
            let shared = shared.map(|(_, stage)| stage).collect();
            choices.push(Choice { shared, ..Choice::sections([left_stage, right_stage]) });
        }
        let ir = ir.with_inputs([left, right]);
        self.ir.replace(node, ir);
        let why = match (parts.by_keys, is_small) {
            _ if parts.in_order => "all of the other side comes to each task of the left one, if that is small; else one task joins all rows in their order".to_owned(),
            (false, _) => "all of the smaller side comes to each task of the other".to_owned(),
            (true, false) => format!("rows of equal {shown} come to one task"),
            (true, true) => format!(
                "rows of equal {shown} come to one task, unless all of the smaller side is worth bringing to each"
            ),
        };
        let splits = if parts.in_order { vec![Split::Whole] } else { Vec::new() };
        self.decided.insert(node.0, Splits { splits, ..Splits::chosen(choices, why) });
        Ok(true)
    }

    /// Ends a stage at a node. Unless it has UDF steps, it may yet become a part of who reads it.
    pub(super) fn leave_for(&mut self, top: Node, scatter: Option<Scatter>) -> (StageId, Node) {
        if let Some(stage) = self.early.get(&top.0) {
            return (*stage, top);
        }
        if self.growing_at(top).is_some() {
            return self.leave(top, scatter);
        }
        let stage = self.open(Head::Node(top));
        self.open[stage.0 as usize].scatter = scatter;
        let columns = self.schema(top);
        let cut = self.ir.add(IR::SimpleProjection { input: top, columns });
        self.cuts.insert(cut.0, stage);
        (stage, cut)
    }

    /// Keys as people call them: columns by their names.
    pub(super) fn shown_keys(&self, keys: &[ExprIR]) -> String {
        let key = |key: &ExprIR| match self.exprs.get(key.node()) {
            AExpr::Column(name) => name.to_string(),
            _ => shown(key.node(), &self.exprs),
        };
        keys.iter().map(key).collect::<Vec<_>>().join(", ")
    }

    /// Whether rows can be scattered by these keys.
    pub(super) fn are_keys(&self, keys: &[ExprIR], top: Node) -> bool {
        let schema = self.schema(top);
        let dtype = |key: &ExprIR| key.dtype(&schema, &self.exprs).is_ok_and(may_be_key);
        let rows = |key: &ExprIR| expr_is_row_wise(key.node(), &self.exprs) && reads_a_column(key.node(), &self.exprs);
        !keys.is_empty() && keys.iter().all(|key| rows(key) && dtype(key))
    }

    /// Scatters what stands on a node by these keys.
    pub(super) fn scatter_by(&mut self, keys: &[ExprIR], top: Node) -> Result<Scatter, PlanError> {
        let into = self.target.sections() as usize;
        let column = |key: &ExprIR| match self.exprs.get(key.node()) {
            AExpr::Column(name) => Some(name.to_string()),
            _ => None,
        };
        let columns = keys.iter().map(column).collect::<Option<Vec<_>>>();
        // One that is two keys has two names, as in what it is joined with.
        let columns = columns.filter(|keys| keys.iter().collect::<BTreeSet<_>>().len() == keys.len());
        if let Some(keys) = columns {
            return Ok(Scatter::by_hash(keys, None, into));
        }
        let read = keys.iter().flat_map(|key| polars_plan::utils::aexpr_to_leaf_names_iter(key.node(), &self.exprs));
        let mut read: Vec<String> = read.map(ToString::to_string).collect();
        read.sort_unstable();
        read.dedup();
        let schema = self.schema(top);
        let mut computed = Schema::default();
        let mut exprs = Vec::with_capacity(keys.len());
        for (number, key) in keys.iter().enumerate() {
            let name: PlSmallStr = format!("{number}").into();
            computed.insert(name.clone(), key.dtype(&schema, &self.exprs).map_err(PlanError::polars)?.clone());
            exprs.push(ExprIR::new(key.node(), OutputName::Alias(name)));
        }
        // A batch comes in the place of whatever stage.
        let input = self.ir.add(placeholder(StageId(0), schema));
        let options = ProjectionOptions::default();
        let select = self.ir.add(IR::Select { input, expr: exprs, schema: Arc::new(computed), options });
        let computed = Fragment::new(select, &self.ir, &self.exprs, self.target.travels)?;
        Ok(Scatter::by_hash(read, Some(computed), into))
    }
}
