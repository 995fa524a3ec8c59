//! Who starts next, and where.

use std::time::Instant;

use super::pools::Evict;
use super::{Action, Core, Timer};
use crate::sched::ledger::{Grant, Ledger};
use crate::sched::need::Need;
use crate::sched::pool::{Pool, Pools, distinct};
use crate::sched::query::{Phase, Query, TaskState};
use crate::sched::queues::Run;
use crate::sched::{Affinity, Attempt, PoolId, QueryId, ReplicaId, Resources, StepId, WorkerId};

/// What a stage could begin with, if there were room for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Want {
    /// A replica of each of these, beside pools that have some.
    replicas: Vec<Resources>,
    there: Vec<PoolId>,
    /// A task on each of these workers; on one of those; where there are neither, on any.
    pins: Vec<WorkerId>,
    wishes: Vec<WorkerId>,
    /// So much memory for it.
    memory: u64,
}

/// Whether a query wants a task on any worker; and what else.
pub(super) type Wants = (bool, Vec<Want>);

impl Core {
    /// Starts what can be started. Drivers take turns, and their queries, one task each; within a query, stages nearest to the
    /// result come first.
    pub(super) fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.try_suspects(now, actions);
        self.keep_promise(now, actions);
        loop {
            self.note_wants();
            if !self.has_room() {
                break;
            }
            let made_room = self.ledger.room() + self.queues.opened();
            if std::mem::replace(&mut self.looked, made_room) != made_room {
                self.turns.look_again();
            }
            let Some(query) = self.turns.next() else { break };
            match self.start_one(query, now, actions) {
                true => self.turns.serve(query),
                false => self.turns.refuse(query),
            }
        }
        self.add_extras(now, actions);
    }

    /// Has every query that may have changed stand in the line of those that want the same.
    fn note_wants(&mut self) {
        for step in self.pools.take_changed() {
            self.queries.note(step.query);
        }
        while let Some(id) = self.queries.next_changed() {
            let Some(query) = self.queries.get(&id).filter(|query| !query.done) else { continue };
            let (mut wants, mut unadmitted) = (Wants::default(), Vec::new());
            for stage in query.open.iter().rev() {
                let Some(want) = self.want(query, *stage) else { continue };
                if query.stages[*stage].phase == Phase::Waiting && want != Want::default() {
                    unadmitted.push(*stage);
                }
                if want == Want::default() {
                    wants.0 = true;
                } else if !wants.1.contains(&want) {
                    wants.1.push(want);
                }
            }
            self.turns.want(id, Some(wants).filter(|wants| *wants != Wants::default()));
            self.note_unadmitted(id, unadmitted);
        }
    }

    /// These stages of a query wait to be admitted.
    pub(super) fn note_unadmitted(&mut self, id: QueryId, stages: Vec<usize>) {
        if !stages.is_empty() {
            self.unadmitted.insert(id, stages);
        } else if self.unadmitted.remove(&id).is_some() && self.unadmitted.is_empty() {
            // Tasks may wait at workers again.
            self.turns.look_again();
        }
    }

    fn want(&self, query: &Query, stage: usize) -> Option<Want> {
        let state = &query.stages[stage];
        match state.phase {
            Phase::Done => None,
            Phase::Waiting if self.waits_for_held(query, stage) => None,
            Phase::Waiting => {
                let Whole { replicas, there, pins, .. } = Whole::of(query, stage, &self.pools, |_| true);
                Some(Want { replicas, there, pins, ..Want::default() })
            }
            Phase::Running if state.waiting.len() == 0 => None,
            Phase::Running if self.is_served(query, stage) => {
                let wishes: Vec<_> = state.waiting.wishes().collect();
                let pins = if wishes.is_empty() { state.waiting.pins().collect() } else { Vec::new() };
                let memory = self.next_need(query, stage).map_or(0, |need| need.least);
                let anywhere = Want { memory, ..Want::default() };
                Some(if state.waiting.any() { anywhere } else { Want { pins, wishes, ..anywhere } })
            }
            Phase::Running => {
                let pools = state.steps.iter().filter_map(|step| self.pools.get(step.pool?));
                let replicas: Vec<_> = pools.filter(|pool| pool.may_grow()).map(|pool| pool.spec.each).collect();
                (!replicas.is_empty()).then(|| Want { replicas, ..Want::default() })
            }
        }
    }

    /// Replicas above the least, from what tasks leave.
    fn add_extras(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut after = None;
        while self.ledger.has_room(self.settings.task)
            && let Some((kind, pool)) = self.pools.growing(after)
        {
            let mut users = self.pools.get(pool).into_iter().flat_map(|pool| &pool.users);
            // Suspects stay on their own worker.
            let user = users.find(|step| {
                let stage = self.queries.get(&step.query).and_then(|query| query.stages.get(step.stage.0 as usize));
                stage.is_some_and(|stage| stage.accused.is_empty())
            });
            let Some(step) = user.copied() else {
                after = Some((kind, pool));
                continue;
            };
            if !self.add_replica(pool, step, |_, pool| pool.most, now, actions) {
                // Nor is there room for any other that takes as much.
                after = Some((kind, PoolId(u64::MAX)));
            }
        }
    }

    /// Whether anything could start: nothing does where no task has room, since what is admitted leaves room for one.
    fn has_room(&self) -> bool {
        self.ledger.has_room(self.settings.task) || self.queues.has_place() || self.pools.has_idle()
    }

    /// Open stages of a query, those nearest to the result first, until `until` says so.
    fn each_open_stage(&mut self, id: QueryId, mut until: impl FnMut(&mut Self, usize) -> bool) -> bool {
        let mut before = usize::MAX;
        loop {
            let open = self.queries.get(&id).map(|query| query.open.range(..before));
            let Some(stage) = open.and_then(|mut open| open.next_back()).copied() else { return false };
            if until(self, stage) {
                return true;
            }
            before = stage;
        }
    }

    /// Admits stages of this query and starts one of its tasks, or a replica for them, if there is room.
    fn start_one(&mut self, id: QueryId, now: Instant, actions: &mut Vec<Action>) -> bool {
        self.each_open_stage(id, |core, stage| {
            let admitted = core.admit(id, stage, now, actions);
            core.keep_pace(id, stage, now, actions) || core.start_task(id, stage, now, actions) || admitted
        })
    }

    /// A task more than there are replicas would only wait for them: before it starts, so does another replica of each pool.
    fn keep_pace(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(state) = self.queries.get(&id).map(|query| &query.stages[stage]) else { return false };
        if state.steps.is_empty() || state.waiting.len() == 0 {
            return false;
        }
        let tasks = |core: &Self, pool: &Pool| core.tasks_of(pool) + 1;
        self.extend(id, stage, |core, pool| pool.spec.least.max(tasks(core, pool).min(pool.most)), now, actions)
    }

    /// Running tasks of all stages that use a pool.
    fn tasks_of(&self, pool: &Pool) -> usize {
        let mut stages: Vec<_> = pool.users.iter().map(|step| (step.query, step.stage)).collect();
        stages.dedup();
        let stage = |(query, stage): (QueryId, crate::sched::StageId)| {
            self.queries.get(&query).and_then(|query| query.stages.get(stage.0 as usize))
        };
        stages.into_iter().filter_map(stage).map(|stage| stage.running).sum()
    }

    /// A stage is admitted whole: one replica of each of its pools and room for one task, or nothing.
    pub(super) fn admit(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(query) = self.queries.get(&id).filter(|query| query.stages[stage].phase == Phase::Waiting) else {
            return false;
        };
        if self.waits_for_held(query, stage) {
            return false;
        }
        let (mut whole, task) = (Whole::of(query, stage, &self.pools, |_| true), self.settings.task);
        let mut placed = match whole.is_plain() {
            // Its tasks take what room they find.
            true => Some((Vec::new(), Vec::new())),
            false => whole.place(task, &mut self.ledger),
        };
        if placed.is_none() {
            placed = self.make_room_for(&whole, actions);
        }
        if placed.is_none()
            && let Some(query) = self.queries.get(&id)
            && whole.there.iter().any(|pool| self.pools.get(*pool).is_some_and(|pool| pool.users.is_empty()))
        {
            // Replicas that nobody uses may be charged more than their share of the CPUs is here: they give way to smaller ones.
            whole = Whole::of(query, stage, &self.pools, |pool| !pool.users.is_empty());
            placed = self.make_room_for(&whole, actions);
        }
        let Some((placed, tasks)) = placed else { return false };
        // Tasks are charged when they start; until then their places were only tried.
        tasks.iter().for_each(|grant| self.ledger.undo(grant));
        let Some(query) = self.queries.get_mut(&id) else { return false };
        // Several tasks take room where there is some: all of them beside most of the input would leave the others idle.
        let near = if query.stages[stage].tasks.len() == 1 { query.nearest(stage) } else { None };
        let state = &mut query.stages[stage];
        state.phase = Phase::Running;
        state.near = near;
        state.since = now;
        state.moved = now;
        for step in 0..state.steps.len() {
            let user = query.step_id(stage, step);
            let pool = self.pools.join(user, &query.spec.stages[stage].pools[step], now);
            query.stages[stage].steps[step].pool = Some(pool);
        }
        for (step, grant) in whole.steps.into_iter().zip(placed) {
            let Some(query) = self.queries.get(&id) else { return true };
            if let Some(pool) = query.stages[stage].steps[step].pool {
                self.start_replica(pool, query.step_id(stage, step), grant, now, actions);
            }
        }
        // Up to the least that was asked for before any task starts.
        self.extend(id, stage, |_, pool| pool.spec.least, now, actions);
        true
    }

    /// Places what a stage needs, in room that idle replicas leave.
    fn make_room_for(&mut self, whole: &Whole, actions: &mut Vec<Action>) -> Option<(Vec<Grant>, Vec<Grant>)> {
        let task = self.settings.task;
        let all: Vec<_> = whole.replicas.iter().copied().chain([task]).collect();
        self.evict_for(Evict::Idle(&whole.there), &all, |ledger| whole.place(task, ledger), actions)
    }

    /// What a task needs of a worker.
    pub(super) fn need(&self, query: &Query, stage: usize, index: usize) -> Need {
        let held = query.held(stage, index).saturating_add(query.grouped(stage));
        Need::new(self.settings.task, held, self.passing())
    }

    /// What tasks of a query take that nothing but room keeps from starting: of memory what the next of each stage holds, and no more
    /// than all of a worker's, which one that needs more has to itself.
    pub(super) fn tasks_that_wait(&self, query: &Query) -> impl Iterator<Item = Resources> {
        let is_known = self.ledger.capacity().memory > 0;
        let most = self.autoscaler.as_ref().filter(|_| is_known).map_or(0, |scaler| scaler.settings().each.memory);
        query.backlog().map(move |(stage, tasks)| {
            let held = self.next_need(query, stage).map_or(0, |need| need.least.min(most));
            self.settings.task.with_memory(held).times(tasks)
        })
    }

    /// What the next task of a stage needs.
    pub(super) fn next_need(&self, query: &Query, stage: usize) -> Option<Need> {
        Some(self.need(query, stage, query.stages[stage].waiting.first()?))
    }

    pub(super) fn start_task(&mut self, id: QueryId, stage: usize, now: Instant, actions: &mut Vec<Action>) -> bool {
        let admits = self.policy.admits(self.queues.len());
        let Some(query) = self.queries.get(&id) else { return false };
        let state = &query.stages[stage];
        if state.phase != Phase::Running || !admits || !self.is_served(query, stage) {
            return false;
        }
        let Some(need) = self.next_need(query, stage) else { return false };
        let mut place = |wish| self.policy.place(need, wish, &mut self.ledger);
        let mut found = state.waiting.pins().find_map(|worker| place(Some(Affinity::Hard(worker))));
        if found.is_none() && state.waiting.any() {
            found = place(state.near.map(Affinity::Soft));
        }
        if found.is_none()
            && let Some(wanted) = state.waiting.most_wanted()
        {
            found = place(None);
            // Rather where a task wants to be.
            if let Some(elsewhere) = found.take_if(|room| !state.waiting.has_for(room.worker)) {
                self.ledger.undo(&elsewhere);
                found = self.policy.place(need, Some(Affinity::Soft(wanted)), &mut self.ledger);
            }
        }
        if found.is_none() {
            let makes_room = self.evict_for_task(id, stage, need, Evict::Unused, actions)
                || self.queue_task(id, stage, need, actions)
                || {
                    let unfed = self.unfed(id, stage, now);
                    self.evict_for_task(id, stage, need, Evict::IdleBut(&unfed), actions)
                };
            if makes_room {
                return true;
            }
            found = self.place_alone(id, stage, need);
        }
        let Some(room) = found else { return false };
        let Some(query) = self.queries.get_mut(&id) else { return false };
        let (state, worker) = (&mut query.stages[stage], room.worker);
        let Some(index) = state.waiting.take_any(worker) else { return false };
        state.running += 1;
        state.moved = now;
        state.tasks[index].state = TaskState::Running { on: worker, since: now };
        let depth = state.depth();
        let run_id = (query.task_id(stage, index), query.stages[stage].tasks[index].attempt);
        self.queues.start(run_id, (need, room), depth, now);
        run(query, stage, index, run_id.1, worker, None, actions);
        true
    }

    /// Room for a task that fits nowhere, on a worker without another.
    fn place_alone(&mut self, id: QueryId, stage: usize, need: Need) -> Option<Grant> {
        if need.least == 0 {
            return None;
        }
        let waiting = &self.queries.get(&id)?.stages[stage].waiting;
        let pinned = waiting.pins().find_map(|worker| self.ledger.place_alone_on(worker, need));
        let others = waiting.any() || waiting.most_wanted().is_some();
        pinned.or_else(|| others.then(|| self.ledger.place_alone(need)).flatten())
    }

    /// Lets a task wait at a worker behind a short one, so that the worker has it when it needs it; unless a stage waits to be
    /// admitted: then room is to come free here.
    fn queue_task(&mut self, id: QueryId, stage: usize, need: Need, actions: &mut Vec<Action>) -> bool {
        let Some(query) = self.queries.get_mut(&id) else { return false };
        let waiting = &query.stages[stage].waiting;
        if !self.unadmitted.is_empty() || waiting.len() == 0 {
            return false;
        }
        let ready = |worker| self.ledger.is_open(worker) && waiting.has_for(worker);
        let Some((behind, on)) = self.queues.place(need, ready) else { return false };
        let Some(index) = query.stages[stage].waiting.take(on) else { return false };
        let attempt = query.stages[stage].tasks[index].attempt;
        self.queues.wait((query.task_id(stage, index), attempt), behind);
        let state = &mut query.stages[stage];
        state.queued += 1;
        state.tasks[index].state = TaskState::Queued { on };
        run(query, stage, index, attempt, on, Some(behind), actions);
        true
    }

    /// Pools of a stage whose replicas have had nothing to do yet: its tasks are to bring them that, not to take their room.
    fn unfed(&self, id: QueryId, stage: usize, now: Instant) -> Vec<PoolId> {
        let steps = self.queries.get(&id).map(|query| &query.stages[stage].steps[..]).unwrap_or_default();
        let pools = steps.iter().filter_map(|step| step.pool);
        pools.filter(|id| self.pools.get(*id).is_some_and(|pool| !pool.is_fed(now))).collect()
    }

    fn evict_for_task(
        &mut self,
        id: QueryId,
        stage: usize,
        need: Need,
        who: Evict<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(state) = self.queries.get(&id).map(|query| &query.stages[stage]) else { return false };
        let pins: Vec<_> = state.waiting.pins().collect();
        let others = state.waiting.any() || state.waiting.most_wanted().is_some();
        let place = |ledger: &mut Ledger| {
            let pinned = pins.iter().find_map(|worker| ledger.place_task_on(*worker, need));
            pinned.or_else(|| others.then(|| ledger.place_task(need)).flatten())
        };
        let least = need.amount.with_memory(need.least);
        let freed = self.evict_for(who, &[least], place, actions);
        // The room is there; whose turn it is takes it.
        freed.iter().for_each(|grant| self.ledger.release(grant));
        freed.is_some()
    }

    /// Adds replicas to each pool of a running stage until it has as many as `count` says. Whether there was one to add.
    fn extend(
        &mut self,
        id: QueryId,
        stage: usize,
        count: impl Fn(&Self, &Pool) -> usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(query) = self.queries.get(&id).filter(|query| query.stages[stage].phase == Phase::Running) else {
            return false;
        };
        let steps = query.stages[stage].steps.iter().enumerate();
        let pools: Vec<_> = steps.filter_map(|(step, state)| Some((state.pool?, query.step_id(stage, step)))).collect();
        let mut grown = false;
        for (pool, step) in pools {
            while self.add_replica(pool, step, &count, now, actions) {
                grown = true;
            }
        }
        grown
    }

    /// Adds a replica to a pool in use unless it has as many as `count` says, never taking the last room for a task from a
    /// worker. A pool with an idle replica needs no more. For the least that was asked for, pools that nobody uses make room.
    pub(super) fn add_replica(
        &mut self,
        id: PoolId,
        step: StepId,
        count: impl Fn(&Self, &Pool) -> usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(pool) = self.pools.get(id).filter(|pool| pool.may_grow()) else { return false };
        // The only replica of a pool that has work need leave no room.
        let there = pool.staying().count();
        let spare = if there == 0 { Resources::NONE } else { self.settings.task };
        let (each, short) = (pool.spec.each, pool.is_short());
        if !(short || self.ledger.has_room(each.plus(spare))) || there >= count(self, pool) {
            return false;
        }
        let mut grant = self.ledger.place(each, spare);
        if grant.is_none() && short {
            grant = self.evict_for(Evict::Unused, &[each], |ledger| ledger.place(each, spare), actions);
        }
        let Some(grant) = grant else { return false };
        self.start_replica(id, step, grant, now, actions);
        true
    }

    /// Starts one more replica of a pool, for this step first.
    fn start_replica(&mut self, id: PoolId, step: StepId, grant: Grant, now: Instant, actions: &mut Vec<Action>) {
        let (worker, devices) = (grant.worker, grant.devices.clone());
        let Some(rank) = self.pools.start(id, grant, now) else { return };
        let replica = ReplicaId { pool: id, rank };
        let timeout = self.pools.get(id).map(|pool| self.ready_timeout(pool)).unwrap_or_default();
        self.timers.insert((now + timeout, Timer::Ready(replica)));
        actions.push(Action::StartReplica { worker, replica, step, devices });
    }
}

/// What a stage needs to be admitted.
pub(super) struct Whole {
    /// Steps whose pools have no replica, each pool once.
    steps: Vec<usize>,
    replicas: Vec<Resources>,
    /// Pools that have.
    there: Vec<PoolId>,
    pins: Vec<WorkerId>,
}

impl Whole {
    /// Beside what is there already of pools that count.
    pub(super) fn of(query: &Query, stage: usize, pools: &Pools, counts: impl Fn(&Pool) -> bool) -> Self {
        let specs = &query.spec.stages[stage].pools;
        let mut whole = Self {
            steps: Vec::new(),
            replicas: Vec::new(),
            there: Vec::new(),
            pins: query.stages[stage].waiting.pins().collect(),
        };
        for (step, spec) in distinct(specs) {
            match pools.of(spec).filter(|(_, pool)| pool.alive() > 0 && counts(pool)) {
                Some((pool, _)) => whole.there.push(pool),
                None => {
                    whole.steps.push(step);
                    whole.replicas.push(spec.each);
                }
            }
        }
        whole
    }

    /// No pool and no certain worker.
    fn is_plain(&self) -> bool {
        self.replicas.is_empty() && self.there.is_empty() && self.pins.is_empty()
    }

    /// Charges a replica of each pool, and a task: one on each worker on which some must run.
    pub(super) fn place(&self, task: Resources, ledger: &mut Ledger) -> Option<(Vec<Grant>, Vec<Grant>)> {
        let mut tasks: Vec<_> = self.pins.iter().map_while(|worker| ledger.place_on(*worker, task)).collect();
        let mut amounts = self.replicas.clone();
        if self.pins.is_empty() {
            amounts.push(task);
        }
        let placed = if tasks.len() == self.pins.len() { ledger.place_all(&amounts) } else { None };
        let Some(mut placed) = placed else {
            tasks.iter().for_each(|grant| ledger.undo(grant));
            return None;
        };
        tasks.extend(placed.split_off(self.replicas.len()));
        Some((placed, tasks))
    }
}

/// Has a worker run an attempt of a task.
pub(super) fn run(
    query: &mut Query,
    stage: usize,
    index: usize,
    attempt: Attempt,
    worker: WorkerId,
    after: Option<Run>,
    actions: &mut Vec<Action>,
) {
    let task = query.task_id(stage, index);
    let state = &mut query.stages[stage];
    if state.prepared.insert(worker) {
        query.visited.insert(worker);
        actions.push(Action::Prepare { worker, query: task.query, stage: task.stage });
    }
    actions.push(Action::Run { worker, task, attempt, after });
}
