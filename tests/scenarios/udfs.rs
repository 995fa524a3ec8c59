//! UDFs that the scenarios share.

use std::fs::File;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

/// What goes wrong, and where.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub(crate) enum Fault {
    StartError,
    StartPanic,
    StartHangs,
    RunError,
    /// Of 100 MiB.
    LongError,
    RunPanic,
    TooFewRows,
    OtherDtype,
    RefusesInput,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Faulty(pub(crate) Fault);

#[regatta::udf(name = "faulty")]
impl Udf for Faulty {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        match self.0 {
            Fault::RefusesInput => Err(UdfError::new("wants salt water")),
            _ => Ok(DataType::Int64),
        }
    }

    fn start(&self, cx: &mut Start) -> UdfResult<()> {
        cx.progress("bailing out");
        match self.0 {
            Fault::StartError => Err("no such weights".parse::<i64>().unwrap_err().into()),
            Fault::StartPanic => panic!("the mast broke"),
            Fault::StartHangs => loop {
                thread::park();
            },
            _ => Ok(()),
        }
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        match self.0 {
            Fault::RunError => Err(UdfError::new("ran aground")),
            Fault::LongError => Err(UdfError::new(format!("ran aground: {}, all hands lost", "é".repeat(50 << 20)))),
            Fault::RunPanic => panic!("man overboard"),
            Fault::TooFewRows => Ok(batch.column(0)?.slice(0, 1)),
            Fault::OtherDtype => Ok(batch.column(0)?.cast(&DataType::Float32)?),
            _ => Ok(batch.column(0)?.clone()),
        }
    }
}

/// The process that ran it, for each row. Takes a moment, so that all replicas get work.
#[derive(Serialize, Deserialize)]
pub(crate) struct Process;

#[regatta::udf]
impl Udf for Process {
    type State = i64;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<i64> {
        Ok(i64::from(process::id()))
    }

    fn run(&self, id: &mut i64, batch: &Batch) -> UdfResult<Column> {
        thread::sleep(Duration::from_millis(5));
        Ok(Int64Chunked::from_vec("".into(), vec![*id; batch.height()]).into_column())
    }
}

/// Never returns from its first batch.
#[derive(Serialize, Deserialize)]
pub(crate) struct Endless;

#[regatta::udf]
impl Udf for Endless {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), _: &Batch) -> UdfResult<Column> {
        loop {
            thread::park();
        }
    }
}

/// A Parquet file of `rows` rows in one column `x`, in row groups of a hundred.
pub(crate) fn row_groups(folder: &Path, rows: i64) -> LazyFrame {
    let path = folder.join("x.parquet");
    let mut frame = df!["x" => (0..rows).collect::<Vec<_>>()].unwrap();
    ParquetWriter::new(File::create(&path).unwrap()).with_row_group_size(Some(100)).finish(&mut frame).unwrap();
    LazyFrame::scan_parquet(PlRefPath::try_from_path(&path).unwrap(), Default::default()).unwrap()
}

/// 1000 rows in one column `x`.
pub(crate) fn numbers() -> LazyFrame {
    df!["x" => (0..1000i64).collect::<Vec<_>>()].unwrap().lazy()
}
