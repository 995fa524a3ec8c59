//! However a query ends, and the session, the driver or a worker with it, nothing is left: no process, thread, socket, open file,
//! permit, partition or file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::{Duration, Instant};

use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, UnifiedSinkArgs};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Error, Run, Session};
use serde::{Deserialize, Serialize};

regatta::testing::worker!();

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Fate {
    Succeeds,
    Fails,
    Panics,
    /// Takes its whole process with it.
    Aborts,
}

/// Hands its input on, slowly, unless its fate is another.
#[derive(Serialize, Deserialize)]
struct Sails(Fate);

#[regatta::udf]
impl Udf for Sails {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        std::thread::sleep(Duration::from_millis(5));
        match self.0 {
            Fate::Succeeds => Ok(batch.column(0)?.clone()),
            Fate::Fails => Err(UdfError::new("ran aground")),
            Fate::Panics => panic!("man overboard"),
            Fate::Aborts => process::abort(),
        }
    }
}

/// Names the folder in which a driver, which is this test binary started again, works.
const AS_DRIVER: &str = "REGATTA_TEST_DRIVER";

fn as_driver(test: &str, folder: &Path) -> Command {
    let mut driver = Command::new(std::env::current_exe().unwrap());
    driver.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(AS_DRIVER, folder);
    driver
}

/// What a driver works on: sessions, 4000 rows in forty row groups, and folders to write into.
struct Work(PathBuf);

impl Work {
    /// None if this process is the test itself, not its driver.
    fn of_driver() -> Option<Self> {
        std::env::var_os(AS_DRIVER).map(|folder| Self(folder.into()))
    }

    fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    fn sinks(&self) -> PathBuf {
        self.0.join("sinks")
    }

    fn session(&self, workers: usize) -> Session {
        // Pools that are kept warm would be left on purpose.
        let config = Config { scratch: vec![self.scratch()], pool_warm: Duration::ZERO, ..Config::default() };
        Session::local_with(workers, config).unwrap()
    }

    fn rows(&self) -> LazyFrame {
        let file = self.0.join("x.parquet");
        if !file.exists() {
            let mut frame = df!["x" => (0..4000i64).collect::<Vec<_>>()].unwrap();
            let writer = ParquetWriter::new(fs::File::create(&file).unwrap());
            writer.with_row_group_size(Some(100)).finish(&mut frame).unwrap();
        }
        LazyFrame::scan_parquet(PlRefPath::try_from_path(&file).unwrap(), Default::default()).unwrap()
    }

    fn query(&self, fate: Fate, isolated: bool) -> LazyFrame {
        let mut pool = Sails(fate).pool().replicas(2).batch(50);
        if isolated {
            pool = pool.isolated();
        }
        self.rows().with_column(pool.on([col("x")]).alias("y"))
    }

    /// The query, with its rows written into a folder for each of three keys; all of that folder is made for it.
    fn sink(&self, query: LazyFrame) -> LazyFrame {
        let to = SinkDestination::Partitioned {
            base_path: PlRefPath::try_from_path(&self.sinks().join("made/for/it")).unwrap(),
            file_path_provider: None,
            partition_strategy: PartitionStrategy::Keyed {
                keys: vec![col("key")],
                include_keys: false,
                keys_pre_grouped: false,
            },
            max_rows_per_file: IdxSize::MAX,
            approximate_bytes_per_file: u64::MAX,
        };
        let keyed = query.with_column((col("x") % lit(3)).alias("key"));
        let args = UnifiedSinkArgs { mkdir: true, ..Default::default() };
        keyed.sink(to, FileWriteFormat::Parquet(Default::default()), args).unwrap()
    }
}

/// What processes hold, and what their session does. Of tasks, threads and files only more is worse.
#[derive(Debug, Default, PartialEq)]
struct Held {
    processes: usize,
    threads: BTreeMap<String, usize>,
    open_files: usize,
    files: Vec<PathBuf>,
    scratch: PathBuf,
    partitions: usize,
    queries: usize,
    charged: Vec<String>,
}

impl Held {
    fn by(session: &Session, work: &Work) -> Self {
        let mut held = Self { partitions: session.partitions_held(), scratch: work.scratch(), ..Self::default() };
        files(&work.scratch(), &mut held.files);
        files(&work.sinks(), &mut held.files);
        let status = session.status().unwrap();
        let live: Vec<_> = status.workers.iter().map(|at| format!("worker-{}", at.worker.0)).collect();
        held.files.retain(|file| !live.iter().any(|folder| file.ends_with(folder)));
        held.queries = status.queries.len();
        let charged = status.workers.iter().filter(|at| at.cpus.1 > 0.0 || at.memory.1 > 0);
        held.charged = charged.map(|at| format!("{at:?}")).collect();
        let mut look = vec![process::id()];
        while let Some(process) = look.pop() {
            held.processes += 1;
            for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
                let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
                *held.threads.entry(name.trim().to_owned()).or_default() += 1;
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                look.extend(children.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
            }
            held.open_files += fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().count();
        }
        held
    }

    /// What is more than `before`; empty if nothing is.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut more = Vec::new();
        let mut note = |what: &str, now: usize, then: usize| {
            if now > then {
                more.push(format!("{what}: {now}, not {then}"));
            }
        };
        note("processes", self.processes, before.processes);
        note("open files", self.open_files, before.open_files);
        note("partitions", self.partitions, before.partitions);
        note("queries", self.queries, before.queries);
        note("charged workers", self.charged.len(), before.charged.len());
        for (name, count) in &self.threads {
            note(&format!("threads {name}"), *count, before.threads.get(name).copied().unwrap_or(0));
        }
        // The session notes where the files of a sink would have been, until it ends or another query has a sink.
        let is_note = |file: &&PathBuf| {
            file.parent().is_some_and(|folder| folder.ends_with("sinks") && folder.starts_with(&self.scratch))
        };
        let files = self.files.iter().filter(|file| !before.files.contains(file) && !is_note(file));
        more.extend(files.map(|file| format!("file {}", file.display())));
        more
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        files(&entry.path(), found);
    }
}

/// Those on which Polars' own runtime blocks. They stay for ten seconds after their last work.
const POLARS_THREADS: &str = "threads tokio-rt-worker";
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits until tasks of the query are done and others run.
fn in_the_middle(run: &Run) {
    eventually("some tasks are done, some are not", || {
        run.status().unwrap().is_some_and(|status| status.stages[0].tasks.2 > 0 && status.stages[0].tasks.1 > 0)
    });
}

/// Runs in a process of its own, in which nothing else starts threads or opens files.
#[test]
fn driver_of_queries_that_end() {
    let Some(work) = Work::of_driver() else { return };
    let session = work.session(2);
    let submit = |query: LazyFrame| session.submit(query).unwrap();
    let all = |run: &mut Run| run.collect().unwrap().height();
    let succeeds = || {
        assert_eq!(all(&mut submit(work.query(Fate::Succeeds, false))), 4000);
        assert_eq!(all(&mut submit(work.query(Fate::Succeeds, true))), 4000);
        assert!(all(&mut submit(work.sink(work.query(Fate::Succeeds, false)))) >= 3);
        fs::remove_dir_all(work.sinks()).unwrap();
        fs::create_dir(work.sinks()).unwrap();
    };
    succeeds();
    eventually("the first query has ended", || session.status().unwrap().queries.is_empty());
    let before = Held::by(&session, &work);
    let nothing_is_left = |by: &str, but: &str| {
        let ended = Instant::now();
        loop {
            let mut left = Held::by(&session, &work).beyond(&before);
            left.retain(|what| but.is_empty() || !what.contains(but));
            if left.is_empty() {
                break;
            }
            assert!(ended.elapsed() < PATIENCE, "left by {by}: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let ends = |how: &str, ending: &dyn Fn()| {
        ending();
        nothing_is_left(&format!("a query that {how}"), POLARS_THREADS);
    };
    ends("succeeds", &succeeds);
    for isolated in [false, true] {
        for fate in [Fate::Fails, Fate::Panics] {
            ends("fails", &|| drop(submit(work.query(fate, isolated)).collect().unwrap_err()));
        }
    }
    ends("kills its replicas", &|| drop(submit(work.query(Fate::Aborts, true)).collect().unwrap_err()));
    ends("fails into a sink", &|| drop(submit(work.sink(work.query(Fate::Panics, false))).collect().unwrap_err()));
    for query in [work.query(Fate::Succeeds, false), work.query(Fate::Succeeds, true)] {
        for query in [query.clone(), work.sink(query)] {
            ends("is cancelled", &|| {
                let mut run = submit(query.clone());
                in_the_middle(&run);
                run.cancel();
                assert!(matches!(run.collect(), Err(Error::Cancelled)));
            });
            ends("is dropped in the middle", &|| in_the_middle(&submit(query.clone())));
            ends("is dropped at once", &|| drop(submit(query.clone())));
            ends("loses a worker", &|| {
                let mut run = submit(query.clone());
                in_the_middle(&run);
                signal("KILL", session.processes()[0]);
                assert!(all(&mut run) >= 3);
                drop(run);
                drop(fs::remove_dir_all(work.sinks()));
                fs::create_dir(work.sinks()).unwrap();
                eventually("the worker is replaced", || session.status().unwrap().workers.len() == 2);
            });
        }
    }
    nothing_is_left("all of them together", "");
}

#[test]
fn a_query_that_ends_however_it_ends_leaves_nothing_that_the_first_one_did_not() {
    let folder = folder();
    assert!(as_driver("driver_of_queries_that_end", folder.path()).status().unwrap().success());
    let left = fs::read_dir(folder.path().join("sinks")).unwrap().count();
    assert_eq!(left, 0);
    let mut scratch = Vec::new();
    files(&folder.path().join("scratch"), &mut scratch);
    assert!(scratch.len() <= 1, "the session has ended: {scratch:?}");
}

/// Says who its workers are in the middle of a query, and waits for its end.
#[test]
fn driver_that_is_ended() {
    let Some(work) = Work::of_driver() else { return };
    let session = work.session(3);
    let sink = session.submit(work.sink(work.query(Fate::Succeeds, false))).unwrap();
    in_the_middle(&sink);
    let isolated = session.submit(work.query(Fate::Succeeds, true)).unwrap();
    in_the_middle(&isolated);
    println!("workers {:?}", session.processes());
    loop {
        std::thread::park();
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sinks")).unwrap();
    fs::create_dir(folder.path().join("scratch")).unwrap();
    folder
}

fn signal(signal: &str, process: u32) {
    assert!(Command::new("kill").args([format!("-{signal}"), process.to_string()]).status().unwrap().success());
}

/// A driver in the middle of its queries, and all processes of its session.
fn driver_in_the_middle(folder: &Path) -> (Child, Vec<u32>) {
    let mut command = as_driver("driver_that_is_ended", folder);
    // A group of its own, as a shell gives what it starts.
    let mut driver = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut workers = said.filter_map(|line| Some(line.split_once("workers [")?.1.trim_end_matches(']').to_owned()));
    let workers: Vec<u32> =
        workers.next().expect("it names its workers").split(", ").map(|id| id.parse().unwrap()).collect();
    assert_eq!(workers.len(), 3);
    let replicas = workers.iter().flat_map(|worker| children(*worker));
    let all: Vec<_> = [driver.id()].into_iter().chain(workers.iter().copied()).chain(replicas).collect();
    assert!(all.len() > 4, "isolated replicas are processes too");
    (driver, all)
}

fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    children.flat_map(|ids| ids.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()).collect()
}

#[test]
fn a_driver_that_is_killed_or_interrupted_leaves_no_process_and_no_socket_and_after_the_next_start_no_file() {
    // A terminal sends the interrupt to the whole group; a kill hits one process.
    for (what, whole_group) in [("KILL", false), ("INT", true), ("TERM", false)] {
        let folder = folder();
        let work = Work(folder.path().to_owned());
        let (driver, all) = driver_in_the_middle(folder.path());
        assert!(all[..4].iter().all(|id| sockets(*id) > 0), "each has its endpoint");
        assert!(fs::read_dir(work.sinks()).unwrap().count() > 0, "files wait to be published");
        if whole_group {
            let group = format!("-{}", driver.id());
            assert!(Command::new("kill").args([&format!("-{what}"), "--", &group]).status().unwrap().success());
        } else {
            signal(what, driver.id());
        }
        let ends = RefCell::new(driver);
        eventually(
            &format!("the driver ends by SIG{what}, unless that is ignored here, as in background jobs of a script"),
            || ends.borrow_mut().try_wait().unwrap().is_some(),
        );
        eventually("workers and replicas end with their driver", || !all.iter().any(|id| is_alive(*id)));
        assert!(all.iter().all(|id| sockets(*id) == 0));

        let clusters = fs::read_dir(work.scratch()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(entries(&clusters), 1, "nobody was left to remove it");
        let next = work.session(1);
        assert_eq!(entries(&clusters), 1, "only the new one's");
        assert_eq!(entries(&work.sinks()), 0, "what was not published is gone");
        drop(next);
        assert_eq!(entries(&clusters), 0);
    }
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn is_alive(process: u32) -> bool {
    // Threads end one by one, and the process's files are closed by the last. A zombie holds nothing.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let states = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    states
        .into_iter()
        .any(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z")))
}

fn sockets(process: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
}
