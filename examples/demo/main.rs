//! Real Parquet, worker processes, a filter, a stateful UDF on two replicas, a join, a group-by, the answer.
//!
//! ```text
//! cargo run --example demo                                    # four worker processes
//! cargo run --example demo -- --scale 0.1 --workers 2         # more data (TPC-H scale factor), fewer workers
//! DAFT_RUNNER=native cargo run --example demo                 # the same, embedded in one process
//! ```

mod tpch;

use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;

/// Scores a comment by its words, with a small model that is built once per replica.
#[derive(Serialize, Deserialize)]
struct Mood {
    /// Words and their weights: the model's file, so to say.
    weights: Vec<(String, i64)>,
}

#[regatta::udf]
impl Udf for Mood {
    type State = HashMap<String, i64>;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs[0].dtype() {
            DataType::String => Ok(DataType::Int64),
            other => Err(UdfError::new(format!("Mood reads text, not {other}"))),
        }
    }

    fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        cx.progress(format!("loading {} words", self.weights.len()));
        Ok(self.weights.iter().cloned().collect())
    }

    fn run(&self, model: &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        let comments = batch.column(0)?.str()?;
        let weigh = |text: &str| text.split_whitespace().filter_map(|word| model.get(word)).sum::<i64>();
        let scores: Int64Chunked = comments.iter().map(|text| text.map(weigh)).collect();
        Ok(scores.into_column())
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_arguments()?;
    let mut clock = Clock::start();

    let folder = tempfile::tempdir()?;
    let rows = tpch::write(folder.path(), options.scale)?;
    clock.lap(&format!("made {rows} rows of Parquet (TPC-H lineitem and orders, scale {})", options.scale));

    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(options.workers)?,
    };
    match session.processes() {
        none if none.is_empty() => clock.lap("started the embedded runner"),
        workers => clock.lap(&format!("started {} worker processes {workers:?}", workers.len())),
    }

    let scan = |name: &str| {
        let path = folder.path().join(format!("{name}.parquet"));
        LazyFrame::scan_parquet(PlRefPath::try_from_path(&path)?, ScanArgsParquet::default())
    };
    let weights = [("furiously", -3), ("carefully", 2), ("quickly", 1), ("slyly", -1), ("regular", 1), ("final", -1)];
    let mood = Mood { weights: weights.map(|(word, weight)| (word.to_owned(), weight)).into() };
    let mood = mood.pool().replicas(2).batch(8192);

    let query = scan("lineitem")?
        .filter(col("l_shipdate").gt_eq(datetime(DatetimeArgs::new(lit(1995), lit(1), lit(1))).cast(DataType::Date)))
        .with_column(mood.on([col("l_comment")]).alias("mood"))
        .join(scan("orders")?, [col("l_orderkey")], [col("o_orderkey")], JoinArgs::new(JoinType::Inner))
        .group_by([col("o_orderpriority")])
        .agg([len().alias("lines"), col("l_extendedprice").sum().alias("revenue"), col("mood").mean()])
        .sort(["o_orderpriority"], SortMultipleOptions::default());
    let mut run = session.submit(query)?;
    clock.lap("planned it");

    let answer = run.collect()?;
    clock.lap("ran it");
    println!("{answer}\n\nhow it was to run:\n{}\nhow it ran:\n{}", run.explain(), run.profile()?);
    println!("{clock}");
    Ok(())
}

struct Options {
    scale: f64,
    workers: usize,
}

impl Options {
    fn from_arguments() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { scale: 0.05, workers: 4 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--scale" => options.scale = value.parse()?,
                "--workers" => options.workers = value.parse()?,
                _ => return Err(format!("unknown option {name}: use --scale and --workers").into()),
            }
        }
        Ok(options)
    }
}

/// What was done, and how long each part took.
struct Clock {
    last: Instant,
    laps: Vec<String>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, what: &str) {
        self.laps.push(format!("{:>9.3} s  {what}", self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.laps.iter().try_for_each(|lap| writeln!(f, "{lap}"))
    }
}
