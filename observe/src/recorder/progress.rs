//! Where a query stands, from its figures.

use super::query::Query;
use super::rates::Estimate;
use super::stage::Stage;
use super::{Recorder, Worker};
use crate::text::plural;
use crate::{PoolProgress, Progress, QueryId, StagePlan, StageProgress, StageState};

impl Recorder {
    /// Where a query stands, if it is known.
    pub fn progress(&self, query: QueryId, now: u64) -> Option<Progress> {
        let query = self.query(query)?;
        let figures = query.figures(self.epoch_ms, now);
        let there = || self.workers.values().filter(|worker| !worker.gone);
        let busy: Option<Vec<f64>> = there().map(Worker::busy).collect();
        let memory = there().fold(0_u64, |all, worker| all.saturating_add(worker.sample.memory));
        let limit = there().fold(0_u64, |all, worker| all.saturating_add(worker.memory));
        let stages = query.plan.stages.iter().zip(&query.stages);
        let stages: Vec<_> = stages.map(|(plan, stage)| query.stage_progress(plan, stage, now)).collect();
        let in_udfs = |stage: &Stage| stage.figures.spent.udf;
        let waited = query.stages.iter().map(in_udfs).fold(0, u64::saturating_add);
        let most = query.stages.iter().max_by_key(|stage| in_udfs(stage)).and_then(|stage| stage.steps.first());
        Some(Progress {
            id: figures.id,
            name: figures.name,
            state: query.state,
            error: figures.error,
            time: figures.waited + figures.ran,
            stages,
            workers: there().count() as u32,
            cpus: there().map(|worker| worker.cpus).sum(),
            cpus_busy: busy.filter(|busy| !busy.is_empty()).map(|busy| busy.iter().sum()),
            memory: (memory > 0).then_some((memory, limit)),
            peak: self.workers_of(query).iter().map(|worker| worker.sample.peak).max().unwrap_or(0),
            rows: figures.rows,
            udf: most
                .filter(|_| waited > 0)
                .map(|step| (crate::text::share(waited, figures.busy).min(1.0), step.udf().to_owned())),
            notes: query.notes(now),
        })
    }
}

impl Worker {
    /// CPUs that are busy, between its last two samples.
    pub(super) fn busy(&self) -> Option<f64> {
        let (cpu, at) = self.before.filter(|(_, at)| *at > 0 && *at < self.at)?;
        Some(self.sample.cpu.saturating_sub(cpu) as f64 / (self.at - at) as f64)
    }
}

impl Query {
    fn stage_progress(&self, plan: &StagePlan, stage: &Stage, now: u64) -> StageProgress {
        let now = self.ended.unwrap_or_else(|| self.since(now));
        let figures = &stage.figures;
        let is_running = figures.state == StageState::Running && self.ended.is_none();
        let estimate = is_running.then(|| stage.rates.estimate(stage.standing(), now));
        let (left, no_estimate) = match estimate {
            Some(Estimate::Left(from, to)) => (Some((from, to)), None),
            Some(Estimate::None(why)) => (None, Some(why)),
            None => (None, None),
        };
        let is_done =
            |stage: u32| self.stages.get(stage as usize).is_none_or(|stage| stage.figures.state == StageState::Done);
        StageProgress {
            stage: plan.stage,
            label: stage.label.clone(),
            state: figures.state,
            given: plan.given,
            tasks: figures.tasks,
            tasks_before: figures.tasks_before,
            done: stage.ever_done,
            running: figures.running,
            rows: figures.rows,
            bytes: figures.bytes,
            rate: if is_running { stage.rates.rows_per_second(now) } else { None },
            time: figures.started.map_or(0, |at| figures.ended.unwrap_or(now).saturating_sub(at)),
            left,
            no_estimate,
            waits_for: plan.reads.iter().map(|read| read.stage).filter(|stage| !is_done(*stage)).collect(),
            pools: stage.steps.iter().map(|step| pool(step, plan.stage, now)).collect(),
        }
    }

    /// What went wrong and was made good, or is being.
    fn notes(&self, now: u64) -> Vec<String> {
        let now = self.since(now);
        let sum = |of: fn(&Stage) -> u64| self.stages.iter().map(of).sum::<u64>();
        let (again, failed) = (sum(|stage| stage.figures.again.into()), sum(|stage| stage.figures.failed.into()));
        let lost = sum(|stage| stage.figures.lost.into());
        let last = self.errors.back();
        let ago = last.map(|error| crate::text::time(now.saturating_sub(error.at) / 1_000_000_000 * 1_000_000_000));
        let mut notes = Vec::new();
        if again + lost > 0 {
            notes.push(format!("{} again: a worker was lost, or what it held", runs(again + lost)));
        }
        if failed > 0 {
            notes.push(format!(
                "{} failed, and {} again",
                plural(failed, "attempt"),
                if failed == 1 { "runs" } else { "run" }
            ));
        }
        if let (Some(error), Some(ago)) = (last, ago) {
            let first = error.text.lines().next().unwrap_or_default();
            notes.push(format!("{ago} ago: {}", crate::text::line(first)));
        }
        notes
    }
}

fn runs(tasks: u64) -> String {
    format!("{} {}", plural(tasks, "task"), if tasks == 1 { "ran" } else { "run" })
}

fn pool(step: &super::step::Step, stage: u32, now: u64) -> PoolProgress {
    let figures = step.figures(stage, now);
    PoolProgress {
        busy: figures.busy_share(),
        ready: figures.ready,
        most: figures.replicas.1,
        waiting: figures.waiting,
        starting: step.longest_start(now).map(|(time, worker, word)| (time, worker, word.map(str::to_owned))),
        udf: figures.udf,
    }
}
