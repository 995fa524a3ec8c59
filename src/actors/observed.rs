//! What is shown of queries: the recorder is told what the scheduler sees and does, and answers who asks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::Handler;
use regatta_observe::{
    End, Explain, Gone, Limits, Metrics, MetricsByUdf, Profile, Progress, Recorder, Replica, Sample, Seen, Spent,
    Stands, Submitted,
};
use regatta_remote::{NodeId, Sender};

use super::SchedulerActor;
use super::messages::{Known, ProfileOf, ProgressOf, Status, WholeStatus};
use crate::archive::Archive;
use crate::config::Config;
use crate::engine::nanoseconds;
use crate::error::{Error, TaskFailure};
use crate::os;
use crate::sched::{
    Action, Core, Event, Outcome, Output, QueryId, QueryStatus, ReplicaId, Report, StageId, StepId, TaskId, WaitsFor,
    WorkerId,
};

/// What comes with the end of an attempt.
#[derive(Clone, Copy)]
pub(super) struct Took<'a> {
    /// How long it ran, in nanoseconds, as its worker says.
    pub(super) ran: u64,
    /// What its UDF calls have reported.
    pub(super) metrics: &'a MetricsByUdf,
}

/// What may be kept of what queries did.
pub(crate) struct Kept {
    /// In so many bytes of memory.
    pub(crate) memory: usize,
    /// And in files.
    pub(crate) archive: Option<Archive>,
}

/// The recorder, and what it was told.
pub(super) struct Observed {
    pub(super) recorder: Recorder,
    began: Instant,
    /// Of the queries that run, for each stage: how many tasks it has, and whether it is done.
    told: BTreeMap<QueryId, Vec<Told>>,
    /// Whose queries are, also when they have ended; `None`: of this process.
    owners: HashMap<QueryId, Option<NodeId>>,
    /// With so many of them those of forgotten queries are dropped.
    most_owners: usize,
    /// When it was looked last what waits.
    looked: Instant,
    /// Nothing is: benchmarks compare with that.
    is_off: bool,
    archive: Option<Archive>,
    /// Queries that are not in it yet.
    not_archived: BTreeSet<QueryId>,
}

/// How many tasks a stage has, if that is known, and whether it is done.
type Told = (Option<usize>, bool);

/// What may have changed with an event.
#[derive(Clone, Copy)]
pub(super) enum Touched {
    Nothing,
    Stage(QueryId, StageId),
    Query(QueryId),
    All,
}

pub(super) const BUILD: &str = concat!("regatta ", env!("CARGO_PKG_VERSION"));
/// How often is looked what waits, and for how long at most.
const LOOK: Duration = Duration::from_millis(250);
const LONGEST_LOOK: Duration = Duration::from_millis(1);
/// Owners that are known, at least, before those of forgotten queries are dropped.
const OWNERS: usize = 1024;

impl Observed {
    pub(super) fn new(Kept { memory, archive }: Kept) -> Self {
        let now = os::now();
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let limits = Limits { memory, ..Limits::default() };
        Self {
            recorder: Recorder::new(limits, BUILD, u64::try_from(epoch.as_millis()).unwrap_or(0)),
            began: now,
            told: BTreeMap::new(),
            owners: HashMap::new(),
            most_owners: OWNERS,
            looked: now,
            is_off: Config::is_unobserved(),
            archive,
            not_archived: BTreeSet::new(),
        }
    }

    fn saw(&mut self, seen: Seen<'_>, now: Instant) {
        if !self.is_off {
            self.recorder.saw(seen, nanoseconds(now.duration_since(self.began)));
        }
    }

    pub(super) fn at(&self) -> u64 {
        nanoseconds(os::since(self.began))
    }

    pub(super) fn submitted(
        &mut self,
        query: QueryId,
        plan: &Explain,
        planned: Duration,
        owner: Option<NodeId>,
        now: Instant,
    ) {
        if self.is_off {
            return;
        }
        if self.owners.len() >= self.most_owners {
            self.owners.retain(|query, _| self.recorder.knows(*query));
            self.most_owners = OWNERS.max(2 * self.owners.len());
        }
        self.owners.insert(query, owner);
        if self.archive.is_some() {
            self.not_archived.insert(query);
        }
        self.told.insert(query, vec![(None, false); plan.stages.len()]);
        let planned = nanoseconds(planned);
        self.saw(Seen::Submitted(Submitted { query, name: None, plan, planned }), now);
    }

    /// The rows of a stage are the driver's.
    pub(super) fn given(&mut self, query: QueryId, stage: StageId, outputs: &[Output], now: Instant) {
        let (rows, bytes) = outputs.iter().fold((0, 0), |(rows, bytes), of| (rows + of.rows, bytes + of.bytes));
        self.saw(Seen::Given { query, stage, rows, bytes }, now);
    }

    /// What happens to the scheduler, before it takes it; and what comes with the end of an attempt.
    pub(super) fn sees(&mut self, event: &Event, took: Option<Took<'_>>, now: Instant) -> Touched {
        if self.is_off {
            return Touched::Nothing;
        }
        let touched = match event {
            Event::Submit(spec) => Touched::Query(spec.id),
            Event::Unread { task, .. } => Touched::Query(task.query),
            Event::TaskEnded { task, outcome: Ok(_), .. } | Event::TaskBrought { task, .. } => {
                Touched::Stage(task.query, task.stage)
            }
            Event::TaskEnded { task, .. } => Touched::Query(task.query),
            Event::Lost { .. } => Touched::All,
            _ => Touched::Nothing,
        };
        match event {
            Event::Joined { worker, capacity, .. } => {
                let (cpus, gpus, memory) = (capacity.as_cpus(), capacity.as_gpus(), capacity.memory);
                self.saw(Seen::Joined { worker: *worker, cpus, gpus, memory }, now);
            }
            Event::Lost { worker, why } => self.saw(Seen::Lost { worker: *worker, why }, now),
            Event::TaskEnded { task, attempt, outcome } => self.ended(*task, attempt.0, outcome, took, now),
            Event::TaskBrought { task, attempt, output } => self.ended(*task, attempt.0, &Ok(*output), took, now),
            Event::ReplicaProgress { replica: of, doing } => {
                self.saw(Seen::ReplicaSays { replica: replica(*of), doing }, now);
            }
            Event::ReplicaReady(of) => self.saw(Seen::ReplicaReady(replica(*of)), now),
            Event::ReplicaFailed { replica: of, error } => {
                let why = error.to_string();
                self.saw(Seen::ReplicaGone { replica: replica(*of), why: Gone::Failed(&why) }, now);
            }
            Event::ReplicaHung(of) | Event::ReplicaStuck(of) => {
                self.saw(Seen::ReplicaGone { replica: replica(*of), why: Gone::Hung }, now);
            }
            Event::CreditWait { worker, step, batches } => {
                let batches = u32::try_from(*batches).unwrap_or(u32::MAX);
                self.saw(Seen::Credit { step: *step, worker: *worker, batches }, now);
            }
            _ => (),
        }
        touched
    }

    fn ended(&mut self, task: TaskId, attempt: u32, outcome: &Outcome, took: Option<Took<'_>>, now: Instant) {
        static NONE: MetricsByUdf = MetricsByUdf::new();
        let why = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let end = match outcome {
            Ok(output) => End::Done { rows: output.rows, bytes: output.bytes },
            Err(TaskFailure::Cancelled) => End::Cancelled,
            Err(TaskFailure::LostInput { .. } | TaskFailure::MadeAgain(_)) => End::InputLost(&why),
            Err(_) => End::Failed(&why),
        };
        let metrics = took.map_or(&NONE, |took| took.metrics);
        self.saw(Seen::Ended { task, attempt, end, ran: took.map(|took| took.ran), metrics }, now);
    }

    /// What the scheduler has made of it.
    pub(super) fn does(&mut self, actions: &[Action], touched: Touched, core: &Core, now: Instant) {
        if self.is_off {
            return;
        }
        // What a worker that has left did not give away is made again.
        let has_left = actions.iter().any(|action| matches!(action, Action::Retire { .. }));
        let changed = self.look_at(if has_left { Touched::All } else { touched }, core);
        for Change { query, stage, tasks, .. } in &changed {
            if let Some(tasks) = tasks.map(|tasks| u32::try_from(tasks).unwrap_or(u32::MAX)) {
                let why = core.shape(*query, *stage).map(|shape| shape.why.as_str()).unwrap_or_default();
                self.saw(Seen::Tasks { query: *query, stage: *stage, tasks, why }, now);
            }
        }
        for action in actions {
            match action {
                Action::Run { worker, task, attempt, .. } => {
                    let (is_second, task, attempt, worker) =
                        (core.is_second(*task, *attempt), *task, attempt.0, *worker);
                    self.saw(
                        match is_second {
                            true => Seen::PlacedBeside { task, attempt, worker },
                            false => Seen::Placed { task, attempt, worker },
                        },
                        now,
                    );
                }
                Action::StartReplica { worker, replica: of, step, .. } => {
                    self.saw(Seen::ReplicaStarts { replica: replica(*of), step: *step, worker: *worker }, now);
                }
                Action::StopReplica { replica: of, .. } => {
                    self.saw(Seen::ReplicaGone { replica: replica(*of), why: Gone::Stopped }, now);
                }
                Action::Serve { step, replica: of, .. } => self.serves(*step, *of),
                Action::Retire { worker } => self.saw(Seen::Retired(*worker), now),
                _ => (),
            }
        }
        for Change { query, stage, .. } in changed.into_iter().filter(|change| change.is_done) {
            self.saw(Seen::StageDone { query, stage }, now);
        }
        for action in actions {
            match action {
                Action::Report(query, Report::Done) => self.saw(Seen::Done(*query), now),
                // Whoever wanted it does not any more.
                Action::Report(_, Report::Failed(Error::Cancelled)) => (),
                Action::Report(query, Report::Failed(error)) => {
                    self.told.remove(query);
                    self.saw(Seen::Failed(*query, &error.to_string()), now);
                }
                _ => (),
            }
        }
    }

    /// A replica takes batches of a step.
    pub(super) fn serves(&mut self, step: StepId, of: ReplicaId) {
        self.saw(Seen::Serves { step, replica: replica(of) }, os::now());
    }

    /// Stages that have other tasks than before, or are done now and were not.
    fn look_at(&mut self, touched: Touched, core: &Core) -> Vec<Change> {
        let (query, only) = match touched {
            Touched::Nothing => return Vec::new(),
            Touched::All => {
                let all = self.told.iter_mut();
                return all.flat_map(|(query, told)| changes(*query, told, None, core)).collect();
            }
            Touched::Query(query) => (query, None),
            Touched::Stage(query, stage) => (query, Some(stage)),
        };
        let Some(told) = self.told.get_mut(&query) else { return Vec::new() };
        let mut changed = changes(query, told, only, core);
        // With a stage's end others may get their tasks.
        if only.is_some() && changed.iter().any(|change| change.is_done) {
            changed.extend(changes(query, told, None, core));
        }
        changed
    }

    pub(super) fn spent(&mut self, query: QueryId, stage: StageId, spent: &Spent) {
        self.saw(Seen::Spent { query, stage, spent }, os::now());
    }

    pub(super) fn pulse(&mut self, worker: WorkerId, sample: Sample) {
        self.saw(Seen::Pulse(worker, sample), os::now());
    }

    /// What a replica had still to report when it was stopped.
    pub(super) fn replica_reports(&mut self, step: StepId, metrics: &Metrics) {
        self.saw(Seen::ReplicaReports { step, metrics }, os::now());
    }

    fn stands(&self, query: QueryId) -> Option<Stands> {
        self.recorder.stands(query, self.at())
    }

    pub(super) fn released(&mut self, query: QueryId) {
        self.told.remove(&query);
        self.saw(Seen::Released(query), os::now());
        self.archive(query);
    }

    /// Whatever becomes of it from here on is not kept.
    fn archive(&mut self, query: QueryId) {
        let wanted = self.archive.as_ref().filter(|_| self.not_archived.remove(&query));
        let Some(archive) = wanted else { return };
        if let Some(mut profile) = self.recorder.profile(query, self.at()) {
            profile.query.driver = self.owner(query);
            archive.keep(Box::new(profile));
        }
    }

    /// Looks now and then what waits for what.
    pub(super) fn look_at_waits(&mut self, core: &Core) {
        let now = os::now();
        let time = now.duration_since(self.looked);
        if time < LOOK {
            return;
        }
        self.looked = now;
        let time = nanoseconds(time);
        for query in self.told.keys().copied().filter(|query| !core.is_done(*query)).collect::<Vec<_>>() {
            // There may be any number of queries.
            if os::since(now) >= LONGEST_LOOK {
                return;
            }
            for (stage, of) in core.waits(query, now).unwrap_or_default().into_iter().enumerate() {
                for wait in of.waits.iter().filter(|wait| !matches!(wait.on, WaitsFor::Inputs(_))) {
                    let (kind, on) = (kind(&wait.on), wait.on.to_string());
                    let (stage, count) = (StageId(stage as u32), wait.count as u64);
                    self.saw(Seen::Waited { query, stage, kind, on: &on, count, time }, now);
                }
            }
        }
    }

    /// The driver whose query it is; `None`: this process.
    pub(super) fn owner(&self, query: QueryId) -> Option<String> {
        self.owners.get(&query)?.map(|node| node.to_string())
    }

    /// Whether the message that is being handled comes from who has submitted this query.
    fn is_owner(&self, query: QueryId) -> bool {
        match (Sender::current(), self.owners.get(&query)) {
            (Sender::Here, _) => true,
            (sender, Some(Some(owner))) => sender.is(*owner),
            _ => false,
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // Nobody has let go of these, or that was not heard any more.
        self.not_archived.clone().into_iter().for_each(|query| self.archive(query));
    }
}

/// A stage that has other tasks than before, or is done now and was not.
struct Change {
    query: QueryId,
    stage: StageId,
    tasks: Option<usize>,
    is_done: bool,
}

/// What has changed since it was told, of all stages or of one.
fn changes(query: QueryId, told: &mut [Told], only: Option<StageId>, core: &Core) -> Vec<Change> {
    let looked_at = match only {
        Some(StageId(stage)) => stage as usize..(stage as usize + 1).min(told.len()),
        None => 0..told.len(),
    };
    let changes = looked_at.filter_map(|index| {
        let now = core.stage(query, index)?;
        let before = std::mem::replace(told.get_mut(index)?, now);
        let (tasks, is_done) = (now.0.filter(|_| now.0 != before.0), now.1 && !before.1);
        let stage = StageId(index as u32);
        (tasks.is_some() || is_done).then_some(Change { query, stage, tasks, is_done })
    });
    changes.collect()
}

fn replica(of: ReplicaId) -> Replica {
    Replica { pool: of.pool.0, rank: of.rank }
}

/// In a word.
fn kind(on: &WaitsFor) -> &'static str {
    match on {
        WaitsFor::Inputs(_) => "inputs",
        WaitsFor::Workers => "workers",
        WaitsFor::Alone => "alone",
        WaitsFor::Capacity(_) => "capacity",
        WaitsFor::Worker(_) => "worker",
        WaitsFor::TaskBefore => "task",
        WaitsFor::BackOff => "back_off",
        WaitsFor::Replica(_) => "replica",
        WaitsFor::Start(..) => "start",
        WaitsFor::Credit(..) => "credit",
    }
}

impl SchedulerActor {
    fn query_status(&self, query: QueryId, now: Instant) -> Option<QueryStatus> {
        let stands = self.observed.stands(query)?;
        Some(QueryStatus::new(stands, self.core.waits(query, now).unwrap_or_default()))
    }
}

impl Handler<ProfileOf> for SchedulerActor {
    type Result = Option<Box<Profile>>;

    fn handle(&mut self, ProfileOf(query): ProfileOf, _: &mut Self::Context) -> Self::Result {
        let profile = || self.observed.recorder.profile(query, self.observed.at()).map(Box::new);
        self.observed.is_owner(query).then(profile).flatten()
    }
}

impl Handler<ProgressOf> for SchedulerActor {
    type Result = Option<Box<Progress>>;

    fn handle(&mut self, ProgressOf(query): ProgressOf, _: &mut Self::Context) -> Self::Result {
        let progress = || self.observed.recorder.progress(query, self.observed.at()).map(Box::new);
        self.observed.is_owner(query).then(progress).flatten()
    }
}

impl Handler<Known> for SchedulerActor {
    type Result = Vec<QueryId>;

    fn handle(&mut self, _: Known, _: &mut Self::Context) -> Self::Result {
        self.observed.recorder.queries().filter(|query| self.observed.is_owner(*query)).collect()
    }
}

impl Handler<Status> for SchedulerActor {
    type Result = Option<QueryStatus>;

    fn handle(&mut self, Status(query): Status, _: &mut Self::Context) -> Self::Result {
        self.observed.is_owner(query).then(|| self.query_status(query, os::now())).flatten()
    }
}

impl Handler<WholeStatus> for SchedulerActor {
    type Result = actix::MessageResult<WholeStatus>;

    fn handle(&mut self, _: WholeStatus, _: &mut Self::Context) -> Self::Result {
        let now = os::now();
        let of = |query| {
            let mut status = self.query_status(query, now)?;
            // It may be another driver's.
            status.metrics.clear();
            Some(status)
        };
        let mut status = self.core.session_status(now, of);
        for worker in &mut status.workers {
            worker.devices = self.workers.get(&worker.worker).map(|crew| crew.devices.clone()).unwrap_or_default();
        }
        actix::MessageResult(status)
    }
}

#[cfg(test)]
mod tests;
