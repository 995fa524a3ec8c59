//! A `LazyFrame` becomes stages. Pure: no actor, no socket, no clock; the only home of IR rewriting.
//!
//! Polars optimises the query once. The optimised IR is walked from its leaves: UDF calls are lifted out of expressions
//! and made steps, the row-wise nodes around them are fused, and what is above becomes a stage that gathers. What the
//! planner cannot split runs whole on one worker, and [`explain`](QueryPlan::explain) says why.

mod aggregate;
mod borders;
mod close;
mod common;
mod cut;
mod deal;
mod distinct;
mod estimate;
mod exchange;
mod explain;
mod files;
mod filters;
mod grow;
mod held;
mod holds;
mod join;
mod label;
mod lift;
mod marker;
mod names;
mod neighbours;
mod order;
mod place;
mod placed;
mod ranges;
mod rowwise;
mod running;
mod same;
mod scalars;
mod scan;
mod share;
mod sink;
mod text;
mod together;
mod whole;
mod windows;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::*;
use polars_plan::dsl::{DslPlan, ScanSources};
use polars_plan::plans::IRPlan;
use regatta_remote::MAX_MESSAGE;
use serde::{Deserialize, Serialize};

pub(crate) use held::{held_by, held_in, scan_held};
pub(crate) use lift::udf_calls;
pub(crate) use marker::{Marker, beside_columns};
pub(crate) use place::Place;
pub(crate) use share::{Deal, Own, Rows, share};
pub(crate) use sink::{FileSink, STAGED};
pub(crate) use text::{End, read_lines};
pub(crate) use wire::{Fragment, cut_off, placeholder_of};

use crate::blob;
use crate::error::{PlanError, PolarsFailure};
use crate::sched::{
    Fits, Holds, MAX_SECTIONS, MOST_PARTS, Mode, Part, QueryId, Reader, Shape, Small, StageId, Tasks, Way,
};
use crate::udf::PoolOptions;

/// A query, cut into stages; the last one yields the result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct QueryPlan {
    /// All of it, in which stages are roots.
    pub(crate) whole: Fragment,
    /// How many sections tasks leave their rows in where others read them by keys.
    pub(crate) sections: u32,
    pub(crate) stages: Vec<Stage>,
    pub(crate) schema: SchemaRef,
    /// The result, made again, has the same rows.
    pub(crate) stable: bool,
    /// Where it writes its result, if it does.
    pub(crate) sink: Option<FileSink>,
    /// It ends in a sink, of whatever kind.
    pub(crate) has_sink: bool,
    /// It is analysed: what each node of the engine does is wanted.
    pub(crate) metered: bool,
}

/// A part of the plan whose output is partitions, one for each of its splits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) id: StageId,
    pub(crate) work: Work,
    /// What its tasks read of other stages.
    pub(crate) reads: Vec<Read>,
    /// How they may read it: the first mode that fits is taken when it is known.
    pub(crate) modes: Vec<Mode>,
    /// Those of them that all its tasks must read one attempt of: made again, they may be other rows.
    pub(crate) one_attempt: OneAttempt,
    /// One task each; none where that is decided with the mode.
    pub(crate) splits: Vec<Split>,
    /// Where each task yields one of several frames: those that are made of what it reads.
    pub(crate) branches: BTreeMap<StageId, Vec<usize>>,
    /// The persisted partitions that each task reads, in the order of the splits; empty if none does.
    pub(crate) held: Vec<Vec<(QueryId, usize)>>,
    /// What its tasks hold in memory of what they read.
    pub(crate) holds: Holds,
    /// And bytes that come to what makes groups of each task's own rows, in all of them: a guess.
    pub(crate) grouped: u64,
    /// Nobody notices if one of its tasks runs twice at once: it calls no UDF and writes no file.
    pub(crate) may_run_twice: bool,
    /// Why it has these tasks, for people.
    pub(crate) why: String,
    /// The fragment as Polars describes it, for people.
    pub(crate) describe: String,
}

/// An edge from a stage to another, which reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) from: StageId,
    /// The node at which the reader is cut off, if it is, by its number in the whole plan. Else a placeholder is in the plan.
    pub(crate) cut: Option<u32>,
    /// The node that does without what is read where some mode does not read it.
    pub(crate) without: Option<Without>,
}

/// A node that some mode does without: one that only filters by what is read, or that takes its rows from the one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Without {
    /// The node, by its number in the whole plan.
    pub(crate) node: u32,
    /// It hands on this input then.
    pub(crate) input: u32,
}

/// What all tasks of a stage must read one attempt of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OneAttempt {
    pub(crate) inputs: Vec<StageId>,
    /// Other stages read one of these too, or what is made of it: then what was made of an earlier attempt is of no use.
    pub(crate) with_others: bool,
}

/// What a stage takes to be done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Each task runs this.
    Program(StageProgram),
    /// Nothing: its rows are a frame of the driver, too large to travel inside a plan.
    Frame(DataFrame),
}

impl Stage {
    pub(crate) fn program(&self) -> Option<&StageProgram> {
        match &self.work {
            Work::Program(program) => Some(program),
            Work::Frame(_) => None,
        }
    }

    pub(crate) fn steps(&self) -> &[UdfStep] {
        self.program().map_or(&[], |program| &program.steps)
    }

    /// How many tasks it has; `None`: in some mode as many as what it reads is worth, or as what it takes in has.
    fn tasks(&self) -> Option<usize> {
        let others = |mode: &Mode| mode.by_size || mode.ways.contains(&Way::Along);
        (!self.modes.iter().any(others)).then_some(self.splits.len())
    }
}

/// A fragment, then UDF steps, each with the row-wise work up to the next: what travels to workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StageProgram {
    /// The node that yields its rows, by its number in the whole plan.
    pub(crate) root: u32,
    /// Another that yields as good ones, where it makes hardly fewer of many.
    pub(crate) by_pass: Option<ByPass>,
    /// Nodes at which it is cut off, and the stages that are read in their place.
    pub(crate) cuts: Vec<(u32, StageId)>,
    /// Nodes that hand on one of their inputs.
    pub(crate) without: Vec<Without>,
    /// Rows of the batches that the fragment hands on, if that was asked for.
    pub(crate) batches: Option<usize>,
    pub(crate) steps: Vec<UdfStep>,
    /// Rows that a task leaves at most.
    pub(crate) limit: Option<u64>,
    /// What a task leaves is in several sections, if this is said.
    pub(crate) scatter: Option<Scatter>,
    /// How what is read of sections was scattered, where tasks read parts of them.
    pub(crate) finer: Vec<(StageId, Scatter)>,
}

/// Tasks may pass their rows by what would make fewer of them, each by itself in the same form: what reads them cannot tell.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ByPass {
    /// The node that yields them, by its number in the whole plan.
    pub(crate) root: u32,
    /// Each second task does, and each second attempt of one, whatever they make of their rows.
    pub(crate) forced: bool,
}

/// Rows go to sections by the hash of their keys, or by the number that their key is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scatter {
    /// The columns that their keys are, or are computed of.
    pub(crate) keys: Vec<String>,
    /// How they are computed of a batch, if they are not columns.
    pub(crate) computed: Option<Fragment>,
    /// How many sections there are.
    pub(crate) into: usize,
    /// Their one key is the number of their section already, which is a range of these, as people call them.
    pub(crate) ranges_of: Option<String>,
}

/// One UDF call per row of a stage, and what follows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UdfStep {
    pub(crate) udf: String,
    #[serde(with = "blob")]
    pub(crate) arguments: Vec<u8>,
    pub(crate) options: PoolOptions,
    /// Columns of the batch that are handed to the UDF, in order.
    pub(crate) inputs: Vec<String>,
    /// Name and dtype of the column that it adds.
    pub(crate) output: (String, DataType),
    /// Row-wise work on the batch with that column; `None` if there is none.
    pub(crate) then: Option<Fragment>,
    /// Rows of the batches that go on from there, if that was asked for.
    pub(crate) batches: Option<usize>,
}

/// A task's part of what its stage reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Split {
    /// All of it.
    Whole,
    /// Whole files, by their index in the scan. For a row index: how many rows the files before them have.
    Files { files: Vec<usize>, rows_before: usize },
    /// Some rows of one file; likewise.
    Rows { file: usize, offset: usize, len: usize, rows_before: usize },
    /// Some lines of one file of text.
    Lines { file: usize, from: End, to: End },
    /// Some rows of the frame that is in the plan.
    Slice { offset: usize, len: usize },
    /// The `part`-th of `of` equal shares of the rows that the stage below left.
    Share { part: usize, of: usize, deal: Deal },
    /// Adjacent sections, of those that each task of the stages below has scattered its rows to; or one part of each.
    Sections { from: u32, to: u32, part: Option<Part> },
    /// Of several frames one below the other, this one, or a part of it.
    Branch { input: usize, split: Box<Self> },
}

impl Split {
    /// Whether a task with this split sees rows that are another's own.
    fn reaches_over(&self) -> bool {
        match self {
            Self::Share { deal, .. } => deal.before > 0 || deal.after > 0,
            Self::Branch { split, .. } => split.reaches_over(),
            _ => false,
        }
    }

    /// Whether what a task reads is of this slice only.
    pub(crate) fn has_slice(&self, offset: i64, len: IdxSize) -> bool {
        matches!(self, Self::Share { deal, .. } if deal.slice == Some((offset, u64::from(len))))
    }

    /// How a task with this split reads what other stages leave.
    fn way(&self) -> Way {
        match self {
            Self::Share { .. } => Way::Share,
            Self::Sections { .. } => Way::Sections,
            _ => Way::All,
        }
    }
}

/// Where a plan will run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Tasks that a stage is split into, if it can be; 1 leaves a scan whole.
    pub(crate) tasks: usize,
    /// Fragments leave this process, so everything in them must be able to.
    pub(crate) travels: bool,
    /// Calls in flight of an async UDF, per replica, where its pool does not say.
    pub(crate) in_flight: usize,
}

/// Plans a query.
///
/// Blocks, and Polars may use `block_in_place`: call it on a plain thread.
///
/// # Errors
/// What Polars' optimiser refuses, UDF options that make no sense, closures that cannot travel, and plans too large to.
pub(crate) fn plan(query: LazyFrame, target: Target) -> Result<QueryPlan, PlanError> {
    // Why it cannot be converted is said by the optimiser.
    let is_whole = !target.travels && query.clone().to_alp().is_ok_and(|plan| whole::is_whole(&plan));
    // Hive rewrites would cross the cuts (reference: polars.md §4.5).
    let across = if is_whole { OptFlags::empty() } else { OptFlags::PARTITION_HIVE };
    let (mut optimised, mut unordered) = optimise(query.clone(), across)?;
    if !is_whole && common::has_useless(&optimised) {
        (optimised, unordered) = optimise(query, across | OptFlags::COMM_SUBPLAN_ELIM)?;
    }
    if target.travels {
        scan::make_absolute(&mut optimised).map_err(PlanError::polars)?;
    }
    let root = optimised.lp_arena.get(optimised.lp_top);
    let (sink, has_sink) = (FileSink::of(root), sink::is_sink(root));
    sink::refuse_many_objects(root)?;
    let schema = if sink.is_some() { FileSink::schema() } else { root.schema(&optimised.lp_arena).into_owned() };
    let cut::Parts { whole, stages, stable } = match is_whole {
        true => whole::parts(optimised),
        false => cut::cut(optimised, unordered, target)?,
    };
    let steps = stages.iter().filter_map(Stage::program).map(StageProgram::size);
    let size = whole.size() + steps.sum::<usize>();
    if size > MAX_PLAN {
        return Err(PlanError::TooLarge { size, max: MAX_PLAN });
    }
    Ok(QueryPlan { whole, sections: target.sections(), stages, schema, stable, sink, has_sink, metered: false })
}

/// Bytes of a plan that travels, with room for what goes with it in a message.
const MAX_PLAN: usize = MAX_MESSAGE - (1 << 20);

impl UdfStep {
    /// Its UDF, for people.
    fn describe(&self) -> String {
        #[cfg(feature = "gpu")]
        return crate::gpu::describe(&self.udf, &self.arguments);
        #[cfg(not(feature = "gpu"))]
        return self.udf.clone();
    }
}

impl Scatter {
    /// By the hash of these columns, or of what is computed of them.
    fn by_hash(keys: Vec<String>, computed: Option<Fragment>, into: usize) -> Self {
        Self { keys, computed, into, ranges_of: None }
    }
}

impl StageProgram {
    /// Bytes that it takes to send it, beside the whole plan.
    fn size(&self) -> usize {
        let steps = self.steps.iter();
        let steps = steps.map(|step| step.arguments.len() + step.then.as_ref().map_or(0, Fragment::size));
        let keys = self.scatter.as_ref().and_then(|scatter| scatter.computed.as_ref());
        steps.sum::<usize>() + keys.map_or(0, Fragment::size)
    }
}

/// The plan that is run, and the nodes whose order nobody observes.
fn optimise(query: LazyFrame, without: OptFlags) -> Result<(IRPlan, BTreeSet<usize>), PlanError> {
    // Without STREAMING the optimiser makes nodes that the streaming engine cannot lower.
    let asked = query.get_current_optimizations();
    let flags =
        (asked | OptFlags::STREAMING) - (OptFlags::GPU | OptFlags::EAGER | OptFlags::CHECK_ORDER_OBSERVE) - without;
    let files = files(&query.logical_plan);
    let optimised = query.with_optimizations(flags).to_alp_optimized();
    let mut plan = optimised.map_err(|e| PlanError::Polars(PolarsFailure::from(e).reading(&files)))?;
    let unordered = match asked.contains(OptFlags::CHECK_ORDER_OBSERVE) {
        true => order::drop_unobserved(&mut plan),
        false => BTreeSet::new(),
    };
    sink::make_absolute(&mut plan).map_err(PlanError::polars)?;
    Ok((plan, unordered))
}

/// What a query reads, as its author named it.
fn files(query: &DslPlan) -> Vec<String> {
    let scans = query.into_iter().filter_map(|node| match node {
        DslPlan::Scan { sources: ScanSources::Paths(paths), .. } => Some(paths.iter().map(ToString::to_string)),
        _ => None,
    });
    scans.flatten().collect()
}

impl Target {
    /// Sections, where rows are scattered by keys: enough for any number of readers that pays.
    fn sections(&self) -> u32 {
        u32::try_from(self.tasks).unwrap_or(MAX_SECTIONS).saturating_mul(4).clamp(16, MAX_SECTIONS)
    }
}

impl QueryPlan {
    /// The stage that yields the result.
    pub(crate) fn last(&self) -> Option<&Stage> {
        self.stages.last()
    }

    fn stage(&self, id: StageId) -> Option<&Stage> {
        self.stages.get(id.0 as usize)
    }

    /// How many partitions the result has at most.
    pub(crate) fn widest(&self) -> usize {
        let tasks = self.stages.iter().map(|stage| stage.splits.len());
        // Each of which may be cut.
        tasks.max().unwrap_or_default().max((MOST_PARTS * self.sections) as usize)
    }

    /// What tasks of a stage run that has this shape.
    pub(crate) fn program(&self, id: StageId, shape: &Shape, is_forced: bool) -> Option<StageProgram> {
        let mut program = self.stage(id)?.program()?.clone();
        program.by_pass.iter_mut().for_each(|by_pass| by_pass.forced = is_forced);
        for (id, mode) in &shape.chain {
            let stage = self.stage(*id)?;
            let ways = stage.modes.get(*mode).map_or(&[][..], |mode| &mode.ways);
            for (read, way) in stage.reads.iter().zip(ways) {
                match way {
                    Way::Along => (),
                    Way::Without => program.without.extend(read.without),
                    Way::Share | Way::Sections | Way::All => {
                        program.cuts.extend(Some(read.from).zip(read.cut).map(|(from, cut)| (cut, from)))
                    }
                }
            }
        }
        if shape.tasks.have_parts() {
            let in_sections = shape.reads.iter().filter(|(_, way)| *way == Way::Sections);
            let scatter = |id: StageId| Some((id, self.stage(id)?.program()?.scatter.clone()?));
            program.finer = in_sections.filter_map(|(id, _)| scatter(*id)).collect();
        }
        Some(program)
    }

    /// What one task of a stage that has this shape gets.
    pub(crate) fn split(&self, shape: &Shape, task: usize) -> Option<Split> {
        match &shape.tasks {
            Tasks::Splits(id, _) => self.stage(*id)?.splits.get(task).cloned(),
            Tasks::Sections(readers) => {
                let Reader { sections, part, .. } = readers.get(task)?;
                Some(Split::Sections { from: sections.start, to: sections.end, part: *part })
            }
        }
    }

    /// What a task of a stage that has this shape, with this split, reads of others.
    pub(crate) fn reads<'a>(&'a self, shape: &'a Shape, split: &'a Split) -> impl Iterator<Item = (StageId, Way)> + 'a {
        let of = match (&shape.tasks, split) {
            (Tasks::Splits(id, _), Split::Branch { input, .. }) => {
                self.stage(*id).map(|stage| (&stage.branches, input))
            }
            _ => None,
        };
        let is_read = move |(id, _): &(StageId, Way)| {
            of.is_none_or(|(branches, input)| branches.get(id).is_none_or(|of| of.contains(input)))
        };
        shape.reads.iter().copied().filter(is_read)
    }

    /// Whether stages read what comes before them, and know how; and whether all of it is bounded.
    pub(crate) fn is_sound(&self) -> bool {
        let mut readers = vec![0; self.stages.len()];
        self.stages.iter().flat_map(|stage| &stage.reads).for_each(|read| {
            readers.get_mut(read.from.0 as usize).into_iter().for_each(|readers| *readers += 1);
        });
        let sound = |(index, stage): (usize, &Stage)| {
            stage.id.0 as usize == index
                && stage.reads.iter().all(|read| (read.from.0 as usize) < index)
                && self.has_sound_modes(stage, &readers)
        };
        self.sections <= MAX_SECTIONS && self.stages.iter().enumerate().all(sound)
    }

    fn has_sound_modes(&self, stage: &Stage, readers: &[usize]) -> bool {
        let Some(last) = stage.modes.last() else { return stage.program().is_none() && !stage.splits.is_empty() };
        let mut taken: Vec<usize> = stage.modes.iter().filter_map(Mode::takes_in).collect();
        taken.dedup();
        let sound = |mode: &Mode| {
            // Its tasks are those of its splits, or of what it takes in, or as many as its sections are worth.
            let has_tasks = mode.by_size || mode.takes_in().is_some() || !stage.splits.is_empty();
            let once = mode.ways.iter().filter(|way| **way == Way::Along).count() <= 1;
            // What waits for its reader must not be what its reader waits for.
            let when = match &mode.when {
                Fits::Always => true,
                Fits::Small(Small { input, .. }) | Fits::Few(input, _) => {
                    *input < stage.reads.len() && !taken.contains(input)
                }
                Fits::Together(_) => mode.takes_in().is_some(),
            };
            let without = |(read, way): (&Read, &Way)| *way != Way::Without || read.without.is_some();
            let without = stage.reads.iter().zip(&mode.ways).all(without);
            mode.ways.len() == stage.reads.len() && has_tasks && once && when && without
        };
        // Who takes in a stage must be its only reader, and the stage nothing but its fragment.
        let may_be_taken = |input: &usize| {
            let from = stage.reads.get(*input).map(|read| read.from);
            let program = from.and_then(|from| self.stage(from)).and_then(Stage::program);
            from.is_some_and(|from| readers.get(from.0 as usize) == Some(&1))
                && program.is_some_and(|program| program.steps.is_empty() && program.limit.is_none())
        };
        let ends = last.when == Fits::Always;
        taken.len() <= 1 && taken.iter().all(may_be_taken) && ends && stage.modes.iter().all(sound)
    }
}

#[cfg(test)]
mod tests;
