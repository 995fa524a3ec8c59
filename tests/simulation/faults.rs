//! What happens to a cluster, and when.

use std::time::Duration;

use super::rng::Rng;
use crate::actors::moments::Point;

/// A fault. Workers are those that are there then; ends of links are the head, the driver and the workers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// A worker's process ends. `told`: whoever started it says so at once.
    Kill { worker: Victim, told: bool },
    /// Nothing comes or goes at a worker.
    Freeze { worker: Victim, time: Duration },
    /// Nothing comes or goes at all workers but one, so that nobody can tell whose fault it is.
    FreezeMost { time: Duration },
    /// A worker takes so many times longer.
    Slow { worker: Victim, times: u32 },
    /// A link carries nothing, in one direction or both.
    Cut { ends: (usize, usize), both: bool, time: Duration },
    /// The same of the link between a worker and the head. `hears`: it hears the head, but is not heard.
    CutOff { worker: Victim, both: bool, hears: bool, time: Duration },
    /// The network loses packets, of a million, and delays others.
    Noise { loss: u32, late: u32, latency: Duration, time: Duration },
    /// There is no room on a worker's disk.
    FillDisk { worker: Victim, time: Duration },
    /// The n-th call of a UDF from now on fails.
    FailCall { nth: usize },
    /// The driver gives up a query.
    Cancel { query: usize },
    /// The driver's process ends.
    DriverDies,
}

/// Which worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Victim {
    /// By its place among those that are there.
    At(usize),
    /// The one where it happens that the fault comes with.
    There,
}

/// When a fault comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum When {
    After(Duration),
    /// So long after something has happened for the n-th time, from 1.
    With(Point, usize, Duration),
    /// With the n-th of all that happens, from 1.
    Moment(usize),
}

pub(crate) type Planned = (When, Fault);

/// Faults within the first so many milliseconds.
const WITHIN: usize = 2_500;
/// What a fault comes with has happened so often at most.
const OFTEN: usize = 24;

const POINTS: [Point; 14] = [
    Point::Shaped,
    Point::Placed,
    Point::Placed,
    Point::PlacedAgain,
    Point::PlacedAgain,
    Point::Ends,
    Point::Ends,
    Point::Ended,
    Point::Ended,
    Point::Read,
    Point::Ready,
    Point::Enough,
    Point::Dropped,
    Point::Over,
];

/// Some at their times, in order, and some that come with what happens.
pub(crate) fn draw(rng: &mut Rng) -> Vec<Planned> {
    let mut faults: Vec<_> = (0..rng.below(4)).map(|_| (millis(rng, 0, WITHIN), fault(rng))).collect();
    faults.sort_by_key(|(at, _)| *at);
    let mut faults: Vec<_> = faults.into_iter().map(|(at, fault)| (When::After(at), fault)).collect();
    for _ in 0..rng.below(5) {
        let point = POINTS[rng.below(POINTS.len())];
        // The first ones are as likely as all others.
        let nth = 1 + if rng.percent(50) { rng.below(4) } else { rng.below(OFTEN) };
        let after = if rng.percent(70) { Duration::ZERO } else { millis(rng, 1, 60) };
        faults.push((When::With(point, nth, after), fault_there(rng)));
    }
    faults
}

fn fault(rng: &mut Rng) -> Fault {
    let worker = Victim::At(rng.below(8));
    match rng.below(20) {
        0..=5 => Fault::Kill { worker, told: rng.percent(70) },
        6 => Fault::Freeze { worker, time: millis(rng, 500, 16_000) },
        7 => Fault::FreezeMost { time: millis(rng, 500, 28_000) },
        8..=9 => Fault::Slow { worker, times: 5 + rng.below(30) as u32 },
        10..=12 => {
            let time = millis(rng, 100, 14_000);
            Fault::Cut { ends: (rng.below(8), 1 + rng.below(7)), both: rng.percent(60), time }
        }
        13..=14 => noise(rng),
        15..=16 => Fault::FillDisk { worker, time: millis(rng, 100, 8_000) },
        17 => Fault::FailCall { nth: 1 + rng.below(10) },
        18 => Fault::Cancel { query: rng.below(2) },
        _ => Fault::DriverDies,
    }
}

/// One for what happens at a worker: mostly that one is hurt.
fn fault_there(rng: &mut Rng) -> Fault {
    let worker = if rng.percent(75) { Victim::There } else { Victim::At(rng.below(8)) };
    match rng.below(20) {
        0..=9 => Fault::Kill { worker, told: rng.percent(70) },
        10..=11 => Fault::Freeze { worker, time: millis(rng, 500, 16_000) },
        12 => Fault::FreezeMost { time: millis(rng, 500, 28_000) },
        13..=15 => {
            let time = millis(rng, 100, 14_000);
            Fault::CutOff { worker, both: rng.percent(50), hears: rng.percent(50), time }
        }
        16 => noise(rng),
        17 => Fault::FillDisk { worker, time: millis(rng, 100, 8_000) },
        18 => Fault::Slow { worker, times: 5 + rng.below(30) as u32 },
        _ => Fault::Cancel { query: rng.below(2) },
    }
}

fn noise(rng: &mut Rng) -> Fault {
    let (loss, late) = (rng.below(150_000) as u32, rng.below(100_000) as u32);
    Fault::Noise { loss, late, latency: millis(rng, 1, 40), time: millis(rng, 500, 6_000) }
}

fn millis(rng: &mut Rng, from: usize, to: usize) -> Duration {
    Duration::from_millis(rng.between(from as i64, to as i64) as u64)
}
