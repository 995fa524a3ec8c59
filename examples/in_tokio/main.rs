//! Regatta inside a program under `#[tokio::main]`: runs are awaited on the program's runtime, several at once, while Regatta
//! works on threads of its own.
//!
//! `#[regatta::main]` stands above `#[tokio::main]`: a worker process then never starts the program's runtime.

use std::future::IntoFuture;

use regatta::{polars::prelude::*, prelude::*};

/// Minutes that a boat takes for a nautical mile.
#[regatta::udf]
fn pace(knots: f64) -> Option<f64> {
    (knots > 0.0).then(|| 60.0 / knots)
}

#[regatta::main]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), regatta::Error> {
    // DAFT_RUNNER says where: native, or flotilla for worker processes.
    let session = Session::from_env()?;
    let legs = df![
        "boat" => ["Ayu", "Bora", "Ayu", "Caya", "Bora", "Caya"],
        "knots" => [7.5, 9.0, 6.0, 0.0, 12.0, 8.0],
    ]
    .expect("columns of one length")
    .lazy()
    .with_column(pace::on([col("knots")]).alias("minutes per mile"));

    let by_boat = legs.clone().group_by([col("boat")]).agg([col("minutes per mile").mean()]);
    let by_boat = session.submit(by_boat.sort(["boat"], SortMultipleOptions::default()))?;
    let fastest = session.submit(legs.clone().select([col("minutes per mile").min().alias("fastest")]))?;
    let (by_boat, fastest) = tokio::try_join!(by_boat.into_future(), fastest.into_future())?;
    println!("{by_boat}\n{fastest}");

    // Dropping what is awaited ends the query, as everywhere in tokio.
    let slow = session.submit(legs)?.into_future();
    drop(slow);
    Ok(())
}
