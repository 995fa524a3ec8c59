//! Async UDFs: many calls in flight, within a bound; each can be ended.

use std::cell::Cell;
use std::num::ParseIntError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::udf::Metric;
use regatta::{Config, Error};
use serde::{Deserialize, Serialize};

use crate::errors::{on_both, says};
use crate::udfs::numbers;

#[derive(Serialize, Deserialize, Clone, Copy)]
enum How {
    /// Shows how many calls are in flight.
    Crowded,
    /// Takes half a second.
    Slow,
    /// The first attempt at the first row never ends.
    FirstHangs,
    /// Blocks its thread, which it must not.
    FirstBlocks,
    Panics,
    StartPanics,
}

#[derive(Serialize, Deserialize)]
struct Waiting(How);

/// Futures that were dropped before their end, in this process.
static DROPPED: AtomicUsize = AtomicUsize::new(0);
static HANGING: AtomicUsize = AtomicUsize::new(0);

struct Unfinished;

impl Drop for Unfinished {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

#[regatta::udf(name = "waiting")]
impl AsyncUdf for Waiting {
    type State = Cell<usize>;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<Cell<usize>> {
        assert!(!matches!(self.0, How::StartPanics), "no wind");
        tokio::task::yield_now().await;
        Ok(Cell::new(0))
    }

    async fn run(&self, in_flight: &Cell<usize>, batch: &Batch) -> UdfResult<Column> {
        let first = batch.attempt() == 1 && batch.column(0)?.i64()?.first() == Some(0);
        match self.0 {
            How::Crowded => {
                in_flight.set(in_flight.get() + 1);
                batch.metrics().gauge("in flight", in_flight.get() as f64);
                tokio::time::sleep(Duration::from_millis(20)).await;
                in_flight.set(in_flight.get() - 1);
            }
            How::Slow => tokio::time::sleep(Duration::from_millis(500)).await,
            How::FirstHangs if first => {
                let _unfinished = Unfinished;
                HANGING.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            How::FirstBlocks if first => loop {
                std::thread::park();
            },
            How::Panics if first => panic!("overboard"),
            _ => (),
        }
        Ok(batch.column(0)?.clone())
    }
}

#[regatta::udf(name = "doubled")]
async fn doubled(x: i64) -> Option<i64> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    (x != 7).then_some(x * 2)
}

#[regatta::udf(name = "parsed")]
async fn parsed(s: &str) -> Result<i64, ParseIntError> {
    tokio::task::yield_now().await;
    s.parse()
}

#[regatta::udf(name = "summed", dtype = DataType::Int64)]
async fn summed(a: &Series, b: &Series) -> UdfResult<Series> {
    tokio::task::yield_now().await;
    Ok((a + b)?)
}

/// Row-wise calls that run now, and the most that did, in this process.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[regatta::udf(name = "counted")]
async fn counted(x: i64) -> i64 {
    MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1)).await;
    RUNNING.fetch_sub(1, Ordering::SeqCst);
    x
}

fn most_in_flight(session: &Session, pool: regatta::udf::Pool<Waiting>) -> f64 {
    let mut run = session.submit(numbers().select([pool.batch(20).on([col("x")])])).unwrap();
    let frame = run.collect().unwrap();
    assert_eq!(frame.column("x").unwrap().i64().unwrap().to_vec(), (0..1000).map(Some).collect::<Vec<_>>());
    match run.status().unwrap().unwrap().metrics["waiting"].get("in flight") {
        Some(Metric::Gauge { most, .. }) => most,
        other => panic!("it reports a gauge, not {other:?}"),
    }
}

#[test]
fn calls_are_in_flight_together_and_never_more_than_was_said() {
    on_both(|session| {
        assert_eq!(most_in_flight(session, Waiting(How::Crowded).pool().in_flight(5)), 5.0);
        assert_eq!(most_in_flight(session, Waiting(How::Crowded).pool().in_flight(1)), 1.0);
        assert_eq!(most_in_flight(session, Waiting(How::Crowded).pool().in_flight(5).isolated()), 5.0);
    });
    let session = Session::native_with(Config { max_async_udf_inflight_tasks: 3, ..Config::default() }).unwrap();
    assert_eq!(most_in_flight(&session, Waiting(How::Crowded).pool()), 3.0, "the session's setting");
    let frame = numbers().select([counted::pool().batch(100).in_flight(7).on([col("x")])]);
    assert_eq!(frame.collect_on(&session).unwrap().height(), 1000);
    assert_eq!(MOST.load(Ordering::SeqCst), 7, "rows, over all batches of the replica");
    let error = session.submit(numbers().select([counted::pool().in_flight(0).on([col("x")])])).unwrap_err();
    says(&error, &["counted", "in_flight(0)"]);
}

#[test]
fn async_functions_answer_as_others_do() {
    on_both(|session| {
        for pool in [doubled::pool(), doubled::pool().isolated().batch(10).replicas(2)] {
            let frame = numbers().select([pool.on([col("x")])]).collect_on(session).unwrap();
            let expected: Vec<_> = (0..1000).map(|x| (x != 7).then_some(x * 2)).collect();
            assert_eq!(frame.column("x").unwrap().i64().unwrap().to_vec(), expected, "in the order of the rows");
        }
        let words = || df!["s" => [Some("1"), Some("two"), None, Some("4")]].unwrap().lazy();
        let nulls =
            words().select([parsed::pool().on_error(OnError::Null).on([col("s")])]).collect_on(session).unwrap();
        assert_eq!(nulls.column("s").unwrap().i64().unwrap().to_vec(), [Some(1), None, None, Some(4)]);
        let error = words().select([parsed::on([col("s")])]).collect_on(session).unwrap_err();
        says(&error, &["UDF parsed", "row 1 of a batch of 4", "invalid digit"]);
        let frame = numbers().select([summed::on([col("x"), col("x")])]).collect_on(session).unwrap();
        assert_eq!(frame.column("x").unwrap().i64().unwrap().sum(), Some(999 * 1000));
    });
    let plain = numbers().select([doubled::on([col("x")])]).collect().unwrap();
    assert_eq!(plain.column("x").unwrap().null_count(), 1, "Polars itself runs it too");
}

#[test]
fn a_call_that_is_overdue_is_dropped_and_its_replica_goes_on() {
    on_both(|session| {
        let pool = |how| Waiting(how).pool().batch(100).timeout(Duration::from_millis(300));
        for pool in [pool(How::FirstHangs), pool(How::FirstHangs).isolated()] {
            let frame = numbers().select([pool.max_retries(1).on([col("x")])]).collect_on(session).unwrap();
            assert_eq!(frame.column("x").unwrap().i64().unwrap().sum(), Some(999 * 500));
        }
        // A process whose thread is blocked is killed; the others of its calls are none the worse.
        let blocks = pool(How::FirstBlocks).isolated().on_error(OnError::Null);
        let frame = numbers().select([blocks.on([col("x")])]).collect_on(session).unwrap();
        assert_eq!(frame.column("x").unwrap().null_count(), 100, "the batch that blocks, and no other");
        let error = numbers().select([pool(How::FirstHangs).on([col("x")])]).collect_on(session).unwrap_err();
        says(&error, &["waiting", "replica 0 on worker", "0.3 s", "dropped", ".timeout(..)"]);
        let error = numbers().select([pool(How::FirstBlocks).on([col("x")])]).collect_on(session).unwrap_err();
        says(&error, &["waiting", "0.3 s", "hangs"]);
    });
}

#[test]
fn calls_that_wait_too_long_for_a_place_are_overdue_and_their_replica_goes_on() {
    // Ten queries share the replica and call at once, and the last call would wait for five seconds.
    let session = Session::native_with(Config { min_cpu_per_task: 0.1, ..Config::default() }).unwrap();
    let pool = || Waiting(How::Slow).pool().in_flight(1).timeout(Duration::from_secs(2)).on_error(OnError::Null);
    for pool in [pool(), pool().isolated()] {
        let query = || numbers().select([pool.on([col("x")])]);
        let runs: Vec<_> = (0..10).map(|_| session.submit(query()).unwrap()).collect();
        let nulls = runs.into_iter().map(|mut run| run.collect().unwrap().column("x").unwrap().null_count());
        let late = nulls.filter(|nulls| *nulls == 1000).count();
        assert!(late >= 6, "four calls end in two seconds at most, and {late} were late");
        assert_eq!(query().collect_on(&session).unwrap().column("x").unwrap().null_count(), 0);
    }
}

#[test]
fn a_cancelled_query_drops_the_futures_that_run() {
    let session = Session::native().unwrap();
    let (hanging, dropped) = (HANGING.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed));
    let run = session.submit(numbers().select([Waiting(How::FirstHangs).pool().on([col("x")])])).unwrap();
    eventually("it hangs", || HANGING.load(Ordering::Relaxed) > hanging);
    run.cancel();
    eventually("it is dropped", || DROPPED.load(Ordering::Relaxed) > dropped);
}

#[test]
fn a_panic_fails_its_call_and_the_replica_is_started_anew() {
    on_both(|session| {
        let panics = || Waiting(How::Panics).pool().batch(100);
        let isolated = panics().isolated().on_error(OnError::Null).on([col("x")]);
        let frame = numbers().select([isolated]).collect_on(session).unwrap();
        assert_eq!(frame.column("x").unwrap().null_count(), 100, "the first batch only, also of a process");
        let error = numbers().select([panics().on([col("x")])]).collect_on(session).unwrap_err();
        says(&error, &["waiting", "panicked", "overboard", "asyncs.rs:"]);
        let frame = numbers().select([panics().on_error(OnError::Null).on([col("x")])]).collect_on(session).unwrap();
        assert_eq!(frame.column("x").unwrap().null_count(), 100, "the first batch only");
        let start = numbers().select([Waiting(How::StartPanics).pool().on([col("x")])]).collect_on(session);
        let error = start.unwrap_err();
        assert!(matches!(error, Error::Pool(_)));
        says(&error, &["waiting", "start panicked", "no wind"]);
    });
}
