//! Tasks that wait at workers, behind one that runs there: a worker goes on without waiting for the scheduler.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{TaskId, WorkerId};

/// What runs and waits at each worker. A task that waits takes the room of the one before it, so it is charged nothing.
#[derive(Debug)]
pub(super) struct Queues {
    /// Tasks that may wait at one worker.
    most: usize,
    lanes: BTreeMap<LaneId, Lane>,
    lane_of: BTreeMap<TaskId, LaneId>,
    /// Lanes in which another may wait, the shortest first.
    open: BTreeSet<(usize, LaneId)>,
    desks: BTreeMap<WorkerId, Desk>,
    /// Lanes so far.
    opened: LaneId,
}

type LaneId = u64;

/// A task that runs, and those that take its room one after the other.
#[derive(Debug)]
struct Lane {
    worker: WorkerId,
    /// Never empty; the first one runs.
    tasks: VecDeque<TaskId>,
    /// How many may wait.
    depth: usize,
}

/// Tasks of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Desk {
    pub(super) running: usize,
    pub(super) queued: usize,
}

impl Queues {
    /// `most`: how many may wait at a worker; unset, what their lanes hold.
    pub(super) fn new(most: Option<usize>) -> Self {
        Self {
            most: most.unwrap_or(usize::MAX),
            lanes: BTreeMap::new(),
            lane_of: BTreeMap::new(),
            open: BTreeSet::new(),
            desks: BTreeMap::new(),
            opened: 0,
        }
    }

    pub(super) fn desk(&self, worker: WorkerId) -> Desk {
        self.desks.get(&worker).copied().unwrap_or_default()
    }

    pub(super) fn desks(&self) -> impl Iterator<Item = (WorkerId, Desk)> + '_ {
        self.desks.iter().map(|(worker, desk)| (*worker, *desk))
    }

    /// A task runs, and so many may wait behind it.
    pub(super) fn start(&mut self, task: TaskId, worker: WorkerId, depth: usize) {
        self.opened += 1;
        self.desks.entry(worker).or_default().running += 1;
        self.lane_of.insert(task, self.opened);
        self.lanes.insert(self.opened, Lane { worker, tasks: [task].into(), depth });
        self.reopen(self.opened);
    }

    /// Whether a task could wait somewhere.
    pub(super) fn has_place(&self) -> bool {
        !self.open.is_empty()
    }

    /// The shortest lane of a worker that is `ready` for another task: behind which task that would wait, and where.
    pub(super) fn place(&self, ready: impl Fn(WorkerId) -> bool) -> Option<(TaskId, WorkerId)> {
        let mut lanes = self.open.iter().filter_map(|(_, id)| self.lanes.get(id));
        let lane = lanes.find(|lane| self.desk(lane.worker).queued < self.most && ready(lane.worker))?;
        Some((*lane.tasks.back()?, lane.worker))
    }

    /// Puts a task behind another, the last of its lane.
    pub(super) fn wait(&mut self, task: TaskId, behind: TaskId) {
        let Some(id) = self.lane_of.get(&behind).copied() else { return };
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        self.open.remove(&(lane.tasks.len(), id));
        lane.tasks.push_back(task);
        self.desks.entry(lane.worker).or_default().queued += 1;
        self.lane_of.insert(task, id);
        self.reopen(id);
    }

    /// A task that ran does so no more: the next one of its lane runs from now on.
    pub(super) fn end(&mut self, task: TaskId) -> Option<TaskId> {
        let id = self.take_out(task)?;
        let lane = self.lanes.get(&id)?;
        let (worker, next) = (lane.worker, lane.tasks.front().copied());
        if next.is_none() {
            self.lanes.remove(&id);
        }
        if let Some(desk) = self.desks.get_mut(&worker) {
            match next {
                Some(_) => desk.queued -= 1,
                None => desk.running -= 1,
            }
            if *desk == Desk::default() {
                self.desks.remove(&worker);
            }
        }
        next
    }

    /// The first task of a lane has begun: so many may wait behind it.
    pub(super) fn begun(&mut self, task: TaskId, depth: usize) {
        let Some(id) = self.lane_of.get(&task).copied() else { return };
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        self.open.remove(&(lane.tasks.len(), id));
        lane.depth = depth;
        self.reopen(id);
    }

    /// A task waits no more: it was cancelled, or its end was heard of before that of the one before it.
    pub(super) fn leave(&mut self, task: TaskId) {
        let Some(id) = self.take_out(task) else { return };
        if let Some(desk) = self.lanes.get(&id).and_then(|lane| self.desks.get_mut(&lane.worker)) {
            desk.queued -= 1;
        }
        self.reopen(id);
    }

    /// The worker is gone, with whatever ran and waited there.
    pub(super) fn lose(&mut self, worker: WorkerId) {
        self.desks.remove(&worker);
        let (lanes, lane_of, open) = (&mut self.lanes, &mut self.lane_of, &mut self.open);
        lanes.retain(|id, lane| {
            let stays = lane.worker != worker;
            if !stays {
                open.remove(&(lane.tasks.len(), *id));
                lane_of.retain(|_, of| of != id);
            }
            stays
        });
    }

    /// Takes a task out of its lane, which is then not open.
    fn take_out(&mut self, task: TaskId) -> Option<LaneId> {
        let id = self.lane_of.remove(&task)?;
        let lane = self.lanes.get_mut(&id)?;
        self.open.remove(&(lane.tasks.len(), id));
        lane.tasks.retain(|other| *other != task);
        Some(id)
    }

    fn reopen(&mut self, id: LaneId) {
        let lane = self.lanes.get(&id).filter(|lane| lane.tasks.len() <= lane.depth);
        if let Some(lane) = lane.filter(|lane| self.desk(lane.worker).queued < self.most) {
            self.open.insert((lane.tasks.len(), id));
        }
    }
}
