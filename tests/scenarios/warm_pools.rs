//! Pools that queries share, and that stay for the next one: what starts once, what is each query's own, and what is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::udf::Pool;
use regatta::{Config, Error};
use serde::{Deserialize, Serialize};

use crate::endings::is_alive;
use crate::errors::{on_both, says};
use crate::udfs::numbers;

/// Answers with the query that calls; leaves a file in its folder for each start, with its process, and for each stop. What
/// else there is in the folder tells it what to do.
#[derive(Serialize, Deserialize)]
struct Moored {
    folder: PathBuf,
    name: String,
}

#[regatta::udf(name = "moored")]
impl Udf for Moored {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::UInt64)
    }

    fn start(&self, cx: &mut Start) -> UdfResult<()> {
        cx.metrics().count("started", 1);
        if self.folder.join("slow").exists() {
            thread::sleep(Duration::from_secs(4));
        }
        self.leave("start")
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        if self.folder.join("wait").exists() {
            self.leave("waits")?;
        }
        while self.folder.join("wait").exists() {
            thread::sleep(Duration::from_millis(2));
        }
        assert!(!self.folder.join("panic").exists(), "told to");
        batch.metrics().count("rows", batch.height() as u64);
        let query = batch.context().query().map_or(0, |query| query.0);
        Ok(UInt64Chunked::from_vec("".into(), vec![query; batch.height()]).into_column())
    }

    fn stop(&self, (): (), _: &Context) -> UdfResult<()> {
        self.leave("stop")
    }
}

impl Moored {
    fn leave(&self, what: &str) -> UdfResult<()> {
        // A name of its own for each: starts are counted.
        let mine = (0..).map(|n| self.folder.join(format!("{what}-{}-{n}", process::id())));
        for file in mine {
            match File::create_new(&file) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => (),
                made => return Ok(made.map(drop)?),
            }
        }
        Ok(())
    }
}

fn pool(folder: &Path, name: &str) -> Pool<Moored> {
    Moored { folder: folder.to_owned(), name: name.to_owned() }.pool().batch(100)
}

fn query(pool: &Pool<Moored>) -> LazyFrame {
    numbers().select([pool.on([col("x")])])
}

/// Who called, for all rows.
fn callers(run: &mut Run) -> BTreeSet<u64> {
    let frame = run.collect().unwrap();
    assert_eq!(frame.height(), 1000);
    frame.column("x").unwrap().u64().unwrap().iter().flatten().collect()
}

fn runs(session: &Session, pool: &Pool<Moored>) -> BTreeSet<u64> {
    callers(&mut session.submit(query(pool)).unwrap())
}

fn count(folder: &Path, what: &str) -> usize {
    fs::read_dir(folder).unwrap().flatten().filter(|file| file.file_name().to_string_lossy().starts_with(what)).count()
}

/// Processes in which there was a start.
fn processes(folder: &Path) -> BTreeSet<u32> {
    let names = fs::read_dir(folder).unwrap().flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix("start-")?.split('-').next()?.parse().ok()).collect()
}

/// Sends it a signal, unless it has ended: one that became ready when nobody wanted it any more is let go.
fn signal(process: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).stderr(Stdio::null()).status().unwrap();
    assert!(sent.success() || !is_alive(process), "{process} is alive");
}

fn kill(process: u32) {
    signal(process, "-9");
}

#[test]
fn queries_at_once_share_replicas_which_start_once_and_each_hears_of_its_own() {
    on_both(|session| {
        for pool in [|folder: &Path| pool(folder, "thread"), |folder: &Path| pool(folder, "process").isolated()] {
            let folder = tempfile::tempdir().unwrap();
            let pool = pool(folder.path());
            fs::write(folder.path().join("wait"), "").unwrap();
            let mut both = [(); 2].map(|()| session.submit(query(&pool)).unwrap());
            eventually("both use the pool", || {
                session.status().unwrap().pools.iter().any(|pool| pool.queries.len() == 2 && pool.ready == 1)
            });
            let text = session.status().unwrap().to_string();
            assert!(text.contains("UDF moored: 1 ready") && text.contains("shared by 2 queries"), "{text}");
            fs::remove_file(folder.path().join("wait")).unwrap();
            let callers = both.each_mut().map(callers);
            assert!(callers.iter().all(|callers| callers.len() == 1), "the context is that of the call: {callers:?}");
            assert_ne!(callers[0], callers[1]);
            assert_eq!(count(folder.path(), "start"), 1);
            let metrics = both.map(|run| run.status().unwrap().unwrap().metrics["moored"].clone());
            assert_eq!(metrics.each_ref().map(|metrics| metrics.counter("rows")), [1000, 1000]);
            assert_eq!(metrics.iter().map(|metrics| metrics.counter("started")).sum::<u64>(), 1);
        }
    });
}

#[test]
fn the_next_query_finds_the_pool_warm_and_the_pool_goes_with_the_session() {
    for workers in [0, 1] {
        let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config { scratch: vec![scratch.path().to_owned()], ..Config::default() };
        let session = match workers {
            0 => Session::native_with(config).unwrap(),
            n => Session::local_with(n, config).unwrap(),
        };
        let (thread, process) = (pool(folder.path(), "thread"), pool(folder.path(), "process").isolated());
        for pool in [&thread, &process, &thread, &process] {
            assert_eq!(runs(&session, pool).len(), 1);
        }
        assert_eq!((count(folder.path(), "start"), count(folder.path(), "stop")), (2, 0));
        let status = session.status().unwrap();
        assert!(status.pools.iter().all(|pool| pool.ready == 1 && pool.unused.is_some()), "{status}");
        assert!(status.to_string().contains("kept warm, unused for"), "{status}");
        // Other arguments or options are another pool.
        runs(&session, &pool(folder.path(), "another"));
        runs(&session, &pool(folder.path(), "thread").max_retries(1));
        assert_eq!(count(folder.path(), "start"), 4);
        let running: Vec<_> = processes(folder.path()).into_iter().filter(|id| *id != process::id()).collect();
        assert!(!running.is_empty() && running.iter().all(|id| is_alive(*id)));
        drop(session);
        eventually("its processes have ended", || !running.iter().any(|id| is_alive(*id)));
        let clusters = fs::read_dir(scratch.path()).unwrap().flatten().map(|cluster| cluster.path());
        let left: Vec<_> = clusters.flat_map(|cluster| fs::read_dir(cluster).into_iter().flatten().flatten()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_pool_goes_when_its_time_is_over_or_at_once_if_it_has_none() {
    on_both(|session| {
        for (time, stays) in [(Duration::ZERO, false), (Duration::from_millis(300), true)] {
            let folder = tempfile::tempdir().unwrap();
            let pool = pool(folder.path(), "brief").keep_warm(time);
            runs(session, &pool);
            runs(session, &pool);
            assert_eq!(count(folder.path(), "start"), if stays { 1 } else { 2 }, "{time:?}");
            eventually("it has stopped", || count(folder.path(), "stop") == count(folder.path(), "start"));
            assert!(session.status().unwrap().pools.is_empty());
        }
    });
}

#[test]
fn a_warm_pool_makes_room_for_what_cannot_be_placed() {
    let session = Session::local(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let all = session.status().unwrap().workers[0].cpus.0;
    let large = pool(folder.path(), "large").cpus(all - 0.5);
    runs(&session, &large);
    runs(&session, &large);
    assert_eq!((count(folder.path(), "start"), count(folder.path(), "stop")), (1, 0));
    runs(&session, &pool(folder.path(), "other"));
    eventually("the large one has made room", || count(folder.path(), "stop") == 1);
    assert_eq!(count(folder.path(), "start"), 2);
    // Tasks, which need no replica, need room too.
    runs(&session, &large);
    eventually("and the other one", || count(folder.path(), "stop") == 2);
    let rows = numbers().into_partitions(64).select([col("x") + lit(1)]);
    assert_eq!(rows.collect_on(&session).unwrap().height(), 1000);
}

#[test]
fn a_process_that_died_while_it_was_warm_costs_no_batch() {
    on_both(|session| {
        let folder = tempfile::tempdir().unwrap();
        // As many as a batch may not meet.
        let pool = pool(folder.path(), "process").isolated().replicas(3).timeout(Duration::from_secs(1));
        runs(session, &pool);
        let first = processes(folder.path());
        first.iter().for_each(|process| kill(*process));
        eventually("they are gone", || !first.iter().any(|process| is_alive(*process)));
        // To start anew is not part of a call's time.
        fs::write(folder.path().join("slow"), "").unwrap();
        runs(session, &pool);
        assert!(processes(folder.path()).len() > first.len());
    });
}

#[test]
fn a_process_that_was_stopped_while_it_was_warm_costs_no_batch() {
    on_both(|session| {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "process").isolated().timeout(Duration::from_secs(1));
        runs(session, &pool);
        let first = processes(folder.path());
        first.iter().for_each(|process| signal(*process, "-STOP"));
        // It neither begins the batch nor ends; another that starts takes more than the call's time.
        fs::write(folder.path().join("slow"), "").unwrap();
        runs(session, &pool);
        assert!(processes(folder.path()).len() > first.len());
        eventually("it is gone", || !first.iter().any(|process| is_alive(*process)));
    });
}

#[test]
fn a_worker_that_died_takes_its_warm_replicas_with_it_and_the_next_query_starts_others() {
    let session = Session::local(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(folder.path(), "thread");
    runs(&session, &pool);
    kill(session.processes()[0]);
    runs(&session, &pool);
    assert_eq!(processes(folder.path()).len(), 2);
}

#[test]
fn a_replica_that_broke_for_one_query_serves_the_next() {
    on_both(|session| {
        let (folder, quick) = (tempfile::tempdir().unwrap(), Duration::from_secs(20));
        for pool in [pool(folder.path(), "thread"), pool(folder.path(), "process").isolated()] {
            let pool = pool.batch(1000).max_retries(5).timeout(quick);
            fs::write(folder.path().join("panic"), "").unwrap();
            let error: Error = query(&pool).collect_on(session).unwrap_err();
            says(&error, &["moored", "ended 5 times", "not started again for this query", "told to"]);
            fs::remove_file(folder.path().join("panic")).unwrap();
            assert_eq!(runs(session, &pool).len(), 1);
        }
    });
}

#[test]
fn a_call_that_outlives_its_query_does_not_hold_up_the_next() {
    on_both(|session| {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "stuck");
        fs::write(folder.path().join("wait"), "").unwrap();
        let run = session.submit(query(&pool)).unwrap();
        eventually("its replica is in a call", || count(folder.path(), "waits-") == 1);
        run.cancel();
        drop(run);
        let mut next = session.submit(query(&pool)).unwrap();
        let waits = thread::spawn({
            let folder = folder.path().to_owned();
            move || {
                // Well after a call that nobody wants is given up.
                let given_up = || count(&folder, "start") == 2;
                let deadline = std::time::Instant::now() + Duration::from_secs(30);
                while !given_up() && std::time::Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(10));
                }
                let started = given_up();
                fs::remove_file(folder.join("wait")).unwrap();
                started
            }
        });
        assert_eq!(callers(&mut next).len(), 1);
        assert!(waits.join().unwrap(), "another replica was started in place of the one that is stuck");
    });
}

#[test]
fn more_pools_than_a_worker_has_room_for_share_its_cpus() {
    for session in [Session::native().unwrap(), Session::local(1).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let pools = session.status().unwrap().workers[0].cpus.0 as usize * 2 + 1;
        let columns = (0..pools).map(|n| pool(folder.path(), &n.to_string()).on([col("x")]).alias(n.to_string()));
        let frame = numbers().select(columns.collect::<Vec<_>>()).collect_on(&session).unwrap();
        assert_eq!((frame.height(), frame.width()), (1000, pools));
        assert_eq!(count(folder.path(), "start"), pools);
    }
}

#[test]
fn of_more_replicas_than_fit_those_that_fit_run_and_the_status_names_the_others() {
    let session = Session::local(1).unwrap();
    for replicas in [100..=100, 0..=100] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("wait"), "").unwrap();
        let least = *replicas.start();
        let mut run = session.submit(query(&pool(folder.path(), "many").replicas(replicas))).unwrap();
        eventually("a replica is ready", || run.status().unwrap().unwrap().stages[0].pools[0].ready > 0);
        let text = run.status().unwrap().unwrap().to_string();
        let says = text.contains("replicas wait for room on a worker (UDF moored, 0.5 CPU)");
        assert_eq!(says, least == 100, "{text}");
        fs::remove_file(folder.path().join("wait")).unwrap();
        assert_eq!(callers(&mut run).len(), 1);
    }
}

#[test]
fn what_a_stopped_replica_still_does_is_charged_until_it_has_ended() {
    for session in [Session::native().unwrap(), Session::local(1).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let wait = folder.path().join("wait");
        fs::write(&wait, "").unwrap();
        let run = session.submit(query(&pool(folder.path(), "stuck").keep_warm(Duration::ZERO))).unwrap();
        eventually("it is in a call", || count(folder.path(), "waits-") > 0);
        run.cancel();
        let worker = || session.status().unwrap().workers[0].clone();
        eventually("of all that was there the replica is left", || {
            worker().leaving.is_some_and(|(count, _)| count == 1)
        });
        assert!(worker().cpus.1 > 0.0, "{}", worker());
        fs::remove_file(&wait).unwrap();
        eventually("nothing is charged", || worker().leaving.is_none() && worker().cpus.1 == 0.0);
    }
}
