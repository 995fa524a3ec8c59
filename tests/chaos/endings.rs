//! Whoever goes in the middle gives everything back, and the others go on: cancelled queries, drivers that are killed or hostile.

use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regatta::error::ClusterError;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{TestCluster, eventually};
use regatta::{Config, Error, SessionStatus};

use crate::joined::{Joined, connect};
use crate::phases::{CASES, done, draw, table};
use crate::rounds;

/// Bytes that workers below this folder keep in files.
fn kept(scratch: &Path) -> u64 {
    let entries = std::fs::read_dir(scratch).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => kept(&entry.path()),
        Ok(found) if entry.path().extension().is_some_and(|end| end == "blocks") => found.len(),
        _ => 0,
    });
    sizes.sum()
}

fn is_idle(status: &SessionStatus) -> bool {
    let idle =
        status.workers.iter().all(|worker| worker.cpus.1 == 0.0 && worker.leaving.is_none() && worker.tasks == (0, 0));
    idle && status.queries.is_empty()
}

#[test]
fn a_query_that_is_cancelled_in_any_phase_gives_everything_back_within_a_second() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Nothing stays warm: replicas are given back, too.
    let config =
        Config { scratch: vec![scratch.path().to_owned()], pool_warm: Duration::ZERO, ..Config::from_env().unwrap() };
    let cluster = TestCluster::start_with(3, config).unwrap();
    let (session, mut seed, mut longest) = (cluster.session(), 5, Duration::ZERO);
    for case in CASES {
        for _ in 0..2 * rounds() {
            let run = session.submit((case.query)(table(folder.path()))).unwrap();
            let at = draw(&mut seed, 40);
            while done(&run) < at
                && run.status().unwrap().is_some_and(|s| s.stages.iter().any(|s| s.tasks.0 + s.tasks.1 > 0))
            {
                std::hint::spin_loop();
            }
            run.cancel();
            let cancelled = Instant::now();
            while !is_idle(&session.status().unwrap()) || session.partitions_held() > 0 || kept(scratch.path()) > 0 {
                assert!(cancelled.elapsed() < Duration::from_secs(5), "{}: {}", case.name, session.status().unwrap());
                thread::sleep(Duration::from_millis(1));
            }
            longest = longest.max(cancelled.elapsed());
        }
    }
    println!("the longest took {longest:?}");
    // A loaded machine is slow.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

const AS_DRIVER: &str = "REGATTA_TEST_CHAOS_DRIVER";
/// How a driver ends that hears that it is not of the cluster any more.
const HEARD: i32 = 7;

/// Started by the tests below: a driver that runs queries until it is killed.
#[test]
fn drives_until_it_is_killed() {
    let Ok(what) = std::env::var(AS_DRIVER) else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let session = Session::connect(&variable("REGATTA_ADDRESS"), &variable("REGATTA_TOKEN")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    match &*what {
        "keeps" => {
            let kept = table(folder.path()).repartition(5, [col("key")]).persist_on(&session).unwrap();
            loop {
                for query in CASES.iter().map(|case| (case.query)(table(folder.path()))).chain([kept.lazy()]) {
                    if let Err(Error::Cluster(ClusterError::Gone { .. })) = query.collect_on(&session) {
                        process::exit(HEARD);
                    }
                }
            }
        }
        // Each of its queries ends a worker, or would.
        _ => loop {
            drop(table(folder.path()).with_column(aborts::on([col("id")])).collect_on(&session));
        },
    }
}

#[regatta::udf(name = "aborts")]
fn aborts(id: i64) -> i64 {
    if id == 7_000 { process::abort() } else { id }
}

#[test]
fn a_driver_that_is_killed_in_the_middle_gives_everything_back_and_the_next_one_finds_all_workers() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let of_workers = [("REGATTA_SCRATCH", scratch.path().to_str().unwrap())];
    let _workers: Vec<_> = (0..3).map(|_| Joined::worker(&cluster, &of_workers)).collect();
    eventually("all have joined", || cluster.session().status().unwrap().workers.len() == 3);
    for round in 0..rounds() {
        let driver = Joined::driver(&cluster, "endings::drives_until_it_is_killed", &[(AS_DRIVER, "keeps")]);
        eventually("it has persisted something, and more", || cluster.session().status().unwrap().queries.len() >= 2);
        thread::sleep(Duration::from_millis(100 * (round % 20)));
        drop(driver);
        let killed = Instant::now();
        while !is_idle(&cluster.session().status().unwrap()) || kept(scratch.path()) > 0 {
            assert!(killed.elapsed() < Duration::from_secs(20), "{}", cluster.session().status().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
        println!("all is given back after {:?}", killed.elapsed());
        assert_eq!(cluster.session().status().unwrap().workers.len(), 3);
        let next = connect(&cluster);
        for case in CASES {
            let query = (case.query)(table(folder.path()));
            case.assert(&query.clone().collect_on(&next).unwrap(), &query.collect().unwrap(), "after a dead driver");
        }
    }
}

#[test]
fn a_driver_that_is_stopped_beyond_its_lease_has_nothing_left_and_hears_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let of_workers = [("REGATTA_SCRATCH", scratch.path().to_str().unwrap())];
    let _workers: Vec<_> = (0..2).map(|_| Joined::worker(&cluster, &of_workers)).collect();
    let mut driver = Joined::driver(&cluster, "endings::drives_until_it_is_killed", &[(AS_DRIVER, "keeps")]);
    eventually("it has persisted something, and more", || cluster.session().status().unwrap().queries.len() >= 2);
    driver.signal("-STOP");
    let stopped = Instant::now();
    while !is_idle(&cluster.session().status().unwrap()) || kept(scratch.path()) > 0 {
        assert!(stopped.elapsed() < Duration::from_secs(25), "{}", cluster.session().status().unwrap());
        thread::sleep(Duration::from_millis(5));
    }
    println!("all is given back after {:?}", stopped.elapsed());
    driver.signal("-CONT");
    let ended = driver.ends_within(Duration::from_secs(20));
    assert_eq!(ended.and_then(|status| status.code()), Some(HEARD), "{ended:?}");
}

#[test]
fn a_driver_whose_queries_end_their_workers_changes_no_answer_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let mut workers: Vec<_> = (0..3).map(|_| Joined::worker(&cluster, &[])).collect();
    eventually("all have joined", || cluster.session().status().unwrap().workers.len() == 3);
    let other = connect(&cluster);
    let _hostile = Joined::driver(&cluster, "endings::drives_until_it_is_killed", &[(AS_DRIVER, "aborts")]);
    let (began, over, mut ended) = (Instant::now(), AtomicBool::new(false), Vec::new());
    let lost = thread::scope(|scope| {
        let replaces = scope.spawn(|| {
            let mut lost = 0;
            while !over.load(Ordering::Relaxed) {
                for worker in &mut workers {
                    if worker.ends_within(Duration::from_millis(5)).is_some() {
                        lost += 1;
                        *worker = Joined::worker(&cluster, &[]);
                    }
                }
            }
            lost
        });
        let _ends = Ends(&over);
        for case in CASES.iter().cycle().take_while(|_| began.elapsed() < Duration::from_secs(12 * rounds())) {
            let query = (case.query)(table(folder.path()));
            match query.clone().collect_on(&other) {
                Ok(ours) => case.assert(&ours, &query.collect().unwrap(), "beside a hostile driver"),
                Err(error) => ended.push(format!("{}: {error}", case.name)),
            }
        }
        over.store(true, Ordering::Relaxed);
        replaces.join().unwrap()
    });
    println!("{lost} workers were lost; what was ended beside them: {ended:#?}");
    assert!(lost > 0, "the other did nothing");
}

/// Whatever happens, those that replace workers end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
