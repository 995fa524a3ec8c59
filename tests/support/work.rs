//! Work for workers of hosts, and what is left of it.

use std::fs;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

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

pub(crate) fn lives(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // One that has ended and is not reaped is gone, too.
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
