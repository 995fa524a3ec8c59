//! Programs that were submitted to Ray as jobs.

use std::fs;
use std::path::{Path, PathBuf};

use regatta::prelude::*;
use regatta::{Config, Runner};

use super::cluster::{Ray, children, parents};
use super::real::{AS_HEAD, RAY};
use super::work::{lives, processes, slow_query, sum};
use super::{eager, eventually, options};

/// Submits this test as a job, which is told a folder by a variable.
fn submit(ray: &Ray, id: &str, test: &str, variable: &str, folder: &Path) {
    let this = std::env::current_exe().unwrap();
    let variables = [
        format!("{variable}={}", folder.display()),
        format!("PYTHON={}", ray.python().display()),
        format!("ADDRESS={}", ray.address),
    ];
    let program = [this.to_str().unwrap(), test, "--exact", "--nocapture"].map(str::to_owned);
    let job = ["submit", "--no-wait", "--submission-id", id, "--", "env"].map(str::to_owned);
    ray.job(&[&job[..], &variables[..], &program[..]].concat());
}

/// What a job has left in its folder.
fn told(file: PathBuf) -> Vec<u32> {
    eventually("the job has got as far as that", || file.exists());
    fs::read_to_string(file).unwrap().split(' ').map(|word| word.parse().unwrap()).collect()
}

const AS_JOB: &str = "REGATTA_TEST_AS_JOB_ON_RAY";

/// Started by the test below: the program of a job.
#[test]
fn is_a_job_on_ray() {
    let Some(folder) = std::env::var_os(AS_JOB) else { return };
    let config = Config::from_env().unwrap();
    assert_eq!(config.runner, Runner::Ray, "as its marker says");
    let python = std::env::var("PYTHON").unwrap();
    // At the address that Ray has said to it.
    let options = regatta::RayOptions { address: None, ..options(Path::new(&python), "", 1..=1) };
    let session = Session::ray_with(options, eager()).unwrap();
    let frame = slow_query(100).collect_on(&session).unwrap();
    assert_eq!(sum(&frame), 99 * 50);
    let told = [vec![std::process::id()], processes(&frame)].concat();
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    fs::write(Path::new(&folder).join("new"), told.join(" ")).unwrap();
    drop(session);
    fs::rename(Path::new(&folder).join("new"), Path::new(&folder).join("told")).unwrap();
}

#[test]
fn a_job_finds_its_cluster_answers_and_leaves_nothing() {
    let Some(ray) = &*RAY else { return };
    let folder = tempfile::tempdir().unwrap();
    submit(ray, "answers", "jobs::is_a_job_on_ray", AS_JOB, folder.path());
    let processes = told(folder.path().join("told"));
    eventually("neither head nor worker is left", || processes.iter().all(|process| !lives(*process)));
    eventually("it has succeeded", || ray.job(&["status", "answers"]).contains("succeeded"));
}

#[test]
fn a_job_that_is_stopped_in_mid_query_leaves_nothing() {
    let Some(ray) = &*RAY else { return };
    let folder = tempfile::tempdir().unwrap();
    submit(ray, "stopped", "real::is_a_head_on_ray", AS_HEAD, folder.path());
    let workers = told(folder.path().join("workers"));
    let head = told(folder.path().join("head"));
    let all = [parents(&workers), children(head[0]), workers, head].concat();
    assert!(all.len() >= 4, "a head with its launcher, a worker in its actor: {all:?}");
    ray.job(&["stop", "stopped"]);
    eventually("nothing is left", || all.iter().all(|process| !lives(*process)));
}
