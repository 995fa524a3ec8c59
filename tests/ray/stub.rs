//! `launcher.py` on a stub of Ray: what it is told and says, and what it does when it is cut off.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use regatta::Error;
use regatta::error::{ClusterError, RayError};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::assert_same_as_polars;

use super::work::{lives, processes, slow_query, sum};
use super::{eager, eventually, options, program};

/// A Python in which `ray` is the stub, with these variables.
struct Stub {
    folder: tempfile::TempDir,
}

impl Stub {
    /// `None`: there is no Python, and the test says that it is skipped.
    fn new(variables: &str) -> Option<Self> {
        if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no python3");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let stub = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ray/stub");
        let with_stub = format!("{variables} PYTHONPATH={stub} PYTHONDONTWRITEBYTECODE=1 exec python3 \"$@\"");
        program(folder.path().join("python"), &with_stub);
        Some(Self { folder })
    }

    fn python(&self) -> PathBuf {
        self.folder.path().join("python")
    }
}

/// Why there is no session.
fn refused(variables: &str, address: &str, ready: Duration) -> Option<RayError> {
    let stub = Stub::new(variables)?;
    let options = regatta::RayOptions { ready_timeout: ready, ..options(&stub.python(), address, 1..=1) };
    let error = Session::ray_with(options, eager()).unwrap_err();
    let Error::Cluster(ClusterError::Ray(error)) = error else { panic!("{error}") };
    Some(error)
}

const LONG: Duration = Duration::from_secs(50);

#[test]
fn workers_that_the_launcher_has_started_answer_as_polars_does_and_end_with_the_session() {
    let Some(stub) = Stub::new("") else { return };
    let session = Session::ray_with(options(&stub.python(), "auto", 2..=2), eager()).unwrap();
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let worker = &session.status().unwrap().workers[0];
    assert_eq!(worker.cpus.0, 1.0);
    let frame = slow_query(1000).collect_on(&session).unwrap();
    assert_eq!(sum(&frame), 999 * 500);
    let workers = processes(&frame);
    assert!(!workers.is_empty() && workers.iter().all(|process| lives(*process)));
    let totals = slow_query(500).group_by([col("x") % lit(7)]).agg([col("x").sum().alias("sum")]);
    assert_same_as_polars(&session, &totals, false, &[]);
    // The same again is that one, with its workers; without the wish it is another.
    let again = regatta::RayOptions { noop_if_initialized: true, ..options(&stub.python(), "auto", 1..=1) };
    let same = Session::ray_with(again, eager()).unwrap();
    assert_eq!(same.status().unwrap().workers.len(), 2);
    drop((session, same));
    eventually("no worker is left", || workers.iter().all(|process| !lives(*process)));
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_the_answer_is_right() {
    let Some(stub) = Stub::new("") else { return };
    let session = Session::ray_with(options(&stub.python(), "auto", 1..=1), eager()).unwrap();
    let warm = slow_query(100).collect_on(&session).unwrap();
    let mut run = session.submit(slow_query(2000)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let [first] = processes(&warm)[..] else { panic!("{warm}") };
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    assert_eq!(sum(&run.collect().unwrap()), 1999 * 1000);
}

#[test]
fn what_there_is_no_room_for_waits_is_said_and_is_wanted_no_more_after_the_query() {
    let Some(stub) = Stub::new("STUB_ROOM=1") else { return };
    let session = Session::ray_with(options(&stub.python(), "auto", 0..=3), eager()).unwrap();
    let mut run = session.submit(slow_query(1000)).unwrap();
    let waits = || session.status().unwrap().provider_waits.unwrap_or_default();
    eventually("two wait, one has joined", || {
        waits().starts_with("for 2 of ") && session.status().unwrap().workers.len() == 1
    });
    assert_eq!(sum(&run.collect().unwrap()), 999 * 500);
    drop(run);
    eventually("nobody waits", || session.status().unwrap().provider_waits.is_none());
    eventually("and the one retires", || session.status().unwrap().workers.is_empty());
    assert_eq!(sum(&slow_query(100).collect_on(&session).unwrap()), 99 * 50, "its room is free again");
}

#[test]
fn what_ray_refuses_of_a_worker_is_said_by_the_query_that_waits_for_it() {
    let Some(stub) = Stub::new("") else { return };
    let options = regatta::RayOptions { cpus: Some(99.0), ..options(&stub.python(), "auto", 1..=1) };
    let config = regatta::Config { worker_timeout: Duration::from_secs(3), ..eager() };
    let session = Session::ray_with(options, config).unwrap();
    let error = slow_query(10).collect_on(&session).unwrap_err().to_string();
    assert!(error.contains("no worker for 3 s") && error.contains("ValueError: there is no such number"), "{error}");
}

#[test]
fn each_way_in_which_ray_is_not_there_is_an_error_with_what_to_do() {
    let Some(error) = refused("STUB_FAILS=connection", "auto", LONG) else { return };
    assert!(matches!(error, RayError::NotInitialised { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("Could not find any running Ray") && text.contains("ray job submit"), "{text}");
    let error = refused("STUB_FAILS=version", "auto", LONG).unwrap();
    assert!(matches!(&error, RayError::Refused { why, .. } if why.contains("9.9.9")), "{error}");
    let error = refused("", "127.0.0.1:1", LONG).unwrap();
    assert!(matches!(&error, RayError::NotReachable { address, .. } if address == "127.0.0.1:1"), "{error}");
    // As of one whose tokens it has not: Ray says only that it did not connect.
    let answers = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = refused("STUB_FAILS=connection", &answers.local_addr().unwrap().to_string(), LONG).unwrap();
    let text = error.to_string();
    assert!(text.contains("though its port answers") && text.contains("RAY_AUTH_TOKEN"), "{text}");
    let error = refused("STUB_FAILS=hangs", "auto", Duration::from_secs(2)).unwrap();
    assert!(matches!(&error, RayError::NotReady { why, .. } if why.contains("within 2 s")), "{error}");
    let error = refused("", "http://head:8265", LONG).unwrap();
    assert!(matches!(error, RayError::Outside { .. }), "{error}");
    // Without site packages there is no Ray; without a file there is no Python.
    let stub = Stub::new("").unwrap();
    let bare = program(stub.folder.path().join("bare"), "exec python3 -I -S \"$@\"");
    let error = Session::ray_with(options(&bare, "auto", 1..=1), eager()).unwrap_err();
    let Error::Cluster(ClusterError::Ray(RayError::NoRay { python, .. })) = &error else { panic!("{error}") };
    assert_eq!(python, &bare.display().to_string());
    assert!(error.to_string().contains("No module named 'ray'"), "{error}");
    let error = Session::ray_with(options("/no/such/python".as_ref(), "auto", 1..=1), eager()).unwrap_err().to_string();
    assert!(error.contains("the pilot `/no/such/python") && error.contains("No such file"), "{error}");
}

#[test]
fn the_pilot_of_the_page_places_workers() {
    if Stub::new("").is_none() {
        return;
    }
    let page = include_str!("../../docs/book/src/pilots.md");
    let script = page.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let pilot = regatta::Pilot::new(["python3", "-c", script], 2..=2);
    let cluster = Cluster::serve_by_with("127.0.0.1:0", pilot, eager()).unwrap();
    eventually("two workers have joined", || cluster.session().status().unwrap().workers.len() == 2);
    let frame = slow_query(200).collect_on(cluster.session()).unwrap();
    assert_eq!(sum(&frame), 199 * 100);
    let workers = processes(&frame);
    drop(cluster);
    eventually("no worker is left", || workers.iter().all(|process| !lives(*process)));
}

#[test]
fn the_pilot_of_the_page_on_hosts_places_workers() {
    let Some(stub) = Stub::new("") else { return };
    let page = include_str!("../../docs/book/src/hosts.md");
    let script = page.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    // What comes after `-T` and the host is run on this machine.
    program(stub.folder.path().join("ssh"), "shift 2\nexec sh -c \"$1\"");
    let shell = "PATH=\"$0:$PATH\" exec python3 -c \"$@\"";
    let folder = stub.folder.path().display().to_string();
    let pilot = regatta::Pilot::new(["sh", "-c", shell, &folder, script, "one", "two"], 0..=3);
    let cluster = Cluster::serve_by_with("127.0.0.1:0", pilot, eager()).unwrap();
    let frame = slow_query(1000).collect_on(cluster.session()).unwrap();
    assert_eq!(sum(&frame), 999 * 500);
    let workers = processes(&frame);
    assert!(workers.len() <= 2, "there is no third host");
    eventually("they retire", || cluster.session().status().unwrap().workers.is_empty());
    eventually("and end", || workers.iter().all(|process| !lives(*process)));
    let frame = slow_query(200).collect_on(cluster.session()).unwrap();
    assert_eq!(sum(&frame), 199 * 100, "the hosts are free again");
    let workers = processes(&frame);
    drop(cluster);
    eventually("no worker is left", || workers.iter().all(|process| !lives(*process)));
}
