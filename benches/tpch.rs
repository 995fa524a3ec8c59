//! TPC-H, 22 queries, the same plans and files on every system. See docs/book/src/benchmarks.md.

#[path = "../tests/tpch/data.rs"]
mod data;
#[path = "../tests/tpch/queries.rs"]
mod queries;
mod support;

use std::fs::File;
use std::path::Path;

use polars_plan::dsl::{Engine, PlanSerializationContext};
use queries::{QUERIES, Query, Tables};
use regatta::polars::prelude::*;
use regatta::{LazyFrameExt, Session};
use support::foreign::{Figures, figure, python};
use support::local::{once, workers};
use support::report::{Better, Case, Report};

const fn case(name: &'static str) -> Case {
    Case { name, unit: "s", better: Better::Lower }
}

static TOTAL: Case = case("22 queries");
static EACH: [Case; 22] = [
    case("q1"),
    case("q2"),
    case("q3"),
    case("q4"),
    case("q5"),
    case("q6"),
    case("q7"),
    case("q8"),
    case("q9"),
    case("q10"),
    case("q11"),
    case("q12"),
    case("q13"),
    case("q14"),
    case("q15"),
    case("q16"),
    case("q17"),
    case("q18"),
    case("q19"),
    case("q20"),
    case("q21"),
    case("q22"),
];
const PEERS: [(&str, &str); 5] = [
    ("Polars of PyPI", "polars"),
    ("DuckDB", "duckdb"),
    ("DataFusion", "datafusion"),
    ("Daft, native", "daft"),
    ("Daft on Ray", "daft-ray"),
];
const ROW_GROUP: usize = 1 << 17;

#[regatta::main]
fn main() {
    let mut report = Report::from_args("tpch", "Polars' crates, streaming");
    let quick = report.repetitions() == 1;
    let folder = tempfile::tempdir().expect("a folder");
    data::write(folder.path(), if quick { 0.1 } else { 1.0 }, ROW_GROUP).expect("room for the tables");
    let tables = Tables(folder.path().to_owned());
    write_plans(&tables, folder.path());
    let heights = QUERIES.map(|query| plain(query(&tables)));
    for _ in 0..report.repetitions() {
        add(&mut report, "Polars' crates, streaming", QUERIES.map(|query| Ok(best(query, &tables, plain))));
        for (system, session) in
            [("regatta, native", Session::native().expect("threads")), ("regatta, two workers", workers())]
        {
            let run = |query: LazyFrame| query.collect_on(&session).expect("it runs").height();
            add(&mut report, system, QUERIES.map(|query| Ok(best(query, &tables, run))));
        }
        for (system, name) in PEERS {
            let figures = python("tpch.py", &[name, folder.path().to_str().expect("a name of text")]);
            add(&mut report, system, times(&figures, &heights));
        }
    }
    report.finish();
}

/// The times of a peer. One whose answer has other rows than plain Polars' is no time.
fn times(figures: &Result<Figures, String>, heights: &[usize; 22]) -> [Result<f64, String>; 22] {
    std::array::from_fn(|at| {
        let name = EACH[at].name;
        let seconds = figure(figures, name)?;
        let rows = figure(figures, &format!("{name}.rows"))?;
        match seconds.is_nan() {
            true => Err("it refuses the query".to_owned()),
            false if rows != heights[at] as f64 => Err(format!("its answer has {rows} rows, not {}", heights[at])),
            false => Ok(seconds),
        }
    })
}

fn add(report: &mut Report, system: &'static str, times: [Result<f64, String>; 22]) {
    report.add(&TOTAL, system, times.iter().cloned().sum());
    for (case, time) in EACH.iter().zip(times) {
        report.add(case, system, time);
    }
}

/// The least time of three, and its rows are looked at.
fn best(query: Query, tables: &Tables, run: impl Fn(LazyFrame) -> usize) -> f64 {
    let times = [(); 3].map(|()| once(|| _ = run(query(tables))).as_secs_f64());
    times.into_iter().fold(f64::INFINITY, f64::min)
}

fn plain(query: LazyFrame) -> usize {
    let answer = query.collect_with_engine(Engine::Streaming).expect("it runs");
    answer.unwrap_single().height()
}

/// Leaves each plan beside the tables, for a Polars of another language.
fn write_plans(tables: &Tables, folder: &Path) {
    for (query, case) in QUERIES.iter().zip(&EACH) {
        let file = File::create(folder.join(format!("{}.plan", case.name))).expect("room");
        let written = query(tables).logical_plan.serialize_versioned(file, PlanSerializationContext::default());
        written.expect("no closure is in them");
    }
}
