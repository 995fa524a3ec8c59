use super::*;

const LONG: Duration = Duration::from_secs(60);

fn drain(play: &mut Play, worker: u32, within: Duration) -> Vec<Action> {
    let until = play.now + within;
    play.event(Event::Drain { worker: WorkerId(worker), until })
}

fn has_left(actions: &[Action], worker: u32) -> bool {
    actions.iter().any(|action| matches!(action, Action::Retire { worker: WorkerId(of) } if *of == worker))
}

fn moves(actions: &[Action]) -> Vec<(u32, Vec<PartitionId>)> {
    let moves = actions.iter().filter_map(|action| match action {
        Action::Move { to, outputs, .. } => Some((to.0, outputs.clone())),
        _ => None,
    });
    moves.collect()
}

fn runs_on(actions: &[Action]) -> Vec<u32> {
    let on = |action: &Action| if let Action::Run { worker, .. } = action { Some(worker.0) } else { None };
    actions.iter().filter_map(on).collect()
}

fn moved(play: &mut Play, from: u32, to: u32, taken: Vec<PartitionId>) -> Vec<Action> {
    play.event(Event::Moved { from: WorkerId(from), to: WorkerId(to), taken, full: false })
}

/// The next look at what time has brought.
fn later(play: &mut Play, time: Duration) -> Vec<Action> {
    play.now += time;
    play.event(Event::Tick)
}

/// No attempt of any task has failed.
fn none_failed(play: &Play) -> bool {
    play.core.queries.iter().all(|(_, query)| query.stages.iter().all(|stage| stage.failures.is_empty()))
}

#[test]
fn an_idle_worker_leaves_at_once_and_nobody_is_asked_to_leave_twice() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    assert!(has_left(&drain(&mut play, 0, LONG), 0));
    assert!(drain(&mut play, 0, LONG).is_empty() && drain(&mut play, 7, LONG).is_empty());
    assert_eq!(runs_on(&play.submit(1, vec![stage(4)])), [1, 1]);
}

#[test]
fn a_worker_that_leaves_gets_nothing_new_and_what_runs_there_ends_there() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let first = play.submit(1, vec![stage(6), StageSpec { inputs: vec![StageId(0)], ..stage(1) }]);
    assert_eq!(runs_on(&first), [0, 1, 0, 1]);
    assert!(!has_left(&drain(&mut play, 0, LONG), 0));
    assert!(
        play.status().to_string().contains("worker 0: 1 of 1 CPU charged; 2 tasks run; has been leaving for 0.00 s")
    );
    let running = runs(&first);
    for at in [0, 2] {
        let actions = play.done(running[at].0, running[at].1);
        assert!(runs(&actions).is_empty() && !has_left(&actions, 0), "{actions:?}");
    }
    // What it leaves is needed.
    let actions = later(&mut play, Duration::from_millis(50));
    let [(1, outputs)] = &moves(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(outputs.len(), 2);
    assert!(moves(&later(&mut play, Duration::from_millis(50))).is_empty(), "it is under way");
    let actions = moved(&mut play, 0, 1, outputs.clone());
    assert!(has_left(&actions, 0) && failure(&actions).is_none());
    assert!(play.event(Event::Tick).iter().all(|action| !matches!(action, Action::Move { .. })));
    let mut rest = play.done(running[1].0, running[1].1);
    rest.extend(play.done(running[3].0, running[3].1));
    assert_eq!(runs_on(&rest), [1, 1]);
    assert_eq!(play.finish(rest), [(QueryId(1), true)].into());
    assert_eq!(play.core.outputs(QueryId(1), StageId(0)).unwrap().len(), 6, "what was moved is still there");
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn what_waits_at_a_worker_that_leaves_is_taken_back() {
    let mut play =
        Play { core: Core::new(Settings { max_task_backlog: None, ..settings() }), ..Play::with_workers(&[]) };
    play.event(joined(0, Resources::cpus(0.5)));
    let mut actions = play.submit(1, vec![stage(10)]);
    let (task, attempt) = runs(&actions)[0];
    play.now += Duration::from_millis(1);
    actions = play.done(task, attempt);
    assert_eq!(runs(&actions).len(), 2, "one runs, one waits behind it: {actions:?}");
    let (waits, attempt) = runs(&actions)[1];
    play.event(joined(1, Resources::cpus(0.5)));
    let actions = drain(&mut play, 0, LONG);
    assert!(actions.iter().any(|a| matches!(a, Action::Withdraw { task, .. } if *task == waits)), "{actions:?}");
    let outcome = Err(TaskFailure::Cancelled);
    let actions = play.event(Event::TaskEnded { task: waits, attempt, outcome });
    assert!(runs_on(&actions).iter().all(|on| *on == 1) && none_failed(&play));
}

#[test]
fn what_runs_for_longer_than_half_of_the_time_runs_again_elsewhere_and_counts_for_nothing() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let first = runs(&play.submit(1, vec![stage(2)]));
    drain(&mut play, 0, LONG);
    play.done(first[1].0, first[1].1);
    assert!(runs(&later(&mut play, LONG / 2 - Duration::from_millis(1))).is_empty(), "it is waited for");
    let actions = later(&mut play, Duration::from_millis(1));
    assert_eq!((runs(&actions), runs_on(&actions)), (vec![(first[0].0, Attempt(2))], vec![1]));
    assert!(actions.iter().any(|a| matches!(a, Action::Enough { worker: WorkerId(0), .. })), "it is told to end");
    assert!(has_left(&actions, 0) && none_failed(&play), "and not waited for: {actions:?}");
    assert!(play.done(first[0].0, first[0].1).is_empty(), "its late end is not heard");
    assert!(is_done(&play.done(first[0].0, Attempt(2))));
}

#[test]
fn with_nowhere_else_to_run_a_task_has_all_of_the_time() {
    let mut play = Play::with_workers(&[0.5]);
    let (task, attempt) = runs(&play.submit(1, vec![stage(1)]))[0];
    drain(&mut play, 0, LONG);
    assert!(runs(&later(&mut play, LONG - Duration::from_millis(1))).is_empty());
    let actions = play.done(task, attempt);
    assert!(is_done(&actions) && !has_left(&actions, 0), "nobody can take over the result");
    assert!(has_left(&later(&mut play, Duration::from_millis(1)), 0));
    // It was told to be there, and is made again.
    let actions = play.event(joined(1, Resources::cpus(0.5)));
    assert_eq!(runs(&actions), [(task, Attempt(2))]);
    assert!(none_failed(&play));
}

#[test]
fn who_was_told_before_where_its_input_is_reads_it_before_the_worker_leaves() {
    let mut play = Play::with_workers(&[0.5, 0.5, 0.5]);
    let first = runs(&play.submit(1, vec![stage(3), StageSpec { inputs: vec![StageId(0)], ..stage(3) }]));
    let readers: Vec<_> = first.iter().flat_map(|(task, attempt)| play.done(*task, *attempt)).collect();
    let (on, readers) = (runs_on(&readers), runs(&readers));
    assert_eq!(on, [0, 1, 2]);
    let actions = drain(&mut play, 0, LONG);
    let [(to, outputs)] = &moves(&actions)[..] else { panic!("{actions:?}") };
    assert!(!has_left(&moved(&mut play, 0, *to, outputs.clone()), 0), "they may be reading it");
    play.done(readers[0].0, readers[0].1);
    let actions = play.done(readers[1].0, readers[1].1);
    assert!(!has_left(&actions, 0), "one reads still");
    play.done(readers[2].0, readers[2].1);
    let actions = later(&mut play, Duration::from_millis(50));
    let [(to, outputs)] = &moves(&actions)[..] else { panic!("the reader there has left something: {actions:?}") };
    assert!(has_left(&moved(&mut play, 0, *to, outputs.clone()), 0));
}

#[test]
fn what_cannot_be_read_of_a_worker_that_has_left_counts_for_nothing() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let (task, mut attempt) = runs(&play.submit(1, vec![stage(1)]))[0];
    assert!(has_left(&drain(&mut play, 1, LONG), 1));
    for _ in 0..3 * MAX_ATTEMPTS {
        let outcome = Err(TaskFailure::Transfer { from: "worker 1".to_owned(), why: "it is gone".to_owned() });
        let actions = play.event(Event::TaskEnded { task, attempt, outcome });
        assert!(failure(&actions).is_none() && none_failed(&play));
        attempt = runs(&actions)[0].1;
    }
    assert!(is_done(&play.done(task, attempt)));
}

#[test]
fn at_its_deadline_a_worker_leaves_whatever_it_holds_and_that_is_made_again_and_counts_for_nothing() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![stage(2), gather]));
    play.done(first[0].0, first[0].1);
    let reader = runs(&play.done(first[1].0, first[1].1))[0];
    // Who is asked to take over does not answer.
    assert_eq!(moves(&drain(&mut play, 0, LONG)).len(), 1);
    let actions = later(&mut play, LONG);
    assert!(has_left(&actions, 0) && failure(&actions).is_none());
    let again = runs(&actions);
    assert_eq!(again, [(first[0].0, Attempt(2))]);
    let actions = moved(&mut play, 0, 1, vec![PartitionId { task: first[0].0, attempt: Attempt(1) }]);
    assert!(runs(&actions).is_empty(), "its answer comes too late");
    let actions = play.done(first[0].0, Attempt(2));
    assert_eq!(runs(&actions), [(reader.0, Attempt(2))]);
    assert!(none_failed(&play));
    assert!(is_done(&play.done(reader.0, Attempt(2))));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn what_is_gone_of_what_a_worker_held_keeps_it_no_longer() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let (task, attempt) = runs(&play.submit(1, vec![stage(1)]))[0];
    play.done(task, attempt);
    assert_eq!(moves(&drain(&mut play, 0, LONG)).len(), 1);
    let actions = play.event(Event::Unread { task, attempt, why: "a block of it was changed".to_owned() });
    assert_eq!((runs(&actions), runs_on(&actions)), (vec![(task, Attempt(2))], vec![1]));
    assert!(has_left(&later(&mut play, Duration::from_millis(50)), 0));
}

#[test]
fn who_leaves_already_leaves_sooner_if_asked_again_and_never_later() {
    let mut play = Play::with_workers(&[0.5]);
    play.submit(1, vec![stage(1)]);
    drain(&mut play, 0, LONG);
    drain(&mut play, 0, 2 * LONG);
    assert!(!has_left(&drain(&mut play, 0, LONG / 4), 0));
    assert!(!has_left(&later(&mut play, LONG / 4 - Duration::from_millis(1)), 0));
    assert!(has_left(&later(&mut play, Duration::from_millis(1)), 0));
}

#[test]
fn a_worker_that_is_killed_or_silent_while_it_leaves_proves_nothing_against_anybody() {
    for is_killed in [true, false] {
        let mut play = Play::with_workers(&[1.0, 1.0, 1.0]);
        // Two queries: each would be suspected.
        let mut actions = play.submit(1, vec![udf_stage(2, 0.5, (1, 1))]);
        let (replica, on) = starts(&actions)[0];
        actions = play.event(Event::ReplicaReady(replica));
        actions.extend(play.submit(2, vec![stage(4)]));
        drain(&mut play, on.0, LONG);
        let event = if is_killed { lost(on.0) } else { Event::Silent { worker: on, silent: true } };
        let actions = play.event(event);
        assert_eq!(has_left(&actions, on.0), !is_killed, "the shell knows who has died");
        assert!(none_failed(&play) && play.core.suspects.is_empty() && failure(&actions).is_none());
        let lost = play.core.queries.iter().flat_map(|(_, query)| &query.stages).flat_map(|stage| &stage.steps);
        assert!(lost.into_iter().all(|step| step.lost.is_empty()));
    }
}

#[test]
fn a_replica_ends_after_another_has_taken_its_place_and_has_no_call() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let (replica, on) = starts(&play.submit(1, vec![udf_stage(6, 0.5, (1, 1))]))[0];
    let first = play.event(Event::ReplicaReady(replica));
    assert_eq!(runs(&first).len(), 3);
    let dismissed = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Dismiss { replica: of, .. } if *of == replica))
    };
    let stopped = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::StopReplica { replica: of, .. } if *of == replica))
    };
    let mut actions = drain(&mut play, on.0, LONG);
    assert!(starts(&actions).is_empty(), "there is no room for another: its tasks have it");
    let mut there = runs(&first);
    // No new task takes the room of the replica that is to come.
    while starts(&actions).is_empty() {
        let (task, attempt) = there.pop().expect("there is room in the end");
        actions = play.done(task, attempt);
        assert!(runs(&actions).is_empty() || !starts(&actions).is_empty(), "{actions:?}");
        actions.extend(later(&mut play, Duration::from_millis(50)));
        assert!(!dismissed(&actions));
    }
    let (other, to) = starts(&actions)[0];
    assert_ne!(to, on);
    play.event(Event::ReplicaReady(other));
    let actions = later(&mut play, Duration::from_millis(50));
    assert!(dismissed(&actions) && !stopped(&actions), "it may be in a call");
    assert!(!stopped(&later(&mut play, Duration::from_secs(5))));
    play.event(Event::ReplicaIdle { replica, idle: true });
    assert!(stopped(&later(&mut play, Duration::from_millis(50))));
    assert!(none_failed(&play));
}

#[test]
fn a_taker_whose_disk_is_full_is_passed_over_and_one_that_fails_is_asked_again_later() {
    let mut play = Play::with_workers(&[0.5, 0.5, 0.5]);
    let first = runs(&play.submit(1, vec![stage(1)]));
    play.done(first[0].0, first[0].1);
    let actions = drain(&mut play, 0, LONG);
    let [(1, outputs)] = &moves(&actions)[..] else { panic!("{actions:?}") };
    let full = Event::Moved { from: WorkerId(0), to: WorkerId(1), taken: Vec::new(), full: true };
    let actions = play.event(full);
    assert_eq!(moves(&actions), [(2, outputs.clone())], "another has room");
    let actions = moved(&mut play, 0, 2, Vec::new());
    assert!(moves(&actions).is_empty(), "not at once, and not by the full one: {actions:?}");
    let mut actions = Vec::new();
    while moves(&actions).is_empty() {
        actions = later(&mut play, Duration::from_millis(500));
    }
    assert_eq!(moves(&actions), [(2, outputs.clone())]);
    assert!(has_left(&moved(&mut play, 0, 2, outputs.clone()), 0));
}

#[test]
fn when_all_leave_queries_wait_for_a_new_worker_and_then_fail() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let first = runs(&play.submit(1, vec![stage(4)]));
    for worker in 0..2 {
        drain(&mut play, worker, LONG);
    }
    let waits = play.core.waits(QueryId(1), play.now).unwrap();
    assert_eq!(waits[0].waits[0].on.to_string(), "a worker to join");
    for (task, attempt) in first {
        assert!(runs(&play.done(task, attempt)).is_empty());
    }
    play.event(Event::Tick);
    // One that comes in time takes over.
    let mut actions = play.event(joined(2, Resources::cpus(0.5)));
    assert_eq!(runs_on(&actions), [2]);
    actions.extend(later(&mut play, Duration::from_millis(50)));
    let mut asked: VecDeque<Action> = actions.into();
    while let Some(action) = asked.pop_front() {
        if let Action::Move { from, to, outputs, .. } = action {
            asked.extend(moved(&mut play, from.0, to.0, outputs));
        }
    }
    assert!(play.core.drains.is_empty() && none_failed(&play));
    // None comes any more.
    drain(&mut play, 2, Duration::from_secs(1));
    later(&mut play, Duration::from_secs(1));
    later(&mut play, Duration::from_millis(50));
    let actions = later(&mut play, WORKERS);
    assert!(failure(&actions).unwrap().to_string().contains("there was no worker"), "{actions:?}");
    play.leave();
    play.assert_idle();
}

#[test]
fn what_a_worker_that_leaves_has_counts_for_nothing_that_is_asked_for() {
    let mut play = Play::with_workers(&[4.0, 1.0]);
    let actions = play.submit(1, vec![udf_stage(1, 3.0, (1, 1))]);
    let (replica, _) = starts(&actions)[0];
    play.event(Event::ReplicaReady(replica));
    drain(&mut play, 0, LONG);
    // What only it could hold may come again, and is waited for.
    assert!(failure(&play.submit(2, vec![udf_stage(1, 3.0, (1, 1))])).is_none());
    let actions = later(&mut play, WORKERS);
    assert!(failure(&actions).unwrap().to_string().contains("the largest has 1 CPU"), "{actions:?}");
}

#[test]
fn a_worker_that_leaves_is_replaced_from_when_it_begins_to() {
    let scale = scale((2, 2));
    let core = Core::new(Settings { scale: Some(scale), ..settings() });
    let mut play = Play { core, now: Instant::now(), stuck: false };
    for n in 0..2 {
        play.event(joined(n, Resources::cpus(1.0)));
    }
    let demand = |actions: &[Action]| {
        actions.iter().find_map(|a| if let Action::Demand { workers } = a { Some(*workers) } else { None })
    };
    let first = runs(&play.submit(1, vec![stage(2)]));
    drain(&mut play, 0, LONG);
    assert_eq!(demand(&play.event(Event::Tick)), Some(3), "two that stay, beside it");
    play.event(joined(2, Resources::cpus(1.0)));
    for (task, attempt) in first {
        play.done(task, attempt);
    }
    let actions = later(&mut play, Duration::from_millis(50));
    let (to, outputs) = moves(&actions)[0].clone();
    let actions = moved(&mut play, 0, to, outputs);
    assert!(has_left(&actions, 0));
    assert_eq!(demand(&actions), Some(2), "and two once it has gone");
    assert_eq!(demand(&later(&mut play, LONG)), None);
}

/// Workers leave one after the other, and each is replaced, while queries of several stages run, some with UDFs. Whatever the order in
/// which tasks end, outputs are moved, and replicas come: no attempt counts, no query fails, and no task reads where nothing is any more.
#[test]
fn a_rolling_restart_loses_no_query_counts_no_attempt_and_takes_no_input_from_a_reader() {
    let mut restarts = 0;
    for seed in 1..200u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        };
        let max_task_backlog = [None, Some(0)][seed as usize % 2];
        let core = Core::new(Settings { max_task_backlog, ..settings() });
        let mut play = Play { core, now: Instant::now(), stuck: false };
        let mut there: BTreeSet<u32> = (0..3).collect();
        there.iter().for_each(|worker| drop(play.event(joined(*worker, Resources::cpus(2.0)))));
        let (mut joined_so_far, mut leaves, mut submitted) = (3, None, 0);
        // What is to be done, in any order, and where each task that runs reads.
        let mut todo: Vec<Action> = Vec::new();
        let mut reads: BTreeMap<(TaskId, Attempt), BTreeSet<WorkerId>> = BTreeMap::new();
        let mut ended = BTreeSet::new();
        let mut round = 0;
        while submitted < 6 || ended.len() < submitted {
            round += 1;
            assert!(round < 5000, "seed {seed}: {}", play.status());
            let actions = match next(6) {
                0 if submitted < 6 => {
                    submitted += 1;
                    let first =
                        if next(2) == 0 { stage(1 + next(6)) } else { udf_stage(1 + next(4), 0.5, (1, 1 + next(2))) };
                    let second = StageSpec { inputs: vec![StageId(0)], ..stage(1 + next(4)) };
                    let third = StageSpec { inputs: vec![StageId(0), StageId(1)], ..udf_stage(1, 0.5, (1, 1)) };
                    play.submit(submitted as u64, vec![first, second, third])
                }
                1 if leaves.is_none() => {
                    let worker = *there.iter().nth(next(there.len())).unwrap();
                    leaves = Some(worker);
                    drain(&mut play, worker, Duration::from_secs(3600))
                }
                2 => {
                    play.now += Duration::from_millis(100);
                    play.event(Event::Tick)
                }
                _ if !todo.is_empty() => match todo.swap_remove(next(todo.len())) {
                    Action::StartReplica { replica, .. } => {
                        let mut actions = play.event(Event::ReplicaReady(replica));
                        actions.extend(play.event(Event::ReplicaIdle { replica, idle: true }));
                        actions
                    }
                    Action::Run { task, attempt, .. } => {
                        let from = reads.remove(&(task, attempt)).unwrap_or_default();
                        let gone: Vec<_> = from.iter().filter(|worker| !there.contains(&worker.0)).collect();
                        let counts = play.core.queues.worker_of((task, attempt)).is_some()
                            && !play.core.leaving.contains_key(&(task, attempt));
                        assert!(gone.is_empty() || !counts, "seed {seed}: {task} reads of {gone:?}");
                        play.done(task, attempt)
                    }
                    Action::Withdraw { task, attempt, .. } => {
                        let outcome = Err(TaskFailure::Cancelled);
                        match next(2) {
                            0 => play.event(Event::TaskEnded { task, attempt, outcome }),
                            _ => Vec::new(),
                        }
                    }
                    Action::Move { from, to, mut outputs, .. } => {
                        if next(4) == 0 {
                            outputs.truncate(outputs.len() / 2);
                        }
                        play.event(Event::Moved { from, to, taken: outputs, full: false })
                    }
                    _ => Vec::new(),
                },
                _ => play.event(Event::Tick),
            };
            for action in actions {
                match action {
                    Action::Retire { worker } => {
                        assert_eq!(leaves.take(), Some(worker.0), "seed {seed}");
                        there.remove(&worker.0);
                        there.insert(joined_so_far);
                        restarts += 1;
                        todo.extend(play.event(joined(joined_so_far, Resources::cpus(2.0))));
                        joined_so_far += 1;
                    }
                    Action::Report(query, Report::Done) => drop(ended.insert(query)),
                    Action::Report(_, Report::Failed(error)) => panic!("seed {seed}: {error}"),
                    action => todo.push(action),
                }
            }
            // Whoever runs was told where all is that it reads.
            for action in &todo {
                let Action::Run { task, attempt, .. } = action else { continue };
                reads.entry((*task, *attempt)).or_insert_with(|| {
                    let query = play.core.queries.get(&task.query).unwrap();
                    let inputs = &query.spec.stages[task.stage.0 as usize].inputs;
                    let from = inputs.iter().flat_map(|input| query.outputs(input.0 as usize));
                    from.map(|(worker, _)| worker).collect()
                });
            }
            assert!(none_failed(&play), "seed {seed}");
        }
        for query in 1..=submitted {
            play.event(Event::Release(QueryId(query as u64)));
        }
        if let Some(worker) = leaves {
            let actions = later(&mut play, Duration::from_secs(1));
            assert!(has_left(&actions, worker), "seed {seed}: nobody needs it any more: {}", play.status());
        }
    }
    assert!(restarts > 500, "{restarts}");
}
