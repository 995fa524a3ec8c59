use std::collections::BTreeMap;

use super::*;
use crate::testing::{self, Made, Random, SECOND};
use crate::{
    Calls, EngineNode, Explain, Fetched, Metric, Metrics, MetricsByUdf, Outcome, Spent, StageId, StagePlan, StageState,
    Submitted, TaskId,
};

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
        assert_ne!(stage.state, StageState::Running, "seed {seed}");
        assert!(!profile.to_string().contains("running"), "seed {seed}: {profile}");
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
    let (mut recorder, none) = (Recorder::new(limits, "", 0), MetricsByUdf::new());
    for query in 0..40 {
        one_stage(&mut recorder, query, 5_000, 0);
        for index in 0..5_000 {
            let task = TaskId { query: QueryId(query), stage: StageId(0), index };
            let now = u64::from(index) * 10_000_000;
            recorder.saw(Seen::Placed { task, attempt: 1, worker: WorkerId(index % 50) }, now);
            let end = if index % 7 == 0 { End::Failed("a long error") } else { End::Done { rows: 1, bytes: 1 } };
            recorder.saw(Seen::Ended { task, attempt: 1, end, ran: None, metrics: &none }, now + 5_000_000);
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
    let (end, metrics) = (End::Done { rows: 5, bytes: 6 }, MetricsByUdf::new());
    recorder.saw(Seen::Ended { task, attempt: 1, end, ran: Some(u64::MAX), metrics: &metrics }, 9);
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

#[test]
fn what_a_udf_reports_counts_once_for_each_task_and_the_rest_is_in_vain() {
    let mut made = Made::new(2, Limits::default());
    made.submit(None, &testing::plan());
    let reports = |count| {
        let mut metrics = Metrics::default();
        metrics.add("tokens", Metric::Counter(count));
        MetricsByUdf::from([("demo::Embed".to_owned(), metrics)])
    };
    let attempt = |made: &mut Made, attempt, end, count| {
        made.place(1, 3, attempt, attempt % 2);
        made.now += SECOND;
        let task = TaskId { query: made.query, stage: StageId(1), index: 3 };
        made.saw(Seen::Ended { task, attempt, end, ran: None, metrics: &reports(count) });
        // It is not heard twice.
        made.saw(Seen::Ended { task, attempt, end, ran: None, metrics: &reports(count) });
    };
    attempt(&mut made, 1, End::Failed("no"), 1);
    attempt(&mut made, 2, End::Done { rows: 1, bytes: 1 }, 10);
    made.saw(Seen::Lost { worker: WorkerId(0), why: "signal 9" });
    attempt(&mut made, 3, End::Done { rows: 1, bytes: 1 }, 100);
    let step = made.step(1);
    made.saw(Seen::Released(made.query));
    made.saw(Seen::ReplicaReports { step, metrics: &reports(1000)["demo::Embed"] });
    let profile = made.profile();
    assert_eq!(profile.pools[0].reported, [("tokens".to_owned(), 1010.0)]);
    assert_eq!(profile.pools[0].in_vain, [("tokens".to_owned(), 101.0)]);
    assert_eq!(made.recorder.stands(made.query, made.now).unwrap().reported["demo::Embed"].counter("tokens"), 1010);
}

#[test]
fn workers_that_had_nothing_of_a_query_could_have_had_something() {
    let mut made = Made::new(3, Limits::default());
    made.submit(None, &testing::plan());
    made.run(0, 0, 1, 10, 1);
    made.saw(Seen::Done(made.query));
    made.saw(Seen::Lost { worker: WorkerId(2), why: "signal 9" });
    let profile = made.profile();
    assert_eq!((profile.query.workers, profile.cpus(), profile.workers.len()), (3, 12.0, 1));
}

/// It says to a status what a profile says.
#[test]
fn where_a_query_stands_is_what_its_profile_says_also_after_its_end() {
    for seed in 0..100 {
        let (mut made, ..) = random_run(seed);
        for _ in 0..2 {
            let (stands, profile) = (made.recorder.stands(made.query, made.now).unwrap(), made.profile());
            let (stage, figures) = (stands.stages[0], &profile.stages[0]);
            let pending = figures.tasks.unwrap() - figures.done - figures.running;
            assert_eq!(stage.tasks, (pending, figures.running, figures.done), "seed {seed}");
            assert_eq!((stage.rows, stage.bytes, stands.state), (figures.rows, figures.bytes, profile.query.state));
            made.saw(Seen::Released(made.query));
        }
    }
}

/// The clock of the head does not go back, but what is seen beside each other may be seen the other way round.
#[test]
fn clocks_that_go_back_are_no_harm() {
    for seed in 0..100 {
        let (mut made, mut random) = (Made::new(3, Limits::default()), Random(seed));
        made.submit(None, &testing::plan());
        let (query, step) = (made.query, made.step(1));
        for round in 0..600 {
            made.now = random.below(100 * SECOND);
            let (task, worker) = (random.below(24) as u32, random.below(3) as u32);
            let replica = Replica { pool: 1, rank: worker };
            match random.below(9) {
                0..2 => made.place(1, task, round, worker),
                2..4 => {
                    let attempt = random.below(u64::from(round) + 1) as u32;
                    made.ends(1, task, attempt, End::Done { rows: 1, bytes: 1 });
                }
                4 => made.saw(Seen::ReplicaStarts { replica, step, worker: WorkerId(worker) }),
                5 => made.saw(Seen::ReplicaReady(replica)),
                6 => made.saw(Seen::Serves { replica, step }),
                7 => made.saw(Seen::Credit { step, worker: WorkerId(worker), batches: 1 }),
                _ => made.saw(Seen::Pulse(WorkerId(worker), Sample { cpu: random.below(SECOND), memory: 1, peak: 1 })),
            }
            let progress = made.recorder.progress(query, random.below(100 * SECOND)).unwrap();
            assert!(progress.time <= 100 * SECOND && progress.cpus_busy.is_none_or(|busy| busy >= 0.0));
        }
        made.saw(Seen::Done(query));
        let profile = made.profile();
        assert!(profile.stages.iter().all(|stage| stage.busy <= 600 * 100 * SECOND), "seed {seed}");
        assert!(profile.took() <= 100 * SECOND && profile.to_html().contains("</html>"), "seed {seed}");
    }
}

/// What a worker used is a query's while that ran, and what comes later changes nothing of it.
#[test]
fn the_memory_of_another_query_is_not_said_of_one_that_has_ended() {
    let mut made = Made::new(1, Limits::default());
    let sample = |memory, peak| Sample { cpu: 0, memory, peak };
    let ran = |made: &mut Made, used: &[Sample]| {
        made.query = QueryId(made.query.0 + 1);
        made.submit(None, &testing::plan());
        made.place(1, 0, 1, 0);
        for sample in used {
            made.now += SECOND;
            made.saw(Seen::Pulse(WorkerId(0), *sample));
        }
        made.now += SECOND / 2;
        made.ends(1, 0, 1, End::Done { rows: 1, bytes: 1 });
        made.saw(Seen::Done(made.query));
        made.saw(Seen::Released(made.query));
        made.query
    };
    let peak = |made: &Made, query| made.recorder.profile(query, made.now).unwrap().workers[0].sample.peak;
    let small = ran(&mut made, &[sample(100, 100), sample(120, 130)]);
    let short = ran(&mut made, &[]);
    made.now += SECOND;
    made.saw(Seen::Pulse(WorkerId(0), sample(110, 900)));
    let late = ran(&mut made, &[sample(105, 900)]);
    made.now += SECOND;
    made.saw(Seen::Pulse(WorkerId(0), sample(105, 900)));
    let large = ran(&mut made, &[sample(3000, 3000)]);
    let peaks = [small, short, late, large].map(|query| peak(&made, query));
    assert_eq!(peaks, [900, 900, 105, 3000], "between two looks it was one of the first two");
}

/// No worker is believed so far that a sum of what it says ends this process.
#[test]
fn figures_that_cannot_be_are_no_harm() {
    let mut made = Made::new(1, Limits::default());
    made.submit(None, &testing::plan());
    let all = u64::MAX;
    let mut calls = Calls { rows: all, busy: all, retried: all, ..Calls::default() };
    [0, 1, all].into_iter().for_each(|value| calls.call.add(value));
    let read = Fetched { rows: all, here: all, mapped: all, network: all, relayed: all };
    let node = EngineNode {
        name: "filter".to_owned(),
        nth: 0,
        rows_in: all,
        rows_out: all,
        time: all,
        io: all,
        io_bytes: all,
    };
    let spent = Spent {
        fetch: all,
        engine: all,
        udf: all,
        write: all,
        inputs: vec![(0, read), (7, read)],
        calls: vec![(0, calls.clone()), (9, calls)],
        nodes: vec![node],
    };
    for task in 0..4 {
        made.place(1, task, 1, 0);
        made.now += SECOND;
        made.spent(1, &spent);
        made.ends(1, task, 1, End::Done { rows: all, bytes: all });
        made.saw(Seen::Pulse(WorkerId(0), Sample { cpu: all, memory: all, peak: all }));
        made.recorder.progress(made.query, made.now).unwrap();
    }
    // One of them is lost again.
    made.place(1, 0, 2, 0);
    let profile = made.profile();
    assert_eq!((profile.stages[1].spent.udf, profile.stages[1].spent.nodes.len()), (all, 1));
    assert!(format!("{profile:#}").contains("filter") && profile.to_html().contains("</html>"));
    assert!(Profile::from_json(&profile.to_json()).unwrap() == profile);
}

#[test]
fn nodes_of_the_engine_add_up_and_those_beyond_so_many_are_told_together() {
    let node =
        |at: u32| EngineNode { name: format!("node {at}"), nth: 0, rows_in: 2, rows_out: 1, ..EngineNode::default() };
    let mut spent = Spent::default();
    (0..3).for_each(|_| (0..100).for_each(|at| spent.node(&node(at))));
    let mut all = spent.clone();
    all.merge(&spent);
    assert_eq!((all.nodes.len(), all.nodes[0].rows_in, all.nodes[63].rows_out), (65, 12, 6));
    assert_eq!((all.nodes[64].name.as_str(), all.nodes[64].rows_out), ("others", 36 * 6));
}

/// A session that lives long, a thousand of whose queries nobody has let go of.
#[test]
fn a_hundred_thousand_queries_take_no_more_than_there_is() {
    let limits = Limits { memory: 1 << 20, queries: 64 };
    let (mut recorder, none) = (Recorder::new(limits, "", 0), MetricsByUdf::new());
    for query in 0..100_000 {
        one_stage(&mut recorder, query, 1, query);
        let task = TaskId { query: QueryId(query), stage: StageId(0), index: 0 };
        recorder.saw(Seen::Placed { task, attempt: 1, worker: WorkerId(0) }, query);
        let end = End::Done { rows: 1, bytes: 1 };
        recorder.saw(Seen::Ended { task, attempt: 1, end, ran: None, metrics: &none }, query);
        recorder.saw(Seen::Done(QueryId(query)), query);
        if let Some(before) = query.checked_sub(1_000) {
            recorder.saw(Seen::Released(QueryId(before)), query);
        }
    }
    assert!(recorder.queries().count() >= 1_000 && recorder.queries().count() <= 1_064);
    (0..100_000).for_each(|query| recorder.saw(Seen::Released(QueryId(query)), 100_000));
    assert!(recorder.bytes() <= limits.memory, "{} bytes", recorder.bytes());
    assert_eq!(
        recorder.bytes(),
        recorder.held + recorder.workers.len() * WORKER,
        "what is counted as it goes is what there is"
    );
    assert_eq!((recorder.outputs, recorder.dropped().profiles as usize), (0, 100_000 - recorder.queries().count()));
}

#[test]
fn a_worker_that_is_lost_when_a_query_has_ended_is_no_loss_to_it() {
    let mut made = testing::pipeline_made();
    made.now += SECOND;
    made.saw(Seen::Lost { worker: WorkerId(1), why: "its process ended" });
    let profile = made.profile();
    assert!(profile.workers.iter().all(|worker| worker.lost.is_none()));
    assert!(profile.findings.iter().all(|finding| finding.id != "lost-worker"));
}

#[test]
fn of_two_attempts_at_once_the_first_end_counts_and_the_other_was_work_done_again() {
    for (first, then) in [(1, 2), (2, 1)] {
        for late in [End::Cancelled, End::Done { rows: 900, bytes: 9_000 }] {
            let mut made = Made::new(2, Limits::default());
            made.submit(None, &testing::plan());
            made.place(1, 3, 1, 0);
            made.now += 4 * SECOND;
            let task = TaskId { query: made.query, stage: StageId(1), index: 3 };
            made.saw(Seen::PlacedBeside { task, attempt: 2, worker: WorkerId(1) });
            made.now += SECOND;
            made.ends(1, 3, first, End::Done { rows: 7, bytes: 70 });
            let stage = made.profile().stages[1].clone();
            assert_eq!((stage.done, stage.running, stage.rows, stage.again), (1, 0, 7, 0));
            made.now += SECOND;
            made.ends(1, 3, then, late);
            let stage = made.profile().stages[1].clone();
            assert_eq!((stage.done, stage.rows, stage.bytes, stage.again, stage.stopped), (1, 7, 70, 1, 1));
            // The first ran for five seconds before the second, or it, had ended.
            let late_for = |attempt: u64| if u64::from(first) == attempt { 0 } else { SECOND };
            let ran = [5 * SECOND + late_for(1), SECOND + late_for(2)];
            let in_vain = ran[then as usize - 1];
            assert_eq!((stage.busy, stage.busy_again), (ran[0] + ran[1], in_vain));
        }
    }
    // The first fails: the other goes on in its place.
    let mut made = Made::new(2, Limits::default());
    made.submit(None, &testing::plan());
    made.place(1, 3, 1, 0);
    let task = TaskId { query: made.query, stage: StageId(1), index: 3 };
    made.saw(Seen::PlacedBeside { task, attempt: 2, worker: WorkerId(1) });
    made.saw(Seen::Lost { worker: WorkerId(0), why: "signal 9" });
    let stage = made.profile().stages[1].clone();
    assert_eq!((stage.running, stage.lost), (1, 1));
    made.ends(1, 3, 2, End::Done { rows: 7, bytes: 70 });
    let stage = made.profile().stages[1].clone();
    assert_eq!((stage.done, stage.rows, stage.again), (1, 7, 0));
}
