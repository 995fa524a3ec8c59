//! What can go wrong: typed across the wire, with what failed, where, why, and what to do.

mod cluster;
mod kube;
mod ray;
mod task;

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use polars::prelude::PolarsError;
use regatta_remote::shorten;
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::os;
use crate::sched::{QueryId, StageId, StepId};
use crate::udf::UdfError;

pub use cluster::{ActorError, ClusterError};
pub use kube::KubeError;
pub use ray::RayError;
pub use task::{EarlierAttempt, TaskError, TaskFailure};

/// Why a session or a query failed.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The query cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A task failed for good.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The replicas of a UDF could not be started.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The cluster could not be started, or broke.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// An actor of the program's own could not be started, found or stopped.
    #[error(transparent)]
    Actor(#[from] ActorError),
    /// Rows were lost that others which had been read belong to.
    #[error(transparent)]
    MadeOtherwise(#[from] MadeOtherwise),
    /// The files of a sink cannot be where they are to be.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Polars, in the program's own use of it: so that `?` works on both.
    #[error("{0}{remedy}", remedy = .0.remedy(""))]
    Polars(PolarsFailure),
    /// The result was asked for once more.
    #[error(
        "the result has been taken already: a run gives it out once, by collect, batches, stream or .await. Keep the frame, submit the \
         query again, or leave its rows on the workers by persist_on"
    )]
    Taken,
    /// The query was cancelled.
    #[error("the query was cancelled")]
    Cancelled,
}

impl Error {
    /// Whether the same query may succeed if it is submitted again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Config(_) | Self::Plan(_) | Self::Sink(_) | Self::Polars(_) | Self::Taken | Self::Cancelled => false,
            Self::Task(error) => error.cause.is_retryable(),
            Self::Pool(error) => matches!(error.cause, PoolFailure::NotReady { .. }),
            Self::Cluster(error) => error.is_retryable(),
            Self::MadeOtherwise(_) => true,
            Self::Actor(error) => matches!(error, ActorError::NoWorker),
        }
    }

    /// Whether user code (a UDF, a sink) may have run before this error.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Config(_) | Self::Plan(_) | Self::Polars(_) => false,
            Self::Sink(error) => matches!(error, SinkError::Publish { .. } | SinkError::HalfDone { .. }),
            Self::Cluster(error) => error.had_session(),
            _ => true,
        }
    }
}

impl From<PolarsError> for Error {
    fn from(error: PolarsError) -> Self {
        Self::Polars(error.into())
    }
}

/// `main` prints the `Debug` of what it returns, as `unwrap` does: people are to see there what there is to do.
macro_rules! debug_is_display {
    ($($error:ty),+) => {
        $(impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        })+
    };
}

debug_is_display!(Error, ConfigError, PlanError, PolarsFailure, SinkError);
debug_is_display!(
    MadeOtherwise,
    TaskError,
    TaskFailure,
    PoolError,
    PoolFailure,
    ClusterError,
    ActorError,
    RayError,
    KubeError
);

/// A bad value of a setting.
#[derive(Clone, PartialEq, Eq, ThisError, Serialize, Deserialize)]
#[error("{variable}={value:?} is not valid: {accepted}")]
pub struct ConfigError {
    /// The environment variable, or the builder's method.
    pub variable: String,
    /// What it was set to.
    pub value: String,
    /// What would be accepted.
    pub accepted: String,
}

/// Why a query cannot be planned.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PlanError {
    /// Polars refuses the query.
    #[error("Polars cannot plan the query: {0}{remedy}", remedy = .0.remedy(FILES_HERE))]
    Polars(PolarsFailure),
    /// The plan is larger than a message may be.
    #[error(
        "the plan is {} MiB, and at most {} MiB travel to the workers. Data in expressions (literals, lists of is_in) is part \
         of the plan: put it into a frame or a file, and join with that", size >> 20, max >> 20
    )]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The maximum.
        max: usize,
    },
    /// Some of a sink's files could be there without the others.
    #[error(
        "a sink of many files cannot be published whole in an object store, and would leave some of them in {target} if the query \
         failed. Write one file there, or the folder to a file system that the workers share; in this process alone, plain \
         Polars' collect() writes it as it goes"
    )]
    ManyFiles {
        /// Where they were to be written.
        target: String,
    },
    /// A UDF call makes no sense.
    #[error("UDF {udf}: {why}")]
    Udf {
        /// The UDF's registered name.
        udf: String,
        /// What is wrong.
        why: String,
    },
    /// The plan holds something that exists in this process only.
    #[error(
        "{what} cannot travel to a worker ({error}). Workers are other processes: make it a UDF with #[regatta::udf], \
         or run the query in this process with DAFT_RUNNER=native or Session::native()"
    )]
    CannotTravel {
        /// The closure, scan or sink.
        what: String,
        /// What Polars said when it was encoded.
        error: PolarsFailure,
    },
    /// The planner broke. A bug of ours or of Polars.
    #[error("planning the query panicked: {0}")]
    Panicked(String),
}

impl PlanError {
    pub(crate) fn polars(error: PolarsError) -> Self {
        Self::Polars(error.into())
    }

    pub(crate) fn udf(udf: &str, why: impl fmt::Display) -> Self {
        Self::Udf { udf: udf.to_owned(), why: why.to_string() }
    }
}

/// Why the files of a sink cannot be where they are to be.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SinkError {
    /// There is something already.
    #[error(
        "{} holds something, and a sink neither adds to it nor replaces it unless it is told to: query.sink_on(&session, \
         SinkMode::Append) or SinkMode::Overwrite (or Session::submit_sink); or name another folder", folder.display()
    )]
    Taken {
        /// The sink's folder.
        folder: PathBuf,
    },
    /// The query ends in none.
    #[error(
        "this query ends in no sink, so there are no files that a SinkMode could be about: end it in one, query.sink(..), or ask for \
         its rows by collect_on or Session::submit"
    )]
    NoSink,
    /// A file cannot be appended to.
    #[error("{} is one file, which cannot be appended to: write it anew, or sink into a folder", file.display())]
    OneFile {
        /// The sink's file.
        file: PathBuf,
    },
    /// The folder is not there, and the sink is not to make it.
    #[error(
        "the sink's folder {} is not there (on host {}): make it, or let the sink do so by UnifiedSinkArgs {{ mkdir: true, .. }}",
        folder.display(), os::host_name()
    )]
    Missing {
        /// The sink's folder.
        folder: PathBuf,
    },
    /// The files cannot be collected.
    #[error(
        "cannot prepare the sink's folder {}, which this process (on host {}) must be able to write to: {why}",
        folder.display(), os::host_name()
    )]
    Prepare {
        /// The sink's folder.
        folder: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The files cannot be put into their places.
    #[error("could not publish the sink's files in {}: {why}. None of them is there, and what was there still is", folder.display())]
    Publish {
        /// The sink's folder.
        folder: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The files could be put into their places in part only, and that could not be undone.
    #[error(
        "the sink's files are in {} in part, and that cannot be undone now: {why}. What was there before is in {}: put it back by \
         hand, then remove that folder", folder.display(), kept.display()
    )]
    HalfDone {
        /// The sink's folder.
        folder: PathBuf,
        /// What was there, and files that are not in their places.
        kept: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// An error of Polars, as it travels: its kind and its text.
#[derive(Clone, PartialEq, Eq, ThisError, Serialize, Deserialize)]
#[error("{text}")]
pub struct PolarsFailure {
    /// The innermost variant of `PolarsError`, in lower case: `io`, `schema mismatch`, ...; of `io`, also `file not found`,
    /// `no permission` and `disk full`; of readers, also `corrupt file`; of object stores, also `no access`.
    pub kind: String,
    /// The text with its context; of one longer than 64 KiB the beginning and the end.
    pub text: String,
}

impl PolarsFailure {
    pub(crate) fn new(kind: &str, text: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), text: shorten(text) }
    }

    /// With the files that were read, if the text names none of them.
    pub(crate) fn reading(mut self, files: &[String]) -> Self {
        const NAMED: usize = 3;
        if !files.is_empty() && !files.iter().any(|file| self.text.contains(file)) {
            let more = files.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named: Vec<_> = files.iter().take(NAMED).map(String::as_str).collect();
            self.text = format!("{} (reading {}{more})", self.text, named.join(", "));
        }
        self
    }

    /// What to do about it, as an end of the sentence; `files` is about files that are not there.
    fn remedy(&self, files: &'static str) -> &'static str {
        match self.kind.as_str() {
            NOT_FOUND => files,
            NO_PERMISSION => ". Let the user of that process read it",
            NO_ACCESS => {
                ". Check the keys in the cloud_options of the scan or sink, or in the environment of that process"
            }
            FULL => ". Make room there, or write to a larger disk",
            CORRUPT => ". The file is damaged, or of another format: write it again, or leave it out of the scan",
            MISMATCH => ". Files of one scan must agree: cast the column where it is written, or scan the files apart",
            _ => "",
        }
    }
}

const NOT_FOUND: &str = "file not found";
const NO_PERMISSION: &str = "no permission";
const NO_ACCESS: &str = "no access";
const CORRUPT: &str = "corrupt file";
const FULL: &str = "disk full";
const MISMATCH: &str = "schema mismatch";
const FILES_HERE: &str = ". Queries are planned in this process: it must see files under the path that the workers see them \
                          under";
const FILES_THERE: &str = ". The driver saw it and this worker does not: every machine must see files under the same path, for \
                           as long as a query runs";

impl From<PolarsError> for PolarsFailure {
    fn from(error: PolarsError) -> Self {
        match kind(&error) {
            kind @ (NOT_FOUND | NO_PERMISSION | FULL) => {
                Self::new(kind, format!("{error} (on host {})", os::host_name()))
            }
            kind => Self::new(kind, error.to_string()),
        }
    }
}

fn kind(error: &PolarsError) -> &'static str {
    match error {
        PolarsError::Context { error, .. } | PolarsError::ExprContext { error, .. } => kind(error),
        PolarsError::ColumnNotFound(_) => "column not found",
        PolarsError::IO { error, .. } if is_refused(&error.to_string()) => NO_ACCESS,
        PolarsError::IO { error, .. } if error.kind() == ErrorKind::NotFound => NOT_FOUND,
        PolarsError::IO { error, .. } if error.kind() == ErrorKind::PermissionDenied => NO_PERMISSION,
        PolarsError::IO { error, .. } if is_full(&error.to_string()) => FULL,
        PolarsError::IO { .. } => "io",
        // What writes Parquet says that of the file.
        PolarsError::ComputeError(text) if is_full(text) => FULL,
        PolarsError::ComputeError(text) if text.contains("out of specification") => CORRUPT,
        PolarsError::SchemaMismatch(_) => MISMATCH,
        PolarsError::ShapeMismatch(_) => "shape mismatch",
        PolarsError::InvalidOperation(_) => "invalid operation",
        PolarsError::NoData(_) => "no data",
        PolarsError::OutOfBounds(_) => "out of bounds",
        PolarsError::Duplicate(_) => "duplicate",
        _ => "compute",
    }
}

/// Whether a disk, or what its user may have of it, is full.
fn is_full(text: &str) -> bool {
    ["(os error 28)", "(os error 122)"].iter().any(|code| text.contains(code))
}

/// Whether an object store says that it does not let us in.
fn is_refused(text: &str) -> bool {
    text.contains("object-store error") && ["403 Forbidden", "401 Unauthorized"].iter().any(|code| text.contains(code))
}

/// Rows were lost with their worker, and others that belong to them cannot be taken back. What is made again in the place of the
/// lost ones may be other rows, and the two are never mixed.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MadeOtherwise {
    /// Some of the result had been given out.
    #[error(
        "{query}: rows that stage {} read were lost with their worker, after some of the result had been given out. Made again they \
         may be other rows, which are not mixed with those: submit the query again. If its UDFs give the same for the same inputs, \
         say so, #[regatta::udf(deterministic)], and such a loss fails no query", stage.0
    )]
    Result {
        /// The query.
        query: QueryId,
        /// The stage that yields its result.
        stage: StageId,
    },
    /// The query had read some of a persisted result.
    #[error(
        "{query} had read some of the rows that {persisted} persisted when others of them were lost with their worker. Made again \
         they may be other rows, which are not mixed with those: submit the query again. If the UDFs of the persisted query give the \
         same for the same inputs, say so, #[regatta::udf(deterministic)], and such a loss fails no query"
    )]
    Persisted {
        /// The query that reads.
        query: QueryId,
        /// The query that was persisted.
        persisted: QueryId,
    },
}

/// A pool of UDF replicas that did not come up, or broke.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[error("UDF {udf}, {step}: {cause}")]
pub struct PoolError {
    /// Which call of which stage.
    pub step: StepId,
    /// The UDF's registered name.
    pub udf: String,
    /// Why.
    pub cause: PoolFailure,
}

/// Why a pool failed.
#[derive(Clone, ThisError, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PoolFailure {
    /// `start` returned an error or panicked.
    #[error("replica {rank} on {worker} could not start: {error}")]
    Start {
        /// Which replica.
        rank: u32,
        /// Where.
        worker: String,
        /// The author's error.
        error: UdfError,
    },
    /// No replica was ready in time.
    #[error(
        "replica {rank} on {worker} was not ready within {} s; its last word was {}. If it needs longer, raise \
         .ready_timeout(..), or DAFT_ACTOR_UDF_READY_TIMEOUT (seconds)", timeout.as_secs_f64(), last_word(progress)
    )]
    NotReady {
        /// Which replica.
        rank: u32,
        /// Where.
        worker: String,
        /// How long was waited.
        timeout: Duration,
        /// The last `cx.progress(..)`.
        progress: Option<String>,
    },
    /// The worker with a replica is gone.
    #[error(
        "replica {rank} was lost with {worker}: {why}. With it the stage has lost eight: the UDF may be what ends its workers \
         (it aborts, exits, or takes all memory). Try it with .isolated(): then it ends a process of its own, and the error \
         says how"
    )]
    Lost {
        /// Which replica.
        rank: u32,
        /// Where.
        worker: String,
        /// What happened to the worker.
        why: String,
    },
}

fn last_word(progress: &Option<String>) -> String {
    progress
        .as_ref()
        .map_or_else(|| "nothing (call cx.progress(..) in start to see where it is)".to_owned(), |p| format!("{p:?}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{LazyFrameExt, Session, SinkMode};
    use polars::prelude::{DataFrame, IntoLazy};

    fn io(kind: ErrorKind) -> PolarsFailure {
        PolarsError::from(std::io::Error::new(kind, "x.parquet")).into()
    }

    #[test]
    fn what_cannot_be_otherwise_the_next_time_is_not_to_be_tried_again() {
        let no_gpu = String::new();
        let infeasible = ClusterError::Infeasible { request: "9 CPU".into(), largest: "2 CPU".into(), no_gpu };
        let gone = ClusterError::Gone { why: "no heartbeat".into() };
        let of = |error: ClusterError| (Error::from(error.clone()).is_retryable(), Error::from(error).may_have_run());
        assert_eq!([of(infeasible), of(gone)], [(false, true), (true, true)]);
        let join = ClusterError::Join { address: "head:1".into(), why: "refused".into() };
        assert_eq!([of(ClusterError::InWorker), of(join)], [(false, false), (true, false)]);
    }

    #[test]
    fn what_main_prints_of_an_error_is_what_people_are_told() {
        fn both() -> Result<(), Error> {
            Session::native()?;
            DataFrame::empty().column("x")?;
            Ok(())
        }
        let error = both().unwrap_err();
        assert!(
            matches!(&error, Error::Polars(failure) if failure.kind == "column not found") && !error.may_have_run()
        );
        assert_eq!(format!("{error:?}"), error.to_string());
        let missing = PlanError::Polars(io(ErrorKind::NotFound));
        let boxed: Box<dyn std::error::Error> = Error::from(missing).into();
        assert!(format!("{boxed:?}").contains("it must see files under the path"), "{boxed:?}");
        let full = ClusterError::scratch("a scratch folder", Path::new("/full"), ErrorKind::StorageFull);
        assert!(format!("{full:?}").contains("REGATTA_SCRATCH"), "{full:?}");
    }

    #[test]
    fn a_mode_for_a_sink_is_refused_where_there_is_none() {
        let (session, rows) = (Session::native().unwrap(), || DataFrame::empty().lazy());
        let error = rows().sink_on(&session, SinkMode::Append).unwrap_err();
        assert!(matches!(error, Error::Sink(SinkError::NoSink)) && !error.is_retryable(), "{error}");
        rows().collect_on(&session).unwrap();
    }

    #[test]
    fn a_disk_that_is_full_is_no_damaged_file() {
        let writing = "parquet: File out of specification: underlying IO error: No space left on device (os error 28)";
        let full = PlanError::Polars(PolarsError::ComputeError(writing.into()).into()).to_string();
        assert!(
            full.contains("Make room there") && full.contains(&os::host_name()) && !full.contains("damaged"),
            "{full}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_says_on_which_host_and_what_to_do() {
        let forbidden = PlanError::Polars(io(ErrorKind::PermissionDenied)).to_string();
        assert!(forbidden.contains(&format!("x.parquet (on host {}). Let the user", os::host_name())), "{forbidden}");
        let here = PlanError::Polars(io(ErrorKind::NotFound)).to_string();
        assert!(here.contains("planned in this process"), "{here}");
        let there = TaskFailure::Engine(io(ErrorKind::NotFound)).to_string();
        assert!(there.contains("The driver saw it and this worker does not"), "{there}");
        let other = TaskFailure::Engine(io(ErrorKind::BrokenPipe)).to_string();
        assert_eq!(other, "x.parquet");
    }
}
