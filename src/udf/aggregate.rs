//! Aggregations: many rows to one value, in parts.

use std::sync::Arc;

use polars::prelude::*;
use polars_plan::prelude::FunctionOptions;
use regatta_remote::{catch, decode, encode};
use serde::{Serialize, de::DeserializeOwned};

use super::{Batch, PoolOptions, Registered, UdfCall, UdfError, UdfResult, registry::conform};

/// Rows of one partial result.
const ROWS: usize = 1 << 16;

/// A function of many rows to one value, computed in parts: for `select` and `group_by(..).agg(..)`.
///
/// The rows of a group are cut anywhere; [`partial`](Self::partial) of each piece, [`merge`](Self::merge)d, then
/// [`finish`](Self::finish)ed, must give the same value for every cut. It has no replicas: it runs where its rows are, each
/// task makes a partial of its own rows, and one merges them.
///
/// ```
/// use regatta::{polars::prelude::*, prelude::*};
/// use serde::{Deserialize, Serialize};
///
/// /// The mean that grows with each factor: of numbers > 0.
/// #[derive(Serialize, Deserialize)]
/// struct GeometricMean;
///
/// #[regatta::udf]
/// impl Aggregate for GeometricMean {
///     type Partial = (f64, usize);
///     fn output(&self, _: &[Field]) -> UdfResult<DataType> { Ok(DataType::Float64) }
///     fn partial(&self, batch: &Batch) -> UdfResult<(f64, usize)> {
///         let numbers = batch.column(0)?.f64()?;
///         Ok((numbers.iter().flatten().map(f64::ln).sum(), numbers.len() - numbers.null_count()))
///     }
///     fn merge(&self, (a, n): (f64, usize), (b, m): (f64, usize)) -> UdfResult<(f64, usize)> { Ok((a + b, n + m)) }
///     fn finish(&self, (logs, n): (f64, usize)) -> UdfResult<AnyValue<'static>> {
///         Ok(if n == 0 { AnyValue::Null } else { AnyValue::Float64((logs / n as f64).exp()) })
///     }
/// }
/// let query = df!["x" => [2.0, 8.0]].unwrap().lazy().select([GeometricMean.on([col("x")])]);
/// assert_eq!(query.collect_on(&Session::native()?)?.column("x").unwrap().f64().unwrap().get(0), Some(4.0));
/// # Ok::<(), regatta::Error>(())
/// ```
pub trait Aggregate: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What is kept of some rows. It may travel.
    type Partial: Serialize + DeserializeOwned + 'static;

    /// The dtype of the value for these inputs. Called while a query is planned.
    ///
    /// # Errors
    /// Inputs that the function cannot take: the query is refused with this text.
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// What is to be kept of these rows; there may be none.
    ///
    /// # Errors
    /// Fail the query.
    fn partial(&self, batch: &Batch) -> UdfResult<Self::Partial>;

    /// What is kept of two pieces. The rows of `before` come first.
    ///
    /// # Errors
    /// Fail the query.
    fn merge(&self, before: Self::Partial, after: Self::Partial) -> UdfResult<Self::Partial>;

    /// The value, of the dtype that [`output`](Self::output) has said.
    ///
    /// # Errors
    /// Fail the query.
    fn finish(&self, partial: Self::Partial) -> UdfResult<AnyValue<'static>>;

    /// The aggregation of these inputs. The result is named after the first; use `.alias` for another name.
    fn on<E: AsRef<[Expr]>>(&self, inputs: E) -> Expr
    where
        Self: Registered + Sized,
    {
        let call = Arc::new(UdfCall::new(Self::NAME, encode(self), PoolOptions::default()).aggregate());
        call.expression(inputs.as_ref(), FunctionOptions::aggregation())
    }
}

/// An [`Aggregate`] with its type erased: what is kept of rows is bytes.
pub(super) trait AnyAggregate: Send + Sync {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// The value of one group.
    fn aggregate(&self, pieces: &mut dyn Iterator<Item = Batch>) -> UdfResult<AnyValue<'static>>;

    /// What is kept of one group.
    fn partial(&self, pieces: &mut dyn Iterator<Item = Batch>) -> UdfResult<Vec<u8>>;

    /// The value of what was kept of one group, in the order of its rows.
    fn merge(&self, partials: &mut dyn Iterator<Item = &[u8]>) -> UdfResult<AnyValue<'static>>;
}

impl<A: Aggregate> AnyAggregate for A {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Aggregate::output(self, inputs)
    }

    fn aggregate(&self, pieces: &mut dyn Iterator<Item = Batch>) -> UdfResult<AnyValue<'static>> {
        self.finish(merged(self, pieces.map(|piece| Aggregate::partial(self, &piece)))?)
    }

    fn partial(&self, pieces: &mut dyn Iterator<Item = Batch>) -> UdfResult<Vec<u8>> {
        let partial = merged(self, pieces.map(|piece| Aggregate::partial(self, &piece)))?;
        Ok(encode(&partial)?.into())
    }

    fn merge(&self, partials: &mut dyn Iterator<Item = &[u8]>) -> UdfResult<AnyValue<'static>> {
        self.finish(merged(self, partials.map(|partial| Ok(decode(partial)?)))?)
    }
}

fn merged<A: Aggregate>(udf: &A, mut partials: impl Iterator<Item = UdfResult<A::Partial>>) -> UdfResult<A::Partial> {
    let first = partials.next().ok_or_else(|| UdfError::new("it was called on no batch"))??;
    partials.try_fold(first, |before, after| Aggregate::merge(udf, before, after?))
}

/// The value of one group of rows, as a column of one row. `batch_of` makes the batch of some rows.
pub(super) fn aggregate(
    udf: &dyn AnyAggregate,
    rows: &DataFrame,
    batch_of: impl Fn(DataFrame) -> Batch,
    dtype: &DataType,
) -> UdfResult<Column> {
    one_row(fenced(|| udf.aggregate(&mut pieces(rows, batch_of)))?, dtype)
}

/// What is kept of one group of rows, likewise.
pub(super) fn partial(
    udf: &dyn AnyAggregate,
    rows: &DataFrame,
    batch_of: impl Fn(DataFrame) -> Batch,
) -> UdfResult<Column> {
    let kept = fenced(|| udf.partial(&mut pieces(rows, batch_of)))?;
    Ok(BinaryChunked::from_slice("".into(), &[kept]).into_column())
}

/// The value of what was kept of one group, in pieces, likewise.
pub(super) fn merge(udf: &dyn AnyAggregate, kept: &DataFrame, dtype: &DataType) -> UdfResult<Column> {
    let kept = kept.columns().first().ok_or_else(|| UdfError::new("nothing was kept"))?.binary()?;
    // Where there is no group, Polars asks all the same, for the dtype.
    if kept.is_empty() {
        return Ok(Column::full_null("".into(), 1, dtype));
    }
    one_row(fenced(|| udf.merge(&mut kept.iter().flatten()))?, dtype)
}

fn pieces(rows: &DataFrame, batch_of: impl Fn(DataFrame) -> Batch) -> impl Iterator<Item = Batch> {
    // Also a group without rows has a value.
    let starts = (0..rows.height().max(1)).step_by(ROWS);
    starts.map(move |start| batch_of(rows.slice(start as i64, ROWS)))
}

fn one_row(value: AnyValue<'static>, dtype: &DataType) -> UdfResult<Column> {
    conform(Series::from_any_values("".into(), &[value], true)?.into_column(), dtype)
}

/// A panic is an error with its text.
fn fenced<T>(run: impl FnOnce() -> UdfResult<T>) -> UdfResult<T> {
    catch(run).unwrap_or_else(|panic| Err(UdfError::new(format!("panicked: {panic}"))))
}
