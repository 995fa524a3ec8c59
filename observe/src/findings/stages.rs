//! Of stages and their tasks.

use super::{SECOND, Said, time_of};
use crate::text::{count, percent, share, time};
use crate::{Profile, StageFigures};

fn stages(profile: &Profile, rule: impl Fn(&StageFigures) -> Option<(String, String)>) -> Vec<Said> {
    let found = profile.stages.iter().filter_map(|stage| {
        let (says, advice) = rule(stage)?;
        Some(Said::of(stage.stage, says, advice))
    });
    found.collect()
}

/// Stages of no task.
fn is_given(profile: &Profile, stage: &StageFigures) -> bool {
    profile.plan.stage(stage.stage).is_some_and(|plan| plan.given)
}

pub(super) fn skew(profile: &Profile) -> Vec<Said> {
    stages(profile, |stage| {
        let (half, most) = (stage.durations.quantile(0.5) * 1000, stage.durations.most() * 1000);
        let tail = most.saturating_sub(stage.durations.quantile(0.75) * 1000);
        let (task, worker, _) = stage.slowest?;
        if stage.durations.count() < 4 || most <= 3 * half || tail * 10 <= profile.took() || tail < SECOND / 2 {
            return None;
        }
        let (each, rows) = (stage.rows_each.quantile(0.5).max(1), stage.largest.map_or(0, |(_, _, rows)| rows));
        let by_rows = stage.largest.is_some_and(|(largest, ..)| largest == task) && rows > 3 * each;
        let longer = time(tail);
        Some(if by_rows {
            let times = rows as f64 / each as f64;
            let says = format!(
                "skewed: task {task} on worker {worker} left {times:.1}x the middle one's rows, and ran {longer} longer than most."
            );
            (says, "Try to repartition by another key, or into more partitions".to_owned())
        } else {
            let times = most as f64 / half.max(1) as f64;
            let says = format!(
                "skewed: task {task} on worker {worker} took {times:.1}x the middle one's time, {longer} longer than most, and left no more rows."
            );
            (says, "Look at what it reads and at its worker; try more partitions".to_owned())
        })
    })
}

pub(super) fn whole(profile: &Profile) -> Vec<Said> {
    stages(profile, |stage| {
        let took = time_of(stage, profile);
        let is_alone = stage.tasks == Some(1) && !is_given(profile, stage);
        // One worker gives all of its threads to one task.
        let workers = profile.workers.len().max(profile.query.workers as usize);
        if !is_alone || workers < 2 || profile.took() <= 2 * SECOND || share(took, profile.took()) <= 0.5 {
            return None;
        }
        let why = profile.plan.stage(stage.stage).map(|plan| plan.why.as_str()).unwrap_or_default();
        let says = format!("one task took {} of the query: {why}.", percent(took, profile.took()));
        Some((says, "Do what is row-wise before it, or split it by a key".to_owned()))
    })
}

pub(super) fn tiny_tasks(profile: &Profile) -> Vec<Said> {
    stages(profile, |stage| {
        let half = stage.durations.quantile(0.5);
        if stage.durations.count() <= 10_000 || half >= 5_000 {
            return None;
        }
        let says =
            format!("{} tasks, half of which took less than {}.", count(stage.durations.count()), time(half * 1000));
        Some((says, format!("Try into_partitions({})", (profile.cpus() as u32).max(1) * 4)))
    })
}

pub(super) fn few_tasks(profile: &Profile) -> Vec<Said> {
    stages(profile, |stage| {
        let tasks = stage.tasks.filter(|tasks| *tasks > 1 && !is_given(profile, stage))?;
        let (took, cpus) = (time_of(stage, profile), profile.cpus());
        if f64::from(tasks) >= cpus || profile.took() <= 2 * SECOND || share(took, profile.took()) <= 0.5 {
            return None;
        }
        let says = format!("{tasks} tasks for {cpus:.0} CPUs, and {} of the query.", percent(took, profile.took()));
        Some((says, format!("Try into_partitions({})", (cpus * 2.0) as u32)))
    })
}

pub(super) fn waited(profile: &Profile) -> Vec<Said> {
    let waited = profile.query.waited;
    if waited <= SECOND || share(waited, profile.took()) <= 0.2 {
        return Vec::new();
    }
    let says =
        format!("waited {} before its first task, {} of its time.", time(waited), percent(waited, profile.took()));
    let waits = profile.stages.iter().flat_map(|stage| &stage.waits);
    let longest =
        waits.filter(|wait| ["capacity", "workers", "alone", "replica", "start"].contains(&wait.kind.as_str()));
    let longest = longest.max_by_key(|wait| wait.time);
    let on = longest.map(|wait| format!(" It waited for {}.", wait.on));
    let advice = match longest.map(|wait| &*wait.kind) {
        Some("replica" | "start") => {
            "Try a shorter `start` of the UDF, or keep its replicas warm for longer (REGATTA_POOL_WARM_SECONDS)"
        }
        _ => "Try more workers, a smaller request of its UDFs, or fewer queries at once",
    };
    vec![Said { stage: None, says: format!("{says}{}", on.unwrap_or_default()), advice: advice.to_owned() }]
}
