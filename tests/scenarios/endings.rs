//! However a query or a session ends, nothing is left of it.

use std::path::Path;
use std::process::Command;

use regatta::observe::QueryState;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Error};

use crate::udfs::{Endless, Fault, Faulty, Process, numbers, row_groups};

fn endless() -> LazyFrame {
    numbers().select([Endless.pool().on([col("x")])])
}

pub(crate) fn is_alive(process: u32) -> bool {
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
        assert_eq!(run.status().unwrap().unwrap().state, QueryState::Cancelled);
        assert_eq!(numbers().collect_on(&session).unwrap().height(), 1000);
        eventually("the store is empty", || session.partitions_held() == 0);
    }
}

#[test]
fn a_dropped_run_frees_its_partitions() {
    let session = Session::native().unwrap();
    let mut run = session.submit(numbers()).unwrap();
    assert_eq!(run.collect().unwrap().height(), 1000);
    assert_eq!(session.partitions_held(), 0, "what is made here is handed over");
    assert!(matches!(run.collect(), Err(Error::Taken)), "a result is taken once");
    let persisted = numbers().persist_on(&session).unwrap();
    assert_eq!(session.partitions_held(), 1, "kept until it is dropped");
    drop(persisted);
    eventually("the store is empty", || session.partitions_held() == 0);
}

#[test]
fn a_result_that_its_session_takes_with_it_ends_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    // How far the batches have come when the session ends is a matter of moments.
    for _ in 0..3 {
        let session = Session::local(2).unwrap();
        let mut run = session.submit(row_groups(folder.path(), 800).into_partitions(8)).unwrap();
        let mut batches = run.batches();
        assert!(batches.next().is_some_and(|batch| batch.is_ok()));
        eventually("all is done", || {
            let stages = run.status().unwrap().unwrap().stages;
            stages.iter().all(|stage| stage.tasks.0 + stage.tasks.1 == 0)
        });
        drop((run, session));
        let rest: Vec<_> = batches.by_ref().collect();
        assert!(matches!(rest.last(), Some(Err(_))) && rest.len() < 8, "{rest:?}");
        assert!(batches.next().is_none(), "one is enough");
    }
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
    let session =
        Session::local_with(2, Config { scratch: vec![scratch.path().to_owned()], ..Config::default() }).unwrap();
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
fn queries_that_are_dropped_at_once_leave_nothing_charged() {
    let config = Config { pool_warm: std::time::Duration::ZERO, ..Config::default() };
    let session = Session::local_with(2, config).unwrap();
    for _ in 0..60 {
        // Its replicas are stopped while they are being started.
        let mut run = session.submit(numbers().select([Endless.pool().replicas(2).on([col("x")])])).unwrap();
        run.cancel();
        assert!(matches!(run.collect(), Err(Error::Cancelled)));
    }
    eventually("nothing is charged", || {
        let workers = session.status().unwrap().workers;
        workers.iter().all(|worker| worker.cpus.1 == 0.0 && worker.memory.1 == 0 && worker.tasks == (0, 0))
    });
}

/// Waits for the query to have tasks done and under way, then sends a signal to that worker.
pub(crate) fn signal_in_the_middle(signal: &str, session: &Session, run: &Run, worker: usize) {
    eventually("some tasks are done, some are not", || {
        let status = run.status().unwrap().unwrap();
        status.stages[0].tasks.2 > 0 && status.stages[0].tasks.1 > 0
    });
    let process = session.processes()[worker].to_string();
    assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
}

/// A UDF over forty row groups, a moment for each of its batches, and sums that show a row that is lost or counted twice.
fn slow_sums(folder: &Path) -> LazyFrame {
    let scan = row_groups(folder, 4000);
    let slow = scan.with_column(Process.pool().replicas(2).batch(20).on([col("x")]).alias("process"));
    slow.select([col("x").sum(), len(), col("process").max()])
}

#[track_caller]
fn assert_right(answer: Result<DataFrame, Error>) {
    let answer = answer.unwrap_or_else(|error| panic!("it should survive: {error}"));
    assert_eq!(answer.column("x").unwrap().i64().unwrap().get(0), Some(3999 * 2000));
    assert_eq!(answer.column("len").unwrap().u32().unwrap().get(0), Some(4000), "no row twice, none lost");
}

#[test]
fn a_query_survives_the_loss_of_any_worker_with_the_right_answer() {
    let folder = tempfile::tempdir().unwrap();
    for worker in 0..3 {
        let session = Session::local(3).unwrap();
        let mut run = session.submit(slow_sums(folder.path())).unwrap();
        signal_in_the_middle("-9", &session, &run, worker);
        assert_right(run.collect());
    }
}

#[test]
fn a_limit_is_exact_though_a_worker_is_lost_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(3).unwrap();
    let slow = Process.pool().replicas(2).batch(20).on([col("x")]).alias("process");
    let query =
        row_groups(folder.path(), 4000).with_column(slow).filter((col("x") % lit(3)).eq(lit(0))).slice(50, 1200);
    let mut run = session.submit(query).unwrap();
    signal_in_the_middle("-9", &session, &run, 1);
    let rows = run.collect().unwrap();
    let rows: Vec<_> = rows.column("x").unwrap().i64().unwrap().iter().flatten().collect();
    assert!(rows.iter().copied().eq((0..4000).step_by(3).skip(50).take(1200)), "{rows:?}");
}

#[test]
fn a_hash_regroup_survives_the_loss_of_a_worker_with_the_right_answer() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(3).unwrap();
    let slow = |name: &str| Process.pool().replicas(2).batch(20).on([col("x")]).alias(name);
    let twice = row_groups(folder.path(), 4000).with_column(slow("one")).repartition(6, [col("x") % lit(100)]);
    let query = twice.with_column(slow("process")).select([col("x").sum(), len(), col("process").max()]);
    let mut run = session.submit(query).unwrap();
    // In the middle of what reads the hash partitions, of which the lost worker held some.
    eventually("some of the second stage is done", || run.status().unwrap().unwrap().stages[1].tasks.2 > 0);
    let process = session.processes()[1].to_string();
    assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    assert_right(run.collect());
}

#[test]
fn a_query_survives_a_worker_that_is_stopped_and_the_worker_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(3).unwrap();
    let before = session.processes();
    let mut run = session.submit(slow_sums(folder.path())).unwrap();
    signal_in_the_middle("-STOP", &session, &run, 0);
    assert_right(run.collect());
    eventually("its process is gone and another is there", || {
        let now = session.processes();
        now.len() == 3 && !now.contains(&before[0]) && !is_alive(before[0])
    });
}
