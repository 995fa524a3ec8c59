//! Windows as in `x.cum_sum().over(["k"])`: rows of equal keys come to one task, which has them in their order, and go back from there to where
//! they stood, if anybody looks.
//!
//! Windows of a node that are nothing but aggregates are joined to the rows instead (see [`super::scalars`]), which then stay where they are.

use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, ArenaExprIter, IR, IRAggExpr};
use polars_plan::prelude::WindowMapping;
use polars_utils::arena::{Arena, Node};

use super::aggregate::shown;
use super::common::varies;
use super::cut::{Cutter, single_input};
use super::lift::below;
use super::rowwise::{expr_is_row_wise, maps_its_inputs, reads_a_column};
use super::scan::Splits;
use crate::error::PlanError;

impl Cutter {
    /// Runs a node that is row-wise but for windows by their keys. Whether that was done.
    pub(super) fn windows(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        let (IR::Filter { .. } | IR::HStack { .. } | IR::Select { .. }, Some(input)) = (&ir, single_input(&ir)) else {
            return Ok(false);
        };
        let roots: Vec<Node> = ir.exprs().map(ExprIR::node).collect();
        if !roots.iter().any(|root| self.exprs.iter(*root).any(|(_, expr)| matches!(expr, AExpr::Over { .. }))) {
            return Ok(false);
        }
        let top = self.draw_in(input);
        if !self.is_several(top) {
            return Ok(false);
        }
        let keys = roots.iter().try_fold(None, |keys, root| take(*root, keys, &self.exprs));
        let keys = keys.and_then(|keys| match keys {
            Some(keys) if self.are_keys(&keys, top) => Ok(keys),
            Some(keys) => Err(format!("rows cannot be told apart by {}", self.shown_keys(&keys))),
            None => Err("no window is over keys".to_owned()),
        });
        let keys = match keys {
            Ok(keys) => keys,
            Err(why) => {
                self.whole.insert(node.0, format!("it sees all rows at once, because {why}"));
                return Ok(false);
            }
        };
        self.whole.remove(&node.0);
        let placed = self.is_observed(node).then(|| self.placed(top));
        let top = placed.as_ref().map_or(top, |placed| placed.top);
        let scatter = self.scatter_by(&keys, top)?;
        let (left, choices) = self.leave_by(top, scatter, &keys);
        let why = format!("rows of equal {} come to one task, which has their windows", self.shown_keys(&keys));
        let splits = Splits::chosen(choices, why);
        let Some(placed) = placed else {
            let is_left = |key: &ExprIR| match (&ir, self.exprs.get(key.node())) {
                (IR::HStack { exprs, .. }, AExpr::Column(name)) => exprs.iter().all(|e| e.output_name() != name),
                (IR::Filter { .. }, AExpr::Column(_)) => true,
                _ => false,
            };
            if keys.iter().all(is_left) {
                self.note_by(node, &keys);
            }
            self.ir.replace(node, ir.with_inputs([left]));
            self.decided.insert(node.0, splits);
            return Ok(true);
        };
        let work = self.keeping(ir, left, &placed.place);
        let work = self.ir.add(work);
        self.decided.insert(work.0, splits);
        self.back_in_order(work, &placed, node);
        Ok(true)
    }
}

/// The keys by which rows may come together for this expression and those before it: what the keys of all its windows have in common.
///
/// # Errors
/// In words, why all rows must be seen at once.
fn take(at: Node, keys: Option<Vec<ExprIR>>, exprs: &Arena<AExpr>) -> Result<Option<Vec<ExprIR>>, String> {
    if expr_is_row_wise(at, exprs) {
        return Ok(keys);
    }
    match exprs.get(at) {
        AExpr::Over { function, partition_by, order_by, mapping } => {
            let inner = || [*function].into_iter().chain(order_by.iter().map(|(by, _)| *by));
            if inner().chain(partition_by.iter().copied()).any(|inner| varies(inner, exprs)) {
                return Err(format!("{} may have other values each time", shown(at, exprs)));
            }
            let numbers = |(_, expr): (Node, &AExpr)| matches!(expr, AExpr::Agg(IRAggExpr::AggGroups(_)));
            if exprs.iter(*function).any(numbers) {
                return Err(format!("{} yields numbers of rows, which are of all of them", shown(at, exprs)));
            }
            if let WindowMapping::Explode = mapping {
                return Err(format!("{} puts rows into another order", shown(at, exprs)));
            }
            // What rows are told apart and put in order by is computed of all rows, before they are.
            let of_rows = order_by.iter().map(|(by, _)| by).chain(partition_by);
            if let Some(by) = of_rows.into_iter().find(|by| !expr_is_row_wise(**by, exprs)) {
                return Err(format!("{} is not computed row by row", shown(*by, exprs)));
            }
            let by: Vec<Node> = partition_by.iter().copied().filter(|key| reads_a_column(*key, exprs)).collect();
            let is_key =
                |key: &ExprIR| by.iter().any(|other| exprs.get(key.node()).is_expr_equal_to(exprs.get(*other), exprs));
            let common: Vec<ExprIR> = match keys {
                Some(known) => known.into_iter().filter(is_key).collect(),
                None => by.iter().map(|key| ExprIR::from_node(*key, exprs)).collect(),
            };
            match common.is_empty() {
                true if by.is_empty() => Err(format!("{} is over all rows", shown(at, exprs))),
                true => Err("its windows have no key in common".to_owned()),
                false => Ok(Some(common)),
            }
        }
        expr if maps_its_inputs(expr, exprs) && !matches!(expr, AExpr::StructEval { .. } | AExpr::Eval { .. }) => {
            below(expr).into_iter().try_fold(keys, |keys, input| take(input, keys, exprs))
        }
        _ => Err(format!("{} looks at other rows", shown(at, exprs))),
    }
}
