//! One task: a fragment on its own thread, a bounded hand-over, UDF steps, an output.

use std::sync::atomic::Ordering;
use std::thread;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, FuturesUnordered, Stream, StreamExt, TryStreamExt};
use polars::prelude::DataFrame;
use tokio::sync::mpsc;

use super::attempt::{Left, TaskRun};
use super::fragment;
use super::leave::Leaving;
use super::program::Step;
use super::regroup::{nearly_full, regroup};
use super::sink::write_files;
use crate::error::{PolarsFailure, TaskFailure};
use crate::store::Rows;
use crate::udf::Reply;

/// Batches between the engine and what follows; the engine waits when they are not taken.
pub(crate) const HAND_OVER: usize = 4;
/// Calls of one step that a task has under way; credits at the replicas bound them further.
const CALLS: usize = 16;
/// Rows of one UDF call where the author named no batch size: enough calls for all replicas, few enough messages.
const CALL_ROWS: usize = 1 << 16;
/// The same for async UDFs, whose replicas have many calls in flight: each holds its rows.
const ASYNC_CALL_ROWS: usize = 1 << 10;
/// Calls of one async step that a task has under way, at most.
const ASYNC_CALLS: usize = 1 << 10;

/// Runs a task to its one end. Blocks: call it on a plain thread.
///
/// # Errors
/// Whatever failed first. The partition is in the store only on success.
pub(crate) fn run_task(mut task: TaskRun) -> Result<Left, TaskFailure> {
    if let Some(sink) = task.program.sink.clone() {
        return Ok(Left::whole(write_files(task, &sink)?, Rows::Kept));
    }
    let mut leaving = Leaving::new(&task);
    let (hand_over, batches) = mpsc::channel(HAND_OVER);
    let bound = fragment::bind(&mut task)?;
    #[cfg(test)]
    let bound = if regatta_remote::is_simulated() { bound.in_one_order(task.output.attempt) } else { bound };
    task.spending.engine_begins();
    let (mut seen, mut made) = (None, 0);
    // In a simulation nothing runs beside what it waits for.
    let engine = if fragment::reads_few_rows(&bound) || regatta_remote::is_simulated() {
        // There is room for one batch. A thread for the engine would take longer than all the rest.
        let _ = hand_over.try_send(fragment::run_here(bound, task.meter())?);
        drop(hand_over);
        None
    } else {
        let bound = match task.program.shrinks() {
            Some(_) => {
                let (bound, rows) = bound.counting();
                seen = Some(rows);
                bound
            }
            None => bound,
        };
        let thread = thread::Builder::new().name(format!("task {}", task.output.task.index));
        // The receiver is gone when the task is cancelled or a step failed: that stops the engine.
        let meter = task.meter();
        let hands_over = move |batch| hand_over.blocking_send(batch).is_err();
        let engine = thread.spawn(move || fragment::run(bound, meter, hands_over));
        Some(engine.map_err(|e| TaskFailure::Store(format!("no thread for the task: {e}")))?)
    };

    let steps = async {
        let (mut results, mut steps) = through_steps(batches, &task);
        let mut left = task.program.limit.unwrap_or(u64::MAX);
        // With enough rows, the rest is dropped: that stops the engine.
        while left > 0 {
            let next = tokio::select! {
                biased;
                Some(ended) = steps.next() => {
                    ended?;
                    continue;
                }
                next = results.try_next() => next?,
            };
            let Some(batch) = next else {
                // All is here, unless a step has failed.
                while let Some(ended) = steps.next().await {
                    ended?;
                }
                break;
            };
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let taken = if batch.height() <= most { batch } else { batch.head(Some(most)) };
            left -= taken.height() as u64;
            made += taken.height() as u64;
            task.spending.writing(|| leaving.write(taken))?;
        }
        Ok(())
    };
    let outcome = task.waits.until_cancelled(steps);
    let engine = engine.map_or(Ok(()), |engine| {
        engine.join().unwrap_or_else(|_| Err(TaskFailure::Panicked("the task's thread".to_owned())))
    });
    outcome.and(engine)?;
    if let (Some(shrinks), Some(seen)) = (task.program.shrinks(), seen) {
        shrinks.note(seen.load(Ordering::Relaxed), made);
    }
    task.spending.writing(|| leaving.seal())
}

type Batches<'a> = BoxStream<'a, Result<DataFrame, TaskFailure>>;

/// What the steps make of these batches, and the steps themselves, which are to be driven meanwhile. They hand their batches on
/// from one to the next: one inside the other, they would need more stack the more they are.
fn through_steps(
    batches: mpsc::Receiver<DataFrame>,
    task: &TaskRun,
) -> (Batches<'_>, FuturesUnordered<BoxFuture<'_, Result<(), TaskFailure>>>) {
    let steps = FuturesUnordered::new();
    let mut batches = nearly_full(received(batches), task.program.batches);
    for (index, step) in task.program.steps.iter().enumerate() {
        let (hand_over, next) = mpsc::channel(1);
        let batches = std::mem::replace(&mut batches, nearly_full(received(next), step.spec.batches));
        let mut made = Box::pin(through_step(batches, index, step, task));
        let ends = async move {
            while let Some(batch) = made.try_next().await? {
                // What follows has enough.
                if hand_over.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        steps.push(ends.boxed());
    }
    (batches, steps)
}

fn received<'a>(batches: mpsc::Receiver<DataFrame>) -> Batches<'a> {
    stream::unfold(batches, |mut batches| async { Some((Ok(batches.recv().await?), batches)) }).boxed()
}

/// Several calls at once, results in the order of the rows.
fn through_step<'a>(
    batches: Batches<'a>,
    index: usize,
    step: &'a Step,
    task: &'a TaskRun,
) -> impl Stream<Item = Result<DataFrame, TaskFailure>> + Send + 'a {
    let options = &step.spec.options;
    let (rows, at_once) = match options.in_flight {
        None => (CALL_ROWS, CALLS),
        Some(calls) => (ASYNC_CALL_ROWS, calls.saturating_mul(options.replicas.1).clamp(CALLS, ASYNC_CALLS)),
    };
    let pieces = regroup(batches, options.batch.unwrap_or((1, rows)));
    let calls = pieces.map(move |piece| async move {
        let piece = piece?;
        let mut inputs = step.inputs(&piece).map_err(PolarsFailure::from)?;
        // Authors may count on one array for each input.
        inputs.rechunk_mut();
        let call = task.spending.call();
        let called = task.pools.call(index, inputs, task.calling.by).await?;
        call.answered(index, piece.height(), &called);
        drop(call);
        let Reply { column, report } = called.reply;
        task.calling.meter.add(&step.spec.udf, &report.metrics);
        step.finish(piece, column, &task.calling)
    });
    calls.buffered(at_once)
}
