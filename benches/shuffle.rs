//! Rows that change partitions: scattered, encoded, kept, fetched and read again. See docs/book/src/benchmarks.md.

mod support;

use regatta::polars::prelude::*;
use regatta::{LazyFrameExt, Session};
use support::local::{seconds, workers};
use support::report::{Better, Case, Report};

const PARTITIONS: usize = 64;
const TASKS: usize = 8;

const NUMBERS: Case = Case { name: "8-byte columns", unit: "GB/s", better: Better::Higher };
const TEXTS: Case = Case { name: "short strings", unit: "GB/s", better: Better::Higher };
const GATHERED: Case = Case { name: "8-byte columns, gathered", unit: "GB/s", better: Better::Higher };

#[regatta::main]
fn main() {
    let mut report = Report::from_args("shuffle", "memcpy");
    for _ in 0..report.repetitions() {
        let one = Session::local(1).expect("a worker");
        let two = workers();
        for (case, rows) in [(&NUMBERS, numbers()), (&TEXTS, texts())] {
            let bytes = rows.estimated_size();
            report.add(case, "one worker", Ok(rate(bytes, shuffled(&one, &rows))));
            report.add(case, "two workers", Ok(rate(bytes, shuffled(&two, &rows))));
            report.add(case, "memcpy", Ok(rate(bytes, copied(bytes))));
        }
        let rows = numbers();
        let bytes = rows.estimated_size();
        report.add(&GATHERED, "one worker", Ok(rate(bytes, gathered(&one, &rows))));
        report.add(&GATHERED, "two workers", Ok(rate(bytes, gathered(&two, &rows))));
        report.add(&GATHERED, "memcpy", Ok(rate(bytes, copied(bytes))));
    }
    report.finish();
}

fn numbers() -> DataFrame {
    let column =
        |by: i64| Int64Chunked::from_iter_values("".into(), (0..8_000_000i64).map(move |n| n.wrapping_mul(by)));
    let columns = (0..4i64).map(|at| column(2 * at + 1).into_series().with_name(format!("c{at}").into()).into_column());
    DataFrame::new_infer_height(columns.collect()).expect("columns of one height")
}

fn texts() -> DataFrame {
    let words: Vec<_> =
        (0..4_000_000u32).map(|n| format!("word {:08x} of a few", n.wrapping_mul(0x9e37_79b9))).collect();
    df!["c0" => (0..4_000_000i64).collect::<Vec<_>>(), "word" => words].expect("columns of one height")
}

fn rate(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e9
}

/// Seconds in which rows that are on the workers come to other partitions, and are looked at.
fn shuffled(session: &Session, rows: &DataFrame) -> f64 {
    let kept = rows.clone().lazy().into_partitions(TASKS).persist_on(session).expect("they fit");
    seconds(|| {
        let query = kept.lazy().repartition(PARTITIONS, [col("c0")]).filter(col("c0").lt(lit(0)));
        assert_eq!(query.collect_on(session).expect("it runs").height(), 0);
    })
}

/// Seconds in which one task has seen all of them.
fn gathered(session: &Session, rows: &DataFrame) -> f64 {
    let kept = rows.clone().lazy().into_partitions(TASKS).persist_on(session).expect("they fit");
    seconds(|| {
        let sums = kept.lazy().select([all().as_expr().sum()]);
        assert_eq!(sums.collect_on(session).expect("it runs").height(), 1);
    })
}

fn copied(bytes: usize) -> f64 {
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    seconds(|| to.copy_from_slice(std::hint::black_box(&from)))
}
