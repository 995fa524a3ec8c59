//! Workers on Ray: on a stub of it in one Python process, and on a real one, where `tests/ray/install` has put it.

mod real;
mod stub;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::{Config, RayOptions};
use serde::{Deserialize, Serialize};

regatta::testing::worker!();

/// The process that a row was in.
#[derive(Serialize, Deserialize)]
pub(crate) struct Process;

#[regatta::udf]
impl Udf for Process {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        std::thread::sleep(Duration::from_millis(20));
        Ok(Column::new("process".into(), vec![i64::from(std::process::id()); batch.height()]))
    }
}

/// Rows with the process that each was in, in many short batches.
pub(crate) fn slow_query(rows: i64) -> LazyFrame {
    let rows = df!["x" => (0..rows).collect::<Vec<_>>()].unwrap().lazy().into_partitions(20);
    rows.with_column(Process.pool().replicas(1..=2).batch(10).on([col("x")]).alias("process"))
}

/// The processes that took part in it.
pub(crate) fn processes(frame: &DataFrame) -> Vec<u32> {
    let mut all: Vec<_> =
        frame.column("process").unwrap().i64().unwrap().iter().flatten().map(|id| id as u32).collect();
    all.sort_unstable();
    all.dedup();
    all
}

pub(crate) fn sum(frame: &DataFrame) -> i64 {
    frame.column("x").unwrap().i64().unwrap().sum().unwrap()
}

/// For Ray, whose processes take a second or a minute to start, as the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// Waits for what others bring about, who take their time on a busy machine.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn lives(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // One that has ended and is not reaped is gone, too.
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Reacts at once.
pub(crate) fn eager() -> Config {
    Config {
        autoscaler_update_interval: Duration::from_millis(50),
        autoscaling_downscale_idle: Duration::from_millis(200),
        autoscaling_min_survivor_workers: 0,
        pool_warm: Duration::ZERO,
        ..Config::default()
    }
}

/// So many workers of one CPU, with this Python.
pub(crate) fn options(python: &Path, address: &str, workers: std::ops::RangeInclusive<usize>) -> RayOptions {
    RayOptions {
        address: Some(address.to_owned()),
        workers: Some(workers),
        cpus: Some(1.0),
        memory: Some(256 << 20),
        python: Some(python.to_owned()),
        ready_timeout: PATIENCE,
        ..RayOptions::default()
    }
}
