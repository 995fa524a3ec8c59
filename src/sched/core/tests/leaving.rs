//! Attempts that nobody wants any more, and workers that do not come.

use super::*;

fn withdrawn(actions: &[Action]) -> Vec<u32> {
    let withdrawn =
        actions.iter().filter_map(|a| if let Action::Withdraw { task, .. } = a { Some(task.index) } else { None });
    withdrawn.collect()
}

#[test]
fn what_a_cancelled_query_still_runs_keeps_its_room_until_its_worker_says_that_it_has_ended() {
    let mut play = Play::with_workers(&[1.0]);
    assert_eq!(runs(&play.submit(1, vec![stage(2)])).len(), 2);
    let actions = play.event(Event::Release(QueryId(1)));
    assert!(actions.iter().any(|a| matches!(a, Action::End { .. })));
    assert!(runs(&play.submit(2, vec![stage(2)])).is_empty(), "two cross joins burn the CPUs of the worker");
    play.now += Duration::from_secs(3);
    let status = play.status();
    assert_eq!(status.workers[0].cpus, (1.0, 1.0));
    assert_eq!(status.workers[0].leaving, Some((2, Duration::from_secs(3))));
    let text = status.to_string();
    assert!(text.contains("2 tasks run; 2 that nobody wants any more have not ended, for 3.00 s"), "{text}");
    let task = TaskId { query: QueryId(1), stage: StageId(0), index: 0 };
    let ended = || Event::TaskEnded { task, attempt: Attempt(1), outcome: Err(TaskFailure::Cancelled) };
    assert_eq!(runs(&play.event(ended())).len(), 1);
    assert!(runs(&play.event(ended())).is_empty(), "it has one end");
    assert_eq!(runs(&play.leave()).len(), 1);
    assert_eq!(play.status().workers[0].leaving, None);
}

#[test]
fn what_left_with_a_lost_worker_is_not_waited_for() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    play.submit(1, vec![stage(2)]);
    play.event(Event::Release(QueryId(1)));
    play.event(lost(0));
    assert_eq!(play.status().workers[0].leaving, Some((1, Duration::ZERO)));
    play.leave();
    play.assert_idle();
}

#[test]
fn short_tasks_behind_a_long_one_are_taken_back_once_another_worker_could_run_them() {
    let settings = Settings { max_task_backlog: None, ..settings() };
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    for worker in 0..2 {
        play.event(joined(worker, Resources::cpus(0.5)));
    }
    let pinned = StageSpec { affinity: [(1999, Affinity::Hard(WorkerId(0)))].into(), ..stage(2000) };
    let mut running: VecDeque<_> = VecDeque::new();
    let mut at = BTreeMap::new();
    let mut take = |actions: &[Action], running: &mut VecDeque<(TaskId, Attempt)>| {
        for action in actions {
            if let Action::Run { worker, task, attempt, .. } = action {
                at.insert(task.index, worker.0);
                running.push_back((*task, *attempt));
            }
        }
        at.clone()
    };
    let mut placed = take(&play.submit(1, vec![pinned]), &mut running);
    // Worker 0 is in a task that takes long, and the other does all that is left.
    let mut ended = 0;
    while let Some((task, attempt)) = running.pop_front() {
        if ended > 1500 && placed[&task.index] == 0 {
            continue;
        }
        play.now += Duration::from_millis(1);
        let actions = play.done(task, attempt);
        assert!(withdrawn(&actions).is_empty());
        placed = take(&actions, &mut running);
        ended += 1;
    }
    let (running, queued) = play.status().workers[0].tasks;
    assert_eq!(running, 1);
    assert!(queued >= 5, "{queued} wait there");
    let actions = play.event(Event::Tick);
    let back = withdrawn(&actions);
    assert!(back.len() >= queued - 1 && back.iter().all(|task| *task != 1999), "{queued}: {back:?}");
    assert!(withdrawn(&play.event(Event::Tick)).is_empty(), "once is enough");
    let task = TaskId { query: QueryId(1), stage: StageId(0), index: back[0] };
    let actions = play.event(Event::TaskEnded { task, attempt: Attempt(1), outcome: Err(TaskFailure::Cancelled) });
    let again = actions.iter().find_map(|a| match a {
        Action::Run { worker, task, attempt, .. } => Some((worker.0, task.index, attempt.0)),
        _ => None,
    });
    assert_eq!(again, Some((1, task.index, 2)), "it runs on the other worker at once");
}

#[test]
fn what_only_a_lost_worker_could_hold_waits_for_it_to_come_back_and_not_for_ever() {
    for comes_back in [true, false] {
        let mut play = Play::with_workers(&[1.0, 4.0]);
        let mut actions = play.submit(1, vec![udf_stage(1, 3.0, (1, 1))]);
        actions.extend(play.event(lost(1)));
        assert!(failure(&actions).is_none(), "{actions:?}");
        assert!(
            failure(&play.submit(2, vec![udf_stage(1, 3.0, (1, 1))])).is_none(),
            "nor is who comes meanwhile refused"
        );
        play.now += WORKERS - Duration::from_secs(1);
        assert!(failure(&play.event(Event::Tick)).is_none());
        if comes_back {
            assert_eq!(starts(&play.event(joined(2, Resources::cpus(4.0)))).len(), 1);
        }
        play.now += Duration::from_secs(1);
        let actions = play.event(Event::Tick);
        let failed = actions.iter().filter(|a| matches!(a, Action::Report(_, Report::Failed(_)))).count();
        assert_eq!(failed, if comes_back { 0 } else { 2 }, "{actions:?}");
        assert!(comes_back || failure(&actions).unwrap().to_string().contains("3 CPU"), "{actions:?}");
    }
    let mut play = Play::with_workers(&[1.0]);
    assert!(
        failure(&play.submit(1, vec![udf_stage(1, 3.0, (1, 1))])).is_some(),
        "nothing was lost: it is refused at once"
    );
}

#[test]
fn a_replacement_that_dies_before_it_joins_is_asked_for_again_ever_more_slowly_and_status_says_why() {
    let mut settings = pools::elastic();
    settings.scale.as_mut().unwrap().workers = (1, 1);
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(2.0)));
    play.submit(1, vec![stage(1)]);
    play.event(lost(0));
    let mut asked = Vec::new();
    let began = play.now;
    while play.now < began + Duration::from_secs(300) {
        // The last one stays until queries have waited for too long.
        let actions = play.event(Event::Tick);
        if actions.iter().any(|a| matches!(a, Action::Demand { workers: 1 })) {
            asked.push((play.now - began).as_secs());
            play.event(Event::NotJoined { why: "its process ended; its last words: no space left".to_owned() });
        }
        if let Some(error) = failure(&actions) {
            assert!(error.to_string().contains("1 were started and ended before they joined, the last"), "{error}");
            assert!(error.to_string().contains("no space left"), "{error}");
        }
        play.now += Duration::from_secs(1);
    }
    assert_eq!(asked, [0, 5, 15, 35, 75, 135, 195, 255], "and never seldomer than once a minute");
    let text = play.status().to_string();
    assert!(text.contains("8 workers that were asked for ended before they joined; the last: its process"), "{text}");
    play.event(joined(1, Resources::cpus(2.0)));
    assert_eq!(play.status().not_joined, None);
    play.event(lost(1));
    let actions = play.event(Event::Tick);
    assert!(actions.iter().any(|a| matches!(a, Action::Demand { .. })), "one joined: the pause is the first one again");
}
