//! Tasks that need memory.

use std::collections::BTreeSet;

use super::shapes::Dice;
use super::*;
use crate::sched::{Mode, Sizes, Way};

const GIB: u64 = 1 << 30;

fn play(workers: &[(f64, u64)]) -> Play {
    let mut play = Play::with_workers(&[]);
    for (worker, (cpus, memory)) in workers.iter().enumerate() {
        play.event(joined(worker as u32, Resources::cpus(*cpus).with_memory(*memory)));
    }
    play
}

/// Tasks that each take all of stage 0 into memory.
fn gathers(tasks: usize, holds: Holds) -> StageSpec {
    StageSpec { inputs: vec![StageId(0)], holds, ..stage(tasks) }
}

fn leaves(play: &mut Play, (task, attempt): (TaskId, Attempt), bytes: u64) -> Vec<Action> {
    let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes };
    play.event(Event::TaskEnded { task, attempt, outcome: Ok(output) })
}

/// Submits a query of which stage 0 leaves so many bytes, and lets that end.
fn submit(play: &mut Play, query: u64, bytes: u64, reads: StageSpec) -> Vec<(TaskId, Attempt)> {
    let first = runs(&play.submit(query, vec![stage(1), reads]));
    let [first] = first[..] else { panic!("no room for a task that reads nothing: {first:?}") };
    runs(&leaves(play, first, bytes))
}

fn waits(play: &Play, query: u64) -> Vec<String> {
    let waits = play.core.waits(QueryId(query), play.now).unwrap();
    waits.iter().flat_map(|stage| &stage.waits).map(ToString::to_string).collect()
}

/// On no worker do tasks need more than it has, but for one that is alone there.
pub(super) fn assert_fit(play: &Play, what: &str) {
    for worker in play.core.ledger.workers() {
        let (capacity, _) = play.core.ledger.account(worker).unwrap();
        let needs: Vec<_> = play.core.queues.needs_on(worker).collect();
        let fit = capacity.memory == 0 || needs.iter().sum::<u64>() <= capacity.memory || needs.len() == 1;
        assert!(fit, "{what}: {needs:?} on a worker with {capacity}");
    }
}

#[test]
fn tasks_wait_while_they_do_not_fit_beside_what_runs_and_others_pass_them() {
    let mut play = play(&[(4.0, 8 * GIB)]);
    let mut running = submit(&mut play, 1, GIB, gathers(4, Holds::SORTED));
    assert_eq!(running.len(), 2, "each takes 3 GiB");
    assert_fit(&play, "sorts");
    let said = &waits(&play, 1)[0];
    assert!(said.starts_with("2 tasks wait for room on a worker (0.5 CPU, 3.2 GiB of memory)"), "{said}");
    assert_eq!(runs(&play.submit(2, vec![stage(6)])).len(), 6, "rows that pass by have room");
    let mut ended = 0;
    while let Some(run) = running.pop() {
        ended += 1;
        running.extend(runs(&leaves(&mut play, run, 1)).into_iter().filter(|(task, _)| task.query == QueryId(1)));
        assert_fit(&play, "sorts");
    }
    assert_eq!(ended, 4);
}

#[test]
fn more_workers_are_asked_for_where_tasks_wait_for_memory() {
    let each = Resources::cpus(4.0).with_memory(8 * GIB);
    let demand = |tasks| {
        let scale = ScaleSettings { each, ..scale((1, 9)) };
        let core = Core::new(Settings { scale: Some(scale), ..settings() });
        let mut play = Play { core, now: Instant::now(), stuck: false };
        play.event(joined(0, each));
        let first = runs(&play.submit(1, vec![stage(1), gathers(tasks, Holds::SORTED)]));
        let actions = leaves(&mut play, first[0], GIB);
        assert_eq!(runs(&actions).len(), 2, "each takes 3 GiB");
        let actions = play.event(Event::Tick);
        actions.iter().find_map(|a| if let Action::Demand { workers } = a { Some(*workers) } else { None })
    };
    assert_eq!(demand(4), None, "what two wait for is less than what there is");
    assert_eq!(demand(8), Some(4), "six wait for 3.25 GiB each, though there are CPUs for them");
}

#[test]
fn who_makes_groups_of_its_own_rows_is_taken_for_as_many_as_there_are_until_some_have_ended() {
    let mut play = play(&[(4.0, 8 * GIB)]);
    let groups = StageSpec { grouped: 8 * GIB, ..stage(8) };
    let running = runs(&play.submit(1, vec![groups]));
    assert_eq!(running.len(), 2, "each takes 2.5 GiB, and what passes by");
    assert_fit(&play, "groups");
    assert_eq!(runs(&leaves(&mut play, running[0], 1 << 20)).len(), 6, "they make few");
    assert_fit(&play, "groups");
}

#[test]
fn what_needs_more_than_any_worker_has_runs_beside_no_other() {
    let mut play = play(&[(4.0, 8 * GIB), (4.0, 6 * GIB)]);
    let mut running = submit(&mut play, 1, 4 * GIB, gathers(3, Holds::SORTED));
    assert_eq!(running.len(), 2, "12 GiB, one on each");
    assert_fit(&play, "sorts");
    assert!(runs(&play.submit(2, vec![stage(2)])).is_empty(), "nor does anything come beside it");
    let last = runs(&leaves(&mut play, running.pop().unwrap(), 1));
    assert_eq!(last.len(), 1, "one after the other: {last:?}");
    running.extend(last);
    let mut ended = 0;
    while let Some(run) = running.pop() {
        ended += 1;
        running.extend(runs(&leaves(&mut play, run, 1)));
    }
    assert_eq!(ended, 4, "all of both queries have run");
    assert!(play.core.is_done(QueryId(1)) && play.core.is_done(QueryId(2)));
}

#[test]
fn a_task_waits_for_the_worker_that_can_hold_it_and_not_if_replicas_keep_it() {
    for (pool, waits) in [(false, true), (true, false)] {
        let mut play = play(&[(2.0, 16 * GIB), (1.0, GIB)]);
        if pool {
            let mut replica = udf_stage(1, 0.5, (1, 1));
            replica.pools[0].each = Resources::cpus(0.5).with_memory(12 * GIB);
            let (replica, _) = starts(&play.submit(9, vec![replica]))[0];
            play.event(Event::ReplicaReady(replica));
        }
        let busy = runs(&play.submit(8, vec![stage(1)]));
        let first = runs(&play.submit(1, vec![stage(1), gathers(2, Holds::SORTED)]))[0];
        let started = placed(&leaves(&mut play, first, 3 * GIB));
        assert_fit(&play, "sorts");
        if waits {
            assert_eq!(started, [(WorkerId(0), 0)], "9 GiB, and again 9 GiB, which have no room beside them: {busy:?}");
        } else {
            assert!(!started.is_empty(), "4 GiB are never enough: one runs alone where it can");
        }
    }
}

fn placed(actions: &[Action]) -> Vec<(WorkerId, u32)> {
    let placed = actions.iter().filter_map(|a| match a {
        Action::Run { worker, task, .. } => Some((*worker, task.index)),
        _ => None,
    });
    placed.collect()
}

#[test]
fn a_task_that_needs_much_gets_it_while_others_keep_the_worker_busy() {
    let mut play = play(&[(2.0, 4 * GIB)]);
    let mut running: VecDeque<_> = submit(&mut play, 1, GIB / 2, gathers(400, Holds::SORTED)).into();
    assert_eq!(running.len(), 2);
    let first = runs(&play.submit(2, vec![stage(1), gathers(1, Holds::SORTED)]))[0];
    running.extend(runs(&leaves(&mut play, first, GIB)));
    let mut turns = 0;
    while !play.core.is_done(QueryId(2)) {
        turns += 1;
        assert!(turns < 50, "3 GiB never come free");
        play.now += Duration::from_millis(300);
        running.extend(runs(&play.event(Event::Tick)));
        let run = running.pop_front().expect("something runs");
        running.extend(runs(&leaves(&mut play, run, 1)));
        assert_fit(&play, "sorts");
    }
    // And the others go on.
    while let Some(run) = running.pop_front() {
        running.extend(runs(&leaves(&mut play, run, 1)));
    }
    assert!(play.core.is_done(QueryId(1)));
}

#[test]
fn who_needs_more_than_its_worker_has_and_loses_it_twice_fails_by_name() {
    for (bytes, losses) in [(4 * GIB, 2), (GIB, MAX_LOSSES)] {
        let mut play = play(&[(1.0, 8 * GIB)]);
        let sorts = StageSpec { what: "it sorts all rows at once".to_owned(), ..gathers(1, Holds::SORTED) };
        let first = runs(&play.submit(1, vec![StageSpec { given: Vec::new(), ..stage(1) }, sorts]))[0];
        let mut actions = leaves(&mut play, first, bytes);
        for round in 1.. {
            // What it read is there again before it is.
            while let Some(run) = runs(&actions).into_iter().find(|(task, _)| task.stage == StageId(0)) {
                actions = leaves(&mut play, run, bytes);
            }
            assert!(runs(&actions).iter().any(|(task, _)| task.stage == StageId(1)), "it is tried again: {actions:?}");
            actions = play.event(lost(round - 1));
            if let Some(error) = failure(&actions) {
                assert_eq!(round, losses, "{error}");
                let said = error.to_string();
                let names = said.contains("about 12.0 GiB of memory for all that it reads")
                    && said.contains("its worker has 8.0 GiB (stage 1: it sorts all rows at once)");
                assert_eq!(names, losses == 2, "{said}");
                break;
            }
            actions = play.event(joined(round, Resources::cpus(1.0).with_memory(8 * GIB)));
        }
    }
}

#[test]
fn of_a_join_the_smaller_side_is_held_and_of_a_chain_what_takes_most() {
    let by_size = |ways| Mode {
        ways,
        by_size: true,
        by_hash: false,
        shared: Vec::new(),
        when: crate::sched::Fits::Always,
        stable: false,
    };
    let join = StageSpec {
        inputs: vec![StageId(0), StageId(1)],
        modes: vec![by_size(vec![Way::Sections; 2])],
        holds: Holds::Tables,
        ..stage(16)
    };
    let mut play = play(&[(2.0, 64 * GIB)]);
    let sides = runs(&play.submit(1, vec![stage(1), stage(1), join]));
    for ((task, attempt), bytes) in sides.into_iter().zip([1600 << 20, 160 << 20]) {
        play.core.measured(task, attempt, Sizes::of((0..16).map(|section| (section, bytes / 16))));
        leaves(&mut play, (task, attempt), bytes);
    }
    let query = play.core.queries.get(&QueryId(1)).unwrap();
    let all: u64 = (0..query.stages[2].tasks.len()).map(|task| query.held(2, task)).sum();
    assert!(all.abs_diff(400 << 20) < 4 << 20, "2.5 times 160 MiB, and nothing of what passes by: {all}");
}

/// What workers were asked for, and have not done.
#[derive(Default)]
struct Asked {
    tasks: Vec<(TaskId, Attempt, WorkerId)>,
    replicas: Vec<(ReplicaId, WorkerId)>,
    ended: BTreeSet<QueryId>,
}

impl Asked {
    fn note(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { task, attempt, worker, .. } => self.tasks.push((task, attempt, worker)),
                Action::StartReplica { replica, worker, .. } => self.replicas.push((replica, worker)),
                Action::StopReplica { replica, .. } => self.replicas.retain(|(other, _)| *other != replica),
                Action::Report(query, Report::Done | Report::Failed(_)) => drop(self.ended.insert(query)),
                _ => (),
            }
        }
    }
}

/// Stages that read each other in all ways and hold much, some with a pool that may want memory beside them.
fn hungry(dice: &mut Dice) -> Vec<StageSpec> {
    let stages = (0..2 + dice.below(4) as u32).map(|number| {
        let way = [Way::All, Way::Share, Way::Sections][dice.below(3) as usize];
        let (by_size, by_hash) = (way == Way::Sections, dice.below(2) == 0);
        let when = crate::sched::Fits::Always;
        let mode = Mode { ways: vec![way], by_size, by_hash, shared: Vec::new(), when, stable: false };
        let holds = [Holds::Nothing, Holds::Tables, Holds::MERGED, Holds::GATHERED][dice.below(4) as usize];
        let mut spec = stage(1 + dice.below(5) as usize);
        if let Some(input) = number.checked_sub(1).map(StageId) {
            spec = StageSpec { inputs: vec![input], modes: vec![mode], holds, ..spec };
        }
        if dice.below(3) == 0 {
            let memory = [0, 1 << 20, GIB, 4 * GIB, 8 * GIB][dice.below(5) as usize];
            let each = Resources::cpus([0.0, 0.5, 1.0][dice.below(3) as usize]).with_memory(memory);
            spec.pools = vec![pool(each, [(1, 1), (1, 4), (2, 2)][dice.below(3) as usize])];
        }
        spec
    });
    stages.collect()
}

/// On workers of all kinds, some of which are lost or silent for a while; some queries are released half-way.
#[test]
fn whoever_wants_memory_beside_whom_all_end_and_no_charge_is_left() {
    for seed in 1..=100u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let core = Core::new(Settings { max_task_backlog: [Some(0), None][dice.below(2) as usize], ..settings() });
        let mut play = Play { core, now: Instant::now(), stuck: false };
        let kinds = [&[8 * GIB][..], &[0, 8 * GIB], &[GIB, 8 * GIB, 64 * GIB], &[1 << 20]][dice.below(4) as usize];
        let (mut there, mut asked, mut queries, mut turns) = (Vec::new(), Asked::default(), 0, 0);
        while queries < 6 || asked.ended.len() < 6 {
            turns += 1;
            assert!(turns < 20_000, "seed {seed} does not end: {}", play.status());
            let any = dice.below(1 << 32) as usize;
            let actions = match dice.below(32) {
                0 if queries < 6 => {
                    queries += 1;
                    play.submit(queries, hungry(&mut dice))
                }
                // The first worker stays.
                1 if there.len() > 1 && turns < 1000 => {
                    let worker = there.remove(1 + any % (there.len() - 1));
                    asked.tasks.retain(|(.., on)| *on != WorkerId(worker));
                    asked.replicas.retain(|(_, on)| *on != WorkerId(worker));
                    play.event(lost(worker))
                }
                2 if there.len() < 4 => {
                    there.push(turns);
                    let capacity = Resources::cpus(1.0 + dice.below(3) as f64);
                    play.event(joined(turns, capacity.with_memory(kinds[any % kinds.len()])))
                }
                3 if !there.is_empty() => {
                    let worker = WorkerId(there[any % there.len()]);
                    play.event(Event::Silent { worker, silent: dice.below(3) == 0 })
                }
                4 if queries > 0 && dice.below(8) == 0 => {
                    asked.ended.insert(QueryId(queries));
                    play.event(Event::Release(QueryId(queries)))
                }
                5..=10 if !asked.replicas.is_empty() => {
                    let (replica, _) = asked.replicas.swap_remove(any % asked.replicas.len());
                    play.event(Event::ReplicaReady(replica))
                }
                11..=28 if !asked.tasks.is_empty() => {
                    // In the order in which they came: what waits runs behind another.
                    let (task, attempt, _) = asked.tasks.remove(0);
                    let bytes = [0, 1 << 20, GIB / 4, GIB, 5 * GIB][dice.below(5) as usize];
                    let sizes =
                        Sizes::of((0..16).map(|at| (at, if at == seed as u32 % 16 { bytes / 2 } else { bytes / 32 })));
                    play.core.measured(task, attempt, sizes);
                    leaves(&mut play, (task, attempt), bytes)
                }
                _ => {
                    play.now += Duration::from_millis(100);
                    play.event(Event::Tick)
                }
            };
            asked.note(actions);
            assert_fit(&play, &format!("seed {seed}"));
        }
        (1..=queries).for_each(|query| drop(play.event(Event::Release(QueryId(query)))));
        play.leave();
        play.now += Duration::from_secs(5);
        play.event(Event::Tick);
        play.assert_idle();
    }
}
