//! What drivers ask for: random queries, and joins and group-bys of several stages with UDFs between them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta_remote::catch;
use serde::{Deserialize, Serialize};

use super::random::Query;
use super::rng::Rng;
use super::tables::WORDS;

/// Calls of UDFs that are to fail, by the number of their simulation: which, and how many there have been.
static CALLS: Mutex<BTreeMap<u64, (usize, usize)>> = Mutex::new(BTreeMap::new());

/// What such a call says.
pub(crate) const INJECTED: &str = "the simulation makes this call fail";

/// The n-th call of this simulation's UDFs from now on fails.
pub(crate) fn fail_call(simulation: u64, nth: usize) {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner).insert(simulation, (nth, 0));
}

pub(crate) fn forget_calls(simulation: u64) {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner).remove(&simulation);
}

fn called(simulation: u64) -> UdfResult<()> {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((nth, count)) = calls.get_mut(&simulation) else { return Ok(()) };
    *count += 1;
    if nth == count { Err(UdfError::new(INJECTED)) } else { Ok(()) }
}

/// Thrice a number, and one.
#[derive(Serialize, Deserialize)]
struct Oar(u64);

#[regatta::udf]
impl Udf for Oar {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        called(self.0)?;
        Ok((batch.column(0)? * 3i64) + 1)
    }
}

/// The same, after so many milliseconds.
#[derive(Serialize, Deserialize)]
struct Ferry(u64, u64);

#[regatta::udf]
impl AsyncUdf for Ferry {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<()> {
        tokio::time::sleep(Duration::from_millis(self.1)).await;
        Ok(())
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        tokio::time::sleep(Duration::from_millis(self.1)).await;
        called(self.0)?;
        Ok((batch.column(0)? * 3i64) + 1)
    }
}

/// A query, and what plain Polars answers; `None`, if that is an error.
pub(crate) fn draw(rng: &mut Rng, simulation: u64, folder: &Path, udfs: bool) -> Option<(Query, DataFrame)> {
    let mut query = match if udfs { 2 } else { rng.below(3) } {
        0 => Query::random(rng, folder),
        1 => orders(rng),
        _ => Query { words: "UDFs".to_owned(), ..orders(rng) },
    };
    let flags = query.frame.get_current_optimizations() - OptFlags::CHECK_ORDER_OBSERVE;
    if query.words == "UDFs" {
        let plain = |of: Expr| (of * lit(3i64)) + lit(1i64);
        let (sum, plain_query) = (col("sum"), query.frame.clone().with_column(plain(col("sum")).alias("rowed")));
        let replicas = 1 + rng.below(2)..=2 + rng.below(2);
        let udf = match rng.percent(50) {
            true => Oar(simulation).pool().replicas(replicas).batch(7).on([sum]),
            false => {
                let ferry = Ferry(simulation, 1 + rng.below(60) as u64);
                ferry.pool().replicas(replicas).batch(5).in_flight(2).on([sum])
            }
        };
        query.frame = query.frame.with_column(udf.alias("rowed"));
        let again = |frame: LazyFrame| match replicas_follow(simulation) {
            true => frame.group_by([col("rowed") % lit(5i64)]).agg([col("sum").sum(), len().alias("rows")]),
            false => frame,
        };
        let (plain, ours) = (again(plain_query), again(query.frame));
        query = Query { frame: ours, ordered: false, ..query };
        return Some((query, answered(plain.with_optimizations(flags))?));
    }
    let plain = answered(query.frame.clone().with_optimizations(flags))?;
    Some((query, plain))
}

/// Plain Polars' answer. Some queries it panics at.
fn answered(query: LazyFrame) -> Option<DataFrame> {
    catch(|| query.collect()).ok()?.ok()
}

/// What plain Polars answers on its other engine. In a thread that simulates nothing: it waits there.
pub(crate) fn streamed(query: &Query) -> Option<DataFrame> {
    let query = query.frame.clone();
    let streamed = thread::spawn(move || catch(|| query.collect_with_engine(Engine::Streaming)).ok()?.ok());
    Some(streamed.join().ok()??.unwrap_single())
}

/// Whether a group-by follows the UDF.
fn replicas_follow(simulation: u64) -> bool {
    simulation.is_multiple_of(2)
}

/// Orders with their customers, by region: a join, group-bys and a sort, over as many partitions as the seed says.
fn orders(rng: &mut Rng) -> Query {
    let (rows, customers) = (40 + rng.below(200), 5 + rng.below(20));
    let orders = df![
        "order" => (0..rows as i64).collect::<Vec<_>>(),
        "customer" => (0..rows).map(|_| rng.below(customers + 3) as i64).collect::<Vec<_>>(),
        "price" => (0..rows).map(|_| rng.between(-50, 500)).collect::<Vec<_>>(),
    ];
    let names = df![
        "id" => (0..customers as i64).collect::<Vec<_>>(),
        "region" => (0..customers).map(|_| WORDS[rng.below(WORDS.len())]).collect::<Vec<_>>(),
    ];
    let parted =
        |rng: &mut Rng, frame: PolarsResult<DataFrame>| frame.unwrap().lazy().into_partitions(1 + rng.below(5));
    let (orders, names) = (parted(rng, orders), parted(rng, names));
    let how = [JoinType::Inner, JoinType::Left, JoinType::Full][rng.below(3)].clone();
    let args = JoinArgs { coalesce: JoinCoalesce::CoalesceColumns, ..JoinArgs::new(how) };
    let orders = orders.repartition(1 + rng.below(5), [col("customer")]);
    let joined = orders.join(names, [col("customer")], [col("id")], args);
    // Tasks that take some rows by their number of what has no order.
    let joined = if rng.percent(30) { joined.into_partitions(1 + rng.below(5)) } else { joined };
    let grouped = joined.group_by([col("region"), (col("order") % lit(7i64)).alias("week")]).agg([
        col("price").sum().alias("sum"),
        col("customer").n_unique().alias("customers"),
        len().alias("rows"),
    ]);
    let grouped = if rng.percent(30) { grouped.into_partitions(1 + rng.below(5)) } else { grouped };
    let (frame, ordered) = match rng.below(3) {
        0 => (grouped, false),
        1 => {
            let keys = ["region", "week"];
            (grouped.sort(keys, SortMultipleOptions::default()), true)
        }
        _ => {
            let by_week = grouped.group_by([col("week")]).agg([col("sum").sum(), col("rows").sum()]);
            (by_week.filter(col("rows").gt(lit(1))), false)
        }
    };
    Query { frame, ordered, approximate: Vec::new(), words: "orders".to_owned() }
}
