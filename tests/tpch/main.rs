//! TPC-H's 22 queries give what plain Polars gives, natively and on workers; `TPCH_SCALE=0.1` takes more data.

mod data;
mod queries;
mod same;

use queries::{QUERIES, Tables};
use regatta::Session;
use same::same_on;

regatta::testing::worker!();

#[test]
fn the_queries_of_tpc_h_natively() {
    same_on(&Session::native().unwrap());
}

#[test]
fn the_queries_of_tpc_h_on_two_workers() {
    same_on(&Session::local(2).unwrap());
}

#[test]
fn the_queries_of_tpc_h_on_one_worker() {
    same_on(&Session::local(1).unwrap());
}

#[test]
fn the_queries_of_tpc_h_on_four_workers() {
    same_on(&Session::local(4).unwrap());
}

/// Sizes decide how stages run and where their rows are; whatever is decided, the answer is the same.
#[test]
fn the_queries_of_tpc_h_in_every_shape_and_store_that_can_be_forced() {
    let shapes = ["broadcast", "hash", "one_section", "shared", "parts"].map(|of| ("REGATTA_TEST_SHAPES", of));
    for (variable, forced) in shapes.into_iter().chain(["disk", "rows"].map(|of| ("REGATTA_TEST_STORE", of))) {
        // In a process of its own, which reads it when its session begins.
        let test = ["the_queries_of_tpc_h_on_two_workers", "--exact", "--nocapture"];
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = again.args(test).env(variable, forced).env("TPCH_SCALE", "0.001").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{forced}: {said}{}", String::from_utf8_lossy(&ended.stdout));
    }
}

#[test]
fn most_queries_of_tpc_h_have_an_answer_on_little_data() {
    let folder = tempfile::tempdir().unwrap();
    data::write(folder.path(), 0.005, 1 << 12).unwrap();
    let tables = Tables(folder.path().to_owned());
    let heights = QUERIES.map(|query| query(&tables).collect().unwrap().height());
    assert!(heights.iter().filter(|rows| **rows > 0).count() >= 20, "{heights:?}");
}
