use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use regatta_observe::{StageStands, Stands};

use super::blame::MAX_LOSSES;
use super::recover::MAX_ATTEMPTS;
use super::*;
use crate::error::{ClusterError, TaskFailure};
use crate::sched::pool::PoolSpec;
use crate::sched::{Affinity, DriverId, Holds, PartitionId, StageSpec};
use crate::udf::UdfError;

const WORKERS: Duration = Duration::from_secs(5);
const READY: Duration = Duration::from_secs(120);

/// Halves of a CPU for each task, which wait at the scheduler.
/// Between so many workers of one CPU; one that is idle for two seconds may go.
fn scale(workers: (usize, usize)) -> ScaleSettings {
    ScaleSettings {
        workers,
        each: Resources::cpus(1.0),
        no_gpu: None,
        threshold: 1.25,
        interval: Duration::from_secs(5),
        downscale: true,
        idle: Duration::from_secs(2),
        survivors: 1,
        exclude: Duration::from_secs(120),
    }
}

fn settings() -> Settings {
    Settings {
        task: Resources::cpus(0.5),
        ready_timeout: READY,
        pool_warm: Duration::ZERO,
        worker_timeout: WORKERS,
        linear: false,
        max_task_backlog: Some(0),
        scale: None,
        forced: None,
    }
}

fn joined(worker: u32, capacity: Resources) -> Event {
    Event::Joined { worker: WorkerId(worker), capacity, no_gpu: None, machine: None }
}

/// A scheduler whose workers are played by the test.
struct Play {
    core: Core,
    now: Instant,
    /// Replicas do not end when they are stopped.
    stuck: bool,
}

impl Play {
    fn with_workers(cpus: &[f64]) -> Self {
        let mut play = Self { core: Core::new(settings()), now: Instant::now(), stuck: false };
        for (worker, cpus) in cpus.iter().enumerate() {
            play.event(joined(worker as u32, Resources::cpus(*cpus)));
        }
        play
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.core.handle(event, self.now);
        let mut seen = 0;
        while !self.stuck && seen < actions.len() {
            if let Action::StopReplica { replica, .. } = actions[seen] {
                actions.extend(self.core.handle(Event::ReplicaEnded(replica), self.now));
            }
            seen += 1;
        }
        actions
    }

    /// Where everything stands, but for what is observed of queries, which is of others.
    fn status(&self) -> SessionStatus {
        self.core.session_status(self.now, |query| {
            let waits = self.core.waits(query, self.now)?;
            let stages = vec![StageStands::default(); waits.len()];
            Some(QueryStatus::new(Stands { stages, ..Stands::default() }, waits))
        })
    }

    fn submit(&mut self, id: u64, stages: Vec<StageSpec>) -> Vec<Action> {
        self.event(Event::Submit(QuerySpec { id: QueryId(id), driver: DriverId(0), stages, stable: true }))
    }

    fn done(&mut self, task: TaskId, attempt: Attempt) -> Vec<Action> {
        let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes: 1 };
        self.event(Event::TaskEnded { task, attempt, outcome: Ok(output) })
    }

    /// Lets workers say that what nobody wants any more has ended.
    fn leave(&mut self) -> Vec<Action> {
        let leaving: Vec<_> = self.core.leaving.keys().copied().collect();
        let cancelled = |(task, attempt)| Event::TaskEnded { task, attempt, outcome: Err(TaskFailure::Cancelled) };
        leaving.into_iter().flat_map(|run| self.event(cancelled(run))).collect()
    }

    /// Lets workers do all that is asked of them, in order, until nothing more is: what the queries came to.
    fn finish(&mut self, actions: Vec<Action>) -> BTreeMap<QueryId, bool> {
        let mut ends = BTreeMap::new();
        let mut todo: VecDeque<Action> = actions.into();
        let mut quiet = 0;
        while quiet < 100 {
            let Some(action) = todo.pop_front() else {
                quiet += 1;
                self.now += Duration::from_millis(100);
                todo.extend(self.event(Event::Tick));
                continue;
            };
            quiet = 0;
            match action {
                Action::StartReplica { replica, .. } => todo.extend(self.event(Event::ReplicaReady(replica))),
                Action::Run { task, attempt, .. } => todo.extend(self.done(task, attempt)),
                Action::Move { from, to, outputs, .. } => {
                    todo.extend(self.event(Event::Moved { from, to, taken: outputs, full: false }));
                }
                Action::Report(query, Report::Done) => drop(ends.insert(query, true)),
                Action::Report(query, Report::Failed(_)) => drop(ends.insert(query, false)),
                _ => (),
            }
        }
        ends
    }

    /// Nothing is left of any query.
    fn assert_idle(&self) {
        assert_eq!((self.core.queues.len(), self.core.leaving.len(), self.core.stopping.len()), (0, 0, 0));
        assert_eq!(self.core.queues.rooms().count(), 0);
        assert!(!self.core.pools.has_idle());
        assert_eq!(self.core.pools.iter().count(), 0);
        assert!(self.core.ledger.is_unused(), "charges are left: {:?}", self.core.ledger);
        assert!(self.core.queries.is_empty());
    }
}

fn stage(tasks: usize) -> StageSpec {
    StageSpec { tasks, sections: 16, ..StageSpec::default() }
}

fn udf_stage(tasks: usize, cpus: f64, replicas: (usize, usize)) -> StageSpec {
    StageSpec { pools: vec![pool(Resources::cpus(cpus), replicas)], ..stage(tasks) }
}

/// A pool that no other step uses.
fn pool(each: Resources, (least, most): (usize, usize)) -> PoolSpec {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let key = MADE.fetch_add(1, Ordering::Relaxed).to_le_bytes().into();
    PoolSpec { key, udf: "oar".to_owned(), each, least, most, ready_timeout: None, keep_warm: None }
}

/// A pool that other steps use too, one for each `n`.
fn shared(n: usize) -> PoolSpec {
    PoolSpec { key: [n as u8].into(), ..pool(Resources::cpus(0.5), (1, 2)) }
}

fn runs(actions: &[Action]) -> Vec<(TaskId, Attempt)> {
    let runs = actions
        .iter()
        .filter_map(|a| if let Action::Run { task, attempt, .. } = a { Some((*task, *attempt)) } else { None });
    runs.collect()
}

fn starts(actions: &[Action]) -> Vec<(ReplicaId, WorkerId)> {
    let starts = actions.iter().filter_map(|a| match a {
        Action::StartReplica { replica, worker, .. } => Some((*replica, *worker)),
        _ => None,
    });
    starts.collect()
}

fn failure(actions: &[Action]) -> Option<&Error> {
    actions.iter().find_map(|a| if let Action::Report(_, Report::Failed(error)) = a { Some(error) } else { None })
}

fn is_done(actions: &[Action]) -> bool {
    actions.iter().any(|a| matches!(a, Action::Report(_, Report::Done)))
}

#[test]
fn tasks_fill_the_workers_and_the_rest_follows_as_they_end() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let mut running = runs(&play.submit(1, vec![stage(6)]));
    assert_eq!(running.len(), 4, "two CPUs hold four halves");
    let mut ended = 0;
    let mut last = Vec::new();
    while let Some((task, attempt)) = running.pop() {
        last = play.done(task, attempt);
        ended += 1;
        running.extend(runs(&last));
    }
    assert_eq!(ended, 6);
    assert!(is_done(&last));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn a_stage_waits_for_all_its_inputs() {
    let mut play = Play::with_workers(&[2.0]);
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![stage(2), gather]));
    assert!(first.iter().all(|(task, _)| task.stage == StageId(0)));
    assert!(runs(&play.done(first[0].0, first[0].1)).is_empty());
    let second = runs(&play.done(first[1].0, first[1].1));
    assert_eq!(second[0].0.stage, StageId(1));
    assert_eq!(play.core.outputs(QueryId(1), StageId(0)).unwrap().len(), 2);
}

#[test]
fn every_task_has_one_end_and_late_attempts_are_not_heard() {
    let mut play = Play::with_workers(&[1.0]);
    let (task, attempt) = runs(&play.submit(1, vec![stage(1)]))[0];
    let lost = TaskFailure::Transfer { from: "worker 1".to_owned(), why: "reset".to_owned() };
    assert!(runs(&play.event(Event::TaskEnded { task, attempt, outcome: Err(lost) })).is_empty(), "not at once");
    play.now += Duration::from_millis(249);
    assert!(runs(&play.event(Event::Tick)).is_empty(), "nor too soon");
    play.now += Duration::from_millis(1);
    assert_eq!(runs(&play.event(Event::Tick)), [(task, Attempt(2))], "a failed transfer is tried again");
    assert!(!is_done(&play.done(task, Attempt(1))), "the first attempt is superseded");
    assert!(is_done(&play.done(task, Attempt(2))));
    assert!(play.done(task, Attempt(2)).is_empty(), "a second word on the same attempt");
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn attempts_are_bounded_and_what_cannot_pass_is_not_tried_again() {
    let lost = || TaskFailure::Transfer { from: "worker 1".to_owned(), why: "reset".to_owned() };
    for (failure_of, tries) in [(lost as fn() -> _, MAX_ATTEMPTS), (|| TaskFailure::Panicked("no".to_owned()), 1)] {
        let mut play = Play::with_workers(&[1.0]);
        let mut actions = play.submit(1, vec![stage(1)]);
        for attempt in 1..=tries {
            let (task, at) = runs(&actions)[0];
            assert_eq!(at, Attempt(attempt));
            actions = play.event(Event::TaskEnded { task, attempt: at, outcome: Err(failure_of()) });
            if attempt < tries {
                play.now += Duration::from_secs(60);
                actions = play.event(Event::Tick);
            }
        }
        let Some(Error::Task(error)) = failure(&actions) else { panic!("{actions:?}") };
        assert_eq!((error.attempt, error.before.len() as u32), (tries, tries - 1));
        let history =
            ". Before that attempt 1 on worker 0: could not read data from worker 1: reset; attempt 2 on worker 0:";
        assert_eq!(error.to_string().contains(history), tries > 1, "{error}");
        play.assert_idle();
    }
}

#[test]
fn a_udf_stage_is_admitted_whole_or_not_at_all() {
    // Half a CPU is taken by another query: a replica of a whole CPU and a task do not fit beside it.
    let mut play = Play::with_workers(&[1.5]);
    let (task, attempt) = runs(&play.submit(1, vec![stage(1)]))[0];
    let actions = play.submit(2, vec![udf_stage(1, 1.0, (1, 1))]);
    assert!(starts(&actions).is_empty(), "a replica alone would hold the CPU that its task waits for");
    let actions = play.done(task, attempt);
    assert_eq!(starts(&actions).len(), 1, "there is room for both now");
}

#[test]
fn work_begins_at_the_first_ready_replica_and_ends_them_all() {
    let mut play = Play::with_workers(&[1.0, 1.0, 1.0, 1.0]);
    let actions = play.submit(1, vec![udf_stage(2, 0.5, (2, 2))]);
    let replicas = starts(&actions);
    assert_eq!(replicas.iter().map(|r| r.1).collect::<Vec<_>>(), [WorkerId(0), WorkerId(1)], "spread");
    assert!(runs(&actions).is_empty(), "no replica is ready");
    let actions = play.event(Event::ReplicaReady(replicas[0].0));
    let tasks = runs(&actions);
    assert_eq!(tasks.len(), 2);
    let actions = play.event(Event::ReplicaReady(replicas[1].0));
    let told = actions.iter().find_map(|a| if let Action::Serve { tell, .. } = a { Some(tell.len()) } else { None });
    assert_eq!(told, Some(2), "the workers with tasks hear of the second");
    play.done(tasks[0].0, tasks[0].1);
    let actions = play.done(tasks[1].0, tasks[1].1);
    assert_eq!(actions.iter().filter(|a| matches!(a, Action::StopReplica { .. })).count(), 2);
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn more_replicas_than_fit_run_with_what_fits() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let actions = play.submit(1, vec![udf_stage(4, 0.5, (1, 100))]);
    assert_eq!(starts(&actions).len(), 2, "each worker keeps room for a task");
}

#[test]
fn a_pool_that_is_not_ready_in_time_fails_with_its_last_word() {
    let mut play = Play::with_workers(&[1.0]);
    let (replica, _) = starts(&play.submit(1, vec![udf_stage(1, 0.5, (1, 1))]))[0];
    play.event(Event::ReplicaProgress { replica, doing: "loading weights".to_owned() });
    play.now += READY / 2;
    assert!(failure(&play.event(Event::Tick)).is_none(), "there is time left");
    play.now += READY / 2;
    let actions = play.event(Event::Tick);
    let text = failure(&actions).unwrap().to_string();
    for part in ["oar", "replica 0", "worker 0", "120 s", "loading weights", "DAFT_ACTOR_UDF_READY_TIMEOUT"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    play.assert_idle();
}

#[test]
fn replicas_that_are_late_are_given_up_where_others_are_ready() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let replicas = starts(&play.submit(1, vec![udf_stage(1, 0.5, (2, 2))]));
    play.event(Event::ReplicaReady(replicas[0].0));
    play.now += READY;
    let actions = play.event(Event::Tick);
    assert!(failure(&actions).is_none());
    assert!(actions.iter().any(|a| matches!(a, Action::StopReplica { replica, .. } if *replica == replicas[1].0)));
    play.event(Event::Release(QueryId(1)));
    play.leave();
    play.assert_idle();
}

#[test]
fn what_fits_on_no_worker_fails_at_once_and_says_so() {
    let mut play = Play::with_workers(&[1.0, 2.0]);
    let actions = play.submit(1, vec![udf_stage(1, 3.0, (1, 1))]);
    let text = failure(&actions).unwrap().to_string();
    assert!(text.contains("oar") && text.contains("3 CPU") && text.contains("largest has 2 CPU"), "{text}");
    play.assert_idle();
}

#[test]
fn a_lost_worker_costs_its_running_tasks_and_the_partitions_that_only_it_held() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![stage(2), gather]));
    let gathering = {
        play.done(first[0].0, first[0].1);
        runs(&play.done(first[1].0, first[1].1))[0]
    };
    assert_eq!(gathering.0.stage, StageId(1));
    // The gathering task runs on worker 0 (ties by number), where task 0 has left its partition.
    let again = runs(&play.event(Event::Lost { worker: WorkerId(0), why: "killed".to_owned() }));
    assert_eq!(again, [(first[0].0, Attempt(2))], "the lost partition first; what reads it waits");
    assert!(play.done(gathering.0, gathering.1).is_empty(), "the lost attempt is not heard");
    let again = runs(&play.done(first[0].0, Attempt(2)));
    assert_eq!(again, [(gathering.0, Attempt(2))]);
    assert!(is_done(&play.done(gathering.0, Attempt(2))));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

/// Three stages of one task each, on workers 0, 1 and 2; the last one runs.
fn chain() -> (Play, (TaskId, Attempt)) {
    let mut play = Play::with_workers(&[0.5, 0.5, 1.0]);
    let on =
        |worker, inputs| StageSpec { inputs, affinity: [(0, Affinity::Soft(WorkerId(worker)))].into(), ..stage(1) };
    let stages = vec![on(0, vec![]), on(1, vec![StageId(0)]), on(2, vec![StageId(1)])];
    let mut next = runs(&play.submit(1, stages));
    for _ in 0..2 {
        next = runs(&play.done(next[0].0, next[0].1));
    }
    (play, next[0])
}

fn lost(worker: u32) -> Event {
    Event::Lost { worker: WorkerId(worker), why: "killed".to_owned() }
}

fn stages(actions: &[Action]) -> Vec<u32> {
    runs(actions).iter().map(|(task, _)| task.stage.0).collect()
}

#[test]
fn partitions_that_nobody_reads_any_more_are_not_made_again() {
    let (mut play, last) = chain();
    let actions = play.event(lost(0));
    assert!(runs(&actions).is_empty() && failure(&actions).is_none(), "stage 0 was read: {actions:?}");
    assert!(is_done(&play.done(last.0, last.1)));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn what_runs_again_has_its_inputs_again_also_those_that_had_been_read() {
    let (mut play, _) = chain();
    play.event(lost(0));
    // Stage 1 must run again, and what it read is long gone.
    let mut actions = play.event(lost(1));
    for stage in 0..2 {
        assert_eq!(stages(&actions), [stage], "nothing runs before its inputs are there");
        let (task, attempt) = runs(&actions)[0];
        assert_eq!(attempt, Attempt(2));
        actions = play.done(task, attempt);
        assert_eq!(play.core.outputs(QueryId(1), StageId(stage)).unwrap().len(), 1);
    }
    play.event(Event::Release(QueryId(1)));
    play.leave();
    play.assert_idle();
}

#[test]
fn a_pool_that_has_lost_its_last_replica_is_admitted_again_with_its_tasks() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let actions = play.submit(1, vec![udf_stage(3, 0.5, (1, 1))]);
    let (replica, on) = starts(&actions)[0];
    let running = runs(&play.event(Event::ReplicaReady(replica)));
    assert_eq!(running.len(), 3);
    let actions = play.event(Event::Lost { worker: on, why: "killed".to_owned() });
    let stopped = |a: &Action| matches!(a, Action::Enough { worker: WorkerId(1), .. });
    assert!(actions.iter().any(stopped), "those on the other worker are superseded: {actions:?}");
    assert!(starts(&actions).is_empty(), "and keep their room until they have ended");
    let actions = play.leave();
    let (again, _) = starts(&actions)[0];
    assert_ne!(again, replica);
    assert!(runs(&actions).is_empty(), "no replica is ready");
    let actions = play.event(Event::ReplicaReady(again));
    let second = runs(&actions);
    assert!(!second.is_empty() && second.iter().all(|(_, attempt)| *attempt == Attempt(2)));
    let mut second = second;
    let mut last = Vec::new();
    while let Some((task, attempt)) = second.pop() {
        last = play.done(task, attempt);
        second.extend(runs(&last));
    }
    assert!(is_done(&last));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn a_udf_that_kills_its_workers_does_not_kill_them_all() {
    let mut play = Play::with_workers(&[1.0; 9]);
    let mut actions = play.submit(1, vec![udf_stage(1, 0.5, (1, 1))]);
    for lost in 1..=MAX_LOSSES {
        let (replica, on) = starts(&actions)[0];
        play.event(Event::ReplicaReady(replica));
        actions = play.event(Event::Lost { worker: on, why: "out of memory".to_owned() });
        // Its task, which was elsewhere, has stopped.
        actions.extend(play.leave());
        assert_eq!(failure(&actions).is_some(), lost == MAX_LOSSES, "after {lost}: {actions:?}");
    }
    let text = failure(&actions).unwrap().to_string();
    assert!(text.contains("oar") && text.contains("out of memory"), "{text}");
    play.leave();
    play.assert_idle();
}

#[test]
fn without_a_worker_queries_wait_for_one_and_then_fail() {
    let mut play = Play::with_workers(&[1.0]);
    play.submit(1, vec![stage(1)]);
    assert!(failure(&play.event(Event::Lost { worker: WorkerId(0), why: "killed".to_owned() })).is_none());
    play.event(Event::Tick);
    play.now += WORKERS - Duration::from_secs(1);
    assert!(failure(&play.event(Event::Tick)).is_none());
    play.submit(2, vec![stage(1)]);
    let waits = play.core.waits(QueryId(2), play.now).unwrap();
    assert_eq!(waits[0].waits[0].on.to_string(), "a worker to join");
    play.now += Duration::from_secs(1);
    let actions = play.event(Event::Tick);
    assert!(failure(&actions).unwrap().to_string().contains("REGATTA_JOIN"), "{actions:?}");
    assert!(play.core.waits(QueryId(1), play.now).is_none(), "the first has waited long enough");
    assert!(play.core.waits(QueryId(2), play.now).is_some(), "the second has not");
    let joined = play.event(joined(1, Resources::cpus(1.0)));
    let (task, attempt) = runs(&joined)[0];
    assert!(is_done(&play.done(task, attempt)));
    play.event(Event::Release(QueryId(2)));
    play.assert_idle();
}

#[test]
fn what_is_lost_of_a_persisted_result_is_made_again_and_whoever_reads_it_waits() {
    let mut play = Play::with_workers(&[4.0, 4.0]);
    let persisted = QueryId(1);
    let actions = play.submit(1, vec![stage(3), StageSpec { inputs: vec![StageId(0)], ..stage(3) }]);
    play.event(Event::Persist(persisted));
    assert_eq!(play.finish(actions), [(persisted, true)].into());
    let mut again = play.event(Event::Lost { worker: WorkerId(0), why: "killed".to_owned() });
    assert!(!runs(&again).is_empty() && !play.core.is_done(persisted), "{again:?}");
    let mut reader = runs(&play.submit(2, vec![stage(1)]))[0];
    for _ in 0..20 {
        let (task, attempt) = reader;
        let lost = Err(TaskFailure::MadeAgain(persisted));
        assert!(failure(&play.event(Event::TaskEnded { task, attempt, outcome: lost })).is_none());
        play.now += Duration::from_secs(1);
        reader = runs(&play.event(Event::Tick))[0];
    }
    again.push(Action::Run { worker: WorkerId(1), task: reader.0, attempt: reader.1, after: None });
    assert_eq!(play.finish(again), [(QueryId(2), true)].into());
    assert!(play.core.is_done(persisted), "which was told when it was done first");
    play.event(Event::Release(persisted));
    assert!(runs(&play.event(Event::Lost { worker: WorkerId(1), why: "killed".to_owned() })).is_empty());
    play.event(Event::Release(QueryId(2)));
    play.assert_idle();
}

#[test]
fn what_waited_for_the_first_worker_and_is_too_large_for_it_fails_then() {
    let mut play = Play::with_workers(&[]);
    assert!(failure(&play.submit(1, vec![udf_stage(1, 4.0, (1, 1))])).is_none());
    let joined = play.event(joined(0, Resources::cpus(1.0)));
    assert!(failure(&joined).unwrap().to_string().contains("largest has 1"), "{joined:?}");
    play.assert_idle();
}

/// Random sequences of everything that can happen: charges never exceed capacity (the ledger asserts it), every query ends
/// once, those that are left alone then all end by themselves, and nothing is left after the last.
#[test]
fn any_sequence_of_events_ends_every_query_once_and_leaves_nothing() {
    for seed in 1..400u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        };
        let max_task_backlog = [None, Some(0), Some(1)][seed as usize % 3];
        let pool_warm = Duration::from_secs([0, 1, 3600][seed as usize / 3 % 3]);
        let settings = Settings { max_task_backlog, pool_warm, ..settings() };
        let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
        for (worker, cpus) in [1.0, 1.5, 2.0].into_iter().enumerate() {
            // So few bytes that one task with another beside it is too much, or none, which is as much as there may be.
            let memory = [0, 6, 12][(seed as usize + worker) % 3];
            play.event(joined(worker as u32, Resources::cpus(cpus).with_memory(memory)));
        }
        let (mut tasks, mut replicas, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        let (mut submitted, mut ends) = (BTreeSet::new(), BTreeMap::new());
        let hear = |actions: &[Action], ends: &mut BTreeMap<QueryId, usize>| {
            for action in actions {
                if let Action::Report(query, Report::Done | Report::Failed(_)) = action {
                    *ends.entry(*query).or_insert(0) += 1;
                }
            }
        };
        for step in 0..60u64 {
            let actions = match next(10) {
                0 | 1 => {
                    let first =
                        if next(2) == 0 { stage(1 + next(5)) } else { udf_stage(1 + next(3), 0.5, (1, 1 + next(4))) };
                    let wish = [Affinity::Soft, Affinity::Hard][next(2)](WorkerId(next(4) as u32));
                    let affinity = (0..next(3)).map(|task| (task, wish)).collect();
                    let reads = if next(2) == 0 { stage(1) } else { udf_stage(2, 0.5, (1, 2)) };
                    let mut gather = StageSpec { inputs: vec![StageId(0)], ..reads };
                    gather.holds = [Holds::Nothing, Holds::MERGED, Holds::GATHERED][next(3)];
                    gather.pools.iter_mut().for_each(|pool| pool.each = pool.each.with_memory(next(3) as u64));
                    if next(2) == 0 {
                        gather.pools.extend([shared(next(2)), shared(next(2))]);
                    }
                    submitted.insert(QueryId(step));
                    play.submit(step, vec![StageSpec { affinity, ..first }, gather])
                }
                2 => play.event(Event::Release(QueryId(next(60) as u64))),
                3 if !replicas.is_empty() => {
                    let replica = replicas.swap_remove(next(replicas.len()));
                    ready.push(replica);
                    play.event(Event::ReplicaReady(replica))
                }
                4 if !tasks.is_empty() => {
                    let (task, attempt) = tasks.swap_remove(next(tasks.len()));
                    let cause = TaskFailure::Transfer { from: String::new(), why: String::new() };
                    play.event(Event::TaskEnded { task, attempt, outcome: Err(cause) })
                }
                5 if next(4) == 0 => play.event(lost(next(2) as u32)),
                6 if !ready.is_empty() => {
                    let replica = ready[next(ready.len())];
                    match next(9) {
                        0 => play.event(Event::ReplicaHung(replica)),
                        1 => play.event(Event::ReplicaStuck(replica)),
                        2 => play.event(Event::ReplicaFailed { replica, error: UdfError::new("no") }),
                        idle => play.event(Event::ReplicaIdle { replica, idle: idle > 4 }),
                    }
                }
                7 if next(8) == 0 => {
                    let until = play.now + Duration::from_millis(300 * next(8) as u64);
                    let mut actions = play.event(Event::Drain { worker: WorkerId(next(3) as u32), until });
                    actions.extend(play.event(joined(10 + step as u32, Resources::cpus(2.0))));
                    actions
                }
                7 if next(2) == 0 => {
                    play.event(Event::Silent { worker: WorkerId(next(3) as u32), silent: next(2) == 0 })
                }
                _ if !tasks.is_empty() => {
                    let (task, attempt) = tasks.swap_remove(next(tasks.len()));
                    play.done(task, attempt)
                }
                _ => {
                    play.now += Duration::from_millis(300);
                    play.event(Event::Tick)
                }
            };
            tasks.extend(runs(&actions));
            replicas.extend(starts(&actions).into_iter().map(|(id, _)| id));
            hear(&actions, &mut ends);
        }
        // From here on all goes well.
        let mut last = Vec::new();
        for worker in 0..3 {
            last.extend(play.event(Event::Silent { worker: WorkerId(worker), silent: false }));
        }
        for replica in replicas {
            last.extend(play.event(Event::ReplicaReady(replica)));
        }
        for (task, attempt) in tasks {
            last.extend(play.done(task, attempt));
        }
        let finished = play.finish(last);
        finished.keys().for_each(|query| *ends.entry(*query).or_insert(0) += 1);
        let open: Vec<_> = submitted.iter().filter(|query| !ends.contains_key(query)).collect();
        assert!(open.is_empty(), "seed {seed}: {open:?} never end:\n{}", play.status());
        for query in 0..60 {
            let actions = play.event(Event::Release(QueryId(query)));
            hear(&actions, &mut ends);
        }
        assert!(ends.values().all(|n| *n == 1), "seed {seed}: a query ended {ends:?} times");
        assert!(
            play.core.pools.iter().all(|pool| pool.users.is_empty() && pool.ready().count() == pool.replicas.len())
        );
        play.now += pool_warm;
        play.event(Event::Tick);
        play.assert_idle();
    }
}

#[test]
fn replicas_are_named_by_pool_and_rank() {
    let mut play = Play::with_workers(&[2.0]);
    let replicas: Vec<_> = starts(&play.submit(7, vec![udf_stage(1, 0.5, (2, 2))])).iter().map(|r| r.0).collect();
    assert_eq!(replicas, [0, 1].map(|rank| ReplicaId { pool: PoolId(1), rank }));
}

#[test]
fn queries_take_turns_at_the_room() {
    let mut play = Play::with_workers(&[1.0]);
    let mut running = runs(&play.submit(1, vec![stage(50)]));
    running.extend(runs(&play.submit(2, vec![stage(50)])));
    let mut started = [0, 0];
    for _ in 0..40 {
        let (task, attempt) = running.remove(0);
        let next = runs(&play.done(task, attempt));
        next.iter().for_each(|(task, _)| started[task.query.0 as usize - 1] += 1);
        running.extend(next);
    }
    assert_eq!(started, [20, 20]);
}

#[test]
fn a_cluster_grows_with_its_backlog_and_shrinks_when_idle_but_not_below_who_holds_partitions() {
    let scale = scale((1, 3));
    let settings = Settings { scale: Some(scale), ..settings() };
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    let join = |n| joined(n, Resources::cpus(1.0));
    play.event(join(0));
    let mut running = runs(&play.submit(1, vec![stage(8)]));
    assert_eq!(running.len(), 2);
    let demand = |actions: &[Action]| {
        actions.iter().find_map(|a| if let Action::Demand { workers } = a { Some(*workers) } else { None })
    };
    let retired = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::Retire { .. })).count();
    assert_eq!(demand(&play.event(Event::Tick)), Some(3), "six tasks wait: three CPUs, but three workers at most");
    running.extend(runs(&play.event(join(1))));
    running.extend(runs(&play.event(join(2))));
    assert_eq!(running.len(), 6);
    while let Some((task, attempt)) = running.pop() {
        running.extend(runs(&play.done(task, attempt)));
    }
    play.event(Event::Tick);
    play.now += Duration::from_secs(3);
    assert_eq!(retired(&play.event(Event::Tick)), 0, "all hold partitions of the result");
    play.event(Event::Release(QueryId(1)));
    play.event(Event::Tick);
    play.now += Duration::from_secs(2);
    let actions = play.event(Event::Tick);
    assert_eq!((retired(&actions), demand(&actions)), (2, Some(1)));
    assert!(runs(&play.submit(2, vec![stage(9)])).len() == 2, "nothing is placed on the retired");
}

#[test]
fn a_worker_with_an_actor_does_not_retire_before_that_has_ended() {
    let scale = ScaleSettings { survivors: 0, exclude: Duration::ZERO, ..scale((0, 2)) };
    let settings = Settings { scale: Some(scale), ..settings() };
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    for n in 0..2 {
        play.event(joined(n, Resources::cpus(1.0)));
    }
    play.core.actor_started(WorkerId(0));
    let retired = |play: &mut Play| -> Vec<WorkerId> {
        play.event(Event::Tick);
        play.now += Duration::from_secs(3);
        let actions = play.event(Event::Tick).into_iter();
        actions.filter_map(|a| if let Action::Retire { worker } = a { Some(worker) } else { None }).collect()
    };
    assert_eq!(retired(&mut play), [WorkerId(1)]);
    play.core.actor_ended(WorkerId(0));
    assert_eq!(retired(&mut play), [WorkerId(0)]);
}

#[test]
fn a_linear_scheduler_has_one_task_in_flight() {
    let mut play = Play { core: Core::new(Settings { linear: true, ..settings() }), now: Instant::now(), stuck: false };
    for worker in 0..2 {
        play.event(joined(worker, Resources::cpus(4.0)));
    }
    let mut running = runs(&play.submit(1, vec![stage(5)]));
    assert!(runs(&play.submit(2, vec![stage(5)])).is_empty(), "of all queries");
    for _ in 0..9 {
        assert_eq!(running.len(), 1);
        let (task, attempt) = running.remove(0);
        running = runs(&play.done(task, attempt));
    }
    play.event(Event::Release(QueryId(1)));
    play.event(Event::Release(QueryId(2)));
    play.leave();
    play.assert_idle();
}

#[test]
fn a_gathering_task_runs_where_most_of_its_input_is_and_several_take_all_workers() {
    for (tasks, expected) in [(1, vec![1]), (3, vec![0, 1, 2])] {
        let mut play = Play::with_workers(&[1.0, 1.0, 1.0]);
        let gather = StageSpec { inputs: vec![StageId(0)], ..stage(tasks) };
        let first = play.submit(1, vec![stage(6), gather]);
        let placed = first
            .iter()
            .filter_map(|a| if let Action::Run { worker, task, .. } = a { Some((*worker, *task)) } else { None });
        let mut last = Vec::new();
        for (worker, task) in placed.collect::<Vec<_>>() {
            let bytes = if worker == WorkerId(1) { 1000 } else { 1 };
            let output = Output { id: PartitionId { task, attempt: Attempt(1) }, rows: 1, bytes };
            last = play.event(Event::TaskEnded { task, attempt: Attempt(1), outcome: Ok(output) });
            last.extend(
                runs(&last).into_iter().flat_map(|(task, attempt)| play.done(task, attempt)).collect::<Vec<_>>(),
            );
        }
        let gathers = last.iter().filter_map(|a| match a {
            Action::Run { worker, task, .. } if task.stage == StageId(1) => Some(*worker),
            _ => None,
        });
        let gathers: Vec<_> = gathers.map(|worker| worker.0).collect();
        assert_eq!(gathers.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), expected);
    }
}

mod blame;
mod disk;
mod drain;
mod leaving;
mod limits;
mod materialise;
mod memory;
mod pools;
mod queues;
mod rollback;
mod scenarios;
mod shapes;
mod suspects;
mod turns;
mod twice;
mod warm;
