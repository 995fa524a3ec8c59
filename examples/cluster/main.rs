//! A cluster of several machines, played on one: a head, two workers that join by token, and a driver that connects.
//!
//! On real machines the head is a program that calls `Cluster::serve("0.0.0.0:7700")` and waits; workers are this same
//! executable under `REGATTA_JOIN=head:7700 REGATTA_TOKEN=...`; drivers call `Session::connect("head:7700", token)`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regatta::{polars::prelude::*, prelude::*};

/// The process that ran it.
#[regatta::udf]
fn ran_in(_leg: i64) -> i64 {
    i64::from(std::process::id())
}

/// A worker, as somebody would start it on another machine.
fn start_worker(address: &str, token: &str) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("REGATTA_JOIN", address).env("REGATTA_TOKEN", token).env("POLARS_MAX_THREADS", "1");
    command.stdin(Stdio::null()).spawn()
}

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::serve("127.0.0.1:0")?;
    let address = cluster.address().to_string();
    // One text for both workers, good for ten minutes.
    let token = cluster.worker_token(2, Duration::from_secs(600))?;
    let workers = [start_worker(&address, &token)?, start_worker(&address, &token)?];

    // Queries of a driver wait until there is a worker.
    let session = Session::connect(&address, &cluster.driver_token(1, Duration::from_secs(600))?)?;
    let legs = df!["leg" => (0..40i64).collect::<Vec<_>>(), "miles" => (0..40i64).map(|leg| leg * 7 % 12).collect::<Vec<_>>()]?;
    let query = legs.lazy().with_column(ran_in::pool().replicas(1..=2).batch(1).on([col("leg")]).alias("process"));
    let answer = query.clone().select([col("miles").sum(), len().alias("legs")]).collect_on(&session)?;
    println!("{answer}");

    let processes = query.select([col("process").n_unique()]).collect_on(&session)?;
    println!("{} ran them\n{}", processes.column("process")?.get(0)?, session.status()?);

    drop(session);
    // The last handle to the head ends it, and its workers with it.
    drop(cluster);
    for mut worker in workers {
        println!("a worker ended: {}", worker.wait()?);
    }
    Ok(())
}
