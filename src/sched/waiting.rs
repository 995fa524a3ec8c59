//! Tasks of a stage that are to be started, by where they want to run.

use std::collections::{BTreeMap, VecDeque};

use super::{Affinity, WorkerId};

#[derive(Debug, Default)]
pub(super) struct Waiting {
    anywhere: VecDeque<usize>,
    /// Rather on one worker.
    soft: BTreeMap<WorkerId, VecDeque<usize>>,
    /// On one worker and no other.
    hard: BTreeMap<WorkerId, VecDeque<usize>>,
}

impl Waiting {
    /// Adds a task, the last of those that want the same.
    pub(super) fn push(&mut self, task: usize, wish: Option<Affinity>) {
        match wish {
            Some(Affinity::Hard(worker)) => self.hard.entry(worker).or_default().push_back(task),
            Some(Affinity::Soft(worker)) => self.soft.entry(worker).or_default().push_back(task),
            None => self.anywhere.push_back(task),
        }
    }

    /// Adds a task that runs anywhere, before all others.
    pub(super) fn push_front(&mut self, task: usize) {
        self.anywhere.push_front(task);
    }

    /// Adds a task that runs anywhere, in its order among such tasks.
    pub(super) fn insert(&mut self, task: usize) {
        let place = self.anywhere.partition_point(|before| *before < task);
        self.anywhere.insert(place, task);
    }

    pub(super) fn len(&self) -> usize {
        let wishing = self.soft.values().chain(self.hard.values());
        self.anywhere.len() + wishing.map(VecDeque::len).sum::<usize>()
    }

    /// The next one that runs anywhere, or, if there is none, one that wants a worker.
    pub(super) fn first(&self) -> Option<usize> {
        let wishing = || self.hard.values().chain(self.soft.values()).find_map(|tasks| tasks.front());
        self.anywhere.front().or_else(wishing).copied()
    }

    /// Whether a task runs anywhere and wants nothing.
    pub(super) fn any(&self) -> bool {
        !self.anywhere.is_empty()
    }

    /// Where most of those want to be that would run elsewhere too.
    pub(super) fn most_wanted(&self) -> Option<WorkerId> {
        self.soft.iter().max_by_key(|(_, tasks)| tasks.len()).map(|(worker, _)| *worker)
    }

    /// Workers on which some would rather run than elsewhere.
    pub(super) fn wishes(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.soft.keys().copied()
    }

    /// Workers on which some must run.
    pub(super) fn pins(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.hard.keys().copied()
    }

    /// Tasks that must run on one worker.
    pub(super) fn pinned(&self) -> impl Iterator<Item = (WorkerId, usize)> + '_ {
        self.hard.iter().map(|(worker, tasks)| (*worker, tasks.len()))
    }

    /// Whether some task wants no other worker than this one.
    pub(super) fn has_for(&self, worker: WorkerId) -> bool {
        self.any() || self.soft.contains_key(&worker) || self.hard.contains_key(&worker)
    }

    /// Takes the next task for a worker: one that must run there, one that wants to, one that runs anywhere.
    pub(super) fn take(&mut self, worker: WorkerId) -> Option<usize> {
        let wishing = pop(&mut self.hard, worker).or_else(|| pop(&mut self.soft, worker));
        wishing.or_else(|| self.anywhere.pop_front())
    }

    /// The same; if there is none, one that wants to be elsewhere.
    pub(super) fn take_any(&mut self, worker: WorkerId) -> Option<usize> {
        let wanted = self.most_wanted();
        self.take(worker).or_else(|| pop(&mut self.soft, wanted?))
    }

    /// Tasks that wanted a worker run anywhere: it is gone.
    pub(super) fn lose(&mut self, worker: WorkerId) {
        let wishing = [self.hard.remove(&worker), self.soft.remove(&worker)];
        self.anywhere.extend(wishing.into_iter().flatten().flatten());
    }
}

fn pop(lists: &mut BTreeMap<WorkerId, VecDeque<usize>>, worker: WorkerId) -> Option<usize> {
    let tasks = lists.get_mut(&worker)?;
    let task = tasks.pop_front();
    if tasks.is_empty() {
        lists.remove(&worker);
    }
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gets_what_wants_it_first_and_what_wants_another_last() {
        let [one, two] = [WorkerId(1), WorkerId(2)];
        let mut waiting = Waiting::default();
        waiting.push(0, None);
        waiting.push(1, Some(Affinity::Soft(one)));
        waiting.push(2, Some(Affinity::Soft(two)));
        waiting.push(3, Some(Affinity::Soft(two)));
        waiting.push(4, Some(Affinity::Hard(two)));
        assert_eq!((waiting.len(), waiting.most_wanted()), (5, Some(two)));
        assert_eq!(waiting.take(two), Some(4));
        assert_eq!(waiting.take(one), Some(1));
        assert_eq!(waiting.take(one), Some(0));
        assert!(!waiting.has_for(one) && waiting.has_for(two));
        assert_eq!((waiting.take(one), waiting.take_any(one)), (None, Some(2)));
        waiting.lose(two);
        waiting.insert(1);
        assert_eq!([waiting.take(one), waiting.take(one), waiting.take(one)], [Some(1), Some(3), None]);
        assert_eq!(waiting.len(), 0);
    }
}
