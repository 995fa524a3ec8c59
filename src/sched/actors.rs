//! Which worker a user's actor goes to, and which workers have some. Pure.

use std::collections::BTreeMap;

use super::WorkerId;

/// How many actors run on each worker.
#[derive(Debug, Default)]
pub(crate) struct Actors(BTreeMap<WorkerId, usize>);

impl Actors {
    /// The worker with the fewest, of these.
    pub(crate) fn place(&self, workers: impl Iterator<Item = WorkerId>) -> Option<WorkerId> {
        workers.min_by_key(|worker| (self.on(*worker), *worker))
    }

    fn on(&self, worker: WorkerId) -> usize {
        self.0.get(&worker).copied().unwrap_or(0)
    }

    pub(crate) fn started(&mut self, worker: WorkerId) {
        *self.0.entry(worker).or_insert(0) += 1;
    }

    /// False if there is none: its worker was lost before.
    pub(crate) fn ended(&mut self, worker: WorkerId) -> bool {
        let Some(count) = self.0.get_mut(&worker).filter(|count| **count > 0) else { return false };
        *count -= 1;
        true
    }

    /// The worker is gone with all of its actors.
    pub(crate) fn lost(&mut self, worker: WorkerId) {
        self.0.remove(&worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_spread_over_the_workers_and_fill_gaps() {
        let mut actors = Actors::default();
        let place = |actors: &mut Actors| {
            let worker = actors.place([2, 0, 1].map(WorkerId).into_iter()).unwrap();
            actors.started(worker);
            worker.0
        };
        assert_eq!([(); 4].map(|()| place(&mut actors)), [0, 1, 2, 0]);
        assert!(actors.ended(WorkerId(2)));
        assert_eq!(place(&mut actors), 2);
        actors.lost(WorkerId(0));
        assert!(!actors.ended(WorkerId(0)));
        assert_eq!(actors.on(WorkerId(0)), 0);
        assert_eq!(place(&mut actors), 0);
        assert_eq!(actors.place(std::iter::empty()), None);
    }
}
