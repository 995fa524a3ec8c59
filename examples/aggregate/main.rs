//! An aggregation that Polars does not have: percentiles from a sketch that is made in parts and merged.
//!
//! ```text
//! cargo run --example aggregate                        # two worker processes
//! DAFT_RUNNER=native cargo run --example aggregate     # in this process
//! ```

use std::collections::BTreeMap;
use std::error::Error;

use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

/// A percentile of positive numbers, right to 1 %, in memory that grows with their range and not with their count: numbers
/// are counted in buckets, each 2 % wider than the one before.
#[derive(Serialize, Deserialize)]
struct Percentile {
    percent: f64,
}

const GROWTH: f64 = 1.02;

#[regatta::udf]
impl Aggregate for Percentile {
    type Partial = BTreeMap<i32, u64>;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs {
            [numbers] if numbers.dtype() == &DataType::Float64 => Ok(DataType::Float64),
            _ => Err(UdfError::new("Percentile takes one Float64 column")),
        }
    }

    fn partial(&self, batch: &Batch) -> UdfResult<Self::Partial> {
        let mut buckets = BTreeMap::new();
        for number in batch.column(0)?.f64()?.iter().flatten() {
            *buckets.entry(number.log(GROWTH).floor() as i32).or_default() += 1;
        }
        Ok(buckets)
    }

    fn merge(&self, mut before: Self::Partial, after: Self::Partial) -> UdfResult<Self::Partial> {
        for (bucket, count) in after {
            *before.entry(bucket).or_default() += count;
        }
        Ok(before)
    }

    fn finish(&self, buckets: Self::Partial) -> UdfResult<AnyValue<'static>> {
        let rank = (buckets.values().sum::<u64>() as f64 * self.percent / 100.0).ceil() as u64;
        let mut below = 0;
        let bucket = buckets.iter().find(|(_, count)| {
            below += **count;
            below >= rank
        });
        let middle = |bucket: i32| GROWTH.powf(f64::from(bucket) + 0.5);
        Ok(bucket.map_or(AnyValue::Null, |(bucket, _)| AnyValue::Float64(middle(*bucket))))
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    // Requests to three services: most are quick, some are not.
    let requests = 300_000u64;
    let service: Vec<_> = (0..requests).map(|n| ["harbour", "lighthouse", "shipyard"][(n % 3) as usize]).collect();
    let slow = |n: u64| (1 + n % 3) as f64 * if n.is_multiple_of(50) { 4.0 } else { 0.1 };
    let latency = (0..requests).map(|n| 1.0 + (n * 7919 % 1000) as f64 * slow(n));
    let frame = df!["service" => service, "ms" => latency.collect::<Vec<_>>()]?;
    let percentile = |percent| Percentile { percent }.on([col("ms")]);
    let answer = frame
        .lazy()
        .group_by([col("service")])
        .agg([len().alias("requests"), percentile(50.0).alias("p50"), percentile(99.0).alias("p99")])
        .sort(["service"], SortMultipleOptions::default())
        .collect_on(&session)?;
    println!("{answer}");
    Ok(())
}
