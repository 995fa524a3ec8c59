//! The table.

use std::collections::BTreeMap;

use super::InstrumentKind::{Counter, Gauge, Histogram};
use super::{Figure, Instrument, Measured, Point};
use crate::totals::OTHER;
use crate::{UdfTotals, WorkerRow};

/// Every instrument.
pub const INSTRUMENTS: &[Instrument] = &[
    Instrument {
        name: "regatta.query.submitted",
        kind: Counter,
        unit: "{query}",
        attributes: &[],
        about: "queries that were submitted",
        read: |of| one(of.totals.submitted as f64),
    },
    Instrument {
        name: "regatta.query.ended",
        kind: Counter,
        unit: "{query}",
        attributes: &["outcome"],
        about: "queries that have ended: done, failed or cancelled",
        read: |of| {
            let totals = &of.totals;
            words([("done", totals.done), ("failed", totals.failed), ("cancelled", totals.cancelled)])
        },
    },
    Instrument {
        name: "regatta.query.running",
        kind: Gauge,
        unit: "{query}",
        attributes: &[],
        about: "queries that run, or wait to",
        read: |of| one(f64::from(of.cluster.known.0)),
    },
    Instrument {
        name: "regatta.query.duration",
        kind: Histogram,
        unit: "s",
        attributes: &[],
        about: "from the submit of a query to its end",
        read: |of| vec![Point { attributes: Vec::new(), figure: Figure::Spread(of.totals.took.clone()) }],
    },
    Instrument {
        name: "regatta.task.ended",
        kind: Counter,
        unit: "{attempt}",
        attributes: &["outcome"],
        about: "attempts of tasks that have ended: done, failed, lost with their worker or given up for another, stopped or without their input",
        read: |of| {
            let of = &of.totals.attempts;
            words([("done", of.done.count()), ("failed", of.failed), ("lost", of.lost), ("stopped", of.stopped)])
        },
    },
    Instrument {
        name: "regatta.task.again",
        kind: Counter,
        unit: "{attempt}",
        attributes: &[],
        about: "attempts of tasks that did again what had been done, because it was lost",
        read: |of| one(of.totals.attempts.again as f64),
    },
    Instrument {
        name: "regatta.task.duration",
        kind: Histogram,
        unit: "s",
        attributes: &[],
        about: "how long attempts ran that succeeded",
        read: |of| vec![Point { attributes: Vec::new(), figure: Figure::Spread(of.totals.attempts.done.clone()) }],
    },
    Instrument {
        name: "regatta.task.time",
        kind: Counter,
        unit: "s",
        attributes: &["kind"],
        about: "what tasks spent their time on: waiting for inputs, for the engine, for UDFs, and writing",
        read: |of| {
            let of = &of.totals.attempts;
            times([("inputs", of.fetch), ("engine", of.engine), ("udf", of.udf), ("write", of.write)])
        },
    },
    Instrument {
        name: "regatta.task.count",
        kind: Gauge,
        unit: "{task}",
        attributes: &["state"],
        about: "tasks that are at workers: running, or waiting there",
        read: |of| words([("running", of.cluster.fleet.tasks.0), ("waiting", of.cluster.fleet.tasks.1)]),
    },
    Instrument {
        name: "regatta.wait.time",
        kind: Counter,
        unit: "s",
        attributes: &["kind"],
        about: "how long tasks, batches and replicas waited for something: sampled",
        read: |of| times(of.totals.waits.iter().map(|(kind, time)| (kind.as_str(), *time))),
    },
    Instrument {
        name: "regatta.exchange.io",
        kind: Counter,
        unit: "By",
        attributes: &["transport"],
        about: "what stages read of each other: in the same process, from a file of the same machine, over the network, or by way of another node",
        read: |of| {
            let of = &of.totals.fetched;
            words([("here", of.here), ("mapped", of.mapped), ("network", of.network), ("relayed", of.relayed)])
        },
    },
    Instrument {
        name: "regatta.exchange.rows",
        kind: Counter,
        unit: "{row}",
        attributes: &[],
        about: "rows that stages read of each other",
        read: |of| one(of.totals.fetched.rows as f64),
    },
    Instrument {
        name: "regatta.udf.call.duration",
        kind: Histogram,
        unit: "s",
        attributes: &["udf"],
        about: "from a call of a UDF to its answer, with the wait for room at a replica",
        read: |of| {
            let calls = of.totals.udfs.iter();
            calls
                .map(|(udf, of)| Point { attributes: vec![udf.clone()], figure: Figure::Spread(of.calls.call.clone()) })
                .collect()
        },
    },
    Instrument {
        name: "regatta.udf.rows",
        kind: Counter,
        unit: "{row}",
        attributes: &["udf"],
        about: "rows that went into calls of a UDF",
        read: |of| udfs(of, |udf| udf.calls.rows as f64),
    },
    Instrument {
        name: "regatta.udf.again",
        kind: Counter,
        unit: "{call}",
        attributes: &["udf"],
        about: "calls of a UDF that were made again",
        read: |of| udfs(of, |udf| udf.calls.retried as f64),
    },
    Instrument {
        name: "regatta.udf.busy",
        kind: Counter,
        unit: "s",
        attributes: &["udf"],
        about: "how long replicas of a UDF were busy",
        read: |of| udfs(of, |udf| seconds(udf.calls.busy)),
    },
    Instrument {
        name: "regatta.udf.wait",
        kind: Counter,
        unit: "s",
        attributes: &["udf"],
        about: "how long batches waited for room at replicas of a UDF",
        read: |of| udfs(of, |udf| seconds(udf.waited)),
    },
    Instrument {
        name: "regatta.replica.started",
        kind: Counter,
        unit: "{replica}",
        attributes: &["udf"],
        about: "replicas of a UDF that were started",
        read: |of| udfs(of, |udf| udf.started as f64),
    },
    Instrument {
        name: "regatta.replica.start.time",
        kind: Counter,
        unit: "s",
        attributes: &["udf"],
        about: "how long starts of replicas took",
        read: |of| udfs(of, |udf| seconds(udf.start)),
    },
    Instrument {
        name: "regatta.replica.ended",
        kind: Counter,
        unit: "{replica}",
        attributes: &["udf", "cause"],
        about: "replicas of a UDF that nobody stopped: failed, hung in a call, or lost with their worker",
        read: |of| {
            let each = of.totals.udfs.iter();
            each.flat_map(|(udf, of)| {
                [("failed", of.failed), ("hung", of.hung), ("lost", of.lost)]
                    .map(|(cause, count)| point([udf, cause], count as f64))
            })
            .collect()
        },
    },
    Instrument {
        name: "regatta.replica.count",
        kind: Gauge,
        unit: "{replica}",
        attributes: &["udf", "state"],
        about: "replicas of a UDF that are there: busy, idle or starting",
        read: |of| {
            let mut all = BTreeMap::<(&str, &str), f64>::new();
            for pool in &of.cluster.pools {
                let is_room = all.len() < 300 || all.contains_key(&(&pool.udf, "busy"));
                let udf = if is_room { pool.udf.as_str() } else { OTHER };
                let counts = [
                    ("busy", pool.ready.saturating_sub(pool.idle)),
                    ("idle", pool.idle),
                    ("starting", pool.starting.len() as u32),
                ];
                counts.into_iter().for_each(|(state, count)| *all.entry((udf, state)).or_default() += f64::from(count));
            }
            all.into_iter().map(|((udf, state), count)| point([udf, state], count)).collect()
        },
    },
    Instrument {
        name: "regatta.worker.count",
        kind: Gauge,
        unit: "{worker}",
        attributes: &["state"],
        about: "workers: heard of, or silent",
        read: |of| {
            let fleet = &of.cluster.fleet;
            words([("heard", u64::from(fleet.workers.saturating_sub(fleet.silent))), ("silent", fleet.silent.into())])
        },
    },
    Instrument {
        name: "regatta.worker.lost",
        kind: Counter,
        unit: "{worker}",
        attributes: &[],
        about: "workers that were lost",
        read: |of| one(of.totals.workers_lost as f64),
    },
    Instrument {
        name: "regatta.worker.cpu.limit",
        kind: Gauge,
        unit: "{cpu}",
        attributes: &["worker"],
        about: "CPUs of a worker",
        read: |of| workers(of, |row| Some(row.cpus.0)),
    },
    Instrument {
        name: "regatta.worker.cpu.charged",
        kind: Gauge,
        unit: "{cpu}",
        attributes: &["worker"],
        about: "how many of them are charged to tasks and replicas",
        read: |of| workers(of, |row| Some(row.cpus.1)),
    },
    Instrument {
        name: "regatta.worker.cpu.busy",
        kind: Gauge,
        unit: "{cpu}",
        attributes: &["worker"],
        about: "how many of them its process keeps busy",
        read: |of| workers(of, |row| row.busy),
    },
    Instrument {
        name: "regatta.worker.memory.limit",
        kind: Gauge,
        unit: "By",
        attributes: &["worker"],
        about: "memory that a worker may use, if that is known",
        read: |of| workers(of, |row| Some(row.memory.0 as f64).filter(|bytes| *bytes > 0.0)),
    },
    Instrument {
        name: "regatta.worker.memory.usage",
        kind: Gauge,
        unit: "By",
        attributes: &["worker"],
        about: "memory that its process uses",
        read: |of| workers(of, |row| Some(row.used as f64).filter(|bytes| *bytes > 0.0)),
    },
    Instrument {
        name: "regatta.worker.gpu.limit",
        kind: Gauge,
        unit: "{gpu}",
        attributes: &["worker"],
        about: "GPUs of a worker",
        read: |of| workers(of, |row| Some(row.gpus.0).filter(|gpus| *gpus > 0.0)),
    },
    Instrument {
        name: "regatta.worker.gpu.charged",
        kind: Gauge,
        unit: "{gpu}",
        attributes: &["worker"],
        about: "how many of them are charged to replicas",
        read: |of| workers(of, |row| Some(row.gpus.1).filter(|_| row.gpus.0 > 0.0)),
    },
    Instrument {
        name: "regatta.backlog",
        kind: Gauge,
        unit: "{cpu}",
        attributes: &[],
        about: "CPUs that what waits for room would take",
        read: |of| one(of.cluster.backlog),
    },
    Instrument {
        name: "regatta.telemetry.dropped",
        kind: Counter,
        unit: "{record}",
        attributes: &["kind"],
        about: "what was left out of all that is shown, to stay within REGATTA_OBSERVE_MEMORY; no figure here lacks it",
        read: |of| {
            let of = &of.totals.dropped;
            words([("profiles", of.profiles), ("tasks", of.tasks), ("strips", of.strips), ("errors", of.errors)])
        },
    },
    Instrument {
        name: "regatta.uptime",
        kind: Gauge,
        unit: "s",
        attributes: &[],
        about: "since the head began",
        read: |of| one(seconds(of.cluster.up)),
    },
];

/// Workers that are told of one by one; the others are told of together.
const WORKERS: usize = 100;

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn point<const N: usize>(attributes: [&str; N], figure: f64) -> Point {
    Point { attributes: attributes.map(str::to_owned).to_vec(), figure: Figure::Number(figure) }
}

fn one(figure: f64) -> Vec<Point> {
    vec![point([], figure)]
}

fn words<const N: usize>(figures: [(&str, u64); N]) -> Vec<Point> {
    figures.map(|(word, figure)| point([word], figure as f64)).to_vec()
}

fn times<'a>(figures: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<Point> {
    figures.into_iter().map(|(word, time)| point([word], seconds(time))).collect()
}

fn udfs(of: &Measured, read: fn(&UdfTotals) -> f64) -> Vec<Point> {
    of.totals.udfs.iter().map(|(udf, of)| point([udf], read(of))).collect()
}

fn workers(of: &Measured, read: fn(&WorkerRow) -> Option<f64>) -> Vec<Point> {
    let workers = &of.cluster.workers;
    let (each, others) = workers.split_at(workers.len().min(WORKERS));
    let mut points: Vec<_> = each.iter().filter_map(|row| Some(point([&row.worker.to_string()], read(row)?))).collect();
    let others: Vec<_> = others.iter().filter_map(read).collect();
    points.extend((!others.is_empty()).then(|| point([OTHER], others.iter().sum())));
    points
}
