//! A replica in another process: this executable, started again.
//!
//! Parent and child share a socket (the child's standard input) for words, and the replica's scratch folder for batches: one
//! IPC file for each batch and each result. An isolated replica has its process alone; those with a GPU share that of the GPU.

mod child;
mod output;
mod process;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polars::prelude::{Column, DataFrame};

pub(crate) use child::serve;
pub(crate) use output::TARGET as OUTPUT;

use self::process::Place;
use self::wire::{FromChild, StartChild, ToChild};
pub(crate) use self::wire::{GpuSeat, Link, VISIBLE};
use super::context::Seat;
use super::thread::ReplicaSpec;
use super::{Call, Metrics, UdfError, UdfResult};

/// A replica in another process, from its parent.
pub(super) struct Isolated {
    place: Place,
    folder: PathBuf,
    /// Batches so far.
    batches: u64,
}

/// How a call ended that has no result.
pub(super) enum Ended {
    /// The UDF failed; true: by a panic, and the process is not to be used again.
    Failed(UdfError, bool),
    /// The process has died with this batch in it.
    Died(String),
    /// The process has died before it began with this batch.
    DiedBefore(String),
    /// The call took too long, or nobody wants it any more. The replica is of no use any more.
    Late,
}

/// How often is looked whether a call is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// How long a process may take to end in order.
const STOP: Duration = Duration::from_secs(5);

impl Isolated {
    /// Starts the replica, and a process for it if it shares none. Ends early when nobody wants it any more.
    ///
    /// # Errors
    /// This executable cannot be started again; what `start` says.
    pub(super) fn start(
        spec: &ReplicaSpec,
        seat: &Arc<Seat>,
        progress: &dyn Fn(&str),
        wanted: &mut dyn FnMut() -> bool,
        gpu: Option<GpuSeat>,
    ) -> UdfResult<(Self, Metrics)> {
        let child = Self { place: Place::take(gpu.as_ref())?, folder: seat.scratch.clone(), batches: 0 };
        let memory = (gpu.is_none() && spec.options.memory > 0).then_some(spec.options.memory);
        let (udf, arguments) = (spec.udf.clone(), spec.arguments.clone());
        let start = StartChild { udf, arguments, seat: (**seat).clone(), memory, gpu };
        let lost = |error| UdfError::new(format!("in start, {}", child.place.last_words(&error)));
        child.place.send(ToChild::Start(Box::new(start))).map_err(lost)?;
        loop {
            match child.place.receive(LOOK) {
                Ok(Some(FromChild::Progress(doing))) => progress(&doing),
                Ok(Some(FromChild::Started(result))) => return Ok((child, result?)),
                Ok(None) if wanted() => (),
                Ok(_) => return Err(UdfError::new("nobody waits for it any more")),
                Err(error) => return Err(lost(error)),
            }
        }
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
        let files = Files { inputs: inputs_file(&self.folder, number), result: result_file(&self.folder, number) };
        let failed = |error: UdfError| Ended::Failed(error, false);
        wire::write(&files.inputs, inputs).map_err(|error| failed(error.into()))?;
        let sent = self.place.send(ToChild::Run { number, call });
        sent.map_err(|error| Ended::DiedBefore(self.place.last_words(&error)))?;
        let (mut began, mut until) = (false, None);
        loop {
            match self.place.receive(LOOK) {
                Ok(Some(FromChild::Began)) => {
                    began = true;
                    until = call.timeout.map(|limit| Instant::now() + limit);
                }
                Ok(Some(FromChild::Done(Ok(metrics)))) => {
                    let result = wire::read(&files.result).map_err(|error| failed(error.into()))?;
                    let column = result.into_columns().pop();
                    return column
                        .map(|column| (column, metrics))
                        .ok_or_else(|| failed(UdfError::new("no column came back")));
                }
                Ok(Some(FromChild::Done(Err((error, panicked))))) => return Err(Ended::Failed(error, panicked)),
                Ok(Some(_)) => (),
                Ok(None) if until.is_some_and(|until| Instant::now() >= until) => {
                    // What hangs in it cannot be stopped alone.
                    self.place.kill();
                    return Err(Ended::Late);
                }
                Ok(None) if !wanted() => return Err(Ended::Late),
                Ok(None) => (),
                Err(error) => {
                    let why = self.place.last_words(&error);
                    return Err(if began { Ended::Died(why) } else { Ended::DiedBefore(why) });
                }
            }
        }
    }

    /// Ends the replica in order; one that does not goes with this.
    pub(super) fn stop(self) -> Metrics {
        let until = Instant::now() + STOP;
        if self.place.send(ToChild::Stop).is_ok() {
            while Instant::now() < until {
                match self.place.receive(LOOK) {
                    Ok(Some(FromChild::Stopped(metrics))) => return metrics,
                    Ok(_) => (),
                    Err(_) => break,
                }
            }
        }
        Metrics::default()
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
