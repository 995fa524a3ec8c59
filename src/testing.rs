//! For tests of programs that use Regatta: a binary that can be a worker ([`worker!`](worker)), a cluster whose workers can be killed,
//! one after the other if a [`FaultPlan`] says so ([`TestCluster`]), one replica of a UDF without any ([`TestReplica`]), and a
//! comparison with plain Polars ([`assert_same_as_polars`]).

mod cluster;
mod compare;
mod faults;
mod replica;

use std::time::{Duration, Instant};

use polars::prelude::*;

#[doc(hidden)]
pub use crate::cluster::become_worker_if_started_as_one;
pub use crate::process::TestWorker;
pub use cluster::{Paused, TestCluster};
pub use compare::difference;
pub use faults::{FaultPlan, Faults, Slowed};
#[doc(hidden)]
pub use inventory;
pub use replica::{TestContext, TestReplica};

/// Lets this test binary be a worker, so that sessions in its tests can start worker processes, with the UDFs that
/// the test binary registers. Once in each test binary, at its root.
///
/// ```
/// #[cfg(test)]
/// regatta::testing::worker!();
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __testing_worker {
    () => {
        #[test]
        fn regatta_worker() {
            $crate::testing::become_worker_if_started_as_one();
        }

        $crate::testing::inventory::submit! { $crate::testing::TestWorker { module: ::core::module_path!() } }
    };
}
#[doc(inline)]
pub use crate::__testing_worker as worker;

/// Waits for a condition that some other thread or process brings about, for ten seconds at most. In place of a sleep.
///
/// # Panics
/// The condition does not come about; `what` says which.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

/// Runs a query on the session and with plain Polars, and compares the answers. Where they differ, it says in which row and column, to
/// the last digit.
///
/// Equal means exact, in names, dtypes and values, except columns named in `approximate` (those that passed a float sum,
/// mean, var or std), where floats may differ by 1e-9 relatively. Without `ordered`, rows are sorted first.
///
/// # Panics
/// The answers differ, or one of the two fails.
#[track_caller]
pub fn assert_same_as_polars(session: &crate::Session, query: &LazyFrame, ordered: bool, approximate: &[&str]) {
    let plain = query.clone().collect().unwrap_or_else(|error| panic!("plain Polars fails: {error}"));
    let mut run = session.submit(query.clone()).unwrap_or_else(|error| panic!("the session refuses: {error}"));
    let ours = run.collect().unwrap_or_else(|error| panic!("the session fails: {error}"));
    if let Some(difference) = difference(&ours, &plain, ordered, approximate) {
        panic!("the answer is not plain Polars': {difference}\n{}", run.explain());
    }
    // What is said of it is what it was.
    let profile = run.profile().unwrap_or_else(|error| panic!("the query has no profile: {error}"));
    assert!(profile.query.rows == plain.height() as u64, "the profile has other rows than plain Polars:\n{profile:#}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_test_that_a_page_names_exists() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (page, least, folders) in [
            ("scheduler", 60, &["src", "tests"][..]),
            ("udfs", 50, &["src", "tests"]),
            ("cluster", 15, &["src", "tests/scenarios", "tests/chaos", "cli/tests", "cli/src", "observe/src"]),
            ("semantics", 50, &["remote/src", "remote/tests", "src", "observe/src"]),
            ("kubernetes", 15, &["src", "tests/kubernetes"]),
            ("ray", 5, &["src", "tests/ray"]),
            ("pilots", 8, &["src", "tests"]),
            ("history", 5, &["src", "tests/scenarios", "cli/tests"]),
            ("dashboard", 8, &["dashboard/src", "dashboard/tests", "observe/src", "cli/tests", "src", "tests"]),
        ] {
            let text = fs::read_to_string(here.join(format!("docs/book/src/{page}.md"))).unwrap();
            let mut sources = String::new();
            folders.iter().for_each(|folder| read_all(&here.join(folder), &mut sources));
            // A test's name is a sentence: at least three words; a figure for Prometheus looks like one.
            let is_name = |code: &&str| {
                let is_figure = code.starts_with("regatta_");
                code.matches('_').count() >= 3 && !code.contains(' ') && **code == code.to_lowercase() && !is_figure
            };
            let named: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
            assert!(named.len() > least, "{page}: the names are no longer found: {named:?}");
            let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
            assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:?}");
        }
    }

    fn read_all(folder: &Path, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, into);
            } else {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
}
