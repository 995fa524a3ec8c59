//! What users ask for by name: partitions by hash, equal shares, batches; limits and sinks.

use polars_plan::plans::IR;
use polars_utils::arena::Node;

use super::cut::{Cutter, Head, single_input};
use super::exchange::TOP;
use super::marker::{Marker, hash_keys};
use super::rowwise::keeps_rows;
use super::scan::Splits;
use super::sink::{input_of_object, input_of_split_sink};
use super::wire::placeholder;
use super::{Deal, Scatter};
use crate::sched::StageId;

impl Cutter {
    /// Takes a marker out of the plan and does what it asks for.
    pub(super) fn take_out(&mut self, node: Node, marker: Marker) {
        let Some(input) = single_input(self.ir.get(node)) else { return };
        match marker {
            Marker::IntoPartitions(n) if self.target.travels => return self.deal(node, input, n, false),
            Marker::SplitSource(n) if self.target.travels => return self.deal(node, input, n, true),
            Marker::IntoPartitions(_) | Marker::SplitSource(_) => marker.say_without_effect(),
            Marker::Repartition(n) => {
                let Some((filter, keys)) = self.keys_below(input) else { return };
                if self.target.travels {
                    return self.scatter(node, filter, Scatter::by_hash(keys, None, n));
                }
                marker.say_without_effect();
                self.pass_through(filter);
            }
            Marker::IntoBatches(rows) => drop(self.batches.insert(node.0, rows)),
        }
        self.pass_through(node);
    }

    /// Makes a node with one input hand on what it gets.
    fn pass_through(&mut self, node: Node) {
        let Some(input) = single_input(self.ir.get(node)) else { return };
        let columns = self.schema(input);
        self.ir.replace(node, IR::SimpleProjection { input, columns });
    }

    /// The filter that keeps a marker's keys, and their names. Projections may have come between the two.
    fn keys_below(&self, mut node: Node) -> Option<(Node, Vec<String>)> {
        while let IR::SimpleProjection { input, .. } = self.ir.get(node) {
            node = *input;
        }
        let mut keys: Vec<String> = Vec::new();
        for key in hash_keys(self.ir.get(node), &self.exprs)? {
            if !keys.iter().any(|known| *known == *key) {
                keys.push(key.to_string());
            }
        }
        Some((node, keys))
    }

    /// Ends a stage below this filter, whose tasks leave their rows in partitions by the hash of their keys.
    fn scatter(&mut self, marker: Node, filter: Node, scatter: Scatter) {
        let Some(input) = single_input(self.ir.get(filter)) else { return };
        let (columns, of) = (self.schema(marker), scatter.into);
        let input = self.draw_in(input);
        let stage = match self.growing_at(input) {
            Some(stage) => stage,
            None => self.open(Head::Node(input)),
        };
        let keys = scatter.keys.join(", ");
        self.open[stage.0 as usize].scatter = Some(scatter);
        let scattered = self.ir.add(placeholder(stage, self.schema(input)));
        self.decided.insert(scattered.0, Splits::hashed(of, &keys));
        self.ir.replace(marker, IR::SimpleProjection { input: scattered, columns });
    }

    /// Deals what stands on this node `n` equal shares of the rows. If what is below can be split into such shares it is; else
    /// a stage ends here. What filters the rows of a whole source was asked for above.
    fn deal(&mut self, marker: Node, input: Node, n: usize, whole_source: bool) {
        let input = self.draw_in(input);
        let base = self.row_wise_base(input);
        let is_filtered = || {
            self.base(input, |ir| keeps_rows(ir, &self.exprs)) != base
                || matches!(self.ir.get(base), IR::Scan { predicate: Some(_), .. })
        };
        // What may be run in several ways is left to be.
        let has_choices = self.decided.get(&base.0).is_some_and(|decided| !decided.choices.is_empty());
        if self.growing_at(base).is_none() && !has_choices && (whole_source || !is_filtered()) {
            let splits = self.split_base(base, n);
            if splits.splits.len() == n && splits.are_equal {
                self.decided.insert(base.0, splits);
                let columns = self.schema(input);
                self.ir.replace(marker, IR::SimpleProjection { input, columns });
                return;
            }
        }
        let stage = match self.growing_at(input) {
            Some(stage) => stage,
            None => self.open(Head::Node(input)),
        };
        let schema = self.schema(input);
        self.ir.replace(marker, placeholder(stage, schema));
        self.decided.insert(marker.0, Splits::shares(n));
    }

    /// Ends a stage below a slice that looks at the first rows only: each of its tasks leaves no more than those, tasks that
    /// are not needed do not run, and the slice is taken once more of what they left.
    pub(super) fn limit(&mut self, node: Node) {
        let IR::Slice { input, offset, len } = *self.ir.get(node) else { return };
        let Ok(first) = u64::try_from(offset) else { return };
        let top = self.draw_in(input);
        let stage = match self.growing_at(top) {
            Some(stage) => stage,
            None if self.splits(top).are_several() => self.open(Head::Node(top)),
            None => return,
        };
        let last = first.saturating_add(u64::from(len));
        self.open[stage.0 as usize].limit = Some(last);
        if last > TOP as u64 {
            return self.share_slice(node, stage, (offset, u64::from(len)));
        }
        let placeholder = self.ir.add(placeholder(stage, self.schema(top)));
        self.decided.insert(placeholder.0, Splits::whole("it gathers its input"));
        let ir = self.ir.get(node).clone().with_inputs([placeholder]);
        self.ir.replace(node, ir);
    }

    /// Has tasks read the rows of a slice where they are: one, or several if they are many.
    pub(super) fn share_slice(&mut self, node: Node, stage: StageId, slice: (i64, u64)) {
        let tasks = if slice.1 > TOP as u64 { self.target.tasks } else { 1 };
        let deal = Deal { slice: Some(slice), ..Deal::default() };
        let splits = Splits::dealt(tasks, deal, "some of the rows below, by their number");
        let input = self.dealt(stage, self.schema(node), splits.clone());
        let ir = self.ir.get(node).clone().with_inputs([input]);
        self.ir.replace(node, ir);
        self.decided.insert(node.0, splits);
    }

    /// A sink that can write in parts does not gather what UDF steps leave.
    pub(super) fn share_out_to_sink(&mut self, node: Node) {
        let Some(input) = input_of_split_sink(self.ir.get(node), &self.exprs) else { return };
        let top = self.draw_in(input);
        let Some(shares) = self.share_out(top) else { return };
        let ir = self.ir.get(node).clone().with_inputs([shares]);
        self.ir.replace(node, ir);
    }

    /// Ends a stage below what writes an object: Polars completes an upload whose rows have failed half-way, so all of them are
    /// there before it begins.
    pub(super) fn complete_below_object(&mut self, node: Node) {
        let Some(input) = input_of_object(self.ir.get(node)) else { return };
        let top = self.draw_in(input);
        let stage = match self.growing_at(top) {
            Some(stage) => stage,
            None => self.open(Head::Node(top)),
        };
        let placeholder = self.ir.add(placeholder(stage, self.schema(top)));
        self.decided.insert(placeholder.0, Splits::whole("it writes one object, once all rows are there"));
        let ir = self.ir.get(node).clone().with_inputs([placeholder]);
        self.ir.replace(node, ir);
    }

    /// Ends a stage that may still grow here: as many tasks as it has take a share each of what it leaves.
    pub(super) fn share_out(&mut self, top: Node) -> Option<Node> {
        let stage = self.growing_at(top)?;
        let Head::Node(head) = self.open[stage.0 as usize].head else { return None };
        let shares = self.ir.add(placeholder(stage, self.schema(top)));
        let splits = self.splits(head);
        let tasks = if splits.choices.is_empty() { splits.splits.len() } else { self.target.tasks };
        self.decided.insert(shares.0, Splits::shares(tasks));
        Some(shares)
    }
}
