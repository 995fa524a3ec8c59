//! What a lost worker held is made again, and never mixed with what was made before.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, UnifiedSinkArgs};
use regatta::observe::StageFigures;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{FaultPlan, TestCluster, assert_same_as_polars, eventually};
use regatta::{Error, WorkerId};
use serde::{Deserialize, Serialize};

/// A list of numbers from 0, whose length depends on the number of the row and on what a file says at that moment.
#[derive(Serialize, Deserialize)]
struct Moody(PathBuf);

impl Moody {
    fn set(&self, mood: i64) {
        std::fs::write(&self.0, mood.to_string()).unwrap();
    }
}

#[regatta::udf]
impl Udf for Moody {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::List(Box::new(DataType::Int64)))
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        let mood: i64 = std::fs::read_to_string(&self.0)?.parse()?;
        let lists = batch.column(0)?.i64()?.iter().map(|x| {
            let length = (x.unwrap_or_default() + mood) % 7 + 1;
            Series::from_iter(0..length)
        });
        Ok(lists.collect::<ListChunked>().into_column())
    }
}

/// Hands on its numbers; those from 250 on wait for a file.
#[derive(Serialize, Deserialize)]
struct Held(PathBuf);

#[regatta::udf(deterministic)]
impl AsyncUdf for Held {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        while batch.column(0)?.i64()?.max() >= Some(250) && !self.0.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(batch.column(0)?.clone())
    }
}

const ROWS: i64 = 2400;

/// A session in which something goes wrong.
struct Scene {
    session: Session,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { session: Session::local(3).unwrap(), folder: tempfile::tempdir().unwrap() };
        scene.moody().set(0);
        scene
    }

    fn moody(&self) -> Moody {
        Moody(self.folder.path().join("mood"))
    }

    fn held(&self) -> Held {
        Held(self.folder.path().join("open"))
    }

    /// Six tasks make rows, a mood's number of each.
    fn moody_rows(&self) -> LazyFrame {
        let rows = df!["x" => (0..ROWS).collect::<Vec<_>>()].unwrap().lazy().into_partitions(6);
        rows.generate("w", self.moody().pool().replicas(2).on([col("x")]))
    }

    fn hold(&self, rows: LazyFrame) -> LazyFrame {
        rows.with_column(self.held().pool().on([col("x")]).alias("y"))
    }

    fn kill(&self, worker: usize) {
        let process = self.session.processes()[worker].to_string();
        assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
    }

    /// From here on rows come otherwise, one of the workers is gone, and nothing is held any more.
    fn disturb(&self, worker: usize) {
        self.moody().set(3);
        self.kill(worker);
        std::fs::write(self.held().0, "").unwrap();
    }
}

/// Every row has all of its elements, once: as one attempt of it leaves them.
fn assert_whole(rows: &DataFrame) {
    let mut elements: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let column = |name: &str| rows.column(name).unwrap().i64().unwrap().iter().flatten().collect::<Vec<_>>();
    for (x, w) in column("x").into_iter().zip(column("w")) {
        elements.entry(x).or_default().push(w);
    }
    let missing = (0..ROWS).filter(|x| !elements.contains_key(x)).count();
    elements.values_mut().for_each(|found| found.sort_unstable());
    let torn = elements.values().filter(|found| !found.iter().copied().eq(0..found.len() as i64));
    assert_eq!(
        (missing, torn.count()),
        (0, 0),
        "rows that are missing altogether, and that have lost or doubled elements"
    );
}

#[test]
fn rows_that_were_given_out_are_not_contradicted_when_their_kin_is_lost() {
    let mut contradicted = 0;
    for worker in 0..3 {
        let scene = Scene::new();
        let mut run = scene.session.submit(scene.hold(scene.moody_rows().into_partitions(12))).unwrap();
        let mut batches = run.batches();
        let first = batches.next().unwrap().unwrap();
        scene.disturb(worker);
        let others: Result<Vec<_>, _> = batches.collect();
        match others {
            Ok(others) => {
                assert_whole(&others.iter().fold(first, |all, batch| all.vstack(batch).unwrap()));
            }
            Err(error) => {
                assert!(matches!(error, Error::MadeOtherwise(_)) && error.is_retryable(), "{error}");
                contradicted += 1;
            }
        }
    }
    assert!(contradicted > 0, "none of the workers held what others were still to read");
}

#[test]
fn who_wants_the_whole_result_gets_one_run_of_it_though_some_had_come_of_another() {
    for worker in 0..3 {
        let scene = Scene::new();
        let query = scene.hold(scene.moody_rows().into_partitions(12));
        let whole = thread::scope(|scope| {
            let collects = scope.spawn(|| query.collect_on(&scene.session));
            eventually("some of the result is made", || {
                let queries = scene.session.status().unwrap().queries;
                queries.iter().any(|(_, query)| query.stages.last().is_some_and(|last| last.tasks.2 > 0))
            });
            scene.disturb(worker);
            collects.join().unwrap()
        });
        assert_whole(&whole.unwrap());
    }
}

#[test]
fn all_who_share_rows_by_position_run_again_when_those_come_otherwise() {
    for worker in 0..3 {
        let scene = Scene::new();
        let shared = scene.hold(scene.moody_rows().into_partitions(12));
        let mut run = scene.session.submit(shared.sort(["x", "w"], Default::default())).unwrap();
        eventually("a task that reads has ended", || run.status().unwrap().unwrap().stages[1].tasks.2 > 0);
        scene.disturb(worker);
        assert_whole(&run.collect().unwrap());
    }
}

#[test]
fn all_who_read_by_a_key_run_again_when_that_comes_otherwise() {
    for worker in 0..3 {
        let scene = Scene::new();
        let rows = df!["x" => (0..ROWS).collect::<Vec<_>>()].unwrap().lazy().into_partitions(6);
        let lists = rows.with_column(scene.moody().pool().replicas(2).on([col("x")]).alias("list"));
        // Rows that come otherwise go to other tasks.
        let by = lists.repartition(8, [col("list").list().len()]);
        let held = by.with_column(scene.held().pool().batch(20).on([col("x")]).alias("y"));
        let sorted = held.select([col("x"), (col("x") * lit(0)).alias("w")]).sort(["x"], Default::default());
        let mut run = scene.session.submit(sorted).unwrap();
        eventually("the keys are there", || run.status().unwrap().unwrap().stages[1].tasks.1 > 0);
        scene.disturb(worker);
        assert_whole(&run.collect().unwrap());
    }
}

/// One folder for each value of `key`.
fn into_folders(query: LazyFrame, target: &Path) -> LazyFrame {
    let keys = vec![col("key")];
    let to = SinkDestination::Partitioned {
        base_path: PlRefPath::try_from_path(target).unwrap(),
        file_path_provider: None,
        partition_strategy: PartitionStrategy::Keyed { keys, include_keys: false, keys_pre_grouped: false },
        max_rows_per_file: IdxSize::MAX,
        approximate_bytes_per_file: u64::MAX,
    };
    let parquet = FileWriteFormat::Parquet(Arc::default());
    query.sink(to, parquet, UnifiedSinkArgs { mkdir: true, ..Default::default() }).unwrap()
}

#[test]
fn files_of_attempts_that_were_superseded_are_not_published() {
    for worker in 0..2 {
        let scene = Scene::new();
        let target = scene.folder.path().join("sink");
        let rows = scene.hold(scene.moody_rows().into_partitions(12)).into_partitions(12);
        let keyed = rows.with_column((col("x") % lit(3)).alias("key"));
        let mut run = scene.session.submit(into_folders(keyed, &target)).unwrap();
        eventually("a task that reads has ended", || run.status().unwrap().unwrap().stages[1].tasks.2 > 0);
        scene.disturb(worker);
        run.collect().unwrap();
        let files = format!("{}/**/*.parquet", target.display());
        let written = LazyFrame::scan_parquet(files.as_str().into(), Default::default()).unwrap();
        assert_whole(&written.select([col("x"), col("w")]).collect().unwrap());
    }
}

#[test]
fn a_finished_result_is_made_again_as_far_as_it_is_lost_before_it_is_taken() {
    for worker in 0..3 {
        let scene = Scene::new();
        let rows = df!["x" => (0..ROWS).collect::<Vec<_>>()].unwrap().lazy().into_partitions(12);
        let twice = rows.with_column((col("x") * lit(2)).alias("twice"));
        let mut run = scene.session.submit(twice.clone()).unwrap();
        let is_done = || run.status().unwrap().unwrap().stages.iter().all(|stage| stage.tasks.2 == 12);
        eventually("it is done", is_done);
        scene.kill(worker);
        let taken = run.collect().unwrap();
        assert!(taken.equals(&twice.collect().unwrap()), "{taken}");
    }
}

/// A folder below which the stores of all workers are.
pub(super) fn partitions_on_disk(scratch: &Path) -> u64 {
    let entries = std::fs::read_dir(scratch).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => partitions_on_disk(&entry.path()),
        Ok(found) if entry.path().extension().is_some_and(|end| end == "blocks") => found.len(),
        _ => 0,
    });
    sizes.sum()
}

/// The files of blocks below a folder.
fn block_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries.flat_map(|path| match path.is_dir() {
        true => block_files(&path),
        false => Vec::from_iter(path.extension().is_some_and(|end| end == "blocks").then_some(path)),
    });
    files.collect()
}

/// Whoever finds it hears nothing else than the rows: a driver that takes its result, and tasks that read what was persisted.
#[test]
fn what_is_changed_cut_off_or_removed_on_a_disk_is_made_again_while_its_worker_lives() {
    let change = |file: &Path| {
        let mut bytes = std::fs::read(file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        OpenOptions::new().write(true).open(file)?.write_all(&bytes)
    };
    type Spoil<'a> = &'a dyn Fn(&Path) -> io::Result<()>;
    let ways: [(&str, Spoil<'_>); 3] = [
        ("changed", &change),
        ("cut off", &|file| OpenOptions::new().write(true).truncate(true).open(file).map(drop)),
        ("removed", &|file| std::fs::remove_file(file)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let rows = df!["id" => (0..100_000i64).collect::<Vec<_>>()].unwrap().lazy().into_partitions(4);
    let query = rows.with_column((col("id") * lit(3)).alias("x")).repartition(3, [col("id")]);
    let expected = query.clone().collect().unwrap().sort(["id"], Default::default()).unwrap();
    for (how, spoil) in ways {
        let scratch = folder.path().join(how);
        std::fs::create_dir(&scratch).unwrap();
        let config = regatta::Config { scratch: vec![scratch.clone()], ..Default::default() };
        let session = Session::local_with(2, config).unwrap();
        let persisted = query.clone().persist_on(&session).unwrap();
        let spoil_all = || {
            let files = block_files(&scratch);
            assert!(!files.is_empty());
            // What the result was made of may be gone meanwhile.
            let spoilt = files.iter().filter(|file| spoil(file).is_ok()).count();
            assert!(spoilt >= 2, "{how}: {spoilt} of {files:?}");
        };
        spoil_all();
        let read = persisted.lazy().filter(col("x").gt_eq(lit(0))).collect_on(&session).unwrap();
        assert!(read.sort(["id"], Default::default()).unwrap().equals(&expected), "{how}, and read by tasks");
        drop(persisted);
        eventually("nothing is left of it", || block_files(&scratch).is_empty());
        let mut run = session.submit(query.clone()).unwrap();
        eventually("it is done", || run.status().unwrap().unwrap().stages.last().unwrap().tasks.2 == 3);
        spoil_all();
        let taken = run.collect().unwrap().sort(["id"], Default::default()).unwrap();
        assert!(taken.equals(&expected), "{how}, and taken by the driver");
    }
}

#[test]
fn a_persisted_result_keeps_nothing_of_what_it_was_made_of() {
    let scratch = tempfile::tempdir().unwrap();
    let config = regatta::Config { scratch: vec![scratch.path().to_owned()], ..Default::default() };
    let session = Session::local_with(2, config).unwrap();
    let text = "a text that takes some room in a partition".repeat(4);
    let rows = df!["x" => (0..40_000i64).collect::<Vec<_>>(), "text" => vec![text; 40_000]].unwrap().lazy();
    let twice = rows.repartition(2, [col("x")]).repartition(2, [col("x") % lit(10)]);
    let persisted = twice.repartition(2, [col("x") % lit(3)]).persist_on(&session).unwrap();
    // The driver keeps the frame that all is made of; beside that there is the result, and no copy between the two.
    let one = 40_000 * (8 + 42 * 4);
    eventually("it holds two copies", || partitions_on_disk(scratch.path()) < one * 5 / 2);
    assert!(partitions_on_disk(scratch.path()) >= one, "the partitions are in files");
    let rows = persisted.lazy().select([len()]).collect_on(&session).unwrap();
    assert_eq!(rows.column("len").unwrap().u32().unwrap().get(0), Some(40_000));
}

#[test]
fn tasks_on_a_worker_that_stands_still_run_a_second_time_elsewhere_and_count_once() {
    let cluster = TestCluster::start(3).unwrap();
    let session = cluster.session();
    let rows = df!["x" => (0..9_000i64).collect::<Vec<_>>()].unwrap().lazy().into_partitions(9);
    let query = rows.with_column((col("x") * lit(3)).alias("y"));
    let expected = query.clone().collect().unwrap();
    let stands_still = cluster.pause(WorkerId(0)).unwrap();
    let (mut run, began) = (session.submit(query).unwrap(), Instant::now());
    let ours = run.collect().unwrap().sort(["x"], Default::default()).unwrap();
    // It is thought lost after ten seconds.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    println!("with a worker that stands still: {:?}", began.elapsed());
    assert!(ours.equals(&expected));
    drop(stands_still);
    eventually("it has stopped there", || {
        session.status().unwrap().workers.iter().all(|worker| worker.tasks == (0, 0))
    });
    let profile = run.profile().unwrap();
    let of = |figure: fn(&StageFigures) -> u64| profile.stages.iter().map(figure).sum::<u64>();
    assert!(of(|stage| stage.again.into()) > 0 && profile.query.again > 0, "{profile:#}");
    assert_eq!((of(|stage| stage.lost.into()), of(|stage| stage.failed.into())), (0, 0), "{profile:#}");
    assert_eq!(profile.stages.last().unwrap().rows, 9_000, "{profile:#}");
}

#[regatta::udf]
fn slowly(x: i64) -> i64 {
    thread::sleep(Duration::from_millis(2));
    x + 1
}

/// As the page on tests has it: fewer than eight losses.
#[test]
fn a_query_with_a_udf_survives_faults_that_a_plan_draws() {
    let cluster = TestCluster::start(3).unwrap();
    let query = df!["x" => (0..2000i64).collect::<Vec<_>>()].unwrap().lazy().select([slowly::on([col("x")])]);
    let faults = cluster.suffer(FaultPlan::kill_each(Duration::from_secs(3)).seed(7));
    assert_same_as_polars(cluster.session(), &query, true, &[]);
    assert!(faults.end() > 0, "no worker was killed");
}
