//! A binary that cannot be a worker: its workers must not start workers of their own, and the error must say what to do.
//! This test binary has no `regatta::testing::worker!()`, on purpose.

use std::io::Write;

use regatta::error::ClusterError;
use regatta::{Error, Session};

#[test]
fn workers_without_a_workers_main_end_and_the_driver_says_why() {
    match Session::local(1) {
        // In the driver: its worker ran this very test, got the other answer, and failed with it.
        Err(error @ Error::Cluster(ClusterError::WorkerEnded { .. })) if !is_worker() => {
            let said = error.to_string();
            let (first, last) = said.split_once("Its last words:").unwrap();
            assert!(first.contains('3') && first.contains("testing::worker!()"), "{said}");
            assert!(last.contains("#[regatta::main]"), "{said}");
        }
        // In that worker: the process ends as a program with such a main would.
        Err(Error::Cluster(ClusterError::InWorker)) if is_worker() => {
            // Not by a macro: libtest would keep it.
            writeln!(std::io::stderr(), "{}", ClusterError::InWorker).unwrap();
            std::process::exit(3);
        }
        other => panic!("{other:?}"),
    }
}

fn is_worker() -> bool {
    std::env::var_os("REGATTA_WORKER").is_some()
}
