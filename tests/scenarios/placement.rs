//! Where things run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

use crate::udfs::{Process, numbers};

fn processes(session: &Session, replicas: usize) -> BTreeSet<u32> {
    let query = numbers().select([Process.pool().replicas(replicas).batch(20).on([col("x")])]);
    let frame = query.collect_on(session).unwrap();
    frame.column("x").unwrap().i64().unwrap().iter().flatten().map(|id| id as u32).collect()
}

#[test]
fn replicas_run_on_different_workers_and_all_get_batches() {
    let session = Session::local(4).unwrap();
    let workers: BTreeSet<u32> = session.processes().into_iter().collect();
    let used = processes(&session, 2);
    assert_eq!(used.len(), 2, "two replicas, spread");
    assert!(used.is_subset(&workers), "and none in the driver");
}

#[test]
fn a_native_session_stays_in_this_process() {
    let session = Session::native().unwrap();
    assert!(session.processes().is_empty());
    assert_eq!(processes(&session, 1), BTreeSet::from([std::process::id()]));
}

#[test]
fn a_large_result_comes_partition_by_partition_in_order() {
    // 8 MB in four files: partitions are past what stays in memory, so they go through files and several transfers.
    let folder = tempfile::tempdir().unwrap();
    for file in 0..4i64 {
        let mut frame = df!["n" => (file * 250_000..(file + 1) * 250_000).collect::<Vec<_>>()].unwrap();
        let to = std::fs::File::create(folder.path().join(format!("{file}.parquet"))).unwrap();
        ParquetWriter::new(to).finish(&mut frame).unwrap();
    }
    let path = format!("{}/*.parquet", folder.path().display());
    let scan = LazyFrame::scan_parquet(path.as_str().into(), Default::default()).unwrap();
    let session = Session::local(2).unwrap();
    let mut run = session.submit(scan).unwrap();
    let mut next = 0;
    let mut batches = 0;
    for batch in run.batches() {
        for n in batch.unwrap().column("n").unwrap().i64().unwrap().iter() {
            assert_eq!(n, Some(next));
            next += 1;
        }
        batches += 1;
    }
    assert_eq!(next, 1_000_000);
    assert_eq!(batches, 4, "one for each task");
}

/// Answers at once, but for the batch that begins with 0: that waits for a file.
#[derive(Serialize, Deserialize)]
struct Lock(PathBuf);

#[regatta::udf]
impl AsyncUdf for Lock {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        while batch.column(0)?.i64()?.first() == Some(0) && !self.0.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(batch.column(0)?.clone())
    }
}

#[test]
fn the_first_rows_are_there_while_another_task_runs() {
    let folder = tempfile::tempdir().unwrap();
    let open = folder.path().join("open");
    let rows = df!["x" => (100..200i64).chain(0..100).collect::<Vec<_>>()].unwrap().lazy().into_partitions(2);
    let session = Session::local(2).unwrap();
    let mut run = session.submit(rows.select([Lock(open.clone()).pool().batch(100).on([col("x")])])).unwrap();
    let mut batches = run.batches();
    let first = batches.next().unwrap().unwrap();
    assert_eq!(first.column("x").unwrap().i64().unwrap().first(), Some(100));
    std::fs::write(open, "").unwrap();
    assert_eq!(batches.map(|batch| batch.unwrap().height()).sum::<usize>(), 100);
}
