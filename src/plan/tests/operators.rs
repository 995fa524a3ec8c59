//! The page on operators is what the planner makes of each.

use polars::series::ops::NullBehavior;

use super::*;

/// What is planned, as it is written here, and what comes of it.
macro_rules! planned_as_written {
    ($($heading:literal: [$($query:expr;)+])+) => {
        [$(($heading, vec![$((stringify!($query), planned($query))),+])),+]
    };
}

#[test]
fn the_page_on_operators_is_what_the_planner_does() {
    let (table, other) = (Table::new(), Table::new());
    let (t, u) = (|| table.scan(), || other.scan());
    let (a, b) = (|| col("a"), || col("b"));
    let ordered = || SortMultipleOptions::default();
    let join = |how| JoinArgs::new(how);
    let in_order = |how| JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(how) };
    let rolling = |window_size| RollingOptionsFixedWindow { window_size, ..Default::default() };
    let stack = |frames: [LazyFrame; 2]| concat(frames, UnionArgs::default()).unwrap();
    let pages = planned_as_written! {
        "Row by row": [
            t().filter(a().gt(lit(3))).with_column((a() + b()).alias("c"));
            t().limit(10);
            t().slice(20, 10);
            t().tail(10);
            t().filter(a().gt(lit(3))).tail(10);
        ]
        "Aggregates": [
            t().group_by([b()]).agg([a().sum(), a().mean().alias("m"), a().var(1).alias("v"), len()]);
            t().group_by([b()]).agg([a().filter(a().gt(lit(3))).max() - a().min()]);
            t().group_by([b()]).agg([total("a")]);
            t().group_by([b()]).agg([a().median(), a().n_unique().alias("n")]);
            t().group_by([a() + a().mean()]).agg([len()]);
            t().group_by_stable([b()]).agg([a().sum()]);
            t().select([a().sum(), b().std(1)]);
            t().select([a().median()]);
            t().group_by([b()]).agg([a().first(), a().last().alias("l")]);
            t().select([a().first(), b().gt(lit(1)).any(true)]);
            t().select([a().n_unique()]);
        ]
        "Aggregates beside each row": [
            t().with_column(a() - a().mean());
            t().filter(a().gt(a().median()));
            t().with_column(a().sum().over([b()]).unwrap());
            t().with_column(a().cum_sum(false).over([b()]).unwrap());
            t().with_column(a().cum_sum(false).over([b()]).unwrap()).group_by([b()]).agg([a().max()]);
            t().with_column(a().shift(lit(1)).over([b()]).unwrap() - a().shift(lit(1)).over([a()]).unwrap());
            t().with_column(a().reverse());
        ]
        "Rows beside each, what runs on, and rows by their number": [
            t().with_column(a().shift(lit(1)));
            t().filter(a().diff(lit(-2), NullBehavior::Ignore).gt(lit(0)));
            t().with_column(a().rolling_mean(rolling(7)));
            t().with_column(a().fill_null_with_strategy(FillNullStrategy::Forward(Some(3))));
            t().with_column(a().fill_null_with_strategy(FillNullStrategy::Forward(None)));
            t().with_column(a().cum_sum(false));
            t().filter(a().gt(lit(3))).with_row_index("n", None);
            t().filter(a().gt(lit(3))).slice(5_000_000, 10);
            t().filter(a().gt(lit(3))).tail(5_000_000);
        ]
        "Joins": [
            t().join(u(), [a()], [a()], join(JoinType::Inner));
            t().join(u(), [a()], [a()], join(JoinType::Left));
            t().join(u(), [a()], [a()], join(JoinType::Right));
            t().join(u(), [a()], [a()], join(JoinType::Full));
            t().join(u(), [a()], [a()], join(JoinType::Semi));
            t().join(u(), [a()], [a()], join(JoinType::Anti));
            t().join(u(), [a()], [a()], in_order(JoinType::Left));
            t().join(u().filter(b().eq(lit(1))), [a()], [a()], join(JoinType::Right));
            t().cross_join(u(), None);
            t().join_builder().with(u()).join_where(vec![a().lt(col("b_right"))]);
            t().join(u(), [same([a()])], [a()], join(JoinType::Inner));
            t().join(u(), [a()], [a()], join(JoinType::Inner)).group_by([a()]).agg([len()]);
        ]
        "Distinct rows, order, unions": [
            t().unique(None, UniqueKeepStrategy::Any);
            t().unique(None, UniqueKeepStrategy::None);
            t().unique(None, UniqueKeepStrategy::First);
            t().unique_stable(None, UniqueKeepStrategy::First);
            t().unique_stable(None, UniqueKeepStrategy::None);
            t().sort(["b"], ordered());
            t().sort(["b"], ordered()).limit(10);
            t().sort(["b"], ordered()).tail(10);
            stack([t(), u()]);
            t().merge_sorted(u(), ["a"], true).unwrap();
            t().with_row_index("n", None);
            t().reverse();
        ]
        "UDFs and verbs": [
            t().with_column(same([a()]));
            t().with_column(same([a().shift(lit(1))]));
            into_partitions(t(), 3).with_column(same([a()]));
            repartition(t(), 3, &[b()]).group_by([b()]).agg([len()]);
        ]
    };
    let mut page = String::from(
        "# What runs how\n\nWhat the planner makes of each operator, for four tasks: `t` and `u` are Parquet files of eight row groups each, with \
         columns `a` and `b`. A stage whose tasks are \"as what it reads turns out\" gets its shape while the query runs, in the first of its ways \
         that fits. [frames.md](frames.md) says it in words.\n\nThis page is printed by a test of the planner, which compares \
         (`REGATTA_TEST_GOLDEN=write cargo test --lib the_page_on_operators`).\n",
    );
    for (heading, queries) in pages {
        page += &format!("\n## {heading}\n");
        for (query, plan) in queries {
            assert!(plan.is_sound(), "{plan}");
            let query: String = query.split_whitespace().collect::<Vec<_>>().join(" ");
            let query = query.replace("()", "").replace(" . ", ".").replace("( ", "(").replace(" )", ")");
            page += &format!("\n```text\n{query}\n");
            let plan = plan.to_string();
            let lines = plan.lines().filter(|line| line.starts_with("stage") || line.starts_with("  reads"));
            lines.for_each(|line| page += &format!("  {line}\n"));
            page += "```\n";
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/book/src/operators.md");
    if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
        return std::fs::write(path, page).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == known,
        "docs/book/src/operators.md is not what the planner does: look at what has changed, and write it anew"
    );
}
