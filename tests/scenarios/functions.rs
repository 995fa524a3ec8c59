//! Plain functions as UDFs: what they are given, what becomes of nulls and errors.

use std::num::ParseIntError;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::Int64Type;
use regatta::Error;
use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::errors::{on_both, says};
use crate::udfs::numbers;

#[regatta::udf]
fn normalise(s: &str) -> Option<String> {
    Some(s.trim().to_lowercase()).filter(|s| !s.is_empty())
}

/// Sees the nulls of its first argument only; borrows what it returns.
#[regatta::udf]
fn or_default(word: Option<&str>, shown: bool) -> Option<&str> {
    shown.then_some(word.unwrap_or("default"))
}

#[regatta::udf(name = "parse")]
fn parse(s: &str) -> Result<i64, ParseIntError> {
    s.parse()
}

#[regatta::udf]
#[allow(clippy::too_many_arguments, reason = "one of each type")]
fn every_type(
    b: bool,
    i: i8,
    j: i16,
    k: i32,
    l: i64,
    m: u32,
    n: u64,
    x: f32,
    y: f64,
    s: String,
) -> UdfResult<Option<f64>> {
    if s == "stop" {
        return Err(UdfError::new("told to stop"));
    }
    let sum = f64::from(i) + f64::from(j) + f64::from(k) + l as f64 + f64::from(m) + n as f64 + f64::from(x) + y;
    Ok(b.then_some(sum))
}

#[regatta::udf(dtype = DataType::Float64)]
fn ratio(a: &Series, b: &Series) -> UdfResult<Series> {
    Ok((&a.cast(&DataType::Float64)? / &b.cast(&DataType::Float64)?)?)
}

#[regatta::udf(dtype = DataType::Float64)]
fn half_in_arrow(a: &ArrayRef) -> ArrayRef {
    let halves: Float64Array = a.as_primitive::<Int64Type>().iter().map(|n| Some(n? as f64 / 2.0)).collect();
    Arc::new(halves)
}

#[regatta::udf(dtype = DataType::Int64)]
fn first_only(a: &Column) -> Column {
    a.slice(0, 1)
}

/// Each form of a function that takes the context: `rows` counts the rows that it saw, `calls` its calls. Says in its result
/// which replica and attempt it is, and so that of its first attempts fail.
#[regatta::udf(name = "told by row")]
fn told_by_row(cx: &Context, x: i64) -> UdfResult<i64> {
    cx.metrics().count("rows", 1);
    told(cx).map(|place| place + x)
}

#[regatta::udf(name = "told by batch", dtype = DataType::Int64)]
fn told_by_batch(cx: &Context, x: &Series) -> UdfResult<Series> {
    cx.metrics().count("rows", x.len() as u64);
    Ok(x + told(cx)?)
}

#[regatta::udf(name = "told lists")]
fn told_lists(cx: &Context, x: i64) -> UdfResult<Vec<i64>> {
    cx.metrics().count("rows", 1);
    Ok(vec![told(cx)? + x])
}

#[regatta::udf(name = "told async")]
async fn told_async(cx: &Context, x: i64) -> UdfResult<i64> {
    tokio::task::yield_now().await;
    cx.metrics().count("rows", 1);
    told(cx).map(|place| place + x)
}

#[regatta::udf(name = "told async by batch", dtype = DataType::Int64)]
async fn told_async_by_batch(cx: &Context, x: &Series) -> UdfResult<Series> {
    tokio::task::yield_now().await;
    cx.metrics().count("rows", x.len() as u64);
    Ok(x + told(cx)?)
}

fn told(cx: &Context) -> UdfResult<i64> {
    let place = cx.query().zip(cx.stage()).zip(cx.worker());
    if place.is_some() && cx.attempt() == 1 {
        return Err(UdfError::new("the first time"));
    }
    assert!(cx.rank() < cx.replicas() && cx.devices().is_empty() && cx.scratch().is_dir());
    Ok(1000 * i64::from(cx.attempt()))
}

fn words() -> LazyFrame {
    df!["s" => [Some(" A "), None, Some("  "), Some("keel")], "t" => [Some(true), Some(true), None, Some(false)]]
        .unwrap()
        .lazy()
}

fn column(session: &Session, frame: LazyFrame, expr: Expr) -> Column {
    let frame = frame.select([expr.alias("out")]).collect_on(session).unwrap();
    frame.column("out").unwrap().clone()
}

#[test]
fn a_function_stays_a_function_and_is_called_on_each_row_that_is_not_null() {
    assert_eq!(normalise(" Mast"), Some("mast".to_owned()));
    on_both(|session| {
        let out = column(session, words(), normalise::on([col("s")]));
        assert_eq!(Vec::from(out.str().unwrap()), [Some("a"), None, None, Some("keel")]);
        let pool = or_default::pool().replicas(2).batch(1);
        let out = column(session, words(), pool.on([col("s"), col("t")]));
        assert_eq!(Vec::from(out.str().unwrap()), [Some(" A "), Some("default"), None, None]);
    });
}

#[test]
fn values_of_every_type_arrive_as_they_are() {
    let frame = || {
        let types = [
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::UInt32,
            DataType::UInt64,
            DataType::Float32,
            DataType::Float64,
        ];
        let numbers = types.into_iter().enumerate().map(|(i, t)| lit(1i64 << i).cast(t).alias(format!("n{i}")));
        let frame = df!["b" => [Some(true), Some(false), None], "s" => ["go", "go", "stop"]].unwrap().lazy();
        frame.with_columns(numbers.collect::<Vec<_>>())
    };
    let inputs = |flag: Expr| {
        let numbers = (0..8).map(|i| col(format!("n{i}")));
        [flag].into_iter().chain(numbers).chain([col("s")]).collect::<Vec<_>>()
    };
    on_both(|session| {
        let out = column(session, frame(), every_type::on(inputs(col("b"))));
        assert_eq!(Vec::from(out.f64().unwrap()), [Some(255.0), None, None], "a null flag: not called, so not stopped");
        let all = every_type::on(inputs(lit(true).or(col("b"))));
        let error = frame().select([all]).collect_on(session).expect_err("the last row says stop");
        says(&error, &["every_type", "told to stop"]);
    });
}

#[test]
fn functions_of_whole_columns_take_and_return_polars_or_arrow() {
    let frame = || df!["a" => [Some(1i64), None, Some(3)], "b" => [2i64, 2, 4]].unwrap().lazy();
    on_both(|session| {
        let out = column(session, frame(), ratio::on([col("a"), col("b")]));
        assert_eq!(Vec::from(out.f64().unwrap()), [Some(0.5), None, Some(0.75)]);
        let out = column(session, frame(), half_in_arrow::on([col("a")]));
        assert_eq!(Vec::from(out.f64().unwrap()), [Some(0.5), None, Some(1.5)]);
        let error = frame().select([first_only::on([col("a")])]).collect_on(session).expect_err("too few rows");
        says(&error, &["first_only", "1 rows for a batch of 3"]);
    });
}

#[test]
fn a_function_is_told_its_context_in_every_form() {
    type Form = (&'static str, fn(Expr) -> Expr);
    let forms: [Form; 5] = [
        ("told by row", |x| told_by_row::pool().batch(100).max_retries(1).on([x])),
        ("told by batch", |x| told_by_batch::pool().batch(100).replicas(2).max_retries(1).on([x])),
        ("told lists", |x| told_lists::pool().batch(100).max_retries(1).on([x]).explode(EXPLODE)),
        ("told async", |x| told_async::pool().batch(100).max_retries(1).on([x])),
        ("told async by batch", |x| told_async_by_batch::pool().batch(100).max_retries(1).on([x])),
    ];
    on_both(|session| {
        for (name, form) in forms {
            let mut run = session.submit(numbers().select([form(col("x"))])).unwrap();
            let answer = run.collect().unwrap();
            let expected: Vec<_> = (0..1000).map(|x| Some(2000 + x)).collect();
            assert_eq!(Vec::from(answer.column("x").unwrap().i64().unwrap()), expected, "{name}: the second attempt");
            assert_eq!(run.status().unwrap().unwrap().metrics[name].counter("rows"), 1000, "{name}");
        }
    });
    let plain = numbers().select([told_by_row::on([col("x")])]).collect().unwrap();
    assert_eq!(plain.column("x").unwrap().i64().unwrap().first(), Some(1000), "plain Polars has no query");
}

const EXPLODE: ExplodeOptions = ExplodeOptions { empty_as_null: true, keep_nulls: true };

#[test]
fn equal_calls_of_one_node_run_once_wherever_they_stand() {
    let call = || counted::on([col("x") * lit(2i64)]);
    let queries = [
        numbers().select([(call() + lit(1i64)).alias("a"), (call() * call()).alias("b")]),
        numbers().filter(call().gt(lit(10i64)).and(call().lt(lit(90i64)))),
        numbers().select([when(call().gt(lit(50i64))).then(call()).otherwise(lit(0i64) - call()).alias("a")]),
        numbers().select([as_struct(vec![call().alias("a"), (call() + lit(1i64)).alias("b")]).alias("s")]),
        numbers().group_by([col("x") % lit(3i64)]).agg([call().sum().alias("a"), call().max().alias("b")]),
        numbers().with_columns([call().sum().over([col("x") % lit(3i64)]).unwrap().alias("a"), call().alias("b")]),
    ];
    on_both(|session| {
        for query in &queries {
            let mut run = session.submit(query.clone()).unwrap();
            run.collect().unwrap();
            let calls = run.status().unwrap().unwrap().metrics["counted calls"].counter("calls");
            assert_eq!(calls, 1000, "{}", run.explain());
        }
    });
}

#[regatta::udf(name = "counted calls")]
fn counted(cx: &Context, x: i64) -> i64 {
    cx.metrics().count("calls", 1);
    x + 1
}

#[test]
fn an_error_of_a_row_says_which() {
    on_both(|session| {
        let frame = df!["s" => ["1", "2", "three"]].unwrap().lazy();
        let error = frame.select([parse::on([col("s")])]).collect_on(session).expect_err("three is no digit");
        says(&error, &["UDF parse", "row ", " of a batch of ", "invalid digit"]);
    });
}

#[test]
fn inputs_that_do_not_fit_are_refused_while_planning_with_the_cast_to_add() {
    let session = Session::native().unwrap();
    let refused = |expr: Expr| {
        let error = session.submit(words().select([expr])).expect_err("it does not fit");
        assert!(matches!(error, Error::Plan(_)), "{error}");
        error
    };
    let error = refused(normalise::on([col("t")]));
    says(&error, &["normalise", "`s` takes String", "input 1 (\"t\") is Boolean", ".cast(DataType::String)"]);
    says(&refused(normalise::on([col("s"), col("t")])), &["normalise", "takes 1 input ", "called on 2"]);
    says(&refused(ratio::on([col("s")])), &["ratio", "takes 2 inputs", "called on 1"]);
    says(
        &refused(or_default::on([col("s"), lit(1i32)])),
        &["`shown` takes Boolean", "input 2", "Int32", "DataType::Boolean"],
    );
}
