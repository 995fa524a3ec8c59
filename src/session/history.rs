//! What queries did, as frames.

use polars::prelude::*;
use regatta_observe::{Profile, StageFigures};

use super::Session;
use crate::actors::{Known, ProfileOf};
use crate::error::{ClusterError, Error, PolarsFailure};

/// What the queries did, and do, that a session or cluster knows of, as frames: see [`Session::observe`]. Times are in seconds, of a
/// query from its submit; [docs/book/src/observe.md](https://github.com/regatta/regatta/blob/main/docs/book/src/observe.md) says what the figures mean.
#[derive(Debug, Clone)]
pub struct History {
    profiles: Vec<Profile>,
}

impl Session {
    /// What the queries of this driver did, as far as it is kept, and do: the last 64 that have ended, the oldest first, and those that
    /// run. [`sql`](Self::sql) has the same as tables: `regatta_queries`, `regatta_stages` and so on.
    ///
    /// ```
    /// use regatta::{polars::prelude::*, prelude::*};
    ///
    /// let session = Session::native()?;
    /// df!["x" => [1, 2, 3]].unwrap().lazy().collect_on(&session)?;
    /// let queries = session.observe()?.queries()?;
    /// assert_eq!(queries.column("rows").unwrap().u64().unwrap().get(0), Some(3));
    /// # Ok::<(), regatta::Error>(())
    /// ```
    ///
    /// # Errors
    /// The session's threads or its cluster are gone.
    pub fn observe(&self) -> Result<History, Error> {
        let mut profiles = Vec::new();
        for query in self.inner.door.ask(self.host(), Known)? {
            // One may have been forgotten meanwhile.
            profiles.extend(self.inner.door.ask(self.host(), ProfileOf(query))?.map(|profile| *profile));
        }
        Ok(History { profiles })
    }
}

/// Seconds of nanoseconds.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn word(of: impl std::fmt::Debug) -> String {
    format!("{of:?}").to_lowercase()
}

/// The query of each row, and one column of each name.
macro_rules! frame {
    ($rows:expr, |$row:ident| { $($name:literal: $value:expr,)* }) => {{
        let rows: Vec<_> = $rows.collect();
        let queries: Vec<_> = rows.iter().map(|(query, _)| *query).collect();
        let frame = df!["query" => queries, $($name => rows.iter().map(|(_, $row)| $value).collect::<Vec<_>>()),*];
        frame.map_err(|e| ClusterError::network("make a frame of what was observed", PolarsFailure::from(e)).into())
    }};
}

impl History {
    /// What it was made of.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    fn rows<'a, T: 'a>(&'a self, of: impl Fn(&'a Profile) -> &'a [T]) -> impl Iterator<Item = (&'a str, &'a T)> {
        self.profiles.iter().flat_map(move |profile| of(profile).iter().map(|row| (profile.query.id.as_str(), row)))
    }

    fn of_stages<'a, T: 'a>(
        &'a self,
        of: impl Fn(&'a StageFigures) -> &'a [T] + 'a,
    ) -> impl Iterator<Item = (&'a str, (u32, &'a T))> {
        let stages = self.rows(|profile| &profile.stages);
        stages.flat_map(move |(query, stage)| of(stage).iter().map(move |row| (query, (stage.stage, row))))
    }

    /// All of it as [`Session::sql`] knows it, by name.
    pub(super) fn tables(&self) -> Result<Vec<(&'static str, DataFrame)>, Error> {
        Ok(vec![
            ("regatta_queries", self.queries()?),
            ("regatta_stages", self.stages()?),
            ("regatta_tasks", self.tasks()?),
            ("regatta_pools", self.pools()?),
            ("regatta_edges", self.edges()?),
            ("regatta_waits", self.waits()?),
            ("regatta_nodes", self.nodes()?),
            ("regatta_workers", self.workers()?),
            ("regatta_findings", self.findings()?),
            ("regatta_errors", self.errors()?),
        ])
    }

    /// One row for each query.
    ///
    /// # Errors
    /// Polars cannot make the frame.
    pub fn queries(&self) -> Result<DataFrame, Error> {
        frame!(self.profiles.iter().map(|profile| (profile.query.id.as_str(), profile)), |row| {
            "name": row.query.name.clone(),
            "state": word(row.query.state),
            "submitted_ms": row.query.submitted_ms,
            "planned": seconds(row.query.planned),
            "waited": seconds(row.query.waited),
            "ran": seconds(row.query.ran),
            "result": seconds(row.query.result),
            "rows": row.query.rows,
            "bytes": row.query.bytes,
            "busy": seconds(row.query.busy),
            "again": seconds(row.query.again),
            "findings": row.findings.len() as u64,
            "error": row.query.error.clone(),
        })
    }

    /// One row for each stage.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn stages(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.stages), |row| {
            "stage": row.stage,
            "state": word(row.state),
            "tasks": row.tasks,
            "done": row.done,
            "running": row.running,
            "failed": row.failed,
            "lost": row.lost,
            "again": row.again,
            "rows": row.rows,
            "bytes": row.bytes,
            "busy": seconds(row.busy),
            "fetch": seconds(row.spent.fetch),
            "engine": seconds(row.spent.engine),
            "udf": seconds(row.spent.udf),
            "write": seconds(row.spent.write),
            "p50": seconds(row.durations.quantile(0.5) * 1000),
            "longest": seconds(row.durations.most() * 1000),
        })
    }

    /// One row for each attempt of a task that is kept: those that run, that failed, that were slowest, and every so many-th.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn tasks(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.tasks), |row| {
            "stage": row.stage,
            "task": row.task,
            "attempt": row.attempt,
            "worker": row.worker,
            "outcome": word(row.outcome),
            "placed": seconds(row.placed),
            "ran": seconds(row.ran),
            "rows": row.rows,
            "bytes": row.bytes,
        })
    }

    /// One row for each UDF step.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn pools(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.pools), |row| {
            "stage": row.stage,
            "step": row.step,
            "udf": row.udf.clone(),
            "replicas": row.most_ready,
            "calls": row.calls.call.count(),
            "rows": row.calls.rows,
            "retried": row.calls.retried,
            "busy": seconds(row.calls.busy),
            "alive": seconds(row.alive),
            "start": seconds(row.start),
            "waited": seconds(row.waited),
        })
    }

    /// One row for what a stage has read of another.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn edges(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.edges), |row| {
            "from": row.from,
            "to": row.to,
            "rows": row.fetched.rows,
            "here": row.fetched.here,
            "mapped": row.fetched.mapped,
            "network": row.fetched.network,
            "relayed": row.fetched.relayed,
        })
    }

    /// One row for what a stage has waited for.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn waits(&self) -> Result<DataFrame, Error> {
        frame!(self.of_stages(|stage| &stage.waits), |row| {
            "stage": row.0,
            "kind": row.1.kind.clone(),
            "on": row.1.on.clone(),
            "time": seconds(row.1.time),
        })
    }

    /// One row for each node of Polars' engine, of queries that were analysed.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn nodes(&self) -> Result<DataFrame, Error> {
        frame!(self.of_stages(|stage| &stage.spent.nodes), |row| {
            "stage": row.0,
            "node": row.1.name.clone(),
            "nth": row.1.nth,
            "rows_in": row.1.rows_in,
            "rows_out": row.1.rows_out,
            "time": seconds(row.1.time),
            "io": seconds(row.1.io),
            "io_bytes": row.1.io_bytes,
        })
    }

    /// One row for each worker of each query.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn workers(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.workers), |row| {
            "worker": row.worker,
            "cpus": row.cpus,
            "attempts": row.attempts,
            "busy": seconds(row.busy),
            "peak": row.sample.peak,
            "lost": row.lost.clone(),
        })
    }

    /// One row for each finding.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn findings(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.findings), |row| {
            "stage": row.stage,
            "id": row.id.clone(),
            "severity": word(row.severity),
            "says": row.says.clone(),
            "advice": row.advice.clone(),
        })
    }

    /// One row for each error.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn errors(&self) -> Result<DataFrame, Error> {
        frame!(self.rows(|profile| &profile.errors), |row| {
            "at": seconds(row.at),
            "stage": row.stage,
            "task": row.task.map(|(task, _)| task),
            "attempt": row.task.map(|(_, attempt)| attempt),
            "worker": row.worker,
            "text": row.text.clone(),
        })
    }
}
