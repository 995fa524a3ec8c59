//! On a real Ray of this machine, with a folder, ports and processes of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::assert_same_as_polars;

use super::work::{lives, processes, slow_query, sum};
use super::{PATIENCE, eager, eventually, options};

/// A Ray cluster of one node with four CPUs. It ends with this process, however that ends: with its input.
struct Ray {
    _life: Life,
    address: String,
    python: PathBuf,
}

/// The shell whose input is the cluster's life.
struct Life(Child);

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// One for all tests of this process.
static RAY: LazyLock<Option<Ray>> = LazyLock::new(Ray::start);

/// Ends all that has this folder in its command line: Ray's own processes, and no other Ray's.
const LIFE: &str = r#"
ours() { me=$BASHPID; grep -las -f <(echo "$folder") /proc/[0-9]*/cmdline | cut -d/ -f3 | grep -vx -e $$ -e $me; }
"$@" >"$folder/start.log" 2>&1 </dev/null &
cat >/dev/null
kill $! 2>/dev/null
for i in 1 2 3 4 5; do [ -n "$(ours)" ] || break; sleep 1; done
kill -9 $(ours) 2>/dev/null
rm -rf "$folder"
"#;

impl Ray {
    fn start() -> Option<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        let bin = cache.join("regatta/ray/bin");
        if !bin.join("ray").exists() {
            eprintln!("skipped: there is no Ray in {}; tests/ray/install puts it there", bin.display());
            return None;
        }
        // Short: paths of its sockets are no longer than a hundred bytes.
        let folder = tempfile::Builder::new().prefix("rr").tempdir().unwrap().keep();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        // All at once, so that they differ; given back before Ray wants them.
        let ports = [free(), free(), free()].map(|port| port.local_addr().unwrap().port());
        let mut life = Command::new("bash");
        life.args(["-c", LIFE, "life"]).arg(bin.join("ray")).args(["start", "--head", "--block", "--num-cpus=4"]);
        life.args(["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]);
        life.arg(format!("--temp-dir={}", folder.display()));
        let flags = ["port", "dashboard-agent-listen-port", "metrics-export-port"];
        life.args(flags.iter().zip(&ports).map(|(flag, port)| format!("--{flag}={port}")));
        let life = Life(life.env("folder", &folder).process_group(0).stdin(Stdio::piped()).spawn().unwrap());
        let (written, python) = (folder.join("ray_current_cluster"), bin.join("python"));
        let until = Instant::now() + PATIENCE;
        loop {
            let address = fs::read_to_string(&written).unwrap_or_default().trim().to_owned();
            if TcpStream::connect(&address).is_ok() {
                return Some(Self { _life: life, address, python });
            }
            let log = || fs::read_to_string(folder.join("start.log")).unwrap_or_default();
            assert!(Instant::now() < until, "Ray does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn session(&self, workers: std::ops::RangeInclusive<usize>) -> Session {
        Session::ray_with(options(&self.python, &self.address, workers), eager()).unwrap()
    }
}

/// The processes that have started these: actors of Ray's.
fn parents(processes: &[u32]) -> Vec<u32> {
    let parent = |process| {
        let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        status.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let mut all: Vec<u32> = processes.iter().filter_map(parent).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn a_query_on_workers_that_ray_has_placed_is_polars_answer_and_nothing_is_left() {
    let Some(ray) = &*RAY else { return };
    let session = ray.session(2..=2);
    eventually("two workers have joined", || session.status().unwrap().workers.len() == 2);
    let frame = slow_query(600).collect_on(&session).unwrap();
    assert_eq!(sum(&frame), 599 * 300);
    let workers = processes(&frame);
    let totals = slow_query(300).group_by([col("x") % lit(7)]).agg([col("x").sum().alias("sum")]);
    assert_same_as_polars(&session, &totals, false, &[]);
    let actors = parents(&workers);
    assert_eq!(actors.len(), workers.len(), "an actor each");
    drop(session);
    eventually("no worker is left", || workers.iter().all(|process| !lives(*process)));
    eventually("no actor is left", || actors.iter().all(|process| !lives(*process)));
}

#[test]
fn a_worker_on_ray_that_is_killed_in_mid_query_is_replaced() {
    let Some(ray) = &*RAY else { return };
    let session = ray.session(1..=1);
    let warm = slow_query(100).collect_on(&session).unwrap();
    let mut run = session.submit(slow_query(1500)).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    let [first] = processes(&warm)[..] else { panic!("{warm}") };
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    let frame = run.collect().unwrap();
    assert_eq!(sum(&frame), 1499 * 750);
    assert!(processes(&frame).iter().any(|process| *process != first), "another did the rest");
}

const AS_HEAD: &str = "REGATTA_TEST_AS_HEAD_ON_RAY";

/// Started by the test below: a head whose worker is in the middle of a query.
#[test]
fn is_a_head_on_ray() {
    let Some(folder) = std::env::var_os(AS_HEAD) else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let options = options(Path::new(&variable("PYTHON")), &variable("ADDRESS"), 1..=1);
    let session = Session::ray_with(options, eager()).unwrap();
    let workers = processes(&slow_query(10).collect_on(&session).unwrap());
    let _run = session.submit(slow_query(100_000)).unwrap();
    let text: Vec<_> = workers.iter().map(ToString::to_string).collect();
    fs::write(Path::new(&folder).join("new"), text.join(" ")).unwrap();
    fs::rename(Path::new(&folder).join("new"), Path::new(&folder).join("workers")).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_head_that_is_killed_leaves_no_worker_and_no_actor() {
    let Some(ray) = &*RAY else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut head = Command::new(std::env::current_exe().unwrap());
    head.args(["real::is_a_head_on_ray", "--exact", "--nocapture"]);
    head.env(AS_HEAD, folder.path()).env("PYTHON", &ray.python).env("ADDRESS", &ray.address);
    let mut head = head.spawn().unwrap();
    let list = folder.path().join("workers");
    eventually("its worker is at work", || list.exists());
    let workers = fs::read_to_string(list).unwrap();
    let workers: Vec<u32> = workers.split(' ').map(|process| process.parse().unwrap()).collect();
    let actors = parents(&workers);
    assert!(!workers.is_empty() && workers.iter().chain(&actors).all(|process| lives(*process)));
    head.kill().unwrap();
    head.wait().unwrap();
    eventually("the worker has ended", || workers.iter().all(|process| !lives(*process)));
    eventually("the actor has ended", || actors.iter().all(|process| !lives(*process)));
}
