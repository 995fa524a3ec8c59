//! Tasks that do next to nothing, from the driver to workers and back. See docs/benchmarks.md.

mod support;

use regatta::{LazyFrameExt, Session};
use support::foreign::{figure, python};
use support::local::{numbers, seconds, workers};
use support::report::{Better, Case, Report};

const TASKS: usize = 20_000;

const RATE: Case = Case { name: "no-op tasks", unit: "/s", better: Better::Higher };
const FETCHED: Case = Case { name: "and their results fetched", unit: "/s", better: Better::Higher };

#[regatta::main]
fn main() {
    let mut report = Report::from_args("tasks", "Ray tasks");
    let cluster = workers();
    for _ in 0..report.repetitions() {
        report.add(&RATE, "regatta", Ok(left(&cluster)));
        report.add(&FETCHED, "regatta", Ok(fetched(&cluster)));
        let ray = python("ray_tasks.py", &[]);
        report.add(&RATE, "Ray tasks", figure(&ray, "tasks"));
        report.add(&FETCHED, "Ray tasks", figure(&ray, "fetched"));
    }
    report.finish();
}

/// Tasks per second: each takes its one row of a frame that is in the stage's plan, and leaves it where it is.
fn left(session: &Session) -> f64 {
    let tasks = || numbers(TASKS as i64).into_partitions(TASKS);
    TASKS as f64 / seconds(|| drop(tasks().persist_on(session).expect("it runs")))
}

fn fetched(session: &Session) -> f64 {
    let tasks = || numbers(TASKS as i64).into_partitions(TASKS);
    TASKS as f64 / seconds(|| assert_eq!(tasks().collect_on(session).expect("it runs").height(), TASKS))
}
