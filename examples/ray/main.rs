//! Workers on a Ray cluster that come with the work and go after it: the work of `examples/sleepy`, and what is there meanwhile.
//!
//! ```text
//! ray start --head --num-cpus 4
//! REGATTA_RAY_PYTHON=.../python cargo run --example ray     # on the cluster of this machine
//! DAFT_RUNNER=native cargo run --example ray                # the same query, embedded in one process
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regatta::{Config, RayOptions, polars::prelude::*, prelude::*};

const NAP: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(50);
/// How long the shrinking after the work may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sleeps, and answers with its input.
#[regatta::udf(dtype = DataType::Int64)]
fn nap(x: &Column) -> Column {
    thread::sleep(NAP);
    x.clone()
}

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_env()?;
    if std::env::var_os("DAFT_RUNNER").is_some() {
        println!("{}", query()?.collect_on(&Session::from_env()?)?);
        return Ok(());
    }
    let config = Config {
        autoscaling_downscale_idle: Duration::ZERO,
        pool_warm: Duration::ZERO, // else its replicas, and their workers, wait for another query
        autoscaler_update_interval: Duration::from_millis(500),
        ..config
    };
    let options = RayOptions { workers: Some(1..=4), cpus: Some(1.0), ..RayOptions::default() };
    let session = Session::ray_with(options, config)?;
    let (began, done) = (Instant::now(), AtomicBool::new(false));
    let answer = thread::scope(|scope| {
        let looks = scope.spawn(|| look(&session, began, &done));
        let answer = query().map_err(Into::into).and_then(|query| query.collect_on(&session));
        done.store(true, Ordering::Relaxed);
        looks.join().map_err(|_| "the thread that looks panicked")??;
        Ok::<_, Box<dyn std::error::Error>>(answer?)
    })?;
    println!("{answer}");
    Ok(())
}

fn query() -> Result<LazyFrame, PolarsError> {
    let rows = df!["x" => (0..400).collect::<Vec<i64>>()]?.lazy().into_partitions(100);
    let naps = rows.with_column(nap::pool().replicas(4).batch(4).on([col("x")]).alias("y"));
    Ok(naps.select([col("y").sum(), len().alias("rows")]))
}

/// Says when there are more or fewer workers, until one is left after the work.
fn look(session: &Session, began: Instant, done: &AtomicBool) -> Result<(), regatta::Error> {
    let mut before = None;
    loop {
        let status = session.status()?;
        let now = (status.workers.len(), status.provider_waits.is_some());
        if before.replace(now) != Some(now) {
            let waits = status.provider_waits.map(|waits| format!(", and waits {waits}")).unwrap_or_default();
            println!("{:5.1} s: {} workers{waits}", began.elapsed().as_secs_f64(), now.0);
        }
        if done.load(Ordering::Relaxed) && (now.0 == 1 || began.elapsed() > PATIENCE) {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}
