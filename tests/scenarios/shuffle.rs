//! What many partitions and large ones cost: descriptors, memory, disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use regatta::error::TaskFailure;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Error};

use super::recovery::partitions_on_disk;

/// A text of 1000 bytes for each number, none like another.
#[regatta::udf]
fn long(id: i64) -> String {
    format!("{id:->1000}")
}

/// Says to a test that it is to do its work here, and how much: rows, tasks, partitions.
const HERE: &str = "REGATTA_TEST_HERE";

/// Runs a test again in a process that may have so many descriptors, its workers too.
fn with_descriptors(most: u64, test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(HERE, "60000 20 300");
    let limit = move || {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: it reads the struct that it is given, and no more; it is safe to call between fork and exec.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(limit) };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

fn numbers(rows: i64) -> LazyFrame {
    df!["id" => (0..rows).collect::<Vec<_>>()].unwrap().lazy()
}

#[test]
fn many_partitions_of_many_tasks_need_no_more_descriptors_than_few() {
    let Ok(work) = std::env::var(HERE) else {
        return with_descriptors(128, "shuffle::many_partitions_of_many_tasks_need_no_more_descriptors_than_few");
    };
    let [rows, tasks, partitions] = work.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<usize>>()[..] else {
        panic!("{work}")
    };
    let session = Session::local(2).unwrap();
    let query = numbers(rows as i64).into_partitions(tasks).with_column((col("id") * lit(3)).alias("x"));
    let mut run = session.submit(query.repartition(partitions, [col("id")])).unwrap();
    let read: Vec<_> = run.batches().collect::<Result<_, _>>().unwrap();
    assert_eq!(read.len(), partitions);
    let ids = read.iter().flat_map(|partition| partition.column("id").unwrap().i64().unwrap().iter().flatten());
    assert!(ids.collect::<BTreeSet<_>>().into_iter().eq(0..rows as i64));
}

/// Anonymous memory of a process, in bytes: what is mapped from files does not count.
fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or_default() << 10
}

/// The most anonymous memory that a worker has meanwhile, beyond what it has now.
fn peak(worker: u32, run: impl FnOnce()) -> u64 {
    let (idle, most, over) = (anonymous(worker), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(anonymous(worker), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        run();
        over.store(true, Ordering::Relaxed);
    });
    most.into_inner().saturating_sub(idle)
}

#[test]
fn a_worker_that_shuffles_holds_its_buffers_and_not_its_rows() {
    let session = Session::local(1).unwrap();
    // With `REGATTA_TEST_ROWS=4300000`, more than eight times 512 MiB, it stays within these and 15 %: calls have more rows then.
    let rows = std::env::var("REGATTA_TEST_ROWS").map_or(430_000, |rows| rows.parse().unwrap());
    let most: u64 = if rows > 430_000 { 588 << 20 } else { 300 << 20 };
    let texts = || numbers(rows).into_partitions(8).with_column(long::on([col("id")]).alias("text"));
    // A first query, so that threads and pools are there.
    texts().limit(10).repartition(3, [col("id")]).collect_on(&session).unwrap();
    let query = texts()
        .repartition(300, [col("text")])
        .with_column(col("text").str().len_bytes().alias("length"))
        .drop(by_name(["text"], true, false));
    let worker = session.processes()[0];
    let used = peak(worker, || {
        let mut run = session.submit(query).unwrap();
        let mut seen = 0;
        for batch in run.batches() {
            let batch = batch.unwrap();
            assert_eq!(
                batch
                    .column("length")
                    .unwrap()
                    .u32()
                    .unwrap()
                    .iter()
                    .flatten()
                    .filter(|length| *length != 1000)
                    .count(),
                0
            );
            seen += batch.height();
        }
        assert_eq!(seen, rows as usize);
    });
    println!("{rows} texts of a thousand bytes took {} MiB", used >> 20);
    assert!(used < most, "{rows} texts of a thousand bytes took {} MiB", used >> 20);
}

/// Bytes of the files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        Some(if found.is_dir() { bytes_below(&entry.path()) } else { found.len() })
    });
    sizes.sum()
}

#[test]
fn a_consumer_that_is_slow_fills_the_disk_and_not_the_memory_of_workers() {
    let scratch = tempfile::tempdir().unwrap();
    let session = on_disk(scratch.path(), 1);
    texts(10).collect_on(&session).unwrap();
    let (worker, rows) = (session.processes()[0], 150_000);
    let idle = anonymous(worker);
    let mut run = session.submit(texts(rows)).unwrap();
    let mut batches = run.batches();
    let mut seen = batches.next().unwrap().unwrap().height();
    // All of it is made, though nobody takes any.
    eventually("it is all on the disk", || bytes_below(scratch.path()) > rows as u64 * 1000);
    let status = || {
        session
            .status()
            .unwrap()
            .queries
            .into_iter()
            .all(|(_, query)| query.stages.iter().all(|s| s.tasks.0 + s.tasks.1 == 0))
    };
    eventually("its tasks have ended", status);
    // What its tasks had is given back to the system within a moment.
    eventually("it is not in memory", || anonymous(worker).saturating_sub(idle) < 100 << 20);
    for batch in batches {
        seen += batch.unwrap().height();
    }
    assert_eq!(seen, rows as usize);
}

/// Runs a test with a disk of 24 MiB.
fn with_small_disk(run: impl FnOnce(&Path) + std::panic::UnwindSafe) {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("not run: no file system of its own can be made here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| run(folder.path()));
    Command::new("umount").arg("-l").arg(folder.path()).status().unwrap();
    outcome.unwrap();
}

fn on_disk(scratch: &Path, workers: usize) -> Session {
    let config = Config { scratch: vec![scratch.to_owned()], ..Config::from_env().unwrap() };
    Session::local_with(workers, config).unwrap()
}

/// So many rows of a thousand bytes, by a number.
fn texts(rows: i64) -> LazyFrame {
    let texts = numbers(rows).into_partitions(4).with_column(long::on([col("id")]).alias("text"));
    texts.repartition(8, [col("id")])
}

#[test]
fn what_nobody_reads_any_more_makes_room_on_a_full_disk() {
    with_small_disk(|scratch| {
        let session = on_disk(scratch, 2);
        // Each step leaves a quarter of the disk.
        let query = (2..8).fold(texts(6_000), |query, by| query.repartition(8, [col("id") % lit(by)]));
        let rows =
            query.select([len().alias("rows"), col("text").str().len_bytes().sum()]).collect_on(&session).unwrap();
        assert!(rows.equals(&df!["rows" => [6_000u32], "text" => [6_000_000u32]].unwrap()), "{rows}");
    });
}

#[test]
fn a_full_disk_is_an_error_that_says_which_and_how_full() {
    with_small_disk(|scratch| {
        let session = on_disk(scratch, 1);
        let error = texts(100_000).collect_on(&session).unwrap_err();
        let Error::Task(task) = &error else { panic!("{error}") };
        let TaskFailure::DiskFull { folder, need, room } = &task.cause else { panic!("{error}") };
        assert!(folder.starts_with(scratch.to_str().unwrap()) && *need > 0 && *room < 24 << 20, "{error}");
        assert!(error.to_string().contains("REGATTA_SCRATCH"), "{error}");
        // What it had written is gone, and there is room for others.
        let few = texts(2_000).collect_on(&session).unwrap();
        assert_eq!(few.height(), 2_000);
    });
}

#[test]
fn what_tasks_leave_is_spread_over_all_scratch_folders_and_gone_from_each() {
    let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let scratch = disks.iter().map(|disk| disk.path().to_owned()).collect();
    let session = Session::local_with(2, Config { scratch, ..Config::from_env().unwrap() }).unwrap();
    let kept = texts(20_000).persist_on(&session).unwrap();
    for disk in &disks {
        assert!(partitions_on_disk(disk.path()) > 0);
    }
    let rows =
        kept.lazy().select([len().alias("rows"), col("text").str().len_bytes().sum()]).collect_on(&session).unwrap();
    assert!(rows.equals(&df!["rows" => [20_000u32], "text" => [20_000_000u32]].unwrap()), "{rows}");
    drop((kept, session));
    for disk in &disks {
        assert_eq!(partitions_on_disk(disk.path()), 0);
        let user = fs::read_dir(disk.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_dir(user).unwrap().count(), 0, "nor is the cluster's folder there");
    }
}

/// Says in which shape stages of a query run, by what was measured.
fn shapes(query: LazyFrame, session: &Session) -> (DataFrame, String) {
    let mut run = session.submit(query).unwrap();
    let rows = run.collect().unwrap();
    let profile = run.profile().unwrap();
    (rows, profile.stages.iter().map(|stage| stage.shape.as_str()).collect::<Vec<_>>().join("; "))
}

/// Nine rows of ten have the same key.
fn skewed(rows: i64) -> LazyFrame {
    let key = when((col("id") % lit(10)).eq(lit(0))).then(col("id")).otherwise(lit(7));
    numbers(rows).with_column(key.alias("key")).into_partitions(8)
}

#[test]
fn tasks_of_a_join_share_the_rows_of_a_key_that_most_have() {
    const SHAPES: &str = "REGATTA_TEST_SHAPES";
    if std::env::var(SHAPES).is_err() {
        let test = "shuffle::tasks_of_a_join_share_the_rows_of_a_key_that_most_have";
        let mut again = Command::new(std::env::current_exe().unwrap());
        // No side is small enough for all tasks, whatever its size.
        let ended = again.args(["--exact", test, "--nocapture"]).env(SHAPES, "hash").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        return assert!(ended.status.success(), "{said}");
    }
    let session = Session::local(2).unwrap();
    let rows = 2_000_000;
    let names = || numbers(1000).select([col("id").alias("key"), (col("id") * lit(3)).alias("three")]);
    for how in [JoinType::Inner, JoinType::Left, JoinType::Semi, JoinType::Anti, JoinType::Full] {
        let joined = || skewed(rows).join(names(), [col("key")], [col("key")], JoinArgs::new(how.clone()));
        let sums = |query: LazyFrame| {
            query.select([
                len().alias("rows"),
                col("id").sum(),
                col("key").sum(),
                (col("id") % lit(7)).max().alias("most"),
            ])
        };
        let (found, shapes) = shapes(sums(joined()), &session);
        let expected = sums(joined()).collect().unwrap();
        assert!(found.equals_missing(&expected), "{how:?}: {found} is not {expected}");
        assert_eq!(shapes.contains("share sections"), how != JoinType::Full, "{how:?}: {shapes}");
    }
}

#[test]
fn tasks_have_about_as_much_to_do_though_few_keys_have_most_rows() {
    let session = Session::local(2).unwrap();
    let query = skewed(2_000_000).group_by([col("key")]).agg([col("id").median()]);
    let mut run = session.submit(query.clone()).unwrap();
    let found = run.collect().unwrap().sort(["key"], Default::default()).unwrap();
    assert!(found.equals(&query.collect().unwrap().sort(["key"], Default::default()).unwrap()));
    let profile = run.profile().unwrap();
    let last = profile.stages.last().unwrap();
    // The key that most rows have is alone, and the others are not beside it.
    assert!(last.shape.contains("sections with") && last.tasks >= Some(3), "{}: {:?}", last.shape, last.tasks);
}
