//! A session of many queries, with pools, cancelled and failed ones, and workers that are lost, ends with the memory, threads,
//! descriptors and speed that it began with.
//!
//! `REGATTA_SOAK=10000 cargo test --workspace --test soak -- --nocapture` runs as many queries; 400 without.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::time::{Duration, Instant};

use regatta::observe::QueryState;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Error, Run};
use serde::{Deserialize, Serialize};

regatta::testing::worker!();

/// Names the folder of the process that runs the session, which is this test binary started again.
const AS_DRIVER: &str = "REGATTA_TEST_SOAK_DRIVER";
const QUERIES: &str = "REGATTA_SOAK";
const ORDINARY: usize = 400;
const ROWS: i64 = 2_000;

/// Hands its input on, slowly, or fails.
#[derive(Serialize, Deserialize)]
struct Rows {
    fails: bool,
}

#[regatta::udf(name = "soaked")]
impl Udf for Rows {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        std::thread::sleep(Duration::from_millis(1));
        if self.fails { Err(UdfError::new("ran aground")) } else { Ok(batch.column(0)?.clone()) }
    }
}

fn rows(folder: &Path) -> LazyFrame {
    let path = folder.join("x.parquet");
    if !path.exists() {
        let mut frame = df!["x" => (0..ROWS).collect::<Vec<_>>()].unwrap();
        let writer = ParquetWriter::new(fs::File::create(&path).unwrap());
        writer.with_row_group_size(Some(200)).finish(&mut frame).unwrap();
    }
    LazyFrame::scan_parquet(PlRefPath::try_from_path(&path).unwrap(), Default::default()).unwrap()
}

fn called(folder: &Path, fails: bool, isolated: bool) -> LazyFrame {
    let pool = Rows { fails }.pool().replicas(1..=2).batch(50);
    let pool = if isolated { pool.isolated() } else { pool };
    rows(folder).with_column(pool.on([col("x")]).alias("y"))
}

#[track_caller]
fn assert_whole(answer: Result<DataFrame, Error>) {
    let answer = answer.unwrap_or_else(|error| panic!("it should be answered: {error}"));
    let sum = |name: &str| answer.column(name).unwrap().i64().unwrap().sum();
    assert_eq!((answer.height() as i64, sum("x")), (ROWS, Some(ROWS * (ROWS - 1) / 2)), "no row twice, none lost");
}

fn in_the_middle(run: &Run) {
    eventually("a task runs or is done", || {
        let status = run.status().unwrap().unwrap();
        status.state != QueryState::Running || status.stages[0].tasks.1 + status.stages[0].tasks.2 > 0
    });
}

/// What the session's processes hold between queries.
#[derive(Debug, Default)]
struct Held {
    /// KiB that no file backs: of the driver, and of the largest worker.
    memory: (u64, u64),
    /// By name, in all processes.
    threads: BTreeMap<String, usize>,
    descriptors: usize,
    processes: usize,
    partitions: usize,
}

/// Those on which Polars' own runtime blocks. They stay for ten seconds after their last work.
const POLARS_THREADS: &str = "tokio-rt-worker";

impl Held {
    fn by(session: &Session) -> Self {
        let mut held = Self { partitions: session.partitions_held(), ..Self::default() };
        let mut look = vec![process::id()];
        while let Some(process) = look.pop() {
            held.processes += 1;
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
            let kib = anonymous.and_then(|kib| kib.parse().ok()).unwrap_or(0);
            let memory = if process == process::id() { &mut held.memory.0 } else { &mut held.memory.1 };
            *memory = kib.max(*memory);
            for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
                let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
                if name.trim() != POLARS_THREADS {
                    *held.threads.entry(name.trim().to_owned()).or_default() += 1;
                }
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                look.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
            held.descriptors += fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().count();
        }
        held
    }

    /// What is more than `before`, but for memory.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let threads = self.threads.iter().map(|(name, count)| {
            let then = before.threads.get(name).copied().unwrap_or(0);
            (format!("threads {name}"), *count, then)
        });
        let counts = [
            ("processes".to_owned(), self.processes, before.processes),
            ("descriptors".to_owned(), self.descriptors, before.descriptors),
            ("partitions".to_owned(), self.partitions, before.partitions),
        ];
        let more = counts.into_iter().chain(threads).filter(|(_, now, then)| now > then);
        more.map(|(what, now, then)| format!("{what}: {now}, not {then}")).collect()
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (driver, worker) = (self.memory.0 / 1024, self.memory.1 / 1024);
        let threads: usize = self.threads.values().sum();
        write!(f, "driver {driver} MiB, worker {worker} MiB, {threads} threads, {} descriptors", self.descriptors)
    }
}

struct Soak<'a> {
    session: &'a Session,
    folder: &'a Path,
}

impl Soak<'_> {
    fn submit(&self, query: LazyFrame) -> Run {
        self.session.submit(query).unwrap()
    }

    /// Runs such queries as are alike in every ten, and in every hundred; how long plain ones took.
    fn run(&self, queries: std::ops::Range<usize>) -> Vec<Duration> {
        let mut times = Vec::new();
        for query in queries {
            match query % 10 {
                0 => assert_whole(self.submit(called(self.folder, false, false)).collect()),
                1 => drop(self.submit(called(self.folder, true, false)).collect().unwrap_err()),
                2 => {
                    let mut run = self.submit(called(self.folder, false, false));
                    in_the_middle(&run);
                    run.cancel();
                    drop(run.collect());
                }
                3 => drop(self.submit(rows(self.folder))),
                // Several at once share a pool.
                4 => {
                    let mut runs = [(); 4].map(|()| self.submit(called(self.folder, false, false)));
                    runs.iter_mut().for_each(|run| assert_whole(run.collect()));
                }
                5 if query % 100 == 5 => assert_whole(self.submit(called(self.folder, false, true)).collect()),
                5 if query % 100 == 55 => self.lose_a_worker(),
                _ => {
                    let began = Instant::now();
                    assert_whole(self.submit(rows(self.folder)).collect());
                    times.push(began.elapsed());
                }
            }
        }
        times
    }

    fn lose_a_worker(&self) {
        let mut run = self.submit(called(self.folder, false, false));
        in_the_middle(&run);
        let process = self.session.processes()[0].to_string();
        assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
        assert_whole(run.collect());
        drop(run);
        eventually("the worker is replaced", || self.session.status().unwrap().workers.len() == 2);
    }

    /// What is held once nothing is under way and no pool is warm; not more than `before`, if there is one.
    fn held(&self, before: Option<&Held>) -> Held {
        eventually("all queries have ended and pools have cooled", || {
            let status = self.session.status().unwrap();
            let charged = status.workers.iter().any(|worker| worker.cpus.1 > 0.0);
            status.queries.is_empty() && status.pools.is_empty() && !charged
        });
        let ended = Instant::now();
        loop {
            let held = Held::by(self.session);
            let more = before.map(|before| held.beyond(before)).unwrap_or_default();
            if more.is_empty() {
                return held;
            }
            assert!(ended.elapsed() < Duration::from_secs(15), "left: {more:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Runs in a process of its own, in which nothing else starts threads or opens files.
#[test]
fn driver_of_the_soak() {
    let Some(folder) = std::env::var_os(AS_DRIVER) else { return };
    let folder = Path::new(&folder);
    let queries = std::env::var(QUERIES).ok().and_then(|queries| queries.parse().ok()).unwrap_or(ORDINARY);
    let config = Config {
        scratch: vec![folder.to_owned()],
        pool_warm: Duration::from_millis(300),
        autoscaler_update_interval: Duration::from_millis(200),
        ..Config::default()
    };
    let session = Session::local_with(2, config).unwrap();
    let soak = Soak { session: &session, folder };
    // All that the others do has been done once: what a process keeps from its first times is no leak.
    let window = (queries / 4).clamp(100, 1_000);
    soak.run(0..100);
    let first = median(soak.run(100..100 + window));
    let before = soak.held(None);
    soak.run(0..queries.saturating_sub(2 * window + 100));
    let last = median(soak.run(0..window));
    let after = soak.held(Some(&before));
    println!("{queries} queries: {before}, {first:?} for a plain query at first; {after}, {last:?} at last");
    // Allocators keep some of what was freed; 16 MiB in ten thousand queries would be 2 KiB for each.
    let most = |kib: u64| kib + kib / 4 + (16 << 10);
    assert!(after.memory.0 <= most(before.memory.0) && after.memory.1 <= most(before.memory.1), "{before}; {after}");
    // Others may work on this machine: only what grows with the queries is told by this.
    assert!(last <= first * 3, "a plain query took {first:?}, and takes {last:?}");
}

#[test]
fn a_session_of_many_queries_ends_with_what_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Command::new(std::env::current_exe().unwrap());
    driver.args(["--exact", "driver_of_the_soak", "--nocapture", "--test-threads=1"]).env(AS_DRIVER, folder.path());
    assert!(driver.status().unwrap().success());
}
