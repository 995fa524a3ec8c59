//! What tasks of a stage hold in memory of what they read, by the nodes that they run.

use polars::prelude::*;
use polars_plan::plans::{FunctionIR, IR};
use polars_utils::arena::Node;

use super::cut::Cutter;
use super::rowwise::expr_is_row_wise;
use crate::sched::Holds;

impl Cutter {
    pub(super) fn holds(&self, nodes: &[Node]) -> Holds {
        nodes.iter().map(|node| self.held_by(*node)).max().unwrap_or_default()
    }

    /// Bytes that come to what makes groups of each task's own rows, in all tasks, as far as can be told: at worst it makes as many of them.
    pub(super) fn grouped(&self, nodes: &[Node]) -> u64 {
        let groups = |node: &&Node| {
            self.partials.contains(&node.0) && matches!(self.ir.get(**node), IR::GroupBy { .. } | IR::Distinct { .. })
        };
        let inputs = nodes.iter().filter(groups).flat_map(|node| self.ir.get(*node).inputs());
        inputs.map(|input| self.estimate(input).bytes).fold(0, u64::saturating_add)
    }

    fn held_by(&self, node: Node) -> Holds {
        let (ir, is_merge) = (self.ir.get(node), self.merges.contains(&node.0));
        match ir {
            // What a task makes of its own rows is taken for little of them, and so is one row that is made of such.
            _ if self.partials.contains(&node.0) => Holds::Nothing,
            IR::Join { options, .. } => match options.args.how {
                // They build the right side, however large it is.
                JoinType::Semi | JoinType::Anti => Holds::MERGED,
                _ => Holds::Tables,
            },
            IR::GroupBy { .. } | IR::Distinct { .. } if is_merge => Holds::MERGED,
            IR::GroupBy { .. } | IR::Distinct { .. } | IR::Sort { slice: None, .. } => Holds::SORTED,
            IR::Select { .. } | IR::HStack { .. } | IR::Filter { .. } => {
                let by_row = ir.exprs().all(|expr| expr_is_row_wise(expr.node(), &self.exprs));
                if by_row || is_merge { Holds::Nothing } else { Holds::GATHERED }
            }
            IR::MapFunction { function, .. } => match function {
                FunctionIR::Opaque { streamable, .. } if !streamable => Holds::GATHERED,
                _ => Holds::Nothing,
            },
            _ => Holds::Nothing,
        }
    }
}
