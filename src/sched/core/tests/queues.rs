//! Tasks that wait at workers.

use super::*;

fn play(cpus: &[f64], most: Option<usize>) -> Play {
    let mut play =
        Play { core: Core::new(Settings { max_task_backlog: most, ..settings() }), now: Instant::now(), stuck: false };
    for (worker, cpus) in cpus.iter().enumerate() {
        play.event(joined(worker as u32, Resources::cpus(*cpus)));
    }
    play
}

/// Each task with the one that it is to wait for.
fn queued(actions: &[Action]) -> Vec<(u32, u32)> {
    let queued = actions.iter().filter_map(|a| match a {
        Action::Run { task, after: Some((before, _)), .. } => Some((task.index, before.index)),
        _ => None,
    });
    queued.collect()
}

fn started(actions: &[Action]) -> Vec<u32> {
    let started = actions.iter().filter_map(|a| match a {
        Action::Run { task, after: None, .. } => Some(task.index),
        _ => None,
    });
    started.collect()
}

fn task(index: u32) -> TaskId {
    TaskId { query: QueryId(1), stage: StageId(0), index }
}

#[test]
fn a_worker_has_its_next_short_task_before_it_needs_it() {
    let mut play = play(&[1.0], None);
    assert_eq!(started(&play.submit(1, vec![stage(9)])), [0, 1]);
    play.now += Duration::from_millis(10);
    let actions = play.done(task(0), Attempt(1));
    assert_eq!((started(&actions), queued(&actions)), (vec![2], vec![(3, 2)]), "tasks are known to be short now");
    play.now += Duration::from_millis(10);
    let actions = play.done(task(2), Attempt(1));
    assert_eq!((started(&actions), queued(&actions)), (vec![], vec![(4, 3)]), "3 runs already, and 4 waits behind it");
    let status = play.status();
    assert_eq!(
        (status.workers[0].tasks, status.workers[0].cpus),
        ((2, 1), (1.0, 1.0)),
        "one that waits is charged nothing"
    );
    assert_eq!(status.backlog, 2.5, "and is still backlog");
    // The word on 4, which began when 3 had ended, may overtake that on 3.
    play.done(task(4), Attempt(1));
    let actions = play.done(task(3), Attempt(1));
    assert_eq!(play.finish(actions), [].into(), "1 has not ended");
    let actions = play.done(task(1), Attempt(1));
    assert_eq!(play.finish(actions).len(), 0, "tasks that were queued have been asked for before");
}

#[test]
fn all_tasks_run_once_whether_they_wait_at_workers_or_not() {
    for most in [None, Some(0), Some(1)] {
        let mut play = play(&[1.0, 2.0, 0.5], most);
        let actions = play.submit(1, vec![stage(300), StageSpec { inputs: vec![StageId(0)], ..stage(40) }]);
        assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
        play.event(Event::Release(QueryId(1)));
        play.assert_idle();
    }
}

#[test]
fn no_more_wait_at_a_worker_than_the_backlog_that_is_allowed() {
    for (most, wait) in [(Some(0), 0), (Some(1), 1), (Some(3), 3), (None, 4)] {
        let mut play = play(&[2.0], most);
        play.submit(1, vec![stage(50)]);
        for index in 0..4 {
            play.done(task(index), Attempt(1));
        }
        assert_eq!(play.status().workers[0].tasks, (4, wait), "{most:?}");
    }
}

#[test]
fn of_short_tasks_as_many_wait_as_take_ten_milliseconds_and_few_before_that_is_known() {
    let mut play = play(&[0.5], None);
    play.submit(1, vec![stage(2000)]);
    let mut waiting = Vec::new();
    for index in 0..1500 {
        play.now += Duration::from_millis(1);
        play.done(task(index), Attempt(1));
        let desk = play.status().workers[0].tasks;
        assert_eq!(desk.0, 1);
        waiting.push(desk.1);
    }
    assert!(waiting.is_sorted(), "{waiting:?}");
    assert_eq!([0, 100, 200, 1000, 1499].map(|index| waiting[index]), [1, 1, 3, 10, 10]);
    // The next ones are longer.
    for index in 1500..1510 {
        play.now += Duration::from_millis(500);
        play.done(task(index), Attempt(1));
    }
    assert_eq!(play.status().workers[0].tasks, (1, 2));
}

#[test]
fn long_tasks_do_not_wait_at_workers_for_another_may_be_free_sooner() {
    let mut play = play(&[1.0], None);
    play.submit(1, vec![stage(9)]);
    play.now += Duration::from_secs(1);
    let actions = play.done(task(0), Attempt(1));
    assert_eq!((started(&actions), queued(&actions)), (vec![2], vec![]));
}

#[test]
fn nothing_waits_at_workers_while_a_stage_waits_to_be_admitted() {
    let mut play = play(&[1.0], None);
    play.submit(1, vec![stage(50)]);
    play.submit(2, vec![udf_stage(1, 0.5, (1, 1))]);
    let actions = play.done(task(0), Attempt(1));
    assert_eq!((started(&actions), queued(&actions)), (vec![2], vec![]), "room is to come free at the scheduler");
    let actions = play.event(Event::Release(QueryId(2)));
    assert_eq!(queued(&actions), [(3, 2)]);
}

#[test]
fn nothing_is_sent_to_wait_at_a_silent_worker() {
    let mut play = play(&[0.5, 0.5], None);
    play.submit(1, vec![stage(50)]);
    let on_one = [0, 1].map(|index| runs(&play.done(task(index), Attempt(1)))[0].0)[1];
    let tasks = |play: &Play| play.status().workers.iter().map(|w| w.tasks).collect::<Vec<_>>();
    assert_eq!(tasks(&play), [(1, 1), (1, 1)]);
    play.event(Event::Silent { worker: WorkerId(1), silent: true });
    play.done(on_one, Attempt(1));
    assert_eq!(tasks(&play), [(1, 1), (1, 0)], "what waited there runs, and nothing waits behind it");
}

#[test]
fn a_query_that_ends_takes_its_waiting_tasks_with_it_and_spares_others() {
    let mut play = play(&[0.5], None);
    play.submit(1, vec![stage(9)]);
    assert!(runs(&play.submit(2, vec![stage(9)])).is_empty());
    let actions = play.done(task(0), Attempt(1));
    let next: Vec<_> = runs(&actions).iter().map(|(task, _)| (task.query.0, task.index)).collect();
    assert_eq!((next, queued(&actions)), (vec![(1, 1), (2, 0)], vec![(0, 1)]), "queries take turns there too");
    let released = play.event(Event::Release(QueryId(2)));
    assert!(queued(&released).is_empty(), "what came behind it would find it gone");
    let actions = play.leave();
    assert_eq!(queued(&actions), [(2, 1)], "its place is free");
    let other = TaskId { query: QueryId(2), ..task(0) };
    assert!(play.done(other, Attempt(1)).is_empty(), "nobody hears of query 2");
    let actions = [released, actions, play.done(task(1), Attempt(1))].concat();
    assert_eq!(play.finish(actions), [(QueryId(1), true), (QueryId(2), false)].into());
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn tasks_that_waited_at_a_lost_worker_run_elsewhere() {
    let mut play = play(&[0.5, 0.5], None);
    play.submit(1, vec![stage(9)]);
    let actions = play.done(task(0), Attempt(1));
    assert_eq!(queued(&actions).len(), 1);
    let actions = play.event(lost(0));
    assert_eq!(play.status().workers.len(), 1);
    // Task 1 runs on the other worker, as it did before.
    let actions = [actions, play.done(task(1), Attempt(1))].concat();
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}
