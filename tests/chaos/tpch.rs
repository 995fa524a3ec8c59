//! TPC-H's 22 queries have Polars' answers while workers are killed, and while they are stopped beyond their lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regatta::prelude::*;
use regatta::testing::{FaultPlan, TestCluster, difference, eventually};

use crate::joined::Joined;
use crate::queries::{QUERIES, Tables};
use crate::{data, rounds};

fn tables(folder: &tempfile::TempDir) -> Tables {
    data::write(folder.path(), 0.005, 1 << 12).unwrap();
    Tables(folder.path().to_owned())
}

/// All 22, once.
fn same_on(session: &Session, tables: &Tables) {
    for (number, query) in QUERIES.iter().enumerate() {
        let (mut query, began) = (query(tables), Instant::now());
        let schema = query.collect_schema().unwrap();
        // All of them are sums and means.
        let floats: Vec<&str> =
            schema.iter().filter(|(_, dtype)| dtype.is_float()).map(|(name, _)| name.as_str()).collect();
        let ours = query.clone().collect_on(session).unwrap_or_else(|error| panic!("q{}: {error}", number + 1));
        let difference = difference(&ours, &query.collect().unwrap(), true, &floats);
        assert_eq!(difference, None, "q{}", number + 1);
        println!("q{} {:?}", number + 1, began.elapsed());
    }
}

#[test]
fn the_queries_of_tpc_h_while_a_worker_is_killed_every_second() {
    let folder = tempfile::tempdir().unwrap();
    let tables = tables(&folder);
    let cluster = TestCluster::start(4).unwrap();
    for seed in 0..rounds() {
        let faults = cluster.suffer(FaultPlan::kill_each(Duration::from_secs(1)).seed(seed));
        same_on(cluster.session(), &tables);
        let killed = faults.end();
        println!("round {seed}: {killed} workers were killed");
        assert!(killed > 0, "no worker was killed");
    }
    eventually("nothing is left", || cluster.session().partitions_held() == 0);
}

#[test]
fn a_worker_that_is_stopped_beyond_its_lease_changes_nothing_when_it_wakes_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let tables = tables(&folder);
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let mut workers: Vec<_> = (0..4).map(|_| Joined::worker(&cluster, &[])).collect();
    let there = || cluster.session().status().unwrap().workers.len();
    eventually("all have joined", || there() == 4);
    for round in 0..rounds() {
        let over = AtomicBool::new(false);
        let ran = thread::scope(|scope| {
            let runs = scope.spawn(|| {
                let mut ran = 0;
                while !over.load(Ordering::Relaxed) {
                    same_on(cluster.session(), &tables);
                    ran += 1;
                }
                ran
            });
            let stopped = &mut workers[(round % 4) as usize];
            stopped.signal("-STOP");
            thread::sleep(Duration::from_secs(15));
            stopped.signal("-CONT");
            let woken = Instant::now();
            let ended = stopped.ends_within(Duration::from_secs(10));
            over.store(true, Ordering::Relaxed);
            assert!(ended.is_some_and(|status| status.success()), "it goes on, though it is thought lost: {ended:?}");
            println!("ended {:?} after it woke", woken.elapsed());
            *stopped = Joined::worker(&cluster, &[]);
            runs.join().unwrap()
        });
        println!("round {round}: all 22 {ran} times");
        assert!(ran > 0);
        eventually("another has joined", || there() == 4);
    }
    eventually("nothing is left", || cluster.session().partitions_held() == 0);
}
