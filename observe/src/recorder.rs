//! The one writer of all figures: a fold over what the scheduler sees and does. Pure: no clock, no thread, no randomness.

mod progress;
mod query;
mod rates;
mod records;
mod rows;
mod slots;
mod stage;
mod stands;
mod step;
mod strips;
mod totals;
mod used;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    Dropped, End, Gone, Profile, QueryId, QueryState, Replica, Sample, Seen, StepId, Totals, VERSION, WorkerFigures,
    WorkerId, findings,
};
use query::Query;
pub use stands::{StageStands, Stands};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all of it.
    pub memory: usize,
    /// Queries that have ended.
    pub queries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 32 << 20, queries: 64 }
    }
}

/// Folds what happens into figures. Every reader reads them here, and none counts anything by itself.
///
/// What is kept has a bound in bytes; what is left out is counted. Sums are exact; only records of single attempts are sampled.
#[derive(Debug)]
pub struct Recorder {
    limits: Limits,
    build: String,
    epoch_ms: u64,
    live: BTreeMap<QueryId, Query>,
    /// The oldest first.
    ended: VecDeque<Query>,
    workers: BTreeMap<u32, Worker>,
    replicas: BTreeMap<Replica, u32>,
    dropped: Dropped,
    /// What queries did that are not live any more.
    totals: Totals,
    /// Events since the bytes were counted.
    since_counted: usize,
    /// Bytes of all queries, as they were counted last.
    held: usize,
    /// And of those what it takes to know what each task has left.
    outputs: usize,
    /// So many were left when no more could be let go.
    least: usize,
}

/// A worker, as long as a query has something of it.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    cpus: f64,
    gpus: f64,
    memory: u64,
    gone: bool,
    /// When and why.
    lost: Option<(u64, String)>,
    pub(crate) sample: Sample,
    /// CPU time of the sample before, and when each came.
    before: Option<(u64, u64)>,
    at: u64,
}

/// How often bytes are counted: what comes in so many events is little.
const COUNT_EACH: usize = 4096;
/// Bytes of a worker and of a replica, about.
const WORKER: usize = 256;
const REPLICA: usize = 48;
/// Workers that have gone and of which is known what they were.
const GONE: usize = 1024;
/// Queries that have just ended and of which it is asked what they used.
const JUST_ENDED: usize = 64;

impl Recorder {
    /// One that has seen nothing. `epoch_ms` is when its time begins, in milliseconds since 1970.
    pub fn new(limits: Limits, build: impl Into<String>, epoch_ms: u64) -> Self {
        Self {
            limits,
            build: build.into(),
            epoch_ms,
            live: BTreeMap::new(),
            ended: VecDeque::new(),
            workers: BTreeMap::new(),
            replicas: BTreeMap::new(),
            dropped: Dropped::default(),
            totals: Totals::default(),
            since_counted: 0,
            held: 0,
            outputs: 0,
            least: 0,
        }
    }

    /// Takes in what has happened, so many nanoseconds after the beginning.
    pub fn saw(&mut self, seen: Seen<'_>, now: u64) {
        match seen {
            Seen::Placed { task, attempt, worker } => {
                if let Some(query) = self.live.get_mut(&task.query) {
                    query.place(task.stage.0, task.index, attempt, worker.0, now);
                }
            }
            Seen::PlacedBeside { task, attempt, worker } => {
                if let Some(query) = self.live.get_mut(&task.query) {
                    let at = query.since(now);
                    let stage = query.stages.get_mut(task.stage.0 as usize);
                    stage.into_iter().for_each(|stage| stage.place_beside(task.index, attempt, worker.0, at));
                }
            }
            Seen::Ended { task, attempt, end, ran, metrics } => {
                if let Some(query) = self.live.get_mut(&task.query) {
                    let at = query.since(now);
                    let Some(stage) = query.stages.get_mut(task.stage.0 as usize) else { return };
                    let is_well = !metrics.is_empty() && matches!(end, End::Done { .. });
                    let counts = is_well && stage.is_first(task.index, attempt);
                    let Some(record) = stage.ended(task.index, attempt, end, ran, at) else { return };
                    query.keep(record);
                    query.report(metrics, counts);
                    if let End::Failed(why) | End::InputLost(why) = end {
                        let of = Some((task.index, attempt));
                        query.went_wrong(now, Some(task.stage.0), of, Some(record.worker), why);
                    }
                }
            }
            Seen::Spent { query, stage, spent } => {
                self.live.get_mut(&query).into_iter().for_each(|query| query.spent(stage.0, spent));
            }
            Seen::Waited { query, stage, kind, on, count, time } => {
                let stage = self.live.get_mut(&query).and_then(|query| query.stages.get_mut(stage.0 as usize));
                stage.into_iter().for_each(|stage| stage.waited(kind, on, time.saturating_mul(count)));
            }
            Seen::Submitted(submitted) => {
                let mut room = self.room_for_outputs();
                let mut query = Query::new(submitted, &mut room, now);
                query.counted = query.bytes();
                (self.held, self.outputs) = (self.held + query.counted, self.outputs + query.outputs);
                if let Some(before) = self.live.insert(query.id, query) {
                    (self.held, self.outputs) = (self.held - before.counted, self.outputs - before.outputs);
                }
                self.shrink();
            }
            Seen::Given { query, stage, rows, bytes } => {
                let stage = self.live.get_mut(&query).and_then(|query| query.stages.get_mut(stage.0 as usize));
                stage.into_iter().for_each(|stage| stage.give(rows, bytes));
            }
            Seen::Tasks { query, stage, tasks, why } => {
                let mut room = self.room_for_outputs();
                let Some(query) = self.live.get_mut(&query) else { return };
                let before = query.outputs;
                query.set_tasks(stage.0, tasks, why, &mut room);
                self.outputs = self.outputs + query.outputs - before;
            }
            Seen::StageDone { query, stage } => {
                if let Some(query) = self.live.get_mut(&query) {
                    let at = query.since(now);
                    query.stages.get_mut(stage.0 as usize).into_iter().for_each(|stage| stage.done(at));
                }
            }
            Seen::Joined { worker, cpus, gpus, memory } => {
                self.workers.insert(worker.0, Worker { cpus, gpus, memory, ..Worker::default() });
            }
            Seen::Lost { worker, why } => self.lose(worker, why, now),
            Seen::Retired(worker) => {
                self.workers.get_mut(&worker.0).into_iter().for_each(|worker| worker.gone = true);
                self.forget_workers();
            }
            Seen::Pulse(worker, sample) => {
                let number = worker.0;
                if let Some(worker) = self.workers.get_mut(&number) {
                    // Of those that ran since it was heard of last, too.
                    let ended = self.ended.iter_mut().rev().take(JUST_ENDED);
                    let just_ended =
                        ended.take_while(|query| query.ended_at() >= worker.at).filter(|query| query.had(number));
                    for query in self.live.values_mut().chain(just_ended) {
                        query.used.heard(number, worker.sample, sample);
                    }
                    worker.before = Some((worker.sample.cpu, worker.at));
                    (worker.sample, worker.at) = (sample, now);
                }
            }
            Seen::ReplicaStarts { replica, step, worker } => {
                self.replicas.insert(replica, worker.0);
                self.step(step, now, |step, at| step.starts(replica, worker.0, at));
            }
            Seen::ReplicaSays { replica, doing } => self.steps(now, |step, _| step.says(replica, doing)),
            Seen::ReplicaReady(replica) => self.steps(now, |step, at| step.ready(replica, at)),
            Seen::Serves { replica, step } => self.step(step, now, |step, at| step.serves(replica, at)),
            Seen::ReplicaGone { replica, why } => self.replica_gone(replica, why, now),
            Seen::Credit { step, worker, batches } => {
                self.step(step, now, |step, at| step.credit(worker.0, batches, at));
            }
            Seen::ReplicaReports { step: StepId { query, stage, step }, metrics } => {
                let query = self.live.get_mut(&query).or_else(|| self.ended.iter_mut().rfind(|of| of.id == query));
                query.into_iter().for_each(|query| query.replica_reports(stage.0, step, metrics));
            }
            Seen::Done(query) => self.end(query, QueryState::Done, None, now),
            Seen::Failed(query, error) => self.end(query, QueryState::Failed, Some(error), now),
            Seen::Released(query) => self.release(query, now),
        }
        self.since_counted += 1;
        if self.since_counted >= COUNT_EACH {
            self.count();
        }
    }

    /// What a query does, or did, if it is known.
    pub fn profile(&self, query: QueryId, now: u64) -> Option<Profile> {
        let query = self.query(query)?;
        let mut profile = Profile {
            regatta_profile: VERSION,
            build: self.build.clone(),
            query: query.figures(self.epoch_ms, now),
            plan: query.plan.clone(),
            stages: query.stages.iter().map(stage::Stage::figures).collect(),
            edges: query.edges(),
            pools: query.pools(now),
            workers: self.workers_of(query),
            strips: query.busy.strips(),
            tasks: query.tasks(now),
            errors: query.errors.iter().cloned().collect(),
            findings: Vec::new(),
            dropped: query.dropped(),
            incomplete: query.incomplete.clone(),
        };
        (profile.query.workers, profile.query.cpus) = query.fleet.unwrap_or_else(|| self.fleet());
        profile.findings = findings(&profile);
        Some(profile)
    }

    /// Queries of which something is known: those that have ended, the oldest first, and then the others.
    pub fn queries(&self) -> impl Iterator<Item = QueryId> + '_ {
        self.ended.iter().map(|query| query.id).chain(self.live.keys().copied())
    }

    /// Whether something is known of a query.
    pub fn knows(&self, query: QueryId) -> bool {
        self.query(query).is_some()
    }

    /// What was left out, of all queries.
    pub fn dropped(&self) -> Dropped {
        let mut all = self.dropped;
        self.ended.iter().chain(self.live.values()).for_each(|query| all.merge(&query.dropped()));
        all
    }

    /// Bytes that all of it takes.
    pub fn bytes(&self) -> usize {
        let queries: usize = self.ended.iter().chain(self.live.values()).map(Query::bytes).sum();
        queries + self.workers.len() * WORKER + self.replicas.len() * REPLICA
    }

    fn query(&self, query: QueryId) -> Option<&Query> {
        self.live.get(&query).or_else(|| self.ended.iter().rfind(|of| of.id == query))
    }

    /// What each task has left may take half of it all.
    fn room_for_outputs(&self) -> usize {
        (self.limits.memory / 2).saturating_sub(self.outputs)
    }

    fn step(&mut self, StepId { query, stage, step }: StepId, now: u64, with: impl FnOnce(&mut step::Step, u64)) {
        let Some(query) = self.live.get_mut(&query) else { return };
        let at = query.since(now);
        let stage = query.stages.get_mut(stage.0 as usize);
        if let Some(step) = stage.and_then(|stage| stage.steps.get_mut(step as usize)) {
            with(step, at);
        }
    }

    fn steps(&mut self, now: u64, mut with: impl FnMut(&mut step::Step, u64)) {
        for query in self.live.values_mut() {
            let at = query.since(now);
            query.stages.iter_mut().flat_map(|stage| &mut stage.steps).for_each(|step| with(step, at));
        }
    }

    fn replica_gone(&mut self, replica: Replica, why: Gone<'_>, now: u64) {
        let on = self.replicas.remove(&replica);
        for query in self.live.values_mut() {
            let at = query.since(now);
            let mut wrong = None;
            for stage in &mut query.stages {
                for step in &mut stage.steps {
                    if !step.gone(replica, at) {
                        continue;
                    }
                    let udf = step.udf();
                    let what = match why {
                        Gone::Stopped => continue,
                        Gone::Failed(error) => format!("a replica of UDF {udf} has failed: {error}"),
                        Gone::Hung => format!("a replica of UDF {udf} hangs in a call"),
                    };
                    *(if why == Gone::Hung { &mut step.hung } else { &mut step.failed }) += 1;
                    wrong = Some((stage.figures.stage, what));
                }
            }
            if let Some((stage, what)) = wrong {
                query.went_wrong(now, Some(stage), None, on, &what);
            }
        }
    }

    fn lose(&mut self, worker: WorkerId, why: &str, now: u64) {
        let there: Vec<_> = self.replicas.iter().filter(|(_, on)| **on == worker.0).map(|(one, _)| *one).collect();
        self.replicas.retain(|_, on| *on != worker.0);
        self.steps(now, |step, at| step.lost(&there, at));
        self.live.values_mut().for_each(|query| query.lose(worker.0, why, now));
        if let Some(worker) = self.workers.get_mut(&worker.0) {
            self.totals.workers_lost += u64::from(!worker.gone);
            (worker.gone, worker.lost) = (true, Some((now, crate::text::ends(why, 200))));
        }
        self.forget_workers();
    }

    /// Of those that are gone, the ones that a query has had something of are kept, as far as they are not too many.
    fn forget_workers(&mut self) {
        if self.workers.values().filter(|worker| worker.gone).count() <= GONE {
            return;
        }
        let used: BTreeSet<u32> = self.live.values().chain(&self.ended).flat_map(|query| query.stages.iter()).fold(
            BTreeSet::new(),
            |mut used, stage| {
                used.extend(stage.workers().map(|(worker, ..)| worker));
                used
            },
        );
        self.workers.retain(|number, worker| !worker.gone || used.contains(number));
        let gone: Vec<u32> = self.workers.iter().filter(|(_, worker)| worker.gone).map(|(number, _)| *number).collect();
        gone.iter().take(gone.len().saturating_sub(GONE)).for_each(|number| _ = self.workers.remove(number));
    }

    /// Workers that are there, and their CPUs.
    fn fleet(&self) -> (u32, f64) {
        let there = self.workers.values().filter(|worker| !worker.gone);
        there.fold((0, 0.0), |(workers, cpus), worker| (workers + 1, cpus + worker.cpus))
    }

    fn end(&mut self, id: QueryId, state: QueryState, error: Option<&str>, now: u64) {
        let fleet = self.fleet();
        if let Some(query) = self.live.get_mut(&id) {
            query.fleet.get_or_insert(fleet);
            query.end(state, error, now);
        }
        // A query that has failed is not heard of again.
        if state == QueryState::Failed {
            self.release(id, now);
        }
    }

    fn release(&mut self, id: QueryId, now: u64) {
        let Some(mut query) = self.live.remove(&id) else { return };
        let before = query.counted;
        query.fleet.get_or_insert_with(|| self.fleet());
        self.outputs -= query.outputs;
        query.release(now);
        for (number, worker) in &self.workers {
            if query.had(*number) {
                query.used.ends(*number, worker.sample);
            }
        }
        self.totals.merge(&query.totals(now));
        query.counted = query.bytes();
        self.held = self.held + query.counted - before;
        self.ended.push_back(query);
        while self.ended.len() > self.limits.queries {
            self.drop_oldest();
        }
        self.shrink();
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(query) = self.ended.pop_front() else { return false };
        self.held -= query.counted;
        self.dropped.merge(&query.dropped());
        self.dropped.profiles += 1;
        true
    }

    /// Counts all bytes anew: those of queries that run grow with what happens.
    fn count(&mut self) {
        self.since_counted = 0;
        for query in self.ended.iter_mut().chain(self.live.values_mut()) {
            query.counted = query.bytes();
        }
        self.held = self.ended.iter().chain(self.live.values()).map(|query| query.counted).sum();
        self.shrink();
    }

    /// Stays within the bounds: first the oldest profiles go, then the resolution of what is left.
    fn shrink(&mut self) {
        let others = self.workers.len() * WORKER + self.replicas.len() * REPLICA;
        // With so many queries that nothing is left to let go it is tried again when there are more.
        let most = self.limits.memory.max(self.least + self.limits.memory / 16);
        if self.held + others <= most {
            self.least = if self.held + others <= self.limits.memory { 0 } else { self.least };
            return;
        }
        while self.held + others > self.limits.memory {
            if self.drop_oldest() {
                continue;
            }
            let is_large = |query: &Query| query.records.sampled() > 16 || !query.busy.is_empty();
            let largest = self.live.values().filter(|query| is_large(query)).map(|query| query.counted).max();
            if let Some(largest) = largest {
                // Those that are about as large have as much to lose.
                for query in self.live.values_mut().filter(|query| is_large(query) && query.counted >= largest / 2) {
                    if query.records.sampled() > 16 {
                        query.records.thin();
                    } else {
                        query.drop_strips();
                    }
                    self.held -= query.counted;
                    query.counted = query.bytes();
                    self.held += query.counted;
                }
                continue;
            }
            // What is left is the plans, and the sums of what runs, which are as many as the scheduler itself holds.
            for query in self.live.values_mut() {
                query.forget_outputs();
                self.held -= query.counted;
                query.counted = query.bytes();
                self.held += query.counted;
            }
            (self.outputs, self.least) = (0, self.held + others);
            return;
        }
    }

    /// Workers that had something of it, or that are there while it runs.
    fn workers_of(&self, query: &Query) -> Vec<WorkerFigures> {
        let mut all: BTreeMap<u32, WorkerFigures> = BTreeMap::new();
        if query.ended.is_none() {
            let there = self.workers.iter().filter(|(_, worker)| !worker.gone);
            all.extend(there.map(|(number, _)| (*number, WorkerFigures::default())));
        }
        for (number, attempts, busy) in query.stages.iter().flat_map(stage::Stage::workers) {
            let of = all.entry(number).or_default();
            (of.attempts, of.busy) = (of.attempts + attempts, of.busy + busy);
        }
        for (number, figures) in &mut all {
            figures.worker = *number;
            if let Some(worker) = self.workers.get(number) {
                (figures.cpus, figures.gpus, figures.memory) = (worker.cpus, worker.gpus, worker.memory);
                // What was lost when the query had ended is no loss to it.
                let lost = worker.lost.as_ref().filter(|(at, _)| query.ended.is_none_or(|end| query.since(*at) <= end));
                (figures.lost, figures.sample) =
                    (lost.map(|(_, why)| why.clone()), query.used.of(*number, worker.sample));
            }
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests;
