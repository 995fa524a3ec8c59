//! What can never be placed is refused at once.

use super::Core;
use crate::error::{ClusterError, Error};
use crate::sched::ledger::Ledger;
use crate::sched::pool::distinct;
use crate::sched::query::{QuerySpec, StageSpec};
use crate::sched::{Affinity, Resources, WorkerId};

impl Core {
    /// What of this query could not be placed even if every worker were idle, and all that can be added were there.
    pub(super) fn infeasible(&self, spec: &QuerySpec) -> Option<Error> {
        let empty = self.emptied(spec)?;
        let task = self.settings.task;
        spec.stages.iter().enumerate().find_map(|(index, stage)| {
            let mut empty = empty.clone();
            for worker in pins(stage) {
                // Their room is kept on just these workers; one that is gone is no wish any more.
                if empty.has(worker) && empty.place_on(worker, task).is_none() {
                    return Some(self.refusal(format!("a task of stage {index} ({task})"), task));
                }
            }
            let mut amounts = Vec::new();
            let mut fits_too = |amount| {
                amounts.push(amount);
                fits(&mut empty, &amounts)
            };
            for (step, pool) in distinct(&stage.pools) {
                if !fits_too(pool.each) {
                    let beside = if step > 0 { " beside one replica of each UDF before it" } else { "" };
                    let request = format!("a replica of UDF {} ({}){beside}", pool.udf, pool.each);
                    return Some(self.refusal(request, pool.each));
                }
            }
            (!fits_too(task)).then(|| {
                let beside = if stage.pools.is_empty() { "" } else { " beside one replica of each of its UDFs" };
                self.refusal(format!("a task of stage {index} ({task}){beside}"), task)
            })
        })
    }

    /// Lets the pools of a stage share the CPUs where each of them fits beside a task, but not all of them together: their
    /// replicas are slower then, which is better than not to run. Memory and GPUs cannot be shared so.
    pub(super) fn share_cpus(&self, spec: &mut QuerySpec) {
        if spec.stages.iter().all(|stage| distinct(&stage.pools).count() < 2) {
            return;
        }
        let (Some(mut empty), task) = (self.emptied(spec), self.settings.task) else { return };
        for stage in &mut spec.stages {
            let pools: Vec<Resources> = distinct(&stage.pools).map(|(_, pool)| pool.each).collect();
            if pools.len() < 2 || pools.iter().any(|each| !fits(&mut empty, &[*each, task])) {
                continue;
            }
            let at = |share: u64| pools.iter().map(move |each| each.with_share_of_cpus(share)).chain([task]);
            // The largest share of what was asked for, in thousandths; not one that fits: memory or GPUs are short.
            let (mut least, mut most) = (0, 1001);
            while most - least > 1 {
                let middle = (least + most) / 2;
                let amounts: Vec<_> = at(middle).collect();
                *(if fits(&mut empty, &amounts) { &mut least } else { &mut most }) = middle;
            }
            if (1..1000).contains(&least) {
                stage.pools.iter_mut().for_each(|pool| pool.each = pool.each.with_share_of_cpus(least));
            }
        }
    }

    /// All workers as if nobody used them, and as many that could be added as some stage could need. `None`: nobody knows yet how
    /// large the first worker will be.
    fn emptied(&self, spec: &QuerySpec) -> Option<Ledger> {
        let added = self.autoscaler.as_ref().map(|scaler| (scaler.settings().each, scaler.settings().workers.1));
        if self.ledger.staying() == 0 && added.is_none() {
            return None;
        }
        // One worker for each pool and a task, at most, beside those that are wanted by name.
        let wanted: Vec<_> = spec.stages.iter().flat_map(pins).collect();
        let needed = spec.stages.iter().map(|stage| stage.pools.len() + 1).max()? + wanted.len();
        let mut empty = self.ledger.emptied(&wanted, needed);
        if let Some((each, most)) = added {
            empty.add_like(each, needed.min(most.saturating_sub(self.ledger.staying())));
        }
        Some(empty)
    }

    fn refusal(&self, request: String, amount: Resources) -> Error {
        let added = self.autoscaler.as_ref().map(|scaler| scaler.settings().each).unwrap_or_default();
        let largest = self.ledger.largest(amount).max(added).to_string();
        let no_gpu = if amount.wants_gpu() { self.why_no_gpu() } else { String::new() };
        ClusterError::Infeasible { request, largest, no_gpu }.into()
    }
}

/// Workers that some task of the stage must run on, each once.
fn pins(stage: &StageSpec) -> Vec<WorkerId> {
    let mut workers: Vec<_> = stage
        .affinity
        .values()
        .filter_map(|affinity| if let Affinity::Hard(worker) = affinity { Some(*worker) } else { None })
        .collect();
    workers.sort_unstable();
    workers.dedup();
    workers
}

fn fits(empty: &mut Ledger, amounts: &[Resources]) -> bool {
    let placed = empty.place_all(amounts);
    placed.iter().flatten().for_each(|grant| empty.undo(grant));
    placed.is_some()
}
