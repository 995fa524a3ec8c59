//! Attempts that are at workers: those that run, and those that wait behind one that does. A worker goes on without waiting for
//! the scheduler. An attempt is here until its worker says that it has ended, or is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::ledger::Grant;
use super::need::Need;
use super::{Attempt, TaskId, WorkerId};

/// One attempt of a task.
pub(super) type Run = (TaskId, Attempt);

/// What runs and waits at each worker. What waits takes the room of the one before it, so it is charged nothing.
#[derive(Debug)]
pub(super) struct Queues {
    /// Attempts that may wait at one worker.
    most: usize,
    lanes: BTreeMap<LaneId, Lane>,
    lane_of: BTreeMap<Run, LaneId>,
    /// Lanes in which another may wait, the shortest first.
    open: BTreeSet<(usize, LaneId)>,
    /// Lanes in which some wait, by when their first one began.
    waited_in: BTreeSet<(Instant, LaneId)>,
    desks: BTreeMap<WorkerId, Desk>,
    /// Lanes so far.
    made: LaneId,
    /// Counts lanes that have become open.
    opened: u64,
}

type LaneId = u64;

/// An attempt that runs, and those that take its room one after the other.
#[derive(Debug)]
struct Lane {
    worker: WorkerId,
    room: Grant,
    /// Those that need no more fit in it.
    least: u64,
    /// Never empty; the first one runs.
    runs: VecDeque<Run>,
    /// Since when it does.
    since: Instant,
    /// How many may wait.
    depth: usize,
    /// Those that wait were asked for back.
    taken_back: bool,
    /// Those that are to leave: nothing more waits here until they have, for it would find them gone.
    leaving: Vec<Run>,
}

/// Attempts at one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Desk {
    pub(super) running: usize,
    pub(super) queued: usize,
}

/// What the end of an attempt leaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The next one of its lane runs from now on, in its room.
    Next(Run),
    /// Its room.
    Room(Grant),
    /// It had none: it waited. Its end may be heard of before that of the one before it.
    Nothing,
}

impl Queues {
    /// `most`: how many may wait at a worker; unset, what their lanes hold.
    pub(super) fn new(most: Option<usize>) -> Self {
        Self {
            most: most.unwrap_or(usize::MAX),
            lanes: BTreeMap::new(),
            lane_of: BTreeMap::new(),
            open: BTreeSet::new(),
            waited_in: BTreeSet::new(),
            desks: BTreeMap::new(),
            made: 0,
            opened: 0,
        }
    }

    pub(super) fn desk(&self, worker: WorkerId) -> Desk {
        self.desks.get(&worker).copied().unwrap_or_default()
    }

    /// Attempts that are at workers.
    pub(super) fn len(&self) -> usize {
        self.lane_of.len()
    }

    /// Whether an attempt has not ended, and where it is.
    pub(super) fn worker_of(&self, run: Run) -> Option<WorkerId> {
        Some(self.lanes.get(self.lane_of.get(&run)?)?.worker)
    }

    /// An attempt that needs so much runs in this room, and so many may wait behind it.
    pub(super) fn start(&mut self, run: Run, (need, room): (Need, Grant), depth: usize, now: Instant) {
        self.made += 1;
        self.desks.entry(room.worker).or_default().running += 1;
        self.lane_of.insert(run, self.made);
        let (worker, least, runs) = (room.worker, need.least, [run].into());
        let lane = Lane { worker, room, least, runs, since: now, depth, taken_back: false, leaving: Vec::new() };
        self.lanes.insert(self.made, lane);
        self.file(self.made);
    }

    /// Whether one more could wait somewhere.
    pub(super) fn has_place(&self) -> bool {
        !self.open.is_empty()
    }

    /// Counts what may have made a place: while it stays the same, what found none finds none.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// The shortest lane of a worker that is `ready` for another attempt, which needs so much: behind which one that would wait, and
    /// where.
    pub(super) fn place(&self, need: Need, ready: impl Fn(WorkerId) -> bool) -> Option<(Run, WorkerId)> {
        let mut lanes = self.open.iter().filter_map(|(_, id)| self.lanes.get(id));
        let has_room = |lane: &&Lane| lane.least >= need.least && self.desk(lane.worker).queued < self.most;
        let lane = lanes.find(|lane| has_room(lane) && ready(lane.worker))?;
        Some((*lane.runs.back()?, lane.worker))
    }

    /// Puts an attempt behind another, the last of its lane.
    pub(super) fn wait(&mut self, run: Run, behind: Run) {
        let Some(id) = self.lane_of.get(&behind).copied() else { return };
        self.unfile(id);
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.runs.push_back(run);
        self.desks.entry(lane.worker).or_default().queued += 1;
        self.lane_of.insert(run, id);
        self.file(id);
    }

    /// An attempt has ended. `None`: it is not known, or its end was heard of before.
    pub(super) fn end(&mut self, run: Run, now: Instant) -> Option<Left> {
        let id = self.lane_of.remove(&run)?;
        self.unfile(id);
        let lane = self.lanes.get_mut(&id)?;
        let (worker, ran) = (lane.worker, lane.runs.front() == Some(&run));
        lane.runs.retain(|other| *other != run);
        lane.leaving.retain(|other| *other != run);
        let next = lane.runs.front().copied();
        let left = match next {
            _ if !ran => Left::Nothing,
            Some(next) => {
                lane.since = now;
                Left::Next(next)
            }
            None => self.lanes.remove(&id).map_or(Left::Nothing, |lane| Left::Room(lane.room)),
        };
        if let Some(desk) = self.desks.get_mut(&worker) {
            match left {
                Left::Room(_) => desk.running -= 1,
                Left::Next(_) | Left::Nothing => desk.queued -= 1,
            }
            if *desk == Desk::default() {
                self.desks.remove(&worker);
            }
        }
        self.file(id);
        Some(left)
    }

    /// The first one of a lane has begun: so many may wait behind it.
    pub(super) fn begun(&mut self, run: Run, depth: usize) {
        self.change(run, |lane| (lane.depth, lane.taken_back) = (depth, false));
    }

    /// One that waits is to leave.
    pub(super) fn leaves(&mut self, run: Run) {
        self.change(run, |lane| lane.leaving.push(run));
    }

    /// Asks for what waits behind attempts that have run since before then, once.
    pub(super) fn take_back(&mut self, before: Instant) -> Vec<(Run, WorkerId)> {
        let late: Vec<_> = self.waited_in.iter().take_while(|(since, _)| *since <= before).map(|(_, id)| *id).collect();
        let mut waiting = Vec::new();
        for id in late {
            self.unfile(id);
            if let Some(lane) = self.lanes.get_mut(&id) {
                (lane.depth, lane.taken_back) = (0, true);
                waiting.extend(lane.runs.iter().skip(1).map(|run| (*run, lane.worker)));
            }
        }
        waiting
    }

    /// Asks for all that waits at a worker.
    pub(super) fn take_back_from(&mut self, worker: WorkerId) -> Vec<Run> {
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| lane.worker == worker).map(|(id, _)| *id).collect();
        let mut waiting = Vec::new();
        for id in lanes {
            self.unfile(id);
            if let Some(lane) = self.lanes.get_mut(&id) {
                (lane.depth, lane.taken_back) = (0, true);
                waiting.extend(lane.runs.iter().skip(1).copied());
            }
            self.file(id);
        }
        waiting
    }

    /// Attempts that run or wait at a worker.
    pub(super) fn runs_on(&self, worker: WorkerId) -> impl Iterator<Item = Run> + '_ {
        self.lanes.values().filter(move |lane| lane.worker == worker).flat_map(|lane| lane.runs.iter().copied())
    }

    /// The room that is taken.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &Grant> {
        self.lanes.values().map(|lane| &lane.room)
    }

    /// What those that run at a worker asked for.
    #[cfg(test)]
    pub(super) fn needs_on(&self, worker: WorkerId) -> impl Iterator<Item = u64> + '_ {
        self.lanes.values().filter(move |lane| lane.worker == worker).map(|lane| lane.least)
    }

    /// Attempts that run at a worker.
    pub(super) fn running_on(&self, worker: WorkerId) -> impl Iterator<Item = Run> + '_ {
        self.lanes.values().filter(move |lane| lane.worker == worker).filter_map(|lane| lane.runs.front().copied())
    }

    /// The worker is gone, with whatever ran and waited there.
    pub(super) fn lose(&mut self, worker: WorkerId) {
        self.desks.remove(&worker);
        let there: Vec<_> = self.lanes.iter().filter(|(_, lane)| lane.worker == worker).map(|(id, _)| *id).collect();
        for id in there {
            self.unfile(id);
            let lane = self.lanes.remove(&id);
            lane.iter().flat_map(|lane| &lane.runs).for_each(|run| _ = self.lane_of.remove(run));
        }
    }

    fn change(&mut self, run: Run, change: impl FnOnce(&mut Lane)) {
        let Some(id) = self.lane_of.get(&run).copied() else { return };
        self.unfile(id);
        if let Some(lane) = self.lanes.get_mut(&id) {
            change(lane);
        }
        self.file(id);
    }

    /// Takes a lane out of the lists that name it, before it changes.
    fn unfile(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get(&id) {
            self.open.remove(&(lane.runs.len(), id));
            self.waited_in.remove(&(lane.since, id));
        }
    }

    fn file(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get(&id) else { return };
        if lane.runs.len() > 1 && !lane.taken_back {
            self.waited_in.insert((lane.since, id));
        }
        if lane.leaving.is_empty() && lane.runs.len() <= lane.depth && self.desk(lane.worker).queued < self.most {
            self.open.insert((lane.runs.len(), id));
            self.opened += 1;
        }
    }
}
