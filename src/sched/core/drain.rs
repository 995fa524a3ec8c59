//! Workers that are to leave. Such a worker gets nothing new; what waits there is taken back, and what runs ends there, or runs again
//! elsewhere; others take over its replicas and what it holds. Then it goes, and at its deadline in any case: what it has not given
//! away by then is made again. None of that counts against anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Action, Core};
use crate::sched::pool::ReplicaState;
use crate::sched::query::{Query, TaskState};
use crate::sched::queues::Run;
use crate::sched::{PartitionId, QueryId, ReplicaId, WorkerId};

/// A worker that is to leave.
#[derive(Debug)]
pub(super) struct Drain {
    since: Instant,
    until: Instant,
    /// Who takes over what, at this moment.
    moving: BTreeMap<WorkerId, BTreeSet<PartitionId>>,
    /// Bytes that each has taken over, or is about to.
    taken: BTreeMap<WorkerId, u64>,
    /// Who could not take something, and when.
    refused: BTreeMap<WorkerId, Instant>,
    /// Attempts that were told that it holds what is elsewhere by now.
    readers: BTreeSet<Run>,
}

/// Outputs, and bytes of them, that are moved in one go: those who need them wait no longer than for these.
const TOGETHER: usize = 256;
const BYTES_TOGETHER: u64 = 64 << 20;
/// How long a worker is not asked again that could not take something over.
const REFUSED: Duration = Duration::from_secs(2);
/// Workers that have left which are remembered: what they were told of may come late.
const DEPARTED: usize = 256;

impl Drain {
    /// For how long it has been leaving, and how much longer it may.
    pub(super) fn times(&self, now: Instant) -> (Duration, Duration) {
        (now.duration_since(self.since), self.until.saturating_duration_since(now))
    }

    /// A worker is lost: what it was to take over is to go elsewhere.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.moving.remove(&worker);
    }

    /// What runs is waited for until then; the rest of the time is for what it leaves.
    fn patience(&self) -> Instant {
        self.since + self.until.saturating_duration_since(self.since) / 2
    }
}

impl Core {
    /// Has a worker leave. One that is leaving already leaves sooner, if so.
    pub(super) fn drain(&mut self, worker: WorkerId, until: Instant, now: Instant, actions: &mut Vec<Action>) {
        if !self.ledger.has(worker) {
            return;
        }
        if let Some(drain) = self.drains.get_mut(&worker) {
            drain.until = drain.until.min(until);
            return self.go_on_draining(now, actions);
        }
        let (moving, taken, refused, readers) = Default::default();
        self.drains.insert(worker, Drain { since: now, until, moving, taken, refused, readers });
        self.break_promise(worker);
        self.ledger.drain(worker);
        self.autoscaler.iter_mut().for_each(|scaler| scaler.lost());
        for query in self.queries.values_mut() {
            for stage in &mut query.stages {
                stage.waiting.lose(worker);
                stage.near = stage.near.filter(|near| *near != worker);
            }
        }
        for (task, attempt) in self.queues.take_back_from(worker) {
            if !self.leaving.contains_key(&(task, attempt)) {
                actions.push(Action::Withdraw { worker, task, attempt });
            }
        }
        for id in self.pools.on(worker) {
            self.pools.replica_mut(id).into_iter().for_each(|replica| replica.leaves = true);
        }
        self.shrink(now);
        self.go_on_draining(now, actions);
    }

    /// Does what can be done by now so that workers can leave, and lets those go that can.
    pub(super) fn go_on_draining(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for worker in self.drains.keys().copied().collect::<Vec<_>>() {
            let Some(drain) = self.drains.get(&worker) else { continue };
            if now >= drain.until {
                self.depart(worker, "it has left at its deadline", now, actions);
                continue;
            }
            // With nowhere else to run they may as well end here.
            if now >= drain.patience() && self.ledger.staying() > 0 {
                self.hand_over_tasks(worker, now, actions);
            }
            self.hand_over_replicas(worker, now, actions);
            self.hand_over_outputs(worker, now, actions);
            if self.may_go(worker) {
                self.depart(worker, "it has left", now, actions);
            }
        }
    }

    /// Whether nothing holds a worker any more that is to leave.
    fn may_go(&self, worker: WorkerId) -> bool {
        let Some(drain) = self.drains.get(&worker) else { return false };
        let is_wanted = |run: &Run| !self.leaving.contains_key(run);
        let reads = |run: &Run| self.queues.worker_of(*run).is_some() && is_wanted(run);
        !self.queues.runs_on(worker).any(|run| is_wanted(&run))
            && self.pools.on(worker).is_empty()
            && !self.ledger.keeps(worker)
            && !drain.readers.iter().any(reads)
    }

    /// A worker leaves that was to. What it has not given away is made again.
    pub(super) fn depart(&mut self, worker: WorkerId, why: &str, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Retire { worker });
        self.actors.lost(worker);
        self.lose(worker, why, now, actions);
        if self.departed.len() == DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back(worker);
        if let Some(scaler) = &self.autoscaler {
            actions.push(Action::Demand { workers: scaler.demanded().0 + self.drains.len() });
        }
    }

    /// Whether this is what a worker is called that has left after all it held was given away, or was to be.
    pub(super) fn has_departed(&self, name: &str) -> bool {
        self.departed.iter().any(|worker| worker.to_string() == name)
    }

    /// What still runs there runs again elsewhere.
    fn hand_over_tasks(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let there: BTreeSet<_> = self.queues.runs_on(worker).map(|(task, _)| (task.query, task.stage)).collect();
        for (id, stage_id) in there {
            let Some(query) = self.queries.get_mut(&id) else { continue };
            let stage = stage_id.0 as usize;
            let (spec, state) = (&query.spec.stages[stage], &mut query.stages[stage]);
            let (mut left, seconds) = (Vec::new(), state.take_seconds(Some(worker)));
            for index in 0..state.tasks.len() {
                let task = &mut state.tasks[index];
                if task.is_on() != Some(worker) {
                    continue;
                }
                let run = (index, task.attempt, task.state);
                if state.promote(index) {
                    // It runs elsewhere already.
                    state.running += 1;
                } else {
                    let task = &mut state.tasks[index];
                    task.state = TaskState::Pending;
                    task.supersede();
                    state.enqueue(index, spec, |worker| self.ledger.stays(worker));
                }
                left.push(run);
            }
            if left.is_empty() && seconds.is_empty() {
                continue;
            }
            state.prepared.remove(&worker);
            actions.push(Action::Enough { worker, query: id, stage: stage_id });
            let task = |index| query.task_id(stage, index);
            let left: Vec<_> = left.into_iter().map(|(index, attempt, was)| ((task(index), attempt), was)).collect();
            let seconds: Vec<_> = seconds.into_iter().map(|(index, second)| (task(index), second.attempt)).collect();
            left.into_iter().for_each(|(run, was)| self.abandon(run, was, now));
            seconds.into_iter().for_each(|run| self.leave_behind(run, now));
            self.queries.note(id);
        }
    }

    /// Replicas there end after their calls, once others are there for who uses them.
    fn hand_over_replicas(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        for id in self.pools.on(worker) {
            let Some(pool) = self.pools.get(id.pool) else { continue };
            let (is_used, has_others) = (!pool.users.is_empty(), pool.has_ready());
            let Some(replica) = pool.replicas.get(&id.rank) else { continue };
            let serves = is_used && replica.state == ReplicaState::Ready;
            if !serves || (replica.dismissed && replica.is_at_rest()) {
                self.end_replica(id, now, actions);
            } else if has_others && !replica.dismissed {
                actions.push(self.dismissal(id));
                self.pools.replica_mut(id).into_iter().for_each(|replica| replica.dismissed = true);
            } else if let Some(step) = pool.users.first().copied() {
                self.add_replica(id.pool, step, |_, _| 1, now, actions);
            }
        }
    }

    fn end_replica(&mut self, id: ReplicaId, now: Instant, actions: &mut Vec<Action>) {
        actions.push(self.dismissal(id));
        self.stop_replica(id, now, actions);
    }

    /// Has others take over what somebody needs of what it holds.
    fn hand_over_outputs(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        // What it held may be gone, or be made again elsewhere.
        let held =
            self.queries.iter().flat_map(|(id, query)| (0..query.stages.len()).map(move |stage| (*id, query, stage)));
        let holds_none = |(_, query, stage): &(QueryId, &Query, usize)| {
            query.stages[*stage].holders.contains(&worker) && query.outputs_on(*stage, worker).next().is_none()
        };
        let emptied: Vec<_> = held.filter(holds_none).map(|(id, _, stage)| (id, stage)).collect();
        for (id, stage) in emptied {
            self.queries.get_mut(&id).into_iter().for_each(|of| of.settle_holders(stage, worker, &mut self.ledger));
        }
        let Some(drain) = self.drains.get_mut(&worker) else { return };
        drain.refused.retain(|_, at| now.duration_since(*at) < REFUSED);
        let mut takers: Vec<_> = self.ledger.workers().filter(|taker| self.ledger.is_open(*taker)).collect();
        takers.retain(|taker| !drain.moving.contains_key(taker) && !drain.refused.contains_key(taker));
        if takers.is_empty() || !self.ledger.keeps(worker) {
            return;
        }
        let under_way: BTreeSet<PartitionId> = drain.moving.values().flatten().copied().collect();
        for (id, query) in self.queries.iter() {
            for stage in 0..query.stages.len() {
                if !query.stages[stage].kept || !query.stages[stage].holders.contains(&worker) {
                    continue;
                }
                let there = query.outputs_on(stage, worker).filter(|(id, _)| !under_way.contains(id));
                let mut there = there.peekable();
                while there.peek().is_some() {
                    let least = takers
                        .iter()
                        .enumerate()
                        .min_by_key(|(_, taker)| (drain.taken.get(taker).copied().unwrap_or(0), **taker));
                    let Some((index, _)) = least else { return };
                    let to = takers.swap_remove(index);
                    let (mut outputs, mut bytes) = (Vec::new(), 0);
                    while outputs.len() < TOGETHER
                        && bytes < BYTES_TOGETHER
                        && let Some((id, size)) = there.next()
                    {
                        outputs.push(id);
                        bytes += size;
                    }
                    drain.moving.insert(to, outputs.iter().copied().collect());
                    *drain.taken.entry(to).or_default() += bytes;
                    actions.push(Action::Move { from: worker, to, query: *id, outputs });
                }
            }
        }
    }

    /// A worker has taken over what another held, or some of it.
    pub(super) fn moved(
        &mut self,
        from: WorkerId,
        to: WorkerId,
        taken: &[PartitionId],
        full: bool,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if full {
            self.avoid_full(to, now);
        }
        let asked = self.drains.get_mut(&from).and_then(|drain| drain.moving.remove(&to)).unwrap_or_default();
        if taken.len() < asked.len()
            && let Some(drain) = self.drains.get_mut(&from)
        {
            drain.refused.insert(to, now);
        }
        let mut queries = BTreeSet::new();
        for id in taken {
            queries.insert((id.task.query, id.task.stage.0 as usize));
            if asked.contains(id) {
                self.settle(from, to, *id);
            }
        }
        for (query, stage) in queries {
            match self.queries.get_mut(&query).filter(|of| stage < of.stages.len()) {
                Some(of) => {
                    // Whatever becomes of it, it goes with its query.
                    of.visited.insert(to);
                    of.settle_holders(stage, from, &mut self.ledger);
                    self.note_readers_at(from, query, stage);
                }
                // It has ended meanwhile.
                None => actions.push(Action::End { worker: to, query }),
            }
        }
        self.go_on_draining(now, actions);
    }

    /// An output is elsewhere from now on, if it is the one that counts.
    fn settle(&mut self, from: WorkerId, to: WorkerId, id: PartitionId) {
        let Some(query) = self.queries.get_mut(&id.task.query) else { return };
        let Some(state) = query.stages.get_mut(id.task.stage.0 as usize) else { return };
        let Some(task) = state.tasks.get_mut(id.task.index as usize) else { return };
        if let TaskState::Done(on, output) = task.state
            && on == from
            && output.id == id
        {
            task.state = TaskState::Done(to, output);
            if state.holders.insert(to) && state.kept {
                self.ledger.keep(to, true);
            }
        }
    }

    /// Attempts of readers that are at workers may have been told that a stage's outputs are on a worker.
    fn note_readers_at(&mut self, worker: WorkerId, id: QueryId, stage: usize) {
        let mut readers = BTreeSet::new();
        for (other, query) in self.queries.iter() {
            let reads = |index: usize| match *other == id {
                true => query.stages[stage].readers.contains(&index),
                false => query.spec.stages[index].held.contains(&id),
            };
            for index in (0..query.stages.len()).filter(|index| reads(*index)) {
                let tasks = query.stages[index].tasks.iter().enumerate().filter(|(_, task)| task.is_on().is_some());
                readers.extend(tasks.map(|(task, of)| (query.task_id(index, task), of.attempt)));
                let seconds = query.stages[index].seconds.iter();
                readers.extend(seconds.map(|(task, of)| (query.task_id(index, *task), of.attempt)));
            }
        }
        if let Some(drain) = self.drains.get_mut(&worker) {
            drain.readers.extend(readers);
        }
    }
}

impl Query {
    /// What tasks of a stage have left on a worker, and how many bytes.
    fn outputs_on(&self, stage: usize, worker: WorkerId) -> impl Iterator<Item = (PartitionId, u64)> + '_ {
        self.stages[stage].tasks.iter().filter_map(move |task| match task.state {
            TaskState::Done(on, output) if on == worker => Some((output.id, output.bytes)),
            _ => None,
        })
    }

    /// A worker that holds nothing of a stage any more is not to keep it.
    fn settle_holders(&mut self, stage: usize, worker: WorkerId, ledger: &mut crate::sched::ledger::Ledger) {
        let is_left = self.outputs_on(stage, worker).next().is_some();
        let Some(state) = self.stages.get_mut(stage).filter(|_| !is_left) else { return };
        if state.holders.remove(&worker) && state.kept {
            ledger.keep(worker, false);
        }
    }
}
