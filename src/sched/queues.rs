//! Tasks that wait at workers, each behind one that runs there: a worker goes on without waiting for the scheduler.

use std::collections::BTreeMap;

use super::{TaskId, WorkerId};

/// What runs and waits at each worker. A task that waits takes the room of the one before it, so it is charged nothing.
#[derive(Debug)]
pub(super) struct Queues {
    /// Tasks that may wait at one worker.
    most: usize,
    /// Tasks that run and that none waits behind.
    free: BTreeMap<TaskId, WorkerId>,
    /// Who waits behind whom.
    behind: BTreeMap<TaskId, TaskId>,
    desks: BTreeMap<WorkerId, Desk>,
}

/// Tasks of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Desk {
    pub(super) running: usize,
    pub(super) queued: usize,
}

impl Queues {
    /// `most`: how many may wait at a worker; unset, one behind each that runs.
    pub(super) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or(usize::MAX);
        Self { most, free: BTreeMap::new(), behind: BTreeMap::new(), desks: BTreeMap::new() }
    }

    pub(super) fn desk(&self, worker: WorkerId) -> Desk {
        self.desks.get(&worker).copied().unwrap_or_default()
    }

    pub(super) fn desks(&self) -> impl Iterator<Item = (WorkerId, Desk)> + '_ {
        self.desks.iter().map(|(worker, desk)| (*worker, *desk))
    }

    /// A task runs. `quick`: another may wait behind it.
    pub(super) fn start(&mut self, task: TaskId, worker: WorkerId, quick: bool) {
        let desk = self.desks.entry(worker).or_default();
        desk.running += 1;
        if quick && desk.queued < self.most {
            self.free.insert(task, worker);
        }
    }

    /// Whether a task could wait somewhere.
    pub(super) fn has_place(&self) -> bool {
        !self.free.is_empty()
    }

    /// Puts a task behind one that runs on a worker that is `open`: which, and where.
    pub(super) fn wait(&mut self, task: TaskId, open: impl Fn(WorkerId) -> bool) -> Option<(TaskId, WorkerId)> {
        while let Some((leader, worker)) = self.free.pop_first() {
            let desk = self.desks.entry(worker).or_default();
            if desk.queued < self.most && open(worker) {
                desk.queued += 1;
                self.behind.insert(leader, task);
                return Some((leader, worker));
            }
        }
        None
    }

    /// A task that ran does so no more: who waited behind it runs from now on. Its place is then not free.
    pub(super) fn end(&mut self, task: TaskId, worker: WorkerId) -> Option<TaskId> {
        self.free.remove(&task);
        let next = self.behind.remove(&task);
        if let Some(desk) = self.desks.get_mut(&worker) {
            desk.running = desk.running.saturating_sub(1);
            desk.queued = desk.queued.saturating_sub(usize::from(next.is_some()));
            if *desk == Desk::default() {
                self.desks.remove(&worker);
            }
        }
        next
    }

    /// A task waits behind another no more: it was cancelled, or has begun and ended already.
    pub(super) fn leave(&mut self, leader: TaskId, worker: WorkerId) {
        if self.behind.remove(&leader).is_some()
            && let Some(desk) = self.desks.get_mut(&worker)
        {
            desk.queued = desk.queued.saturating_sub(1);
            self.free.insert(leader, worker);
        }
    }

    /// The worker is gone, with whatever ran and waited there.
    pub(super) fn lose(&mut self, worker: WorkerId) {
        self.desks.remove(&worker);
        self.free.retain(|_, on| *on != worker);
    }
}
