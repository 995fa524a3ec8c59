//! What the shell makes of the core's actions while workers go.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use polars::prelude::*;
use regatta_remote::{Address, Authority, Role, Runtime};

use super::super::messages::SubmitFrom;
use super::super::{Kept, MAILBOX, SWORDFISH};
use super::*;
use crate::LazyFrameExt;
use crate::plan::{Target, plan};
use crate::sched::{Attempt, PartitionId, TaskId};
use crate::store::Store;

/// A scheduler whose workers are the ends of its outboxes.
struct Scene {
    scheduler: SchedulerActor,
    outboxes: Vec<Option<mpsc::Receiver<Outgoing>>>,
    events: mpsc::Receiver<RunEvent>,
    _folder: tempfile::TempDir,
    _runtime: Runtime,
}

impl Scene {
    /// Workers of so many CPUs, and a query of `first` tasks, each of whose rows go to `second` others.
    fn new(cpus: [f64; 3], first: usize, second: usize) -> Self {
        let runtime = Runtime::new("scheduler", 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (authority, at) = (Authority::new().unwrap(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let identity = |role| authority.issue(role).unwrap();
        let node = Node::bind(identity(Role::Head), at, &runtime).unwrap();
        let host = Host::new(runtime.clone(), Store::new(folder.path()), None, None);
        let settings = Settings {
            task: Resources::cpus(1.0),
            ready_timeout: Duration::from_secs(60),
            pool_warm: Duration::ZERO,
            worker_timeout: Duration::from_secs(60),
            linear: false,
            max_task_backlog: Some(0),
            scale: None,
            forced: None,
        };
        let mut scheduler =
            SchedulerActor::new(settings, Kept { memory: 1 << 20, archive: None }, host, watch::channel(0).0);
        let outboxes = cpus.into_iter().enumerate().map(|(worker, cpus)| {
            let place = Place { worker: WorkerId(worker as u32), node: Some((identity(Role::Worker).node(), at)) };
            let actor = node.actor(Address { node: node.id(), actor: SWORDFISH });
            let (outbox, sent) = mpsc::channel(MAILBOX);
            scheduler
                .workers
                .insert(place.worker, Crew { place, devices: Vec::new(), actor, outbox, awaited: Vec::new() });
            let (capacity, no_gpu, machine) = (Resources::cpus(cpus), None, None);
            scheduler.take(Event::Joined { worker: place.worker, capacity, no_gpu, machine });
            Some(sent)
        });
        let outboxes = outboxes.collect();
        let rows = df!["x" => (0..300i64).collect::<Vec<_>>()].unwrap().lazy().into_partitions(first);
        let target = Target { tasks: 3, travels: true, in_flight: 1 };
        let plan = plan(rows.repartition(second, [col("x")]), target).unwrap();
        let driver = Place { worker: WorkerId::DRIVER, node: None };
        let query = SubmitFrom {
            driver,
            query: QueryId(1),
            plan,
            given: BTreeMap::new(),
            planned: Duration::ZERO,
            persist: false,
        };
        let (submit, events) = Submit::new(query);
        scheduler.handle(submit, &mut Context::new());
        Self { scheduler, outboxes, events, _folder: folder, _runtime: runtime }
    }

    /// What the workers were given to run since the last time.
    fn runs(&mut self) -> Vec<(WorkerId, RunTask)> {
        let mut runs = Vec::new();
        for (worker, outbox) in self.outboxes.iter_mut().enumerate() {
            while let Some(message) = outbox.as_mut().and_then(|outbox| outbox.try_recv().ok()) {
                if let Outgoing::Run(run) = message {
                    runs.push((WorkerId(worker as u32), run));
                }
            }
        }
        runs
    }

    fn done(&mut self, task: TaskId, attempt: Attempt) {
        let output = Output { id: PartitionId { task, attempt }, rows: 100, bytes: 800 };
        self.scheduler.take(Event::TaskEnded { task, attempt, outcome: Ok(output) });
    }

    /// Nobody sends this worker's messages any more.
    fn cut_off(&mut self, worker: usize) {
        self.outboxes[worker] = None;
    }
}

#[test]
fn tasks_that_were_decided_on_before_a_worker_could_not_be_told_read_all_or_do_not_run() {
    for dead in 0..3 {
        let mut scene = Scene::new([1.0; 3], 3, 3);
        let first = scene.runs();
        assert_eq!(first.len(), 3, "one each");
        scene.cut_off(dead);
        for (_, run) in &first {
            scene.done(run.task, run.attempt);
        }
        let readers: Vec<_> =
            scene.runs().into_iter().filter(|(_, run)| run.task.stage != first[0].1.task.stage).collect();
        for (worker, run) in &readers {
            let [(_, feed)] = &run.inputs[..] else { panic!("it reads one stage") };
            assert_eq!(
                feed.parts.len(),
                3,
                "worker {dead} is cut off, and {} on {worker} reads the others only",
                run.task
            );
        }
        assert!(!scene.scheduler.workers.contains_key(&WorkerId(dead as u32)), "it is lost");
        // What it held is made again; then all come to their end, and the driver hears of each partition.
        let mut todo: VecDeque<_> = readers.into();
        let mut made = BTreeSet::new();
        for _ in 0..100 {
            todo.extend(scene.runs());
            match todo.pop_front() {
                Some((_, run)) => scene.done(run.task, run.attempt),
                None => scene.scheduler.take(Event::Tick),
            }
            while let Ok(event) = scene.events.try_recv() {
                match event {
                    RunEvent::Partition { index, .. } => drop(made.insert(index)),
                    RunEvent::Done(partitions) => assert_eq!((partitions, made.len()), (3, 3)),
                    RunEvent::Failed(error) => panic!("{error}"),
                }
            }
        }
        assert_eq!(made.len(), 3, "worker {dead} is cut off");
    }
}

#[test]
fn what_is_decided_when_a_second_worker_turns_out_to_be_gone_reads_all_or_does_not_run() {
    let mut scene = Scene::new([1.0, 2.0, 1.0], 2, 4);
    let first = scene.runs();
    assert_eq!(first.iter().map(|(on, _)| on.0).collect::<Vec<_>>(), [0, 1]);
    first.iter().for_each(|(_, run)| scene.done(run.task, run.attempt));
    let readers = scene.runs();
    assert_eq!(readers.iter().map(|(on, _)| on.0).collect::<Vec<_>>(), [0, 1, 1, 2]);
    // There is room beside what goes on.
    scene.done(readers[1].1.task, readers[1].1.attempt);
    // One is known to be gone. That the other is, comes out when it is to hear of that.
    scene.cut_off(2);
    scene.scheduler.lose(WorkerId(0), "killed".to_owned());
    let mut seen = 0;
    for _ in 0..50 {
        for (on, run) in scene.runs() {
            if run.task.stage == readers[0].1.task.stage {
                assert_eq!(run.inputs[0].1.parts.len(), 2, "{} on {on} reads some of the rows only", run.task);
                seen += 1;
            }
            scene.done(run.task, run.attempt);
        }
        scene.scheduler.take(Event::Tick);
    }
    assert!(seen >= 2, "what ran on those that are gone runs again");
}
