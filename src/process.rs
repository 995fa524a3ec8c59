//! What this process was started as, and how others of this executable are started.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;
use crate::os;

/// Set for a process that is to be a worker. What it must know and keep secret comes through its standard input.
pub(crate) const MARKER: &str = "REGATTA_WORKER";

/// The value of [`MARKER`] for a process that is to be an isolated replica.
pub(crate) const REPLICA: &str = "replica";
/// And for one that is to have several, with a GPU.
pub(crate) const REPLICAS: &str = "replicas";
/// What makes a process of [`replica_command`] one for several.
pub(crate) const SEVERAL: (&str, &str) = (MARKER, REPLICAS);
/// And for one that is to tell what GPUs there are.
#[cfg(feature = "gpu")]
pub(crate) const PROBE: &str = "gpu-probe";

/// Test binaries may run on the fake driver, whose folder this names: others never do.
#[cfg(feature = "gpu")]
pub(crate) fn use_fakes_in_tests() {
    if let (Some(folder), Some(_)) = (std::env::var_os("REGATTA_TEST_FAKES"), TestWorker::arguments()) {
        regatta_gpu::use_fakes(std::path::Path::new(&folder));
    }
}

/// Whether `main` of this program calls [`become_worker_if_started_as_one`](crate::become_worker_if_started_as_one).
static COMES_HERE: AtomicBool = AtomicBool::new(false);

/// Says that `main` of this program calls [`become_worker_if_started_as_one`](crate::become_worker_if_started_as_one).
pub(crate) fn main_comes_here() {
    COMES_HERE.store(true, Ordering::Relaxed);
}

/// Starts this executable as an isolated replica; `None` if its `main` would not become one. A replica has none of its own.
pub(crate) fn replica_command() -> Option<Command> {
    let in_tests = TestWorker::arguments();
    let may = match std::env::var_os(MARKER) {
        Some(role) => role == "1",
        None => Config::joins() || in_tests.is_some() || COMES_HERE.load(Ordering::Relaxed),
    };
    if !may {
        return None;
    }
    let mut command = os::this_program().ok()?;
    command.args(in_tests.into_iter().flatten()).env(MARKER, REPLICA);
    Some(command)
}

/// Whether this process was started as a worker. One that does not become one must not start workers: each of them
/// would do the same.
pub(crate) fn is_worker() -> bool {
    std::env::var_os(MARKER).is_some() || Config::joins()
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
    pub(crate) fn arguments() -> Option<[String; 4]> {
        let test = inventory::iter::<Self>().next()?;
        // libtest names tests without the crate.
        let module = test.module.split_once("::").map(|(_, inner)| format!("{inner}::")).unwrap_or_default();
        Some([format!("{module}regatta_worker"), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()])
    }
}
