//! What it costs that half of the rows have one key, over what the same query of as many rows takes whose keys are even. See
//! docs/book/src/benchmarks.md.

mod support;

use regatta::Session;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use support::local::{numbers, once, workers};
use support::report::{Better, Case, Report};

const JOINED: Case = Case { name: "rows joined by their keys", unit: "s", better: Better::Lower };
const REDUCED: Case = Case { name: "sums by keys", unit: "s", better: Better::Lower };
const GATHERED: Case = Case { name: "medians by keys", unit: "s", better: Better::Lower };

/// Rows with a key and a text; of each second the key is the same.
fn rows(rows: i64, keys: i64, skewed: bool) -> LazyFrame {
    let even = (col("x") * lit(7_919)) % lit(keys);
    let key = match skewed {
        true => when((col("x") % lit(2)).eq(lit(0))).then(lit(0i64)).otherwise(even),
        false => even,
    };
    let text = col("x").cast(DataType::String) + lit(" of them");
    numbers(rows).into_partitions(8).with_columns([key.alias("key"), text.alias("text")])
}

/// One row of each key, of which there are too many to come to every task.
fn sides(keys: i64) -> LazyFrame {
    numbers(keys).into_partitions(8).select([col("x").alias("key"), (col("x") * lit(3)).alias("side")])
}

/// Of what comes of a query something is asked for that takes all of it.
fn run(session: &Session, query: LazyFrame, looked_at: [Expr; 2]) -> f64 {
    let query = query.select(looked_at);
    once(|| assert_eq!(query.collect_on(session).expect("it ends").height(), 1)).as_secs_f64()
}

#[regatta::main]
fn main() {
    let mut report = Report::from_args("skew", "even keys");
    let (many, keys) = if cfg!(debug_assertions) { (1_000_000, 200_000) } else { (16_000_000, 4_000_000) };
    let session = workers();
    run(&session, rows(1_000, 10, true), [col("x").sum(), col("text").max()]);
    for _ in 0..report.repetitions() {
        for (system, skewed) in [("even keys", false), ("half of the rows of one key", true)] {
            let rows = || rows(many, keys, skewed);
            let joined = rows().join(sides(keys), [col("key")], [col("key")], JoinType::Inner.into());
            report.add(&JOINED, system, Ok(run(&session, joined, [col("side").sum(), col("text").max()])));
            let reduced = rows().group_by([col("key")]).agg([col("x").sum(), col("text").max()]);
            report.add(&REDUCED, system, Ok(run(&session, reduced, [col("x").sum(), col("text").max()])));
            let gathered = rows().group_by([col("key")]).agg([col("x").median(), col("text").n_unique()]);
            report.add(&GATHERED, system, Ok(run(&session, gathered, [col("x").sum(), col("text").sum()])));
        }
    }
    report.finish();
}
