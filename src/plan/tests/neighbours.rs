//! What looks at rows beside each is done in shares that have them.

use polars::series::ops::NullBehavior;

use super::*;

/// How far the shares of a query reach that computes this, or why it runs whole.
fn reach(of: Expr) -> Result<(u64, u64), String> {
    let table = Table::new();
    let plan = planned(table.scan().with_column(of.alias("w")));
    assert!(plan.is_sound(), "{plan}");
    let last = plan.stages.last().unwrap();
    match last.splits[..] {
        [Split::Share { part: 0, of: 4, deal: Deal { slice: None, before, after } }, ..] => {
            assert!(plan.stable, "{plan}");
            Ok((before, after))
        }
        _ => Err(last.why.clone()),
    }
}

#[test]
fn shares_reach_as_far_as_expressions_look() {
    let a = || col("a");
    let rolling = |window_size, center| RollingOptionsFixedWindow { window_size, center, ..Default::default() };
    let filled = |strategy| a().fill_null_with_strategy(strategy);
    for (of, far) in [
        (a().shift(lit(3)), (3, 0)),
        (a().shift(lit(-2)) + a().shift(lit(1)) * col("b"), (1, 2)),
        (a().shift(lit(-2)).shift(lit(5)), (5, 2)),
        (a().diff(lit(2), NullBehavior::Ignore), (2, 0)),
        (a().shift_and_fill(lit(2), lit(0)), (2, 0)),
        (a().rolling_sum(rolling(7, false)), (6, 0)),
        (a().rolling_max(rolling(7, true)), (6, 6)),
        ((a() - a().shift(lit(1))).rolling_min(rolling(3, false)), (3, 0)),
        (filled(FillNullStrategy::Forward(Some(2))), (2, 0)),
        (filled(FillNullStrategy::Backward(Some(4))), (0, 4)),
        (a().shift(lit(1)) - a().min(), (1, 0)),
        (when(a().gt(lit(3))).then(a().shift(lit(1))).otherwise(col("b").shift(lit(-1))), (1, 1)),
    ] {
        assert_eq!(reach(of.clone()), Ok(far), "{of}");
    }
    for (of, why) in [
        (a().shift(lit(1)) + a().cum_sum(false), "cum_sum"),
        ((a() - a().mean()).shift(lit(1)), "looks at other rows"),
        (a().shift(col("b").first()), "looks at other rows"),
        (a().shift_and_fill(lit(1), a().max()), "looks at other rows"),
        (a().shift(lit(3 << 20)), "it looks at 3145728 rows before each"),
        (total("a") + a().shift(lit(1)), "looks at other rows"),
        (a().cum_sum(false).shift(lit(1)), "looks at other rows"),
    ] {
        let found = reach(of.clone()).unwrap_err();
        assert!(found.contains("all rows at once") && found.contains(why), "{of}: {found}");
    }
}

#[test]
fn rows_by_their_number_are_taken_from_where_they_are() {
    let table = Table::new();
    let rows = || table.scan().filter(col("a").gt(lit(3)));
    let splits = |query: LazyFrame| planned(query).stages.pop().unwrap().splits;
    let sliced = |of, slice| {
        let deal = Deal { slice: Some(slice), ..Deal::default() };
        (0..of).map(|part| Split::Share { part, of, deal }).collect::<Vec<_>>()
    };
    assert_eq!(splits(rows().limit(100)), [Split::Whole]);
    assert_eq!(splits(rows().slice(1 << 20, 100)), sliced(1, (1 << 20, 100)));
    assert_eq!(splits(rows().limit(2 << 20)), sliced(4, (0, 2 << 20)));
    assert_eq!(splits(rows().tail(2 << 20)), sliced(4, (-(2 << 20), 2 << 20)));
    assert_eq!(splits(rows().tail(5)), [Split::Whole]);
    let numbered = planned(rows().with_row_index("n", None).with_column(col("n") + lit(1)));
    assert_eq!(shape(&numbered), [(4, vec![]), (4, vec![])], "{numbered}");
    assert!(numbered.stable, "{numbered}");
    // Whoever is to see all rows reads all of them, and they are numbered there.
    let all = planned(rows().with_row_index("n", None).reverse());
    assert_eq!(shape(&all), [(4, vec![]), (1, vec![])], "{all}");
}

#[test]
fn what_runs_on_from_row_to_row_runs_on_from_what_other_shares_come_to() {
    use Way::{All, Share};
    let table = Table::new();
    let a = || col("a");
    let forward = || FillNullStrategy::Forward(None);
    for of in [
        a().cum_sum(false),
        a().cum_sum(true) - a().cum_count(false).cast(DataType::Int64),
        a().cast(DataType::Date).cum_max(false),
        col("b").cast(DataType::String).fill_null_with_strategy(forward()),
    ] {
        let plan = planned(table.scan().with_column(of.clone().alias("w")));
        let wanted = [vec![vec![]], vec![vec![(0, Share)]], vec![vec![(0, Share), (1, All)]]];
        assert_eq!(ways_of_reads(&plan), wanted, "{of}: {plan}");
        assert!(plan.is_sound(), "{plan}");
        assert!(plan.stable, "{of}: {plan}");
    }
    // Whoever is to see all rows reads all of them, and nothing comes before.
    let all = planned(table.scan().with_column(a().cum_sum(false)).reverse());
    assert_eq!(shape(&all).last().unwrap().0, 1, "{all}");
    assert!(all.is_sound(), "{all}");
    for of in [
        a().cast(DataType::Float64).cum_sum(false),
        a().cast(DataType::Float64).cum_min(false),
        a().cum_prod(false),
        a().cum_sum(false) - a().shift(lit(1)),
        a().cum_sum(false).cum_sum(false),
        a().cum_sum(false) - a().rank(RankOptions::default(), None),
    ] {
        let plan = planned(table.scan().with_column(of.clone().alias("w")));
        assert_eq!(shape(&plan), [(1, vec![])], "{of}: {plan}");
        assert!(plan.stages[0].why.contains("all rows at once"), "{plan}");
    }
}
