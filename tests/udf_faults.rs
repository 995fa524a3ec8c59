//! A UDF that does everything wrong, in a process of its own: a clear error or the policy's result, on time, and a healthy
//! cluster after it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{process, thread};

use regatta::error::PoolFailure;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::udf::{Pool, Registered};
use regatta::{Config, Error};
use serde::{Deserialize, Serialize};

regatta::testing::worker!();

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
enum How {
    Sleeps,
    Panics,
    Aborts,
    /// The first time only.
    AbortsOnce,
    Exits,
    /// With a batch that begins with 300.
    ExitsAt300,
    Prints,
    OtherDtype,
    TooFewRows,
    Nulls,
    Allocates,
    IgnoresCancel,
    NeverReady,
    StartAborts,
}

/// Returns its input, unless it does what it is told; leaves the number of its process in `folder`.
#[derive(Serialize, Deserialize)]
struct Misbehaves {
    how: How,
    folder: PathBuf,
}

#[regatta::udf(name = "misbehaves")]
impl Udf for Misbehaves {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, cx: &mut Start) -> UdfResult<()> {
        fs::write(self.folder.join(process::id().to_string()), "")?;
        cx.progress("loading the cannons");
        match self.how {
            How::NeverReady => thread::sleep(Duration::from_secs(600)),
            How::StartAborts => process::abort(),
            _ => (),
        }
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        self.misbehave(batch)
    }
}

/// The same, with many calls in flight; what blocks, blocks its thread.
#[derive(Serialize, Deserialize)]
struct AsyncMisbehaves(Misbehaves);

#[regatta::udf(name = "misbehaves async")]
impl AsyncUdf for AsyncMisbehaves {
    type State = ();

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        self.0.output(inputs)
    }

    async fn start(&self, cx: &mut Start) -> UdfResult<()> {
        self.0.start(cx)
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        // Until all that are in flight are there.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.0.misbehave(batch)
    }
}

impl Misbehaves {
    fn misbehave(&self, batch: &Batch) -> UdfResult<Column> {
        let column = batch.column(0)?;
        match self.how {
            How::Sleeps => thread::sleep(Duration::from_secs(600)),
            How::Panics => panic!("the mast broke"),
            How::Aborts => {
                eprintln!("water in the hold");
                process::abort()
            }
            How::AbortsOnce if File::create_new(self.folder.join("once")).is_ok() => process::abort(),
            How::Exits => process::exit(3),
            How::ExitsAt300 if column.i64()?.first() == Some(300) => process::exit(3),
            How::Prints => {
                let line = "x".repeat(1 << 10);
                (0..1 << 10).for_each(|_| println!("{line}"));
                std::io::stdout().write_all("y".repeat(1 << 20).as_bytes())?;
            }
            How::OtherDtype => return Ok(column.cast(&DataType::String)?),
            How::TooFewRows => return Ok(column.slice(0, 1)),
            How::Nulls => return Ok(Column::full_null("".into(), batch.height(), &DataType::Null)),
            How::Allocates => {
                let mut hold = Vec::new();
                loop {
                    hold.push(vec![1u8; 16 << 20]);
                }
            }
            How::IgnoresCancel => loop {
                thread::park();
            },
            _ => (),
        }
        Ok(column.clone())
    }
}

fn numbers() -> LazyFrame {
    df!["x" => (0..1000i64).collect::<Vec<_>>()].unwrap().lazy()
}

fn isolated(how: How, folder: &Path) -> Pool<Misbehaves> {
    Misbehaves { how, folder: folder.to_owned() }.pool().isolated().batch(100)
}

fn isolated_async(how: How, folder: &Path) -> Pool<AsyncMisbehaves> {
    AsyncMisbehaves(Misbehaves { how, folder: folder.to_owned() }).pool().isolated().batch(100)
}

fn collect<U: Registered>(session: &Session, pool: &Pool<U>) -> Result<Column, Error> {
    Ok(numbers().select([pool.on([col("x")])]).collect_on(session)?.column("x").unwrap().clone())
}

#[track_caller]
fn says(result: Result<Column, Error>, parts: &[&str]) {
    let text = result.expect_err("it misbehaves").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// Each way for itself on each kind of session; then all its processes have ended and the session still works.
fn on_both(check: impl Fn(&Session, &Path)) {
    let config = || Config { pool_warm: Duration::ZERO, ..Config::default() };
    for session in [Session::native_with(config()).unwrap(), Session::local_with(2, config()).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let workers = session.processes();
        check(&session, folder.path());
        eventually("its processes have ended", || !processes(folder.path()).any(is_alive));
        assert_eq!(session.processes(), workers, "no worker went with it");
        let healthy = tempfile::tempdir().unwrap();
        let sum = collect(&session, &isolated(How::AbortsOnce, healthy.path())).unwrap().i64().unwrap().sum();
        assert_eq!(sum, Some(999 * 500), "what died once was done again");
    }
}

fn processes(folder: &Path) -> impl Iterator<Item = u32> {
    let names = fs::read_dir(folder).unwrap().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn a_call_that_sleeps_is_killed_on_time_and_the_rest_runs_in_a_new_process() {
    on_both(|session, folder| {
        let pool = isolated(How::Sleeps, folder).batch(500).timeout(Duration::from_millis(200));
        says(collect(session, &pool), &["misbehaves", "replica 0 on worker", "0.2 s", "killed", ".timeout(..)"]);
        let nulls = collect(session, &pool.on_error(OnError::Null)).unwrap();
        assert_eq!(nulls.null_count(), 1000);
        assert!(processes(folder).count() >= 3, "each of two calls in a process of its own");
    });
}

#[test]
fn a_panic_is_an_error_with_its_text_or_nulls() {
    on_both(|session, folder| {
        says(collect(session, &isolated(How::Panics, folder)), &["misbehaves", "panicked", "the mast broke"]);
        assert_eq!(
            collect(session, &isolated(How::Panics, folder).on_error(OnError::Null)).unwrap().null_count(),
            1000
        );
    });
}

#[test]
fn a_batch_that_kills_two_processes_is_named_and_fails_or_becomes_nulls() {
    on_both(|session, folder| {
        let error = collect(session, &isolated(How::Aborts, folder));
        says(error, &["misbehaves", "a batch of 100 rows", "2 replicas", "x: 0", "signal: 6", "water in the hold"]);
        says(collect(session, &isolated(How::Exits, folder)), &["a batch of 100 rows", "exit status: 3"]);
        let nulls = collect(session, &isolated(How::ExitsAt300, folder).on_error(OnError::Null)).unwrap();
        assert_eq!(nulls.i64().unwrap().get(299), Some(299));
        assert_eq!((nulls.null_count(), nulls.i64().unwrap().get(300)), (100, None), "that batch and no other");
        says(collect(session, &isolated(How::StartAborts, folder)), &["misbehaves", "could not start", "signal: 6"]);
    });
}

#[test]
fn two_mebibytes_of_output_hold_up_nothing() {
    on_both(|session, folder| {
        let sum = collect(session, &isolated(How::Prints, folder)).unwrap().i64().unwrap().sum();
        assert_eq!(sum, Some(999 * 500));
    });
}

#[test]
fn an_answer_of_another_dtype_or_length_is_refused_and_nulls_are_any_dtype() {
    on_both(|session, folder| {
        says(collect(session, &isolated(How::OtherDtype, folder)), &["misbehaves", "promised i64", "returned str"]);
        says(collect(session, &isolated(How::TooFewRows, folder)), &["misbehaves", "1 rows for a batch of 100"]);
        let nulls = collect(session, &isolated(How::Nulls, folder)).unwrap();
        assert_eq!((nulls.dtype(), nulls.null_count()), (&DataType::Int64, 1000));
    });
}

#[test]
fn a_process_that_allocates_without_end_dies_at_its_limit_and_nothing_else_does() {
    on_both(|session, folder| {
        let pool = isolated(How::Allocates, folder).memory(256 << 20);
        says(collect(session, &pool), &["misbehaves", "2 replicas", "signal: 6", "memory allocation"]);
    });
}

#[test]
fn a_call_that_ignores_the_cancel_is_killed_with_its_process() {
    on_both(|session, folder| {
        let query = numbers().select([isolated(How::IgnoresCancel, folder).on([col("x")])]);
        let run = session.submit(query).unwrap();
        eventually("it runs", || run.status().unwrap().is_some_and(|status| status.stages[0].tasks.1 > 0));
        run.cancel();
        eventually("its process has ended", || !processes(folder).any(is_alive));
    });
}

#[test]
fn a_replica_that_never_becomes_ready_is_an_error_with_its_last_word_and_is_killed() {
    on_both(|session, folder| {
        let pool = isolated(How::NeverReady, folder);
        let run = session.submit(numbers().select([pool.on([col("x")])])).unwrap();
        eventually("its progress shows", || {
            let status = run.status().unwrap().map(|status| status.stages[0].pools[0].starting.clone());
            status.is_some_and(|starting| starting == [Some("loading the cannons".to_owned())])
        });
        drop(run);
        let result = collect(session, &pool.ready_timeout(Duration::from_secs(5)));
        let not_ready =
            |error: &Error| matches!(error, Error::Pool(pool) if matches!(pool.cause, PoolFailure::NotReady { .. }));
        assert!(result.as_ref().is_err_and(not_ready), "{result:?}");
        says(result, &["misbehaves", "within 5 s", "loading the cannons", ".ready_timeout(..)"]);
    });
}

#[test]
fn the_process_of_an_async_udf_may_do_all_of_that_too() {
    on_both(|session, folder| {
        let pool = |how| isolated_async(how, folder);
        // Each batch does it: it is the first whose second death is heard of, or the end of all attempts to start anew.
        says(collect(session, &pool(How::Aborts)), &["misbehaves async", "signal: 6", "water in the hold"]);
        says(collect(session, &pool(How::Panics)), &["misbehaves async", "panicked", "the mast broke"]);
        says(collect(session, &pool(How::StartAborts)), &["misbehaves async", "could not start", "signal: 6"]);
        says(collect(session, &pool(How::OtherDtype)), &["misbehaves async", "promised i64", "returned str"]);
        let limited = pool(How::Allocates).memory(256 << 20);
        says(collect(session, &limited), &["misbehaves async", "signal: 6", "memory allocation"]);
        let printed = collect(session, &pool(How::Prints)).unwrap();
        assert_eq!(printed.i64().unwrap().sum(), Some(999 * 500));
    });
}

#[test]
fn of_many_calls_in_flight_the_one_that_kills_its_process_is_found() {
    on_both(|session, folder| {
        let pool = isolated_async(How::ExitsAt300, folder);
        says(collect(session, &pool), &["a batch of 100 rows", "x: 300", "exit status: 3"]);
        let nulls = collect(session, &pool.on_error(OnError::Null)).unwrap();
        assert_eq!(nulls.i64().unwrap().get(299), Some(299));
        assert_eq!((nulls.null_count(), nulls.i64().unwrap().get(300)), (100, None), "that batch and no other");
    });
}

#[test]
fn an_async_process_whose_thread_is_blocked_is_killed_and_one_that_is_cancelled_too() {
    on_both(|session, folder| {
        let blocked = isolated_async(How::Sleeps, folder).batch(1000).timeout(Duration::from_millis(200));
        says(
            collect(session, &blocked),
            &["misbehaves async", "a batch of 1000 rows", "2 replicas", "thread was blocked"],
        );
        let query = numbers().select([isolated_async(How::IgnoresCancel, folder).on([col("x")])]);
        let run = session.submit(query).unwrap();
        eventually("it runs", || run.status().unwrap().is_some_and(|status| status.stages[0].tasks.1 > 0));
        run.cancel();
        eventually("its process has ended", || !processes(folder).any(is_alive));
    });
}

#[test]
fn a_process_ends_with_its_worker_however_that_ends() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(1).unwrap();
    let run = session.submit(numbers().select([isolated(How::IgnoresCancel, folder.path()).on([col("x")])])).unwrap();
    eventually("its process runs", || processes(folder.path()).any(is_alive));
    let child = processes(folder.path()).next().unwrap();
    let worker = session.processes()[0].to_string();
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-9", &worker]).status().unwrap().success());
    eventually("its process has ended", || !is_alive(child));
    assert!(killed.elapsed() < Duration::from_secs(10));
    drop(run);
}

#[test]
fn a_thread_that_panics_aborts_nothing_and_one_that_never_answers_is_left_behind() {
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let thread = |how| Misbehaves { how, folder: folder.path().to_owned() }.pool().batch(100);
        says(collect(&session, &thread(How::Panics)), &["misbehaves", "panicked", "the mast broke"]);
        // One batch: of several, one that finds no replica left may be the first that is heard of.
        let sleeps = thread(How::Sleeps).batch(1000).timeout(Duration::from_millis(200));
        says(collect(&session, &sleeps), &["misbehaves", "0.2 s", "not used again"]);
        assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000);
    }
}

#[test]
fn a_thread_that_aborts_takes_its_worker_with_it_once_for_nothing_and_five_times_for_an_error_that_names_the_udf() {
    let session = Session::local(2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let thread = |how| Misbehaves { how, folder: folder.path().to_owned() }.pool().batch(100);
    let workers = session.processes();
    assert_eq!(collect(&session, &thread(How::AbortsOnce)).unwrap().i64().unwrap().sum(), Some(999 * 500));
    assert_ne!(session.processes(), workers, "one was replaced");
    says(
        collect(&session, &thread(How::Aborts)),
        &["misbehaves", "replica", "was lost with worker", "SIGABRT", ".isolated()"],
    );
    assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000, "and the workers are there again");
}

/// Notes that it was stopped.
#[derive(Serialize, Deserialize)]
struct Moors {
    folder: PathBuf,
}

#[regatta::udf]
impl Udf for Moors {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        Ok(batch.column(0)?.clone())
    }

    fn stop(&self, (): (), _: &Context) -> UdfResult<()> {
        Ok(fs::write(self.folder.join("moored"), "")?)
    }
}

/// The same, async.
#[derive(Serialize, Deserialize)]
struct AsyncMoors(Moors);

#[regatta::udf]
impl AsyncUdf for AsyncMoors {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        Ok(batch.column(0)?.clone())
    }

    async fn stop(&self, (): (), cx: &Context) -> UdfResult<()> {
        self.0.stop((), cx)
    }
}

#[test]
fn what_is_warm_is_stopped_with_its_session_and_with_its_driver() {
    fn stops<U: Registered>(pool: impl Fn(PathBuf) -> Pool<U>) {
        for workers in [0, 2] {
            let folder = tempfile::tempdir().unwrap();
            let session = if workers == 0 { Session::native() } else { Session::local(workers) }.unwrap();
            collect(&session, &pool(folder.path().to_owned())).unwrap();
            assert!(!folder.path().join("moored").exists(), "it is warm");
            drop(session);
            eventually("it was stopped", || folder.path().join("moored").exists());
        }
    }
    stops(|folder| Moors { folder }.pool());
    stops(|folder| Moors { folder }.pool().isolated());
    stops(|folder| AsyncMoors(Moors { folder }).pool());
}
