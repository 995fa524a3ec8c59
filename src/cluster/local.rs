//! Worker processes of this machine: this executable, started again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regatta_remote::{Authority, NodeId, Role};

use super::capacity::{gpus, gpus_of, least_memory};
use super::scratch::folder_of;
use super::worker::{HandOver, write_hand_over};
use crate::actors::ClusterProvider;
use crate::error::ClusterError;
use crate::notice::notice;
use crate::os;
use crate::process::{MARKER, TestWorker};
use crate::progress::say_above;
use crate::sched::{Resources, WorkerId};
use crate::udf::VISIBLE;

/// The worker processes of a session. They end when it is closed or dropped, and when this process ends in any way.
pub(crate) struct LocalWorkers {
    spec: LocalSpec,
    fleet: Mutex<Fleet>,
}

/// What all workers of a session have in common.
pub(crate) struct LocalSpec {
    pub(crate) authority: Arc<Authority>,
    pub(crate) head: (NodeId, SocketAddr),
    /// Threads that Polars has in each; the worker's CPUs.
    pub(crate) threads: usize,
    /// What each may use, but for GPUs.
    pub(crate) capacity: Resources,
    /// How many there are at once, at most: they share this machine.
    pub(crate) most: usize,
    pub(crate) scratch: Vec<PathBuf>,
    /// Called when a worker's process has ended, however, with its node and its last word; or could not be started.
    pub(crate) on_end: OnEnd,
}

/// What is done with the word that a worker's process has ended, however, or could not be started.
pub(crate) type OnEnd = Arc<dyn Fn(Option<NodeId>, String) + Send + Sync>;

#[derive(Default)]
struct Fleet {
    workers: BTreeMap<WorkerId, LocalWorker>,
    next: u32,
    closed: bool,
}

#[derive(Debug)]
struct LocalWorker {
    child: Child,
    /// What it keeps on disk. It cannot remove that itself if it is killed.
    folders: Vec<PathBuf>,
    /// Its number among those that live: says which GPUs are its own.
    slot: usize,
    /// Its life: closed, the worker ends.
    life: Option<ChildStdin>,
    last_words: LastWords,
    readers: Vec<JoinHandle<()>>,
}

pub(super) type LastWords = Arc<Mutex<VecDeque<String>>>;

/// Lines of a worker's standard error that are kept for an error message.
const KEPT_LINES: usize = 20;
/// How long a worker may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How soon after its standard error a process has ended, if it does.
const SOON: Duration = Duration::from_millis(200);

impl LocalWorkers {
    pub(crate) fn new(spec: LocalSpec) -> Arc<Self> {
        Arc::new(Self { spec, fleet: Mutex::default() })
    }

    /// Starts workers until there are so many.
    ///
    /// # Errors
    /// The executable cannot be started.
    pub(crate) fn start(&self, wanted: usize) -> Result<(), ClusterError> {
        let mut fleet = self.fleet();
        // Those that have ended by themselves do not count, and are reaped.
        fleet.workers.retain(|_, worker| matches!(worker.child.try_wait(), Ok(None)));
        while fleet.workers.len() < wanted && !fleet.closed {
            let worker = WorkerId(fleet.next);
            fleet.next += 1;
            let taken: BTreeSet<_> = fleet.workers.values().map(|worker| worker.slot).collect();
            let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or(0);
            // The GPUs of one that is about to leave are not free yet: it is asked again when they are.
            if slot >= self.spec.most && !gpus().is_empty() {
                break;
            }
            let started = LocalWorker::start(worker, slot, &self.spec)?;
            fleet.workers.insert(worker, started);
        }
        Ok(())
    }

    /// The first worker that has ended by itself, as an error.
    pub(crate) fn ended(&self) -> Option<ClusterError> {
        self.fleet().workers.iter_mut().find_map(|(id, worker)| {
            let status = worker.child.try_wait().ok().flatten()?;
            // The rest of what it said is in the pipe.
            worker.readers.drain(..).for_each(|reader| drop(reader.join()));
            let lines = worker.last_words.lock().unwrap_or_else(PoisonError::into_inner);
            let stderr = lines.iter().map(|line| format!("  {line}\n")).collect();
            Some(ClusterError::WorkerEnded { worker: id.0, status: status.to_string(), stderr })
        })
    }

    /// Process ids, by worker.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.fleet().workers.values().map(|worker| worker.child.id()).collect()
    }

    pub(crate) fn process_of(&self, worker: WorkerId) -> Option<u32> {
        Some(self.fleet().workers.get(&worker)?.child.id())
    }

    /// Ends all workers, and lets none start any more.
    pub(crate) fn close(&self) {
        let mut workers = {
            let mut fleet = self.fleet();
            fleet.closed = true;
            std::mem::take(&mut fleet.workers)
        };
        // All at once, then one after the other until the deadline that they share.
        workers.values_mut().for_each(|worker| worker.life = None);
        let deadline = Instant::now() + GRACE;
        workers.values_mut().for_each(|worker| worker.end(deadline));
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterProvider for LocalWorkers {
    fn demand(&self, workers: usize) {
        if let Err(error) = self.start(workers) {
            notice(format_args!("could not start the {workers} workers that are wanted: {error}"));
            (self.spec.on_end)(None, error.to_string());
        }
    }

    fn retire(&self, worker: WorkerId, _: Option<NodeId>) {
        let retired = self.fleet().workers.remove(&worker);
        if let Some(mut process) = retired {
            tracing::debug!(%worker, "retires");
            process.life = None;
            process.end(Instant::now() + GRACE);
        }
    }
}

impl Drop for LocalWorkers {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for LocalWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalWorkers").field("processes", &self.processes()).finish_non_exhaustive()
    }
}

impl LocalWorker {
    fn start(worker: WorkerId, slot: usize, spec: &LocalSpec) -> Result<Self, ClusterError> {
        let identity = spec.authority.issue(Role::Worker);
        let identity = identity.map_err(|e| ClusterError::network("make a worker's certificate", e))?;
        let devices = gpus_of(slot, spec.most, gpus());
        let capacity = spec.capacity.with_gpus(devices.len() as f64, least_memory(&devices));
        let visible: Vec<_> = devices.iter().map(|gpu| gpu.uuid.as_str()).collect();
        let visible = (!gpus().is_empty()).then(|| (VISIBLE, visible.join(",")));
        let scratch = spec.scratch.clone();
        let hand_over = HandOver { worker, identity, head: spec.head, capacity, devices, scratch };
        let mut command = os::this_program().map_err(|e| ClusterError::os("find this executable", e))?;
        let in_tests = TestWorker::arguments();
        // libtest says on standard output that it runs a test: of no use here.
        let stdout = if in_tests.is_some() { Stdio::null() } else { Stdio::piped() };
        command
            .args(in_tests.into_iter().flatten())
            .env(MARKER, "1")
            .env("DAFT_FLOTILLA_WORKER", "1")
            .env("POLARS_MAX_THREADS", spec.threads.to_string())
            .envs(visible)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|e| ClusterError::os(format!("start worker {:?}", command.get_program()), e))?;
        let last_words = LastWords::default();
        let name = worker.to_string();
        let (kept, ended, node) = (Arc::clone(&last_words), Arc::clone(&spec.on_end), hand_over.identity.node());
        let process = child.id();
        let stderr = child.stderr.take().map(|pipe| {
            relay(pipe, &name, Some(kept), move |last| {
                let last = last.map(|line| format!("; its last words: {line}")).unwrap_or_default();
                let how = os::how_it_ended(process, SOON).map(|how| format!(" ({how})")).unwrap_or_default();
                ended(Some(node), format!("its process ended{how}{last}"));
            })
        });
        let stdout = child.stdout.take().map(|pipe| relay(pipe, &name, None, |_| ()));
        let mut life = child.stdin.take();
        let handed_over = life.as_mut().map(|stdin| write_hand_over(stdin, &hand_over));
        let folders = spec.scratch.iter().map(|folder| folder.join(folder_of(worker))).collect();
        let mut worker =
            Self { child, folders, slot, life, last_words, readers: stderr.into_iter().chain(stdout).collect() };
        match handed_over {
            Some(Ok(())) => Ok(worker),
            Some(Err(error)) => {
                worker.end(Instant::now());
                Err(ClusterError::os(format!("hand over to {name}"), error))
            }
            None => Err(ClusterError::os(format!("hand over to {name}"), "no standard input")),
        }
    }

    /// Waits for the process until the deadline, then kills it. Leaves no zombie and no reader.
    fn end(&mut self, deadline: Instant) {
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
    }
}

impl Drop for LocalWorker {
    fn drop(&mut self) {
        // Fails if it never came to make it.
        self.folders.iter().for_each(|folder| drop(fs::remove_dir_all(folder)));
    }
}

/// Passes a worker's output on, line by line under its name, and keeps the last lines. The end of the output is the end
/// of the process: `at_end` gets the last line.
pub(super) fn relay(
    pipe: impl Read + Send + 'static,
    name: &str,
    keep: Option<LastWords>,
    at_end: impl FnOnce(Option<String>) + Send + 'static,
) -> JoinHandle<()> {
    let name = name.to_owned();
    thread::spawn(move || {
        let mut last = None;
        for line in os::lines(pipe) {
            if !say_above(&format!("[{name}] {line}")) {
                let _ = writeln!(std::io::stderr(), "[{name}] {line}");
            }
            if line.trim().is_empty() {
                continue;
            }
            // What it says while all is well says nothing of its end.
            if ![" INFO ", " DEBUG ", " TRACE "].iter().any(|level| line.contains(level)) {
                last = Some(line.clone());
            }
            if let Some(kept) = &keep {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                while kept.len() > KEPT_LINES {
                    kept.pop_front();
                }
            }
        }
        at_end(last);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_what_was_said_last_and_not_that_all_is_well() {
        let kept = LastWords::default();
        let (said, words) = std::sync::mpsc::channel();
        let text = "thread 'x' panicked\n2026  INFO regatta: joined\n\n \n";
        relay(text.as_bytes(), "worker 1", Some(Arc::clone(&kept)), move |last| said.send(last).unwrap())
            .join()
            .unwrap();
        assert_eq!(words.recv().unwrap().as_deref(), Some("thread 'x' panicked"));
        assert_eq!(*kept.lock().unwrap(), ["thread 'x' panicked", "2026  INFO regatta: joined"]);
    }
}
