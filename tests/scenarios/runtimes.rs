//! A session works inside any program: its threads are its own.

use std::future::IntoFuture;

use regatta::prelude::*;

use crate::udfs::{Process, numbers};
use regatta::polars::prelude::*;

fn query() -> LazyFrame {
    numbers().with_column(Process.pool().on([col("x")]).alias("process"))
}

#[tokio::test]
async fn on_a_current_thread_runtime_a_run_is_awaited() {
    for session in [Session::native().unwrap(), Session::local(1).unwrap()] {
        let frame = session.submit(query()).unwrap().await.unwrap();
        assert_eq!(frame.shape(), (1000, 2));
    }
}

#[tokio::test]
async fn on_a_current_thread_runtime_the_blocking_forms_work_too() {
    let session = Session::local(1).unwrap();
    assert_eq!(query().collect_on(&session).unwrap().shape(), (1000, 2));
}

#[tokio::test]
async fn a_dropped_await_ends_the_query() {
    let session = Session::native().unwrap();
    drop(session.submit(query()).unwrap().into_future());
    assert_eq!(session.submit(query()).unwrap().await.unwrap().height(), 1000);
}

#[test]
fn many_queries_of_many_threads_share_a_session() {
    let session = Session::local(2).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| query().collect_on(&session).unwrap().height())).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 1000));
    });
}
