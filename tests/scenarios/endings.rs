//! However a query or a session ends, nothing is left of it.

use std::process::Command;
use std::time::{Duration, Instant};

use regatta::error::{ClusterError, TaskFailure};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::{Config, Error};

use crate::udfs::{Endless, Fault, Faulty, numbers};

fn endless() -> LazyFrame {
    numbers().select([Endless.pool().on([col("x")])])
}

/// Waits for a condition that some other thread or process brings about.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

fn is_alive(process: u32) -> bool {
    // Threads end one by one, and the process's files are closed by the last. A zombie holds nothing.
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let states = threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    states
        .into_iter()
        .any(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z")))
}

#[test]
fn a_cancelled_query_ends_with_cancelled_and_the_session_goes_on() {
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let mut run = session.submit(endless()).unwrap();
        eventually("a task runs", || run.status().unwrap().is_some_and(|s| s.stages[0].tasks.1 > 0));
        run.cancel();
        assert!(matches!(run.collect(), Err(Error::Cancelled)));
        assert!(run.status().unwrap().is_none());
        assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000);
        eventually("the store is empty", || session.partitions_held() == 0);
    }
}

#[test]
fn a_dropped_run_frees_its_partitions() {
    let session = Session::native().unwrap();
    let mut run = session.submit(numbers()).unwrap();
    assert_eq!(run.collect().unwrap().height(), 1000);
    assert_eq!(session.partitions_held(), 1, "kept until the run is dropped");
    assert!(matches!(run.collect(), Err(Error::Cluster(ClusterError::Closed))), "a result is taken once");
    drop(run);
    eventually("the store is empty", || session.partitions_held() == 0);
}

#[test]
fn a_failed_query_leaves_nothing_and_the_session_goes_on() {
    let session = Session::local(2).unwrap();
    for fault in [Fault::StartError, Fault::RunPanic] {
        let query = numbers().select([Faulty(fault).pool().on([col("x")])]);
        assert!(query.collect_on(&session).is_err());
        assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000);
    }
    eventually("the store is empty", || session.partitions_held() == 0);
}

#[test]
fn a_session_that_ends_ends_its_workers_and_removes_its_scratch_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let session = Session::local_with(2, Config { scratch: scratch.path().to_owned(), ..Config::default() }).unwrap();
    let run = session.submit(endless()).unwrap();
    let workers = session.processes();
    assert!(workers.iter().all(|worker| is_alive(*worker)));
    let folder = std::fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    drop((run, session));
    assert!(
        !workers.iter().any(|worker| is_alive(*worker)),
        "workers end with the session, even in the middle of a UDF"
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_killed_worker_fails_its_query_with_its_name_and_the_others_go_on() {
    let session = Session::local(2).unwrap();
    let mut run = session.submit(endless()).unwrap();
    eventually("a task runs", || run.status().unwrap().is_some_and(|s| s.stages[0].tasks.1 > 0));
    // Task and replica are spread over the two workers: either is lost with either.
    let killed = Command::new("kill").args(["-9", &session.processes()[0].to_string()]).status().unwrap();
    assert!(killed.success());
    let error = run.collect().expect_err("half of it is gone");
    let text = error.to_string();
    assert!(text.contains("worker"), "{text}");
    let lost = matches!(&error, Error::Pool(_))
        || matches!(&error, Error::Task(task) if matches!(task.cause, TaskFailure::WorkerLost(_) | TaskFailure::Udf { .. }));
    assert!(lost, "{text}");
    assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000, "the other worker goes on");
}
