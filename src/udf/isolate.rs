//! A replica in a process of its own: this executable, started again.
//!
//! Parent and child share a socket (the child's standard input) for words, and the replica's scratch folder for batches: one
//! IPC file for each batch and each result.

mod child;
mod many;
mod output;
mod wire;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use polars::prelude::{Column, DataFrame};

pub(crate) use child::serve;
pub(super) use many::IsolatedAsync;
pub(crate) use output::TARGET as OUTPUT;

use self::output::Output;
use self::wire::{FromChild, Link, Outcome, StartChild, ToChild};
use super::context::Seat;
use super::pool::IN_FLIGHT;
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
    /// The UDF failed; true: by a panic, and the replica is not to be used again.
    Failed(UdfError, bool),
    /// The process has died.
    Died(String),
    /// The call took too long, or nobody wants it any more. The process of a UDF that is not async is to be killed.
    Late,
}

impl From<UdfError> for Ended {
    fn from(error: UdfError) -> Self {
        Self::Failed(error, false)
    }
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
        let in_flight = spec.options.in_flight.unwrap_or(IN_FLIGHT);
        let (udf, arguments) = (spec.udf.clone(), spec.arguments.clone());
        let start = StartChild { udf, arguments, seat: (**seat).clone(), memory, in_flight };
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
        self.output.belongs_here();
        let (number, files) = self.hand_over(inputs)?;
        let until = call.timeout.map(|limit| Instant::now() + limit);
        let sent = self.link.send(&ToChild::Run { number, call });
        sent.map_err(|error| Ended::Died(self.last_words(error)))?;
        loop {
            match self.link.receive(LOOK) {
                Ok(Some(FromChild::Done { outcome, .. })) => return files.result_of(outcome),
                Ok(Some(_)) => (),
                Ok(None) if until.is_some_and(|until| Instant::now() >= until) || !wanted() => return Err(Ended::Late),
                Ok(None) => (),
                Err(error) => return Err(Ended::Died(self.last_words(error))),
            }
        }
    }

    /// Writes a batch to where the process finds it, by its number.
    fn hand_over(&mut self, inputs: &DataFrame) -> UdfResult<(u64, Files)> {
        let number = self.batches;
        self.batches += 1;
        let files = Files { inputs: inputs_file(&self.folder, number), result: result_file(&self.folder, number) };
        wire::write(&files.inputs, inputs)?;
        Ok((number, files))
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
    fn last_words(&mut self, error: impl fmt::Display) -> String {
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

impl Files {
    /// What the process has left, which says how the call ended.
    fn result_of(&self, outcome: Outcome) -> Result<(Column, Metrics), Ended> {
        let metrics = outcome.map_err(|(error, panicked)| Ended::Failed(error, panicked))?;
        let result = wire::read(&self.result).map_err(UdfError::from)?;
        let column = result.into_columns().pop().ok_or_else(|| UdfError::new("no column came back"))?;
        Ok((column, metrics))
    }
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
