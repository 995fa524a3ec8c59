//! What Flotilla's tests hold of its UDFs and no other test here does. `docs/book/src/udfs.md` says which is which.

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::assert_same_as_polars;
use serde::{Deserialize, Serialize};

use crate::errors::on_both;
use crate::udfs::numbers;

/// Adds a number, and reports.
#[derive(Serialize, Deserialize)]
struct Adds(i64);

#[regatta::udf(name = "adds")]
impl Udf for Adds {
    type State = i64;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<i64> {
        Ok(self.0)
    }

    fn run(&self, by: &mut i64, batch: &Batch) -> UdfResult<Column> {
        batch.metrics().count("rows", batch.height() as u64);
        Ok((batch.column(0)?.as_materialized_series() + *by).into_column())
    }
}

#[test]
fn a_pool_before_into_partitions_ends_and_loses_no_row() {
    on_both(|session| {
        let rows = numbers().into_partitions(5).with_column(Adds(1).pool().replicas(2).on([col("x")]).alias("y"));
        assert_same_as_polars(session, &rows.into_partitions(2), false, &[]);
    });
}

#[test]
fn batches_of_any_size_give_the_same_answer() {
    on_both(|session| {
        for rows in [None, Some(1), Some(2), Some(3), Some(10), Some(10_000)] {
            let pool = Adds(1).pool().replicas(2);
            let pool = if let Some(rows) = rows { pool.batch(rows) } else { pool };
            assert_same_as_polars(session, &numbers().limit(50).select([pool.on([col("x")])]), true, &[]);
        }
    });
}

#[test]
fn one_udf_is_used_on_several_columns_and_several_of_a_type_keep_apart() {
    on_both(|session| {
        let (one, two) = (Adds(1).pool(), Adds(2).pool().replicas(2));
        let query = numbers().with_column((col("x") * lit(2)).alias("z")).select([
            one.on([col("x")]).alias("a"),
            one.on([col("z")]).alias("b"),
            two.on([col("x")]).alias("c"),
            two.on([one.on([col("z")])]).alias("d"),
        ]);
        assert_same_as_polars(session, &query, true, &[]);
    });
}

#[test]
fn a_call_on_nothing_but_literals_answers_for_every_row() {
    on_both(|session| {
        let rows =
            numbers().into_partitions(4).with_column(Adds(1).pool().on([lit(41).cast(DataType::Int64)]).alias("y"));
        let frame = rows.collect_on(session).unwrap();
        assert_eq!(frame.height(), 1000);
        assert!(frame.column("y").unwrap().i64().unwrap().iter().all(|y| y == Some(42)));
    });
}

#[test]
fn metrics_outside_of_a_session_are_heard_by_nobody_and_harm_nothing() {
    let frame = numbers().select([Adds(1).pool().on([col("x")])]).collect().unwrap();
    assert_eq!(frame.column("x").unwrap().i64().unwrap().sum(), Some(999 * 500 + 1000));
}
