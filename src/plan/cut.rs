//! Cutting an optimised plan into stages.
//!
//! A stage is built from below: a *head* (any subtree, often a scan with row-wise nodes), then UDF steps. What reads it stands on
//! a *placeholder* scan in its place; or, where the scheduler may have its work be a part of the reader's own tasks, on a *cut*: a
//! node that hands on what is below, and that a placeholder may take the place of.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::plans::{AExpr, ArenaLpIter, IR, IRPlan};
use polars_utils::arena::{Arena, Node};

use super::common::{is_worth_keeping, join_up};
use super::estimate::Estimate;
use super::files::Layout;
use super::marker::{Marker, hash_keys};
use super::names::Names;
use super::rowwise::is_row_wise;
use super::scan::{Splits, layouts, split, split_frame};
use super::sink::{FileSink, input_of_object, input_of_split_sink};
use super::wire::{Fragment, placeholder, placeholder_of};
use super::{Scatter, Stage, Target};
use crate::error::PlanError;
use crate::sched::StageId;
use crate::udf::UdfCall;

/// A plan that has been cut.
pub(super) struct Parts {
    /// All of it, in which stages are roots.
    pub(super) whole: Fragment,
    pub(super) stages: Vec<Stage>,
    /// Whether what the last one leaves has the same rows when it is made again.
    pub(super) stable: bool,
}

pub(super) fn cut(mut plan: IRPlan, unordered: BTreeSet<usize>, target: Target) -> Result<Parts, PlanError> {
    join_up(&mut plan);
    let schemas: Vec<_> = plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| ir.schema(&plan.lp_arena)).collect();
    let names = Names::beside(schemas.iter().flat_map(|schema| schema.iter_names()));
    drop(schemas);
    let met = met(&plan);
    let worth = |node: &usize| is_worth_keeping(Node(*node), &plan.lp_arena, &plan.expr_arena);
    let shared = met.iter().copied().filter(worth).collect();
    let (ir, exprs) = (plan.lp_arena, plan.expr_arena);
    let mut cutter = Cutter {
        ir,
        exprs,
        target,
        open: Vec::new(),
        decided: BTreeMap::new(),
        cuts: BTreeMap::new(),
        batches: BTreeMap::new(),
        whole: BTreeMap::new(),
        lowered: BTreeSet::new(),
        met,
        shared,
        early: BTreeMap::new(),
        filters: BTreeMap::new(),
        by: BTreeMap::new(),
        others: BTreeMap::new(),
        unordered,
        places: BTreeSet::new(),
        merges: BTreeSet::new(),
        partials: BTreeSet::new(),
        by_pass: BTreeMap::new(),
        layouts: RefCell::default(),
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
    cutter.close_all()
}

/// Nodes that several others stand on.
fn met(plan: &IRPlan) -> BTreeSet<usize> {
    let (mut seen, mut met, mut todo) = (BTreeSet::new(), BTreeSet::new(), vec![plan.lp_top]);
    while let Some(node) = todo.pop() {
        match seen.insert(node.0) {
            true => todo.extend(plan.lp_arena.get(node).inputs()),
            false => drop(met.insert(node.0)),
        }
    }
    met
}

/// Frames up to this size travel inside the plan, once for each worker; a larger one is fetched by the tasks, in parts.
const INLINE_FRAME: usize = 1 << 20;

pub(super) struct Cutter {
    pub(super) ir: Arena<IR>,
    pub(super) exprs: Arena<AExpr>,
    pub(super) target: Target,
    pub(super) open: Vec<OpenStage>,
    /// How what stands on these nodes is split, where that is known before its stage is closed.
    pub(super) decided: BTreeMap<usize, Splits>,
    /// Nodes at which a reader may be cut off from a stage.
    pub(super) cuts: BTreeMap<usize, StageId>,
    /// Row-wise nodes whose rows go on in batches of so many.
    pub(super) batches: BTreeMap<usize, usize>,
    /// Why nodes run whole that others like them do not.
    pub(super) whole: BTreeMap<usize, String>,
    /// Nodes that have been lowered: what stands below several caches is met several times.
    lowered: BTreeSet<usize>,
    /// Nodes that several others stand on, and those of them that are worth being kept for them.
    pub(super) met: BTreeSet<usize>,
    shared: BTreeSet<usize>,
    /// Sides of joins that are stages already, because the other side is read by their keys.
    pub(super) early: BTreeMap<usize, StageId>,
    /// Semi joins that only filter, by the keys of these stages.
    pub(super) filters: BTreeMap<usize, StageId>,
    /// Columns by which sections come to the tasks of these nodes' stages, if it is sections that they read.
    pub(super) by: BTreeMap<usize, Vec<PlSmallStr>>,
    /// Unions of the same rows as two stages leave them, of which one is read.
    pub(super) others: BTreeMap<usize, [StageId; 2]>,
    /// Nodes whose order nobody observes.
    unordered: BTreeSet<usize>,
    /// Columns that say where a row belongs, each its own.
    pub(super) places: BTreeSet<PlSmallStr>,
    /// Nodes that put together what each task has made of its own rows: of a key one row of each, in the order of tasks.
    pub(super) merges: BTreeSet<usize>,
    /// Nodes with which each task makes little of its own rows.
    pub(super) partials: BTreeSet<usize>,
    /// Nodes that make of each row by itself what these make of a group, for tasks of which hardly two rows are of one.
    pub(super) by_pass: BTreeMap<usize, Node>,
    /// Files of scans, which are looked into once.
    pub(super) layouts: RefCell<BTreeMap<usize, Rc<[Layout]>>>,
    pub(super) names: Names,
}

pub(super) struct OpenStage {
    pub(super) head: Head,
    pub(super) steps: Vec<OpenStep>,
    /// Rows that what reads it takes of it, from its start.
    pub(super) limit: Option<u64>,
    pub(super) scatter: Option<Scatter>,
    /// What it leaves, as far as can be told.
    pub(super) estimate: Estimate,
}

pub(super) enum Head {
    Node(Node),
    /// A frame that is too large to travel inside a plan.
    Frame(Arc<DataFrame>),
}

pub(super) struct OpenStep {
    pub(super) call: UdfCall,
    pub(super) inputs: Vec<PlSmallStr>,
    pub(super) output: Field,
    /// Root of the row-wise nodes that follow, over the placeholder of this stage, and the placeholder that stands for them.
    pub(super) then: Option<(Node, Node)>,
}

impl Cutter {
    /// Makes every UDF call at or below `node` a step that can be one, and every operator that can be one of several tasks. The
    /// node keeps its index and its schema.
    pub(super) fn lower(&mut self, node: Node) -> Result<(), PlanError> {
        if !self.lowered.insert(node.0) {
            return Ok(());
        }
        self.filter_side(node)?;
        for input in self.ir.get(node).inputs().collect::<Vec<_>>() {
            self.lower(input)?;
        }
        if let IR::DataFrameScan { .. } = self.ir.get(node) {
            self.take_out_frame(node)?;
        }
        if let Some(marker) = Marker::of(self.ir.get(node)) {
            self.take_out(node, marker);
            // Else what one of those who stand on it does would be drawn into the stage below, and the others had it, too.
            if self.shared.contains(&node.0) && !self.stands_on_left(node) {
                self.keep(node);
            }
            return Ok(());
        }
        self.lift_from_scan(node);
        while self.lift_calls(node)? {}
        self.limit(node);
        self.share_out_to_sink(node);
        self.complete_below_object(node);
        let whole = match *self.ir.get(node) {
            // A sort whose keys were lifted stands below the columns that it had.
            IR::SimpleProjection { input, .. } if matches!(self.ir.get(input), IR::Sort { .. }) => input,
            _ => node,
        };
        let is_new = whole == node || self.lowered.insert(whole.0);
        if is_new && !is_row_wise(self.ir.get(whole), &self.exprs) && !self.exchange(whole)? {
            self.gather(whole);
        }
        if self.shared.contains(&node.0) {
            self.keep(node);
        }
        Ok(())
    }

    /// Gives a node that sees all rows at once what it stands on: rows of a stage of several tasks are gathered.
    pub(super) fn gather(&mut self, node: Node) {
        // A sink that each task writes its part of, and the keys of a marker, which ends a stage by itself.
        let splits_itself = input_of_split_sink(self.ir.get(node), &self.exprs).is_some()
            || hash_keys(self.ir.get(node), &self.exprs).is_some();
        let inputs: Vec<_> = self.ir.get(node).inputs().collect();
        let inputs = inputs.into_iter().map(|input| {
            let top = self.draw_in(input);
            match self.splits(top).choices.is_empty() || splits_itself {
                true => top,
                false => self.leave(top, None).1,
            }
        });
        let inputs: Vec<_> = inputs.collect();
        let ir = self.ir.get(node).clone().with_inputs(inputs);
        self.ir.replace(node, ir);
    }

    /// Ends a stage at a node that several others stand on: it runs once.
    fn keep(&mut self, node: Node) {
        let (ir, schema) = (self.ir.get(node).clone(), self.schema(node));
        let copy = self.ir.add(ir);
        self.goes_to(node.0, copy.0);
        let top = self.draw_in(copy);
        let stage = match self.growing_at(top) {
            Some(stage) => stage,
            None => self.open(Head::Node(top)),
        };
        self.ir.replace(node, placeholder(stage, schema));
        self.decided.insert(node.0, Splits::shares(self.target.tasks));
    }

    /// What a node does is done by another: all that is known of how it does it is known of that one.
    fn goes_to(&mut self, from: usize, to: usize) {
        fn moved<T>(known: &mut BTreeMap<usize, T>, from: usize, to: usize) {
            known.remove(&from).into_iter().for_each(|of| _ = known.insert(to, of));
        }
        moved(&mut self.decided, from, to);
        moved(&mut self.batches, from, to);
        moved(&mut self.whole, from, to);
        moved(&mut self.filters, from, to);
        moved(&mut self.by, from, to);
        moved(&mut self.others, from, to);
        moved(&mut self.by_pass, from, to);
        for known in [&mut self.merges, &mut self.partials] {
            if known.remove(&from) {
                known.insert(to);
            }
        }
    }

    /// Ends a stage at a node. What it leaves stands on another: it, and the stage.
    pub(super) fn leave(&mut self, top: Node, scatter: Option<Scatter>) -> (StageId, Node) {
        let stage = match self.growing_at(top) {
            Some(stage) => stage,
            None => self.open(Head::Node(top)),
        };
        self.open[stage.0 as usize].scatter = scatter;
        let left = self.ir.add(placeholder(stage, self.schema(top)));
        self.decided.insert(left.0, Splits::whole("it gathers its input"));
        (stage, left)
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

    pub(super) fn open(&mut self, head: Head) -> StageId {
        let estimate = match &head {
            Head::Node(head) => self.estimate(*head),
            Head::Frame(frame) => Estimate::all(frame.estimated_size() as u64),
        };
        self.open.push(OpenStage { head, steps: Vec::new(), limit: None, scatter: None, estimate });
        StageId(self.open.len() as u32 - 1)
    }

    /// The stage that may still grow at this node: its placeholder, not yet dealt to tasks of another stage.
    pub(super) fn growing_at(&self, node: Node) -> Option<StageId> {
        placeholder_of(self.ir.get(node)).filter(|_| !self.decided.contains_key(&node.0))
    }

    /// Whether row-wise nodes from `top` downwards stand on what a stage has left, which grows no more.
    fn stands_on_left(&self, top: Node) -> bool {
        let base = self.row_wise_base(top);
        placeholder_of(self.ir.get(base)).is_some() && self.growing_at(base).is_none()
    }

    /// The first node from `top` downwards that is not row-wise.
    pub(super) fn row_wise_base(&self, top: Node) -> Node {
        self.base(top, |ir| is_row_wise(ir, &self.exprs))
    }

    /// The first node from `top` downwards of which this does not hold.
    pub(super) fn base(&self, top: Node, holds: impl Fn(&IR) -> bool) -> Node {
        let mut base = top;
        while !self.decided.contains_key(&base.0)
            && holds(self.ir.get(base))
            && let Some(input) = single_input(self.ir.get(base))
        {
            base = input;
        }
        base
    }

    /// How a stage with this head is split.
    pub(super) fn splits(&self, head: Node) -> Splits {
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
    pub(super) fn split_base(&self, base: Node, tasks: usize) -> Splits {
        match self.ir.get(base) {
            IR::DataFrameScan { df, .. } => split_frame(df, tasks),
            scan @ IR::Scan { .. } if placeholder_of(scan).is_none() => split(scan, &self.layouts(base), tasks),
            IR::Scan { .. } => Splits::whole("it gathers its input"),
            node => Splits::whole(self.whole.get(&base.0).cloned().unwrap_or_else(|| {
                let name = match node {
                    IR::HStack { .. } => "with_columns",
                    IR::Select { .. } => "select",
                    IR::GroupBy { .. } => "group_by",
                    node => node.name(),
                };
                format!("{name} sees all rows at once, so it runs whole on one worker")
            })),
        }
    }

    /// Whether somebody may look at the order of a node's rows.
    pub(super) fn is_observed(&self, node: Node) -> bool {
        !self.unordered.contains(&node.0)
    }

    /// The files of a scan.
    pub(super) fn layouts(&self, scan: Node) -> Rc<[Layout]> {
        let mut known = self.layouts.borrow_mut();
        Rc::clone(known.entry(scan.0).or_insert_with(|| layouts(self.ir.get(scan), self.target.tasks).into()))
    }

    pub(super) fn schema(&self, node: Node) -> SchemaRef {
        self.ir.get(node).schema(&self.ir).into_owned()
    }
}

pub(super) fn single_input(ir: &IR) -> Option<Node> {
    let mut inputs = ir.inputs();
    let first = inputs.next()?;
    inputs.next().is_none().then_some(first)
}
