//! From nothing to four workers that take work, of this machine and on a Ray cluster. See docs/book/src/benchmarks.md.

mod support;

use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::{Config, RayOptions};
use support::foreign::{figure, python};
use support::local::{numbers, seconds};
use support::ray::RayCluster;
use support::report::{Better, Case, Report, quantile};

const START: Case = Case { name: "four workers, up", unit: "s", better: Better::Lower };
const ON_RAY: Case = Case { name: "four workers on Ray, up", unit: "s", better: Better::Lower };
const FIRST: Case = Case { name: "and the first query", unit: "s", better: Better::Lower };
const WHOLE: Case = Case { name: "and down again", unit: "s", better: Better::Lower };

#[regatta::main]
fn main() {
    let mut report = Report::from_args("startup", "regatta");
    for _ in 0..report.repetitions() {
        let mut up = Vec::new();
        let whole = seconds(|| {
            let started = Instant::now();
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
    let cluster = RayCluster::start();
    for _ in 0..report.repetitions() {
        let ours = cluster.as_ref().map_err(Clone::clone).and_then(on_ray);
        report.add(&ON_RAY, "regatta", ours.clone().map(|(up, _)| up));
        report.add(&FIRST, "regatta", ours.map(|(_, first)| first));
        let daft = cluster.as_ref().map_err(Clone::clone);
        let daft = daft.and_then(|cluster| python("daft_first_query.py", &[&cluster.address]));
        report.add(&FIRST, "Daft", figure(&daft, "first"));
    }
    report.finish();
}

/// Seconds until four workers have joined, and until a query has ended, of a program that finds a Ray cluster.
fn on_ray(cluster: &RayCluster) -> Result<(f64, f64), String> {
    let options = RayOptions {
        address: Some(cluster.address.clone()),
        python: Some(cluster.python.clone()),
        workers: Some(4..=4),
        cpus: Some(1.0),
        ..RayOptions::default()
    };
    let started = Instant::now();
    let session = Session::ray_with(options, Config::default()).map_err(|error| error.to_string())?;
    while session.status().map_err(|error| error.to_string())?.workers.len() < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let up = started.elapsed();
    let rows = numbers(4).filter(col("x").lt(0)).collect_on(&session).map_err(|error| error.to_string())?;
    assert_eq!(rows.height(), 0);
    Ok((up.as_secs_f64(), started.elapsed().as_secs_f64()))
}
