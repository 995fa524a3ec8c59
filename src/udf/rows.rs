//! What `#[regatta::udf]` on a plain function is made of: values out of columns and back.
//!
//! Functions name the types of [`Argument`] and [`Answer`], or of [`WholeColumn`] and [`BatchAnswer`]; the rest is called
//! by what the attribute makes.

use std::cell::Cell;
use std::time::Duration;

use arrow::array::ArrayRef;
use futures_util::stream::{self, StreamExt};
use polars::prelude::*;
use polars_arrow::array::{BooleanArray, ListArray, PrimitiveArray, StaticArray, Utf8ViewArray};
use polars_arrow::bitmap::Bitmap;
use polars_arrow::offset::Offsets;
use regatta_remote::catch;

use super::registry::panicked_in;
use super::retry::{FailedRows, row_of};
use super::thread::fenced;
use super::{
    Batch, Call, Context, Meter, Metrics, OnError, Report, UdfError, UdfResult, column_from_arrow, column_to_arrow,
};

/// What a row-wise function takes: a value of one row, or an `Option` of one to see nulls.
///
/// Another type does not compile, and the error says what does:
///
/// ```compile_fail,E0277
/// #[regatta::udf]
/// fn total(values: Vec<i64>) -> i64 { values.iter().sum() }
/// ```
#[diagnostic::on_unimplemented(
    message = "a row-wise UDF cannot take `{Self}`",
    label = "not a value of a column",
    note = "it takes bool, i8, i16, i32, i64, u32, u64, f32, f64, &str and String, and Option of these to see nulls",
    note = "other dtypes come as whole columns: take &Series and write #[regatta::udf(dtype = DataType::...)]"
)]
pub trait Argument<'a>: Sized {
    /// What holds the values.
    type Array: StaticArray;

    /// The dtype of its column.
    fn dtype() -> DataType;

    /// The value at `row`; `None` where it is null and the function is not to be called.
    fn at(array: &'a Self::Array, row: usize) -> Option<Self>;
}

/// What a row-wise function returns: a value, an `Option` of one, or a `Result` of either.
#[diagnostic::on_unimplemented(
    message = "a row-wise UDF cannot return `{Self}`",
    label = "not a value of a column",
    note = "it returns bool, i8, i16, i32, i64, u32, u64, f32, f64, &str or String, a Vec or an Option of one, or a Result of either",
    note = "for other dtypes return a whole column: take &Series and write #[regatta::udf(dtype = DataType::...)]"
)]
pub trait Answer: Sized {
    /// The value without `Option` and `Result`.
    type Value: Value;

    /// The value; `None` for null.
    ///
    /// # Errors
    /// The function's own.
    fn answer(self) -> UdfResult<Option<Self::Value>>;
}

/// What a column can be built of.
pub trait Value: Sized {
    /// The dtype of that column.
    fn dtype() -> DataType;

    /// Builds the column.
    ///
    /// # Errors
    /// The values are too many for one column.
    fn collect(values: impl Iterator<Item = Option<Self>>) -> UdfResult<Column>;
}

macro_rules! answers {
    ($($value:ty => $chunked:ty, $dtype:ident $(, $life:lifetime)?;)+) => {$(
        impl$(<$life>)? Value for $value {
            fn dtype() -> DataType {
                DataType::$dtype
            }

            fn collect(values: impl Iterator<Item = Option<Self>>) -> UdfResult<Column> {
                Ok(<$chunked>::from_iter_options(PlSmallStr::EMPTY, values).into_column())
            }
        }

        impl$(<$life>)? Answer for $value {
            type Value = Self;

            fn answer(self) -> UdfResult<Option<Self>> {
                Ok(Some(self))
            }
        }

        impl$(<$life>)? Answer for Option<$value> {
            type Value = $value;

            fn answer(self) -> UdfResult<Option<$value>> {
                Ok(self)
            }
        }

        impl<$($life,)? E: Into<UdfError>> Answer for Result<$value, E> {
            type Value = $value;

            fn answer(self) -> UdfResult<Option<$value>> {
                self.map(Some).map_err(Into::into)
            }
        }

        impl<$($life,)? E: Into<UdfError>> Answer for Result<Option<$value>, E> {
            type Value = $value;

            fn answer(self) -> UdfResult<Option<$value>> {
                self.map_err(Into::into)
            }
        }
    )+};
}

macro_rules! arguments {
    ($($argument:ty => $array:ty, $dtype:ident, $convert:expr;)+) => {$(
        impl<'a> Argument<'a> for $argument {
            type Array = $array;

            fn dtype() -> DataType {
                DataType::$dtype
            }

            fn at(array: &'a $array, row: usize) -> Option<Self> {
                array.get(row).map($convert)
            }
        }

        impl<'a> Argument<'a> for Option<$argument> {
            type Array = $array;

            fn dtype() -> DataType {
                DataType::$dtype
            }

            fn at(array: &'a $array, row: usize) -> Option<Self> {
                Some(array.get(row).map($convert))
            }
        }
    )+};
}

answers! {
    bool => BooleanChunked, Boolean;
    i8 => Int8Chunked, Int8;
    i16 => Int16Chunked, Int16;
    i32 => Int32Chunked, Int32;
    i64 => Int64Chunked, Int64;
    u32 => UInt32Chunked, UInt32;
    u64 => UInt64Chunked, UInt64;
    f32 => Float32Chunked, Float32;
    f64 => Float64Chunked, Float64;
    &'a str => StringChunked, String, 'a;
    String => StringChunked, String;
}

impl<T: Value> Value for Vec<T> {
    fn dtype() -> DataType {
        DataType::List(Box::new(T::dtype()))
    }

    fn collect(values: impl Iterator<Item = Option<Self>>) -> UdfResult<Column> {
        let (mut flat, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for value in values {
            valid.push(value.is_some());
            let before = flat.len();
            flat.extend(value.into_iter().flatten().map(Some));
            lengths.push(flat.len() - before);
        }
        let inner = T::collect(flat.into_iter())?.take_materialized_series().rechunk();
        let validity = valid.contains(&false).then(|| valid.into_iter().collect());
        lists(&inner, &lengths, validity)
    }
}

impl<T: Value> Answer for Vec<T> {
    type Value = Self;

    fn answer(self) -> UdfResult<Option<Self>> {
        Ok(Some(self))
    }
}

impl<T: Value> Answer for Option<Vec<T>> {
    type Value = Vec<T>;

    fn answer(self) -> UdfResult<Self> {
        Ok(self)
    }
}

impl<T: Value, E: Into<UdfError>> Answer for Result<Vec<T>, E> {
    type Value = Vec<T>;

    fn answer(self) -> UdfResult<Option<Vec<T>>> {
        self.map(Some).map_err(Into::into)
    }
}

impl<T: Value, E: Into<UdfError>> Answer for Result<Option<Vec<T>>, E> {
    type Value = Vec<T>;

    fn answer(self) -> UdfResult<Option<Vec<T>>> {
        self.map_err(Into::into)
    }
}

fn lists(inner: &Series, lengths: &[usize], validity: Option<Bitmap>) -> UdfResult<Column> {
    let offsets = Offsets::<i64>::try_from_lengths(lengths.iter().copied())?;
    let values = inner.chunks()[0].clone();
    let dtype = ListArray::<i64>::default_datatype(values.dtype().clone());
    let array = ListArray::new(dtype, offsets.into(), values, validity).boxed();
    Ok(Series::from_arrow("".into(), array)?.into())
}

arguments! {
    bool => BooleanArray, Boolean, |value| value;
    i8 => PrimitiveArray<i8>, Int8, |value| value;
    i16 => PrimitiveArray<i16>, Int16, |value| value;
    i32 => PrimitiveArray<i32>, Int32, |value| value;
    i64 => PrimitiveArray<i64>, Int64, |value| value;
    u32 => PrimitiveArray<u32>, UInt32, |value| value;
    u64 => PrimitiveArray<u64>, UInt64, |value| value;
    f32 => PrimitiveArray<f32>, Float32, |value| value;
    f64 => PrimitiveArray<f64>, Float64, |value| value;
    &'a str => Utf8ViewArray, String, |value| value;
    String => Utf8ViewArray, String, |value| value.to_owned();
}

/// An argument as the planner checks it.
#[derive(Debug)]
pub struct Takes {
    name: &'static str,
    dtype: DataType,
}

/// What the argument of that name takes.
pub fn takes<'a, T: Argument<'a>>(name: &'static str) -> Takes {
    Takes { name, dtype: T::dtype() }
}

/// The dtype that an argument takes.
pub fn dtype_taken<'a, T: Argument<'a>>() -> DataType {
    T::dtype()
}

/// The dtype of a column of these answers.
pub fn dtype_of<R: Answer>() -> DataType {
    R::Value::dtype()
}

/// Whether a function with these arguments can be called on these columns.
///
/// # Errors
/// What does not fit, and the cast to add.
pub fn check(inputs: &[Field], takes: &[Takes]) -> UdfResult<()> {
    check_count(inputs, takes.len())?;
    for (number, (input, Takes { name, dtype })) in inputs.iter().zip(takes).enumerate() {
        if input.dtype() != dtype {
            return Err(UdfError::new(format!(
                "its argument `{name}` takes {dtype:?}, but input {} ({:?}) is {:?}: add .cast(DataType::{dtype:?}) to that input",
                number + 1,
                input.name(),
                input.dtype(),
            )));
        }
    }
    Ok(())
}

/// Whether a function of `count` arguments can be called on these columns.
///
/// # Errors
/// There are more or fewer.
pub fn check_count(inputs: &[Field], count: usize) -> UdfResult<()> {
    if inputs.len() == count {
        return Ok(());
    }
    let got = inputs.len();
    let inputs = if count == 1 { "input" } else { "inputs" };
    Err(UdfError::new(format!(
        "it takes {count} {inputs} and is called on {got}: give .on([..]) one for each argument"
    )))
}

/// The columns of a batch, each in one piece.
#[derive(Debug)]
pub struct Inputs {
    columns: Vec<Series>,
}

impl Inputs {
    /// The inputs of one call.
    pub fn new(batch: &Batch) -> Self {
        let columns = batch.frame().columns().iter();
        Self { columns: columns.map(|column| column.as_materialized_series().rechunk()).collect() }
    }

    /// The values of one input.
    ///
    /// # Errors
    /// It is missing, or of another dtype than was planned.
    pub fn values<'a, T: Argument<'a>>(&'a self, index: usize) -> UdfResult<Values<'a, T>> {
        let column = self.columns.get(index);
        let array = column.filter(|column| *column.dtype() == T::dtype()).and_then(|column| column.chunks().first());
        let array = array.and_then(|array| array.as_any().downcast_ref());
        array.map(Values).ok_or_else(|| {
            let got = column.map_or_else(|| "missing".to_owned(), |column| format!("{:?}", column.dtype()));
            UdfError::new(format!("input {} was planned as {:?} and is {got}", index + 1, T::dtype()))
        })
    }
}

/// The values of one input, as the function takes them.
#[derive(Debug)]
pub struct Values<'a, T: Argument<'a>>(&'a T::Array);

impl<'a, T: Argument<'a>> Values<'a, T> {
    /// See [`Argument::at`].
    pub fn at(&self, row: usize) -> Option<T> {
        T::at(self.0, row)
    }
}

/// Calls the function of that name on each row of a batch; a row for which `call` is `None` is null. A panic is an error of its row, for a
/// function has nothing of its own that it could leave broken. What a row has reported that will be tried again does not count.
///
/// # Errors
/// The first of the function's own, with its row, unless rows that fail are to be null.
pub fn map<R: Answer>(udf: &str, batch: &Batch, mut call: impl FnMut(usize) -> Option<R>) -> UdfResult<Column> {
    let (mut failures, meter, mut counts) = (Failures::new(batch), batch.metrics(), Metrics::default());
    let (each_alone, current) = (failures.may_pass(), Cell::new(0));
    let mut answer = |row| {
        current.set(row);
        let answer = match each_alone {
            true => catch(|| call(row).map_or(Ok(None), R::answer)).unwrap_or_else(|panic| Err(panicked_in("", panic))),
            false => call(row).map_or(Ok(None), R::answer),
        };
        if batch.call().says_rows {
            let reported = meter.take();
            answer.iter().for_each(|_| counts.merge(&reported));
        }
        answer
    };
    // Rows are fenced together where the first that fails is the last.
    let column = catch(|| R::Value::collect((0..batch.height()).map_while(|row| failures.pass(row, answer(row)))));
    let column = column.unwrap_or_else(|panic| {
        failures.pass::<()>(current.get(), Err(panicked_in("", panic)));
        R::Value::collect(std::iter::empty())
    });
    meter.add(Report { metrics: counts, failed: None });
    failures.settle(udf)?;
    column
}

/// [`map`] for an async function: as many rows at once as its replica may have in flight. Each is told a context.
///
/// # Errors
/// As there.
pub async fn map_async<R: Answer>(
    udf: &str,
    batch: &Batch,
    call: impl AsyncFn(usize, &Context) -> Option<R>,
) -> UdfResult<Column> {
    let mut failures = Failures::new(batch);
    let answer = async |row| {
        let _place = batch.slots().acquire().await?;
        if !batch.call().says_rows {
            return answered(call(row, batch.context())).await;
        }
        let meter = Meter::default();
        let answer = answered(call(row, &batch.context().with_meter(&meter))).await?;
        batch.metrics().add(meter.report_of_call());
        Ok(answer)
    };
    let mut answers =
        stream::iter(0..batch.height()).map(answer).buffered(batch.height().clamp(1, AT_ONCE)).enumerate();
    let mut rows = Vec::with_capacity(batch.height());
    // After the first row that fails its batch the others are dropped.
    while let Some((row, answer)) = answers.next().await
        && let Some(value) = failures.pass(row, answer)
    {
        rows.push(value);
    }
    drop(answers);
    let column = R::Value::collect(rows.into_iter());
    failures.settle(udf)?;
    column
}

async fn answered<R: Answer>(call: impl Future<Output = Option<R>>) -> UdfResult<Option<R::Value>> {
    fenced(call).await.map_err(|panic| panicked_in("", panic))?.map_or(Ok(None), R::answer)
}

/// Rows of one batch whose futures exist at once; places in flight bound those that run.
const AT_ONCE: usize = 1024;

/// What becomes of rows that fail.
struct Failures<'a> {
    batch: &'a Batch,
    first: Option<UdfError>,
    rows: Vec<IdxSize>,
    /// The longest that any asks for.
    delay: Option<Duration>,
}

impl<'a> Failures<'a> {
    fn new(batch: &'a Batch) -> Self {
        Self { batch, first: None, rows: Vec::new(), delay: None }
    }

    /// Whether others of the batch count when one has failed.
    fn may_pass(&self) -> bool {
        let Call { on_error, says_rows, .. } = self.batch.call();
        says_rows || on_error != OnError::Raise
    }

    /// The row's value; `None` if the batch has failed with it.
    fn pass<T>(&mut self, row: usize, answer: UdfResult<Option<T>>) -> Option<Option<T>> {
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                self.delay = self.delay.max(error.delay());
                self.first.get_or_insert(error);
                self.rows.push(row as IdxSize);
                self.may_pass().then_some(None)
            }
        }
    }

    fn settle(self, udf: &str) -> UdfResult<()> {
        let Self { batch, first: Some(error), rows, delay } = self else { return Ok(()) };
        let Call { on_error, says_rows, .. } = batch.call();
        let error = delay.into_iter().fold(error, UdfError::retry_after);
        if says_rows {
            batch.metrics().rows_failed(FailedRows { rows, error });
            return Ok(());
        }
        let error = error.within(row_of(rows.first().copied().unwrap_or_default() as usize, batch.height()));
        match on_error {
            OnError::Raise => return Err(error),
            OnError::Log => {
                let (rows, failures) = (batch.height(), rows.len());
                tracing::warn!(udf, rows, failures, %error, "rows that failed become null; this is the first");
            }
            OnError::Null => (),
        }
        Ok(())
    }
}

/// What a batch-wise function takes a reference to, and returns: `Series`, `Column`, or arrow-rs' `ArrayRef`.
#[diagnostic::on_unimplemented(
    message = "a batch-wise UDF cannot take `&{Self}`",
    note = "it takes &Series, &Column or &ArrayRef (arrow-rs); for one value at a time leave `dtype` out"
)]
pub trait WholeColumn: Sized {
    /// From an input.
    ///
    /// # Errors
    /// Its dtype does not exist in arrow-rs.
    fn of(column: &Column) -> UdfResult<Self>;
}

/// What a batch-wise function returns: a [`WholeColumn`], or a `Result` of one.
#[diagnostic::on_unimplemented(
    message = "a batch-wise UDF cannot return `{Self}`",
    note = "it returns Series, Column or ArrayRef (arrow-rs), or a Result of one"
)]
pub trait BatchAnswer {
    /// The column.
    ///
    /// # Errors
    /// The function's own, or a dtype that Polars does not have.
    fn into_column(self) -> UdfResult<Column>;
}

macro_rules! whole_columns {
    ($($column:ty, $from:expr, $into:expr;)+) => {$(
        impl WholeColumn for $column {
            fn of(column: &Column) -> UdfResult<Self> {
                $from(column)
            }
        }

        impl BatchAnswer for $column {
            fn into_column(self) -> UdfResult<Column> {
                $into(self)
            }
        }

        impl<E: Into<UdfError>> BatchAnswer for Result<$column, E> {
            fn into_column(self) -> UdfResult<Column> {
                self.map_err(Into::into).and_then($into)
            }
        }
    )+};
}

whole_columns! {
    Series, |column: &Column| Ok(column.as_materialized_series().clone()), |series: Series| Ok(series.into());
    Column, |column: &Column| Ok(column.clone()), UdfResult::Ok;
    ArrayRef, column_to_arrow, |array: ArrayRef| column_from_arrow("", &*array);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::udf::{PoolOptions, Retry};

    #[test]
    fn the_row_that_failed_is_named_and_none_after_it_is_called() {
        let batch = Batch::once(df!["n" => [Some(1i64), None, Some(3), Some(4)]].unwrap());
        let inputs = Inputs::new(&batch);
        let numbers = inputs.values::<i64>(0).unwrap();
        let mut called = Vec::new();
        let result = map("it", &batch, |row| {
            let n = numbers.at(row)?;
            called.push(n);
            Some(if n < 3 { Ok(n) } else { Err(UdfError::new("too large")) })
        });
        assert_eq!(result.unwrap_err().to_string(), "row 2 of a batch of 4: too large");
        assert_eq!(called, [1, 3]);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_row() {
        let rows = || df!["n" => [1i64, 2, 3]].unwrap();
        let call = |row| if row == 1 { panic!("no two") } else { Some(row as i64) };
        let raised = map("it", &Batch::once(rows()), call).unwrap_err().to_string();
        assert!(raised.starts_with("row 1 of a batch of 3: panicked: no two"), "{raised}");
        let options = PoolOptions { on_error: OnError::Null, ..PoolOptions::default() };
        let tolerant = || Batch::tried(rows(), Retry::new(&options, None, None).call());
        let column = map("it", &tolerant(), call).unwrap();
        assert_eq!(Vec::from(column.i64().unwrap()), [Some(0), None, Some(2)]);
        let later = async |row, _: &Context| call(row);
        let raised = map_async("it", &Batch::once(rows()), later).await.unwrap_err().to_string();
        assert!(raised.starts_with("row 1 of a batch of 3: panicked: no two"), "{raised}");
        let column = map_async("it", &tolerant(), later).await.unwrap();
        assert_eq!(Vec::from(column.i64().unwrap()), [Some(0), None, Some(2)]);
    }

    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    struct ToLog;

    impl io::Write for ToLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LOG.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn rows_that_become_null_are_logged_once_for_each_batch_with_udf_rows_and_error() {
        let options = PoolOptions { on_error: OnError::Log, ..PoolOptions::default() };
        let batch = Batch::tried(df!["n" => [1i64, 2, 3]].unwrap(), Retry::new(&options, None, None).call());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| ToLog).finish();
        let call = |row| Some(if row == 0 { Ok(0i64) } else { Err(UdfError::new(format!("no {row}"))) });
        let column = tracing::subscriber::with_default(subscriber, || map("doubtful", &batch, call)).unwrap();
        assert_eq!(Vec::from(column.i64().unwrap()), [Some(0), None, None]);
        let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        for part in ["WARN", "udf=\"doubtful\"", "rows=3", "failures=2", "row 1 of a batch of 3: no 1"] {
            assert!(log.contains(part), "{part} is missing in: {log}");
        }
    }
}
