//! What a worker process does instead of the program's own `main`.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use polars_core::runtime::THREAD_POOL;
use regatta_remote::{ActorRef, Address, Arbiter, Identity, Node, NodeId, PeerEvents, Role, Runtime, decode, encode};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::ending::{Asks, GOODBYE, STOP, asked, ends_with_its_worker, until_it_ends};
use super::scratch::folder_of;
use super::{Scratch, capacity, connect, find_gpus};
use crate::actors::{
    CONTROL, Enrol, GATEWAY, GatewayActor, Host, MAILBOX, Place, Register, SCHEDULER, SWORDFISH, SchedulerActor,
    SwordfishActor,
};
use crate::config::{ClusterAt, Config, Offer};
use crate::error::ClusterError;
use crate::hello::hello;
use crate::process::{self, MARKER, REPLICA, is_worker};
use crate::sched::{GpuInfo, Resources, WorkerId};
use crate::store::Store;
use crate::whose::is_of_replica;
use crate::{logs, os, spans, udf};

/// What a worker reads first from its standard input. The end of that input is the end of the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandOver {
    pub(crate) worker: WorkerId,
    pub(crate) identity: Identity,
    pub(crate) head: (NodeId, SocketAddr),
    pub(crate) capacity: Resources,
    /// Its GPUs: it does not ask the driver itself.
    pub(crate) devices: Vec<GpuInfo>,
    pub(crate) scratch: Vec<PathBuf>,
}

/// Runs a worker, and ends the process with it, if this process was started as one. Else returns at once.
///
/// [`#[regatta::main]`](macro@crate::main) calls it before anything of yours.
pub fn become_worker_if_started_as_one() {
    if !is_worker() {
        return process::main_comes_here();
    }
    #[cfg(feature = "gpu")]
    process::use_fakes_in_tests();
    let role = std::env::var(MARKER).unwrap_or_default();
    let outcome = match &*role {
        REPLICA => {
            log_to_stderr("warn", Speaks::Replica);
            ends_with_its_worker().and_then(|()| udf::serve_isolated(as_guest)).map_err(Failure::from)
        }
        #[cfg(feature = "gpu")]
        process::REPLICAS => {
            log_to_stderr("warn", Speaks::Replica);
            ends_with_its_worker().and_then(|()| udf::serve_several(as_guest)).map_err(Failure::from)
        }
        #[cfg(feature = "gpu")]
        process::PROBE => crate::gpu::prove().map_err(Failure::from),
        _ => work().map(|never| match never {}),
    };
    let code = match outcome {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "regatta worker: {error}");
            2
        }
    };
    std::process::exit(code);
}

/// The way of an isolated replica into the cluster of its worker.
fn as_guest(at: &ClusterAt, runtime: &Runtime) -> Result<(Node, NodeId), ClusterError> {
    let (node, head, ()) = connect(at, (Role::Guest, 0), runtime, |_| ())?;
    Ok((node, head))
}

pub(super) fn write_hand_over(to: &mut impl Write, hand_over: &HandOver) -> io::Result<()> {
    let bytes = encode(hand_over).map_err(io::Error::other)?;
    to.write_all(&(bytes.len() as u32).to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

fn read_hand_over(from: &mut impl Read) -> io::Result<HandOver> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let mut bytes = Vec::new();
    from.take(u64::from(u32::from_le_bytes(len))).read_to_end(&mut bytes)?;
    decode(&bytes).map_err(io::Error::other)
}

/// Who logs. What a replica's own process says is said again by its worker, which says whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Worker,
    Replica,
}

/// A worker has no `main` of the author's that could set up logging: what `RUST_LOG` asks for, or `unasked` and what isolated
/// replicas print, goes to standard error. A driver passes it on under the name of its worker.
fn log_to_stderr(unasked: &str, speaks: Speaks) {
    let unasked = || EnvFilter::new(format!("{unasked},{}=info", udf::OUTPUT));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| unasked());
    let filter = filter.and(filter_fn(move |of| speaks == Speaks::Worker || !is_of_replica(of)));
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false).with_filter(filter);
    let all = tracing_subscriber::registry().with(to_stderr).with(logs::Remember.with_filter(logs::remembered()));
    let all = all.with(spans::Note.with_filter(spans::noted_spans()));
    // Fails only if the program has a subscriber already, from a constructor that ran before main: then that one stays.
    let _ = tracing::subscriber::set_global_default(all);
}

type Failure = Box<dyn std::error::Error>;

/// Says how many threads Polars has. It reads that when it needs the first.
const POLARS_THREADS: &str = "POLARS_MAX_THREADS";

/// What a worker starts from: its place in the cluster, and what it has to give.
pub(crate) struct Recruit {
    /// `None`: the head gives the number.
    pub(crate) worker: Option<WorkerId>,
    pub(crate) capacity: Resources,
    pub(crate) devices: Result<Vec<GpuInfo>, String>,
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<Store>,
    pub(crate) node: Node,
    pub(crate) events: PeerEvents,
    pub(crate) head: NodeId,
}

/// A worker that has joined.
pub(crate) struct Joined {
    pub(crate) worker: WorkerId,
    events: PeerEvents,
    head: NodeId,
    scheduler: ActorRef<SchedulerActor>,
    /// Its swordfish lives here.
    _arbiter: Arbiter,
}

impl Recruit {
    /// Joins the cluster.
    ///
    /// # Errors
    /// The head does not answer, or does not want it.
    pub(crate) async fn join(self) -> Result<Joined, Failure> {
        let Self { worker, capacity, devices, runtime, store, node, events, head } = self;
        let worker = match worker {
            Some(worker) => worker,
            None => node.actor::<GatewayActor>(Address { node: head, actor: GATEWAY }).ask(Enrol, CONTROL).await??,
        };
        let scheduler = node.actor::<SchedulerActor>(Address { node: head, actor: SCHEDULER });
        let here = node.address()?;
        let place = Place { worker, node: Some((node.id(), here)) };
        let host = Host::new(runtime.clone(), store, Some(node.clone()), Some(head));
        let (arbiter, to_scheduler) = (runtime.arbiter()?, scheduler.clone());
        let swordfish = arbiter.spawn(MAILBOX, move |_| SwordfishActor::new(host, place, to_scheduler));
        SwordfishActor::publish(&node, SWORDFISH, &swordfish);
        // Last: from here on the scheduler sends work.
        let register = Register { worker, capacity, devices, node: node.id(), address: here };
        scheduler.ask(register, CONTROL).await??;
        Ok(Joined { worker, events, head, scheduler, _arbiter: arbiter })
    }
}

impl Joined {
    /// Works until it is to end, or the head is gone. The status of its process.
    pub(crate) async fn work(self, asks: Asks) -> i32 {
        let Self { events, head, scheduler, _arbiter, .. } = self;
        until_it_ends(events, head, scheduler, asks).await
    }
}

/// A worker of a session of this machine.
fn handed_over() -> Result<(Recruit, Scratch), Failure> {
    let HandOver { worker, identity, head: (head, address), capacity, devices, scratch } =
        read_hand_over(&mut io::stdin().lock()).map_err(|e| {
            format!("{MARKER} is set, but standard input holds no hand-over ({e}); it is not for people to set")
        })?;
    log_to_stderr("warn", Speaks::Worker);
    // The driver holds the other end. When it goes, however it goes, so do we.
    thread::Builder::new().name("regatta-life".to_owned()).spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        udf::stop_replicas(STOP);
        std::process::exit(0);
    })?;
    let scratch = Scratch::join(scratch)?;
    let store = Store::over(scratch.store(&folder_of(worker))?);
    let runtime = Runtime::new("regatta", 2)?;
    let node = Node::bind(identity, SocketAddr::new(address.ip(), 0), &runtime.with_build(hello()))?;
    node.serve_data(Arc::<Store>::clone(&store));
    let events = node.events();
    let found = runtime.handle().block_on(node.connect(address, CONTROL))?;
    if found != head {
        return Err(format!("the process at {address} is node {found}, not the head {head}").into());
    }
    let devices = Ok(devices);
    Ok((Recruit { worker: Some(worker), capacity, devices, runtime, store, node, events, head }, scratch))
}

/// A worker that joins a cluster elsewhere: people read what it says.
fn joined(at: &ClusterAt, offer: Offer) -> Result<(Recruit, Scratch), Failure> {
    log_to_stderr("warn,regatta=info", Speaks::Worker);
    let scratch = Scratch::create(&Config::from_env()?.scratch)?;
    let store = Store::over(scratch.store("worker")?);
    let runtime = Runtime::new("regatta", 2)?;
    let (node, head, events) = connect(at, (Role::Worker, offer.port), &runtime, |node| {
        node.serve_data(Arc::<Store>::clone(&store));
        node.events()
    })?;
    let capacity = capacity(offer.cpus.unwrap_or_else(|| THREAD_POOL.current_num_threads() as f64), 1);
    let capacity = offer.memory.map_or(capacity, |memory| capacity.with_memory(memory));
    let devices = find_gpus().clone();
    Ok((Recruit { worker: None, capacity, devices, runtime, store, node, events, head }, scratch))
}

fn work() -> Result<Infallible, Failure> {
    let (at, offer) = (Config::join_at()?, Config::offer()?);
    if let (Some(_), Some(cpus), None) = (&at, offer.cpus, std::env::var_os(POLARS_THREADS)) {
        os::set_variable(POLARS_THREADS, &format!("{}", cpus.ceil()));
    }
    let asks = asked(at.is_some())?;
    let (recruit, scratch) = at.as_ref().map_or_else(handed_over, |at| joined(at, offer))?;
    let (runtime, node, cpus) = (recruit.runtime.clone(), recruit.node.clone(), recruit.capacity.as_cpus());
    let code = runtime.wait(async {
        let joined = recruit.join().await?;
        if let Some(at) = at {
            let worker = joined.worker;
            tracing::info!(%worker, cpus, cluster = at.address, scratch = %scratch.folder().display(), "joined");
        }
        let code = joined.work(asks).await;
        // The others then need not wait for it.
        node.close(GOODBYE).await;
        Ok::<_, Failure>(code)
    })?;
    // Whatever runs here is of no use any more, and not waited for.
    udf::stop_replicas(STOP);
    drop(scratch);
    std::process::exit(code)
}
