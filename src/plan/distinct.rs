//! Distinct rows: equal ones come together, after each task has kept one of its own; they go back to where they stood if anybody looks.

use polars::prelude::*;
use polars_plan::plans::IR;
use polars_plan::plans::expr_ir::ExprIR;
use polars_utils::arena::Node;

use super::cut::Cutter;
use super::scan::Splits;
use crate::error::PlanError;

impl Cutter {
    /// Makes distinct rows a matter of several tasks. Whether that was done.
    pub(super) fn distinct(&mut self, node: Node) -> Result<bool, PlanError> {
        let IR::Distinct { input, mut options } = self.ir.get(node).clone() else { return Ok(false) };
        let mut top = self.draw_in(input);
        if !self.is_several(top) {
            return Ok(false);
        }
        let names: Vec<PlSmallStr> = match &options.subset {
            Some(subset) => subset.iter().cloned().collect(),
            None => self.schema(top).iter_names_cloned().collect(),
        };
        let keys: Vec<_> = names.iter().map(|name| ExprIR::from_column_name(name.clone(), &mut self.exprs)).collect();
        let why = match options.slice {
            Some(_) => Some("some of them are taken by their number".to_owned()),
            None if self.are_keys(&keys, top) => None,
            None => Some(format!("they cannot be told apart by {}", self.shown_keys(&keys))),
        };
        if let Some(why) = why {
            self.whole.insert(node.0, format!("it sees all rows at once, because {why}"));
            return Ok(false);
        }
        let placed = options.maintain_order.then(|| self.placed(top));
        if let Some(placed) = &placed {
            top = placed.top;
            options.maintain_order = false;
            options.subset = Some(names.into());
            // It is where the first one stood.
            if options.keep_strategy == UniqueKeepStrategy::Any {
                options.keep_strategy = UniqueKeepStrategy::First;
            }
        }
        let scatter = self.scatter_by(&keys, top)?;
        // Of each task's own rows first, unless all of them must be counted. One of each task is left, in the order of tasks.
        let in_parts = options.keep_strategy != UniqueKeepStrategy::None && self.growing_at(top).is_none();
        if in_parts {
            let (rows, splits) = (top, self.splits(top));
            top = self.ir.add(IR::Distinct { input: rows, options: options.clone() });
            self.decided.insert(top.0, splits);
            self.partials.insert(top.0);
            self.by_pass.insert(top.0, rows);
        }
        let shown = scatter.keys.join(", ");
        let (left, choices) = self.leave_by(top, scatter, &keys);
        let splits = Splits::chosen(choices, format!("rows of equal {shown} come to one task"));
        let distinct = IR::Distinct { input: left, options };
        let work = match &placed {
            None => {
                self.ir.replace(node, distinct);
                self.note_by(node, &keys);
                node
            }
            Some(_) => self.ir.add(distinct),
        };
        self.decided.insert(work.0, splits);
        if in_parts {
            self.merges.insert(work.0);
        }
        if let Some(placed) = placed {
            self.back_in_order(work, &placed, node);
        }
        Ok(true)
    }
}
