//! Errors say what failed, where, why, and what to do.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use regatta::error::{ClusterError, PlanError, PoolFailure, TaskFailure};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::{Config, Error};

use crate::udfs::{Fault, Faulty, numbers};

fn failure(session: &Session, fault: Fault) -> Error {
    let faulty = Faulty(fault).pool().replicas(2).batch(100);
    let query = numbers().select([faulty.on([col("x")])]);
    query.collect_on(session).expect_err("the UDF fails")
}

#[track_caller]
pub(crate) fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// Native and on processes: the same text, with where it happened.
pub(crate) fn on_both(check: impl Fn(&Session)) {
    check(&Session::native().unwrap());
    check(&Session::local(2).unwrap());
}

#[test]
fn a_start_that_fails_or_panics_ends_the_query_at_once_with_its_text() {
    on_both(|session| {
        let error = failure(session, Fault::StartError);
        assert!(matches!(&error, Error::Pool(pool) if matches!(pool.cause, PoolFailure::Start { .. })));
        says(&error, &["faulty", "replica", "worker", "could not start", "invalid digit"]);
        says(&failure(session, Fault::StartPanic), &["faulty", "panicked", "the mast broke", "udfs.rs:"]);
    });
}

#[test]
fn a_run_that_fails_panics_or_answers_wrongly_names_udf_replica_and_worker() {
    on_both(|session| {
        let error = failure(session, Fault::RunError);
        assert!(matches!(&error, Error::Task(task) if matches!(task.cause, TaskFailure::Udf { .. })));
        says(&error, &["stage 0, task 0", "attempt 1", "faulty", "replica", "worker", "ran aground"]);
        says(&failure(session, Fault::RunPanic), &["faulty", "panicked", "man overboard", "udfs.rs:"]);
        says(&failure(session, Fault::TooFewRows), &["faulty", "1 rows for a batch of 100"]);
        says(&failure(session, Fault::OtherDtype), &["faulty", "promised i64", "returned f32"]);
    });
}

#[test]
fn an_error_of_100_mib_fails_the_query_with_its_beginning_and_its_end_and_no_worker_is_lost() {
    on_both(|session| {
        let workers = session.processes();
        for pool in [Faulty(Fault::LongError).pool(), Faulty(Fault::LongError).pool().isolated()] {
            let query = numbers().select([pool.replicas(2).batch(100).on([col("x")])]);
            let error = query.collect_on(session).expect_err("the UDF fails");
            assert!(matches!(&error, Error::Task(task) if matches!(task.cause, TaskFailure::Udf { .. })), "{error}");
            says(&error, &["stage 0, task 0", "faulty", "ran aground: é", " bytes left out ", "é, all hands lost"]);
            assert!(error.to_string().len() < 65 << 10, "{} bytes", error.to_string().len());
        }
        assert_eq!(numbers().collect_on(session).unwrap().height(), 1000);
        assert_eq!(session.processes(), workers, "they are the same processes");
    });
}

#[test]
fn a_replica_that_is_not_ready_in_time_is_named_with_its_last_word() {
    let config = Config { actor_udf_ready_timeout: Duration::from_millis(300), ..Config::default() };
    let session = Session::local_with(1, config).unwrap();
    let error = failure(&session, Fault::StartHangs);
    assert!(error.is_retryable());
    says(&error, &["faulty", "replica 0", "worker 0", "0.3 s", "bailing out", "DAFT_ACTOR_UDF_READY_TIMEOUT"]);
}

#[test]
fn inputs_and_options_that_make_no_sense_are_refused_while_planning() {
    let session = Session::native().unwrap();
    let refused = |expr: Expr| {
        let error = session.submit(numbers().select([expr])).expect_err("it makes no sense");
        assert!(matches!(error, Error::Plan(_)) && !error.may_have_run());
        error
    };
    says(&refused(Faulty(Fault::RefusesInput).pool().on([col("x")])), &["faulty", "wants salt water"]);
    says(&refused(Faulty(Fault::RunError).pool().replicas(0).on([col("x")])), &["faulty", "replicas(0..=0)"]);
    let (least, most) = (3, 2);
    says(&refused(Faulty(Fault::RunError).pool().replicas(least..=most).on([col("x")])), &["replicas(3..=2)"]);
    says(&refused(Faulty(Fault::RunError).pool().batch(0).on([col("x")])), &["batch(0)"]);
    says(&refused(Faulty(Fault::RunError).pool().batch(least..=most).on([col("x")])), &["batch(3..=2)"]);
    says(&refused(Faulty(Fault::RunError).pool().timeout(Duration::ZERO).on([col("x")])), &["timeout(0)"]);
    says(&refused(Faulty(Fault::RunError).pool().cpus(f64::NAN).on([col("x")])), &["cpus(NaN)"]);
    says(&refused(Faulty(Fault::RunError).pool().on([])), &["faulty", "no column"]);
    says(&refused(col("y")), &["y"]);
}

#[test]
fn a_closure_runs_native_and_is_refused_by_name_where_it_cannot_travel() {
    let closure = |column: Column| Ok(column + 1);
    let query = numbers().select([col("x").map(closure, |_, field| Ok(field.clone()))]);
    let native = query.clone().collect_on(&Session::native().unwrap()).unwrap();
    assert_eq!(native.column("x").unwrap().i64().unwrap().sum(), Some(999 * 500 + 1000));
    let error = query.collect_on(&Session::local(1).unwrap()).expect_err("a closure is in this process only");
    assert!(matches!(error, Error::Plan(PlanError::CannotTravel { .. })));
    says(&error, &["closure", "#[regatta::udf]", "DAFT_RUNNER=native"]);
}

#[test]
fn what_fits_on_no_worker_is_refused_with_the_request_and_the_largest_worker() {
    let session = Session::local(1).unwrap();
    let large = Faulty(Fault::RunError).pool().cpus(1000.0);
    let error = numbers().select([large.on([col("x")])]).collect_on(&session).expect_err("no worker has 1000 CPU");
    assert!(matches!(error, Error::Cluster(ClusterError::Infeasible { .. })));
    says(&error, &["faulty", "1000 CPU", "largest has"]);
}

#[test]
fn an_error_of_the_engine_says_which_task_on_which_worker() {
    let strict = numbers().select([col("x").strict_cast(DataType::Int8)]);
    let error = strict.collect_on(&Session::local(1).unwrap()).expect_err("999 is no Int8");
    assert!(matches!(&error, Error::Task(task) if matches!(task.cause, TaskFailure::Engine(_))));
    says(&error, &["stage 0, task 0", "worker 0", "i8"]);
}

fn scan(path: &str) -> LazyFrame {
    LazyFrame::scan_parquet(path.into(), Default::default()).unwrap()
}

fn write(path: &std::path::Path, frame: PolarsResult<DataFrame>) {
    ParquetWriter::new(std::fs::File::create(path).unwrap()).finish(&mut frame.unwrap()).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_named_with_this_host_and_the_remedy() {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    on_both(|session| {
        let error = scan("/nowhere/mast.parquet").collect_on(session).expect_err("there is no such file");
        assert!(matches!(error, Error::Plan(PlanError::Polars(_))));
        says(&error, &["/nowhere/mast.parquet", host.trim(), "planned in this process", "the workers see them"]);
    });
}

#[test]
fn a_file_that_a_worker_does_not_see_is_named_with_that_worker_its_host_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keel.parquet");
    write(&path, df!["x" => (0..1000i64).collect::<Vec<_>>()]);
    let session = Session::local(1).unwrap();
    let slow = numbers().with_column(crate::udfs::Process.pool().batch(10).on([col("x")]).alias("process"));
    let keel = scan(path.to_str().unwrap());
    let mut run = session.submit(slow.join(keel, [col("x")], [col("x")], JoinArgs::new(JoinType::Inner))).unwrap();
    // As if the worker were on another machine: the plan has seen the file, the task that reads it does not.
    std::fs::remove_file(&path).unwrap();
    let error = run.collect().expect_err("the file is gone");
    says(&error, &["keel.parquet", "worker 0", "on host", "every machine must see files under the same path"]);
}

const AS_READER: &str = "REGATTA_TEST_AS_READER";

/// Started by the test below: a process that may not read what it is not allowed to, and says how that ends.
#[test]
fn reads_without_permission() {
    let Some(folder) = std::env::var_os(AS_READER).map(std::path::PathBuf::from) else { return };
    let path = folder.join("keel.parquet");
    let forbid = |path: &std::path::Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).unwrap();
    for (name, session) in [("native", Session::native().unwrap()), ("local", Session::local(1).unwrap())] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        // The driver may read it when it plans; the task may not any more.
        let slow = numbers().with_column(crate::udfs::Process.pool().batch(10).on([col("x")]).alias("process"));
        let keel = scan(path.to_str().unwrap());
        let mut run = session.submit(slow.join(keel, [col("x")], [col("x")], JoinArgs::new(JoinType::Inner))).unwrap();
        forbid(&path);
        println!("\n{name}, in a task: {}", run.collect().expect_err("it may not be read"));
        let planning = scan(path.to_str().unwrap()).collect_on(&session).expect_err("it may not be read");
        println!("\n{name}, planning: {planning}");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_named_with_its_host_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("keel.parquet"), df!["x" => (0..1000i64).collect::<Vec<_>>()]);
    let program = std::env::current_exe().unwrap();
    // Root reads everything, unless it has given up the capability to.
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut reader = Command::new(if is_root { std::path::Path::new("setpriv") } else { &program });
    if is_root {
        reader.arg("--bounding-set=-dac_override,-dac_read_search").arg(&program);
    }
    reader.args(["--exact", "errors::reads_without_permission", "--nocapture"]).env(AS_READER, folder.path());
    let said = reader.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for begins in ["native, in a task: ", "native, planning: ", "local, in a task: ", "local, planning: "] {
        let error = said.lines().find_map(|line| line.strip_prefix(begins)).unwrap_or_else(|| panic!("{said}"));
        for part in ["keel.parquet", "ermission denied", host.trim(), "Let the user of that process read it"] {
            assert!(error.contains(part), "{part:?} is missing {begins}{error}");
        }
    }
}

#[test]
fn files_of_different_schemas_name_the_column_and_both_types() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), df!["x" => [1i64, 2]]);
    write(&folder.path().join("b.parquet"), df!["x" => ["one", "two"]]);
    on_both(|session| {
        let error =
            scan(&format!("{}/*.parquet", folder.path().display())).collect_on(session).expect_err("they differ");
        says(&error, &["column x", "String", "Int64", "b.parquet", "cast the column"]);
    });
}

#[test]
fn a_file_that_is_corrupt_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hull.parquet");
    on_both(|session| {
        std::fs::write(&path, b"PAR1 this is no Parquet file").unwrap();
        let error = scan(path.to_str().unwrap()).collect_on(session).expect_err("no footer");
        says(&error, &["hull.parquet", "parquet", "is damaged", "write it again"]);
        write(&path, df!["x" => (0..100_000i64).map(|x| x * x % 65_537).collect::<Vec<_>>()]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4..40].fill(0xff); // the head of the first page
        std::fs::write(&path, bytes).unwrap();
        let error = scan(path.to_str().unwrap()).collect_on(session).expect_err("a page is broken");
        says(&error, &["hull.parquet", "stage 0, task 0", "worker 0", "is damaged", "write it again"]);
    });
}

#[test]
fn a_plan_too_large_to_travel_is_refused_with_its_size_and_the_remedy_and_runs_native() {
    let query = numbers().select([lit("x".repeat(65 << 20)).str().len_bytes().alias("long"), col("x").max()]);
    let error = query.clone().collect_on(&Session::local(1).unwrap()).expect_err("65 MiB are too many");
    assert!(matches!(error, Error::Plan(PlanError::TooLarge { .. })));
    says(&error, &["65 MiB", "at most 63 MiB", "put it into a frame or a file"]);
    assert_eq!(query.collect_on(&Session::native().unwrap()).unwrap().height(), 1);
}

#[test]
fn a_setting_that_makes_no_sense_is_named_with_its_value_and_what_is_accepted() {
    let config = Config { min_cpu_per_task: -1.0, ..Config::default() };
    for error in [
        Session::native_with(config.clone()).expect_err("-1 CPU"),
        Session::local_with(1, config.clone()).expect_err("-1 CPU"),
        Cluster::serve_with("127.0.0.1:0", config).expect_err("-1 CPU"),
    ] {
        assert!(matches!(error, Error::Config(_)));
        says(&error, &["DAFT_MIN_CPU_PER_TASK", "\"-1\"", "use a number of CPUs, > 0"]);
    }
    says(&Cluster::serve("nonsense").expect_err("no port"), &["serve a cluster at nonsense"]);
}

#[test]
fn a_scratch_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = Config { scratch: vec![file.path().to_owned()], ..Config::default() };
    let error = Session::native_with(config).expect_err("a file is no folder");
    says(&error, &["make a scratch folder in", file.path().to_str().unwrap(), "directory"]);
}
