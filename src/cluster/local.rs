//! Worker processes of this machine: this executable, started again.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regatta_remote::NodeId;

use super::worker::{HandOver, MARKER, TestWorker, write_hand_over};
use crate::error::ClusterError;

/// The worker processes of a session. They end when it is dropped, and when this process ends in any way.
#[derive(Debug)]
pub(crate) struct LocalWorkers {
    workers: Vec<LocalWorker>,
}

#[derive(Debug)]
struct LocalWorker {
    child: Child,
    /// Its life: closed, the worker ends.
    life: Option<ChildStdin>,
    last_words: LastWords,
    readers: Vec<JoinHandle<()>>,
}

type LastWords = Arc<Mutex<VecDeque<String>>>;

/// Called when a worker's process has ended, however: with its node and its last word.
pub(crate) type OnEnd = Arc<dyn Fn(NodeId, String) + Send + Sync>;

/// Lines of a worker's standard error that are kept for an error message.
const KEPT_LINES: usize = 20;
/// How long a worker may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

impl LocalWorkers {
    /// Starts a worker for each hand-over.
    ///
    /// # Errors
    /// The executable cannot be started. Workers that were started end.
    pub(crate) fn start(hand_overs: &[HandOver], threads: usize, ended: &OnEnd) -> Result<Self, ClusterError> {
        let mut workers = Self { workers: Vec::new() };
        for hand_over in hand_overs {
            workers.workers.push(LocalWorker::start(hand_over, threads, ended)?);
        }
        Ok(workers)
    }

    /// The first worker that has ended, as an error.
    pub(crate) fn ended(&mut self) -> Option<ClusterError> {
        self.workers.iter_mut().enumerate().find_map(|(number, worker)| {
            let status = worker.child.try_wait().ok().flatten()?;
            // The rest of what it said is in the pipe.
            worker.readers.drain(..).for_each(|reader| drop(reader.join()));
            let lines = worker.last_words.lock().unwrap_or_else(PoisonError::into_inner);
            let stderr = lines.iter().map(|line| format!("  {line}\n")).collect();
            Some(ClusterError::WorkerEnded { worker: number, status: status.to_string(), stderr })
        })
    }

    /// Process ids, by worker.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.workers.iter().map(|worker| worker.child.id()).collect()
    }
}

impl Drop for LocalWorkers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.life = None;
        }
        let deadline = Instant::now() + GRACE;
        for worker in &mut self.workers {
            worker.end(deadline);
        }
    }
}

impl LocalWorker {
    fn start(hand_over: &HandOver, threads: usize, ended: &OnEnd) -> Result<Self, ClusterError> {
        let executable = std::env::current_exe().map_err(|e| ClusterError::os("find this executable", e))?;
        let mut command = Command::new(&executable);
        let in_tests = TestWorker::arguments();
        // libtest says on standard output that it runs a test: of no use here.
        let stdout = if in_tests.is_some() { Stdio::null() } else { Stdio::piped() };
        command
            .args(in_tests.into_iter().flatten())
            .env(MARKER, "1")
            .env("DAFT_FLOTILLA_WORKER", "1")
            .env("POLARS_MAX_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|e| ClusterError::os(format!("start worker {}", executable.display()), e))?;
        let last_words = LastWords::default();
        let name = hand_over.worker.to_string();
        let (kept, ended, node) = (Arc::clone(&last_words), Arc::clone(ended), hand_over.identity.node());
        let stderr = child.stderr.take().map(|pipe| {
            relay(pipe, &name, Some(kept), move |last| {
                let last = last.map(|line| format!("; its last words: {line}")).unwrap_or_default();
                ended(node, format!("its process ended{last}"));
            })
        });
        let stdout = child.stdout.take().map(|pipe| relay(pipe, &name, None, |_| ()));
        let mut life = child.stdin.take();
        let handed_over = life.as_mut().map(|stdin| write_hand_over(stdin, hand_over));
        let mut worker = Self { child, life, last_words, readers: stderr.into_iter().chain(stdout).collect() };
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

/// Passes a worker's output on, line by line under its name, and keeps the last lines. The end of the output is the end
/// of the process: `at_end` gets the last line.
fn relay(
    pipe: impl Read + Send + 'static,
    name: &str,
    keep: Option<LastWords>,
    at_end: impl FnOnce(Option<String>) + Send + 'static,
) -> JoinHandle<()> {
    let name = name.to_owned();
    thread::spawn(move || {
        let mut last = None;
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = writeln!(std::io::stderr(), "[{name}] {line}");
            last = Some(line.clone());
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
