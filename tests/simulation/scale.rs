//! A large cluster, as far as its scheduler knows: nothing of it is there but the core, and what it says and hears.

use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::sched::{
    Action, Attempt, Core, DriverId, Event, Fits, Forced, Mode, Output, PartitionId, QueryId, QuerySpec, Resources,
    Settings, Sizes, StageId, StageSpec, TaskId, Way, WorkerId,
};

/// Says in a process of its own, whose memory is nobody else's, how many workers there are to be.
const WORKERS: &str = "SIMULATION_WORKERS";

/// What a query costs its scheduler.
#[derive(Debug)]
struct Cost {
    events: usize,
    messages: usize,
    /// Partitions that are named to tasks.
    named: usize,
    micros_per_event: f64,
    /// To look up for a task what it reads, for each that it does.
    nanos_per_name: f64,
    bytes: usize,
}

/// Ten tasks for each worker, of three stages; the second and the third read two sections for each worker of what those before
/// have left, one to a task.
fn cost(workers: u32) -> Cost {
    let (start, before) = (Instant::now(), memory());
    let mut now = start;
    let mut core = Core::new(Settings {
        task: Resources::cpus(0.5),
        ready_timeout: Duration::from_secs(120),
        pool_warm: Duration::ZERO,
        worker_timeout: Duration::from_secs(120),
        linear: false,
        max_task_backlog: None,
        scale: None,
        forced: Some(Forced::OneSection),
    });
    for worker in 0..workers {
        let capacity = Resources::cpus(4.0);
        core.handle(Event::Joined { worker: WorkerId(worker), capacity, no_gpu: None, machine: None }, now);
    }
    let sections = 2 * workers;
    let reads = |of: u32| StageSpec {
        inputs: vec![StageId(of)],
        tasks: sections as usize,
        sections,
        modes: vec![Mode {
            ways: vec![Way::Sections],
            by_size: true,
            by_hash: true,
            shared: Vec::new(),
            when: Fits::Always,
            stable: true,
        }],
        ..StageSpec::default()
    };
    let scan = StageSpec { tasks: 6 * workers as usize, sections, ..StageSpec::default() };
    let spec = QuerySpec { id: QueryId(1), driver: DriverId(0), stages: vec![scan, reads(0), reads(1)], stable: true };
    let (mut cost, mut handling, mut naming) = (Cost::new(), Duration::ZERO, Duration::ZERO);
    let mut running: VecDeque<(TaskId, Attempt)> = VecDeque::new();
    let mut event = Some(Event::Submit(spec));
    while let Some(next) = event.take() {
        let began = Instant::now();
        let actions = core.handle(next, now);
        handling += began.elapsed();
        cost.events += 1;
        for action in &actions {
            cost.messages += usize::from(!matches!(action, Action::Report(..) | Action::Demand { .. }));
            let Action::Run { task, attempt, .. } = action else { continue };
            running.push_back((*task, *attempt));
            if task.stage.0 > 0 {
                let began = Instant::now();
                cost.named += core.outputs(QueryId(1), StageId(task.stage.0 - 1)).map_or(0, |outputs| outputs.len());
                naming += began.elapsed();
            }
        }
        if let Some((task, attempt)) = running.pop_front() {
            // A task takes a while, so that none waits at a worker.
            now += Duration::from_millis(1);
            core.measured(task, attempt, Sizes::of((0..sections).map(|section| (section, 640))));
            let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes: 640 * u64::from(sections) };
            event = Some(Event::TaskEnded { task, attempt, outcome: Ok(output) });
        }
    }
    assert!(core.is_done(QueryId(1)), "all tasks have run");
    cost.bytes = memory().saturating_sub(before);
    core.handle(Event::Release(QueryId(1)), now);
    assert_eq!(core.left(), Vec::<String>::new());
    cost.micros_per_event = handling.as_secs_f64() * 1e6 / cost.events as f64;
    cost.nanos_per_name = naming.as_secs_f64() * 1e9 / cost.named as f64;
    cost
}

impl Cost {
    fn new() -> Self {
        Self { events: 0, messages: 0, named: 0, micros_per_event: 0.0, nanos_per_name: 0.0, bytes: 0 }
    }

    fn to_line(&self) -> String {
        let Self { events, messages, named, micros_per_event, nanos_per_name, bytes } = self;
        format!("cost {events} {messages} {named} {micros_per_event} {nanos_per_name} {bytes}")
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("cost ")?.split(' ');
        let mut next = || parts.next()?.parse::<f64>().ok();
        Some(Self {
            events: next()? as usize,
            messages: next()? as usize,
            named: next()? as usize,
            micros_per_event: next()?,
            nanos_per_name: next()?,
            bytes: next()? as usize,
        })
    }
}

/// What this process has in memory.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()).unwrap_or_default() << 10
}

/// Alone in a process that the next test starts; else nothing.
#[test]
fn a_scheduler_of_so_many_workers() {
    if let Ok(workers) = std::env::var(WORKERS) {
        println!("\n{}", cost(workers.parse().unwrap()).to_line());
    }
}

#[test]
fn a_thousand_workers_ten_thousand_tasks_and_two_thousand_sections_cost_twice_what_half_of_them_do() {
    let of = |workers: u32| {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["simulation::scale::a_scheduler_of_so_many_workers", "--exact", "--nocapture"]);
        let output = alone.env(WORKERS, workers.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let cost = said.lines().find_map(Cost::from_line);
        let cost = cost.unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)));
        println!("{workers} workers: {cost:?}");
        cost
    };
    let (half, whole) = (of(500), of(1000));
    let tasks = |cost: &Cost| cost.events - 1;
    assert_eq!((tasks(&half), tasks(&whole)), (5_000, 10_000));
    assert!(whole.messages <= 2 * half.messages + half.messages / 10, "messages");
    // Each task of a stage reads of each of the one before: that is what it is.
    assert_eq!(whole.named, 4 * half.named);
    // Of each task, how large each of its sections is, of a thousand at most: a byte.
    assert!(whole.bytes <= 3 * half.bytes, "memory");
    assert!(whole.micros_per_event <= 3.0 * half.micros_per_event, "time");
}
