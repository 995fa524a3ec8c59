//! What becomes of a batch that fails: it runs again, its rows become null, or the query fails.

use std::collections::BTreeSet;
use std::num::ParseIntError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regatta::Error;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

use crate::errors::{on_both, says};
use crate::udfs::{Fault, Faulty, numbers};
use regatta::testing::eventually;

/// When a batch fails, or takes long.
#[derive(Serialize, Deserialize, Clone, Copy)]
enum Trouble {
    /// Every batch, before this attempt.
    UntilAttempt(u32),
    /// The first batch's first attempt, which wants to wait so many milliseconds.
    FirstBatchBusy(u64),
    /// The first batch's first attempt never ends.
    FirstBatchHangs,
    /// Every batch takes so many milliseconds.
    Slow(u64),
}

#[derive(Serialize, Deserialize)]
struct Troubled(Trouble);

/// Attempts that failed in this process.
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Answers with 1000 times the number of batches that this replica has finished, plus the attempt.
#[regatta::udf(name = "troubled")]
impl Udf for Troubled {
    type State = i64;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<i64> {
        Ok(0)
    }

    fn run(&self, finished: &mut i64, batch: &Batch) -> UdfResult<Column> {
        let attempt = batch.attempt();
        let first = attempt == 1 && batch.column(0)?.i64()?.first() == Some(0);
        let failed = |error: UdfError| {
            FAILED.fetch_add(1, Ordering::Relaxed);
            Err(error)
        };
        match self.0 {
            Trouble::UntilAttempt(n) if attempt < n => return failed(UdfError::new("not yet")),
            Trouble::FirstBatchBusy(ms) if first => {
                return failed(UdfError::new("busy").retry_after(Duration::from_millis(ms)));
            }
            Trouble::FirstBatchHangs if first => loop {
                thread::park();
            },
            Trouble::Slow(ms) => thread::sleep(Duration::from_millis(ms)),
            _ => (),
        }
        *finished += 1;
        Ok(Int64Chunked::from_vec("".into(), vec![*finished * 1000 + i64::from(attempt); batch.height()]).into_column())
    }
}

#[regatta::udf(name = "strict")]
fn strict(s: &str) -> Result<i64, ParseIntError> {
    assert_ne!(s, "panic", "told to");
    s.parse()
}

fn pool(trouble: Trouble) -> regatta::udf::Pool<Troubled> {
    Troubled(trouble).pool().batch(100)
}

fn answers(session: &Session, pool: regatta::udf::Pool<Troubled>) -> Result<Vec<i64>, Error> {
    let frame = numbers().select([pool.on([col("x")])]).collect_on(session)?;
    assert_eq!(frame.height(), 1000);
    Ok(frame.column("x").unwrap().i64().unwrap().iter().flatten().collect())
}

#[test]
fn a_failed_batch_runs_again_and_is_told_which_attempt_it_is() {
    on_both(|session| {
        let third_time = || pool(Trouble::UntilAttempt(3)).replicas(2);
        let attempts = answers(session, third_time().max_retries(2)).unwrap();
        assert_eq!(attempts.iter().map(|a| a % 1000).collect::<BTreeSet<_>>(), BTreeSet::from([3]));
        says(&answers(session, third_time().max_retries(1)).unwrap_err(), &["troubled", "replica", "not yet"]);
    });
}

#[test]
fn a_batch_that_waits_for_its_retry_holds_up_no_replica() {
    on_both(|session| {
        let finished = answers(session, pool(Trouble::FirstBatchBusy(700)).max_retries(1)).unwrap();
        assert_eq!(finished[0] % 1000, 2, "the first batch ran again");
        assert_eq!(Some(&finished[0]), finished.iter().max(), "after all others, on the one replica");
    });
}

#[test]
fn a_cancelled_query_does_not_wait_for_a_retry() {
    let session = Session::native().unwrap();
    let busy = pool(Trouble::FirstBatchBusy(60_000)).max_retries(1);
    let before = FAILED.load(Ordering::Relaxed);
    let mut run = session.submit(numbers().select([busy.on([col("x")])])).unwrap();
    eventually("the first attempt has failed", || FAILED.load(Ordering::Relaxed) > before);
    let cancelled = Instant::now();
    run.cancel();
    assert!(matches!(run.collect(), Err(Error::Cancelled)));
    drop((run, session));
    assert!(cancelled.elapsed() < Duration::from_secs(10), "{:?}", cancelled.elapsed());
}

#[test]
fn rows_that_fail_become_null_and_no_others() {
    let frame = || df!["s" => [Some("1"), Some("two"), None, Some("4")]].unwrap().lazy();
    on_both(|session| {
        for (policy, retries) in [(OnError::Null, 0), (OnError::Null, 1), (OnError::Log, 0)] {
            let pool = strict::pool().max_retries(retries).on_error(policy);
            let frame = frame().select([pool.on([col("s")])]).collect_on(session).unwrap();
            assert_eq!(Vec::from(frame.column("s").unwrap().i64().unwrap()), [Some(1), None, None, Some(4)]);
        }
    });
}

/// A server that refuses every fifth request.
fn served(cx: &Context, asked: &AtomicUsize, x: i64) -> UdfResult<i64> {
    cx.metrics().count("asked", 1);
    if asked.fetch_add(1, Ordering::Relaxed) % 5 == 4 { Err(UdfError::new("busy")) } else { Ok(x * 10) }
}

static ASKED: AtomicUsize = AtomicUsize::new(0);

#[regatta::udf(name = "asks")]
fn asks(cx: &Context, x: i64) -> UdfResult<i64> {
    served(cx, &ASKED, x)
}

#[regatta::udf(name = "asks_at_once")]
async fn asks_at_once(cx: &Context, x: i64) -> UdfResult<i64> {
    tokio::task::yield_now().await;
    served(cx, &ASKED, x)
}

static ASKED_TWICE: AtomicUsize = AtomicUsize::new(0);

#[regatta::udf]
fn asks_twice(cx: &Context, x: i64) -> UdfResult<i64> {
    served(cx, &ASKED_TWICE, x)
}

#[test]
fn of_a_function_only_rows_that_failed_run_again_and_no_other_is_lost() {
    type Form = (&'static str, fn() -> Expr);
    let forms: [Form; 3] = [
        ("asks", || asks::pool().batch(500).max_retries(20).on([col("x")])),
        ("asks", || asks::pool().batch(500).max_retries(20).isolated().on([col("x")])),
        ("asks_at_once", || asks_at_once::pool().batch(500).max_retries(20).on([col("x")])),
    ];
    let tens: Vec<_> = (0..1000).map(|x| Some(10 * x)).collect();
    on_both(|session| {
        for (name, form) in forms {
            let mut run = session.submit(numbers().select([form()])).unwrap();
            let answer = run.collect().unwrap();
            assert_eq!(Vec::from(answer.column("x").unwrap().i64().unwrap()), tens, "{name}");
            let asked = run.status().unwrap().unwrap().metrics[name].counter("asked");
            assert_eq!(asked, 1000, "{name}: what was refused does not count");
        }
    });
    let before = ASKED.load(Ordering::Relaxed);
    let plain = numbers().select([asks::pool().max_retries(20).on([col("x")])]).collect().unwrap();
    assert_eq!(Vec::from(plain.column("x").unwrap().i64().unwrap()), tens);
    let asked = ASKED.load(Ordering::Relaxed) - before;
    assert!((1200..1300).contains(&asked), "one of five again, and one of five of those: {asked}");

    // A fifth is refused, and a fifth of those once more.
    let session = Session::native().unwrap();
    let twice = asks_twice::pool().batch(1000).max_retries(1).on_error(OnError::Null).on([col("x")]);
    let answer = numbers().select([twice]).collect_on(&session).unwrap();
    let answer = Vec::from(answer.column("x").unwrap().i64().unwrap());
    assert_eq!(answer.iter().flatten().count(), 960);
    assert!(answer.iter().zip(&tens).all(|(got, ten)| got.is_none() || got == ten));
    let last = asks_twice::pool().batch(1000).max_retries(1).on([col("x")]);
    says(
        &numbers().select([last]).collect_on(&session).expect_err("twice refused"),
        &["row 24 of a batch of 1000: busy"],
    );
}

#[test]
fn a_batch_that_fails_becomes_nulls_and_a_replica_that_panicked_is_started_anew() {
    on_both(|session| {
        for fault in [Fault::RunError, Fault::RunPanic, Fault::TooFewRows, Fault::OtherDtype] {
            let pool = Faulty(fault).pool().batch(100).on_error(OnError::Null);
            let frame = numbers().select([pool.on([col("x")])]).collect_on(session).unwrap();
            let column = frame.column("x").unwrap();
            assert_eq!((column.dtype(), column.len(), column.null_count()), (&DataType::Int64, 1000, 1000));
        }
        let frame = df!["s" => ["1", "2", "panic", "4", "5", "6"]].unwrap().lazy();
        let pool = strict::pool().batch(1).on_error(OnError::Log);
        let frame = frame.select([pool.on([col("s")])]).collect_on(session).unwrap();
        let numbers = Vec::from(frame.column("s").unwrap().i64().unwrap());
        assert_eq!(numbers, [Some(1), Some(2), None, Some(4), Some(5), Some(6)]);
    });
}

#[test]
fn a_call_that_hangs_runs_again_on_another_replica_and_the_one_that_hangs_is_left_alone() {
    on_both(|session| {
        let pool = pool(Trouble::FirstBatchHangs).timeout(Duration::from_millis(400)).replicas(2).max_retries(1);
        let attempts = answers(session, pool).unwrap();
        assert_eq!(attempts[0] % 1000, 2, "the first batch ran again");
        assert!(attempts[100..].iter().all(|a| a % 1000 == 1), "those that waited behind it had not run");
    });
}

#[test]
fn a_query_without_a_replica_that_does_not_hang_fails_and_says_so() {
    on_both(|session| {
        let hangs = || pool(Trouble::FirstBatchHangs).timeout(Duration::from_millis(200));
        let error = answers(session, hangs()).unwrap_err();
        says(&error, &["troubled", "replica 0 on worker", "0.2 s", "timeout"]);
        let error = answers(session, hangs().max_retries(1)).unwrap_err();
        says(&error, &["troubled", "replica 0 on worker", "no replica is left", "timeout"]);
    });
}

#[test]
fn time_in_the_queue_of_a_replica_is_not_time_of_the_call() {
    on_both(|session| {
        // Two calls are at the replica at once: waiting and running take 800 ms, running alone 400.
        let pool = pool(Trouble::Slow(400)).batch(250).timeout(Duration::from_millis(700));
        answers(session, pool).unwrap();
    });
}

#[test]
fn in_plain_polars_retries_policies_and_time_outs_hold_too() {
    let plain = |expr: Expr| numbers().select([expr.alias("out")]).collect();
    let out = plain(pool(Trouble::UntilAttempt(2)).batch(1000).max_retries(1).on([col("x")])).unwrap();
    assert_eq!(out.column("out").unwrap().i64().unwrap().first(), Some(1002));
    let out = plain(Faulty(Fault::OtherDtype).pool().on_error(OnError::Null).on([col("x")])).unwrap();
    assert_eq!(out.column("out").unwrap().null_count(), 1000);
    let hangs = pool(Trouble::FirstBatchHangs).timeout(Duration::from_millis(200));
    let error = plain(hangs.on([col("x")])).unwrap_err().to_string();
    assert!(error.contains("troubled") && error.contains("0.2 s"), "{error}");
}
