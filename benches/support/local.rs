//! What the benchmarks of whole queries have in common.

use std::time::{Duration, Instant};

use regatta::Session;
use regatta::polars::prelude::*;

/// Workers of the machine that the goals are for.
pub(crate) const WORKERS: usize = 2;

pub(crate) fn workers() -> Session {
    Session::local(WORKERS).expect("workers")
}

/// Seconds that something takes, once it is warm: the median of three.
pub(crate) fn seconds(mut what: impl FnMut()) -> f64 {
    what();
    let mut took = [(); 3].map(|()| once(&mut what).as_secs_f64());
    took.sort_unstable_by(f64::total_cmp);
    took[1]
}

/// How long something takes.
pub(crate) fn once(what: impl FnOnce()) -> Duration {
    let started = Instant::now();
    what();
    started.elapsed()
}

/// Numbers from 0, of which no row is negative, in a column `x`.
pub(crate) fn numbers(rows: i64) -> LazyFrame {
    df!["x" => Int64Chunked::from_iter_values("x".into(), 0..rows).into_series()].expect("one column").lazy()
}
