//! Jobs that follow each other on one thread: what waits behind a job begins when that has ended, without anybody being asked.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The lanes of a worker. Clones are the same lanes.
#[derive(Debug)]
pub(super) struct Lanes<K, J>(Arc<Mutex<State<K, J>>>);

#[derive(Debug)]
struct State<K, J> {
    /// Where each job is, running or waiting.
    lane_of: HashMap<K, u64>,
    /// What waits in each lane; a lane is there while its thread has something to run.
    waiting: HashMap<u64, VecDeque<(K, J)>>,
    opened: u64,
}

impl<K: Copy + Eq + Hash, J> Lanes<K, J> {
    /// Puts a job behind the one called `before`. If that is not here, the job comes back as the first of a lane of its own.
    pub(super) fn put(&self, before: Option<K>, key: K, job: J) -> Option<(u64, J)> {
        let mut state = self.state();
        let lane = before.and_then(|before| state.lane_of.get(&before)).copied();
        if let Some(lane) = lane
            && let Some(waiting) = state.waiting.get_mut(&lane)
        {
            waiting.push_back((key, job));
            state.lane_of.insert(key, lane);
            return None;
        }
        state.opened += 1;
        let lane = state.opened;
        state.waiting.insert(lane, VecDeque::new());
        state.lane_of.insert(key, lane);
        Some((lane, job))
    }

    /// The next job of a lane after one that has ended; `None`: the lane is gone.
    pub(super) fn next(&self, lane: u64, ended: K) -> Option<(K, J)> {
        let mut state = self.state();
        state.lane_of.remove(&ended);
        let next = state.waiting.get_mut(&lane)?.pop_front();
        if next.is_none() {
            state.waiting.remove(&lane);
        }
        next
    }

    /// Takes out the jobs that wait and are not to `stay`.
    pub(super) fn retain(&self, stay: impl Fn(&K) -> bool) {
        let State { lane_of, waiting, .. } = &mut *self.state();
        for (key, _) in waiting.values().flatten().filter(|(key, _)| !stay(key)) {
            lane_of.remove(key);
        }
        waiting.values_mut().for_each(|waiting| waiting.retain(|(key, _)| stay(key)));
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
        Self(Arc::new(Mutex::new(State { lane_of: HashMap::new(), waiting: HashMap::new(), opened: 0 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_follow_each_other_in_their_lane_and_what_was_taken_out_does_not_run() {
        let lanes = Lanes::default();
        let (first, _) = lanes.put(None, 1, ()).unwrap();
        assert!([(1, 2), (2, 3), (3, 4)].iter().all(|(before, key)| lanes.put(Some(*before), *key, ()).is_none()));
        let (second, _) = lanes.put(Some(9), 5, ()).expect("nothing is called 9");
        assert_ne!(first, second);
        lanes.retain(|key| *key != 3);
        assert_eq!(lanes.next(first, 1), Some((2, ())));
        assert_eq!(lanes.next(first, 2), Some((4, ())));
        assert!(lanes.put(Some(3), 6, ()).is_some(), "3 was taken out");
        assert!(lanes.put(Some(4), 7, ()).is_none(), "4 runs");
        assert_eq!(lanes.next(first, 4), Some((7, ())));
        assert_eq!((lanes.next(first, 7), lanes.next(second, 5)), (None, None));
        assert!(lanes.put(Some(7), 8, ()).is_some(), "its lane is gone");
        assert_eq!(lanes.state().waiting.len(), 2, "those of 6 and 8");
    }
}
