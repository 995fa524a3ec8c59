use polars::prelude::*;

use crate::plan::QueryPlan;
use crate::plan::tests::{Table, planned};
use crate::sched::{Fits, Way};

/// Of the last stage: the stages in whose sections rows are together for it, if it may be run so.
fn together(plan: &QueryPlan) -> Option<Vec<u32>> {
    assert!(plan.is_sound(), "{plan}");
    plan.last().unwrap().modes.iter().find_map(|mode| match &mode.when {
        Fits::Together(by) => {
            assert!(mode.takes_in().is_some() && !mode.by_size, "{plan}");
            Some(by.iter().map(|stage| stage.0).collect())
        }
        _ => None,
    })
}

fn grouped(rows: LazyFrame, keys: &[&str]) -> Option<Vec<u32>> {
    let keys: Vec<_> = keys.iter().map(|key| col(*key)).collect();
    let plan = planned(rows.group_by(keys).agg([len()]));
    together(&plan)
}

#[test]
fn rows_joined_by_a_key_are_together_for_what_groups_by_it_among_others() {
    let (left, right) = (Table::new(), Table::new());
    let joined = |how: JoinType| {
        left.scan().join(right.scan(), [col("a")], [col("a")], JoinArgs::new(how).with_suffix(Some("_b".into())))
    };
    // The join is the stage below the group-by, of which it is a part.
    for how in [JoinType::Inner, JoinType::Left, JoinType::Semi, JoinType::Anti] {
        assert_eq!(grouped(joined(how.clone()), &["a"]), Some(vec![2]), "{how:?}");
        assert_eq!(grouped(joined(how.clone()), &["b", "a"]), Some(vec![2]), "{how:?}");
        assert_eq!(grouped(joined(how.clone()), &["b"]), None, "{how:?}");
    }
    // Some of its rows have none of this key.
    assert_eq!(grouped(joined(JoinType::Right), &["b"]), None);
    assert_eq!(grouped(joined(JoinType::Full), &["a"]), None);
}

#[test]
fn a_column_is_followed_through_its_names_and_not_into_what_is_computed() {
    let (left, right) = (Table::new(), Table::new());
    let joined = || left.scan().inner_join(right.scan(), col("a"), col("a"));
    let renamed = || joined().select([col("a").alias("x"), col("b").alias("a")]).filter(col("a").gt(lit(1)));
    assert_eq!(grouped(renamed(), &["x"]), Some(vec![2]));
    assert_eq!(grouped(renamed(), &["a"]), None);
    assert_eq!(grouped(joined().with_column(col("b").alias("a")), &["a"]), None);
    assert_eq!(grouped(joined().with_column((col("a") + lit(1)).alias("a")), &["a"]), None);
    assert_eq!(grouped(joined().with_column((col("a") + lit(1)).alias("c")), &["a", "c"]), Some(vec![2]));
}

#[test]
fn what_is_joined_by_the_same_key_again_reads_only_the_other_side() {
    let [first, second, other] = [(); 3].map(|()| Table::new());
    let third = || other.scan().rename(["b"], ["c"], true);
    let joined = first.scan().inner_join(second.scan(), col("a"), col("a"));
    let plan = planned(joined.clone().inner_join(third(), col("a"), col("a")));
    assert!(together(&plan).is_some(), "{plan}");
    let modes = &plan.last().unwrap().modes;
    let along = modes.iter().find(|mode| matches!(mode.when, Fits::Together(_))).unwrap();
    assert!(along.ways.contains(&Way::Along) && along.ways.contains(&Way::Sections), "{plan}");
    let plan = planned(joined.clone().inner_join(third(), col("b"), col("c")));
    assert_eq!(together(&plan), None, "{plan}");
    let by_both = joined.join(third(), [col("a"), col("b")], [col("a"), col("c")], JoinType::Inner.into());
    assert_eq!(together(&planned(by_both)), None, "the other side is by both columns");
}

#[test]
fn what_takes_in_a_join_has_its_rows_together_as_that_has() {
    let [first, second, third] = [(); 3].map(|()| Table::new());
    let joined = first.scan().inner_join(second.scan(), col("a"), col("a"));
    let named = third.scan().select([col("b"), col("a").alias("c")]);
    let more = joined.inner_join(named, col("b"), col("b"));
    // Either the second join reads sections, and they are by another column, or it takes in the first.
    assert_eq!(grouped(more.clone(), &["a"]), Some(vec![2]));
    assert_eq!(grouped(more.clone(), &["b"]), Some(vec![4]));
    assert_eq!(grouped(more, &["a", "b"]), Some(vec![4, 2]));
}
