//! Workers on Ray: on a stub of it in one Python process, and on a real one, where `tests/ray/install` has put it.

mod real;
mod stub;
#[path = "../support/work.rs"]
mod work;

use std::path::Path;
use std::time::{Duration, Instant};

use regatta::{Config, RayOptions};

regatta::testing::worker!();

/// For Ray, whose processes take a second or a minute to start, as the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// Waits for what others bring about, who take their time on a busy machine.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reacts at once.
pub(crate) fn eager() -> Config {
    Config {
        autoscaler_update_interval: Duration::from_millis(50),
        autoscaling_downscale_idle: Duration::from_millis(200),
        autoscaling_min_survivor_workers: 0,
        pool_warm: Duration::ZERO,
        ..Config::default()
    }
}

/// So many workers of one CPU, with this Python.
pub(crate) fn options(python: &Path, address: &str, workers: std::ops::RangeInclusive<usize>) -> RayOptions {
    RayOptions {
        address: Some(address.to_owned()),
        workers: Some(workers),
        cpus: Some(1.0),
        memory: Some(256 << 20),
        python: Some(python.to_owned()),
        ready_timeout: PATIENCE,
        ..RayOptions::default()
    }
}
