//! Of workers, what went between them, and what went wrong.

use std::collections::BTreeMap;

use super::Said;
use crate::Profile;
use crate::text::{bytes, count, percent, share, time};

pub(super) fn memory(profile: &Profile) -> Vec<Said> {
    let found = profile.workers.iter().filter_map(|worker| {
        let limit = worker.memory;
        if limit == 0 || share(worker.sample.peak, limit) <= 0.9 {
            return None;
        }
        let (peak, part) = (bytes(worker.sample.peak), percent(worker.sample.peak, limit));
        let says = format!("worker {} came to {peak}, {part} of its memory.", worker.worker);
        Some(Said { stage: None, says, advice: "Try more memory, more partitions, or fewer tasks at once".to_owned() })
    });
    found.collect()
}

pub(super) fn relayed(profile: &Profile) -> Vec<Said> {
    let all = profile.exchanged();
    if all.relayed < 1 << 20 || share(all.relayed, all.bytes()) <= 0.1 {
        return Vec::new();
    }
    let (part, relayed) = (percent(all.relayed, all.bytes()), bytes(all.relayed));
    let says = format!("{relayed}, {part} of what stages read of each other, went by way of another node.");
    let advice = "Let the workers reach each other: open their UDP ports between their machines".to_owned();
    vec![Said { stage: None, says, advice }]
}

pub(super) fn retries(profile: &Profile) -> Vec<Said> {
    let found = profile.stages.iter().filter_map(|stage| {
        let attempts = u64::from(stage.failed) + stage.durations.count();
        let retried = profile.pools_of(stage.stage).map(|pool| pool.calls.retried).fold(0, u64::saturating_add);
        let is_much = share(stage.failed.into(), attempts) > 0.01;
        if !is_much && retried == 0 {
            return None;
        }
        let mut says = Vec::new();
        if is_much {
            says.push(format!("{} of {} attempts failed", stage.failed, count(attempts)));
        }
        if retried > 0 {
            says.push(format!("{} UDF calls were made again", count(retried)));
        }
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for error in profile.errors.iter().filter(|error| error.stage == Some(stage.stage)) {
            *kinds.entry(error.text.lines().next().unwrap_or_default()).or_default() += 1;
        }
        let most = kinds.into_iter().max_by_key(|(_, times)| *times);
        let most =
            most.map(|(text, times)| format!("; {times} x {}", crate::text::begins(&crate::text::line(text), 400)));
        let says = format!("{}{}.", says.join(", "), most.unwrap_or_default());
        Some(Said::of(stage.stage, says, "The errors of the profile say why"))
    });
    found.collect()
}

pub(super) fn lost(profile: &Profile) -> Vec<Said> {
    let found = profile.workers.iter().filter_map(|worker| {
        let why = worker.lost.as_ref()?;
        let lost: u64 = profile.stages.iter().map(|stage| u64::from(stage.lost + stage.again)).sum();
        let again = if lost == 0 {
            String::new()
        } else {
            format!("; {lost} attempts were lost or did again what had been done, {}", time(profile.query.again))
        };
        let says = format!("worker {} was lost: {}{again}.", worker.worker, crate::text::line(why));
        Some(Said { stage: None, says, advice: "See why: its process ended, or could not be reached".to_owned() })
    });
    found.collect()
}
