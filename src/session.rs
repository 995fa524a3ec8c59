//! Where queries run: in this process, or on workers that this session started.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use polars::prelude::LazyFrame;
use regatta_remote::{
    ActorRef, Arbiter, Authority, LocalRef, Node, NodeId, PeerEvent, RemoteMessage, Role, Runtime, catch,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};

use crate::actor::{RemoteActor, Spawn};
use crate::actors::{
    CONTROL, Host, MAILBOX, Place, Release, SCHEDULER, SchedulerActor, SpawnActor, Status, StopActor, Submit,
    SwordfishActor, UseProvider, WholeStatus, Worker, WorkerDown, WorkerSilent,
};
use crate::cluster::{LocalSpec, LocalWorkers, Scratch, capacity, hello, is_worker};
use crate::config::{Config, Runner};
use crate::error::{ActorError, ClusterError, Error, PlanError};
use crate::frame::{Publication, Run};
use crate::os;
use crate::plan::{QueryPlan, Split, Target, Work, plan};
use crate::sched::{
    Attempt, MAX_ATTEMPTS, Output, PartitionId, QueryId, Resources, ScaleSettings, SessionStatus, Settings, StageId,
    TaskId, WorkerId,
};
use crate::store::Store;

/// A place to run queries. Cheap to clone; the last clone ends it, with its workers.
///
/// ```
/// use regatta::{polars::prelude::*, prelude::*};
///
/// let session = Session::native()?;
/// let answer = session.submit(df!["x" => [1, 2, 3]].unwrap().lazy().select([col("x").sum()]))?.collect()?;
/// assert_eq!(answer.column("x").unwrap().i32().unwrap().get(0), Some(6));
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped in this order: workers end while the scheduler still lives, threads go last.
    workers: Option<Arc<LocalWorkers>>,
    scheduler: LocalRef<SchedulerActor>,
    _arbiters: Vec<Arbiter>,
    host: Arc<Host>,
    target: Target,
    _scratch: Scratch,
}

/// How long starting the workers may take.
const START: Duration = Duration::from_secs(30);
/// How long our threads may take to end.
const STOP: Duration = Duration::from_secs(2);
/// How often a start looks whether a worker has ended.
const LOOK: Duration = Duration::from_millis(2);
/// Planning recurses with the depth of the query.
const PLAN_STACK: usize = 64 << 20;

impl Session {
    /// Runs queries in this process, with the settings of the environment.
    ///
    /// # Errors
    /// A variable with a bad value; no scratch folder, no threads.
    pub fn native() -> Result<Self, Error> {
        Self::native_with(Config::from_env()?)
    }

    /// [`native`](Self::native), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn native_with(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let parts = Parts::new(&config, None, |_| Ok(None))?;
        let arbiter = parts.arbiter()?;
        let (host, scheduler) = (Arc::clone(&parts.host), parts.scheduler.clone());
        let place = Place { worker: WorkerId(0), node: None };
        let swordfish = arbiter.spawn(MAILBOX, move |_| SwordfishActor::new(host, place, scheduler.into()));
        let worker = Worker { worker: place.worker, capacity: capacity(os::cpus(), 1), actor: swordfish.into() };
        parts.scheduler.try_tell(worker).map_err(|e| ClusterError::network("start the worker", e))?;
        Ok(parts.session(
            vec![arbiter],
            None,
            Target { tasks: 1, travels: false, in_flight: config.max_async_udf_inflight_tasks },
        ))
    }

    /// Runs queries on `workers` processes of this machine: this same executable, started again, which must therefore
    /// have [`#[regatta::main]`](macro@crate::main) on its `main`, or [`testing::worker!`](crate::testing::worker) if it is a test binary.
    /// They talk over QUIC with certificates of a cluster of their own, and end with this session or this process.
    ///
    /// # Errors
    /// A variable with a bad value; workers that do not start, with their last words.
    pub fn local(workers: usize) -> Result<Self, Error> {
        Self::local_with(workers, Config::from_env()?)
    }

    /// [`local`](Self::local), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn local_with(workers: usize, config: Config) -> Result<Self, Error> {
        Self::elastic_with(workers..=workers, config)
    }

    /// [`local`](Self::local) with as many workers as the work asks for, from the least to the most: more are started when
    /// what waits is more than `DAFT_AUTOSCALING_THRESHOLD` of what there is, and idle ones retire.
    ///
    /// # Errors
    /// As there.
    pub fn elastic(workers: RangeInclusive<usize>) -> Result<Self, Error> {
        Self::elastic_with(workers, Config::from_env()?)
    }

    /// [`elastic`](Self::elastic), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn elastic_with(workers: RangeInclusive<usize>, config: Config) -> Result<Self, Error> {
        config.validate()?;
        if is_worker() {
            return Err(ClusterError::InWorker.into());
        }
        let least = *workers.start();
        let most = (*workers.end()).max(least).max(1);
        let threads = (os::cpus() / most).max(1);
        if most > os::cpus() {
            tracing::info!(workers = most, cpus = os::cpus(), "more workers than CPUs: each is given one, they share");
        }
        let authority = Authority::new().map_err(|e| ClusterError::network("make the cluster's certificates", e))?;
        let authority = Arc::new(authority);
        let identity =
            authority.issue(Role::Head).map_err(|e| ClusterError::network("make the head's certificate", e))?;
        let scale = ScaleSettings {
            workers: (least, most),
            each: capacity(threads, most),
            threshold: config.autoscaling_threshold,
            interval: config.autoscaler_update_interval,
            downscale: config.autoscaling_downscale_enabled,
            idle: config.autoscaling_downscale_idle,
            survivors: config.autoscaling_min_survivor_workers,
            exclude: config.autoscaling_pending_release_exclude,
        };
        let parts = Parts::new(&config, Some(scale), |runtime| {
            let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            let node = Node::bind(identity, loopback, hello(), runtime)
                .map_err(|e| ClusterError::network("bind to the loopback", e))?;
            Ok(Some(node))
        })?;
        let node = parts.host.node.clone().ok_or(ClusterError::Closed)?;
        parts.watch_workers(&node);
        // Frames of queries are fetched from here.
        node.serve_data(Arc::<Store>::clone(&parts.host.store));
        // Certificates live a day; the head renews them.
        let renewal = node.serve_joins(Arc::clone(&authority));
        renewal.map_err(|e| ClusterError::network("serve the cluster's certificates", e))?;
        SchedulerActor::publish(&node, SCHEDULER, &parts.scheduler, &parts.arbiter);
        let address = node.address().map_err(|e| ClusterError::network("find the head's address", e))?;
        let workers = LocalWorkers::new(LocalSpec {
            authority,
            head: (node.id(), address),
            threads,
            most,
            scratch: parts.scratch.folder().to_owned(),
            on_end: parts.on_end(),
        });
        workers.start(least)?;
        parts.wait_for(least, &workers)?;
        let provider = UseProvider(Arc::<LocalWorkers>::clone(&workers));
        parts.scheduler.try_tell(provider).map_err(|e| ClusterError::network("start the scheduler", e))?;
        let target =
            Target { tasks: most * threads * 2, travels: true, in_flight: config.max_async_udf_inflight_tasks };
        Ok(parts.session(Vec::new(), Some(workers), target))
    }

    /// The session that `DAFT_RUNNER` asks for: `native`, or `flotilla` for as many local workers as there are CPUs.
    ///
    /// # Errors
    /// As [`native`](Self::native) and [`local`](Self::local).
    pub fn from_env() -> Result<Self, Error> {
        let config = Config::from_env()?;
        match config.runner {
            Runner::Native => Self::native_with(config),
            Runner::Flotilla => Self::local_with(os::cpus(), config),
        }
    }

    /// Plans a query and starts it. Blocks for the planning only.
    ///
    /// # Errors
    /// The query cannot be planned, or the session is gone.
    pub fn submit(&self, query: LazyFrame) -> Result<Run, Error> {
        let mut plan = self.plan(query)?;
        let (explain, schema) = (plan.to_string(), Arc::clone(&plan.schema));
        let tasks = plan.last().map_or(0, |stage| stage.splits.len());
        // Room for every event, also of every attempt, so that the scheduler never waits for a session.
        let (events, heard) = mpsc::channel(tasks * MAX_ATTEMPTS as usize + 2);
        let id = QueryId(os::random());
        // Made first: whatever happens from here on, its drop frees what the query holds.
        let mut run = Run::new(self.clone(), id, schema, explain, heard);
        if let Some(sink) = plan.sink.take() {
            run.will_publish(Publication::prepare(sink, id)?);
        }
        let given = self.keep_frames(id, &mut plan)?;
        let scheduler = self.inner.scheduler.clone();
        scheduler
            .try_tell(Submit { query: id, plan, given, events })
            .map_err(|e| ClusterError::network("submit the query", e))?;
        Ok(run)
    }

    /// How a query would be run, in words.
    ///
    /// # Errors
    /// The query cannot be planned.
    pub fn explain(&self, query: &LazyFrame) -> Result<String, Error> {
        Ok(self.plan(query.clone())?.to_string())
    }

    /// Where the session stands: workers, what waits, and every query.
    ///
    /// # Errors
    /// The session's threads are gone.
    pub fn status(&self) -> Result<SessionStatus, Error> {
        let scheduler = self.inner.scheduler.clone();
        let status = self.inner.host.wait(async move { scheduler.ask(WholeStatus, CONTROL).await })?;
        Ok(status.map_err(|e| ClusterError::network("ask for the status", e))?)
    }

    /// Starts an actor of your own on a worker, where it lives until it stops, is [stopped](Self::stop), panics too often, or
    /// the session ends. Blocks until it takes messages and has its name.
    ///
    /// ```text
    /// let limiter = session.spawn(RateLimiter { per_second: 50 }.named("limiter"))?;
    /// ```
    ///
    /// # Errors
    /// [`ActorError`]: its name is taken, its fields cannot travel, there is no such worker.
    pub fn spawn<A: RemoteActor>(&self, actor: impl Into<Spawn<A>>) -> Result<ActorRef<A>, Error> {
        let spec = actor.into().spec()?;
        let hosted = self.ask_scheduler(SpawnActor(spec))??;
        let (node, _) = self.inner.host.actor_node()?;
        Ok(node.actor_at(hosted.address, hosted.at))
    }

    /// The actor of that name, whoever started it. In a UDF: [`Start::actor`](crate::udf::Start::actor).
    ///
    /// # Errors
    /// [`NameError`](crate::actor::NameError): nobody has the name, or an actor of another type has it.
    pub fn actor<A: RemoteActor>(&self, name: &str) -> Result<ActorRef<A>, Error> {
        let (names, name) = (self.inner.host.actor_node()?.1, name.to_owned());
        let found = self.inner.host.wait(async move { names.find(&name, CONTROL).await })?;
        Ok(found.map_err(ActorError::from)?)
    }

    /// Stops an actor that this session has started. Messages that wait at it are not handled; the one that is being handled
    /// ends first.
    ///
    /// # Errors
    /// [`ActorError::NotRunning`] if it has ended already.
    pub fn stop<A: RemoteActor>(&self, actor: &ActorRef<A>) -> Result<(), Error> {
        let address = actor.address().ok_or(ActorError::NotRunning)?;
        Ok(self.ask_scheduler(StopActor(address))??)
    }

    fn ask_scheduler<M>(&self, message: M) -> Result<M::Result, Error>
    where
        SchedulerActor: actix::Handler<M>,
        M: RemoteMessage,
    {
        let scheduler = self.inner.scheduler.clone();
        let answer = self.inner.host.wait(async move { scheduler.ask(message, 3 * CONTROL).await })?;
        Ok(answer.map_err(|e| ClusterError::network("ask the scheduler", e))?)
    }

    /// Process ids of the local workers; none for a native session.
    pub fn processes(&self) -> Vec<u32> {
        self.inner.workers.as_ref().map(|workers| workers.processes()).unwrap_or_default()
    }

    /// Partitions and batches that this process's store holds; none between queries.
    pub fn partitions_held(&self) -> usize {
        self.inner.host.store.held()
    }

    fn plan(&self, query: LazyFrame) -> Result<QueryPlan, PlanError> {
        let target = self.inner.target;
        // A thread of our own: Polars panics on a current-thread runtime, which the caller's may be.
        let planner = thread::Builder::new().name("regatta-plan".to_owned()).stack_size(PLAN_STACK);
        let planned = planner.spawn(move || catch(|| plan(query, target)));
        let planned = planned.map_err(|e| PlanError::Panicked(format!("no thread: {e}")))?.join();
        let planned = planned.unwrap_or_else(|_| Err("the planner's thread".to_owned()));
        planned.map_err(PlanError::Panicked)?
    }

    /// Puts the frames of a plan into this process's store, where tasks find them.
    fn keep_frames(&self, query: QueryId, plan: &mut QueryPlan) -> Result<BTreeMap<StageId, Vec<Output>>, Error> {
        let mut given = BTreeMap::new();
        for stage in &mut plan.stages {
            let Work::Frame(frame) = &mut stage.work else { continue };
            let frame = std::mem::take(frame);
            let pieces = stage.splits.iter().enumerate().map(|(index, split)| {
                let task = TaskId { query, stage: stage.id, index: index as u32 };
                let id = PartitionId { task, attempt: Attempt(1), partition: 0 };
                let Split::Slice { offset, len } = split else { return self.host().store.keep(id, &frame) };
                self.host().store.keep(id, &frame.slice(*offset as i64, *len))
            });
            let kept = pieces.collect::<Result<Vec<_>, _>>();
            given.insert(stage.id, kept.map_err(|e| ClusterError::network("keep a frame of the query", e))?);
        }
        Ok(given)
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.inner.host
    }

    /// Ends a query, whatever its state. Never waits.
    pub(crate) fn release(&self, query: QueryId) {
        self.host().store.drop_query(query);
        let scheduler = self.inner.scheduler.clone();
        // Waits for room in the mailbox on a thread of ours if it must. A scheduler that is gone holds no query.
        self.inner.host.runtime.handle().spawn(async move { scheduler.tell(Release(query), CONTROL).await });
    }

    pub(crate) async fn query_status(&self, query: QueryId) -> Result<Option<crate::QueryStatus>, Error> {
        let status = self.inner.scheduler.ask(Status(query), CONTROL).await;
        Ok(status.map_err(|e| ClusterError::network("ask for the status", e))?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Workers first: their loss then is nobody's failure.
        if let Some(workers) = &self.workers {
            workers.close();
        }
        self.host.runtime.clone().shutdown(STOP);
    }
}

/// What every session is made of.
struct Parts {
    scheduler: LocalRef<SchedulerActor>,
    arbiter: Arbiter,
    host: Arc<Host>,
    scratch: Scratch,
    /// Workers that have joined.
    joined: watch::Receiver<usize>,
}

impl Parts {
    fn new(
        config: &Config,
        scale: Option<ScaleSettings>,
        network: impl FnOnce(&Runtime) -> Result<Option<Node>, ClusterError>,
    ) -> Result<Self, ClusterError> {
        let folder = config.scratch.display();
        let scratch = Scratch::create(&config.scratch)
            .map_err(|e| ClusterError::os(format!("make a scratch folder in {folder}"), e))?;
        let store = scratch.store("driver").map_err(|e| ClusterError::os("make the driver's store", e))?;
        let runtime = Runtime::new("regatta", 2).map_err(|e| ClusterError::os("start the session's threads", e))?;
        let node = network(&runtime)?;
        let host = Host::new(runtime, Store::new(&store), node);
        let arbiter = host.runtime.arbiter().map_err(|e| ClusterError::os("start the scheduler's thread", e))?;
        let settings = Settings {
            task: Resources::cpus(config.min_cpu_per_task),
            ready_timeout: config.actor_udf_ready_timeout,
            linear: config.scheduler_linear,
            max_task_backlog: config.max_task_backlog,
            scale,
        };
        let hosted = Arc::clone(&host);
        let (joining, joined) = watch::channel(0);
        let scheduler = arbiter.spawn(MAILBOX, move |_| SchedulerActor::new(settings, hosted, joining));
        Ok(Self { scheduler, arbiter, host, scratch, joined })
    }

    fn arbiter(&self) -> Result<Arbiter, ClusterError> {
        self.host.runtime.arbiter().map_err(|e| ClusterError::os("start a thread for actors", e))
    }

    /// What the provider does with its word that a process has ended: it is proof, and comes before any time-out.
    fn on_end(&self) -> Arc<dyn Fn(NodeId, String) + Send + Sync> {
        let (scheduler, runtime) = (self.scheduler.clone(), self.host.runtime.handle().clone());
        Arc::new(move |node, why| {
            let scheduler = scheduler.clone();
            // A scheduler that is gone has no use for it.
            runtime.spawn(async move { scheduler.tell(WorkerDown { node, why }, CONTROL).await });
        })
    }

    /// Tells the scheduler of workers that are lost.
    fn watch_workers(&self, node: &Node) {
        let (mut events, scheduler) = (node.events(), self.scheduler.clone());
        self.host.runtime.handle().spawn(async move {
            loop {
                // A scheduler that is gone has no use for what it is told.
                match events.recv().await {
                    Ok(PeerEvent::Down { peer, cause }) => {
                        let _ = scheduler.tell(WorkerDown { node: peer.node, why: cause }, CONTROL).await;
                    }
                    Ok(PeerEvent::Suspect(peer)) => {
                        let _ = scheduler.tell(WorkerSilent { node: peer.node, silent: true }, CONTROL).await;
                    }
                    Ok(PeerEvent::Recovered(peer)) => {
                        let _ = scheduler.tell(WorkerSilent { node: peer.node, silent: false }, CONTROL).await;
                    }
                    Ok(_) => (),
                    Err(RecvError::Lagged(missed)) => tracing::error!(missed, "events of peers were missed"),
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Waits until all workers have joined, or one has ended.
    fn wait_for(&self, wanted: usize, processes: &LocalWorkers) -> Result<(), ClusterError> {
        let deadline = Instant::now() + START;
        loop {
            let joined = *self.joined.borrow();
            if joined >= wanted {
                return Ok(());
            }
            if let Some(error) = processes.ended() {
                return Err(error);
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::NotJoined { joined, wanted, timeout: START });
            }
            thread::sleep(LOOK);
        }
    }

    fn session(self, mut arbiters: Vec<Arbiter>, workers: Option<Arc<LocalWorkers>>, target: Target) -> Session {
        arbiters.push(self.arbiter);
        let inner = Inner {
            workers,
            scheduler: self.scheduler,
            _arbiters: arbiters,
            host: self.host,
            target,
            _scratch: self.scratch,
        };
        Session { inner: Arc::new(inner) }
    }
}
