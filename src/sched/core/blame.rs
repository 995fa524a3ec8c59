//! Which task ends the workers that it runs on. A lost worker counts against each task that ran there; but where one task, and no other,
//! ran on each of the last that were lost, it is the cause, unless that may be chance.

use std::collections::{BTreeSet, VecDeque};

use crate::sched::TaskId;

/// Workers that a task may lose before its query fails, since it succeeded last.
pub(super) const MAX_LOSSES: u32 = 8;
/// The least number of losses in a row that prove something.
const POISON: usize = 3;
/// Chance, one in so many, that proves nothing.
const CHANCE: u64 = 100;

/// The last workers that were lost: whose tasks ran there.
#[derive(Debug, Default)]
pub(super) struct Losses(VecDeque<BTreeSet<TaskId>>);

impl Losses {
    /// One of so many workers is lost on which these tasks ran. The one of them that is the cause, if that is clear: no other ran on
    /// each of the last three that were lost, or on each of so many more that a task which is not the cause, and runs on one of the
    /// workers, would be there once in a hundred times.
    pub(super) fn note(&mut self, ran: BTreeSet<TaskId>, workers: usize) -> Option<TaskId> {
        if self.0.len() == MAX_LOSSES as usize {
            self.0.pop_front();
        }
        let (mut common, mut chance) = (ran.clone(), 1u64);
        self.0.push_back(ran);
        for (before, ran) in self.0.iter().rev().enumerate().skip(1) {
            common.retain(|task| ran.contains(task));
            chance = chance.saturating_mul(workers as u64);
            match common.first() {
                None => return None,
                Some(task) if common.len() == 1 && before + 1 >= POISON && chance >= CHANCE => return Some(*task),
                Some(_) => (),
            }
        }
        None
    }

    /// A task has succeeded: what was before is forgiven.
    pub(super) fn clear(&mut self, task: TaskId) {
        self.0.iter_mut().for_each(|ran| _ = ran.remove(&task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{QueryId, StageId};

    fn task(index: u32) -> TaskId {
        TaskId { query: QueryId(1), stage: StageId(0), index }
    }

    /// What each of these losses proves, of so many workers.
    fn proved(workers: usize, losses: &[&[u32]]) -> Vec<Option<u32>> {
        let mut noted = Losses::default();
        let note = |ran: &&[u32]| noted.note(ran.iter().map(|index| task(*index)).collect(), workers);
        losses.iter().map(note).map(|proved| proved.map(|task| task.index)).collect()
    }

    #[test]
    fn the_only_task_on_each_of_the_last_lost_workers_is_the_cause_beyond_chance() {
        assert_eq!(proved(10, &[&[1, 2], &[1, 3], &[1, 2, 3]]), [None, None, Some(1)]);
        assert_eq!(proved(10, &[&[1, 2], &[1, 2], &[1, 2], &[1]]), [None, None, None, Some(1)], "one of two, at first");
        assert_eq!(proved(10, &[&[1], &[1], &[2], &[1], &[1]]), [None; 5], "others are lost without it");
        assert_eq!(proved(10, &[&[1], &[1], &[], &[1]]), [None; 4], "or with nothing there");
    }

    #[test]
    fn of_few_workers_more_must_be_lost() {
        let after = |workers| {
            let proved = proved(workers, &[&[1u32][..]; 8]);
            proved.iter().position(Option::is_some).map(|at| at + 1)
        };
        assert_eq!(
            [1, 2, 3, 4, 5, 9, 10, 1000].map(after),
            [None, Some(8), Some(6), Some(5), Some(4), Some(4), Some(3), Some(3)]
        );
    }

    #[test]
    fn who_has_succeeded_is_cleared() {
        let mut noted = Losses::default();
        assert!((0..2).all(|_| noted.note([task(1)].into(), 100).is_none()));
        noted.clear(task(1));
        assert!((0..2).all(|_| noted.note([task(1)].into(), 100).is_none()));
        assert_eq!(noted.note([task(1)].into(), 100), Some(task(1)));
    }
}
