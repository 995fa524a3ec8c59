//! Programs beside a head: this test binary with other arguments, submitted by the `regatta` command.

use std::process::Command;
use std::time::Duration;

use regatta::Config;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta_cli::Failure;

use crate::endings::is_alive;
use crate::joining::{Other, join};
use crate::looking::regatta;
use crate::udfs::numbers;

const VALID: Duration = Duration::from_secs(600);

/// The tests below are what jobs run; by themselves they do nothing.
fn is_a_job() -> bool {
    std::env::var_os("REGATTA_ADDRESS").is_some()
}

#[test]
fn adds() {
    if is_a_job() {
        let rows = numbers().filter(col("x").lt(lit(7))).collect_on(&Session::from_env().unwrap()).unwrap();
        println!("{} rows\n\x1b[2Jtoken {}", rows.height(), std::env::var("REGATTA_TOKEN").unwrap());
    }
}

#[test]
fn fails() {
    assert!(!is_a_job(), "this job fails");
}

#[test]
fn says_much() {
    if is_a_job() {
        (0..200_000).for_each(|line| println!("line {line}"));
    }
}

#[test]
fn waits() {
    if is_a_job() {
        // It takes no notice of being told to end.
        let mut other = Command::new("sh").args(["-c", "trap '' TERM; echo waits $$; sleep 1000"]).spawn().unwrap();
        other.wait().unwrap();
    }
}

/// What leaves its group outlives it, with the pipe; and prints on.
#[test]
fn leaves_one_that_prints_on() {
    if is_a_job() {
        Command::new("sh").args(["-c", "setsid sh -c 'while echo on; do sleep 0.05; done' &"]).status().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn prints_for_ever() {
    while is_a_job() {
        println!("on {}", "and ".repeat(100));
    }
}

fn head(jobs: usize) -> (Cluster, Vec<Other>, String) {
    let cluster = Cluster::serve_with("127.0.0.1:0", Config { jobs, ..Config::default() }).unwrap();
    let workers = join(&cluster, 1);
    let operator = cluster.operator_token(VALID).unwrap();
    (cluster, workers, operator)
}

fn submit(cluster: &Cluster, token: &str, test: &str, first: &[&str]) -> Result<String, Failure> {
    let program = std::env::current_exe().unwrap();
    let test = format!("jobs::{test}");
    let rest = ["--", program.to_str().unwrap(), &test, "--exact", "--nocapture"];
    regatta(cluster, token, &[&["submit"], first, &rest].concat())
}

#[test]
fn a_job_runs_beside_its_head_and_is_followed_to_its_end() {
    let (cluster, _workers, operator) = head(2);
    let said = submit(&cluster, &operator, "adds", &[]).unwrap();
    assert!(said.starts_with("job 1 (jobs::adds --exact --nocapture) runs"), "{said}");
    assert!(said.contains("\n7 rows\n") && !said.contains('\x1b'), "{said}");
    assert!(said.contains("\njob 1 (jobs::adds --exact --nocapture) is done, after "), "{said}");
    // Its token is of no use any more.
    let token = said.lines().find_map(|line| line.split_once("token ")).unwrap().1;
    let late = Session::connect(&cluster.address().to_string(), token).unwrap_err();
    assert!(late.to_string().contains("token"), "{late}");

    let failed = submit(&cluster, &operator, "fails", &[]).unwrap_err();
    assert!(failed.exit_code() == 1 && failed.to_string().contains("failed after"), "{failed}");
    assert!(failed.to_string().contains("exit status: 101"), "{failed}");
    let log = regatta(&cluster, &operator, &["jobs", "log", "2"]).unwrap();
    assert!(log.contains("this job fails"), "what it says on standard error is there: {log}");

    // The first lines of many are forgotten, and the last are there.
    let said = submit(&cluster, &operator, "says_much", &["--detach"]).unwrap();
    assert!(said.starts_with("job 3 "), "{said}");
    let log = || regatta(&cluster, &operator, &["jobs", "log", "3"]).unwrap();
    eventually("it has ended", || regatta(&cluster, &operator, &["jobs"]).unwrap().contains("3  done"));
    let log = log();
    assert!(log.starts_with("(") && log.contains(" lines were forgotten"), "{}", &log[..80]);
    assert!(log.contains("\nline 199999\n") && log.len() < 600 << 10, "{} bytes", log.len());
    let jobs = regatta(&cluster, &operator, &["jobs", "--json"]).unwrap();
    let jobs: serde_json::Value = serde_json::from_str(&jobs).unwrap();
    let states: Vec<_> = jobs.as_array().unwrap().iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "failed", "done"], "the newest is first");
}

#[test]
fn a_job_that_is_stopped_and_one_whose_head_ends_leave_no_process() {
    let (cluster, _workers, operator) = head(1);
    let others = |job: u32| {
        let log = regatta(&cluster, &operator, &["jobs", "log", &job.to_string()]).unwrap();
        log.lines().find_map(|line| line.split_once("waits ")?.1.parse::<u32>().ok())
    };
    submit(&cluster, &operator, "waits", &["--detach"]).unwrap();
    eventually("it waits", || others(1).is_some());
    let other = others(1).unwrap();
    assert!(is_alive(other));
    let more = submit(&cluster, &operator, "adds", &[]).unwrap_err();
    assert!(more.to_string().contains("1 jobs run already, as many as REGATTA_JOBS allows"), "{more}");
    let observer = cluster.observer_token(VALID).unwrap();
    let refused = regatta(&cluster, &observer, &["jobs", "stop", "1"]).unwrap_err();
    assert_eq!(refused.exit_code(), 4, "{refused}");
    regatta(&cluster, &operator, &["jobs", "stop", "1"]).unwrap();
    eventually("it is stopped", || regatta(&cluster, &observer, &["jobs"]).unwrap().contains("1  stopped"));
    assert!(!is_alive(other), "what it has started is gone, too");
    let again = regatta(&cluster, &operator, &["jobs", "stop", "1"]).unwrap_err();
    assert!(again.to_string().contains("does not run any more"), "{again}");

    submit(&cluster, &operator, "waits", &["--detach"]).unwrap();
    eventually("it waits", || others(2).is_some());
    let other = others(2).unwrap();
    drop(cluster);
    eventually("it ends with its head", || !is_alive(other));
}

#[test]
fn a_job_of_another_build_and_one_at_a_head_that_wants_none_are_refused() {
    let (cluster, _workers, operator) = head(1);
    let other = regatta(&cluster, &operator, &["submit", "--", "/bin/sh", "-c", "true"]).unwrap_err();
    assert!(other.exit_code() == 1 && other.to_string().contains("the builds differ"), "{other}");
    let nothing = regatta(&cluster, &operator, &["submit", "--", "/nowhere/program"]).unwrap_err();
    assert!(nothing.to_string().contains("/nowhere/program cannot be read"), "{nothing}");
    let nobody = regatta(&cluster, &operator, &["jobs", "log", "7"]).unwrap_err();
    assert!(nobody.to_string().contains("no job 7 is known"), "{nobody}");
    assert_eq!(regatta(&cluster, &operator, &["jobs"]).unwrap(), "no jobs are known\n");
    let (none, _workers, operator) = head(0);
    let refused = submit(&none, &operator, "adds", &[]).unwrap_err();
    assert!(refused.to_string().contains("accepts no jobs: start it with REGATTA_JOBS"), "{refused}");
}

#[test]
fn of_a_job_that_is_over_no_thread_is_left_whoever_holds_its_output() {
    let (cluster, _workers, operator) = head(1);
    let readers = || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|name| name.starts_with("regatta-job")).count()
    };
    let others = readers();
    for _ in 0..3 {
        let said = submit(&cluster, &operator, "leaves_one_that_prints_on", &[]).unwrap();
        assert!(said.contains(" is done, after "), "{said}");
    }
    eventually("nobody reads on", || readers() <= others);
    // What one prints that prints on and on comes to an end, too, unless it is followed.
    submit(&cluster, &operator, "prints_for_ever", &["--detach"]).unwrap();
    let log = || regatta(&cluster, &operator, &["jobs", "log", "4"]).unwrap();
    eventually("it prints", || log().contains("on and"));
    regatta(&cluster, &operator, &["jobs", "stop", "4"]).unwrap();
}
