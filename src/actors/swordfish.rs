//! The actor of a worker: takes tasks and replicas, keeps what they share, and forgets a query when it ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, SpawnHandle};
use futures_util::future::try_join_all;
use polars_plan::plans::IRPlan;
use regatta_observe::Spent;
use regatta_remote::{ActorId, ActorRef, Arbiter, LocalRef, Node, catch};
use tokio::sync::{mpsc, watch};

use super::ends::{ENDS, Ended, Reports};
use super::feed::{ALL_SECTIONS, Feed};
use super::feeding::AHEAD;
use super::lanes::Lanes;
use super::messages::{
    CreditWaits, Dismiss, DropStage, End, Enough, Gone, Locate, Located, Place, Prepare, ReplicaAt, ReplicaSays,
    RunTask, RunTasks, Serve, StartReplica, StopReplica, TaskEnded, Withdraw, Word,
};
use super::pools::{StagePools, UdfOfStep};
use super::udf::Ends;
use super::{Host, SchedulerActor, UdfActor, insist};
use crate::engine::{Leave, Left, Of, Program, Spending, TaskRun, Waits, nanoseconds, run_task};
use crate::error::{PolarsFailure, TaskFailure};
use crate::os;
use crate::plan::{Split, held_in};
use crate::sched::{Attempt, PartitionId, QueryId, ReplicaId, Sizes, StageId, StepId, TaskId};
use crate::store::{Part, Reading, Rows};
use crate::udf::{CALLS, CallingTask, MetricsByUdf, TaskMeter, UdfError};
use crate::whose::InTask;

/// Runs the tasks and replicas of one worker.
pub struct SwordfishActor {
    pub(super) host: Arc<Host>,
    pub(super) here: Place,
    pub(super) scheduler: ActorRef<SchedulerActor>,
    queries: BTreeMap<QueryId, Work>,
    replicas: HashMap<ReplicaId, Running>,
    lanes: Lanes<(TaskId, Attempt), Job>,
    ended: mpsc::Sender<Ended>,
    /// Attempts that have begun and whose end was not reported.
    running: Arc<AtomicUsize>,
    waits: mpsc::Sender<CreditWaits>,
    /// Users' actors and their threads.
    pub(super) hosted: HashMap<ActorId, Arbiter>,
    /// What waits until nobody looks at spans any more.
    pub(super) looks_away: Option<SpawnHandle>,
}

/// Runs an attempt of a task to its end.
type Job = Box<dyn FnOnce() -> Ended + Send>;

/// What this worker keeps of a query.
struct Work {
    plan: Result<Arc<IRPlan>, TaskFailure>,
    stages: BTreeMap<StageId, StageHere>,
}

struct StageHere {
    program: Result<Arc<Program>, TaskFailure>,
    pools: Arc<StagePools>,
    leave: Leave,
    /// Batches that wait for room, by step, as the scheduler was told.
    said: BTreeMap<usize, usize>,
}

/// The same, for one of its tasks.
struct StageOfTask {
    program: Result<Arc<Program>, TaskFailure>,
    pools: Arc<StagePools>,
    leave: Leave,
}

impl StageHere {
    fn for_task(&self) -> StageOfTask {
        StageOfTask { program: self.program.clone(), pools: Arc::clone(&self.pools), leave: self.leave }
    }
}

struct Running {
    actor: LocalRef<UdfActor>,
    number: ActorId,
    arbiter: Arbiter,
}

/// How often is looked for batches that wait.
const LOOK: Duration = Duration::from_millis(500);
/// Words on such batches that may wait to be sent; more are said later.
const WAITS: usize = 64;
impl SwordfishActor {
    pub(crate) fn new(host: Arc<Host>, here: Place, scheduler: ActorRef<SchedulerActor>) -> Self {
        let (waits, to_send) = mpsc::channel(WAITS);
        host.runtime.handle().spawn(report_waits(to_send, scheduler.clone()));
        let (ended, ends) = mpsc::channel(ENDS);
        let running = Arc::new(AtomicUsize::new(0));
        let reports = Reports { worker: here.worker, running: Arc::clone(&running), scheduler: scheduler.clone() };
        host.runtime.handle().spawn(reports.send(ends, Arc::clone(&host)));
        let (queries, replicas, hosted) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        let (lanes, looks_away) = (Lanes::default(), None);
        Self { host, here, scheduler, queries, replicas, lanes, ended, running, waits, hosted, looks_away }
    }

    /// Makes a swordfish reachable for the head of its cluster, and for nobody else.
    pub(crate) fn publish(node: &Node, id: ActorId, actor: &LocalRef<Self>) {
        Self::taking(node.publish(id, actor));
    }

    fn work(&mut self, query: QueryId) -> &mut Work {
        self.queries.entry(query).or_insert_with(|| {
            let plan = Err(PolarsFailure::new("protocol", "the query's plan did not come before its stages").into());
            Work { plan, stages: BTreeMap::new() }
        })
    }

    /// Tells the scheduler which batches wait for room at a replica, where that has changed.
    fn report_credit_waits(&mut self) {
        for (query, work) in &mut self.queries {
            for (stage, here) in &mut work.stages {
                for (step, batches) in here.pools.waiting().enumerate() {
                    let said = here.said.entry(step).or_default();
                    let id = StepId { query: *query, stage: *stage, step: step as u32 };
                    let waits = CreditWaits { worker: self.here.worker, step: id, batches };
                    // What has no place now is said at the next look.
                    if *said != batches && self.waits.try_send(waits).is_ok() {
                        *said = batches;
                    }
                }
            }
        }
    }

    fn serve(&mut self, at: ReplicaAt) {
        let local = self.replicas.get(&at.replica).map(|running| running.actor.clone());
        let stage = self.queries.get(&at.step.query).and_then(|work| work.stages.get(&at.step.stage));
        if let Some(stage) = stage {
            stage.pools.add(at, local);
        }
    }

    /// Runs a task on a thread where it may block, from its start to its one report.
    fn start_task(&mut self, message: RunTask) {
        let (key, after) = ((message.task, message.attempt), message.after);
        let (stop, cancelled) = watch::channel(false);
        let job = self.job(message, cancelled);
        let Some((lane, job)) = self.lanes.put(after, key, job, stop) else { return };
        let (lanes, ended, running) = (self.lanes.clone(), self.ended.clone(), Arc::clone(&self.running));
        let runtime = self.host.runtime.clone();
        // These threads are kept for a while: to start one takes as long as the least of tasks.
        self.host.runtime.spawn_blocking(move || {
            let mut next = Some((key, job));
            while let Some((key, job)) = next.take() {
                running.fetch_add(1, Ordering::Relaxed);
                let end = job();
                running.fetch_sub(1, Ordering::Relaxed);
                next = lanes.next(lane, key);
                // An error: this worker is on its way out.
                drop(runtime.wait(ended.send(end)));
            }
        });
    }

    fn job(&mut self, message: RunTask, cancelled: watch::Receiver<bool>) -> Job {
        let RunTask { task, attempt, .. } = message;
        let (host, scheduler) = (Arc::clone(&self.host), self.scheduler.clone());
        let stage = self.work(task.query).stages.get(&task.stage).map(StageHere::for_task);
        let meter = TaskMeter::default();
        let calling = CallingTask {
            at: (task.query, task.stage, self.here.worker),
            by: (task.index, attempt.0),
            scratch: host.store.folder().to_owned(),
            meter: meter.clone(),
        };
        Box::new(move || {
            let _span = tracing::info_span!("task", %task, attempt = attempt.0).entered();
            let _task = InTask::enter(task, attempt);
            let (started, spending) = (os::now(), Arc::new(Spending::begin()));
            let spends = Arc::clone(&spending);
            let outcome = catch(|| attempt_task(&host, &scheduler, message, stage, (calling, spends), cancelled))
                .unwrap_or_else(|text| Err(TaskFailure::Panicked(text)));
            let (outcome, rows, sections) = match outcome {
                Ok(Left { output, rows, sections }) => {
                    tracing::debug!(rows = output.rows, bytes = output.bytes, took = ?os::since(started), "done");
                    (Ok(output), rows, sections)
                }
                Err(error) => {
                    tracing::debug!(%error, took = ?os::since(started), "failed");
                    (Err(error), Rows::Kept, Sizes::default())
                }
            };
            let metrics = meter.take();
            // In this order, so that what was spent is no more than the time that there was.
            let spent = spending.take();
            let ran = nanoseconds(os::since(started));
            Ended { end: TaskEnded { task, attempt, outcome, rows, sections, metrics, ran }, spent }
        })
    }
}

impl SwordfishActor {
    /// Reports attempts that were taken out before they began: every attempt has its end.
    fn report_withdrawn(&self, withdrawn: Vec<(TaskId, Attempt)>) {
        let ended = self.ended.clone();
        self.host.runtime.handle().spawn(async move {
            for (task, attempt) in withdrawn {
                let (outcome, rows, sections) = (Err(TaskFailure::Cancelled), Rows::Kept, Sizes::default());
                let end = TaskEnded { task, attempt, outcome, rows, sections, metrics: MetricsByUdf::new(), ran: 0 };
                // An error: this worker is on its way out.
                drop(ended.send(Ended { end, spent: Spent::default() }).await);
            }
        });
    }
}

impl Actor for SwordfishActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(LOOK, |actor, _| actor.report_credit_waits());
    }
}

impl Handler<Prepare> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, message: Prepare, _: &mut Self::Context) {
        let Prepare { query, stage, program, whole, driver, is_result, metered, compress } = message;
        if let Some(driver) = driver {
            self.host.store.own(query, driver);
        }
        let udfs: Vec<_> = program.steps.iter().map(UdfOfStep::of).collect();
        let opened = |open: &dyn Fn() -> Result<_, PolarsFailure>| {
            let opened = catch(|| open().map(Arc::new).map_err(TaskFailure::from));
            opened.unwrap_or_else(|text| Err(TaskFailure::Panicked(text)))
        };
        if let Some(whole) = whole {
            let plan = catch(|| whole.open().map_err(TaskFailure::from));
            self.work(query).plan = plan.unwrap_or_else(|text| Err(TaskFailure::Panicked(text)));
        }
        let program = match self.work(query).plan.clone() {
            Ok(plan) => opened(&|| Program::open(&plan, program.clone(), metered, compress)),
            Err(failure) => Err(failure),
        };
        let pools = Arc::new(StagePools::new(Arc::clone(&self.host), self.here, (query, stage), udfs));
        let leave = match (is_result, self.here.node) {
            (false, _) => Leave::InStore,
            (true, Some(_)) => Leave::ToDriver,
            // Where all is in this process, so is the driver.
            (true, None) => Leave::Here,
        };
        let here = StageHere { program, pools, leave, said: BTreeMap::new() };
        self.work(query).stages.insert(stage, here);
    }
}

impl Handler<RunTasks> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, RunTasks(tasks): RunTasks, _: &mut Self::Context) {
        for task in tasks {
            for at in &task.replicas {
                self.serve(*at);
            }
            self.start_task(task);
        }
    }
}

impl Handler<Serve> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Serve(at): Serve, _: &mut Self::Context) {
        self.serve(at);
    }
}

impl Handler<Dismiss> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Dismiss(replica): Dismiss, _: &mut Self::Context) {
        let stages = self.queries.values().flat_map(|work| work.stages.values());
        stages.for_each(|stage| stage.pools.dismiss(replica));
    }
}

impl Handler<StartReplica> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, spec: StartReplica, _: &mut Self::Context) {
        let (id, number) = (spec.replica, self.host.replica_number());
        let arbiter = match self.host.runtime.arbiter() {
            Ok(arbiter) => arbiter,
            Err(error) => {
                let failed = Word::Failed(UdfError::new(format!("no thread for the replica: {error}")));
                let scheduler = self.scheduler.clone();
                self.host.runtime.handle().spawn(async move {
                    for word in [failed, Word::Ended] {
                        drop(insist(&scheduler, ReplicaSays { replica: id, word }).await);
                    }
                });
                return;
            }
        };
        let ends = Ends::of(id, &self.host, self.scheduler.clone());
        let (host, here) = (Arc::clone(&self.host), self.here);
        let actor = arbiter.spawn(CALLS, move |_| UdfActor::new(host, here, spec, number, ends));
        if let Some(node) = &self.host.node {
            UdfActor::taking(node.publish(number, &actor));
        }
        self.replicas.insert(id, Running { actor, number, arbiter });
    }
}

impl Handler<StopReplica> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, StopReplica(id): StopReplica, _: &mut Self::Context) {
        if let Some(running) = self.replicas.remove(&id) {
            self.stop(running);
        }
    }
}

impl Handler<End> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, End(query): End, _: &mut Self::Context) {
        self.queries.remove(&query);
        self.report_withdrawn(self.lanes.end(|(task, _)| task.query == query));
        self.host.let_go(self.host.store.drop_query(query));
    }
}

impl Handler<Enough> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Enough { query, stage }: Enough, _: &mut Self::Context) {
        self.queries.get_mut(&query).into_iter().for_each(|work| _ = work.stages.remove(&stage));
        self.report_withdrawn(self.lanes.end(|(task, _)| (task.query, task.stage) == (query, stage)));
    }
}

impl Handler<Withdraw> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Withdraw { task, attempt, stop }: Withdraw, _: &mut Self::Context) {
        if self.lanes.withdraw((task, attempt), stop) {
            self.report_withdrawn(vec![(task, attempt)]);
        }
        if stop {
            // One that still runs leaves nothing.
            self.host.store.drop_attempt(task, attempt);
        }
    }
}

impl Handler<DropStage> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, DropStage { query, stage }: DropStage, _: &mut Self::Context) {
        self.host.let_go(self.host.store.drop_stage(query, stage));
    }
}

impl Handler<Gone> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Gone(nodes): Gone, _: &mut Self::Context) {
        nodes.into_iter().for_each(|node| self.host.forget(node));
    }
}

impl SwordfishActor {
    fn stop(&self, running: Running) {
        if let Some(node) = &self.host.node {
            node.unpublish(running.number);
        }
        drop(running.actor);
        // Joins the replica's thread, which may be in the author's code: not here.
        let arbiter = running.arbiter;
        self.host.runtime.spawn_blocking(move || drop(arbiter));
    }
}

fn attempt_task(
    host: &Arc<Host>,
    scheduler: &ActorRef<SchedulerActor>,
    message: RunTask,
    stage: Option<StageOfTask>,
    (calling, spending): (CallingTask, Arc<Spending>),
    cancelled: watch::Receiver<bool>,
) -> Result<Left, TaskFailure> {
    let unprepared = || PolarsFailure::new("protocol", "the stage's program did not come before its task");
    let StageOfTask { program, pools, leave } = stage.ok_or_else(unprepared)?;
    let runtime = host.runtime.clone();
    let program = program?.for_attempt(message.task.index, message.attempt);
    let waits = Waits { runtime, cancelled: cancelled.clone() };
    let (query, split) = (message.task.query, message.split);
    let inputs = waits.until_cancelled(begin(host, scheduler, query, &program, &split, &message.inputs))?;
    for (read, reading) in program.reads_with(&split).zip(&inputs) {
        if let Of::Stage(stage) = &read.of
            && let Some((_, feed)) = message.inputs.iter().find(|(of, _)| of == stage)
        {
            spending.reads(*stage, &reading.fetched(|worker| host.is_passed_on(feed, worker)));
        }
    }
    let output = PartitionId { task: message.task, attempt: message.attempt };
    let store = Arc::clone(&host.store);
    let own = message.inputs.into_iter().find_map(|(_, feed)| feed.own);
    let outcome =
        run_task(TaskRun { program, split, inputs, own, output, leave, store, pools, calling, waits, spending });
    if *cancelled.borrow() {
        // It may have ended between its last batch and the seal: then the query's partitions have been dropped already.
        host.store.drop_attempt(output.task, output.attempt);
        return Err(TaskFailure::Cancelled);
    }
    outcome
}

async fn report_waits(mut waits: mpsc::Receiver<CreditWaits>, scheduler: ActorRef<SchedulerActor>) {
    while let Some(word) = waits.recv().await {
        if let Err(error) = insist(&scheduler, word).await {
            tracing::debug!(%error, "could not tell the scheduler what waits");
        }
    }
}

/// Begins to read what a task reads of what others have left.
async fn begin(
    host: &Arc<Host>,
    scheduler: &ActorRef<SchedulerActor>,
    query: QueryId,
    program: &Program,
    split: &Split,
    feeds: &[(StageId, Feed)],
) -> Result<Vec<Reading>, TaskFailure> {
    let mut wanted: BTreeMap<QueryId, Vec<usize>> = BTreeMap::new();
    for read in program.reads_with(split) {
        if let Of::Held(scanned) = &read.of {
            held_in(split, scanned).into_iter().for_each(|(of, index)| wanted.entry(of).or_default().push(index));
        }
    }
    let mut located = HashMap::new();
    for (of, partitions) in wanted {
        let there = locate(scheduler, of, query, partitions.clone()).await?;
        located.extend(partitions.into_iter().map(|partition| (of, partition)).zip(there));
    }
    let mut begun = Vec::new();
    let reads: Vec<_> = program.reads_with(split).collect();
    for read in &reads {
        let (of, feed) = match &read.of {
            Of::Stage(stage) => {
                let feed = feeds.iter().find(|(of, _)| of == stage).map(|(_, feed)| feed.clone());
                let unsaid = || PolarsFailure::new("protocol", "it is not said where the task's input is");
                ((query, *stage), feed.ok_or_else(unsaid)?)
            }
            Of::Held(scanned) => {
                let mut outputs = Vec::new();
                for (query, partition) in held_in(split, scanned) {
                    outputs.push(*located.get(&(query, partition)).ok_or(TaskFailure::NotPersisted(query))?);
                }
                // All are of one stage of one query.
                let of = outputs.first().map(|(_, id): &(Place, PartitionId)| (id.task.query, id.task.stage));
                let parts = outputs.into_iter().map(|(place, id)| (place, Part::all(id)));
                (of.unwrap_or((query, StageId(0))), Feed::new(ALL_SECTIONS, parts))
            }
        };
        let most = AHEAD / reads.len();
        begun.push(host.begin(of, feed, Arc::clone(&read.form), most));
    }
    try_join_all(begun).await
}

/// Asks where these partitions of a persisted result are.
async fn locate(
    scheduler: &ActorRef<SchedulerActor>,
    query: QueryId,
    reader: QueryId,
    partitions: Vec<usize>,
) -> Result<Vec<(Place, PartitionId)>, TaskFailure> {
    match insist(scheduler, Locate { query, reader, partitions }).await {
        Ok(Located::There(partitions)) => Ok(partitions),
        Ok(Located::MadeAgain) => Err(TaskFailure::MadeAgain(query)),
        Ok(Located::Nowhere) => Err(TaskFailure::NotPersisted(query)),
        Err(error) => Err(TaskFailure::Transfer { from: "the scheduler".to_owned(), why: error.to_string() }),
    }
}

impl std::fmt::Debug for SwordfishActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwordfishActor")
            .field("worker", &self.here.worker)
            .field("replicas", &self.replicas.len())
            .finish_non_exhaustive()
    }
}
