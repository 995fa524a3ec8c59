//! What a worker says of the attempts of tasks that have ended on it, and what the scheduler makes of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::Handler;
use regatta_observe::Spent;
use regatta_remote::{ActorRef, Sender};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::messages::{TaskEnded, TasksEnded};
use super::observed::Took;
use super::{Host, SchedulerActor, insist};
use crate::os;
use crate::sched::{Attempt, Event, Outcome, Output, PartitionId, QueryId, StageId, TaskId, WorkerId};
use crate::store::Rows;

/// An attempt of a task that has ended, and what it took.
pub(super) struct Ended {
    pub(super) end: TaskEnded,
    pub(super) spent: Spent,
}

/// Reports the ends of one worker's attempts.
pub(super) struct Reports {
    pub(super) worker: WorkerId,
    /// Attempts that have begun and not ended.
    pub(super) running: Arc<AtomicUsize>,
    pub(super) scheduler: ActorRef<SchedulerActor>,
}

/// Ends of tasks that may wait to be sent; then their threads wait.
pub(super) const ENDS: usize = 1024;
/// Parts of a message that ends of tasks share, a MiB each.
const TOGETHER: usize = 64;
/// An end takes one part more for so many UDFs: one part is enough for an error, whose text is at most 64 KiB, and for what these
/// report, each at most 40 KiB.
const UDFS: usize = 23;
/// How often it is said what this process uses, while tasks run.
const SAMPLE: Duration = Duration::from_secs(1);

impl Reports {
    /// Tells the scheduler how tasks ended: those that have ended meanwhile, in one message.
    pub(super) async fn send(self, mut ends: mpsc::Receiver<Ended>, host: Arc<Host>) {
        let (mut ended, mut sampled) = (Vec::new(), None::<Instant>);
        loop {
            match timeout(SAMPLE, ends.recv_many(&mut ended, TOGETHER)).await {
                Ok(0) => return,
                Err(_) if self.running.load(Ordering::Relaxed) == 0 => continue,
                _ => (),
            }
            #[cfg(test)]
            for _ in ended.iter().filter(|ended| ended.end.outcome.is_ok()) {
                super::moments::note(super::moments::Point::Ends, host.node.as_ref().map(regatta_remote::Node::id));
            }
            let mut messages = messages(ended.drain(..));
            if sampled.is_none_or(|at| os::since(at) >= SAMPLE)
                && let Some(sample) = os::usage()
            {
                if messages.is_empty() {
                    messages.push(TasksEnded::default());
                }
                messages[0].sample = Some((self.worker, sample));
                sampled = Some(os::now());
            }
            for message in messages {
                if let Err(error) = insist(&self.scheduler, message).await {
                    tracing::error!(%error, "could not report the ends of tasks");
                    return host.leave();
                }
            }
        }
    }
}

/// Ends in their order, in messages that are not too long.
fn messages(ends: impl Iterator<Item = Ended>) -> Vec<TasksEnded> {
    let (mut messages, mut left) = (Vec::<TasksEnded>::new(), 0);
    for Ended { end, spent } in ends {
        let parts = 1 + end.metrics.len() / UDFS;
        if messages.is_empty() || parts > left {
            messages.push(TasksEnded::default());
            left = TOGETHER;
        }
        left = left.saturating_sub(parts);
        if let Some(message) = messages.last_mut() {
            let of = (end.task.query, end.task.stage);
            merge(&mut message.spent, of, spent);
            message.ended.push(end);
        }
    }
    messages
}

/// What tasks of one stage took is told together.
fn merge(all: &mut Vec<(QueryId, StageId, Spent)>, (query, stage): (QueryId, StageId), spent: Spent) {
    // The last ones are of the same stage, nearly always.
    match all.iter_mut().rev().find(|of| (of.0, of.1) == (query, stage)) {
        Some((.., known)) => known.merge(&spent),
        None => all.push((query, stage, spent)),
    }
}

impl SchedulerActor {
    /// What the end of a task is to the core, once its rows are where they go.
    fn bring(&mut self, task: TaskId, attempt: Attempt, from: WorkerId, outcome: Outcome, rows: Rows) -> Event {
        let is_wanted = self.is_read_by_driver(task.query, task.stage);
        match (outcome, rows) {
            (Ok(output), Rows::Along(along)) if is_wanted => {
                let output = Output { id: PartitionId { task, attempt }, ..output };
                match self.host.store.take_in(output, from, &along) {
                    Ok(()) => Event::TaskBrought { task, attempt, output },
                    Err(failure) => Event::TaskEnded { task, attempt, outcome: Err(failure) },
                }
            }
            (outcome, rows) => {
                if is_wanted && let Some(submitted) = self.queries.get_mut(&task.query) {
                    submitted.rows = rows;
                }
                Event::TaskEnded { task, attempt, outcome }
            }
        }
    }
}

impl Handler<TasksEnded> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, TasksEnded { ended, spent, sample }: TasksEnded, _: &mut Self::Context) {
        if let Some((worker, sample)) = sample.filter(|(worker, _)| self.is_from(*worker)) {
            self.observed.pulse(worker, sample);
        }
        for (query, stage, spent) in &spent {
            let of = |end: &&TaskEnded| (end.task.query, end.task.stage) == (*query, *stage);
            let runs_there = |end: &TaskEnded| self.core.runs_on(end.task, end.attempt);
            if ended.iter().filter(of).filter_map(runs_there).any(|worker| self.is_from(worker)) {
                self.observed.spent(*query, *stage, spent);
            }
        }
        for TaskEnded { task, attempt, outcome, rows, sections, metrics, ran } in ended {
            // None: it was given up, and its end is heard no more.
            let Some(worker) = self.core.runs_on(task, attempt).filter(|worker| self.is_from(*worker)) else {
                tracing::debug!(%task, attempt = attempt.0, from = %Sender::current(), "an end that is not heard");
                continue;
            };
            if outcome.is_ok() && !sections.is_empty() {
                self.core.measured(task, attempt, sections);
            }
            // Another attempt was the first, or will be the last.
            let rows = if self.core.counts(task, attempt) { rows } else { Rows::Kept };
            #[cfg(test)]
            let is_ok = outcome.is_ok();
            let event = self.bring(task, attempt, worker, outcome, rows);
            self.take_with(event, Some(Took { ran, metrics: &metrics }));
            #[cfg(test)]
            if is_ok {
                self.note_at(super::moments::Point::Ended, worker);
            }
            // What is made again has been reported before.
            self.queries.get_mut(&task.query).into_iter().for_each(|submitted| submitted.rows = Rows::Kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use regatta_observe::{Calls, EngineNode, Fetched};
    use regatta_remote::{MAX_MESSAGE, MAX_TEXT, catch, encode};

    use super::*;
    use crate::error::{PolarsFailure, TaskFailure};
    use crate::sched::{MAX_SECTIONS, Sizes};
    use crate::udf::{Meter, MetricsByUdf, UdfError};

    #[test]
    fn the_longest_ends_that_travel_together_fit_into_a_message() {
        let task = TaskId { query: QueryId(u64::MAX), stage: StageId(u32::MAX), index: u32::MAX };
        let attempt = Attempt(u32::MAX);
        let spent = |steps: usize| {
            let mut calls = Calls { rows: u64::MAX, busy: u64::MAX, retried: u64::MAX, ..Calls::default() };
            (0..=u32::BITS).for_each(|power| calls.call.add(u64::MAX >> power));
            let calls = (0..steps as u32).map(|step| (step, calls.clone())).collect();
            let all = u64::MAX;
            let read = Fetched { rows: all, here: all, mapped: all, network: all, relayed: all };
            let inputs = (0..16).map(|stage| (stage, read)).collect();
            let node =
                |nth| EngineNode { name: "multi-scan[parquet]".to_owned(), nth, rows_in: all, ..EngineNode::default() };
            let mut spent = Spent { fetch: all, engine: all, udf: all, write: all, inputs, calls, nodes: Vec::new() };
            (0..100).for_each(|nth| spent.node(&node(nth)));
            spent
        };
        // Of each message with so many ends.
        let sizes = |outcome: Outcome, metrics: MetricsByUdf| {
            let spent = spent(metrics.len());
            let ends = (0..TOGETHER as u32).map(|stage| {
                // Each of another stage: what they took is not told together.
                let task = TaskId { stage: StageId(stage), ..task };
                let end = TaskEnded {
                    task,
                    attempt,
                    outcome: outcome.clone(),
                    rows: Rows::Kept,
                    sections: Sizes::of((0..MAX_SECTIONS).map(|section| (section, u64::from(section)))),
                    metrics: metrics.clone(),
                    ran: u64::MAX,
                };
                Ended { end, spent: spent.clone() }
            });
            let messages = messages(ends).into_iter();
            messages.map(|message| (message.ended.len(), encode(&message).unwrap().len())).collect::<Vec<_>>()
        };
        let meter = Meter::default();
        (0..1000).for_each(|n| meter.gauge(&format!("{n:0>128}"), 1.5));
        let reported = meter.take();
        let text = "🚣".repeat(MAX_TEXT);
        let error = UdfError::new(text.as_str()).within("row 7 of a batch of 100");
        let udf = TaskFailure::Udf { udf: "keel".to_owned(), rank: 0, worker: WorkerId(0).to_string(), error };
        let panic = catch(|| -> () { std::panic::panic_any(text.clone()) }).unwrap_err();
        for failure in [udf, PolarsFailure::new("compute", text.as_str()).into(), TaskFailure::Panicked(panic)] {
            let [(TOGETHER, size)] = sizes(Err(failure.clone()), MetricsByUdf::new())[..] else {
                panic!("one message")
            };
            assert!(size <= TOGETHER * (MAX_TEXT + 8 * 1024), "{size}");
            let metrics = (0..UDFS - 1).map(|udf| (format!("udf {udf}"), reported.clone())).collect();
            let [(TOGETHER, size)] = sizes(Err(failure), metrics)[..] else { panic!("one message") };
            assert!(size <= MAX_MESSAGE, "{size}");
        }
        let id = PartitionId { task, attempt };
        let output = Output { id, rows: u64::MAX, bytes: u64::MAX };
        for (udfs, together) in [(UDFS - 1, vec![TOGETHER]), (UDFS, vec![TOGETHER / 2; 2])] {
            let metrics = (0..udfs).map(|udf| (format!("udf {udf}"), reported.clone())).collect();
            let sizes = sizes(Ok(output), metrics);
            assert!(sizes.iter().all(|(_, size)| *size <= MAX_MESSAGE), "{sizes:?}");
            assert_eq!(sizes.into_iter().map(|(ends, _)| ends).collect::<Vec<_>>(), together, "{udfs} UDFs");
        }
    }
}
