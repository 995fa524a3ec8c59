//! What a query waits for, and since when: as data and as text.

use std::fmt;
use std::time::{Duration, Instant};

use super::query::{Phase, Query, ReplicaState, TaskState};
use super::{QueryId, WorkerId};
use crate::udf::MetricsByUdf;

/// Where a query stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueryStatus {
    /// Its stages; the last one yields the result.
    pub stages: Vec<StageStatus>,
    /// What its UDFs have reported so far, by UDF; only in the status of one query, not in that of a session.
    pub metrics: MetricsByUdf,
}

/// Where a stage stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageStatus {
    /// What it waits for; `None` while it runs and when it is done.
    pub waits_for: Option<String>,
    /// For how long it has waited or run; for a stage that is done, how long it ran.
    pub time: Duration,
    /// Rows and bytes that its tasks have left so far.
    pub output: (u64, u64),
    /// Tasks that have not started, that run, and that are done.
    pub tasks: (usize, usize, usize),
    /// Its UDF pools.
    pub pools: Vec<PoolStatus>,
}

/// Where a pool stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The UDF's registered name.
    pub udf: String,
    /// Replicas that take batches.
    pub ready: usize,
    /// Replicas that are in `start`, with their last progress.
    pub starting: Vec<Option<String>>,
}

/// Where a session stands: its workers and its queries.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Workers that have joined, by number.
    pub workers: Vec<WorkerStatus>,
    /// CPUs that what waits for room would take.
    pub backlog: f64,
    /// Queries that were submitted and not dropped, in the order in which it is their turn.
    pub queries: Vec<(QueryId, QueryStatus)>,
}

/// Where a worker stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number.
    pub worker: WorkerId,
    /// CPUs that it has, and how many of them are charged to tasks and replicas.
    pub cpus: (f64, f64),
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for WorkerStatus { worker, cpus: (all, charged) } in &self.workers {
            writeln!(f, "{worker}: {charged} of {all} CPU charged")?;
        }
        writeln!(f, "{} CPU of work waits for room", self.backlog)?;
        self.queries.iter().try_for_each(|(query, status)| write!(f, "{query}:\n{status}"))
    }
}

impl QueryStatus {
    pub(super) fn of(query: &Query, now: Instant) -> Self {
        let stages = (0..query.stages.len()).map(|stage| stage_status(query, stage, now)).collect();
        Self { stages, metrics: MetricsByUdf::new() }
    }
}

fn stage_status(query: &Query, index: usize, now: Instant) -> StageStatus {
    let stage = &query.stages[index];
    let count = |which: fn(&TaskState) -> bool| stage.tasks.iter().filter(|task| which(&task.state)).count();
    let pools = stage.pools.iter().zip(&query.spec.stages[index].pools).map(|(pool, spec)| {
        let starting = pool.replicas.iter().filter(|r| r.state == ReplicaState::Starting);
        PoolStatus {
            udf: spec.udf.clone(),
            ready: pool.ready().count(),
            starting: starting.map(|r| r.progress.clone()).collect(),
        }
    });
    let waits_for = match stage.phase {
        Phase::Waiting if !query.inputs_done(index) => Some("its inputs"),
        Phase::Waiting => Some("room on a worker"),
        Phase::Running if !stage.is_served() => Some("a replica to become ready"),
        Phase::Running | Phase::Done => None,
    };
    StageStatus {
        waits_for: waits_for.map(str::to_owned),
        time: if stage.phase == Phase::Done { stage.ran } else { now.duration_since(stage.since) },
        output: stage.tasks.iter().fold((0, 0), |(rows, bytes), task| match task.state {
            TaskState::Done(_, output) => (rows + output.rows, bytes + output.bytes),
            _ => (rows, bytes),
        }),
        tasks: (
            count(|s| matches!(s, TaskState::Pending)),
            count(|s| matches!(s, TaskState::Running(_))),
            count(|s| matches!(s, TaskState::Done(..))),
        ),
        pools: pools.collect(),
    }
}

impl fmt::Display for QueryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.stages.iter().enumerate() {
            let (pending, running, done) = stage.tasks;
            write!(f, "stage {index}: {done} of {} tasks done, {running} running", pending + running + done)?;
            if let Some(what) = &stage.waits_for {
                write!(f, "; waits for {what}")?;
            }
            let (rows, bytes) = stage.output;
            writeln!(
                f,
                "; {rows} rows, {:.1} MiB; {:.2} s",
                bytes as f64 / (1 << 20) as f64,
                stage.time.as_secs_f64()
            )?;
            for pool in &stage.pools {
                write!(f, "  UDF {}: {} ready", pool.udf, pool.ready)?;
                for progress in &pool.starting {
                    write!(f, "; one starting: {}", progress.as_deref().unwrap_or("no word yet"))?;
                }
                writeln!(f)?;
            }
        }
        self.metrics.iter().try_for_each(|(udf, metrics)| writeln!(f, "UDF {udf} reports: {metrics}"))
    }
}
