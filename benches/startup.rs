//! From nothing to a cluster of four workers of this machine that take work. See docs/book/src/benchmarks.md.

mod support;

use regatta::Session;
use support::foreign::{figure, python};
use support::local::seconds;
use support::report::{Better, Case, Report, quantile};

const START: Case = Case { name: "four workers, up", unit: "s", better: Better::Lower };
const WHOLE: Case = Case { name: "and down again", unit: "s", better: Better::Lower };

#[regatta::main]
fn main() {
    let mut report = Report::from_args("startup", "regatta");
    for _ in 0..report.repetitions() {
        let mut up = Vec::new();
        let whole = seconds(|| {
            let started = std::time::Instant::now();
            let session = Session::local(4).expect("workers");
            up.push(started.elapsed().as_secs_f64());
            drop(session);
        });
        report.add(&START, "regatta", Ok(quantile(up, 0.5).expect("it was measured")));
        report.add(&WHOLE, "regatta", Ok(whole));
        let ray = python("ray_startup.py", &[]);
        report.add(&START, "ray.init", figure(&ray, "up"));
        report.add(&WHOLE, "ray.init", figure(&ray, "whole"));
    }
    report.finish();
}
