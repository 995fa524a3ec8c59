//! Aggregations that tasks make of their own rows.

use super::*;

#[test]
fn an_aggregation_by_udfs_is_made_in_parts_where_its_rows_are() {
    let table = Table::new();
    let mean = total("a").alias("s") / len().cast(DataType::Int64) + col("a").max() - lit(1i64);
    let both = [mean.alias("m"), when(col("a").count().gt(lit(3))).then(total("a")).otherwise(col("a").min())];
    let queries = [
        table.scan().group_by([col("b")]).agg(both.clone()).sort(["b"], Default::default()),
        table.scan().group_by_stable([(col("b") + lit(1i64)).alias("k")]).agg([total("a")]).slice(1, 1),
        table.scan().filter(col("b").gt(lit(0))).select(both),
    ];
    for (query, tasks) in queries.into_iter().zip([vec![4, 0, 4, 1, 4, 1], vec![4, 1], vec![4, 1]]) {
        let plan = planned(query);
        assert_eq!(plan.stages.iter().map(|stage| stage.splits.len()).collect::<Vec<_>>(), tasks, "{plan}");
        let [partial, merge, ..] = &plan.stages[..] else { panic!("{plan}") };
        assert!(partial.describe.contains("Total (partial)") && merge.describe.contains("Total (merge)"), "{plan}");
        assert!(!partial.describe.contains("SLICE"), "the slice is of all groups: {plan}");
    }
    // Behind a UDF's rows, too: each task takes a share of them.
    let after = table.scan().with_column(same([col("a")]).alias("x")).group_by([col("b")]).agg([total("x")]);
    let plan = planned(after);
    assert_eq!(shape(&plan), [(4, vec![true]), (4, vec![]), (0, vec![])], "{plan}");
    let native = plan_natively(table.scan().select([total("a")]));
    assert_eq!(shape(&native), [(1, vec![])], "one task has no parts: {native}");
}

/// Where a row's state can be made of it alone.
#[test]
fn rows_may_pass_by_what_groups_them_if_each_can_be_made_a_group_by_itself() {
    let table = Table::new();
    let (t, a, b) = (|| table.scan(), || col("a"), || col("b"));
    let every =
        [a().sum(), a().mean().alias("m"), a().std(1).alias("s"), len(), a().filter(a().gt(lit(3))).last().alias("l")];
    let passing = |query: LazyFrame| {
        let plan = planned(query);
        let program = plan.stages[0].program().unwrap();
        program.by_pass.is_some_and(|by_pass| by_pass.root != program.root)
    };
    for query in [
        t().group_by([b()]).agg(every.clone()),
        t().group_by_stable([b()]).agg(every.clone()),
        t().unique(None, UniqueKeepStrategy::Any),
        t().unique(Some(by_name(["b"], true, false)), UniqueKeepStrategy::Last),
    ] {
        assert!(passing(query.clone()), "{}", planned(query));
    }
    // One row is made of all, or of a closure's state; or all of a group are seen at once.
    for query in [
        t().select(every),
        t().group_by([b()]).agg([total("a")]),
        t().group_by([b()]).agg([a().median()]),
        t().unique(None, UniqueKeepStrategy::None),
        t().filter(a().gt(lit(3))),
    ] {
        assert!(!passing(query.clone()), "{}", planned(query));
    }
}
