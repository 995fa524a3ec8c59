//! A session works inside any program: its threads are its own.

use std::future::IntoFuture;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use regatta::error::Error;
use regatta::prelude::*;
use regatta::testing::eventually;

use crate::udfs::{Endless, Process, numbers};
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
async fn on_a_current_thread_runtime_batches_are_awaited_one_by_one() {
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let parts = || query().into_partitions(4);
        let batches: Vec<_> = session.submit(parts()).unwrap().stream().try_collect().await.unwrap();
        let whole = batches.into_iter().reduce(|a, b| a.vstack(&b).unwrap()).unwrap();
        assert!(whole.column("x").unwrap().i64().unwrap().iter().eq((0..1000).map(Some)), "all rows, in order");
        let mut run = session.submit(parts()).unwrap();
        run.collect().unwrap();
        let taken = run.stream().try_collect::<Vec<_>>().await.expect_err("it was taken");
        assert!(matches!(taken, Error::Taken), "{taken}");
        let mut endless = session.submit(numbers().select([Endless.pool().on([col("x")])])).unwrap().stream();
        assert!(endless.next().now_or_never().is_none());
        drop(endless);
        eventually("the query has ended", || session.status().unwrap().queries.is_empty());
    }
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
