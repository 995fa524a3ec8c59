//! What a UDF is told of its place, and what becomes of the numbers that it reports.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::udf::{Metric, Metrics};
use serde::{Deserialize, Serialize};

use crate::errors::on_both;
use crate::udfs::{numbers, row_groups};

/// Reports, and says where it is: `query|stage|rank|replicas|worker|seed|scratch`.
#[derive(Serialize, Deserialize)]
struct Reporting {
    /// So many attempts of each batch fail, after they have reported.
    failures: u32,
}

#[regatta::udf(name = "reporting")]
impl Udf for Reporting {
    type State = u64;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::String)
    }

    fn start(&self, cx: &mut Start) -> UdfResult<u64> {
        std::fs::write(cx.context().scratch().join("kept"), "x")?;
        cx.metrics().count("started", 1);
        Ok(cx.context().seed())
    }

    fn run(&self, seed: &mut u64, batch: &Batch) -> UdfResult<Column> {
        let rows = batch.height();
        batch.metrics().count("rows", rows as u64);
        batch.metrics().gauge("height", rows as f64);
        if batch.attempt() <= self.failures {
            return Err(UdfError::new("not yet"));
        }
        let cx = batch.context();
        assert_eq!(cx.seed(), *seed, "the seed of start");
        assert!(cx.devices().is_empty());
        assert_eq!(std::fs::read_to_string(cx.scratch().join("kept"))?, "x");
        let (query, worker) = (cx.query().map(|query| query.0), cx.worker().map(|worker| worker.0));
        let stage = cx.stage().map(|stage| stage.0);
        let (rank, replicas, scratch) = (cx.rank(), cx.replicas(), cx.scratch().display());
        let place = format!("{query:?}|{stage:?}|{rank}|{replicas}|{worker:?}|{seed}|{scratch}");
        Ok(Column::new_scalar("".into(), Scalar::from(PlSmallStr::from(place)), rows))
    }

    fn stop(&self, seed: u64, cx: &Context) -> UdfResult<()> {
        assert_eq!(cx.seed(), seed);
        cx.metrics().count("stopped", 1);
        Ok(())
    }
}

#[regatta::udf(name = "reporting async")]
impl AsyncUdf for Async {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, cx: &mut Start) -> UdfResult<()> {
        cx.metrics().count("started", 1);
        Ok(())
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        batch.metrics().count("rows", batch.height() as u64);
        tokio::task::yield_now().await;
        Ok(batch.column(0)?.clone())
    }

    async fn stop(&self, (): (), cx: &Context) -> UdfResult<()> {
        cx.metrics().count("stopped", 1);
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Async;

fn reported(run: &Run, udf: &str) -> Metrics {
    run.status().unwrap().unwrap().metrics.get(udf).cloned().unwrap_or_default()
}

fn finished(session: &Session, expr: Expr) -> Run {
    let mut run = session.submit(numbers().select([expr])).unwrap();
    assert_eq!(run.collect().unwrap().height(), 1000);
    run
}

#[test]
fn each_row_is_reported_once_also_where_its_batch_was_tried_again() {
    on_both(|session| {
        let pool = || Reporting { failures: 1 }.pool().replicas(2).batch(100).max_retries(1).keep_warm(Duration::ZERO);
        let run = finished(session, pool().on([col("x")]));
        eventually("both replicas have stopped", || reported(&run, "reporting").counter("stopped") == 2);
        let metrics = reported(&run, "reporting");
        assert_eq!((metrics.counter("rows"), metrics.counter("started")), (1000, 2));
        assert_eq!(metrics.get("height"), Some(Metric::Gauge { least: 100.0, most: 100.0, last: 100.0 }));
        let text = run.status().unwrap().unwrap().to_string();
        assert!(text.contains("UDF reporting reports: height 100 (100 to 100), rows 1000, started 2"), "{text}");

        // An input that is no column of the batch: Polars evaluates the call in place.
        let run = finished(session, pool().on([col("x") + col("x").max()]));
        let metrics = reported(&run, "reporting");
        assert_eq!((metrics.counter("rows"), metrics.counter("started")), (1000, 1));

        for pool in [Async.pool().batch(10), Async.pool().batch(10).isolated()] {
            let run = finished(session, pool.replicas(2).keep_warm(Duration::ZERO).on([col("x")]));
            eventually("both replicas have stopped", || reported(&run, "reporting async").counter("stopped") == 2);
            let metrics = reported(&run, "reporting async");
            assert_eq!((metrics.counter("rows"), metrics.counter("started")), (1000, 2));
        }

        let isolated = Reporting { failures: 0 }.pool().isolated().batch(100).keep_warm(Duration::ZERO);
        let run = finished(session, isolated.on([col("x")]));
        eventually("the replica has stopped", || reported(&run, "reporting").counter("stopped") == 1);
        let metrics = reported(&run, "reporting");
        assert_eq!((metrics.counter("rows"), metrics.counter("started")), (1000, 1));
    });
}

#[test]
fn a_replica_knows_its_place_and_its_folder_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    on_both(|session| {
        let pool = Reporting { failures: 0 }.pool().replicas(2).batch(10).keep_warm(Duration::ZERO);
        let query = row_groups(folder.path(), 1000).select([pool.on([col("x")])]);
        let frame = query.collect_on(session).unwrap();
        let places: BTreeSet<_> = frame.column("x").unwrap().str().unwrap().iter().flatten().collect();
        let places: Vec<Vec<_>> = places.into_iter().map(|place| place.split('|').collect()).collect();
        assert_eq!(places.len(), 2, "two replicas: {places:?}");
        let part = |n: usize| places.iter().map(|place| place[n]).collect::<BTreeSet<_>>();
        assert!(part(0).len() == 1 && places[0][0].starts_with("Some("), "one query: {places:?}");
        assert_eq!((part(1), part(2)), (BTreeSet::from(["Some(0)"]), BTreeSet::from(["0", "1"])));
        assert_eq!((part(3), part(5).len()), (BTreeSet::from(["2"]), 2));
        assert!(part(4).iter().all(|worker| ["Some(0)", "Some(1)"].contains(worker)));
        eventually("their folders are gone", || !part(6).iter().any(|scratch| Path::new(scratch).exists()));
    });
}

#[regatta::udf(name = "chatty")]
fn chatty(cx: &Context, x: i64) -> i64 {
    if cx.attempt() == 1 && x == 7 {
        tracing::warn!("seven bells");
        println!("printed bells");
    }
    x
}

const AS_DRIVER: &str = "REGATTA_TEST_CHATTY_DRIVER";

/// This test binary, started again by the test below, whose standard error is read there.
#[test]
fn driver_of_a_udf_that_logs() {
    if std::env::var_os(AS_DRIVER).is_some() {
        let session = Session::local(1).unwrap();
        for pool in [chatty::pool(), chatty::pool().isolated()] {
            assert_eq!(numbers().select([pool.on([col("x")])]).collect_on(&session).unwrap().height(), 1000);
        }
    }
}

#[test]
fn what_a_udf_logs_or_an_isolated_one_prints_is_heard_with_udf_query_stage_and_rank() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "contexts::driver_of_a_udf_that_logs"])
        .env(AS_DRIVER, "1")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = |what: &str| errors.lines().filter(|line| line.contains(what)).map(str::to_owned).collect::<Vec<_>>();
    let placed = |line: &String| {
        ["[worker 0]", "replica{udf=\"chatty\" query=", "stage=0", "rank=0"].iter().all(|part| line.contains(part))
    };
    let (logged, printed) = (said("seven bells"), said("printed bells"));
    assert!(logged.len() == 2 && logged.iter().all(placed), "from its thread, and from its process: {logged:?}");
    assert!(printed.len() == 1 && printed.iter().all(placed), "only of the process: {printed:?}");
}
