use polars::prelude::*;

use super::super::{OneAttempt, Stage, Target, plan};
use crate::frame::LazyFrameExt;
use crate::udf::{OnError, Udf};

#[regatta::udf]
fn whim(x: i64) -> i64 {
    x
}

#[regatta::udf]
fn whims(x: i64) -> Vec<i64> {
    vec![x]
}

#[regatta::udf(deterministic)]
fn twice(x: i64) -> i64 {
    2 * x
}

#[regatta::udf(deterministic)]
fn halves(x: i64) -> Vec<i64> {
    vec![x / 2, x - x / 2]
}

const CLUSTER: Target = Target { tasks: 4, travels: true, in_flight: 64 };

fn rows() -> LazyFrame {
    let k: Vec<_> = (0..80i64).map(|k| k % 7).collect();
    let f: Vec<_> = (0..80).map(f64::from).collect();
    df!["k" => k, "x" => (0..80i64).collect::<Vec<_>>(), "f" => f].unwrap().lazy()
}

/// `w` differs between attempts.
fn with_whim() -> LazyFrame {
    rows().with_column(whim::on([col("x")]).alias("w"))
}

fn joined() -> LazyFrame {
    rows().inner_join(rows().select([col("k"), col("x").alias("y")]), col("k"), col("k"))
}

/// Whether every stage may read on in what is made again.
fn settled(query: LazyFrame) -> bool {
    plan(query, CLUSTER).unwrap().stages.iter().all(|stage| stage.one_attempt.inputs.is_empty())
}

fn stable(query: LazyFrame) -> bool {
    let plan = plan(query, CLUSTER).unwrap();
    // In its first mode, at least: few rows are sorted by one task.
    plan.stable || plan.last().is_some_and(|last| last.modes[0].stable)
}

#[track_caller]
fn assert_same(query: LazyFrame, by_position: bool, by_key: bool, result: bool) {
    let found = (
        settled(query.clone().into_partitions(3)),
        settled(query.clone().repartition(3, [col("k")])),
        stable(query.clone()),
    );
    assert_eq!(
        found,
        (by_position, by_key, result),
        "by position, by key k, as a result of {}",
        query.describe_plan().unwrap()
    );
}

#[test]
fn what_a_udf_does_not_promise_is_not_counted_on() {
    assert_same(with_whim(), true, true, false);
    assert!(!settled(with_whim().repartition(3, [col("w")])), "rows go by what differs");
    assert!(!settled(with_whim().repartition(3, [col("w") + col("k")])), "or by what is computed of it");
    assert_same(with_whim().filter(col("w").gt(lit(3))), false, false, false);
    assert_same(with_whim().filter(col("x").gt(lit(3))), true, true, false);
    assert_same(with_whim().select([col("k"), col("x")]), true, true, true);
    assert_same(with_whim().with_column((col("w") * lit(2)).alias("k")), true, false, false);
    assert_same(rows().generate("w", whims::on([col("x")])), false, false, false);
}

#[test]
fn what_a_udf_promises_is_counted_on_as_far_as_its_inputs_go() {
    let promised = |of: &str| twice::on([col(of)]).alias("w");
    assert_same(rows().with_column(promised("x")), true, true, true);
    assert!(settled(rows().with_column(promised("x")).repartition(3, [col("w")])));
    assert_same(rows().with_column(promised("x")).filter(col("w").gt(lit(3))), true, true, true);
    assert_same(rows().generate("w", halves::on([col("x")])), true, true, true);
    assert_same(with_whim().with_column(promised("w")), true, true, false);
    // A call that fails in one attempt may pass in the next.
    let nulls = twice {}.pool().on_error(OnError::Null).on([col("x")]).alias("w");
    assert_same(rows().with_column(nulls), true, true, false);
}

#[test]
fn operators_that_lose_the_order_keep_the_rows() {
    assert_same(joined(), false, true, true);
    assert_same(rows().group_by([col("k")]).agg([col("x").sum(), len(), col("f").max()]), false, true, true);
    assert_same(rows().group_by_stable([col("k")]).agg([col("x").sum()]), true, true, true);
    assert_same(rows().sort(["k"], Default::default()), false, true, true);
    let stable = SortMultipleOptions::default().with_maintain_order(true);
    assert_same(rows().sort(["k"], stable.clone()), true, true, true);
    assert_same(joined().sort(["k"], stable.clone()), false, true, true);
    // Rows of several tasks are put into ranges, if they are many: by their number.
    assert_same(rows().into_partitions(4).sort(["k"], stable.clone()), true, true, true);
    let of_several = rows().into_partitions(4).inner_join(rows(), col("k"), col("k"));
    assert_same(of_several.sort(["k"], stable), false, false, true);
    assert_same(with_whim().into_partitions(4).sort(["k"], Default::default()), false, false, false);
    assert_same(rows().unique(None, UniqueKeepStrategy::Any), false, true, true);
    let unordered = UnionArgs { maintain_order: false, ..Default::default() };
    assert_same(concat([joined(), joined()], unordered).unwrap(), false, true, true);
    assert_same(rows().with_column(col("x").min().over([col("k")]).unwrap().alias("m")), true, true, true);
    let by = || Some(by_name(["k"], true, false));
    for keep in [UniqueKeepStrategy::First, UniqueKeepStrategy::Last, UniqueKeepStrategy::None] {
        assert_same(rows().into_partitions(4).unique_stable(by(), keep), true, true, true);
        assert_same(rows().into_partitions(4).unique(by(), keep), false, true, true);
        assert_same(with_whim().into_partitions(4).unique_stable(by(), keep), true, true, false);
    }
    assert_same(joined().into_partitions(4).unique(by(), UniqueKeepStrategy::First), false, false, false);
    let ends = [col("f").first(), col("x").last()];
    assert_same(rows().into_partitions(4).group_by([col("k")]).agg(ends.clone()), false, true, true);
    assert_same(joined().group_by([col("k")]).agg(ends.clone()), false, true, false);
    assert_same(joined().into_partitions(4).group_by([col("k")]).agg(ends), false, false, false);
    // Windows over rows in their order; whoever has put rows back has them where they were.
    let window =
        |rows: LazyFrame, of: &str| rows.with_column(col(of).cum_sum(false).over([col("k")]).unwrap().alias("c"));
    assert_same(window(rows().into_partitions(4), "x"), true, true, true);
    assert_same(window(joined().into_partitions(4), "x"), false, false, false);
    assert_same(window(with_whim().into_partitions(4), "w"), false, false, false);
}

#[test]
fn what_depends_on_the_order_of_what_has_none_is_something_else_each_time() {
    assert_same(joined().with_row_index("n", None), false, false, false);
    assert_same(joined().slice(2, 30), false, false, false);
    assert_same(rows().sort(["k"], Default::default()).limit(5), false, false, false);
    assert_same(joined().with_column(col("x").cum_sum(false).alias("c")), false, false, false);
    // Of these the rows are the same, but for what was picked.
    let by = Some(by_name(["k"], true, false));
    assert_same(joined().unique(by, UniqueKeepStrategy::Any), false, true, false);
    assert_same(rows().group_by([col("k")]).agg([col("f").mean(), col("x").first()]), false, true, false);
    assert!(!settled(rows().group_by([col("x")]).agg([col("f").sum().alias("k")]).repartition(3, [col("k")])));
}

#[test]
fn rows_that_belong_together_are_of_one_attempt() {
    // Each row has its own value; of what is made of several, all rows have a part.
    assert_same(with_whim().with_column((col("w") - col("w").min()).alias("v")), false, false, false);
    assert_same(rows().with_column((col("x") - col("x").min()).alias("v")), true, true, true);
    assert_same(rows().with_column((col("f") / col("f").sum()).alias("v")), false, false, false);
    assert_same(with_whim().with_column(col("w").min().over([col("k")]).unwrap().alias("m")), false, false, false);
    assert_same(with_whim().group_by([col("k")]).agg([col("w").sum()]), false, true, false);
    assert_same(with_whim().group_by([col("w")]).agg([col("k").sum()]), false, false, false);
    let lists = with_whim().with_column(concat_list([col("x"), col("x")]).unwrap().alias("l"));
    let options = ExplodeOptions { empty_as_null: false, keep_nulls: false };
    assert_same(lists.explode(by_name(["l"], true, false), options), false, false, false);
    assert_same(with_whim().inner_join(rows().select([col("k")]), col("k"), col("k")), false, false, false);
    assert_same(with_whim().semi_join(rows().select([col("k")]), col("k"), col("k")), false, true, false);
    assert_same(with_whim().select([col("w").min().alias("k")]), false, false, false);
    assert_same(rows().select([col("x").min().alias("k")]), true, true, true);
}

/// Of a key that most rows of the other side have, several tasks read all rows of this one.
#[test]
fn a_side_of_which_tasks_may_share_a_section_is_of_one_attempt_for_all() {
    // Not the same as on the left, which would be a stage that both read.
    let right = || rows().select([col("k"), whim::on([col("k")]).alias("w")]);
    let join = |how| {
        with_whim().into_partitions(4).join(right().into_partitions(4), [col("k")], [col("k")], JoinArgs::new(how))
    };
    let planned = |how| plan(join(how), CLUSTER).unwrap();
    let found = |how| {
        let planned = planned(how);
        let last = planned.stages.last().unwrap();
        (last.modes.last().unwrap().shared.clone(), last.one_attempt.inputs.clone())
    };
    let right = planned(JoinType::Left).stages.last().unwrap().reads[1].from;
    assert_eq!(found(JoinType::Left), (vec![0], vec![right]));
    assert_eq!(found(JoinType::Full), (vec![], vec![]), "there each row is read by one task");
}

/// Where one task may join all rows in their order, several may, too, each with all of the other side.
#[test]
fn a_side_that_is_brought_to_rows_in_their_order_is_of_one_attempt_for_all() {
    let last = |query: LazyFrame| {
        let mut planned = plan(query, CLUSTER).unwrap();
        planned.stages.pop().unwrap()
    };
    let dealt = || rows().into_partitions(4);
    let sums = |of: &str| rows().into_partitions(4).group_by([col("k")]).agg([col(of).sum().alias("of k")]);
    let in_order = || JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) };
    for (of, is_stable) in [("x", true), ("f", false)] {
        let joined = last(dealt().join(sums(of), [col("k")], [col("k")], in_order()));
        let window = last(dealt().with_column(col(of).sum().over([col("k")]).unwrap().alias("of k")));
        for stage in [joined, window] {
            let expected = if is_stable { vec![] } else { vec![stage.reads[1].from] };
            assert_eq!(stage.one_attempt.inputs, expected, "{of}: {:?}", stage.modes);
        }
    }
}

#[test]
fn what_several_stages_read_is_of_one_attempt_all_the_way_up() {
    let both = |rows: LazyFrame| {
        let rows = rows.cache();
        let left = rows.clone().with_column(twice::on([col("x")]).alias("t"));
        let right = rows.select([col("k"), twice::on([col("w")]).alias("v")]);
        plan(left.inner_join(right, col("k"), col("k")), CLUSTER).unwrap()
    };
    let planned = both(with_whim());
    let read = |stage: &Stage| stage.reads.iter().map(|read| read.from).collect::<Vec<_>>();
    let found: Vec<_> = planned.stages.iter().map(|stage| (read(stage), &stage.one_attempt)).collect();
    assert_eq!(found.len(), 4, "{planned}");
    for (inputs, one_attempt) in &found[1..] {
        assert!(*inputs == one_attempt.inputs && one_attempt.with_others, "{found:?}\n{planned}");
    }
    let promised = rows().with_column(twice::on([col("x")]).alias("w"));
    assert!(both(promised).stages.iter().all(|stage| stage.one_attempt == OneAttempt::default()));
}

#[test]
fn what_a_task_sees_of_rows_of_another_is_what_that_has_made_of_them() {
    let dealt = || with_whim().into_partitions(3);
    let shifted = |of: &str| dealt().with_column(col(of).shift(lit(1)).alias("before"));
    assert!(!settled(shifted("w")), "a row's value and what the next row says of it would be two");
    assert!(!settled(concat([shifted("w"), shifted("w")], UnionArgs::default()).unwrap()), "also among others");
    assert!(settled(rows().into_partitions(3).with_column(col("x").shift(lit(1)).alias("before"))));
    assert!(
        !settled(dealt().with_column(col("w").cum_sum(false).alias("sums"))),
        "sums run on from what others are of"
    );
    assert!(settled(dealt().with_row_index("n", None)), "each row has its number, whatever else it has");
}
