//! What many partitions and large ones cost: descriptors, memory, disk.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use regatta::error::TaskFailure;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::{Config, Error};

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
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
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
    let rows = 430_000;
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
    assert!(used < 300 << 20, "430 MB of texts took {} MiB", used >> 20);
}

#[test]
fn a_full_disk_is_an_error_that_says_which_and_how_full() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("not run: no file system of its own can be made here");
        return;
    }
    let scratch = folder.path().to_owned();
    let outcome = std::panic::catch_unwind(|| {
        let config = Config { scratch: scratch.clone(), ..Config::from_env().unwrap() };
        let session = Session::local_with(1, config).unwrap();
        let query = |rows| {
            numbers(rows)
                .into_partitions(4)
                .with_column(long::on([col("id")]).alias("text"))
                .repartition(8, [col("id")])
        };
        let error = query(100_000).collect_on(&session).unwrap_err();
        let Error::Task(task) = &error else { panic!("{error}") };
        let TaskFailure::DiskFull { folder, need, room } = &task.cause else { panic!("{error}") };
        assert!(folder.starts_with(scratch.to_str().unwrap()) && *need > 0 && *room < 24 << 20, "{error}");
        assert!(error.to_string().contains("REGATTA_SCRATCH"), "{error}");
        // What it had written is gone, and there is room for others.
        let few = query(2_000).collect_on(&session).unwrap();
        assert_eq!(few.height(), 2_000);
    });
    Command::new("umount").arg("-l").arg(folder.path()).status().unwrap();
    outcome.unwrap();
}
