//! TPC-H's 22 queries give what plain Polars gives, natively and on workers.

mod data;
mod queries;

use queries::{QUERIES, Tables};
use regatta::Session;
use regatta::testing::assert_same_as_polars;

regatta::testing::worker!();

fn same_on(session: &Session) {
    let folder = tempfile::tempdir().unwrap();
    data::write(folder.path(), 0.005, 1 << 12).unwrap();
    let tables = Tables(folder.path().to_owned());
    for query in QUERIES {
        let mut query = query(&tables);
        let schema = query.collect_schema().unwrap();
        // All of them are sums and means.
        let floats: Vec<&str> =
            schema.iter().filter(|(_, dtype)| dtype.is_float()).map(|(name, _)| name.as_str()).collect();
        assert_same_as_polars(session, &query, true, &floats);
    }
}

#[test]
fn the_queries_of_tpc_h_natively() {
    same_on(&Session::native().unwrap());
}

#[test]
fn the_queries_of_tpc_h_on_two_workers() {
    same_on(&Session::local(2).unwrap());
}

#[test]
fn most_queries_of_tpc_h_have_an_answer_on_little_data() {
    let folder = tempfile::tempdir().unwrap();
    data::write(folder.path(), 0.005, 1 << 12).unwrap();
    let tables = Tables(folder.path().to_owned());
    let heights = QUERIES.map(|query| query(&tables).collect().unwrap().height());
    assert!(heights.iter().filter(|rows| **rows > 0).count() >= 20, "{heights:?}");
}
