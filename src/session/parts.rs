//! What sessions are made of.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, Message};
use regatta_remote::{Arbiter, Authority, LocalRef, Node, NodeId, PeerEvent, Role, Runtime, TellError};
use tokio::sync::watch;

use crate::actors::{
    CONTROL, DriverDown, GATEWAY, GatewayActor, Host, MAILBOX, Relay, SCHEDULER, SchedulerActor, WorkerDown,
    WorkerSilent, open_window,
};
use crate::cluster::{LocalWorkers, OnEnd, Scratch};
use crate::config::Config;
use crate::error::ClusterError;
use crate::os;
use crate::progress::Shows;
use crate::sched::{Forced, Resources, ScaleSettings, Settings};
use crate::store::Store;

/// How long starting the workers may take.
const START: Duration = Duration::from_secs(30);
/// How often a start looks whether a worker has ended.
const LOOK: Duration = Duration::from_millis(2);

/// What every session has.
pub(super) struct Ground {
    pub(super) host: Arc<Host>,
    pub(super) scratch: Scratch,
    /// Calls that a replica of an async UDF has in flight, unless its pool says otherwise.
    pub(super) in_flight: usize,
    pub(super) shows: Arc<Shows>,
}

/// A place in a network: the node, and the head if that is another.
pub(super) type Network = Option<(Node, Option<NodeId>)>;

impl Ground {
    pub(super) fn new(
        config: &Config,
        network: impl FnOnce(&Runtime) -> Result<Network, ClusterError>,
    ) -> Result<Self, ClusterError> {
        check_open_files()?;
        let runtime = Runtime::new("regatta", 2).map_err(|e| ClusterError::os("start the session's threads", e))?;
        Self::on(runtime, config, network)
    }

    /// The same, on these threads.
    pub(super) fn on(
        runtime: Runtime,
        config: &Config,
        network: impl FnOnce(&Runtime) -> Result<Network, ClusterError>,
    ) -> Result<Self, ClusterError> {
        let failed = |error| ClusterError::scratch("a scratch folder", &config.scratch, error);
        let scratch = Scratch::create(&config.scratch).map_err(failed)?;
        let store = scratch.store("driver").map_err(failed)?;
        let (node, head) = network(&runtime)?.unzip();
        let host = Host::new(runtime, Store::new(&store), node, head.flatten());
        let shows = Shows::new(config.progress);
        Ok(Self { host, scratch, in_flight: config.max_async_udf_inflight_tasks, shows })
    }

    pub(super) fn arbiter(&self) -> Result<Arbiter, ClusterError> {
        self.host.runtime.arbiter().map_err(|e| ClusterError::os("start a thread for actors", e))
    }
}

/// Files that a process needs to have open at least: its threads' and sockets', and room for a few partitions and inputs.
const LEAST_FILES: u64 = 128;

fn check_open_files() -> Result<(), ClusterError> {
    match os::open_files() {
        Ok(files) if files < LEAST_FILES => Err(ClusterError::os(
            "start a session",
            format!(
                "this process may have {files} files open at once, and needs {LEAST_FILES} at least, more for many connections and \
                 large partitions. Raise that before it starts, for its workers too: `ulimit -n 4096`"
            ),
        )),
        // A system that does not say has no limit that we know.
        _ => Ok(()),
    }
}

/// How a session grows and shrinks, between the least and the most workers: what one more would bring, and why that has no GPU.
pub(super) fn scale(
    config: &Config,
    workers: (usize, usize),
    each: Resources,
    no_gpu: Option<String>,
) -> ScaleSettings {
    ScaleSettings {
        workers,
        each,
        no_gpu,
        threshold: config.autoscaling_threshold,
        interval: config.autoscaler_update_interval,
        downscale: config.autoscaling_downscale_enabled,
        idle: config.autoscaling_downscale_idle,
        survivors: config.autoscaling_min_survivor_workers,
        exclude: config.autoscaling_pending_release_exclude,
    }
}

/// What a session has whose scheduler is here.
pub(super) struct Head {
    pub(super) ground: Ground,
    pub(super) scheduler: LocalRef<SchedulerActor>,
    pub(super) arbiter: Arbiter,
    /// Workers that have joined.
    joined: watch::Receiver<usize>,
}

impl Head {
    /// `forced`: shapes that tests want.
    pub(super) fn new(
        ground: Ground,
        config: &Config,
        scale: Option<ScaleSettings>,
        forced: Option<Forced>,
    ) -> Result<Self, ClusterError> {
        let settings = Settings {
            task: Resources::cpus(config.min_cpu_per_task),
            ready_timeout: config.actor_udf_ready_timeout,
            pool_warm: config.pool_warm,
            worker_timeout: config.worker_timeout,
            linear: config.scheduler_linear,
            max_task_backlog: config.max_task_backlog,
            scale,
            forced,
        };
        let arbiter = ground.arbiter()?;
        let (hosted, observe) = (Arc::clone(&ground.host), config.observe_memory);
        let (joining, joined) = watch::channel(0);
        let scheduler = arbiter.spawn(MAILBOX, move |_| SchedulerActor::new(settings, observe, hosted, joining));
        Ok(Self { ground, scheduler, arbiter, joined })
    }

    /// What the provider does with its word that a process has ended: it is proof, and comes before any time-out.
    pub(super) fn on_end(&self) -> OnEnd {
        let (scheduler, runtime) = (self.scheduler.clone(), self.ground.host.runtime.handle().clone());
        let closing = Arc::clone(&self.ground.host.closing);
        Arc::new(move |node, why| {
            if closing.load(Ordering::Relaxed) {
                return;
            }
            let scheduler = scheduler.clone();
            runtime.spawn(async move { tell_surely(&scheduler, || WorkerDown { node, why: why.clone() }).await });
        })
    }

    /// Serves a cluster at this node.
    pub(super) fn serve(&self, node: &Node, authority: Arc<Authority>) -> Result<(), ClusterError> {
        // Frames of queries are fetched from here.
        Relay::serve(&self.ground.host);
        let (host, scheduler, joins) = (Arc::clone(&self.ground.host), self.scheduler.clone(), Arc::clone(&authority));
        let gateway = self.arbiter.spawn(GatewayActor::MAILBOX, move |_| GatewayActor::new(host, scheduler, joins));
        SchedulerActor::publish(node, SCHEDULER, &self.scheduler, &self.arbiter);
        GatewayActor::publish(node, GATEWAY, &gateway);
        open_window(node, &self.ground.host, self.scheduler.clone(), Arc::clone(&authority), &self.arbiter);
        self.watch_peers(node, gateway);
        // Last: from here on others come in. It also renews certificates, which live a day.
        node.serve_joins(authority).map_err(|e| ClusterError::network("let others in", e))
    }

    /// Tells the scheduler of workers that are lost, and the gateway of drivers.
    fn watch_peers(&self, node: &Node, gateway: LocalRef<GatewayActor>) {
        let (mut events, scheduler) = (node.events(), self.scheduler.clone());
        let closing = Arc::clone(&self.ground.host.closing);
        self.ground.host.runtime.handle().spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    PeerEvent::Down { .. } if closing.load(Ordering::Relaxed) => return,
                    PeerEvent::Down { peer, .. } if peer.role == Role::Driver => {
                        tell_surely(&gateway, || DriverDown(peer.node)).await;
                    }
                    PeerEvent::Down { peer, cause } if peer.role == Role::Worker => {
                        tell_surely(&scheduler, || WorkerDown { node: Some(peer.node), why: cause.clone() }).await;
                    }
                    PeerEvent::Suspect(peer) if peer.role == Role::Worker => {
                        tell_surely(&scheduler, || WorkerSilent { node: peer.node, silent: true }).await;
                    }
                    PeerEvent::Recovered(peer) if peer.role == Role::Worker => {
                        tell_surely(&scheduler, || WorkerSilent { node: peer.node, silent: false }).await;
                    }
                    _ => (),
                }
            }
        });
    }

    /// Waits until all workers have joined, or one has ended.
    pub(super) fn wait_for(&self, wanted: usize, processes: &LocalWorkers) -> Result<(), ClusterError> {
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
}

/// Tells an actor of this process, however long it is busy: what is lost here, a query would wait for without end. One
/// that is gone has no use for it.
async fn tell_surely<A, M>(actor: &LocalRef<A>, message: impl Fn() -> M)
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message<Result = ()> + Send + 'static,
{
    while let Err(TellError::Busy) = actor.tell(message(), CONTROL).await {
        // Busy is also what one hears while the session's threads end: this must not keep one of them.
        tokio::task::yield_now().await;
    }
}
