use polars::prelude::*;
use polars_plan::dsl::{FileWriteFormat, SinkDestination, SinkTarget, UnifiedSinkArgs};
use serde::{Deserialize, Serialize};

use super::*;
use crate::udf::{Aggregate, Batch, UdfResult};

#[regatta::udf]
fn identity(x: i64) -> i64 {
    x
}

#[regatta::udf(dtype = DataType::Struct(["a", "b"].map(|name| Field::new(name.into(), DataType::Int64)).into()))]
fn paired(a: &Series, b: &Series) -> UdfResult<Series> {
    Ok(StructChunked::from_series("".into(), a.len(), [a, b].into_iter())?.into_series())
}

/// The sum of its rows.
#[derive(Serialize, Deserialize)]
struct Total;

#[regatta::udf]
impl Aggregate for Total {
    type Partial = i64;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Ok(inputs[0].dtype().clone())
    }

    fn partial(&self, batch: &Batch) -> UdfResult<i64> {
        Ok(batch.column(0)?.i64()?.sum().unwrap_or_default())
    }

    fn merge(&self, before: i64, after: i64) -> UdfResult<i64> {
        Ok(before + after)
    }

    fn finish(&self, sum: i64) -> UdfResult<AnyValue<'static>> {
        Ok(AnyValue::Int64(sum))
    }
}

mod aggregates;
mod neighbours;
mod operators;
mod windows;

const CLUSTER: Target = Target { tasks: 4, travels: true, in_flight: 64 };

fn same(inputs: impl AsRef<[Expr]>) -> Expr {
    identity::on(inputs)
}

fn total(input: &str) -> Expr {
    Total.on([col(input)])
}

/// A folder with one file of eight row groups of ten rows.
pub(super) struct Table(tempfile::TempDir);

impl Table {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut frame =
            df!["a" => (0..80i64).collect::<Vec<_>>(), "b" => (0..80i64).map(|i| i % 3).collect::<Vec<_>>()].unwrap();
        let file = std::fs::File::create(folder.path().join("t.parquet")).unwrap();
        ParquetWriter::new(file).with_row_group_size(Some(10)).finish(&mut frame).unwrap();
        Self(folder)
    }

    pub(super) fn scan(&self) -> LazyFrame {
        let path = format!("{}/t.parquet", self.0.path().display());
        LazyFrame::scan_parquet(path.as_str().into(), Default::default()).unwrap()
    }
}

/// For each stage: tasks, UDF steps, and whether row-wise work follows each.
fn shape(plan: &QueryPlan) -> Vec<(usize, Vec<bool>)> {
    plan.stages.iter().map(|s| (s.splits.len(), s.steps().iter().map(|step| step.then.is_some()).collect())).collect()
}

pub(super) fn planned(query: LazyFrame) -> QueryPlan {
    plan(query, CLUSTER).unwrap()
}

#[test]
fn a_row_wise_query_is_one_stage_split_at_row_groups() {
    let table = Table::new();
    let plan = planned(table.scan().filter(col("a").gt(lit(3))).with_column((col("a") + col("b")).alias("c")));
    assert_eq!(shape(&plan), [(4, vec![])]);
    let rows = |offset| Split::Rows { file: 0, offset, len: 20, rows_before: 0 };
    assert_eq!(plan.stages[0].splits, [rows(0), rows(20), rows(40), rows(60)]);
}

#[test]
fn unnesting_is_row_wise_so_it_stays_behind_its_udf() {
    let table = Table::new();
    let query =
        table.scan().select([paired::on([col("a"), col("b")]).alias("s")]).unnest(by_name(["s"], true, false), None);
    let plan = planned(query.filter(col("a").gt(lit(3))));
    assert_eq!(shape(&plan), [(4, vec![true])]);
    assert_eq!(plan.schema.iter_names().map(|n| n.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn fields_of_one_call_need_one_call() {
    let table = Table::new();
    let call = paired::on([col("a"), col("b")]);
    let plan = planned(table.scan().select([call.struct_().field_by_name("*")]));
    assert_eq!(shape(&plan), [(4, vec![true])]);
}

/// The verb as users call it.
fn into_partitions(query: LazyFrame, n: usize) -> LazyFrame {
    Marker::IntoPartitions(n).on(query)
}

#[test]
fn a_frame_is_dealt_to_as_many_tasks_as_partitions_are_asked_for() {
    let frame = df!["a" => (0..400i64).collect::<Vec<_>>()].unwrap().lazy();
    let plan = planned(into_partitions(frame.clone(), 100).with_column(same([col("a")]).alias("b")));
    assert_eq!(shape(&plan), [(100, vec![true])], "{plan}");
    assert_eq!(plan.stages[0].splits[99], Split::Slice { offset: 396, len: 4 });
    let plan = planned(into_partitions(frame.clone().with_column(lit(1).alias("b")), 7).select([same([col("a")])]));
    assert_eq!(shape(&plan), [(7, vec![true])], "row-wise nodes below stay in those tasks: {plan}");
    let plan = planned(into_partitions(frame.filter(col("a").gt(lit(3))), 7).select([same([col("a")])]));
    assert_eq!(shape(&plan), [(1, vec![]), (7, vec![true])], "a filter may leave shares of any size: {plan}");
}

#[test]
fn a_frame_without_a_marker_stays_one_task_and_a_large_one_is_fetched_in_parts() {
    let small = df!["a" => (0..400i64).collect::<Vec<_>>()].unwrap().lazy();
    assert_eq!(shape(&planned(small.with_column(same([col("a")]).alias("b")))), [(1, vec![true])]);
    let large = df!["a" => (0..200_000i64).collect::<Vec<_>>(), "b" => vec![1i64; 200_000]].unwrap().lazy();
    let plan = planned(large.clone().with_column(same([col("a")]).alias("c")));
    assert_eq!(shape(&plan), [(4, vec![]), (4, vec![true])], "{plan}");
    assert!(matches!(plan.stages[0].work, Work::Frame(_)), "{plan}");
    let Fragment::Encoded(bytes) = &plan.whole else { panic!("it must travel") };
    assert!(bytes.len() < 4 << 10, "{} bytes: is the frame in it?", bytes.len());
    let plan = planned(large.select([col("b").sum()]));
    let Work::Frame(frame) = &plan.stages[0].work else { panic!("{plan}") };
    assert_eq!(frame.get_column_names(), ["b"], "columns that nobody reads do not travel");
}

#[test]
fn a_stage_ends_where_its_rows_are_dealt_anew() {
    let table = Table::new();
    let udf = |query: LazyFrame, name: &str| query.with_column(same([col("a")]).alias(name));
    let plan = planned(udf(into_partitions(udf(table.scan(), "x"), 3), "y").filter(col("y").gt(lit(3))));
    assert_eq!(shape(&plan), [(4, vec![true]), (3, vec![true])], "{plan}");
    assert_eq!(plan.stages[1].splits[2], Split::Share { part: 2, of: 3, deal: Deal::default() });
    let plan = planned(into_partitions(table.scan(), 8));
    assert_eq!(shape(&plan), [(8, vec![])], "as many as there are row groups: {plan}");
    for (query, n) in [(table.scan(), 9), (table.scan(), 3), (table.scan().filter(col("a").gt(lit(5))), 8)] {
        let plan = planned(into_partitions(query, n));
        assert_eq!(shape(&plan), [(4, vec![]), (n, vec![])], "no equal shares: {plan}");
    }
    let plan = planned(into_partitions(table.scan().group_by([col("b")]).agg([len()]), 2));
    assert_eq!(shape(&plan), [(4, vec![]), (0, vec![]), (2, vec![])], "{plan}");
}

#[test]
fn the_first_rows_of_a_stage_end_it() {
    let table = Table::new();
    let limits = |plan: &QueryPlan| plan.stages.iter().map(|s| s.program().unwrap().limit).collect::<Vec<_>>();
    let plan = planned(table.scan().filter(col("b").eq(lit(1))).slice(3, 4));
    assert_eq!((shape(&plan), limits(&plan)), (vec![(4, vec![]), (1, vec![])], vec![Some(7), None]), "{plan}");
    let plan = planned(table.scan().with_column(same([col("a")]).alias("x")).filter(col("x").gt(lit(1))).limit(5));
    assert_eq!((shape(&plan), limits(&plan)), (vec![(4, vec![true]), (1, vec![])], vec![Some(5), None]), "{plan}");
    let plan = planned(table.scan().filter(col("b").eq(lit(1))).tail(4));
    assert_eq!(
        (shape(&plan), limits(&plan)),
        (vec![(4, vec![]), (1, vec![])], vec![None; 2]),
        "the last rows need all: {plan}"
    );
    let plan = planned(table.scan().limit(25));
    assert_eq!(shape(&plan), [(2, vec![])], "rows are counted, so only what holds them is read: {plan}");
    assert_eq!(plan.stages[0].splits[1], Split::Rows { file: 0, offset: 20, len: 5, rows_before: 0 });
}

#[test]
fn a_marker_lets_filters_and_projections_through_and_is_gone_from_the_plan() {
    let table = Table::new();
    let query = into_partitions(table.scan(), 8).filter(col("b").eq(lit(1))).select([col("a")]);
    let plan = planned(query);
    assert_eq!(shape(&plan), [(8, vec![])], "{plan}");
    assert!(plan.stages[0].describe.contains("SELECTION"), "the filter is in the scan: {plan}");
    assert!(!plan.stages[0].describe.contains("into_partitions"), "{plan}");
    let native = plan_natively(into_partitions(table.scan(), 8));
    assert_eq!(shape(&native), [(1, vec![])], "{native}");
}

#[test]
fn explain_says_that_text_files_are_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["a.csv", "b.csv"] {
        std::fs::write(folder.path().join(file), "x,y\n1,2\n3,4\n").unwrap();
    }
    let path = format!("{}/*.csv", folder.path().display());
    let plan = planned(LazyCsvReader::new(path.as_str().into()).finish().unwrap());
    assert_eq!(shape(&plan), [(2, vec![])], "{plan}");
    assert_eq!(plan.stages[0].why, "2 files, each read whole");
}

/// The verb as users call it.
fn repartition(query: LazyFrame, n: usize, by: &[Expr]) -> LazyFrame {
    Marker::repartition(query, n, by)
}

#[test]
fn a_hash_regroup_ends_a_stage_and_keeps_its_keys_though_nobody_reads_them() {
    let table = Table::new();
    let query = repartition(table.scan(), 3, &[col("b")]).select([same([col("a")]).alias("x")]);
    let plan = planned(query.clone());
    assert_eq!(shape(&plan), [(4, vec![]), (3, vec![true])], "{plan}");
    let scatter = plan.stages[0].program().unwrap().scatter.as_ref().unwrap();
    assert_eq!((&scatter.keys[..], scatter.into), (&["b".to_owned()][..], 3));
    assert_eq!(plan.stages[1].splits[2], Split::Sections { from: 2, to: 3, part: None });
    let text = plan.to_string();
    assert!(text.contains("leaves its rows in 3 sections, by the hash of b"), "{text}");
    assert!(text.contains("3 tasks (rows of equal b come to one task)\n  reads sections of stage 0"), "{text}");
    assert!(!text.contains("regatta:reads"), "the filter that kept the key is gone: {text}");
    let native = plan_natively(query);
    assert_eq!(shape(&native), [(1, vec![true])], "{native}");
    assert!(!native.to_string().contains("regatta:re"), "{native}");
}

#[test]
fn computed_keys_are_a_column_below_the_marker_only() {
    let table = Table::new();
    let keys = [same([col("a")]) % lit(5), col("b") + lit(1)];
    let plan = planned(repartition(table.scan(), 2, &keys).filter(col("a").gt(lit(9))).select([len()]));
    assert_eq!(shape(&plan), [(4, vec![true]), (2, vec![]), (1, vec![])], "each task counts its own: {plan}");
    let plan = planned(repartition(table.scan(), 2, &keys).filter(col("a").gt(lit(9))));
    assert_eq!(shape(&plan), [(4, vec![true]), (2, vec![])], "{plan}");
    assert_eq!(plan.schema.iter_names().map(|n| n.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let twice = repartition(repartition(table.scan(), 5, &[col("a")]), 3, &[col("b")]).filter(col("b").eq(lit(1)));
    let plan = planned(twice);
    assert_eq!(shape(&plan), [(4, vec![]), (5, vec![]), (3, vec![])], "{plan}");
}

fn plan_natively(query: LazyFrame) -> QueryPlan {
    plan(query, Target { tasks: 1, travels: false, in_flight: 64 }).unwrap()
}

/// A plan in words, without the numbers of caches, which are drawn.
fn without_ids(plan: &str) -> Vec<&str> {
    plan.lines().filter_map(|line| line.split("[id: ").next()).collect()
}

#[test]
fn natively_a_query_without_udfs_is_what_polars_makes_of_it_and_nothing_is_cut() {
    let table = Table::new();
    let few = || table.scan().filter(col("a").lt(lit(9)));
    let total = || few().group_by([col("b")]).agg([col("a").sum()]);
    let folder = table.0.path().join("out");
    let to = SinkDestination::File { target: SinkTarget::Path(folder.to_str().unwrap().into()) };
    let sink = total().sink(to, FileWriteFormat::Parquet(Arc::default()), UnifiedSinkArgs::default()).unwrap();
    let joined = few().join(total(), [col("b")], [col("b")], JoinType::Inner.into());
    for query in [few().limit(3).filter(col("b").eq(lit(1))), joined.clone(), sink] {
        let native = plan_natively(query.clone());
        assert_eq!(shape(&native), [(1, vec![])], "{native}");
        let plain = query.with_streaming(true).to_alp_optimized().unwrap().describe();
        assert_eq!(without_ids(&native.stages[0].describe), without_ids(&plain));
    }
    assert!(plan_natively(joined).to_string().contains("CACHE"), "what is read twice is made once");
    let marked = repartition(into_partitions(few(), 3).limit(5), 2, &[col("b") + lit(1)]).group_by([col("b")]);
    let native = plan_natively(Marker::IntoBatches(7).on(marked.agg([len()])));
    assert_eq!(shape(&native), [(1, vec![])], "{native}");
    assert!(!native.to_string().contains("regatta:"), "{native}");
}

#[test]
fn natively_what_a_udf_or_an_object_needs_is_cut_still() {
    let table = Table::new();
    let with_udf = table.scan().with_column(same([col("a")]).alias("c"));
    assert_eq!(shape(&plan_natively(with_udf)), [(1, vec![true])]);
    let to = SinkDestination::File { target: SinkTarget::Path("s3://bucket/x.parquet".into()) };
    let sink = table.scan().sink(to, FileWriteFormat::Parquet(Arc::default()), UnifiedSinkArgs::default());
    let native = plan_natively(sink.unwrap());
    assert_eq!(shape(&native), [(1, vec![]), (1, vec![])], "all rows are there before the upload begins: {native}");
}

#[test]
fn one_task_is_asked_for_one_task_comes() {
    let table = Table::new();
    let native = Target { tasks: 1, travels: false, in_flight: 64 };
    assert_eq!(shape(&plan(table.scan(), native).unwrap()), [(1, vec![])]);
}

#[test]
fn what_sees_all_rows_runs_whole_and_keeps_its_scan() {
    let table = Table::new();
    let plan = planned(table.scan().with_column(col("a").reverse().alias("c")));
    assert_eq!(shape(&plan), [(1, vec![])]);
    assert!(plan.stages[0].why.contains("all rows at once"), "{}", plan.stages[0].why);
}

fn every_ten() -> DynamicGroupOptions {
    let ten = Duration::parse("10i");
    DynamicGroupOptions { every: ten, period: ten, offset: Duration::parse("0i"), ..Default::default() }
}

#[test]
fn an_aggregation_that_is_not_made_in_parts_says_why() {
    let table = Table::new();
    let group =
        |key: Expr, agg: Expr| table.scan().group_by([key.alias("k")]).agg([agg]).sort(["k"], Default::default());
    let cases = [
        (group(col("b"), total("a") - col("a").median()), true, r#"col("a").median() cannot be merged of parts"#),
        (group(col("b"), total("a").alias("t") + col("a")), true, "cannot be merged of parts"),
        (group(col("b"), Total.on([col("a").sort(Default::default())])), true, "is not computed row by row"),
        (group(col("b").shift(lit(1)), total("a")), false, "the key"),
        (table.scan().group_by_dynamic(col("a"), [], every_ten()).agg([total("b")]), false, "its groups are windows"),
    ];
    for (query, by_keys, why) in cases {
        let plan = planned(query);
        let (shapes, at, said) = match by_keys {
            true => (vec![(4, vec![]), (0, vec![])], 1, "which aggregates them at once, because"),
            false => (vec![(1, vec![])], 0, "it aggregates all rows at once, because"),
        };
        assert_eq!(shape(&plan)[..shapes.len()], shapes, "{plan}");
        let why_so = &plan.stages[at].why;
        assert!(why_so.contains(said) && why_so.contains(why), "{why}: {plan}");
    }
}

#[test]
fn udf_calls_become_steps_with_the_row_wise_work_between_them() {
    let table = Table::new();
    let query = table
        .scan()
        .with_column(same([col("a") + lit(1)]).alias("x"))
        .filter(col("x").gt(lit(5)))
        .select([same([col("x")]) * lit(2)]);
    let plan = planned(query);
    assert_eq!(shape(&plan), [(4, vec![true, true])], "{plan}");
    assert_eq!(plan.stages[0].steps()[1].inputs, ["x"]);
}

#[test]
fn nested_calls_are_steps_inner_first() {
    let table = Table::new();
    let plan = planned(table.scan().select([same([same([col("a")])]).alias("x")]));
    assert_eq!(plan.stages[0].steps().len(), 2, "{plan}");
    let [inner, outer] = plan.stages[0].steps() else { unreachable!() };
    assert_eq!(inner.inputs, ["a"]);
    assert_eq!(outer.inputs[0], inner.output.0);
}

#[test]
fn equal_calls_are_one_step() {
    let table = Table::new();
    let call = same([col("a")]);
    let plan = planned(table.scan().select([(call.clone() + lit(1)).alias("x"), (call * lit(2)).alias("y")]));
    assert_eq!(plan.stages[0].steps().len(), 1, "{plan}");
    // Made anew each time, of inputs that are computed, and where Polars itself looks for no equal expressions.
    let call = || same([col("a") * lit(2)]);
    let plan = planned(table.scan().filter(call().gt(lit(5)).and(call().lt(lit(9)))));
    assert_eq!(plan.stages[0].steps().len(), 1, "{plan}");
    let plan = planned(table.scan().filter(call().gt(same([col("a") * lit(3)]))));
    assert_eq!(plan.stages[0].steps().len(), 2, "{plan}");
    let batched = identity::pool().batch(7).on([col("a") * lit(2)]);
    let plan = planned(table.scan().filter(call().gt(batched)));
    assert_eq!(plan.stages[0].steps().len(), 2, "other options: {plan}");
}

#[test]
fn a_udf_predicate_does_not_stay_in_the_file_reader() {
    let table = Table::new();
    let plan = planned(table.scan().filter(same([col("a")]).gt(lit(5)).and(col("b").eq(lit(1)))));
    assert_eq!(shape(&plan), [(4, vec![true])], "{plan}");
    assert!(plan.stages[0].describe.contains("SELECTION"), "the plain term stays there: {plan}");
    assert!(!plan.stages[0].describe.contains("identity"), "the UDF's does not: {plan}");
}

#[test]
fn udf_calls_in_and_over_aggregates_are_steps_below_and_above() {
    let table = Table::new();
    let query = table
        .scan()
        .group_by([col("b")])
        .agg([same([col("a")]).sum().alias("s")])
        .with_column(same([col("s")]).alias("t"));
    assert_eq!(shape(&planned(query)), [(4, vec![false]), (4, vec![]), (0, vec![true])]);
}

#[test]
fn a_join_takes_in_the_scan_of_one_side_or_meets_it_by_keys() {
    let (left, right) = (Table::new(), Table::new());
    let left = left.scan().with_column(same([col("a")]).alias("x"));
    let plan = planned(left.join(right.scan(), [col("a")], [col("a")], JoinArgs::new(JoinType::Inner)));
    assert_eq!(shape(&plan), [(4, vec![true]), (4, vec![]), (0, vec![])], "{plan}");
    let [udf, scan] = plan.stages[2].reads[..] else { panic!("{plan}") };
    assert_eq!((udf.cut, scan.cut.is_some()), (None, true), "what has UDF steps is no part of another's task");
    let modes = &plan.stages[2].modes;
    let small = |mode: &Mode| if let Fits::Small(small) = &mode.when { Some(small.input) } else { None };
    let ways = |mode: &Mode| (mode.ways.clone(), small(mode));
    let expected = [(vec![Way::All, Way::Along], Some(0)), (vec![Way::Sections; 2], None)];
    assert_eq!(modes.iter().map(ways).collect::<Vec<_>>(), expected, "{plan}");
    assert!(plan.is_sound());
}

/// For each stage: how it may read the others.
fn ways(plan: &QueryPlan) -> Vec<Vec<Vec<Way>>> {
    let of = |stage: &Stage| stage.modes.iter().map(|mode| mode.ways.clone()).collect();
    plan.stages.iter().map(of).collect()
}

fn joined(how: JoinType) -> QueryPlan {
    let (left, right) = (Table::new(), Table::new());
    let small = right.scan().select([col("a"), col("b").alias("c")]).filter(col("a").eq(lit(3)));
    planned(left.scan().join(small, [col("a")], [col("a")], JoinArgs::new(how)))
}

#[test]
fn a_side_of_a_join_comes_to_all_tasks_only_where_no_row_of_it_needs_to_know_of_all_others() {
    let (by_keys, takes_left) = (vec![Way::Sections; 2], vec![Way::Along, Way::All]);
    for (how, modes) in [
        (JoinType::Inner, vec![takes_left.clone(), by_keys.clone()]),
        (JoinType::Left, vec![takes_left.clone(), by_keys.clone()]),
        (JoinType::Semi, vec![takes_left.clone(), by_keys.clone()]),
        (JoinType::Anti, vec![takes_left, by_keys.clone()]),
        // Rows without a match are rows of the answer, once: the few stay, and the others are read by their keys.
        (JoinType::Right, vec![by_keys.clone()]),
        (JoinType::Full, vec![by_keys]),
    ] {
        let plan = joined(how.clone());
        assert_eq!(ways(&plan).last().unwrap(), &modes, "{how:?} {plan}");
        assert!(plan.is_sound());
    }
}

#[test]
fn a_join_that_keeps_order_takes_a_slice_or_checks_keys_is_not_run_by_parts_that_cannot() {
    let table = Table::new();
    let with = |args: JoinArgs| planned(table.scan().join(table.scan(), [col("a")], [col("a")], args));
    let inner = || JoinArgs::new(JoinType::Inner);
    let ordered = with(JoinArgs { maintain_order: MaintainOrderJoin::LeftRight, ..inner() });
    assert!(ordered.stages[0].why.contains("keeps the order"), "{ordered}");
    let left = with(JoinArgs { maintain_order: MaintainOrderJoin::Left, ..inner() });
    assert_eq!(
        ways(&left).last().unwrap(),
        &[vec![Way::Along, Way::All], vec![Way::All; 2]],
        "small, or in one task: {left}"
    );
    let checked = with(JoinArgs { validation: JoinValidation::OneToMany, ..inner() });
    assert_eq!(ways(&checked).last().unwrap(), &[vec![Way::Sections; 2]], "{checked}");
    let as_text = planned(table.scan().join(
        table.scan(),
        [col("a").cast(DataType::Int32)],
        [col("a").cast(DataType::Int32)],
        inner(),
    ));
    let scatter = as_text.stages[0].program().unwrap().scatter.as_ref().unwrap();
    assert!(scatter.keys == ["a"] && scatter.computed.is_some(), "a key that is computed is no column: {as_text}");
}

#[test]
fn the_smaller_side_is_the_one_of_which_less_is_left() {
    let (few, many, rows) = (Table::new(), Table::new(), Table::new());
    let left = few.scan().join(rows.scan().filter(col("b").eq(lit(1))), [col("a")], [col("a")], JoinType::Semi.into());
    let plan = planned(left.inner_join(many.scan(), col("a"), col("a")));
    // Both have files of one size. All that is left of the one comes to the tasks of the other.
    assert_eq!(ways(&plan).last().unwrap()[0], [Way::All, Way::Along], "{plan}");
    // Of several conditions each leaves out some.
    let once = rows.scan().filter(col("b").eq(lit(1)));
    let twice = few.scan().filter(col("b").eq(lit(1)).and(col("a").gt(lit(3))));
    let plan = planned(twice.inner_join(once, col("a"), col("a")));
    assert_eq!(ways(&plan).last().unwrap()[0], [Way::All, Way::Along], "{plan}");
    let plan = planned(few.scan().cross_join(rows.scan(), None).filter(col("a").gt(col("b_right"))));
    assert!(plan.last().unwrap().why.contains("smaller side"), "a join by a range, too: {plan}");
}

/// The stages that are read by the keys of another, if those are few: by their number and that of the other.
fn filtered(plan: &QueryPlan) -> Vec<(u32, u32)> {
    let of = |stage: &Stage| stage.reads.iter().filter(|read| read.without.is_some()).map(|read| read.from.0).next();
    plan.stages.iter().filter_map(|stage| Some((stage.id.0, of(stage)?))).collect()
}

#[test]
fn a_side_is_read_by_the_keys_of_the_other_only_where_its_rows_without_a_match_are_of_no_use() {
    let table = Table::new();
    let few = || table.scan().select([col("a"), col("b").alias("c")]).filter(col("c").eq(lit(1)));
    let joined = |left: LazyFrame, right: LazyFrame, how: JoinType| {
        planned(left.join(right, [col("a")], [col("a")], JoinArgs::new(how)))
    };
    for (how, few_left, few_right) in [
        // What a broadcast drops is left to it.
        (JoinType::Inner, false, false),
        (JoinType::Left, true, false),
        (JoinType::Semi, true, false),
        (JoinType::Anti, true, false),
        (JoinType::Right, false, true),
        (JoinType::Full, false, false),
    ] {
        let plan = joined(few(), table.scan(), how.clone());
        assert_eq!(filtered(&plan), if few_left { vec![(1, 0)] } else { vec![] }, "{how:?}, few on the left: {plan}");
        assert!(plan.is_sound(), "{plan}");
        let plan = joined(table.scan(), few(), how.clone());
        assert_eq!(filtered(&plan), if few_right { vec![(1, 0)] } else { vec![] }, "{how:?}, few on the right: {plan}");
    }
    // An aggregation is worth it whatever the join, if its groups are of one key each.
    let groups = |by: &str| table.scan().group_by([col(by)]).agg([len().alias("n")]);
    let by_key = joined(few(), groups("a"), JoinType::Inner);
    assert_eq!(filtered(&by_key), [(1, 0)], "{by_key}");
    let Work::Program(program) = &by_key.stages[1].work else { panic!("{by_key}") };
    let read = by_key.stages[1].reads[0];
    assert!(read.without.unwrap().node != program.root, "below what each task aggregates: {by_key}");
    assert_eq!(by_key.stages[1].modes.iter().map(|mode| mode.ways[0]).collect::<Vec<_>>(), [Way::All, Way::Without]);
    let by_another = few().join(groups("b"), [col("c")], [col("b")], JoinArgs::new(JoinType::Full));
    assert_eq!(filtered(&planned(by_another)), [], "all groups are rows of a full join");
    let by_what_is_made = groups("b").with_column((col("b") + lit(1)).alias("c"));
    let plan = planned(few().left_join(by_what_is_made, col("c"), col("c")));
    assert_eq!(filtered(&plan), [], "a key that is computed is not there to be read by: {plan}");
    // Rows that are counted, cut, or read by others as well are all needed.
    let first = joined(few(), table.scan().slice(3, 70), JoinType::Left);
    assert_eq!(filtered(&first), [], "{first}");
    let numbered = joined(few(), table.scan().with_row_index("n", None), JoinType::Left);
    assert_eq!(filtered(&numbered), [], "{numbered}");
    let both = table.scan().group_by([col("a")]).agg([len().alias("n")]);
    let shared = few().left_join(both.clone(), col("a"), col("a")).left_join(both, col("a"), col("n"));
    assert_eq!(filtered(&planned(shared)), []);
    let many = joined(table.scan(), table.scan(), JoinType::Left);
    assert_eq!(filtered(&many), [], "nothing is known to be left out of the other side: {many}");
}

#[test]
fn what_looks_at_rows_without_a_match_is_not_read_by_keys() {
    let table = Table::new();
    let few = || table.scan().select([col("a"), col("b").alias("c")]).filter(col("c").eq(lit(1)));
    let left = |of: LazyFrame| planned(few().left_join(of, col("a"), col("a")));
    let groups = |keys: &[Expr], agg: Expr| table.scan().group_by(keys).agg([agg]);
    assert_eq!(filtered(&left(groups(&[col("a")], len()))), [(1, 0)]);
    let by_mean = (col("b") - col("b").mean()).alias("from the mean");
    for (why, of) in [
        ("rows are known by their numbers", groups(&[col("a")], col("b").agg_groups())),
        ("a key of other rows", groups(&[col("a"), by_mean], len())),
        ("a key of a UDF's", groups(&[col("a"), same([col("b")])], len())),
        ("an aggregate of a UDF's", groups(&[col("a")], total("b").alias("total"))),
        ("what a UDF filters", table.scan().filter(same([col("b")]).gt(lit(0)))),
        ("some of the groups", groups(&[col("a")], len()).limit(3)),
        ("groups that are windows", table.scan().group_by_dynamic(col("b"), [col("a")], every_ten()).agg([len()])),
    ] {
        let plan = left(of);
        assert_eq!(filtered(&plan), [], "{why}: {plan}");
    }
    for validation in [JoinValidation::ManyToOne, JoinValidation::OneToMany, JoinValidation::OneToOne] {
        let args = JoinArgs { validation, ..JoinArgs::new(JoinType::Left) };
        let plan = planned(few().join(table.scan(), [col("a")], [col("a")], args));
        assert_eq!(filtered(&plan), [], "{validation:?} must see keys without a match, too: {plan}");
    }
    // A filter that is read by the keys of what it filters would keep what is in neither from the join above.
    let once = table.scan().with_column((col("a") * col("b")).alias("c")).filter(col("c").eq(lit(6)));
    let once = once.with_column((col("a") + col("c")).alias("d")).filter(col("d").eq(lit(9)));
    let some = table.scan().filter(col("b").eq(lit(1)));
    let plan = planned(once.left_join(some, col("a"), col("a")));
    assert_eq!(filtered(&plan).len(), 1, "the side, and not what it is read by: {plan}");
    assert!(plan.is_sound(), "{plan}");
}

#[test]
fn what_calls_a_closure_and_is_needed_twice_runs_once() {
    let table = Table::new();
    let doubled = |column: Column| Ok(column * 2);
    let called = table.scan().with_column(col("b").map(doubled, |_, field| Ok(field.clone())));
    let query = called.clone().inner_join(called, col("a"), col("a")).with_column(same([col("a")]));
    let plan = plan_natively(query);
    let closures = plan.stages.iter().filter(|stage| stage.describe.contains("WITH_COLUMNS"));
    assert_eq!(closures.count(), 1, "{plan}");
}

#[test]
fn an_aggregate_beside_each_row_is_worked_out_first_by_all_tasks() {
    let table = Table::new();
    let mean = || col("a").mean();
    for query in [
        table.scan().with_column((col("a") - mean()).alias("apart")),
        table.scan().filter(col("b").eq(lit(1))).filter(col("a").gt(mean())),
        table.scan().select([col("b"), mean().alias("mean")]),
    ] {
        let plan = planned(query);
        assert_eq!(shape(&plan).iter().map(|(tasks, _)| *tasks).collect::<Vec<_>>(), [4, 4, 1, 0], "{plan}");
        assert_eq!(ways(&plan).last().unwrap(), &[vec![Way::Along, Way::All]], "{plan}");
        assert!(plan.is_sound(), "{plan}");
        assert!(
            plan.stages[0].describe.contains("PROJECT 1/2 COLUMNS") || plan.stages[0].describe.contains("SELECTION"),
            "no more is read than is aggregated: {plan}"
        );
    }
    let median = planned(table.scan().filter(col("a").gt(col("a").median())));
    assert_eq!(
        shape(&median).iter().map(|(tasks, _)| *tasks).collect::<Vec<_>>(),
        [4, 1, 0],
        "of all its rows: {median}"
    );
    let small = planned(df!["a" => [1i64, 2]].unwrap().lazy().with_column(col("a") - mean()));
    assert_eq!(shape(&small), [(1, vec![])], "{small}");
    let called = planned(table.scan().with_column(col("a") - total("a")));
    assert_eq!(
        shape(&called).last().unwrap().0,
        1,
        "what a UDF makes of all rows need not be the same twice: {called}"
    );
    // What a UDF inside a list makes need not be the same twice: the rows are kept.
    let varying = concat_list([col("a")]).unwrap().list().eval(same([col("")])).alias("c");
    let plan = planned(table.scan().with_column(varying).filter(col("a").gt(mean())));
    assert_eq!(plan.to_string().matches("eval").count(), 1, "{plan}");
    let reversed = planned(table.scan().with_column(col("a").reverse()));
    assert_eq!(shape(&reversed), [(1, vec![])], "{reversed}");
    let window = || col("a").max().over([col("b")]).unwrap();
    let plan = planned(table.scan().filter((col("a") - window()).gt(lit(3))));
    assert_eq!(shape(&plan).iter().map(|(tasks, _)| *tasks).collect::<Vec<_>>(), [4, 4, 0, 1], "{plan}");
    assert_eq!(ways(&plan).last().unwrap(), &[vec![Way::Along, Way::All], vec![Way::All; 2]], "{plan}");
    assert!(plan.is_sound(), "{plan}");
    let grouped = table.scan().group_by([col("a"), col("b")]).agg([len().alias("n")]);
    let plan = planned(grouped.with_column(col("n").sum().over([col("b")]).unwrap().alias("of b")));
    assert!(
        ways(&plan).last().unwrap().contains(&vec![Way::Sections; 2]),
        "rows that have no order come together by keys: {plan}"
    );
}

#[test]
fn a_chain_of_joins_stands_on_one_scan_with_what_each_task_aggregates_above() {
    let table = Table::new();
    let small = |name: &str| table.scan().select([col("a"), col("b").alias(name)]).filter(col("a").eq(lit(3)));
    let chain = table.scan().inner_join(small("x"), col("a"), col("a")).inner_join(small("y"), col("a"), col("a"));
    let plan = planned(chain.group_by([col("x")]).agg([col("y").sum()]));
    let taken: Vec<_> = ways(&plan).iter().map(|modes| modes.iter().flatten().any(|way| *way == Way::Along)).collect();
    assert_eq!(taken, [false, false, true, false, true, false][..taken.len()], "{plan}");
    assert!(plan.stages[4].describe.contains("AGGREGATE"), "the last join's tasks aggregate, too: {plan}");
}

#[test]
fn the_first_rows_of_a_sort_are_the_first_of_each_task_s() {
    let table = Table::new();
    let plan = planned(table.scan().sort(["b"], Default::default()).slice(2, 5));
    assert_eq!(shape(&plan), [(4, vec![]), (1, vec![])], "{plan}");
    assert!(plan.stages[0].describe.contains("SORT") && plan.stages[1].describe.contains("SORT"), "{plan}");
    let apart = table.scan().sort_by_exprs([col("a") - col("a").mean()], Default::default()).limit(5);
    let apart = planned(apart);
    assert_eq!(shape(&apart), [(1, vec![])], "a key that looks at other rows is of all of them: {apart}");
}

/// How each stage may read others, in each of its modes.
fn ways_of_reads(plan: &QueryPlan) -> Vec<Vec<Vec<(u32, Way)>>> {
    let mode = |stage: &Stage, mode: &Mode| {
        let reads = stage.reads.iter().zip(&mode.ways).filter(|(_, way)| **way != Way::Without);
        reads.map(|(read, way)| (read.from.0, *way)).collect()
    };
    plan.stages.iter().map(|stage| stage.modes.iter().map(|of| mode(stage, of)).collect()).collect()
}

#[test]
fn a_sort_is_one_of_few_rows_or_of_ranges_which_are_drawn_of_samples() {
    use Way::{All, Sections, Share};
    let table = Table::new();
    let sort = |keys: Vec<Expr>| table.scan().sort_by_exprs(keys, SortMultipleOptions::default());
    let plan = planned(sort(vec![col("b"), col("a") % lit(2)]).filter(col("a").gt(lit(3))));
    let wanted = [
        vec![vec![]],
        vec![vec![(0, Share)]],
        vec![vec![(1, All)]],
        vec![vec![(0, Share), (2, All)]],
        vec![vec![(0, All)], vec![(3, Sections)]],
    ];
    assert_eq!(ways_of_reads(&plan), wanted, "{plan}");
    assert!(plan.is_sound(), "{plan}");
    let scatter = plan.stages[3].program().and_then(|program| program.scatter.as_ref()).unwrap();
    assert!(scatter.ranges_of.as_deref().is_some_and(|of| of.starts_with("b, ")) && scatter.into == 16, "{plan}");
    // What is kept already is not kept twice; what a UDF makes to sort by is a column.
    let twice = into_partitions(table.scan().unique(None, UniqueKeepStrategy::Any), 3);
    assert_eq!(planned(twice.sort(["b"], Default::default())).stages.len(), 6);
    let by_udf = planned(sort(vec![same([col("a")])]));
    assert_eq!(ways_of_reads(&by_udf)[4], wanted[4], "{by_udf}");
    // Some of the first ranges are enough, if that is all that is wanted.
    let first = planned(sort(vec![col("b")]).slice(3, 1 << 21));
    assert_eq!(first.stages[4].program().unwrap().limit, Some(3 + (1 << 21)), "{first}");
    assert_eq!(ways_of_reads(&first)[5], [vec![(4, Share)]], "those of many are read where they are: {first}");
    let last = planned(sort(vec![col("b")]).tail(5));
    assert_eq!(ways_of_reads(&last)[4..], [wanted[4].clone(), vec![vec![(4, All)]]], "{last}");
    for (keys, why) in [
        (vec![col("a") - col("a").mean()], "is not computed row by row"),
        (vec![as_struct(vec![col("a"), col("b")])], "is of type struct"),
        (vec![concat_list([col("a")]).unwrap()], "is of type list"),
        (vec![lit(1)], "is of type dyn int"),
    ] {
        let plan = planned(sort(keys));
        assert_eq!(shape(&plan), [(1, vec![])], "{plan}");
        assert!(plan.stages[0].why.contains("it sorts all rows at once, because") && plan.stages[0].why.contains(why));
    }
}

#[test]
fn distinct_rows_come_together_and_each_task_keeps_its_own_where_any_will_do() {
    let table = Table::new();
    let plan = |keep| planned(table.scan().unique(Some(by_name(["b"], true, false)), keep));
    use UniqueKeepStrategy::{Any, First, Last, None};
    for (keep, twice) in [(Any, true), (First, true), (Last, true), (None, false)] {
        let plan = plan(keep);
        assert_eq!(shape(&plan), [(4, vec![]), (0, vec![])], "{plan}");
        assert_eq!(plan.stages[0].describe.contains("UNIQUE"), twice, "{plan}");
    }
}

#[test]
fn frames_one_below_the_other_are_tasks_one_after_the_other() {
    let table = Table::new();
    let grouped = table.scan().group_by([col("b")]).agg([col("a").sum()]).select([col("a"), col("b")]);
    let plan = planned(concat([table.scan(), grouped], UnionArgs::default()).unwrap().filter(col("a").gt(lit(3))));
    let last = plan.stages.last().unwrap();
    let input = |split: &Split| if let Split::Branch { input, .. } = split { *input } else { 9 };
    let branches: Vec<_> = last.splits.iter().map(input).collect();
    assert_eq!(branches, [0, 0, 0, 0, 1, 1, 1, 1], "{plan}");
    assert_eq!(ways(&plan).last().unwrap(), &[vec![Way::Share]], "{plan}");
}

#[test]
fn a_cache_that_is_a_side_of_two_joins_is_read_by_both() {
    let table = Table::new();
    let both = table.scan().cache();
    let query = table.scan().inner_join(both.clone(), col("a"), col("a")).inner_join(both, col("b"), col("b"));
    assert!(planned(query).is_sound());
}

#[test]
fn aggregates_of_row_numbers_and_join_keys_that_call_udfs_see_all_rows_at_once() {
    let table = Table::new();
    let groups = planned(table.scan().group_by([col("b")]).agg([col("a").agg_groups()]));
    assert_eq!(shape(&groups), [(1, vec![])], "{groups}");
    let keyed = planned(table.scan().inner_join(table.scan(), same([col("a")]), col("a")));
    assert_eq!(shape(&keyed), [(1, vec![])], "{keyed}");
    assert!(keyed.stages[0].why.contains("its keys call UDFs"), "{keyed}");
}

#[test]
fn a_task_of_one_frame_of_several_reads_nothing_of_the_others() {
    let table = Table::new();
    let counted = |of: Expr| table.scan().group_by([col("b")]).agg([of]);
    let plan = planned(concat([counted(col("a").sum()), counted(col("a").max())], UnionArgs::default()).unwrap());
    let last = plan.stages.last().unwrap();
    let shape = Shape {
        chain: vec![(last.id, 0)],
        reads: last.reads.iter().map(|read| (read.from, Way::Share)).collect(),
        tasks: Tasks::Splits(last.id, last.splits.len()),
        why: String::new(),
    };
    for task in 0..last.splits.len() {
        let split = plan.split(&shape, task).unwrap();
        let Split::Branch { input, .. } = split else { panic!("{split}") };
        let reads: Vec<_> = plan.reads(&shape, &split).map(|(id, _)| id).collect();
        assert_eq!(reads, [shape.reads[input].0], "{plan}");
    }
}

#[test]
fn what_two_branches_have_in_common_runs_once_unless_it_is_a_source() {
    let table = Table::new();
    let joined = || table.scan().inner_join(table.scan().filter(col("a").gt(lit(1))), col("a"), col("a"));
    let least = joined().group_by([col("b")]).agg([col("a").min()]);
    let plan = planned(joined().left_join(least, col("b"), col("b")));
    let scans = plan.stages.iter().filter(|stage| stage.describe.contains("Parquet")).count();
    assert_eq!(scans, 2, "both sides of the join, once: {plan}");

    let sources = || table.scan().filter(col("a").gt(lit(1)));
    let plan = planned(sources().inner_join(sources().group_by([col("b")]).agg([col("a").max()]), col("b"), col("b")));
    let reads = |of: StageId| plan.stages.iter().filter(|stage| stage.reads.iter().any(|read| read.from == of)).count();
    assert!(plan.stages.iter().all(|stage| reads(stage.id) <= 1), "a source is read twice rather than kept: {plan}");
    assert!(plan.to_string().contains("SELECTION"), "and filters where it is read: {plan}");
}

#[test]
fn a_plan_that_contradicts_itself_is_not_sound() {
    let plan = || joined(JoinType::Inner);
    assert!(plan().is_sound());
    type Spoil = fn(&mut QueryPlan);
    let spoil: [Spoil; 11] = [
        |plan| plan.sections = u32::MAX,
        |plan| plan.stages[0].splits.clear(),
        |plan| plan.stages[2].modes[0].when = Fits::Small(Small { input: 7, beside: 1 }),
        |plan| plan.stages[2].modes[0].when = Fits::Small(Small { input: 0, beside: 1 }),
        |plan| plan.stages[2].modes[1].when = Fits::Together(vec![StageId(0)]),
        |plan| plan.stages[2].reads[0].from = StageId(2),
        |plan| plan.stages[2].reads[0].from = StageId(9),
        |plan| plan.stages[2].modes[0].ways = vec![Way::Along; 2],
        |plan| plan.stages[2].modes[1].ways.truncate(1),
        |plan| plan.stages[2].modes.truncate(1),
        |plan| plan.stages[2].modes.clear(),
    ];
    for (case, spoil) in spoil.into_iter().enumerate() {
        let mut plan = plan();
        spoil(&mut plan);
        assert!(!plan.is_sound(), "case {case}");
    }
}

#[test]
fn a_call_over_something_that_is_not_row_wise_stays_in_place() {
    let table = Table::new();
    let plan = planned(table.scan().select([same([col("a").shift(lit(1))])]));
    assert_eq!(shape(&plan), [(1, vec![])], "{plan}");
}

#[test]
fn fake_elementwise_functions_are_not_split() {
    let table = Table::new();
    let plan = planned(table.scan().select([col("a").is_in(col("b").implode(true), false)]));
    assert_eq!(shape(&plan), [(1, vec![])], "{plan}");
    let literal = Series::new("".into(), [1i64, 2]);
    let plan = planned(table.scan().select([col("a").is_in(lit(literal).implode(true), false)]));
    assert_eq!(plan.stages.len(), 1, "{plan}");
}

#[test]
fn a_fragment_travels_and_comes_back_the_same() {
    let table = Table::new();
    let plan =
        planned(table.scan().with_column(col("a").cast(DataType::Float64).alias("f")).filter(col("b").eq(lit(0))));
    let Fragment::Encoded(bytes) = &plan.whole else { panic!("it must travel") };
    assert!(bytes.len() < 16 << 10, "{} bytes: are footers left in it?", bytes.len());
    let back = plan.whole.open().unwrap();
    assert_eq!(back.describe(), plan.stages[0].describe);
}

#[test]
fn workers_are_told_absolute_paths() {
    let scan =
        || LazyCsvReader::new("src/plan/share.rs".into()).with_has_header(false).with_truncate_ragged_lines(true);
    let here = std::env::current_dir().unwrap();
    for query in [scan().finish().unwrap(), scan().finish().unwrap().select([len()])] {
        let plan = planned(query);
        let absolute = format!("{}/src/plan/share.rs", here.display());
        assert!(plan.to_string().contains(&absolute), "{plan}");
    }
    let native = plan_natively(scan().finish().unwrap());
    assert!(!native.to_string().contains(&*here.to_string_lossy()), "it stays as it was written: {native}");
}

#[test]
fn each_task_over_persisted_rows_knows_which_partition_it_reads() {
    let rows = || scan_held(Arc::new(Schema::from_iter([Field::new("a".into(), DataType::Int64)])), QueryId(7), 3);
    let plan = plan(rows().filter(col("a").gt(lit(1))), CLUSTER).unwrap();
    assert_eq!(plan.stages[0].held, [0, 1, 2].map(|partition| vec![(QueryId(7), partition)]));
    let plan = super::plan(df!["a" => [1i64]].unwrap().lazy(), CLUSTER).unwrap();
    assert!(plan.stages[0].held.is_empty());
}
