use regatta_observe::{Reads, StagePlan};

use super::*;
use crate::sched::{Attempt, DriverId, Output, PartitionId, QuerySpec, Resources, Settings, StageSpec};

const QUERY: QueryId = QueryId(7);

fn stage(tasks: usize, inputs: &[u32]) -> StageSpec {
    StageSpec {
        inputs: inputs.iter().map(|input| StageId(*input)).collect(),
        tasks,
        sections: 16,
        ..StageSpec::default()
    }
}

/// A scheduler that is told what happens, and what is observed of it.
struct Scene {
    core: Core,
    observed: Observed,
    now: Instant,
    /// What runs, in the order in which it was placed.
    runs: Vec<(TaskId, Attempt, WorkerId)>,
    is_done: bool,
}

impl Scene {
    fn new() -> Self {
        let settings = Settings {
            task: Resources::cpus(0.5),
            ready_timeout: Duration::from_secs(9),
            pool_warm: Duration::ZERO,
            worker_timeout: Duration::from_secs(9),
            linear: false,
            max_task_backlog: None,
            scale: None,
            forced: None,
        };
        let observed = Observed::new(Kept { memory: 1 << 20, archive: None });
        let now = observed.began;
        Self { core: Core::new(settings), observed, now, runs: Vec::new(), is_done: false }
    }

    fn happens(&mut self, event: Event) {
        self.now += Duration::from_millis(10);
        let touched = self.observed.sees(&event, None, self.now);
        let actions = self.core.handle(event, self.now);
        self.observed.does(&actions, touched, &self.core, self.now);
        for action in actions {
            match action {
                Action::Run { worker, task, attempt, .. } => self.runs.push((task, attempt, worker)),
                Action::Report(_, Report::Done) => self.is_done = true,
                Action::Report(_, Report::Failed(error)) => panic!("it fails: {error}"),
                _ => (),
            }
        }
    }

    fn ends(&mut self, outcome: impl FnOnce(PartitionId) -> Outcome) {
        let (task, attempt, _) = self.runs.remove(0);
        self.happens(Event::TaskEnded { task, attempt, outcome: outcome(PartitionId { task, attempt }) });
    }
}

/// Nine tasks on three workers, one of which is lost with what it had done, and one task that fails once.
fn lost_and_made_again() -> Profile {
    let mut scene = Scene::new();
    for worker in 0..3 {
        let capacity = Resources::cpus(1.0).with_memory(1 << 30);
        scene.happens(Event::Joined { worker: WorkerId(worker), capacity, no_gpu: None, machine: None });
    }
    let plans = [(9, None), (1, Some(0))].into_iter().enumerate().map(|(stage, (tasks, reads))| StagePlan {
        stage: stage as u32,
        tasks: Some(tasks),
        reads: reads.into_iter().map(|stage| Reads { stage, ..Reads::default() }).collect(),
        ..StagePlan::default()
    });
    let plan = Explain::new(plans.collect(), Vec::new());
    scene.observed.submitted(QUERY, &plan, Duration::ZERO, None, scene.now);
    let stages = vec![stage(9, &[]), stage(1, &[0])];
    scene.happens(Event::Submit(QuerySpec { id: QUERY, driver: DriverId(0), stages, stable: true }));
    let well = |id| Ok(Output { id, rows: 10, bytes: 100 });
    (0..4).for_each(|_| scene.ends(well));
    scene.ends(|_| Err(TaskFailure::Transfer { from: "worker 1".to_owned(), why: "once".to_owned() }));
    scene.runs.retain(|(.., worker)| *worker != WorkerId(0));
    scene.happens(Event::Lost { worker: WorkerId(0), why: "signal 9".to_owned() });
    while !scene.is_done {
        assert!(scene.now < scene.observed.began + Duration::from_secs(60), "it does not end");
        if scene.runs.is_empty() {
            scene.now += Duration::from_millis(500);
            scene.happens(Event::Tick);
        } else {
            scene.ends(well);
        }
    }
    let at = nanoseconds(scene.now - scene.observed.began);
    scene.observed.recorder.profile(QUERY, at).unwrap()
}

#[test]
fn what_the_scheduler_does_is_shown_as_it_was_and_the_same_each_time() {
    let profile = lost_and_made_again();
    let [scan, last] = &profile.stages[..] else { panic!("two stages") };
    assert_eq!((scan.rows, scan.done, scan.failed), (90, 9, 1), "{profile:#}");
    assert!(scan.again > 0 && scan.lost > 0, "{profile:#}");
    assert_eq!((last.rows, last.done, profile.query.rows), (10, 1, 10), "{profile:#}");
    let stages = profile.stages.iter();
    let ends: u64 = stages.map(|s| s.durations.count() + u64::from(s.failed + s.lost + s.stopped)).sum();
    let by_worker = profile.stages.iter().flat_map(|stage| &stage.workers).map(|(_, attempts, _)| attempts);
    assert_eq!(by_worker.sum::<u64>(), ends, "each attempt has one end: {profile:#}");
    assert!(profile.errors.iter().any(|error| error.text.contains("once")), "{profile:#}");
    let mut again = lost_and_made_again();
    // When it was is another time.
    again.query.submitted_ms = profile.query.submitted_ms;
    assert!(again == profile, "{again:#}\n{profile:#}");
}
