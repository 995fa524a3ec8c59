//! What happens to a cluster, and when.

use std::time::Duration;

use super::rng::Rng;

/// A fault. Workers are those that are there then, by their place among them; ends of links are the head, the driver and the workers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// A worker's process ends. `told`: whoever started it says so at once.
    Kill { worker: usize, told: bool },
    /// Nothing comes or goes at a worker.
    Freeze { worker: usize, time: Duration },
    /// Nothing comes or goes at all workers but one, so that nobody can tell whose fault it is.
    FreezeMost { time: Duration },
    /// A worker takes so many times longer.
    Slow { worker: usize, times: u32 },
    /// A link carries nothing, in one direction or both.
    Cut { ends: (usize, usize), both: bool, time: Duration },
    /// The network loses packets, of a million, and delays others.
    Noise { loss: u32, late: u32, latency: Duration, time: Duration },
    /// There is no room on a worker's disk.
    FillDisk { worker: usize, time: Duration },
    /// The n-th call of a UDF from now on fails.
    FailCall { nth: usize },
    /// The driver gives up a query.
    Cancel { query: usize },
    /// The driver's process ends.
    DriverDies,
}

/// Faults within the first so many milliseconds.
const WITHIN: usize = 2_500;

/// What happens when, in the order of time.
pub(crate) fn draw(rng: &mut Rng) -> Vec<(Duration, Fault)> {
    let mut faults: Vec<_> = (0..rng.below(5)).map(|_| (millis(rng, 0, WITHIN), fault(rng))).collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fault(rng: &mut Rng) -> Fault {
    let worker = rng.below(8);
    match rng.below(20) {
        0..=5 => Fault::Kill { worker, told: rng.percent(70) },
        6 => Fault::Freeze { worker, time: millis(rng, 500, 16_000) },
        7 => Fault::FreezeMost { time: millis(rng, 500, 28_000) },
        8..=9 => Fault::Slow { worker, times: 5 + rng.below(30) as u32 },
        10..=12 => {
            let time = millis(rng, 100, 14_000);
            Fault::Cut { ends: (rng.below(8), 1 + rng.below(7)), both: rng.percent(60), time }
        }
        13..=14 => {
            let (loss, late) = (rng.below(150_000) as u32, rng.below(100_000) as u32);
            Fault::Noise { loss, late, latency: millis(rng, 1, 40), time: millis(rng, 500, 6_000) }
        }
        15..=16 => Fault::FillDisk { worker, time: millis(rng, 100, 8_000) },
        17 => Fault::FailCall { nth: 1 + rng.below(10) },
        18 => Fault::Cancel { query: rng.below(2) },
        _ => Fault::DriverDies,
    }
}

fn millis(rng: &mut Rng, from: usize, to: usize) -> Duration {
    Duration::from_millis(rng.between(from as i64, to as i64) as u64)
}
