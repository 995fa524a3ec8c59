//! Aggregations: many rows to one value, in parts.

use std::sync::Arc;

use polars::prelude::*;
use polars_plan::prelude::FunctionOptions;
use regatta_remote::{catch, encode};
use serde::{Serialize, de::DeserializeOwned};

use super::{Batch, PoolOptions, Registered, UdfCall, UdfError, UdfResult, registry::conform};

/// Rows of one partial result.
const ROWS: usize = 1 << 16;

/// A function of many rows to one value, computed in parts: for `select` and `group_by(..).agg(..)`.
///
/// The rows of a group are cut anywhere; [`partial`](Self::partial) of each piece, [`merge`](Self::merge)d, then
/// [`finish`](Self::finish)ed, must give the same value for every cut. It has no replicas: it runs where its rows are.
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

/// An [`Aggregate`] with its type erased.
pub(super) trait AnyAggregate: Send + Sync {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// All parts of one group, and the value as a column of one row.
    fn aggregate(&self, pieces: &mut dyn Iterator<Item = Batch>, dtype: &DataType) -> UdfResult<Column>;
}

impl<A: Aggregate> AnyAggregate for A {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Aggregate::output(self, inputs)
    }

    fn aggregate(&self, pieces: &mut dyn Iterator<Item = Batch>, dtype: &DataType) -> UdfResult<Column> {
        let merged = pieces.map(|piece| self.partial(&piece)).reduce(|before, after| self.merge(before?, after?));
        let value = self.finish(merged.ok_or_else(|| UdfError::new("it was called on no batch"))??)?;
        let column = Series::from_any_values("".into(), &[value], true)?.into_column();
        conform(column, dtype)
    }
}

/// Runs an aggregation over one group; a panic is an error with its text. `batch_of` makes the batch of some rows.
pub(super) fn aggregate(
    udf: &dyn AnyAggregate,
    rows: &DataFrame,
    batch_of: impl Fn(DataFrame) -> Batch,
    dtype: &DataType,
) -> UdfResult<Column> {
    // Also a group without rows has a value.
    let starts = (0..rows.height().max(1)).step_by(ROWS);
    let mut pieces = starts.map(|start| batch_of(rows.slice(start as i64, ROWS)));
    catch(|| udf.aggregate(&mut pieces, dtype)).unwrap_or_else(|panic| Err(UdfError::new(format!("panicked: {panic}"))))
}
