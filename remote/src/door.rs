//! Who may knock: handshakes and joins at a time, in all and of one host, and hosts that were refused too often. Pure.
//!
//! Only what a host has proven is held against it: the sender of a first packet can be anybody, until it has answered.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rates::{Rates, host};

/// Handshakes at a time, and those of one host.
const HANDSHAKES: usize = 128;
const HANDSHAKES_OF_HOST: usize = 64;
/// Handshakes at a time above which a newcomer proves its address first, which costs it a round trip and us nothing.
const CALM: usize = 32;
/// Joins served at a time, and those of one host: few of the places for handshakes, which peers need too.
const JOINS: usize = 32;
const JOINS_OF_HOST: usize = 24;
/// Handshakes that may fail at once, and how long one of them counts. A host beyond the first proves its address; one
/// that has, and goes beyond the second, is not answered.
const DOUBTS: u32 = 8;
const REFUSALS: u32 = 32;
const EACH: Duration = Duration::from_millis(100);

/// How often it is said that newcomers are not answered.
const SAY: Duration = Duration::from_secs(1);

/// What to do with a newcomer.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Shake hands, as long as it has its place.
    Enter(Place),
    /// Let it prove its address.
    Prove,
    /// Do not answer. Who means it knocks again.
    Ignore {
        why: &'static str,
        /// How many were not answered since it was said last, if it is to be said now.
        say: Option<u64>,
    },
}

/// The door of an endpoint.
#[derive(Debug)]
pub(crate) struct Door {
    inside: Crowd,
    doubts: Rates<IpAddr>,
    refusals: Rates<IpAddr>,
    ignored: u64,
    said: Option<Duration>,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self {
            inside: Crowd::new(HANDSHAKES, HANDSHAKES_OF_HOST),
            doubts: Rates::new(DOUBTS, EACH),
            refusals: Rates::new(REFUSALS, EACH),
            ignored: 0,
            said: None,
        }
    }

    /// A newcomer knocks.
    pub(crate) fn knock(&mut self, from: IpAddr, proven: bool, now: Duration) -> Verdict {
        if self.refusals.is_full(host(from), now) {
            return self.ignore("its host was refused too often", now);
        }
        if !proven && (self.inside.len() >= CALM || self.doubts.is_full(host(from), now)) {
            return Verdict::Prove;
        }
        match self.inside.enter(from) {
            Some(place) => Verdict::Enter(place),
            None => self.ignore("too many handshakes at once", now),
        }
    }

    /// A handshake has failed.
    pub(crate) fn refused(&mut self, from: IpAddr, proven: bool, now: Duration) {
        let counts = if proven { &mut self.refusals } else { &mut self.doubts };
        counts.count(host(from), now);
    }

    fn ignore(&mut self, why: &'static str, now: Duration) -> Verdict {
        self.ignored += 1;
        let say = self.said.is_none_or(|said| now.abs_diff(said) >= SAY).then(|| std::mem::take(&mut self.ignored));
        if say.is_some() {
            self.said = Some(now);
        }
        Verdict::Ignore { why, say }
    }
}

/// Those who are served at a time, per host. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    of_host: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    most: usize,
    most_of_host: usize,
}

impl Crowd {
    fn new(most: usize, most_of_host: usize) -> Self {
        Self { of_host: Arc::default(), most, most_of_host }
    }

    /// A place for one of a host, if there is one.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Place> {
        let mut of_host = lock(&self.of_host);
        if of_host.values().sum::<usize>() >= self.most {
            return None;
        }
        let count = of_host.entry(host(from)).or_default();
        if *count >= self.most_of_host {
            return None; // nobody's entry is left behind: it counts some
        }
        *count += 1;
        Some(Place { of_host: Arc::clone(&self.of_host), host: host(from) })
    }

    fn len(&self) -> usize {
        lock(&self.of_host).values().sum()
    }
}

/// Joins that are served at a time.
pub(crate) fn joins() -> Crowd {
    Crowd::new(JOINS, JOINS_OF_HOST)
}

/// A place in a [`Crowd`], free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of_host: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    host: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.of_host).entry(self.host) {
            *count.get_mut() -= 1; // as this place is in it
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);

    fn at(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    /// The places that a host gets with many tries.
    fn places(door: &mut Door, n: u8) -> Vec<Place> {
        let knocks = (0..200).map(|_| door.knock(at(n), true, NOW));
        knocks.filter_map(|verdict| if let Verdict::Enter(place) = verdict { Some(place) } else { None }).collect()
    }

    #[test]
    fn one_host_leaves_room_for_others_and_all_leave_none() {
        let mut door = Door::new();
        let mut first = places(&mut door, 1);
        assert_eq!(first.len(), HANDSHAKES_OF_HOST);
        let second = places(&mut door, 2);
        assert_eq!(second.len(), HANDSHAKES - HANDSHAKES_OF_HOST);
        assert!(places(&mut door, 3).is_empty());
        first.pop();
        assert!(places(&mut door, 2).is_empty(), "it has its share");
        assert_eq!(places(&mut door, 3).len(), 1);
        drop((first, second));
        assert!(lock(&door.inside.of_host).is_empty());
    }

    #[test]
    fn under_load_a_newcomer_proves_its_address() {
        let mut door = Door::new();
        let knock = |door: &mut Door, n, proven| door.knock(at(n), proven, NOW);
        let calm: Vec<Verdict> = (0..CALM).map(|_| knock(&mut door, 1, false)).collect();
        assert!(calm.iter().all(|verdict| matches!(verdict, Verdict::Enter(_))));
        assert!(matches!(knock(&mut door, 2, false), Verdict::Prove));
        assert!(matches!(knock(&mut door, 2, true), Verdict::Enter(_)));
        drop(calm);
        assert!(matches!(knock(&mut door, 2, false), Verdict::Enter(_)));
    }

    #[test]
    fn what_a_host_has_not_proven_is_not_held_against_it() {
        let mut door = Door::new();
        for _ in 0..1000 {
            door.refused(at(1), false, NOW);
        }
        assert!(matches!(door.knock(at(1), false, NOW), Verdict::Prove));
        assert!(matches!(door.knock(at(1), true, NOW), Verdict::Enter(_)));
    }

    #[test]
    fn a_host_that_is_refused_too_often_is_not_answered_for_a_while() {
        let mut door = Door::new();
        for _ in 0..REFUSALS {
            assert!(matches!(door.knock(at(1), true, NOW), Verdict::Enter(_)));
            door.refused(at(1), true, NOW);
        }
        assert!(matches!(door.knock(at(1), true, NOW), Verdict::Ignore { say: Some(1), .. }));
        for _ in 0..5 {
            assert!(matches!(door.knock(at(1), true, NOW), Verdict::Ignore { say: None, .. }));
        }
        assert!(matches!(door.knock(at(2), true, NOW), Verdict::Enter(_)));
        assert!(matches!(door.knock(at(1), true, NOW + EACH), Verdict::Enter(_)));
        for _ in 0..REFUSALS {
            door.refused(at(1), true, NOW + SAY);
        }
        assert!(matches!(door.knock(at(1), true, NOW + SAY), Verdict::Ignore { say: Some(6), .. }));
    }
}
