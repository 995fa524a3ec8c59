//! The trait that a UDF implements, and what it is handed.

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use polars::prelude::*;
use regatta_remote::ActorRef;
use serde::{Serialize, de::DeserializeOwned};

use crate::actor::{Directory, LOOK_UP, RemoteActor};

use super::{Call, OnError, Pool, Registered, arrow::column_to_arrow};

/// A stateful, row-wise function over batches of columns.
///
/// The value itself holds the arguments: it travels to the workers, so it is serde. The state
/// (a model, a connection, a compiled kernel) is built once per replica by [`start`](Self::start)
/// and lives on that replica's own thread: it need not be [`Send`].
///
/// Row-wise means: row *i* of the result depends on row *i* of the inputs and on the state, not on
/// how rows are grouped into batches.
///
/// Each batch runs at least once: [`Pool::max_retries`] runs a failed batch again, on the same or on another replica, and a
/// lost connection may hide that a batch has run. [`Batch::attempt`] says which attempt it is. A replica whose `run` panicked
/// is started anew for its next batch, at most four times.
///
/// ```
/// use regatta::{polars::prelude::*, prelude::*};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Scale { by: f64 }
///
/// #[regatta::udf]
/// impl Udf for Scale {
///     type State = ();
///     fn output(&self, _: &[Field]) -> UdfResult<DataType> { Ok(DataType::Float64) }
///     fn start(&self, _: &mut Start) -> UdfResult<()> { Ok(()) }
///     fn run(&self, _: &mut (), batch: &Batch) -> UdfResult<Column> {
///         Ok((batch.column(0)? * self.by))
///     }
/// }
/// let expression = Scale { by: 2.0 }.pool().batch(1024).on([col("x")]).alias("twice");
/// ```
pub trait Udf: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What one replica keeps between batches. Built, used and dropped on one thread.
    type State: 'static;

    /// The dtype of the result for these inputs. Called while a query is planned.
    ///
    /// # Errors
    /// Inputs that the function cannot take: the query is refused with this text.
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// Builds the state of one replica. May take long: see
    /// [`Config::actor_udf_ready_timeout`](crate::Config::actor_udf_ready_timeout), and report with [`Start::progress`].
    ///
    /// # Errors
    /// Fails the query at once, with this text.
    fn start(&self, cx: &mut Start) -> UdfResult<Self::State>;

    /// Computes one column, as long as the batch is high.
    ///
    /// # Errors
    /// Fails the query, naming UDF, replica and worker.
    fn run(&self, state: &mut Self::State, batch: &Batch) -> UdfResult<Column>;

    /// A pool of replicas of this function; configure it, then call [`Pool::on`].
    fn pool(self) -> Pool<Self>
    where
        Self: Registered + Sized,
    {
        Pool::new(self)
    }
}

/// What [`Udf::start`] is told, and where it reports progress.
pub struct Start {
    rank: usize,
    directory: Directory,
    report: Box<dyn FnMut(&str)>,
}

impl Start {
    pub(crate) fn new(rank: usize, directory: Directory, report: impl FnMut(&str) + 'static) -> Self {
        Self { rank, directory, report: Box::new(report) }
    }

    /// This replica's number in its pool, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The actor of that name, as [`Session::actor`](crate::Session::actor) finds it. Keep it in the state;
    /// [`run`](Udf::run) asks it by [`ask_blocking`](ActorRef::ask_blocking).
    ///
    /// # Errors
    /// Nobody has the name, or an actor of another type; or Polars evaluates the call itself, outside of any session.
    pub fn actor<A: RemoteActor>(&self, name: &str) -> UdfResult<ActorRef<A>> {
        let outside = "actors are found in replicas of a session, and this call is evaluated by Polars itself";
        let (names, runtime) = self.directory.as_ref().ok_or_else(|| UdfError::new(outside))?.names()?;
        let (found, result) = std::sync::mpsc::sync_channel(1);
        let name = name.to_owned();
        runtime.spawn(async move { found.send(names.find(&name, LOOK_UP).await) });
        Ok(result.recv().map_err(|_| UdfError::new("the session is closed"))??)
    }

    /// Runs `decode` so that handles of actors among a UDF's arguments can be used.
    pub(super) fn decoding<T>(&self, decode: impl FnOnce() -> T) -> T {
        match self.directory.as_ref().and_then(|directory| directory.receiver()) {
            Some(node) => node.decoding(decode),
            None => decode(),
        }
    }

    /// Says what is being done. The last such word stands in the error if the replica is not ready in time.
    pub fn progress(&mut self, doing: impl AsRef<str>) {
        (self.report)(doing.as_ref());
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("rank", &self.rank).finish_non_exhaustive()
    }
}

/// The input columns of one call, in the order in which [`Pool::on`] was given them; all of equal length.
#[derive(Debug, Clone)]
pub struct Batch {
    columns: DataFrame,
    call: Call,
}

impl Batch {
    pub(crate) fn new(columns: DataFrame, call: Call) -> Self {
        Self { columns, call }
    }

    /// How often this batch has been tried, with this time: from 1. More than 1 only with [`Pool::max_retries`].
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    pub(super) fn on_error(&self) -> OnError {
        self.call.on_error
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.call.timeout
    }

    /// Rows in this batch.
    pub fn height(&self) -> usize {
        self.columns.height()
    }

    /// The input at `index`.
    ///
    /// # Errors
    /// There are fewer inputs.
    pub fn column(&self, index: usize) -> UdfResult<&Column> {
        self.columns.columns().get(index).ok_or_else(|| {
            UdfError::new(format!("input {index} was read, but the UDF was called on {}", self.columns.width()))
        })
    }

    /// All inputs as a Polars frame.
    pub fn frame(&self) -> &DataFrame {
        &self.columns
    }

    /// All inputs as an arrow-rs batch; buffers are shared, not copied.
    ///
    /// # Errors
    /// A dtype that arrow-rs does not have (128-bit integers, objects).
    pub fn record_batch(&self) -> UdfResult<RecordBatch> {
        let arrays = self.columns.columns().iter().map(column_to_arrow).collect::<UdfResult<Vec<_>>>()?;
        let names = self.columns.columns().iter().map(|c| c.name().as_str());
        Ok(RecordBatch::try_from_iter(names.zip(arrays))?)
    }
}

/// What a UDF answers.
pub type UdfResult<T> = Result<T, UdfError>;

/// Why a UDF failed: a text and the chain of causes. Made from any [`std::error::Error`], so that `?` works.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UdfError {
    message: String,
    causes: Vec<String>,
    retry_after: Option<Duration>,
}

impl UdfError {
    /// An error with a text of the author's own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), retry_after: None }
    }

    /// Asks that the batch is not tried again before `delay` is over, as a server does that is busy. At most 60 s; means
    /// nothing without [`Pool::max_retries`].
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub(super) fn delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// A call that outlasted its [`Pool::timeout`].
    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::new(format!(
            "the call ran longer than its timeout of {} s; the replica that hangs in it is not used again. Raise \
             .timeout(..), or find what the call waits for",
            limit.as_secs_f64()
        ))
    }

    /// The same error, with where it happened in front.
    pub(super) fn within(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl<E: std::error::Error> From<E> for UdfError {
    fn from(error: E) -> Self {
        let causes = std::iter::successors(error.source(), |e| e.source()).map(ToString::to_string).collect();
        Self { message: error.to_string(), causes, retry_after: None }
    }
}

impl fmt::Display for UdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, "; caused by: {cause}"))
    }
}

impl fmt::Debug for UdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
