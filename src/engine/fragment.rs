//! One fragment on one of Polars' engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polars::prelude::*;
use polars_mem_engine::scan_predicate::functions::filter_scan_ir;
use polars_plan::dsl::{CallbackSinkType, ScanSources, SinkTypeIR};
use polars_plan::plans::{AExpr, ArenaLpIter, FunctionIR, IR};
use polars_plan::prelude::{PlanCallback, SpecialEq};
use polars_utils::arena::{Arena, Node};
use polars_utils::slice_enum::Slice;

use super::attempt::TaskRun;
use super::in_memory::{call_from, execute_in_memory, fenced};
use super::source::{self, Rows};
use super::spending::Spending;
use super::{amend, beside, nodes};
use crate::error::{PolarsFailure, TaskFailure};
use crate::os;
use crate::plan::{Place, Split, read_lines};
#[cfg(test)]
use crate::sched::Attempt;
use crate::store::Reading;

/// A fragment with this task's input in place of its placeholders.
pub(super) struct Bound {
    pub(super) top: Node,
    pub(super) ir: Arena<IR>,
    exprs: Arena<AExpr>,
    readings: Vec<Arc<Reading>>,
    /// Of which some lines are read.
    files: Vec<String>,
}

impl Bound {
    /// Counts the rows that come to what makes fewer of them, as they come.
    pub(super) fn counting(mut self) -> (Self, Arc<AtomicU64>) {
        let seen = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&seen);
        let function = amend::of_some_rows("count", move |rows| {
            counted.fetch_add(rows.height() as u64, Ordering::Relaxed);
            Ok(rows)
        });
        let input = self.ir.get(self.top).inputs().next();
        if let Some(input) = input {
            let input = self.ir.add(IR::MapFunction { input, function });
            let top = self.ir.get(self.top).clone().with_inputs([input]);
            self.ir.replace(self.top, top);
        }
        (self, seen)
    }
}

#[cfg(test)]
impl Bound {
    /// The same rows in one order of those that are allowed, of which each second attempt has another: what a simulation does is
    /// the same whenever it is run, and what is made again is not.
    pub(super) fn in_one_order(mut self, Attempt(attempt): Attempt) -> Self {
        for node in self.ir.iter(self.top).map(|(node, _)| node).collect::<Vec<_>>() {
            let had_one = match self.ir.get_mut(node) {
                IR::GroupBy { maintain_order, .. } => std::mem::replace(maintain_order, true),
                IR::Distinct { options, .. } => std::mem::replace(&mut options.maintain_order, true),
                IR::Join { options, .. } => {
                    let order = &mut Arc::make_mut(options).args.maintain_order;
                    let had_one = *order != MaintainOrderJoin::None;
                    if !had_one {
                        *order = MaintainOrderJoin::LeftRight;
                    }
                    had_one
                }
                _ => true,
            };
            if !had_one && attempt.is_multiple_of(2) {
                let made = self.ir.get(node).clone();
                let input = self.ir.add(made);
                let function = amend::of_all_rows("in another order", |rows| {
                    let backwards: IdxCa = (0..rows.height() as IdxSize).rev().map(Some).collect();
                    rows.take(&backwards)
                });
                self.ir.replace(node, IR::MapFunction { input, function });
            }
        }
        self
    }
}

/// Rows, and bytes of them, that the in-memory engine is done with before the streaming engine would have begun.
const FEW: usize = 1 << 14;
const LITTLE: usize = 4 << 20;
/// Rows that may come of few.
const MADE: usize = 1 << 20;

/// Whether a task makes few rows of few, all of which are here.
pub(super) fn reads_few_rows(bound: &Bound) -> bool {
    most_rows(bound.top, &bound.ir).is_some_and(|rows| rows <= MADE)
}

/// How many rows a node yields at most, if that is known and it is made of few.
fn most_rows(node: Node, ir: &Arena<IR>) -> Option<usize> {
    let node = ir.get(node);
    let mut inputs = node.inputs().map(|input| most_rows(input, ir));
    match node {
        IR::DataFrameScan { df, .. } => {
            let few = df.height() <= FEW && df.estimated_size() <= LITTLE;
            few.then(|| df.height())
        }
        // The in-memory engine lacks this one.
        IR::Join { options, .. } if options.args.how == JoinType::Range => None,
        IR::Join { .. } => inputs.try_fold(1usize, |all, rows| all.checked_mul(rows?)),
        IR::Union { .. } => inputs.try_fold(0usize, |all, rows| all.checked_add(rows?)),
        IR::Filter { .. }
        | IR::Select { .. }
        | IR::HStack { .. }
        | IR::SimpleProjection { .. }
        | IR::GroupBy { .. }
        | IR::Distinct { .. }
        | IR::Sort { .. }
        | IR::Slice { .. }
        | IR::MapFunction { function: FunctionIR::Unnest { .. } | FunctionIR::RowIndex { .. }, .. } => {
            inputs.next().flatten()
        }
        _ => None,
    }
}

/// Runs it on the in-memory engine, on this thread.
pub(super) fn run_here(bound: Bound, meter: Option<Arc<Spending>>) -> Result<DataFrame, TaskFailure> {
    let Bound { top, mut ir, mut exprs, .. } = bound;
    in_memory(top, &mut ir, &mut exprs, meter.as_deref())
}

/// Puts a task's split and what it reads into a copy of the fragment; it reads it no more than once.
///
/// # Errors
/// What it reads was waited for, and is lost.
pub(super) fn bind(run: &mut TaskRun) -> Result<Bound, TaskFailure> {
    let inputs = std::mem::take(&mut run.inputs);
    let TaskRun { program, split: split_of_task, own, output, calling: task, waits, .. } = &*run;
    let plan = &program.fragment;
    let (ir, exprs) = (plan.lp_arena.clone(), plan.expr_arena.clone());
    let mut bound = Bound { top: plan.lp_top, ir, exprs, readings: Vec::new(), files: Vec::new() };
    call_from(task, &program.calls, &mut bound.exprs);
    Place::fill_in(&program.places, output.task.index, own.as_ref(), &mut bound.exprs);
    let split = take_branch(bound.top, split_of_task, &mut bound.ir);
    for (read, reading) in program.reads_with(split_of_task).zip(inputs) {
        let reading = Arc::new(reading);
        let part = match (split_of_task, &read.finer) {
            (Split::Sections { part: Some(part), .. }, Some(finer)) => Some((finer.clone(), *part, task.clone())),
            _ => None,
        };
        let rows = Rows { reading: Arc::clone(&reading), waits: waits.clone(), part };
        source::put(&rows, read, &mut bound.ir)?;
        bound.readings.push(reading);
    }
    let sources: Vec<_> = bound.ir.iter(bound.top).map(|(node, _)| node).collect();
    // What is read has the task's part already.
    let is_read = |node: Node| program.reads.iter().any(|read| read.at == node);
    for node in sources.into_iter().filter(|node| node.0 < plan.lp_arena.len() && !is_read(*node)) {
        match *bound.ir.get(node) {
            IR::Slice { input, offset, len } if is_read(input) && split.has_slice(offset, len) => {
                let columns = bound.ir.get(node).schema(&bound.ir).into_owned();
                bound.ir.replace(node, IR::SimpleProjection { input, columns });
            }
            _ => {
                let read = take_split(bound.ir.get_mut(node), split).map_err(PolarsFailure::from)?;
                bound.files.extend(read);
            }
        }
    }
    beside::write_out_single_rows(bound.top, &mut bound.ir, &mut bound.exprs);
    Ok(bound)
}

/// Runs it; `on_batch` gets every batch in order and may stop the run with `true`.
///
/// Blocks until the engine is done. `on_batch` runs on a thread where it may block.
pub(super) fn run(
    bound: Bound,
    meter: Option<Arc<Spending>>,
    on_batch: impl Fn(DataFrame) -> bool + Send + Sync + 'static,
) -> Result<(), TaskFailure> {
    let Bound { mut top, mut ir, mut exprs, readings, mut files } = bound;
    files.extend(paths(top, &ir));
    let named = |failure| match (readings.iter().find_map(|reading| reading.failure()), failure) {
        // What the engine says is what it was told of it.
        (Some(failure), _) => failure,
        (None, TaskFailure::Engine(failure)) => TaskFailure::Engine(failure.reading(&files)),
        (None, other) => other,
    };
    if !amend::streams(top, &ir, &exprs) {
        let frame = in_memory(top, &mut ir, &mut exprs, meter.as_deref()).map_err(named)?;
        on_batch(frame);
        return Ok(());
    }
    amend::rewrite(top, &mut ir, &mut exprs);
    // A file sink writes by itself; everything else is handed over.
    if !matches!(ir.get(top), IR::Sink { .. }) {
        let function = PlanCallback::Rust(SpecialEq::new(Arc::new(move |batch| Ok(on_batch(batch))) as Arc<_>));
        let callback = CallbackSinkType { function, maintain_order: true, chunk_size: None };
        top = ir.add(IR::Sink { input: top, payload: SinkTypeIR::Callback(callback) });
    }
    let run = || match meter {
        None => polars_stream::run_query(top, &mut ir, &mut exprs).map(drop),
        Some(meter) => nodes::run(top, &mut ir, &mut exprs, &meter),
    };
    fenced(run).map_err(named)
}

fn in_memory(
    top: Node,
    ir: &mut Arena<IR>,
    exprs: &mut Arena<AExpr>,
    meter: Option<&Spending>,
) -> Result<DataFrame, TaskFailure> {
    let began = os::now();
    amend::rewrite_for_memory(top, ir, exprs);
    let frame = fenced(|| execute_in_memory(top, ir, exprs))?;
    meter.into_iter().for_each(|meter| nodes::was_in_memory(&frame, os::since(began), meter));
    Ok(frame)
}

/// What the fragment reads of whole files, or by their rows.
fn paths(top: Node, ir: &Arena<IR>) -> Vec<String> {
    let scans = ir.iter(top).filter_map(|(_, ir)| match ir {
        IR::Scan { sources: ScanSources::Paths(paths), .. } => Some(paths.iter().map(ToString::to_string)),
        _ => None,
    });
    scans.flatten().collect()
}

// A slice of the whole scan has become the splits: what is left of it here is this file's.
fn take_files(scan: &mut IR, files: &[usize], rows_before: usize, slice: Option<Slice>) {
    let IR::Scan { unified_scan_args: args, .. } = scan else { return };
    args.pre_slice = None;
    // Counts that hold for the whole scan must not stand in for those of the piece.
    args.row_count = None;
    let row_index = args.row_index.take();
    filter_scan_ir(scan, files.iter().copied(), false);
    let IR::Scan { unified_scan_args: args, file_info, .. } = scan else { return };
    file_info.row_estimation.0 = None;
    args.pre_slice = slice;
    args.row_index = row_index.map(|mut index| {
        index.offset += rows_before as IdxSize;
        index
    });
}

/// Puts the frame that a task yields in the place of all of them, and says which part of it.
fn take_branch<'a>(top: Node, mut split: &'a Split, ir: &mut Arena<IR>) -> &'a Split {
    while let Split::Branch { input, split: part } = split {
        let union = ir.iter(top).find_map(|(node, ir)| match ir {
            IR::Union { inputs, .. } => Some((node, *inputs.get(*input)?)),
            _ => None,
        });
        if let Some((union, input)) = union {
            let columns = ir.get(union).schema(ir).into_owned();
            ir.replace(union, IR::SimpleProjection { input, columns });
        }
        split = part;
    }
    split
}

/// Says which file it is of which some lines are read.
fn take_split(source: &mut IR, split: &Split) -> PolarsResult<Option<String>> {
    match (source, split) {
        (scan @ IR::Scan { .. }, Split::Files { files, rows_before }) => take_files(scan, files, *rows_before, None),
        (scan @ IR::Scan { .. }, Split::Rows { file, offset, len, rows_before }) => {
            take_files(scan, &[*file], *rows_before, Some(Slice::Positive { offset: *offset, len: *len }));
        }
        (scan @ IR::Scan { .. }, Split::Lines { file, from, to }) => {
            take_files(scan, &[*file], 0, None);
            return read_lines(scan, *from, *to);
        }
        (IR::DataFrameScan { df, .. }, Split::Slice { offset, len }) => {
            *df = Arc::new(df.slice(*offset as i64, *len));
        }
        _ => (),
    }
    Ok(None)
}
