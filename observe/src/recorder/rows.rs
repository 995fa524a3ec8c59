//! Queries and workers in a line each, for who looks at the whole cluster.

use super::Recorder;
use super::query::Query;
use crate::text::{begins, ends};
use crate::{QueryId, QueryRow, QueryState, Sample, StageState, WorkerId};

/// Bytes of a text in a line, at its beginning and at its end.
const TEXT: usize = 100;
/// Bytes of an error in a line: what to do about it is its end.
const ERROR: usize = 800;

impl Recorder {
    /// How many queries run, and how many have ended and are remembered.
    pub fn known(&self) -> (usize, usize) {
        (self.live.len(), self.ended.len())
    }

    /// At most so many queries: those that run, the oldest first, then those that have ended, the newest first.
    pub fn rows(&self, most: usize, now: u64) -> Vec<(QueryId, QueryRow)> {
        let mut live: Vec<&Query> = self.live.values().collect();
        let by_age = |query: &&Query| (query.submitted, query.id);
        // There may be any number of them.
        if live.len() > most && most > 0 {
            live.select_nth_unstable_by_key(most - 1, by_age);
            live.truncate(most);
        }
        live.sort_unstable_by_key(by_age);
        let all = live.into_iter().chain(self.ended.iter().rev()).take(most);
        all.map(|query| (query.id, query.row(self.epoch_ms, now))).collect()
    }

    /// A query in a line, if it is known.
    pub fn row(&self, query: QueryId, now: u64) -> Option<QueryRow> {
        Some(self.query(query)?.row(self.epoch_ms, now))
    }

    /// The queries whose number, in hexadecimal digits, ends with these; two at most.
    pub fn ending_with(&self, digits: &str) -> Vec<QueryId> {
        let digits = digits.to_ascii_lowercase();
        self.queries().filter(|query| format!("{:016x}", query.0).ends_with(&digits)).take(2).collect()
    }

    /// What a worker's process uses, and how many CPUs are busy, once it has said so twice.
    pub fn usage(&self, worker: WorkerId) -> Option<(Sample, Option<f64>)> {
        self.workers.get(&worker.0).map(|worker| (worker.sample, worker.busy()))
    }
}

impl Query {
    fn row(&self, epoch_ms: u64, now: u64) -> QueryRow {
        let figures = self.figures(epoch_ms, now);
        let stages = || self.plan.stages.iter().zip(&self.stages).filter(|(plan, _)| !plan.given).map(|(_, of)| of);
        let is_done = |state| state == StageState::Done;
        let left = || stages().filter(|stage| !is_done(stage.figures.state));
        let at = left().find(|stage| stage.figures.state == StageState::Running).or_else(|| left().next());
        let runs = self.state == QueryState::Running;
        let since = self.ended.unwrap_or_else(|| self.since(now));
        let first = |error: &str| begins(error.lines().next().unwrap_or_default(), ERROR);
        QueryRow {
            time: figures.waited + figures.ran,
            error: figures.error.as_deref().map(first),
            id: figures.id,
            name: figures.name,
            state: self.state,
            submitted_ms: figures.submitted_ms,
            stages: (stages().count() as u32 - left().count() as u32, stages().count() as u32),
            doing: at.map(|stage| ends(&stage.label, TEXT)).unwrap_or_default(),
            tasks: at.map(|stage| (stage.ever_done, stage.figures.tasks)).unwrap_or_default(),
            running: if runs { stages().map(|stage| stage.figures.running).sum() } else { 0 },
            rows: at.filter(|_| runs).map_or(figures.rows, |stage| stage.figures.rows),
            rate: at.filter(|_| runs).and_then(|stage| stage.rates.rows_per_second(since)),
            waits: Vec::new(),
            driver: None,
        }
    }
}
