//! What Polars can do with rows.

use std::sync::Arc;

use polars_plan::plans::{HintIR, Sorted};
use regatta::LazyFrameExt;
use regatta::polars::prelude::*;

use crate::Case;
use crate::sources::{nasty_scan, rows, scan, uneven_scan};

fn uneven() -> LazyFrame {
    uneven_scan().filter(col("id").gt_eq(lit(0)))
}

fn small() -> LazyFrame {
    df!["group" => [Some(0i64), Some(3), Some(5), Some(99), None], "name" => ["a", "b", "c", "d", "e"]].unwrap().lazy()
}

fn joined(how: JoinType) -> LazyFrame {
    let left = scan()
        .select([when(col("group").eq(lit(7))).then(lit(NULL)).otherwise(col("group")).alias("group"), col("id")]);
    left.join(small(), [col("group")], [col("group")], JoinArgs::new(how))
}

/// Moments an hour apart, in order.
fn moments() -> LazyFrame {
    let hour = col("id") * lit(3_600_000i64);
    scan().select([
        hour.cast(DataType::Datetime(TimeUnit::Milliseconds, None)).alias("at"),
        col("id"),
        col("group") % lit(3),
    ])
}

fn sql(text: &str) -> LazyFrame {
    let mut context = polars::sql::SQLContext::new();
    context.register("rows", scan());
    context.register("names", small());
    context.execute(text).unwrap()
}

pub(crate) fn cases() -> Vec<Case> {
    let by_group = || scan().group_by([col("group")]);
    let sorted = |keys: &[&str], descending: &[bool]| {
        let options =
            SortMultipleOptions::default().with_order_descending_multi(descending.to_vec()).with_maintain_order(true);
        nasty_scan().sort(keys.to_vec(), options)
    };
    let every = |text: &str| Duration::parse(text);
    let lists = || nasty_scan().select([col("id"), col("list"), col("名")]);
    let cached = || scan().filter(col("group").gt(lit(4))).cache();
    vec![
        (
            "filter and projection",
            scan().filter(col("value").gt(lit(50.0))).select([col("id"), col("word")]),
            true,
            &[],
        ),
        (
            "row-wise expressions",
            scan().with_columns([
                (col("id") * lit(2) + col("group")).alias("twice"),
                col("word").str().len_bytes().alias("bytes"),
                when(col("value").is_nan()).then(lit(0.0)).otherwise(col("value")).alias("value"),
                col("day").dt().month().alias("month"),
            ]),
            true,
            &[],
        ),
        ("no row passes", scan().filter(col("id").lt(lit(-1))), true, &[]),
        (
            "the same column, read often",
            scan().select([col("id"), col("id").alias("a"), (col("id") + col("id")).alias("b")]),
            true,
            &[],
        ),
        ("literals only", scan().select([lit(1).alias("one")]), true, &[]),
        ("scalar beside rows", scan().select([(col("id") - col("id").min()).alias("id")]), true, &[]),
        ("a filter that sees all rows", scan().filter(col("id").gt(col("id").mean())), true, &[]),
        (
            "what looks at neighbours",
            scan().select([col("id").shift(lit(1)), col("id").cum_sum(false).alias("sum")]),
            true,
            &[],
        ),
        (
            "is_in another column",
            scan().select([col("id"), col("id").is_in(col("group").implode(true), false).alias("in")]),
            true,
            &[],
        ),
        (
            "nested fields and lists",
            nasty_scan().select([
                col("pair").struct_().field_by_name("y"),
                col("list").list().len().alias("len"),
                col("pairs").list().get(lit(0), true).alias("first"),
                col("list").list().eval(col("").sum()).alias("sums"),
            ]),
            true,
            &[],
        ),
        (
            "time zones",
            nasty_scan().select([
                col("moment").dt().hour(),
                col("moment")
                    .dt()
                    .convert_time_zone(TimeZone::opt_try_new(Some("Asia/Tokyo")).unwrap().unwrap())
                    .alias("there"),
                col("lasts"),
                col("clock"),
            ]),
            true,
            &[],
        ),
        ("count", scan().select([len()]), true, &[]),
        (
            "filtered rows beside distinct ones",
            scan().group_by([col("group"), col("id")]).agg([
                col("id").filter(col("id").lt(lit(-1))).sum().alias("none"),
                col("value").filter(col("id").lt(lit(100))).max().alias("some"),
                col("word").drop_nulls().count().alias("words"),
                col("word").n_unique().alias("distinct"),
            ]),
            false,
            &[],
        ),
        (
            "aggregates of all rows",
            scan().select([
                col("value").sum().alias("sum"),
                col("price").sum(),
                col("word").max(),
                col("day").min(),
                col("kind").n_unique(),
            ]),
            true,
            &["sum"],
        ),
        (
            "group-by",
            by_group().agg([col("value").sum(), col("price").max(), col("kind").n_unique()]),
            false,
            &["value"],
        ),
        (
            "group-by with lists",
            scan().group_by_stable([col("group")]).agg([
                col("id"),
                col("word").first(),
                col("id").head(Some(2)).alias("two"),
            ]),
            true,
            &[],
        ),
        ("group-by having", by_group().having(len().gt(lit(150))).agg([len().alias("n")]), false, &[]),
        (
            "group-by of nasty keys",
            nasty_scan().group_by([col("größe"), col("flag"), col("kind")]).agg([len().alias("n"), col("id").sum()]),
            false,
            &[],
        ),
        (
            "group-by of nested keys",
            nasty_scan().group_by([col("pair")]).agg([len().alias("n")]).select([col("n").sum()]),
            true,
            &[],
        ),
        ("group-by, sliced", scan().group_by_stable([col("group")]).agg([len()]).slice(3, 5), true, &[]),
        (
            "dynamic group-by",
            moments()
                .group_by_dynamic(
                    col("at"),
                    [],
                    DynamicGroupOptions {
                        every: every("1d"),
                        period: every("2d"),
                        offset: every("0d"),
                        ..Default::default()
                    },
                )
                .agg([col("id").sum(), len()]),
            true,
            &[],
        ),
        (
            "dynamic group-by, by keys",
            moments()
                .group_by_dynamic(
                    col("at"),
                    [col("group")],
                    DynamicGroupOptions {
                        every: every("7d"),
                        period: every("7d"),
                        offset: every("0d"),
                        ..Default::default()
                    },
                )
                .agg([col("id").max()]),
            false,
            &[],
        ),
        (
            "rolling group-by",
            moments()
                .rolling(
                    col("at"),
                    [],
                    RollingGroupOptions { period: every("5h"), offset: every("-5h"), ..Default::default() },
                )
                .agg([col("id").sum()]),
            true,
            &[],
        ),
        (
            "windows",
            scan().select([
                col("id").sum().over([col("group")]).unwrap(),
                (col("id") - col("id").min().over([col("group"), col("word")]).unwrap()).alias("d"),
            ]),
            true,
            &[],
        ),
        (
            "a window in an order",
            scan().select([col("id")
                .cum_sum(false)
                .over_with_options(
                    Some([col("group")]),
                    Some(([col("day")], SortOptions::default())),
                    WindowMapping::GroupsToRows,
                )
                .unwrap()]),
            true,
            &[],
        ),
        ("inner join", joined(JoinType::Inner), false, &[]),
        ("left join", joined(JoinType::Left), false, &[]),
        ("right join", joined(JoinType::Right), false, &[]),
        ("full join", joined(JoinType::Full), false, &[]),
        ("semi join", joined(JoinType::Semi), false, &[]),
        ("anti join", joined(JoinType::Anti), false, &[]),
        (
            "join of nulls",
            scan().join(
                scan().select([col("word"), col("id").alias("other")]).limit(20),
                [col("word")],
                [col("word")],
                JoinArgs { nulls_equal: true, ..JoinArgs::new(JoinType::Inner) },
            ),
            false,
            &[],
        ),
        (
            "join of NaN and -0.0",
            nasty_scan().select([col("größe"), col("id")]).join(
                nasty_scan().select([col("größe"), col("id").alias("other")]).limit(30),
                [col("größe")],
                [col("größe")],
                JoinArgs::new(JoinType::Inner),
            ),
            false,
            &[],
        ),
        (
            "join, sliced",
            scan()
                .join(
                    small(),
                    [col("group")],
                    [col("group")],
                    JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) },
                )
                .slice(100, 900),
            true,
            &[],
        ),
        ("cross join", scan().limit(40).cross_join(small(), None), false, &[]),
        (
            "join where it is between",
            scan()
                .limit(300)
                .join_builder()
                .with(df!["low" => [10i64, 100, 250], "high" => [20i64, 150, 900]].unwrap().lazy())
                .join_where(vec![col("id").gt(col("low")), col("id").lt_eq(col("high"))]),
            false,
            &[],
        ),
        (
            "join where two columns are ordered",
            scan()
                .limit(300)
                .join_builder()
                .with(df!["low" => [10i64, 100, 250], "most" => [3i64, 9, 11]].unwrap().lazy())
                .join_where(vec![col("id").gt(col("low")), col("group").lt(col("most"))]),
            false,
            &[],
        ),
        ("sort", sorted(&["größe", "id"], &[false, true]), true, &[]),
        ("sort by text and categories", sorted(&["kind", "名", "id"], &[true, false, false]), true, &[]),
        ("sort, sliced", sorted(&["flag", "id"], &[true, false]).slice(17, 80), true, &[]),
        ("a slice from the end, cut short, of a filter", uneven().slice(-5, 3), true, &[]),
        ("such a slice of more rows than there are", uneven().slice(-9000, 8100), true, &[]),
        (
            "such slices of groups, of distinct rows, of sorted ones, of several inputs and of a join",
            concat(
                [
                    uneven().group_by_stable([col("id")]).agg([len()]).slice(-6, 3),
                    uneven().unique_stable(Some(by_name(["id"], true, false)), UniqueKeepStrategy::First).slice(-7, 2),
                    uneven().sort(["id"], Default::default()).slice(-8, 4),
                    concat([scan().filter(col("id").gt(lit(3))), uneven()], UnionArgs::default()).unwrap().slice(-5, 3),
                    uneven()
                        .join(
                            small(),
                            [col("group")],
                            [col("group")],
                            JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) },
                        )
                        .slice(-4, 3),
                ]
                .map(|query| query.select([col("id")])),
                UnionArgs::default(),
            )
            .unwrap(),
            true,
            &[],
        ),
        (
            "such a slice in an expression",
            uneven().select([col("id").slice(lit(-5), lit(3)), col("word").slice(lit(3) - lit(8), lit(3))]),
            true,
            &[],
        ),
        ("top rows", scan().top_k(25, [col("group"), col("id")], SortMultipleOptions::default()), true, &[]),
        ("reversed", scan().reverse(), true, &[]),
        (
            "sort in an expression",
            scan().select([
                col("id").sort(SortOptions::default().with_order_descending(true)),
                col("word").sort_by([col("group"), col("id")], SortMultipleOptions::default()),
            ]),
            true,
            &[],
        ),
        ("unique, any", scan().select([col("group"), col("word")]).unique(None, UniqueKeepStrategy::Any), false, &[]),
        (
            "unique, first, in order",
            scan().unique_stable(Some(by_name(["group"], true, false)), UniqueKeepStrategy::First),
            true,
            &[],
        ),
        (
            "unique, last",
            scan().unique(Some(by_name(["group", "word"], true, false)), UniqueKeepStrategy::Last),
            false,
            &[],
        ),
        ("unique, none", scan().select([col("day")]).unique(None, UniqueKeepStrategy::None), false, &[]),
        (
            "unique of nasty values",
            nasty_scan().select([col("größe"), col("名"), col("none")]).unique(None, UniqueKeepStrategy::Any),
            false,
            &[],
        ),
        (
            "explode",
            lists().explode(by_name(["list"], true, false), ExplodeOptions { empty_as_null: true, keep_nulls: true }),
            true,
            &[],
        ),
        (
            "unnest",
            nasty_scan().select([col("pair"), col("id")]).unnest(by_name(["pair"], true, false), None),
            true,
            &[],
        ),
        (
            "unpivot",
            nasty_scan().select([col("id"), col("small"), col("flag").cast(DataType::Int32)]).unpivot(UnpivotArgsDSL {
                on: Some(by_name(["small", "flag"], true, false)),
                index: by_name(["id"], true, false),
                variable_name: None,
                value_name: None,
            }),
            false,
            &[],
        ),
        ("row index over a filter", scan().filter(col("group").lt(lit(3))).with_row_index("n", Some(9)), true, &[]),
        (
            "drop nulls, fill nulls",
            nasty_scan().drop_nulls(Some(by_name(["名"], true, false))).with_column(col("größe").fill_null(lit(1.0))),
            true,
            &[],
        ),
        (
            "a hint, and what trusts it",
            scan()
                .hint(HintIR::Sorted(Arc::from([Sorted {
                    column: "id".into(),
                    descending: Some(false),
                    nulls_last: None,
                }])))
                .unwrap()
                .group_by([col("id")])
                .agg([col("value").count()]),
            false,
            &[],
        ),
        ("union", concat([scan(), scan().filter(col("id").gt(lit(2000)))], UnionArgs::default()).unwrap(), true, &[]),
        (
            "union, in memory at once",
            concat([scan(), scan()], UnionArgs { rechunk: true, ..Default::default() }).unwrap(),
            true,
            &[],
        ),
        (
            "union, sliced",
            concat([scan(), scan().limit(300)], UnionArgs::default()).unwrap().slice(2050, 200),
            true,
            &[],
        ),
        (
            "side by side",
            concat_lf_horizontal(
                [scan().select([col("id")]), scan().select([col("group")]), small().select([col("name")])],
                Default::default(),
            )
            .unwrap(),
            true,
            &[],
        ),
        (
            "merge sorted",
            scan()
                .select([col("id")])
                .merge_sorted(scan().select([col("id")]).filter((col("id") % lit(3)).eq(lit(0))), ["id"], true)
                .unwrap(),
            true,
            &[],
        ),
        ("gather", scan().gather(df!["i" => [5u32, 1999, 0, 5]].unwrap().lazy(), false), true, &[]),
        (
            "cache, read twice",
            cached().join(
                cached().group_by([col("group")]).agg([col("id").max().alias("most")]),
                [col("group")],
                [col("group")],
                JoinArgs::new(JoinType::Inner),
            ),
            false,
            &[],
        ),
        (
            "the same subplan twice",
            {
                let grouped = by_group().agg([col("id").max().alias("most")]);
                grouped.clone().join(grouped, [col("group")], [col("group")], JoinArgs::new(JoinType::Inner))
            },
            false,
            &[],
        ),
        (
            "with the columns of another frame",
            {
                #[allow(deprecated, reason = "people still have it in their queries")]
                let query = scan().with_context([small()]).select([col("id"), col("name").first()]);
                query
            },
            true,
            &[],
        ),
        (
            "sql",
            sql(
                "SELECT names.name, COUNT(*) AS n, SUM(rows.id) AS ids FROM rows JOIN names ON rows.\"group\" = names.\"group\" WHERE rows.value IS NOT NULL GROUP BY names.name ORDER BY names.name",
            ),
            true,
            &[],
        ),
        (
            "sql with a subquery and a window",
            sql(
                "SELECT id, SUM(id) OVER (PARTITION BY \"group\") AS s FROM rows WHERE \"group\" IN (SELECT \"group\" FROM names) ORDER BY id LIMIT 70",
            ),
            true,
            &[],
        ),
        (
            "an opaque marker is none of the answer's business",
            scan().into_partitions(4).filter(col("id").gt(lit(500))),
            true,
            &[],
        ),
        (
            "a hash regroup, and what needs all rows above it",
            scan().repartition(3, [col("group")]).group_by([col("group")]).agg([col("id").sum(), len()]),
            false,
            &[],
        ),
        (
            "a hash regroup of computed keys, filtered, counted",
            scan().repartition(5, [col("id") % lit(7), col("word")]).filter(col("id").gt(lit(500))).select([len()]),
            true,
            &[],
        ),
        (
            "a hash regroup of nasty columns",
            nasty_scan().repartition(4, [as_struct(vec![col("list"), col("名")])]),
            false,
            &[],
        ),
        (
            "a hash regroup by a column twice",
            scan().repartition(3, [col("group"), col("group")]).select([col("id"), col("group")]),
            false,
            &[],
        ),
        (
            "a hash regroup, joined",
            scan().repartition(3, [col("group")]).join(
                small().repartition(2, [col("name")]),
                [col("group")],
                [col("group")],
                JoinArgs::new(JoinType::Left),
            ),
            false,
            &[],
        ),
        ("shuffled", scan().shuffle(42), true, &[]),
        ("a sample", scan().filter(col("group").gt(lit(4))).shuffle(7).limit(20).select([col("id")]), true, &[]),
        (
            "a large frame, grouped",
            rows(0, 20_000).lazy().group_by([col("group"), col("kind")]).agg([col("id").sum(), col("price").max()]),
            false,
            &[],
        ),
    ]
}
