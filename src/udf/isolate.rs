//! A replica in another process: this executable, started again.
//!
//! Parent and child share a socket (the child's standard input) for words, and memory for batches and results. An isolated
//! replica has its process alone. Those that a query has on one GPU share a process, until it dies: then each has its own, so
//! that who dies again is who did it.

mod child;
mod many;
mod output;
mod process;
mod slab;
mod wire;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polars::prelude::{Column, DataFrame};

pub(crate) use child::serve;
#[cfg(feature = "gpu")]
pub(crate) use child::serve_several;
pub(super) use many::IsolatedAsync;
pub(crate) use output::TARGET as OUTPUT;

use self::process::Process;
use self::slab::{Lease, Parcel, Slabs};
use self::wire::{FromChild, Outcome, StartChild, ToChild};
pub(crate) use self::wire::{GpuSeat, Link, VISIBLE};
use super::context::{Seat, no_directory};
use super::found::Found;
use super::pool::IN_FLIGHT;
use super::thread::ReplicaSpec;
use super::{Call, Metrics, Report, UdfError, UdfResult};
use crate::actor::Directory;
use crate::config::ClusterAt;
use crate::spans;

/// A replica in another process, from its parent.
pub(super) struct Isolated {
    process: Arc<Process>,
    link: Link,
    slabs: Slabs,
    /// Batches so far.
    batches: u64,
}

/// Why a replica has not started.
pub(super) enum NotStarted {
    Failed(UdfError),
    /// The process that it shared with others has ended, whoever did that.
    WithOthers(String),
}

impl From<UdfError> for NotStarted {
    fn from(error: UdfError) -> Self {
        Self::Failed(error)
    }
}

impl From<NotStarted> for UdfError {
    fn from(why: NotStarted) -> Self {
        match why {
            NotStarted::Failed(error) => error,
            NotStarted::WithOthers(why) => Self::new(why),
        }
    }
}

/// How a call ended that has no result.
pub(super) enum Ended {
    /// The UDF failed; true: by a panic, and the replica is not to be used again.
    Failed(UdfError, bool),
    /// The process has died with this batch in it.
    Died(String),
    /// The process has died before it began with this batch.
    DiedBefore(String),
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
    /// Starts the process and the replica in it, or in one that others with this GPU are in unless it is to be `alone`. Ends
    /// early when nobody wants it any more.
    ///
    /// # Errors
    /// This executable cannot be started again; what `start` says; another replica has ended the process.
    pub(super) fn start(
        spec: &ReplicaSpec,
        seat: &Arc<Seat>,
        progress: &dyn Fn(&str),
        wanted: &mut dyn FnMut() -> bool,
        gpu: Option<GpuSeat>,
        alone: bool,
    ) -> Result<(Self, Metrics, Found), NotStarted> {
        let (process, socket) = match &gpu {
            Some(gpu) if !alone => Process::shared(gpu, seat.step.map(|step| step.query))?,
            gpu => Process::alone(gpu.as_ref())?,
        };
        let mut child = Self { process, link: Link::new(socket), slabs: Slabs::default(), batches: 0 };
        let memory = (gpu.is_none() && spec.options.memory > 0).then_some(spec.options.memory);
        let in_flight = spec.options.in_flight.unwrap_or(IN_FLIGHT);
        let (udf, arguments) = (spec.udf.clone(), spec.arguments.clone());
        let noted = spans::are_noted();
        let start = StartChild { udf, arguments, seat: (**seat).clone(), memory, in_flight, gpu, noted };
        let lost = |child: &Self, error| {
            let why = format!("in start, {}", child.process.last_words(error));
            if child.is_shared() { NotStarted::WithOthers(why) } else { UdfError::new(why).into() }
        };
        child.link.send(&ToChild::Start(Box::new(start))).map_err(|error| lost(&child, error))?;
        loop {
            match child.link.receive(LOOK) {
                Ok(Some(FromChild::Progress(doing))) => progress(&doing),
                Ok(Some(FromChild::Spans(ended, forgotten))) => spans::adopt(ended, forgotten),
                Ok(Some(FromChild::Admit)) => {
                    let admitted = admit(&spec.directory).map(|ClusterAt { address, token }| (address, token));
                    child.link.send(&ToChild::Admitted(admitted)).map_err(|error| lost(&child, error))?;
                }
                Ok(Some(FromChild::Started(result))) => {
                    let (metrics, found) = result?;
                    return Ok((child, metrics, found));
                }
                Ok(None) if wanted() => (),
                // In a process that is shared it goes on: it sees at its end that nobody is there.
                Ok(_) => return Err(unwanted().into()),
                Err(error) => return Err(lost(&child, error)),
            }
        }
    }

    /// Whether other replicas may be in its process.
    pub(super) fn is_shared(&self) -> bool {
        self.process.is_shared()
    }

    /// Whether its process has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Has a call that nobody wants come to its end: in a process that is shared it is waited for, though not long, since a
    /// kernel may hang. `None`: the process is killed for it.
    fn ends(&mut self) -> Option<(Outcome, bool)> {
        let until = Instant::now() + STOP;
        while self.is_shared() && Instant::now() < until {
            match self.link.receive(LOOK) {
                Ok(Some(FromChild::Done { outcome, spent, .. })) => return Some((outcome, spent)),
                Ok(Some(FromChild::Spans(ended, forgotten))) => spans::adopt(ended, forgotten),
                Ok(_) => (),
                Err(_) => break,
            }
        }
        self.process.kill();
        None
    }

    /// Has the process run one batch. `begins` is called once the process says that it has begun.
    pub(super) fn run(
        &mut self,
        inputs: &DataFrame,
        call: Call,
        wanted: &mut dyn FnMut() -> bool,
        begins: &mut dyn FnMut(),
    ) -> Result<(Column, Report), Ended> {
        self.process.output_belongs_here();
        let (number, mut lease, parcel) = self.hand_over(inputs)?;
        self.say_run(number, call, parcel).map_err(|error| Ended::DiedBefore(self.process.last_words(error)))?;
        let from_now = || call.timeout.and_then(|limit| Instant::now().checked_add(limit));
        // To begin may take it as long as the call may: one that is stopped never does, and was of no use to the batch.
        let (mut began, mut until) = (false, from_now());
        loop {
            match self.link.receive(LOOK) {
                Ok(Some(FromChild::Began)) => {
                    (began, until) = (true, from_now());
                    begins();
                }
                Ok(Some(FromChild::Done { outcome, spent, .. })) => {
                    lease.answered(spent);
                    return result_of(&mut lease, outcome);
                }
                Ok(Some(FromChild::Spans(ended, forgotten))) => spans::adopt(ended, forgotten),
                Ok(Some(_)) => (),
                Ok(None) if until.is_some_and(|until| Instant::now() >= until) => {
                    // What hangs in it cannot be stopped alone.
                    self.process.kill();
                    let never = || Ended::DiedBefore("it was killed, for it did not begin the batch".to_owned());
                    return Err(if began { Ended::Late } else { never() });
                }
                Ok(None) if !wanted() => {
                    let Some((outcome, spent)) = self.ends() else { return Err(Ended::Late) };
                    lease.answered(spent);
                    let (error, panicked) = outcome.err().unwrap_or_else(|| (unwanted(), false));
                    return Err(Ended::Failed(error, panicked));
                }
                Ok(None) => (),
                Err(error) => {
                    let why = self.process.last_words(error);
                    return Err(if began { Ended::Died(why) } else { Ended::DiedBefore(why) });
                }
            }
        }
    }

    /// Puts a batch where the process finds it. It has a number now.
    fn hand_over(&mut self, inputs: &DataFrame) -> UdfResult<(u64, Lease, Parcel)> {
        let number = self.batches;
        self.batches += 1;
        let (lease, parcel) = self.slabs.put(inputs)?;
        Ok((number, lease, parcel))
    }

    /// Has the process run it.
    fn say_run(&mut self, number: u64, call: Call, mut inputs: Parcel) -> io::Result<()> {
        let file = inputs.file.take();
        let run = ToChild::Run { number, call, inputs, noted: spans::are_noted() };
        self.link.send_with(&run, file.as_ref().map(AsFd::as_fd))
    }

    /// Ends the replica in order; one that does not goes with its process, if it is alone there.
    pub(super) fn stop(mut self) -> Metrics {
        let until = Instant::now() + STOP;
        if self.link.send(&ToChild::Stop).is_ok() {
            while Instant::now() < until {
                match self.link.receive(LOOK) {
                    Ok(Some(FromChild::Stopped(metrics))) => return metrics,
                    Ok(Some(FromChild::Spans(ended, forgotten))) => spans::adopt(ended, forgotten),
                    Ok(_) => (),
                    Err(_) => break,
                }
            }
        }
        Metrics::default()
    }
}

fn unwanted() -> UdfError {
    UdfError::new("nobody waits for it any more")
}

fn admit(directory: &Directory) -> UdfResult<ClusterAt> {
    Ok(directory.as_ref().ok_or_else(no_directory)?.admit()?)
}

/// What the process has left in a call's slab, which says how the call ended.
fn result_of(lease: &mut Lease, outcome: Outcome) -> Result<(Column, Report), Ended> {
    let (report, place) = outcome.map_err(|(error, panicked)| Ended::Failed(error, panicked))?;
    let result = lease.read(place).map_err(UdfError::from)?;
    let column = result.into_columns().pop().ok_or_else(|| UdfError::new("no column came back"))?;
    Ok((column, report))
}
