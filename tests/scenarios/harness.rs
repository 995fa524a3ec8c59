//! What people test their programs with, and what they are told while one runs.

use std::process::{Command, Output};
use std::time::Duration;

use regatta::error::ActorError;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{TestCluster, TestContext, TestReplica, eventually};
use regatta::{Config, Error, QueryId, StageId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::errors::says;
use crate::udfs::{Endless, Fault, Faulty, Process, numbers, row_groups};

#[test]
fn a_value_of_a_udf_is_called_as_a_function_is() {
    let session = Session::native().unwrap();
    let frame = numbers().select([Process.on([col("x")])]).collect_on(&session).unwrap();
    assert_eq!(frame.height(), 1000);
}

#[test]
fn workers_of_a_test_cluster_are_killed_and_paused() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { scratch: vec![folder.path().to_owned()], ..Config::default() };
    let cluster = TestCluster::start_with(2, config).unwrap();
    let query =
        || row_groups(folder.path(), 3000).with_column(Process.pool().replicas(2).batch(20).on([col("x")]).alias("p"));
    let mut run = cluster.session().submit(query()).unwrap();
    eventually("some tasks are done", || run.status().unwrap().unwrap().stages[0].tasks.2 > 0);
    cluster.kill(WorkerId(0)).unwrap();
    let frame = run.collect().unwrap();
    assert_eq!(frame.column("x").unwrap().i64().unwrap().sum(), Some(2999 * 1500));
    let silent = || cluster.session().status().unwrap().workers.iter().any(|worker| worker.silent.is_some());
    let paused = cluster.pause(WorkerId(1)).unwrap();
    eventually("it is missed", silent);
    drop(paused);
    eventually("it is heard again", || !silent());
    let error = cluster.kill(WorkerId(9)).unwrap_err();
    assert!(matches!(&error, Error::Actor(ActorError::NoSuchWorker { .. })), "{error}");
    says(&error, &["worker 9 is not there", "worker 1"]);
    drop((run, cluster));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["x.parquet"], "the cluster's folder goes with it");
}

/// Tells each row where it runs.
#[derive(Serialize, Deserialize)]
struct WhereAmI;

#[regatta::udf]
impl Udf for WhereAmI {
    type State = ();

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs {
            [input] if input.dtype() == &DataType::Int64 => Ok(DataType::String),
            _ => Err(UdfError::new("wants one column of i64")),
        }
    }

    fn start(&self, cx: &mut Start) -> UdfResult<()> {
        cx.metrics().count("started", 1);
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        let cx = batch.context();
        let text = format!(
            "{:?} {:?} {:?} {} of {}, try {}",
            cx.query(),
            cx.stage(),
            cx.worker(),
            cx.rank(),
            cx.replicas(),
            cx.attempt()
        );
        Ok(StringChunked::from_iter_values("".into(), vec![text; batch.height()].into_iter()).into_column())
    }

    fn stop(&self, (): (), cx: &Context) -> UdfResult<()> {
        cx.metrics().count("stopped", 1);
        Ok(())
    }
}

#[regatta::udf]
async fn later(number: i64) -> Option<i64> {
    tokio::task::yield_now().await;
    number.checked_add(1)
}

#[test]
fn one_replica_runs_alone_with_the_context_that_it_is_given() {
    let context = TestContext {
        query: QueryId(7),
        stage: StageId(1),
        worker: WorkerId(2),
        rank: 3,
        replicas: 4,
        attempt: 5,
        ..TestContext::default()
    };
    let numbers = df!["x" => [1i64, 2]].unwrap();
    for pool in [WhereAmI.pool(), WhereAmI.pool().isolated()] {
        let mut replica = TestReplica::start(&pool, context.clone()).unwrap();
        let said = replica.run(&numbers).unwrap();
        let wanted = "Some(QueryId(7)) Some(StageId(1)) Some(WorkerId(2)) 3 of 4, try 5";
        assert_eq!(said.str().unwrap().get(1), Some(wanted));
        let error = replica.run(&df!["x" => ["text"]].unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "wants one column of i64");
        assert_eq!(replica.run(&numbers).unwrap().len(), 2, "it goes on");
        assert_eq!(replica.stop().to_string(), "started 1, stopped 1");
    }
    let mut replica = TestReplica::start(&later::pool(), TestContext::default()).unwrap();
    assert_eq!(replica.run(&numbers).unwrap().i64().unwrap().to_vec(), [Some(2), Some(3)]);
    let run = |fault| TestReplica::start(&Faulty(fault).pool(), TestContext::default())?.run(&numbers);
    for (fault, part) in [
        (Fault::StartPanic, "the mast broke"),
        (Fault::RunError, "ran aground"),
        (Fault::RunPanic, "man overboard"),
        (Fault::TooFewRows, "1 row"),
        (Fault::OtherDtype, "f32"),
        (Fault::RefusesInput, "wants salt water"),
    ] {
        let text = run(fault).unwrap_err().to_string();
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

const AS_PROGRAM: &str = "REGATTA_TEST_AS_PROGRAM";

/// A program without a `tracing` subscriber, started by the tests below.
#[test]
fn is_told_what_happens() {
    match std::env::var(AS_PROGRAM).as_deref() {
        Ok("loses a worker") => {
            let cluster = TestCluster::start(2).unwrap();
            cluster.kill(WorkerId(0)).unwrap();
            eventually("it is known", || {
                let status = cluster.session().status().unwrap();
                status.workers.iter().all(|worker| worker.worker != WorkerId(0))
            });
        }
        Ok("waits") => {
            let config = Config { worker_timeout: Duration::from_secs(12), ..Config::from_env().unwrap() };
            let cluster = Cluster::serve_with("127.0.0.1:0", config).unwrap();
            let error = numbers().select([Endless.on([col("x")])]).collect_on(cluster.session()).unwrap_err();
            says(&error, &["no worker for 12 s"]);
        }
        Ok("has few files") => says(&Session::native().unwrap_err(), &["32 files open", "ulimit -n 4096"]),
        _ => (),
    }
}

fn program(what: &str, program: Command, variables: &[(&str, &str)]) -> String {
    let mut program = program;
    program.args(["harness::is_told_what_happens", "--exact", "--nocapture"]).env(AS_PROGRAM, what);
    let Output { status, stderr, stdout } = program.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stdout));
    said
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

#[test]
fn a_program_hears_of_a_lost_worker_and_of_a_misspelt_variable_unless_it_wants_not_to() {
    let misspelt = ("REGATTA_SCRACH", "/nowhere");
    let said = program("loses a worker", this_program(), &[misspelt]);
    assert_eq!(said.matches("regatta: worker 0 is lost").count(), 1, "{said}");
    assert_eq!(said.matches("is lost").count(), 1, "the end of the session is no loss: {said}");
    assert_eq!(
        said.matches("REGATTA_SCRACH is not known, and has no effect: is it REGATTA_SCRATCH?").count(),
        1,
        "{said}"
    );
    let said = program("loses a worker", this_program(), &[misspelt, ("REGATTA_QUIET", "1")]);
    assert!(!said.contains("regatta: "), "{said}");
}

#[test]
fn a_program_hears_what_a_query_waits_for() {
    let said = program("waits", this_program(), &[]);
    let line = said.lines().find(|line| line.starts_with("regatta: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("runs for 10 s: stage 0: 0 of 1 tasks are done"), "{line}");
    assert!(line.contains("1 task waits for a worker to join"), "{line}");
}

#[test]
fn too_few_files_are_an_error_with_a_remedy() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    program("has few files", shell, &[]);
}
