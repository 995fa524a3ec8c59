//! A replica in a process of its own: this executable, started again.
//!
//! Parent and child share a socket (the child's standard input) for words, and the replica's scratch folder for batches: one
//! IPC file for each batch and each result.

mod child;
mod output;
mod wire;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polars::prelude::{Column, DataFrame};

pub(crate) use child::serve;
pub(crate) use output::TARGET as OUTPUT;

use self::output::Output;
use self::wire::{FromChild, Link, StartChild, ToChild};
use super::context::Seat;
use super::thread::ReplicaSpec;
use super::{Call, Metrics, UdfError, UdfResult};
use crate::cluster::replica_command;

/// A replica's process, from its parent.
pub(super) struct Isolated {
    process: Child,
    link: Link,
    output: Output,
    folder: PathBuf,
    /// Batches so far.
    batches: u64,
}

/// How a call ended that has no result.
pub(super) enum Ended {
    /// The UDF failed; true: by a panic, and the process is not to be used again.
    Failed(UdfError, bool),
    /// The process has died.
    Died(String),
    /// The call took too long, or nobody wants it any more. The process is to be killed.
    Late,
}

/// How often is looked whether a call is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// How long a process may take to end in order.
const STOP: Duration = Duration::from_secs(5);

impl Isolated {
    /// Starts the process and the replica in it. Ends early when nobody wants it any more.
    ///
    /// # Errors
    /// This executable cannot be started again; what `start` says.
    pub(super) fn start(
        spec: &ReplicaSpec,
        seat: &Arc<Seat>,
        progress: &dyn Fn(&str),
        wanted: &mut dyn FnMut() -> bool,
    ) -> UdfResult<(Self, Metrics)> {
        let mut command = replica_command().ok_or_else(|| {
            UdfError::new(
                "an isolated replica is this same executable, started again, and its main cannot be one: put \
                 #[regatta::main] on main, or regatta::testing::worker!() into the test binary",
            )
        })?;
        let (here, there) = UnixStream::pair()?;
        // One thread for Polars: replicas are what runs in parallel.
        command
            .env("POLARS_MAX_THREADS", "1")
            .stdin(OwnedFd::from(there))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn()?;
        drop(command); // and with it our copy of the child's end
        let output = Output::read(process.stdout.take(), process.stderr.take());
        let link = Link::new(here);
        let mut child = Self { process, link, output, folder: seat.scratch.clone(), batches: 0 };
        let memory = (spec.options.memory > 0).then_some(spec.options.memory);
        let start =
            StartChild { udf: spec.udf.clone(), arguments: spec.arguments.clone(), seat: (**seat).clone(), memory };
        let lost = |child: &mut Self, error| UdfError::new(format!("in start, {}", child.last_words(error)));
        child.link.send(&ToChild::Start(start)).map_err(|error| lost(&mut child, error))?;
        loop {
            match child.link.receive(LOOK) {
                Ok(Some(FromChild::Progress(doing))) => progress(&doing),
                Ok(Some(FromChild::Started(result))) => return Ok((child, result?)),
                Ok(None) if wanted() => (),
                Ok(_) => return Err(UdfError::new("nobody waits for it any more")),
                Err(error) => return Err(lost(&mut child, error)),
            }
        }
    }

    /// Whether the process is gone.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)))
    }

    /// Has the process run one batch.
    pub(super) fn run(
        &mut self,
        inputs: &DataFrame,
        call: Call,
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<(Column, Metrics), Ended> {
        let number = self.batches;
        self.batches += 1;
        self.output.belongs_here();
        let files = Files { inputs: inputs_file(&self.folder, number), result: result_file(&self.folder, number) };
        let failed = |error: UdfError| Ended::Failed(error, false);
        wire::write(&files.inputs, inputs).map_err(|error| failed(error.into()))?;
        let until = call.timeout.map(|limit| Instant::now() + limit);
        let sent = self.link.send(&ToChild::Run { number, call });
        sent.map_err(|error| Ended::Died(self.last_words(error)))?;
        loop {
            match self.link.receive(LOOK) {
                Ok(Some(FromChild::Done(Ok(metrics)))) => {
                    let result = wire::read(&files.result).map_err(|error| failed(error.into()))?;
                    let column = result.into_columns().pop();
                    return column
                        .map(|column| (column, metrics))
                        .ok_or_else(|| failed(UdfError::new("no column came back")));
                }
                Ok(Some(FromChild::Done(Err((error, panicked))))) => return Err(Ended::Failed(error, panicked)),
                Ok(Some(_)) => (),
                Ok(None) if until.is_some_and(|until| Instant::now() >= until) || !wanted() => return Err(Ended::Late),
                Ok(None) => (),
                Err(error) => return Err(Ended::Died(self.last_words(error))),
            }
        }
    }

    /// Ends the process in order; one that does not is killed.
    pub(super) fn stop(mut self) -> Metrics {
        let until = Instant::now() + STOP;
        if self.link.send(&ToChild::Stop).is_ok() {
            while Instant::now() < until {
                match self.link.receive(LOOK) {
                    Ok(Some(FromChild::Stopped(metrics))) => return metrics,
                    Ok(_) => (),
                    Err(_) => break,
                }
            }
        }
        Metrics::default()
    }

    /// What can be said of a process that has gone.
    fn last_words(&mut self, error: std::io::Error) -> String {
        let _ = self.process.kill(); // it may only have closed the socket
        let status = self.process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let last = self.output.last_words();
        let last = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
        format!("its process ended ({status}, {error}){last}")
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The files of one batch, removed with it. Who has mapped one keeps what is in it.
struct Files {
    inputs: PathBuf,
    result: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.inputs);
        let _ = fs::remove_file(&self.result);
    }
}

fn inputs_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.inputs.arrow"))
}

fn result_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.result.arrow"))
}
