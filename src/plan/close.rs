//! What has been cut is closed: each stage with its program, the ways in which it may read others, and what two attempts of it
//! have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polars::prelude::DataFrame;
use polars_plan::plans::{IR, IRPlanRef, is_scalar_ae};
use polars_utils::arena::Node;

use super::cut::{Cutter, Head, OpenStage, Parts};
use super::held::held_by_splits;
use super::lift::{calls_any, has_udf};
use super::same::{Comparison, Same, one_attempt, ways_of};
use super::scan::{Choice, Splits, split_frame};
use super::wire::{Fragment, placeholder, placeholder_of};
use super::{ByPass, OneAttempt, Read, Scatter, Split, Stage, StageProgram, Without, Work};
use crate::error::PlanError;
use crate::sched::{Fits, Holds, Mode, Small, StageId, Way};

impl Cutter {
    /// Closes all stages, in their order.
    pub(super) fn close_all(mut self) -> Result<Parts, PlanError> {
        let (mut stages, mut same) = (Vec::new(), Vec::new());
        let open = std::mem::take(&mut self.open);
        let single: Vec<_> = open.iter().map(|stage| self.leaves_one_row(stage)).collect();
        for (id, stage) in open.into_iter().enumerate() {
            let (id, modes) = (StageId(id as u32), self.modes_of(&stage));
            let alike = |modes: &[Mode]| self.compare(id, &stage, modes, &stages, &same, &single);
            let in_any = alike(&modes);
            let stable: Vec<_> = modes.iter().map(|mode| alike(std::slice::from_ref(mode)).is_stable()).collect();
            let mut closed = self.close(id, stage)?;
            for (mode, stable) in closed.modes.iter_mut().zip(stable) {
                mode.stable = stable;
                mode.by_hash = self.is_by_hash(mode, &closed.reads, &stages);
            }
            same.push(in_any);
            stages.push(closed);
        }
        for (index, inputs) in one_attempt(&stages, &same).into_iter().enumerate() {
            stages[index].one_attempt = inputs;
        }
        let whole = self.whole(&mut stages)?;
        Ok(Parts { whole, stages, stable: same.last().is_none_or(Same::is_stable) })
    }

    /// Whether a stage has one task, which aggregates all rows.
    fn leaves_one_row(&self, stage: &OpenStage) -> bool {
        let Head::Node(head) = stage.head else { return false };
        let splits = self.splits(head);
        let IR::Select { expr, .. } = self.ir.get(head) else { return false };
        splits.splits.len() == 1
            && splits.choices.is_empty()
            && expr.iter().all(|e| is_scalar_ae(e.node(), &self.exprs))
    }

    /// What two attempts of a task of this stage have in common, in any of these modes; `below`: the same of the stages before it.
    fn compare(
        &self,
        id: StageId,
        stage: &OpenStage,
        modes: &[Mode],
        closed: &[Stage],
        below: &[Same],
        single: &[bool],
    ) -> Same {
        let Head::Node(head) = stage.head else { return Same::exactly() };
        let reads = self.reads(head);
        let ways = |of: StageId| ways_of(&reads, modes, of);
        let scatters: Vec<_> =
            closed.iter().map(|stage| stage.program().and_then(|program| program.scatter.as_ref())).collect();
        let comparison = Comparison {
            ir: &self.ir,
            exprs: &self.exprs,
            cuts: &self.cuts,
            stages: below,
            scatters: &scatters,
            single,
            others: &self.others,
            places: &self.places,
            merges: &self.merges,
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
        let head = match stage.head {
            Head::Node(head) => head,
            Head::Frame(frame) => return Ok(of_frame(id, frame, self.target.tasks)),
        };
        let steps = stage.steps.into_iter().map(|step| self.close_step(step)).collect::<Result<Vec<_>, _>>()?;
        let (reads, split) = (self.reads(head), self.splits(head));
        let modes = self.modes(head, &reads, &split);
        let Splits { splits, mut why, .. } = split;
        let nodes = self.nodes(head);
        let first = why.clone();
        let unsplit = nodes.iter().filter_map(|node| self.whole.get(&node.0)).filter(|reason| **reason != first);
        unsplit.for_each(|reason| why.push_str(&format!("; {reason}")));
        let held = held_by_splits(nodes.iter().map(|node| self.ir.get(*node)), &splits);
        let (batches, limit, scatter) = (self.batches_above(head), stage.limit, stage.scatter);
        let computes_keys = scatter.as_ref().is_some_and(|scatter| scatter.computed.is_some());
        let may_run_twice = steps.is_empty()
            && !(computes_keys && calls_any(&self.exprs))
            && nodes.iter().all(|node| self.may_run_twice(self.ir.get(*node)));
        let (root, holds, grouped) = (head.0 as u32, self.holds(&nodes), self.grouped(&nodes));
        let by_pass = self.by_pass.get(&head.0).filter(|_| steps.is_empty() && self.target.travels);
        let by_pass = by_pass.map(|node| ByPass { root: node.0 as u32, forced: false });
        let program = StageProgram {
            root,
            by_pass,
            cuts: Vec::new(),
            without: Vec::new(),
            batches,
            steps,
            limit,
            scatter,
            finer: Vec::new(),
        };
        let work = Work::Program(program);
        let branches = self.branches(head, &splits);
        let describe = self.describe(head);
        Ok(Stage {
            id,
            work,
            reads,
            modes,
            one_attempt: OneAttempt::default(),
            splits,
            branches,
            held,
            holds,
            grouped,
            may_run_twice,
            why,
            describe,
        })
    }

    /// Whether all sections that are read in this mode are there by hashes, which can be computed again.
    fn is_by_hash(&self, mode: &Mode, reads: &[Read], closed: &[Stage]) -> bool {
        let mut in_sections = reads.iter().zip(&mode.ways).filter(|(_, way)| **way == Way::Sections);
        let scatter = |read: &Read| closed.get(read.from.0 as usize)?.program()?.scatter.as_ref();
        // A UDF need not give the same twice.
        let is_known = |by: &Scatter| by.ranges_of.is_none() && (by.computed.is_none() || !calls_any(&self.exprs));
        in_sections.all(|(read, _)| scatter(read).is_some_and(is_known))
    }

    /// Whether nobody notices that a node's work is done twice at once: it calls no UDF and writes no file.
    fn may_run_twice(&self, ir: &IR) -> bool {
        let writes = matches!(ir, IR::Sink { .. } | IR::SinkMultiple { .. });
        !writes && !ir.exprs().any(|expr| has_udf(expr.node(), &self.exprs))
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
                named.extend(program.by_pass.as_mut().map(|by_pass| &mut by_pass.root));
            }
            for read in &mut stage.reads {
                named.extend(&mut read.cut);
                named.extend(read.without.as_mut().map(|without| &mut without.node));
            }
        }
        let roots: Vec<_> = named.iter().map(|node| Node(**node as usize)).collect();
        let (whole, nodes) = Fragment::whole(&roots, &self.ir, &self.exprs, self.target.travels)?;
        named.into_iter().zip(nodes).for_each(|(name, node)| *name = node.0 as u32);
        Ok(whole)
    }

    /// How a stage may be run.
    fn modes_of(&self, stage: &OpenStage) -> Vec<Mode> {
        match stage.head {
            Head::Node(head) => self.modes(head, &self.reads(head), &self.splits(head)),
            Head::Frame(_) => Vec::new(),
        }
    }

    /// How a stage may be run that has this head and is split so.
    fn modes(&self, head: Node, reads: &[Read], splits: &Splits) -> Vec<Mode> {
        let mode = |choice: &Choice| {
            let way =
                |read: &Read| choice.ways.iter().find(|(of, _)| *of == read.from).map_or(Way::All, |(_, way)| *way);
            let input = |of: StageId| reads.iter().position(|read| read.from == of);
            let when = match &choice.when {
                Fits::Small(Small { input: of, beside }) => {
                    input(*of).map_or(Fits::Always, |input| Fits::Small(Small { input, beside: *beside }))
                }
                Fits::Few(of, bytes) => input(*of).map_or(Fits::Always, |input| Fits::Few(input, *bytes)),
                Fits::Together(by) => Fits::Together(by.clone()),
                Fits::Always => Fits::Always,
            };
            let shared = choice.shared.iter().filter_map(|of| input(*of)).collect();
            Mode {
                ways: reads.iter().map(way).collect(),
                by_size: choice.by_size,
                by_hash: false,
                shared,
                when,
                stable: false,
            }
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
        vec![Mode { ways, by_size: false, by_hash: false, shared: Vec::new(), when: Fits::Always, stable: false }]
    }

    /// What a stage with this head reads of others, each once, and where it may be cut off.
    fn reads(&self, head: Node) -> Vec<Read> {
        let nodes = self.nodes(head);
        let reads = nodes.iter().filter_map(|node| match self.cuts.get(&node.0) {
            Some(from) => Some((*from, Some(node.0 as u32))),
            None => Some((placeholder_of(self.ir.get(*node))?, None)),
        });
        let reads: BTreeMap<_, _> = reads.collect();
        let without = |from: StageId| {
            nodes.iter().find_map(|node| {
                let other = |others: &[StageId; 2]| others.iter().position(|of| *of == from).map(|of| 1 - of as u32);
                let input = match self.filters.get(&node.0) {
                    Some(by) => (*by == from).then_some(0),
                    None => self.others.get(&node.0).and_then(other),
                };
                input.map(|input| Without { node: node.0 as u32, input })
            })
        };
        reads.into_iter().map(|(from, cut)| Read { from, cut, without: without(from) }).collect()
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
}

/// The rows of a frame that are dealt to tasks, which do nothing else.
fn of_frame(id: StageId, frame: Arc<DataFrame>, tasks: usize) -> Stage {
    let Splits { splits, why, .. } = split_frame(&frame, tasks);
    Stage {
        id,
        work: Work::Frame(Arc::unwrap_or_clone(frame)),
        reads: Vec::new(),
        modes: Vec::new(),
        one_attempt: OneAttempt::default(),
        splits,
        branches: BTreeMap::new(),
        held: Vec::new(),
        holds: Holds::Nothing,
        grouped: 0,
        may_run_twice: false,
        why,
        describe: String::new(),
    }
}
