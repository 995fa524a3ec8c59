//! Windows, and what else has rows by their keys and puts them back: the rows come in Polars' order, exactly.

use regatta::Session;
use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::exchanges::{bucket, named, typed};
use crate::orders::{in_shapes, of_types};
use crate::sources::scan;
use crate::{Case, same_on};

fn over(of: Expr, keys: &[&str]) -> Expr {
    of.over(keys.iter().map(|key| col(*key)).collect::<Vec<_>>()).unwrap()
}

fn ordered(of: Expr, keys: &[&str], by: Expr, options: SortOptions) -> Expr {
    let keys: Vec<_> = keys.iter().map(|key| col(*key)).collect();
    of.over_with_options(Some(keys), Some((vec![by], options)), WindowMapping::GroupsToRows).unwrap()
}

fn rank(of: Expr, method: RankMethod) -> Expr {
    of.rank(RankOptions { method, descending: false }, None)
}

fn by_every_type() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, dtype) in of_types().into_iter().filter(|(_, dtype)| !dtype.is_nested()) {
        let id = || col("id");
        let made = typed().with_columns([
            over(id().cum_sum(false), &[&name]).alias("sums"),
            over(id().shift(lit(-2)), &[&name]).alias("next"),
            over(rank(id() % lit(7), RankMethod::Dense), &[&name]).alias("rank"),
            over(id().last() - id(), &[&name]).alias("to the last"),
        ]);
        cases.push((named(format!("by {name} ({dtype})")), made, true, &[][..]));
        let of = typed().select([id(), over(col(name.clone()).shift(lit(1)), &["flag"]).alias("before")]);
        cases.push((named(format!("of {name} ({dtype})")), of, true, &[]));
    }
    cases
}

/// Distinct rows, in their order and without one.
fn distinct() -> Vec<Case> {
    use UniqueKeepStrategy::{Any, First, Last, None};
    let mut cases = Vec::new();
    for (name, dtype) in of_types().into_iter().filter(|(_, dtype)| !dtype.is_nested()) {
        // The key itself stands for values that are equal and look otherwise: zeros of both signs.
        let of = || typed().select([col("id"), col(name.clone()).alias("key"), (col("id") % lit(6)).alias("rest")]);
        let by = || Some(by_name(["key"], true, false));
        for keep in [Any, First, Last, None] {
            let what = |what: &str| named(format!("{what} by {name} ({dtype}), keep {keep:?}"));
            cases.push((what("distinct in order"), of().unique_stable(by(), keep), true, &[][..]));
            if keep != Any {
                cases.push((what("distinct"), of().unique(by(), keep), false, &[]));
            }
            let all = of().select([col("key"), col("rest")]);
            cases.push((what("whole rows"), all.unique_stable(Option::None, keep), true, &[]));
        }
    }
    let by = |names: &[&str]| Some(by_name(names.iter().copied(), true, false));
    let firsts = || scan().unique_stable(by(&["group", "word"]), First);
    let udf = typed().with_column(bucket::on([col("id")]).alias("in"));
    let twice = || concat([scan(), scan()], UnionArgs::default()).unwrap();
    for count in [0, 1, 2, 17, 256] {
        let few = scan().filter(col("id").lt(lit(count))).unique_stable(by(&["group"]), Last);
        cases.push((named(format!("distinct, {count} rows")), few, true, &[]));
    }
    cases.extend([
        ("distinct, of what a UDF makes", udf.unique_stable(by(&["in"]), Last), true, &[][..]),
        ("distinct, of frames one below the other", twice().unique_stable(Option::None, First), true, &[]),
        ("distinct, none of frames one below the other", twice().unique_stable(Option::None, None), true, &[]),
        ("distinct, first rows", firsts().limit(5), true, &[]),
        ("distinct, some rows", firsts().slice(3, 9), true, &[]),
        ("distinct, numbered", firsts().with_row_index("n", Option::None), true, &[]),
        ("distinct, dealt", firsts().into_partitions(3), true, &[]),
        ("distinct, grouped", firsts().group_by([col("group")]).agg([col("id").first(), len()]), false, &[]),
        ("distinct again", firsts().unique_stable(by(&["group"]), Last), true, &[]),
        (
            "distinct, joined",
            firsts().inner_join(scan().select([col("id"), col("day")]), col("id"), col("id")),
            false,
            &[],
        ),
        (
            "distinct, of sorted rows",
            scan().sort(["id"], Default::default()).unique_stable(by(&["word"]), Last),
            true,
            &[],
        ),
    ]);
    cases
}

fn in_orders() -> Vec<Case> {
    let mut cases = Vec::new();
    // No two rows of a group are equal in these.
    for (by, what) in [(col("id") * lit(7919) % lit(1009), "a permutation"), (-col("id"), "backwards")] {
        for (descending, last) in [(false, false), (false, true), (true, false), (true, true)] {
            let options = SortOptions { descending, nulls_last: last, ..Default::default() };
            let of = |of: Expr| ordered(of, &["größe"], by.clone(), options);
            let made = typed().with_columns([
                of(col("id").first()).alias("first"),
                of(col("id").cum_sum(false)).alias("sums"),
                of(col("名").shift(lit(1))).alias("before"),
            ]);
            cases.push((named(format!("{what}, descending: {descending}, nulls last: {last}")), made, true, &[][..]));
        }
    }
    cases
}

fn of_every_size() -> Vec<Case> {
    let few = |count: i64| scan().filter(col("id").lt(lit(count))).select([col("id"), col("group"), col("value")]);
    let mut cases = Vec::new();
    for count in [0, 1, 2, 3, 17, 256, 1000] {
        let made = few(count).with_column(over(col("id").cum_sum(true), &["group"]).alias("w"));
        cases.push((named(format!("{count} rows")), made, true, &[][..]));
    }
    let one = few(900).with_column(lit(1i64).alias("one"));
    cases.push(("rows with one key", one.with_column(over(col("id").shift(lit(1)), &["one"]).alias("w")), true, &[]));
    let each = few(900).with_column(over(col("id").cum_sum(false), &["id"]).alias("w"));
    cases.push(("a key of each row", each, true, &[]));
    cases
}

fn among_others() -> Vec<Case> {
    let sums = |keys: &[&str]| over(col("id").cum_sum(false), keys);
    let with = |of: Expr| typed().with_column(of.alias("w"));
    let join = || WindowMapping::Join;
    let lists = col("id").over_with_options(Some([col("flag")]), None, join()).unwrap();
    let sizes = col("id").sort(Default::default()).over_with_options(Some([col("flag")]), None, join()).unwrap();
    let computed = col("id").cum_sum(false).over([col("id") % lit(5), col("flag")]).unwrap();
    let udf = || typed().with_column(bucket::on([col("id")]).alias("in"));
    let groups = || typed().group_by([col("größe"), col("flag")]).agg([len().alias("n"), col("id").max()]);
    let explode = col("id").over_with_options(Some([col("flag")]), None, WindowMapping::Explode).unwrap();
    vec![
        ("lists of each group", with(lists), true, &[][..]),
        ("sorted lists of each group", with(sizes), true, &[]),
        ("one below the other", typed().sort(["flag"], Default::default()).select([explode]), true, &[]),
        ("by what is computed", with(computed), true, &[]),
        (
            "numbers of rows, in an order",
            with(ordered(col("id").agg_groups(), &["flag"], -col("id"), Default::default())),
            true,
            &[],
        ),
        ("by a key and by it and another", with(sums(&["flag"]) - sums(&["größe", "flag"])), true, &[]),
        ("by two that have none in common", with(sums(&["flag"]) - sums(&["größe"])), true, &[]),
        ("of aggregates and of others", with(sums(&["flag"]) * over(col("id").max(), &["flag"])), true, &[]),
        ("beside an aggregate of all", with(sums(&["flag"]) - col("id").min()), true, &[]),
        (
            "in the place of its key",
            typed().with_column(over(col("id").cum_sum(false), &["u8"]).alias("u8")),
            true,
            &[],
        ),
        ("only windows", typed().select([sums(&["flag"]), over(len(), &["flag"]).alias("n")]), true, &[]),
        (
            "rows by a window",
            typed().filter(over(rank(col("id"), RankMethod::Ordinal), &["flag"]).lt_eq(lit(3))),
            true,
            &[],
        ),
        ("no row", typed().filter(sums(&["flag"]).lt(lit(0))), true, &[]),
        ("two after another", with(sums(&["flag"])).with_column(over(col("w").shift(lit(1)), &["größe"])), true, &[]),
        ("numbered", with(sums(&["flag"])).with_row_index("n", Some(2)), true, &[]),
        ("first rows", with(sums(&["flag"])).limit(7), true, &[]),
        ("last rows", with(sums(&["flag"])).tail(7), true, &[]),
        ("dealt", with(sums(&["flag"])).into_partitions(5), true, &[]),
        (
            "grouped",
            with(sums(&["flag"])).group_by([col("flag")]).agg([col("w").max(), col("w").sum().alias("s")]),
            false,
            &[],
        ),
        ("grouped in order", with(sums(&["flag"])).group_by_stable([col("flag")]).agg([col("w").last()]), true, &[]),
        ("grouped by others", with(sums(&["flag"])).group_by([col("größe")]).agg([col("w").sum()]), false, &[]),
        ("aggregated", with(sums(&["flag"])).select([col("w").sum()]), true, &[]),
        (
            "joined",
            with(sums(&["flag"])).inner_join(scan().select([col("id"), col("group")]), col("id"), col("id")),
            false,
            &[],
        ),
        (
            "of sorted rows",
            scan().sort(["group", "id"], Default::default()).with_column(sums(&["group"]).alias("w")),
            true,
            &[],
        ),
        (
            "of groups",
            groups().with_column(over(col("n").cast(DataType::Int64).max() - col("id").max(), &["flag"]).alias("of")),
            false,
            &[],
        ),
        (
            "of ranks in groups",
            groups().with_column(over(rank(col("id"), RankMethod::Min), &["flag"]).alias("of")),
            false,
            &[],
        ),
        ("of what a UDF makes", udf().with_column(over(col("id").cum_sum(false), &["in"]).alias("w")), true, &[]),
        ("what a UDF makes of it", with(sums(&["flag"])).with_column(bucket::on([col("w")]).alias("in")), true, &[]),
        (
            "of frames one below the other",
            concat([scan(), scan().filter(col("id").gt(lit(5)))], UnionArgs::default())
                .unwrap()
                .with_column(sums(&["group"]).alias("w")),
            true,
            &[],
        ),
        (
            "a column that is called as ours",
            typed().with_column(col("id").alias("__regatta_place_2")).with_column(sums(&["flag"]).alias("w")),
            true,
            &[],
        ),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    [by_every_type(), distinct(), in_orders(), of_every_size(), among_others()].concat()
}

const WINDOWS: &str = "windows::windows_on_three_worker_processes";

#[test]
fn windows_on_three_worker_processes() {
    same_on(&Session::local(3).unwrap(), cases());
}

#[test]
fn windows_on_three_worker_processes_by_keys() {
    in_shapes(WINDOWS, "hash");
}

#[test]
fn windows_on_three_worker_processes_in_one_section_for_each_task() {
    in_shapes(WINDOWS, "one_section");
}
