use std::collections::BTreeMap;

use super::*;
use crate::testing::{self, Made, Random, SECOND};
use crate::{Explain, Outcome, StageId, StagePlan, Submitted, TaskId};

#[test]
fn what_a_worker_held_is_done_again_and_counts_once() {
    let profile = testing::lost_worker();
    let scan = &profile.stages[0];
    assert_eq!((scan.done, scan.again, scan.rows, scan.durations.count()), (4, 2, 1_500_000, 6));
    assert_eq!(scan.busy_again, 2 * 900_000_000);
    let embed = &profile.stages[1];
    assert_eq!((embed.done, embed.lost, embed.again, embed.rows), (24, 2, 0, 24 * 250_050));
    assert_eq!(profile.pools[0].failed, 1);
    assert_eq!(profile.query.again, 2 * 900_000_000 + embed.busy_again);
    assert!(profile.incomplete[0].starts_with("worker 1 was lost"), "{:?}", profile.incomplete);
    assert!(profile.errors.iter().any(|error| error.text == "worker 1 is lost: its process ended: signal 9"));
}

#[test]
fn a_limit_that_had_enough_says_so_and_what_was_stopped() {
    let profile = testing::enough();
    let stage = &profile.stages[0];
    assert_eq!((stage.enough, stage.done, stage.stopped, stage.rows), (true, 2, 2, 120));
    assert_eq!((profile.query.state, profile.query.result), (QueryState::Done, 9_000_000));
}

#[test]
fn a_failed_query_keeps_each_attempt_with_its_error() {
    let profile = testing::failed();
    assert_eq!((profile.query.state, profile.stages[1].failed), (QueryState::Failed, 5));
    assert_eq!(profile.tasks.iter().filter(|task| task.outcome == Outcome::Failed).count(), 5);
    assert_eq!(profile.errors.len(), 5);
    assert_eq!(profile.errors[4].task, Some((3, 5)));
}

/// What a scheduler might do, in a random order, beside a model of it.
fn random_run(seed: u64) -> (Made, u64, u64, u32, u64) {
    let mut random = Random(seed);
    let mut made = Made::new(4, Limits::default());
    let tasks = 1 + random.below(60) as u32;
    let plan = StagePlan { stage: 0, tasks: Some(tasks), ..StagePlan::default() };
    made.submit(None, &Explain { stages: vec![plan], nodes: Vec::new() });
    let mut done: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut running: BTreeMap<u32, (u32, u32, u64)> = BTreeMap::new();
    let mut attempts: BTreeMap<u32, u32> = BTreeMap::new();
    let mut busy = 0;
    for _ in 0..400 {
        made.now += random.below(SECOND);
        let task = random.below(tasks.into()) as u32;
        match random.below(8) {
            0..3 => {
                let attempt = attempts.entry(task).and_modify(|attempt| *attempt += 1).or_insert(1);
                let worker = random.below(4) as u32;
                busy += running.insert(task, (*attempt, worker, made.now)).map_or(0, |(.., since)| made.now - since);
                done.remove(&task);
                made.place(0, task, *attempt, worker);
            }
            3..6 => {
                let Some((attempt, _, since)) = running.remove(&task) else { continue };
                busy += made.now - since;
                let doublings = random.below(40);
                let rows = random.below(2 << doublings);
                done.insert(task, (rows, rows * 3));
                made.ends(0, task, attempt, End::Done { rows, bytes: rows * 3 });
                // A second word on it is not heard.
                made.ends(0, task, attempt, End::Done { rows: 1, bytes: 1 });
            }
            6 => {
                let Some((attempt, _, since)) = running.remove(&task) else { continue };
                busy += made.now - since;
                made.ends(0, task, attempt, if random.below(2) == 0 { End::Failed("no") } else { End::Cancelled });
            }
            _ => {
                let worker = random.below(4) as u32;
                running.retain(|_, (_, on, since)| {
                    busy += if *on == worker { made.now - *since } else { 0 };
                    *on != worker
                });
                made.saw(Seen::Lost { worker: WorkerId(worker), why: "gone" });
            }
        }
    }
    let rows = done.values().map(|(rows, _)| rows).sum();
    let bytes = done.values().map(|(_, bytes)| bytes).sum();
    (made, rows, bytes, done.len() as u32, busy)
}

#[test]
fn sums_are_those_of_what_stands_and_the_same_events_give_the_same_profile() {
    for seed in 0..300 {
        let (made, rows, bytes, done, busy) = random_run(seed);
        let profile = made.profile();
        let stage = &profile.stages[0];
        assert_eq!((stage.rows, stage.bytes, stage.done, stage.busy), (rows, bytes, done, busy), "seed {seed}");
        assert_eq!(stage.rows_each.count(), u64::from(done), "seed {seed}");
        let strips: u64 = profile.strips.workers.iter().flat_map(|(_, strip)| strip).sum();
        assert_eq!(strips, busy, "seed {seed}");
        let workers: u64 = stage.workers.iter().map(|(_, _, busy)| busy).sum();
        assert_eq!(workers, busy, "seed {seed}");
        assert!(profile == random_run(seed).0.profile(), "seed {seed}: other figures of the same events");
        assert!(profile == Profile::from_json(&profile.to_json()).unwrap(), "seed {seed}: other figures from JSON");
    }
}

#[test]
fn every_attempt_ends_with_its_query() {
    for seed in 0..50 {
        let (mut made, ..) = random_run(seed);
        made.saw(Seen::Released(made.query));
        let profile = made.profile();
        let stage = &profile.stages[0];
        assert_eq!((profile.query.state, stage.running), (QueryState::Cancelled, 0));
        assert!(profile.tasks.iter().all(|task| task.outcome != Outcome::Running));
        let ended: u64 = stage.workers.iter().map(|(_, attempts, _)| attempts).sum();
        let outcomes = u64::from(stage.failed + stage.lost + stage.stopped) + stage.durations.count();
        assert_eq!(ended, outcomes, "seed {seed}: one end each");
    }
}

fn one_stage(recorder: &mut Recorder, query: u64, tasks: u32, now: u64) {
    let plan = StagePlan { stage: 0, tasks: Some(tasks), ..StagePlan::default() };
    let plan = Explain { stages: vec![plan], nodes: Vec::new() };
    recorder.saw(Seen::Submitted(Submitted { query: QueryId(query), name: None, plan: &plan, planned: 0 }), now);
}

#[test]
fn what_is_kept_is_bounded_and_what_is_left_out_is_counted() {
    let limits = Limits { memory: 1 << 20, queries: 5 };
    let mut recorder = Recorder::new(limits, "", 0);
    for query in 0..40 {
        one_stage(&mut recorder, query, 5_000, 0);
        for index in 0..5_000 {
            let task = TaskId { query: QueryId(query), stage: StageId(0), index };
            let now = u64::from(index) * 10_000_000;
            recorder.saw(Seen::Placed { task, attempt: 1, worker: WorkerId(index % 50) }, now);
            let end = if index % 7 == 0 { End::Failed("a long error") } else { End::Done { rows: 1, bytes: 1 } };
            recorder.saw(Seen::Ended { task, attempt: 1, end, ran: None }, now + 5_000_000);
        }
        assert!(recorder.bytes() <= limits.memory + (1 << 19), "{} bytes", recorder.bytes());
        recorder.saw(Seen::Released(QueryId(query)), 60 * SECOND);
        assert!(recorder.bytes() <= limits.memory, "{} bytes", recorder.bytes());
    }
    let dropped = recorder.dropped();
    assert!(recorder.queries().count() <= 5);
    assert_eq!(dropped.profiles as usize + recorder.queries().count(), 40);
    assert!(dropped.tasks > 0 && dropped.errors > 0, "{dropped:?}");
    let last = recorder.profile(QueryId(39), 60 * SECOND).unwrap();
    assert_eq!((last.stages[0].failed, last.stages[0].rows), (715, 4285), "sums are exact");
}

#[test]
fn without_room_for_outputs_it_is_said_that_what_runs_again_counts_again() {
    let mut recorder = Recorder::new(Limits { memory: 1 << 20, queries: 5 }, "", 0);
    one_stage(&mut recorder, 1, 10_000_000, 0);
    let profile = recorder.profile(QueryId(1), 0).unwrap();
    assert_eq!(profile.dropped.outputs, 1);
    assert!(profile.to_string().contains("what ran again there counts again"), "{profile}");
}

#[test]
fn a_stage_whose_tasks_are_known_late_has_them_from_then_on() {
    let mut recorder = Recorder::new(Limits::default(), "", 0);
    let plan = Explain { stages: vec![StagePlan { stage: 0, ..StagePlan::default() }], nodes: Vec::new() };
    let query = QueryId(1);
    recorder.saw(Seen::Submitted(Submitted { query, name: None, plan: &plan, planned: 0 }), 0);
    assert_eq!(recorder.profile(query, 0).unwrap().stages[0].tasks, None);
    for (tasks, before) in [(8, None), (12, Some(8))] {
        recorder.saw(Seen::Tasks { query, stage: StageId(0), tasks, why: "as its input is" }, 1);
        let stage = recorder.profile(query, 1).unwrap().stages.remove(0);
        assert_eq!((stage.tasks, stage.tasks_before), (Some(tasks), before));
        assert_eq!(stage.shape, "as its input is");
    }
    let task = TaskId { query, stage: StageId(0), index: 11 };
    recorder.saw(Seen::Placed { task, attempt: 1, worker: WorkerId(0) }, 2);
    recorder.saw(Seen::Ended { task, attempt: 1, end: End::Done { rows: 5, bytes: 6 }, ran: Some(u64::MAX) }, 9);
    let stage = recorder.profile(query, 9).unwrap().stages.remove(0);
    assert_eq!((stage.rows, stage.busy), (5, 7), "no clock is so far off");
}

#[test]
fn a_pool_s_time_is_that_of_its_replicas_as_far_as_they_served_the_step() {
    let profile = testing::pipeline();
    let pool = &profile.pools[0];
    assert_eq!((pool.started, pool.most_ready, pool.ready), (2, 2, 0));
    assert_eq!((pool.start, pool.alive), (4 * SECOND, 2 * 36_700 * 1_000_000));
    let (running, profile) = testing::running();
    let pool = &profile.pools[0];
    assert_eq!((pool.ready, pool.waiting, pool.starting.len()), (3, 9, 1));
    let progress = running.recorder.progress(running.query, running.now + SECOND).unwrap();
    assert_eq!(progress.stages[1].pools[0].starting.as_ref().unwrap().0, 35 * SECOND);
}
