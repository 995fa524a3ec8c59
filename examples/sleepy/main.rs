//! A cluster that grows with its work and shrinks after it: 400 rows in 100 partitions, a UDF of 4 replicas that sleeps.
//!
//! ```text
//! cargo run --example sleepy                       # one to four worker processes, idle ones go after 0 s, then after 2 s
//! cargo run --example sleepy -- --svg docs/book/src    # and draws what was there, for autoscaling.md
//! DAFT_RUNNER=native cargo run --example sleepy    # the same query, embedded in one process
//! ```

mod plot;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plot::Sample;
use regatta::{Config, polars::prelude::*, prelude::*};

const NAP: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(50);
/// How long the work and the shrinking after it may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sleeps, and answers with its input.
#[regatta::udf(dtype = DataType::Int64)]
fn nap(x: &Column) -> Column {
    thread::sleep(NAP);
    x.clone()
}

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let svg = match arguments.next().as_deref() {
        None => None,
        Some("--svg") => Some(PathBuf::from(arguments.next().ok_or("--svg needs a folder")?)),
        Some(other) => return Err(format!("unknown argument {other}: use --svg FOLDER").into()),
    };
    if std::env::var_os("DAFT_RUNNER").is_some() {
        println!("{}", query()?.collect_on(&Session::from_env()?)?);
        return Ok(());
    }
    let mut answer = DataFrame::empty();
    for idle in [0, 2] {
        let config = Config {
            autoscaling_downscale_idle: Duration::from_secs(idle),
            pool_warm: Duration::ZERO, // else its replicas, and their workers, wait for another query
            autoscaler_update_interval: Duration::from_millis(500),
            ..Config::from_env()?
        };
        let samples;
        (answer, samples) = watch(&Session::elastic_with(1..=4, config)?)?;
        let most = samples.iter().map(|sample| sample.workers).max().unwrap_or(0);
        let last = samples.last().ok_or("no sample")?;
        println!("idle for {idle} s: from 1 to {most} workers, {} again after {:.1} s", last.workers, last.seconds);
        if let Some(folder) = &svg {
            let title = format!("DAFT_AUTOSCALING_DOWNSCALE_IDLE_SECONDS={idle}");
            std::fs::write(folder.join(format!("autoscaling-idle-{idle}s.svg")), plot::draw(&title, &samples))?;
        }
    }
    println!("{answer}");
    Ok(())
}

fn query() -> Result<LazyFrame, PolarsError> {
    let rows = df!["x" => (0..400).collect::<Vec<i64>>()]?.lazy().into_partitions(100);
    let naps = rows.with_column(nap::pool().replicas(4).batch(4).on([col("x")]).alias("y"));
    Ok(naps.select([col("y").sum(), len().alias("rows")]))
}

/// Runs the query, and looks at the session until all but one worker have gone.
fn watch(session: &Session) -> Result<(DataFrame, Vec<Sample>), Box<dyn std::error::Error>> {
    let (started, done) = (Instant::now(), AtomicBool::new(false));
    thread::scope(|scope| {
        let looks = scope.spawn(|| look(session, started, &done));
        let answer = query().map_err(Into::into).and_then(|query| Ok(query.collect_on(session)?));
        done.store(true, Ordering::Relaxed);
        let samples = looks.join().map_err(|_| "the thread that looks panicked")??;
        answer.map(|answer| (answer, samples))
    })
}

fn look(session: &Session, started: Instant, done: &AtomicBool) -> Result<Vec<Sample>, regatta::Error> {
    let mut samples = Vec::new();
    loop {
        let status = session.status()?;
        let pools = status.queries.iter().flat_map(|(_, query)| &query.stages).flat_map(|stage| &stage.pools);
        samples.push(Sample {
            seconds: started.elapsed().as_secs_f64(),
            workers: status.workers.len(),
            replicas: pools.map(|pool| pool.ready).sum(),
            backlog: status.backlog,
        });
        if done.load(Ordering::Relaxed) && (status.workers.len() == 1 || started.elapsed() > PATIENCE) {
            return Ok(samples);
        }
        thread::sleep(LOOK);
    }
}
