//! A driver that is killed leaves no process and no socket, and its scratch folder goes with the next start.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use regatta::polars::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Session};

regatta::testing::worker!();

const AS_DRIVER: &str = "REGATTA_TEST_DRIVER_SCRATCH";

/// This test binary, started again by the test below, is the driver: it says who its workers are and waits to be killed in
/// the middle of a query.
#[test]
fn driver() {
    let Some(scratch) = std::env::var_os(AS_DRIVER) else { return };
    let session = Session::local_with(3, Config { scratch: scratch.into(), ..Config::default() }).unwrap();
    let mut frame = df!["x" => (0..2_000_000i64).collect::<Vec<_>>()].unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.parquet");
    ParquetWriter::new(std::fs::File::create(&file).unwrap()).finish(&mut frame).unwrap();
    let scan = LazyFrame::scan_parquet(PlRefPath::try_from_path(&file).unwrap(), Default::default()).unwrap();
    let run = session.submit(scan).unwrap();
    drop(run.status());
    println!("workers {:?}", session.processes());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_driver_leaves_no_process_no_socket_and_after_the_next_start_no_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let mut driver = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "driver", "--nocapture"])
        .env(AS_DRIVER, scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
    let workers = said
        .filter_map(|line| line.split_once("workers [").map(|(_, ids)| ids.trim_end_matches(']').to_owned()))
        .next();
    let workers: Vec<u32> = workers.expect("it names its workers").split(", ").map(|id| id.parse().unwrap()).collect();
    assert_eq!(workers.len(), 3);
    let all = [&[driver.id()][..], &workers].concat();
    assert!(all.iter().all(|id| sockets(*id) > 0), "each has its endpoint");

    driver.kill().unwrap();
    driver.wait().unwrap();
    eventually("workers end with their driver", || !workers.iter().any(|id| is_alive(*id)));
    assert!(all.iter().all(|id| sockets(*id) == 0));

    let clusters = std::fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(entries(&clusters), 1, "nobody was left to remove it");
    let next = Session::local_with(1, Config { scratch: scratch.path().to_owned(), ..Config::default() }).unwrap();
    assert_eq!(entries(&clusters), 1, "only the new one's");
    drop(next);
    assert_eq!(entries(&clusters), 0);
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn is_alive(process: u32) -> bool {
    // Threads end one by one, and the process's files are closed by the last. A zombie holds nothing.
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let states = threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    states
        .into_iter()
        .any(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z")))
}

fn sockets(process: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files
        .filter(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
        .count()
}
