//! What is made again is never mixed with what was made before.

use super::*;
use crate::error::MadeOtherwise;

/// A stage that reads all of another; all its tasks must read one attempt of it.
fn reads_one_attempt(input: u32, tasks: usize) -> StageSpec {
    StageSpec { inputs: vec![StageId(input)], one_attempt: vec![StageId(input)], ..stage(tasks) }
}

fn gathers(input: u32) -> StageSpec {
    StageSpec { inputs: vec![StageId(input)], ..stage(1) }
}

pub(super) fn placed(actions: &[Action]) -> Vec<(TaskId, Attempt, WorkerId)> {
    let runs = actions.iter().filter_map(|a| match a {
        Action::Run { task, attempt, worker, .. } => Some((*task, *attempt, *worker)),
        _ => None,
    });
    runs.collect()
}

/// Two tasks, each on a worker of its own, whose rows three others share on a third and are gathered: as those are about to run.
fn two_shared_by_three() -> (Play, Vec<(TaskId, Attempt, WorkerId)>) {
    let mut play = Play::with_workers(&[0.5, 0.5, 1.5]);
    let on = |worker| Affinity::Soft(WorkerId(worker));
    let first = StageSpec { affinity: [(0, on(0)), (1, on(1))].into(), ..stage(2) };
    let shared = StageSpec { affinity: (0..3).map(|task| (task, on(2))).collect(), ..reads_one_attempt(0, 3) };
    let first = runs(&play.submit(1, vec![first, shared, gathers(1)]));
    play.done(first[0].0, first[0].1);
    let next = play.done(first[1].0, first[1].1);
    (play, placed(&next))
}

#[test]
fn who_has_read_what_is_gone_runs_again_with_those_that_have_not() {
    let (mut play, readers) = two_shared_by_three();
    let done = readers.iter().find(|(.., on)| *on == WorkerId(2)).unwrap();
    play.done(done.0, done.1);
    let again = runs(&play.event(lost(0)));
    assert_eq!(again, [(TaskId { stage: StageId(0), index: 0, ..done.0 }, Attempt(2))], "first what is lost");
    let actions = play.done(again[0].0, again[0].1);
    let stopped = actions.iter().filter(|a| matches!(a, Action::Enough { stage: StageId(1), .. })).count();
    let dropped = actions.iter().filter(|a| matches!(a, Action::Drop { stage: StageId(1), .. })).count();
    assert!(stopped > 0 && dropped == 1, "those that run stop, what the others left goes: {actions:?}");
    let late = play.done(readers[1].0, readers[1].1);
    let only_runs = |a: &Action| matches!(a, Action::Run { .. } | Action::Prepare { .. });
    assert!(
        late.iter().all(only_runs),
        "a late end of an attempt that is superseded gives room, and no more: {late:?}"
    );
    let actions = [actions, late, play.leave()].concat();
    let again: Vec<_> = runs(&actions);
    assert!(again.iter().any(|(task, _)| *task == done.0), "{again:?}");
    assert!(again.iter().all(|(task, attempt)| task.stage == StageId(1) && attempt.0 >= 2), "{again:?}");
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn readers_that_have_all_ended_are_left_alone_until_one_of_them_is_needed_again() {
    let (mut play, mut readers) = two_shared_by_three();
    let mut last = Vec::new();
    while let Some((task, attempt, _)) = readers.pop() {
        last = play.done(task, attempt);
        readers.extend(placed(&last).into_iter().filter(|(task, ..)| task.stage == StageId(1)));
    }
    assert_eq!(stages(&last), [2], "the gathering task");
    let gathers = runs(&last)[0];
    assert!(runs(&play.event(lost(0))).iter().all(|(task, _)| task.stage != StageId(0)), "nobody reads it");
    play.event(joined(3, Resources::cpus(2.0)));
    // One of the readers is lost, too: it needs what is gone, and then all of them do.
    let holder = play.core.outputs(QueryId(1), StageId(1)).unwrap()[0].0;
    let actions = play.event(Event::Lost { worker: holder, why: "killed".to_owned() });
    let first: Vec<_> = runs(&actions);
    assert!(first.iter().all(|(task, _)| task.stage == StageId(0)) && !first.is_empty(), "{first:?}");
    let mut again = BTreeSet::new();
    let mut todo: VecDeque<_> = actions.into();
    while let Some(action) = todo.pop_front() {
        if let Action::Run { task, attempt, .. } = action {
            again.extend((task.stage == StageId(1)).then_some(task.index));
            todo.extend(play.done(task, attempt));
        }
    }
    assert_eq!(again, [0, 1, 2].into(), "all of them");
    assert!(play.core.is_done(QueryId(1)), "{gathers:?}");
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn a_single_reader_goes_on_with_what_it_has_read() {
    let mut play = Play::with_workers(&[0.5, 0.5]);
    let first = runs(&play.submit(1, vec![stage(2), gathers(0)]));
    play.done(first[0].0, first[0].1);
    let reader = placed(&play.done(first[1].0, first[1].1))[0];
    let other = WorkerId(1 - reader.2.0);
    let actions = play.event(Event::Lost { worker: other, why: "killed".to_owned() });
    assert!(!actions.iter().any(|a| matches!(a, Action::Enough { .. })), "{actions:?}");
    assert!(is_done(&play.done(reader.0, reader.1)));
    play.event(Event::Release(QueryId(1)));
}

#[test]
fn a_result_that_was_given_out_in_part_is_not_contradicted() {
    for persisted in [false, true] {
        let mut play = Play::with_workers(&[0.5, 0.5, 1.0]);
        let on = |worker| Affinity::Soft(WorkerId(worker));
        let first = StageSpec { affinity: [(0, on(0)), (1, on(1))].into(), ..stage(2) };
        let result = StageSpec { affinity: (0..3).map(|task| (task, on(2))).collect(), ..reads_one_attempt(0, 3) };
        let first = runs(&play.submit(1, vec![first, result]));
        if persisted {
            play.event(Event::Persist(QueryId(1)));
        }
        play.done(first[0].0, first[0].1);
        let readers = placed(&play.done(first[1].0, first[1].1));
        let given = readers.iter().find(|(.., on)| *on == WorkerId(2)).unwrap();
        let actions = play.done(given.0, given.1);
        assert!(actions.iter().any(|a| matches!(a, Action::Report(_, Report::Partition { .. }))));
        let actions = play.event(lost(0));
        assert!(failure(&actions).is_none(), "the others may have read what they need");
        let again = runs(&actions)[0];
        let actions = play.done(again.0, again.1);
        if persisted {
            assert_eq!(play.finish(actions), [(QueryId(1), true)].into(), "nobody has read it");
            play.event(Event::Release(QueryId(1)));
        } else {
            let error = failure(&actions).unwrap();
            let expected = MadeOtherwise::Result { query: QueryId(1), stage: StageId(1) };
            assert!(error.is_retryable() && error.to_string() == expected.to_string(), "{error}");
            assert!(error.to_string().contains("deterministic"), "{error}");
        }
        play.leave();
        play.assert_idle();
    }
}

#[test]
fn a_persisted_result_that_comes_otherwise_fails_who_has_read_some_of_it_and_nobody_else() {
    let persisted = QueryId(1);
    for (stable, has_read) in [(true, true), (false, true), (false, false)] {
        let mut play = Play::with_workers(&[1.0, 1.0]);
        let spec = QuerySpec { id: persisted, driver: DriverId(0), stages: vec![stage(2)], stable };
        let made = play.event(Event::Submit(spec));
        play.event(Event::Persist(persisted));
        assert_eq!(play.finish(made), [(persisted, true)].into());
        let reader = StageSpec { held: vec![persisted], ..stage(if has_read { 2 } else { 0 }) };
        let after = StageSpec { held: vec![persisted], inputs: vec![StageId(0)], ..stage(2) };
        let gate = StageSpec { tasks: 1, ..stage(1) };
        let first = if has_read { reader } else { gate };
        let reading = runs(&play.submit(2, vec![first, after]));
        let lost_one = play.core.outputs(persisted, StageId(0)).unwrap()[0].0;
        let actions = play.event(Event::Lost { worker: lost_one, why: "killed".to_owned() });
        let failed = failure(&actions).map(Error::to_string);
        if stable || !has_read {
            assert_eq!(failed, None);
        } else {
            let expected = MadeOtherwise::Persisted { query: QueryId(2), persisted };
            assert_eq!(failed, Some(expected.to_string()));
        }
        let mut todo = actions;
        todo.extend(reading.into_iter().map(|(task, attempt)| Action::Run {
            worker: WorkerId(0),
            task,
            attempt,
            after: None,
        }));
        let ends = play.finish(todo);
        assert_eq!(ends.get(&QueryId(2)).copied(), Some(stable || !has_read), "{stable} {has_read}");
        play.event(Event::Release(QueryId(2)));
        play.event(Event::Release(persisted));
        play.assert_idle();
    }
}

#[test]
fn what_is_lost_of_a_finished_result_is_made_again_until_it_is_taken() {
    for taken in [false, true] {
        let mut play = Play::with_workers(&[1.0, 1.0]);
        let actions = play.submit(1, vec![stage(2), StageSpec { inputs: vec![StageId(0)], ..stage(2) }]);
        assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
        if taken {
            play.event(Event::Taken(QueryId(1)));
        }
        let holder = play.core.partition(QueryId(1), 0).unwrap().0;
        let actions = play.event(Event::Lost { worker: holder, why: "killed".to_owned() });
        assert_eq!(runs(&actions).is_empty(), taken, "{actions:?}");
        if !taken {
            assert!(play.core.partition(QueryId(1), 0).is_none());
            let ends = play.finish(actions);
            assert!(ends.is_empty(), "its end was told before: {ends:?}");
            assert!(play.core.partition(QueryId(1), 0).is_some() && play.core.is_done(QueryId(1)));
        }
        play.event(Event::Release(QueryId(1)));
        play.assert_idle();
    }
}

#[test]
fn a_persisted_result_outlives_any_number_of_losses_that_its_tasks_are_not_to_blame_for() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let actions = play.submit(1, vec![stage(2), StageSpec { inputs: vec![StageId(0)], ..stage(2) }]);
    play.event(Event::Persist(QueryId(1)));
    play.finish(actions);
    for worker in 2..20 {
        play.event(joined(worker, Resources::cpus(1.0)));
        let holder = play.core.partition(QueryId(1), 0).unwrap().0;
        let actions = play.event(Event::Lost { worker: holder, why: "killed".to_owned() });
        assert!(failure(&actions).is_none(), "after {} losses", worker - 1);
        play.finish(actions);
        assert!(play.core.is_done(QueryId(1)));
    }
    // Nor does it keep what it was made of.
    assert!(play.core.outputs(QueryId(1), StageId(0)).is_none_or(|left| left.is_empty()));
    play.event(Event::Release(QueryId(1)));
    play.assert_idle();
}

#[test]
fn who_reads_what_is_made_again_gives_up_its_replicas_for_it() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let (persisted, reader) = (QueryId(1), QueryId(2));
    let first = play.submit(1, vec![udf_stage(1, 0.5, (1, 1))]);
    play.event(Event::Persist(persisted));
    play.finish(first);
    let holder = play.core.outputs(persisted, StageId(0)).unwrap()[0].0;
    let mut todo: VecDeque<_> =
        play.submit(2, vec![StageSpec { held: vec![persisted], ..udf_stage(1, 0.5, (1, 1)) }]).into();
    let (mut lost, mut quiet, mut done, mut steps) = (false, 0, false, 0);
    while quiet < 100 {
        steps += 1;
        assert!(steps < 10_000, "they wait for each other");
        let Some(action) = todo.pop_front() else {
            quiet += 1;
            play.now += Duration::from_millis(100);
            todo.extend(play.event(Event::Tick));
            continue;
        };
        quiet = 0;
        match action {
            Action::StartReplica { replica, .. } => todo.extend(play.event(Event::ReplicaReady(replica))),
            Action::Run { task, attempt, worker, .. } if task.query == reader => {
                if !std::mem::replace(&mut lost, true) {
                    // It has its room, and what it reads is gone. There is room for one of the two.
                    todo.extend(play.event(Event::Lost { worker: holder, why: "killed".to_owned() }));
                    if worker == holder {
                        continue;
                    }
                }
                let made_again = Err(TaskFailure::MadeAgain(persisted));
                todo.extend(match play.core.is_done(persisted) {
                    true => play.done(task, attempt),
                    false => play.event(Event::TaskEnded { task, attempt, outcome: made_again }),
                });
            }
            Action::Run { task, attempt, .. } => todo.extend(play.done(task, attempt)),
            Action::Report(query, Report::Done) => done |= query == reader,
            _ => (),
        }
    }
    assert!(lost && play.core.is_done(persisted) && done, "they wait for each other");
    play.event(Event::Release(reader));
    play.event(Event::Release(persisted));
    play.assert_idle();
}

#[test]
fn of_a_persisted_result_only_the_result_stays() {
    for late in [false, true] {
        let mut play = Play::with_workers(&[1.0, 1.0]);
        let mut todo: VecDeque<_> =
            play.submit(1, vec![stage(2), StageSpec { inputs: vec![StageId(0)], ..stage(2) }]).into();
        let mut dropped = BTreeSet::new();
        if !late {
            play.event(Event::Persist(QueryId(1)));
        }
        loop {
            match todo.pop_front() {
                Some(Action::Run { task, attempt, .. }) => todo.extend(play.done(task, attempt)),
                Some(Action::Drop { worker, stage, .. }) => drop(dropped.insert((worker, stage))),
                Some(_) => (),
                None => break,
            }
        }
        if late {
            assert!(dropped.is_empty(), "others' runs end soon, and free all at once");
            for action in play.event(Event::Persist(QueryId(1))) {
                let Action::Drop { worker, stage, .. } = action else { panic!("{action:?}") };
                dropped.insert((worker, stage));
            }
        }
        assert_eq!(dropped, [0, 1].map(|worker| (WorkerId(worker), StageId(0))).into());
        play.event(Event::Release(QueryId(1)));
        play.assert_idle();
    }
}

#[test]
fn what_cannot_be_read_is_made_again_and_its_reader_is_charged_nothing() {
    let mut play = Play::with_workers(&[2.0]);
    let first = runs(&play.submit(1, vec![stage(1), gathers(0)]))[0];
    let mut actions = play.done(first.0, first.1);
    for round in 1..=MAX_ATTEMPTS {
        let reader = runs(&actions)[0];
        assert_eq!(reader.0.stage, StageId(1));
        let unread = TaskFailure::LostInput {
            task: first.0,
            attempt: round,
            from: "worker 0".to_owned(),
            why: "a bit has flipped".to_owned(),
        };
        actions = play.event(Event::TaskEnded { task: reader.0, attempt: reader.1, outcome: Err(unread) });
        if round < MAX_ATTEMPTS {
            assert_eq!(runs(&actions), [(first.0, Attempt(round + 1))], "at once");
            actions = play.done(first.0, Attempt(round + 1));
        }
    }
    // The fifth time it is no accident.
    let text = failure(&actions).unwrap().to_string();
    assert!(text.contains("stage 0, task 0") && text.contains("a bit has flipped"), "{text}");
    play.assert_idle();
}

#[test]
fn waiting_for_persisted_rows_uses_up_no_attempt() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let made = play.submit(1, vec![stage(1)]);
    play.event(Event::Persist(QueryId(1)));
    play.finish(made);
    let (mut task, mut attempt) = runs(&play.submit(2, vec![stage(1)]))[0];
    let mut fail = |play: &mut Play, cause: TaskFailure| {
        let actions = play.event(Event::TaskEnded { task, attempt, outcome: Err(cause) });
        assert!(failure(&actions).is_none(), "{actions:?}");
        play.now += Duration::from_secs(4);
        (task, attempt) = runs(&play.event(Event::Tick))[0];
    };
    (0..20).for_each(|_| fail(&mut play, TaskFailure::MadeAgain(QueryId(1))));
    for _ in 1..MAX_ATTEMPTS {
        fail(&mut play, TaskFailure::Transfer { from: String::new(), why: String::new() });
        fail(&mut play, TaskFailure::MadeAgain(QueryId(1)));
    }
    assert!(is_done(&play.done(task, attempt)));
}

/// What an output holds: everything that it was made of, so that two outputs are the same if and only if these are.
type Content = BTreeMap<(QueryId, StageId, u32), u64>;

/// A query whose tasks tell what they read.
struct Model {
    id: QueryId,
    stages: Vec<StageSpec>,
    /// Stages of which a task leaves something else each time.
    fickle: Vec<bool>,
}

impl Model {
    /// `weak` stages are fickle, or made of what is. Of those, tasks that are several, and all that is made of what several
    /// stages read, want one attempt.
    fn new(id: u64, mut next: impl FnMut(usize) -> usize) -> Self {
        let count = 2 + next(4);
        let (mut stages, mut fickle, mut weak): (Vec<StageSpec>, Vec<bool>, Vec<bool>) = Default::default();
        for index in 0..count {
            let most = index.min(2);
            let mut inputs: Vec<_> = (0..next(most + 1)).map(|_| StageId(next(index) as u32)).collect();
            // What nobody reads would be no part of the query.
            if index > 0 {
                inputs.push(StageId(index as u32 - 1));
            }
            inputs.sort_unstable();
            inputs.dedup();
            fickle.push(next(2) == 0);
            weak.push(fickle[index] || inputs.iter().any(|input| weak[input.0 as usize]));
            stages.push(StageSpec { inputs, ..stage(1 + next(3)) });
        }
        let mut forked = vec![false; count];
        for index in 0..count {
            let readers = stages.iter().filter(|s| s.inputs.contains(&StageId(index as u32))).count();
            let above = stages[index].inputs.iter().any(|input| forked[input.0 as usize] && weak[input.0 as usize]);
            forked[index] = readers > 1 || above;
        }
        for stage in &mut stages {
            let with_others = |input: &StageId| weak[input.0 as usize] && forked[input.0 as usize];
            stage.with_others = stage.inputs.iter().any(with_others);
            let wants = |input: &&StageId| {
                let input = input.0 as usize;
                weak[input] && (stage.tasks > 1 || forked[input])
            };
            stage.one_attempt = stage.inputs.iter().filter(wants).copied().collect();
        }
        Self { id: QueryId(id), stages, fickle }
    }

    fn stable(&self) -> bool {
        let mut weak = self.fickle.clone();
        for (index, stage) in self.stages.iter().enumerate() {
            weak[index] |= stage.inputs.iter().any(|input| weak[input.0 as usize]);
        }
        !weak.last().copied().unwrap_or(false)
    }

    /// What an attempt makes of what it reads; `None` if that does not go together.
    fn make(&self, task: TaskId, attempt: Attempt, read: &[Content]) -> Option<Content> {
        let mut content = Content::new();
        for (key, value) in read.iter().flatten() {
            if *content.entry(*key).or_insert(*value) != *value {
                return None;
            }
        }
        let own = content.iter().fold(17u64, |sum, (key, value)| {
            let key = key.0.0.wrapping_mul(31) ^ (u64::from(key.1.0) << 8) ^ u64::from(key.2);
            sum.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ key.wrapping_add(value.rotate_left(17))
        });
        let own = if self.fickle[task.stage.0 as usize] { own ^ (u64::from(attempt.0) << 40) } else { own };
        content.insert((task.query, task.stage, task.index), own);
        Some(content)
    }
}

/// Which partitions, and where.
type Read = Vec<(WorkerId, PartitionId)>;

/// Workers with their stores, and a driver that takes partitions when it likes.
struct World {
    play: Play,
    models: BTreeMap<QueryId, Model>,
    /// What runs, where, and what it was told to read.
    running: Vec<(TaskId, Attempt, WorkerId, Read)>,
    stores: BTreeMap<(WorkerId, TaskId, Attempt), Content>,
    alive: BTreeSet<WorkerId>,
    reported: BTreeMap<usize, (WorkerId, PartitionId)>,
    taken: BTreeMap<usize, Content>,
    ends: BTreeMap<QueryId, Result<(), Error>>,
}

impl World {
    fn hear(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { worker, task, attempt, .. } => {
                    let inputs = &self.models[&task.query].stages[task.stage.0 as usize].inputs;
                    let outputs = inputs
                        .iter()
                        .flat_map(|input| self.play.core.outputs(task.query, *input).expect("what it reads is there"));
                    let read = outputs.map(|(worker, output)| (worker, output.id)).collect();
                    self.running.push((task, attempt, worker, read));
                }
                Action::Drop { worker, query, stage } => {
                    self.stores.retain(|(on, task, _), _| (*on, task.query, task.stage) != (worker, query, stage));
                }
                Action::Stop { worker, task, attempt } => {
                    self.running.retain(|(of, at, on, _)| (*of, *at, *on) != (task, attempt, worker));
                    self.stores.remove(&(worker, task, attempt));
                }
                Action::Report(QueryId(1), Report::Partition { index, worker, output }) => {
                    let before = self.reported.insert(index, (worker, output.id));
                    assert!(before.is_none(), "each partition is reported once");
                }
                Action::Report(query, Report::Done) => drop(self.ends.insert(query, Ok(()))),
                Action::Report(query, Report::Failed(error) | Report::Lost(error)) => {
                    self.ends.insert(query, Err(error));
                }
                _ => (),
            }
        }
    }

    fn event(&mut self, event: Event) {
        let actions = self.play.event(event);
        self.hear(actions);
        // What was stopped says so.
        let stopped = self.play.leave();
        self.hear(stopped);
    }

    /// One of the tasks that run comes to its end.
    fn end_task(&mut self, number: usize) {
        let (task, attempt, worker, mut pieces) = self.running.swap_remove(number);
        let model = &self.models[&task.query];
        for of in &model.stages[task.stage.0 as usize].held {
            if !self.play.core.is_done(*of) {
                return self.event(Event::TaskEnded { task, attempt, outcome: Err(TaskFailure::MadeAgain(*of)) });
            }
            let result = StageId(self.models[of].stages.len() as u32 - 1);
            let outputs = self.play.core.outputs(*of, result).into_iter().flatten().enumerate();
            let mine = outputs.filter(|(index, _)| index % 3 == task.index as usize % 3);
            pieces.extend(mine.map(|(_, (worker, output))| (worker, output.id)));
        }
        let mut read = Vec::new();
        for (on, id) in pieces {
            match self.stores.get(&(on, id.task, id.attempt)) {
                Some(content) => read.push(content.clone()),
                None => {
                    let (from, why) = (on.to_string(), "gone".to_owned());
                    let cause = match self.alive.contains(&on) {
                        true => TaskFailure::LostInput { task: id.task, attempt: id.attempt.0, from, why },
                        false => TaskFailure::Transfer { from, why },
                    };
                    return self.event(Event::TaskEnded { task, attempt, outcome: Err(cause) });
                }
            }
        }
        let content = model.make(task, attempt, &read);
        // A mix is no error as such: an attempt that nobody hears any more may have begun with what is gone.
        let content = content.unwrap_or_else(|| [((task.query, task.stage, u32::MAX), u64::from(attempt.0))].into());
        self.stores.insert((worker, task, attempt), content);
        let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes: 1 };
        self.event(Event::TaskEnded { task, attempt, outcome: Ok(output) });
    }

    fn lose(&mut self, worker: WorkerId) {
        self.alive.remove(&worker);
        self.running.retain(|(_, _, on, _)| *on != worker);
        self.stores.retain(|(on, ..), _| *on != worker);
        self.event(Event::Lost { worker, why: "killed".to_owned() });
    }

    /// The driver takes a partition of the first query, if it is where it was said to be, or where it is now.
    fn take(&mut self, index: usize) {
        let said = self.reported.get(&index).copied();
        let now = self.play.core.partition(QueryId(1), index).map(|(worker, output)| (worker, output.id));
        let at = |(worker, id): (WorkerId, PartitionId)| self.stores.get(&(worker, id.task, id.attempt)).cloned();
        if let Some(said) = said
            && let Some(content) = at(said).or_else(|| at(now?))
        {
            self.taken.entry(index).or_insert(content);
        }
    }

    fn is_over(&self, query: QueryId) -> bool {
        self.ends.contains_key(&query)
    }
}

/// Random queries whose stages leave the same again or do not, read whole or in parts, by one stage or several; workers are lost and
/// partitions turn out to be unreadable at any moment. What the driver has taken in the end, and what another query makes of a
/// persisted result, holds no two attempts of a task that differ; and every query ends, by itself or because rows that it needs had
/// been given out.
#[test]
fn whatever_is_lost_no_reader_and_no_result_mixes_two_attempts() {
    let (mut rolled_back, mut contradicted, mut whole, mut twice) = (0, 0, 0, 0);
    for seed in 1..3000u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n.max(1) as u64) as usize
        };
        let persisted = next(3) == 0;
        let mut model = Model::new(1, &mut next);
        model.stages.iter_mut().for_each(|stage| stage.may_run_twice = next(2) == 0);
        let partitions = model.stages.last().unwrap().tasks;
        let spec =
            QuerySpec { id: model.id, driver: DriverId(0), stages: model.stages.clone(), stable: model.stable() };
        let mut models = BTreeMap::from([(model.id, model)]);
        let reader = StageSpec { held: vec![QueryId(1)], ..stage(3) };
        let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
        let second = Model { id: QueryId(2), stages: vec![reader, gather], fickle: vec![false; 2] };
        let second_spec =
            QuerySpec { id: second.id, driver: DriverId(0), stages: second.stages.clone(), stable: false };
        models.insert(second.id, second);
        let play = Play { core: Core::new(settings()), now: Instant::now(), stuck: false };
        let (running, stores, alive) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        let (reported, taken, ends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut world = World { play, models, running, stores, alive, reported, taken, ends };
        let mut workers = 0;
        let mut join = |world: &mut World| {
            world.alive.insert(WorkerId(workers));
            world.event(joined(workers, Resources::cpus(1.0)));
            workers += 1;
        };
        (0..3).for_each(|_| join(&mut world));
        world.event(Event::Submit(spec));
        if persisted {
            world.event(Event::Persist(QueryId(1)));
        }
        let (mut losses, mut unread, mut steps, mut read_by_second) = (0, 0, 0, false);
        loop {
            steps += 1;
            assert!(steps < 20_000, "seed {seed}: it does not end:\n{}", world.play.status());
            if persisted && world.is_over(QueryId(1)) && !read_by_second {
                read_by_second = true;
                world.event(Event::Submit(second_spec.clone()));
            }
            let over = world.is_over(QueryId(1)) && (!persisted || world.is_over(QueryId(2)));
            let failed = world.ends.values().any(Result::is_err);
            if failed || (over && (persisted || world.taken.len() == partitions)) {
                break;
            }
            match next(13) {
                // Some are late, and run twice.
                12 => {
                    world.play.now += Duration::from_millis(1500);
                    world.event(Event::Tick);
                    twice += world
                        .play
                        .core
                        .queries
                        .iter()
                        .flat_map(|(_, q)| &q.stages)
                        .filter(|s| !s.seconds.is_empty())
                        .count();
                }
                0 if losses < 4 => {
                    let alive: Vec<_> = world.alive.iter().copied().collect();
                    losses += 1;
                    world.lose(alive[next(alive.len())]);
                    join(&mut world);
                }
                1 if unread < 3 && !world.stores.is_empty() => {
                    unread += 1;
                    let which = *world.stores.keys().nth(next(world.stores.len())).unwrap();
                    world.stores.remove(&which);
                    let (_, task, attempt) = which;
                    if next(2) == 0 {
                        world.event(Event::Unread { task, attempt, why: "flipped".to_owned() });
                    }
                }
                2 | 3 if !persisted => {
                    let index = next(partitions);
                    if world.reported.contains_key(&index) && !world.taken.contains_key(&index) {
                        world.take(index);
                        let there = world.play.core.partition(QueryId(1), index);
                        if let Some((_, output)) = there.filter(|_| !world.taken.contains_key(&index)) {
                            let (task, attempt) = (output.id.task, output.id.attempt);
                            world.event(Event::Unread { task, attempt, why: "gone".to_owned() });
                        }
                    }
                }
                _ if !world.running.is_empty() => {
                    let number = next(world.running.len());
                    world.end_task(number);
                }
                _ => {
                    world.play.now += Duration::from_millis(500);
                    world.event(Event::Tick);
                }
            }
        }
        for (query, end) in &world.ends {
            match end {
                Err(Error::MadeOtherwise(_)) => contradicted += 1,
                Err(error) => panic!("seed {seed}: {query}: {error}"),
                Ok(()) => (),
            }
        }
        let mut seen = Content::new();
        let results = world.taken.values().cloned().collect::<Vec<_>>();
        let of_second = world.play.core.partition(QueryId(2), 0).map(|(worker, output)| (worker, output.id));
        let of_second = of_second.filter(|_| world.is_over(QueryId(2)));
        let of_second = of_second.and_then(|(on, id)| world.stores.get(&(on, id.task, id.attempt)).cloned());
        for (key, value) in results.iter().chain(&of_second).flatten() {
            assert_ne!(key.2, u32::MAX, "seed {seed}: an attempt has read a mix, and it counts");
            assert_eq!(*seen.entry(*key).or_insert(*value), *value, "seed {seed}: two attempts of {key:?} are mixed");
        }
        rolled_back += usize::from(world.play.core.queries.iter().any(|(_, q)| q.stages.iter().any(|s| s.epoch > 0)));
        whole += usize::from(world.ends.values().all(Result::is_ok));
        world.event(Event::Release(QueryId(1)));
        world.event(Event::Release(QueryId(2)));
        world.play.assert_idle();
    }
    assert!(
        rolled_back > 200 && contradicted > 50 && whole > 500 && twice > 200,
        "{rolled_back} {contradicted} {whole} {twice}: little was tried"
    );
}
