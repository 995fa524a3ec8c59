//! Who holds how much of which worker: tasks and replicas alike.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::resources::DEVICE;
use super::{Resources, WorkerId};

/// Capacity and charges of every worker. Never oversubscribed, never negative. Placing costs the logarithm of the workers;
/// only what wants memory or GPUs may have to look at several.
#[derive(Debug, Default, Clone)]
pub(super) struct Ledger {
    accounts: BTreeMap<WorkerId, Account>,
    /// Open workers by what they have left, the most last; the lowest number among equals last.
    by_cpus: ByCpus,
    /// Those that have GPUs, by what is left of them.
    by_gpus: ByGpus,
    /// All workers, by what they have.
    by_capacity: BTreeMap<Resources, BTreeSet<WorkerId>>,
    capacity: Resources,
    /// Counts what may have made room.
    room: u64,
    /// The one worker that is placed on, if this is said.
    only: Option<WorkerId>,
    /// Workers that were charged, relieved or asked to keep something since somebody looked.
    changed: BTreeSet<WorkerId>,
}

type ByCpus = BTreeSet<(u64, Reverse<WorkerId>)>;
type ByGpus = BTreeSet<(u64, u64, Reverse<WorkerId>)>;

#[derive(Debug, Clone)]
struct Account {
    capacity: Resources,
    free: Resources,
    devices: Vec<Device>,
    /// Nothing new is placed here: it is silent, has no room on its disk, or is kept free for somebody.
    silent: Option<Instant>,
    /// It is to leave: nobody counts on what it has.
    drains: bool,
    full: bool,
    reserved: bool,
    /// It is for one suspect alone, which is placed here by name.
    alone: bool,
    /// Stages whose partitions here are still to be read.
    kept: usize,
    /// What of it tasks are charged.
    tasks: Resources,
    /// A task is here that needs more than there is: no other comes beside it.
    filled: bool,
}

/// What is left of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    free: u64,
    memory: u64,
}

/// A charge, to be given back as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) worker: WorkerId,
    amount: Resources,
    /// GPUs, by their number on the worker.
    pub(super) devices: Vec<u32>,
    /// Whether it is for a task; and for one that needs more than there was.
    of: For,
}

/// What a charge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Replica,
    Task,
    /// One that needs more than there was.
    TaskAlone,
}

impl Grant {
    pub(super) fn amount(&self) -> Resources {
        self.amount
    }
}

impl Ledger {
    pub(super) fn add(&mut self, worker: WorkerId, capacity: Resources) {
        self.remove(worker);
        let device = Device { free: DEVICE, memory: capacity.gpu_memory };
        let devices = vec![device; (capacity.milligpus / DEVICE) as usize];
        let account = Account {
            capacity,
            free: capacity,
            devices,
            silent: None,
            drains: false,
            full: false,
            reserved: false,
            alone: false,
            kept: 0,
            tasks: Resources::NONE,
            filled: false,
        };
        account.enter(worker, &mut self.by_cpus, &mut self.by_gpus);
        self.accounts.insert(worker, account);
        self.capacity = self.capacity.plus(capacity.in_all());
        self.by_capacity.entry(capacity).or_default().insert(worker);
        self.note_room();
        self.changed.insert(worker);
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        if let Some(account) = self.accounts.remove(&worker) {
            account.leave(worker, &mut self.by_cpus, &mut self.by_gpus);
            if !account.drains {
                self.discount(worker, account.capacity);
            }
            self.changed.insert(worker);
        }
    }

    /// Places nothing on a worker any more, and counts it no longer: it is to leave.
    pub(super) fn drain(&mut self, worker: WorkerId) {
        if let Some(capacity) = self.accounts.get(&worker).filter(|account| !account.drains).map(|a| a.capacity) {
            self.change(worker, |account| account.drains = true);
            self.discount(worker, capacity);
        }
    }

    fn discount(&mut self, worker: WorkerId, capacity: Resources) {
        self.capacity = self.capacity.less(capacity.in_all());
        if let Some(equals) = self.by_capacity.get_mut(&capacity) {
            equals.remove(&worker);
            if equals.is_empty() {
                self.by_capacity.remove(&capacity);
            }
        }
    }

    pub(super) fn has(&self, worker: WorkerId) -> bool {
        self.accounts.contains_key(&worker)
    }

    /// Whether a worker is there, and is not to leave.
    pub(super) fn stays(&self, worker: WorkerId) -> bool {
        self.accounts.get(&worker).is_some_and(|account| !account.drains)
    }

    /// How many workers are there that are not to leave.
    pub(super) fn staying(&self) -> usize {
        self.by_capacity.values().map(BTreeSet::len).sum()
    }

    /// Charges the worker with the most left, the lowest number among equals, if `amount` and then still `spare` fit there.
    pub(super) fn place(&mut self, amount: Resources, spare: Resources) -> Option<Grant> {
        self.charge(self.best(amount, spare)?, amount)
    }

    fn best(&self, amount: Resources, spare: Resources) -> Option<WorkerId> {
        if let Some(only) = self.only {
            let fits = self.accounts.get(&only)?.devices_for(amount, spare).is_some() && self.is_open(only);
            return fits.then_some(only);
        }
        let fits =
            |worker: &WorkerId| self.accounts.get(worker).is_some_and(|a| a.devices_for(amount, spare).is_some());
        if amount.wants_gpu() {
            self.by_gpus.iter().rev().map(|(.., Reverse(worker))| *worker).find(fits)
        } else {
            let least = amount.millicpus + spare.millicpus;
            let enough = self.by_cpus.iter().rev().take_while(|(free, _)| *free >= least);
            enough.map(|(_, Reverse(worker))| *worker).find(fits)
        }
    }

    /// Whether this much is left on some open worker.
    pub(super) fn fits(&self, amount: Resources) -> bool {
        self.best(amount, Resources::NONE).is_some()
    }

    /// Whether this much may be left on a worker if so much more of it were free: at most, for its GPUs are counted together.
    pub(super) fn could_fit(&self, worker: WorkerId, amount: Resources, more: Resources) -> bool {
        let Some(account) = self.accounts.get(&worker).filter(|_| self.is_open(worker)) else { return false };
        let [cpus, gpus, memory, _] = account.left().plus(more).kinds();
        let [wants_cpus, wants_gpus, wants_memory, _] = amount.kinds();
        cpus >= wants_cpus && gpus >= wants_gpus && memory >= wants_memory
    }

    /// Charges this worker, if there is room.
    pub(super) fn place_on(&mut self, worker: WorkerId, amount: Resources) -> Option<Grant> {
        if !self.is_open(worker) {
            return None;
        }
        self.charge(worker, amount)
    }

    /// Places all of these, or none of them: spread, or packed where they do not fit so.
    pub(super) fn place_all(&mut self, amounts: &[Resources]) -> Option<Vec<Grant>> {
        let spread = self.place_each(amounts, |ledger, amount| ledger.place(amount, Resources::NONE));
        spread.or_else(|| self.place_each(amounts, Self::pack))
    }

    /// The largest first: the small ones fit into what they leave.
    fn place_each(
        &mut self,
        amounts: &[Resources],
        place: impl Fn(&mut Self, Resources) -> Option<Grant>,
    ) -> Option<Vec<Grant>> {
        let mut order: Vec<usize> = (0..amounts.len()).collect();
        order.sort_by_key(|index| Reverse((amounts[*index].milligpus, amounts[*index])));
        let mut placed: Vec<Option<Grant>> = vec![None; amounts.len()];
        for index in order {
            placed[index] = place(self, amounts[index]);
            if placed[index].is_none() {
                placed.iter().flatten().for_each(|grant| self.undo(grant));
                return None;
            }
        }
        placed.into_iter().collect()
    }

    /// Charges the worker with the least left that has room.
    fn pack(&mut self, amount: Resources) -> Option<Grant> {
        if let Some(only) = self.only {
            return self.place_on(only, amount);
        }
        let enough = self.by_cpus.range((amount.millicpus, Reverse(WorkerId(u32::MAX)))..);
        let fits = |worker: &WorkerId| self.accounts[worker].devices_for(amount, Resources::NONE).is_some();
        let worker = enough.map(|(_, Reverse(worker))| *worker).find(fits)?;
        self.charge(worker, amount)
    }

    /// Gives back what was charged. Nothing happens if the worker is gone.
    pub(super) fn release(&mut self, grant: &Grant) {
        self.note_room();
        self.undo(grant);
    }

    /// Gives back what was charged for a trial, which makes no room.
    pub(super) fn undo(&mut self, grant: &Grant) {
        self.change(grant.worker, |account| {
            account.free.millicpus += grant.amount.millicpus;
            account.free.memory += grant.amount.memory;
            if grant.of != For::Replica {
                account.tasks = account.tasks.less(grant.amount);
                account.filled &= grant.of != For::TaskAlone;
            }
            let memory = account.on_each_gpu(grant.amount);
            for device in &grant.devices {
                let device = &mut account.devices[*device as usize];
                device.free += grant.amount.milligpus.min(DEVICE);
                device.memory += memory;
            }
            debug_assert!(account.is_whole(), "released more than was charged: {account:?}");
        });
    }

    /// Charges again what was given back for a trial, if nothing has taken its place.
    pub(super) fn take_back(&mut self, grant: &Grant) -> bool {
        let fits = self.accounts.get(&grant.worker).is_some_and(|account| account.has(grant.amount, &grant.devices));
        if fits {
            self.change(grant.worker, |account| account.charge(grant.amount, &grant.devices));
        }
        fits
    }

    /// Keeps new work away from a worker that is silent since then, or lets it in again.
    pub(super) fn set_silent(&mut self, worker: WorkerId, since: Option<Instant>) {
        self.note_room();
        self.change(worker, |account| account.silent = since);
    }

    /// Keeps new work away from a worker whose disk is full, unless there is no other; or lets it in again. Whether it is kept away
    /// from now on.
    pub(super) fn set_full(&mut self, worker: WorkerId, full: bool) -> bool {
        let others = || self.accounts.iter().any(|(other, account)| *other != worker && account.is_open());
        let is_full = self.accounts.get(&worker).is_some_and(|account| account.full);
        if is_full == full || (full && !others()) {
            return false;
        }
        self.note_room();
        self.change(worker, |account| account.full = full);
        full
    }

    /// Keeps new work away from a worker whose room is meant for somebody, or lets it in again.
    pub(super) fn set_reserved(&mut self, worker: WorkerId, reserved: bool) {
        self.change(worker, |account| account.reserved = reserved);
    }

    /// What did not fit may fit now.
    pub(super) fn note_room(&mut self) {
        self.room += 1;
    }

    /// Whether new work may be placed on this worker.
    pub(super) fn is_open(&self, worker: WorkerId) -> bool {
        let may = |account: &Account| match self.only {
            Some(only) => worker == only && account.silent.is_none() && !account.drains,
            None => account.is_open(),
        };
        self.accounts.get(&worker).is_some_and(may)
    }

    /// Places on this worker and no other, whoever it is kept for; or, as ever, on all but those.
    pub(super) fn set_only(&mut self, only: Option<WorkerId>) {
        self.only = only;
    }

    /// Keeps new work away from a worker but for what is placed there by name, or lets it in again.
    pub(super) fn set_alone(&mut self, worker: WorkerId, alone: bool) {
        if self.accounts.get(&worker).is_some_and(|account| account.alone != alone) {
            self.note_room();
            self.change(worker, |account| account.alone = alone);
        }
    }

    /// Partitions of one more stage, or of one fewer, must stay on this worker.
    pub(super) fn keep(&mut self, worker: WorkerId, more: bool) {
        if let Some(account) = self.accounts.get_mut(&worker) {
            account.kept = if more { account.kept + 1 } else { account.kept.saturating_sub(1) };
            self.changed.insert(worker);
        }
    }

    /// Whether this much CPU is left on some open worker.
    pub(super) fn has_room(&self, amount: Resources) -> bool {
        self.by_cpus.last().is_some_and(|(free, _)| *free >= amount.millicpus)
    }

    /// Counts what may have made room: while it stays the same, what did not fit does not fit.
    pub(super) fn room(&self) -> u64 {
        self.room
    }

    /// Workers with nothing charged: these, and of each size so many, which are as good as all where no more are needed at once.
    pub(super) fn emptied(&self, these: &[WorkerId], of_each: usize) -> Self {
        let mut empty = Self::default();
        let some = self.by_capacity.values().flat_map(|equals| equals.iter().take(of_each));
        for worker in some.chain(these) {
            let account = self.accounts.get(worker).filter(|account| !account.drains);
            account.into_iter().for_each(|account| empty.add(*worker, account.capacity));
        }
        empty
    }

    /// Adds so many workers of this size that nobody has named yet.
    pub(super) fn add_like(&mut self, each: Resources, count: usize) {
        (0..count).for_each(|n| self.add(WorkerId(WorkerId::DRIVER.0 - 1 - n as u32), each));
    }

    /// The largest worker that is not to leave, by what this request wants.
    pub(super) fn largest(&self, request: Resources) -> Resources {
        let size = |capacity: &Resources| match request.wants_gpu() {
            true => (capacity.milligpus, capacity.gpu_memory, capacity.millicpus),
            false => (capacity.millicpus, capacity.memory, 0),
        };
        self.by_capacity.keys().copied().max_by_key(size).unwrap_or_default()
    }

    /// All workers together that are not to leave.
    pub(super) fn capacity(&self) -> Resources {
        self.capacity
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.accounts.keys().copied()
    }

    /// What a worker has, and what of it is charged.
    pub(super) fn account(&self, worker: WorkerId) -> Option<(Resources, Resources)> {
        let account = self.accounts.get(&worker)?;
        Some((account.capacity, account.capacity.less(account.left())))
    }

    /// Since when a worker is silent.
    pub(super) fn silent_since(&self, worker: WorkerId) -> Option<Instant> {
        self.accounts.get(&worker)?.silent
    }

    /// Whether nothing is charged on this worker, and nothing kept.
    pub(super) fn is_idle(&self, worker: WorkerId) -> bool {
        !self.keeps(worker) && self.accounts.get(&worker).is_some_and(Account::is_unused)
    }

    /// Whether something must stay on this worker.
    pub(super) fn keeps(&self, worker: WorkerId) -> bool {
        self.accounts.get(&worker).is_some_and(|account| account.kept > 0)
    }

    /// Workers that may have become idle or busy since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.changed)
    }

    /// Whether nothing is charged anywhere, and nothing kept.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.workers().all(|worker| self.is_idle(worker))
    }

    fn charge(&mut self, worker: WorkerId, amount: Resources) -> Option<Grant> {
        let devices = self.accounts.get(&worker)?.devices_for(amount, Resources::NONE)?;
        self.change(worker, |account| account.charge(amount, &devices));
        Some(Grant { worker, amount, devices, of: For::Replica })
    }

    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.accounts.get_mut(&worker) {
            account.leave(worker, &mut self.by_cpus, &mut self.by_gpus);
            change(account);
            account.enter(worker, &mut self.by_cpus, &mut self.by_gpus);
            self.changed.insert(worker);
        }
    }
}

impl Account {
    fn is_open(&self) -> bool {
        self.silent.is_none() && !self.drains && !self.full && !self.reserved && !self.alone
    }

    /// What is left, of all GPUs together.
    fn left(&self) -> Resources {
        Resources { milligpus: self.devices.iter().map(|device| device.free).sum(), ..self.free }
    }

    fn is_unused(&self) -> bool {
        let whole = |device: &Device| device.free == DEVICE && device.memory == self.capacity.gpu_memory;
        self.free == self.capacity && self.devices.iter().all(whole)
    }

    /// Nothing is more than there is.
    fn is_whole(&self) -> bool {
        let within = |device: &Device| device.free <= DEVICE && device.memory <= self.capacity.gpu_memory;
        let free = self.free.millicpus <= self.capacity.millicpus && self.free.memory <= self.capacity.memory;
        free && self.devices.iter().all(within)
    }

    /// Bytes that `amount` takes of each of its GPUs: what it says, or as large a part of the memory as of the GPU; all of a
    /// GPU that is for it alone.
    fn on_each_gpu(&self, amount: Resources) -> u64 {
        let all = self.capacity.gpu_memory;
        match amount.milligpus {
            DEVICE.. => all.max(amount.gpu_memory),
            share if amount.gpu_memory == 0 => (u128::from(all) * u128::from(share) / u128::from(DEVICE)) as u64,
            _ => amount.gpu_memory,
        }
    }

    /// The GPUs to take for `amount`, if all of it fits here, and then `spare`, which is CPU: for a share the one that has
    /// least left, for whole ones those that nobody uses.
    fn devices_for(&self, amount: Resources, spare: Resources) -> Option<Vec<u32>> {
        if amount.millicpus + spare.millicpus > self.free.millicpus || amount.memory > self.free.memory {
            return None;
        }
        if !amount.wants_gpu() {
            return Some(Vec::new());
        }
        let share = amount.milligpus.min(DEVICE);
        let count = (amount.milligpus / DEVICE).max(1) as usize;
        let memory = self.on_each_gpu(amount);
        let fit = self.devices.iter().enumerate().filter(|(_, d)| d.free >= share && d.memory >= memory);
        let mut fit: Vec<_> = fit.map(|(number, device)| (*device, number as u32)).collect();
        fit.sort_unstable();
        (fit.len() >= count).then(|| fit.into_iter().take(count).map(|(_, number)| number).collect())
    }

    /// Whether this much is left, on just these GPUs.
    fn has(&self, amount: Resources, devices: &[u32]) -> bool {
        let (share, memory) = (amount.milligpus.min(DEVICE), self.on_each_gpu(amount));
        let left = |device: &u32| {
            let device = self.devices.get(*device as usize);
            device.is_some_and(|device| device.free >= share && device.memory >= memory)
        };
        amount.millicpus <= self.free.millicpus && amount.memory <= self.free.memory && devices.iter().all(left)
    }

    fn charge(&mut self, amount: Resources, devices: &[u32]) {
        self.free = self.free.less(Resources { milligpus: 0, gpu_memory: 0, ..amount });
        let memory = self.on_each_gpu(amount);
        for device in devices {
            let device = &mut self.devices[*device as usize];
            device.free -= amount.milligpus.min(DEVICE);
            device.memory -= memory;
        }
    }

    fn enter(&self, worker: WorkerId, by_cpus: &mut ByCpus, by_gpus: &mut ByGpus) {
        if self.is_open() {
            by_cpus.insert((self.free.millicpus, Reverse(worker)));
            by_gpus.extend(self.by_gpus(worker));
        }
    }

    fn leave(&self, worker: WorkerId, by_cpus: &mut ByCpus, by_gpus: &mut ByGpus) {
        by_cpus.remove(&(self.free.millicpus, Reverse(worker)));
        if let Some(key) = self.by_gpus(worker) {
            by_gpus.remove(&key);
        }
    }

    fn by_gpus(&self, worker: WorkerId) -> Option<(u64, u64, Reverse<WorkerId>)> {
        let free = self.devices.iter().map(|device| device.free).sum();
        (!self.devices.is_empty()).then_some((free, self.free.millicpus, Reverse(worker)))
    }
}

mod tasks;

#[cfg(test)]
mod tests;
