//! `cargo bench --bench scheduler -- [--quick] [--json FILE]`: what placing costs, on simulated workers.
//!
//! The scheduler is `src/sched` of the crate, included by path: it knows no Polars, so neither does this.

mod shapes;
mod shims;

/// The crate's own sources.
#[path = "../../src"]
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    unnameable_types,
    missing_debug_implementations,
    reason = "a part of it"
)]
mod house {
    pub(crate) mod sched;
}

#[path = "../support/report.rs"]
#[allow(dead_code, reason = "shared with others")]
mod report;

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use house::sched;
use regatta_observe::{Explain, Limits, Recorder, Seen, StagePlan, Submitted};
use report::{Better, Case, Report, quantile};
use sched::{
    Action, Attempt, Core, DriverId, Event, Output, PartitionId, QueryId, QuerySpec, QueryStatus, Resources, Settings,
    StageSpec, TaskId, WorkerId,
};
use shims::{error, udf};

/// Workers, tasks, and how the row is called.
const SIZES: [(u32, usize, &str); 4] = [
    (10, 1_000, "10 workers x 1 000 tasks"),
    (100, 10_000, "100 x 10 000"),
    (1_000, 100_000, "1 000 x 100 000"),
    (1_000, 1_000_000, "1 000 x 1 000 000"),
];

const COST: Case = Case { name: "one task: submitted, placed, ended", unit: "us", better: Better::Lower };
const RATE: Case = Case { name: "placements", unit: "1/s", better: Better::Higher };
const LATENCY: Case = Case { name: "from a task's end to the next, p50", unit: "us", better: Better::Lower };
const LATENCY_99: Case = Case { name: "from a task's end to the next, p99", unit: "us", better: Better::Lower };
const TURNS: Case = Case { name: "one task, 16 queries in turns", unit: "us", better: Better::Lower };
const TICK: Case = Case { name: "a tick under load", unit: "us", better: Better::Lower };
const STATUS: Case = Case { name: "status under load", unit: "us", better: Better::Lower };

fn main() {
    let mut report = Report::from_args("scheduler", SIZES[0].2);
    for _ in 0..report.repetitions() {
        for (workers, tasks, name) in SIZES {
            let whole = drain(workers, tasks, 1);
            report.add(&COST, name, Ok(micros(whole.time) / whole.tasks as f64));
            report.add(&RATE, name, Ok(whole.tasks as f64 / whole.time.as_secs_f64()));
            report.add(&LATENCY, name, quantile(whole.latencies.clone(), 0.5).ok_or_else(String::new));
            report.add(&LATENCY_99, name, quantile(whole.latencies, 0.99).ok_or_else(String::new));
            let turns = drain(workers, tasks, 16);
            report.add(&TURNS, name, Ok(micros(turns.time) / turns.tasks as f64));
            let (tick, status) = under_load(workers, tasks);
            report.add(&TICK, name, Ok(tick));
            report.add(&STATUS, name, Ok(status));
        }
        for (case, cost) in shapes::ALL {
            report.add(case, shapes::AT, Ok(cost()));
        }
    }
    report.finish();
}

/// What a simulated cluster took to do all that it was given.
struct Drained {
    tasks: usize,
    time: Duration,
    latencies: Vec<f64>,
}

/// Runs so many tasks of so many queries, again and again until the figure is stable.
fn drain(workers: u32, tasks: usize, queries: usize) -> Drained {
    let (mut core, now) = cluster(workers);
    let mut drained = Drained { tasks: 0, time: Duration::ZERO, latencies: Vec::new() };
    let mut round = 0;
    while drained.tasks < 200_000 {
        let started = Instant::now();
        let mut running = VecDeque::new();
        for query in 0..queries {
            let id = QueryId(round * queries as u64 + query as u64);
            running.extend(runs(&core.handle(Event::Submit(query_of(id, tasks / queries)), now)));
        }
        while let Some((task, attempt)) = running.pop_front() {
            let ended = Instant::now();
            let actions = core.handle(done(task, attempt), now);
            drained.latencies.push(micros(ended.elapsed()));
            running.extend(runs(&actions));
            drained.tasks += 1;
        }
        drained.time += started.elapsed();
        for query in 0..queries {
            black_box(core.handle(Event::Release(QueryId(round * queries as u64 + query as u64)), now));
        }
        round += 1;
    }
    drained
}

/// A tick and a status, in microseconds, while every worker is busy and the rest of the tasks waits.
fn under_load(workers: u32, tasks: usize) -> (f64, f64) {
    const TIMES: u32 = 100;
    let (mut core, now) = cluster(workers);
    let mut running: VecDeque<_> = runs(&core.handle(Event::Submit(query_of(QueryId(0), tasks)), now)).into();
    for _ in 0..tasks / 2 {
        let Some((task, attempt)) = running.pop_front() else { break };
        running.extend(runs(&core.handle(done(task, attempt), now)));
    }
    let each = |what: &mut dyn FnMut()| {
        let started = Instant::now();
        (0..TIMES).for_each(|_| what());
        micros(started.elapsed()) / f64::from(TIMES)
    };
    let tick = each(&mut || drop(black_box(core.handle(Event::Tick, now))));
    let recorder = recorder(tasks);
    let of = |query| Some(QueryStatus::new(recorder.stands(query, 0)?, core.waits(query, now)?));
    let status = each(&mut || drop(black_box(core.session_status(now, of))));
    (tick, status)
}

/// What is observed of the first query.
fn recorder(tasks: usize) -> Recorder {
    let plan = StagePlan { stage: 0, tasks: Some(tasks as u32), ..StagePlan::default() };
    let plan = Explain::new(vec![plan], Vec::new());
    let mut recorder = Recorder::new(Limits::default(), "", 0);
    recorder.saw(Seen::Submitted(Submitted { query: QueryId(0), name: None, plan: &plan, planned: 0 }), 0);
    recorder
}

/// Workers of four CPUs, on which eight tasks run at once.
fn cluster(workers: u32) -> (Core, Instant) {
    let now = Instant::now();
    let mut core = Core::new(Settings {
        task: Resources::cpus(0.5),
        ready_timeout: Duration::from_secs(120),
        pool_warm: Duration::ZERO,
        worker_timeout: Duration::from_secs(120),
        linear: false,
        max_task_backlog: None,
        scale: None,
        forced: None,
    });
    for worker in 0..workers {
        core.handle(
            Event::Joined { worker: WorkerId(worker), capacity: Resources::cpus(4.0), no_gpu: None, machine: None },
            now,
        );
    }
    (core, now)
}

fn query_of(id: QueryId, tasks: usize) -> QuerySpec {
    let stage = StageSpec { tasks, sections: 16, ..StageSpec::default() };
    QuerySpec { id, driver: DriverId(0), stages: vec![stage], stable: true }
}

fn done(task: TaskId, attempt: Attempt) -> Event {
    let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes: 1 };
    Event::TaskEnded { task, attempt, outcome: Ok(output) }
}

fn runs(actions: &[Action]) -> Vec<(TaskId, Attempt)> {
    let runs = actions.iter().filter_map(|action| match action {
        Action::Run { task, attempt, .. } => Some((*task, *attempt)),
        _ => None,
    });
    runs.collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
