//! Cutting an optimised plan into stages.
//!
//! A stage is built from below: a *head* (any subtree, often a scan with row-wise nodes), then UDF steps. While it is
//! built, a *placeholder* scan stands in the plan for its output; row-wise nodes right above a placeholder are drawn
//! into the stage, behind its last step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::expr_ir::{ExprIR, OutputName};
use polars_plan::plans::{AExpr, ArenaLpIter, IR, IRPlan, IRPlanRef};
use polars_plan::prelude::{AnonymousColumnsUdf, ProjectionOptions};
use polars_utils::arena::{Arena, Node};

use super::aggregate::{Parts, calls_aggregate_udf, in_parts};
use super::held::held_by_splits;
use super::lift::{self, Liftable};
use super::marker::{Marker, hash_keys};
use super::names::Names;
use super::rowwise::{is_row_wise, keeps_rows};
use super::same::{Comparison, Same, one_attempt};
use super::scan::{Splits, split, split_frame};
use super::sink::{FileSink, input_of_object, input_of_split_sink};
use super::wire::{Fragment, placeholder, placeholder_of};
use super::{OneAttempt, Scatter, Stage, StageProgram, Target, UdfStep, Work};
use crate::error::PlanError;
use crate::sched::StageId;
use crate::udf::UdfCall;

/// The stages of a plan, and whether what the last one leaves has the same rows when it is made again.
pub(super) fn cut(plan: IRPlan, target: Target) -> Result<(Vec<Stage>, bool), PlanError> {
    let schemas: Vec<_> = plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| ir.schema(&plan.lp_arena)).collect();
    let names = Names::beside(schemas.iter().flat_map(|schema| schema.iter_names()));
    drop(schemas);
    let (ir, exprs) = (plan.lp_arena, plan.expr_arena);
    let mut cutter = Cutter {
        ir,
        exprs,
        target,
        open: Vec::new(),
        decided: BTreeMap::new(),
        batches: BTreeMap::new(),
        whole: BTreeMap::new(),
        lowered: BTreeSet::new(),
        names,
    };
    let mut root = plan.lp_top;
    cutter.lower(root)?;
    root = cutter.draw_in(root);
    if cutter.growing_at(root).is_none() {
        let stage = cutter.open(Head::Node(root));
        if FileSink::of(cutter.ir.get(root)).is_some() {
            // The lists of files are gathered, not fetched by the driver: one that is lost with its worker is made again.
            let lists = cutter.ir.add(placeholder(stage, FileSink::listing()));
            cutter.decided.insert(lists.0, Splits::whole("it gathers the lists of the files"));
            cutter.open(Head::Node(lists));
        }
    }
    let (mut stages, mut same) = (Vec::new(), Vec::new());
    for (id, stage) in std::mem::take(&mut cutter.open).into_iter().enumerate() {
        let id = StageId(id as u32);
        same.push(cutter.compare(id, &stage, &stages, &same));
        stages.push(cutter.close(id, stage)?);
    }
    for (index, inputs) in one_attempt(&stages, &same).into_iter().enumerate() {
        stages[index].one_attempt = inputs;
    }
    Ok((stages, same.last().is_none_or(Same::is_stable)))
}

/// Frames up to this size travel inside the plan, once for each worker; a larger one is fetched by the tasks, in parts.
const INLINE_FRAME: usize = 1 << 20;

struct Cutter {
    ir: Arena<IR>,
    exprs: Arena<AExpr>,
    target: Target,
    open: Vec<OpenStage>,
    /// How what stands on these nodes is split, where that is known before its stage is closed.
    decided: BTreeMap<usize, Splits>,
    /// Row-wise nodes whose rows go on in batches of so many.
    batches: BTreeMap<usize, usize>,
    /// Why aggregations that call UDFs are not split.
    whole: BTreeMap<usize, String>,
    /// Nodes that have been lowered: what stands below several caches is met several times.
    lowered: BTreeSet<usize>,
    names: Names,
}

struct OpenStage {
    head: Head,
    steps: Vec<OpenStep>,
    /// Rows that what reads it takes of it, from its start.
    limit: Option<u64>,
    scatter: Option<Scatter>,
}

enum Head {
    Node(Node),
    /// A frame that is too large to travel inside a plan.
    Frame(Arc<DataFrame>),
}

struct OpenStep {
    call: UdfCall,
    inputs: Vec<PlSmallStr>,
    output: Field,
    /// Root of the row-wise nodes that follow, over the placeholder of this stage, and the placeholder that stands for them.
    then: Option<(Node, Node)>,
}

impl Cutter {
    /// Makes every UDF call at or below `node` a step that can be one. The node keeps its index and its schema.
    fn lower(&mut self, node: Node) -> Result<(), PlanError> {
        if !self.lowered.insert(node.0) {
            return Ok(());
        }
        for input in self.ir.get(node).inputs().collect::<Vec<_>>() {
            self.lower(input)?;
        }
        if let IR::DataFrameScan { .. } = self.ir.get(node) {
            self.take_out_frame(node)?;
        }
        if let Some(marker) = Marker::of(self.ir.get(node)) {
            self.take_out(node, marker);
            return Ok(());
        }
        self.lift_from_scan(node);
        while self.lift_calls(node)? {}
        self.limit(node);
        self.split_aggregation(node);
        self.share_out_to_sink(node);
        self.complete_below_object(node);
        if !is_row_wise(self.ir.get(node), &self.exprs) {
            let inputs: Vec<_> = self.ir.get(node).inputs().collect();
            let inputs: Vec<_> = inputs.into_iter().map(|input| self.draw_in(input)).collect();
            let ir = self.ir.get(node).clone().with_inputs(inputs);
            self.ir.replace(node, ir);
        }
        Ok(())
    }

    /// Puts a placeholder in the place of a frame that is too large to travel inside a plan.
    fn take_out_frame(&mut self, node: Node) -> Result<(), PlanError> {
        let IR::DataFrameScan { df, output_schema, .. } = self.ir.get(node) else { return Ok(()) };
        if !self.target.travels || df.estimated_size() <= INLINE_FRAME {
            return Ok(());
        }
        let frame = match output_schema {
            Some(wanted) => Arc::new(df.select(wanted.iter_names_cloned()).map_err(PlanError::polars)?),
            None => Arc::clone(df),
        };
        let schema = Arc::clone(frame.schema());
        let shares = Splits::shares(self.target.tasks.min(frame.height()));
        let stage = self.open(Head::Frame(frame));
        self.ir.replace(node, placeholder(stage, schema));
        self.decided.insert(node.0, shares);
        Ok(())
    }

    /// Takes a marker out of the plan and does what it asks for.
    fn take_out(&mut self, node: Node, marker: Marker) {
        let Some(input) = single_input(self.ir.get(node)) else { return };
        match marker {
            Marker::IntoPartitions(n) if self.target.travels => return self.deal(node, input, n, false),
            Marker::SplitSource(n) if self.target.travels => return self.deal(node, input, n, true),
            Marker::IntoPartitions(_) | Marker::SplitSource(_) => marker.say_without_effect(),
            Marker::Repartition(n) => {
                let Some((filter, keys)) = self.keys_below(input) else { return };
                if self.target.travels {
                    return self.scatter(node, filter, Scatter { keys, into: n });
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
        if self.growing_at(base).is_none() && (whole_source || !is_filtered()) {
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
    fn limit(&mut self, node: Node) {
        let IR::Slice { input, offset, len } = *self.ir.get(node) else { return };
        let Ok(offset) = u64::try_from(offset) else { return };
        let top = self.draw_in(input);
        let stage = match self.growing_at(top) {
            Some(stage) => stage,
            None if self.splits(top).splits.len() > 1 => self.open(Head::Node(top)),
            None => return,
        };
        self.open[stage.0 as usize].limit = Some(offset.saturating_add(u64::from(len)));
        let placeholder = self.ir.add(placeholder(stage, self.schema(top)));
        self.decided.insert(placeholder.0, Splits::whole("it gathers its input"));
        let ir = self.ir.get(node).clone().with_inputs([placeholder]);
        self.ir.replace(node, ir);
    }

    /// Ends a stage with what its tasks aggregate of their own rows; the node then merges that.
    fn split_aggregation(&mut self, node: Node) {
        let ir = self.ir.get(node).clone();
        let Some(input) = single_input(&ir).filter(|_| calls_aggregate_udf(&ir, &self.exprs)) else { return };
        let top = self.draw_in(input);
        let top = self.share_out(top).unwrap_or(top);
        let splits = self.splits(top);
        if splits.splits.len() < 2 {
            return;
        }
        let (names, rows) = (&mut self.names, self.ir.get(top).schema(&self.ir).into_owned());
        let Parts { partial, kept, merge } = match in_parts(&ir, &rows, &mut self.exprs, || names.fresh("kept")) {
            Ok(parts) => parts,
            Err(why) => return drop(self.whole.insert(node.0, why)),
        };
        let partial = self.ir.add(partial.with_inputs([top]));
        self.decided.insert(partial.0, splits);
        let stage = self.open(Head::Node(partial));
        let kept = self.ir.add(placeholder(stage, kept));
        self.decided.insert(kept.0, Splits::whole("it gathers its input"));
        self.ir.replace(node, merge.with_inputs([kept]));
        self.decided.insert(node.0, Splits::whole("it merges what the tasks of its input have aggregated"));
    }

    /// A sink that can write in parts does not gather what UDF steps leave.
    fn share_out_to_sink(&mut self, node: Node) {
        let Some(input) = input_of_split_sink(self.ir.get(node), &self.exprs) else { return };
        let top = self.draw_in(input);
        let Some(shares) = self.share_out(top) else { return };
        let ir = self.ir.get(node).clone().with_inputs([shares]);
        self.ir.replace(node, ir);
    }

    /// Ends a stage below what writes an object: Polars completes an upload whose rows have failed half-way, so all of them are
    /// there before it begins.
    fn complete_below_object(&mut self, node: Node) {
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
    fn share_out(&mut self, top: Node) -> Option<Node> {
        let stage = self.growing_at(top)?;
        let Head::Node(head) = self.open[stage.0 as usize].head else { return None };
        let shares = self.ir.add(placeholder(stage, self.schema(top)));
        self.decided.insert(shares.0, Splits::shares(self.splits(head).splits.len()));
        Some(shares)
    }

    fn open(&mut self, head: Head) -> StageId {
        self.open.push(OpenStage { head, steps: Vec::new(), limit: None, scatter: None });
        StageId(self.open.len() as u32 - 1)
    }

    /// The stage that may still grow at this node: its placeholder, not yet dealt to tasks of another stage.
    fn growing_at(&self, node: Node) -> Option<StageId> {
        placeholder_of(self.ir.get(node)).filter(|_| !self.decided.contains_key(&node.0))
    }

    fn lift_from_scan(&mut self, node: Node) {
        let mut scan = self.ir.get(node).clone();
        if let Some(predicate) = lift::take_udf_terms(&mut scan, &mut self.exprs) {
            let input = self.ir.add(scan);
            self.ir.replace(node, IR::Filter { input, predicate });
        }
    }

    /// Lifts one layer of calls (those without calls in their inputs) out of a node. False if there is none to lift.
    fn lift_calls(&mut self, node: Node) -> Result<bool, PlanError> {
        let ir = self.ir.get(node).clone();
        // What a sink computes by itself, its keys, stays there: a column below would end in its files.
        let Some(input) = single_input(&ir).filter(|_| !matches!(ir, IR::Sink { .. })) else { return Ok(false) };
        let calls = lift::liftable(ir.exprs().map(ExprIR::node), &self.exprs);
        if calls.is_empty() {
            return Ok(false);
        }
        let (below, arguments) = self.input_columns(input, &calls)?;
        let schema = self.schema(input);
        let (mut columns, mut steps) = (BTreeMap::new(), Vec::with_capacity(calls.len()));
        for (call, inputs) in calls.iter().zip(arguments) {
            let name = self.names.fresh("udf");
            let fields = call.inputs.iter().map(|e| e.field(&schema, &self.exprs));
            let fields = fields.collect::<PolarsResult<Vec<_>>>().map_err(PlanError::polars)?;
            let dtype = call.call.get_field(&schema, &fields).map_err(PlanError::polars)?.dtype;
            let output = Field::new(name.clone(), dtype);
            steps.push(OpenStep { call: call.call.clone(), inputs, output, then: None });
            let column = self.exprs.add(AExpr::Column(name));
            columns.extend(call.at.iter().map(|at| (*at, column)));
        }
        let below = self.add_steps(below, steps);
        let rewritten: Vec<_> = ir.exprs().cloned().collect();
        let rewritten = rewritten.into_iter().map(|mut expr| {
            expr.set_node(lift::replaced(expr.node(), &columns, &mut self.exprs));
            expr
        });
        let rewritten: Vec<_> = rewritten.collect();
        let before = self.schema(node);
        let ir = ir.with_exprs(rewritten).with_inputs([below]);
        self.put_back(node, ir, before);
        Ok(true)
    }

    /// Puts a node that now reads added columns in the place of the old one, with the old one's schema.
    fn put_back(&mut self, node: Node, mut ir: IR, before: SchemaRef) {
        if let IR::HStack { input, exprs, schema, .. } = &mut ir {
            let mut widened = self.ir.get(*input).schema(&self.ir).as_ref().as_ref().clone();
            for expr in exprs {
                if let Some(dtype) = before.get(expr.output_name()) {
                    widened.insert(expr.output_name().clone(), dtype.clone());
                }
            }
            *schema = Arc::new(widened);
        }
        let keeps_its_own_columns = matches!(ir, IR::Select { .. } | IR::GroupBy { .. });
        if keeps_its_own_columns {
            self.ir.replace(node, ir);
        } else {
            let input = self.ir.add(ir);
            self.ir.replace(node, IR::SimpleProjection { input, columns: before });
        }
    }

    /// Makes every input of the calls a column, below them. Returns the node and, for each call, its columns.
    fn input_columns(&mut self, input: Node, calls: &[Liftable]) -> Result<(Node, Vec<Vec<PlSmallStr>>), PlanError> {
        let mut schema = self.schema(input).as_ref().clone();
        let (mut computed, mut arguments) = (Vec::new(), Vec::new());
        for call in calls {
            let mut columns = Vec::new();
            for expr in &call.inputs {
                if let AExpr::Column(name) = self.exprs.get(expr.node()) {
                    columns.push(name.clone());
                    continue;
                }
                let name = self.names.fresh("in");
                let dtype = expr.dtype(&schema, &self.exprs).map_err(PlanError::polars)?.clone();
                // The type of a literal is open until here; what is computed for it has this one.
                let dtype = dtype.materialize_unknown(true).map_err(PlanError::polars)?;
                schema.insert(name.clone(), dtype);
                computed.push(ExprIR::new(expr.node(), OutputName::Alias(name.clone())));
                columns.push(name);
            }
            arguments.push(columns);
        }
        if computed.is_empty() {
            return Ok((input, arguments));
        }
        let options = ProjectionOptions::default();
        let node = self.ir.add(IR::HStack { input, exprs: computed, schema: Arc::new(schema), options });
        Ok((node, arguments))
    }

    /// Appends steps to the stage whose placeholder `input` stands on, or begins a stage with `input` as its head.
    fn add_steps(&mut self, input: Node, steps: Vec<OpenStep>) -> Node {
        let input = self.draw_in(input);
        let mut schema = self.schema(input).as_ref().clone();
        schema.extend(steps.iter().map(|step| step.output.clone()));
        let stage = match self.growing_at(input) {
            Some(stage) => stage,
            None => self.open(Head::Node(input)),
        };
        self.open[stage.0 as usize].steps.extend(steps);
        self.ir.add(placeholder(stage, Arc::new(schema)))
    }

    /// Draws row-wise nodes above a placeholder into its stage, behind the last step.
    fn draw_in(&mut self, top: Node) -> Node {
        let base = self.row_wise_base(top);
        let Some(stage) = self.growing_at(base).filter(|_| base != top) else { return top };
        let Some(step) = self.open[stage.0 as usize].steps.last() else { return top };
        // What was drawn in before stays, below what is drawn in now.
        if let Some((input, _)) = step.then.filter(|(_, drawn)| *drawn == base) {
            let columns = self.schema(base);
            self.ir.replace(base, IR::SimpleProjection { input, columns });
        }
        let drawn = self.ir.add(placeholder(stage, self.schema(top)));
        if let Some(step) = self.open[stage.0 as usize].steps.last_mut() {
            step.then = Some((top, drawn));
        }
        drawn
    }

    /// The first node from `top` downwards that is not row-wise.
    fn row_wise_base(&self, top: Node) -> Node {
        self.base(top, |ir| is_row_wise(ir, &self.exprs))
    }

    /// The first node from `top` downwards of which this does not hold.
    fn base(&self, top: Node, holds: impl Fn(&IR) -> bool) -> Node {
        let mut base = top;
        while holds(self.ir.get(base))
            && let Some(input) = single_input(self.ir.get(base))
        {
            base = input;
        }
        base
    }

    /// What two attempts of a task of this stage have in common; `below`: the same of the stages before it.
    fn compare(&self, id: StageId, stage: &OpenStage, closed: &[Stage], below: &[Same]) -> Same {
        let Head::Node(head) = stage.head else { return Same::exactly() };
        // Of what reads no other stage nobody asks.
        let splits = if self.inputs(head).is_empty() { Vec::new() } else { self.splits(head).splits };
        let scatters: Vec<_> =
            closed.iter().map(|stage| stage.program().and_then(|program| program.scatter.clone())).collect();
        let comparison =
            Comparison { ir: &self.ir, exprs: &self.exprs, stages: below, scatters: &scatters, splits: &splits };
        let after_steps = stage.steps.iter().fold(comparison.of(head, None), |same, step| {
            let same = same.with_udf(&step.call, &step.inputs, &step.output.name);
            match step.then {
                Some((then, _)) => comparison.of(then, Some((id, &same))),
                None => same,
            }
        });
        if stage.limit.is_some() { after_steps.cut() } else { after_steps }
    }

    fn close(&self, id: StageId, stage: OpenStage) -> Result<Stage, PlanError> {
        let head = match stage.head {
            Head::Node(head) => head,
            Head::Frame(frame) => {
                let Splits { splits, why, .. } = split_frame(&frame, self.target.tasks);
                let frame = Arc::unwrap_or_clone(frame);
                let (work, inputs, describe) = (Work::Frame(frame), Vec::new(), String::new());
                let (held, one_attempt) = (Vec::new(), OneAttempt::default());
                return Ok(Stage { id, work, inputs, one_attempt, splits, held, why, describe });
            }
        };
        let fragment = self.fragment(head)?;
        let steps = stage.steps.into_iter().map(|step| self.close_step(step)).collect::<Result<Vec<_>, _>>()?;
        let Splits { splits, mut why, .. } = self.splits(head);
        let unsplit = self.ir.iter(head).filter_map(|(node, _)| self.whole.get(&node.0));
        unsplit.for_each(|reason| why.push_str(&format!("; it aggregates all rows at once, because {reason}")));
        let inputs = self.inputs(head);
        let held = held_by_splits(self.ir.iter(head).map(|(_, ir)| ir), &splits);
        let describe = IRPlanRef { lp_top: head, lp_arena: &self.ir, expr_arena: &self.exprs }.describe();
        let (batches, limit, scatter) = (self.batches_above(head), stage.limit, stage.scatter);
        let program = StageProgram { fragment, batches, steps, limit, scatter };
        let one_attempt = OneAttempt::default();
        Ok(Stage { id, work: Work::Program(program), inputs, one_attempt, splits, held, why, describe })
    }

    fn close_step(&self, step: OpenStep) -> Result<UdfStep, PlanError> {
        let call = step.call;
        let batches = step.then.and_then(|(root, _)| self.batches_above(root));
        let then = step.then.map(|(root, _)| self.fragment(root)).transpose()?;
        Ok(UdfStep {
            udf: call.name().to_owned(),
            arguments: call.arguments().map_err(|e| PlanError::udf(call.name(), e))?.to_vec(),
            options: call.planned_options(self.target.in_flight).map_err(|e| PlanError::udf(call.name(), e))?,
            inputs: step.inputs.iter().map(ToString::to_string).collect(),
            output: (step.output.name.to_string(), step.output.dtype),
            then,
            batches,
        })
    }

    /// The batches that are asked for in the row-wise nodes from `top` downwards.
    fn batches_above(&self, top: Node) -> Option<usize> {
        let mut node = top;
        loop {
            if let Some(rows) = self.batches.get(&node.0) {
                return Some(*rows);
            }
            if !is_row_wise(self.ir.get(node), &self.exprs) {
                return None;
            }
            node = single_input(self.ir.get(node))?;
        }
    }

    fn splits(&self, head: Node) -> Splits {
        let base = self.row_wise_base(
            input_of_split_sink(self.ir.get(head), &self.exprs)
                .or_else(|| input_of_object(self.ir.get(head)))
                .unwrap_or(head),
        );
        match (self.decided.get(&base.0), self.ir.get(base)) {
            (Some(decided), _) => decided.clone(),
            (None, IR::DataFrameScan { .. }) => Splits::whole("a small frame of the driver"),
            (None, _) => self.split_base(base, self.target.tasks),
        }
    }

    /// Splits what row-wise nodes stand on into about `tasks` pieces, if that can be.
    fn split_base(&self, base: Node, tasks: usize) -> Splits {
        match self.ir.get(base) {
            IR::DataFrameScan { df, .. } => split_frame(df, tasks),
            scan @ IR::Scan { .. } if placeholder_of(scan).is_none() => split(scan, tasks),
            IR::Scan { .. } => Splits::whole("it gathers its input"),
            node => Splits::whole(format!("{} sees all rows at once, so it runs whole on one worker", node.name())),
        }
    }

    fn inputs(&self, head: Node) -> Vec<StageId> {
        let mut inputs: Vec<_> = self.ir.iter(head).filter_map(|(_, ir)| placeholder_of(ir)).collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs
    }

    fn fragment(&self, root: Node) -> Result<Fragment, PlanError> {
        Fragment::new(root, &self.ir, &self.exprs, self.target.travels)
    }

    fn schema(&self, node: Node) -> SchemaRef {
        self.ir.get(node).schema(&self.ir).into_owned()
    }
}

fn single_input(ir: &IR) -> Option<Node> {
    let mut inputs = ir.inputs();
    let first = inputs.next()?;
    inputs.next().is_none().then_some(first)
}
