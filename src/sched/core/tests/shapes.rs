//! Stages whose shape is decided while their query runs.

use super::memory;
use super::rollback::placed;
use super::*;
use crate::sched::shape::{Forced, Reader};
use crate::sched::{Fits, Holds, Mode, Sizes, Small, Tasks, Way};

const SMALL: u64 = 1;
const LARGE: u64 = 1 << 40;

/// A join of two stages: the first is read along if the second is small, else both by keys.
fn join(probe: u32, build: u32) -> StageSpec {
    let when = Fits::Small(Small { input: 1, beside: 1 << 20 });
    StageSpec {
        inputs: vec![StageId(probe), StageId(build)],
        modes: vec![
            Mode {
                ways: vec![Way::Along, Way::All],
                by_size: false,
                by_hash: false,
                shared: Vec::new(),
                when,
                stable: false,
            },
            Mode {
                ways: vec![Way::Sections; 2],
                by_size: true,
                by_hash: true,
                shared: vec![0],
                when: Fits::Always,
                stable: false,
            },
        ],
        ..stage(16)
    }
}

/// A scan that is read by the keys of a stage, if those are few.
fn filtered(by: u32) -> StageSpec {
    let small = Fits::Small(Small { input: 0, beside: 1 << 20 });
    let mode =
        |way, when| Mode { ways: vec![way], by_size: false, by_hash: false, shared: Vec::new(), when, stable: false };
    let modes = vec![mode(Way::All, small), mode(Way::Without, Fits::Always)];
    StageSpec { inputs: vec![StageId(by)], modes, ..stage(3) }
}

/// A join of two stages by keys.
fn by_keys(one: u32, other: u32) -> StageSpec {
    let mode = Mode {
        ways: vec![Way::Sections; 2],
        by_size: true,
        by_hash: true,
        shared: Vec::new(),
        when: Fits::Always,
        stable: false,
    };
    StageSpec { inputs: vec![StageId(one), StageId(other)], modes: vec![mode], ..stage(16) }
}

/// A group-by of a stage whose rows may be together already, as that or one of these reads them.
fn grouped(input: u32, by: &[u32]) -> StageSpec {
    let together = Fits::Together(by.iter().copied().map(StageId).collect());
    let along = Mode {
        ways: vec![Way::Along],
        by_size: false,
        by_hash: true,
        shared: Vec::new(),
        when: together,
        stable: false,
    };
    let sections = Mode {
        ways: vec![Way::Sections],
        by_size: true,
        by_hash: true,
        shared: Vec::new(),
        when: Fits::Always,
        stable: false,
    };
    StageSpec { inputs: vec![StageId(input)], modes: vec![along, sections], ..stage(16) }
}

/// A join of a stage whose rows may be by its keys already.
fn joined_again(input: u32, by: &[u32], other: u32) -> StageSpec {
    let mut along = grouped(input, by).modes.remove(0);
    along.ways.push(Way::Sections);
    let modes = vec![along, by_keys(input, other).modes.remove(0)];
    StageSpec { modes, ..by_keys(input, other) }
}

/// A sort of what a stage leaves, and the stages that put it into ranges: samples, borders, ranges, the sort. `first` is the number of the
/// first of them.
fn sort_of(rows: u32, first: u32) -> Vec<StageSpec> {
    let read = |ways: &[(u32, Way)], when, by_size| {
        let mode = Mode {
            ways: ways.iter().map(|(_, way)| *way).collect(),
            by_size,
            by_hash: false,
            shared: Vec::new(),
            when,
            stable: false,
        };
        (ways.iter().map(|(of, _)| StageId(*of)).collect::<Vec<_>>(), mode)
    };
    let stage_of = |tasks, modes: Vec<(Vec<StageId>, Mode)>| StageSpec {
        inputs: modes[0].0.clone(),
        modes: modes.into_iter().map(|(_, mode)| mode).collect(),
        ..stage(tasks)
    };
    let few = Fits::Few(0, 1 << 20);
    let ranges = first + 2;
    vec![
        stage_of(4, vec![read(&[(rows, Way::Share)], Fits::Always, false)]),
        stage_of(1, vec![read(&[(first, Way::All)], Fits::Always, false)]),
        stage_of(4, vec![read(&[(rows, Way::Share), (first + 1, Way::All)], Fits::Always, false)]),
        StageSpec {
            sections: 16,
            ..stage_of(
                1,
                vec![
                    read(&[(rows, Way::All), (ranges, Way::Without)], few, false),
                    read(&[(rows, Way::Without), (ranges, Way::Sections)], Fits::Always, true),
                ],
            )
        },
    ]
}

fn left(task: TaskId, attempt: Attempt, bytes: u64) -> Event {
    let output = Output { id: PartitionId { task, attempt }, rows: 1, bytes };
    Event::TaskEnded { task, attempt, outcome: Ok(output) }
}

/// Lets what runs end, each output with its stage's bytes, until nothing more does: which stages ran tasks, in order.
fn run(play: &mut Play, actions: Vec<Action>, bytes: impl Fn(u32) -> u64) -> Vec<u32> {
    let mut ran = Vec::new();
    let mut todo: VecDeque<_> = runs(&actions).into();
    while let Some((task, attempt)) = todo.pop_front() {
        if ran.last() != Some(&task.stage.0) {
            ran.push(task.stage.0);
        }
        let actions = play.event(left(task, attempt, bytes(task.stage.0)));
        todo.extend(runs(&actions));
    }
    ran
}

fn shape_of(play: &Play, stage: u32) -> (Vec<u32>, usize) {
    let shape = play.core.shape(QueryId(1), StageId(stage)).expect("it is decided");
    (shape.chain.iter().map(|(id, _)| id.0).collect(), shape.tasks.count())
}

#[test]
fn what_may_become_a_part_of_its_reader_waits_until_that_is_decided() {
    for (build, ran, shape) in [(SMALL, vec![1, 2], (vec![0, 2], 4)), (LARGE, vec![1, 0, 2], (vec![2], 16))] {
        let mut play = Play::with_workers(&[4.0]);
        let actions = play.submit(1, vec![stage(4), stage(2), join(0, 1)]);
        assert!(runs(&actions).iter().all(|(task, _)| task.stage == StageId(1)), "the side that decides comes first");
        let seen = run(&mut play, actions, |stage| if stage == 1 { build } else { 1 });
        assert_eq!((seen, shape_of(&play, 2)), (ran, shape));
        assert!(play.core.is_done(QueryId(1)));
    }
}

#[test]
fn a_chain_of_joins_takes_in_one_scan_and_begins_when_the_last_is_decided() {
    let mut play = Play::with_workers(&[4.0]);
    let stages = vec![stage(3), stage(1), join(0, 1), stage(1), join(2, 3), stage(1), join(4, 5)];
    let actions = play.submit(1, stages);
    let builds = runs(&actions);
    assert_eq!(builds.iter().map(|(task, _)| task.stage.0).collect::<BTreeSet<_>>(), [1, 3, 5].into());
    for (task, attempt) in &builds[..2] {
        assert_eq!(runs(&play.event(left(*task, *attempt, SMALL))), [], "one side is still unknown");
    }
    let actions = play.event(left(builds[2].0, builds[2].1, SMALL));
    assert_eq!(runs(&actions).len(), 3, "one task for each of the scan's");
    assert!(runs(&actions).iter().all(|(task, _)| task.stage == StageId(6)));
    assert_eq!(shape_of(&play, 6), (vec![0, 2, 4, 6], 3));
    assert_eq!(play.core.stage(QueryId(1), 0), Some((Some(0), true)), "what is taken in has no tasks");
    let reads: Vec<_> = play.core.shape(QueryId(1), StageId(6)).unwrap().reads.clone();
    assert_eq!(reads, [1, 3, 5].map(|build| (StageId(build), Way::All)));
    assert_eq!(run(&mut play, actions, |_| 1), [6]);
    assert!(play.core.is_done(QueryId(1)));
}

#[test]
fn a_join_that_takes_in_another_reads_what_that_would_read() {
    let mut play = Play::with_workers(&[4.0]);
    let actions = play.submit(1, vec![stage(3), stage(1), join(0, 1), stage(1), join(2, 3)]);
    let ran = run(&mut play, actions, |stage| if stage == 1 { LARGE } else { SMALL });
    assert_eq!(ran.iter().copied().collect::<BTreeSet<_>>(), [0, 1, 3, 4].into(), "stage 2 is a part of stage 4");
    let shape = play.core.shape(QueryId(1), StageId(4)).unwrap();
    assert_eq!(shape.reads, [(StageId(0), Way::Sections), (StageId(1), Way::Sections), (StageId(3), Way::All)]);
    assert!(matches!(&shape.tasks, Tasks::Sections(ranges) if ranges.len() == 16), "{shape:?}");
}

#[test]
fn a_side_waits_for_the_keys_of_the_other_and_reads_them_if_they_are_few() {
    for (few, reads) in [(SMALL, vec![(StageId(0), Way::All)]), (LARGE, vec![])] {
        let mut play = Play::with_workers(&[4.0]);
        let actions = play.submit(1, vec![stage(2), filtered(0), by_keys(0, 1)]);
        assert!(runs(&actions).iter().all(|(task, _)| task.stage == StageId(0)), "the keys come first");
        let ran = run(&mut play, actions, |stage| if stage == 0 { few } else { 1 });
        assert_eq!(ran, [0, 1, 2]);
        assert_eq!(play.core.shape(QueryId(1), StageId(1)).unwrap().reads, reads);
        assert!(play.core.is_done(QueryId(1)));
    }
}

#[test]
fn who_has_taken_in_a_stage_waits_for_what_that_reads() {
    let mut play = Play::with_workers(&[4.0]);
    let dealt = StageSpec { inputs: vec![StageId(0)], ..stage(3) };
    let actions = play.submit(1, vec![stage(2), dealt, stage(1), join(1, 2)]);
    let small = runs(&actions).into_iter().find(|(task, _)| task.stage == StageId(2)).unwrap();
    let mut begun = play.event(left(small.0, small.1, SMALL));
    assert_eq!(shape_of(&play, 3), (vec![1, 3], 3));
    begun.extend(actions.into_iter().filter(|action| matches!(action, Action::Run { task, .. } if *task != small.0)));
    assert_eq!(run(&mut play, begun, |_| 1), [0, 3]);
    assert!(play.core.is_done(QueryId(1)));
}

#[test]
fn a_shape_is_never_decided_again_whatever_is_lost_and_what_is_lost_below_it_is_made_again() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let on = |worker| [(0, Affinity::Soft(WorkerId(worker)))].into();
    let stages = vec![stage(4), StageSpec { affinity: on(1), ..stage(1) }, join(0, 1)];
    let actions = play.submit(1, stages);
    let [(build, attempt)] = runs(&actions)[..] else { panic!("{actions:?}") };
    let mut begun = play.event(left(build, attempt, SMALL));
    let [(first, attempt), ..] = runs(&begun)[..] else { panic!("{begun:?}") };
    begun.extend(play.event(left(first, attempt, 1)));
    // The small side is lost, and large when it is made again.
    let again = play.event(lost(1));
    assert_eq!(runs(&again).iter().map(|(task, _)| *task).collect::<Vec<_>>(), [build]);
    // What runs where nothing was lost, runs on.
    begun.retain(|action| matches!(action, Action::Run { worker: WorkerId(0), task, .. } if *task != first));
    begun.extend(again);
    let ran = run(&mut play, begun, |stage| if stage == 1 { LARGE } else { 1 });
    assert!(!ran.contains(&0), "the scan is a part of the join as before: {ran:?}");
    assert_eq!(shape_of(&play, 2), (vec![0, 2], 4));
    assert!(play.core.is_done(QueryId(1)));
}

const MIB: u64 = 1 << 20;

/// A probe of 16 tasks and a build of two are joined by sections; of the probe the sixth section has so many bytes.
fn measured(play: &mut Play, skewed: u64) -> Vec<Action> {
    measured_of(play, skewed, vec![stage(16), stage(2), join(0, 1)])
}

fn measured_of(play: &mut Play, skewed: u64, stages: Vec<StageSpec>) -> Vec<Action> {
    let mut todo: VecDeque<_> = runs(&play.submit(1, stages)).into();
    let mut last = Vec::new();
    while let Some((task, attempt)) = todo.pop_front() {
        let of = |section| if (task.stage.0, section) == (0, 5) { skewed / 16 } else { MIB };
        play.core.measured(task, attempt, Sizes::of((0..16).map(|section| (section, of(section)))));
        last = play.event(left(task, attempt, 64 * MIB));
        todo.extend(runs(&last).into_iter().filter(|(task, _)| task.stage != StageId(2)));
    }
    last
}

fn readers(play: &Play) -> Vec<Reader> {
    let Tasks::Sections(readers) = &play.core.shape(QueryId(1), StageId(2)).unwrap().tasks else { panic!() };
    readers.clone()
}

/// The stages that have tasks, where all are large.
fn ran(play: &mut Play, actions: Vec<Action>) -> Vec<u32> {
    let mut ran = run(play, actions, |_| LARGE);
    ran.sort_unstable();
    ran
}

#[test]
fn rows_that_are_together_are_not_moved_again() {
    // Two stages are joined by keys, that with a third, and all is grouped.
    let stages = || vec![stage(4), stage(4), by_keys(0, 1), stage(4), joined_again(2, &[2], 3), grouped(4, &[2])];
    let mut play = Play::with_workers(&[2.0]);
    let actions = play.submit(1, stages());
    assert_eq!(ran(&mut play, actions), [0, 1, 3, 5]);
    let tasks = shape_of(&play, 5).1;
    assert!(tasks > 1);
    let shape = play.core.shape(QueryId(1), StageId(5)).unwrap();
    let chain: Vec<_> = shape.chain.iter().map(|(id, mode)| (id.0, *mode)).collect();
    assert_eq!(chain, [(2, 0), (4, 0), (5, 0)]);
    assert_eq!(shape.reads, [0, 1, 3].map(|id| (StageId(id), Way::Sections)));
    // In other sections than those that would do.
    let mut others = stages();
    others[5] = grouped(4, &[4]);
    let actions = play.submit(2, others);
    assert_eq!(ran(&mut play, actions), [0, 1, 3, 4, 5]);
}

#[test]
fn rows_of_a_section_that_tasks_share_are_not_together() {
    let mut play = Play::with_workers(&[1.0]);
    let shared = Mode { shared: vec![0], ..by_keys(0, 1).modes.remove(0) };
    let join = StageSpec { modes: vec![shared], ..by_keys(0, 1) };
    let started = measured_of(&mut play, 600 * MIB, vec![stage(16), stage(2), join, grouped(2, &[2])]);
    assert!(readers(&play).iter().any(|reader| reader.only.is_some()), "{started:?}");
    assert_eq!(play.core.shape(QueryId(1), StageId(2)).unwrap().chain.len(), 1);
    let is_of = |(task, _): &(TaskId, Attempt)| task.stage == StageId(2);
    assert!(runs(&started).iter().any(is_of), "it runs for itself");
    assert!(play.core.shape(QueryId(1), StageId(3)).is_none(), "its reader waits for what it leaves");
}

/// Parts of sections are by hashes: rows that are in sections otherwise are in no part that could meet them.
#[test]
fn who_reads_beside_what_is_in_no_parts_is_not_taken_in_where_there_are_some() {
    for (by_hash, taken_in) in [(true, true), (false, false)] {
        let settings = Settings { forced: Some(Forced::Parts), ..settings() };
        let mut play = Play { core: Core::new(settings), now: Instant::now(), stuck: false };
        play.event(joined(0, Resources::cpus(2.0)));
        let mut again = joined_again(2, &[2], 3);
        again.modes[0].by_hash = by_hash;
        let actions = play.submit(1, vec![stage(4), stage(4), by_keys(0, 1), stage(4), again]);
        ran(&mut play, actions);
        let shape = play.core.shape(QueryId(1), StageId(4)).unwrap();
        assert_eq!((shape.chain.len() == 2, shape.tasks.have_parts()), (taken_in, true), "{shape:?}");
    }
}

#[test]
fn what_sections_hold_decides_who_reads_them_and_the_largest_tasks_start_first() {
    let mut play = Play::with_workers(&[1.0]);
    let started = measured(&mut play, 600 * MIB);
    let readers = readers(&play);
    let most = readers.iter().map(|reader| reader.bytes).max().unwrap();
    assert!(most < 160 * MIB, "{readers:?}");
    assert!(readers.iter().filter(|reader| reader.only.is_some()).count() >= 4, "{readers:?}");
    let [first, second] = runs(&started)[..] else { panic!("{started:?}") };
    let size = |(task, _): (TaskId, Attempt)| readers[task.index as usize].bytes;
    assert!(size(first) == most && size(second) <= most, "{readers:?}");
    assert!(readers.iter().filter(|reader| reader.bytes > size(second)).count() <= 1, "{readers:?}");
    let query = play.core.queries.get(&QueryId(1)).unwrap();
    assert!(query.stages.iter().all(|stage| stage.sections.is_empty()), "nobody asks for them any more");
}

#[test]
fn readers_of_a_shared_section_stay_who_they_are_whatever_is_made_again() {
    let mut play = Play::with_workers(&[1.0, 1.0]);
    let started = measured(&mut play, 600 * MIB);
    let before = readers(&play);
    assert!(before.iter().any(|reader| reader.only.is_some()), "{before:?}");
    // Half of what was left is gone, and is far smaller when it is made again.
    let mut todo: Vec<_> = placed(&started).into_iter().filter(|(.., on)| *on == WorkerId(0)).collect();
    todo.extend(placed(&play.event(lost(1))));
    while let Some((task, attempt, _)) = todo.pop() {
        play.core.measured(task, attempt, Sizes::of([(0, 64)]));
        todo.extend(placed(&play.event(left(task, attempt, 64))));
    }
    assert_eq!(readers(&play), before);
    assert!(play.core.is_done(QueryId(1)));
    assert_eq!(play.core.outputs(QueryId(1), StageId(2)).unwrap().len(), before.len());
}

#[test]
fn sizes_of_an_attempt_that_does_not_count_are_not_heard() {
    let mut play = Play::with_workers(&[4.0]);
    let actions = play.submit(1, vec![stage(4), stage(2), join(0, 1)]);
    let (task, attempt) = runs(&actions)[0];
    play.core.measured(task, Attempt(attempt.0 + 1), Sizes::of([(0, 64)]));
    play.core.measured(TaskId { index: 99, ..task }, attempt, Sizes::of([(0, 64)]));
    play.core.measured(TaskId { stage: StageId(2), ..task }, attempt, Sizes::of([(0, 64)]));
    play.core.measured(TaskId { query: QueryId(9), ..task }, attempt, Sizes::of([(0, 64)]));
    play.core.measured(task, attempt, Sizes::of((0..1024).map(|section| (section, 64))));
    let query = play.core.queries.get(&QueryId(1)).unwrap();
    let heard: Vec<_> = query.stages.iter().map(|stage| stage.sections.len()).collect();
    assert_eq!(heard.iter().sum::<usize>(), 1);
    let kept = &query.stages[task.stage.0 as usize].sections[&(task.index as usize)];
    assert_eq!(*kept, Sizes::of((0..16).map(|section| (section, 64))), "of no more sections than there are");
}

/// A xorshift generator: the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Whether a stage has its tasks from others, or from sections.
fn is_joined(stages: &[StageSpec], id: u32) -> bool {
    stages[id as usize].modes.iter().any(|mode| mode.by_size)
}

/// Random trees of joins over scans, whose workers are lost now and then.
#[test]
fn whatever_sizes_turn_out_and_whatever_is_lost_every_query_ends_and_no_task_reads_what_is_not_there() {
    for seed in 1..=400u32 {
        let mut dice = Dice((seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut play = Play::with_workers(&[]);
        let capacity =
            |dice: &mut Dice, cpus| Resources::cpus(cpus).with_memory([0, 1 << 34, 1 << 42][dice.below(3) as usize]);
        for (worker, cpus) in [1.0, 2.0].into_iter().enumerate() {
            play.event(joined(worker as u32, capacity(&mut dice, cpus)));
        }
        let (mut stages, mut tops) = (Vec::new(), Vec::<u32>::new());
        for _ in 0..2 + dice.below(4) {
            tops.push(stages.len() as u32);
            stages.push(stage(1 + dice.below(4) as usize));
        }
        while tops.len() > 1 {
            let (probe, build) = (tops.remove(0), tops.remove(dice.below(tops.len() as u64) as usize));
            let of_this: Vec<u32> = (0..=probe).collect();
            match dice.below(4) {
                // Each is by the same keys.
                1 if is_joined(&stages, probe) => stages.push(joined_again(probe, &of_this, build)),
                // What is read by keys has been taken for a scan of its own, whatever it was to be.
                0 => stages.extend([
                    filtered(build),
                    by_keys(build, stages.len() as u32),
                    join(probe, stages.len() as u32 + 1),
                ]),
                _ => stages.push(join(probe, build)),
            }
            if dice.below(3) == 0 {
                let last = stages.len() as u32 - 1;
                stages.push(grouped(last, &(0..=last).collect::<Vec<_>>()));
            }
            if dice.below(3) == 0 {
                // Its rows are dealt anew.
                stages.push(StageSpec { inputs: vec![StageId(stages.len() as u32 - 1)], ..stage(3) });
            }
            if dice.below(3) == 0 {
                stages.extend(sort_of(stages.len() as u32 - 1, stages.len() as u32));
            }
            tops.insert(dice.below(tops.len() as u64 + 1) as usize, stages.len() as u32 - 1);
        }
        for stage in &mut stages {
            stage.holds = [Holds::Nothing, Holds::Tables, Holds::MERGED, Holds::GATHERED][dice.below(4) as usize];
        }
        let sizes: Vec<u64> = stages.iter().map(|_| [SMALL, LARGE][dice.below(2) as usize]).collect();
        let (mut workers, last) = (2, stages.len() as u32 - 1);
        let mut actions = play.submit(1, stages);
        let mut todo: Vec<(TaskId, Attempt, WorkerId)> = Vec::new();
        for turn in 0.. {
            assert!(turn < 10_000, "seed {seed} does not end");
            for action in &actions {
                let Action::Run { task, attempt, worker, .. } = action else { continue };
                todo.push((*task, *attempt, *worker));
                for (input, _) in play.core.shape(task.query, task.stage).unwrap().reads.clone() {
                    assert!(
                        play.core.outputs(QueryId(1), input).is_some_and(|left| !left.is_empty()),
                        "seed {seed}: {task} reads nothing"
                    );
                }
            }
            memory::assert_fit(&play, &format!("seed {seed}"));
            if play.core.is_done(QueryId(1)) {
                break;
            }
            actions = match dice.below(12) {
                0 if workers < 5 => {
                    let gone = WorkerId(dice.below(workers) as u32);
                    todo.retain(|(.., on)| *on != gone);
                    let mut actions = play.event(lost(gone.0));
                    actions.extend(play.event(joined(workers as u32, capacity(&mut dice, 1.0))));
                    workers += 1;
                    actions
                }
                _ if todo.is_empty() => {
                    play.now += Duration::from_millis(100);
                    play.event(Event::Tick)
                }
                _ => {
                    let (task, attempt, _) = todo.remove(dice.below(todo.len() as u64) as usize);
                    if dice.below(2) == 0 {
                        let large = dice.below(16) as u32;
                        let sizes = (0..16)
                            .map(|section| (section, (dice.below(8) * MIB) << if section == large { 9 } else { 1 }));
                        play.core.measured(task, attempt, Sizes::of(sizes));
                    }
                    play.event(left(task, attempt, sizes[task.stage.0 as usize] / 8))
                }
            };
        }
        let shape = play.core.shape(QueryId(1), StageId(last)).unwrap();
        assert_eq!(play.core.outputs(QueryId(1), StageId(last)).unwrap().len(), shape.tasks.count(), "seed {seed}");
        play.event(Event::Release(QueryId(1)));
        play.leave();
        play.assert_idle();
    }
}

#[test]
fn what_may_not_be_read_waits_until_that_is_known_and_does_not_run_if_nobody_reads_it() {
    for (rows, ran, tasks) in [(SMALL, vec![0, 4], 1), (LARGE, vec![0, 1, 2, 3, 4], 16)] {
        let mut play = Play::with_workers(&[4.0]);
        let mut stages = vec![stage(4)];
        stages.extend(sort_of(0, 1));
        let actions = play.submit(1, stages);
        assert!(runs(&actions).iter().all(|(task, _)| task.stage == StageId(0)), "the rows decide");
        assert_eq!(run(&mut play, actions, |_| rows), ran);
        assert_eq!(shape_of(&play, 4), (vec![4], tasks));
        assert!((0..5).all(|stage| play.core.stage(QueryId(1), stage).unwrap().1), "all of them are done");
        assert!(play.core.is_done(QueryId(1)));
    }
}

#[test]
fn who_takes_in_what_sorts_few_rows_lets_go_of_their_ranges_too() {
    for (rows, small) in [(SMALL, SMALL), (SMALL, LARGE), (LARGE, SMALL), (LARGE, LARGE)] {
        let mut play = Play::with_workers(&[4.0]);
        let mut stages = vec![stage(4)];
        stages.extend(sort_of(0, 1));
        // A sort of the sorted rows, which are joined to something before that, and of something else.
        stages.extend([stage(1), join(4, 5)]);
        stages.extend(sort_of(6, 7));
        let actions = play.submit(1, stages);
        let bytes = |stage| match stage {
            5 => small,
            _ => rows,
        };
        let ran: BTreeSet<_> = run(&mut play, actions, bytes).into_iter().collect();
        let ranges = |first: u32| (first..first + 3).filter(|_| rows == LARGE);
        let alone = (small == LARGE).then_some(4);
        let wanted: BTreeSet<_> = [0, 5, 6, 10].into_iter().chain(alone).chain(ranges(1)).chain(ranges(7)).collect();
        assert_eq!(ran, wanted, "{rows} bytes, beside {small}");
        assert!((0..11).all(|stage| play.core.stage(QueryId(1), stage).unwrap().1), "all of them are done");
        assert!(play.core.is_done(QueryId(1)));
    }
}
