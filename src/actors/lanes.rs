//! Jobs that follow each other on one thread: what waits behind a job begins when that has ended, without anybody being asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The lanes of a worker. Clones are the same lanes.
#[derive(Debug)]
pub(super) struct Lanes<K, J>(Arc<Mutex<State<K, J>>>);

#[derive(Debug)]
struct State<K, J> {
    /// Jobs that run or wait.
    jobs: BTreeMap<K, Known>,
    /// What waits in each lane; a lane is there while its thread has something to run.
    waiting: HashMap<u64, VecDeque<(K, J)>>,
    opened: u64,
}

#[derive(Debug)]
struct Known {
    lane: u64,
    /// Ends the job.
    stop: watch::Sender<bool>,
}

impl<K: Copy + Ord, J> Lanes<K, J> {
    /// Puts a job behind the one called `before`. If that is not here, the job comes back as the first of a lane of its own.
    /// `stop` becomes true when the job is to end.
    pub(super) fn put(&self, before: Option<K>, key: K, job: J, stop: watch::Sender<bool>) -> Option<(u64, J)> {
        let mut state = self.state();
        let lane = before.and_then(|before| state.jobs.get(&before)).map(|before| before.lane);
        if let Some(lane) = lane
            && let Some(waiting) = state.waiting.get_mut(&lane)
        {
            waiting.push_back((key, job));
            state.jobs.insert(key, Known { lane, stop });
            return None;
        }
        state.opened += 1;
        let lane = state.opened;
        state.waiting.insert(lane, VecDeque::new());
        state.jobs.insert(key, Known { lane, stop });
        Some((lane, job))
    }

    /// The next job of a lane after one that has ended; `None`: the lane is gone.
    pub(super) fn next(&self, lane: u64, ended: K) -> Option<(K, J)> {
        let mut state = self.state();
        state.jobs.remove(&ended);
        let next = state.waiting.get_mut(&lane)?.pop_front();
        if next.is_none() {
            state.waiting.remove(&lane);
        }
        next
    }

    /// Takes a job out if it waits. One that runs is told to end, if it is to `stop`.
    pub(super) fn withdraw(&self, key: K, stop: bool) -> bool {
        let State { jobs, waiting, .. } = &mut *self.state();
        let Some(known) = jobs.get(&key) else { return false };
        let place = waiting.get_mut(&known.lane);
        let place = place.and_then(|lane| Some((lane.iter().position(|(other, _)| *other == key)?, lane)));
        match place {
            Some((place, lane)) => {
                lane.remove(place);
                jobs.remove(&key);
                true
            }
            None => {
                if stop {
                    known.stop.send_replace(true);
                }
                false
            }
        }
    }

    /// Ends such jobs: takes out those that wait, which are the answer, and tells those that run.
    pub(super) fn end(&self, which: impl Fn(&K) -> bool) -> Vec<K> {
        let keys: Vec<_> = self.state().jobs.keys().copied().filter(|key| which(key)).collect();
        keys.into_iter().filter(|key| self.withdraw(*key, true)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<K, J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, J> Clone for Lanes<K, J> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, J> Default for Lanes<K, J> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { jobs: BTreeMap::new(), waiting: HashMap::new(), opened: 0 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_follow_each_other_in_their_lane_and_what_was_taken_out_does_not_run() {
        let lanes = Lanes::default();
        let put = |before, key| lanes.put(before, key, (), watch::Sender::new(false));
        let (first, _) = put(None, 1).unwrap();
        assert!([(1, 2), (2, 3), (3, 4)].iter().all(|(before, key)| put(Some(*before), *key).is_none()));
        let (second, _) = put(Some(9), 5).expect("nothing is called 9");
        assert_ne!(first, second);
        assert_eq!(lanes.end(|key| *key == 3), [3]);
        assert_eq!(lanes.next(first, 1), Some((2, ())));
        assert_eq!(lanes.next(first, 2), Some((4, ())));
        assert!(put(Some(3), 6).is_some(), "3 was taken out");
        assert!(put(Some(4), 7).is_none(), "4 runs");
        assert_eq!(lanes.next(first, 4), Some((7, ())));
        assert_eq!((lanes.next(first, 7), lanes.next(second, 5)), (None, None));
        assert!(put(Some(7), 8).is_some(), "its lane is gone");
        assert_eq!(lanes.state().waiting.len(), 2, "those of 6 and 8");
    }

    #[test]
    fn what_waits_is_taken_out_and_what_runs_is_told_to_end_if_it_is_to() {
        let lanes = Lanes::default();
        let stops = [1, 2, 3].map(|_| watch::Sender::new(false));
        let told: Vec<_> = stops.iter().map(watch::Sender::subscribe).collect();
        let [one, two, three] = stops;
        lanes.put(None, 1, (), one);
        lanes.put(Some(1), 2, (), two);
        lanes.put(Some(2), 3, (), three);
        let told = || told.iter().map(|told| *told.borrow()).collect::<Vec<_>>();
        assert_eq!((lanes.withdraw(1, false), lanes.withdraw(2, false), lanes.withdraw(9, true)), (false, true, false));
        assert_eq!(told(), [false, false, false], "1 runs, and goes on");
        assert_eq!((lanes.end(|_| true), told()), (vec![3], vec![true, false, false]));
        assert_eq!(lanes.next(1, 1), None);
        assert!(lanes.state().jobs.is_empty() && lanes.state().waiting.is_empty());
    }
}
