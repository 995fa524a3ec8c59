//! What is left of many tasks that end in any order, and of limits: rows in their order, each once.

use super::*;

fn done_with(play: &mut Play, (task, attempt): (TaskId, Attempt), rows: u64) -> Vec<Action> {
    let output = Output { id: PartitionId { task, attempt }, rows, bytes: rows };
    play.event(Event::TaskEnded { task, attempt, outcome: Ok(output) })
}

fn reported(actions: &[Action]) -> impl Iterator<Item = usize> + '_ {
    actions.iter().filter_map(|action| match action {
        Action::Report(_, Report::Partition { index, .. }) => Some(*index),
        _ => None,
    })
}

#[test]
fn a_thousand_parts_of_a_hundred_workers_are_in_their_order_whatever_order_they_end_in_and_though_a_tenth_fails() {
    for fails in [0, 10] {
        let mut play = Play::with_workers(&[0.5; 100]);
        let mut running = runs(&play.submit(1, vec![stage(1000)]));
        let (mut told, mut failed) = (Vec::new(), 0);
        // The last that was placed ends first.
        while told.len() < 1000 {
            let Some(run) = running.pop() else {
                play.now += Duration::from_millis(50);
                let actions = play.event(Event::Tick);
                running.extend(runs(&actions));
                continue;
            };
            let fails_now = fails > 0 && run.0.index.is_multiple_of(fails) && run.1 == Attempt(1);
            let actions = if fails_now {
                failed += 1;
                let cause = TaskFailure::Transfer { from: "worker 1".to_owned(), why: "reset".to_owned() };
                play.event(Event::TaskEnded { task: run.0, attempt: run.1, outcome: Err(cause) })
            } else {
                done_with(&mut play, run, 1)
            };
            told.extend(reported(&actions));
            running.extend(runs(&actions));
        }
        assert_eq!(failed, if fails > 0 { 100 } else { 0 });
        assert!(!told.is_sorted(), "they end in another order than theirs");
        told.sort_unstable();
        assert!(told.into_iter().eq(0..1000), "each is told once");
        let outputs = play.core.outputs(QueryId(1), StageId(0)).unwrap();
        assert!(outputs.iter().map(|(_, output)| output.id.task.index).eq(0..1000));
        play.event(Event::Release(QueryId(1)));
        play.assert_idle();
    }
}

#[test]
fn rows_of_an_attempt_that_failed_do_not_count_towards_a_limit() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let first = runs(&play.submit(1, vec![StageSpec { limit: Some(10), ..stage(4) }]));
    let cause = TaskFailure::Transfer { from: "worker 1".to_owned(), why: "reset".to_owned() };
    let mut running =
        runs(&play.event(Event::TaskEnded { task: first[0].0, attempt: first[0].1, outcome: Err(cause) }));
    let actions = done_with(&mut play, first[1], 10);
    assert!(!is_done(&actions), "the first ten rows are of the first task");
    running.extend(runs(&actions));
    play.now += Duration::from_secs(1);
    running.extend(runs(&play.event(Event::Tick)));
    let again = running.iter().find(|(task, _)| task.index == 0).copied();
    let again = again.unwrap_or_else(|| {
        // It is the first to start where one ends.
        let next = runs(&done_with(&mut play, running[0], 10));
        *next.iter().find(|(task, _)| task.index == 0).expect("it goes before those after it")
    });
    let actions = done_with(&mut play, again, 4);
    assert!(is_done(&actions), "four of the first, and six of the second: {actions:?}");
    let read = play.core.outputs(QueryId(1), StageId(0)).unwrap();
    assert_eq!(read.iter().map(|(_, output)| output.id.task.index).collect::<Vec<_>>(), [0, 1]);
    play.event(Event::Release(QueryId(1)));
    play.leave();
    play.assert_idle();
}

#[test]
fn one_limit_above_another_ends_each_when_it_has_enough_and_no_query_the_other() {
    let mut play = Play::with_workers(&[0.5; 4]);
    let limited = || {
        let below = StageSpec { limit: Some(6), ..stage(8) };
        vec![below, StageSpec { inputs: vec![StageId(0)], limit: Some(2), ..stage(3) }]
    };
    let mut running: VecDeque<_> = runs(&play.submit(1, limited())).into();
    running.extend(runs(&play.submit(2, limited())));
    let (mut done, mut ran) = (Vec::new(), BTreeMap::<(u64, u32), usize>::new());
    while let Some((task, attempt)) = running.pop_front() {
        *ran.entry((task.query.0, task.stage.0)).or_default() += 1;
        let actions = done_with(&mut play, (task, attempt), 2);
        done.extend(actions.iter().filter_map(|action| match action {
            Action::Report(query, Report::Done) => Some(query.0),
            _ => None,
        }));
        running.extend(runs(&actions));
        // What is stopped says so.
        let stopped = play.core.leaving.keys().copied().collect::<Vec<_>>();
        running.retain(|run| !stopped.contains(run));
        running.extend(runs(&play.leave()));
    }
    done.sort_unstable();
    assert_eq!(done, [1, 2]);
    for query in [1, 2] {
        let outputs = |stage| play.core.outputs(QueryId(query), StageId(stage)).unwrap().len();
        assert_eq!((outputs(0), outputs(1)), (3, 1), "three pairs are six, and one is two");
        assert!(ran[&(query, 0)] < 8, "{ran:?}");
        play.core.handle(Event::Release(QueryId(query)), play.now);
    }
    play.leave();
    play.assert_idle();
}
