//! TPC-H's 22 queries as LazyFrames, with the parameters of its validation run.

use std::path::{Path, PathBuf};

use regatta::polars::prelude::*;

/// A folder of tables.
pub(crate) struct Tables(pub(crate) PathBuf);

pub(crate) type Query = fn(&Tables) -> LazyFrame;

pub(crate) const QUERIES: [Query; 22] =
    [q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11, q12, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22];

impl Tables {
    pub(crate) fn path(&self, table: &str) -> PathBuf {
        Path::new(&self.0).join(format!("{table}.parquet"))
    }

    fn scan(&self, table: &str) -> LazyFrame {
        let path = self.path(table);
        let path = path.to_str().expect("temporary folders have names of text");
        LazyFrame::scan_parquet(path.into(), Default::default()).expect("the files are there")
    }
}

fn date(year: i32, month: u8, day: u8) -> Expr {
    lit(format!("{year}-{month:02}-{day:02}")).cast(DataType::Date)
}

fn year(column: &str) -> Expr {
    col(column).dt().year()
}

fn revenue() -> Expr {
    col("l_extendedprice") * (lit(1.0) - col("l_discount"))
}

fn join(left: LazyFrame, right: LazyFrame, on: [&str; 2]) -> LazyFrame {
    left.join(right, [col(on[0])], [col(on[1])], JoinArgs::new(JoinType::Inner))
}

fn semi(left: LazyFrame, right: LazyFrame, on: [&str; 2]) -> LazyFrame {
    left.join(right, [col(on[0])], [col(on[1])], JoinArgs::new(JoinType::Semi))
}

fn anti(left: LazyFrame, right: LazyFrame, on: [&str; 2]) -> LazyFrame {
    left.join(right, [col(on[0])], [col(on[1])], JoinArgs::new(JoinType::Anti))
}

fn sort(frame: LazyFrame, by: &[(&str, bool)]) -> LazyFrame {
    let options =
        SortMultipleOptions::default().with_order_descending_multi(by.iter().map(|(_, descending)| *descending));
    frame.sort(by.iter().map(|(name, _)| *name).collect::<Vec<_>>(), options)
}

fn any_of(column: &str, values: &[&str]) -> Expr {
    col(column).is_in(lit(Series::new("".into(), values)).implode(true), false)
}

fn q1(t: &Tables) -> LazyFrame {
    let lines = t.scan("lineitem").filter(col("l_shipdate").lt_eq(date(1998, 9, 2)));
    let groups = lines.group_by([col("l_returnflag"), col("l_linestatus")]).agg([
        col("l_quantity").sum().alias("sum_qty"),
        col("l_extendedprice").sum().alias("sum_base_price"),
        revenue().sum().alias("sum_disc_price"),
        (revenue() * (lit(1.0) + col("l_tax"))).sum().alias("sum_charge"),
        col("l_quantity").mean().alias("avg_qty"),
        col("l_extendedprice").mean().alias("avg_price"),
        col("l_discount").mean().alias("avg_disc"),
        len().alias("count_order"),
    ]);
    sort(groups, &[("l_returnflag", false), ("l_linestatus", false)])
}

fn q2(t: &Tables) -> LazyFrame {
    let europe = join(
        t.scan("nation"),
        t.scan("region").filter(col("r_name").eq(lit("EUROPE"))),
        ["n_regionkey", "r_regionkey"],
    );
    let suppliers = join(t.scan("supplier"), europe, ["s_nationkey", "n_nationkey"]);
    let offers = join(t.scan("partsupp"), suppliers, ["ps_suppkey", "s_suppkey"]);
    let parts = t.scan("part").filter(col("p_size").eq(lit(15)).and(col("p_type").str().ends_with(lit("BRASS"))));
    let offers = join(parts, offers, ["p_partkey", "ps_partkey"]);
    let least = offers.clone().group_by([col("p_partkey")]).agg([col("ps_supplycost").min()]);
    let best = offers.join(
        least,
        [col("p_partkey"), col("ps_supplycost")],
        [col("p_partkey"), col("ps_supplycost")],
        JoinArgs::new(JoinType::Inner),
    );
    let columns = ["s_acctbal", "s_name", "n_name", "p_partkey", "p_mfgr", "s_address", "s_phone", "s_comment"];
    let best = best.select(columns.map(col));
    sort(best, &[("s_acctbal", true), ("n_name", false), ("s_name", false), ("p_partkey", false)]).limit(100)
}

fn q3(t: &Tables) -> LazyFrame {
    let customers = t.scan("customer").filter(col("c_mktsegment").eq(lit("BUILDING")));
    let orders = t.scan("orders").filter(col("o_orderdate").lt(date(1995, 3, 15)));
    let lines = t.scan("lineitem").filter(col("l_shipdate").gt(date(1995, 3, 15)));
    let orders = join(customers, orders, ["c_custkey", "o_custkey"]);
    let lines = join(orders, lines, ["o_orderkey", "l_orderkey"]);
    let groups = lines.group_by([col("o_orderkey"), col("o_orderdate"), col("o_shippriority")]);
    let groups = groups.agg([revenue().sum().alias("revenue")]);
    sort(groups, &[("revenue", true), ("o_orderdate", false), ("o_orderkey", false)]).limit(10)
}

fn q4(t: &Tables) -> LazyFrame {
    let late = t.scan("lineitem").filter(col("l_commitdate").lt(col("l_receiptdate")));
    let from = col("o_orderdate").gt_eq(date(1993, 7, 1));
    let orders = t.scan("orders").filter(from.and(col("o_orderdate").lt(date(1993, 10, 1))));
    let orders = semi(orders, late, ["o_orderkey", "l_orderkey"]);
    sort(orders.group_by([col("o_orderpriority")]).agg([len().alias("order_count")]), &[("o_orderpriority", false)])
}

fn q5(t: &Tables) -> LazyFrame {
    let asia =
        join(t.scan("region").filter(col("r_name").eq(lit("ASIA"))), t.scan("nation"), ["r_regionkey", "n_regionkey"]);
    let customers = join(asia, t.scan("customer"), ["n_nationkey", "c_nationkey"]);
    let from = col("o_orderdate").gt_eq(date(1994, 1, 1));
    let orders = t.scan("orders").filter(from.and(col("o_orderdate").lt(date(1995, 1, 1))));
    let orders = join(customers, orders, ["c_custkey", "o_custkey"]);
    let lines = join(orders, t.scan("lineitem"), ["o_orderkey", "l_orderkey"]);
    let local = lines.join(
        t.scan("supplier"),
        [col("l_suppkey"), col("n_nationkey")],
        [col("s_suppkey"), col("s_nationkey")],
        JoinArgs::new(JoinType::Inner),
    );
    sort(local.group_by([col("n_name")]).agg([revenue().sum().alias("revenue")]), &[("revenue", true)])
}

fn q6(t: &Tables) -> LazyFrame {
    let when = col("l_shipdate").gt_eq(date(1994, 1, 1)).and(col("l_shipdate").lt(date(1995, 1, 1)));
    let discount = col("l_discount").gt_eq(lit(0.05)).and(col("l_discount").lt_eq(lit(0.07)));
    let lines = t.scan("lineitem").filter(when.and(discount).and(col("l_quantity").lt(lit(24.0))));
    lines.select([(col("l_extendedprice") * col("l_discount")).sum().alias("revenue")])
}

fn q7(t: &Tables) -> LazyFrame {
    let nation = |name: &str| {
        t.scan("nation")
            .filter(any_of("n_name", &["FRANCE", "GERMANY"]))
            .select([col("n_nationkey"), col("n_name").alias(name)])
    };
    let customers = join(nation("cust_nation"), t.scan("customer"), ["n_nationkey", "c_nationkey"]);
    let orders = join(customers, t.scan("orders"), ["c_custkey", "o_custkey"]);
    let when = col("l_shipdate").gt_eq(date(1995, 1, 1)).and(col("l_shipdate").lt_eq(date(1996, 12, 31)));
    let lines = join(orders, t.scan("lineitem").filter(when), ["o_orderkey", "l_orderkey"]);
    let suppliers = join(nation("supp_nation"), t.scan("supplier"), ["n_nationkey", "s_nationkey"]);
    let shipped = join(lines, suppliers, ["l_suppkey", "s_suppkey"]).filter(col("cust_nation").neq(col("supp_nation")));
    let shipped = shipped.with_columns([year("l_shipdate").alias("l_year"), revenue().alias("volume")]);
    let groups = shipped.group_by([col("supp_nation"), col("cust_nation"), col("l_year")]);
    let by = [("supp_nation", false), ("cust_nation", false), ("l_year", false)];
    sort(groups.agg([col("volume").sum().alias("revenue")]), &by)
}

fn q8(t: &Tables) -> LazyFrame {
    let america = t.scan("region").filter(col("r_name").eq(lit("AMERICA")));
    let nations = join(t.scan("nation"), america, ["n_regionkey", "r_regionkey"]).select([col("n_nationkey")]);
    let customers = join(t.scan("customer"), nations, ["c_nationkey", "n_nationkey"]);
    let when = col("o_orderdate").gt_eq(date(1995, 1, 1)).and(col("o_orderdate").lt_eq(date(1996, 12, 31)));
    let orders = join(t.scan("orders").filter(when), customers, ["o_custkey", "c_custkey"]);
    let parts = t.scan("part").filter(col("p_type").eq(lit("ECONOMY ANODIZED STEEL")));
    let lines = join(t.scan("lineitem"), parts, ["l_partkey", "p_partkey"]);
    let lines = join(lines, orders, ["l_orderkey", "o_orderkey"]);
    let lines = join(lines, t.scan("supplier"), ["l_suppkey", "s_suppkey"]);
    let from = t.scan("nation").select([col("n_nationkey"), col("n_name").alias("nation")]);
    let lines = join(lines, from, ["s_nationkey", "n_nationkey"]);
    let lines = lines.with_columns([year("o_orderdate").alias("o_year"), revenue().alias("volume")]);
    let brazil = when_then(col("nation").eq(lit("BRAZIL")), col("volume"), lit(0.0));
    let share = (brazil.sum() / col("volume").sum()).alias("mkt_share");
    sort(lines.group_by([col("o_year")]).agg([share]), &[("o_year", false)])
}

fn when_then(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    when(condition).then(then).otherwise(otherwise)
}

fn q9(t: &Tables) -> LazyFrame {
    let parts = t.scan("part").filter(col("p_name").str().contains_literal(lit("green")));
    let offers = join(parts, t.scan("partsupp"), ["p_partkey", "ps_partkey"]);
    let offers = join(offers, t.scan("supplier"), ["ps_suppkey", "s_suppkey"]);
    let lines = t.scan("lineitem").join(
        offers,
        [col("l_partkey"), col("l_suppkey")],
        [col("p_partkey"), col("ps_suppkey")],
        JoinArgs::new(JoinType::Inner),
    );
    let lines = join(lines, t.scan("orders"), ["l_orderkey", "o_orderkey"]);
    let lines = join(lines, t.scan("nation"), ["s_nationkey", "n_nationkey"]);
    let profit = (revenue() - col("ps_supplycost") * col("l_quantity")).alias("amount");
    let lines = lines.select([col("n_name").alias("nation"), year("o_orderdate").alias("o_year"), profit]);
    let groups = lines.group_by([col("nation"), col("o_year")]).agg([col("amount").sum().alias("sum_profit")]);
    sort(groups, &[("nation", false), ("o_year", true)])
}

fn q10(t: &Tables) -> LazyFrame {
    let when = col("o_orderdate").gt_eq(date(1993, 10, 1)).and(col("o_orderdate").lt(date(1994, 1, 1)));
    let orders = join(t.scan("customer"), t.scan("orders").filter(when), ["c_custkey", "o_custkey"]);
    let returned = t.scan("lineitem").filter(col("l_returnflag").eq(lit("R")));
    let lines = join(orders, returned, ["o_orderkey", "l_orderkey"]);
    let lines = join(lines, t.scan("nation"), ["c_nationkey", "n_nationkey"]);
    let keys = ["c_custkey", "c_name", "c_acctbal", "c_phone", "n_name", "c_address", "c_comment"];
    let groups = lines.group_by(keys.map(col)).agg([revenue().sum().alias("revenue")]);
    sort(groups, &[("revenue", true), ("c_custkey", false)]).limit(20)
}

fn q11(t: &Tables) -> LazyFrame {
    let germany = t.scan("nation").filter(col("n_name").eq(lit("GERMANY")));
    let suppliers = join(t.scan("supplier"), germany, ["s_nationkey", "n_nationkey"]);
    let offers = join(t.scan("partsupp"), suppliers, ["ps_suppkey", "s_suppkey"]);
    let value = || (col("ps_supplycost") * col("ps_availqty")).sum();
    let total = offers.clone().select([(value() * lit(0.0001)).alias("least")]);
    let groups = offers.group_by([col("ps_partkey")]).agg([value().alias("value")]);
    let groups = groups.cross_join(total, None).filter(col("value").gt(col("least")));
    sort(groups.select([col("ps_partkey"), col("value")]), &[("value", true), ("ps_partkey", false)])
}

fn q12(t: &Tables) -> LazyFrame {
    let when = col("l_receiptdate").gt_eq(date(1994, 1, 1)).and(col("l_receiptdate").lt(date(1995, 1, 1)));
    let late = col("l_commitdate").lt(col("l_receiptdate")).and(col("l_shipdate").lt(col("l_commitdate")));
    let lines = t.scan("lineitem").filter(any_of("l_shipmode", &["MAIL", "SHIP"]).and(late).and(when));
    let lines = join(t.scan("orders"), lines, ["o_orderkey", "l_orderkey"]);
    let high = || any_of("o_orderpriority", &["1-URGENT", "2-HIGH"]);
    let groups = lines
        .group_by([col("l_shipmode")])
        .agg([high().sum().alias("high_line_count"), high().not().sum().alias("low_line_count")]);
    sort(groups, &[("l_shipmode", false)])
}

fn q13(t: &Tables) -> LazyFrame {
    let orders = t.scan("orders").filter(col("o_comment").str().contains(lit("special.*requests"), true).not());
    let all = t.scan("customer").join(orders, [col("c_custkey")], [col("o_custkey")], JoinArgs::new(JoinType::Left));
    let counts = all.group_by([col("c_custkey")]).agg([col("o_orderkey").count().alias("c_count")]);
    let groups = counts.group_by([col("c_count")]).agg([len().alias("custdist")]);
    sort(groups, &[("custdist", true), ("c_count", true)])
}

fn q14(t: &Tables) -> LazyFrame {
    let when = col("l_shipdate").gt_eq(date(1995, 9, 1)).and(col("l_shipdate").lt(date(1995, 10, 1)));
    let lines = join(t.scan("lineitem").filter(when), t.scan("part"), ["l_partkey", "p_partkey"]);
    let promo = when_then(col("p_type").str().starts_with(lit("PROMO")), revenue(), lit(0.0));
    lines.select([(lit(100.0) * promo.sum() / revenue().sum()).alias("promo_revenue")])
}

fn q15(t: &Tables) -> LazyFrame {
    let when = col("l_shipdate").gt_eq(date(1996, 1, 1)).and(col("l_shipdate").lt(date(1996, 4, 1)));
    let groups = t.scan("lineitem").filter(when).group_by([col("l_suppkey")]);
    let totals = groups.agg([revenue().sum().alias("total_revenue")]);
    let best = totals.filter(col("total_revenue").eq(col("total_revenue").max()));
    let best = join(t.scan("supplier"), best, ["s_suppkey", "l_suppkey"]);
    let columns = ["s_suppkey", "s_name", "s_address", "s_phone", "total_revenue"];
    sort(best.select(columns.map(col)), &[("s_suppkey", false)])
}

fn q16(t: &Tables) -> LazyFrame {
    let complained = col("s_comment").str().contains(lit("Customer.*Complaints"), true);
    let bad = t.scan("supplier").filter(complained);
    let sizes = lit(Series::new("".into(), [49i32, 14, 23, 45, 19, 3, 36, 9])).implode(true);
    let wanted = col("p_brand").neq(lit("Brand#45"));
    let wanted = wanted.and(col("p_type").str().starts_with(lit("MEDIUM POLISHED")).not());
    let parts = t.scan("part").filter(wanted.and(col("p_size").is_in(sizes, false)));
    let offers = join(parts, t.scan("partsupp"), ["p_partkey", "ps_partkey"]);
    let offers = anti(offers, bad, ["ps_suppkey", "s_suppkey"]);
    let groups = offers.group_by([col("p_brand"), col("p_type"), col("p_size")]);
    let groups = groups.agg([col("ps_suppkey").n_unique().alias("supplier_cnt")]);
    sort(groups, &[("supplier_cnt", true), ("p_brand", false), ("p_type", false), ("p_size", false)])
}

fn q17(t: &Tables) -> LazyFrame {
    let wanted = col("p_brand").eq(lit("Brand#23")).and(col("p_container").eq(lit("MED BOX")));
    let parts = t.scan("part").filter(wanted);
    let lines = join(parts, t.scan("lineitem"), ["p_partkey", "l_partkey"]);
    let few = lines.clone().group_by([col("p_partkey")]).agg([(lit(0.2) * col("l_quantity").mean()).alias("few")]);
    let lines = join(lines, few, ["p_partkey", "p_partkey"]).filter(col("l_quantity").lt(col("few")));
    lines.select([(col("l_extendedprice").sum() / lit(7.0)).alias("avg_yearly")])
}

fn q18(t: &Tables) -> LazyFrame {
    let quantity = || col("l_quantity").sum();
    let large = t.scan("lineitem").group_by([col("l_orderkey")]).agg([quantity()]);
    let large = large.filter(col("l_quantity").gt(lit(300.0)));
    let orders = semi(t.scan("orders"), large, ["o_orderkey", "l_orderkey"]);
    let orders = join(orders, t.scan("customer"), ["o_custkey", "c_custkey"]);
    let lines = join(orders, t.scan("lineitem"), ["o_orderkey", "l_orderkey"]);
    let keys = ["c_name", "o_custkey", "o_orderkey", "o_orderdate", "o_totalprice"];
    let groups = lines.group_by(keys.map(col)).agg([quantity().alias("sum_quantity")]);
    sort(groups, &[("o_totalprice", true), ("o_orderdate", false), ("o_orderkey", false)]).limit(100)
}

fn q19(t: &Tables) -> LazyFrame {
    let by_air = any_of("l_shipmode", &["AIR", "AIR REG"]).and(col("l_shipinstruct").eq(lit("DELIVER IN PERSON")));
    let lines = join(t.scan("lineitem").filter(by_air), t.scan("part"), ["l_partkey", "p_partkey"]);
    let kind = |brand: &str, boxes: [&str; 4], least: f64, largest: i32| {
        let quantity = col("l_quantity").gt_eq(lit(least)).and(col("l_quantity").lt_eq(lit(least + 10.0)));
        let size = col("p_size").gt_eq(lit(1)).and(col("p_size").lt_eq(lit(largest)));
        col("p_brand").eq(lit(brand)).and(any_of("p_container", &boxes)).and(quantity).and(size)
    };
    let small = kind("Brand#12", ["SM CASE", "SM BOX", "SM PACK", "SM PKG"], 1.0, 5);
    let medium = kind("Brand#23", ["MED BAG", "MED BOX", "MED PKG", "MED PACK"], 10.0, 10);
    let large = kind("Brand#34", ["LG CASE", "LG BOX", "LG PACK", "LG PKG"], 20.0, 15);
    lines.filter(small.or(medium).or(large)).select([revenue().sum().alias("revenue")])
}

fn q20(t: &Tables) -> LazyFrame {
    let canada = t.scan("nation").filter(col("n_name").eq(lit("CANADA")));
    let parts = t.scan("part").filter(col("p_name").str().starts_with(lit("forest")));
    let when = col("l_shipdate").gt_eq(date(1994, 1, 1)).and(col("l_shipdate").lt(date(1995, 1, 1)));
    let shipped = t.scan("lineitem").filter(when).group_by([col("l_partkey"), col("l_suppkey")]);
    let shipped = shipped.agg([(col("l_quantity").sum() * lit(0.5)).alias("half")]);
    let offers = semi(t.scan("partsupp"), parts, ["ps_partkey", "p_partkey"]);
    let offers = offers.join(
        shipped,
        [col("ps_partkey"), col("ps_suppkey")],
        [col("l_partkey"), col("l_suppkey")],
        JoinArgs::new(JoinType::Inner),
    );
    let offers = offers.filter(col("ps_availqty").cast(DataType::Float64).gt(col("half")));
    let suppliers = join(t.scan("supplier"), canada, ["s_nationkey", "n_nationkey"]);
    let suppliers = semi(suppliers, offers, ["s_suppkey", "ps_suppkey"]);
    sort(suppliers.select([col("s_name"), col("s_address")]), &[("s_name", false)])
}

fn q21(t: &Tables) -> LazyFrame {
    let lines = || t.scan("lineitem");
    let late = || lines().filter(col("l_receiptdate").gt(col("l_commitdate")));
    let suppliers_of = |lines: LazyFrame, name: &str| {
        lines.group_by([col("l_orderkey")]).agg([col("l_suppkey").n_unique().alias(name)])
    };
    let several = suppliers_of(lines(), "suppliers").filter(col("suppliers").gt(lit(1)));
    let one_late = suppliers_of(late(), "late_ones").filter(col("late_ones").eq(lit(1)));
    let waiting = join(join(late(), several, ["l_orderkey", "l_orderkey"]), one_late, ["l_orderkey", "l_orderkey"]);
    let failed = t.scan("orders").filter(col("o_orderstatus").eq(lit("F")));
    let waiting = join(waiting, failed, ["l_orderkey", "o_orderkey"]);
    let saudis = t.scan("nation").filter(col("n_name").eq(lit("SAUDI ARABIA")));
    let suppliers = join(t.scan("supplier"), saudis, ["s_nationkey", "n_nationkey"]);
    let waiting = join(suppliers, waiting, ["s_suppkey", "l_suppkey"]);
    let groups = waiting.group_by([col("s_name")]).agg([len().alias("numwait")]);
    sort(groups, &[("numwait", true), ("s_name", false)]).limit(100)
}

fn q22(t: &Tables) -> LazyFrame {
    let code = col("c_phone").str().slice(lit(0), lit(2)).alias("cntrycode");
    let customers = t.scan("customer").with_column(code);
    let customers = customers.filter(any_of("cntrycode", &["13", "31", "23", "29", "30", "18", "17"]));
    let rich = customers.clone().filter(col("c_acctbal").gt(lit(0.0))).select([col("c_acctbal").mean().alias("mean")]);
    let without = anti(customers, t.scan("orders"), ["c_custkey", "o_custkey"]);
    let without = without.cross_join(rich, None).filter(col("c_acctbal").gt(col("mean")));
    let groups = without.group_by([col("cntrycode")]);
    let groups = groups.agg([len().alias("numcust"), col("c_acctbal").sum().alias("totacctbal")]);
    sort(groups, &[("cntrycode", false)])
}
