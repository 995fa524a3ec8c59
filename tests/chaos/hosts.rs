//! Workers of which one is worse off than the others: a full disk, few files, a hundredth of the speed; and a thousand queries in a row.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{TestCluster, eventually};
use regatta::{Error, WorkerId};

use crate::joined::Joined;
use crate::phases::{CASES, draw, table};
use crate::rounds;

/// A file system of its own, of so many MiB; `None` where that may not be made.
pub(crate) struct Small(tempfile::TempDir);

impl Small {
    pub(crate) fn new(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Rows that take some room.
fn wide(rows: i64) -> LazyFrame {
    let text = "a text that takes some room in a partition, and more of it beside that".repeat(8);
    let rows = df!["id" => (0..rows).collect::<Vec<_>>()].unwrap().lazy().into_partitions(12);
    rows.with_column(concat_str([col("id").cast(DataType::String), lit(text)], " ", true).alias("text"))
}

#[test]
fn a_worker_whose_disk_is_full_fails_no_query_while_others_have_room() {
    let Some(small) = Small::new(12) else {
        println!("not run: no file system of its own can be made here");
        return;
    };
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let scratch = small.0.path().to_str().unwrap();
    let _workers: Vec<_> = [vec![("REGATTA_SCRATCH", scratch)], vec![], vec![]]
        .iter()
        .map(|with| Joined::worker(&cluster, with))
        .collect();
    eventually("all have joined", || cluster.session().status().unwrap().workers.len() == 3);
    let query = wide(120_000)
        .repartition(9, [col("id")])
        .group_by([col("id") % lit(10)])
        .agg([len(), col("text").str().len_bytes().sum().alias("bytes")]);
    for _ in 0..3 * rounds() {
        let began = Instant::now();
        let ours = query.clone().collect_on(cluster.session()).unwrap();
        println!("{:?}", began.elapsed());
        assert_eq!(ours.column("len").unwrap().u32().unwrap().sum(), Some(120_000));
    }
}

#[test]
fn a_worker_with_few_files_answers_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let _workers = [Joined::worker_with_files(&cluster, 100), Joined::worker(&cluster, &[])];
    eventually("all have joined", || cluster.session().status().unwrap().workers.len() == 2);
    for case in CASES {
        let query = (case.query)(table(folder.path()));
        match query.clone().collect_on(cluster.session()) {
            Ok(ours) => case.assert(&ours, &query.collect().unwrap(), "with few files"),
            Err(error) => println!("{}: {error}", case.name),
        }
    }
}

#[test]
fn a_worker_that_is_a_hundred_times_slower_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start(3).unwrap();
    let _slowed = cluster.slow(WorkerId(1), 100).unwrap();
    let began = Instant::now();
    for case in CASES {
        let (query, one) = ((case.query)(table(folder.path())), Instant::now());
        match query.clone().collect_on(cluster.session()) {
            Ok(ours) => case.assert(&ours, &query.collect().unwrap(), "beside a slow worker"),
            Err(error) => panic!("{}: {error}", case.name),
        }
        println!("{}: {:?}", case.name, one.elapsed());
        if began.elapsed() > Duration::from_secs(15) * rounds() as u32 {
            break;
        }
    }
}

#[test]
fn a_persisted_result_whose_holders_are_killed_is_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start(3).unwrap();
    let mut seed = 3;
    for case in CASES {
        let query = (case.query)(table(folder.path()));
        let (plain, kept) = (query.clone().collect().unwrap(), query.persist_on(cluster.session()).unwrap());
        for _ in 0..rounds() {
            let mut run = cluster.session().submit(kept.lazy()).unwrap();
            let after = Duration::from_millis(draw(&mut seed, 30) as u64);
            std::thread::sleep(after);
            let there = cluster.session().status().unwrap().workers;
            let victim = there.get(draw(&mut seed, there.len())).map(|worker| worker.worker);
            victim.into_iter().for_each(|victim| drop(cluster.kill(victim)));
            let when = format!("a holder killed after {after:?}");
            match run.collect() {
                Ok(ours) => case.assert(&ours, &plain, &when),
                Err(Error::MadeOtherwise(_)) => (),
                Err(error) => panic!("{}, {when}: {error}", case.name),
            }
            case.assert(&kept.lazy().collect_on(cluster.session()).unwrap(), &plain, "once more");
        }
    }
    eventually("nothing is left", || cluster.session().partitions_held() == 0);
}

#[test]
fn many_queries_in_a_row_are_answered_though_a_worker_is_killed_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = TestCluster::start(3).unwrap();
    let plain: Vec<_> = CASES.iter().map(|case| (case.query)(table(folder.path())).collect().unwrap()).collect();
    let (mut seed, mut contradicted) = (11, 0);
    for number in 0..60 * rounds() {
        let at = draw(&mut seed, CASES.len());
        if draw(&mut seed, 10) == 0 {
            let there = cluster.session().status().unwrap().workers;
            let victim = there.get(draw(&mut seed, there.len())).map(|worker| worker.worker);
            victim.into_iter().for_each(|victim| drop(cluster.kill(victim)));
        }
        match (CASES[at].query)(table(folder.path())).collect_on(cluster.session()) {
            Ok(ours) => CASES[at].assert(&ours, &plain[at], "in a row"),
            Err(Error::MadeOtherwise(_)) => contradicted += 1,
            Err(error) => panic!("query {number}, {}: {error}", CASES[at].name),
        }
    }
    println!("{contradicted} queries could not contradict what they had given out");
    eventually("nothing is left", || cluster.session().partitions_held() == 0);
}
