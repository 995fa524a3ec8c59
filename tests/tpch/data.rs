//! TPC-H's eight tables as Parquet, by the `tpchgen` crate. Money is `f64`, so that every peer reads the same files.

use std::fs::File;
use std::path::Path;

use regatta::polars::prelude::*;
use tpchgen::dates::TPCHDate;
use tpchgen::decimal::TPCHDecimal;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

pub(crate) const TABLES: [&str; 8] =
    ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// Writes all tables into a folder, with row groups of so many rows.
pub(crate) fn write(folder: &Path, scale: f64, row_group: usize) -> PolarsResult<()> {
    for name in TABLES {
        let file = File::create(folder.join(format!("{name}.parquet")))?;
        ParquetWriter::new(file).with_row_group_size(Some(row_group)).finish(&mut table(name, scale)?)?;
    }
    Ok(())
}

/// One column for each of the named expressions of a row.
macro_rules! frame {
    ($rows:expr, $row:ident: $($name:ident = $value:expr),* $(,)?) => {{
        let rows: Vec<_> = $rows.iter().collect();
        $(let $name = Column::new(stringify!($name).into(), rows.iter().map(|$row| $value).collect::<Vec<_>>());)*
        DataFrame::new(rows.len(), vec![$($name),*])
    }};
}

fn table(name: &str, scale: f64) -> PolarsResult<DataFrame> {
    let frame = match name {
        "region" => frame!(RegionGenerator::default(), r: r_regionkey = r.r_regionkey, r_name = r.r_name),
        "nation" => frame!(NationGenerator::default(), n:
            n_nationkey = n.n_nationkey, n_name = n.n_name, n_regionkey = n.n_regionkey),
        "supplier" => frame!(SupplierGenerator::new(scale, 1, 1), s:
            s_suppkey = s.s_suppkey, s_name = s.s_name.to_string(), s_address = s.s_address.to_string(),
            s_nationkey = s.s_nationkey, s_phone = s.s_phone.to_string(), s_acctbal = money(s.s_acctbal),
            s_comment = s.s_comment.as_str()),
        "customer" => frame!(CustomerGenerator::new(scale, 1, 1), c:
            c_custkey = c.c_custkey, c_name = c.c_name.to_string(), c_address = c.c_address.to_string(),
            c_nationkey = c.c_nationkey, c_phone = c.c_phone.to_string(), c_acctbal = money(c.c_acctbal),
            c_mktsegment = c.c_mktsegment, c_comment = c.c_comment),
        "part" => frame!(PartGenerator::new(scale, 1, 1), p:
            p_partkey = p.p_partkey, p_name = p.p_name.to_string(), p_mfgr = p.p_mfgr.to_string(),
            p_brand = p.p_brand.to_string(), p_type = p.p_type, p_size = p.p_size, p_container = p.p_container,
            p_retailprice = money(p.p_retailprice)),
        "partsupp" => frame!(PartSuppGenerator::new(scale, 1, 1), p:
            ps_partkey = p.ps_partkey, ps_suppkey = p.ps_suppkey, ps_availqty = p.ps_availqty,
            ps_supplycost = money(p.ps_supplycost)),
        "orders" => frame!(OrderGenerator::new(scale, 1, 1), o:
            o_orderkey = o.o_orderkey, o_custkey = o.o_custkey, o_orderstatus = o.o_orderstatus.to_string(),
            o_totalprice = money(o.o_totalprice), o_orderdate = days(o.o_orderdate),
            o_orderpriority = o.o_orderpriority, o_shippriority = o.o_shippriority, o_comment = o.o_comment),
        _ => frame!(LineItemGenerator::new(scale, 1, 1), l:
            l_orderkey = l.l_orderkey, l_partkey = l.l_partkey, l_suppkey = l.l_suppkey,
            l_linenumber = l.l_linenumber, l_quantity = l.l_quantity as f64,
            l_extendedprice = money(l.l_extendedprice), l_discount = money(l.l_discount), l_tax = money(l.l_tax),
            l_returnflag = l.l_returnflag, l_linestatus = l.l_linestatus, l_shipdate = days(l.l_shipdate),
            l_commitdate = days(l.l_commitdate), l_receiptdate = days(l.l_receiptdate),
            l_shipinstruct = l.l_shipinstruct, l_shipmode = l.l_shipmode),
    }?;
    let dates = frame.get_column_names().into_iter().filter(|name| name.ends_with("date")).cloned();
    frame.clone().lazy().with_columns(dates.map(|name| col(name).cast(DataType::Date)).collect::<Vec<_>>()).collect()
}

fn money(cents: TPCHDecimal) -> f64 {
    cents.0 as f64 / 100.0
}

fn days(date: TPCHDate) -> i32 {
    date.to_unix_epoch()
}
