//! Where a query stands, in the few figures of a status.

use super::Recorder;
use super::query::Query;
use super::stage::Stage;
use crate::{MetricsByUdf, QueryId, QueryState, StageState};

/// Where a query stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stands {
    /// The whole of it.
    pub state: QueryState,
    /// Its stages, in order.
    pub stages: Vec<StageStands>,
    /// What its UDFs have reported about themselves.
    pub reported: MetricsByUdf,
}

/// Where a stage stands. Rows and bytes are of outputs that stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageStands {
    /// Tasks that have not started, that run or wait at their worker, and that are done.
    pub tasks: (u32, u32, u32),
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// How long it has waited or run, or how long it ran, in nanoseconds.
    pub time: u64,
}

impl Recorder {
    /// Where a query stands, if it is known.
    pub fn stands(&self, query: QueryId, now: u64) -> Option<Stands> {
        let query = self.query(query)?;
        let stages = query.stages.iter().map(|stage| query.stage_stands(stage, now)).collect();
        Some(Stands { state: query.state, stages, reported: query.reported.clone() })
    }
}

impl Query {
    fn stage_stands(&self, stage: &Stage, now: u64) -> StageStands {
        let figures = &stage.figures;
        let now = self.ended.unwrap_or_else(|| self.since(now));
        let until = figures.ended.filter(|_| figures.state == StageState::Done).unwrap_or(now);
        let left = figures.tasks.unwrap_or(0).saturating_sub(figures.done + figures.running);
        StageStands {
            // What nobody needs any more does not wait.
            tasks: (if figures.enough { 0 } else { left }, figures.running, figures.done),
            rows: figures.rows,
            bytes: figures.bytes,
            time: until.saturating_sub(figures.started.unwrap_or(0)),
        }
    }
}
