//! A stage's program, decoded once per worker and shared by its tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use polars::prelude::*;
use polars_plan::plans::{ArenaLpIter, IR, IRPlan};
use polars_utils::arena::Node;

use super::{amend, in_memory};
use crate::error::{PolarsFailure, TaskFailure};
use crate::plan::{
    ByPass, FileSink, Place, Scatter, Split, StageProgram, UdfStep, cut_off, held_by, placeholder_of, udf_calls,
};
use crate::sched::{Attempt, QueryId, StageId};
use crate::store::Form;
use crate::udf::{CallingTask, UdfCall, batch_of};

/// What every task of a stage runs.
pub(crate) struct Program {
    pub(super) fragment: Arc<IRPlan>,
    /// UDF calls in the fragment, which Polars will make itself.
    pub(super) calls: Calls,
    /// Where it is asked which task this is.
    pub(super) places: Vec<Node>,
    pub(super) batches: Option<usize>,
    pub(super) steps: Vec<Step>,
    /// Rows that a task leaves at most.
    pub(super) limit: Option<u64>,
    pub(super) scatter: Option<Scattering>,
    /// What its tasks leave.
    pub(super) form: Arc<Form>,
    /// What they read of what other tasks have left.
    pub(super) reads: Vec<Read>,
    /// Its tasks write files instead of rows.
    pub(super) sink: Option<FileSink>,
    /// They say what each node of the engine did.
    pub(super) metered: bool,
    /// What tasks run in its place where it makes hardly fewer rows of many.
    by_pass: Option<Passing>,
}

/// What yields rows that are as good, and whether that pays.
struct Passing {
    program: Arc<Program>,
    forced: bool,
    shrinks: Shrinks,
}

/// Rows that went into what should make fewer of them, and that came of it, in tasks of this worker. Each decides by itself: those who
/// read what they leave cannot tell.
#[derive(Debug, Default)]
pub(super) struct Shrinks(Mutex<(u64, u64)>);

impl Shrinks {
    /// So many rows tell.
    const ENOUGH: u64 = 1 << 17;

    pub(super) fn note(&self, before: u64, after: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all = (all.0.saturating_add(before), all.1.saturating_add(after));
    }

    /// Whether less than a quarter of the rows is saved.
    fn hardly(&self) -> bool {
        let (before, after) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        before >= Self::ENOUGH && after / 3 >= before / 4
    }
}

/// A node that stands for what other tasks have left.
pub(crate) struct Read {
    pub(super) at: Node,
    pub(crate) of: Of,
    pub(crate) form: Arc<Form>,
    /// How its rows were scattered, if tasks read parts of its sections.
    pub(super) finer: Option<Scattering>,
    /// Several nodes read it.
    pub(super) shared: bool,
    /// The frames below a union that are made of it, if the union is of such.
    branches: Vec<usize>,
}

/// Whose rows a task reads.
pub(crate) enum Of {
    /// Those of a stage below.
    Stage(StageId),
    /// Persisted ones: a query's partitions, by number, of which each task reads those of its split.
    Held(Vec<(QueryId, usize)>),
}

/// UDF calls in a plan, which Polars will make itself.
type Calls = Vec<(Node, UdfCall)>;

/// How rows go to sections.
#[derive(Clone)]
pub(super) struct Scattering {
    pub(super) by: Scatter,
    /// What computes the keys of a batch, if they are not columns; and the UDF calls in it.
    pub(super) computed: Option<(Arc<IRPlan>, Calls)>,
}

pub(super) struct Step {
    pub(super) spec: UdfStep,
    pub(super) then: Option<Arc<IRPlan>>,
    pub(super) calls: Calls,
}

impl Program {
    /// Decodes a program, a part of the whole plan. `compress`: what its tasks leave is read on other machines.
    ///
    /// # Errors
    /// The plan was made by another build, or calls a UDF that this one lacks.
    pub(crate) fn open(
        whole: &IRPlan,
        program: StageProgram,
        metered: bool,
        compress: bool,
    ) -> Result<Self, PolarsFailure> {
        let by_pass = program.by_pass.map(|ByPass { root, forced }| {
            let program = StageProgram { root, by_pass: None, ..program.clone() };
            let program = Arc::new(Self::open(whole, program, metered, compress)?);
            Ok::<_, PolarsFailure>(Passing { program, forced, shrinks: Shrinks::default() })
        });
        let by_pass = by_pass.transpose()?;
        let fragment = Arc::new(cut_off(whole, program.root, &program.cuts, &program.without)?);
        let sink = FileSink::of(fragment.lp_arena.get(fragment.lp_top));
        let mut schema = if sink.is_some() { FileSink::listing() } else { in_memory::schema(&fragment) };
        let mut steps = Vec::with_capacity(program.steps.len());
        for spec in program.steps {
            let then = spec.then.as_ref().map(|then| then.open()).transpose()?;
            let then = then.map(|then| Arc::new(amend::rewritten_for_memory(&then)));
            schema = match &then {
                Some(then) => in_memory::schema(then),
                None => {
                    let mut widened = schema.as_ref().clone();
                    widened.insert(spec.output.0.as_str().into(), spec.output.1.clone());
                    Arc::new(widened)
                }
            };
            let calls = then.as_ref().map(|then| udf_calls(then)).unwrap_or_default();
            steps.push(Step { spec, then, calls });
        }
        let (calls, places) = (udf_calls(&fragment), Place::asked(&fragment.expr_arena));
        let StageProgram { batches, limit, scatter, finer, .. } = program;
        let scatter = scatter.map(Scattering::open).transpose()?;
        let form = if compress { Form::compressed(&schema) } else { Form::new(&schema) };
        let mut reads = reads(&fragment);
        for (stage, scatter) in finer {
            let finer = Scattering::open(scatter)?;
            let of_this = reads.iter_mut().filter(|read| matches!(read.of, Of::Stage(of) if of == stage));
            of_this.for_each(|read| read.finer = Some(finer.clone()));
        }
        Ok(Self { fragment, calls, places, batches, steps, limit, scatter, form, reads, sink, metered, by_pass })
    }

    /// What this attempt of a task of the stage runs, by what those before it have seen.
    pub(crate) fn for_attempt(self: Arc<Self>, index: u32, Attempt(attempt): Attempt) -> Arc<Self> {
        let Some(passing) = &self.by_pass else { return self };
        // In tests what is made again is made the other way.
        let forced = passing.forced || (cfg!(test) && regatta_remote::is_simulated());
        let passes = if forced { (index + attempt) % 2 == 1 } else { passing.shrinks.hardly() };
        if passes { Arc::clone(&passing.program) } else { self }
    }

    /// Where it is noted how many rows are made of how many, if that matters.
    pub(super) fn shrinks(&self) -> Option<&Shrinks> {
        self.by_pass.as_ref().map(|passing| &passing.shrinks)
    }

    /// What a task with this split reads of what other tasks have left.
    pub(crate) fn reads_with(&self, split: &Split) -> impl Iterator<Item = &Read> {
        let branch = if let Split::Branch { input, .. } = split { Some(*input) } else { None };
        let is_read = move |read: &&Read| match branch {
            Some(branch) => read.branches.is_empty() || read.branches.contains(&branch),
            None => true,
        };
        self.reads.iter().filter(is_read)
    }
}

impl Scattering {
    fn open(by: Scatter) -> Result<Self, PolarsFailure> {
        let computed = by.computed.as_ref().map(|computed| computed.open()).transpose()?;
        let computed = computed.map(|plan| (Arc::clone(&plan), udf_calls(&plan)));
        Ok(Self { by, computed })
    }
}

fn reads(plan: &IRPlan) -> Vec<Read> {
    let mut reads: BTreeMap<usize, Read> = BTreeMap::new();
    for (at, ir) in plan.lp_arena.iter(plan.lp_top) {
        let IR::Scan { file_info, .. } = ir else { continue };
        let held = held_by(ir);
        let of = match placeholder_of(ir) {
            Some(stage) => Of::Stage(stage),
            None if held.is_empty() => continue,
            None => Of::Held(held),
        };
        let read = reads.entry(at.0).and_modify(|read| read.shared = true);
        let branches = Vec::new();
        read.or_insert_with(|| Read {
            at,
            of,
            form: Form::new(&file_info.schema),
            finer: None,
            shared: false,
            branches,
        });
    }
    let union = plan.lp_arena.iter(plan.lp_top).find_map(|(_, ir)| match ir {
        IR::Union { inputs, .. } => Some(inputs),
        _ => None,
    });
    for (branch, input) in union.into_iter().flatten().enumerate() {
        for (node, _) in plan.lp_arena.iter(*input) {
            reads.get_mut(&node.0).into_iter().for_each(|read| read.branches.push(branch));
        }
    }
    reads.into_values().collect()
}

impl Step {
    /// The columns that go to the UDF.
    pub(super) fn inputs(&self, batch: &DataFrame) -> PolarsResult<DataFrame> {
        let inputs = self.spec.inputs.iter().map(|name| batch.column(name).cloned());
        batch_of(inputs.collect::<PolarsResult<_>>()?)
    }

    /// The batch with the UDF's column, after the row-wise work that follows.
    pub(super) fn finish(
        &self,
        mut batch: DataFrame,
        column: Column,
        task: &CallingTask,
    ) -> Result<DataFrame, TaskFailure> {
        let name = &self.spec.output.0;
        batch.with_column(column.with_name(name.as_str().into())).map_err(PolarsFailure::from)?;
        match &self.then {
            Some(then) => in_memory::run_on_batch(then, &self.calls, task, batch),
            None => Ok(batch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_less_than_a_quarter_fewer_of_enough_rows_does_not_pay() {
        let hardly = |seen: &[(u64, u64)]| {
            let shrinks = Shrinks::default();
            seen.iter().for_each(|(before, after)| shrinks.note(*before, *after));
            shrinks.hardly()
        };
        assert!(!hardly(&[]) && !hardly(&[(1000, 1000)]), "too few to tell");
        assert!(hardly(&[(Shrinks::ENOUGH, Shrinks::ENOUGH)]) && hardly(&[(1 << 20, 3 << 18)]));
        assert!(!hardly(&[(1 << 20, 700_000)]) && !hardly(&[(1 << 20, 1 << 20), (1 << 22, 4)]), "of all of them");
    }
}
