//! Workers on Ray: on a stub of it in one Python process, and on a real one, where `tests/ray/install` has put it.

mod cluster;
#[path = "../tpch/data.rs"]
mod data;
mod jobs;
mod nodes;
#[path = "../tpch/queries.rs"]
mod queries;
mod real;
#[path = "../tpch/same.rs"]
mod same;
mod stub;
#[path = "../support/work.rs"]
mod work;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regatta::{Config, RayOptions};

regatta::testing::worker!();

/// For Ray, whose processes take a second or a minute to start, as the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// Waits for what others bring about, who take their time on a busy machine.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Where a test is slow, this says at what.
    eprintln!("{what}: after {:.1?}", began.elapsed());
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

/// A program in shell.
pub(crate) fn program(path: PathBuf, script: &str) -> PathBuf {
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}
