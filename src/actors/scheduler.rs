//! The actor of the head: carries events into `sched::Core` and its actions out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use regatta_remote::{ActorId, ActorRef, Arbiter, LocalRef, Node, NodeId, Sender};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use super::messages::{
    CreditWaits, Dismiss, DropStage, End, Enough, Gone, Place, Prepare, Register, Release, ReleaseOf, ReplicaAt,
    ReplicaSays, RunEvent, RunTask, Serve, StartReplica, StopReplica, Submit, Withdraw, Word, Worker, WorkerDown,
    WorkerSilent,
};
use super::observed::{Kept, Observed, Took};
use super::outbox::{OUTBOX, Outgoing, Undone, deliver};
use super::providing::Provider;
use super::specs::{driver_id, feed, pool_spec};
use super::{Host, SwordfishActor};
use crate::error::{ClusterError, Error};
use crate::notice::notice;
use crate::os;
use crate::plan::{QueryPlan, Stage, UdfStep};
use crate::sched::{
    Action, Core, Event, GpuInfo, Output, QueryId, QuerySpec, ReplicaId, Report, Resources, Settings, StageId,
    StageSpec, StepId, Way, WorkerId,
};
use crate::store::Rows;

/// Places the work of all queries.
pub struct SchedulerActor {
    pub(super) core: Core,
    pub(super) observed: Observed,
    pub(super) host: Arc<Host>,
    pub(super) workers: BTreeMap<WorkerId, Crew>,
    pub(super) queries: BTreeMap<QueryId, Submitted>,
    /// Replicas that have become ready, and where.
    replicas: HashMap<ReplicaId, (WorkerId, ActorId)>,
    /// Users' actors started so far; where those are that have not ended, and who has started them.
    pub(super) hosted: u64,
    pub(super) owners: HashMap<ActorId, (WorkerId, Sender)>,
    /// Numbers of workers that have not registered yet.
    pub(super) enrolled: HashMap<NodeId, WorkerId>,
    pub(super) next_number: u32,
    /// The last nodes of workers that were lost: no worker lets them in.
    gone: VecDeque<NodeId>,
    /// `None`: workers neither come nor go.
    pub(super) provider: Option<Provider>,
    pub(super) undone: Undone,
    /// How many workers have joined, for whoever waits for them.
    joining: watch::Sender<usize>,
}

pub(super) struct Crew {
    pub(super) place: Place,
    pub(super) devices: Vec<GpuInfo>,
    actor: ActorRef<SwordfishActor>,
    /// Messages to the worker, in order; a task of its own sends them.
    outbox: mpsc::Sender<Outgoing>,
    /// Those who wait until it is gone, which they hear from the end of this.
    pub(super) awaited: Vec<oneshot::Sender<Infallible>>,
}

pub(super) struct Submitted {
    pub(super) plan: QueryPlan,
    /// Workers that have the plan.
    sent: HashSet<WorkerId>,
    pub(super) driver: Place,
    events: mpsc::Sender<RunEvent>,
    /// Rows of the result that came with the end which is being taken.
    pub(super) rows: Rows,
    persist: bool,
    /// Why the result, which was there and was lost, could not be made again.
    pub(super) lost: Option<Error>,
}

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Lost nodes that workers which join later hear of.
const GONE: usize = 4096;

impl SchedulerActor {
    pub(crate) fn new(settings: Settings, kept: Kept, host: Arc<Host>, joining: watch::Sender<usize>) -> Self {
        let core = Core::new(settings);
        let (workers, queries, replicas) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
        let (owners, enrolled, gone) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self {
            core,
            observed: Observed::new(kept),
            host,
            workers,
            queries,
            replicas,
            hosted: 0,
            owners,
            enrolled,
            next_number: 0,
            gone,
            provider: None,
            undone: Undone::default(),
            joining,
        }
    }

    /// Makes a scheduler reachable for the workers of its cluster, and for drivers that ask where things stand or start
    /// actors; and the names of the cluster's actors, which the head keeps on this thread.
    pub(crate) fn publish(node: &Node, id: ActorId, actor: &LocalRef<Self>, thread: &Arbiter) {
        Self::taking(node.publish(id, actor));
        node.keep_names(thread);
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.keys().copied()
    }

    pub(super) fn swordfish(&self, worker: WorkerId) -> Option<ActorRef<SwordfishActor>> {
        Some(self.workers.get(&worker)?.actor.clone())
    }

    /// The worker at a node; where all is in this process, its only one.
    pub(super) fn worker_of(&self, node: NodeId) -> Option<WorkerId> {
        self.worker_at(node)
            .or_else(|| self.workers.values().find(|crew| crew.place.node.is_none()).map(|c| c.place.worker))
    }

    fn join(
        &mut self,
        place: Place,
        (capacity, devices): (Resources, Result<Vec<GpuInfo>, String>),
        actor: ActorRef<SwordfishActor>,
        ctx: &Context<Self>,
    ) {
        let worker = place.worker;
        tracing::debug!(%worker, cpus = capacity.as_cpus(), "worker joined");
        let (outbox, to_send) = mpsc::channel(OUTBOX);
        let (devices, no_gpu) = devices.map_or_else(|why| (Vec::new(), Some(why)), |devices| (devices, None));
        let (kept, awaited) = (actor.clone(), Vec::new());
        self.workers.insert(worker, Crew { place, devices, actor: kept, outbox, awaited });
        self.host.runtime.handle().spawn(deliver(actor, to_send, worker, ctx.address().downgrade()));
        if !self.gone.is_empty() {
            self.send(worker, Outgoing::Gone(Gone(self.gone.iter().copied().collect())));
        }
        self.take(Event::Joined { worker, capacity, no_gpu, machine: machine(&place) });
        self.joining.send_modify(|joined| *joined += 1);
    }

    pub(super) fn lose(&mut self, worker: WorkerId, why: String) {
        if let Some(crew) = self.workers.remove(&worker) {
            // A session that closes lets its workers go.
            if !self.host.closing.load(Ordering::Relaxed) {
                notice(format_args!(
                    "{worker} is lost ({why}); what it did, and what only it held, runs again elsewhere"
                ));
            }
            self.forget_worker(worker, &crew);
            self.take(Event::Lost { worker, why });
        }
    }

    /// Nobody waits for a worker any more, or lets it in.
    pub(super) fn forget_worker(&mut self, worker: WorkerId, crew: &Crew) {
        if let Some((node, _)) = crew.place.node {
            self.host.forget(node);
            if self.gone.len() == GONE {
                self.gone.pop_front();
            }
            self.gone.push_back(node);
            for worker in self.workers.keys().copied().collect::<Vec<_>>() {
                self.send(worker, Outgoing::Gone(Gone(vec![node])));
            }
        }
        self.replicas.retain(|_, (on, _)| *on != worker);
        self.owners.retain(|_, (on, _)| *on != worker);
        self.queries.values_mut().for_each(|submitted| _ = submitted.sent.remove(&worker));
        // Its process may still be there, stopped or cut off: it is of no use any more.
        let node = crew.place.node.map(|(node, _)| node);
        self.provide(move |provider| provider.retire(worker, node));
    }

    pub(super) fn worker_at(&self, node: NodeId) -> Option<WorkerId> {
        let crew = self.workers.values().find(|crew| crew.place.node.is_some_and(|(id, _)| id == node));
        crew.map(|crew| crew.place.worker)
    }

    pub(super) fn take(&mut self, event: Event) {
        self.take_with(event, None);
    }

    /// Takes an event, with what comes with the end of an attempt.
    pub(super) fn take_with(&mut self, event: Event, took: Option<Took<'_>>) {
        let now = os::now();
        let touched = self.observed.sees(&event, took, now);
        let actions = self.core.handle(event, now);
        self.observed.does(&actions, touched, &self.core, now);
        actions.into_iter().for_each(|action| self.act(action));
        // Not before all are carried out: they are of the state that the core is in.
        self.tell_undone();
    }

    fn act(&mut self, action: Action) {
        #[cfg(test)]
        self.note_action(&action);
        match action {
            Action::Prepare { worker, query, stage } => {
                let is_result = self.is_read_by_driver(query, stage);
                let (Some(submitted), Some(shape)) = (self.queries.get_mut(&query), self.core.shape(query, stage))
                else {
                    return;
                };
                let Some(program) = submitted.plan.program(stage, shape, self.core.is_forced()) else { return };
                let whole = submitted.sent.insert(worker).then(|| submitted.plan.whole.clone());
                let driver = submitted.driver.node.map(|(node, _)| node);
                let metered = submitted.plan.metered;
                let machines = self.workers.values().filter_map(|crew| machine(&crew.place));
                let compress = machines.collect::<BTreeSet<_>>().len() > 1;
                let prepare = Prepare { query, stage, program, whole, driver, is_result, metered, compress };
                self.send(worker, Outgoing::Prepare(prepare));
            }
            Action::Run { worker, task, attempt, after } => {
                let Some(submitted) = self.queries.get(&task.query) else { return };
                let Some(shape) = self.core.shape(task.query, task.stage) else { return };
                let Some(split) = submitted.plan.split(shape, task.index as usize) else { return };
                let reads = |(id, way): (StageId, Way)| {
                    let mut outputs = self.outputs(task.query, id)?;
                    if way == Way::Sections {
                        let is_read = |of: &Output| shape.tasks.reads(task.index as usize, id, of.id.task.index);
                        outputs.retain(|(_, output)| is_read(output));
                    }
                    Some((id, feed(way, &split, &outputs)))
                };
                let inputs = submitted.plan.reads(shape, &split).map(reads);
                let Some(inputs) = inputs.collect() else { return self.undone.unfed.push_back((task, attempt)) };
                let ready = self.core.ready_replicas(task.query, task.stage);
                ready.iter().for_each(|(step, replica, _)| self.observed.serves(*step, *replica));
                let replicas = ready.into_iter().filter_map(|(step, replica, on)| self.replica_at(step, replica, on));
                let replicas = replicas.collect();
                self.send(worker, Outgoing::Run(RunTask { task, attempt, split, inputs, replicas, after }));
            }
            Action::Withdraw { worker, task, attempt } => {
                self.send(worker, Outgoing::Withdraw(Withdraw { task, attempt, stop: false }));
            }
            Action::Stop { worker, task, attempt } => {
                self.send(worker, Outgoing::Withdraw(Withdraw { task, attempt, stop: true }));
            }
            Action::StartReplica { worker, replica, step, devices } => {
                if let Some(of) = self.step(step) {
                    let (udf, arguments, options) = (of.udf.clone(), of.arguments.clone(), of.options.clone());
                    let start = StartReplica { replica, step, udf, arguments, options, devices };
                    self.send(worker, Outgoing::Start(start));
                }
            }
            Action::StopReplica { worker, replica } => {
                self.replicas.remove(&replica);
                self.send(worker, Outgoing::Stop(StopReplica(replica)));
            }
            Action::Serve { step, replica, on, tell } => {
                if let Some(at) = self.replica_at(step, replica, on) {
                    for worker in tell {
                        self.send(worker, Outgoing::Serve(Serve(at)));
                    }
                }
            }
            Action::Dismiss { replica, tell } => {
                for worker in tell {
                    self.send(worker, Outgoing::Dismiss(Dismiss(replica)));
                }
            }
            Action::Enough { worker, query, stage } => self.send(worker, Outgoing::Enough(Enough { query, stage })),
            Action::Drop { worker, query, stage } => self.send(worker, Outgoing::Drop(DropStage { query, stage })),
            Action::End { worker, query } => self.send(worker, Outgoing::End(End(query))),
            Action::Demand { workers } => self.provide(move |provider| provider.demand(workers)),
            Action::Move { from, to, query, outputs } => self.have_moved(from, to, query, outputs),
            // Its end is then nobody's loss.
            Action::Retire { worker } => self.part_with(worker),
            Action::Report(query, report) => self.report(query, report),
        }
    }

    fn report(&mut self, query: QueryId, report: Report) {
        if let Report::Failed(error) | Report::Lost(error) = &report {
            tracing::debug!(%query, %error, "query failed");
        }
        let event = match report {
            Report::Partition { index, worker, output } => {
                let Some(place) = self.place(query, worker) else { return };
                let rows = self.queries.get_mut(&query).map(|submitted| std::mem::take(&mut submitted.rows));
                RunEvent::Partition { index, place, output, rows: rows.unwrap_or_default() }
            }
            Report::Done => {
                let last = self.queries.get(&query).and_then(|submitted| submitted.plan.last());
                RunEvent::Done(last.and_then(|last| self.core.outputs(query, last.id)).map_or(0, |made| made.len()))
            }
            Report::Failed(error) => RunEvent::Failed(error),
            Report::Lost(error) => {
                // Whoever misses it asks, and is told.
                self.queries.get_mut(&query).into_iter().for_each(|submitted| submitted.lost = Some(error.clone()));
                return;
            }
        };
        let failed = matches!(event, RunEvent::Failed(_));
        if let Some(submitted) = self.queries.get(&query) {
            // There is room for every event; it fails only when nobody listens any more.
            let _ = submitted.events.try_send(event);
        }
        if failed {
            self.forget(query);
            self.observed.released(query);
        }
    }

    /// Puts a message into a worker's outbox. A worker that does not take its messages is lost, once what is being done is.
    pub(super) fn send(&mut self, worker: WorkerId, message: Outgoing) {
        let Some(crew) = self.workers.get(&worker) else { return };
        let why = match crew.outbox.try_send(message) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => format!("it has left {OUTBOX} messages waiting"),
            // Nobody sends them any more.
            Err(TrySendError::Closed(_)) => "its connection has ended".to_owned(),
        };
        self.undone.unreached.push_back((worker, why));
    }

    fn stage(&self, query: QueryId, stage: u32) -> Option<&Stage> {
        self.queries.get(&query)?.plan.stages.get(stage as usize)
    }

    pub(super) fn is_read_by_driver(&self, query: QueryId, stage: StageId) -> bool {
        let reads = |of: &Submitted| !of.persist && of.plan.last().is_some_and(|last| last.id == stage);
        self.queries.get(&query).is_some_and(reads)
    }

    fn step(&self, StepId { query, stage, step }: StepId) -> Option<&UdfStep> {
        self.stage(query, stage.0)?.steps().get(step as usize)
    }

    fn release(&mut self, query: QueryId) {
        #[cfg(test)]
        super::moments::note(super::moments::Point::Released, None);
        self.take(Event::Release(query));
        self.forget(query);
        self.observed.released(query);
    }

    /// Whatever comes of it from here on is let go.
    fn forget(&mut self, query: QueryId) {
        self.queries.remove(&query);
        self.host.let_go(self.host.store.drop_query(query));
    }

    fn replica_at(&self, step: StepId, replica: ReplicaId, on: WorkerId) -> Option<ReplicaAt> {
        let place = self.workers.get(&on)?.place;
        Some(ReplicaAt { step, replica, place, actor: self.replicas.get(&replica)?.1 })
    }
}

impl Actor for SchedulerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |actor, _| {
            actor.core.provider_waits(actor.provider_waits());
            actor.take(Event::Tick);
            actor.observed.look_at_waits(&actor.core);
        });
    }
}

impl Handler<Register> for SchedulerActor {
    type Result = Result<(), ClusterError>;

    fn handle(&mut self, message: Register, ctx: &mut Self::Context) -> Self::Result {
        let Register { worker, capacity, devices, node, address } = message;
        let place = Place { worker, node: Some((node, address)) };
        self.may_register(worker, node)?;
        match self.workers.get(&worker) {
            // The answer to an earlier ask was lost.
            Some(crew) if crew.place == place => return Ok(()),
            Some(_) => return Err(ClusterError::network(format!("join as {worker}"), "that number is taken")),
            None if machine(&place).is_some_and(|machine| self.core.excludes(machine, os::now()))
                && !self.is_provided(node) =>
            {
                let why = "this machine was released a short while ago; DAFT_AUTOSCALING_PENDING_RELEASE_EXCLUDE_SECONDS \
                           says for how long it is left alone";
                return Err(ClusterError::network(format!("join as {worker}"), why));
            }
            None => (),
        }
        let actor = self.host.swordfish(node).ok_or(ClusterError::Closed)?;
        self.enrolled.remove(&node);
        self.join(place, (capacity, devices), actor, ctx);
        self.provide(move |provider| provider.joined(node));
        Ok(())
    }
}

impl Handler<Worker> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Worker { worker, capacity, devices, actor }: Worker, ctx: &mut Self::Context) {
        self.join(Place { worker, node: None }, (capacity, devices), actor, ctx);
    }
}

impl Handler<WorkerDown> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, WorkerDown { node, why }: WorkerDown, _: &mut Self::Context) {
        node.iter().for_each(|node| _ = self.enrolled.remove(node));
        match node.map(|node| (node, self.worker_at(node))) {
            Some((_, Some(worker))) => return self.lose(worker, why),
            // It had gone before.
            Some((node, None)) if self.host.is_gone(node) => return,
            Some((node, None)) => self.host.forget(node),
            None => (),
        }
        notice(format_args!("a worker that was asked for has ended before it joined: {why}"));
        self.take(Event::NotJoined { why });
    }
}

impl Handler<WorkerSilent> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, WorkerSilent { node, silent }: WorkerSilent, _: &mut Self::Context) {
        if let Some(worker) = self.worker_at(node) {
            tracing::warn!(%worker, silent, "worker's heartbeat");
            self.take(Event::Silent { worker, silent });
        }
    }
}

impl Handler<ReplicaSays> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, ReplicaSays { replica, word }: ReplicaSays, _: &mut Self::Context) {
        // The last word of one that was stopped comes when nobody knows any more where it was.
        let on = self.core.replica_on(replica).or_else(|| self.core.replica_stops_on(replica));
        if !on.map_or(matches!(word, Word::Stopped(..)), |on| self.is_from(on)) {
            return;
        }
        let event = match word {
            Word::Progress(doing) => Event::ReplicaProgress { replica, doing },
            Word::Failed(error) => Event::ReplicaFailed { replica, error },
            Word::Hung => Event::ReplicaHung(replica),
            Word::Stuck => Event::ReplicaStuck(replica),
            Word::Ended => Event::ReplicaEnded(replica),
            Word::Stopped(step, metrics) => return self.observed.replica_reports(step, &metrics),
            Word::Idle(idle) => Event::ReplicaIdle { replica, idle },
            Word::Ready(actor) => {
                // The word of one that was stopped meanwhile comes too late.
                if let Some(on) = self.core.replica_on(replica) {
                    #[cfg(test)]
                    self.note_at(super::moments::Point::Ready, on);
                    self.replicas.insert(replica, (on, actor));
                }
                Event::ReplicaReady(replica)
            }
        };
        self.take(event);
    }
}

impl Handler<CreditWaits> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, CreditWaits { worker, step, batches }: CreditWaits, _: &mut Self::Context) {
        if self.is_from(worker) {
            self.take(Event::CreditWait { worker, step, batches });
        }
    }
}

impl Handler<Submit> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) {
        let Submit { query, plan, mut given, planned, driver, persist, events } = submit;
        if let Err(error) = self.may_submit(query, &plan, &driver) {
            // There is room for every event.
            let _ = events.try_send(RunEvent::Failed(error.into()));
            return;
        }
        if let Some((node, _)) = driver.node {
            self.host.store.own(query, node);
        }
        let no_gpu = (!self.core.has_gpus()).then(|| self.core.why_no_gpu());
        let (affinity, now) = (self.near_persisted(&plan), os::now());
        let owner = driver.node.map(|(node, _)| node);
        self.observed.submitted(query, &plan.explained(), planned, owner, now);
        given.iter().for_each(|(stage, outputs)| self.observed.given(query, *stage, outputs, now));
        let stages = plan.stages.iter().zip(affinity).map(|(stage, affinity)| StageSpec {
            inputs: stage.reads.iter().map(|read| read.from).collect(),
            one_attempt: stage.one_attempt.inputs.clone(),
            with_others: stage.one_attempt.with_others,
            held: stage.held.iter().flatten().map(|(of, _)| *of).collect::<BTreeSet<_>>().into_iter().collect(),
            tasks: stage.splits.len(),
            sections: plan.sections,
            modes: stage.modes.clone(),
            holds: stage.holds,
            grouped: stage.grouped,
            what: stage.why.clone(),
            pools: stage.steps().iter().map(|step| pool_spec(step, no_gpu.as_deref())).collect(),
            affinity,
            may_run_twice: stage.may_run_twice,
            limit: stage.program().and_then(|program| program.limit),
            given: given.remove(&stage.id).unwrap_or_default(),
        });
        let spec = QuerySpec { id: query, driver: driver_id(&driver), stages: stages.collect(), stable: plan.stable };
        tracing::debug!(%query, stages = spec.stages.len(), "query submitted");
        let (sent, rows) = (HashSet::new(), Rows::Kept);
        self.queries.insert(query, Submitted { plan, sent, driver, events, rows, persist, lost: None });
        self.take(Event::Submit(spec));
        if persist {
            self.take(Event::Persist(query));
        }
    }
}

impl Handler<Release> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, Release(query): Release, _: &mut Self::Context) {
        self.release(query);
    }
}

impl Handler<ReleaseOf> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, ReleaseOf(query, driver): ReleaseOf, _: &mut Self::Context) {
        let of = self.queries.get(&query).and_then(|submitted| submitted.driver.node);
        if of.is_some_and(|(node, _)| node == driver) {
            self.release(query);
        }
    }
}

/// The machine that a worker runs on; `None` for processes of this one, which never come back.
fn machine(place: &Place) -> Option<IpAddr> {
    place.node.map(|(_, address)| address.ip()).filter(|ip| !ip.is_loopback())
}

impl std::fmt::Debug for SchedulerActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerActor")
            .field("workers", &self.workers.len())
            .field("queries", &self.queries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
