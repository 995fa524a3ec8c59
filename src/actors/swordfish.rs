//! The actor of a worker: takes tasks and replicas, keeps what they share, and forgets a query when it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use actix::{Actor, Context, Handler};
use regatta_remote::{ActorId, ActorRef, Arbiter, LocalRef, Node, Role, catch};
use tokio::sync::watch;

use super::messages::{
    End, Evaluate, Gone, Place, Prepare, ReplicaAt, ReplicaSays, RunTask, Serve, StartReplica, StopReplica, TaskEnded,
    Word,
};
use super::pools::{StagePools, UdfOfStep};
use super::{Host, SchedulerActor, UdfActor, insist};
use crate::engine::{Program, TaskRun, run_task};
use crate::error::{PolarsFailure, TaskFailure};
use crate::sched::{Outcome, PartitionId, QueryId, ReplicaId, StageId};
use crate::udf::{CallingTask, TaskMeter, UdfError};

/// Runs the tasks and replicas of one worker.
pub struct SwordfishActor {
    host: Arc<Host>,
    here: Place,
    scheduler: ActorRef<SchedulerActor>,
    queries: HashMap<QueryId, Work>,
    replicas: HashMap<ReplicaId, Running>,
}

/// What this worker keeps of a query.
struct Work {
    cancel: watch::Sender<bool>,
    stages: HashMap<StageId, StageHere>,
}

#[derive(Clone)]
struct StageHere {
    program: Result<Arc<Program>, TaskFailure>,
    pools: Arc<StagePools>,
}

struct Running {
    actor: LocalRef<UdfActor>,
    number: ActorId,
    arbiter: Arbiter,
}

/// Calls that wait at a replica or run there, from all workers. Each of them has a credit of its own pool.
const REPLICA_MAILBOX: usize = 256;
/// The same for a replica of an async UDF, which has many calls in flight.
const ASYNC_MAILBOX: usize = 4096;

impl SwordfishActor {
    pub(crate) fn new(host: Arc<Host>, here: Place, scheduler: ActorRef<SchedulerActor>) -> Self {
        Self { host, here, scheduler, queries: HashMap::new(), replicas: HashMap::new() }
    }

    /// Makes a swordfish reachable for the head of its cluster, and for nobody else.
    pub(crate) fn publish(node: &Node, id: ActorId, actor: &LocalRef<Self>) {
        let head = &[Role::Head];
        let tasks = node
            .publish(id, actor)
            .on::<Prepare>(head)
            .on::<RunTask>(head)
            .on::<Serve>(head)
            .on::<End>(head)
            .on::<Gone>(head);
        tasks.on::<StartReplica>(head).on::<StopReplica>(head);
    }

    fn work(&mut self, query: QueryId) -> &mut Work {
        self.queries.entry(query).or_insert_with(|| Work { cancel: watch::Sender::new(false), stages: HashMap::new() })
    }

    fn serve(&mut self, at: ReplicaAt) {
        let local = self.replicas.get(&at.replica).map(|running| running.actor.clone());
        let stage = self.queries.get(&at.replica.pool.query).and_then(|work| work.stages.get(&at.replica.pool.stage));
        if let Some(stage) = stage {
            stage.pools.add(at, local);
        }
    }

    /// Runs a task on a thread of its own, which ends with the task's one report.
    fn start_task(&mut self, message: RunTask) {
        let RunTask { task, attempt, .. } = message;
        let (host, scheduler) = (Arc::clone(&self.host), self.scheduler.clone());
        let work = self.work(task.query);
        let cancelled = work.cancel.subscribe();
        let stage = work.stages.get(&task.stage).cloned();
        let runtime = host.runtime.handle().clone();
        let meter = TaskMeter::default();
        let calling = CallingTask {
            at: (task.query, task.stage, self.here.worker),
            scratch: host.store.folder().to_owned(),
            meter: meter.clone(),
        };
        let report = {
            let (runtime, host) = (runtime.clone(), Arc::clone(&host));
            move |outcome: Outcome| {
                let ended = TaskEnded { task, attempt, outcome, metrics: meter.take() };
                if let Err(error) = runtime.block_on(insist(&scheduler, ended)) {
                    tracing::error!(%task, %error, "could not report the end of a task");
                    host.leave();
                }
            }
        };
        let on_no_thread = report.clone();
        let run = move || {
            let _span = tracing::info_span!("task", %task, attempt = attempt.0).entered();
            let started = Instant::now();
            let outcome = catch(|| attempt_task(&host, message, stage, calling, cancelled))
                .unwrap_or_else(|text| Err(TaskFailure::Panicked(text)));
            match &outcome {
                Ok(output) => {
                    tracing::debug!(rows = output.rows, bytes = output.bytes, took = ?started.elapsed(), "done")
                }
                Err(error) => tracing::debug!(%error, took = ?started.elapsed(), "failed"),
            }
            report(outcome);
        };
        if let Err(error) = thread::Builder::new().name(format!("{task}")).spawn(run) {
            let failure = TaskFailure::Store(format!("no thread for the task: {error}"));
            self.host.runtime.handle().spawn_blocking(move || on_no_thread(Err(failure)));
        }
    }
}

impl Actor for SwordfishActor {
    type Context = Context<Self>;
}

impl Handler<Prepare> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, message: Prepare, _: &mut Self::Context) {
        let Prepare { query, stage, program } = message;
        let udfs: Vec<_> = program.steps.iter().map(UdfOfStep::of).collect();
        let program = catch(|| Program::open(program).map(Arc::new).map_err(TaskFailure::from));
        let program = program.unwrap_or_else(|text| Err(TaskFailure::Panicked(text)));
        let pools = Arc::new(StagePools::new(Arc::clone(&self.host), self.here, udfs));
        self.work(query).stages.insert(stage, StageHere { program, pools });
    }
}

impl Handler<RunTask> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, message: RunTask, _: &mut Self::Context) {
        for at in &message.replicas {
            self.serve(*at);
        }
        self.start_task(message);
    }
}

impl Handler<Serve> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Serve(at): Serve, _: &mut Self::Context) {
        self.serve(at);
    }
}

impl Handler<StartReplica> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, spec: StartReplica, _: &mut Self::Context) {
        let (id, number) = (spec.replica, self.host.replica_number());
        let arbiter = match self.host.runtime.arbiter() {
            Ok(arbiter) => arbiter,
            Err(error) => {
                let word = Word::Failed(UdfError::new(format!("no thread for the replica: {error}")));
                let scheduler = self.scheduler.clone();
                self.host
                    .runtime
                    .handle()
                    .spawn(async move { insist(&scheduler, ReplicaSays { replica: id, word }).await });
                return;
            }
        };
        let (host, here, scheduler) = (Arc::clone(&self.host), self.here, self.scheduler.clone());
        let mailbox = if spec.options.in_flight.is_some() { ASYNC_MAILBOX } else { REPLICA_MAILBOX };
        let actor = arbiter.spawn(mailbox, move |_| UdfActor::new(host, here, spec, number, scheduler));
        if let Some(node) = &self.host.node {
            node.publish(number, &actor).on::<Evaluate>(&[Role::Worker]);
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
        if let Some(work) = self.queries.remove(&query) {
            work.cancel.send_replace(true);
        }
        let of_query: Vec<_> = self.replicas.keys().filter(|id| id.pool.query == query).copied().collect();
        for id in of_query {
            if let Some(running) = self.replicas.remove(&id) {
                self.stop(running);
            }
        }
        self.host.store.drop_query(query);
    }
}

impl Handler<Gone> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, Gone(node): Gone, _: &mut Self::Context) {
        self.host.forget(node);
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
        self.host.runtime.handle().spawn_blocking(move || drop(arbiter));
    }
}

fn attempt_task(
    host: &Arc<Host>,
    message: RunTask,
    stage: Option<StageHere>,
    calling: CallingTask,
    cancelled: watch::Receiver<bool>,
) -> Outcome {
    let unprepared = || PolarsFailure::new("protocol", "the stage's program did not come before its task");
    let StageHere { program, pools } = stage.ok_or_else(unprepared)?;
    let runtime = host.runtime.handle().clone();
    let inputs = runtime.block_on(async {
        let mut cancelled = cancelled.clone();
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(TaskFailure::Cancelled),
            inputs = gather(host, message.inputs) => inputs,
        }
    })?;
    let output = PartitionId { task: message.task, attempt: message.attempt, partition: 0 };
    let outcome = run_task(TaskRun {
        program: program?,
        split: message.split,
        inputs,
        output,
        store: Arc::clone(&host.store),
        pools,
        calling,
        cancelled: cancelled.clone(),
        runtime,
    });
    if *cancelled.borrow() {
        // The query may have ended between its last batch and the seal: then its partitions have been dropped already.
        host.store.drop_partition(output);
    }
    outcome
}

/// Brings all input partitions here, in order.
async fn gather(
    host: &Host,
    inputs: Vec<(StageId, Vec<(Place, crate::sched::Output)>)>,
) -> Result<HashMap<StageId, Vec<bytes::Bytes>>, TaskFailure> {
    let mut gathered = HashMap::new();
    for (stage, partitions) in inputs {
        let fetches = partitions.iter().map(|(place, output)| host.partition(place, output.id));
        gathered.insert(stage, futures_util::future::try_join_all(fetches).await?);
    }
    Ok(gathered)
}

impl std::fmt::Debug for SwordfishActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwordfishActor")
            .field("worker", &self.here.worker)
            .field("replicas", &self.replicas.len())
            .finish_non_exhaustive()
    }
}
