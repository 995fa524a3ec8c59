//! TPC-H `lineitem` and `orders` as Parquet, by the `tpchgen` crate.

use std::fs::File;
use std::path::Path;

use regatta::polars::prelude::*;
use tpchgen::dates::TPCHDate;
use tpchgen::decimal::TPCHDecimal;
use tpchgen::generators::{LineItemGenerator, OrderGenerator};

/// Rows of one row group: a stage is split at their borders.
const ROW_GROUP: usize = 1 << 14;

/// Writes both tables into a folder. Returns how many rows they have together.
pub(crate) fn write(folder: &Path, scale: f64) -> PolarsResult<usize> {
    let tables = [("lineitem", lineitem(scale)?), ("orders", orders(scale)?)];
    let mut rows = 0;
    for (name, mut table) in tables {
        let file = File::create(folder.join(format!("{name}.parquet")))?;
        ParquetWriter::new(file).with_row_group_size(Some(ROW_GROUP)).finish(&mut table)?;
        rows += table.height();
    }
    Ok(rows)
}

fn lineitem(scale: f64) -> PolarsResult<DataFrame> {
    let items: Vec<_> = LineItemGenerator::new(scale, 1, 1).iter().collect();
    let frame = df![
        "l_orderkey" => items.iter().map(|l| l.l_orderkey).collect::<Vec<_>>(),
        "l_partkey" => items.iter().map(|l| l.l_partkey).collect::<Vec<_>>(),
        "l_suppkey" => items.iter().map(|l| l.l_suppkey).collect::<Vec<_>>(),
        "l_linenumber" => items.iter().map(|l| l.l_linenumber).collect::<Vec<_>>(),
        "l_quantity" => items.iter().map(|l| l.l_quantity).collect::<Vec<_>>(),
        "l_returnflag" => items.iter().map(|l| l.l_returnflag).collect::<Vec<_>>(),
        "l_linestatus" => items.iter().map(|l| l.l_linestatus).collect::<Vec<_>>(),
        "l_shipmode" => items.iter().map(|l| l.l_shipmode).collect::<Vec<_>>(),
        "l_comment" => items.iter().map(|l| l.l_comment).collect::<Vec<_>>(),
    ]?;
    with_columns(
        frame,
        vec![
            money("l_extendedprice", items.iter().map(|l| l.l_extendedprice))?,
            money("l_discount", items.iter().map(|l| l.l_discount))?,
            money("l_tax", items.iter().map(|l| l.l_tax))?,
            days("l_shipdate", items.iter().map(|l| l.l_shipdate))?,
            days("l_commitdate", items.iter().map(|l| l.l_commitdate))?,
            days("l_receiptdate", items.iter().map(|l| l.l_receiptdate))?,
        ],
    )
}

fn orders(scale: f64) -> PolarsResult<DataFrame> {
    let orders: Vec<_> = OrderGenerator::new(scale, 1, 1).iter().collect();
    let frame = df![
        "o_orderkey" => orders.iter().map(|o| o.o_orderkey).collect::<Vec<_>>(),
        "o_custkey" => orders.iter().map(|o| o.o_custkey).collect::<Vec<_>>(),
        "o_orderstatus" => orders.iter().map(|o| o.o_orderstatus.to_string()).collect::<Vec<_>>(),
        "o_orderpriority" => orders.iter().map(|o| o.o_orderpriority).collect::<Vec<_>>(),
        "o_comment" => orders.iter().map(|o| o.o_comment).collect::<Vec<_>>(),
    ]?;
    with_columns(
        frame,
        vec![
            money("o_totalprice", orders.iter().map(|o| o.o_totalprice))?,
            days("o_orderdate", orders.iter().map(|o| o.o_orderdate))?,
        ],
    )
}

fn with_columns(mut frame: DataFrame, columns: Vec<Column>) -> PolarsResult<DataFrame> {
    for column in columns {
        frame.with_column(column)?;
    }
    Ok(frame)
}

/// Cents as a decimal of two places.
fn money(name: &str, cents: impl Iterator<Item = TPCHDecimal>) -> PolarsResult<Column> {
    let cents: Int128Chunked = cents.map(|c| Some(i128::from(c.0))).collect();
    Ok(cents.with_name(name.into()).into_decimal(15, 2)?.into_column())
}

fn days(name: &str, dates: impl Iterator<Item = TPCHDate>) -> PolarsResult<Column> {
    let days: Vec<i32> = dates.map(|date| date.to_unix_epoch()).collect();
    Column::new(name.into(), days).cast(&DataType::Date)
}
