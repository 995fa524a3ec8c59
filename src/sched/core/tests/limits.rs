//! Stages that end before all their tasks have run, or without a run.

use super::*;

fn enough(actions: &[Action]) -> Vec<WorkerId> {
    let enough =
        actions.iter().filter_map(|a| if let Action::Enough { worker, .. } = a { Some(*worker) } else { None });
    enough.collect()
}

#[test]
fn a_stage_with_a_limit_ends_when_its_first_tasks_have_enough_rows() {
    let mut play = Play::with_workers(&[0.5, 0.5, 0.5]);
    let limited = StageSpec { limit: Some(2), ..stage(100) };
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![limited, gather]));
    assert_eq!(first.iter().map(|(task, _)| task.index).collect::<Vec<_>>(), [0, 1, 2], "in order");
    let fourth = runs(&play.done(first[2].0, first[2].1));
    assert_eq!(fourth[0].0.index, 3, "the third has a row, but it may be the wrong one");
    let fifth = runs(&play.done(first[0].0, first[0].1));
    let actions = play.done(first[1].0, first[1].1);
    let last = runs(&actions);
    assert_eq!(last[0].0.stage, StageId(1), "the first two have enough: no other task runs");
    assert_eq!(enough(&actions).len(), 2, "and the two that run are stopped");
    let read = play.core.outputs(QueryId(1), StageId(0)).unwrap();
    assert_eq!(read.iter().map(|(_, o)| o.id.task.index).collect::<Vec<_>>(), [0, 1], "the reader reads those two");
    for (task, attempt) in [fourth[0], fifth[0]] {
        let actions = play.event(Event::TaskEnded { task, attempt, outcome: Err(TaskFailure::Cancelled) });
        assert!(failure(&actions).is_none() && runs(&actions).is_empty(), "its end is no failure: {actions:?}");
    }
    assert!(is_done(&play.done(last[0].0, last[0].1)));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn a_limit_is_exact_when_what_sufficed_is_lost() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let limited = StageSpec { limit: Some(1), ..stage(3) };
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![limited, gather]));
    let reader = play.done(first[0].0, first[0].1);
    let lost =
        reader.iter().find_map(|a| if let Action::Run { worker, .. } = a { Some(*worker) } else { None }).unwrap();
    let holder = play.core.outputs(QueryId(1), StageId(0)).unwrap()[0].0;
    assert_eq!(lost, holder, "it reads where its input is");
    play.event(Event::TaskEnded { task: first[1].0, attempt: first[1].1, outcome: Err(TaskFailure::Cancelled) });
    let again = play.event(Event::Lost { worker: holder, why: "killed".to_owned() });
    assert_eq!(
        runs(&again),
        [(first[0].0, Attempt(2))],
        "the first task runs again, before those that were not needed"
    );
    assert!(
        again.iter().any(|a| matches!(a, Action::Prepare { .. })),
        "with its program, which was taken away: {again:?}"
    );
    let reader = play.done(first[0].0, Attempt(2));
    let (task, attempt) = runs(&reader)[0];
    assert_eq!(task.stage, StageId(1));
    assert!(is_done(&play.done(task, attempt)));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn a_persisted_result_under_a_limit_is_made_again_of_rows_that_are_made_again() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let limited = StageSpec { limit: Some(1), ..stage(3) };
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![limited, gather]));
    play.event(Event::Persist(QueryId(1)));
    let reader = runs(&play.done(first[0].0, first[0].1));
    play.event(Event::TaskEnded { task: first[1].0, attempt: first[1].1, outcome: Err(TaskFailure::Cancelled) });
    let actions = play.done(reader[0].0, reader[0].1);
    assert!(is_done(&actions) && actions.iter().any(|action| matches!(action, Action::Drop { .. })), "{actions:?}");
    let holder = play.core.outputs(QueryId(1), StageId(1)).unwrap()[0].0;
    let again = runs(&play.event(Event::Lost { worker: holder, why: "killed".to_owned() }));
    assert_eq!(again, [(first[0].0, Attempt(2))], "what sufficed is gone: the result would be empty");
    let reader = runs(&play.done(first[0].0, Attempt(2)));
    play.done(reader[0].0, reader[0].1);
    assert!(play.core.is_done(QueryId(1)));
    play.event(Event::Release(QueryId(1)));
    play.leave();
    play.assert_idle();
}

#[test]
fn a_frame_of_the_driver_that_cannot_be_read_fails_its_query_and_nothing_else() {
    let mut play = Play::with_workers(&[1.0]);
    let task = TaskId { query: QueryId(1), stage: StageId(0), index: 0 };
    let output = Output { id: PartitionId { task, attempt: Attempt(1) }, rows: 1, bytes: 1 };
    let frame = StageSpec { given: vec![output], ..stage(1) };
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    play.submit(1, vec![frame, gather]);
    let actions = play.event(Event::Unread { task, attempt: Attempt(1), why: "gone".to_owned() });
    assert!(failure(&actions).is_some(), "{actions:?}");
    play.leave();
    play.assert_idle();
}

#[test]
fn a_stage_that_is_given_does_not_run() {
    let mut play = Play::with_workers(&[1.0]);
    let task = |index| TaskId { query: QueryId(1), stage: StageId(0), index };
    let output = |index| Output { id: PartitionId { task: task(index), attempt: Attempt(1) }, rows: 1, bytes: 1 };
    let frame = StageSpec { given: vec![output(0), output(1)], ..stage(2) };
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let first = runs(&play.submit(1, vec![frame, gather]));
    assert_eq!(first, [(TaskId { stage: StageId(1), ..task(0) }, Attempt(1))]);
    assert_eq!(play.core.outputs(QueryId(1), StageId(0)).unwrap(), [0, 1].map(|i| (WorkerId::DRIVER, output(i))));
    assert!(is_done(&play.done(first[0].0, first[0].1)));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}
