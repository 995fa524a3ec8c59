//! Rows that come together by their keys, and go back to where they stood if anybody looks.

use super::*;

fn over(of: Expr, keys: &[&str]) -> Expr {
    of.over(keys.iter().map(|key| col(*key)).collect::<Vec<_>>()).unwrap()
}

fn sums(keys: &[&str]) -> Expr {
    over(col("a").cum_sum(false), keys)
}

#[test]
fn rows_of_a_window_go_to_its_task_and_back_if_their_order_is_observed() {
    use Way::Sections;
    let table = Table::new();
    let plan = planned(table.scan().with_column(sums(&["b"]).alias("w")));
    assert_eq!(ways_of_reads(&plan), [vec![vec![]], vec![vec![(0, Sections)]], vec![vec![(1, Sections)]]], "{plan}");
    assert!(plan.is_sound(), "{plan}");
    let keys = |stage: usize| {
        let program = plan.stages[stage].program().unwrap();
        program.scatter.as_ref().map(|scatter| (scatter.keys.clone(), scatter.ranges_of.clone()))
    };
    assert_eq!(keys(0), Some((vec!["b".to_owned()], None)));
    assert_eq!(keys(1).unwrap().1.as_deref(), Some("the places of rows"));
    assert!(plan.stages[2].describe.contains("SORT"), "{plan}");
    let grouped = planned(table.scan().with_column(sums(&["b"]).alias("w")).group_by([col("w")]).agg([len()]));
    assert_eq!(ways_of_reads(&grouped)[1], [vec![(0, Sections)]], "{grouped}");
    assert!(grouped.stages.iter().all(|stage| !stage.describe.contains("SORT")), "nobody looks: {grouped}");
    // Rows that are by its keys already stay where they are.
    let again = planned(table.scan().with_column(sums(&["b"]).alias("w")).group_by([col("b")]).agg([col("w").max()]));
    assert_eq!(ways_of_reads(&again)[2], [vec![(1, Way::Along)], vec![(1, Sections)]], "{again}");
}

#[test]
fn what_windows_have_in_common_is_what_their_rows_come_together_by() {
    let table = Table::new();
    let keys = |of: Expr| {
        let plan = planned(table.scan().with_column(of.alias("w")));
        plan.stages[0]
            .program()
            .unwrap()
            .scatter
            .as_ref()
            .map(|scatter| scatter.keys.clone())
            .ok_or_else(|| plan.stages[0].why.clone())
    };
    assert_eq!(keys(sums(&["a", "b"]) - sums(&["b"])), Ok(vec!["b".to_owned()]));
    let by_order = |by: Expr| {
        let of = col("a").cum_sum(false);
        of.over_with_options(Some([col("b")]), Some(([by], SortOptions::default())), WindowMapping::GroupsToRows)
            .unwrap()
    };
    assert_eq!(keys(by_order(-col("a"))), Ok(vec!["b".to_owned()]));
    let mapped = |mapping| col("a").over_with_options(Some([col("b")]), None, mapping).unwrap();
    assert_eq!(keys(mapped(WindowMapping::Join)), Ok(vec!["b".to_owned()]));
    let all = col("a").cum_sum(false);
    let all = all.over_with_options(
        None::<[Expr; 1]>,
        Some(([col("b")], SortOptions::default())),
        WindowMapping::GroupsToRows,
    );
    for (of, why) in [
        (sums(&["a"]) - sums(&["b"]), "its windows have no key in common"),
        (sums(&["b"]) - col("a").min(), "looks at other rows"),
        (sums(&["b"]) - col("a").shift(lit(1)), "looks at other rows"),
        (by_order(col("a").shift(lit(1))), "is not computed row by row"),
        (col("a").cum_sum(false).over([col("a") - col("a").min()]).unwrap(), "is not computed row by row"),
        (all.unwrap(), "is over all rows"),
        (over(total("a") + col("a").shift(lit(1)), &["b"]), "may have other values each time"),
    ] {
        let found = keys(of.clone()).unwrap_err();
        assert!(found.contains(why), "{of}: {found}");
    }
}

#[test]
fn distinct_rows_go_back_to_where_they_stood_if_their_order_is_observed() {
    use Way::Sections;
    let table = Table::new();
    let by = || Some(by_name(["b"], true, false));
    for (keep, twice) in [
        (UniqueKeepStrategy::First, true),
        (UniqueKeepStrategy::Last, true),
        (UniqueKeepStrategy::Any, true),
        (UniqueKeepStrategy::None, false),
    ] {
        let plan = planned(table.scan().unique_stable(by(), keep));
        assert_eq!(
            ways_of_reads(&plan),
            [vec![vec![]], vec![vec![(0, Sections)]], vec![vec![(1, Sections)]]],
            "{plan}"
        );
        assert_eq!(plan.stages[0].describe.contains("UNIQUE"), twice, "{plan}");
        assert!(plan.is_sound() && plan.stages[2].describe.contains("SORT"), "{plan}");
        let counted = planned(table.scan().unique_stable(by(), keep).group_by([col("a")]).agg([len()]));
        assert!(counted.stages.iter().all(|stage| !stage.describe.contains("SORT")), "nobody looks: {counted}");
    }
}

#[test]
fn what_is_first_of_parts_is_first_of_all_and_values_are_counted_where_they_come_together() {
    let table = Table::new();
    let ends = || [col("a").first(), col("b").last().alias("l"), col("a").gt(lit(3)).any(true).alias("any")];
    let plan = planned(table.scan().select(ends()));
    assert_eq!(shape(&plan), [(4, vec![]), (1, vec![])], "{plan}");
    let plan = planned(table.scan().group_by([col("b")]).agg([col("a").first(), col("a").last().alias("l")]));
    assert!(plan.stages[1].why.contains("it merges what tasks have aggregated"), "{plan}");
    let plan = planned(table.scan().select([(col("a") % lit(7)).n_unique()]));
    assert_eq!(shape(&plan), [(4, vec![]), (0, vec![]), (1, vec![])], "{plan}");
    assert!(plan.stages[0].describe.contains("UNIQUE") && plan.stages[1].describe.contains("UNIQUE"), "{plan}");
}
