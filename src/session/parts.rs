//! What sessions are made of.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, Message};
use regatta_remote::{Arbiter, Authority, LocalRef, Node, NodeId, PeerEvent, Role, Runtime, TellError};
use tokio::sync::watch;

use crate::actors::{
    CONTROL, DriverDown, GATEWAY, GatewayActor, Host, Kept, MAILBOX, Relay, SCHEDULER, SchedulerActor, WorkerDown,
    WorkerSilent, open_window,
};
use crate::archive::Archive;
use crate::cluster::{LocalWorkers, OnEnd, Scratch};
use crate::config::Config;
use crate::error::{ClusterError, ConfigError};
use crate::jobs::Jobs;
use crate::os;
use crate::process::is_worker;
use crate::progress::{ProgressBar, Shows};
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
        let scratch = Scratch::create(&config.scratch)?;
        let store = scratch.store("driver")?;
        let (node, head) = network(&runtime)?.unzip();
        let host = Host::new(runtime, Store::over(store), node, head.flatten());
        let shows = Shows::new(if is_worker() { ProgressBar::Off } else { config.progress });
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

/// The least and the most workers, as they were asked for.
pub(super) fn some_workers(asked: &RangeInclusive<usize>) -> Result<(usize, usize), ConfigError> {
    let (least, most) = (*asked.start(), *asked.end());
    if least <= most && most > 0 {
        return Ok((least, most));
    }
    let accepted = "use a number of workers from 1, as Session::local(2), or the least..=the most, as Session::elastic(0..=4). \
                    Session::native() runs queries in this process, without workers";
    Err(ConfigError {
        variable: "workers".to_owned(),
        value: if least == most { least.to_string() } else { format!("{least}..={most}") },
        accepted: accepted.to_owned(),
    })
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
    /// Programs that operators may have run here at once.
    jobs: usize,
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
        let archive = config.history.as_deref().map(|folder| {
            let failed = |error| {
                ClusterError::os(format!("keep what queries did in {} (REGATTA_HISTORY)", folder.display()), error)
            };
            Archive::open(folder).map_err(failed)
        });
        let kept = Kept { memory: config.observe_memory, archive: archive.transpose()? };
        let hosted = Arc::clone(&ground.host);
        let (joining, joined) = watch::channel(0);
        let scheduler = arbiter.spawn(MAILBOX, move |_| SchedulerActor::new(settings, kept, hosted, joining));
        Ok(Self { ground, scheduler, arbiter, joined, jobs: config.jobs })
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
        let address = node.address().map_err(|e| ClusterError::network("find the head's address", e))?;
        let jobs = (self.jobs > 0).then(|| Jobs::new(self.jobs, address, Arc::clone(&authority)));
        open_window(node, &self.ground.host, self.scheduler.clone(), Arc::clone(&authority), jobs, &self.arbiter);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_worker_at_all_and_a_least_above_the_most_are_refused() {
        #[expect(clippy::reversed_empty_ranges)]
        let refused = [(0..=0, "workers=\"0\""), (3..=1, "workers=\"3..=1\"")];
        for (asked, says) in refused {
            let error = some_workers(&asked).unwrap_err().to_string();
            assert!(error.starts_with(says) && error.contains("Session::native()"), "{error}");
        }
        assert_eq!([some_workers(&(0..=2)).unwrap(), some_workers(&(2..=2)).unwrap()], [(0, 2), (2, 2)]);
    }
}
