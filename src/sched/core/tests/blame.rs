//! How often a task may lose its worker, or fail; and drivers whose queries end their workers.

use super::*;
use crate::sched::core::blame::MAX_LOSSES;

fn run_of(actions: &[Action]) -> Option<(TaskId, Attempt, WorkerId)> {
    actions.iter().find_map(|action| match action {
        Action::Run { task, attempt, worker, .. } => Some((*task, *attempt, *worker)),
        _ => None,
    })
}

/// Workers, of which each that is lost is replaced.
struct Fleet {
    play: Play,
    next: u32,
}

impl Fleet {
    fn of(workers: u32) -> Self {
        Self { play: Play::with_workers(&vec![1.0; workers as usize]), next: workers }
    }

    fn lose(&mut self, worker: WorkerId) -> Vec<Action> {
        let mut actions = self.play.event(Event::Lost { worker, why: "signal 9".to_owned() });
        actions.extend(self.play.event(joined(self.next, Resources::cpus(1.0))));
        self.next += 1;
        actions
    }

    /// One on which nothing runs.
    fn idle(&self) -> WorkerId {
        let status = self.play.status();
        status.workers.iter().find(|worker| worker.tasks == (0, 0)).unwrap().worker
    }
}

#[test]
fn a_task_that_ends_each_worker_it_runs_on_is_blamed_when_that_is_no_chance_any_more() {
    for (workers, losses) in [(2, 8), (4, 5), (5, 4), (20, 3)] {
        let mut fleet = Fleet::of(workers);
        let mut actions = fleet.play.submit(1, vec![stage(1)]);
        for attempt in 1..=losses {
            let (_, at, on) =
                run_of(&actions).unwrap_or_else(|| panic!("{workers} workers, attempt {attempt}: {actions:?}"));
            assert_eq!(at.0, attempt);
            actions = fleet.lose(on);
        }
        let Some(Error::Task(error)) = failure(&actions) else { panic!("{workers} workers: {actions:?}") };
        assert_eq!((error.attempt, error.before.len() as u32), (losses, losses - 1), "with its history");
        let text = error.to_string();
        assert!(
            text.contains("the worker was lost: signal 9") && text.contains(". Before that attempt 1 on worker"),
            "{text}"
        );
        assert!(text.contains("and no other did"), "{text}");
        fleet.play.assert_idle();
    }
}

#[test]
fn a_task_outlives_seven_losses_where_others_are_lost_too_and_four_failures_beside_them() {
    let mut fleet = Fleet::of(4);
    let mut actions = fleet.play.submit(1, vec![stage(1)]);
    for loss in 1..MAX_LOSSES {
        if loss < MAX_ATTEMPTS {
            let (task, attempt, _) = run_of(&actions).unwrap();
            let cause = TaskFailure::Transfer { from: "worker 9".to_owned(), why: "reset".to_owned() };
            fleet.play.event(Event::TaskEnded { task, attempt, outcome: Err(cause) });
            fleet.play.now += Duration::from_secs(5);
            actions = fleet.play.event(Event::Tick);
        }
        let (_, _, on) = run_of(&actions).unwrap();
        actions = fleet.lose(on);
        if loss % 2 == 0 {
            let idle = fleet.idle();
            assert!(run_of(&fleet.lose(idle)).is_none(), "nothing ran there");
        }
        assert!(failure(&actions).is_none(), "loss {loss}: {actions:?}");
    }
    let (task, attempt, on) = run_of(&actions).unwrap();
    assert_eq!(attempt.0, MAX_LOSSES + MAX_ATTEMPTS - 1);
    let actions = fleet.lose(on);
    let Some(Error::Task(error)) = failure(&actions) else { panic!("the eighth is the last: {actions:?}") };
    assert_eq!((error.task, error.before.len() as u32), (task, MAX_LOSSES + MAX_ATTEMPTS - 2));
    assert!(!error.to_string().contains("and no other did"), "{error}");
}

#[test]
fn a_worker_with_several_replicas_is_one_loss_and_those_of_long_ago_are_forgiven() {
    let mut play = Play::with_workers(&[4.0]);
    let mut spec = udf_stage(300, 0.5, (4, 4));
    spec.pools[0].most = 4;
    let mut actions = play.submit(1, vec![spec]);
    let lost_of = |play: &Play| play.core.queries.get(&QueryId(1)).unwrap().stages[0].steps[0].lost.len();
    for worker in 0..20u32 {
        for (replica, _) in starts(&actions) {
            let more = play.event(Event::ReplicaReady(replica));
            actions.extend(more);
        }
        let (task, attempt) = runs(&actions)[0];
        assert!(!is_done(&play.done(task, attempt)));
        actions = play.event(lost(worker));
        assert!(failure(&actions).is_none(), "loss {worker}: {actions:?}");
        assert!(lost_of(&play) <= 4, "{}", lost_of(&play));
        play.now += Duration::from_secs(200);
        actions.extend(play.event(joined(worker + 1, Resources::cpus(4.0))));
    }
    for worker in 20..28u32 {
        for (replica, _) in starts(&actions) {
            actions.extend(play.event(Event::ReplicaReady(replica)));
        }
        actions = play.event(lost(worker));
        if worker < 27 {
            actions.extend(play.event(joined(worker + 1, Resources::cpus(4.0))));
        }
        if failure(&actions).is_some() {
            break;
        }
    }
    assert!(failure(&actions).is_some(), "nothing succeeds any more: {actions:?}");
}

fn submit_of(play: &mut Play, driver: u64, id: u64, stages: Vec<StageSpec>) -> Vec<Action> {
    play.event(Event::Submit(QuerySpec { id: QueryId(id), driver: DriverId(driver), stages, stable: true }))
}

#[test]
fn queries_of_a_driver_that_has_lost_workers_run_alone_while_others_are_to_be_spared() {
    for others in [true, false] {
        let mut fleet = Fleet::of(4);
        let mut actions = submit_of(&mut fleet.play, 1, 1, vec![stage(1)]);
        while failure(&actions).is_none() {
            let (_, _, on) = run_of(&actions).unwrap();
            actions = fleet.lose(on);
        }
        if others {
            submit_of(&mut fleet.play, 2, 2, vec![stage(8)]);
        }
        let actions = submit_of(&mut fleet.play, 1, 3, vec![stage(1)]);
        assert_eq!(run_of(&actions).is_none(), others, "{actions:?}");
        if others {
            // Once one of the workers is empty it runs there, and nobody else.
            let mut alone = None;
            for index in 0..8 {
                let task = TaskId { query: QueryId(2), stage: StageId(0), index };
                alone = alone.or_else(|| run_of(&fleet.play.done(task, Attempt(1))));
            }
            let (task, attempt, _) = alone.expect("it has had its turn");
            assert_eq!(task.query, QueryId(3));
            assert!(is_done(&fleet.play.done(task, attempt)));
        }
        // After a while it is as any other.
        fleet.play.now += Duration::from_secs(61);
        submit_of(&mut fleet.play, 2, 4, vec![stage(1)]);
        assert!(run_of(&submit_of(&mut fleet.play, 1, 5, vec![stage(1)])).is_some());
    }
}
