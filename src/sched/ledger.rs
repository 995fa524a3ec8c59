//! Who holds how much of which worker: tasks and replicas alike.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::WorkerId;

/// An amount of what a worker has. In thousandths of a CPU, so that sums are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

    pub(super) fn times(self, n: usize) -> Self {
        Self { millicpus: self.millicpus * n as u64 }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { millicpus: self.millicpus + other.millicpus }
    }

    /// `None` if there is less than `other`.
    fn minus(self, other: Self) -> Option<Self> {
        Some(Self { millicpus: self.millicpus.checked_sub(other.millicpus)? })
    }
}

/// Capacity and charges of every worker. Never oversubscribed, never negative. Placing costs the logarithm of the workers.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    workers: BTreeMap<WorkerId, Account>,
    /// Workers by what they have left, the most last; the lowest number among equals last.
    by_free: BTreeSet<(Resources, Reverse<WorkerId>)>,
    capacity: Resources,
}

#[derive(Debug)]
struct Account {
    capacity: Resources,
    free: Resources,
    /// Nothing new is placed here.
    held: bool,
}

impl Ledger {
    pub(super) fn add(&mut self, worker: WorkerId, capacity: Resources) {
        self.remove(worker);
        self.workers.insert(worker, Account { capacity, free: capacity, held: false });
        self.by_free.insert((capacity, Reverse(worker)));
        self.capacity = self.capacity.plus(capacity);
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        if let Some(account) = self.workers.remove(&worker) {
            self.by_free.remove(&(account.free, Reverse(worker)));
            self.capacity = self.capacity.minus(account.capacity).unwrap_or_default();
        }
    }

    /// Charges the worker with the most left, the lowest number among equals, if `amount` and then still `spare` fit there.
    pub(super) fn place(&mut self, amount: Resources, spare: Resources) -> Option<WorkerId> {
        let &(free, Reverse(worker)) = self.by_free.last()?;
        if !amount.plus(spare).fits(free) {
            return None;
        }
        self.set_free(worker, free.minus(amount)?);
        Some(worker)
    }

    /// Charges this worker, if there is room.
    pub(super) fn place_on(&mut self, worker: WorkerId, amount: Resources) -> bool {
        let account = self.workers.get(&worker).filter(|account| !account.held);
        let left = account.and_then(|account| account.free.minus(amount));
        left.into_iter().for_each(|left| self.set_free(worker, left));
        left.is_some()
    }

    /// Keeps new work away from a worker, or lets it in again.
    pub(super) fn hold(&mut self, worker: WorkerId, held: bool) {
        if let Some(account) = self.workers.get_mut(&worker) {
            account.held = held;
            let free = account.free;
            self.set_free(worker, free);
        }
    }

    /// Places all of these, or none of them.
    pub(super) fn place_all(&mut self, amounts: &[Resources]) -> Option<Vec<WorkerId>> {
        let mut placed = Vec::with_capacity(amounts.len());
        for amount in amounts {
            match self.place(*amount, Resources::NONE) {
                Some(worker) => placed.push(worker),
                None => {
                    placed.into_iter().zip(amounts).for_each(|(worker, amount)| self.release(worker, *amount));
                    return None;
                }
            }
        }
        Some(placed)
    }

    /// Gives back what [`place`](Self::place) charged. Nothing happens if the worker is gone.
    pub(super) fn release(&mut self, worker: WorkerId, amount: Resources) {
        if let Some(account) = self.workers.get(&worker) {
            let free = account.free.plus(amount);
            debug_assert!(free <= account.capacity, "released more than was charged on {worker}");
            self.set_free(worker, free);
        }
    }

    /// Whether these could be placed together if nothing were charged.
    pub(super) fn could_place_all(&self, amounts: &[Resources], also: Option<Resources>) -> bool {
        let mut empty = Self::default();
        for (worker, account) in &self.workers {
            empty.add(*worker, account.capacity);
        }
        // One worker for each amount, at most, could be added.
        for added in also.into_iter().flat_map(|capacity| amounts.iter().map(move |_| capacity)).enumerate() {
            empty.add(WorkerId(u32::MAX - added.0 as u32), added.1);
        }
        empty.place_all(amounts).is_some()
    }

    /// Whether there is no worker.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn largest(&self) -> Option<Resources> {
        self.workers.values().map(|account| account.capacity).max()
    }

    /// All workers together.
    pub(super) fn capacity(&self) -> Resources {
        self.capacity
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.keys().copied()
    }

    /// Each worker with its capacity and what is left of it.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (WorkerId, Resources, Resources)> + '_ {
        self.workers.iter().map(|(worker, account)| (*worker, account.capacity, account.free))
    }

    /// Whether nothing is charged on this worker.
    pub(super) fn is_free(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_none_or(|account| account.free == account.capacity)
    }

    /// Whether nothing is charged anywhere.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.workers().all(|worker| self.is_free(worker))
    }

    fn set_free(&mut self, worker: WorkerId, free: Resources) {
        if let Some(account) = self.workers.get_mut(&worker) {
            self.by_free.remove(&(account.free, Reverse(worker)));
            account.free = free;
            if !account.held {
                self.by_free.insert((free, Reverse(worker)));
            }
        }
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
        ledger.hold(WorkerId(0), true);
        assert_eq!((ledger.place(half, none), ledger.place_on(WorkerId(0), half)), (Some(WorkerId(1)), false));
        ledger.release(WorkerId(1), half);
        ledger.hold(WorkerId(0), false);
        assert!(ledger.place_on(WorkerId(0), half), "held no longer");
        ledger.release(WorkerId(0), half);
        assert_eq!(ledger.place_all(&[Resources::cpus(1.0); 3]), None, "two CPUs hold no three");
        assert!(ledger.is_idle(), "and what was placed of them is given back");
        assert_eq!(ledger.place(half, Resources::cpus(0.6)), None, "half a CPU leaves less than 0.6 of one");
    }
}
