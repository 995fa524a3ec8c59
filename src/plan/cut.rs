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
use polars_plan::plans::{AExpr, ArenaLpIter, IR, IRPlan, IRPlanRef};
use polars_utils::arena::{Arena, Node};

use super::files::Layout;
use super::held::held_by_splits;
use super::marker::{Marker, hash_keys};
use super::names::Names;
use super::rowwise::is_row_wise;
use super::same::{Comparison, Same, one_attempt, ways_of};
use super::scan::{Choice, Splits, layouts, split, split_frame};
use super::sink::{FileSink, input_of_object, input_of_split_sink};
use super::wire::{Fragment, placeholder, placeholder_of};
use super::{OneAttempt, Read, Scatter, Split, Stage, StageProgram, Target, Work};
use crate::error::PlanError;
use crate::sched::{Mode, Small, StageId, Way};
use crate::udf::UdfCall;

/// A plan that has been cut.
pub(super) struct Parts {
    /// All of it, in which stages are roots.
    pub(super) whole: Fragment,
    pub(super) stages: Vec<Stage>,
    /// Whether what the last one leaves has the same rows when it is made again.
    pub(super) stable: bool,
}

pub(super) fn cut(plan: IRPlan, target: Target) -> Result<Parts, PlanError> {
    let schemas: Vec<_> = plan.lp_arena.iter(plan.lp_top).map(|(_, ir)| ir.schema(&plan.lp_arena)).collect();
    let names = Names::beside(schemas.iter().flat_map(|schema| schema.iter_names()));
    drop(schemas);
    let shared = shared(&plan);
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
        shared,
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
    let (mut stages, mut same) = (Vec::new(), Vec::new());
    for (id, stage) in std::mem::take(&mut cutter.open).into_iter().enumerate() {
        let id = StageId(id as u32);
        same.push(cutter.compare(id, &stage, &stages, &same));
        stages.push(cutter.close(id, stage)?);
    }
    for (index, inputs) in one_attempt(&stages, &same).into_iter().enumerate() {
        stages[index].one_attempt = inputs;
    }
    let whole = cutter.whole(&mut stages)?;
    Ok(Parts { whole, stages, stable: same.last().is_none_or(Same::is_stable) })
}

/// Nodes that several others stand on.
fn shared(plan: &IRPlan) -> BTreeSet<usize> {
    let (mut seen, mut shared, mut todo) = (BTreeSet::new(), BTreeSet::new(), vec![plan.lp_top]);
    while let Some(node) = todo.pop() {
        match seen.insert(node.0) {
            true => todo.extend(plan.lp_arena.get(node).inputs()),
            false => drop(shared.insert(node.0)),
        }
    }
    shared
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
    shared: BTreeSet<usize>,
    /// Files of scans, which are looked into once.
    layouts: RefCell<BTreeMap<usize, Rc<[Layout]>>>,
    pub(super) names: Names,
}

pub(super) struct OpenStage {
    pub(super) head: Head,
    pub(super) steps: Vec<OpenStep>,
    /// Rows that what reads it takes of it, from its start.
    pub(super) limit: Option<u64>,
    pub(super) scatter: Option<Scatter>,
    /// Bytes that it leaves, as far as can be told.
    pub(super) bytes: u64,
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
        self.share_out_to_sink(node);
        self.complete_below_object(node);
        if !is_row_wise(self.ir.get(node), &self.exprs) && !self.exchange(node)? {
            self.gather(node);
        }
        self.keep_if_shared(node);
        Ok(())
    }

    /// Gives a node that sees all rows at once what it stands on: rows of a stage of several tasks are gathered.
    fn gather(&mut self, node: Node) {
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
    fn keep_if_shared(&mut self, node: Node) {
        if !self.shared.contains(&node.0) || self.splits(node).choices.is_empty() {
            return;
        }
        let (ir, schema) = (self.ir.get(node).clone(), self.schema(node));
        let copy = self.ir.add(ir);
        if let Some(splits) = self.decided.remove(&node.0) {
            self.decided.insert(copy.0, splits);
        }
        let stage = self.open(Head::Node(copy));
        self.ir.replace(node, placeholder(stage, schema));
        self.decided.insert(node.0, Splits::shares(self.target.tasks));
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

    pub(super) fn open(&mut self, mut head: Head) -> StageId {
        // Polars keeps one of the nodes that are one cache: stages begin at nodes of their own.
        if let Head::Node(input) = head
            && matches!(self.ir.get(input), IR::Cache { .. })
        {
            let columns = self.schema(input);
            head = Head::Node(self.ir.add(IR::SimpleProjection { input, columns }));
        }
        let bytes = match &head {
            Head::Node(head) => self.bytes(*head),
            Head::Frame(frame) => frame.estimated_size() as u64,
        };
        self.open.push(OpenStage { head, steps: Vec::new(), limit: None, scatter: None, bytes });
        StageId(self.open.len() as u32 - 1)
    }

    /// The stage that may still grow at this node: its placeholder, not yet dealt to tasks of another stage.
    pub(super) fn growing_at(&self, node: Node) -> Option<StageId> {
        placeholder_of(self.ir.get(node)).filter(|_| !self.decided.contains_key(&node.0))
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

    /// What two attempts of a task of this stage have in common; `below`: the same of the stages before it.
    fn compare(&self, id: StageId, stage: &OpenStage, closed: &[Stage], below: &[Same]) -> Same {
        let Head::Node(head) = stage.head else { return Same::exactly() };
        let (reads, splits) = (self.reads(head), self.splits(head));
        let modes = self.modes(head, &reads, &splits);
        let ways = |of: StageId| ways_of(&reads, &modes, of);
        let scatters: Vec<_> =
            closed.iter().map(|stage| stage.program().and_then(|program| program.scatter.as_ref())).collect();
        let comparison = Comparison {
            ir: &self.ir,
            exprs: &self.exprs,
            cuts: &self.cuts,
            stages: below,
            scatters: &scatters,
            ways: &ways,
        };
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
        let one_attempt = OneAttempt::default();
        let head = match stage.head {
            Head::Node(head) => head,
            Head::Frame(frame) => {
                let Splits { splits, why, .. } = split_frame(&frame, self.target.tasks);
                let frame = Arc::unwrap_or_clone(frame);
                let (work, reads, modes, describe) = (Work::Frame(frame), Vec::new(), Vec::new(), String::new());
                let (held, branches) = (Vec::new(), BTreeMap::new());
                return Ok(Stage { id, work, reads, modes, one_attempt, splits, branches, held, why, describe });
            }
        };
        let steps = stage.steps.into_iter().map(|step| self.close_step(step)).collect::<Result<Vec<_>, _>>()?;
        let (reads, split) = (self.reads(head), self.splits(head));
        let modes = self.modes(head, &reads, &split);
        let Splits { splits, mut why, .. } = split;
        let nodes = self.nodes(head);
        let unsplit = nodes.iter().filter_map(|node| self.whole.get(&node.0));
        unsplit.for_each(|reason| why.push_str(&format!("; {reason}")));
        let held = held_by_splits(nodes.iter().map(|node| self.ir.get(*node)), &splits);
        let (batches, limit, scatter) = (self.batches_above(head), stage.limit, stage.scatter);
        let root = head.0 as u32;
        let program = StageProgram { root, cuts: Vec::new(), batches, steps, limit, scatter };
        let work = Work::Program(program);
        let branches = self.branches(head, &splits);
        Ok(Stage { id, work, reads, modes, one_attempt, splits, branches, held, why, describe: self.describe(head) })
    }

    /// Which of the frames that a stage with this head yields are made of what it reads.
    fn branches(&self, head: Node, splits: &[Split]) -> BTreeMap<StageId, Vec<usize>> {
        let mut branches = BTreeMap::<_, Vec<_>>::new();
        if let Some(Split::Branch { .. }) = splits.first()
            && let IR::Union { inputs, .. } = self.ir.get(self.row_wise_base(head))
        {
            for (branch, input) in inputs.iter().enumerate() {
                self.reads(*input).iter().for_each(|read| branches.entry(read.from).or_default().push(branch));
            }
        }
        branches
    }

    /// What a stage does, as Polars describes it.
    fn describe(&self, head: Node) -> String {
        let mut ir = self.ir.clone();
        for (cut, stage) in &self.cuts {
            ir.replace(Node(*cut), placeholder(*stage, self.schema(Node(*cut))));
        }
        IRPlanRef { lp_top: head, lp_arena: &ir, expr_arena: &self.exprs }.describe()
    }

    /// Encodes the whole plan. Stages then name its nodes.
    fn whole(&self, stages: &mut [Stage]) -> Result<Fragment, PlanError> {
        let mut named = Vec::new();
        for stage in stages.iter_mut() {
            if let Work::Program(program) = &mut stage.work {
                named.push(&mut program.root);
            }
            named.extend(stage.reads.iter_mut().filter_map(|read| read.cut.as_mut()));
        }
        let roots: Vec<_> = named.iter().map(|node| Node(**node as usize)).collect();
        let (whole, nodes) = Fragment::whole(&roots, &self.ir, &self.exprs, self.target.travels)?;
        named.into_iter().zip(nodes).for_each(|(name, node)| *name = node.0 as u32);
        Ok(whole)
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
            node => Splits::whole(format!("{} sees all rows at once, so it runs whole on one worker", node.name())),
        }
    }

    /// The files of a scan.
    pub(super) fn layouts(&self, scan: Node) -> Rc<[Layout]> {
        let mut known = self.layouts.borrow_mut();
        Rc::clone(known.entry(scan.0).or_insert_with(|| layouts(self.ir.get(scan)).into()))
    }

    /// How a stage may be run that has this head and is split so.
    fn modes(&self, head: Node, reads: &[Read], splits: &Splits) -> Vec<Mode> {
        let mode = |choice: &Choice| {
            let way =
                |read: &Read| choice.ways.iter().find(|(of, _)| *of == read.from).map_or(Way::All, |(_, way)| *way);
            let input = |of: StageId| reads.iter().position(|read| read.from == of);
            let small = choice.small.and_then(|(of, beside)| Some(Small { input: input(of)?, beside }));
            let shared = choice.shared.iter().filter_map(|of| input(*of)).collect();
            Mode { ways: reads.iter().map(way).collect(), by_size: choice.by_size, shared, small }
        };
        if !splits.choices.is_empty() {
            return splits.choices.iter().map(mode).collect();
        }
        let ways = match splits.splits.first() {
            // Each branch as it stands there.
            Some(Split::Branch { .. }) => {
                let nodes = self.nodes(head);
                let at = |read: &Read| nodes.iter().find(|node| placeholder_of(self.ir.get(**node)) == Some(read.from));
                let decided = |read: &Read| self.decided.get(&at(read)?.0)?.splits.first().map(Split::way);
                reads.iter().map(|read| decided(read).unwrap_or(Way::All)).collect()
            }
            split => vec![split.map_or(Way::All, Split::way); reads.len()],
        };
        vec![Mode { ways, by_size: false, shared: Vec::new(), small: None }]
    }

    /// What a stage with this head reads of others, each once, and where it may be cut off.
    fn reads(&self, head: Node) -> Vec<Read> {
        let reads = self.nodes(head).into_iter().filter_map(|node| match self.cuts.get(&node.0) {
            Some(from) => Some((*from, Some(node.0 as u32))),
            None => Some((placeholder_of(self.ir.get(node))?, None)),
        });
        let reads: BTreeMap<_, _> = reads.collect();
        reads.into_iter().map(|(from, cut)| Read { from, cut }).collect()
    }

    /// The nodes of a stage with this head.
    fn nodes(&self, head: Node) -> Vec<Node> {
        let (mut seen, mut nodes, mut todo) = (BTreeSet::new(), Vec::new(), vec![head]);
        while let Some(node) = todo.pop() {
            if seen.insert(node.0) {
                nodes.push(node);
                if !self.cuts.contains_key(&node.0) {
                    todo.extend(self.ir.get(node).inputs());
                }
            }
        }
        nodes
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
