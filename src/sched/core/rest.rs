//! What is left when no query is there any more.

use super::Core;

impl Core {
    /// Whatever is still charged, kept or waited for, in words: nothing, where no query is there.
    pub(crate) fn left(&self) -> Vec<String> {
        let counted = [
            (self.queries.iter().count(), "queries"),
            (self.queues.len(), "attempts at workers"),
            (self.leaving.len(), "attempts that leave"),
            (self.stopping.len(), "replicas that stop"),
            (self.turns.len(), "queries that want room"),
            (self.pools.iter().count(), "pools"),
            (self.unadmitted.len(), "queries with stages to admit"),
            (self.suspects.len() + self.trials.len(), "suspects and trials"),
        ];
        let counted =
            counted.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let charged =
            self.ledger.workers().filter(|worker| !self.ledger.is_idle(*worker) || !self.ledger.is_open(*worker));
        counted.chain(charged.map(|worker| format!("{worker} is charged, kept, or closed to work"))).collect()
    }
}
