//! Of UDFs and their replicas.

use super::{SECOND, Said, time_of};
use crate::text::{count, percent, share, time};
use crate::{PoolFigures, Profile, StageFigures};

fn pools(profile: &Profile) -> impl Iterator<Item = (&PoolFigures, &StageFigures)> {
    profile.pools.iter().filter_map(|pool| Some((pool, profile.stage(pool.stage)?)))
}

fn thousandths(part: f64) -> String {
    percent((part * 1000.0) as u64, 1000)
}

fn name(pool: &PoolFigures) -> &str {
    pool.udf.rsplit("::").next().unwrap_or(&pool.udf)
}

pub(super) fn bound(profile: &Profile) -> Vec<Said> {
    let found = pools(profile).filter_map(|(pool, stage)| {
        let busy = pool.busy_share().filter(|busy| *busy > 0.9)?;
        let took = time_of(stage, profile);
        if took < SECOND || share(stage.spent.udf, stage.spent.time()) <= 0.5 {
            return None;
        }
        let (udf, waited) = (name(pool), time(stage.spent.udf));
        // Tasks that wait take no CPU.
        let working = pool.calls.busy.saturating_add(stage.spent.time().saturating_sub(stage.spent.udf));
        let idle = profile.cpus() - working as f64 / took as f64;
        let more = pool.most_ready.max(1) * 2;
        let (free, advice) = if idle >= 1.0 && pool.gpus == 0.0 {
            (format!(", {idle:.0} of {:.0} CPUs were idle", profile.cpus()), format!("Try .replicas(1..={more})"))
        } else {
            (String::new(), "Try larger batches, or more workers".to_owned())
        };
        let busy = thousandths(busy);
        let says = format!("bound by {udf}: tasks waited {waited} for it, its replicas were {busy} busy{free}.");
        Some(Said::of(stage.stage, says, advice))
    });
    found.collect()
}

pub(super) fn idle(profile: &Profile) -> Vec<Said> {
    let found = pools(profile).filter_map(|(pool, stage)| {
        let busy = pool.busy_share().filter(|busy| *busy < 0.2)?;
        let each = pool.alive / u64::from(pool.most_ready.max(1));
        if each <= 10 * SECOND {
            return None;
        }
        let (udf, most) = (name(pool), pool.most_ready);
        let says = format!("{most} replicas of {udf} served for {}, and were {} busy.", time(each), thousandths(busy));
        let advice = match (pool.batch, most) {
            (_, 0 | 1) => "Make its rows arrive sooner: what is before it in the stage takes the time.".to_owned(),
            (Some(batch), _) => format!(
                "Try fewer replicas, or more rows at once: each task should have at least {} rows for batches of {batch}",
                u64::from(batch) * u64::from(most) / profile.workers.len().max(1) as u64
            ),
            (None, _) => "Try fewer replicas, or more partitions".to_owned(),
        };
        Some(Said::of(stage.stage, says, advice))
    });
    found.collect()
}

pub(super) fn start(profile: &Profile) -> Vec<Said> {
    let found = pools(profile).filter_map(|(pool, stage)| {
        let each = pool.start / u64::from(pool.started.max(1));
        if profile.took() <= 2 * SECOND || share(each, profile.took()) <= 0.3 {
            return None;
        }
        let (part, took) = (percent(each, profile.took()), time(profile.took()));
        let says = format!("starting a replica of {} took {}, {part} of {took}.", name(pool), time(each));
        Some(Said::of(stage.stage, says, "Keep the pool warm (keep_warm), or persist what it made (persist_on)"))
    });
    found.collect()
}

pub(super) fn small_batches(profile: &Profile) -> Vec<Said> {
    let found = pools(profile).filter_map(|(pool, stage)| {
        let (batch, calls) = (u64::from(pool.batch?), pool.calls.call.count());
        let each = pool.calls.rows / calls.max(1);
        if calls < 16 || each.saturating_mul(2) >= batch || pool.calls.busy < SECOND {
            return None;
        }
        let says = format!("{} calls of {} had {each} rows each, of {batch} asked for.", count(calls), name(pool));
        Some(Said::of(stage.stage, says, "Try fewer, larger partitions, or a smaller batch"))
    });
    found.collect()
}

pub(super) fn gpu_fallback(profile: &Profile) -> Vec<Said> {
    let found = pools(profile).filter_map(|(pool, stage)| {
        let wants_gpu = profile.plan.udfs_of(pool.stage).any(|udf| udf.step == pool.step && udf.wants_gpu);
        let on_cpus = pool.reported.iter().find(|(name, _)| wants_gpu && name == "cpu_batches")?.1;
        let says = format!("{} ran {} batches on CPUs.", name(pool), count(on_cpus as u64));
        (on_cpus > 0.0)
            .then(|| Said::of(stage.stage, says, "session.status() says of each worker why it has no GPU that is free"))
    });
    found.collect()
}
