//! Workers come with the work and go when it is done.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use regatta::Config;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use serde::{Deserialize, Serialize};

use crate::udfs::{Process, row_groups};

/// Reacts at once, so that a test need not wait.
fn eager(idle: Duration) -> Config {
    Config {
        autoscaler_update_interval: Duration::from_millis(50),
        autoscaling_downscale_idle: idle,
        pool_warm: Duration::ZERO,
        ..Config::default()
    }
}

/// Sixty row groups, each of which costs a UDF's moment: more than one worker's fill.
fn slow_query(folder: &std::path::Path) -> LazyFrame {
    let scan = row_groups(folder, 6000);
    scan.with_column(Process.pool().replicas(1..=4).batch(20).on([col("x")]).alias("process"))
}

#[test]
fn a_session_grows_with_its_backlog_and_shrinks_to_its_least() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::elastic_with(1..=3, eager(Duration::from_millis(100))).unwrap();
    assert_eq!(session.processes().len(), 1);
    let mut run = session.submit(slow_query(folder.path())).unwrap();
    eventually("there are three workers", || session.processes().len() == 3);
    eventually("they have joined", || session.status().unwrap().workers.len() == 3);
    let frame = run.collect().unwrap();
    assert_eq!(frame.column("x").unwrap().i64().unwrap().iter().flatten().sum::<i64>(), 5999 * 3000);
    drop(run);
    eventually("one worker is left", || session.processes().len() == 1);
    let idle = session.status().unwrap();
    assert_eq!((idle.workers.len(), idle.backlog, idle.queries.len()), (1, 0.0, 0), "{idle}");
    assert_eq!(idle.workers[0].devices.len() as f64, idle.workers[0].gpus.0, "none, where there is no GPU");
    assert_eq!(slow_query(folder.path()).collect_on(&session).unwrap().height(), 6000, "and it still works");
}

#[test]
fn a_session_may_begin_with_no_worker() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::elastic_with(0..=2, eager(Duration::from_secs(60))).unwrap();
    assert!(session.processes().is_empty());
    assert_eq!(slow_query(folder.path()).collect_on(&session).unwrap().height(), 6000);
}

#[test]
fn with_downscaling_off_workers_stay() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { autoscaling_downscale_enabled: false, ..eager(Duration::ZERO) };
    let session = Session::elastic_with(1..=2, config).unwrap();
    let mut run = session.submit(slow_query(folder.path())).unwrap();
    eventually("there are two workers", || session.processes().len() == 2);
    run.collect().unwrap();
    drop(run);
    slow_query(folder.path()).collect_on(&session).unwrap();
    assert_eq!(session.processes().len(), 2);
}

#[test]
fn a_worker_that_was_killed_is_replaced() {
    let session = Session::local_with(2, eager(Duration::from_secs(60))).unwrap();
    let before = session.processes();
    assert!(Command::new("kill").args(["-9", &before[0].to_string()]).status().unwrap().success());
    eventually("there are two live workers again", || {
        let now = session.processes();
        now.len() == 2 && !now.contains(&before[0])
    });
}

#[test]
fn a_replacement_that_dies_before_it_joins_is_asked_for_again() {
    let session = Session::local_with(2, eager(Duration::from_secs(60))).unwrap();
    let mut seen = session.processes();
    let kill = |process: u32| {
        assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
    };
    kill(seen[0]);
    // Long before they could have joined.
    for replacement in 0..2 {
        let new = |seen: &[u32]| session.processes().into_iter().find(|process| !seen.contains(process));
        eventually(&format!("replacement {replacement} is started"), || new(&seen).is_some());
        let process = new(&seen).unwrap();
        kill(process);
        seen.push(process);
        eventually("the session says why it is not there", || {
            let status = session.status().unwrap();
            status.not_joined.is_some_and(|(count, why)| count == replacement + 1 && why.contains("its process ended"))
        });
    }
    eventually("there are two workers again", || session.status().unwrap().workers.len() == 2);
    assert_eq!(session.status().unwrap().not_joined, None);
}

/// Waits with the rows that hold 0 until a file is there.
#[derive(Serialize, Deserialize)]
struct Gate(PathBuf);

#[regatta::udf(name = "gate")]
impl Udf for Gate {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        while batch.column(0)?.i64()?.first() == Some(0) && !self.0.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(batch.column(0)?.clone())
    }
}

#[test]
fn a_pool_shrinks_while_its_last_task_runs() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("open");
    let session = Session::elastic_with(1..=1, eager(Duration::ZERO)).unwrap();
    let rows = df!["x" => (0..100i64).collect::<Vec<_>>()].unwrap().lazy();
    let mut run =
        session.submit(rows.select([Gate(gate.clone()).pool().replicas(1..=2).batch(10).on([col("x")])])).unwrap();
    let ready = || {
        let status = session.status().unwrap();
        let pools = status.queries.iter().flat_map(|(_, query)| &query.stages).flat_map(|stage| &stage.pools);
        pools.map(|pool| pool.ready).sum::<usize>()
    };
    eventually("there are two replicas", || ready() == 2);
    eventually("the one that has nothing to do is gone", || ready() == 1);
    std::fs::write(gate, "").unwrap();
    assert_eq!(run.collect().unwrap().column("x").unwrap().i64().unwrap().iter().flatten().sum::<i64>(), 4950);
}

#[test]
fn many_short_tasks_of_two_queries_all_run_and_the_answer_is_right() {
    let session = Session::local(2).unwrap();
    let query = |rows: i64| {
        let rows = df!["x" => (0..rows).collect::<Vec<_>>()].unwrap().lazy().into_partitions(150);
        rows.select([(col("x") * lit(2)).sum()])
    };
    let mut runs: Vec<_> = [1000, 2000].map(|rows| session.submit(query(rows)).unwrap()).into();
    let sums: Vec<_> =
        runs.iter_mut().map(|run| run.collect().unwrap().column("x").unwrap().i64().unwrap().get(0)).collect();
    assert_eq!(sums, [Some(999_000), Some(3_998_000)]);
}
