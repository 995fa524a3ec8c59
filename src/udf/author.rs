//! The trait that a UDF implements, and what it is handed.

use std::fmt;

use arrow::array::RecordBatch;
use polars::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use super::{Pool, Registered, arrow::column_to_arrow};

/// A stateful, row-wise function over batches of columns.
///
/// The value itself holds the arguments: it travels to the workers, so it is serde. The state
/// (a model, a connection, a compiled kernel) is built once per replica by [`start`](Self::start)
/// and lives on that replica's own thread: it need not be [`Send`].
///
/// Row-wise means: row *i* of the result depends on row *i* of the inputs and on the state, not on
/// how rows are grouped into batches. A batch may run again on another replica after a failure.
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
    report: Box<dyn FnMut(&str)>,
}

impl Start {
    pub(crate) fn new(rank: usize, report: impl FnMut(&str) + 'static) -> Self {
        Self { rank, report: Box::new(report) }
    }

    /// This replica's number in its pool, from 0.
    pub fn rank(&self) -> usize {
        self.rank
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
}

impl Batch {
    pub(crate) fn new(columns: DataFrame) -> Self {
        Self { columns }
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
}

impl UdfError {
    /// An error with a text of the author's own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new() }
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
        Self { message: error.to_string(), causes }
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
