//! How a query is dealt to tasks, as it can be seen from outside.

use std::sync::Arc;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

/// The height of each batch that a call sees: without a batch size, a task's rows are one call if they are few.
#[derive(Serialize, Deserialize)]
struct Height;

#[regatta::udf]
impl Udf for Height {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        let rows = batch.height();
        Ok(Column::new("".into(), vec![rows as i64; rows]))
    }
}

fn numbers(rows: i64) -> LazyFrame {
    let numbers: Vec<_> = (0..rows).collect();
    df!["id" => &numbers, "text" => numbers.iter().map(|n| format!("number {n}, in words")).collect::<Vec<_>>()]
        .unwrap()
        .lazy()
}

fn heights(session: &Session, query: LazyFrame) -> Vec<usize> {
    session.submit(query).unwrap().batches().map(|batch| batch.unwrap().height()).collect()
}

#[test]
fn into_partitions_deals_equal_shares_in_order() {
    let session = Session::local(2).unwrap();
    let udf = |query: LazyFrame| query.with_column(Height.pool().replicas(2).on([col("id")]).alias("height"));
    let seen = udf(numbers(400).into_partitions(100)).collect_on(&session).unwrap();
    assert_eq!(seen.column("height").unwrap().i64().unwrap().iter().collect::<Vec<_>>(), vec![Some(4); 400]);
    // Split and merged behind a UDF stage, whose tasks leave partitions of other heights.
    let again = |n| udf(numbers(400).into_partitions(7)).drop(by_name(["height"], true, false)).into_partitions(n);
    assert_eq!(heights(&session, again(10)), vec![40; 10]);
    assert_eq!(heights(&session, again(3)), [133, 133, 134]);
    assert_eq!(heights(&session, numbers(2).into_partitions(4)).iter().sum::<usize>(), 2);
    let ordered = again(10).collect_on(&session).unwrap();
    assert!(ordered.equals(&numbers(400).collect().unwrap()), "{ordered}");
    assert_eq!(session.partitions_held(), 0);
}

#[test]
fn a_large_frame_travels_beside_the_plan_and_is_dropped_with_its_query() {
    let session = Session::local(2).unwrap();
    let frame = Arc::new(numbers(200_000).collect().unwrap());
    let query = frame.as_ref().clone().lazy().with_column((col("id") * lit(2)).alias("twice"));
    let mut run = session.submit(query.clone()).unwrap();
    let partitions: Vec<_> = run.batches().collect::<Result<_, _>>().unwrap();
    assert!(partitions.len() > 1, "{}", run.explain());
    let whole = partitions.into_iter().reduce(|whole, next| whole.vstack(&next).unwrap()).unwrap();
    assert!(whole.equals(&query.collect().unwrap()));
    assert!(session.partitions_held() > 0, "kept while the query lives");
    drop(run);
    assert_eq!(session.partitions_held(), 0);
}
