//! What several tasks put together: every aggregate of every type, every join, distinct rows, first rows, frames one below the other.

use regatta::Session;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::difference;

use crate::Case;
use crate::sources::{nasty_scan, rows, scan};

type Aggregates = Vec<(&'static str, Expr)>;

/// By what its rows are told apart, and by what they are not.
fn aggregates(name: &str, dtype: &DataType) -> Aggregates {
    let x = || col(name);
    let some = || x().filter((col("id") % lit(50)).eq(lit(7)));
    let mut all = vec![
        ("count", x().count()),
        ("nulls", x().null_count()),
        ("len", x().len()),
        ("first", x().first()),
        ("last", x().last()),
        ("first of some", some().first()),
        ("last of some", some().last()),
    ];
    if !dtype.is_nested() {
        all.extend([("first that is one", x().first_non_null()), ("last that is one", x().last_non_null())]);
    }
    if dtype.is_bool() {
        all.extend([("any", x().any(true)), ("any or null", x().any(false)), ("every", x().all(true))]);
        all.extend([("every or null", x().all(false)), ("any of some", some().any(false))]);
    }
    if dtype.is_integer() || dtype.is_bool() {
        all.extend([("and", x().bitwise_and()), ("or", x().bitwise_or()), ("xor", x().bitwise_xor())]);
    }
    if !dtype.is_nested() {
        all.extend([("n_unique", x().n_unique()), ("min", x().min()), ("max", x().max())]);
    }
    if dtype.is_numeric() || dtype.is_duration() || dtype.is_bool() {
        all.extend([("sum", x().sum()), ("mean", x().mean())]);
    }
    if dtype.is_primitive_numeric() {
        all.extend([
            ("var", x().var(1)),
            ("std", x().std(0)),
            ("var of few", x().var(200)),
            ("median", x().median()),
            ("some", x().filter((col("id") % lit(3)).eq(lit(0))).sum()),
            ("mean of some", x().filter((col("id") % lit(3)).eq(lit(0))).mean()),
            ("std of some", x().filter((col("id") % lit(3)).eq(lit(0))).std(1)),
            ("of all", (x().max() - x().min()).cast(DataType::Float64) + x().sum().cast(DataType::Float64)),
        ]);
    }
    all
}

pub(crate) fn named(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

/// Sums of floats, and what is made of them, have other last digits when they are taken in another order.
const FLOATS: &[&str] = &["sum", "mean", "var", "std", "var of few", "some", "mean of some", "std of some", "of all"];

pub(crate) fn typed() -> LazyFrame {
    let x = || col("id") % lit(120) - lit(20);
    nasty_scan().with_columns([
        (x() + lit(20)).cast(DataType::UInt8).alias("u8"),
        (col("id") * lit(10_000)).cast(DataType::UInt32).alias("u32"),
        x().cast(DataType::Int8).alias("i8"),
        x().cast(DataType::Int128).alias("i128"),
        x().cast(DataType::Float32).alias("f32"),
        (x().cast(DataType::Float64) / lit(7.0) + lit(1e6)).alias("f64"),
        lit(0.1).alias("same"),
        when(col("id").gt(lit(1000))).then(col("id")).otherwise(lit(NULL)).alias("all null"),
        (col("id") % lit(400)).cast(DataType::Date).alias("day"),
    ])
}

pub(crate) fn of_every_type() -> Vec<Case> {
    let mut frame = typed();
    let schema = frame.collect_schema().unwrap();
    let mut cases = Vec::new();
    for (name, dtype) in schema.iter() {
        // Those that tasks make parts of, and those that see all rows of a group at once.
        let raw = ["n_unique", "median"];
        let (at_once, parts): (Vec<_>, Vec<_>) =
            aggregates(name, dtype).into_iter().partition(|(what, _)| raw.contains(what));
        for (how, some) in [("in parts", parts), ("at once", at_once)] {
            let every: Vec<_> = some.iter().map(|(what, expr)| expr.clone().alias(*what)).collect();
            let floats: Vec<&str> = some.iter().map(|(what, _)| *what).filter(|what| FLOATS.contains(what)).collect();
            let floats: &'static [&str] = floats.leak();
            if every.is_empty() {
                continue;
            }
            let by = |key: Expr| typed().group_by([key]).agg(every.clone());
            cases.push((named(format!("{how}: {name} ({dtype})")), typed().select(every.clone()), true, floats));
            cases.push((named(format!("{how}: {name} by flag")), by(col("flag").alias("by")), false, floats));
            let computed = (col("id") % lit(90)).alias("by");
            cases.push((named(format!("{how}: {name} by many")), by(computed), false, floats));
        }
        if !dtype.is_nested() {
            let keyed = typed().group_by([col(name.clone())]).agg([len().alias("rows"), col("id").sum().alias("ids")]);
            cases.push((named(format!("groups by {name} ({dtype})")), keyed, false, &[]));
            let raw = typed().group_by([col(name.clone())]).agg([col("id").median().alias("middle"), len()]);
            cases.push((named(format!("groups of all rows by {name}")), raw, false, &[]));
            let distinct = typed().select([col(name.clone())]).unique(None, UniqueKeepStrategy::Any);
            cases.push((named(format!("distinct {name}")), distinct, false, &[]));
            let number = typed().select([col(name.clone()).n_unique()]);
            cases.push((named(format!("how many different {name}")), number, true, &[]));
        }
    }
    cases
}

/// Where hardly two rows of a task are of one group, tasks that come later do not look for them; where many are, all do.
#[test]
fn rows_that_are_hardly_ever_of_one_group_pass_by_what_groups_them() {
    let folder = tempfile::tempdir().unwrap();
    let (files, each) = (12, 36_000i64);
    for file in 0..files {
        let rows = file * each..(file + 1) * each;
        let mut frame = df![
            "few" => rows.clone().map(|row| row / 4).collect::<Vec<_>>(),
            "many" => rows.clone().map(|row| row - i64::from(row % 10 == 9)).collect::<Vec<_>>(),
            "x" => rows.map(|row| (row % 7 != 0).then_some((row % 101) as f64)).collect::<Vec<_>>(),
        ];
        let to = std::fs::File::create(folder.path().join(format!("{file:02}.parquet"))).unwrap();
        ParquetWriter::new(to).finish(frame.as_mut().unwrap()).unwrap();
    }
    let scan = || {
        let files = PlRefPath::try_from_path(&folder.path().join("*.parquet")).unwrap();
        // More tasks than run at once.
        LazyFrame::scan_parquet(files, Default::default()).unwrap().into_partitions(12)
    };
    let x = || col("x");
    let every =
        [len().alias("rows"), x().sum().alias("sum"), x().var(1).alias("var"), x().max(), x().first().alias("f")];
    let grouped = |key: &str| scan().group_by([col(key)]).agg(every.clone());
    let distinct = |key: &str| scan().select([col(key)]).unique(None, UniqueKeepStrategy::Any);
    let session = Session::local(2).unwrap();
    for (query, groups, passes) in [
        (grouped("few"), each / 4, false),
        (grouped("many"), each / 10 * 9, true),
        (distinct("few"), each / 4, false),
        (distinct("many"), each / 10 * 9, true),
    ] {
        let (mut run, key) = (session.submit(query.clone()).unwrap(), query.clone().collect_schema().unwrap());
        let key = key.get_at_index(0).unwrap().0.clone();
        let sorted = |rows: DataFrame| rows.sort([key.clone()], SortMultipleOptions::default()).unwrap();
        let (ours, plain) = (sorted(run.collect().unwrap()), sorted(query.collect().unwrap()));
        let floats = if plain.width() > 1 { &["sum", "var"][..] } else { &[] };
        assert_eq!(difference(&ours, &plain, true, floats), None);
        let stage = run.profile().unwrap().stages[0].clone();
        let (tasks, all) = (u64::from(stage.tasks.unwrap()), (files * each) as u64);
        assert!(tasks >= 6, "{tasks} tasks");
        let groups = (files * groups) as u64;
        // Groups that are in two tasks are at their borders.
        let made = groups..groups + 2 * tasks;
        match passes {
            true => {
                assert!(stage.rows > made.end && stage.rows < all, "{} rows of {all} in {groups} groups", stage.rows)
            }
            false => assert!(made.contains(&stage.rows), "{} rows of {groups} groups", stage.rows),
        }
    }
}

fn joins() -> Vec<Case> {
    let types = [JoinType::Inner, JoinType::Left, JoinType::Right, JoinType::Full, JoinType::Semi, JoinType::Anti];
    let few = || typed().filter((col("id") % lit(17)).eq(lit(3))).with_column(col("id").alias("number"));
    let mut cases = Vec::new();
    for how in types {
        for key in ["id", "größe", "名", "flag", "small", "moment", "price", "kind", "i8", "f32", "day"] {
            for nulls_equal in [false, true] {
                let args = JoinArgs { nulls_equal, ..JoinArgs::new(how.clone()) };
                let left = typed().filter(col("id").lt(lit(150))).select([col("id").alias("row"), col(key)]);
                let right = few().select([col("number"), col(key)]);
                let name = named(format!("{how:?} join by {key}, nulls equal: {nulls_equal}"));
                cases.push((name, left.join(right, [col(key)], [col(key)], args), false, &[][..]));
            }
        }
        let args =
            JoinArgs { coalesce: JoinCoalesce::KeepColumns, suffix: Some("_b".into()), ..JoinArgs::new(how.clone()) };
        let keys = [col("id") % lit(40), col("flag")];
        let joined = typed().select([col("id"), col("flag")]).join(
            few().select([col("id"), col("flag")]),
            keys.clone(),
            keys,
            args,
        );
        cases.push((named(format!("{how:?} join by computed keys")), joined, false, &[]));
    }
    cases
}

/// Sides of which rows without a match on the other, of few rows, are of no use.
fn filtered_sides() -> Vec<Case> {
    let types = [JoinType::Inner, JoinType::Left, JoinType::Right, JoinType::Full, JoinType::Semi, JoinType::Anti];
    let mut cases = Vec::new();
    for how in types {
        for key in ["größe", "flag", "price"] {
            let few = || typed().filter((col("id") % lit(9)).eq(lit(3))).select([col("id").alias("number"), col(key)]);
            let many = || typed().filter(col("id").neq(lit(12))).select([col("id").alias("row"), col(key).alias("by")]);
            // Of a key there may be many rows, or one for each group.
            let groups =
                || typed().group_by([col(key).alias("by")]).agg([len().alias("rows"), col("id").max().alias("last")]);
            for nulls_equal in [false, true] {
                let args = || JoinArgs { nulls_equal, ..JoinArgs::new(how.clone()) };
                let mut add = |what: &str, query: LazyFrame| {
                    cases.push((
                        named(format!("{how:?} {what} by {key}, nulls equal: {nulls_equal}")),
                        query,
                        false,
                        &[][..],
                    ));
                };
                add("join of few with many", few().join(many(), [col(key)], [col("by")], args()));
                add("join of many with few", many().join(few(), [col("by")], [col(key)], args()));
                add("join of few with groups", few().join(groups(), [col(key)], [col("by")], args()));
                add("join of groups with few", groups().join(few(), [col("by")], [col(key)], args()));
            }
        }
    }
    cases.extend(whole_sides());
    cases.extend(scalars());
    cases.extend(windows());
    cases
}

/// Aggregates of all rows beside each row.
fn scalars() -> Vec<Case> {
    let x = || col("id").cast(DataType::Float64);
    let counted = || typed().group_by([col("größe")]).agg([len().alias("n"), col("id").max().alias("last")]);
    let bucketed = || typed().with_column(bucket::on([col("id")]).alias("in"));
    vec![
        ("a column less its mean", typed().with_column((x() - x().mean()) / x().std(1)), true, &["id"]),
        ("rows above the mean", typed().filter(x().gt(x().mean())), true, &[]),
        ("rows above the median", typed().filter(x().gt(x().median())), true, &[]),
        ("rows like the last", typed().filter(col("flag").eq(col("flag").last())), true, &[]),
        ("no rows above the most", typed().filter(col("id").gt(col("id").max())), true, &[]),
        ("shares", typed().select([col("id"), (x() / x().sum()).alias("share"), len().alias("of")]), true, &["share"]),
        (
            "one aggregate twice",
            typed().select([col("id") - col("id").min(), (col("id").max() - col("id").min()).alias("span")]),
            false,
            &[],
        ),
        ("a count beside no column of it", typed().with_column(len().alias("of")), true, &[]),
        ("groups of the most rows", counted().filter(col("n").eq(col("n").max())), false, &[]),
        ("a UDF's column less its least", bucketed().with_column(col("in") - col("in").min()), false, &[]),
        (
            "of filtered rows",
            typed().filter(col("flag")).filter(col("id").gt(col("id").mean())).select([col("größe")]),
            false,
            &[],
        ),
        ("of aggregates of aggregates", typed().filter(x().gt((x() - x().mean()).abs().mean())), true, &[]),
        (
            "of dealt rows",
            typed().into_partitions(3).with_column(col("id") - col("id").min()).filter(col("id").gt(col("id").mean())),
            true,
            &[],
        ),
        (
            "of a large frame",
            rows(0, 300_000).lazy().with_column(col("id").max().over([col("group")]).unwrap() - col("id").min()),
            true,
            &[],
        ),
        (
            "values of every kind beside each row",
            typed().with_column(all().as_expr().last().name().prefix("last ")),
            true,
            &[],
        ),
        ("an aggregate of what is in a column", typed().filter(col("id").eq(lit(3)).any(true)), true, &[]),
        (
            "the last of its window",
            typed().filter(col("id").eq(col("id").max().over([col("größe")]).unwrap())),
            false,
            &[],
        ),
    ]
}

/// Aggregates of the rows with the same keys beside each row.
fn windows() -> Vec<Case> {
    let over = |of: Expr, keys: &[&str]| of.over(keys.iter().map(|key| col(*key)).collect::<Vec<_>>()).unwrap();
    let x = || col("id").cast(DataType::Float64);
    let with = |of: Expr| typed().with_column(of.alias("w"));
    let mut cases: Vec<Case> = vec![
        ("a share of its group", with(x() / over(x().sum(), &["größe"])), true, &["w"]),
        ("apart from its group", with(over(x() - x().mean(), &["flag"])), true, &["w"]),
        ("of two keys", with(over(col("id").max(), &["flag", "größe"])), true, &[]),
        ("of two windows", with(over(col("id").max(), &["flag"]) - over(col("id").min(), &["größe"])), true, &[]),
        ("of a window and of all", with(over(col("id").max(), &["flag"]) - col("id").min()), true, &[]),
        ("one aggregate of two windows", with(over(len(), &["flag"]) + over(len(), &["größe"])), true, &[]),
        ("the first of its group", with(over(col("id").first(), &["größe"])), true, &[]),
        ("different values of its group", with(over(col("id").n_unique(), &["flag"])), true, &[]),
        ("the median of its group", with(over(col("id").median(), &["flag"])), true, &[]),
        ("rows of large groups", typed().filter(over(len(), &["größe"]).gt(lit(3))), true, &[]),
        (
            "only windows",
            typed().select([over(col("id").max(), &["flag"]), over(len(), &["flag"]).alias("n")]),
            true,
            &[],
        ),
        ("a window of each row", with(over(col("id").max(), &["id"])), true, &[]),
        (
            "a window of groups",
            typed()
                .group_by([col("größe"), col("flag")])
                .agg([len().alias("n")])
                .with_column(over(col("n").sum(), &["flag"]).alias("of")),
            false,
            &[],
        ),
        (
            "a window of a UDF's column",
            typed()
                .with_column(bucket::on([col("id")]).alias("in"))
                .with_column(over(col("id").max(), &["in"]).alias("w")),
            false,
            &[],
        ),
        (
            "values of every kind of a window",
            typed().with_column(all().as_expr().first().over([col("größe")]).unwrap().name().prefix("first ")),
            true,
            &[],
        ),
        (
            "an ordered join",
            typed().join(
                scan().select([col("id"), col("group")]),
                [col("id")],
                [col("id")],
                JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) },
            ),
            true,
            &[],
        ),
    ];
    for key in ["u8", "price", "day", "f32", "f64", "i128", "all null"] {
        cases.push((named(format!("a window by {key}")), with(over(col("id").max(), &[key])), true, &[]));
    }
    cases
}

/// Sides of which rows without a match look as if they were of no use.
fn whole_sides() -> Vec<Case> {
    let few = || typed().filter((col("id") % lit(9)).eq(lit(3))).select([col("id").alias("number"), col("größe")]);
    let left = |of: LazyFrame| few().left_join(of, col("größe"), col("by"));
    let groups = |keys: &[Expr], agg: Expr| typed().with_column(col("größe").alias("by")).group_by(keys).agg([agg]);
    let from_the_mean = (col("id").cast(DataType::Float64) - col("id").cast(DataType::Float64).mean()).gt(lit(0.0));
    let rest = |of: &str, n: i64| (col(of) % lit(n)).alias("rest");
    let once = typed().select([col("größe"), col("id"), rest("id", 7)]).filter(col("rest").eq(lit(3)));
    let once = once.with_column((col("rest") + col("id") % lit(5)).alias("more")).filter(col("more").eq(lit(4)));
    let some = typed().filter(col("flag").eq(lit(true))).select([col("größe").alias("by"), col("id").alias("row")]);
    let of = |name, query: LazyFrame| (name, query, false, &[][..]);
    vec![
        of("rows by their numbers beside few", left(groups(&[col("by")], col("id").agg_groups().alias("rows")))),
        of("groups by a key of other rows beside few", left(groups(&[col("by"), from_the_mean.alias("above")], len()))),
        of("groups by a UDF's key beside few", left(groups(&[col("by"), bucket::on([col("id")]).alias("in")], len()))),
        of("what a UDF filters beside few", left(some.clone().filter(bucket::on([col("row")]).gt(lit(2))))),
        of("a side that is read by the keys of what is filtered", once.left_join(some, col("größe"), col("by"))),
    ]
}

/// Rows that are joined or grouped by a key, and then again by it, by others beside it, or by what only has its name.
pub(crate) fn together() -> Vec<Case> {
    // With nulls, zeros of both signs and all kinds of NaN.
    let (key, mut cases) = ("größe", Vec::new());
    let rows = || nasty_scan().select([col("id"), col(key), (col("id") % lit(3)).alias("rest")]);
    let others = || nasty_scan().filter((col("id") % lit(3)).eq(lit(1))).select([col("id").alias("other"), col(key)]);
    let groups = || nasty_scan().group_by([col(key)]).agg([len().alias("rows"), col("id").max().alias("last")]);
    for how in [JoinType::Inner, JoinType::Left, JoinType::Semi, JoinType::Anti, JoinType::Right, JoinType::Full] {
        let with =
            |left: LazyFrame, right: LazyFrame| left.join(right, [col(key)], [col(key)], JoinArgs::new(how.clone()));
        let joined = || with(rows(), others());
        let sum = || [col("id").sum().alias("ids"), len()];
        let mut add = |what: &str, query: LazyFrame| {
            cases.push((named(format!("{how:?} join, {what}")), query, false, &[][..]));
        };
        add("grouped by it and another", joined().group_by([col("rest"), col(key)]).agg(sum()));
        let again = |how: JoinType| JoinArgs::new(how).with_suffix(Some("_again".into()));
        let once_more = joined().join(groups(), [col(key)], [col(key)], again(JoinType::Left));
        add("joined by it again and grouped", once_more.clone().group_by([col(key), col("rows")]).agg(sum()));
        let full = joined().join(groups(), [col(key)], [col(key)], again(JoinType::Full));
        add("in a full join by it", full);
        if how != JoinType::Inner && how != JoinType::Left {
            continue;
        }
        add("joined by it again", once_more);
        add("grouped by it", joined().group_by([col(key)]).agg(sum()));
        add("grouped by another", joined().group_by([col("rest")]).agg(sum()));
        let renamed = joined().select([col(key).alias("by"), col("id"), (col("id") % lit(5)).alias(key)]);
        add("grouped by another name of it", renamed.clone().group_by([col("by")]).agg(sum()));
        add("grouped by another of its name", renamed.group_by([col(key)]).agg(sum()));
        let replaced = joined().with_column((col("id") % lit(4)).alias(key));
        add("grouped by what has replaced it", replaced.group_by([col(key)]).agg(sum()));
        add("the middle of each group", joined().group_by([col(key)]).agg([col("id").median()]));
        add("distinct", joined().select([col(key)]).unique(None, UniqueKeepStrategy::Any));
        add("with groups by it", with(groups(), others()).group_by([col(key)]).agg([len(), col("last").max()]));
        let right = groups().join(joined(), [col(key)], [col(key)], again(JoinType::Right));
        add("on the right of a join by it", right);
        if how == JoinType::Inner {
            let by_other = joined().inner_join(
                nasty_scan().select([col("id"), (col("id") % lit(7)).alias("u8")]),
                col("other"),
                col("id"),
            );
            add("joined by another and grouped by it", by_other.group_by([col(key)]).agg([len(), col("u8").max()]));
            let by_right = others().join(rows(), [col(key)], [col(key)], JoinArgs::new(JoinType::Inner));
            add("grouped by the other side's", by_right.group_by([col(key)]).agg(sum()));
        }
    }
    cases
}

#[regatta::udf]
pub(crate) fn bucket(x: i64) -> i64 {
    x % 30
}

pub(crate) fn cases() -> Vec<Case> {
    let small = || scan().filter((col("id") % lit(50)).eq(lit(0))).select([col("id").alias("key"), col("group")]);
    let counted = || scan().group_by([col("group")]).agg([len().cast(DataType::Int64).alias("id")]);
    let both = |parts: Vec<LazyFrame>| concat(parts, UnionArgs::default()).unwrap();
    let stage = || scan().select([col("group"), col("id")]);
    let top = |query: LazyFrame, keys: &[&str], descending: bool| {
        let options = SortMultipleOptions::default()
            .with_order_descending(descending)
            .with_nulls_last(true)
            .with_maintain_order(true);
        query.sort(keys.to_vec(), options)
    };
    let cached = scan().group_by([col("group")]).agg([col("id").max()]).cache();
    let mut cases: Vec<Case> = vec![
        ("cross join", small().cross_join(counted(), None), false, &[]),
        (
            "inequality join",
            small().join_builder().with(counted()).join_where(vec![col("key").lt(col("id"))]),
            false,
            &[],
        ),
        (
            "a join of a join",
            scan().inner_join(small(), col("id"), col("key")).left_join(counted(), col("group"), col("group")),
            false,
            &[],
        ),
        (
            "groups of a join of groups",
            scan().inner_join(counted(), col("group"), col("group")).group_by([col("id_right")]).agg([len()]),
            false,
            &[],
        ),
        ("a join with itself", small().inner_join(small(), col("group"), col("group")), false, &[]),
        ("a key that calls a UDF", stage().inner_join(counted(), bucket::on([col("id")]), col("group")), false, &[]),
        (
            "a side with a UDF",
            stage().with_column(bucket::on([col("id")]).alias("b")).inner_join(counted(), col("b"), col("group")),
            false,
            &[],
        ),
        ("frames one below the other", both(vec![stage(), counted()]), false, &[]),
        (
            "frames in order",
            both(vec![stage(), stage().filter(col("id").gt(lit(5))), stage()]).slice(1000, 500),
            true,
            &[],
        ),
        (
            "frames of frames",
            both(vec![both(vec![stage(), counted()]), stage()]).group_by([col("group")]).agg([col("id").sum()]),
            false,
            &[],
        ),
        ("a join of frames", both(vec![stage(), counted()]).inner_join(small(), col("id"), col("key")), false, &[]),
        (
            "one cache, two joins",
            scan().inner_join(cached.clone(), col("group"), col("group")).inner_join(cached, col("id"), col("id")),
            false,
            &[],
        ),
        ("first rows of a sort", top(scan(), &["group", "value"], false).slice(3, 40), true, &[]),
        ("last ones, with ties", top(nasty_scan(), &["flag"], true).limit(30), true, &[]),
        (
            "first rows by a key of all rows",
            scan().sort_by_exprs([(col("id") - col("id").mean()).abs(), col("id")], Default::default()).limit(9),
            true,
            &[],
        ),
        ("numbers of rows", scan().group_by([col("group")]).agg([col("id").agg_groups()]), false, &[]),
        (
            "first in order of groups",
            scan().group_by([col("group")]).agg([
                col("id").first(),
                col("word").last(),
                col("id").implode(true).alias("all"),
            ]),
            false,
            &[],
        ),
        (
            "distinct, first of each",
            scan().unique(Some(by_name(["group", "word"], true, false)), UniqueKeepStrategy::First),
            false,
            &[],
        ),
        (
            "distinct, none of several",
            nasty_scan().unique(Some(by_name(["名"], true, false)), UniqueKeepStrategy::None),
            false,
            &[],
        ),
        ("a limit of groups", counted().limit(100), false, &[]),
        (
            "many rows without a column",
            scan().cross_join(scan().select([col("id").alias("other")]), None).select([len()]),
            true,
            &[],
        ),
        ("partitions of groups", counted().into_partitions(3).repartition(2, [col("group")]), false, &[]),
    ];
    cases.extend(joins());
    cases.extend(filtered_sides());
    cases
}

/// Plain Polars, which merges such keys by what is less, finds none where they are sorted, or alone.
#[test]
fn a_key_that_is_no_number_has_its_matches_though_it_is_alone_or_among_sorted_ones() {
    let sessions = [Session::native().unwrap(), Session::local(2).unwrap()];
    let nan = f64::NAN;
    for keys in [vec![nan], vec![nan, nan], vec![-0.0, 0.0, 1.5, nan, -nan]] {
        let equal = |one: f64, other: f64| one == other || (one.is_nan() && other.is_nan());
        let matches: usize = keys.iter().map(|one| keys.iter().filter(|other| equal(*one, **other)).count()).sum();
        let frame = df!["x" => &keys, "id" => (0..keys.len() as i64).collect::<Vec<_>>()].unwrap();
        let sorted = |frame: LazyFrame| frame.sort(["x"], SortMultipleOptions::default());
        let ways: [fn(LazyFrame) -> LazyFrame; 2] = [|frame| frame, |frame| frame.into_partitions(2)];
        for (session, way) in sessions.iter().flat_map(|session| ways.map(|way| (session, way))) {
            for frame in [frame.clone().lazy(), sorted(frame.clone().lazy())] {
                for how in [JoinType::Inner, JoinType::Left, JoinType::Right] {
                    let args = JoinArgs::new(how.clone());
                    let joined = way(frame.clone()).join(way(frame.clone()), [col("x")], [col("x")], args);
                    let joined = joined.filter(col("id").is_not_null().and(col("id_right").is_not_null()));
                    let joined = joined.collect_on(session).unwrap();
                    assert_eq!(joined.height(), matches, "{how} join of {keys:?}: {joined}");
                }
            }
        }
    }
}

/// Plain Polars errs at it where there are no rows, as some tasks have none of a query that it answers.
#[test]
fn a_sort_by_one_value_is_answered_though_tasks_have_no_rows() {
    let one = || df!["k" => (0..40i64).collect::<Vec<_>>()].unwrap().lazy().filter(col("k").eq(lit(7i64)));
    let few = || one().into_partitions(4).repartition(3, [col("k")]);
    let options = || SortMultipleOptions::default().with_order_descending_multi([true, false]);
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        for sorted in [
            few().sort_by_exprs([lit(1i64)], SortMultipleOptions::default().with_maintain_order(true)),
            few().sort_by_exprs([lit(1i64), col("k")], options().with_maintain_order(true)),
            few().sort_by_exprs([lit(1i64)], SortMultipleOptions::default()).slice(0, 5),
        ] {
            let sorted = sorted.collect_on(&session).unwrap();
            assert_eq!(sorted.column("k").unwrap().i64().unwrap().to_vec(), [Some(7)]);
        }
    }
}
