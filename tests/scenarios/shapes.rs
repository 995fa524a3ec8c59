//! UDFs that are not one row for one row: generators and aggregations; and generic ones.

use std::fs::File;
use std::ops::Mul;

use regatta::Error;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::assert_same_as_polars;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::errors::{on_both, says};
use crate::udfs::row_groups;

#[regatta::udf(name = "words")]
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[regatta::udf(name = "below")]
fn below(n: i64) -> Result<Option<Vec<i64>>, UdfError> {
    if n > 100_000 {
        return Err(UdfError::new("too many"));
    }
    Ok((n >= 0).then(|| (0..n).collect()))
}

#[regatta::udf(name = "echoed")]
async fn echoed(n: i64) -> Vec<i64> {
    tokio::task::yield_now().await;
    vec![n; 2]
}

#[test]
fn a_row_becomes_none_to_many_rows_and_the_other_columns_repeat() {
    let lines = || df!["line" => [1i64, 2, 3, 4], "text" => [Some("a b"), Some(""), None, Some("c")]].unwrap().lazy();
    on_both(|session| {
        let made = lines().generate("word", words::pool().batch(3).on([col("text")])).collect_on(session).unwrap();
        let expected = df!["line" => [1i64, 1, 4], "text" => ["a b", "a b", "c"], "word" => ["a", "b", "c"]].unwrap();
        assert!(made.equals(&expected), "{made}");
        let none = lines().filter(col("line").gt(lit(9))).generate("word", words::on([col("text")]));
        let none = none.collect_on(session).unwrap();
        assert_eq!((none.height(), none.column("word").unwrap().dtype()), (0, &DataType::String));
        let lists = lines().select([words::on([col("text")])]).collect_on(session).unwrap();
        assert_eq!(lists.column("text").unwrap().null_count(), 1, "without generate it is a list");
        let error =
            lines().generate("n", below::on([col("line") * lit(1_000_000i64)])).collect_on(session).unwrap_err();
        says(&error, &["below", "row 0", "too many"]);
    });
}

#[test]
fn generated_rows_are_those_of_plain_polars_and_the_stage_stays_split() {
    let folder = tempfile::tempdir().unwrap();
    let scan = || row_groups(folder.path(), 1000);
    let some = below::pool().replicas(2).on([(col("x") % lit(7i64)) - lit(1i64)]);
    let query = scan().generate("n", some).with_column((col("x") + col("n")).alias("sum")).filter(col("n").gt(lit(1)));
    let counted = query.clone().group_by([col("n")]).agg([len(), col("sum").sum()]);
    let twice = scan().generate("n", echoed::on([col("x")])).generate("m", below::on([col("n") % lit(3i64)]));
    on_both(|session| {
        assert_same_as_polars(session, &query, true, &[]);
        assert_same_as_polars(session, &counted, false, &[]);
        assert_same_as_polars(session, &twice, true, &[]);
    });
    let explain = Session::local(2).unwrap().explain(&query).unwrap();
    assert!(explain.contains("tasks") && !explain.contains("stage 1"), "one stage, many tasks: {explain}");
}

/// The sum of squares and how many parts it was made of.
#[derive(Serialize, Deserialize)]
struct Squares {
    parts: bool,
}

#[regatta::udf(name = "squares")]
impl Aggregate for Squares {
    type Partial = (i64, i64);

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs {
            [field] if field.dtype() == &DataType::Int64 => Ok(DataType::Int64),
            _ => Err(UdfError::new("takes one Int64")),
        }
    }

    fn partial(&self, batch: &Batch) -> UdfResult<(i64, i64)> {
        let numbers = batch.column(0)?.i64()?;
        assert_ne!(numbers.iter().next().flatten(), Some(-1), "told to");
        batch.metrics().count("rows", batch.height() as u64);
        Ok((numbers.iter().flatten().map(|n| n * n).sum(), 1))
    }

    fn merge(&self, (a, m): (i64, i64), (b, n): (i64, i64)) -> UdfResult<(i64, i64)> {
        Ok((a + b, m + n))
    }

    fn finish(&self, (sum, parts): (i64, i64)) -> UdfResult<AnyValue<'static>> {
        Ok(match (self.parts, sum) {
            (true, _) => AnyValue::Int64(parts),
            (false, 0) => AnyValue::Null,
            (false, sum) => AnyValue::Int64(sum),
        })
    }
}

#[test]
fn an_aggregation_is_that_of_polars_in_groups_and_over_all_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let numbers: Vec<_> = (0..200_000i64).map(|n| (n % 11 != 0).then_some(n % 1000)).collect();
    let mut frame = df!["x" => numbers, "g" => (0..200_000i64).map(|n| n % 37).collect::<Vec<_>>()].unwrap();
    ParquetWriter::new(File::create(&path).unwrap()).with_row_group_size(Some(10_000)).finish(&mut frame).unwrap();
    let scan = || LazyFrame::scan_parquet(PlRefPath::try_from_path(&path).unwrap(), Default::default()).unwrap();
    let squares = || Squares { parts: false }.on([col("x")]);
    let polars = || (col("x") * col("x")).sum();
    let pairs = [
        (scan().select([squares()]), scan().select([polars()])),
        (
            scan().group_by([col("g")]).agg([squares(), len()]).sort(["g"], Default::default()),
            scan().group_by([col("g")]).agg([polars(), len()]).sort(["g"], Default::default()),
        ),
        (
            scan().select([(squares() + col("x").max()).alias("x")]),
            scan().select([(polars() + col("x").max()).alias("x")]),
        ),
        (scan().filter(col("g").gt(lit(3))).select([squares()]), scan().filter(col("g").gt(lit(3))).select([polars()])),
    ];
    on_both(|session| {
        for (ours, polars) in &pairs {
            let (ours, polars) = (ours.clone().collect_on(session).unwrap(), polars.clone().collect().unwrap());
            assert!(ours.equals_missing(&polars), "{ours}{polars}");
        }
        let parts = scan().select([Squares { parts: true }.on([col("x")])]).collect_on(session).unwrap();
        assert!(parts.column("x").unwrap().i64().unwrap().get(0) > Some(1), "it was put together of parts");
        let mut run = session.submit(scan().select([squares()])).unwrap();
        run.collect().unwrap();
        assert_eq!(run.status().unwrap().unwrap().metrics["squares"].counter("rows"), 200_000);
        let none = scan().filter(col("x").gt(lit(9999))).select([squares()]).collect_on(session).unwrap();
        assert_eq!((none.height(), none.column("x").unwrap().null_count()), (1, 1), "no rows have a value too");
        let panics = df!["x" => [-1i64]].unwrap().lazy().select([squares()]).collect_on(session).unwrap_err();
        says(&panics, &["squares", "panicked", "told to"]);
    });
    let error = Session::native().unwrap().submit(scan().select([Squares { parts: true }.on([lit("x")])])).unwrap_err();
    assert!(matches!(error, Error::Plan(_)));
    says(&error, &["squares", "takes one Int64"]);
}

#[derive(Serialize, Deserialize)]
struct Scale<T>(T);

/// So that the native type is the parameter.
trait Scalable: Copy + Mul<Output = Self> + Serialize + DeserializeOwned + Send + Sync + 'static {
    type Type: PolarsNumericType<Native = Self>;
}

impl Scalable for i64 {
    type Type = Int64Type;
}

impl Scalable for f64 {
    type Type = Float64Type;
}

#[regatta::udf(types(Scale<i64>, Scale<f64>))]
impl<T: Scalable> Udf for Scale<T>
where
    ChunkedArray<T::Type>: IntoSeries,
{
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(<T::Type as PolarsDataType>::get_static_dtype())
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        let series = batch.column(0)?.as_materialized_series();
        let numbers: &ChunkedArray<T::Type> = series.as_ref().as_ref();
        Ok(numbers.apply_values(|n| n * self.0).into_series().into())
    }
}

#[test]
fn each_type_of_a_generic_udf_runs_under_its_own_name() {
    on_both(|session| {
        let frame = df!["i" => [1i64, 2], "f" => [0.5, 1.5]].unwrap().lazy();
        let query = frame.select([Scale(3i64).pool().on([col("i")]), Scale(2.0f64).pool().on([col("f")])]);
        let explain = session.explain(&query).unwrap();
        assert!(explain.contains("Scale<i64>") && explain.contains("Scale<f64>"), "{explain}");
        assert!(query.collect_on(session).unwrap().equals(&df!["i" => [3i64, 6], "f" => [1.0, 3.0]].unwrap()));
    });
}
