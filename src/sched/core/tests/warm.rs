//! Pools that several queries use, and those that nobody uses any more.

use super::*;

const WARM: Duration = Duration::from_secs(60);

fn play(cpus: &[f64]) -> Play {
    let mut play =
        Play { core: Core::new(Settings { pool_warm: WARM, ..settings() }), now: Instant::now(), stuck: false };
    for (worker, cpus) in cpus.iter().enumerate() {
        play.event(joined(worker as u32, Resources::cpus(*cpus)));
    }
    play
}

fn shared_stage(tasks: usize) -> StageSpec {
    StageSpec { pools: vec![PoolSpec { most: 1, ..shared(0) }], ..stage(tasks) }
}

fn stopped(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::StopReplica { .. })).count()
}

fn pools(play: &Play) -> Vec<PoolStatus> {
    play.status().pools
}

/// One query of one task has run, and its only replica is there still.
fn warm(cpus: &[f64]) -> (Play, ReplicaId) {
    let mut play = play(cpus);
    let (replica, _) = starts(&play.submit(1, vec![shared_stage(1)]))[0];
    let (task, attempt) = runs(&play.event(Event::ReplicaReady(replica)))[0];
    let actions = play.done(task, attempt);
    assert!(is_done(&actions) && stopped(&actions) == 0, "{actions:?}");
    play.event(Event::Release(QueryId(1)));
    (play, replica)
}

#[test]
fn queries_at_once_use_the_same_replicas_which_are_charged_once() {
    let mut play = play(&[2.0]);
    let first = starts(&play.submit(1, vec![shared_stage(1)]));
    assert_eq!(first.len(), 1);
    assert!(starts(&play.submit(2, vec![shared_stage(1)])).is_empty());
    assert_eq!(play.status().workers[0].cpus.1, 0.5);
    let actions = play.event(Event::ReplicaReady(first[0].0));
    let tasks: Vec<_> = runs(&actions);
    assert_eq!(
        tasks.iter().map(|(task, _)| task.query).collect::<BTreeSet<_>>().len(),
        2,
        "it serves both: {actions:?}"
    );
    assert_eq!(pools(&play)[0].queries, [QueryId(1), QueryId(2)]);
    let text = play.status().to_string();
    assert!(text.contains("shared by 2 queries"), "{text}");
    for (task, attempt) in tasks {
        play.done(task, attempt);
    }
    assert!(pools(&play)[0].queries.is_empty() && pools(&play)[0].unused.is_some());
}

#[test]
fn the_next_query_finds_the_replicas_warm_and_its_tasks_start_at_once() {
    let (mut play, replica) = warm(&[1.0]);
    play.now += WARM / 2;
    let actions = play.submit(2, vec![shared_stage(1)]);
    assert!(starts(&actions).is_empty());
    let (task, attempt) = runs(&actions)[0];
    let ready = play.core.ready_replicas(QueryId(2), StageId(0));
    assert_eq!(ready.iter().map(|(_, replica, _)| *replica).collect::<Vec<_>>(), [replica]);
    // Half of the first time is over; the second query begins a new one.
    play.done(task, attempt);
    play.now += WARM / 2;
    assert_eq!(stopped(&play.event(Event::Tick)), 0);
    play.now += WARM / 2;
    assert_eq!(stopped(&play.event(Event::Tick)), 1);
    play.event(Event::Release(QueryId(2)));
    play.assert_idle();
}

/// Two replicas that nobody uses; the next query has work for both.
fn two_warm() -> (Play, Vec<ReplicaId>) {
    let mut play = play(&[2.0]);
    let replicas: Vec<_> = starts(&play.submit(1, vec![StageSpec { pools: vec![shared(0)], ..stage(1) }]));
    let replicas: Vec<_> = replicas.into_iter().map(|(replica, _)| replica).collect();
    let ready: Vec<_> = replicas.iter().flat_map(|replica| play.event(Event::ReplicaReady(*replica))).collect();
    let (task, attempt) = runs(&ready)[0];
    play.done(task, attempt);
    play.event(Event::Release(QueryId(1)));
    assert_eq!((replicas.len(), pools(&play)[0].idle), (2, 2));
    (play, replicas)
}

#[test]
fn replicas_that_were_kept_warm_are_not_idle_while_they_work_for_the_next_query() {
    let (mut play, replicas) = two_warm();
    play.now += Duration::from_secs(1);
    assert_eq!(runs(&play.submit(2, vec![StageSpec { pools: vec![shared(0)], ..stage(2) }])).len(), 2);
    assert_eq!(pools(&play)[0].idle, 0);
    let actions = play.submit(3, vec![stage(1)]);
    assert_eq!((stopped(&actions), runs(&actions).len()), (0, 0), "busy ones do not make room");
    let actions = play.event(Event::ReplicaIdle { replica: replicas[1], idle: true });
    assert_eq!((stopped(&actions), runs(&actions).len()), (1, 1), "one that says it is idle does");
}

#[test]
fn what_a_warm_replica_says_of_itself_counts_once_it_is_used() {
    let (mut play, replicas) = two_warm();
    play.event(Event::ReplicaIdle { replica: replicas[0], idle: true });
    play.submit(2, vec![StageSpec { pools: vec![shared(0)], ..stage(1) }]);
    assert_eq!(pools(&play)[0].idle, 1, "it has said so while nobody used it");
    play.event(Event::ReplicaIdle { replica: replicas[0], idle: false });
    assert_eq!(pools(&play)[0].idle, 0);
}

#[test]
fn a_warm_pool_keeps_its_replicas_for_the_tasks_of_the_next_query() {
    let mut play = play(&[4.0]);
    let stage_of = |tasks| StageSpec { pools: vec![PoolSpec { most: 4, least: 1, ..shared(0) }], ..stage(tasks) };
    let actions = play.submit(1, vec![stage_of(8)]);
    let replicas: Vec<_> = starts(&actions).into_iter().map(|(replica, _)| replica).collect();
    let ready = replicas.iter().flat_map(|replica| play.event(Event::ReplicaReady(*replica))).collect::<Vec<_>>();
    let mut tasks: VecDeque<_> = runs(&ready).into();
    while let Some((task, attempt)) = tasks.pop_front() {
        tasks.extend(runs(&play.done(task, attempt)));
    }
    play.event(Event::Release(QueryId(1)));
    for replica in &replicas {
        play.event(Event::ReplicaIdle { replica: *replica, idle: true });
    }
    play.now += WARM / 2;
    let actions = play.submit(2, vec![stage_of(8)]);
    assert_eq!((replicas.len(), stopped(&actions), runs(&actions).len()), (4, 0, 4), "as for the first query");
}

#[test]
fn a_warm_pool_grows_while_its_replicas_work() {
    let mut play = play(&[1.0]);
    let stage_of = |tasks| StageSpec { pools: vec![shared(0)], ..stage(tasks) };
    let (replica, _) = starts(&play.submit(1, vec![stage_of(1)]))[0];
    let (task, attempt) = runs(&play.event(Event::ReplicaReady(replica)))[0];
    play.done(task, attempt);
    play.event(Event::Release(QueryId(1)));
    play.event(joined(1, Resources::cpus(2.0)));
    assert_eq!(starts(&play.submit(2, vec![stage_of(10)])).len(), 1, "one of two has work, and ten tasks wait");
}

#[test]
fn a_warm_pool_goes_when_its_time_is_over_whatever_the_workers_do() {
    let (mut play, _) = warm(&[1.0]);
    play.now += WARM - Duration::from_millis(1);
    assert_eq!(stopped(&play.event(Event::Tick)), 0);
    play.now += Duration::from_millis(1);
    assert_eq!(stopped(&play.event(Event::Tick)), 1);
    play.assert_idle();
}

#[test]
fn a_pool_says_itself_how_long_it_stays() {
    for (keep_warm, after) in [(Duration::ZERO, Duration::ZERO), (2 * WARM, 2 * WARM)] {
        let mut play = play(&[1.0]);
        let pool = PoolSpec { keep_warm: Some(keep_warm), ..shared(0) };
        let (replica, _) = starts(&play.submit(1, vec![StageSpec { pools: vec![pool], ..stage(1) }]))[0];
        let (task, attempt) = runs(&play.event(Event::ReplicaReady(replica)))[0];
        let mut gone = stopped(&play.done(task, attempt));
        if !after.is_zero() {
            play.now += after - Duration::from_millis(1);
            assert_eq!(gone + stopped(&play.event(Event::Tick)), 0);
            play.now += Duration::from_millis(1);
            gone = stopped(&play.event(Event::Tick));
        }
        assert_eq!(gone, 1, "{keep_warm:?}");
    }
}

#[test]
fn a_warm_replica_makes_room_for_a_task_for_another_pool_and_for_nothing_else() {
    let plain = |play: &mut Play| play.submit(2, vec![stage(2)]);
    let (mut play, _) = warm(&[1.5]);
    let actions = plain(&mut play);
    assert_eq!((stopped(&actions), runs(&actions).len()), (0, 2), "there is room beside it");
    let (mut play, _) = warm(&[1.0]);
    let actions = plain(&mut play);
    assert_eq!((stopped(&actions), runs(&actions).len()), (1, 2), "one that nobody uses holds up no task");
    let (mut play, _) = warm(&[1.0]);
    let actions = play.submit(2, vec![udf_stage(1, 0.5, (1, 1))]);
    assert_eq!((stopped(&actions), starts(&actions).len()), (1, 1));
    let (mut play, _) = warm(&[1.0]);
    let actions = play.submit(2, vec![udf_stage(1, 2.0, (1, 1))]);
    assert_eq!((stopped(&actions), failure(&actions).is_some()), (0, true), "what never fits costs nobody anything");
}

#[test]
fn warm_pools_make_room_for_all_replicas_that_must_be_there_and_for_no_extra() {
    // The last one stays in the room that is kept for a task, until that starts.
    for (replicas, come, gone) in [((1, 3), 1, 1), ((3, 3), 3, 2)] {
        let mut play = play(&[2.0]);
        let least_three = StageSpec { pools: vec![PoolSpec { least: 3, most: 3, ..shared(0) }], ..stage(1) };
        let started = starts(&play.submit(1, vec![least_three]));
        assert_eq!(started.len(), 3);
        let mut actions = Vec::new();
        for (replica, _) in started {
            actions.extend(play.event(Event::ReplicaReady(replica)));
        }
        let (task, attempt) = runs(&actions)[0];
        play.done(task, attempt);
        play.event(Event::Release(QueryId(1)));
        assert_eq!(pools(&play)[0].ready, 3);
        let (least, most) = replicas;
        let other = StageSpec { pools: vec![PoolSpec { least, most, ..shared(1) }], ..stage(1) };
        let actions = play.submit(2, vec![other]);
        assert_eq!((starts(&actions).len(), stopped(&actions)), (come, gone), "{replicas:?}");
        let ready = starts(&actions).into_iter().flat_map(|(replica, _)| play.event(Event::ReplicaReady(replica)));
        let actions: Vec<_> = ready.collect();
        assert_eq!((runs(&actions).len(), stopped(&actions)), (1, come - gone), "{replicas:?}");
    }
}

#[test]
fn a_stage_that_finds_one_of_its_pools_warm_keeps_it_while_the_other_makes_room() {
    let mut play = play(&[2.0]);
    let both = |query: u64, play: &mut Play| {
        for n in 0..2 {
            let stage = StageSpec { pools: vec![PoolSpec { most: 1, ..shared(n) }], ..stage(1) };
            let (replica, _) = starts(&play.submit(query + n as u64, vec![stage]))[0];
            let (task, attempt) = runs(&play.event(Event::ReplicaReady(replica)))[0];
            play.done(task, attempt);
        }
    };
    both(1, &mut play);
    // Two warm halves; the stage needs pool 1 and a whole CPU beside it and its task.
    let stage = StageSpec { pools: vec![shared(1), pool(Resources::cpus(1.0), (1, 1))], ..stage(1) };
    let actions = play.submit(9, vec![stage]);
    assert_eq!((stopped(&actions), starts(&actions).len()), (1, 1), "{actions:?}");
    assert_eq!(pools(&play).iter().map(|pool| pool.ready).collect::<Vec<_>>(), [1, 0], "pool 1 and the new one");
}

#[test]
fn steps_of_one_stage_that_call_the_same_udf_share_a_pool() {
    let mut play = play(&[1.0]);
    let stage = StageSpec { pools: vec![shared(0), shared(0), shared(0)], ..stage(1) };
    let started = starts(&play.submit(1, vec![stage]));
    assert_eq!(started.len(), 1, "and it fits where three pools would not");
    let actions = play.event(Event::ReplicaReady(started[0].0));
    let served: Vec<_> = play.core.ready_replicas(QueryId(1), StageId(0)).iter().map(|(step, ..)| step.step).collect();
    assert_eq!(served, [0, 1, 2]);
    let (task, attempt) = runs(&actions)[0];
    assert!(is_done(&play.done(task, attempt)));
}

#[test]
fn what_is_not_ready_when_its_last_query_ends_does_not_stay() {
    let mut play = play(&[2.0]);
    let pools_of_two = vec![PoolSpec { least: 2, ..shared(0) }];
    let replicas = starts(&play.submit(1, vec![StageSpec { pools: pools_of_two, ..stage(1) }]));
    assert_eq!(replicas.len(), 2);
    play.event(Event::ReplicaReady(replicas[0].0));
    let actions = play.event(Event::Release(QueryId(1)));
    assert_eq!(stopped(&actions), 1, "the one that is in start");
    assert_eq!((pools(&play)[0].ready, pools(&play)[0].starting.len()), (1, 0));
    assert!(play.event(Event::ReplicaReady(replicas[1].0)).is_empty(), "its word comes too late");
}

#[test]
fn a_pool_that_fails_fails_all_its_queries_and_the_next_one_starts_it_anew() {
    let mut play = play(&[2.0]);
    let first = starts(&play.submit(1, vec![shared_stage(1)]))[0].0;
    play.submit(2, vec![shared_stage(1)]);
    let actions = play.event(Event::ReplicaFailed { replica: first, error: UdfError::new("no weights") });
    let failed = actions.iter().filter_map(|a| match a {
        Action::Report(query, Report::Failed(error)) => Some((query.0, error.to_string())),
        _ => None,
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.len() == 2 && failed.iter().all(|(_, text)| text.contains("no weights")), "{failed:?}");
    play.assert_idle();
    assert!(!starts(&play.submit(3, vec![shared_stage(1)])).is_empty());
}

#[test]
fn a_replica_that_hangs_is_not_kept_warm_and_serves_no_further_query() {
    let mut play = play(&[2.0]);
    let (hung, _) = starts(&play.submit(1, vec![shared_stage(1)]))[0];
    let (task, attempt) = runs(&play.event(Event::ReplicaReady(hung)))[0];
    assert_eq!(stopped(&play.event(Event::ReplicaHung(hung))), 0, "its query hears it from the replica");
    let actions = play.submit(2, vec![shared_stage(1)]);
    assert_eq!(starts(&actions).len(), 1, "the second query gets one that does not hang");
    assert!(runs(&actions).is_empty(), "and waits for it");
    play.event(Event::Release(QueryId(2)));
    assert_eq!(stopped(&play.done(task, attempt)), 2, "the one that hangs, and the one that is not ready");
}

#[test]
fn a_replica_that_is_stuck_in_a_call_that_nobody_wants_is_replaced() {
    let (mut play, replica) = warm(&[1.0]);
    play.submit(2, vec![shared_stage(1)]);
    let mut actions = play.event(Event::ReplicaStuck(replica));
    actions.extend(play.leave());
    assert_eq!((stopped(&actions), starts(&actions).len()), (1, 1), "{actions:?}");
    assert_eq!(play.finish(actions), [(QueryId(2), true)].into());
    let (mut play, replica) = warm(&[1.0]);
    assert_eq!(stopped(&play.event(Event::ReplicaStuck(replica))), 1);
    play.assert_idle();
}

#[test]
fn a_lost_worker_takes_its_warm_replicas_with_it_and_costs_nobody_an_attempt() {
    let (mut play, _) = warm(&[1.0]);
    play.event(lost(0));
    assert!(pools(&play).is_empty());
    play.event(joined(1, Resources::cpus(1.0)));
    assert_eq!(starts(&play.submit(2, vec![shared_stage(1)])).len(), 1);
}

#[test]
fn a_warm_replica_that_is_charged_more_than_its_share_gives_way_to_a_smaller_one() {
    let (mut play, _) = warm(&[2.0]);
    let pools = (0..4).map(|n| PoolSpec { most: 1, ..shared(n) });
    // Four halves beside a task's do not fit: each takes less.
    let actions = play.submit(2, vec![StageSpec { pools: pools.collect(), ..stage(1) }]);
    assert_eq!((stopped(&actions), starts(&actions).len()), (1, 4), "{actions:?}");
    assert!(play.finish(actions)[&QueryId(2)]);
}

#[test]
fn stages_whose_room_for_a_task_went_with_a_worker_are_admitted_again() {
    for pool_warm in [Duration::ZERO, WARM] {
        // A replica of each query is on the worker that stays, and its task's room on those that go.
        let mut play =
            Play { core: Core::new(Settings { pool_warm, ..settings() }), now: Instant::now(), stuck: false };
        play.event(joined(0, Resources::cpus(1.0)));
        let mut actions = Vec::new();
        for query in 1..=2 {
            actions.extend(play.submit(query, vec![udf_stage(1, 0.5, (1, 1))]));
            actions.extend(play.event(joined(query as u32, Resources::cpus(0.5))));
        }
        assert_eq!(starts(&actions).iter().map(|(_, on)| on.0).collect::<Vec<_>>(), [0, 0]);
        actions.extend([1, 2].map(|worker| play.event(lost(worker))).concat());
        let ends = play.finish(actions);
        assert_eq!(ends, [(QueryId(1), true), (QueryId(2), true)].into());
    }
}

#[test]
fn a_worker_with_a_warm_replica_retires_after_it() {
    let scale = ScaleSettings { idle: Duration::from_secs(10), survivors: 0, exclude: Duration::ZERO, ..scale((0, 1)) };
    let settings = Settings { scale: Some(scale), pool_warm: WARM, ..settings() };
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(1.0)));
    let (replica, _) = starts(&play.submit(1, vec![shared_stage(1)]))[0];
    let (task, attempt) = runs(&play.event(Event::ReplicaReady(replica)))[0];
    play.done(task, attempt);
    play.event(Event::Release(QueryId(1)));
    let mut retired_after = None;
    for second in 1..100 {
        play.now += Duration::from_secs(1);
        if play.event(Event::Tick).iter().any(|action| matches!(action, Action::Retire { .. })) {
            retired_after = Some(second);
            break;
        }
    }
    assert_eq!(retired_after, Some(71), "sixty seconds warm, one in which its replica ends, then ten idle");
}

#[test]
fn pools_that_fit_one_by_one_but_not_together_share_the_cpus() {
    let mut play = play(&[2.0]);
    let pools: Vec<_> = (0..5).map(|_| pool(Resources::cpus(0.5), (1, 1))).collect();
    let replicas = starts(&play.submit(1, vec![StageSpec { pools, ..stage(1) }]));
    assert_eq!(replicas.len(), 5);
    let charged = play.status().workers[0].cpus.1;
    assert!((1.45..=1.5).contains(&charged), "all that a task leaves, and no more: {charged}");
    let mut last = Vec::new();
    replicas.iter().for_each(|(replica, _)| last = play.event(Event::ReplicaReady(*replica)));
    assert_eq!(play.finish(last), [(QueryId(1), true)].into());
    // Memory is not shared, nor is what does not fit alone.
    let big = Resources::cpus(0.5).with_gpus(1.0, 0);
    let stage = StageSpec { pools: vec![pool(big, (1, 1)), pool(big, (1, 1))], ..stage(1) };
    assert!(failure(&play.submit(2, vec![stage])).is_some());
}

#[test]
fn a_worker_that_leaves_makes_the_pools_that_are_left_with_less_share_it() {
    let mut play = play(&[2.0, 1.0]);
    let pools = || (0..3).map(|_| pool(Resources::cpus(0.5), (1, 1))).collect();
    let actions = play.submit(1, vec![StageSpec { pools: pools(), ..stage(1) }]);
    assert_eq!(starts(&actions).len(), 3);
    let actions = play.event(lost(0));
    assert!(failure(&actions).is_none(), "{actions:?}");
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
}

#[test]
fn what_the_last_worker_that_can_come_could_not_hold_is_not_waited_for() {
    let mut play = Play { core: Core::new(pools::elastic()), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(2.0)));
    let pools = (0..5).map(|_| pool(Resources::cpus(0.5), (1, 1))).collect();
    assert_eq!(
        starts(&play.submit(1, vec![StageSpec { pools, ..stage(1) }])).len(),
        5,
        "no second worker can be added"
    );
    let memory = Resources::cpus(0.5).with_memory(1);
    let pools = vec![pool(memory, (1, 1)), pool(memory, (1, 1))];
    assert!(failure(&play.submit(2, vec![StageSpec { pools, ..stage(1) }])).is_some());
}
