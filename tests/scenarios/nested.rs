//! UDFs that use Polars themselves, and queries of many calls.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::errors::{on_both, says};
use crate::udfs::row_groups;

/// Each value's place among all, by a query on all of Polars' threads.
fn places(values: &Series) -> UdfResult<Series> {
    let frame = DataFrame::new_infer_broadcast(vec![values.clone().with_name("v".into()).into_column()])?;
    let grouped = frame.clone().lazy().group_by([col("v") % lit(3)]).agg([len()]).collect()?;
    let query = frame.lazy().with_row_index("row", None).sort(["v"], Default::default()).with_row_index("place", None);
    let query = query.sort(["row"], Default::default()).select([col("place").cast(DataType::Int64)]);
    let sorted = query.collect()?.column("place")?.as_materialized_series().clone();
    Ok(if grouped.height() > 3 { sorted.clear() } else { sorted })
}

#[regatta::udf(name = "place", dtype = DataType::Int64)]
fn place(values: &Series) -> UdfResult<Series> {
    places(values)
}

#[regatta::udf(name = "later_place", dtype = DataType::Int64)]
async fn later_place(values: &Series) -> UdfResult<Series> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    places(values)
}

#[regatta::udf(name = "plus_one")]
fn plus_one(n: i64) -> i64 {
    n + 1
}

/// Fails if it is not done within a minute.
fn in_time<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = sync_channel(1);
    thread::spawn(move || done.send(run()));
    result.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{what}: hangs"))
}

fn numbers(rows: i64) -> LazyFrame {
    let numbers: Vec<_> = (0..rows).map(|n| n * 7919 % 1000).collect();
    df!["a" => &numbers, "b" => &numbers, "c" => &numbers, "d" => &numbers].unwrap().lazy()
}

/// Calls that Polars makes itself, several at once.
fn queries() -> Vec<(&'static str, LazyFrame)> {
    let calls = |call: fn(Expr) -> Expr| ["a", "b", "c", "d"].map(|name| call(col(name)));
    let lists = || {
        let lists = ["a", "b"].map(|name| concat_list([col(name), col("c"), col("d")]).unwrap().alias(name));
        numbers(300).with_column(plus_one::on([col("a")])).with_columns(lists)
    };
    let over = |name: &str| place::on([col(name).sort(Default::default())]).over([col("d") % lit(5)]).unwrap();
    vec![
        ("several calls in one select", numbers(500).select(calls(|e| place::on([e.shift(lit(1)).fill_null(lit(0))])))),
        ("async ones", numbers(500).select(calls(|e| later_place::on([e.shift(lit(1)).fill_null(lit(0))])))),
        (
            "in lists, twice, behind another UDF",
            lists().with_columns(["a", "b"].map(|name| col(name).list().eval(place::on([col("")])))),
        ),
        ("in windows", numbers(200).with_columns(["a", "b", "c"].map(over))),
    ]
}

#[test]
fn a_udf_may_use_polars_where_polars_calls_it() {
    for (what, query) in queries() {
        let plain = query.clone();
        let plain = in_time(what, move || plain.collect().unwrap());
        assert!(plain.height() > 100, "{what}");
    }
    on_both(|session| {
        for (what, query) in queries() {
            let session = session.clone();
            let ours = in_time(what, move || query.collect_on(&session).unwrap_or_else(|e| panic!("{what}: {e}")));
            assert!(ours.height() > 100, "{what}");
        }
    });
}

#[test]
fn a_udf_may_use_polars_in_its_pool_async_or_not_isolated_or_not() {
    on_both(|session| {
        let calls = [
            place::pool().replicas(2).batch(50).on([col("a")]),
            later_place::pool().batch(50).on([col("a")]).alias("b"),
            place::pool().isolated().batch(50).on([col("c")]),
            later_place::pool().isolated().batch(50).on([col("c")]).alias("d"),
        ];
        let (session, query) = (session.clone(), numbers(300).select(calls));
        let made = in_time("in pools", move || query.collect_on(&session).unwrap());
        assert!(made.column("a").unwrap().equals_missing(&made.column("b").unwrap().clone().with_name("a".into())));
        assert!(made.column("c").unwrap().equals_missing(&made.column("d").unwrap().clone().with_name("c".into())));
    });
}

#[test]
fn a_start_that_fails_where_polars_calls_is_said_once_and_not_tried_again() {
    let faulty = crate::udfs::Faulty(crate::udfs::Fault::StartError);
    let call = faulty.pool().max_retries(5).on([col("a").shift(lit(1))]);
    let error = in_time("a start that fails", move || {
        numbers(10).select([call]).collect_on(&Session::native().unwrap()).unwrap_err()
    });
    says(&error, &["faulty", "invalid digit"]);
}

#[test]
fn two_thousand_calls_are_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let columns = |count: usize| {
        (0..count).map(|n| plus_one::on([col("x") + lit(n as i64)]).alias(format!("c{n}"))).collect::<Vec<_>>()
    };
    let few = || df!["x" => (0..20i64).collect::<Vec<_>>()].unwrap().lazy();
    let queries = [(row_groups(folder.path(), 300), 200, 300), (few(), 2000, 20)];
    on_both(|session| {
        for (rows, count, height) in &queries {
            let (session, query) = (session.clone(), rows.clone().with_columns(columns(*count)));
            let made = in_time("many calls", move || query.collect_on(&session).unwrap());
            assert_eq!((made.height(), made.width()), (*height, count + 1));
            let last = made.column(&format!("c{}", count - 1)).unwrap().i64().unwrap().get(height - 1);
            assert_eq!(last, Some((height - 1 + count) as i64));
        }
    });
}
