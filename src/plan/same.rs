//! What two attempts of a task have in common, so far as the plan tells; and who must therefore read one attempt of what.
//!
//! A task that is lost runs again. Most leave the same rows in the same order; a join leaves them in another order, a UDF that does
//! not promise otherwise leaves other values, and what is computed of those may be other rows altogether. Where it is not
//! known, nothing is promised: that costs time when a worker is lost, and never an answer.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::*;
use polars_plan::dsl::FileScanIR;
use polars_plan::plans::expr_ir::ExprIR;
use polars_plan::plans::{
    AExpr, ArenaExprIter, FunctionIR, IR, IRAggExpr, IRFunctionExpr, is_inherently_nondeterministic,
    is_inherently_nondeterministic_top_level, is_length_preserving_ae, is_scalar_ae,
};
use polars_plan::prelude::{JoinTypeOptionsIR, WindowMapping};
use polars_utils::arena::{Arena, Node};

use super::borders::Borders;
use super::held::held_by;
use super::place::Place;
use super::rowwise::{expr_is_row_wise, is_row_wise, maps_its_inputs, reads_a_column};
use super::wire::placeholder_of;
use super::{OneAttempt, Read, Scatter, Split, Stage};
use crate::sched::{Mode, StageId, Way};
use crate::udf::{OnError, UdfCall};

/// Which rows two attempts share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alike {
    /// Perhaps none. Whatever is computed of it has nothing in common either.
    Nothing,
    /// The same rows, in any order.
    Rows,
    /// The same rows in the same order.
    Positions,
}

/// What two attempts of a task have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Same {
    pub(super) rows: Alike,
    /// Columns that may have other values in the other attempt. Each row has them for itself: some rows of one attempt and the
    /// others of another are as good as those of one.
    pub(super) unstable: BTreeSet<PlSmallStr>,
}

impl Same {
    pub(super) const fn exactly() -> Self {
        Self { rows: Alike::Positions, unstable: BTreeSet::new() }
    }

    const fn nothing() -> Self {
        Self { rows: Alike::Nothing, unstable: BTreeSet::new() }
    }

    fn at_most(mut self, rows: Alike) -> Self {
        self.rows = self.rows.min(rows);
        self
    }

    /// What is left of it if only the first rows, or some by their number, are taken.
    pub(super) fn cut(self) -> Self {
        if self.rows == Alike::Positions { self } else { Self::nothing() }
    }

    /// The same rows and values, in whatever order.
    pub(super) fn is_stable(&self) -> bool {
        self.rows > Alike::Nothing && self.unstable.is_empty()
    }

    fn has_stable<'a>(&self, mut columns: impl Iterator<Item = &'a str>) -> bool {
        columns.all(|column| !self.unstable.contains(column))
    }

    /// With a column that a UDF adds, a step after this.
    pub(super) fn with_udf(mut self, call: &UdfCall, inputs: &[PlSmallStr], output: &PlSmallStr) -> Self {
        if self.rows > Alike::Nothing && !(keeps_its_word(call) && self.has_stable(inputs.iter().map(|name| &**name))) {
            self.unstable.insert(output.clone());
        }
        self
    }

    /// What tasks read of a stage that leaves this, whichever of these ways they read it.
    fn as_read(&self, ways: &[Way], scatter: Option<&Scatter>) -> Self {
        let settled = ways.iter().all(|way| match way {
            Way::Share => self.rows == Alike::Positions,
            Way::Sections => self.has_stable(scatter.into_iter().flat_map(|s| &s.keys).map(String::as_str)),
            Way::All | Way::Along | Way::Without => true,
        });
        if settled { self.clone() } else { Self::nothing() }
    }
}

/// Whether a UDF's results depend on its inputs alone, also when a call fails.
fn keeps_its_word(call: &UdfCall) -> bool {
    call.is_deterministic() && call.options.on_error == OnError::Raise
}

/// For each stage, the inputs that all its tasks must read one attempt of: made again, they may not be what some have read.
///
/// A single task reads what is there when it starts, which goes together; and what only it has read may change behind it. Unless
/// others read it too: then all that is made of it must be of one attempt.
pub(super) fn one_attempt(stages: &[Stage], same: &[Same]) -> Vec<OneAttempt> {
    let reads = |stage: &Stage| stage.reads.iter().map(|read| read.from).collect::<Vec<_>>();
    let readers =
        |input: usize| stages.iter().filter(move |stage| reads(stage).iter().any(|id| id.0 as usize == input));
    let mut forked = vec![false; stages.len()];
    for (index, stage) in stages.iter().enumerate() {
        let below = reads(stage).iter().any(|id| forked[id.0 as usize] && !same[id.0 as usize].is_stable());
        forked[index] = below || readers(index).count() > 1;
    }
    let settled = |stage: &Stage, input: usize| {
        let left = &same[input];
        let ways = ways_of(&stage.reads, &stage.modes, StageId(input as u32));
        let read = left.as_read(&ways, stages[input].program().and_then(|program| program.scatter.as_ref()));
        match forked[input] {
            true => left.is_stable() && read.rows > Alike::Nothing,
            false if stage.tasks() == Some(1) => true,
            false => ways.iter().all(|way| match way {
                // What of a row another task sees must be what its own has made of it.
                Way::Share if stage.splits.iter().any(Split::reaches_over) => {
                    left.is_stable() && read.rows > Alike::Nothing
                }
                Way::Share | Way::Sections => read.rows > Alike::Nothing,
                Way::All => left.is_stable(),
                Way::Along | Way::Without => true,
            }),
        }
    };
    let of = |stage: &Stage| {
        let inputs: Vec<_> = reads(stage).into_iter().filter(|id| !settled(stage, id.0 as usize)).collect();
        let with_others = inputs.iter().any(|id| forked[id.0 as usize]);
        OneAttempt { inputs, with_others }
    };
    stages.iter().map(of).collect()
}

/// All ways in which some stage may be read.
pub(super) fn ways_of(reads: &[Read], modes: &[Mode], of: StageId) -> Vec<Way> {
    let at = reads.iter().position(|read| read.from == of);
    let Some(at) = at else { return Vec::new() };
    let ways = modes.iter().flat_map(|mode| {
        // Those who share a section of another input read all of this one's.
        let all = mode.shared.iter().any(|shared| *shared != at).then_some(Way::All);
        mode.ways.get(at).copied().into_iter().chain(all)
    });
    ways.collect()
}

/// Finds out what two attempts of a fragment have in common.
pub(super) struct Comparison<'a> {
    pub(super) ir: &'a Arena<IR>,
    pub(super) exprs: &'a Arena<AExpr>,
    /// Nodes that stand for stages as placeholders do.
    pub(super) cuts: &'a BTreeMap<usize, StageId>,
    /// What stages below leave, and the ways in which it may be read.
    pub(super) stages: &'a [Same],
    pub(super) scatters: &'a [Option<&'a Scatter>],
    /// Unions of which the rows of one of two stages are read.
    pub(super) others: &'a BTreeMap<usize, [StageId; 2]>,
    /// Columns that say where a row belongs, each its own.
    pub(super) places: &'a BTreeSet<PlSmallStr>,
    /// Nodes that get a row of each task at most for one of theirs, in the order of tasks.
    pub(super) merges: &'a BTreeSet<usize>,
    /// Stages that leave one row.
    pub(super) single: &'a [bool],
    pub(super) ways: &'a dyn Fn(StageId) -> Vec<Way>,
}

/// What two attempts make of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// The same.
    Stable,
    /// Something else, each row for itself.
    Varies,
    /// Something else, and the rows of an attempt belong together.
    Jointly,
}

impl Comparison<'_> {
    /// The rows at this node. `batch`: what comes through the placeholder of the stage itself, of which this is row-wise work.
    pub(super) fn of(&self, node: Node, batch: Option<(StageId, &Same)>) -> Same {
        let ir = self.ir.get(node);
        if let Some(stage) = self.stage_at(node) {
            return match batch {
                Some((own, same)) if own == stage => same.clone(),
                _ => match (self.stages.get(stage.0 as usize), self.scatters.get(stage.0 as usize)) {
                    (Some(same), Some(scatter)) => same.as_read(&(self.ways)(stage), *scatter),
                    _ => Same::nothing(),
                },
            };
        }
        let others = self.others.get(&node.0);
        let is_read = |input: usize| {
            let of = others.and_then(|others| others.get(input));
            of.is_none_or(|of| (self.ways)(*of).iter().any(|way| *way != Way::Without))
        };
        let inputs = ir.inputs().enumerate().filter(|(number, _)| is_read(*number));
        let inputs: Vec<Same> = inputs.map(|(_, input)| self.of(input, batch)).collect();
        if inputs.iter().any(|input| input.rows == Alike::Nothing) {
            return Same::nothing();
        }
        let mut inputs = inputs.into_iter();
        match (ir, inputs.next(), inputs.next()) {
            (IR::Union { .. } | IR::HConcat { .. }, Some(first), second) => {
                self.together(ir, [first].into_iter().chain(second).chain(inputs))
            }
            (IR::Join { .. }, Some(left), Some(right)) => self.joined(ir, left, &right),
            (_, Some(input), None) => self.over(node, input),
            (ir, None, None) => self.source(ir),
            _ => Same::nothing(),
        }
    }

    /// The stage that this node stands for.
    fn stage_at(&self, node: Node) -> Option<StageId> {
        self.cuts.get(&node.0).copied().or_else(|| placeholder_of(self.ir.get(node)))
    }

    fn source(&self, ir: &IR) -> Same {
        match ir {
            IR::DataFrameScan { .. } => Same::exactly(),
            IR::MapFunction { function: FunctionIR::FastCount { .. }, .. } => Same::exactly(),
            IR::Scan { predicate, scan_type, unified_scan_args: args, file_info, .. } => {
                let numbered = args.pre_slice.is_some() || args.row_index.is_some();
                let rows = match (held_by(ir).is_empty(), &**scan_type) {
                    (_, FileScanIR::Anonymous { .. }) => Alike::Nothing,
                    (true, _) => Alike::Positions,
                    // What another query has persisted is made again in any order, or its readers fail.
                    (false, _) if numbered => Alike::Nothing,
                    (false, _) => Alike::Rows,
                };
                let same = Same::exactly().at_most(rows);
                match predicate {
                    Some(predicate) => self.filtered(same, predicate, &file_info.schema),
                    None => same,
                }
            }
            _ => Same::nothing(),
        }
    }

    fn filtered(&self, same: Same, predicate: &ExprIR, schema: &Schema) -> Same {
        match self.value(predicate.node(), &same, schema) {
            Value::Stable => same,
            Value::Varies | Value::Jointly => Same::nothing(),
        }
    }

    /// A node with one input.
    fn over(&self, node: Node, mut same: Same) -> Same {
        let ir = self.ir.get(node);
        let Some(input) = ir.inputs().next() else { return Same::nothing() };
        let schema = self.ir.get(input).schema(self.ir).into_owned();
        let value = |expr: &ExprIR, same: &Same| self.value(expr.node(), same, &schema);
        match ir {
            IR::Filter { predicate, .. } => self.filtered(same, predicate, &schema),
            IR::Slice { .. } => same.cut(),
            IR::SimpleProjection { columns, .. } => {
                same.unstable.retain(|column| columns.contains(column));
                same
            }
            IR::HStack { exprs, .. } => {
                let values: Vec<_> =
                    exprs.iter().map(|expr| (expr.output_name().clone(), value(expr, &same))).collect();
                with_values(same, values)
            }
            IR::Select { expr, .. } => {
                let values = expr.iter().map(|expr| (expr.output_name().clone(), value(expr, &same))).collect();
                let nodes = || expr.iter().map(ExprIR::node);
                let one_row = nodes().all(|node| is_scalar_ae(node, self.exprs));
                let keeps_rows = is_row_wise(ir, self.exprs)
                    || (nodes().any(|node| reads_a_column(node, self.exprs))
                        && nodes().all(|n| is_length_preserving_ae(n, self.exprs) || is_scalar_ae(n, self.exprs)));
                let rows = match (one_row, keeps_rows) {
                    (true, _) => Alike::Positions,
                    (false, true) => same.rows,
                    (false, false) => Alike::Nothing,
                };
                with_values(Same { rows, unstable: BTreeSet::new() }, values)
            }
            IR::MapFunction { function, .. } => match function {
                FunctionIR::Rechunk | FunctionIR::Hint(_) => same,
                FunctionIR::RowIndex { .. } => same.cut(),
                FunctionIR::Unnest { columns, .. } => {
                    let opens = columns.iter().any(|column| same.unstable.remove(column));
                    let after = ir.schema(self.ir);
                    let fields = after.iter_names().filter(|name| opens && !schema.contains(name.as_str()));
                    same.unstable.extend(fields.cloned());
                    same
                }
                // One row becomes several, which belong together.
                FunctionIR::Explode { .. } if same.unstable.is_empty() => same,
                _ => Same::nothing(),
            },
            IR::Sort { by_column, slice, sort_options, .. } => {
                let by_stable = by_column.iter().all(|key| value(key, &same) == Value::Stable);
                let keeps = by_stable && sort_options.maintain_order;
                let by_place = |key: &ExprIR| match self.exprs.get(key.node()) {
                    AExpr::Column(name) => self.places.contains(name),
                    _ => false,
                };
                let sorted = match by_stable && by_column.iter().any(by_place) {
                    // No two rows are equal, so they have one order.
                    true => Same { rows: Alike::Positions, ..same },
                    false => same.at_most(if keeps { Alike::Positions } else { Alike::Rows }),
                };
                if slice.is_some() { sorted.cut() } else { sorted }
            }
            IR::GroupBy { keys, aggs, maintain_order, options, apply: None, .. }
                if !options.is_dynamic() && !options.is_rolling() =>
            {
                if !keys.iter().all(|key| value(key, &same) == Value::Stable) {
                    return Same::nothing();
                }
                // A row is in one group, so that groups are for themselves.
                let merges = self.merges.contains(&node.0);
                let in_order = Same { rows: if merges { Alike::Positions } else { same.rows }, ..same.clone() };
                let varies = |agg: &&ExprIR| !self.is_exact(agg.node(), &in_order, &schema);
                let unstable = aggs.iter().filter(varies).map(|agg| agg.output_name().clone()).collect();
                let rows = if *maintain_order { same.rows } else { Alike::Rows };
                let grouped = Same { rows, unstable };
                if options.slice.is_some() { grouped.cut() } else { grouped }
            }
            IR::Distinct { options, .. } => {
                let of: Vec<_> = match &options.subset {
                    Some(subset) => subset.iter().cloned().collect(),
                    None => schema.iter_names_cloned().collect(),
                };
                if !same.has_stable(of.iter().map(|name| &**name)) {
                    return Same::nothing();
                }
                let keeps_any = match options.keep_strategy {
                    UniqueKeepStrategy::Any => true,
                    UniqueKeepStrategy::First | UniqueKeepStrategy::Last => {
                        same.rows < Alike::Positions && !self.merges.contains(&node.0)
                    }
                    UniqueKeepStrategy::None => false,
                };
                if keeps_any {
                    same.unstable.extend(schema.iter_names_cloned().filter(|name| !of.contains(name)));
                }
                let distinct = same.at_most(if options.maintain_order { Alike::Positions } else { Alike::Rows });
                if options.slice.is_some() { distinct.cut() } else { distinct }
            }
            _ => Same::nothing(),
        }
    }

    fn joined(&self, ir: &IR, left: Same, right: &Same) -> Same {
        let IR::Join { input_left, input_right, left_on, right_on, options, .. } = ir else { return Same::nothing() };
        let (args, how) = (&options.args, &options.args.how);
        let schema = |node: &Node| self.ir.get(*node).schema(self.ir).into_owned();
        let stable = |on: &[ExprIR], same: &Same, node: &Node| {
            on.iter().all(|key| self.value(key.node(), same, &schema(node)) == Value::Stable)
        };
        let filter_is_stable = match &options.options {
            Some(JoinTypeOptionsIR::CrossAndFilter { predicate }) => self.calls_nothing_unstable(predicate.node()),
            _ => true,
        };
        if !stable(left_on, &left, input_left) || !stable(right_on, right, input_right) || !filter_is_stable {
            return Same::nothing();
        }
        // A single row beside each is one more value of it.
        let is_single = match (self.stage_at(*input_right), self.ir.get(*input_right)) {
            (Some(stage), _) => self.single.get(stage.0 as usize) == Some(&true),
            (None, IR::Select { expr, .. }) => expr.iter().all(|expr| is_scalar_ae(expr.node(), self.exprs)),
            (None, _) => false,
        };
        if how.is_cross() && is_single && right.is_stable() && args.maintain_order == MaintainOrderJoin::Left {
            return if args.slice.is_some() { left.cut() } else { left };
        }
        let in_order = left.rows == Alike::Positions && right.rows == Alike::Positions;
        let ordered = matches!(args.maintain_order, MaintainOrderJoin::LeftRight | MaintainOrderJoin::RightLeft);
        let joined = match (how.is_semi_anti(), how.is_asof()) {
            // At most one row for each of the left.
            (true, _) => left.at_most(if in_order && ordered { Alike::Positions } else { Alike::Rows }),
            // Else one row becomes several, which belong together.
            _ if !left.unstable.is_empty() || !right.unstable.is_empty() => Same::nothing(),
            // Which of several rows fits is a matter of their order.
            (_, true) if in_order => left,
            (_, true) => Same::nothing(),
            _ => left.at_most(if in_order && ordered { Alike::Positions } else { Alike::Rows }),
        };
        if args.slice.is_some() { joined.cut() } else { joined }
    }

    /// Rows of several inputs, one below the other or side by side.
    fn together(&self, ir: &IR, inputs: impl Iterator<Item = Same>) -> Same {
        let inputs: Vec<Same> = inputs.collect();
        let all = inputs.into_iter().reduce(|mut all, input| {
            all.unstable.extend(input.unstable);
            all.at_most(input.rows)
        });
        let all = all.unwrap_or_else(Same::nothing);
        // Of a row that comes several ways, one attempt must come.
        if !all.unstable.is_empty() && self.meet(ir) {
            return Same::nothing();
        }
        match ir {
            IR::Union { options, .. } => {
                let all = if options.maintain_order { all } else { all.at_most(Alike::Rows) };
                if options.slice.is_some() { all.cut() } else { all }
            }
            _ => all.cut(),
        }
    }

    /// Whether two inputs of a node may read the same rows.
    fn meet(&self, ir: &IR) -> bool {
        let mut seen = BTreeSet::new();
        ir.inputs().any(|input| {
            let nodes = polars_plan::plans::ArenaLpIter::iter(self.ir, input);
            let sources: BTreeSet<_> = nodes
                .filter_map(|(node, ir)| {
                    let stage = self.stage_at(node).map(|stage| (0, stage.0 as usize));
                    stage.or_else(|| ir.inputs().next().is_none().then_some((1, node.0)))
                })
                .collect();
            let meets = sources.iter().any(|source| seen.contains(source));
            seen.extend(sources);
            meets
        })
    }

    /// What two attempts make of an expression over rows of which this is the same.
    fn value(&self, expr: Node, same: &Same, schema: &Schema) -> Value {
        if !expr_is_row_wise(expr, self.exprs) {
            return if self.is_exact(expr, same, schema) { Value::Stable } else { Value::Jointly };
        }
        let reads = |(_, expr): (Node, &AExpr)| match expr {
            AExpr::Column(name) => same.unstable.contains(name),
            _ => false,
        };
        match self.calls_nothing_unstable(expr) && !self.exprs.iter(expr).any(reads) {
            true => Value::Stable,
            false => Value::Varies,
        }
    }

    /// Whether all that an expression calls gives the same for the same.
    fn calls_nothing_unstable(&self, expr: Node) -> bool {
        self.exprs.iter(expr).all(|(_, expr)| is_deterministic(expr)) && {
            // What is evaluated on elements is no input of the expression, but part of it.
            let inner = self.exprs.iter(expr).filter_map(|(_, expr)| match expr {
                AExpr::Eval { evaluation, .. } => Some(*evaluation),
                _ => None,
            });
            inner.into_iter().all(|inner| !is_inherently_nondeterministic(inner, self.exprs))
        }
    }

    /// Whether an expression that looks at several rows yields the same, bit for bit, whatever their order and however they are
    /// gathered. Few do: sums of floats do not.
    fn is_exact(&self, expr: Node, same: &Same, schema: &Schema) -> bool {
        let exact = |input: Node| self.is_exact(input, same, schema);
        let adds_exactly = |input: Node| {
            let dtype = ExprIR::from_node(input, self.exprs).dtype(schema, self.exprs).cloned();
            dtype.is_ok_and(|dtype| dtype.is_integer() || dtype.is_bool() || dtype.is_decimal())
        };
        match self.exprs.get(expr) {
            AExpr::Column(name) => !same.unstable.contains(name),
            AExpr::Literal(_) | AExpr::Len => true,
            AExpr::Agg(IRAggExpr::Min { input, .. } | IRAggExpr::Max { input, .. }) => exact(*input),
            AExpr::Agg(IRAggExpr::NUnique(input) | IRAggExpr::Count { input, .. }) => exact(*input),
            AExpr::Agg(IRAggExpr::Sum(input)) => exact(*input) && adds_exactly(*input),
            AExpr::Over { function, partition_by, order_by: None, mapping: WindowMapping::GroupsToRows } => {
                exact(*function) && partition_by.iter().all(|key| exact(*key))
            }
            AExpr::Filter { input, by } => exact(*input) && exact(*by),
            AExpr::Agg(
                IRAggExpr::First(input)
                | IRAggExpr::Last(input)
                | IRAggExpr::FirstNonNull(input)
                | IRAggExpr::LastNonNull(input),
            ) => same.rows == Alike::Positions && exact(*input),
            AExpr::Function { input, function, .. } if follows_order(function) => {
                same.rows == Alike::Positions && input.iter().all(|input| exact(input.node()))
            }
            // Of rows by their number.
            AExpr::AnonymousFunction { input, function, .. } if Borders::is(function) => {
                same.rows == Alike::Positions && input.iter().all(|input| exact(input.node()))
            }
            AExpr::Eval { .. } => expr_is_row_wise(expr, self.exprs) && self.value(expr, same, schema) == Value::Stable,
            other => {
                let mut inputs = Vec::new();
                other.inputs_rev(&mut inputs);
                maps_its_inputs(other, self.exprs) && is_deterministic(other) && inputs.into_iter().all(exact)
            }
        }
    }
}

/// Whether a function of several rows gives the same for the same rows in the same order: it goes through them one after the other.
fn follows_order(function: &IRFunctionExpr) -> bool {
    match function {
        IRFunctionExpr::Shift
        | IRFunctionExpr::ShiftAndFill
        | IRFunctionExpr::Diff(_)
        | IRFunctionExpr::RollingExpr { .. }
        | IRFunctionExpr::FillNullWithStrategy(FillNullStrategy::Forward(_) | FillNullStrategy::Backward(_))
        | IRFunctionExpr::CumSum { .. }
        | IRFunctionExpr::CumCount { .. }
        | IRFunctionExpr::CumMin { .. }
        | IRFunctionExpr::CumMax { .. } => true,
        // Another is by chance, which is there with a feature of Polars' that a program may have switched on.
        IRFunctionExpr::Rank { options, .. } => matches!(
            options.method,
            RankMethod::Average | RankMethod::Min | RankMethod::Max | RankMethod::Dense | RankMethod::Ordinal
        ),
        _ => false,
    }
}

/// Whether this node, apart from its inputs, gives the same for the same.
fn is_deterministic(expr: &AExpr) -> bool {
    match expr {
        AExpr::AnonymousFunction { function, .. } if Borders::is(function) || Place::is(function) => true,
        AExpr::AnonymousFunction { function, .. } => UdfCall::of(function).is_some_and(|call| keeps_its_word(&call)),
        other => !is_inherently_nondeterministic_top_level(other),
    }
}

fn with_values(mut same: Same, values: Vec<(PlSmallStr, Value)>) -> Same {
    for (name, value) in values {
        match value {
            Value::Stable => drop(same.unstable.remove(&name)),
            Value::Varies => drop(same.unstable.insert(name)),
            Value::Jointly => return Same::nothing(),
        }
    }
    if same.rows == Alike::Nothing { Same::nothing() } else { same }
}

#[cfg(test)]
mod tests;
