//! Workers that are asked to leave cost no query, no attempt and hardly any time; heads and drivers that are asked to end say so.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regatta::error::{ActorError, ClusterError};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{TestCluster, eventually};
use regatta::{Config, Error, Persisted, WorkerId};

use crate::hosts::Small;
use crate::joined::{Joined, connect};
use crate::phases::{CASES, table};
use crate::rounds;

/// How long leaving may take on a machine that is busy, where nothing has to be waited for.
const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

fn serve() -> Cluster {
    Cluster::serve("127.0.0.1:0").unwrap()
}

fn there(cluster: &Cluster) -> usize {
    cluster.session().status().unwrap().workers.len()
}

fn workers(cluster: &Cluster, count: usize, scratch: &Path) -> Vec<Joined> {
    let before = there(cluster);
    let started = (0..count).map(|_| Joined::worker(cluster, &[("REGATTA_SCRATCH", scratch.to_str().unwrap())]));
    let started = started.collect();
    eventually("all have joined", || there(cluster) == before + count);
    started
}

/// What workers below this folder have left of themselves.
fn left(scratch: &Path) -> usize {
    let clusters = std::fs::read_dir(scratch).into_iter().flatten().flatten();
    clusters.map(|cluster| std::fs::read_dir(cluster.path()).map_or(0, Iterator::count)).sum()
}

#[regatta::udf(name = "naps")]
fn naps(id: i64) -> i64 {
    thread::sleep(Duration::from_micros(500));
    id
}

/// A value that nobody draws twice.
#[regatta::udf(name = "draws")]
pub(crate) fn draws(id: i64) -> i64 {
    static DRAWN: AtomicI64 = AtomicI64::new(0);
    let _ = id;
    i64::from(std::process::id()) * 1_000_000 + DRAWN.fetch_add(1, Ordering::Relaxed)
}

/// Six seconds of sleep, in tasks and batches of less than one, by three replicas.
fn slow(folder: &Path) -> LazyFrame {
    let three = naps::pool().replicas(3).cpus(0.25).batch(200);
    let napped = table(folder).with_column(three.on([col("id")]).alias("napped"));
    napped.select([len(), col("napped").sum()])
}

#[track_caller]
fn assert_slow_is_right(rows: &DataFrame) {
    assert_eq!(rows.column("len").unwrap().u32().unwrap().get(0), Some(12_000));
    assert_eq!(rows.column("napped").unwrap().i64().unwrap().get(0), Some(11_999 * 6_000));
}

/// Attempts of a query that have failed, or were lost with their worker.
fn in_vain(run: &Run) -> u32 {
    run.profile().unwrap().stages.iter().map(|stage| stage.failed + stage.lost).sum()
}

fn until_some_is_done(run: &Run) {
    eventually("some tasks are done, some are not", || {
        run.status().unwrap().is_some_and(|status| status.stages[0].tasks.2 > 0 && status.stages[0].tasks.1 > 0)
    });
}

#[test]
fn a_worker_that_is_sent_a_sigterm_leaves_in_order_and_costs_a_running_query_less_than_a_second() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = serve();
    let mut there_first = workers(&cluster, 3, scratch.path());
    let began = Instant::now();
    assert_slow_is_right(&slow(folder.path()).collect_on(cluster.session()).unwrap());
    let undisturbed = began.elapsed();
    let began = Instant::now();
    let mut run = cluster.session().submit(slow(folder.path())).unwrap();
    until_some_is_done(&run);
    there_first[0].signal("-TERM");
    let signalled = Instant::now();
    // Another one comes in its place, as where workers are restarted.
    let _another = Joined::worker(&cluster, &[("REGATTA_SCRATCH", scratch.path().to_str().unwrap())]);
    let ended = there_first[0].ends_within(LONG).expect("it leaves");
    let leaving = signalled.elapsed();
    assert_slow_is_right(&run.collect().unwrap());
    let disturbed = began.elapsed();
    println!(
        "undisturbed {undisturbed:?}; with a SIGTERM {disturbed:?}, after which the worker left within {leaving:?}"
    );
    assert!(ended.success(), "{ended}");
    assert_eq!(in_vain(&run), 0, "{:?}", run.profile().unwrap().errors);
    assert_eq!(left(scratch.path()), 3, "its folder has gone with it");
    // It was ten seconds once. A loaded machine is slow.
    assert!(disturbed < undisturbed * 3 / 2 + Duration::from_secs(1), "{disturbed:?} and not {undisturbed:?}");
}

/// Rows of which every value would be another if it were made again, kept on the workers.
fn persisted(session: &Session, rows: i64) -> Persisted {
    let ids = df!["id" => (0..rows).collect::<Vec<_>>()].unwrap().lazy();
    let text = lit("some text that takes its room, and some more of it beside that").alias("text");
    let drawn = ids.into_partitions(6).with_columns([draws::on([col("id")]).alias("drawn"), text]);
    drawn.repartition(9, [col("id")]).persist_on(session).unwrap()
}

fn rows_of(persisted: &Persisted, session: &Session) -> DataFrame {
    persisted.lazy().sort(["id"], Default::default()).collect_on(session).unwrap()
}

#[test]
fn what_only_a_worker_holds_goes_to_others_before_it_leaves_and_is_not_made_again() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = serve();
    let mut first = workers(&cluster, 3, scratch.path());
    let session = connect(&cluster);
    let kept = persisted(&session, 60_000);
    let before = rows_of(&kept, &session);
    assert_eq!(before.height(), 60_000);
    let _second = workers(&cluster, 2, scratch.path());
    // All of the first ones at once: each may be given to another that leaves, too.
    first.iter().for_each(|worker| worker.signal("-TERM"));
    for worker in &mut first {
        assert!(worker.ends_within(LONG).is_some_and(|ended| ended.success()));
    }
    assert!(rows_of(&kept, &session).equals(&before), "some of it was made again");
    assert_eq!(there(&cluster), 2);
    drop(kept);
    eventually("nothing is left", || cluster.session().status().unwrap().queries.is_empty());
}

#[test]
fn a_result_that_was_not_taken_yet_is_taken_from_where_it_is_by_then() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = serve();
    let mut first = workers(&cluster, 2, scratch.path());
    for session in [cluster.session().clone(), connect(&cluster)] {
        let query =
            table(folder.path()).with_column(draws::on([col("id")]).alias("drawn")).repartition(40, [col("id")]);
        let mut run = session.submit(query).unwrap();
        let mut batches = run.batches();
        let mut taken = batches.next().unwrap().unwrap().height();
        eventually("all of it is made", || run_is_done(cluster.session()));
        let mut second = workers(&cluster, 2, scratch.path());
        first.iter().for_each(|worker| worker.signal("-TERM"));
        for worker in &mut first {
            assert!(worker.ends_within(LONG).is_some_and(|ended| ended.success()));
        }
        let began = Instant::now();
        for batch in batches {
            taken += batch.expect("it is not made again, which would contradict what was taken").height();
        }
        println!("the rest was taken within {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(taken, 12_000);
        std::mem::swap(&mut first, &mut second);
    }
}

fn run_is_done(session: &Session) -> bool {
    let status = session.status().unwrap();
    status.queries.iter().all(|(_, query)| query.stages.iter().all(|stage| stage.tasks.0 + stage.tasks.1 == 0))
}

#[test]
fn a_worker_with_a_full_disk_takes_over_nothing_and_another_does() {
    let Some(small) = Small::new(4) else {
        println!("not run: no file system of its own can be made here");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let cluster = serve();
    let mut first = workers(&cluster, 1, scratch.path());
    let kept = persisted(cluster.session(), 400_000);
    let before = rows_of(&kept, cluster.session());
    // By its number it is asked first.
    let full = Joined::worker(&cluster, &[("REGATTA_SCRATCH", small.path().to_str().unwrap())]);
    eventually("it has joined", || there(&cluster) == 2);
    let _roomy = workers(&cluster, 1, scratch.path());
    first[0].signal("-TERM");
    assert!(first[0].ends_within(LONG).is_some_and(|ended| ended.success()));
    assert!(rows_of(&kept, cluster.session()).equals(&before), "some of it was made again");
    drop(full);
}

#[test]
fn a_rolling_restart_of_all_workers_under_load_loses_no_query_and_no_attempt() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = serve();
    // One after the other, so that the oldest of the cluster is the next of these.
    let mut all: Vec<_> = (0..3).flat_map(|_| workers(&cluster, 1, scratch.path())).collect();
    let plain: Vec<_> = CASES.iter().map(|case| (case.query)(table(folder.path())).collect().unwrap()).collect();
    let kept = persisted(cluster.session(), 3_000);
    let drawn = rows_of(&kept, cluster.session());
    let over = AtomicBool::new(false);
    let (ran, slow_ones, longest) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let session = connect(&cluster);
            let mut ran = 0;
            while !over.load(Ordering::Relaxed) {
                for (case, plain) in CASES.iter().zip(&plain) {
                    let mut run = session.submit((case.query)(table(folder.path()))).unwrap();
                    let ours = run.collect().unwrap_or_else(|error| panic!("{}: {error}", case.name));
                    case.assert(&ours, plain, "while workers are restarted");
                    assert_eq!(in_vain(&run), 0, "{}: {:?}", case.name, run.profile().unwrap().errors);
                    ran += 1;
                }
            }
            ran
        });
        let beside = scope.spawn(|| {
            let mut ran = 0;
            while !over.load(Ordering::Relaxed) {
                let mut run = cluster.session().submit(slow(folder.path())).unwrap();
                assert_slow_is_right(&run.collect().unwrap());
                assert_eq!(in_vain(&run), 0, "{:?}", run.profile().unwrap().errors);
                ran += 1;
            }
            ran
        });
        let (_ends, mut longest) = (Ends(&over), Duration::ZERO);
        for round in 0..2 * rounds() as usize {
            for (index, worker) in all.iter_mut().enumerate() {
                let mut another = workers(&cluster, 1, scratch.path());
                let began = Instant::now();
                // By the signal, and by the one who operates the cluster.
                if (round + index) % 2 == 0 {
                    worker.signal("-TERM");
                } else {
                    let oldest = cluster.session().status().unwrap().workers[0].worker;
                    cluster.session().drain(oldest, Duration::from_secs(25)).unwrap();
                }
                assert!(worker.ends_within(LONG).is_some_and(|ended| ended.success()), "worker {index}");
                longest = longest.max(began.elapsed());
                *worker = another.remove(0);
            }
        }
        over.store(true, Ordering::Relaxed);
        (load.join().unwrap(), beside.join().unwrap(), longest)
    });
    println!("{ran} queries, {slow_ones} slow ones; the longest took {longest:?} to leave");
    assert!(ran > 0 && slow_ones > 0);
    assert!(rows_of(&kept, cluster.session()).equals(&drawn), "what was persisted was made again");
}

/// Whatever happens, the others end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn when_all_workers_leave_at_once_the_query_waits_for_the_next_and_without_one_says_so() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = Config { worker_timeout: Duration::from_secs(3), ..Config::from_env().unwrap() };
    let cluster = Cluster::serve_with("127.0.0.1:0", config).unwrap();
    for another_comes in [true, false] {
        let mut all = workers(&cluster, 2, scratch.path());
        let mut run = cluster.session().submit(slow(folder.path())).unwrap();
        until_some_is_done(&run);
        all.iter().for_each(|worker| worker.signal("-TERM"));
        eventually("they are about to leave, as is shown", || {
            let status = cluster.session().status().unwrap();
            status.workers.iter().all(|worker| worker.drains.is_some())
                && status.to_string().contains("has been leaving")
        });
        let mut next = another_comes.then(|| workers(&cluster, 1, scratch.path()));
        let ended = run.collect();
        match ended {
            Ok(rows) => assert_slow_is_right(&rows),
            Err(error) => {
                assert!(!another_comes, "{error}");
                assert!(matches!(error, Error::Cluster(ClusterError::NoWorkers { .. })), "{error}");
            }
        }
        assert_eq!(another_comes, next.is_some());
        for worker in &mut all {
            assert!(worker.ends_within(LONG).is_some_and(|ended| ended.success()));
        }
        // One that is killed would be missed for as long as its lease.
        for worker in next.iter_mut().flatten() {
            worker.signal("-TERM");
            assert!(worker.ends_within(LONG).is_some_and(|ended| ended.success()));
        }
        eventually("all are gone", || there(&cluster) == 0);
    }
}

#[test]
fn a_worker_that_is_asked_again_ends_at_once_and_that_is_known_at_once() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = serve();
    let _stays = workers(&cluster, 1, scratch.path());
    for (signals, code) in [(&["-TERM", "-TERM"][..], 143), (&["-INT"], 130)] {
        let mut worker = workers(&cluster, 1, scratch.path()).remove(0);
        let mut run = cluster.session().submit(slow(folder.path())).unwrap();
        until_some_is_done(&run);
        for signal in signals {
            worker.signal(signal);
            thread::sleep(Duration::from_millis(20));
        }
        let signalled = Instant::now();
        eventually("its head knows", || there(&cluster) == 1);
        println!("known after {:?}", signalled.elapsed());
        assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
        assert_eq!(worker.ends_within(SOON).and_then(|ended| ended.code()), Some(code));
        assert_slow_is_right(&run.collect().unwrap());
    }
    assert_eq!(left(scratch.path()), 1);
}

#[test]
fn a_worker_that_is_killed_while_it_leaves_is_missed_soon_and_costs_no_answer() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = serve();
    let mut all = workers(&cluster, 2, scratch.path());
    let mut run = cluster.session().submit(slow(folder.path())).unwrap();
    until_some_is_done(&run);
    all[0].signal("-TERM");
    eventually("it is about to leave", || {
        cluster.session().status().unwrap().workers.iter().any(|worker| worker.drains.is_some())
    });
    all[0].signal("-KILL");
    let killed = Instant::now();
    all[0].ends_within(SOON).unwrap();
    eventually("it is missed", || there(&cluster) == 1);
    println!("missed after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(7), "not after the ten seconds of others: {:?}", killed.elapsed());
    assert_slow_is_right(&run.collect().unwrap());
}

#[test]
fn a_worker_that_is_sent_a_sigterm_while_it_joins_ends_and_nobody_counts_on_it() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = serve();
    for delay in (0..12).map(|step| Duration::from_millis(30 * step)) {
        let mut worker = Joined::worker(&cluster, &[("REGATTA_SCRATCH", scratch.path().to_str().unwrap())]);
        thread::sleep(delay);
        worker.signal("-TERM");
        let ended = worker.ends_within(Duration::from_secs(15)).expect("it ends");
        // Before it heeds the signal it dies of it.
        let died = std::os::unix::process::ExitStatusExt::signal(&ended) == Some(15);
        assert!(died || ended.success(), "after {delay:?}: {ended}");
    }
    eventually("nobody is there", || there(&cluster) == 0);
    assert_eq!(left(scratch.path()), 0);
    let _next = workers(&cluster, 1, scratch.path());
    let one = df!["x" => [1i64]].unwrap().lazy().select([col("x") + lit(1)]);
    assert_eq!(one.collect_on(cluster.session()).unwrap().height(), 1);
}

#[test]
fn the_first_process_of_a_container_heeds_a_sigterm() {
    let cluster = serve();
    let Some(mut worker) = Joined::first_of_its_own(&cluster) else {
        println!("not run: no namespace of its own can be made here");
        return;
    };
    eventually("it has joined", || there(&cluster) == 1);
    let first = worker.child().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &first]).status().unwrap().success());
    assert!(worker.ends_within(SOON).is_some_and(|ended| ended.success()), "it does not heed it");
    assert_eq!(there(&cluster), 0);
}

#[test]
fn a_worker_of_a_session_of_one_machine_is_drained_and_replaced() {
    let config = Config { autoscaler_update_interval: Duration::from_millis(100), ..Config::from_env().unwrap() };
    let cluster = TestCluster::start_with(2, config).unwrap();
    let session = cluster.session();
    let kept = persisted(session, 20_000);
    let before = rows_of(&kept, session);
    let processes = session.processes();
    for worker in 0..2 {
        session.drain(WorkerId(worker), LONG).unwrap();
        eventually("another is there", || session.status().unwrap().workers.len() == 2);
    }
    assert!(session.processes().iter().all(|process| !processes.contains(process)));
    assert!(rows_of(&kept, session).equals(&before), "some of it was made again");
    let error = session.drain(WorkerId(0), LONG).unwrap_err();
    assert!(matches!(error, Error::Actor(ActorError::NoSuchWorker { worker: WorkerId(0), .. })), "{error}");
    // Two who ask at once both hear of it, and the shorter time counts.
    let next = session.status().unwrap().workers[0].worker;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| session.drain(next, LONG).unwrap());
        }
    });
    assert!(session.status().unwrap().workers.iter().all(|worker| worker.worker != next));
    let in_process = Session::native().unwrap();
    in_process.drain(WorkerId(0), LONG).unwrap_err();
    assert_eq!(df!["x" => [1i64]].unwrap().lazy().collect_on(&in_process).unwrap().height(), 1);
}

#[test]
fn only_the_head_has_a_worker_leave() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = serve();
    let _worker = workers(&cluster, 1, scratch.path());
    let error = connect(&cluster).drain(WorkerId(0), LONG).unwrap_err();
    assert!(error.to_string().contains("only a session at the head"), "{error}");
    assert_eq!(there(&cluster), 1);
}

const AS_HEAD: &str = "REGATTA_TEST_LEAVING_HEAD";
const AS_DRIVER: &str = "REGATTA_TEST_LEAVING_DRIVER";
/// How processes end that have seen what they were to see.
const SAW: i32 = 7;

/// Started by the tests below: a head at this address that says how to get in, until it is asked to end.
#[test]
fn serves_until_it_is_asked_to_end() {
    let Ok(address) = std::env::var(AS_HEAD) else { return };
    let cluster = Cluster::serve(&address).unwrap();
    let (for_workers, for_drivers) = (cluster.worker_token(2, LONG).unwrap(), cluster.driver_token(2, LONG).unwrap());
    let way = std::env::var("REGATTA_TEST_WAY").unwrap();
    std::fs::write(format!("{way}.new"), format!("{} {for_workers} {for_drivers}", cluster.address())).unwrap();
    std::fs::rename(format!("{way}.new"), way).unwrap();
    let own = cluster.session().submit(endless()).unwrap();
    cluster.session().until_terminated().unwrap();
    assert_ended(own);
    let refused = cluster.session().submit(endless()).expect_err("it has ended");
    assert!(matches!(refused, Error::Cluster(ClusterError::Terminated { .. })), "{refused}");
    std::process::exit(SAW);
}

/// A driver that is asked to end in the middle of its query.
#[test]
fn drives_until_it_is_asked_to_end() {
    let Ok(kind) = std::env::var(AS_DRIVER) else { return };
    let session = match &*kind {
        "local" => Session::local(2).unwrap(),
        _ => Session::from_env().unwrap(),
    };
    let own = session.submit(endless()).unwrap();
    let waits = session.clone();
    let waits = thread::spawn(move || waits.until_terminated().unwrap());
    assert_ended(own);
    waits.join().unwrap();
    std::process::exit(SAW);
}

fn assert_ended(mut run: Run) {
    let error = run.collect().expect_err("it does not end by itself");
    assert!(
        matches!(&error, Error::Cluster(ClusterError::Terminated { signal, .. }) if signal == "SIGTERM"),
        "{error}"
    );
    assert!(error.to_string().contains("was asked to end (SIGTERM), and has ended its queries"), "{error}");
}

/// Minutes of naps in each of two tasks.
fn endless() -> LazyFrame {
    let rows = df!["id" => (0..800_000i64).collect::<Vec<_>>()].unwrap().lazy();
    let napped = naps::pool().cpus(0.25).batch(200).on([col("id")]).alias("napped");
    rows.into_partitions(2).with_column(napped)
}

/// A head in a process of its own, its address, and tokens for workers and drivers.
fn head(folder: &Path, address: &str) -> (Joined, [String; 3]) {
    let way = folder.join("way");
    drop(std::fs::remove_file(&way));
    let head = Joined::test(
        "leaving::serves_until_it_is_asked_to_end",
        &[(AS_HEAD, address), ("REGATTA_TEST_WAY", way.to_str().unwrap())],
    );
    eventually("it serves", || way.exists());
    let said = std::fs::read_to_string(way).unwrap();
    let said: Vec<_> = said.split(' ').map(str::to_owned).collect();
    (head, said.try_into().unwrap())
}

fn worker_at([address, for_workers, _]: &[String; 3]) -> Joined {
    let variables = [("REGATTA_JOIN", &**address), ("REGATTA_TOKEN", for_workers), ("POLARS_MAX_THREADS", "4")];
    Joined::test("regatta_worker", &variables)
}

fn until_it_runs(run: &Run) {
    eventually("it runs", || run.status().unwrap().is_some_and(|status| status.stages.iter().any(|s| s.tasks.1 > 0)));
}

#[test]
fn a_head_that_is_asked_to_end_ends_its_queries_with_that_and_its_workers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut head, way) = head(folder.path(), "127.0.0.1:0");
    let mut workers = [worker_at(&way), worker_at(&way)];
    let session = Session::connect(&way[0], &way[2]).unwrap();
    let mut run = session.submit(endless()).unwrap();
    until_it_runs(&run);
    eventually("it waits for the signal", || head.heeds_a_sigterm());
    head.signal("-TERM");
    let signalled = Instant::now();
    let error = run.collect().expect_err("the cluster ends");
    println!("heard after {:?}: {error}", signalled.elapsed());
    assert!(error.to_string().contains("the head of the cluster was asked to end (SIGTERM)"), "{error}");
    for worker in &mut workers {
        assert!(worker.ends_within(SOON).is_some_and(|ended| ended.success()));
    }
    println!("all have ended after {:?}", signalled.elapsed());
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
    assert_eq!(head.ends_within(SOON).and_then(|ended| ended.code()), Some(SAW));
}

#[test]
fn a_driver_that_is_asked_to_end_ends_its_queries_with_that_and_is_missed_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = serve();
    let _workers = workers(&cluster, 1, scratch.path());
    let variables = [(AS_DRIVER, "elsewhere"), ("DAFT_RUNNER", "flotilla")];
    let mut driver = Joined::driver(&cluster, "leaving::drives_until_it_is_asked_to_end", &variables);
    eventually("its query runs", || {
        let status = cluster.session().status().unwrap();
        status.queries.iter().any(|(_, query)| query.stages.iter().any(|stage| stage.tasks.1 > 0))
    });
    eventually("it waits for the signal", || driver.heeds_a_sigterm());
    driver.signal("-TERM");
    let signalled = Instant::now();
    eventually("its query has ended", || cluster.session().status().unwrap().queries.is_empty());
    println!("missed after {:?}", signalled.elapsed());
    assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
    assert_eq!(driver.ends_within(SOON).and_then(|ended| ended.code()), Some(SAW));
    // With workers of its own.
    let mut driver = Joined::test("leaving::drives_until_it_is_asked_to_end", &[(AS_DRIVER, "local")]);
    eventually("it has workers, and waits for the signal", || driver.child().is_some() && driver.heeds_a_sigterm());
    driver.signal("-TERM");
    assert_eq!(driver.ends_within(SOON).and_then(|ended| ended.code()), Some(SAW));
}

#[test]
fn when_a_head_is_restarted_its_workers_and_drivers_find_out_within_ten_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, way) = head(folder.path(), "127.0.0.1:0");
    let mut worker = worker_at(&way);
    let session = Session::connect(&way[0], &way[2]).unwrap();
    let mut run = session.submit(endless()).unwrap();
    until_it_runs(&run);
    first.signal("-KILL");
    let killed = Instant::now();
    first.ends_within(SOON).unwrap();
    let (_second, way) = head(folder.path(), &way[0]);
    let error = run.collect().expect_err("its head is gone");
    println!("the driver heard after {:?}: {error}", killed.elapsed());
    assert!(error.to_string().contains("the cluster is gone"), "{error}");
    let refused = session.submit(endless()).expect_err("for good");
    assert!(refused.to_string().contains("connect with a new token"), "{refused}");
    assert!(worker.ends_within(SOON).is_some_and(|ended| ended.success()));
    println!("the worker has ended after {:?}", killed.elapsed());
    // A loaded machine is slow.
    assert!(killed.elapsed() < Duration::from_secs(13), "{:?}", killed.elapsed());
    // The next one's token leads to the next one.
    let _worker = worker_at(&way);
    let session = Session::connect(&way[0], &way[2]).unwrap();
    eventually("it has joined", || session.status().unwrap().workers.len() == 1);
    assert_eq!(
        df!["x" => [1i64]].unwrap().lazy().select([col("x") + lit(1)]).collect_on(&session).unwrap().height(),
        1
    );
}

#[test]
fn a_worker_has_as_much_as_is_said_and_its_port() {
    let cluster = serve();
    // A port that was free a moment ago.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port_said = port.to_string();
    let said = [("REGATTA_CPUS", "2.5"), ("REGATTA_MEMORY", "3GiB"), ("REGATTA_PORT", &*port_said)];
    let _worker = Joined::worker(&cluster, &said);
    eventually("it has joined", || there(&cluster) == 1);
    let status = cluster.session().status().unwrap();
    assert_eq!((status.workers[0].cpus.0, status.workers[0].memory.0), (2.5, 3 << 30));
    std::net::UdpSocket::bind(("127.0.0.1", port)).expect_err("it is at that port");
    let mut second = Joined::worker(&cluster, &[said[2]]);
    assert_eq!(second.ends_within(SOON).and_then(|ended| ended.code()), Some(2), "the port is taken");
    let mut third = Joined::worker(&cluster, &[("REGATTA_MEMORY", "much")]);
    assert_eq!(third.ends_within(SOON).and_then(|ended| ended.code()), Some(2), "that is no number of bytes");
}
