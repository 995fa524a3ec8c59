//! What a page shows of a query's profile: what is long is left out, or told in parts. Pure.

use regatta_observe::{
    Calls, EdgeFigures, ErrorRecord, Finding, Histogram, Outcome, PoolFigures, Profile, QueryFigures, StageFigures,
    StagePlan, TaskRecord, WaitFigures,
};
use serde_json::{Value, json};

/// Stages that are told of, and that are drawn: of more a picture says nothing.
const STAGES: usize = 400;
const DRAWN: usize = 120;
/// What a stage has waited for: so many of it.
const WAITS: usize = 5;
/// Errors.
const ERRORS: usize = 100;
/// Lanes of a timeline at once, and points of each.
const LANES: usize = 64;
const POINTS: usize = 240;
/// Attempts of tasks at once.
const TASKS: usize = 1000;

/// All of it but single tasks and lanes.
pub(crate) fn summary(profile: &Profile) -> Value {
    let Profile { query, plan, stages, edges, pools, workers, errors, findings, dropped, incomplete, .. } = profile;
    let stage = |figures: &StageFigures| stage(figures, &plan.label(figures.stage), plan.stage(figures.stage));
    let query: &QueryFigures = query;
    let findings: &[Finding] = findings;
    let errors: &[ErrorRecord] = &errors[errors.len().saturating_sub(ERRORS)..];
    let edges: &[EdgeFigures] = &edges[..edges.len().min(2 * STAGES)];
    json!({
        "query": query,
        "took": profile.took(),
        "cpus": profile.cpus(),
        "exchanged": profile.exchanged(),
        "picture": (plan.stages.len() <= DRAWN).then(|| profile.to_picture()),
        "stages": stages.iter().take(STAGES).map(stage).collect::<Value>(),
        "stages_left_out": stages.len().saturating_sub(STAGES),
        "edges": edges,
        "pools": pools.iter().take(STAGES).map(pool).collect::<Value>(),
        "workers": workers.len(),
        "errors": errors,
        "findings": findings,
        "dropped": dropped,
        "incomplete": incomplete,
    })
}

fn spread(of: &Histogram) -> Value {
    json!({ "count": of.count(), "p50": of.quantile(0.5), "p99": of.quantile(0.99), "most": of.most() })
}

fn stage(of: &StageFigures, label: &str, plan: Option<&StagePlan>) -> Value {
    let mut waits: Vec<&WaitFigures> = of.waits.iter().collect();
    waits.sort_by_key(|wait| std::cmp::Reverse(wait.time));
    waits.truncate(WAITS);
    let spent = &of.spent;
    json!({
        "stage": of.stage,
        "label": label,
        "why": plan.map(|plan| plan.why.as_str()),
        "given": plan.is_some_and(|plan| plan.given),
        "state": of.state,
        "tasks": of.tasks,
        "tasks_before": of.tasks_before,
        "shape": of.shape,
        "running": of.running,
        "done": of.done,
        "enough": of.enough,
        "failed": of.failed,
        "lost": of.lost,
        "stopped": of.stopped,
        "again": of.again,
        "started": of.started,
        "ended": of.ended,
        "rows": of.rows,
        "bytes": of.bytes,
        "busy": of.busy,
        "busy_again": of.busy_again,
        "fetch": spent.fetch,
        "engine": spent.engine,
        "udf": spent.udf,
        "write": spent.write,
        "durations": spread(&of.durations),
        "rows_each": spread(&of.rows_each),
        "slowest": of.slowest,
        "workers": of.workers.len(),
        "waits": waits,
    })
}

fn pool(of: &PoolFigures) -> Value {
    let calls: &Calls = &of.calls;
    json!({
        "stage": of.stage,
        "step": of.step,
        "udf": of.udf,
        "replicas": of.replicas,
        "batch": of.batch,
        "gpus": of.gpus,
        "ready": of.ready,
        "most_ready": of.most_ready,
        "starting": of.starting,
        "started": of.started,
        "failed": of.failed,
        "hung": of.hung,
        "lost": of.lost,
        "start": of.start,
        "busy": of.busy_share(),
        "rows": calls.rows,
        "calls": spread(&calls.call),
        "retried": calls.retried,
        "waiting": of.waiting,
        "waited": of.waited,
        "reported": of.reported,
    })
}

/// How many attempts ran at once on each worker, over the query's time: of so many workers from the one at this place on. Bins are
/// put together until there are few enough.
pub(crate) fn timeline(profile: &Profile, from: usize) -> Value {
    let strips = &profile.strips;
    let longest = strips.workers.iter().map(|(_, bins)| bins.len()).max().unwrap_or(0);
    let together = longest.div_ceil(POINTS).max(1);
    let bin = strips.bin.saturating_mul(together as u64);
    let lanes = strips.workers.iter().skip(from).take(LANES).map(|(number, bins)| {
        let busy = bins.chunks(together).map(|bins| bins.iter().fold(0, |sum: u64, bin| sum.saturating_add(*bin)));
        let tenths = busy.map(|busy| (busy as f64 * 10.0 / bin.max(1) as f64).round() as u64);
        let worker = profile.workers.iter().find(|worker| worker.worker == *number);
        json!({
            "worker": number,
            "cpus": worker.map(|worker| worker.cpus),
            "lost": worker.and_then(|worker| worker.lost.as_ref()),
            "tenths": tenths.collect::<Vec<_>>(),
        })
    });
    json!({ "bin": bin, "from": from, "all": strips.workers.len(), "lanes": lanes.collect::<Value>(), "dropped": profile.dropped.strips })
}

/// Which attempts of tasks are wanted, in which order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) stage: Option<u32>,
    pub(crate) worker: Option<u32>,
    pub(crate) outcome: Option<String>,
    /// `ran`, `rows`, `bytes` or `placed`: the most first, but the earliest placed.
    pub(crate) sort: String,
    pub(crate) skip: usize,
    pub(crate) limit: usize,
}

/// Some attempts of tasks, of those that are kept.
pub(crate) fn tasks(profile: &Profile, wanted: &Wanted) -> Value {
    let outcome = |outcome: Outcome| format!("{outcome:?}").to_lowercase();
    let mut tasks: Vec<&TaskRecord> = profile.tasks.iter().collect();
    tasks.retain(|task| {
        wanted.stage.is_none_or(|stage| task.stage == stage)
            && wanted.worker.is_none_or(|worker| task.worker == worker)
            && wanted.outcome.as_ref().is_none_or(|wanted| outcome(task.outcome) == *wanted)
    });
    let most = |figure: fn(&TaskRecord) -> u64| {
        move |task: &&TaskRecord| (std::cmp::Reverse(figure(task)), task.stage, task.task, task.attempt)
    };
    match wanted.sort.as_str() {
        "rows" => tasks.sort_by_key(most(|task| task.rows)),
        "bytes" => tasks.sort_by_key(most(|task| task.bytes)),
        "placed" => tasks.sort_by_key(|task| (task.placed, task.stage, task.task, task.attempt)),
        _ => tasks.sort_by_key(most(|task| task.ran)),
    }
    let all = tasks.len();
    let rows: Vec<_> = tasks.into_iter().skip(wanted.skip).take(wanted.limit.min(TASKS)).collect();
    json!({ "rows": rows, "all": all, "kept": profile.tasks.len(), "left_out": profile.dropped.tasks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline() -> Profile {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../observe/golden/pipeline.json");
        Profile::from_json(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    #[test]
    fn a_summary_says_what_the_profile_says() {
        let profile = pipeline();
        let summary = summary(&profile);
        assert_eq!(summary["query"]["rows"], profile.query.rows);
        assert_eq!(summary["stages"].as_array().unwrap().len(), profile.stages.len());
        let stage = &summary["stages"][0];
        assert_eq!((&stage["done"], &stage["durations"]["count"]), (&json!(4), &json!(4)));
        assert_eq!(stage["durations"]["most"], profile.stages[0].durations.most());
        assert_eq!(summary["picture"]["stages"].as_array().unwrap().len(), 4);
        assert_eq!(summary["pools"][0]["udf"], "demo::Embed");
        assert_eq!(summary["findings"][0]["id"], "pool-bound");
    }

    #[test]
    fn lanes_hold_the_same_time_however_many_bins_are_put_together() {
        let profile = pipeline();
        let (bin, (worker, bins)) = (profile.strips.bin, &profile.strips.workers[0]);
        let timeline = timeline(&profile, 0);
        let lane = &timeline["lanes"][0];
        assert_eq!(lane["worker"], *worker);
        let tenths: Vec<_> = lane["tenths"].as_array().unwrap().iter().map(|tenths| tenths.as_f64().unwrap()).collect();
        assert!(tenths.len() <= POINTS && tenths.len() > POINTS / 3);
        let told = tenths.iter().sum::<f64>() / 10.0 * timeline["bin"].as_f64().unwrap();
        let busy = bins.iter().sum::<u64>() as f64;
        assert!((told - busy).abs() < 0.05 * busy + bin as f64, "{told} {busy}");
        assert_eq!(super::timeline(&profile, 1)["lanes"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn tasks_come_by_pages_in_the_order_that_was_asked_for() {
        let profile = pipeline();
        let page = |wanted: &Wanted| tasks(&profile, wanted);
        let longest = page(&Wanted { limit: 5, ..Wanted::default() });
        let ran: Vec<_> = longest["rows"].as_array().unwrap().iter().map(|row| row["ran"].as_u64().unwrap()).collect();
        assert!(ran.len() == 5 && ran.is_sorted_by(|a, b| a >= b), "{ran:?}");
        let next = page(&Wanted { skip: 4, limit: 1, ..Wanted::default() });
        assert_eq!(next["rows"][0], longest["rows"][4]);
        let of_stage = page(&Wanted { stage: Some(0), sort: "placed".into(), limit: 9999, ..Wanted::default() });
        assert_eq!((&of_stage["all"], of_stage["rows"].as_array().unwrap().len()), (&json!(4), 4));
        assert_eq!(page(&Wanted { outcome: Some("failed".into()), limit: 9, ..Wanted::default() })["all"], 0);
        assert_eq!(page(&Wanted { worker: Some(99), limit: 9, ..Wanted::default() })["all"], 0);
    }
}
