//! Who is to blame for a lost worker, and who was only there.

use super::*;

/// Queries of which one ends every worker that its tasks, or calls of its UDF, run on.
struct Crime {
    play: Play,
    villain: QueryId,
    running: Vec<(TaskId, Attempt, WorkerId)>,
    replicas: BTreeMap<ReplicaId, (QueryId, WorkerId)>,
    workers: u32,
    deaths: usize,
    /// Deaths beside others.
    victims: usize,
    ends: BTreeMap<QueryId, Result<(), Error>>,
}

impl Crime {
    fn new(workers: u32, villain: u64) -> Self {
        let play = Play::with_workers(&vec![2.0; workers as usize]);
        let (running, replicas, ends) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { play, villain: QueryId(villain), running, replicas, workers, deaths: 0, victims: 0, ends }
    }

    fn hear(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { task, attempt, worker, .. } => self.running.push((task, attempt, worker)),
                Action::StartReplica { replica, step, worker, .. } => {
                    self.replicas.insert(replica, (step.query, worker));
                    let more = self.play.event(Event::ReplicaReady(replica));
                    self.hear(more);
                }
                Action::StopReplica { replica, .. } => drop(self.replicas.remove(&replica)),
                Action::Enough { worker, query, stage } => {
                    self.running.retain(|(task, _, on)| (task.query, task.stage, *on) != (query, stage, worker));
                }
                Action::End { worker, query } => {
                    self.running.retain(|(task, _, on)| (task.query, *on) != (query, worker));
                }
                Action::Report(query, Report::Done) => drop(self.ends.insert(query, Ok(()))),
                Action::Report(query, Report::Failed(error)) => drop(self.ends.insert(query, Err(error))),
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

    /// A worker is gone, and another comes.
    fn lose(&mut self, worker: WorkerId) {
        let others = self.running.iter().any(|(task, _, on)| *on == worker && task.query != self.villain);
        self.deaths += 1;
        self.victims += usize::from(others);
        self.running.retain(|(.., on)| *on != worker);
        self.replicas.retain(|_, (_, on)| *on != worker);
        self.event(Event::Lost { worker, why: "out of memory".to_owned() });
        self.event(joined(self.workers, Resources::cpus(2.0)));
        self.workers += 1;
    }

    /// A task that runs comes to its end, or its worker does.
    fn step(&mut self, number: usize) {
        let (task, attempt, worker) = self.running[number];
        if task.query != self.villain {
            self.running.swap_remove(number);
            let actions = self.play.done(task, attempt);
            self.hear(actions);
            let stopped = self.play.leave();
            return self.hear(stopped);
        }
        let mut replicas = self.replicas.values().filter(|(query, _)| *query == self.villain);
        let on = replicas.next().map_or(worker, |(_, on)| *on);
        self.lose(on);
    }

    fn run(&mut self, mut next: impl FnMut(usize) -> usize) {
        for _ in 0..5000 {
            if self.running.is_empty() {
                self.play.now += Duration::from_millis(100);
                self.event(Event::Tick);
            } else {
                let number = next(self.running.len());
                self.step(number);
            }
        }
    }
}

#[test]
fn a_query_that_ends_its_workers_is_blamed_and_not_those_beside_it() {
    for udf in [false, true] {
        for seed in 1..200u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut next = |n: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % n as u64) as usize
            };
            let mut crime = Crime::new(2 + next(3) as u32, 2);
            for query in [1, 2, 3] {
                let spec = match udf {
                    true => udf_stage(1 + next(6), 0.5, (1, 2)),
                    false => stage(1 + next(6)),
                };
                let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
                let actions = crime.play.submit(query, vec![spec, gather]);
                crime.hear(actions);
            }
            crime.run(&mut next);
            let text = crime.ends.get(&QueryId(2)).and_then(|end| end.as_ref().err()).map(Error::to_string);
            assert!(text.is_some_and(|text| text.contains("out of memory")), "seed {seed}: {:?}", crime.ends);
            for innocent in [1, 3] {
                assert!(matches!(crime.ends.get(&QueryId(innocent)), Some(Ok(()))), "seed {seed}: {:?}", crime.ends);
            }
            assert!(
                crime.deaths <= 16 && crime.victims <= 4,
                "seed {seed}: {} deaths, {}",
                crime.deaths,
                crime.victims
            );
            (1..=3).for_each(|query| drop(crime.play.event(Event::Release(QueryId(query)))));
            crime.play.assert_idle();
        }
    }
}

#[test]
fn suspects_run_alone_one_after_the_other_and_then_as_before() {
    let mut crime = Crime::new(2, 9);
    for (query, tasks) in [(1, 4), (2, 20)] {
        let actions = crime.play.submit(query, vec![stage(tasks)]);
        crime.hear(actions);
    }
    let lost = WorkerId(0);
    assert!((1..=2).all(|query| crime.running.iter().any(|(task, _, on)| task.query.0 == query && *on == lost)));
    crime.lose(lost);
    let on = |crime: &Crime, worker: WorkerId| -> BTreeSet<u64> {
        crime.running.iter().filter(|(.., on)| *on == worker).map(|(task, ..)| task.query.0).collect()
    };
    let status = crime.play.status().to_string();
    assert!(status.contains("wait for a worker of its own"), "{status}");
    let mut alone = BTreeSet::new();
    while let Some(((tried, _), worker)) = crime.play.core.trials.first_key_value().map(|(who, on)| (*who, *on)) {
        assert_eq!(crime.play.core.trials.len(), 1, "one of two workers goes on with other work");
        let again =
            |(task, attempt, at): &(TaskId, Attempt, WorkerId)| (task.query, *at) == (tried, worker) && attempt.0 > 1;
        if crime.running.iter().any(again) {
            let there = on(&crime, worker);
            assert!(there.len() == 1, "nobody else is there: {there:?}");
            alone.extend(there);
        }
        // Those on the other worker go on meanwhile.
        let next = crime.running.iter().position(|(.., on)| *on == worker).unwrap_or(0);
        crime.step(next);
    }
    assert_eq!(alone, [1, 2].into(), "each had its turn");
    crime.run(|_| 0);
    assert!(crime.ends.values().all(Result::is_ok) && crime.ends.len() == 2, "{:?}", crime.ends);
}

#[test]
fn who_is_alone_on_a_lost_worker_is_charged_and_who_only_waited_there_is_not() {
    let mut play =
        Play { core: Core::new(Settings { max_task_backlog: None, ..settings() }), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(0.5)));
    let mut running: VecDeque<_> = runs(&play.submit(1, vec![stage(300)])).into();
    // Short ones, so that some wait behind the one that runs.
    for _ in 0..150 {
        let (task, attempt) = running.pop_front().unwrap();
        running.extend(runs(&play.done(task, attempt)));
    }
    assert!(running.len() > 1, "one runs, others wait");
    let failed = |play: &Play, task: TaskId| {
        let failures = &play.core.queries.get(&QueryId(1)).unwrap().stages[0].failures;
        failures.get(&(task.index as usize)).map_or(0, |failures| failures.lost as usize)
    };
    play.event(Event::Lost { worker: WorkerId(0), why: "killed".to_owned() });
    let charged: Vec<_> = running.iter().map(|(task, _)| failed(&play, *task)).collect();
    assert_eq!((charged[0], charged[1..].iter().sum::<usize>()), (1, 0), "{charged:?}");
}
