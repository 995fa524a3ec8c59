//! Workers as pods of the Kubernetes cluster that this program runs in: `DAFT_RUNNER=flotilla REGATTA_KUBERNETES=0..4`, as
//! deploy/kubernetes sets for the head's pod. Elsewhere the same program runs on this machine.
//!
//! `cargo run --example kubernetes`

use regatta::polars::prelude::*;
use regatta::prelude::*;

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let session = Session::from_env()?;
    let wind: Vec<i64> = (0..200_000).map(|at| at * 7919 % 101).collect();
    let races = df!["boat" => (0..200_000).map(|at: i64| at % 5).collect::<Vec<_>>(), "wind" => wind]?;
    let query = races
        .lazy()
        .into_partitions(8)
        .group_by([col("boat")])
        .agg([col("wind").mean().round(3, RoundMode::HalfToEven).alias("mean"), len().alias("races")])
        .sort(["boat"], SortMultipleOptions::default());
    println!("{}", query.collect_on(&session)?);
    // In a pod that Kubernetes would start again if it ended, the head stays, without workers, until it is asked to end.
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        session.until_terminated()?;
    }
    Ok(())
}
