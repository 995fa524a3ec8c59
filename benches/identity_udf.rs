//! A UDF that hands back what it gets, over rows that the workers have already. See docs/book/src/benchmarks.md.

mod support;

use regatta::polars::prelude::*;
use regatta::{LazyFrameExt, Session};
use support::foreign::{figure, python};
use support::local::{WORKERS, numbers, seconds, workers};
use support::report::{Better, Case, Report};

const ROWS: i64 = 10_000_000;

const WITHOUT: Case = Case { name: "the query without it", unit: "s", better: Better::Lower };
const WITH: Case = Case { name: "with the UDF", unit: "s", better: Better::Lower };
const ADDS: Case = Case { name: "the UDF adds", unit: "s", better: Better::Lower };

#[regatta::udf(dtype = DataType::Int64)]
fn identity(x: &Series) -> Series {
    x.clone()
}

#[regatta::main]
fn main() {
    let mut report = Report::from_args("identity_udf", "Daft, native");
    for _ in 0..report.repetitions() {
        add(&mut report, "regatta, native", Ok(ours(&Session::native().expect("threads"), 1)));
        add(&mut report, "regatta, two workers", Ok(ours(&workers(), WORKERS)));
        for (system, runner) in [("Daft, native", "native"), ("Daft on Ray", "ray")] {
            let figures = python("daft_identity.py", &[runner]);
            let times = figure(&figures, "without").and_then(|without| Ok((without, figure(&figures, "with")?)));
            add(&mut report, system, times);
        }
    }
    report.finish();
}

fn add(report: &mut Report, system: &'static str, times: Result<(f64, f64), String>) {
    report.add(&WITHOUT, system, times.clone().map(|(without, _)| without));
    report.add(&WITH, system, times.clone().map(|(_, with)| with));
    report.add(&ADDS, system, times.map(|(without, with)| with - without));
}

/// Seconds of a query that looks at every row and leaves none, without the UDF and with it.
fn ours(session: &Session, replicas: usize) -> (f64, f64) {
    let rows = numbers(ROWS).persist_on(session).expect("they fit");
    let none = |query: LazyFrame| {
        let none = query.filter(col("x").lt(lit(0))).collect_on(session).expect("it runs");
        assert_eq!(none.height(), 0);
    };
    let call = || identity::pool().replicas(replicas).cpus(0.1).on([col("x")]).alias("x");
    (seconds(|| none(rows.lazy())), seconds(|| none(rows.lazy().select([call()]))))
}
