//! Aggregates beside each row, of all rows as in `x - x.mean()`, or of those with its keys as in `x.sum().over(["k"])`: they are worked
//! out first, by all tasks, and joined to the rows, which keep their order. The node is row-wise then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IR, is_scalar_ae};
use polars_plan::prelude::{GroupbyOptions, JoinOptionsIR, ProjectionOptions, WindowMapping};
use polars_plan::utils::aexpr_to_leaf_names_iter;
use polars_utils::arena::{Arena, Node};

use super::aggregate::shown;
use super::common::{is_worth_keeping, varies};
use super::cut::{Cutter, single_input};
use super::join::may_be_key;
use super::lift::{below, replaced};
use super::neighbours::looks_beside;
use super::rowwise::{expr_is_row_wise, maps_its_inputs};
use super::running::runs_on;
use super::scan::Splits;
use super::wire::{placeholder, placeholder_of};
use crate::error::PlanError;

/// What a node's expressions aggregate, and over which keys: of all rows, if there are none.
#[derive(Default)]
struct Found {
    of: Vec<(Vec<PlSmallStr>, Vec<Node>)>,
    /// In which of these each aggregate is: there may be thousands.
    places: BTreeMap<usize, usize>,
    /// Windows, and what each yields of the rows of its keys.
    windows: Vec<(Node, Node)>,
    /// Whether something looks at rows beside each, or runs on from row to row.
    looks_on: bool,
    /// What looks at other rows and is nothing of these.
    other: Option<Node>,
}

impl Cutter {
    /// Does without aggregates of all rows, or of those with the same keys, in a node that is row-wise but for them, or for what looks at
    /// rows beside each. Whether that was done.
    pub(super) fn take_out_scalars(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        let (IR::Filter { .. } | IR::HStack { .. } | IR::Select { .. }, Some(input)) = (&ir, single_input(&ir)) else {
            return Ok(false);
        };
        // A select of nothing else is an aggregation.
        let roots: Vec<ExprIR> = ir.exprs().cloned().collect();
        if matches!(ir, IR::Select { .. }) && roots.iter().all(|root| is_scalar_ae(root.node(), &self.exprs)) {
            return Ok(false);
        }
        let mut found = Found::default();
        let schema = self.schema(input);
        let all = roots.iter().all(|root| found.take(root.node(), &[], &schema, &self.exprs));
        if !all || found.of.is_empty() {
            if let Some(at) = found.other {
                let why = format!("it sees all rows at once, because {} looks at other rows", shown(at, &self.exprs));
                self.whole.insert(node.0, why);
            }
            return Ok(false);
        }
        let top = self.draw_in(input);
        let top = self.share_out(top).unwrap_or(top);
        if !self.splits(top).are_several() {
            return Ok(false);
        }
        // The rows are wanted twice: those of a source are read twice, others are kept.
        let base = self.row_wise_base(top);
        let is_source = placeholder_of(self.ir.get(base)).is_none()
            && !self.decided.contains_key(&base.0)
            && !is_worth_keeping(top, &self.ir, &self.exprs);
        let in_order = !is_unordered(self.ir.get(base));
        let (rows, kept) = if is_source {
            (top, None)
        } else {
            let shares = Splits::shares(self.target.tasks);
            let (stage, rows) = match placeholder_of(self.ir.get(top)) {
                Some(stage) if self.open[stage.0 as usize].scatter.is_none() => (stage, top),
                _ => {
                    let (stage, rows) = self.leave(top, None);
                    self.decided.insert(rows.0, shares.clone());
                    (stage, rows)
                }
            };
            let kept = self.ir.add(placeholder(stage, self.schema(top)));
            self.decided.insert(kept.0, shares);
            (rows, Some(kept))
        };
        let (mut beside, mut columns) = (rows, BTreeMap::new());
        for (keys, aggregates) in found.of {
            let of = kept.unwrap_or_else(|| {
                let names = aggregates.iter().flat_map(|at| aexpr_to_leaf_names_iter(*at, &self.exprs));
                let wanted = names.chain(&keys).cloned().collect();
                self.narrowed(top, wanted)
            });
            let mut scalars = Vec::with_capacity(aggregates.len());
            for at in aggregates {
                let name = self.names.fresh("scalar");
                columns.insert(at.0, self.exprs.add(AExpr::Column(name.clone())));
                scalars.push(ExprIR::new(at, OutputName::Alias(name)));
            }
            beside = self.with_scalars(beside, of, &keys, scalars, in_order)?;
        }
        for (window, of_group) in found.windows {
            let of_row = replaced(of_group, &columns, &mut self.exprs);
            columns.insert(window.0, of_row);
        }
        let rewritten = roots.into_iter().map(|mut root| {
            root.set_node(replaced(root.node(), &columns, &mut self.exprs));
            root
        });
        let rewritten: Vec<_> = rewritten.collect();
        let before = self.schema(node);
        let work = self.put_back(node, ir.with_exprs(rewritten).with_inputs([beside]), before);
        if found.looks_on && !self.exchange(work)? {
            self.gather(work);
        }
        Ok(true)
    }

    /// These rows, each with the aggregates of those at `of`, or of those of them that have its keys.
    fn with_scalars(
        &mut self,
        rows: Node,
        of: Node,
        keys: &[PlSmallStr],
        scalars: Vec<ExprIR>,
        in_order: bool,
    ) -> Result<Node, PlanError> {
        let schema = self.schema(of);
        let fields = scalars.iter().map(|scalar| {
            let dtype = scalar.dtype(&schema, &self.exprs)?.clone();
            Ok(Field::new(scalar.output_name().clone(), dtype))
        });
        let fields = fields.collect::<PolarsResult<Vec<_>>>().map_err(PlanError::polars)?;
        let mut columns = self.schema(rows).as_ref().clone();
        columns.extend(fields.iter().cloned());
        let (mut left_on, mut right_on, mut by, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Schema::default());
        for key in keys {
            let name = self.names.fresh("by");
            left_on.push(ExprIR::from_column_name(key.clone(), &mut self.exprs));
            by.push(ExprIR::new(left_on[left_on.len() - 1].node(), OutputName::Alias(name.clone())));
            right_on.push(ExprIR::from_column_name(name.clone(), &mut self.exprs));
            kept.extend(schema.get(key).map(|dtype| Field::new(name, dtype.clone())));
        }
        kept.extend(fields);
        let (schema, input) = (Arc::new(kept), of);
        let aggregation = match keys {
            [] => IR::Select { input, expr: scalars, schema, options: ProjectionOptions::default() },
            _ => {
                let options = Arc::new(GroupbyOptions::default());
                IR::GroupBy { input, keys: by, aggs: scalars, schema, maintain_order: false, options, apply: None }
            }
        };
        let aggregation = self.ir.add(aggregation);
        if !self.exchange(aggregation)? {
            self.gather(aggregation);
        }
        let mut args = JoinArgs::new(if keys.is_empty() { JoinType::Cross } else { JoinType::Left });
        args.nulls_equal = true;
        if in_order {
            args.maintain_order = MaintainOrderJoin::Left;
        }
        let options = Arc::new(JoinOptionsIR { allow_parallel: true, force_parallel: false, args, options: None });
        let (schema, input_left, input_right) = (Arc::new(columns), rows, aggregation);
        let join = self.ir.add(IR::Join { input_left, input_right, schema, left_on, right_on, options });
        if !self.exchange(join)? {
            self.gather(join);
        }
        Ok(join)
    }

    /// The same rows of a source with no more columns than are wanted, as far as its row-wise nodes can do without.
    pub(super) fn narrowed(&mut self, node: Node, mut wanted: BTreeSet<PlSmallStr>) -> Node {
        let reads = |expr: &ExprIR, exprs: &Arena<AExpr>| -> Vec<PlSmallStr> {
            aexpr_to_leaf_names_iter(expr.node(), exprs).cloned().collect()
        };
        let mut ir = self.ir.get(node).clone();
        match &mut ir {
            IR::Scan { output_schema, unified_scan_args: args, predicate, file_info, hive_parts: None, .. }
                if args.row_index.is_none() && args.include_file_paths.is_none() =>
            {
                wanted.extend(predicate.iter().flat_map(|predicate| reads(predicate, &self.exprs)));
                let all = output_schema.as_ref().unwrap_or(&file_info.schema);
                let some: Schema = all
                    .iter()
                    .filter(|(name, _)| wanted.contains(*name))
                    .map(|(n, d)| (n.clone(), d.clone()))
                    .collect();
                // Without any, nothing says how many rows there are.
                if some.is_empty() || some.len() == all.len() {
                    return node;
                }
                args.projection = Some(some.iter_names_cloned().collect());
                *output_schema = Some(Arc::new(some));
            }
            IR::SimpleProjection { input, columns } => {
                let some: Schema = columns
                    .iter()
                    .filter(|(name, _)| wanted.contains(*name))
                    .map(|(n, d)| (n.clone(), d.clone()))
                    .collect();
                if some.is_empty() {
                    return node;
                }
                *columns = Arc::new(some);
                *input = self.narrowed(*input, wanted);
            }
            IR::Filter { input, predicate } => {
                wanted.extend(reads(predicate, &self.exprs));
                *input = self.narrowed(*input, wanted);
            }
            _ => return node,
        }
        self.ir.add(ir)
    }
}

/// Whether nobody can tell in which order a node's rows are.
fn is_unordered(ir: &IR) -> bool {
    match ir {
        IR::GroupBy { maintain_order, .. } => !maintain_order,
        IR::Join { options, .. } => options.args.maintain_order == MaintainOrderJoin::None,
        IR::Distinct { options, .. } => !options.maintain_order,
        _ => false,
    }
}

impl Found {
    /// Takes in the aggregates of an expression, if it is row-wise but for them.
    fn take(&mut self, at: Node, keys: &[PlSmallStr], schema: &Schema, exprs: &Arena<AExpr>) -> bool {
        if expr_is_row_wise(at, exprs) {
            return true;
        }
        // What is another each time is evaluated where it stands.
        if is_scalar_ae(at, exprs) && !varies(at, exprs) {
            return self.add(at, keys);
        }
        match exprs.get(at) {
            AExpr::Over { function, partition_by, order_by: None, mapping: WindowMapping::GroupsToRows } => {
                let key = |key: &Node| match exprs.get(*key) {
                    AExpr::Column(name) => Some(name).filter(|name| schema.get(name).is_some_and(is_key)).cloned(),
                    _ => None,
                };
                let by = partition_by.iter().map(key).collect::<Option<Vec<_>>>();
                match by.filter(|by| keys.is_empty() && !by.is_empty()) {
                    Some(by) => {
                        self.windows.push((at, *function));
                        self.take(*function, &by, schema, exprs)
                    }
                    None => self.leave(at),
                }
            }
            expr if maps_its_inputs(expr, exprs) => {
                below(expr).into_iter().all(|input| self.take(input, keys, schema, exprs))
            }
            _ if keys.is_empty() && (looks_beside(at, exprs) || runs_on(at, exprs)) => {
                self.looks_on = true;
                true
            }
            _ => self.leave(at),
        }
    }

    fn leave(&mut self, at: Node) -> bool {
        self.other = Some(at);
        false
    }

    fn add(&mut self, at: Node, keys: &[PlSmallStr]) -> bool {
        let of = self.of.iter().position(|(by, _)| by == keys).unwrap_or_else(|| {
            self.of.push((keys.to_vec(), Vec::new()));
            self.of.len() - 1
        });
        match self.places.insert(at.0, of) {
            None => self.of[of].1.push(at),
            Some(known) if known == of => (),
            // One node has one column.
            Some(_) => return self.leave(at),
        }
        true
    }
}

/// Whether rows can be joined by their values of this type.
fn is_key(dtype: &DataType) -> bool {
    may_be_key(dtype) && !dtype.is_nested()
}
