//! Files of a sink are all there, each row once, or none of them is.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use polars_io::HiveOptions;
use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, SinkTarget, UnifiedSinkArgs};
use regatta::error::SinkError;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{Config, Error};

use crate::endings::signal_in_the_middle;
use crate::errors::says;
use crate::udfs::{Fault, Faulty, Process, numbers, row_groups};

fn path(path: &Path) -> PlRefPath {
    PlRefPath::try_from_path(path).unwrap()
}

pub(crate) fn parquet() -> FileWriteFormat {
    FileWriteFormat::Parquet(Arc::default())
}

pub(crate) fn into_file(query: LazyFrame, target: &Path, format: FileWriteFormat) -> LazyFrame {
    let to = SinkDestination::File { target: SinkTarget::Path(path(target)) };
    query.sink(to, format, UnifiedSinkArgs::default()).unwrap()
}

/// One folder for each value of `key`.
fn into_folders(query: LazyFrame, target: &Path) -> LazyFrame {
    let keyed = PartitionStrategy::Keyed { keys: vec![col("key")], include_keys: false, keys_pre_grouped: false };
    let to = SinkDestination::Partitioned {
        base_path: path(target),
        file_path_provider: None,
        partition_strategy: keyed,
        max_rows_per_file: IdxSize::MAX,
        approximate_bytes_per_file: u64::MAX,
    };
    query.sink(to, parquet(), UnifiedSinkArgs { mkdir: true, ..Default::default() }).unwrap()
}

fn keyed(query: LazyFrame) -> LazyFrame {
    query.with_column((col("x") % lit(3)).alias("key"))
}

/// Every row that is in the folders, in the order of `x`.
fn rows_of(folder: &Path) -> DataFrame {
    let args = ScanArgsParquet { hive_options: HiveOptions::new_enabled(), ..Default::default() };
    let scan = LazyFrame::scan_parquet(path(folder), args).unwrap();
    scan.select([col("x"), col("key")]).sort(["x"], SortMultipleOptions::default()).collect().unwrap()
}

/// All files below, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        match entry.metadata().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

fn assert_empty(folder: &Path) {
    eventually("nothing is left in the folder", || std::fs::read_dir(folder).unwrap().count() == 0);
}

/// Sixty tasks that write folders, each of which takes a moment: the UDF is where it cannot be lifted, so in the same stage.
fn slow(folder: &Path) -> LazyFrame {
    let in_place = concat_list([col("x")]).unwrap().list().eval(Process.pool().on([col("")])).list().len();
    keyed(row_groups(folder, 12_000).into_partitions(60)).with_column(in_place.alias("n"))
}

#[test]
fn a_file_of_each_format_is_what_polars_reads_back() {
    let sessions = [Session::native().unwrap(), Session::local(2).unwrap()];
    for session in &sessions {
        let folder = tempfile::tempdir().unwrap();
        let query = || keyed(numbers()).with_column((col("x") * lit(2)).alias("y")).filter(col("key").eq(lit(1)));
        let wanted = query().collect().unwrap();
        let write = |name: &str, format| {
            let target = folder.path().join(name);
            let written = into_file(query(), &target, format).collect_on(session).unwrap();
            assert_eq!(written.column("path").unwrap().str().unwrap().get(0), target.to_str());
            let bytes = std::fs::metadata(&target).unwrap().len();
            assert_eq!(written.column("bytes").unwrap().u64().unwrap().get(0), Some(bytes));
            path(&target)
        };
        let back = LazyFrame::scan_parquet(write("x.parquet", parquet()), Default::default()).unwrap();
        assert!(back.collect().unwrap().equals(&wanted));
        let back = LazyFrame::scan_ipc(
            write("x.ipc", FileWriteFormat::Ipc(Default::default())),
            Default::default(),
            Default::default(),
        );
        assert!(back.unwrap().collect().unwrap().equals(&wanted));
        let back = LazyCsvReader::new(write("x.csv", FileWriteFormat::Csv(Default::default()))).finish().unwrap();
        assert!(back.collect().unwrap().equals(&wanted));
        let back =
            LazyJsonLineReader::new(write("x.ndjson", FileWriteFormat::NDJson(Default::default()))).finish().unwrap();
        assert!(back.collect().unwrap().equals(&wanted));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "four files and nothing else");
        // What is there is replaced.
        write("x.parquet", parquet());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}

#[test]
fn folders_hold_every_row_once_with_and_without_udfs() {
    for session in [Session::native().unwrap(), Session::local(2).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let source = || row_groups(folder.path(), 4000);
        let udf = source().with_column(Process.pool().replicas(2).on([col("x")]).alias("process"));
        for (name, query) in [("plain", keyed(source())), ("udf", keyed(udf))] {
            let target = folder.path().join("some").join(name);
            let sink = || into_folders(query.clone(), &target);
            let mut run = session.submit(sink()).unwrap();
            let written = run.collect().unwrap();
            assert!(rows_of(&target).equals(&keyed(source()).collect().unwrap()), "{}", run.explain());
            let there = files(&target);
            let named: Vec<_> =
                written.column("path").unwrap().str().unwrap().iter().flatten().map(PathBuf::from).collect();
            assert_eq!(named.iter().collect::<std::collections::BTreeSet<_>>(), there.iter().collect());
            if !session.processes().is_empty() {
                assert!(there.len() > 3, "each task writes its own: {there:?}");
            }
            sink().sink_on(&session, SinkMode::Overwrite).unwrap();
            assert_eq!(files(&target), there, "again gives the same files, not more");
        }
        assert_eq!(session.partitions_held(), 0);
    }
}

#[test]
fn a_sink_that_fails_is_cancelled_or_is_dropped_leaves_nothing() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let session = Session::local(2).unwrap();
    let target = out.path().join("made/for/it");
    let broken = numbers().with_column(Faulty(Fault::RunPanic).pool().on([col("x")]).alias("y"));
    assert!(into_folders(keyed(broken.clone()), &target).collect_on(&session).is_err());
    assert_empty(out.path());
    assert!(into_file(broken, &out.path().join("x.parquet"), parquet()).collect_on(&session).is_err());
    assert_empty(out.path());
    let begun = || {
        let run = session.submit(into_folders(slow(source.path()), &target)).unwrap();
        eventually("a task is done", || run.status().unwrap().is_some_and(|s| s.stages[0].tasks.2 > 0));
        assert!(!files(out.path()).is_empty() && !target.exists(), "files wait to be published");
        run
    };
    let mut run = begun();
    run.cancel();
    assert!(matches!(run.collect(), Err(Error::Cancelled)));
    assert_empty(out.path());
    drop(begun());
    assert_empty(out.path());
    drop(session.submit(into_folders(keyed(numbers()), &target)).unwrap());
    assert_empty(out.path());
}

#[test]
fn a_worker_that_is_lost_in_the_middle_neither_loses_rows_nor_doubles_them() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let session = Session::local(3).unwrap();
    let mut run = session.submit(into_folders(slow(source.path()), &out.path().join("t"))).unwrap();
    signal_in_the_middle("-9", &session, &run, 1);
    let written = run.collect().unwrap();
    let rows = rows_of(&out.path().join("t"));
    assert!(rows.equals(&keyed(row_groups(source.path(), 12_000)).collect().unwrap()), "{rows}");
    assert_eq!(files(out.path()).len(), written.height(), "no file of another attempt");
}

#[test]
fn a_folder_that_is_not_there_is_an_error_at_once_that_names_it() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("missing/x.parquet");
    let error = Session::native().unwrap().submit(into_file(numbers(), &target, parquet())).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("mkdir: true"), "{error}");
    assert_empty(out.path());
}

#[test]
fn a_folder_that_holds_something_is_written_to_only_as_somebody_says() {
    let source = tempfile::tempdir().unwrap();
    let (native, local) = (Session::native().unwrap(), Session::local(2).unwrap());
    let query = |from: i64| row_groups(source.path(), 4000).filter(col("x").gt_eq(lit(from)));
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("t");
    let sink = |from: i64| into_folders(keyed(query(from)), &target);
    // However many files each of the two writes.
    sink(0).collect_on(&local).unwrap();
    let there = files(&target);
    for session in [&native, &local] {
        let error = sink(0).collect_on(session).unwrap_err();
        assert!(matches!(&error, Error::Sink(SinkError::Taken { folder }) if *folder == target), "{error}");
        assert!(!error.is_retryable() && !error.may_have_run());
        says(&error, &["holds something", "SinkMode::Append", "SinkMode::Overwrite"]);
        assert_eq!(files(&target), there);
    }
    // A key that has no rows any more has no files either.
    let one = into_folders(keyed(query(0)).filter(col("key").eq(lit(1))), &target);
    one.sink_on(&native, SinkMode::Overwrite).unwrap();
    assert!(rows_of(&target).equals(&keyed(query(0)).filter(col("key").eq(lit(1))).collect().unwrap()));
    sink(0).sink_on(&local, SinkMode::Overwrite).unwrap();
    assert!(rows_of(&target).equals(&keyed(query(0)).collect().unwrap()));
    let before: Vec<_> = files(&target);
    for session in [&native, &local] {
        let written = sink(3000).sink_on(session, SinkMode::Append).unwrap();
        assert!(written.height() >= 3);
    }
    assert!(before.iter().all(|file| file.exists()));
    let twice = concat([keyed(query(0)), keyed(query(3000)), keyed(query(3000))], UnionArgs::default()).unwrap();
    let twice = twice.sort(["x"], SortMultipleOptions::default()).collect().unwrap();
    assert!(rows_of(&target).equals(&twice));
    let file = out.path().join("x.parquet");
    let error = into_file(numbers(), &file, parquet()).sink_on(&native, SinkMode::Append).unwrap_err();
    assert!(matches!(error, Error::Sink(SinkError::OneFile { .. })), "{error}");
}

#[test]
fn a_sink_that_cannot_be_published_leaves_what_was_there() {
    let session = Session::native().unwrap();
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("t");
    into_folders(keyed(numbers()), &target).collect_on(&session).unwrap();
    std::fs::remove_dir_all(target.join("key=2")).unwrap();
    std::fs::write(target.join("key=2"), "in the way").unwrap();
    let before = files(&target);
    let error = into_folders(keyed(numbers()), &target).sink_on(&session, SinkMode::Append).unwrap_err();
    assert!(matches!(error, Error::Sink(SinkError::Publish { .. })) && error.may_have_run(), "{error}");
    assert_eq!(files(out.path()), before, "nor is anything else there");
    into_folders(keyed(numbers()), &target).sink_on(&session, SinkMode::Overwrite).unwrap();
    assert!(rows_of(&target).equals(&keyed(numbers()).collect().unwrap()), "as one, it takes the place of anything");
    // So does one file.
    let file = out.path().join("folder.parquet");
    std::fs::create_dir(&file).unwrap();
    let error = into_file(numbers(), &file, parquet()).collect_on(&session).unwrap_err();
    says(&error, &["could not publish", "what was there still is"]);
    assert!(file.is_dir());
}

const AS_WRITER: &str = "REGATTA_TEST_AS_WRITER";

/// What each kind of reader sees: of the folder, of all that is below it, and of all that is below what it is in.
fn readers(out: &Path) -> Vec<DataFrame> {
    let paths = ["t", "t/**/*.parquet", "**/*.parquet"].map(|path_| path(&out.join(path_)));
    let args = || ScanArgsParquet { hive_options: HiveOptions::new_enabled(), ..Default::default() };
    let read = |path| LazyFrame::scan_parquet(path, args()).unwrap().select([col("x")]);
    let sorted = |query: LazyFrame| query.sort(["x"], SortMultipleOptions::default()).collect().unwrap();
    paths.into_iter().map(|path| sorted(read(path))).collect()
}

/// Started by the test below: a driver that is killed in the middle of a sink.
#[test]
fn writes_until_it_is_killed() {
    if let Some(out) = std::env::var_os(AS_WRITER) {
        let (source, out) = (tempfile::tempdir().unwrap(), PathBuf::from(out));
        let config = Config { scratch: vec![out.join("../scratch")], ..Config::default() };
        let session = Session::local_with(2, config).unwrap();
        let mut run = session.submit_sink(into_folders(slow(source.path()), &out.join("t")), SinkMode::Append).unwrap();
        eventually("files are written", || run.status().unwrap().is_some_and(|s| s.stages[0].tasks.2 > 2));
        println!("\nwrites");
        run.collect().unwrap();
    }
}

#[test]
fn readers_see_nothing_of_a_sink_before_it_is_published_nor_after_its_driver_was_killed() {
    let base = tempfile::tempdir().unwrap();
    let (out, scratch) = (base.path().join("out"), base.path().join("scratch"));
    std::fs::create_dir(&out).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    let config = || Config { scratch: vec![scratch.clone()], ..Config::default() };
    into_folders(keyed(numbers()), &out.join("t")).collect_on(&Session::native().unwrap()).unwrap();
    let before = readers(&out);
    assert!(before.iter().all(|frame| frame.equals(&numbers().collect().unwrap())));
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["sinks::writes_until_it_is_killed", "--exact", "--nocapture"]).env(AS_WRITER, &out);
    let mut writer = writer.stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line == "writes"));
    assert!(std::fs::read_dir(&out).unwrap().count() == 2, "it writes beside the folder");
    let meanwhile = readers(&out);
    writer.kill().unwrap();
    writer.wait().unwrap();
    for (before, after) in before.iter().zip(meanwhile.iter().chain(&readers(&out))) {
        assert!(after.equals(before), "{after}");
    }
    // Its workers end at their own pace, and hold its folder until then.
    eventually("the next session removes what it left", || {
        drop(Session::native_with(config()).unwrap());
        std::fs::read_dir(&out).unwrap().count() == 1
    });
}
