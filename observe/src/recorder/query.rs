//! One query's figures.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::records::Records;
use super::stage::Stage;
use super::strips::Busy;
use super::used::Used;
use crate::text::ends;
use crate::{
    Dropped, EdgeFigures, ErrorRecord, Explain, Metrics, MetricsByUdf, Node, Outcome, PoolFigures, QueryFigures,
    QueryId, QueryState, Spent, StagePlan, Submitted, TaskRecord,
};

#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: QueryId,
    pub(super) name: Option<String>,
    pub(super) plan: Explain,
    pub(super) stages: Vec<Stage>,
    pub(super) state: QueryState,
    error: Option<String>,
    planned: u64,
    pub(super) submitted: u64,
    first: Option<u64>,
    /// Workers that were there when it ended, and their CPUs.
    pub(super) fleet: Option<(u32, f64)>,
    /// All of the result was there, or there will be none.
    pub(super) ended: Option<u64>,
    /// It was released.
    taken: Option<u64>,
    pub(super) busy: Busy,
    pub(super) used: Used,
    pub(super) records: Records,
    pub(super) errors: VecDeque<ErrorRecord>,
    pub(super) incomplete: Vec<String>,
    pub(super) dropped: Dropped,
    /// What UDFs have reported about themselves, each batch once; and in attempts that do not count.
    pub(super) reported: MetricsByUdf,
    in_vain: MetricsByUdf,
    /// Bytes of it as they were counted last, and of those what it is known for that each task has left.
    pub(super) counted: usize,
    pub(super) outputs: usize,
}

/// Errors of a query.
const ERRORS: usize = 256;
/// Bytes of an error, at its beginning and at its end.
const ERROR: usize = 4096;
/// Bytes of what is kept of a query that has ended.
const ENDED: usize = 256 * 1024;

impl Query {
    pub(super) fn new(Submitted { query, name, plan, planned }: Submitted<'_>, room: &mut usize, now: u64) -> Self {
        let mut nodes: BTreeMap<u32, Vec<&Node>> = BTreeMap::new();
        plan.nodes.iter().for_each(|node| nodes.entry(node.stage).or_default().push(node));
        let nodes_of = |stage: &StagePlan| nodes.get(&stage.stage).map(Vec::as_slice).unwrap_or_default();
        let stages: Vec<_> = plan.stages.iter().map(|stage| Stage::new(stage, nodes_of(stage), room)).collect();
        let mut query = Self {
            id: query,
            name: name.map(|name| ends(name, 200)),
            plan: plan.clone(),
            stages,
            state: QueryState::Running,
            error: None,
            planned,
            submitted: now,
            first: None,
            fleet: None,
            ended: None,
            taken: None,
            busy: Busy::default(),
            used: Used::default(),
            records: Records::default(),
            errors: VecDeque::new(),
            incomplete: Vec::new(),
            dropped: Dropped::default(),
            reported: MetricsByUdf::new(),
            in_vain: MetricsByUdf::new(),
            counted: 0,
            outputs: 0,
        };
        query.note_outputs();
        query
    }

    /// Nanoseconds since it was submitted.
    pub(super) fn since(&self, now: u64) -> u64 {
        now.saturating_sub(self.submitted)
    }

    pub(super) fn set_tasks(&mut self, stage: u32, tasks: u32, why: &str, room: &mut usize) {
        if let Some(stage) = self.stages.get_mut(stage as usize) {
            stage.set_tasks(tasks, room);
            stage.figures.shape = ends(why, 500);
        }
        self.note_outputs();
    }

    /// Counts the stages of which it is not known what each task has left, and what it takes to know it of the others.
    fn note_outputs(&mut self) {
        self.dropped.outputs = self.stages.iter().filter(|stage| !stage.keeps_outputs()).count() as u64;
        self.outputs = self.stages.iter().map(Stage::bytes_of_outputs).sum();
    }

    /// UDF calls of an attempt have reported this.
    pub(super) fn report(&mut self, metrics: &MetricsByUdf, counts: bool) {
        let all = if counts { &mut self.reported } else { &mut self.in_vain };
        for (udf, metrics) in metrics.iter().filter(|(_, metrics)| !metrics.is_empty()) {
            all.entry(udf.clone()).or_default().merge(metrics);
        }
    }

    /// A replica that took batches of this step has reported this at its end.
    pub(super) fn replica_reports(&mut self, stage: u32, step: u32, metrics: &Metrics) {
        let step = self.stages.get(stage as usize).and_then(|stage| stage.steps.get(step as usize));
        if let Some(udf) = step.map(|step| step.udf().to_owned()) {
            self.reported.entry(udf).or_default().merge(metrics);
        }
    }

    pub(super) fn place(&mut self, stage: u32, task: u32, attempt: u32, worker: u32, now: u64) {
        let now = self.since(now);
        self.first.get_or_insert(now);
        let lost = self.stages.get_mut(stage as usize).and_then(|stage| stage.place(task, attempt, worker, now));
        lost.into_iter().for_each(|lost| self.keep(lost));
    }

    pub(super) fn spent(&mut self, stage: u32, spent: &Spent) {
        let Some(of) = self.stages.get_mut(stage as usize) else { return };
        let Spent { inputs, calls, .. } = spent;
        for (input, fetched) in inputs.iter().filter(|(input, _)| *input < self.plan.stages.len() as u32) {
            of.inputs.entry(*input).or_default().merge(fetched);
        }
        for (step, calls) in calls {
            if let Some(step) = of.steps.get_mut(*step as usize) {
                step.calls.merge(calls);
            }
        }
        let times = Spent { inputs: Vec::new(), calls: Vec::new(), nodes: spent.nodes.clone(), ..*spent };
        of.figures.spent.merge(&times);
    }

    pub(super) fn keep(&mut self, record: TaskRecord) {
        self.busy.add(record.worker, record.placed, record.placed + record.ran);
        self.records.add(record);
    }

    pub(super) fn went_wrong(
        &mut self,
        now: u64,
        stage: Option<u32>,
        task: Option<(u32, u32)>,
        worker: Option<u32>,
        text: &str,
    ) {
        if self.errors.len() == ERRORS {
            // The first ones are the cause, the last ones what came of it.
            self.errors.remove(ERRORS / 2);
            self.dropped.errors += 1;
        }
        let at = self.since(now);
        self.errors.push_back(ErrorRecord { at, stage, task, worker, text: ends(text, ERROR) });
    }

    /// A worker was lost. Yields whether that meant anything to it.
    pub(super) fn lose(&mut self, worker: u32, why: &str, now: u64) {
        let at = self.since(now);
        let lost: Vec<_> = self.stages.iter_mut().flat_map(|stage| stage.lose(worker, at)).collect();
        let had = self.had(worker);
        if had || !lost.is_empty() {
            self.went_wrong(now, None, None, Some(worker), &format!("worker {worker} is lost: {why}"));
            let what = "what its tasks had spent and not yet said, and what they measured, is not in these figures";
            let what = format!("worker {worker} was lost: {what}");
            if self.incomplete.len() < ERRORS && !self.incomplete.contains(&what) {
                self.incomplete.push(what);
            }
        }
        lost.into_iter().for_each(|lost| self.keep(lost));
    }

    pub(super) fn end(&mut self, state: QueryState, error: Option<&str>, now: u64) {
        if self.ended.is_some() {
            return;
        }
        let at = self.since(now);
        (self.state, self.error) = (state, error.map(|error| ends(error, ERROR)));
        self.ended = Some(at);
        self.settle(at);
    }

    /// Nobody wants more of it. What may still run there is stopped.
    pub(super) fn release(&mut self, now: u64) {
        self.end(QueryState::Cancelled, None, now);
        let at = self.since(now);
        self.settle(at);
        self.taken = Some(at);
        self.stages.iter_mut().for_each(Stage::close);
        self.outputs = 0;
        let over = |query: &Self| query.bytes().saturating_sub(query.plan.bytes()) > ENDED;
        while over(self) && self.records.sampled() > 1 {
            self.records.thin();
        }
        if over(self) && !self.busy.is_empty() {
            self.drop_strips();
        }
    }

    /// When it ended, if it has, or was released.
    pub(super) fn ended_at(&self) -> u64 {
        self.ended.map_or(u64::MAX, |ended| self.submitted + ended)
    }

    /// Whether a worker had something of it.
    pub(super) fn had(&self, worker: u32) -> bool {
        self.stages.iter().any(|stage| stage.workers().any(|(on, ..)| on == worker))
    }

    pub(super) fn drop_strips(&mut self) {
        self.busy.clear();
        self.dropped.strips += 1;
    }

    /// Gives up to know what each task has left.
    pub(super) fn forget_outputs(&mut self) {
        self.stages.iter_mut().for_each(|stage| _ = stage.forget_outputs());
        self.note_outputs();
    }

    fn settle(&mut self, at: u64) {
        for index in 0..self.stages.len() {
            let stage = &mut self.stages[index];
            stage.steps.iter_mut().for_each(|step| step.leave(at));
            let running: Vec<_> = stage.at_workers().map(|(task, one)| (task, one.attempt)).collect();
            for (task, attempt) in running {
                let ended = self.stages[index].end(task, attempt, Outcome::Stopped, (0, 0), None, at);
                ended.into_iter().for_each(|record| self.keep(record));
            }
            self.stages[index].stop(at);
        }
    }

    pub(super) fn figures(&self, epoch_ms: u64, now: u64) -> QueryFigures {
        let result = self.stages.last().map(|stage| (stage.figures.rows, stage.figures.bytes)).unwrap_or_default();
        let sum = |of: fn(&Stage) -> u64| self.stages.iter().map(of).fold(0, u64::saturating_add);
        let now = self.since(now);
        let end = self.ended.unwrap_or(now);
        let first = self.first.unwrap_or(end);
        QueryFigures {
            id: format!("{:016x}", self.id.0),
            name: self.name.clone(),
            driver: None,
            state: self.state,
            error: self.error.clone(),
            submitted_ms: epoch_ms + self.submitted / 1_000_000,
            planned: self.planned,
            waited: first,
            ran: end.saturating_sub(first),
            result: if self.ended.is_some() { self.taken.unwrap_or(now).saturating_sub(end) } else { 0 },
            rows: result.0,
            bytes: result.1,
            busy: sum(|stage| stage.figures.busy),
            again: sum(|stage| stage.figures.busy_again),
            workers: 0,
            cpus: 0.0,
        }
    }

    pub(super) fn edges(&self) -> Vec<EdgeFigures> {
        let stages = self.plan.stages.iter().zip(&self.stages);
        let edges = stages.flat_map(|(plan, stage)| {
            // It may do itself what another was to do, and read what that was to read.
            let planned = plan.reads.iter().map(|read| read.stage);
            let from: BTreeSet<u32> = planned.chain(stage.inputs.keys().copied()).collect();
            let fetched = |from| stage.inputs.get(&from).copied().unwrap_or_default();
            from.into_iter().map(move |from| EdgeFigures { from, to: plan.stage, fetched: fetched(from) })
        });
        edges.collect()
    }

    pub(super) fn pools(&self, now: u64) -> Vec<PoolFigures> {
        let now = self.since(now);
        let pools = self.stages.iter().flat_map(|stage| {
            let number = stage.figures.stage;
            stage.steps.iter().map(move |step| step.figures(number, now))
        });
        let mut pools: Vec<_> = pools.collect();
        // Where several steps call one UDF, it is not known which of them it was.
        let mut said = BTreeSet::new();
        for pool in pools.iter_mut().filter(|pool| said.insert(pool.udf.clone())) {
            let figures = |of: &MetricsByUdf| of.get(&pool.udf).map(Metrics::figures).unwrap_or_default();
            (pool.reported, pool.in_vain) = (figures(&self.reported), figures(&self.in_vain));
        }
        pools
    }

    /// Every attempt that is kept, in the order of its stage, task and number; each once.
    pub(super) fn tasks(&self, now: u64) -> Vec<TaskRecord> {
        let now = self.since(now);
        let running = self.stages.iter().flat_map(|stage| {
            stage.at_workers().map(|(task, one)| TaskRecord {
                stage: stage.figures.stage,
                task,
                attempt: one.attempt,
                worker: one.worker,
                placed: one.placed,
                ran: now.saturating_sub(one.placed),
                ..TaskRecord::default()
            })
        });
        let slowest = self.stages.iter().flat_map(|stage| stage.slowest.iter().copied());
        let mut all: Vec<_> = running.chain(slowest).chain(self.records.iter().copied()).collect();
        let key = |record: &TaskRecord| (record.stage, record.task, record.attempt);
        all.sort_by_key(key);
        all.dedup_by_key(|record| key(record));
        all
    }

    pub(super) fn dropped(&self) -> Dropped {
        Dropped { tasks: self.records.dropped, ..self.dropped }
    }

    pub(super) fn bytes(&self) -> usize {
        let errors: usize = self.errors.iter().map(|error| size_of::<ErrorRecord>() + error.text.len()).sum();
        let words: usize = self.incomplete.iter().map(|word| word.len() + 24).sum();
        let stages: usize = self.stages.iter().map(Stage::bytes).sum();
        let reported: usize =
            self.reported.iter().chain(&self.in_vain).map(|(udf, of)| udf.len() + 48 + of.bytes()).sum();
        size_of::<Self>()
            + reported
            + self.plan.bytes()
            + self.busy.bytes()
            + self.used.bytes()
            + self.records.bytes()
            + errors
            + words
            + stages
    }
}
