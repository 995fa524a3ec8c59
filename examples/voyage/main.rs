//! One executable that is the head of a cluster, its workers and its drivers: the guide's first cluster.
//!
//! ```text
//! cargo run --example voyage                          # the query, in this process
//! cargo run --example voyage -- 127.0.0.1:7700        # a head: it says how workers and drivers are started
//! ```

// ANCHOR: program
use std::error::Error;
use std::time::Duration;

use regatta::{polars::prelude::*, prelude::*};

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;

#[regatta::udf]
fn knots(miles: f64, hours: f64) -> f64 {
    miles / hours
}

#[regatta::main] // a worker when started as one, before anything of yours
fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        return head(&address);
    }
    let session = Session::from_env()?;
    let legs =
        df!["boat" => ["Keel", "Skerry", "Tern"], "miles" => [40.0, 27.0, 33.0], "hours" => [8.0, 6.0, 6.0]]?.lazy();
    let query = legs.with_column(knots::on([col("miles"), col("hours")]).alias("knots"));
    println!("{}", query.collect_on(&session)?);
    Ok(())
}

/// Says how others get in, and waits until it is asked to end.
fn head(address: &str) -> Result<(), Box<dyn Error>> {
    let (cluster, day) = (Cluster::serve(address)?, Duration::from_secs(24 * 3600));
    let at = cluster.address();
    println!("REGATTA_JOIN={at} REGATTA_TOKEN={} ./voyage", cluster.worker_token(8, day)?);
    println!("DAFT_RUNNER=flotilla REGATTA_ADDRESS={at} REGATTA_TOKEN={} ./voyage", cluster.driver_token(100, day)?);
    println!("REGATTA_ADDRESS={at} REGATTA_TOKEN={} regatta status", cluster.observer_token(day)?);
    cluster.session().until_terminated()?;
    Ok(())
}
// ANCHOR_END: program
