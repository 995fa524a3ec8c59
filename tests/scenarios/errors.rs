//! Errors say what failed, where, why, and what to do.

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
