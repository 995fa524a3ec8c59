//! Whose turn it is, who is looked at, and who is told.

use super::*;

fn submit_for(play: &mut Play, driver: u64, id: u64, stages: Vec<StageSpec>) -> Vec<Action> {
    play.event(Event::Submit(QuerySpec { id: QueryId(id), driver: DriverId(driver), stages, stable: true }))
}

#[test]
fn drivers_take_turns_however_many_queries_each_of_them_has() {
    let mut play = Play::with_workers(&[1.0]);
    let mut running = Vec::new();
    for query in 0..100 {
        running.extend(runs(&submit_for(&mut play, 1, query, vec![stage(50)])));
    }
    running.extend(runs(&submit_for(&mut play, 2, 100, vec![stage(50)])));
    let mut started = [0; 101];
    for _ in 0..40 {
        let (task, attempt) = running.remove(0);
        let next = runs(&play.done(task, attempt));
        next.iter().for_each(|(task, _)| started[task.query.0 as usize] += 1);
        running.extend(next);
    }
    assert_eq!(started[100], 20, "half of the room, and not a hundredth: {started:?}");
    assert!(started[..100].iter().all(|tasks| *tasks <= 1), "the others share theirs: {started:?}");
}

#[test]
fn the_end_of_a_query_is_told_only_to_workers_that_have_had_something_of_it() {
    let mut play = Play::with_workers(&[0.5; 100]);
    let gather = StageSpec { inputs: vec![StageId(0)], ..stage(1) };
    let actions = play.submit(1, vec![stage(3), gather]);
    let told = |actions: &[Action]| -> Vec<u32> {
        let ends =
            actions.iter().filter_map(|a| if let Action::End { worker, .. } = a { Some(worker.0) } else { None });
        ends.collect()
    };
    assert_eq!(play.finish(actions), [(QueryId(1), true)].into());
    assert_eq!(told(&play.event(Event::Release(QueryId(1)))), [0, 1, 2]);
    play.submit(2, vec![stage(2)]);
    play.event(lost(0));
    assert_eq!(told(&play.event(Event::Release(QueryId(2)))), [1, 2], "one that is lost needs not be told");
    play.leave();
    play.assert_idle();
}

#[test]
fn a_query_whose_worker_cannot_be_told_of_it_fails_and_spares_the_worker_and_others() {
    let mut play = Play::with_workers(&[1.0]);
    let (large, attempt) = runs(&play.submit(1, vec![stage(1)]))[0];
    let other = runs(&play.submit(2, vec![stage(1)]))[0];
    let outcome = Err(TaskFailure::CannotBeSent("message of 65 MiB".to_owned()));
    let actions = play.event(Event::TaskEnded { task: large, attempt, outcome });
    let text = failure(&actions).unwrap().to_string();
    assert!(text.contains("65 MiB") && text.contains("repartition"), "{text}");
    assert_eq!(play.status().workers[0].tasks, (1, 0));
    play.submit(3, vec![stage(1)]);
    let error = Error::from(ClusterError::Network { what: "tell a worker".to_owned(), why: "too large".to_owned() });
    assert!(failure(&play.event(Event::Fail(QueryId(3), error))).is_some());
    play.leave();
    assert!(is_done(&play.done(other.0, other.1)));
    play.event(Event::Release(QueryId(2)));
    play.assert_idle();
}

/// A hundred equal stages that fit nowhere, and one that does.
#[test]
fn who_cannot_have_what_it_wants_keeps_nobody_else_from_it() {
    let mut play = Play::with_workers(&[1.5, 1.0]);
    play.submit(1, vec![stage(200)]);
    for query in 2..100 {
        assert!(starts(&play.submit(query, vec![udf_stage(1, 1.0, (1, 1))])).is_empty());
    }
    let actions = play.submit(100, vec![udf_stage(1, 0.5, (1, 1))]);
    assert!(starts(&actions).is_empty());
    play.event(joined(2, Resources::cpus(1.5)));
    let status = play.status();
    let running = status.pools.iter().filter(|pool| pool.queries == [QueryId(100)]).count();
    assert_eq!(running, 1, "the small one fits on the new worker, and nobody before it does:\n{status}");
}
