//! A cluster of several machines, as processes: workers and drivers come by token, and each wrong way in ends soon, with words.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regatta::error::ClusterError;
use regatta::observe::QueryState;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{assert_same_as_polars, eventually};
use regatta::{Config, Error};
use regatta_remote::{Authority, Node, Role, Runtime};

use crate::errors::says;
use crate::udfs::{Endless, Process, numbers, row_groups};

const ANYWHERE: &str = "127.0.0.1:0";
const VALID: Duration = Duration::from_secs(600);
/// Within this every refusal comes.
const SOON: Duration = Duration::from_secs(5);
/// Within this the loss of a process that was killed is known elsewhere.
const LOST: Duration = Duration::from_secs(30);

/// A process of this test binary; killed with the test.
pub(crate) struct Other(Child);

impl Other {
    /// As a worker, with these variables.
    fn worker(variables: &[(&str, &str)]) -> Self {
        Self::running("regatta_worker", variables)
    }

    fn running(test: &str, variables: &[(&str, &str)]) -> Self {
        Self::of(&std::env::current_exe().unwrap(), test, variables)
    }

    fn of(program: &Path, test: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("POLARS_MAX_THREADS", "1");
        command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process did not end within {limit:?}");
            std::thread::yield_now();
        }
    }

    /// Its standard error, after it has ended.
    fn last_words(&mut self) -> String {
        let mut words = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        words
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn cluster() -> Cluster {
    Cluster::serve(ANYWHERE).unwrap()
}

pub(crate) fn join(cluster: &Cluster, workers: u32) -> Vec<Other> {
    let token = cluster.worker_token(workers, VALID).unwrap();
    let address = cluster.address().to_string();
    let start = || Other::worker(&[("REGATTA_JOIN", &address), ("REGATTA_TOKEN", &token)]);
    let there = cluster.session().status().unwrap().workers.len();
    let started = (0..workers).map(|_| start()).collect();
    eventually("the workers have joined", || {
        cluster.session().status().unwrap().workers.len() == there + workers as usize
    });
    started
}

/// Kills one of two workers, and waits until its head knows.
pub(crate) fn lose(cluster: &Cluster, workers: &mut Vec<Other>) {
    drop(workers.remove(0));
    // It is noticed after ten seconds of silence.
    let until = Instant::now() + Duration::from_secs(45);
    while cluster.session().status().unwrap().workers.len() > workers.len() {
        assert!(Instant::now() < until, "the loss is noticed");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(crate) fn connect(cluster: &Cluster) -> Session {
    Session::connect(&cluster.address().to_string(), &cluster.driver_token(1, VALID).unwrap()).unwrap()
}

/// The processes that ran the UDF.
fn processes(session: &Session, query: LazyFrame) -> Vec<i64> {
    let frame = query.select([col("process").unique().sort(Default::default())]).collect_on(session).unwrap();
    frame.column("process").unwrap().i64().unwrap().iter().flatten().collect()
}

fn with_process(query: LazyFrame) -> LazyFrame {
    query.with_column(Process.pool().replicas(2).batch(20).on([col("x")]).alias("process"))
}

fn large() -> LazyFrame {
    df!["x" => (0..200_000i64).collect::<Vec<_>>()].unwrap().lazy()
}

#[test]
fn a_connected_driver_gets_plain_polars_answers_from_workers_that_joined() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let session = connect(&cluster);
    let scan = || row_groups(folder.path(), 3000);
    let small = || df!["x" => [1i64, 5, 2999, 4000], "name" => ["a", "b", "c", "d"]].unwrap().lazy();
    let doubled = with_process(scan()).select([(col("x") * lit(2)).alias("twice"), col("x")]);
    for (query, ordered) in [
        (scan().filter(col("x").gt(lit(700))), true),
        (doubled.clone(), true),
        (scan().group_by([col("x") % lit(7)]).agg([col("x").sum().alias("sum")]), false),
        (doubled.join(small(), [col("x")], [col("x")], JoinArgs::new(JoinType::Inner)), false),
        (scan().filter(col("x").lt(lit(0))), true),
        // Too large to travel inside the plan: the workers fetch it from the driver.
        (large().filter((col("x") % lit(3)).eq(lit(0))).select([(col("x") + lit(1)).alias("y")]), true),
        (numbers().sort(["x"], SortMultipleOptions::default().with_order_descending(true)).slice(10, 20), true),
    ] {
        assert_same_as_polars(&session, &query, ordered, &[]);
    }
    assert_eq!(processes(&session, with_process(scan())).len(), 2, "both workers took part");
    assert!(session.explain(&scan()).unwrap().contains("30 row groups"));
    assert_eq!(session.status().unwrap().workers.len(), 2);
    drop(session);
    assert_eq!(numbers().collect_on(cluster.session()).unwrap().height(), 1000, "the cluster outlives its drivers");
}

#[test]
fn a_query_waits_for_the_first_worker_and_says_so_and_late_workers_get_work() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let session = connect(&cluster);
    let mut run = session.submit(row_groups(folder.path(), 1000)).unwrap();
    let status = run.status().unwrap().unwrap();
    assert_eq!(status.stages[0].waits[0].on.to_string(), "a worker to join", "{status}");
    let first = join(&cluster, 1);
    assert_eq!(run.collect().unwrap().height(), 1000);
    let _late = join(&cluster, 1);
    assert_eq!(processes(&session, with_process(row_groups(folder.path(), 3000))).len(), 2);
    drop(first);
}

#[test]
fn without_a_worker_a_query_ends_with_what_to_do() {
    let config = Config { worker_timeout: Duration::from_millis(200), ..Config::default() };
    let cluster = Cluster::serve_with(ANYWHERE, config).unwrap();
    for session in [cluster.session().clone(), connect(&cluster)] {
        let error = numbers().collect_on(&session).expect_err("there is no worker");
        assert!(matches!(error, Error::Cluster(ClusterError::NoWorkers { .. })) && error.is_retryable());
        says(&error, &["no worker for 0.2 s", "REGATTA_JOIN", "worker_token", "REGATTA_WORKER_TIMEOUT"]);
    }
}

#[test]
fn two_drivers_at_once_do_not_see_each_others_ends() {
    let cluster = cluster();
    let _workers = join(&cluster, 2);
    let (one, other) = (connect(&cluster), connect(&cluster));
    let endless = one.submit(numbers().select([Endless.pool().cpus(0.1).on([col("x")])])).unwrap();
    std::thread::scope(|scope| {
        let queries = (0..4).map(|_| scope.spawn(|| with_process(numbers()).collect_on(&other).unwrap().height()));
        let queries: Vec<_> = queries.collect();
        assert!(queries.into_iter().all(|query| query.join().unwrap() == 1000));
    });
    assert_eq!(endless.status().unwrap().unwrap().state, QueryState::Running, "the one's query goes on");
    eventually("the other's are gone", || other.status().unwrap().queries.len() == 1);
    endless.cancel();
    eventually("cancelled", || endless.status().unwrap().unwrap().state == QueryState::Cancelled);
    drop((endless, one));
    assert_eq!(numbers().collect_on(&other).unwrap().height(), 1000);
}

#[test]
fn a_driver_that_is_killed_leaves_no_query() {
    let cluster = cluster();
    let _workers = join(&cluster, 1);
    let (address, token) = (cluster.address().to_string(), cluster.driver_token(1, VALID).unwrap());
    let mut driver = Other::running(
        "joining::drives_a_cluster_elsewhere",
        &[("DAFT_RUNNER", "flotilla"), ("REGATTA_ADDRESS", &address), ("REGATTA_TOKEN", &token), (AS_DRIVER, "1")],
    );
    eventually("its query runs", || cluster.session().status().unwrap().queries.len() == 1);
    driver.0.kill().unwrap();
    let deadline = Instant::now() + LOST;
    while !cluster.session().status().unwrap().queries.is_empty() {
        assert!(Instant::now() < deadline, "the query of a dead driver is still there");
        std::thread::yield_now();
    }
    assert_eq!(numbers().collect_on(cluster.session()).unwrap().height(), 1000);
}

const AS_DRIVER: &str = "REGATTA_TEST_AS_DRIVER";

/// Started by the test above: a driver by the environment alone, in the middle of a query.
#[test]
fn drives_a_cluster_elsewhere() {
    if std::env::var_os(AS_DRIVER).is_some() {
        let session = Session::from_env().unwrap();
        let _run = session.submit(numbers().select([Endless.pool().on([col("x")])])).unwrap();
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_query_survives_a_joined_worker_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster();
    let mut workers = join(&cluster, 2);
    let session = connect(&cluster);
    let slow = with_process(row_groups(folder.path(), 3000)).select([col("x").sum(), len(), col("process").max()]);
    let mut run = session.submit(slow).unwrap();
    eventually("some tasks are done, some are not", || {
        let status = run.status().unwrap().unwrap();
        status.stages[0].tasks.2 > 0 && status.stages[0].tasks.1 > 0
    });
    workers[0].0.kill().unwrap();
    let answer = run.collect().unwrap();
    assert_eq!(answer.column("x").unwrap().i64().unwrap().get(0), Some(2999 * 1500));
    assert_eq!(answer.column("len").unwrap().u32().unwrap().get(0), Some(3000), "no row twice, none lost");
}

#[test]
fn a_head_that_ends_ends_its_workers_at_once_and_drivers_hear_of_it() {
    let cluster = cluster();
    let mut workers = join(&cluster, 2);
    let session = connect(&cluster);
    let mut run = session.submit(numbers().select([Endless.pool().on([col("x")])])).unwrap();
    drop(cluster);
    let error = run.collect().expect_err("the cluster is gone");
    assert!(matches!(error, Error::Cluster(ClusterError::Gone { .. })), "{error}");
    says(&error, &["the cluster is gone", "connect with a new token"]);
    says(&numbers().collect_on(&session).expect_err("for good"), &["the cluster is gone"]);
    assert!(workers.iter_mut().all(|worker| worker.ends_within(SOON).success()));
    assert!(workers[0].last_words().contains("the head has ended"));
}

const AS_HEAD: &str = "REGATTA_TEST_AS_HEAD";

/// Started by the test below: a head that says how to get in.
#[test]
fn serves_a_cluster() {
    if std::env::var_os(AS_HEAD).is_some() {
        let cluster = cluster();
        let tokens = (cluster.worker_token(1, VALID).unwrap(), cluster.driver_token(1, VALID).unwrap());
        println!("\nway in: {} {} {}", cluster.address(), tokens.0, tokens.1);
        loop {
            std::thread::park();
        }
    }
}

/// A head in another process; its address, and tokens for a worker and a driver.
fn another_head(variables: &[(&str, &str)]) -> (Other, [String; 3]) {
    let mut head = Other::running("joining::serves_a_cluster", &[&[(AS_HEAD, "1")], variables].concat());
    let said = BufReader::new(head.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let way_in = said.filter_map(|line| line.strip_prefix("way in: ").map(str::to_owned)).next().unwrap();
    let way_in: Vec<_> = way_in.split(' ').map(str::to_owned).collect();
    (head, way_in.try_into().unwrap())
}

#[test]
fn a_head_that_is_killed_ends_its_workers_and_drivers_hear_of_it() {
    let (mut head, [address, for_worker, for_driver]) = another_head(&[]);
    let (address, for_worker, for_driver) = (&*address, &*for_worker, &*for_driver);
    let mut worker = Other::worker(&[("REGATTA_JOIN", address), ("REGATTA_TOKEN", for_worker)]);
    let session = Session::connect(address, for_driver).unwrap();
    let mut run = session.submit(numbers().select([Endless.pool().on([col("x")])])).unwrap();
    eventually("it runs", || run.status().unwrap().is_some_and(|s| s.stages[0].tasks.1 > 0));
    head.0.kill().unwrap();
    let before = Instant::now();
    says(&run.collect().expect_err("the cluster is gone"), &["the cluster is gone"]);
    assert!(before.elapsed() < LOST);
    assert!(worker.ends_within(LOST).success());
}

/// A worker that is started so ends soon, and its words hold these parts.
#[track_caller]
fn refused(variables: &[(&str, &str)], parts: &[&str]) {
    let mut worker = Other::worker(variables);
    let status = worker.ends_within(SOON);
    let words = worker.last_words();
    assert_eq!(status.code(), Some(2), "{words}");
    for part in parts {
        assert!(words.contains(part), "{part:?} is missing in: {words}");
    }
}

#[test]
fn every_wrong_way_in_ends_a_worker_within_five_seconds_with_cause_and_remedy() {
    let (cluster, another) = (cluster(), cluster());
    let address = &cluster.address().to_string();
    let way = |token: &str, parts: &[&str]| refused(&[("REGATTA_JOIN", address), ("REGATTA_TOKEN", token)], parts);
    way("let me in", &["could not join the cluster at 127.0.0.1", "not a join token", "copy the whole text"]);
    way(&another.worker_token(1, VALID).unwrap(), &["another cluster", "from the same head"]);
    way(&cluster.worker_token(1, Duration::ZERO).unwrap(), &["expired", "make a new one"]);
    way(&cluster.worker_token(0, VALID).unwrap(), &["used before", "make a new one"]);
    way(&cluster.driver_token(1, VALID).unwrap(), &["lets in a driver, not a worker", "Cluster::worker_token"]);
    refused(&[("REGATTA_JOIN", address)], &["REGATTA_JOIN", "set REGATTA_TOKEN too", "worker_token"]);
    let token = &cluster.worker_token(1, VALID).unwrap();
    refused(&[("REGATTA_JOIN", "nowhere"), ("REGATTA_TOKEN", token)], &["could not join", "nowhere", "host:port"]);
    refused(&[("REGATTA_JOIN", "127.0.0.1:9"), ("REGATTA_TOKEN", token)], &["no answer", "is the head running?"]);
    assert!(cluster.session().status().unwrap().workers.is_empty());
}

/// This program as another build of it would be: the linker's fingerprint is another.
fn another_build(folder: &Path) -> PathBuf {
    let copy = folder.join("another-build");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&copy).unwrap();
    let mut begin = vec![0; 64 << 10];
    file.read_exact_at(&mut begin, 0).unwrap();
    // The lengths of name and fingerprint, the kind of note, and its name.
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = begin.windows(note.len()).position(|bytes| bytes == note).unwrap() + note.len();
    file.write_all_at(&[!begin[at]], at as u64).unwrap();
    copy
}

#[test]
fn a_worker_of_another_build_is_let_in_only_where_head_and_worker_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let another = another_build(folder.path());
    let refused = |address: &str, token: &str| {
        let way = [("REGATTA_JOIN", address), ("REGATTA_TOKEN", token)];
        let mut worker = Other::of(&another, "regatta_worker", &way);
        let status = worker.ends_within(SOON);
        let words = worker.last_words();
        assert_eq!(status.code(), Some(2), "{words}");
        for part in [
            "the builds differ: ours is \"build ",
            "the head's is \"build ",
            "run the same executable",
            "REGATTA_BUILD=",
        ] {
            assert!(words.contains(part), "{part:?} is missing in: {words}");
        }
    };
    let cluster = cluster();
    refused(&cluster.address().to_string(), &cluster.worker_token(1, VALID).unwrap());
    assert!(cluster.session().status().unwrap().workers.is_empty());

    let (_head, [address, for_worker, for_driver]) = another_head(&[("REGATTA_BUILD", "at sea")]);
    refused(&address, &for_worker);
    let error = Session::connect(&address, &for_driver).expect_err("this process does not say so");
    says(&error, &["the builds differ", "build at sea"]);
    let way = [("REGATTA_JOIN", &*address), ("REGATTA_TOKEN", &*for_worker), ("REGATTA_BUILD", "at sea")];
    let mut worker = Other::of(&another, "regatta_worker", &way);
    let said = BufReader::new(worker.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<_> = said.take_while(|line| !line.contains("joined")).collect();
    assert!(worker.0.try_wait().unwrap().is_none(), "it has not joined: {said:?}");
}

const REPLACED: &str = "REGATTA_TEST_REPLACED";

/// Started by the test below: a driver whose executable another takes the place of.
#[test]
fn works_on_when_its_executable_is_replaced() {
    if std::env::var_os(REPLACED).is_some() {
        std::fs::write(std::env::current_exe().unwrap().with_extension("new"), "not a program").unwrap();
        std::fs::rename(std::env::current_exe().unwrap().with_extension("new"), std::env::current_exe().unwrap())
            .unwrap();
        let session = Session::local(1).unwrap();
        let isolated = Process.pool().isolated().on([col("x")]).alias("process");
        assert_eq!(processes(&session, numbers().with_column(isolated)).len(), 1);
    }
}

#[test]
fn workers_and_isolated_replicas_run_the_executable_that_their_driver_runs_though_another_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut driver = Other::of(&copy, "joining::works_on_when_its_executable_is_replaced", &[(REPLACED, "1")]);
    let status = driver.ends_within(LOST);
    assert!(status.success(), "{}", driver.last_words());
}

#[test]
fn another_build_ends_a_worker_within_five_seconds_naming_both() {
    let runtime = Runtime::new("stranger", 1).unwrap().with_build("regatta 7, another program");
    let authority = Arc::new(Authority::new().unwrap());
    let identity = authority.issue(Role::Head).unwrap();
    let head = Node::bind(identity, ANYWHERE.parse().unwrap(), &runtime).unwrap();
    head.serve_joins(Arc::clone(&authority)).unwrap();
    let (address, token) = (head.address().unwrap(), authority.token(Role::Worker, VALID).unwrap());
    let (address, token) = (address.to_string(), token.to_string());
    let parts = &["the builds differ", "regatta 7, another program", "faulty", "run the same executable"];
    refused(&[("REGATTA_JOIN", &address), ("REGATTA_TOKEN", &token)], parts);
}

#[test]
fn every_wrong_way_in_is_an_error_of_connect_within_five_seconds() {
    let (cluster, another) = (cluster(), cluster());
    let address = cluster.address().to_string();
    let wrong = |address: &str, token: &str, parts: &[&str]| {
        let before = Instant::now();
        let error = Session::connect(address, token).expect_err("the wrong way in");
        assert!(matches!(error, Error::Cluster(ClusterError::Join { .. })) && before.elapsed() < SOON, "{error}");
        says(&error, parts);
    };
    wrong(&address, "let me in", &["could not join the cluster at 127.0.0.1", "not a join token"]);
    wrong(&address, &another.driver_token(1, VALID).unwrap(), &["another cluster", "from the same head"]);
    wrong(&address, &cluster.driver_token(1, Duration::ZERO).unwrap(), &["expired", "make a new one"]);
    wrong(&address, &cluster.worker_token(1, VALID).unwrap(), &["lets in a worker, not a driver", "driver_token"]);
    wrong("127.0.0.1:9", &cluster.driver_token(1, VALID).unwrap(), &["no answer", "is the head running?"]);
    let once = cluster.driver_token(1, VALID).unwrap();
    drop(Session::connect(&address, &once).unwrap());
    wrong(&address, &once, &["used before", "make a new one"]);
}
