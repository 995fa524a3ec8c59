//! Full disks.

use super::*;

fn full() -> Outcome {
    Err(TaskFailure::DiskFull { folder: "/scratch".to_owned(), need: 8, room: 4 })
}

fn drops(actions: &[Action]) -> Vec<(WorkerId, StageId)> {
    let drops = actions.iter().filter_map(|action| match action {
        Action::Drop { worker, stage, .. } => Some((*worker, *stage)),
        _ => None,
    });
    drops.collect()
}

/// Three stages, each of which reads the one before: the last is about to run.
fn chain(play: &mut Play) -> (TaskId, Attempt) {
    let reads = |input| StageSpec { inputs: vec![StageId(input)], ..stage(1) };
    let mut actions = play.submit(1, vec![stage(1), reads(0), reads(1)]);
    for _ in 0..2 {
        let (task, attempt) = runs(&actions)[0];
        actions = play.done(task, attempt);
    }
    runs(&actions)[0]
}

#[test]
fn what_nobody_reads_any_more_gives_way_before_a_task_fails_for_want_of_room() {
    let mut play = Play::with_workers(&[1.0]);
    let (task, attempt) = chain(&mut play);
    let actions = play.event(Event::TaskEnded { task, attempt, outcome: full() });
    assert_eq!(drops(&actions), [(WorkerId(0), StageId(0))], "what the last stage reads stays");
    assert_eq!(runs(&actions), [(task, Attempt(attempt.0 + 1))], "at once");
    // From here on each is a failure.
    let mut failed = 0;
    let mut todo: VecDeque<_> = runs(&actions).into();
    let error = loop {
        let actions = match todo.pop_front() {
            Some((task, attempt)) => {
                failed += 1;
                play.event(Event::TaskEnded { task, attempt, outcome: full() })
            }
            None => {
                play.now += Duration::from_secs(1);
                play.event(Event::Tick)
            }
        };
        assert_eq!(drops(&actions), []);
        todo.extend(runs(&actions));
        if let Some(error) = failure(&actions) {
            break error.clone();
        }
    };
    assert_eq!(failed, MAX_ATTEMPTS);
    assert!(error.to_string().contains("/scratch"), "{error}");
    play.assert_idle();
}

#[test]
fn what_gave_way_is_made_again_if_it_is_needed_after_all() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let (task, attempt) = chain(&mut play);
    let on = |actions: &[Action]| -> BTreeSet<StageId> { runs(actions).iter().map(|(task, _)| task.stage).collect() };
    let full = play.event(Event::TaskEnded { task, attempt, outcome: full() });
    let [(worker, _)] = drops(&full)[..] else { panic!("{full:?}") };
    let left = |stage: usize| play.core.queries.get(&QueryId(1)).unwrap().outputs(stage).len();
    assert_eq!((left(0), left(1)), (0, 1));
    // Both were on one worker, nearest to what they read.
    let actions = play.event(lost(worker.0));
    assert_eq!(on(&actions), [StageId(0)].into(), "{actions:?}");
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
    play.event(Event::Release(QueryId(1)));
    play.leave();
    play.assert_idle();
}

#[test]
fn workers_of_other_machines_keep_what_they_hold() {
    let mut play = Play::with_workers(&[]);
    for (worker, machine) in [(0, 1), (1, 1), (2, 2)] {
        let machine = Some(std::net::Ipv4Addr::new(10, 0, 0, machine).into());
        play.event(Event::Joined { worker: WorkerId(worker), capacity: Resources::cpus(0.5), no_gpu: None, machine });
    }
    let reads = |input| StageSpec { inputs: vec![StageId(input)], ..stage(1) };
    let mut actions = play.submit(1, vec![stage(3), reads(0), reads(1)]);
    let mut last = None;
    while last.is_none() {
        let todo = runs(&actions);
        last = todo.iter().copied().find(|(task, _)| task.stage == StageId(2));
        actions = match last {
            Some((task, attempt)) => play.event(Event::TaskEnded { task, attempt, outcome: full() }),
            None => todo.into_iter().flat_map(|(task, attempt)| play.done(task, attempt)).collect(),
        };
    }
    let on = play.core.queries.get(&QueryId(1)).unwrap().stages[1].holders.first().copied().unwrap();
    let expected: &[u32] = if on == WorkerId(2) { &[2] } else { &[0, 1] };
    let dropped: Vec<_> = drops(&actions).into_iter().map(|(worker, _)| worker.0).collect();
    assert_eq!(dropped, expected, "{actions:?}");
}
