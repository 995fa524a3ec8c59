//! Who holds how much of which worker: tasks and replicas alike.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WorkerId;

/// An amount of what a worker has. In thousandths of a CPU, so that sums are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Resources {
    millicpus: u64,
}

impl Resources {
    pub(super) const NONE: Self = Self { millicpus: 0 };

    pub(crate) fn cpus(cpus: f64) -> Self {
        Self { millicpus: (cpus * 1000.0).ceil() as u64 }
    }

    pub(crate) fn as_cpus(self) -> f64 {
        self.millicpus as f64 / 1000.0
    }

    fn fits(self, free: Self) -> bool {
        self.millicpus <= free.millicpus
    }

    fn plus(self, other: Self) -> Self {
        Self { millicpus: self.millicpus + other.millicpus }
    }

    /// `None` if there is less than `other`.
    fn minus(self, other: Self) -> Option<Self> {
        Some(Self { millicpus: self.millicpus.checked_sub(other.millicpus)? })
    }
}

/// Capacity and charges of every worker. Never oversubscribed, never negative.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    workers: BTreeMap<WorkerId, Account>,
}

#[derive(Debug, Clone)]
struct Account {
    capacity: Resources,
    free: Resources,
}

impl Ledger {
    pub(super) fn add(&mut self, worker: WorkerId, capacity: Resources) {
        self.workers.insert(worker, Account { capacity, free: capacity });
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    /// Charges the worker with the most left, the lowest number among equals, if `amount` and then still `spare` fit there.
    pub(super) fn place(&mut self, amount: Resources, spare: Resources) -> Option<WorkerId> {
        let with_room = self.workers.iter_mut().filter(|(_, account)| amount.plus(spare).fits(account.free));
        let (worker, account) = with_room.max_by(|(a, x), (b, y)| x.free.cmp(&y.free).then(b.cmp(a)))?;
        account.free = account.free.minus(amount)?;
        Some(*worker)
    }

    /// Gives back what [`place`](Self::place) charged. Nothing happens if the worker is gone.
    pub(super) fn release(&mut self, worker: WorkerId, amount: Resources) {
        if let Some(account) = self.workers.get_mut(&worker) {
            account.free = account.free.plus(amount);
            debug_assert!(account.free <= account.capacity, "released more than was charged on {worker}");
        }
    }

    /// The same workers with nothing charged.
    pub(super) fn emptied(&self) -> Self {
        let workers = self.workers.iter().map(|(id, a)| (*id, Account { capacity: a.capacity, free: a.capacity }));
        Self { workers: workers.collect() }
    }

    pub(super) fn largest(&self) -> Option<Resources> {
        self.workers.values().map(|account| account.capacity).max()
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.keys().copied()
    }

    /// Whether nothing is charged anywhere.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.workers.values().all(|account| account.free == account.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_spread_over_workers_and_never_exceed_capacity() {
        let (half, none) = (Resources::cpus(0.5), Resources::NONE);
        let mut ledger = Ledger::default();
        for worker in 0..2 {
            ledger.add(WorkerId(worker), Resources::cpus(1.0));
        }
        let placed: Vec<_> = std::iter::from_fn(|| ledger.place(half, none)).collect();
        assert_eq!(placed, [0, 1, 0, 1].map(WorkerId), "spread, ties by number, and no fifth half of two CPUs");
        for worker in placed {
            ledger.release(worker, half);
        }
        assert!(ledger.is_idle());
        assert_eq!(ledger.place(half, Resources::cpus(0.6)), None, "half a CPU leaves less than 0.6 of one");
    }
}
