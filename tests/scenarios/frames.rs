//! How a query is dealt to tasks, as it can be seen from outside.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use regatta::Config;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{difference, eventually};

/// The height of each batch that a call sees: without a batch size, a task's rows are one call if they are few.
#[regatta::udf(dtype = DataType::Int64)]
fn batch_height(x: &Series) -> Series {
    Series::new("".into(), vec![x.len() as i64; x.len()])
}

fn numbers(rows: i64) -> LazyFrame {
    let numbers: Vec<_> = (0..rows).collect();
    df!["id" => &numbers, "text" => numbers.iter().map(|n| format!("number {n}, in words")).collect::<Vec<_>>()]
        .unwrap()
        .lazy()
}

fn heights(session: &Session, query: LazyFrame) -> Vec<usize> {
    session.submit(query).unwrap().batches().map(|batch| batch.unwrap().height()).collect()
}

#[test]
fn into_partitions_deals_equal_shares_in_order() {
    let session = Session::local(2).unwrap();
    let udf = |query: LazyFrame| query.with_column(batch_height::pool().replicas(2).on([col("id")]).alias("height"));
    let seen = udf(numbers(400).into_partitions(100)).collect_on(&session).unwrap();
    assert_eq!(seen.column("height").unwrap().i64().unwrap().iter().collect::<Vec<_>>(), vec![Some(4); 400]);
    // Split and merged behind a UDF stage, whose tasks leave partitions of other heights.
    let again = |n| udf(numbers(400).into_partitions(7)).drop(by_name(["height"], true, false)).into_partitions(n);
    assert_eq!(heights(&session, again(10)), vec![40; 10]);
    assert_eq!(heights(&session, again(3)), [133, 133, 134]);
    assert_eq!(heights(&session, numbers(2).into_partitions(4)).iter().sum::<usize>(), 2);
    // Also where the source falls into as many pieces, but not into equal ones.
    assert_eq!(heights(&session, numbers(2000).filter(col("id").lt(lit(1000))).into_partitions(2)), [500, 500]);
    let folder = tempfile::tempdir().unwrap();
    for (file, rows) in [10, 5000, 1, 200].into_iter().enumerate() {
        let to = std::fs::File::create(folder.path().join(format!("{file}.parquet"))).unwrap();
        ParquetWriter::new(to).finish(&mut numbers(rows).collect().unwrap()).unwrap();
    }
    let files = format!("{}/*.parquet", folder.path().display());
    let scan = || LazyFrame::scan_parquet(files.as_str().into(), Default::default()).unwrap();
    let twice = scan().with_column(concat_list([col("id"), col("id")]).unwrap().alias("two"));
    let twice = twice.explode(by_name(["two"], true, false), ExplodeOptions { empty_as_null: true, keep_nulls: true });
    for (query, rows) in [(scan(), 5211), (scan().filter(col("id").lt(lit(150))), 311), (twice, 10_422)] {
        for of in [1, 2, 3, 4] {
            let heights = heights(&session, query.clone().into_partitions(of));
            let equal: Vec<_> = (0..of).map(|part| rows * (part + 1) / of - rows * part / of).collect();
            assert_eq!(heights, equal, "{rows} rows, of {of}");
        }
    }
    let ordered = again(10).collect_on(&session).unwrap();
    assert!(ordered.equals(&numbers(400).collect().unwrap()), "{ordered}");
    assert_eq!(session.partitions_held(), 0);
}

#[test]
fn a_hash_regroup_brings_equal_keys_together_in_as_many_tasks_as_were_asked_for() {
    let session = Session::local(2).unwrap();
    let keyed = numbers(5000).with_column((col("id") % lit(40)).alias("key"));
    let partitions = |query: LazyFrame| {
        let mut run = session.submit(query).unwrap();
        let partitions: Vec<_> = run.batches().collect::<Result<_, _>>().unwrap();
        partitions
    };
    for query in [
        keyed.clone().repartition(8, [col("key")]),
        // From many tasks, behind a UDF, by a key that is not in the answer.
        keyed
            .clone()
            .into_partitions(5)
            .with_column(batch_height::pool().replicas(2).on([col("id")]).alias("height"))
            .repartition(8, [col("key") * lit(2)]),
    ] {
        let partitions = partitions(query);
        assert_eq!(partitions.len(), 8);
        let mut seen = BTreeSet::new();
        for partition in &partitions {
            let keys: BTreeSet<_> = partition.column("key").unwrap().i64().unwrap().iter().flatten().collect();
            assert!(keys.iter().all(|key| seen.insert(*key)), "{keys:?} are elsewhere too");
        }
        assert_eq!(seen.len(), 40);
        let rows = partitions.iter().flat_map(|p| p.column("id").unwrap().i64().unwrap().iter().flatten());
        assert!(rows.collect::<BTreeSet<_>>().into_iter().eq(0..5000), "each row once");
        assert_eq!(partitions.iter().map(DataFrame::height).sum::<usize>(), 5000);
    }
    assert_eq!(partitions(numbers(10).repartition(3, [])).iter().map(DataFrame::height).collect::<Vec<_>>(), [3, 3, 4]);
    assert_eq!(session.partitions_held(), 0);
}

#[test]
fn a_shuffle_depends_on_rows_and_seed_alone() {
    let (native, local) = (Session::native().unwrap(), Session::local(2).unwrap());
    let ids = |frame: DataFrame| frame.column("id").unwrap().i64().unwrap().iter().flatten().collect::<Vec<_>>();
    let shuffled = |seed| numbers(1000).shuffle(seed);
    let one = ids(shuffled(1).collect_on(&local).unwrap());
    assert_eq!(one, ids(shuffled(1).collect_on(&native).unwrap()));
    assert_eq!(one, ids(shuffled(1).collect().unwrap()), "plain Polars too");
    assert_ne!(one, ids(shuffled(2).collect_on(&local).unwrap()));
    assert_eq!(one.iter().copied().collect::<BTreeSet<_>>(), (0..1000).collect(), "no row is lost or doubled");
    // Of 999 neighbours about one is still one; of halves, about half has changed sides.
    assert!(one.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count() < 20, "{one:?}");
    assert!((200..300).contains(&one[..500].iter().filter(|id| **id < 500).count()), "{one:?}");
}

#[test]
fn a_large_frame_travels_beside_the_plan_and_is_dropped_with_its_query() {
    let session = Session::local(2).unwrap();
    let frame = Arc::new(numbers(200_000).collect().unwrap());
    let query = frame.as_ref().clone().lazy().with_column((col("id") * lit(2)).alias("twice"));
    let mut run = session.submit(query.clone()).unwrap();
    let partitions: Vec<_> = run.batches().collect::<Result<_, _>>().unwrap();
    assert!(partitions.len() > 1, "{}", run.explain());
    let whole = partitions.into_iter().reduce(|whole, next| whole.vstack(&next).unwrap()).unwrap();
    assert!(whole.equals(&query.collect().unwrap()));
    assert!(session.partitions_held() > 0, "kept while the query lives");
    drop(run);
    assert_eq!(session.partitions_held(), 0);
}

/// Passes its input on, and leaves a file for each row that it has seen in the folder.
#[regatta::udf(deterministic)]
fn leave_a_file(id: i64, folder: &str) -> UdfResult<i64> {
    // Seen once more, it is two bytes long.
    let mut file = OpenOptions::new().create(true).append(true).open(Path::new(folder).join(id.to_string()))?;
    file.write_all(b"x")?;
    Ok(id)
}

/// Its inputs.
fn in_folder(folder: &Path) -> [Expr; 2] {
    [col("id"), lit(folder.to_str().unwrap())]
}

/// Rows that were seen, and how often all together.
fn seen(folder: &Path) -> (BTreeSet<i64>, u64) {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    let rows = files.iter().map(|file| file.file_name().to_str().unwrap().parse().unwrap()).collect();
    (rows, files.iter().map(|file| file.metadata().unwrap().len()).sum())
}

#[test]
fn a_limit_runs_no_task_that_is_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(2).unwrap();
    let workers = session.processes();
    let call = leave_a_file::pool().replicas(2).batch(10).on(in_folder(folder.path()));
    let query = numbers(4000).into_partitions(400).filter(call.gt_eq(lit(13))).slice(2, 5);
    let first = query.clone().collect_on(&session).unwrap();
    assert_eq!(first.column("id").unwrap().i64().unwrap().iter().flatten().collect::<Vec<_>>(), [15, 16, 17, 18, 19]);
    let (rows, _) = seen(folder.path());
    assert!(rows.contains(&19) && rows.len() < 2000, "{} of 4000 rows were looked at", rows.len());
    for _ in 0..3 {
        assert!(query.clone().collect_on(&session).unwrap().equals(&first));
    }
    assert_eq!(session.processes(), workers, "no worker was lost over it");
    assert_eq!(session.partitions_held(), 0);
}

#[test]
fn the_same_call_twice_runs_once() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(2).unwrap();
    let call = leave_a_file::pool().batch(17).on(in_folder(folder.path()));
    let query = numbers(300).with_columns([
        (call.clone() * call.clone()).alias("square"),
        when(call.clone().gt(lit(100))).then(call.clone()).otherwise(lit(0)).alias("condition"),
        as_struct(vec![call.clone().alias("in"), col("text")]).alias("struct"),
    ]);
    let frame = query.clone().collect_on(&session).unwrap();
    assert_eq!(frame.column("square").unwrap().i64().unwrap().get(299), Some(299 * 299));
    assert_eq!(seen(folder.path()), ((0..300).collect(), 300), "each row once");
    query.collect_on(&Session::native().unwrap()).unwrap();
    assert_eq!(seen(folder.path()).1, 600, "natively too");
}

#[test]
fn what_a_lost_worker_held_of_a_persisted_result_is_made_again_and_no_more_than_that() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(2).unwrap();
    let udf = leave_a_file::pool().replicas(2).batch(10).on(in_folder(folder.path())).alias("seen");
    let persisted = numbers(400).into_partitions(40).with_column(udf).persist_on(&session).unwrap();
    assert_eq!(seen(folder.path()).1, 400);
    let sums = || persisted.lazy().select([col("seen").sum(), len().alias("rows")]);
    let before = sums();
    for process in [session.processes()[0], session.processes()[1]] {
        assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
        for query in [before.clone(), sums()] {
            let answer = query.collect_on(&session).unwrap();
            assert_eq!(answer.column("seen").unwrap().i64().unwrap().get(0), Some(399 * 200));
            assert_eq!(answer.column("rows").unwrap().u32().unwrap().get(0), Some(400));
        }
        eventually("another worker is there", || session.processes().len() == 2);
    }
    let (_, times) = seen(folder.path());
    assert!((401..1200).contains(&times), "{times} rows were made for 400, of which workers were lost twice");
    drop(persisted);
    eventually("nothing is left of it", || session.partitions_held() == 0);
}

#[test]
fn a_small_result_is_here_with_the_ends_of_its_tasks_whatever_becomes_of_the_workers() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(2).unwrap();
    let udf = leave_a_file::pool().replicas(2).on(in_folder(folder.path())).alias("seen");
    let query = numbers(400).into_partitions(40).with_column(udf);
    let mut run = session.submit(query).unwrap();
    eventually("all is done", || {
        run.status().unwrap().is_some_and(|s| s.stages.iter().all(|s| s.tasks.0 + s.tasks.1 == 0))
    });
    for process in session.processes() {
        assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
    }
    let rows = run.collect().unwrap();
    let ids = rows.column("seen").unwrap().i64().unwrap().iter().flatten();
    assert!(ids.eq(0..400), "{rows}");
    assert_eq!(seen(folder.path()), ((0..400).collect(), 400), "nothing was made again");
    assert_eq!(session.partitions_held(), 0, "nor is anything left here");
}

#[test]
fn into_batches_hands_on_batches_of_that_height() {
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let height = |name: &str| batch_height::pool().replicas(2).on([col("id")]).alias(name);
        // A large partition in small batches, then small batches in larger ones, across a filter between them.
        let query = numbers(10_000).into_batches(100).with_column(height("small")).filter(col("id").lt(lit(9_999)));
        let query = query.into_batches(500).with_column(height("large"));
        let frame = query.collect_on(&session).unwrap();
        let heights = |name: &str| frame.column(name).unwrap().i64().unwrap().iter().flatten().collect::<Vec<_>>();
        assert!(heights("small").iter().all(|rows| (80..=100).contains(rows)), "{:?}", heights("small"));
        let large = heights("large");
        let (full, last) = large.split_at(large.len() - 500);
        assert!(full.iter().all(|rows| (400..=500).contains(rows)), "{full:?}");
        assert!(last.iter().all(|rows| *rows <= 500), "{last:?}");
        assert!(
            frame.column("id").unwrap().equals(numbers(9_999).collect().unwrap().column("id").unwrap()),
            "in order"
        );
    }
}

#[test]
fn calls_have_as_many_rows_as_was_asked_for_however_the_rows_come() {
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let scarce = numbers(10_000).into_partitions(2).filter((col("id") % lit(3)).eq(lit(0))).into_batches(7);
        let query = scarce.with_columns([
            batch_height::pool().batch(64).on([col("id")]).alias("exact"),
            batch_height::pool().batch(60..=500).on([col("id")]).alias("range"),
        ]);
        let frame = query.collect_on(&session).unwrap();
        assert_eq!(frame.height(), 3334);
        for (name, least, most) in [("exact", 64, 64), ("range", 60, 500)] {
            let heights = frame.column(name).unwrap().i64().unwrap().iter().flatten();
            let others: Vec<_> = heights.filter(|rows| !(least..=most).contains(rows)).collect();
            assert!(others.len() < 2 * least as usize, "the last call of each of two tasks at most: {name} {others:?}");
        }
    }
}

#[test]
fn a_native_query_is_plain_polars_and_leaves_nothing_in_a_store() {
    let scratch = tempfile::tempdir().unwrap();
    let session =
        Session::native_with(Config { scratch: vec![scratch.path().to_owned()], ..Config::default() }).unwrap();
    // More than what a store keeps in memory: it would be in a file.
    let large = || numbers(100_000).filter(col("id").gt(lit(9)));
    let ends = || large().group_by([col("id") % lit(1000)]).agg([col("text").last().alias("last")]);
    let joined = large().join(ends(), [col("id")], [col("id")], JoinType::Inner.into());
    for query in [large(), ends(), joined, large().repartition(9, [col("text")]).into_batches(100), large().limit(3)] {
        let mut run = session.submit(query.clone()).unwrap();
        assert!(!run.explain().to_string().contains("stage 1"), "{}", run.explain());
        let mut rows: Vec<_> = run.batches().collect::<Result<_, _>>().unwrap();
        assert_eq!(
            (rows.len(), session.partitions_held(), blocks(scratch.path())),
            (1, 0, 0),
            "the run is there still"
        );
        let plain = query.with_streaming(true).collect().unwrap();
        assert_eq!(difference(&rows.remove(0), &plain, false, &[]), None);
    }
    // What is to stay is in a store.
    let persisted = large().persist_on(&session).unwrap();
    assert_eq!((session.partitions_held(), blocks(scratch.path())), (1, 1));
    let again = persisted.lazy().join(persisted.lazy(), [col("id")], [col("id")], JoinType::Semi.into());
    assert!(again.collect_on(&session).unwrap().equals(&large().collect().unwrap()));
    drop(persisted);
    eventually("nothing is left of it", || blocks(scratch.path()) == 0);
}

/// Files of stores below a folder.
fn blocks(folder: &Path) -> usize {
    let below = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => blocks(&entry.path()),
        false => usize::from(entry.path().extension().is_some_and(|end| end == "blocks")),
    };
    std::fs::read_dir(folder).unwrap().map(|entry| below(entry.unwrap())).sum()
}

const AS_NATIVE: &str = "REGATTA_TEST_NATIVE_PARTITIONS";

/// This test binary, started again by the test below, whose standard error is read there.
#[test]
fn driver_with_one_partition() {
    if std::env::var_os(AS_NATIVE).is_some() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        let session = Session::native().unwrap();
        for _ in 0..3 {
            let query = numbers(100).into_partitions(4).repartition(3, [col("id")]);
            assert_eq!(query.collect_on(&session).unwrap().height(), 100);
        }
    }
}

#[test]
fn a_native_session_says_once_that_partitions_have_no_effect() {
    let mut driver = Command::new(std::env::current_exe().unwrap());
    let said = driver.args(["--exact", "frames::driver_with_one_partition"]).env(AS_NATIVE, "1").output().unwrap();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{errors}");
    for verb in ["into_partitions", "repartition"] {
        assert_eq!(errors.matches(&format!("{verb} has no effect in a native session")).count(), 1, "{errors}");
    }
}
