//! Aggregates inside row-wise nodes, as in `x - x.mean()`: they are worked out first, by all tasks, and stand beside each row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, IR, is_scalar_ae};
use polars_plan::prelude::{JoinOptionsIR, ProjectionOptions};
use polars_plan::utils::aexpr_to_leaf_names_iter;
use polars_utils::arena::{Arena, Node};

use super::common::has_call;
use super::cut::{Cutter, single_input};
use super::lift::{below, replaced};
use super::rowwise::{expr_is_row_wise, maps_its_inputs};
use super::scan::Splits;
use super::wire::{placeholder, placeholder_of};
use crate::error::PlanError;

impl Cutter {
    /// Makes a node row-wise that is so but for aggregates of all its rows. Whether that was done.
    pub(super) fn take_out_scalars(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        let (IR::Filter { .. } | IR::HStack { .. } | IR::Select { .. }, Some(input)) = (&ir, single_input(&ir)) else {
            return Ok(false);
        };
        // A select without a column is an aggregation.
        let roots: Vec<ExprIR> = ir.exprs().cloned().collect();
        if matches!(ir, IR::Select { .. }) && roots.iter().all(|root| is_scalar_ae(root.node(), &self.exprs)) {
            return Ok(false);
        }
        let mut found = Vec::new();
        if !roots.iter().all(|root| find(root.node(), &self.exprs, &mut found)) || found.is_empty() {
            return Ok(false);
        }
        let top = self.draw_in(input);
        let top = self.share_out(top).unwrap_or(top);
        if !self.splits(top).are_several() {
            return Ok(false);
        }
        // The rows are wanted twice: those of a source are read twice, others are kept.
        let base = self.row_wise_base(top);
        let is_source = placeholder_of(self.ir.get(base)).is_none() && !self.decided.contains_key(&base.0);
        let (rows, of) = if is_source {
            let names = found.iter().flat_map(|at| aexpr_to_leaf_names_iter(*at, &self.exprs));
            let wanted = names.cloned().collect();
            (top, self.narrowed(top, wanted))
        } else {
            let (stage, rows) = self.leave(top, None);
            let of = self.ir.add(placeholder(stage, self.schema(top)));
            for shares in [rows, of] {
                self.decided.insert(shares.0, Splits::shares(self.target.tasks));
            }
            (rows, of)
        };
        let (mut columns, mut scalars) = (BTreeMap::new(), Vec::new());
        for at in found {
            let name = self.names.fresh("scalar");
            columns.insert(at.0, self.exprs.add(AExpr::Column(name.clone())));
            scalars.push(ExprIR::new(at, OutputName::Alias(name)));
        }
        let schema = self.schema(of);
        let fields = scalars.iter().map(|scalar| {
            let dtype = scalar.dtype(&schema, &self.exprs)?.clone();
            Ok(Field::new(scalar.output_name().clone(), dtype))
        });
        let fields = fields.collect::<PolarsResult<Vec<_>>>().map_err(PlanError::polars)?;
        let options = ProjectionOptions::default();
        let kept = Arc::new(fields.iter().cloned().collect::<Schema>());
        let scalars = self.ir.add(IR::Select { input: of, expr: scalars, schema: kept, options });
        if !self.exchange(scalars)? {
            self.gather(scalars);
        }
        let mut schema = self.schema(rows).as_ref().clone();
        schema.extend(fields);
        let mut args = JoinArgs::new(JoinType::Cross);
        args.maintain_order = MaintainOrderJoin::Left;
        let options = Arc::new(JoinOptionsIR { allow_parallel: true, force_parallel: false, args, options: None });
        let beside = IR::Join {
            input_left: rows,
            input_right: scalars,
            schema: Arc::new(schema),
            left_on: Vec::new(),
            right_on: Vec::new(),
            options,
        };
        let beside = self.ir.add(beside);
        if !self.exchange(beside)? {
            self.gather(beside);
        }
        let rewritten = roots.into_iter().map(|mut root| {
            root.set_node(replaced(root.node(), &columns, &mut self.exprs));
            root
        });
        let rewritten: Vec<_> = rewritten.collect();
        let before = self.schema(node);
        self.put_back(node, ir.with_exprs(rewritten).with_inputs([beside]), before);
        Ok(true)
    }

    /// The same rows of a source with no more columns than are wanted, as far as its row-wise nodes can do without.
    fn narrowed(&mut self, node: Node, mut wanted: BTreeSet<PlSmallStr>) -> Node {
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

/// Finds the aggregates in an expression that is row-wise but for them.
fn find(at: Node, exprs: &Arena<AExpr>, found: &mut Vec<Node>) -> bool {
    if expr_is_row_wise(at, exprs) {
        return true;
    }
    let expr = exprs.get(at);
    if is_scalar_ae(at, exprs) {
        // What a user's code yields may be another each time.
        if has_call(at, exprs) {
            return false;
        }
        if !found.contains(&at) {
            found.push(at);
        }
        return true;
    }
    maps_its_inputs(expr, exprs) && below(expr).into_iter().all(|input| find(input, exprs, found))
}
