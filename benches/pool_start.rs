//! From a query to eight replicas of its UDF that take batches, on a cluster that is up. See docs/book/src/benchmarks.md.

mod support;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use support::foreign::{figure, python};
use support::local::{numbers, workers};
use support::report::{Better, Case, Report, quantile};

const REPLICAS: usize = 8;

const PLAIN: Case = Case { name: "8 replicas, threads of their workers", unit: "s", better: Better::Lower };
const ISOLATED: Case = Case { name: "8 replicas, processes", unit: "s", better: Better::Lower };

/// Runs no batch before the gate is there, so that its query does not end before all replicas are ready.
#[derive(Serialize, Deserialize)]
struct Gated {
    gate: PathBuf,
}

#[regatta::udf]
impl Udf for Gated {
    type State = ();

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Ok(inputs[0].dtype().clone())
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        while !self.gate.exists() {
            thread::sleep(LOOK);
        }
        Ok(batch.column(0)?.clone())
    }
}

const LOOK: Duration = Duration::from_millis(1);

#[regatta::main]
fn main() {
    let mut report = Report::from_args("pool_start", "Ray actors");
    let session = workers();
    for _ in 0..report.repetitions() {
        report.add(&PLAIN, "regatta", Ok(median(&session, false)));
        report.add(&ISOLATED, "regatta", Ok(median(&session, true)));
        report.add(&PLAIN, "Ray actors", Err("its actors are processes".to_owned()));
        report.add(&ISOLATED, "Ray actors", figure(&python("ray_pool_start.py", &[]), "actors"));
        for (system, runner) in [("Daft, native", "native"), ("Daft on Ray", "ray")] {
            let figures = python("daft_pool_start.py", &[runner]);
            report.add(&PLAIN, system, figure(&figures, "plain"));
            report.add(&ISOLATED, system, figure(&figures, "processes"));
        }
    }
    report.finish();
}

fn median(session: &Session, isolated: bool) -> f64 {
    ready(session, isolated); // warm
    quantile((0..5).map(|_| ready(session, isolated)).collect(), 0.5).expect("it was measured")
}

/// Seconds until all replicas are ready.
fn ready(session: &Session, isolated: bool) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let gate = folder.path().join("gate");
    let mut pool = Gated { gate: gate.clone() }.pool().replicas(REPLICAS).cpus(0.05);
    if isolated {
        pool = pool.isolated();
    }
    let query = numbers(REPLICAS as i64).select([pool.on([col("x")])]);
    let started = Instant::now();
    let mut run = session.submit(query).expect("it runs");
    let took = loop {
        let status = run.status().expect("the session is there").expect("it runs until the gate is there");
        let ready: usize = status.stages.iter().flat_map(|stage| &stage.pools).map(|pool| pool.ready).sum();
        if ready == REPLICAS {
            break started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{status}");
        thread::sleep(LOOK);
    };
    std::fs::write(gate, "").expect("the gate");
    run.collect().expect("it runs");
    took.as_secs_f64()
}
