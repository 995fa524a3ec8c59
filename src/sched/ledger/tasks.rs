//! Room for tasks. Of memory they are charged what they need; one that needs more than any worker has runs beside no other.

use std::cmp::Reverse;

use super::{Account, For, Grant, Ledger};
use crate::sched::need::Need;
use crate::sched::{Resources, WorkerId};

impl Ledger {
    /// Charges a worker on which a task fits: the one with most CPU left, the lowest number among equals.
    pub(in super::super) fn place_task(&mut self, need: Need) -> Option<Grant> {
        let fits = |worker: &WorkerId| self.accounts.get(worker).is_some_and(|account| account.has_room_for(need));
        let worker = match self.only {
            Some(only) => Some(only).filter(|only| self.is_open(*only) && fits(only)),
            None => self.with_cpus(need).find(fits),
        };
        self.charge_task(worker?, need, For::Task)
    }

    /// Charges this worker, if a task fits there.
    pub(in super::super) fn place_task_on(&mut self, worker: WorkerId, need: Need) -> Option<Grant> {
        let fits = self.is_open(worker) && self.accounts.get(&worker).is_some_and(|account| account.has_room_for(need));
        if fits { self.charge_task(worker, need, For::Task) } else { None }
    }

    /// Charges all that is left of the memory of a worker without a task for one that fits nowhere: the one with most left of it, if none
    /// could hold the task as soon as those that run there have ended.
    pub(in super::super) fn place_alone(&mut self, need: Need) -> Option<Grant> {
        let waits = |account: &Account| account.is_open() && account.could_hold(need);
        if self.only.is_none() && self.accounts.values().any(waits) {
            return None;
        }
        let is_empty = |worker: &WorkerId| self.accounts.get(worker).is_some_and(|account| account.is_empty_for(need));
        let worker = match self.only {
            Some(only) => Some(only).filter(|only| self.is_open(*only) && is_empty(only)),
            None => {
                let free = |worker: &WorkerId| self.accounts.get(worker).map(|account| account.free.memory);
                self.with_cpus(need).filter(is_empty).max_by_key(|worker| (free(worker), Reverse(*worker)))
            }
        };
        self.charge_task(worker?, need, For::TaskAlone)
    }

    /// The same on this worker and no other.
    pub(in super::super) fn place_alone_on(&mut self, worker: WorkerId, need: Need) -> Option<Grant> {
        let is_empty = self.accounts.get(&worker).is_some_and(|account| account.is_empty_for(need));
        if self.is_open(worker) && is_empty { self.charge_task(worker, need, For::TaskAlone) } else { None }
    }

    /// Open workers that have CPU for a task, those with most of it first.
    fn with_cpus(&self, need: Need) -> impl Iterator<Item = WorkerId> + '_ {
        let least = need.amount.millicpus;
        let enough = self.by_cpus.iter().rev().take_while(move |(free, _)| *free >= least);
        enough.map(|(_, Reverse(worker))| *worker)
    }

    fn charge_task(&mut self, worker: WorkerId, need: Need, of: For) -> Option<Grant> {
        let free = self.accounts.get(&worker)?.free.memory;
        let amount = need.amount.with_memory(need.amount.memory.min(free));
        self.change(worker, |account| {
            account.charge(amount, &[]);
            account.tasks = account.tasks.plus(amount);
            account.filled |= of == For::TaskAlone;
        });
        Some(Grant { worker, amount, devices: Vec::new(), of })
    }
}

impl Account {
    /// Whether a task fits beside what is here. Nothing is known of a worker's memory that has none.
    fn has_room_for(&self, need: Need) -> bool {
        let is_there = self.free.memory >= need.least || self.capacity.memory == 0;
        !self.filled && is_there && self.free.millicpus >= need.amount.millicpus
    }

    /// Whether it would, if the tasks that are here had ended.
    fn could_hold(&self, need: Need) -> bool {
        let Resources { millicpus, memory, .. } = self.free.plus(self.tasks);
        memory >= need.least && millicpus >= need.amount.millicpus
    }

    /// Whether there is CPU for a task, and no task.
    fn is_empty_for(&self, need: Need) -> bool {
        self.tasks == Resources::NONE && self.free.millicpus >= need.amount.millicpus
    }
}
