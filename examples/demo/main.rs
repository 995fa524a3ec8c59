//! Real Parquet, worker processes, a filter, a stateful UDF on two replicas, a join, a group-by, the answer.
//!
//! ```text
//! cargo run --example demo                                    # four worker processes
//! cargo run --example demo -- --scale 0.1 --workers 2         # more data (TPC-H scale factor), fewer workers
//! DAFT_RUNNER=native cargo run --example demo                 # the same, embedded in one process
//! ```

mod query;
mod tpch;

use std::error::Error;
use std::time::Instant;

use regatta::Session;

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;

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

    let mut run = session.submit(query::query(folder.path())?)?;
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
