//! What all queries did, together.

use super::Recorder;
use super::query::Query;
use crate::{QueryState, Totals};

impl Recorder {
    /// What all queries did since this began, also those that are forgotten: every figure only grows.
    pub fn totals(&self, now: u64) -> Totals {
        let mut all = self.totals.clone();
        self.live.values().for_each(|query| all.merge(&query.totals(now)));
        all.dropped = self.dropped();
        all
    }
}

impl Query {
    /// What this one did.
    pub(super) fn totals(&self, now: u64) -> Totals {
        let mut all = Totals { submitted: 1, ..Totals::default() };
        match self.state {
            QueryState::Running => (),
            QueryState::Done => all.done = 1,
            QueryState::Failed => all.failed = 1,
            QueryState::Cancelled => all.cancelled = 1,
        }
        self.ended.iter().for_each(|took| all.took.add(took / 1000));
        for stage in &self.stages {
            let (of, attempts) = (&stage.figures, &mut all.attempts);
            attempts.done.merge(&of.durations);
            attempts.failed += u64::from(of.failed);
            attempts.lost += u64::from(of.lost);
            attempts.stopped += u64::from(of.stopped);
            attempts.again += u64::from(of.again);
            attempts.fetch = attempts.fetch.saturating_add(of.spent.fetch);
            attempts.engine = attempts.engine.saturating_add(of.spent.engine);
            attempts.udf = attempts.udf.saturating_add(of.spent.udf);
            attempts.write = attempts.write.saturating_add(of.spent.write);
            stage.inputs.values().for_each(|fetched| all.fetched.merge(fetched));
            for wait in stage.waited_for() {
                let sum = all.waits.entry(wait.0.to_owned()).or_default();
                *sum = sum.saturating_add(wait.1);
            }
            for step in &stage.steps {
                let of = step.figures(stage.figures.stage, self.since(now));
                let sum = all.udf(&of.udf);
                sum.calls.merge(&of.calls);
                sum.started += u64::from(of.started);
                sum.start = sum.start.saturating_add(of.start);
                sum.failed += u64::from(of.failed);
                sum.hung += u64::from(of.hung);
                sum.lost += u64::from(of.lost);
                sum.waited = sum.waited.saturating_add(of.waited);
            }
        }
        all
    }
}
