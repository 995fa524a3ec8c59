//! What a worker process does instead of the program's own `main`.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use regatta_remote::{Address, Identity, Node, NodeId, PeerEvent, Runtime, decode, encode};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::Scratch;
use crate::actors::{CONTROL, Host, MAILBOX, Place, Register, SCHEDULER, SWORDFISH, SchedulerActor, SwordfishActor};
use crate::sched::{Resources, WorkerId};
use crate::store::Store;
use crate::{actor, udf};

/// Set for a process that is to be a worker. What it must know and keep secret comes through its standard input.
pub(super) const MARKER: &str = "REGATTA_WORKER";

/// What a worker reads first from its standard input. The end of that input is the end of the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandOver {
    pub(crate) worker: WorkerId,
    pub(crate) identity: Identity,
    pub(crate) head: (NodeId, SocketAddr),
    pub(crate) capacity: Resources,
    pub(crate) scratch: PathBuf,
}

/// A test binary that can be a worker: made by [`testing::worker!`](crate::testing::worker).
#[derive(Debug)]
pub struct TestWorker {
    /// The module that the test stands in.
    pub module: &'static str,
}

inventory::collect!(TestWorker);

impl TestWorker {
    /// Arguments with which this test binary runs as a worker; `None` if this is no test binary that can.
    pub(super) fn arguments() -> Option<[String; 4]> {
        let test = inventory::iter::<Self>().next()?;
        // libtest names tests without the crate.
        let module = test.module.split_once("::").map(|(_, inner)| format!("{inner}::")).unwrap_or_default();
        Some([format!("{module}regatta_worker"), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()])
    }
}

/// Runs a worker, and ends the process with it, if this process was started as one. Else returns at once.
///
/// [`#[regatta::main]`](macro@crate::main) calls it before anything of yours.
pub fn become_worker_if_started_as_one() {
    let Some(role) = std::env::var_os(MARKER) else { return COMES_HERE.store(true, Ordering::Relaxed) };
    let outcome = if role == REPLICA {
        log_to_stderr();
        udf::serve_isolated().map_err(Into::into)
    } else {
        work()
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

/// The value of [`MARKER`] for a process that is to be an isolated replica.
const REPLICA: &str = "replica";

/// Whether `main` of this program calls [`become_worker_if_started_as_one`].
static COMES_HERE: AtomicBool = AtomicBool::new(false);

/// Starts this executable as an isolated replica; `None` if its `main` would not become one. A replica has none of its own.
pub(crate) fn replica_command() -> Option<Command> {
    let in_tests = TestWorker::arguments();
    let is_worker = std::env::var_os(MARKER);
    let may = is_worker
        .as_ref()
        .map_or_else(|| in_tests.is_some() || COMES_HERE.load(Ordering::Relaxed), |role| role != REPLICA);
    if !may {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(in_tests.into_iter().flatten()).env(MARKER, REPLICA);
    Some(command)
}

/// Whether this process was started as a worker. One that does not become one must not start workers: each of them
/// would do the same.
pub(crate) fn is_worker() -> bool {
    std::env::var_os(MARKER).is_some()
}

/// What two processes of a cluster must have in common: nodes refuse each other if it differs.
pub(crate) fn hello() -> Bytes {
    let (version, udfs, actors) =
        (env!("CARGO_PKG_VERSION"), udf::registered().join(", "), actor::registered().join(", "));
    format!("regatta {version}, polars 0.55.2, UDFs [{udfs}], actors [{actors}]").into()
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

/// A worker has no `main` of the author's that could set up logging: warnings and what isolated replicas print, or what
/// `RUST_LOG` asks for, go to standard error, which the driver passes on under the worker's name.
fn log_to_stderr() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,{}=info", udf::OUTPUT)));
    // Fails only if the program has a subscriber already, from a constructor that ran before main: then that one stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
}

fn work() -> Result<(), Box<dyn std::error::Error>> {
    let hand_over = read_hand_over(&mut io::stdin().lock()).map_err(|e| {
        format!("{MARKER} is set, but standard input holds no hand-over ({e}); it is not for people to set")
    })?;
    log_to_stderr();
    #[cfg(feature = "gpu")]
    match crate::gpu::device_count() {
        Ok(devices) => tracing::info!(devices, "CUDA devices"),
        Err(why) => tracing::info!(%why, "no GPU here"),
    }
    // The driver holds the other end. When it goes, however it goes, so do we.
    thread::Builder::new().name("regatta-life".to_owned()).spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    })?;
    let scratch = Scratch::join(&hand_over.scratch)?;
    let store = Store::new(&scratch.store(&format!("worker-{}", hand_over.worker.0))?);
    let runtime = Runtime::new("regatta", 2)?;
    let (head, address) = hand_over.head;
    let node = Node::bind(hand_over.identity, SocketAddr::new(address.ip(), 0), hello(), &runtime)?;
    node.serve_data(Arc::<Store>::clone(&store));
    let mut events = node.events();
    let handle = runtime.handle().clone();
    let found = handle.block_on(node.connect(address, CONTROL))?;
    if found != head {
        return Err(format!("the process at {address} is node {found}, not the head {head}").into());
    }
    let scheduler = node.actor::<SchedulerActor>(Address { node: head, actor: SCHEDULER });
    let here = node.address()?;
    let place = Place { worker: hand_over.worker, node: Some((node.id(), here)) };
    let host = Host::new(runtime.clone(), store, Some(node.clone()));
    let (arbiter, to_scheduler) = (runtime.arbiter()?, scheduler.clone());
    let swordfish = arbiter.spawn(MAILBOX, move |_| SwordfishActor::new(host, place, to_scheduler));
    SwordfishActor::publish(&node, SWORDFISH, &swordfish);
    // Last: from here on the scheduler sends work.
    let register = Register { worker: hand_over.worker, capacity: hand_over.capacity, node: node.id(), address: here };
    handle.block_on(scheduler.ask(register, CONTROL))??;
    handle.block_on(async move {
        loop {
            match events.recv().await {
                Ok(PeerEvent::Down { peer, cause }) if peer.node == head => {
                    return tracing::info!(%cause, "the head is gone");
                }
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => (),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    Ok(())
}
