//! Which places for workers are asked for, taken and given up, of those that a pilot gives. Pure: told what has happened, it answers
//! what to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A place for one worker: asked for, given, and gone with what ran there. No number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Berth(pub(super) u32);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From the start of a worker until it has joined.
    pub(super) join: Duration,
    /// From when the head has let a worker go until its process has ended.
    pub(super) leave: Duration,
}

#[derive(Debug)]
pub(super) struct Fleet {
    limits: Limits,
    berths: BTreeMap<Berth, State>,
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There may be no room for it yet.
    Asked {
        since: Instant,
    },
    /// Its worker was started.
    Placed {
        since: Instant,
    },
    Joined,
    /// The head has let its worker go, which ends of that.
    Leaving {
        since: Instant,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the pilot for a place.
    Place(Berth),
    /// Start a worker there.
    Run(Berth),
    /// The pilot is to end whatever is there, and to take the place back.
    End(Berth),
    /// Its worker is lost, or does not come.
    Lost { berth: Berth, had_joined: bool, why: String },
    /// It is no more: nobody is to join from there, and who has is to go.
    Forget(Berth),
}

/// What waits for the pilot, or for workers that it has started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waits {
    /// Berths that were asked for, and since when the oldest was.
    pub(super) asked: Option<(usize, Instant)>,
    /// Workers that were started and have not joined.
    pub(super) placed: usize,
}

impl Fleet {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, berths: BTreeMap::new(), next: 0 }
    }

    /// There are to be so many workers. Asks for what is missing; of what is too many, takes back what has not joined, the newest first.
    pub(super) fn demand(&mut self, workers: usize, now: Instant) -> Vec<Action> {
        let there = self.berths.values().filter(|state| !matches!(state, State::Leaving { .. })).count();
        if there < workers {
            let ask = |_| {
                let berth = Berth(self.next);
                self.next += 1;
                self.berths.insert(berth, State::Asked { since: now });
                Action::Place(berth)
            };
            return (there..workers).map(ask).collect();
        }
        let newest = || self.berths.iter().rev().map(|(berth, state)| (*berth, *state));
        let asked = newest().filter(|(_, state)| matches!(state, State::Asked { .. }));
        let placed = newest().filter(|(_, state)| matches!(state, State::Placed { .. }));
        let too_many: Vec<_> = asked.chain(placed).map(|(berth, _)| berth).take(there - workers).collect();
        too_many.into_iter().flat_map(|berth| self.end(berth)).collect()
    }

    /// The pilot has a place.
    ///
    /// # Errors
    /// The pilot says what cannot be.
    pub(super) fn placed(&mut self, berth: Berth, now: Instant) -> Result<Vec<Action>, String> {
        match self.berths.get_mut(&berth) {
            Some(state @ State::Asked { .. }) => {
                *state = State::Placed { since: now };
                Ok(vec![Action::Run(berth)])
            }
            Some(_) => Err(format!("it says that berth {} is placed, which was before", berth.0)),
            None => self.was(berth).map(|()| Vec::new()),
        }
    }

    /// What was at a berth has ended, or it cannot be given.
    ///
    /// # Errors
    /// As above.
    pub(super) fn ended(&mut self, berth: Berth, why: String) -> Result<Vec<Action>, String> {
        match self.berths.remove(&berth) {
            Some(State::Leaving { .. }) => Ok(vec![Action::Forget(berth)]),
            Some(state) => {
                Ok(vec![Action::Lost { berth, had_joined: matches!(state, State::Joined), why }, Action::Forget(berth)])
            }
            None => self.was(berth).map(|()| Vec::new()),
        }
    }

    /// The worker of a berth was started, where that is no order of ours.
    #[cfg(feature = "kubernetes")]
    pub(super) fn runs(&mut self, berth: Berth, now: Instant) {
        if let Some(state @ State::Asked { .. }) = self.berths.get_mut(&berth) {
            *state = State::Placed { since: now };
        }
    }

    /// The worker of a berth has joined: perhaps before it is known that it was started.
    pub(super) fn joined(&mut self, berth: Berth) {
        if let Some(state @ (State::Asked { .. } | State::Placed { .. })) = self.berths.get_mut(&berth) {
            *state = State::Joined;
        }
    }

    /// The head has let the worker of a berth go.
    pub(super) fn retire(&mut self, berth: Berth, now: Instant) {
        if let Some(state @ (State::Placed { .. } | State::Joined)) = self.berths.get_mut(&berth) {
            *state = State::Leaving { since: now };
        }
    }

    /// Looks at the deadlines.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let Limits { join, leave } = self.limits;
        let overdue = self.berths.iter().filter_map(|(berth, state)| match state {
            State::Placed { since } if now.duration_since(*since) >= join => Some((*berth, true)),
            State::Leaving { since } if now.duration_since(*since) >= leave => Some((*berth, false)),
            _ => None,
        });
        let mut actions = Vec::new();
        for (berth, lost) in overdue.collect::<Vec<_>>() {
            if lost {
                let why = format!("it was started and did not join within {} s", join.as_secs_f64());
                actions.push(Action::Lost { berth, had_joined: false, why });
            }
            actions.extend(self.end(berth));
        }
        actions
    }

    /// The pilot is gone, and with it all that it has placed. What was only asked for is lost with one word, by whoever calls this.
    pub(super) fn abandoned(&mut self, why: &str) -> Vec<Action> {
        let berths = std::mem::take(&mut self.berths).into_iter();
        let lost = |(berth, state)| {
            let lost =
                matches!(state, State::Joined).then(|| Action::Lost { berth, had_joined: true, why: why.to_owned() });
            lost.into_iter().chain([Action::Forget(berth)])
        };
        berths.flat_map(lost).collect()
    }

    pub(super) fn waits(&self) -> Waits {
        let asked = self.berths.values().filter_map(|state| match state {
            State::Asked { since } => Some(*since),
            _ => None,
        });
        let asked = asked.fold(None, |all: Option<(usize, Instant)>, since| {
            Some(all.map_or((1, since), |(count, first)| (count + 1, first.min(since))))
        });
        Waits { asked, placed: self.berths.values().filter(|state| matches!(state, State::Placed { .. })).count() }
    }

    fn end(&mut self, berth: Berth) -> [Action; 2] {
        self.berths.remove(&berth);
        [Action::End(berth), Action::Forget(berth)]
    }

    /// A berth that is no more may still be spoken of: word of it was under way.
    fn was(&self, berth: Berth) -> Result<(), String> {
        if berth.0 < self.next {
            Ok(())
        } else {
            Err(format!("it speaks of berth {}, which nobody asked for", berth.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { join: Duration::from_secs(60), leave: Duration::from_secs(5) };

    struct Scene {
        fleet: Fleet,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self { fleet: Fleet::new(LIMITS), now: Instant::now() }
        }

        fn demand(&mut self, workers: usize) -> Vec<Action> {
            self.fleet.demand(workers, self.now)
        }

        fn place(&mut self, berth: u32) {
            assert_eq!(self.fleet.placed(Berth(berth), self.now), Ok(vec![Action::Run(Berth(berth))]));
        }

        fn join(&mut self, berth: u32) {
            self.place(berth);
            self.fleet.joined(Berth(berth));
        }

        fn after(&mut self, seconds: u64) -> Vec<Action> {
            self.now += Duration::from_secs(seconds);
            self.fleet.tick(self.now)
        }
    }

    fn places(berths: impl IntoIterator<Item = u32>) -> Vec<Action> {
        berths.into_iter().map(|berth| Action::Place(Berth(berth))).collect()
    }

    fn ends(berths: impl IntoIterator<Item = u32>) -> Vec<Action> {
        berths.into_iter().flat_map(|berth| [Action::End(Berth(berth)), Action::Forget(Berth(berth))]).collect()
    }

    fn lost(berth: u32, had_joined: bool, why: &str) -> Vec<Action> {
        let berth = Berth(berth);
        vec![Action::Lost { berth, had_joined, why: why.to_owned() }, Action::Forget(berth)]
    }

    #[test]
    fn a_demand_is_a_level_and_takes_back_the_newest_that_have_not_joined() {
        let mut scene = Scene::new();
        assert_eq!(scene.demand(4), places(0..4));
        assert_eq!(scene.demand(4), []);
        assert_eq!(scene.demand(2), ends([3, 2]));
        assert_eq!(scene.demand(3), places([4]));
        scene.join(0);
        scene.place(4);
        // One that only waits goes before a newer one that was started, and that before one that has joined.
        assert_eq!(scene.demand(2), ends([1]));
        assert_eq!(scene.demand(0), ends([4]));
        assert_eq!(scene.demand(0), [], "only the head lets workers go");
        assert_eq!(scene.demand(1), [], "and this is one");
    }

    #[test]
    fn what_was_taken_back_may_be_spoken_of_and_what_was_never_asked_for_may_not() {
        let mut scene = Scene::new();
        scene.demand(2);
        scene.demand(1);
        assert_eq!(scene.fleet.placed(Berth(1), scene.now), Ok(vec![]));
        assert_eq!(scene.fleet.ended(Berth(1), "gone".into()), Ok(vec![]));
        for lie in [scene.fleet.placed(Berth(2), scene.now), scene.fleet.ended(Berth(2), "gone".into())] {
            assert!(lie.unwrap_err().contains("berth 2, which nobody asked for"));
        }
        scene.place(0);
        assert!(scene.fleet.placed(Berth(0), scene.now).unwrap_err().contains("berth 0 is placed"));
    }

    #[test]
    fn who_does_not_join_in_time_is_ended_and_lost() {
        let mut scene = Scene::new();
        scene.demand(2);
        assert_eq!(scene.after(3600), [], "a place may take as long as it takes");
        scene.place(0);
        assert_eq!(scene.after(59), []);
        let [late, _] = &lost(0, false, "it was started and did not join within 60 s")[..] else { panic!() };
        assert_eq!(scene.after(1), [vec![late.clone()], ends([0])].concat());
        assert_eq!(scene.demand(2), places([2]), "another is asked for");
        scene.join(1);
        assert_eq!(scene.after(3600), []);
    }

    #[test]
    fn a_worker_that_ends_before_it_joins_or_with_work_is_lost_and_one_that_leaves_is_not() {
        let mut scene = Scene::new();
        scene.demand(3);
        assert_eq!(scene.fleet.ended(Berth(2), "no such node".into()), Ok(lost(2, false, "no such node")));
        scene.place(0);
        assert_eq!(scene.fleet.ended(Berth(0), "exit 2".into()), Ok(lost(0, false, "exit 2")));
        scene.join(1);
        assert_eq!(scene.fleet.ended(Berth(1), "killed".into()), Ok(lost(1, true, "killed")));
        assert_eq!(scene.demand(1), places([3]));
        scene.join(3);
        scene.fleet.retire(Berth(3), scene.now);
        assert_eq!(scene.demand(1), places([4]), "who leaves is none of those that are wanted");
        assert_eq!(scene.fleet.ended(Berth(3), "exit 0".into()), Ok(vec![Action::Forget(Berth(3))]));
    }

    #[test]
    fn who_was_let_go_and_stays_is_ended() {
        let mut scene = Scene::new();
        scene.demand(1);
        scene.join(0);
        scene.fleet.retire(Berth(0), scene.now);
        assert_eq!(scene.after(4), []);
        assert_eq!(scene.after(1), ends([0]));
        assert_eq!(scene.after(60), []);
    }

    #[test]
    fn with_the_pilot_all_is_gone_and_only_those_that_had_joined_are_missed() {
        let mut scene = Scene::new();
        scene.demand(4);
        scene.place(1);
        scene.join(2);
        scene.join(3);
        scene.fleet.retire(Berth(3), scene.now);
        let forget = |berth| Action::Forget(Berth(berth));
        let expected = [vec![forget(0), forget(1)], lost(2, true, "the pilot ended"), vec![forget(3)]].concat();
        assert_eq!(scene.fleet.abandoned("the pilot ended"), expected);
        assert_eq!(scene.demand(1), places([4]), "numbers are not used again");
    }

    #[test]
    fn what_is_waited_for_is_told_with_since_when() {
        let mut scene = Scene::new();
        assert_eq!(scene.fleet.waits(), Waits::default());
        let first = scene.now;
        scene.demand(1);
        scene.after(7);
        scene.demand(3);
        assert_eq!(scene.fleet.waits(), Waits { asked: Some((3, first)), placed: 0 });
        scene.place(0);
        scene.join(1);
        assert_eq!(scene.fleet.waits(), Waits { asked: Some((1, scene.now)), placed: 1 });
    }
}
