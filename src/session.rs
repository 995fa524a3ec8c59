//! Where queries run: in this process, on workers that this session started, or on a cluster of several machines.

mod actors;
mod cluster;
mod connect;
#[cfg(feature = "dashboard")]
mod dashboard;
mod door;
mod history;
#[cfg(feature = "kubernetes")]
mod kube;
mod parts;
mod persist;
mod ray;
#[cfg(test)]
mod simulated;
mod sql;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use polars::prelude::LazyFrame;
use regatta_observe::{Explain, Profile, Progress};
use regatta_remote::{ActorRef, Arbiter, Authority, Node, Role, catch};

use crate::actors::{Host, MAILBOX, Place, ProfileOf, SchedulerActor, SwordfishActor, UseProvider, Worker};
#[cfg(feature = "kubernetes")]
use crate::cluster::KubeOptions;
use crate::cluster::{Hosted, LocalSpec, LocalWorkers, RayOptions, Scratch, capacity, find_gpus};
use crate::config::{Config, Runner};
use crate::error::{ClusterError, Error, PlanError, SinkError};
use crate::frame::{Publication, Run, SinkMode};
use crate::hello::hello;
use crate::os;
use crate::plan::{QueryPlan, Split, Target, Work, plan};
use crate::process::is_worker;
use crate::progress::Shows;
use crate::sched::{Attempt, Output, PartitionId, QueryId, QueryStatus, SessionStatus, StageId, TaskId, WorkerId};

pub use cluster::Cluster;
use door::Door;
pub use history::History;
use parts::{Ground, Head, scale, some_workers};
pub use persist::Persisted;
#[cfg(test)]
pub(crate) use simulated::OnEnd;
use sql::Tables;

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
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("workers", &self.inner.workers).finish_non_exhaustive()
    }
}

struct Inner {
    // Dropped in this order: workers end while the scheduler still lives, threads go last.
    workers: Started,
    door: Door,
    _arbiters: Vec<Arbiter>,
    host: Arc<Host>,
    tasks: Tasks,
    /// Calls that a replica of an async UDF has in flight, unless its pool says otherwise.
    in_flight: usize,
    tables: Tables,
    shows: Arc<Shows>,
    scratch: Scratch,
}

/// Workers that a session has started.
#[derive(Debug)]
enum Started {
    None,
    /// Processes of this machine.
    Processes(Arc<LocalWorkers>),
    /// Where a pilot or Kubernetes has placed them.
    Hosted(Arc<dyn Hosted>),
}

impl Started {
    fn processes(&self) -> Option<&LocalWorkers> {
        if let Self::Processes(workers) = self { Some(workers) } else { None }
    }
}

/// Tasks that a stage is split into, if it can be.
#[derive(Debug, Clone, Copy)]
enum Tasks {
    /// One: everything is in this process.
    One,
    /// So many.
    Fixed(usize),
    /// As many as the workers that are there have use for.
    Ask,
}

/// What a query is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Its result.
    Result,
    /// Its files.
    Sink,
    /// To leave its result where it is, for other queries.
    Persist,
    /// To see what it does.
    Analyze,
}

/// How long our threads may take to end.
const STOP: Duration = Duration::from_secs(2);
/// How long a goodbye to the cluster may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Tasks for each CPU of the workers, so that one which is done has more to do.
const TASKS_PER_CPU: usize = 2;
/// Tasks where few workers are there yet.
const FEWEST_TASKS: usize = 16;
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
        let head = Head::new(Ground::new(&config, |_| Ok(None))?, &config, None, Config::forced_shapes())?;
        let arbiter = head.ground.arbiter()?;
        let (host, scheduler) = (Arc::clone(&head.ground.host), head.scheduler.clone());
        let place = Place { worker: WorkerId(0), node: None };
        let swordfish = arbiter.spawn(MAILBOX, move |_| SwordfishActor::new(host, place, scheduler.into()));
        let (capacity, devices) = (capacity(os::cpus() as f64, 1), find_gpus().clone());
        let worker = Worker { worker: place.worker, capacity, devices, actor: swordfish.into() };
        head.scheduler.try_tell(worker).map_err(|e| ClusterError::network("start the worker", e))?;
        let arbiters = vec![arbiter, head.arbiter];
        Self::of(head.ground, Door::Here(head.scheduler), arbiters, Started::None, Tasks::One).shown_as(&config)
    }

    /// Runs queries on `workers` processes of this machine: this same executable, started again, which must therefore
    /// have [`#[regatta::main]`](macro@crate::main) on its `main`, or [`testing::worker!`](crate::testing::worker) if it is a test binary.
    /// They talk over QUIC with certificates of a cluster of their own, and end with this session or this process.
    ///
    /// # Errors
    /// A variable with a bad value; no worker at all ([`native`](Self::native) needs none); workers that do not start, with their
    /// last words.
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
    /// what waits is more than `DAFT_AUTOSCALING_THRESHOLD` of what there is, and idle ones retire. The least may be none.
    ///
    /// # Errors
    /// As there; a least that is more than the most.
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
        let (least, most) = some_workers(&workers)?;
        let threads = (os::cpus() / most).max(1);
        if most > os::cpus() {
            tracing::info!(workers = most, cpus = os::cpus(), "more workers than CPUs: each is given one, they share");
        }
        let authority = Authority::new().map_err(|e| ClusterError::network("make the cluster's certificates", e))?;
        let authority = Arc::new(authority);
        let identity =
            authority.issue(Role::Head).map_err(|e| ClusterError::network("make the head's certificate", e))?;
        let no_gpu = find_gpus().as_ref().err().cloned();
        let capacity = capacity(threads as f64, most);
        let capacity = Config::offer()?.memory.map_or(capacity, |memory| capacity.with_memory(memory));
        let scale = scale(&config, (least, most), capacity, no_gpu);
        let ground = Ground::new(&config, |runtime| {
            let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            let node = Node::bind(identity, loopback, &runtime.with_build(hello()))
                .map_err(|e| ClusterError::network("bind to the loopback", e))?;
            Ok(Some((node, None)))
        })?;
        let here = Head::new(ground, &config, Some(scale), Config::forced_shapes())?;
        let node = here.ground.host.node.clone().ok_or(ClusterError::Closed)?;
        here.serve(&node, Arc::clone(&authority))?;
        let address = node.address().map_err(|e| ClusterError::network("find the head's address", e))?;
        let workers = LocalWorkers::new(LocalSpec {
            authority,
            head: (node.id(), address),
            threads,
            capacity,
            most,
            scratch: here.ground.scratch.folders().to_vec(),
            on_end: here.on_end(),
        });
        workers.start(least)?;
        here.wait_for(least, &workers)?;
        let provider = UseProvider(Arc::<LocalWorkers>::clone(&workers));
        here.scheduler.try_tell(provider).map_err(|e| ClusterError::network("start the scheduler", e))?;
        let tasks = Tasks::Fixed(most * threads * TASKS_PER_CPU);
        let workers = Started::Processes(workers);
        Self::of(here.ground, Door::Here(here.scheduler), vec![here.arbiter], workers, tasks).shown_as(&config)
    }

    /// The session that `DAFT_RUNNER` asks for: `native`, or `flotilla` for the cluster at `REGATTA_ADDRESS`, which
    /// `REGATTA_TOKEN` lets in to; without an address, for as many pods as `REGATTA_KUBERNETES` says, else for as many local workers as there are CPUs; or `ray`, for workers on the Ray
    /// cluster at `RAY_ADDRESS`, else the one that this machine is a node of. In a Ray job that is what is meant where nothing is said.
    ///
    /// # Errors
    /// As [`native`](Self::native), [`connect`](Self::connect), [`local`](Self::local) and [`ray`](Self::ray).
    pub fn from_env() -> Result<Self, Error> {
        let config = Config::from_env()?;
        config.say_what_has_no_effect();
        match config.runner {
            Runner::Native => Self::native_with(config),
            Runner::Ray => Self::ray_with(RayOptions::default(), config),
            Runner::Flotilla => match config.cluster.clone() {
                Some(at) => Self::connect_with(&at.address, &at.token, config),
                #[cfg(feature = "kubernetes")]
                None if config.kubernetes.is_some() => {
                    let (workers, each) = (config.kubernetes.clone().unwrap_or(0..=1), Config::offer()?);
                    let (cpus, memory) = (each.cpus.unwrap_or(1.0), each.memory);
                    Self::kubernetes_with(KubeOptions { workers, cpus, memory, ..KubeOptions::default() }, config)
                }
                None => Self::local_with(os::cpus(), config),
            },
        }
    }

    /// Plans a query and starts it. Blocks for the planning, and where the scheduler is elsewhere until that has the plan.
    ///
    /// # Errors
    /// The query cannot be planned, or the session or its cluster is gone; it ends in a sink whose folder holds something already
    /// ([`submit_sink`](Self::submit_sink) says what then) or cannot be written to.
    pub fn submit(&self, query: LazyFrame) -> Result<Run, Error> {
        self.start(query, SinkMode::Error, Purpose::Result)
    }

    /// [`submit`](Self::submit) for a query that ends in a sink into a folder, with what to do about what is there. To other
    /// sinks the mode means nothing.
    ///
    /// # Errors
    /// As there; [`SinkError`]: the query ends in no sink, there is something already, or the folder cannot be written to.
    pub fn submit_sink(&self, query: LazyFrame, mode: SinkMode) -> Result<Run, Error> {
        self.start(query, mode, Purpose::Sink)
    }

    /// Submits a query to see what it does: what each node of the engine does, too.
    pub(crate) fn submit_to_analyze(&self, query: LazyFrame) -> Result<Run, Error> {
        // What is in a sink's folder does not matter: nothing is put there.
        self.start(query, SinkMode::Overwrite, Purpose::Analyze)
    }

    /// Submits a query whose result is left where it is, for other queries.
    pub(crate) fn submit_to_persist(&self, query: LazyFrame) -> Result<Run, Error> {
        self.start(query, SinkMode::Error, Purpose::Persist)
    }

    fn start(&self, query: LazyFrame, mode: SinkMode, purpose: Purpose) -> Result<Run, Error> {
        if let Some(error) = self.inner.host.ended.get() {
            return Err(error.clone().into());
        }
        let began = os::now();
        let mut plan = self.plan(query)?;
        plan.metered = purpose == Purpose::Analyze;
        let planned = os::since(began);
        let (explain, schema) = (plan.explained(), Arc::clone(&plan.schema));
        let id = QueryId(self.host().runtime.simulated_random().unwrap_or_else(os::random));
        // Made first: whatever happens from here on, its drop frees what the query holds.
        let mut run = Run::new(self.clone(), id, schema, explain);
        if purpose == Purpose::Sink && !plan.has_sink {
            return Err(SinkError::NoSink.into());
        }
        if let Some(sink) = plan.sink.take() {
            run.will_publish(Publication::prepare(sink, mode, id, &self.inner.scratch)?);
        }
        let (given, why) = (self.keep_frames(id, &mut plan)?, watch::reasons(&plan));
        let persist = purpose == Purpose::Persist;
        let events = self.inner.door.submit(self.host(), id, plan, given, planned, persist)?;
        let (runtime, shows) = (self.host().runtime.handle(), Arc::clone(self.shows()));
        // A block says it, too.
        let watched = (!shows.has_block()).then(|| watch::watch(self.scheduler(), id, why));
        let watched = watched.map(|watch| runtime.spawn(watch).abort_handle());
        shows.begins(id);
        let shown = runtime.spawn(shows.follow(self.scheduler(), id, self.inner.door.is_here())).abort_handle();
        run.hear(events, watched.into_iter().chain([shown]).collect());
        Ok(run)
    }

    /// How a query would be run, in words.
    ///
    /// # Errors
    /// The query cannot be planned.
    pub fn explain(&self, query: &LazyFrame) -> Result<String, Error> {
        Ok(self.explained(query.clone())?.to_string())
    }

    /// The same as data.
    pub(crate) fn explained(&self, query: LazyFrame) -> Result<Explain, Error> {
        Ok(self.plan(query)?.explained())
    }

    /// Tells somebody now and then where each query stands that takes longer than half a second, and how it has ended: in place of
    /// whom was told before. It is called on a thread of the
    /// session's, must not take long, and must not use the session.
    pub fn on_progress(&self, tell: impl Fn(&Progress) + Send + Sync + 'static) {
        self.inner.shows.call(Arc::new(tell));
    }

    pub(crate) fn shows(&self) -> &Arc<Shows> {
        &self.inner.shows
    }

    /// Where the session's scheduler stands: workers, what waits, and every query; of all drivers, if it is a cluster's.
    ///
    /// # Errors
    /// The session's threads or its cluster are gone.
    pub fn status(&self) -> Result<SessionStatus, Error> {
        Ok(self.inner.door.status(&self.inner.host)?)
    }

    /// Has a worker leave in order, within this time, and waits until it is gone. It gets nothing new. What runs there ends, or runs
    /// again elsewhere if it still does after half of the time; replicas end after their calls, and others take their place; what
    /// somebody needs of what it holds, results that were not taken yet too, goes to other workers. What it has not given away when
    /// its time is over is made again. None of this counts as a failed attempt of anything. Actors of the program's own end with
    /// their worker, at the end of its time if they have not ended before. A worker that leaves already leaves sooner, if so.
    ///
    /// Where this session starts workers, another is started in its place if it is wanted. A worker does the same by itself when
    /// it is sent a SIGTERM, within 25 seconds.
    ///
    /// # Errors
    /// There is no such worker, or this is a driver's session: only one at the head can do this.
    pub fn drain(&self, worker: WorkerId, within: Duration) -> Result<(), Error> {
        self.inner.door.drain(&self.inner.host, worker, within)
    }

    /// Process ids of the workers that this session has started.
    pub fn processes(&self) -> Vec<u32> {
        self.inner.workers.processes().map(LocalWorkers::processes).unwrap_or_default()
    }

    /// The process of one of these workers.
    pub(crate) fn process_of(&self, worker: WorkerId) -> Option<u32> {
        self.inner.workers.processes()?.process_of(worker)
    }

    /// Partitions and batches that this process's store holds; none between queries.
    pub fn partitions_held(&self) -> usize {
        self.inner.host.store.held()
    }

    /// Waits until this process is asked to end, by a SIGTERM or a SIGINT, and then ends the session, whoever has it still: its
    /// queries fail with [`ClusterError::Terminated`], the workers that it has started end, and of a [cluster](crate::Cluster) all
    /// workers and drivers hear of it at once. It is then the program's to return from its main. From this call on these signals do
    /// nothing else, also in the first process of a container, for which the system does nothing of itself: a program that has
    /// something to do meanwhile makes it on a thread of its own.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn until_terminated(&self) -> Result<(), Error> {
        let (asks, asked) = std::sync::mpsc::sync_channel(1);
        // What comes after the first is of no more use.
        let heeds = os::heed(&[libc::SIGTERM, libc::SIGINT], move |signal| _ = asks.try_send(signal));
        heeds.map_err(|error| ClusterError::os("wait for a signal", error))?;
        let signal = if asked.recv() == Ok(libc::SIGINT) { "SIGINT" } else { "SIGTERM" };
        let who = match (&self.inner.door, &self.inner.host.node, self.inner.workers.processes()) {
            (Door::Here(_), Some(_), None) => "the head of the cluster",
            _ => "the process of the session",
        };
        let error = ClusterError::Terminated { who: who.to_owned(), signal: signal.to_owned() };
        drop(self.inner.host.ended.set(error.clone()));
        self.inner.door.end_all(&self.inner.host, error);
        self.inner.part();
        Ok(())
    }

    fn of(ground: Ground, door: Door, arbiters: Vec<Arbiter>, workers: Started, tasks: Tasks) -> Self {
        let Ground { host, scratch, in_flight, shows } = ground;
        let tables = Tables::default();
        let inner = Inner { workers, door, _arbiters: arbiters, host, tasks, in_flight, tables, shows, scratch };
        Self { inner: Arc::new(inner) }
    }

    /// With the pages that the settings want of it.
    fn shown_as(self, config: &Config) -> Result<Self, Error> {
        #[cfg(feature = "dashboard")]
        if let Some(address) = config.dashboard {
            let url = self.dashboard(crate::Dashboard::new().at(address))?;
            // It is a secret: not for the log.
            let line = format!("regatta: the pages of this session: {url}");
            if !crate::progress::say_above(&line) {
                eprintln!("{line}");
            }
        }
        #[cfg(not(feature = "dashboard"))]
        let _ = config;
        Ok(self)
    }

    fn plan(&self, query: LazyFrame) -> Result<QueryPlan, Error> {
        let (tasks, travels) = match self.inner.tasks {
            Tasks::One => (1, false),
            Tasks::Fixed(tasks) => (tasks, true),
            Tasks::Ask => {
                let cpus: f64 = self.status()?.workers.iter().map(|worker| worker.cpus.0).sum();
                ((cpus as usize * TASKS_PER_CPU).max(FEWEST_TASKS), true)
            }
        };
        let target = Target { tasks, travels, in_flight: self.inner.in_flight };
        Ok(on_planner_thread(move || plan(query, target))?)
    }

    /// Puts the frames of a plan into this process's store, where tasks find them.
    fn keep_frames(&self, query: QueryId, plan: &mut QueryPlan) -> Result<BTreeMap<StageId, Vec<Output>>, Error> {
        let mut given = BTreeMap::new();
        for stage in &mut plan.stages {
            let Work::Frame(frame) = &mut stage.work else { continue };
            let frame = std::mem::take(frame);
            let pieces = stage.splits.iter().enumerate().map(|(index, split)| {
                let task = TaskId { query, stage: stage.id, index: index as u32 };
                let id = PartitionId { task, attempt: Attempt(1) };
                let Split::Slice { offset, len } = split else { return self.host().store.keep(id, frame.clone()) };
                self.host().store.keep(id, frame.slice(*offset as i64, *len))
            });
            let kept = pieces.collect::<Result<Vec<_>, _>>();
            given.insert(stage.id, kept.map_err(|e| ClusterError::network("keep a frame of the query", e))?);
        }
        Ok(given)
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.inner.host
    }

    pub(crate) fn scheduler(&self) -> ActorRef<SchedulerActor> {
        self.inner.door.scheduler()
    }

    /// Ends a query, whatever its state. Never waits.
    pub(crate) fn release(&self, query: QueryId) {
        // In this order: what comes meanwhile is dropped with the rest.
        self.inner.door.release(self.host(), query);
        self.host().store.drop_query(query);
    }

    /// What a query does, or did.
    pub(crate) fn profile(&self, query: QueryId) -> Result<Profile, Error> {
        let profile = self.inner.door.ask(self.host(), ProfileOf(query))?;
        let forgotten = "the session keeps the last 64 queries that have ended, as far as REGATTA_OBSERVE_MEMORY goes, and has \
                         forgotten this one: ask for its profile sooner, or raise that";
        profile
            .map(|profile| *profile)
            .ok_or_else(|| ClusterError::network("find the query's profile", forgotten).into())
    }

    pub(crate) async fn query_status(&self, query: QueryId) -> Result<Option<QueryStatus>, Error> {
        Ok(self.inner.door.query_status(query).await?)
    }
}

impl Inner {
    /// Ends the workers, or says goodbye to the cluster.
    fn part(&self) {
        self.host.closing.store(true, Ordering::Relaxed);
        // Workers first: their loss then is nobody's failure.
        match (&self.workers, self.host.node.clone()) {
            (Started::Processes(workers), _) => workers.close(),
            // Peers then know at once that this is no accident.
            (_, Some(node)) => drop(self.host.wait(async move { node.close(GOODBYE).await })),
            (_, None) => (),
        }
        if let Started::Hosted(workers) = &self.workers {
            workers.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.part();
        self.host.runtime.clone().shutdown(STOP);
    }
}

/// Runs planning on a thread of our own: Polars panics on a current-thread runtime, which the caller's may be, and recurses
/// with the depth of the query.
fn on_planner_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PlanError> + Send + 'static,
) -> Result<T, PlanError> {
    let planner = thread::Builder::new().name("regatta-plan".to_owned()).stack_size(PLAN_STACK);
    let planned = planner.spawn(move || catch(work));
    let planned = planned.map_err(|e| PlanError::Panicked(format!("no thread: {e}")))?.join();
    planned.unwrap_or_else(|_| Err("the planner's thread".to_owned())).map_err(PlanError::Panicked)?
}
