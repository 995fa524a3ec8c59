//! What is shown of a query is what it did.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use regatta::observe::{Profile, QueryState, StageState};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use serde::{Deserialize, Serialize};

use crate::sinks::{into_file, parquet};
use crate::udfs::row_groups;

/// The demo's query, and its tables.
#[path = "../../examples/demo/query.rs"]
mod demo;
#[path = "../../examples/demo/tpch.rs"]
mod tpch;

/// A millisecond a row.
#[regatta::udf]
fn slow(x: i64) -> i64 {
    sleep(Duration::from_millis(1));
    x
}

/// The last of all rows takes longer than all others.
#[regatta::udf]
fn slow_at_the_end(x: i64) -> i64 {
    sleep(Duration::from_millis(if x == 399 { 2000 } else { 1 }));
    x
}

/// Fails once for each batch.
#[derive(Serialize, Deserialize)]
struct Flaky;

#[regatta::udf]
impl Udf for Flaky {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        match batch.attempt() {
            1 => Err(UdfError::new("the first attempt fails")),
            _ => Ok(batch.column(0)?.clone()),
        }
    }
}

#[regatta::udf]
fn quick(x: i64) -> i64 {
    x
}

/// Reports the rows of each batch, and cannot do those from 50 on.
#[derive(Serialize, Deserialize)]
struct Half;

#[regatta::udf]
impl Udf for Half {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        if batch.column(0)?.i64()?.get(0) >= Some(50) {
            return Err(UdfError::new("too far"));
        }
        batch.metrics().count("rows", batch.height() as u64);
        Ok(batch.column(0)?.clone())
    }
}

/// Takes a while to start.
#[derive(Serialize, Deserialize)]
struct Heavy;

#[regatta::udf]
impl Udf for Heavy {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        sleep(Duration::from_millis(2200));
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        Ok(batch.column(0)?.clone())
    }
}

fn numbers(rows: i64) -> LazyFrame {
    df!["id" => (0..rows).collect::<Vec<_>>()].unwrap().lazy()
}

fn found(profile: &Profile) -> Vec<&str> {
    profile.findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn a_killed_worker_shows_as_work_done_again_and_not_as_rows() {
    let session = Session::local(2).unwrap();
    let called = slow::pool().replicas(2).batch(50).on([col("id")]).alias("called");
    let query = numbers(4000).into_partitions(40).with_column(called).repartition(4, [col("id")]);
    let query = query.group_by([col("called") % lit(7)]).agg([len().alias("rows")]);
    let mut run = session.submit(query).unwrap();
    let done =
        |run: &Run| run.status().unwrap().map_or(0, |s| s.stages.iter().map(|stage| stage.tasks.2).max().unwrap());
    eventually("some of its tasks are done", || done(&run) >= 8);
    assert!(Command::new("kill").args(["-9", &session.processes()[0].to_string()]).status().unwrap().success());
    let frame = run.collect().unwrap();
    assert_eq!(frame.column("rows").unwrap().as_materialized_series().sum::<u32>().unwrap(), 4000);
    let profile = run.profile().unwrap();
    let stage = profile.stages.iter().find(|stage| stage.tasks == Some(40)).unwrap();
    assert_eq!((stage.rows, stage.done, stage.state), (4000, 40, StageState::Done), "{profile:#}");
    assert_eq!(profile.query.rows, frame.height() as u64, "{profile:#}");
    assert!(stage.lost + stage.again > 0 && profile.query.again > 0, "{profile:#}");
    assert!(found(&profile).contains(&"lost-worker") && !profile.incomplete.is_empty(), "{profile:#}");
    // What the other worker did is known.
    assert!(profile.pools[0].calls.rows > 0 && profile.pools[0].calls.rows <= 2 * 4000, "{profile:#}");
}

#[test]
fn a_profile_adds_up_during_the_run_and_after_its_result_was_taken() {
    let session = Session::local(2).unwrap();
    let called = slow::pool().replicas(2).batch(50).on([col("id")]).alias("called");
    let query = numbers(1000).into_partitions(10).with_column(called).repartition(4, [col("id")]);
    let mut run = session.submit(query.group_by([col("called") % lit(7)]).agg([len()])).unwrap();
    let during = || run.profile().unwrap();
    eventually("a task is done", || during().stages.iter().any(|stage| stage.done > 0));
    let profile = during();
    assert_eq!((profile.query.state, profile.query.result), (QueryState::Running, 0), "{profile:#}");
    assert!(profile.to_string().contains("running for"), "{profile}");
    run.collect().unwrap();
    let profile = run.profile().unwrap();
    assert_eq!((profile.query.state, profile.query.rows), (QueryState::Done, 7), "{profile:#}");
    let pool = &profile.pools[0];
    assert_eq!((pool.calls.rows, pool.calls.call.count(), pool.ready), (1000, 20, 0), "{profile:#}");
    assert!(
        pool.calls.busy >= 1_000_000_000 && pool.calls.busy <= pool.alive,
        "a row takes a millisecond: {profile:#}"
    );
    for stage in profile.stages.iter().filter(|stage| stage.busy > 0) {
        let spent = &stage.spent;
        let all = spent.fetch + spent.engine + spent.udf + spent.write;
        // Before and after there is little else.
        assert!(all <= stage.busy && all * 2 >= stage.busy, "{all} of {}: {profile:#}", stage.busy);
        assert_eq!(stage.workers.iter().map(|(.., busy)| busy).sum::<u64>(), stage.busy, "{profile:#}");
    }
    // All that a stage left was read, once.
    for edge in profile.edges.iter().filter(|edge| profile.stage(edge.to).unwrap().busy > 0) {
        let left = profile.stage(edge.from).unwrap();
        assert_eq!(edge.fetched.rows, left.rows, "{profile:#}");
        assert!(edge.fetched.bytes() > 0);
    }
    assert!(profile.workers.iter().all(|worker| worker.sample.peak > 0 && worker.sample.cpu > 0), "{profile:#}");
    assert_eq!(Profile::from_json(&profile.to_json()).unwrap(), profile);
    assert!(profile.to_html().contains("</html>") && profile.to_svg().contains("</svg>"));
}

#[test]
fn findings_speak_of_what_is_wrong_with_a_query() {
    let session = Session::local(2).unwrap();
    let on = |session: &Session, query: LazyFrame| query.explain_analyze_on(session).unwrap();
    let bound = slow::pool().batch(800).on([col("id")]).alias("slow");
    let bound = on(&session, numbers(3200).into_partitions(4).with_column(bound));
    assert!(found(&bound).contains(&"pool-bound"), "{bound:#}");
    let small = slow::pool().replicas(2).batch(1000).on([col("id")]).alias("slow");
    let small = on(&session, numbers(1600).into_partitions(80).with_column(small));
    assert!(found(&small).contains(&"small-batches"), "{small:#}");
    let skewed = slow_at_the_end::pool().replicas(2).on([col("id")]).alias("slow");
    let skewed = on(&session, numbers(400).into_partitions(8).with_column(skewed));
    assert!(found(&skewed).contains(&"skew"), "{skewed:#}");
    let flaky = Flaky.pool().max_retries(1).batch(50).on([col("id")]).alias("flaky");
    let flaky = on(&session, numbers(100).with_column(flaky));
    assert_eq!(found(&flaky), ["retries"], "{flaky:#}");
    let heavy = on(&session, numbers(100).with_column(Heavy.pool().on([col("id")]).alias("heavy")));
    assert!(found(&heavy).contains(&"start-dominates"), "{heavy:#}");
    // Of one task, though there are several workers; the only worker gives all of its threads to it.
    let sorted = || numbers(2200).sort(["id"], SortMultipleOptions::default());
    let whole = || sorted().with_column(slow::pool().on([col("id")]).alias("slow"));
    for (session, expect) in [(&session, true), (&Session::native().unwrap(), false)] {
        let whole = on(session, whole());
        assert_eq!(found(&whole).contains(&"whole-stage"), expect, "{whole:#}");
    }
    // And nothing of one that is well.
    let fine = on(&session, numbers(2000).into_partitions(8).group_by([col("id") % lit(7)]).agg([len()]));
    assert_eq!(found(&fine), Vec::<&str>::new(), "{fine:#}");
}

#[test]
fn analysing_a_query_that_writes_files_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("numbers.parquet");
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let profile = into_file(numbers(100), &target, parquet()).explain_analyze_on(&session).unwrap();
        assert_eq!(profile.query.state, QueryState::Done, "{profile:#}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_query_that_failed_has_a_profile_with_each_attempt_s_error() {
    let session = Session::local(1).unwrap();
    let mut run = session.submit(numbers(10).with_column(Flaky.pool().on([col("id")]).alias("flaky"))).unwrap();
    let error = run.collect().unwrap_err().to_string();
    let profile = run.profile().unwrap();
    assert_eq!(profile.query.state, QueryState::Failed, "{profile:#}");
    assert!(profile.query.error.as_ref().is_some_and(|why| why.contains("the first attempt fails")), "{error}");
    assert!(profile.errors.iter().any(|error| error.text.contains("the first attempt fails")), "{profile:#}");
}

#[test]
fn what_queries_did_is_there_as_frames() {
    let session = Session::local(2).unwrap();
    let called = slow::pool().batch(10).on([col("id")]).alias("called");
    numbers(100).into_partitions(4).with_column(called).collect_on(&session).unwrap();
    let failing = numbers(10).with_column(Flaky.pool().on([col("id")]).alias("flaky")).collect_on(&session);
    assert!(failing.is_err());
    let history = session.observe().unwrap();
    let queries = history.queries().unwrap();
    let states: Vec<_> = queries.column("state").unwrap().str().unwrap().iter().flatten().collect();
    assert_eq!(states, ["done", "failed"], "{queries}");
    assert_eq!(queries.column("rows").unwrap().u64().unwrap().get(0), Some(100));
    let first = lit(history.profiles()[0].query.id.clone());
    let of_first = |frame: DataFrame| frame.lazy().filter(col("query").eq(first.clone())).collect().unwrap();
    let tasks = of_first(history.tasks().unwrap());
    assert_eq!(tasks.column("rows").unwrap().as_materialized_series().sum::<u64>().unwrap(), 100, "{tasks}");
    let stages = of_first(history.stages().unwrap());
    assert_eq!(stages.column("done").unwrap().as_materialized_series().sum::<u32>().unwrap(), 4, "{stages}");
    assert_eq!(history.pools().unwrap().column("calls").unwrap().u64().unwrap().get(0), Some(12));
    assert!(history.errors().unwrap().height() > 0 && history.findings().unwrap().height() > 0);
    assert!(history.workers().unwrap().height() > 0);
}

#[test]
fn a_plan_is_explained_without_a_run() {
    let session = Session::local(2).unwrap();
    let query = || numbers(400).into_partitions(8).group_by([col("id") % lit(7)]).agg([len()]);
    let plan = query().explain_on(&session).unwrap();
    assert_eq!(plan.to_string(), session.explain(&query()).unwrap());
    assert_eq!(plan.stages.last().map(|stage| stage.stage as usize + 1), Some(plan.stages.len()));
    assert!(plan.to_mermaid().starts_with("flowchart") && plan.to_json().contains("regatta_explain"));
}

#[test]
fn findings_speak_of_tasks_that_are_too_few_or_too_many_and_of_memory() {
    let analyze = |session: &Session, query: LazyFrame| query.explain_analyze_on(session).unwrap();
    let three = Session::local(3).unwrap();
    let few = numbers(4800).into_partitions(2).with_column(slow::pool().replicas(2).on([col("id")]).alias("slow"));
    let few = analyze(&three, few);
    assert!(found(&few).contains(&"few-tasks"), "{few:#}");
    let tiny = analyze(&three, numbers(10_050).into_partitions(10_050));
    assert!(found(&tiny).contains(&"tiny-tasks"), "{tiny:#}");
    // So many workers would have next to no memory each, if there were more than one.
    let config = regatta::Config { autoscaling_threshold: 1e12, ..regatta::Config::default() };
    let small = Session::elastic_with(1..=512, config).unwrap();
    let slow = slow::pool().on([col("id")]).alias("slow");
    let near = analyze(&small, numbers(2000).into_partitions(1).with_column(slow));
    assert_eq!(small.processes().len(), 1);
    assert!(found(&near).contains(&"memory-near"), "{near:#}");
}

#[test]
fn findings_speak_of_a_query_that_waits_for_room() {
    let session = Session::local(1).unwrap();
    let all = session.status().unwrap().workers[0].cpus.0;
    let large = |rows: i64| {
        let called = slow::pool().cpus(all - 0.5).keep_warm(Duration::ZERO).batch(50).on([col("id")]);
        numbers(rows).with_column(called.alias(format!("slow {rows}")))
    };
    let mut first = session.submit(large(4000)).unwrap();
    let works = |run: &Run| run.status().unwrap().unwrap().stages.iter().any(|stage| stage.tasks.1 > 0);
    eventually("it has the room", || works(&first));
    // Another UDF: of the same there is one pool.
    let other = slow_at_the_end::pool().cpus(all - 0.5).batch(50).on([col("id")]).alias("late");
    let waits = numbers(100).with_column(other).explain_analyze_on(&session).unwrap();
    assert!(found(&waits).contains(&"waited-for-room"), "{waits:#}");
    first.collect().unwrap();
}

#[test]
fn findings_speak_of_replicas_that_have_nothing_to_do() {
    let session = Session::local(1).unwrap();
    let query = numbers(10_500).with_column(quick::pool().on([col("id")]).alias("quick"));
    let query = query.with_column(slow::pool().replicas(1).batch(100).on([col("quick")]).alias("slow"));
    let idle = query.explain_analyze_on(&session).unwrap();
    let said = idle.findings.iter().find(|finding| finding.id == "pool-idle").unwrap_or_else(|| panic!("{idle:#}"));
    assert!(said.says.contains("quick"), "{said:?}");
}

#[test]
fn findings_have_nothing_to_say_of_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    tpch::write(folder.path(), 0.05).unwrap();
    for session in [Session::local(4).unwrap(), Session::native().unwrap()] {
        let mut run = session.submit(demo::query(folder.path()).unwrap()).unwrap();
        assert_eq!(run.collect().unwrap().height(), 5);
        let profile = run.profile().unwrap();
        assert_eq!(found(&profile), Vec::<&str>::new(), "{profile:#}");
    }
}

/// Rows that went in and out at the engine's nodes of this name.
fn rows_at(profile: &Profile, name: &str) -> (u64, u64) {
    let nodes = profile.stages.iter().flat_map(|stage| &stage.spent.nodes).filter(|node| node.name.contains(name));
    nodes.fold((0, 0), |(rows_in, rows_out), node| (rows_in + node.rows_in, rows_out + node.rows_out))
}

#[test]
fn an_analysed_query_says_what_each_node_of_the_engine_did() {
    let folder = tempfile::tempdir().unwrap();
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let query = || {
            let even = (col("id") % lit(2)).eq(lit(0));
            // Tasks of few rows run in memory.
            let query = numbers(40_000).into_partitions(2).filter(even);
            query.group_by([col("id") % lit(7)]).agg([len().alias("rows")]).filter(col("rows").gt(lit(0u32)))
        };
        let profile = query().explain_analyze_on(&session).unwrap();
        let nodes = || profile.stages.iter().flat_map(|stage| &stage.spent.nodes);
        assert!(nodes().all(|node| node.rows_in + node.rows_out + node.time > 0), "{profile:#}");
        // There are more than of the frame where rows go from stage to stage, and groups are filtered, too.
        assert!(rows_at(&profile, "in-memory-source").1 >= 40_000, "{profile:#}");
        let (rows_in, rows_out) = rows_at(&profile, "filter");
        assert!((40_000..=40_007).contains(&rows_in) && rows_out == rows_in - 20_000, "{profile:#}");
        assert!(rows_at(&profile, "group-by").0 >= 20_000, "{profile:#}");
        assert!(nodes().map(|node| node.time).sum::<u64>() > 0, "{profile:#}");
        assert!(format!("{profile:#}").contains("engine: filter"), "{profile:#}");
        // Who only wants the result pays nothing.
        let mut run = session.submit(query()).unwrap();
        run.collect().unwrap();
        assert!(run.profile().unwrap().stages.iter().all(|stage| stage.spent.nodes.is_empty()));
        let scanned = row_groups(folder.path(), 3000).explain_analyze_on(&session).unwrap();
        assert_eq!(rows_at(&scanned, "multi-scan").1, 3000, "{scanned:#}");
        // What streams nowhere is one node.
        let structs = df!["a" => [1, 2]].unwrap().lazy().select([as_struct(vec![col("a")]).alias("s")]);
        let crossed = structs.clone().cross_join(structs, None).explain_analyze_on(&session).unwrap();
        assert_eq!(rows_at(&crossed, "in-memory engine").1, 4, "{crossed:#}");
    }
}

#[test]
fn what_queries_did_is_there_as_tables() {
    let session = Session::native().unwrap();
    numbers(100).collect_on(&session).unwrap();
    assert!(numbers(10).with_column(Flaky.pool().on([col("id")]).alias("flaky")).collect_on(&session).is_err());
    let asked = |query: &str| session.sql(query).unwrap().collect_on(&session).unwrap();
    let states = asked("SELECT state, rows FROM regatta_queries ORDER BY state");
    assert!(states.equals(&df!["state" => ["done", "failed"], "rows" => [100u64, 0]].unwrap()), "{states}");
    let why = asked("SELECT e.text FROM REGATTA_ERRORS e".to_lowercase().as_str());
    assert!(why.height() > 0);
    for table in ["stages", "tasks", "pools", "edges", "waits", "nodes", "workers", "findings"] {
        asked(&format!("SELECT count(*) FROM regatta_{table}"));
    }
    // They are no tables of the session's, and one of its own stands before them.
    assert_eq!(asked("SHOW TABLES").height(), 0);
    session.register("regatta_errors", numbers(3));
    assert_eq!(asked("SELECT id FROM regatta_errors").height(), 3);
    assert_eq!(asked("SHOW TABLES").height(), 1);
}

#[test]
fn a_status_is_there_after_the_end_and_what_was_reported_in_vain_is_told_apart() {
    let session = Session::local(1).unwrap();
    let half = |rows| numbers(rows).with_column(Half.pool().batch(50).max_retries(0).on([col("id")]).alias("half"));
    let mut well = session.submit(half(50)).unwrap();
    well.collect().unwrap();
    let status = well.status().unwrap().unwrap();
    assert_eq!((status.state, status.metrics["scenarios::profiles::Half"].counter("rows")), (QueryState::Done, 50));
    assert!(status.stages.iter().all(|stage| stage.tasks.0 + stage.tasks.1 == 0 && stage.waits.is_empty()), "{status}");
    assert_eq!(status.stages.last().unwrap().output.0, 50, "{status}");
    let mut failed = session.submit(half(100)).unwrap();
    failed.collect().unwrap_err();
    let (status, profile) = (failed.status().unwrap().unwrap(), failed.profile().unwrap());
    assert_eq!((status.state, status.metrics.is_empty()), (QueryState::Failed, true), "{status}");
    assert_eq!(
        (&profile.pools[0].reported[..], &profile.pools[0].in_vain[..]),
        (&[][..], &[("rows".to_owned(), 50.0)][..])
    );
}
