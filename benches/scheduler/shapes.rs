//! Crowds that cost much when every one of them is looked at: microseconds for each event, at a thousand busy workers.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::report::{Better, Case};
use crate::sched::{
    Action, Attempt, Core, DriverId, Event, PoolSpec, QueryId, QuerySpec, ReplicaId, Resources, StageSpec, TaskId,
};
use crate::{cluster, done, micros, query_of, runs};

/// How the row is called.
pub(crate) const AT: &str = "1 000 workers";

const WORKERS: u32 = 1_000;
/// Tasks that run at once on them.
const PLACES: usize = 8_000;
const EVENTS: usize = 20_000;

/// Sets a shape up, and measures what an event costs there.
type Measure = fn() -> f64;

/// Every shape.
pub(crate) const ALL: [(&Case, Measure); 6] = [
    (&case("an end, 100 UDF queries wait beside 40 idle replicas"), udfs_beside_idle_replicas),
    (&case("an end, 1 000 queries beside 8 idle replicas"), queries_beside_idle_replicas),
    (&case("an end, 100 drivers of 10 queries each"), drivers),
    (&case("an end, 1 000 queries of which none has more to start"), nothing_to_start),
    (&case("an end, of a limit over 10 000 tasks"), limit),
    (&case("a query of one task: submitted, run, released"), short_queries),
];

const fn case(name: &'static str) -> Case {
    Case { name, unit: "us", better: Better::Lower }
}

/// Has workers end one task after the other, and start what they are told to.
fn events(core: &mut Core, now: Instant, mut running: VecDeque<(TaskId, Attempt)>) -> f64 {
    let started = Instant::now();
    for _ in 0..EVENTS {
        let Some((task, attempt)) = running.pop_front() else { break };
        running.extend(runs(&core.handle(done(task, attempt), now)));
    }
    micros(started.elapsed()) / EVENTS as f64
}

fn submit(core: &mut Core, now: Instant, spec: QuerySpec) -> Vec<Action> {
    core.handle(Event::Submit(spec), now)
}

fn udf_query(id: u64, cpus: f64, replicas: (usize, usize)) -> QuerySpec {
    let pool = PoolSpec {
        key: id.to_le_bytes().into(),
        udf: "oar".to_owned(),
        each: Resources::cpus(cpus),
        least: replicas.0,
        most: replicas.1,
        ready_timeout: None,
        keep_warm: None,
    };
    let mut spec = query_of(QueryId(id), 1);
    spec.stages[0].pools = vec![pool];
    spec
}

/// Busy workers with so many replicas among them that are idle, all of one query, which has one task that runs; and tasks of
/// so many other queries.
fn beside_idle_replicas(replicas: usize, queries: u64) -> (Core, Instant, VecDeque<(TaskId, Attempt)>) {
    let (mut core, now) = cluster(WORKERS);
    let actions = submit(&mut core, now, udf_query(0, 0.5, (1, replicas)));
    let started: Vec<ReplicaId> = actions
        .iter()
        .filter_map(|action| if let Action::StartReplica { replica, .. } = action { Some(*replica) } else { None })
        .collect();
    assert_eq!(started.len(), replicas);
    for replica in &started {
        black_box(core.handle(Event::ReplicaReady(*replica), now));
    }
    let mut running = VecDeque::new();
    let tasks = (PLACES + 2 * EVENTS) / queries as usize + 1;
    for query in 1..=queries {
        running.extend(runs(&submit(&mut core, now, query_of(QueryId(query), tasks))));
    }
    for replica in started {
        black_box(core.handle(Event::ReplicaIdle { replica, idle: true }, now));
    }
    (core, now, running)
}

fn udfs_beside_idle_replicas() -> f64 {
    let (mut core, now, running) = beside_idle_replicas(40, 1);
    for query in 100..200 {
        // Each needs a worker nearly for itself.
        black_box(submit(&mut core, now, udf_query(query, 3.5, (1, 1))));
    }
    events(&mut core, now, running)
}

fn queries_beside_idle_replicas() -> f64 {
    let (mut core, now, running) = beside_idle_replicas(8, 1_000);
    events(&mut core, now, running)
}

fn drivers() -> f64 {
    let (mut core, now) = cluster(WORKERS);
    let mut running = VecDeque::new();
    for query in 0..1_000 {
        let tasks = (PLACES + 2 * EVENTS) / 1_000;
        let spec = QuerySpec { driver: DriverId(query % 100), ..query_of(QueryId(query), tasks) };
        running.extend(runs(&submit(&mut core, now, spec)));
    }
    events(&mut core, now, running)
}

fn nothing_to_start() -> f64 {
    let (mut core, now) = cluster(WORKERS * 10);
    let mut running = VecDeque::new();
    for query in 0..1_000 {
        running.extend(runs(&submit(&mut core, now, query_of(QueryId(query), EVENTS / 1_000 + 1))));
    }
    events(&mut core, now, running)
}

fn limit() -> f64 {
    let (mut core, now) = cluster(WORKERS);
    let spec = query_of(QueryId(0), 10_000);
    let stages = vec![StageSpec { limit: Some(u64::MAX), ..spec.stages[0].clone() }];
    let running: VecDeque<_> = runs(&submit(&mut core, now, QuerySpec { stages, ..spec })).into();
    let started = Instant::now();
    let ended = run_all(&mut core, now, running);
    micros(started.elapsed()) / ended as f64
}

fn short_queries() -> f64 {
    let (mut core, now) = cluster(WORKERS);
    let started = Instant::now();
    for query in 0..EVENTS as u64 {
        let running = runs(&submit(&mut core, now, query_of(QueryId(query), 1)));
        run_all(&mut core, now, running.into());
        black_box(core.handle(Event::Release(QueryId(query)), now));
    }
    micros(started.elapsed()) / EVENTS as f64
}

fn run_all(core: &mut Core, now: Instant, mut running: VecDeque<(TaskId, Attempt)>) -> usize {
    let mut ended = 0;
    while let Some((task, attempt)) = running.pop_front() {
        // A task takes a while, so that none waits at a worker.
        let later = now + Duration::from_secs(1);
        running.extend(runs(&core.handle(done(task, attempt), later)));
        ended += 1;
    }
    ended
}
