//! Which task reads which sections. Adjacent ones are joined until a task has enough to do. One that is too much for a task is read
//! alone, or by several tasks, where that yields the same rows: all of it by each, of which it takes the keys of one part, if it would hold more
//! than fits; or else what some tasks have left of one input.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Fleet, Forced, MOST_PARTS, Part, Reader, Tasks};
use crate::sched::StageId;
use crate::sched::need::Holds;
use crate::sched::resources::Bytes;
use crate::sched::sizes::Sizes;

/// A task reads about so much of its sections, and does not come to life for less than that.
const MOST: u64 = 128 << 20;
const LEAST: u64 = 4 << 20;
/// A section is shared by several tasks if it is so many times as large as most.
const SKEWED: u64 = 4;

/// What the tasks of an input have left in sections.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    pub(crate) input: StageId,
    pub(crate) bytes: u64,
    /// Of each section, where that is known: by the number of the task that left it.
    pub(crate) tasks: Vec<(u32, &'a Sizes)>,
    /// Several tasks may read the rows of one section, some each, if each of them reads all of the other inputs' section.
    pub(crate) may_be_shared: bool,
}

impl Left<'_> {
    fn by_section(&self, sections: u32) -> Vec<u64> {
        let known = (0..sections as usize).map(|at| self.tasks.iter().map(|(_, sizes)| sizes.section(at)).sum::<u64>());
        let known: Vec<_> = known.collect();
        match known.iter().all(|bytes| *bytes == 0) {
            true => vec![self.bytes / u64::from(sections.max(1)); sections as usize],
            false => known,
        }
    }
}

/// Deals sections to tasks: few where there is little, as many as run at once where that is worth it, and more where one would have
/// too much. There are no more tasks than [`MOST_PARTS`] for each section.
pub(crate) fn deal(
    sections: u32,
    inputs: &[Left<'_>],
    fleet: Fleet,
    (holds, by_hash): (Holds, bool),
    forced: Option<Forced>,
) -> Tasks {
    let left: Vec<_> = inputs.iter().map(|input| input.by_section(sections)).collect();
    let sizes: Vec<u64> = (0..sections as usize).map(|at| left.iter().map(|input| input[at]).sum()).collect();
    let all: u64 = sizes.iter().sum();
    let fits = holds.within(fleet.room);
    let most = MOST.min(fits).max(LEAST);
    let wanted = all.div_ceil(LEAST).min(fleet.slots).max(all.div_ceil(most)).clamp(1, u64::from(sections.max(1)));
    let target = all.div_ceil(wanted).max(1);
    let each_alone = matches!(forced, Some(Forced::OneSection | Forced::Shared | Forced::Parts));
    let large = LEAST.max(SKEWED * median(&sizes));
    let largest =
        |part: Range<usize>| left.iter().map(|left| left[part.clone()].iter().sum()).max().unwrap_or_default();
    let share = |section: u32, bytes: u64, readers: &mut Vec<Reader>| {
        let at = section as usize;
        let inputs = inputs.iter().zip(&left).filter(|(input, _)| input.may_be_shared);
        let shared = inputs.max_by_key(|(_, left)| left[at]);
        let parts = shared.map(|(input, left)| {
            let rest = bytes - left[at];
            let most = match forced {
                Some(Forced::Shared) => 2,
                _ if bytes > large => left[at].div_ceil(target.max(rest)),
                _ => 1,
            };
            let by_task: Vec<_> = input.tasks.iter().map(|(_, sizes)| sizes.section(at)).collect();
            let parts = even(&by_task, most, u64::MAX).into_iter();
            parts.map(move |part| (input, part.clone(), rest, by_task[part].iter().sum::<u64>())).collect::<Vec<_>>()
        });
        let sections = section..section + 1;
        let Some(parts) = parts.filter(|parts| parts.len() > 1) else {
            return readers.push(Reader { sections, only: None, part: None, bytes, largest: largest(at..at + 1) });
        };
        let last = parts.len() - 1;
        readers.extend(parts.into_iter().enumerate().map(|(number, (input, part, rest, of_it))| {
            let task = |at: usize| input.tasks.get(at).map_or(u32::MAX, |(task, _)| *task);
            let from = if number == 0 { 0 } else { task(part.start) };
            let to = if number == last { u32::MAX } else { task(part.end) };
            Reader {
                sections: sections.clone(),
                only: Some((input.input, from..to)),
                part: None,
                bytes: rest + of_it,
                largest: rest.max(of_it),
            }
        }));
    };
    let held = |section: u32| {
        let at = section as usize;
        sizes[at] - if holds == Holds::Tables { largest(at..at + 1) } else { 0 }
    };
    let cut = |section: u32, bytes: u64, readers: &mut Vec<Reader>| {
        let parts = match forced {
            Some(Forced::Parts) => 2,
            _ => held(section).div_ceil(fits.max(1)).clamp(1, u64::from(MOST_PARTS)) as u32,
        };
        if !by_hash || parts < 2 {
            return share(section, bytes, readers);
        }
        let (largest, may_be_all) = (largest(section as usize..section as usize + 1), bytes > large);
        let (bytes, largest) = (bytes / u64::from(parts), largest / u64::from(parts));
        readers.extend((0..parts).map(|number| {
            let part = Some(Part { number, of: parts, may_be_all });
            Reader { sections: section..section + 1, only: None, part, bytes, largest }
        }));
    };
    let join = |from: u32, to: u32, readers: &mut Vec<Reader>| {
        let sizes = &sizes[from as usize..to as usize];
        let bytes: u64 = sizes.iter().sum();
        readers.extend(even(sizes, bytes.div_ceil(target), fits).into_iter().map(|part| Reader {
            sections: from + part.start as u32..from + part.end as u32,
            only: None,
            part: None,
            bytes: sizes[part.clone()].iter().sum(),
            largest: largest(from as usize + part.start..from as usize + part.end),
        }));
    };
    let (mut readers, mut from) = (Vec::new(), 0);
    for (section, bytes) in (0..sections).zip(&sizes) {
        if *bytes > target || held(section) > fits || each_alone {
            join(from, section, &mut readers);
            cut(section, *bytes, &mut readers);
            from = section + 1;
        }
    }
    join(from, sections, &mut readers);
    if readers.is_empty() {
        readers.push(Reader { sections: 0..sections, only: None, part: None, bytes: 0, largest: 0 });
    }
    Tasks::Sections(readers)
}

/// What was decided of sections, for people.
pub(crate) fn dealt(sections: u32, tasks: &Tasks) -> String {
    let Tasks::Sections(readers) = tasks else { return String::new() };
    let (count, bytes) = (readers.len(), readers.iter().map(|reader| reader.bytes).sum());
    let shared = readers.iter().filter(|reader| reader.only.is_some()).count();
    let mut shared = match shared {
        0 => String::new(),
        _ => format!(", of which {shared} share sections that are far larger than the others"),
    };
    let parts = readers.iter().filter_map(|reader| Some((reader.part?.of, reader.sections.start)));
    let (parts, cut): (Vec<_>, BTreeSet<_>) = parts.unzip();
    if let Some(most) = parts.iter().max() {
        let (tasks, cut) = (parts.len(), cut.len());
        shared += &format!(
            ", of which {tasks} read a part (j of k), k up to {most}, of {cut} sections that do not fit into memory"
        );
    }
    format!("{sections} sections with {} in {count} task{}{shared}", Bytes(bytes), if count == 1 { "" } else { "s" })
}

/// Joins adjacent sizes to as many parts at most, so that the largest is as small as can be; to more where one would have more than `fits`.
fn even(sizes: &[u64], most: u64, fits: u64) -> Vec<Range<usize>> {
    let most = most.clamp(1, sizes.len().max(1) as u64) as usize;
    let parts = |bound: u64| {
        let (mut parts, mut from, mut sum) = (Vec::new(), 0, 0);
        for (at, size) in sizes.iter().enumerate() {
            if at > from && sum + size > bound {
                parts.push(from..at);
                (from, sum) = (at, 0);
            }
            sum += size;
        }
        parts.extend((from < sizes.len()).then_some(from..sizes.len()));
        parts
    };
    let (mut below, mut enough) = (0, sizes.iter().sum::<u64>());
    while below < enough {
        let bound = below + (enough - below) / 2;
        match parts(bound).len() <= most {
            true => enough = bound,
            false => below = bound + 1,
        }
    }
    parts(enough.min(fits))
}

fn median(sizes: &[u64]) -> u64 {
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet { workers: 2, slots: 4, memory: 4 << 30, room: 1 << 30 };
    const MIB: u64 = 1 << 20;

    fn readers(tasks: &Tasks) -> &[Reader] {
        let Tasks::Sections(readers) = tasks else { panic!("{tasks:?}") };
        readers
    }

    /// One input, of one task with sections of these sizes.
    fn dealt_of(sizes: &[u64], fleet: Fleet) -> Tasks {
        let left = Sizes::of((0..).zip(sizes.iter().copied()));
        let inputs = [Left { input: StageId(0), bytes: 0, tasks: vec![(0, &left)], may_be_shared: false }];
        deal(sizes.len() as u32, &inputs, fleet, (Holds::Nothing, false), None)
    }

    #[test]
    fn sections_are_dealt_once_in_order_to_as_many_tasks_as_they_are_worth() {
        for (bytes, tasks) in [(0, 1), (LEAST, 1), (3 * LEAST, 3), (100 * LEAST, 4), (8 * MOST, 8), (500 * MOST, 64)] {
            let inputs = [Left { input: StageId(0), bytes, tasks: Vec::new(), may_be_shared: true }];
            let dealt = deal(64, &inputs, FLEET, (Holds::Nothing, false), None);
            let readers = readers(&dealt);
            assert_eq!(readers.len(), tasks, "{bytes} bytes");
            assert!(readers.iter().flat_map(|reader| reader.sections.clone()).eq(0..64), "{readers:?}");
            let most = readers.iter().map(|reader| reader.sections.len()).max().unwrap();
            assert!(most <= 64usize.div_ceil(tasks), "{readers:?}");
        }
        assert_eq!(deal(64, &[], FLEET, (Holds::Nothing, false), Some(Forced::OneSection)).count(), 64);
        assert_eq!(deal(0, &[], FLEET, (Holds::Nothing, false), None).count(), 1);
    }

    #[test]
    fn sections_of_many_sizes_make_tasks_of_few() {
        // 512 MiB: the first sections hold most of it, as they would if keys were not hashed.
        let sizes: Vec<_> = (0..64).map(|section| (64 - section) * MIB / 4).collect();
        let dealt = dealt_of(&sizes, FLEET);
        let bytes: Vec<_> = readers(&dealt).iter().map(|reader| reader.bytes).collect();
        let (all, most) = (bytes.iter().sum::<u64>(), *bytes.iter().max().unwrap());
        assert_eq!(bytes.len(), 5);
        assert!(most <= all / 5 * 11 / 10, "{bytes:?}");
        // By number alone the first fifth of the sections would have 180 MiB.
        assert!(readers(&dealt)[0].sections.len() * 2 < readers(&dealt)[4].sections.len(), "{dealt:?}");
    }

    #[test]
    fn sections_are_dealt_to_tasks_that_have_room_for_what_they_hold() {
        let left = Sizes::of((0..64).map(|section| (section, 16 * MIB)));
        let inputs = [Left { input: StageId(0), bytes: 0, tasks: vec![(0, &left)], may_be_shared: false }];
        for (room, holds, most) in
            [(60 * MIB, Holds::SORTED, 20 * MIB), (60 * MIB, Holds::Nothing, MOST), (0, Holds::SORTED, 16 * MIB)]
        {
            let dealt = deal(64, &inputs, Fleet { room, ..FLEET }, (holds, false), None);
            assert!(readers(&dealt).iter().all(|reader| reader.bytes <= most), "{room}, {holds:?}: {dealt:?}");
        }
    }

    #[test]
    fn a_section_that_is_too_much_is_alone_and_the_others_are_no_larger_for_it() {
        let mut sizes = vec![MIB; 64];
        sizes[20] = 600 * MIB;
        let dealt = dealt_of(&sizes, FLEET);
        let readers = readers(&dealt);
        assert!(readers.iter().any(|reader| reader.sections == (20..21) && reader.only.is_none()), "{readers:?}");
        assert!(readers.iter().filter(|reader| reader.sections != (20..21)).all(|reader| reader.bytes <= MOST));
        assert!(readers.iter().flat_map(|reader| reader.sections.clone()).eq(0..64));
    }

    /// A join: its second input must be read whole beside any rows of the first.
    fn join<'a>(probe: &'a [Sizes], build: &'a [Sizes]) -> [Left<'a>; 2] {
        let left = |input, of: &'a [Sizes]| Left {
            input: StageId(input),
            bytes: 0,
            tasks: (0..).zip(of).collect(),
            may_be_shared: input == 0,
        };
        [left(0, probe), left(1, build)]
    }

    #[test]
    fn a_skewed_section_of_a_join_is_shared_by_tasks_that_read_the_other_side_whole() {
        let probe: Vec<_> =
            (0..8).map(|_| Sizes::of((0..16).map(|s| (s, if s == 5 { 32 * MIB } else { MIB })))).collect();
        let build = vec![Sizes::of((0..16).map(|s| (s, MIB))); 2];
        let dealt = deal(16, &join(&probe, &build), FLEET, (Holds::Tables, false), None);
        let shared: Vec<_> = readers(&dealt).iter().filter(|reader| reader.sections == (5..6)).collect();
        assert_eq!(shared.len(), 3, "{dealt:?}");
        // Each task of the probe is read by one of them, and each of the build by all.
        for task in 0..8 {
            let reads = |input| {
                let of = readers(&dealt).iter().enumerate().filter(|(_, reader)| reader.sections == (5..6));
                of.filter(|(at, _)| dealt.reads(*at, StageId(input), task)).count()
            };
            assert_eq!((reads(0), reads(1)), (1, 3), "{task}");
        }
        let most = readers(&dealt).iter().map(|reader| reader.bytes).max().unwrap();
        assert!(most <= 128 * MIB, "{dealt:?}");
        // Where the build is the large side, nothing is gained: it would be read by each of them.
        let dealt = deal(16, &join(&build, &probe), FLEET, (Holds::Tables, false), None);
        assert_eq!(readers(&dealt).iter().filter(|reader| reader.only.is_some()).count(), 0, "{dealt:?}");
        let all = deal(16, &join(&probe, &build), FLEET, (Holds::Tables, false), Some(Forced::Shared));
        assert_eq!(all.count(), 32, "in every shape that can be forced, no more than twice as many");
    }

    #[test]
    fn a_section_that_does_not_fit_is_cut_by_its_keys_into_parts_that_do() {
        let left = Sizes::of((0..16).map(|section| (section, if section == 3 { 1024 * MIB } else { 16 * MIB })));
        let one = [Left { input: StageId(0), bytes: 0, tasks: vec![(0, &left)], may_be_shared: false }];
        let fleet = Fleet { room: 300 * MIB, ..FLEET };
        let cut = deal(16, &one, fleet, (Holds::SORTED, true), None);
        let parts: Vec<_> = readers(&cut).iter().filter(|reader| reader.part.is_some()).collect();
        let numbers = parts.iter().map(|reader| reader.part.map(|part| (part.number, part.of)));
        assert!(numbers.eq((0..11).map(|number| Some((number, 11)))), "{cut:?}");
        assert!(readers(&cut).iter().all(|reader| Holds::SORTED.of(reader.bytes) <= fleet.room), "{cut:?}");
        assert!(parts.iter().all(|reader| reader.sections == (3..4)));
        assert!(
            parts.iter().all(|reader| reader.part.is_some_and(|part| part.may_be_all)),
            "one key may have most of it"
        );
        let said = dealt(16, &cut);
        assert!(
            said.ends_with("of which 11 read a part (j of k), k up to 11, of 1 sections that do not fit into memory"),
            "{said}"
        );
        // What is not there by hashes is read as it is; and there is an end to what is cut.
        assert!(
            readers(&deal(16, &one, fleet, (Holds::SORTED, false), None)).iter().all(|reader| reader.part.is_none())
        );
        let little = Fleet { room: MIB, ..FLEET };
        assert!(deal(16, &one, little, (Holds::SORTED, true), None).count() <= (16 * MOST_PARTS) as usize);
        // Of a join it is the smaller side that has to fit.
        let build = Sizes::of((0..16).map(|section| (section, 64 * MIB)));
        let two = [&one[0].tasks, &vec![(0, &build)]].map(|tasks| Left {
            input: StageId(0),
            bytes: 0,
            tasks: tasks.clone(),
            may_be_shared: false,
        });
        assert!(
            readers(&deal(16, &two, fleet, (Holds::Tables, true), None)).iter().all(|reader| reader.part.is_none())
        );
        let fleet = Fleet { room: 80 * MIB, ..FLEET };
        let cut = deal(16, &two, fleet, (Holds::Tables, true), None);
        assert!(readers(&cut).iter().all(|reader| reader.part.is_some() == (reader.sections == (3..4))), "{cut:?}");
        // Though all sections are of one size.
        let equal = Sizes::of((0..16).map(|section| (section, 256 * MIB)));
        let equal = [Left { input: StageId(0), bytes: 0, tasks: vec![(0, &equal)], may_be_shared: false }];
        let cut = deal(16, &equal, Fleet { room: 600 * MIB, ..FLEET }, (Holds::SORTED, true), None);
        assert!(
            cut.count() == 32
                && readers(&cut).iter().all(|reader| reader.part.is_some_and(|part| part.of == 2 && !part.may_be_all))
        );
    }

    /// Whatever the sizes: every row is read once, what is joined with it is read with it, and the number of tasks is bounded.
    #[test]
    fn every_part_of_a_probe_is_read_once_and_with_all_of_its_build() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut below = move |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        for seed in 0..500 {
            let sections = 1 + below(40) as u32;
            let mut outputs = |count: u64| -> Vec<Sizes> {
                let output = |below: &mut dyn FnMut(u64) -> u64| {
                    Sizes::of(
                        (0..sections).map(|s| (s, [0, below(MIB), below(4 * MIB) << below(8)][below(3) as usize])),
                    )
                };
                (0..count).map(|_| output(&mut below)).collect()
            };
            let (probe, build) = (outputs(1 + seed % 9), outputs(1 + seed % 4));
            let forced = [None, None, Some(Forced::Shared), Some(Forced::OneSection)][seed as usize % 4];
            let fleet = Fleet { slots: 1 + seed % 7, ..FLEET };
            let dealt = deal(sections, &join(&probe, &build), fleet, (Holds::Tables, false), forced);
            assert!(dealt.count() <= 2 * sections as usize, "seed {seed}: {dealt:?}");
            for section in 0..sections {
                let of: Vec<_> =
                    (0..dealt.count()).filter(|at| readers(&dealt)[*at].sections.contains(&section)).collect();
                for task in 0..probe.len() as u32 {
                    let read = of.iter().filter(|at| dealt.reads(**at, StageId(0), task)).count();
                    assert_eq!(read, 1, "seed {seed}, section {section}, task {task}: {dealt:?}");
                }
                assert!((0..build.len() as u32).all(|task| of.iter().all(|at| dealt.reads(*at, StageId(1), task))));
            }
        }
    }
}
