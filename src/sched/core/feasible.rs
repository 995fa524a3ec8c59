//! What can never be placed is refused at once.

use super::Core;
use crate::error::{ClusterError, Error};
use crate::sched::query::{QuerySpec, StageSpec};
use crate::sched::{Affinity, Resources, WorkerId};

impl Core {
    /// What of this query could not be placed even if every worker were idle, and all that can be added were there.
    pub(super) fn infeasible(&self, spec: &QuerySpec) -> Option<Error> {
        let added = self.autoscaler.as_ref().map(|scaler| scaler.settings().each);
        // One worker for each pool and a task, at most, could be added.
        let most = spec.stages.iter().map(|stage| stage.pools.len() + 1).max()?;
        let empty = self.ledger.emptied(added, most);
        let task = self.settings.task;
        spec.stages.iter().enumerate().find_map(|(index, stage)| {
            let mut empty = empty.clone();
            for (worker, amount) in pins(stage, task) {
                // Their room is kept on just these workers; one that is gone is no wish any more.
                if empty.has(worker) && empty.place_on(worker, amount).is_none() {
                    return Some(self.refusal(format!("a task of stage {index} ({amount})"), amount));
                }
            }
            let mut amounts = Vec::new();
            let mut fits = |amount| {
                amounts.push(amount);
                let placed = empty.place_all(&amounts);
                placed.iter().flatten().for_each(|grant| empty.undo(grant));
                placed.is_some()
            };
            for (step, pool) in stage.pools.iter().enumerate() {
                if !fits(pool.each) {
                    let beside = if step > 0 { " beside one replica of each UDF before it" } else { "" };
                    let request = format!("a replica of UDF {} ({}){beside}", pool.udf, pool.each);
                    return Some(self.refusal(request, pool.each));
                }
            }
            (!fits(task)).then(|| {
                let beside = if stage.pools.is_empty() { "" } else { " beside one replica of each of its UDFs" };
                self.refusal(format!("a task of stage {index} ({task}){beside}"), task)
            })
        })
    }

    fn refusal(&self, request: String, amount: Resources) -> Error {
        let added = self.autoscaler.as_ref().map(|scaler| scaler.settings().each).unwrap_or_default();
        let largest = self.ledger.largest(amount).max(added).to_string();
        ClusterError::Infeasible { request, largest }.into()
    }
}

/// Room for one task on each worker that some task of the stage must run on.
fn pins(stage: &StageSpec, task: Resources) -> impl Iterator<Item = (WorkerId, Resources)> + '_ {
    let mut workers: Vec<_> = stage
        .affinity
        .values()
        .filter_map(|affinity| if let Affinity::Hard(worker) = affinity { Some(*worker) } else { None })
        .collect();
    workers.sort_unstable();
    workers.dedup();
    workers.into_iter().map(move |worker| (worker, task))
}
