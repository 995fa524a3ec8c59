//! Tasks that are late run twice, and count once.

use super::*;

fn may_run_twice(tasks: usize) -> StageSpec {
    StageSpec { may_run_twice: true, ..stage(tasks) }
}

fn placed(actions: &[Action]) -> Vec<(TaskId, Attempt, WorkerId)> {
    let placed = actions.iter().filter_map(|action| match action {
        Action::Run { task, attempt, worker, .. } => Some((*task, *attempt, *worker)),
        _ => None,
    });
    placed.collect()
}

fn stopped(actions: &[Action]) -> Vec<(u32, Attempt, u32)> {
    let stopped = actions.iter().filter_map(|action| match action {
        Action::Stop { worker, task, attempt } => Some((task.index, *attempt, worker.0)),
        _ => None,
    });
    stopped.collect()
}

/// Of four tasks on four workers, of which one holds one task, the last is late: what is done about it.
fn late(spec: StageSpec, more: impl FnOnce(&mut Play)) -> (Play, (TaskId, Attempt, WorkerId), Vec<Action>) {
    let mut play = Play::with_workers(&[0.5; 4]);
    let first = placed(&play.submit(1, vec![spec]));
    play.now += Duration::from_secs(2);
    first[..3].iter().for_each(|(task, attempt, _)| drop(play.done(*task, *attempt)));
    play.now += Duration::from_millis(2100);
    more(&mut play);
    let actions = play.event(Event::Tick);
    (play, first[3], actions)
}

#[test]
fn a_late_task_runs_a_second_time_elsewhere_and_the_first_end_is_its_end() {
    for second_wins in [true, false] {
        for late_end_is_ok in [true, false] {
            let (mut play, (task, first, slow), actions) = late(may_run_twice(4), |_| ());
            let &[(again, second, on)] = &placed(&actions)[..] else { panic!("{actions:?}") };
            assert!(again == task && second != first && on != slow, "{actions:?}");
            assert!(placed(&play.event(Event::Tick)).is_empty(), "not a third time");
            let (winner, loser) = if second_wins { (second, first) } else { (first, second) };
            let on_loser = if second_wins { slow } else { on };
            let actions = play.done(task, winner);
            assert!(is_done(&actions), "{actions:?}");
            assert_eq!(stopped(&actions), [(task.index, loser, on_loser.0)]);
            let (_, output) = play.core.partition(QueryId(1), task.index as usize).unwrap();
            assert_eq!(output.id.attempt, winner);
            let output = play.core.stage(QueryId(1), 0);
            let late = match late_end_is_ok {
                true => play.done(task, loser),
                false => play.event(Event::TaskEnded { task, attempt: loser, outcome: Err(TaskFailure::Cancelled) }),
            };
            assert!(late.is_empty(), "{late:?}");
            assert_eq!(play.core.stage(QueryId(1), 0), output);
            assert_eq!(play.core.partition(QueryId(1), task.index as usize).unwrap().1.id.attempt, winner);
            play.event(Event::Release(QueryId(1)));
            play.assert_idle();
        }
    }
}

#[test]
fn no_task_runs_twice_that_is_not_late_or_must_not_or_takes_room_that_others_want() {
    let of = |spec, more: fn(&mut Play)| placed(&late(spec, more).2).len();
    assert_eq!(of(may_run_twice(4), |_| ()), 1);
    assert_eq!(of(stage(4), |_| ()), 0, "somebody would notice");
    assert_eq!(of(may_run_twice(4), |play| play.now -= Duration::from_millis(200)), 0, "others took as long");
    let others = |play: &mut Play| drop(play.submit(2, vec![stage(9)]));
    assert_eq!(of(may_run_twice(4), others), 0, "there is no room");
    assert_eq!(of(may_run_twice(8), |_| ()), 0, "there is work to be begun");
    // Those that last for less than a second are soon done.
    let mut play = Play::with_workers(&[0.5; 4]);
    let first = placed(&play.submit(1, vec![may_run_twice(4)]));
    first[..3].iter().for_each(|(task, attempt, _)| drop(play.done(*task, *attempt)));
    play.now += Duration::from_millis(900);
    assert!(placed(&play.event(Event::Tick)).is_empty());
    play.now += Duration::from_millis(200);
    assert_eq!(placed(&play.event(Event::Tick)).len(), 1);
}

#[test]
fn where_one_of_two_attempts_fails_or_is_lost_the_other_is_the_only_one() {
    let failure_of = || TaskFailure::Transfer { from: "worker 9".to_owned(), why: "reset".to_owned() };
    for first_goes in [true, false] {
        for lost in [true, false] {
            let (mut play, (task, first, slow), actions) = late(may_run_twice(4), |_| ());
            let (_, second, on) = placed(&actions)[0];
            let (goes, at, stays) = if first_goes { (first, slow, second) } else { (second, on, first) };
            let actions = match lost {
                true => play.event(Event::Lost { worker: at, why: "signal 9".to_owned() }),
                false => play.event(Event::TaskEnded { task, attempt: goes, outcome: Err(failure_of()) }),
            };
            let of_it = |actions: &[Action]| placed(actions).into_iter().filter(|(of, ..)| *of == task).count();
            assert_eq!(of_it(&actions), 0, "the other goes on: {actions:?}");
            let actions = [actions, play.done(task, stays)].concat();
            assert_eq!(play.core.partition(QueryId(1), task.index as usize).map(|of| of.1.id.attempt), Some(stays));
            assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
            play.event(Event::Release(QueryId(1)));
            play.assert_idle();
        }
    }
    // Both: it runs a third time, under a number of its own.
    let (mut play, (task, first, _), actions) = late(may_run_twice(4), |_| ());
    let (_, second, _) = placed(&actions)[0];
    play.event(Event::TaskEnded { task, attempt: second, outcome: Err(failure_of()) });
    play.event(Event::TaskEnded { task, attempt: first, outcome: Err(failure_of()) });
    play.now += Duration::from_secs(1);
    let again = placed(&play.event(Event::Tick));
    assert!(matches!(&again[..], [(of, third, _)] if *of == task && third.0 > second.0), "{again:?}");
}

#[test]
fn what_is_read_of_a_task_that_ran_twice_is_what_the_first_end_measured() {
    let reads = StageSpec {
        inputs: vec![StageId(0)],
        modes: vec![crate::sched::Mode {
            ways: vec![crate::sched::Way::Sections],
            by_size: true,
            by_hash: true,
            shared: Vec::new(),
            when: crate::sched::Fits::Always,
            stable: false,
        }],
        ..stage(16)
    };
    let mut play = Play::with_workers(&[0.5; 4]);
    let first = placed(&play.submit(1, vec![may_run_twice(4), reads]));
    play.now += Duration::from_secs(2);
    let sizes = |section: u32| crate::sched::Sizes::of([(section, 1u64 << 30)]);
    for (task, attempt, _) in &first[..3] {
        play.core.measured(*task, *attempt, sizes(0));
        play.done(*task, *attempt);
    }
    play.now += Duration::from_secs(3);
    let (task, second, _) = placed(&play.event(Event::Tick))[0];
    play.core.measured(task, second, sizes(1));
    play.done(task, second);
    let shape = play.core.shape(QueryId(1), StageId(1)).cloned();
    // The other has ended, too, before it could be stopped.
    play.core.measured(task, first[3].1, sizes(2));
    assert!(play.done(task, first[3].1).is_empty());
    assert_eq!(
        play.core.shape(QueryId(1), StageId(1)).cloned().map(|shape| shape.tasks),
        shape.map(|shape| shape.tasks)
    );
    assert_eq!(play.core.outputs(QueryId(1), StageId(0)).unwrap()[task.index as usize].1.id.attempt, second);
}

#[test]
fn a_worker_that_leaves_ends_second_attempts_and_hands_first_ones_to_them() {
    for leaves_first in [true, false] {
        let (mut play, (task, first, slow), actions) = late(may_run_twice(4), |_| ());
        let (_, second, on) = placed(&actions)[0];
        let (worker, stays) = if leaves_first { (slow, second) } else { (on, first) };
        play.event(Event::Drain { worker, until: play.now + Duration::from_secs(4) });
        play.now += Duration::from_millis(2500);
        let actions = play.event(Event::Tick);
        let more: Vec<_> = placed(&actions).into_iter().filter(|(of, ..)| *of == task).collect();
        assert!(more.iter().all(|(_, another, at)| !leaves_first && *another > second && *at != worker), "{actions:?}");
        play.leave();
        let actions = play.done(task, stays);
        assert!(is_done(&actions), "{actions:?}");
        play.event(Event::Release(QueryId(1)));
        play.leave();
        play.assert_idle();
    }
}
