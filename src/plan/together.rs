//! Which rows are together already: what has been joined or grouped by some keys is so in one task, and stays there.

use polars::prelude::*;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{AExpr, IR};
use polars_utils::arena::Node;

use super::Scatter;
use super::cut::Cutter;
use super::scan::Choice;
use crate::sched::{Fits, StageId, Way};

/// What the columns of a node are called in what is below; those that are computed on the way have no name there.
type Traced = Vec<Option<PlSmallStr>>;

impl Cutter {
    /// Ends a stage below a node for which rows of equal `keys` come together: what stands for it, and how it may be read.
    pub(super) fn leave_by(&mut self, top: Node, scatter: Scatter, keys: &[ExprIR]) -> (Node, Vec<Choice>) {
        // Of whatever set of these keys: rows of equal keys are equal in all of them.
        let suits = |by: &[PlSmallStr], traced: &Traced| by.iter().all(|key| traced.contains(&Some(key.clone())));
        let together = match self.growing_at(top) {
            Some(_) => Vec::new(),
            None => self.together(StageId(self.open.len() as u32), top, self.column_names(keys), &suits),
        };
        if together.is_empty() {
            let (stage, left) = self.leave(top, Some(scatter));
            return (left, vec![Choice::sections([stage])]);
        }
        let (stage, left) = self.leave_for(top, Some(scatter));
        let along = Choice::ways(vec![(stage, Way::Along)], Fits::Together(together));
        (left, vec![along, Choice::sections([stage])])
    }

    /// How a join may be run by the tasks of one of its sides, whose rows are by its keys already.
    pub(super) fn join_along(&self, side: Node, on: &[ExprIR], other: StageId) -> Option<Choice> {
        let (stage, below) = (*self.cuts.get(&side.0)?, self.ir.get(side).inputs().next()?);
        let suits = |by: &[PlSmallStr], traced: &Traced| by.iter().map(Some).eq(traced.iter().map(Option::as_ref));
        let together = self.together(stage, below, self.column_names(on), &suits);
        let ways = vec![(stage, Way::Along), (other, Way::Sections)];
        (!together.is_empty()).then(|| Choice::ways(ways, Fits::Together(together)))
    }

    /// Notes that rows of equal values of these columns of a node are together, where its stage reads sections.
    pub(super) fn note_by(&mut self, node: Node, keys: &[ExprIR]) {
        if let Some(columns) = self.column_names(keys).into_iter().collect::<Option<Vec<_>>>() {
            self.by.insert(node.0, columns);
        }
    }

    fn column_names(&self, keys: &[ExprIR]) -> Traced {
        keys.iter().map(|key| self.column(key)).collect()
    }

    fn column(&self, key: &ExprIR) -> Option<PlSmallStr> {
        match self.exprs.get(key.node()) {
            AExpr::Column(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// The stages whose sections are by columns that suit: this one, whose head this is, and those that it may have taken in.
    fn together(
        &self,
        mut stage: StageId,
        head: Node,
        keys: Traced,
        suits: &dyn Fn(&[PlSmallStr], &Traced) -> bool,
    ) -> Vec<StageId> {
        let (mut found, mut todo) = (Vec::new(), Some((head, keys)));
        while let Some((node, keys)) = todo {
            stage = self.cuts.get(&node.0).copied().unwrap_or(stage);
            if self.by.get(&node.0).is_some_and(|by| suits(by, &keys)) {
                found.push(stage);
            }
            todo = self.below(node, keys);
        }
        found
    }

    /// The input whose rows a node hands on in the same task, if there is one, and what these columns are called there.
    fn below(&self, node: Node, mut keys: Traced) -> Option<(Node, Traced)> {
        let ir = self.ir.get(node);
        let passes = |exprs: &[ExprIR], key: &PlSmallStr| {
            exprs.iter().find(|expr| expr.output_name() == key).map(|expr| self.column(expr))
        };
        let mut rename = |name: &dyn Fn(&PlSmallStr) -> Option<PlSmallStr>| {
            keys.iter_mut().for_each(|key| *key = key.as_ref().and_then(name));
        };
        let input = match ir {
            IR::SimpleProjection { input, .. } | IR::Filter { input, .. } | IR::Distinct { input, .. } => *input,
            IR::Select { input, expr, .. } => {
                rename(&|key| passes(expr, key).flatten());
                *input
            }
            IR::HStack { input, exprs, .. } => {
                rename(&|key| passes(exprs, key).unwrap_or_else(|| Some(key.clone())));
                *input
            }
            IR::GroupBy { input, keys: groups, apply: None, .. } => {
                rename(&|key| passes(groups, key).flatten());
                *input
            }
            IR::Join { input_left, .. } if self.filters.contains_key(&node.0) => *input_left,
            IR::Join { input_left, input_right, left_on, right_on, options, .. } => {
                let along = self.decided.get(&node.0)?.choices.iter().flat_map(|choice| &choice.ways);
                let along: Vec<_> = along.filter(|(_, way)| *way == Way::Along).map(|(stage, _)| *stage).collect();
                let is_taken = |side: &Node| self.cuts.get(&side.0).is_some_and(|stage| along.contains(stage));
                let of_left = self.schema(*input_left);
                let of_right = self.schema(*input_right);
                match (is_taken(input_left), options.args.how == JoinType::Inner && is_taken(input_right)) {
                    (true, _) => {
                        rename(&|key| of_left.contains(key).then(|| key.clone()));
                        *input_left
                    }
                    (false, true) => {
                        // A key of the left side is what it is equal to.
                        let equal = |key: &PlSmallStr| {
                            let at = left_on.iter().position(|on| self.column(on).as_ref() == Some(key))?;
                            right_on.get(at).and_then(|on| self.column(on))
                        };
                        let of_its_own = |key: &PlSmallStr| of_right.contains(key).then(|| key.clone());
                        rename(&|key| if of_left.contains(key) { equal(key) } else { of_its_own(key) });
                        *input_right
                    }
                    (false, false) => return None,
                }
            }
            _ => return None,
        };
        Some((input, keys))
    }
}

#[cfg(test)]
mod tests;
