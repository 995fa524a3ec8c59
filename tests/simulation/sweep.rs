//! One worker is killed, at each moment of a query in turn.

use std::fmt;

use super::faults::{Fault, Victim, When};
use super::world::Directed;
use super::{Run, all_hold, run};

/// Says in a process of its own which worker is killed at which moment, and whether its head is told.
pub(super) const KILL: &str = "SIMULATION_KILL";
/// Whose moments are gone through, and at each how many: `17`, or `17/5` for each fifth.
const SWEEP: &str = "SIMULATION_SWEEP";

/// Those of the ordinary tests: a seed, and how many of its moments are between two kills.
const SWEPT: [(u64, usize); 2] = [(5, 60), (9, 133)];
const WORKERS: usize = 3;

/// A worker is killed, and nothing else happens. At moment 0: none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kill {
    moment: usize,
    worker: usize,
    told: bool,
}

impl Kill {
    /// What this process is asked to do.
    pub(super) fn asked() -> Option<Self> {
        let asked = std::env::var(KILL).ok()?;
        let numbers: Vec<usize> = asked.split(',').filter_map(|number| number.parse().ok()).collect();
        let [moment, worker, told] = numbers[..] else { panic!("{KILL}={asked} is not of three numbers") };
        Some(Self { moment, worker, told: told > 0 })
    }

    pub(super) fn directs(self) -> Directed {
        let Self { moment, worker, told } = self;
        let fault = (When::Moment(moment), Fault::Kill { worker: Victim::At(worker), told });
        Directed { workers: WORKERS, udfs: false, faults: if moment > 0 { vec![fault] } else { Vec::new() } }
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.moment, self.worker, u8::from(self.told))
    }
}

/// All kills at each `step`-th moment of a seed's queries.
fn kills(seed: u64, step: usize) -> Vec<Run> {
    let kill = |moment, worker, told| Run { seed, kill: Some(Kill { moment, worker, told }) };
    let undisturbed = run(kill(0, 0, false), false);
    assert_eq!(undisturbed.problem, None, "seed {seed}");
    assert!(undisturbed.moments > step, "{undisturbed:?}");
    let moments = (1..=undisturbed.moments).step_by(step.max(1));
    let of_each = |moment| (0..WORKERS).map(move |worker| (moment, worker));
    let all = moments.flat_map(of_each).flat_map(|(moment, worker)| [true, false].map(|told| (moment, worker, told)));
    all.map(|(moment, worker, told)| kill(moment, worker, told)).collect()
}

#[test]
fn whichever_worker_is_killed_at_whichever_moment_answers_are_right_and_nothing_is_left() {
    let swept: Vec<_> = match std::env::var(SWEEP) {
        Ok(asked) => {
            let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("{SWEEP}={asked}: {e}"));
            let (seed, step) = asked.split_once('/').map_or((&*asked, 1), |(seed, step)| (seed, number(step) as usize));
            vec![(number(seed), step)]
        }
        Err(_) => SWEPT.to_vec(),
    };
    let runs: Vec<_> = swept.into_iter().flat_map(|(seed, step)| kills(seed, step)).collect();
    println!("{} kills", runs.len());
    all_hold(&runs);
}
