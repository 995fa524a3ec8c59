//! What waits for what, and since when: as data and as text.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use regatta_observe::{MetricsByUdf, QueryState, StageStands, Stands, line};
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::need::Need;
use super::pool::{Pool, PoolSpec, Pools};
use super::query::{Phase, Query};
use super::queues::Desk;
use super::resources::Bytes;
use super::{QueryId, Resources, StageId, WorkerId};

/// Where a query stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueryStatus {
    /// The whole of it: it is `Done` when its result is there, whether or not that was taken.
    pub state: QueryState,
    /// Its stages; the last one yields the result.
    pub stages: Vec<StageStatus>,
    /// What its UDFs have reported so far, by UDF; only in the status of one query, not in that of a session.
    pub metrics: MetricsByUdf,
}

/// Where a stage stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageStatus {
    /// What keeps it or some of its tasks from going on.
    pub waits: Vec<Wait>,
    /// For how long it has waited or run; for a stage that is done, how long it ran.
    pub time: Duration,
    /// Rows and bytes that its tasks have left so far.
    pub output: (u64, u64),
    /// Tasks that have not started, that run or wait at their worker, and that are done.
    pub tasks: (usize, usize, usize),
    /// Its UDF pools.
    pub pools: Vec<PoolStatus>,
}

/// Tasks, batches or a replica that do not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Wait {
    /// How many.
    pub count: usize,
    /// Of what: `task`, `replica` or `batch`; `shape`: it has not been decided yet how the stage runs.
    pub of: Cow<'static, str>,
    /// What they wait for.
    pub on: WaitsFor,
    /// For how long.
    pub time: Duration,
}

/// What something waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Stages that are read and not done.
    Inputs(Vec<StageId>),
    /// Any worker: there is none.
    Workers,
    /// A worker of its own: one was lost on which it ran beside tasks of other queries.
    Alone,
    /// Room on a worker: for what.
    Capacity(String),
    /// This worker and no other.
    Worker(WorkerId),
    /// The task that runs before it on its worker.
    TaskBefore,
    /// The next attempt: the last one failed.
    BackOff,
    /// A replica of this UDF to become ready.
    Replica(String),
    /// `start` of this UDF on this worker, with the last progress that it reported.
    Start(String, WorkerId, Option<String>),
    /// A replica of this UDF to have room for one more batch, for tasks on this worker.
    Credit(String, WorkerId),
}

/// Where a pool stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The UDF's registered name.
    pub udf: String,
    /// Replicas that take batches.
    pub ready: usize,
    /// How many of those have had nothing to do for a while.
    pub idle: usize,
    /// Replicas that are in `start`, with their last progress.
    pub starting: Vec<Option<String>>,
    /// Queries that use it now; one pool serves all that call the same UDF with the same arguments and options.
    pub queries: Vec<QueryId>,
    /// For how long nobody has used it: it is kept warm.
    pub unused: Option<Duration>,
}

/// Where a session stands: its workers and its queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Workers that have joined, by number.
    pub workers: Vec<WorkerStatus>,
    /// How many workers are wanted, and for how long, if not all of them have joined.
    pub wanted: Option<(usize, Duration)>,
    /// How many workers that were asked for ended before they joined, one after the other, and why the last did.
    pub not_joined: Option<(usize, String)>,
    /// What the pilot that places its workers waits for, if there is one.
    pub provider_waits: Option<String>,
    /// CPUs that what waits for room would take.
    pub backlog: f64,
    /// Queries that were submitted and not dropped, in the order in which it is their turn.
    pub queries: Vec<(QueryId, QueryStatus)>,
    /// Its UDF pools, those that are kept warm too.
    pub pools: Vec<PoolStatus>,
}

/// Where a worker stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number.
    pub worker: WorkerId,
    /// CPUs that it has, and how many of them are charged to tasks and replicas.
    pub cpus: (f64, f64),
    /// GPUs that it has, and how many of them are charged.
    pub gpus: (f64, f64),
    /// Bytes of memory that it has, and how many of them are charged.
    pub memory: (u64, u64),
    /// Tasks that run there, and that wait there for one of them to end.
    pub tasks: (usize, usize),
    /// How many of those nobody wants any more, though they have not ended yet, and for how long: of queries that have ended, or
    /// superseded. What cannot be interrupted keeps its CPU.
    pub leaving: Option<(usize, Duration)>,
    /// For how long it has had nothing to do and has held nothing that somebody needs. Only where workers come and go.
    pub idle: Option<Duration>,
    /// For how long it has not been heard of: nothing new is placed there.
    pub silent: Option<Duration>,
    /// For how long it has been leaving, and how long that may take yet: it gets nothing new, and what somebody needs of it is moved.
    pub drains: Option<(Duration, Duration)>,
    /// What its GPUs are, by their number on the worker.
    pub devices: Vec<GpuInfo>,
}

/// What a GPU is: as its driver says, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuInfo {
    /// What the maker calls it.
    pub name: String,
    /// As `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// The major and the minor number.
    pub compute_capability: (u32, u32),
    /// The driver's version of CUDA, major and minor.
    pub driver: (u32, u32),
    /// It is an instance on a GPU that is partitioned.
    pub mig: bool,
}

/// What of a status the scheduler knows and nobody else: what a stage waits for, and the pools that it uses.
#[derive(Debug)]
pub(crate) struct StageWaits {
    pub(crate) waits: Vec<Wait>,
    pub(crate) pools: Vec<PoolStatus>,
}

impl QueryStatus {
    /// What is observed of a query, and what its stages wait for, unless it has ended.
    pub(crate) fn new(stands: Stands, waits: Vec<StageWaits>) -> Self {
        let Stands { state, stages, reported } = stands;
        let mut waits = waits.into_iter();
        let stages = stages.into_iter().map(|stands| StageStatus::new(stands, waits.next())).collect();
        Self { state, stages, metrics: reported }
    }
}

impl StageStatus {
    fn new(StageStands { tasks, rows, bytes, time }: StageStands, waits: Option<StageWaits>) -> Self {
        let (waits, pools) = waits.map(|StageWaits { waits, pools }| (waits, pools)).unwrap_or_default();
        let tasks = (tasks.0 as usize, tasks.1 as usize, tasks.2 as usize);
        Self { waits, time: Duration::from_nanos(time), output: (rows, bytes), tasks, pools }
    }
}

impl StageWaits {
    pub(super) fn of(
        query: &Query,
        index: usize,
        pools: &Pools,
        (task, next): (Resources, Option<Need>),
        no_workers: bool,
        now: Instant,
    ) -> Self {
        let of_steps = query.spec.stages[index].pools.iter().zip(&query.stages[index].steps).map(|(spec, step)| {
            let pool = step.pool.and_then(|pool| pools.get(pool));
            pool.map_or_else(|| PoolStatus::none(spec), |pool| PoolStatus::of(pool, now))
        });
        Self { waits: waits(query, index, pools, (task, next), no_workers, now), pools: of_steps.collect() }
    }
}

impl PoolStatus {
    pub(super) fn of(pool: &Pool, now: Instant) -> Self {
        Self {
            udf: pool.spec.udf.clone(),
            ready: pool.ready().count(),
            idle: pool.ready().filter(|rank| pool.replicas[rank].idle.is_some()).count(),
            starting: pool.starting().map(|replica| replica.progress.clone()).collect(),
            queries: pool.queries(),
            unused: pool.unused.map(|since| now.duration_since(since)),
        }
    }

    /// There is none yet, or none any more.
    fn none(spec: &PoolSpec) -> Self {
        let (udf, starting, queries) = (spec.udf.clone(), Vec::new(), Vec::new());
        Self { udf, ready: 0, idle: 0, starting, queries, unused: None }
    }
}

impl WorkerStatus {
    pub(super) fn of(
        worker: WorkerId,
        ledger: &Ledger,
        desk: Desk,
        leaving: Option<(usize, Instant)>,
        idle: Option<Instant>,
        now: Instant,
    ) -> Self {
        let (all, charged) = ledger.account(worker).unwrap_or_default();
        let since = |at: Instant| now.duration_since(at);
        Self {
            worker,
            cpus: (all.as_cpus(), charged.as_cpus()),
            gpus: (all.as_gpus(), charged.as_gpus()),
            memory: (all.memory, charged.memory),
            tasks: (desk.running, desk.queued),
            leaving: leaving.map(|(count, at)| (count, since(at))),
            idle: idle.map(since),
            silent: ledger.silent_since(worker).map(since),
            drains: None,
            devices: Vec::new(),
        }
    }
}

/// What keeps a stage or some of its tasks from going on.
fn waits(
    query: &Query,
    index: usize,
    pools: &Pools,
    (task, next): (Resources, Option<Need>),
    no_workers: bool,
    now: Instant,
) -> Vec<Wait> {
    let (stage, spec) = (&query.stages[index], &query.spec.stages[index]);
    let mut waits = Vec::new();
    let mut wait = |count, of: &'static str, on, since| {
        if count > 0 {
            waits.push(Wait { count, of: of.into(), on, time: now.duration_since(since) });
        }
    };
    let used: Vec<_> = stage.steps.iter().map(|step| step.pool.and_then(|pool| pools.get(pool))).collect();
    let is_ready = |pool: &Option<&Pool>| pool.is_some_and(|pool| pool.ready().next().is_some());
    let not_ready = used.iter().zip(&spec.pools).find(|(pool, _)| !is_ready(pool));
    let since = stage.since.max(stage.moved);
    match (stage.phase, query.open.contains(&index)) {
        (Phase::Done, _) => (),
        // It has no tasks yet: what it reads has not been measured, or its reader has not decided whether it takes it in.
        (..) if !stage.is_launched => {
            let inputs = stage.readers.iter().flat_map(|reader| &query.spec.stages[*reader].inputs).chain(&spec.inputs);
            let missing = inputs.filter(|id| {
                id.0 as usize != index && query.stages.get(id.0 as usize).is_some_and(|s| s.phase != Phase::Done)
            });
            wait(1, "shape", WaitsFor::Inputs(missing.copied().collect()), stage.since);
        }
        (_, false) if query.inputs_done(index) => wait(stage.waiting.len(), "task", WaitsFor::Alone, since),
        (_, false) => {
            let missing =
                spec.inputs.iter().filter(|id| query.stages.get(id.0 as usize).is_some_and(|s| s.phase != Phase::Done));
            wait(stage.waiting.len(), "task", WaitsFor::Inputs(missing.copied().collect()), stage.since);
        }
        (Phase::Waiting | Phase::Running, true) if no_workers => {
            wait(stage.waiting.len(), "task", WaitsFor::Workers, since);
        }
        (Phase::Waiting, true) => {
            let udfs: String =
                spec.pools.iter().map(|pool| format!(" beside UDF {} ({})", pool.udf, pool.each)).collect();
            wait(stage.waiting.len(), "task", WaitsFor::Capacity(format!("{task}{udfs}")), stage.since);
        }
        (Phase::Running, true) => match not_ready {
            Some((_, spec)) => wait(stage.waiting.len(), "task", WaitsFor::Replica(spec.udf.clone()), stage.since),
            None => {
                let pinned: usize = stage.waiting.pinned().map(|(_, tasks)| tasks).sum();
                let room = next.map_or(task, |next| task.with_memory(next.least)).to_string();
                wait(stage.waiting.len() - pinned, "task", WaitsFor::Capacity(room), since);
                for (worker, tasks) in stage.waiting.pinned() {
                    wait(tasks, "task", WaitsFor::Worker(worker), since);
                }
            }
        },
    }
    wait(stage.queued, "task", WaitsFor::TaskBefore, since);
    let first = stage.delayed.values().min().copied().unwrap_or(now);
    wait(stage.delayed.len(), "task", WaitsFor::BackOff, first);
    for ((step, pool), spec) in stage.steps.iter().zip(&used).zip(&spec.pools) {
        for replica in pool.iter().flat_map(|pool| pool.starting()) {
            let on = WaitsFor::Start(spec.udf.clone(), replica.grant.worker, replica.progress.clone());
            wait(1, "replica", on, replica.since);
        }
        let missing = pool.map_or(0, |pool| pool.spec.least.saturating_sub(pool.alive()));
        wait(missing, "replica", WaitsFor::Capacity(format!("UDF {}, {}", spec.udf, spec.each)), stage.since);
        for (worker, (batches, since)) in &step.waiting {
            wait(*batches, "batch", WaitsFor::Credit(spec.udf.clone(), *worker), *since);
        }
    }
    waits
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.workers.iter().try_for_each(|worker| writeln!(f, "{worker}"))?;
        if let Some((wanted, time)) = self.wanted {
            writeln!(
                f,
                "{wanted} workers wanted, for {:.2} s; {} have joined",
                time.as_secs_f64(),
                self.workers.len()
            )?;
        }
        if let Some((count, why)) = &self.not_joined {
            writeln!(f, "{count} workers that were asked for ended before they joined; the last: {why}")?;
        }
        if let Some(waits) = &self.provider_waits {
            writeln!(f, "the cluster waits {waits}")?;
        }
        writeln!(f, "{} CPU of work waits for room", self.backlog)?;
        self.pools.iter().try_for_each(|pool| writeln!(f, "{pool}"))?;
        self.queries.iter().try_for_each(|(query, status)| write!(f, "{query}:\n{status}"))
    }
}

impl fmt::Display for WorkerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (worker, (all, charged)) = (self.worker, self.cpus);
        write!(f, "{worker}: {charged} of {all} CPU charged")?;
        if self.gpus.0 > 0.0 {
            write!(f, ", {} of {} GPU", self.gpus.1, self.gpus.0)?;
        }
        if self.memory.1 > 0 {
            write!(f, ", {} of {} of memory", Bytes(self.memory.1), Bytes(self.memory.0))?;
        }
        let (running, queued) = self.tasks;
        write!(f, "; {running} {}", if running == 1 { "task runs" } else { "tasks run" })?;
        if queued > 0 {
            write!(f, ", {queued} wait for them")?;
        }
        if let Some((count, time)) = self.leaving {
            let what = "that nobody wants any more have not ended";
            write!(f, "; {count} {what}, for {:.2} s", time.as_secs_f64())?;
        }
        if let Some(idle) = self.idle {
            write!(f, "; idle for {:.2} s", idle.as_secs_f64())?;
        }
        if let Some(silent) = self.silent {
            write!(f, "; silent for {:.2} s", silent.as_secs_f64())?;
        }
        if let Some((time, left)) = self.drains {
            write!(f, "; has been leaving for {:.2} s, is gone in {:.2} s", time.as_secs_f64(), left.as_secs_f64())?;
        }
        // Equal ones together.
        let mut kinds: Vec<(String, usize)> = Vec::new();
        for kind in self.devices.iter().map(GpuInfo::to_string) {
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            }
        }
        kinds.iter().try_for_each(|(kind, count)| write!(f, "; {count} GPU: {kind}"))
    }
}

impl fmt::Display for GpuInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((major, minor), (cuda, point)) = (self.compute_capability, self.driver);
        let mig = if self.mig { ", MIG instance" } else { "" };
        write!(f, "{} ({major}.{minor}, {}, CUDA {cuda}.{point}{mig})", self.name, Bytes(self.memory))
    }
}

impl fmt::Display for QueryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.stages.iter().enumerate() {
            let (pending, running, done) = stage.tasks;
            write!(f, "stage {index}: {done} of {} tasks done, {running} running", pending + running + done)?;
            let (rows, bytes) = stage.output;
            writeln!(
                f,
                "; {rows} rows, {:.1} MiB; {:.2} s",
                bytes as f64 / (1 << 20) as f64,
                stage.time.as_secs_f64()
            )?;
            stage.waits.iter().try_for_each(|wait| writeln!(f, "  {wait}"))?;
            for pool in &stage.pools {
                writeln!(f, "  {pool}")?;
            }
        }
        self.metrics.iter().try_for_each(|(udf, metrics)| writeln!(f, "UDF {} reports: {metrics}", line(udf)))
    }
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UDF {}: {} ready", line(&self.udf), self.ready)?;
        if self.idle > 0 {
            write!(f, ", {} of them idle", self.idle)?;
        }
        if self.queries.len() > 1 {
            write!(f, "; shared by {} queries", self.queries.len())?;
        }
        if let Some(unused) = self.unused {
            write!(f, "; kept warm, unused for {:.2} s", unused.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.count, &*self.of) {
            (1, of) => of.to_owned(),
            (_, "batch") => "batches".to_owned(),
            (_, of) => format!("{of}s"),
        };
        let wait = if self.count == 1 { "waits" } else { "wait" };
        write!(f, "{} {what} {wait} for {}, for {:.2} s", self.count, self.on, self.time.as_secs_f64())
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inputs(stages) => {
                let stages: Vec<_> = stages.iter().map(|stage| stage.0.to_string()).collect();
                write!(f, "stage {}", stages.join(", "))
            }
            Self::Workers => write!(f, "a worker to join"),
            Self::Alone => write!(f, "a worker of its own, because one was lost on which it ran beside other queries"),
            Self::Capacity(of) => write!(f, "room on a worker ({})", line(of)),
            Self::Worker(worker) => write!(f, "room on {worker} and no other"),
            Self::TaskBefore => write!(f, "the task before it on its worker"),
            Self::BackOff => write!(f, "the next attempt"),
            Self::Replica(udf) => write!(f, "a replica of UDF {} to become ready", line(udf)),
            Self::Start(udf, worker, progress) => {
                let said = line(progress.as_deref().unwrap_or("no word yet"));
                write!(f, "UDF {} to start on {worker}: {said}", line(udf))
            }
            Self::Credit(udf, worker) => write!(f, "room at a replica of UDF {}, on {worker}", line(udf)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_s_gpus_are_told_with_equal_ones_together() {
        let gpu = |uuid: &str, memory| GpuInfo {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            uuid: uuid.to_owned(),
            memory,
            compute_capability: (9, 0),
            driver: (12, 4),
            mig: false,
        };
        let whole = 85_520_809_984;
        let part =
            GpuInfo { name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".to_owned(), mig: true, ..gpu("MIG-c", 10 << 30) };
        let mut status = WorkerStatus {
            worker: WorkerId(3),
            cpus: (8.0, 1.0),
            gpus: (3.0, 0.5),
            memory: (0, 0),
            tasks: (1, 0),
            leaving: None,
            idle: None,
            silent: None,
            drains: None,
            devices: vec![gpu("GPU-a", whole), part, gpu("GPU-b", whole)],
        };
        assert_eq!(
            status.to_string(),
            "worker 3: 1 of 8 CPU charged, 0.5 of 3 GPU; 1 task runs; \
             2 GPU: NVIDIA H100 80GB HBM3 (9.0, 79.6 GiB, CUDA 12.4); \
             1 GPU: NVIDIA H100 80GB HBM3 MIG 1g.10gb (9.0, 10.0 GiB, CUDA 12.4, MIG instance)"
        );
        status.devices.clear();
        assert!(status.to_string().ends_with("; 1 task runs"), "{status}");
    }
}
