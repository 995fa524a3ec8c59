//! What Flotilla's own tests hold, and what they leave out. `docs/book/src/scheduler.md` says which is which.

use super::*;

fn elastic(workers: (usize, usize), each: Resources) -> Settings {
    let scale = ScaleSettings { each, ..scale(workers) };
    Settings { scale: Some(scale), ..settings() }
}

fn gpu_stage(tasks: usize, gpus: f64, replicas: usize) -> StageSpec {
    let each = Resources::cpus(0.5).with_gpus(gpus, 0);
    StageSpec { pools: vec![pool(each, (replicas, replicas))], ..stage(tasks) }
}

fn chained(tasks: usize, cpus: &[f64]) -> StageSpec {
    let pools = cpus.iter().map(|cpus| pool(Resources::cpus(*cpus), (1, 4)));
    StageSpec { pools: pools.collect(), ..stage(tasks) }
}

fn workers(actions: &[Action]) -> Vec<u32> {
    let runs = actions.iter().filter_map(|a| if let Action::Run { worker, .. } = a { Some(worker.0) } else { None });
    runs.collect()
}

fn demand(actions: &[Action]) -> Option<usize> {
    actions.iter().find_map(|a| if let Action::Demand { workers } = a { Some(*workers) } else { None })
}

fn retired(actions: &[Action]) -> Vec<u32> {
    let retired = actions.iter().filter_map(|a| if let Action::Retire { worker } = a { Some(worker.0) } else { None });
    retired.collect()
}

#[test]
fn a_result_that_came_with_the_ends_of_tasks_needs_no_worker() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let first = runs(&play.submit(1, vec![stage(6)]));
    let mut reported = Vec::new();
    for (task, attempt) in first {
        let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes: 1 };
        let actions = play.event(Event::TaskBrought { task, attempt, output });
        reported.extend(actions.into_iter().filter_map(|action| match action {
            Action::Report(_, Report::Partition { index, worker, .. }) => Some((index, worker)),
            _ => None,
        }));
    }
    assert_eq!(reported, (0..4).map(|index| (index, WorkerId::DRIVER)).collect::<Vec<_>>());
    let mut again = Vec::new();
    for worker in 0..2 {
        again.extend(play.event(Event::Lost { worker: WorkerId(worker), why: "gone".to_owned() }));
    }
    again.extend(play.event(joined(2, Resources::cpus(4.0))));
    // Of a task that was tried on each, the last attempt.
    let again: BTreeMap<_, _> = runs(&again).into_iter().collect();
    assert_eq!(again.keys().map(|task| task.index).collect::<Vec<_>>(), [4, 5], "what came is not made again");
    again.into_iter().for_each(|(task, attempt)| drop(play.done(task, attempt)));
    assert!(play.core.is_done(QueryId(1)));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn more_tasks_than_room_run_as_many_at_once_as_there_is_room() {
    let mut play = Play::with_workers(&[0.5; 10]);
    let actions = play.submit(1, vec![stage(1000)]);
    assert_eq!(workers(&actions), (0..10).collect::<Vec<_>>());
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn a_task_near_the_result_goes_before_a_hundred_that_waited_longer() {
    let mut play = Play::with_workers(&[0.5]);
    let read = |n| StageSpec { inputs: vec![StageId(n)], ..stage(1) };
    let result = StageSpec { inputs: vec![StageId(0), StageId(2)], ..stage(1) };
    let first = runs(&play.submit(1, vec![stage(100), stage(1), read(1), result]));
    assert_eq!(first[0].0.stage, StageId(1), "the later stage first");
    let second = runs(&play.done(first[0].0, first[0].1));
    assert_eq!(second[0].0.stage, StageId(2), "and what reads it, before the hundred");
    let third = runs(&play.done(second[0].0, second[0].1));
    assert_eq!(third[0].0, TaskId { query: QueryId(1), stage: StageId(0), index: 0 }, "then those, in order");
}

#[test]
fn equal_workers_are_filled_in_the_same_order_every_time() {
    let place = || workers(&Play::with_workers(&[1.0, 1.0, 1.0]).submit(1, vec![stage(9)]));
    assert_eq!(place(), [0, 1, 2, 0, 1, 2]);
    assert_eq!(place(), place());
}

#[test]
fn requests_of_all_sizes_fit_whatever_their_order() {
    for sizes in [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]] {
        let mut play = Play::with_workers(&[1.0, 2.0, 3.5]);
        let starts = starts(&play.submit(1, vec![chained(1, &sizes)]));
        assert_eq!(starts.len(), 3, "{sizes:?}");
    }
    let mut play = Play::with_workers(&[4.0, 3.5]);
    assert_eq!(
        starts(&play.submit(1, vec![chained(1, &[3.0, 2.0, 2.0])])).len(),
        3,
        "packed, where spread does not fit"
    );
}

#[test]
fn without_workers_nothing_starts_and_the_provider_is_asked() {
    let mut play = Play { core: Core::new(elastic((0, 4), Resources::cpus(1.0))), now: Instant::now(), stuck: false };
    let actions = play.submit(1, vec![stage(1)]);
    assert!(runs(&actions).is_empty() && failure(&actions).is_none());
    assert_eq!(demand(&play.event(Event::Tick)), Some(1));
    assert_eq!(runs(&play.event(joined(0, Resources::cpus(1.0)))).len(), 1);
}

#[test]
fn what_neither_a_worker_nor_one_that_could_be_added_can_hold_fails_at_once() {
    let each = Resources::cpus(2.0).with_memory(8 << 30).with_gpus(1.0, 0);
    let mut play = Play { core: Core::new(elastic((0, 4), each)), now: Instant::now(), stuck: false };
    assert!(failure(&play.submit(1, vec![gpu_stage(1, 1.0, 1)])).is_none(), "one can be added");
    for (each, says) in [
        (Resources::cpus(1024.0), "1024 CPU"),
        (Resources::cpus(0.5).with_gpus(50.0, 0), "50 GPU"),
        (Resources::cpus(0.5).with_memory(9 << 30), "9.0 GiB of memory"),
    ] {
        let pools = vec![pool(each, (1, 1))];
        let text = failure(&play.submit(2, vec![StageSpec { pools, ..stage(1) }])).unwrap().to_string();
        for part in ["oar", says, "largest has 2 CPU, 1 GPU, 8.0 GiB of memory"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}

#[test]
fn a_pool_that_wants_a_gpu_is_refused_with_each_reason_why_workers_have_none_once() {
    let mut play = Play::with_workers(&[]);
    let join = |worker, why: &str| {
        let (capacity, no_gpu) = (Resources::cpus(4.0), Some(why.to_owned()));
        Event::Joined { worker: WorkerId(worker), capacity, no_gpu, machine: None }
    };
    for (worker, why) in ["no driver", "code 803", "no driver"].into_iter().enumerate() {
        play.event(join(worker as u32, why));
    }
    let refused = |play: &mut Play, stage| failure(&play.submit(1, vec![stage])).unwrap().to_string();
    let text = refused(&mut play, gpu_stage(1, 1.0, 1));
    assert!(text.ends_with("use larger workers. Why workers have no GPU: code 803; no driver"), "{text}");
    assert!(refused(&mut play, chained(1, &[5.0])).ends_with("use larger workers"), "it wants none");
    play.event(Event::Lost { worker: WorkerId(1), why: "killed".to_owned() });
    play.now += WORKERS;
    play.event(Event::Tick);
    let text = refused(&mut play, gpu_stage(1, 1.0, 1));
    assert!(text.ends_with("have no GPU: no driver"), "{text}");

    // Nobody has joined yet, and who will has none.
    let mut settings = elastic((0, 4), Resources::cpus(1.0));
    settings.scale.as_mut().unwrap().no_gpu = Some("no driver".to_owned());
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    let text = refused(&mut play, gpu_stage(1, 1.0, 1));
    assert!(text.contains("largest has 1 CPU") && text.ends_with("have no GPU: no driver"), "{text}");
}

#[test]
fn two_half_admitted_stages_two_queries_and_chained_pools_do_not_wait_for_each_other() {
    // Each needs nearly all there is: whoever held a part of it would hold up the other for ever.
    for cpus in [&[2.0][..], &[1.0, 1.0], &[0.5, 0.5, 1.0]] {
        let mut play = Play::with_workers(cpus);
        let mut actions = Vec::new();
        for query in 0..4 {
            let reader = StageSpec { inputs: vec![StageId(0), StageId(1)], ..chained(3, &[0.5, 0.5]) };
            actions.extend(play.submit(query, vec![chained(3, &[0.5, 0.5, 0.5]), chained(2, &[0.5]), reader]));
        }
        let ends = play.finish(actions);
        assert_eq!(ends, (0..4).map(|query| (QueryId(query), true)).collect(), "{cpus:?}");
        (0..4).for_each(|query| drop(play.event(Event::Release(QueryId(query)))));
        play.assert_idle();
    }
}

#[test]
fn a_stage_that_needs_much_room_gets_it_while_others_keep_every_worker_busy() {
    let mut play = Play::with_workers(&[1.5]);
    let mut running: VecDeque<_> = runs(&play.submit(1, vec![stage(500)])).into();
    play.submit(2, vec![udf_stage(1, 1.0, (1, 1))]);
    let mut admitted = None;
    for step in 0..100 {
        play.now += Duration::from_millis(100);
        let (task, attempt) = running.pop_front().unwrap();
        let actions = [play.done(task, attempt), play.event(Event::Tick)].concat();
        running.extend(runs(&actions));
        if !starts(&actions).is_empty() {
            admitted = Some(step);
            break;
        }
        assert!(!running.is_empty(), "step {step}: what is kept free is free only as long as it must be");
    }
    let after = admitted.expect("it must not wait for all five hundred");
    assert!((10..20).contains(&after), "after a second of patience and the tasks that ran: step {after}");
}

#[test]
fn gpus_are_never_given_to_more_replicas_than_they_hold_whoever_asks() {
    let mut play = Play::with_workers(&[]);
    play.event(joined(0, Resources::cpus(16.0).with_gpus(2.0, 0)));
    let mut all = Vec::new();
    for (query, gpus, replicas) in [(1, 0.5, 2), (2, 1.0, 1), (3, 0.5, 1), (4, 1.0, 1)] {
        all.extend(play.submit(query, vec![gpu_stage(1, gpus, replicas)]));
    }
    let devices = all.iter().filter_map(|a| match a {
        Action::StartReplica { step, devices, .. } => Some((step.query.0, devices.clone())),
        _ => None,
    });
    assert_eq!(devices.collect::<Vec<_>>(), [(1, vec![0]), (1, vec![0]), (2, vec![1])], "the others wait");
    let actions = play.event(Event::Release(QueryId(2)));
    assert_eq!(starts(&actions).len(), 1, "a half or a whole takes the place of a whole");
}

#[test]
fn tasks_run_on_the_workers_that_hold_what_they_read_and_elsewhere_only_where_there_is_room_to_spare() {
    let near = |workers: &[u32]| StageSpec {
        affinity: workers.iter().map(|worker| Affinity::Soft(WorkerId(*worker))).enumerate().collect(),
        ..stage(workers.len())
    };
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let placed = |actions: &[Action]| -> Vec<_> {
        runs(actions).iter().map(|(task, _)| task.index).zip(workers(actions)).collect()
    };
    assert_eq!(placed(&play.submit(1, vec![near(&[0, 0, 0, 1, 1])])), [(0, 0), (3, 1)]);
    for (ends, begins) in [(0, Some((1, 0))), (3, Some((4, 1))), (4, Some((2, 1))), (1, None), (2, None)] {
        // Long ones, so that none waits at a worker.
        play.now += Duration::from_secs(1);
        let actions = play.done(TaskId { query: QueryId(1), stage: StageId(0), index: ends }, Attempt(1));
        assert_eq!(placed(&actions), Vec::from_iter(begins), "when task {ends} has ended");
    }
}

#[test]
fn a_task_that_must_run_on_a_busy_worker_waits_and_lets_others_go() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let pinned = StageSpec { affinity: [(0, Affinity::Hard(WorkerId(0)))].into(), ..stage(2) };
    let busy =
        runs(&play.submit(1, vec![StageSpec { affinity: [(0, Affinity::Soft(WorkerId(0)))].into(), ..stage(1) }]));
    let actions = play.submit(2, vec![pinned]);
    assert!(runs(&actions).is_empty(), "admitted once its own worker has room");
    let actions = play.done(busy[0].0, busy[0].1);
    let placed: Vec<_> = runs(&actions).iter().map(|(task, _)| task.index).zip(workers(&actions)).collect();
    assert_eq!(placed, [(0, 0), (1, 1)]);
}

#[test]
fn a_task_that_must_run_on_a_worker_that_died_runs_elsewhere() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let pinned =
        || StageSpec { affinity: (0..3).map(|task| (task, Affinity::Hard(WorkerId(0)))).collect(), ..stage(3) };
    let first = play.submit(1, vec![pinned()]);
    assert_eq!(workers(&first), [0], "and no other");
    let actions = play.event(lost(0));
    assert_eq!(workers(&actions), [1]);
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
    let actions = play.submit(2, vec![pinned()]);
    assert_eq!(workers(&actions), [1], "also if it was dead before");
}

#[test]
fn a_silent_worker_keeps_what_it_has_and_gets_nothing_new_until_it_is_heard() {
    let mut play = Play::with_workers(&[1.0, 0.5]);
    let first = play.submit(1, vec![stage(6)]);
    assert_eq!(workers(&first), [0, 0, 1]);
    play.event(Event::Silent { worker: WorkerId(0), silent: true });
    let silent = runs(&first)[0];
    assert!(runs(&play.done(silent.0, silent.1)).is_empty(), "its answer counts; its room is not used");
    let status = play.status();
    assert!(status.workers[0].silent.is_some() && status.to_string().contains("worker 0: 0.5 of 1 CPU"), "{status}");
    let actions = play.event(Event::Silent { worker: WorkerId(0), silent: false });
    assert_eq!(workers(&actions), [0]);
    assert_eq!(play.finish([first, actions].concat()), [(QueryId(1), true)].into());
}

#[test]
fn a_worker_whose_disk_is_full_gets_nothing_new_for_a_while_unless_it_is_the_only_one() {
    let full = || TaskFailure::DiskFull { folder: "/tmp".to_owned(), need: 1, room: 0 };
    let fails = |play: &mut Play, run: (TaskId, Attempt)| {
        let mut actions = play.event(Event::TaskEnded { task: run.0, attempt: run.1, outcome: Err(full()) });
        play.now += Duration::from_millis(300);
        actions.extend(play.event(Event::Tick));
        actions
    };
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let mut actions = play.submit(1, vec![stage(6)]);
    assert_eq!(workers(&actions), [0, 1]);
    let first = runs(&actions);
    let after = fails(&mut play, first[0]);
    assert!(runs(&after).is_empty(), "it has most room, and gets no task: {after:?}");
    actions = play.done(first[1].0, first[1].1);
    assert_eq!(workers(&actions), [1]);
    play.now += Duration::from_secs(5);
    let again = play.event(Event::Tick);
    assert_eq!(workers(&again), [0], "it may have room again");
    assert_eq!(play.finish([actions, again].concat()), [(QueryId(1), true)].into());

    let mut play = Play::with_workers(&[0.5]);
    let mut actions = play.submit(1, vec![stage(1)]);
    for attempt in 1..MAX_ATTEMPTS {
        let run = runs(&actions)[0];
        play.now += Duration::from_secs(5);
        actions = fails(&mut play, run);
        if runs(&actions).is_empty() {
            play.now += Duration::from_secs(3);
            actions = play.event(Event::Tick);
        }
        assert_eq!(workers(&actions), [0], "attempt {attempt}: there is no other");
    }
    let last = runs(&actions)[0];
    let told = fails(&mut play, last);
    assert!(told.iter().any(|action| matches!(action, Action::Report(_, Report::Failed(_)))), "{told:?}");
}

#[test]
fn of_three_workers_that_fail_in_different_ways_only_the_dead_is_gone_and_every_task_runs() {
    let mut play = Play::with_workers(&[0.5, 0.5, 0.5]);
    let first = runs(&play.submit(1, vec![stage(3)]));
    let cause = TaskFailure::Transfer { from: "worker 9".to_owned(), why: "reset".to_owned() };
    play.event(Event::TaskEnded { task: first[0].0, attempt: first[0].1, outcome: Err(cause) });
    play.event(Event::Silent { worker: WorkerId(2), silent: true });
    let actions = play.event(lost(1));
    assert_eq!(workers(&actions), [0], "the lost one's task");
    assert_eq!(play.status().workers.len(), 2);
    play.event(Event::Silent { worker: WorkerId(2), silent: false });
    let last = play.done(first[2].0, first[2].1);
    assert_eq!(play.finish([actions, last].concat()), [(QueryId(1), true)].into());
}

#[test]
fn three_thousand_tasks_of_thirty_queries_of_which_half_are_cancelled_leave_nothing() {
    let mut play = Play::with_workers(&[0.5; 30]);
    let mut actions = Vec::new();
    for query in 0..30 {
        actions.extend(play.submit(query, vec![stage(100)]));
    }
    for query in (0..30).step_by(2) {
        actions.extend(play.event(Event::Release(QueryId(query))));
    }
    let ends = play.finish(actions);
    assert_eq!(ends.values().filter(|done| **done).count(), 15);
    assert_eq!(ends.len(), 30, "each has one end");
    (0..30).for_each(|query| drop(play.event(Event::Release(QueryId(query)))));
    play.assert_idle();
}

#[test]
fn a_reader_whose_input_is_lost_gives_up_the_room_that_making_it_again_needs() {
    // A worker that holds one stage of replica and task, no more; another that comes and goes.
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let on = |worker, spec| StageSpec { affinity: [(0, Affinity::Soft(WorkerId(worker)))].into(), ..spec };
    let reader = StageSpec { inputs: vec![StageId(0)], ..udf_stage(1, 0.5, (1, 1)) };
    let actions = play.submit(1, vec![on(0, udf_stage(1, 0.5, (1, 1))), on(1, reader)]);
    let (first, _) = starts(&actions)[0];
    let task = runs(&play.event(Event::ReplicaReady(first)))[0];
    let actions = play.done(task.0, task.1);
    let (second, on) = starts(&actions)[0];
    // What made the input was on the other worker, and ends there.
    assert_eq!(on, WorkerId(1));
    let reads = runs(&play.event(Event::ReplicaReady(second)))[0];
    let before = play.event(lost(0));
    assert!(starts(&before).is_empty(), "one worker is left, and the reader's replica is on it");
    let cause = TaskFailure::Transfer { from: "worker 0".to_owned(), why: "reset".to_owned() };
    let actions = play.event(Event::TaskEnded { task: reads.0, attempt: reads.1, outcome: Err(cause) });
    let first = |action: &Action| matches!(action, Action::StartReplica { step, .. } if step.stage == StageId(0));
    assert!(actions.iter().any(first), "the input is made again");
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
}

#[test]
fn workers_go_when_what_they_hold_has_been_read_and_not_before() {
    let mut play = Play { core: Core::new(elastic((1, 4), Resources::cpus(0.5))), now: Instant::now(), stuck: false };
    for worker in 0..3 {
        play.event(joined(worker, Resources::cpus(0.5)));
    }
    let on =
        |worker, inputs| StageSpec { inputs, affinity: [(0, Affinity::Soft(WorkerId(worker)))].into(), ..stage(1) };
    let next = runs(&play.submit(1, vec![on(1, vec![]), on(2, vec![StageId(0)]), on(2, vec![StageId(1)])]));
    let second = runs(&play.done(next[0].0, next[0].1));
    let wait = |play: &mut Play| {
        play.event(Event::Tick);
        play.now += Duration::from_secs(3);
        retired(&play.event(Event::Tick))
    };
    assert_eq!(wait(&mut play), [0], "worker 1 holds what stage 1 reads on worker 2; 0 was idle all the time");
    play.done(second[0].0, second[0].1);
    assert_eq!(wait(&mut play), [1], "what it holds has been read; the result's task runs on another");
    play.event(Event::Release(QueryId(1)));
    assert_eq!(wait(&mut play), Vec::<u32>::new(), "one stays");
}

#[test]
fn a_released_machine_is_not_taken_in_again_for_its_time() {
    let mut play = Play { core: Core::new(elastic((0, 4), Resources::cpus(1.0))), now: Instant::now(), stuck: false };
    let machine = IpAddr::from([10, 0, 0, 7]);
    play.event(Event::Joined {
        worker: WorkerId(0),
        capacity: Resources::cpus(1.0),
        no_gpu: None,
        machine: Some(machine),
    });
    play.event(Event::Tick);
    assert!(!play.core.excludes(machine, play.now));
    play.now += Duration::from_secs(2);
    assert_eq!(retired(&play.event(Event::Tick)), [0]);
    assert!(play.core.excludes(machine, play.now + Duration::from_secs(119)));
    assert!(!play.core.excludes(machine, play.now + Duration::from_secs(120)));
}

#[test]
fn status_says_who_waits_for_what_and_for_how_long() {
    let mut play = Play { core: Core::new(elastic((1, 4), Resources::cpus(1.0))), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(1.0)));
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let (replica, _) = starts(&play.submit(1, vec![udf_stage(3, 0.5, (1, 1)), gather]))[0];
    play.event(Event::ReplicaProgress { replica, doing: "weights".to_owned() });
    play.event(Event::Tick);
    play.now += Duration::from_secs(3);
    let says = |play: &Play, parts: &[&str]| {
        let text = play.status().to_string();
        parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is missing:\n{text}"));
    };
    says(&play, &["3 tasks wait for a replica of UDF oar to become ready, for 3.00 s"]);
    says(&play, &["1 replica waits for UDF oar to start on worker 0: weights, for 3.00 s"]);
    says(&play, &["1 task waits for stage 0, for 3.00 s", "3 workers wanted, for 3.00 s; 1 have joined"]);
    let first = runs(&play.event(Event::ReplicaReady(replica)))[0];
    let step = StepId { query: QueryId(1), stage: StageId(0), step: 0 };
    play.event(Event::CreditWait { worker: WorkerId(0), step, batches: 2 });
    play.event(Event::ReplicaIdle { replica, idle: true });
    play.submit(2, vec![udf_stage(1, 0.5, (1, 1))]);
    play.now += Duration::from_secs(1);
    says(&play, &["2 tasks wait for room on a worker (0.5 CPU), for 1.00 s"]);
    says(&play, &["2 batches wait for room at a replica of UDF oar, on worker 0, for 1.00 s"]);
    says(&play, &["1 task waits for room on a worker (0.5 CPU beside UDF oar (0.5 CPU)), for 1.00 s"]);
    says(&play, &["1 of 1 CPU charged; 1 task runs", "UDF oar: 1 ready, 1 of them idle"]);
    let cause = TaskFailure::Transfer { from: "worker 9".to_owned(), why: "reset".to_owned() };
    play.event(Event::TaskEnded { task: first.0, attempt: first.1, outcome: Err(cause) });
    says(&play, &["1 task waits for the next attempt"]);
    play.event(Event::CreditWait { worker: WorkerId(0), step, batches: 0 });
    let waits = &play.core.waits(QueryId(1), play.now).unwrap()[0].waits;
    assert!(waits.iter().all(|wait| wait.of != "batch"), "{waits:?}");
}
