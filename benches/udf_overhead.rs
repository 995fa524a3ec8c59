//! What it costs to call a UDF of each form, against a direct call of the same code. See docs/book/src/benchmarks.md.

mod support;

use std::hint::black_box;

use futures_util::future::join_all;
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use support::foreign::{figure, python};
use support::local::{WORKERS, numbers, seconds, workers};
use support::report::{Better, Case, Report};

const ROWS: i64 = 500_000;
/// Rows of the async UDF.
const CALLS: i64 = 50_000;
/// Rows of an async UDF that are under way at once, as regatta has them.
const IN_FLIGHT: usize = 64;

const fn case(name: &'static str) -> Case {
    Case { name, unit: "ns/row", better: Better::Lower }
}

/// In the order in which Daft's script names them.
static FORMS: [(&str, Case, i64); 8] = [
    ("none", case("no UDF"), ROWS),
    ("rows", case("function of values"), ROWS),
    ("batches", case("function of columns"), ROWS),
    ("state", case("stateful pool"), ROWS),
    ("isolated", case("stateful pool, processes"), ROWS),
    ("async", case("async function of values"), CALLS),
    ("generator", case("generator, two rows for each"), ROWS),
    ("aggregate", case("aggregation"), ROWS),
];

#[regatta::udf]
fn next(x: i64) -> i64 {
    x + 1
}

#[regatta::udf(dtype = DataType::Int64)]
fn next_of_each(x: &Series) -> Series {
    x + 1
}

#[regatta::udf]
async fn next_later(x: i64) -> i64 {
    tokio::task::yield_now().await;
    x + 1
}

#[regatta::udf]
fn itself_and_next(x: i64) -> Vec<i64> {
    vec![x, x + 1]
}

/// Adds a number that its state holds.
#[derive(Serialize, Deserialize)]
struct Plus {
    by: i64,
}

#[regatta::udf]
impl Udf for Plus {
    type State = i64;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<i64> {
        Ok(self.by)
    }

    fn run(&self, by: &mut i64, batch: &Batch) -> UdfResult<Column> {
        Ok((batch.column(0)?.as_materialized_series() + *by).into_column())
    }
}

#[derive(Serialize, Deserialize)]
struct Total;

#[regatta::udf]
impl Aggregate for Total {
    type Partial = i64;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn partial(&self, batch: &Batch) -> UdfResult<i64> {
        Ok(batch.column(0)?.i64()?.sum().unwrap_or(0))
    }

    fn merge(&self, before: i64, after: i64) -> UdfResult<i64> {
        Ok(before + after)
    }

    fn finish(&self, total: i64) -> UdfResult<AnyValue<'static>> {
        Ok(AnyValue::Int64(total))
    }
}

#[regatta::main]
fn main() {
    let mut report = Report::from_args("udf_overhead", "direct call");
    for _ in 0..report.repetitions() {
        for (form, case, rows) in &FORMS {
            report.add(case, "direct call", direct(form, *rows).map(|took| took / *rows as f64 * 1e9));
        }
        add(&mut report, "regatta, native", &Session::native().expect("threads"), 1);
        add(&mut report, "regatta, two workers", &workers(), WORKERS);
        for (system, runner) in [("Daft, native", "native"), ("Daft on Ray", "ray")] {
            let figures = python("daft_udf_overhead.py", &[runner]);
            for (form, case, rows) in &FORMS {
                report.add(case, system, figure(&figures, form).map(|took| took / *rows as f64 * 1e9));
            }
        }
    }
    report.finish();
}

/// Seconds of the same code in a loop of this thread.
fn direct(form: &str, rows: i64) -> Result<f64, String> {
    let frame = numbers(rows).collect().expect("a frame");
    let x = frame.column("x").expect("it has one").as_materialized_series();
    let values = x.i64().expect("numbers");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let run: Box<dyn FnMut() + '_> = match form {
        "rows" => Box::new(|| drop(black_box(values.iter().map(|x| x.map(next)).collect::<Int64Chunked>()))),
        "batches" | "state" | "isolated" => Box::new(|| drop(black_box(next_of_each(x)))),
        "async" => Box::new(|| {
            let rows: Vec<i64> = values.iter().flatten().collect();
            let later = async |rows: &[i64]| join_all(rows.iter().map(|x| next_later(*x))).await;
            rows.chunks(IN_FLIGHT).for_each(|rows| drop(black_box(runtime.block_on(later(rows)))));
        }),
        "generator" => Box::new(|| {
            let made = values.iter().flatten().flat_map(itself_and_next);
            drop(black_box(Int64Chunked::from_iter_values("y".into(), made)));
        }),
        "aggregate" => Box::new(|| {
            black_box(values.sum());
        }),
        _ => return Err("there is nothing to call".to_owned()),
    };
    Ok(seconds(run))
}

fn add(report: &mut Report, system: &'static str, session: &Session, replicas: usize) {
    for (form, case, rows) in &FORMS {
        let held = numbers(*rows).into_partitions(replicas).persist_on(session).expect("they fit");
        let took = seconds(|| {
            let left = query(form, held.lazy(), replicas).collect_on(session).expect("it runs");
            assert_eq!(left.height(), usize::from(*form == "aggregate"));
        });
        report.add(case, system, Ok(took / *rows as f64 * 1e9));
    }
}

/// Calls the UDF for every row and leaves none.
fn query(form: &str, rows: LazyFrame, replicas: usize) -> LazyFrame {
    let x = || [col("x")];
    let pool = || Plus { by: 1 }.pool().replicas(replicas).cpus(0.1);
    let called = match form {
        "rows" => rows.select([next::pool().replicas(replicas).cpus(0.1).on(x()).alias("x")]),
        "batches" => rows.select([next_of_each::pool().replicas(replicas).cpus(0.1).on(x()).alias("x")]),
        "state" => rows.select([pool().on(x()).alias("x")]),
        "isolated" => rows.select([pool().isolated().on(x()).alias("x")]),
        "async" => rows.select([next_later::pool().replicas(replicas).cpus(0.1).on(x()).alias("x")]),
        "generator" => rows.generate("y", itself_and_next::pool().replicas(replicas).cpus(0.1).on(x())),
        "aggregate" => return rows.select([Total.on(x())]),
        _ => rows,
    };
    called.filter(col("x").lt(lit(0)))
}
