//! What a fault in the middle of a query costs: from it to the query's end, over what was left to do. See docs/book/src/benchmarks.md.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use regatta::WorkerId;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{TestCluster, eventually};
use support::local::{numbers, once};
use support::report::{Better, Case, Report};

const UNDISTURBED: Case = Case { name: "undisturbed", unit: "s", better: Better::Lower };
const KILLED: Case =
    Case { name: "one of four workers killed at half time, over that", unit: "s", better: Better::Lower };
const SLOW: Case =
    Case { name: "one of four workers at a fifth of its speed, over that", unit: "s", better: Better::Lower };

const WORKERS: usize = 4;

/// Rows that are made, scattered and aggregated, in tasks of some tenths of a second.
fn query(rows: i64) -> LazyFrame {
    let made = numbers(rows).into_partitions(16);
    let heavy = made.with_columns([
        (col("x") % lit(9_973)).alias("key"),
        (col("x").cast(DataType::String) + lit("/") + (col("x") * lit(31)).cast(DataType::String)).alias("text"),
    ]);
    let grouped = heavy.repartition(16, [col("key")]).group_by([col("key")]);
    grouped.agg([col("text").str().len_chars().sum().alias("chars"), col("text").max(), len()])
}

fn run(cluster: &TestCluster, rows: i64) {
    assert_eq!(query(rows).collect_on(cluster.session()).expect("it outlives a worker").height(), 9_973);
}

/// Kills a worker so long after the query began.
fn with_a_kill(cluster: &TestCluster, rows: i64, after: Duration) {
    let workers = cluster.session().status().expect("it is there").workers;
    let victim = workers.last().expect("there are some").worker;
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(after);
            cluster.kill(victim).expect("it is there");
        });
        run(cluster, rows);
    });
    eventually("another has come", || cluster.session().status().is_ok_and(|status| status.workers.len() == WORKERS));
}

#[regatta::main]
fn main() {
    let mut report = Report::from_args("recovery", "regatta");
    let rows = if cfg!(debug_assertions) { 2_000_000 } else { 40_000_000 };
    let cluster = TestCluster::start(WORKERS).expect("workers");
    run(&cluster, rows);
    for _ in 0..report.repetitions() {
        let undisturbed = once(|| run(&cluster, rows));
        report.add(&UNDISTURBED, "regatta", Ok(undisturbed.as_secs_f64()));
        let killed = once(|| with_a_kill(&cluster, rows, undisturbed / 2));
        report.add(&KILLED, "regatta", Ok((killed.as_secs_f64() - undisturbed.as_secs_f64()).max(0.0)));
        let slowed =
            cluster.session().status().expect("it is there").workers.first().map_or(WorkerId(0), |first| first.worker);
        let slow = cluster.slow(slowed, 5).expect("it is there");
        let began = Instant::now();
        run(&cluster, rows);
        let took = began.elapsed();
        drop(slow);
        report.add(&SLOW, "regatta", Ok((took.as_secs_f64() - undisturbed.as_secs_f64()).max(0.0)));
    }
    report.finish();
}
