//! Sorts, by every type, in every direction, with ties and nulls: the rows come in Polars' order, exactly.

use regatta::Session;
use std::path::Path;
use std::sync::Arc;

use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, SinkTarget, UnifiedSinkArgs};
use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::exchanges::{bucket, named, typed};
use crate::sources::{rows, scan};
use crate::{Case, same_on};

/// Equal rows stay as they came.
fn order() -> SortMultipleOptions {
    SortMultipleOptions::default().with_maintain_order(true)
}

/// The columns whose types a test goes through: all where rows go by their keys, whose hashes and encodings each type has of its
/// own; else a few, since each query takes its time.
pub(crate) fn of_types() -> Vec<(PlSmallStr, DataType)> {
    const FEW: [&str; 4] = ["flag", "名", "f64", "kind"];
    let all = std::env::var("REGATTA_TEST_SHAPES").is_ok_and(|shapes| shapes == "hash");
    let schema = typed().collect_schema().unwrap();
    let every = schema.iter().map(|(name, dtype)| (name.clone(), dtype.clone()));
    every.filter(|(name, _)| all || FEW.contains(&name.as_str())).collect()
}

fn by_every_type() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, dtype) in of_types() {
        for (descending, last) in [(false, false), (false, true), (true, false), (true, true)] {
            let order = order().with_order_descending(descending).with_nulls_last(last);
            let query = typed().select([col("id").alias("row"), col(name.clone())]).sort([name.clone()], order);
            let name = named(format!("by {name} ({dtype}), descending: {descending}, nulls last: {last}"));
            cases.push((name, query, true, &[][..]));
        }
    }
    cases
}

fn by_several() -> Vec<Case> {
    let keys = ["flag", "größe", "名", "kind", "day"];
    let cases = (0..32u32).map(|bits| {
        let bit = |of: u32| bits >> of & 1 == 1;
        // Not all pairs of keys and directions, but each of them.
        let (from, many) = (bits as usize % keys.len(), 2 + bits as usize % 3);
        let keys: Vec<_> = keys.iter().cycle().skip(from).take(many).copied().collect();
        let directions: Vec<_> = (0..many as u32).map(bit).collect();
        let nulls: Vec<_> = (0..many as u32).map(|key| bit(key + 2)).collect();
        let name = named(format!("by {keys:?}, descending: {directions:?}, nulls last: {nulls:?}"));
        let order = order().with_order_descending_multi(directions).with_nulls_last_multi(nulls);
        (
            name,
            typed()
                .select([col("id")].into_iter().chain(keys.iter().map(|key| col(*key))).collect::<Vec<_>>())
                .sort(keys, order),
            true,
            &[][..],
        )
    });
    cases.collect()
}

/// So many rows, as files would give them.
fn few(count: i64) -> LazyFrame {
    scan().filter(col("id").lt(lit(count))).select([col("id"), col("group"), col("value")])
}

fn of_every_size() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [0, 1, 2, 3, 17, 256, 257, 1000] {
        let sorted = few(count).sort(["group"], order().with_order_descending(true));
        cases.push((named(format!("{count} rows")), sorted, true, &[][..]));
    }
    let constant = few(900).with_column(lit(1i64).alias("one"));
    let heavy =
        few(900).with_column(when(col("id").lt(lit(700))).then(lit(5)).otherwise(col("id") % lit(11)).alias("k"));
    cases.extend([
        ("rows with one key", constant.sort(["one"], order()), true, &[][..]),
        ("one key of most rows", heavy.sort(["k"], order()), true, &[]),
        ("rows that are sorted", few(900).sort(["id"], order()), true, &[]),
        ("rows that are sorted the other way", few(900).sort(["id"], order().with_order_descending(true)), true, &[]),
        ("a frame of the driver", rows(0, 900).lazy().sort(["group"], order()), true, &[]),
    ]);
    cases
}

/// Below, above and beside other operators.
fn among_others() -> Vec<Case> {
    let by = |query: LazyFrame, key: &str| query.sort([key], order());
    let sorted = || by(few(900), "group");
    let all =
        |mut query: LazyFrame| -> Vec<Expr> { query.collect_schema().unwrap().iter_names_cloned().map(col).collect() };
    // Rows that come in any order, sorted by all that they have.
    let groups = || scan().group_by([col("word"), col("day")]).agg([len(), col("id").max()]);
    let joined =
        || scan().inner_join(few(40).select([col("group"), col("id").alias("other")]), col("group"), col("group"));
    let distinct = || scan().select([col("group"), col("word")]).unique(None, UniqueKeepStrategy::Any);
    let udf = || few(900).with_column(bucket::on([col("id")]).alias("b"));
    let every = |query: LazyFrame| query.clone().sort_by_exprs(all(query), order());
    let two = || concat([few(300), few(900)], UnionArgs::default()).unwrap();
    vec![
        ("by what is computed", few(900).sort_by_exprs([col("id") % lit(7), -col("group")], order()), true, &[]),
        ("by a key of all rows", few(900).sort_by_exprs([(col("id") - col("id").mean()).abs()], order()), true, &[]),
        ("by a key twice", few(900).sort(["group", "group"], order()), true, &[]),
        ("by what a UDF makes", few(900).sort_by_exprs([bucket::on([col("id")])], order()), true, &[]),
        (
            "by what a UDF makes of what one makes",
            few(900).sort_by_exprs([bucket::on([bucket::on([col("id")])])], order()),
            true,
            &[],
        ),
        ("of what a UDF makes", by(udf(), "b"), true, &[]),
        (
            "of what a UDF makes, below another",
            by(udf(), "b").with_column(bucket::on([col("b") + col("id")]).alias("c")),
            true,
            &[],
        ),
        ("of groups", every(groups()), true, &[]),
        ("of a join", every(joined()), true, &[]),
        ("of distinct rows", every(distinct()), true, &[]),
        ("of frames one below the other", by(two(), "group"), true, &[]),
        ("of frames that are sorted", concat([sorted(), by(few(300), "id")], UnionArgs::default()).unwrap(), true, &[]),
        ("of sorted rows", by(by(few(900), "value"), "group"), true, &[]),
        ("of a limit", by(few(900).limit(500), "group"), true, &[]),
        ("of shares", by(few(900).into_partitions(3), "group"), true, &[]),
        ("of rows by hash", every(few(900).repartition(3, [col("group")])), true, &[]),
        (
            "of the same rows twice",
            concat([sorted().cache(), sorted().cache()], UnionArgs::default()).unwrap(),
            true,
            &[],
        ),
        ("first rows", sorted().limit(40), true, &[]),
        ("more first rows than tasks keep", sorted().slice(3, 1 << 21), true, &[]),
        ("first rows of what a UDF makes", by(udf(), "b").slice(100, 300), true, &[]),
        ("no row", by(udf(), "b").slice(5000, 300), true, &[]),
        ("last rows", sorted().tail(40), true, &[]),
        ("rows from the end", sorted().slice(-300, 200), true, &[]),
        ("numbered", sorted().with_row_index("n", Some(3)), true, &[]),
        (
            "filtered, and computed with",
            sorted().filter(col("id").gt(lit(50))).with_column((col("id") * lit(2)).alias("d")),
            true,
            &[],
        ),
        ("with what looks at other rows", sorted().with_column(col("id").shift(lit(1)).alias("before")), true, &[]),
        (
            "with an aggregate beside each row",
            sorted().with_column((col("id") - col("id").min()).alias("d")),
            true,
            &[],
        ),
        ("dealt", sorted().into_partitions(5), true, &[]),
        ("in one partition", sorted().into_partitions(1), true, &[]),
        ("in one partition, and dealt", sorted().into_partitions(1).into_partitions(4), true, &[]),
        ("joined, in one partition", every(joined().into_partitions(1)), true, &[]),
        ("groups, in one partition", every(groups().into_partitions(1)), true, &[]),
        (
            "joined in order",
            sorted().join(
                groups().group_by([col("day")]).agg([len()]).select([col("day").cast(DataType::Int64), col("len")]),
                [col("group")],
                [col("day")],
                JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) },
            ),
            true,
            &[],
        ),
        ("joined by keys", every(sorted().inner_join(few(100), col("id"), col("id"))), true, &[]),
        (
            "groups in order",
            sorted().group_by_stable([col("group")]).agg([col("id").first(), col("id").sum().alias("ids")]),
            true,
            &[],
        ),
        (
            "first of each",
            sorted().unique_stable(Some(by_name(["group"], true, false)), UniqueKeepStrategy::First),
            true,
            &[],
        ),
        ("aggregated", sorted().select([col("id").sum(), len()]), true, &[]),
        (
            "exploded",
            by(few(200).with_column(concat_list([col("id"), col("group")]).unwrap().alias("l")), "group")
                .explode(by_name(["l"], true, false), ExplodeOptions { empty_as_null: true, keep_nulls: true }),
            true,
            &[],
        ),
        (
            "a column that is called as ours",
            by(few(900).with_column(col("id").alias("__regatta_range_3")), "__regatta_range_3"),
            true,
            &[],
        ),
    ]
}

/// Frames that are sorted, as one.
fn merged() -> Vec<Case> {
    let mut cases = Vec::new();
    for keys in [&["i8"][..], &["u8"], &["f64"], &["f32"], &["day"], &["名"], &["flag"], &["größe", "id"], &["kind"]]
    {
        let all = || typed().select(["id", "i8", "u8", "f64", "f32", "day", "名", "flag", "größe", "kind"].map(col));
        let sorted = |frame: LazyFrame| frame.sort(keys.to_vec(), order());
        let some = || all().filter((col("id") % lit(3)).eq(lit(1)));
        for (what, left, right) in [("all with some", all(), some()), ("none with some", all().limit(0), some())] {
            let merged = sorted(left).merge_sorted(sorted(right), keys.iter().copied(), true).unwrap();
            cases.push((named(format!("{what}, merged by {keys:?}")), merged, true, &[][..]));
        }
    }
    cases
}

pub(crate) fn cases() -> Vec<Case> {
    [by_every_type(), by_several(), of_every_size(), among_others(), merged()].concat()
}

pub(crate) const ORDERS: &str = "orders::orders_on_three_worker_processes";

#[test]
fn orders_on_three_worker_processes() {
    same_on(&Session::local(3).unwrap(), cases());
}

/// In a process of its own, which reads it when its session begins.
pub(crate) fn in_shapes(test: &str, shapes: &str) {
    let test = [test, "--exact", "--nocapture"];
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = again.args(test).env("REGATTA_TEST_SHAPES", shapes).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{shapes}: {said}{}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn orders_on_three_worker_processes_in_ranges() {
    in_shapes(ORDERS, "hash");
}

#[test]
fn orders_on_three_worker_processes_in_one_range_for_each_task() {
    in_shapes(ORDERS, "one_section");
}

/// So much that it is not kept, but read twice: the first time its keys only.
#[test]
fn a_sort_of_many_rows_of_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.parquet");
    let rows = 80_000i64;
    let mut many = df![
        "id" => (0..rows).collect::<Vec<_>>(),
        "key" => (0..rows).map(|row| (row % 11 != 0).then_some(row * 7919 % 10_007)).collect::<Vec<_>>(),
        // No two are the same, so that a file has them all; and most of each is, so that it is small.
        "text" => (0..rows).map(|row| format!("{row}{}", "regatta ".repeat(128))).collect::<Vec<_>>(),
    ]
    .unwrap();
    let file = std::fs::File::create(&path).unwrap();
    ParquetWriter::new(file).with_row_group_size(Some(10_000)).finish(&mut many).unwrap();
    let scan = LazyFrame::scan_parquet(PlRefPath::try_from_path(&path).unwrap(), Default::default()).unwrap();
    let sorted = scan.sort(["key"], order().with_order_descending(true));
    let session = Session::local(3).unwrap();
    let mut run = session.submit(sorted.clone()).unwrap();
    assert!(run.explain().to_string().contains("they look at some keys; 1 file"), "{}", run.explain());
    let ours = run.collect().unwrap();
    let tasks = run.profile().unwrap().stages.last().unwrap().tasks;
    assert!(tasks > Some(1), "{tasks:?} tasks sorted");
    let plain = sorted.clone().collect().unwrap();
    assert!(ours.equals_missing(&plain), "{ours}");
    // Files of a folder, by their names, have them in that order too; so has a single file.
    let third = sorted.select([col("id"), col("key"), (col("id") % lit(3)).alias("third")]);
    let (file, folders) = (folder.path().join("sorted.parquet"), folder.path().join("thirds"));
    let format = || FileWriteFormat::Parquet(Arc::default());
    let path_of = |path: &Path| PlRefPath::try_from_path(path).unwrap();
    let to = SinkDestination::File { target: SinkTarget::Path(path_of(&file)) };
    third.clone().sink(to, format(), UnifiedSinkArgs::default()).unwrap().collect_on(&session).unwrap();
    let to = SinkDestination::Partitioned {
        base_path: path_of(&folders),
        file_path_provider: None,
        partition_strategy: PartitionStrategy::Keyed {
            keys: vec![col("third")],
            include_keys: true,
            keys_pre_grouped: false,
        },
        max_rows_per_file: IdxSize::MAX,
        approximate_bytes_per_file: u64::MAX,
    };
    let arguments = UnifiedSinkArgs { mkdir: true, ..Default::default() };
    third.clone().sink(to, format(), arguments).unwrap().collect_on(&session).unwrap();
    let read = |path: &Path| LazyFrame::scan_parquet(path_of(path), Default::default()).unwrap();
    let plain = third.collect().unwrap();
    assert!(read(&file).collect().unwrap().equals_missing(&plain));
    for number in 0..3i64 {
        let read = read(&folders.join(format!("third={number}"))).collect().unwrap();
        let plain = plain.clone().lazy().filter(col("third").eq(lit(number))).collect().unwrap();
        assert!(read.column("id").unwrap().equals_missing(plain.column("id").unwrap()), "{read}");
    }
}
