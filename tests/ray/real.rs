//! On a real Ray of this machine: one node, which jobs can be submitted to.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::assert_same_as_polars;

use super::cluster::{Ray, parents};
use super::same::same_on;
use super::work::{lives, processes, slow_query, sum};
use super::{eager, eventually, options};

/// One for all tests of this process, of four CPUs and two GPUs as Ray counts them.
pub(crate) static RAY: LazyLock<Option<Ray>> =
    LazyLock::new(|| Ray::start(&["--num-cpus=4", "--num-gpus=2", "--include-dashboard=true"], &[], None));

#[test]
fn a_query_on_workers_that_ray_has_placed_is_polars_answer_and_nothing_is_left() {
    let Some(ray) = &*RAY else { return };
    let session = ray.session(2..=2);
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let frame = slow_query(600).collect_on(&session).unwrap();
    assert_eq!(sum(&frame), 599 * 300);
    let workers = processes(&frame);
    let totals = slow_query(300).group_by([col("x") % lit(7)]).agg([col("x").sum().alias("sum")]);
    assert_same_as_polars(&session, &totals, false, &[]);
    let actors = parents(&workers);
    assert_eq!(actors.len(), workers.len(), "an actor each");
    drop(session);
    eventually("no worker is left", || workers.iter().all(|process| !lives(*process)));
    eventually("no actor is left", || actors.iter().all(|process| !lives(*process)));
}

#[test]
fn a_worker_on_ray_that_is_killed_in_mid_query_is_replaced() {
    let Some(ray) = &*RAY else { return };
    let session = ray.session(1..=1);
    let warm = slow_query(100).collect_on(&session).unwrap();
    let mut run = session.submit(slow_query(1500)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let [first] = processes(&warm)[..] else { panic!("{warm}") };
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    let frame = run.collect().unwrap();
    assert_eq!(sum(&frame), 1499 * 750);
    assert!(processes(&frame).iter().any(|process| *process != first), "another did the rest");
}

pub(crate) const AS_HEAD: &str = "REGATTA_TEST_AS_HEAD_ON_RAY";

/// Of as much data as `TPCH_SCALE` says, else of a little.
#[test]
fn the_queries_of_tpc_h_on_workers_that_ray_has_placed() {
    let Some(ray) = &*RAY else { return };
    same_on(&ray.session(2..=2));
}

/// Started by the test below: a head whose worker is in the middle of a query.
#[test]
fn is_a_head_on_ray() {
    let Some(folder) = std::env::var_os(AS_HEAD) else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let options = options(Path::new(&variable("PYTHON")), &variable("ADDRESS"), 1..=1);
    let session = Session::ray_with(options, eager()).unwrap();
    let workers = processes(&slow_query(10).collect_on(&session).unwrap());
    let _run = session.submit(slow_query(100_000)).unwrap();
    let text: Vec<_> = workers.iter().map(ToString::to_string).collect();
    fs::write(Path::new(&folder).join("head"), std::process::id().to_string()).unwrap();
    fs::write(Path::new(&folder).join("new"), text.join(" ")).unwrap();
    fs::rename(Path::new(&folder).join("new"), Path::new(&folder).join("workers")).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_head_that_is_killed_leaves_no_worker_and_no_actor() {
    let Some(ray) = &*RAY else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut head = Command::new(std::env::current_exe().unwrap());
    head.args(["real::is_a_head_on_ray", "--exact", "--nocapture"]);
    head.env(AS_HEAD, folder.path()).env("PYTHON", ray.python()).env("ADDRESS", &ray.address);
    let mut head = head.spawn().unwrap();
    let list = folder.path().join("workers");
    eventually("its worker is at work", || list.exists());
    let workers = fs::read_to_string(list).unwrap();
    let workers: Vec<u32> = workers.split(' ').map(|process| process.parse().unwrap()).collect();
    let actors = parents(&workers);
    assert!(!workers.is_empty() && workers.iter().chain(&actors).all(|process| lives(*process)));
    head.kill().unwrap();
    head.wait().unwrap();
    eventually("the worker has ended", || workers.iter().all(|process| !lives(*process)));
    eventually("the actor has ended", || actors.iter().all(|process| !lives(*process)));
}
