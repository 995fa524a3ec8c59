//! Replicas above the least: added, idle, let go.

use super::*;
use crate::sched::pool::FED;

pub(super) fn elastic() -> Settings {
    let scale = ScaleSettings { each: Resources::cpus(2.0), idle: Duration::from_secs(60), ..scale((1, 1)) };
    Settings { scale: Some(scale), ..settings() }
}

/// Four replicas on a worker of 2.5 CPUs, of which one must be; all are ready, one task runs.
fn pool_of_four(settings: Settings) -> (Play, Vec<ReplicaId>, (TaskId, Attempt)) {
    let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(2.5)));
    let replicas: Vec<_> = starts(&play.submit(1, vec![udf_stage(1, 0.5, (1, 4))])).into_iter().map(|r| r.0).collect();
    assert_eq!(replicas.len(), 4);
    let mut tasks = Vec::new();
    for replica in &replicas {
        tasks.extend(runs(&play.event(Event::ReplicaReady(*replica))));
    }
    (play, replicas, tasks[0])
}

fn idle(play: &mut Play, replica: ReplicaId) {
    play.event(Event::ReplicaIdle { replica, idle: true });
}

fn stopped(actions: &[Action]) -> Vec<u32> {
    let stopped = actions.iter().filter_map(|a| match a {
        Action::StopReplica { replica, .. } => Some(replica.rank),
        _ => None,
    });
    stopped.collect()
}

#[test]
fn a_replica_that_was_stopped_keeps_its_charge_until_its_thread_has_ended_or_its_worker_is_gone() {
    for lost in [false, true] {
        let mut play = Play::with_workers(&[1.0]);
        let first = play.submit(1, vec![udf_stage(1, 0.5, (1, 1))]);
        let replica = starts(&first)[0].0;
        play.event(Event::ReplicaReady(replica));
        play.stuck = true;
        play.event(Event::Release(QueryId(1)));
        play.leave();
        assert!(starts(&play.submit(2, vec![udf_stage(1, 0.5, (1, 1))])).is_empty(), "half a CPU is charged still");
        play.now += Duration::from_secs(3);
        let status = play.status();
        assert_eq!(status.workers[0].leaving, Some((1, Duration::from_secs(3))));
        let (second, _) = match lost {
            false => starts(&play.event(Event::ReplicaEnded(replica)))[0],
            true => {
                play.event(Event::Lost { worker: WorkerId(0), why: "replaced".to_owned() });
                starts(&play.event(joined(1, Resources::cpus(1.0))))[0]
            }
        };
        // One whose thread has ended by itself, as after a start that failed, has nothing to wait for.
        play.event(Event::ReplicaEnded(second));
        play.event(Event::ReplicaFailed { replica: second, error: UdfError::new("no oar") });
        play.leave();
        play.assert_idle();
    }
}

#[test]
fn idle_extras_make_room_for_what_cannot_be_placed_the_longest_idle_first() {
    let (mut play, replicas, _) = pool_of_four(settings());
    assert!(starts(&play.submit(2, vec![udf_stage(1, 0.5, (1, 1))])).is_empty(), "all are busy");
    for rank in [2, 1, 3] {
        play.now += Duration::from_secs(1);
        let actions = play.event(Event::ReplicaIdle { replica: replicas[rank], idle: true });
        match rank {
            2 => assert!(stopped(&actions).is_empty(), "half a CPU holds no replica with its task"),
            1 => {
                assert_eq!(stopped(&actions), [2, 1]);
                let dismissed =
                    actions.iter().filter(|a| matches!(a, Action::Dismiss { tell, .. } if !tell.is_empty()));
                assert_eq!(dismissed.count(), 2, "tasks send them no more batches");
                assert_eq!(starts(&actions).len(), 1);
            }
            _ => assert!(stopped(&actions).is_empty(), "no more than are needed"),
        }
    }
}

#[test]
fn replicas_that_must_be_there_are_not_let_go() {
    let (mut play, replicas, task) = pool_of_four(settings());
    replicas.iter().for_each(|replica| idle(&mut play, *replica));
    let actions = play.submit(2, vec![udf_stage(1, 2.0, (1, 1))]);
    assert!(stopped(&actions).is_empty(), "three halves are too few for it, so none goes");
    let actions = play.done(task.0, task.1);
    assert_eq!(starts(&actions).len(), 1, "the query is done, and all its replicas with it");
}

#[test]
fn a_stage_that_has_lost_one_of_its_pools_gives_up_the_others_and_starts_whole() {
    let mut play = Play::with_workers(&[1.0, 1.0, 1.0]);
    let pools = (0..2).map(|_| pool(Resources::cpus(0.5), (1, 1)));
    let first = starts(&play.submit(1, vec![StageSpec { pools: pools.collect(), ..stage(1) }]));
    assert_eq!(first.iter().map(|(_, on)| on.0).collect::<Vec<_>>(), [0, 1]);
    first.iter().for_each(|(replica, _)| drop(play.event(Event::ReplicaReady(*replica))));
    let actions = play.event(lost(0));
    assert_eq!(stopped(&actions), [0], "the one that is left, on worker 1");
    assert_eq!(starts(&actions).len(), 2, "one of each, on the workers that are left");
}

#[test]
fn replicas_keep_pace_with_the_tasks_that_need_them_as_workers_come() {
    for (replicas, expect) in [((1, 3), [1, 2, 3, 3]), ((4, 4), [1, 2, 3, 4])] {
        let mut play = Play::with_workers(&[1.0]);
        let mut actions = play.submit(1, vec![udf_stage(100, 0.5, replicas)]);
        for (worker, replicas) in expect.into_iter().enumerate() {
            let ready: Vec<_> = starts(&actions).into_iter().map(|(replica, _)| replica).collect();
            ready.into_iter().for_each(|replica| drop(play.event(Event::ReplicaReady(replica))));
            let waits = play.core.waits(QueryId(1), play.now).unwrap();
            assert_eq!(waits[0].pools[0].ready, replicas, "with {} workers, though 100 tasks wait", worker + 1);
            actions = play.event(joined(worker as u32 + 1, Resources::cpus(1.0)));
        }
    }
}

#[test]
fn a_pool_with_an_idle_replica_does_not_grow() {
    let mut play = Play::with_workers(&[1.0]);
    let (first, _) = starts(&play.submit(1, vec![udf_stage(2, 0.5, (1, 4))]))[0];
    play.event(Event::ReplicaReady(first));
    idle(&mut play, first);
    assert!(starts(&play.event(joined(1, Resources::cpus(4.0)))).is_empty());
    assert_eq!(starts(&play.event(Event::ReplicaIdle { replica: first, idle: false })).len(), 3);
}

#[test]
fn extras_retire_by_the_clock_of_the_workers_and_do_not_come_back() {
    let (mut play, replicas, _) = pool_of_four(elastic());
    idle(&mut play, replicas[0]);
    play.now += Duration::from_secs(30);
    idle(&mut play, replicas[3]);
    play.now += Duration::from_secs(30);
    assert_eq!(stopped(&play.event(Event::Tick)), [0], "the other has been idle for half of the time");
    play.event(Event::ReplicaIdle { replica: replicas[3], idle: false });
    play.now += Duration::from_secs(60);
    let actions = play.event(Event::Tick);
    assert!(stopped(&actions).is_empty() && starts(&actions).is_empty(), "a busy one stays, a retired one stays away");
    for replica in &replicas[1..] {
        idle(&mut play, *replica);
    }
    play.now += Duration::from_secs(60);
    assert_eq!(stopped(&play.event(Event::Tick)).len(), 2, "one remains");
}

#[test]
fn replicas_that_wait_for_their_first_batch_give_no_room_to_the_tasks_that_are_to_bring_it() {
    let mut play = Play::with_workers(&[4.0]);
    let replicas = starts(&play.submit(1, vec![udf_stage(8, 0.5, (1, 4))]));
    let ready = replicas.iter().flat_map(|(replica, _)| play.event(Event::ReplicaReady(*replica))).collect::<Vec<_>>();
    assert_eq!((replicas.len(), runs(&ready).len()), (4, 4));
    for (replica, _) in &replicas {
        play.now += FED / 4;
        let actions = play.event(Event::ReplicaIdle { replica: *replica, idle: true });
        assert!(stopped(&actions).is_empty() && runs(&actions).is_empty(), "no task has come to its first batch");
    }
    play.event(Event::ReplicaIdle { replica: replicas[0].0, idle: false });
    play.now += FED / 2;
    assert!(stopped(&play.event(Event::Tick)).is_empty(), "the others may not have said yet that they have work, too");
    play.now += FED;
    let actions = play.event(Event::Tick);
    assert_eq!((stopped(&actions), runs(&actions).len()), (vec![1, 2, 3], 3), "one is enough for four tasks");
}

#[test]
fn extras_stay_with_downscaling_off_and_give_their_room_to_tasks() {
    let mut play = Play { core: Core::new(elastic()), now: Instant::now(), stuck: false };
    play.event(joined(0, Resources::cpus(1.5)));
    let replicas = starts(&play.submit(1, vec![udf_stage(9, 0.5, (1, 2))]));
    for (replica, _) in &replicas {
        play.event(Event::ReplicaReady(*replica));
    }
    let mut off = elastic();
    off.scale.as_mut().unwrap().downscale = false;
    let (mut other, others, _) = pool_of_four(off);
    others.iter().for_each(|replica| idle(&mut other, *replica));
    other.now += Duration::from_secs(600);
    assert!(stopped(&other.event(Event::Tick)).is_empty());
    // An idle extra gives its room to a task of its own stage, once others have work; the last replica does not.
    play.now += FED;
    let actions = play.event(Event::ReplicaIdle { replica: replicas[0].0, idle: true });
    assert_eq!((stopped(&actions).len(), runs(&actions).len()), (1, 1));
    idle(&mut play, replicas[1].0);
    play.now += Duration::from_secs(600);
    assert!(stopped(&play.event(Event::Tick)).is_empty());
}
