//! What looks at rows beside each, or runs on from row to row, numbers rows, or takes many by their number: rows come in Polars' order, exactly.

use polars_core::series::ops::NullBehavior;
use regatta::Session;
use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::exchanges::{bucket, named, typed};
use crate::orders::{in_shapes, of_types};
use crate::sources::scan;
use crate::{Case, same_on};

fn id() -> Expr {
    col("id")
}

fn sorted() -> LazyFrame {
    scan().sort(["id"], Default::default())
}

fn rolling(window_size: usize, min_periods: usize, center: bool) -> RollingOptionsFixedWindow {
    RollingOptionsFixedWindow { window_size, min_periods, center, ..Default::default() }
}

fn of_every_type() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, dtype) in of_types() {
        let of = || col(name.clone());
        let made = typed().select([id(), of().shift(lit(3)).alias("before"), of().shift(lit(-2)).alias("after")]);
        cases.push((named(format!("shifted {name} ({dtype})")), made, true, &[][..]));
        if !dtype.is_nested() {
            let filled = |strategy| of().fill_null_with_strategy(strategy);
            let made = typed().select([
                id(),
                filled(FillNullStrategy::Forward(Some(2))).alias("forward"),
                filled(FillNullStrategy::Backward(Some(1))).alias("backward"),
            ]);
            cases.push((named(format!("filled {name} ({dtype})")), made, true, &[]));
        }
    }
    cases
}

fn of_every_size() -> Vec<Case> {
    let few = |count: i64| scan().filter(id().lt(lit(count))).select([id(), col("group"), col("value")]);
    let mut cases = Vec::new();
    for count in [0, 1, 2, 3, 5, 17, 256, 1000] {
        for by in [1, -1, 4, 900, -900, 0] {
            let made = few(count).with_column(id().shift(lit(by)).alias("w"));
            cases.push((named(format!("{count} rows, {by} before")), made, true, &[][..]));
        }
        let made = few(count).with_column(id().rolling_sum(rolling(7, 2, true)).alias("w"));
        cases.push((named(format!("{count} rows, rolling")), made, true, &[]));
        cases.push((named(format!("{count} rows, numbered")), few(count).with_row_index("n", Some(5)), true, &[]));
    }
    cases
}

fn of_some_rows() -> Vec<Case> {
    let options =
        |weights: &[f64]| RollingOptionsFixedWindow { weights: Some(weights.to_vec()), ..rolling(3, 1, false) };
    let with = |of: Expr| sorted().with_column(of.alias("w"));
    let udf = || typed().with_column(bucket::on([id()]).alias("in"));
    vec![
        ("rolling sums", with(id().rolling_sum(rolling(5, 3, false))), true, &[][..]),
        (
            "rolling extremes",
            with(id().rolling_min(rolling(4, 1, true)) - id().rolling_max(rolling(9, 2, false))),
            true,
            &[],
        ),
        ("rolling means", with(col("value").rolling_mean(rolling(6, 1, false))), true, &["w"]),
        (
            "weighted rolling sums",
            with(id().cast(DataType::Float64).rolling_sum(options(&[0.5, 1.0, 2.0]))),
            true,
            &["w"],
        ),
        ("windows of one row", with(id().rolling_max(rolling(1, 1, true))), true, &[]),
        ("differences", with(id().diff(lit(2), NullBehavior::Ignore)), true, &[]),
        ("differences to rows after", with(id().diff(lit(-3), NullBehavior::Ignore)), true, &[]),
        ("shifted, with another value", with(id().shift_and_fill(lit(2), lit(-1))), true, &[]),
        ("shifted, with one of all", with(id().shift_and_fill(lit(2), id().max())), true, &[]),
        ("shifted by what is computed", with(id().shift(id().min() + lit(1))), true, &[]),
        (
            "what is shifted is computed with",
            with((id() - id().shift(lit(1))).rolling_max(rolling(3, 1, false)) + id().shift(lit(-2))),
            true,
            &[],
        ),
        ("beside an aggregate", with(id().shift(lit(1)) - id().mean().cast(DataType::Int64)), true, &[]),
        ("beside a window", with(id().shift(lit(1)) - id().cum_sum(false).over([col("group")]).unwrap()), true, &[]),
        ("filtered by it", sorted().filter(col("group").neq(col("group").shift(lit(1)))), true, &[]),
        ("selected", sorted().select([col("word").shift(lit(-1)), lit(3).alias("three")]), true, &[]),
        (
            "in the place of a column",
            sorted().with_column(id().cast(DataType::String).shift(lit(1)).alias("id")),
            true,
            &[],
        ),
        ("then aggregated", with(id().shift(lit(1))).group_by([col("group")]).agg([col("w").sum(), len()]), false, &[]),
        (
            "then all aggregated",
            with(id().shift(lit(1))).select([col("w").sum(), col("w").null_count().alias("nulls")]),
            true,
            &[],
        ),
        (
            "then joined",
            with(id().shift(lit(1))).inner_join(scan().select([id(), col("day")]), col("w"), id()),
            false,
            &[],
        ),
        ("then reversed", with(id().shift(lit(1))).reverse(), true, &[]),
        ("then sorted", with(id().shift(lit(1))).sort(["word", "id"], Default::default()), true, &[]),
        ("then first rows", with(id().shift(lit(1))).limit(9), true, &[]),
        ("then last rows", with(id().shift(lit(-1))).tail(9), true, &[]),
        ("then dealt", with(id().shift(lit(1))).into_partitions(3), true, &[]),
        ("then in one partition", with(id().shift(lit(1))).into_partitions(1).into_partitions(2), true, &[]),
        ("then again", with(id().shift(lit(1))).with_column(col("w").shift(lit(1)).alias("v")), true, &[]),
        ("then a UDF", with(id().shift(lit(1))).with_column(bucket::on([id()]).alias("in")), true, &[]),
        ("of what a UDF makes", udf().with_column(col("in").shift(lit(1)).alias("w")), true, &[]),
        ("a UDF of it", typed().with_column(bucket::on([id().shift_and_fill(lit(1), lit(0))]).alias("in")), true, &[]),
        (
            "of frames one below the other",
            concat([scan(), sorted()], UnionArgs::default()).unwrap().with_column(id().shift(lit(1)).alias("w")),
            true,
            &[],
        ),
        (
            "frames of it, one below the other",
            concat([with(id().shift(lit(1))), with(id().shift(lit(2))).into_partitions(2)], UnionArgs::default())
                .unwrap(),
            true,
            &[],
        ),
        (
            "frames of it, in one partition",
            concat([with(id().shift(lit(1))), with(id().shift(lit(2)))], UnionArgs::default())
                .unwrap()
                .into_partitions(1),
            true,
            &[],
        ),
        ("numbered, filtered", scan().filter((id() % lit(3)).eq(lit(1))).with_row_index("n", Some(7)), true, &[]),
        (
            "numbered, read twice",
            {
                let numbered = scan().filter((id() % lit(3)).eq(lit(1))).with_row_index("n", None).cache();
                concat([numbered.clone(), numbered.filter(col("n").lt(lit(40)))], UnionArgs::default()).unwrap()
            },
            true,
            &[],
        ),
        (
            "numbered, joined by it",
            {
                let numbered = || scan().filter((id() % lit(3)).eq(lit(1))).with_row_index("n", None);
                numbered().inner_join(numbered().select([col("n"), col("word")]), col("n"), col("n"))
            },
            false,
            &[],
        ),
        ("numbered, then all at once", sorted().with_row_index("n", None).reverse(), true, &[]),
        ("numbered, then some", sorted().with_row_index("n", None).slice(3, 40), true, &[]),
        (
            "numbered groups",
            typed().group_by_stable([col("flag"), col("größe")]).agg([len()]).with_row_index("n", None),
            true,
            &[],
        ),
        ("shuffled", scan().filter(id().gt(lit(5))).shuffle(3), true, &[]),
    ]
}

fn running() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, dtype) in of_types() {
        let of = || col(name.clone());
        let mut made = vec![id()];
        for (reverse, way) in [(false, "on"), (true, "back")] {
            made.push(of().cum_count(reverse).alias(format!("count {way}")));
            if dtype.is_primitive_numeric() || dtype.is_bool() {
                made.push(of().cum_sum(reverse).alias(format!("sum {way}")));
            }
            if dtype.is_primitive_numeric() || dtype.is_temporal() {
                made.push(of().cum_min(reverse).alias(format!("min {way}")));
                made.push(of().cum_max(reverse).alias(format!("max {way}")));
            }
        }
        if !dtype.is_nested() {
            made.push(of().fill_null_with_strategy(FillNullStrategy::Forward(None)).alias("forward"));
            made.push(of().fill_null_with_strategy(FillNullStrategy::Backward(None)).alias("backward"));
        }
        cases.push((named(format!("running {name} ({dtype})")), typed().select(made), true, &[][..]));
    }
    let few = |count: i64| scan().filter(id().lt(lit(count))).select([id(), col("value"), col("word")]);
    for count in [0, 1, 2, 3, 5, 17, 256, 1000] {
        let made = few(count).with_columns([
            id().cum_sum(false).alias("sums"),
            (col("value").cast(DataType::Int64)).cum_max(true).alias("most"),
            col("word").fill_null_with_strategy(FillNullStrategy::Forward(None)).alias("filled"),
        ]);
        cases.push((named(format!("{count} rows, running")), made, true, &[]));
    }
    let with = |of: Expr| sorted().with_column(of.alias("w"));
    let sums = || with(id().cum_sum(false));
    // Of some shares the sums are past what the type holds; those that run on are not.
    let up = |from: f64| {
        let first = when(id().lt(lit(350))).then(lit(-from)).when(id().lt(lit(700))).then(lit(from * 2.0));
        with(first.otherwise(lit(1.0)).cum_sum(false))
    };
    let rare = || when(id().eq(lit(2))).then(id()).otherwise(lit(NULL));
    cases.extend([
        ("one value fills all", with(rare().fill_null_with_strategy(FillNullStrategy::Forward(None))), true, &[][..]),
        (
            "one value fills all before it",
            with(rare().fill_null_with_strategy(FillNullStrategy::Backward(None))),
            true,
            &[],
        ),
        ("least of one value", with(rare().cum_min(false)), true, &[]),
        ("sums of floats past the end of their type", up(f64::MAX / 400.0), true, &[]),
        ("sums of floats that are past each other", up(1e17), true, &[]),
        ("sums of one value", with(rare().cum_sum(true)), true, &[]),
        (
            "computed with",
            with(id().cum_sum(false) - id().cum_sum(true) * id().cum_count(false).cast(DataType::Int64)),
            true,
            &[],
        ),
        ("the same twice", with(id().cum_sum(false) + id().cum_sum(false)), true, &[]),
        ("filtered by sums", sorted().filter((id().cum_sum(false) % lit(5)).eq(lit(0))), true, &[]),
        ("selected sums", sorted().select([id().cum_sum(true), lit(3).alias("three")]), true, &[]),
        (
            "sums in the place of a column",
            sorted().with_column(id().cum_sum(false).cast(DataType::String).alias("id")),
            true,
            &[],
        ),
        ("sums of sums", sums().with_column(col("w").cum_max(true).alias("v")), true, &[]),
        ("sums, shifted", sums().with_column(col("w").shift(lit(2)).alias("v")), true, &[]),
        ("sums, then reversed", sums().reverse(), true, &[]),
        ("sums, then dealt", sums().into_partitions(3), true, &[]),
        ("sums, in one partition", sums().into_partitions(1).into_partitions(2), true, &[]),
        ("sums, then aggregated", sums().group_by([col("group")]).agg([col("w").max(), len()]), false, &[]),
        ("sums, then joined", sums().inner_join(scan().select([id(), col("day")]), col("w"), id()), false, &[]),
        (
            "sums of what a UDF makes",
            typed().with_column(bucket::on([id()]).alias("in")).with_column(col("in").cum_sum(false).alias("w")),
            true,
            &[],
        ),
        ("sums, then a UDF", sums().with_column(bucket::on([col("w")]).alias("in")), true, &[]),
        (
            "frames of sums, one below the other",
            concat([sums(), with(id().cum_sum(true))], UnionArgs::default()).unwrap(),
            true,
            &[],
        ),
        (
            "sums of frames one below the other",
            concat([scan(), sorted()], UnionArgs::default()).unwrap().with_column(id().cum_sum(false).alias("w")),
            true,
            &[],
        ),
        (
            "sums, in one partition of frames",
            concat([sums(), sums()], UnionArgs::default()).unwrap().into_partitions(1),
            true,
            &[],
        ),
        ("sums, first rows", sums().limit(9), true, &[]),
        (
            "sums beside an aggregate of each",
            with(id().cum_sum(false) - id().max().over([col("group")]).unwrap()),
            true,
            &[],
        ),
        ("sums and shifts beside an aggregate", with(id().cum_sum(false) - id().shift(lit(1)) + id().min()), true, &[]),
        (
            "selected beside an aggregate",
            sorted().select([id().shift(lit(1)) + id().max(), id().min().alias("least")]),
            true,
            &[],
        ),
        ("filtered beside an aggregate", sorted().filter((id().shift(lit(1)) + id().max()).gt(lit(2000))), true, &[]),
        ("sums beside an aggregate", with(id().cum_sum(false) - id().min()), true, &[]),
        (
            "sums beside a rank",
            with(id().cum_sum(false) + id().rank(RankOptions::default(), None).cast(DataType::Int64)),
            true,
            &[],
        ),
    ]);
    cases
}

const ALL: &str = "neighbours_on_three_worker_processes";

#[test]
fn neighbours_on_three_worker_processes() {
    let session = Session::local(3).unwrap();
    [of_every_type(), of_every_size(), of_some_rows(), running()]
        .into_iter()
        .for_each(|cases| same_on(&session, cases));
}

#[test]
fn neighbours_of_every_type_on_three_worker_processes() {
    in_shapes(ALL, "hash");
}

/// More rows than one task takes of a slice, or that a slice has before it: rows are taken where they are.
#[test]
fn slices_of_many_rows_are_taken_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.parquet");
    let many = 3_000_000i64;
    let mut frame = df!["x" => (0..many).collect::<Vec<_>>()].unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap())
        .with_row_group_size(Some(250_000))
        .finish(&mut frame)
        .unwrap();
    let rows = || {
        let scan = LazyFrame::scan_parquet(PlRefPath::try_from_path(&path).unwrap(), Default::default()).unwrap();
        scan.filter((col("x") % lit(10)).neq(lit(3)))
    };
    let sums = |rows: LazyFrame| {
        rows.select([col("x").sum(), col("x").min().alias("least"), col("x").max().alias("most"), len()])
    };
    let session = Session::local(2).unwrap();
    same_on(
        &session,
        vec![
            ("many of the first", sums(rows().limit(2_000_000)), true, &[][..]),
            ("many from the middle", sums(rows().slice(400_000, 1_500_000)), true, &[]),
            ("few from far on", rows().slice(2_500_000, 100), true, &[]),
            ("past the end", rows().slice(2_699_990, 5_000_000), true, &[]),
            ("none", rows().slice(9_000_000, 5_000_000), true, &[]),
            ("many of the last", sums(rows().tail(2_000_000)), true, &[]),
            ("few of many last", rows().slice(-2_000_000, 50), true, &[]),
            ("more than there are", sums(rows().tail(4_000_000)), true, &[]),
            (
                "one within the other",
                rows().slice(200_000, 2_000_000).slice(-1_500_000, 1_200_000).select([col("x").sum(), len()]),
                true,
                &[],
            ),
            ("the same twice", rows().slice(1_100_000, 1_200_000).slice(1_100_000, 1_200_000), true, &[]),
            ("all at once", rows().slice(400_000, 1_500_000).reverse().limit(10), true, &[]),
            (
                "numbered",
                rows()
                    .slice(400_000, 1_500_000)
                    .with_row_index("n", Some(9))
                    .filter((col("n") % lit(100_000)).eq(lit(9))),
                true,
                &[],
            ),
            (
                "beside others",
                rows()
                    .slice(400_000, 1_500_000)
                    .with_column((col("x") - col("x").shift(lit(1))).alias("d"))
                    .filter(col("d").eq(lit(2)))
                    .select([len(), col("x").sum()]),
                true,
                &[],
            ),
        ],
    );
}
