//! Every kind of file, and of frame.

use std::fs::{File, create_dir_all};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use polars_io::{HiveOptions, RowIndex};
use polars_plan::dsl::UnifiedScanArgs;
use regatta::polars::prelude::*;

use crate::Case;

/// Files of several parts, in every format, with nulls, NaN, strings, decimals, dates and categories.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..3 {
        write_all(folder.path(), &format!("part-{file}"), &rows(file * 1000, 1000 - 300 * file));
    }
    write_all(folder.path(), "zero", &rows(0, 0));
    create_dir_all(folder.path().join("uneven")).unwrap();
    for (file, count) in [10, 5000, 1, 200].into_iter().enumerate() {
        let to = File::create(folder.path().join(format!("uneven/{file}.parquet"))).unwrap();
        ParquetWriter::new(to).finish(&mut rows(file as i64 * 10_000, count)).unwrap();
    }
    write_all(folder.path(), "nasty", &nasty());
    for group in 0..4i64 {
        for part in 0..2 {
            let folder = folder.path().join(format!("hive/group={group}/odd={}", part == 1));
            create_dir_all(&folder).unwrap();
            let mut frame = rows(group * 50 + part * 25, 25).drop("group").unwrap();
            let to = File::create(folder.join("rows.parquet")).unwrap();
            ParquetWriter::new(to).with_row_group_size(Some(10)).finish(&mut frame).unwrap();
        }
    }
    folder
});

/// The frame as a file of every format that can hold it; text loses what it cannot say.
fn write_all(folder: &Path, name: &str, frame: &DataFrame) {
    let file = |kind: &str| {
        let folder = folder.join(kind);
        create_dir_all(&folder).unwrap();
        File::create(folder.join(format!("{name}.{kind}"))).unwrap()
    };
    let frame = &mut frame.clone();
    ParquetWriter::new(file("parquet")).with_row_group_size(Some(170)).finish(frame).unwrap();
    IpcWriter::new(file("ipc")).with_record_batch_size(Some(130)).finish(frame).unwrap();
    let mut text = frame.lazy_text();
    CsvWriter::new(file("csv")).finish(&mut text).unwrap();
    JsonWriter::new(file("ndjson")).with_json_format(JsonFormat::JsonLines).finish(&mut text).unwrap();
}

trait Text {
    fn lazy_text(&self) -> DataFrame;
}

impl Text for DataFrame {
    fn lazy_text(&self) -> DataFrame {
        self.select(
            self.get_column_names_owned()
                .into_iter()
                .filter(|name| ["id", "group", "value", "word"].contains(&name.as_str())),
        )
        .unwrap()
    }
}

pub(crate) fn path(pattern: &str) -> PlRefPath {
    format!("{}/{pattern}", FOLDER.path().display()).as_str().into()
}

pub(crate) fn rows(from: i64, count: i64) -> DataFrame {
    let ids = from..from + count;
    let some = |i: i64, value: f64| (i % 7 != 0).then_some(if i % 11 == 0 { f64::NAN } else { value });
    let words = ["mast", "keel", "spinnaker of a length past twelve bytes", ""];
    df![
        "id" => ids.clone().collect::<Vec<_>>(),
        "group" => ids.clone().map(|i| i * 7919 % 13).collect::<Vec<_>>(),
        "value" => ids.clone().map(|i| some(i, (i * 37 % 101) as f64)).collect::<Vec<_>>(),
        "word" => ids.clone().map(|i| (i % 5 != 0).then_some(words[(i % 4) as usize])).collect::<Vec<_>>(),
        "day" => ids.map(|i| (i % 400) as i32).collect::<Vec<_>>(),
    ]
    .unwrap()
    .lazy()
    .with_columns([
        col("day").cast(DataType::Date),
        (col("id").cast(DataType::Float64) / lit(8.0)).cast(DataType::Decimal(15, 2)).alias("price"),
        col("word").cast(DataType::from_categories(Categories::global())).alias("kind"),
    ])
    .collect()
    .unwrap()
}

/// Nulls everywhere, NaN and -0.0, nested lists and structs, time zones, names and text beyond ASCII.
pub(crate) fn nasty() -> DataFrame {
    let n = 400i64;
    let ids: Vec<i64> = (0..n).collect();
    let float = |i: i64| match i % 6 {
        0 => None,
        1 => Some(f64::NAN),
        2 => Some(-0.0),
        3 => Some(0.0),
        4 => Some(f64::INFINITY),
        _ => Some(i as f64),
    };
    let words = ["ναύτης", "船", "e\u{301}", "", "a text that is longer than twelve bytes"];
    df![
        "id" => &ids,
        "größe" => ids.iter().map(|i| float(*i)).collect::<Vec<_>>(),
        "名" => ids.iter().map(|i| (i % 3 != 0).then_some(words[(*i % 5) as usize])).collect::<Vec<_>>(),
        "none" => vec![None::<i64>; n as usize],
        "flag" => ids.iter().map(|i| (i % 4 != 0).then_some(i % 2 == 0)).collect::<Vec<_>>(),
        "small" => ids.iter().map(|i| (i % 5 != 0).then_some(*i as i32 - 200)).collect::<Vec<_>>(),
    ]
    .unwrap()
    .lazy()
    .with_columns([
        (col("id") * lit(3_600_000_000_123i64))
            .cast(DataType::Datetime(TimeUnit::Microseconds, TimeZone::opt_try_new(Some("Europe/Lisbon")).unwrap()))
            .alias("moment"),
        (col("id") * lit(1_000_001)).cast(DataType::Duration(TimeUnit::Milliseconds)).alias("lasts"),
        (col("id") * lit(86_399)).cast(DataType::Time).alias("clock"),
        (col("id").cast(DataType::Float64) / lit(7.0)).cast(DataType::Decimal(20, 3)).alias("price"),
        col("名").cast(DataType::from_categories(Categories::global())).alias("kind"),
        when(col("flag"))
            .then(as_struct(vec![col("id").alias("x"), col("名").alias("y")]))
            .otherwise(lit(NULL))
            .alias("pair"),
    ])
    .with_columns([
        when(col("id").neq(lit(7)))
            .then(concat_list([col("größe"), col("größe")]).unwrap())
            .otherwise(lit(NULL))
            .alias("list"),
        concat_list([col("pair")]).unwrap().alias("pairs"),
    ])
    .collect()
    .unwrap()
}

pub(crate) fn scan() -> LazyFrame {
    parquet("parquet/part-*.parquet", Default::default())
}

pub(crate) fn nasty_scan() -> LazyFrame {
    parquet("parquet/nasty.parquet", Default::default())
}

/// Morsels of very different heights.
pub(crate) fn uneven_scan() -> LazyFrame {
    parquet("uneven/*.parquet", Default::default())
}

fn parquet(pattern: &str, args: ScanArgsParquet) -> LazyFrame {
    LazyFrame::scan_parquet(path(pattern), args).unwrap()
}

fn ipc(pattern: &str, row_index: Option<RowIndex>) -> LazyFrame {
    let args = UnifiedScanArgs { row_index, ..Default::default() };
    LazyFrame::scan_ipc(path(pattern), Default::default(), args).unwrap()
}

fn csv(pattern: &str) -> LazyCsvReader {
    LazyCsvReader::new(path(pattern)).with_has_header(true)
}

fn ndjson(pattern: &str) -> LazyFrame {
    LazyJsonLineReader::new(path(pattern)).finish().unwrap()
}

fn index() -> Option<RowIndex> {
    Some(RowIndex { name: "row".into(), offset: 5 })
}

/// Of each kind of source, an aggregate beside each row: it is read twice, once with fewer columns.
fn beside_each_row() -> Vec<Case> {
    let hive = parquet("hive", ScanArgsParquet { hive_options: HiveOptions::new_enabled(), ..Default::default() });
    let paths = ScanArgsParquet { include_file_paths: Some("from".into()), ..Default::default() };
    let most = |of: LazyFrame, name: &str| of.filter(col(name).gt_eq(col(name).max() - lit(40)));
    let least = |of: LazyFrame| of.with_column((col("id") - col("id").min().over([col("group")]).unwrap()).alias("w"));
    let indexed = || parquet("parquet/part-*.parquet", ScanArgsParquet { row_index: index(), ..Default::default() });
    vec![
        (
            "hive, beside its keys",
            hive.with_column(col("id").max().over([col("group")]).unwrap().alias("w")),
            true,
            &[],
        ),
        ("paths, above the mean", most(parquet("parquet/part-*.parquet", paths), "id"), true, &[]),
        ("row index, the last", most(indexed(), "row"), true, &[]),
        ("a slice, its last", most(scan().slice(950, 500), "id"), true, &[]),
        (
            "filtered by another column",
            most(scan().filter(col("group").gt(lit(3))).select([col("id")]), "id"),
            true,
            &[],
        ),
        ("ipc, apart from its group", least(ipc("ipc/part-*.ipc", None)), true, &[]),
        ("csv, apart from its group", least(csv("csv/part-*.csv").finish().unwrap()), true, &[]),
        ("ndjson, apart from its group", least(ndjson("ndjson/part-*.ndjson")), true, &[]),
        (
            "csv, row index, the last",
            most(csv("csv/part-*.csv").with_row_index(index()).finish().unwrap(), "row"),
            true,
            &[],
        ),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let hive =
        |pattern| parquet(pattern, ScanArgsParquet { hive_options: HiveOptions::new_enabled(), ..Default::default() });
    let indexed = || parquet("parquet/part-*.parquet", ScanArgsParquet { row_index: index(), ..Default::default() });
    let paths = ScanArgsParquet { include_file_paths: Some("from".into()), ..Default::default() };
    let mut cases: Vec<Case> = vec![
        ("parquet", scan(), true, &[]),
        ("parquet, one file", parquet("parquet/part-0.parquet", Default::default()), true, &[]),
        ("parquet, no rows", parquet("parquet/zero.parquet", Default::default()), true, &[]),
        ("parquet, a file without rows among others", parquet("parquet/[pz]*.parquet", Default::default()), true, &[]),
        ("parquet, a folder", parquet("hive/group=1/odd=true", Default::default()), true, &[]),
        ("parquet, every type", nasty_scan(), true, &[]),
        ("parquet, filtered", nasty_scan().filter(col("größe").gt(lit(3.0)).or(col("flag"))), true, &[]),
        ("parquet, paths", parquet("parquet/part-*.parquet", paths).filter(col("id").gt(lit(900))), true, &[]),
        ("hive", hive("hive"), true, &[]),
        ("hive, filtered by keys", hive("hive").filter(col("group").gt(lit(1)).and(col("odd"))), true, &[]),
        ("hive, keys only", hive("hive").select([col("group"), col("odd")]), true, &[]),
        ("hive, grouped by keys", hive("hive").group_by([col("group")]).agg([col("id").sum()]), false, &[]),
        ("row index", indexed(), true, &[]),
        ("row index, filtered", indexed().filter(col("row").gt(lit(1200)).and(col("id").lt(lit(2300)))), true, &[]),
        ("row index of a slice", indexed().slice(950, 500), true, &[]),
        ("row index above a slice", scan().slice(950, 500).with_row_index("row", None), true, &[]),
        ("slice", scan().slice(950, 500), true, &[]),
        ("slice of one file, filtered after", scan().slice(171, 700).filter(col("group").lt(lit(5))), true, &[]),
        ("slice past the end", scan().slice(2050, 5000), true, &[]),
        ("slice of nothing", scan().slice(3000, 10), true, &[]),
        ("tail", scan().tail(450), true, &[]),
        ("limit", scan().limit(3), true, &[]),
        ("ipc", ipc("ipc/part-*.ipc", None), true, &[]),
        ("ipc, every type", ipc("ipc/nasty.ipc", None).filter(col("small").gt(lit(-150))), true, &[]),
        ("ipc, no rows", ipc("ipc/zero.ipc", None), true, &[]),
        ("ipc, row index and slice", ipc("ipc/part-*.ipc", index()).slice(990, 300), true, &[]),
        ("csv", csv("csv/part-*.csv").finish().unwrap(), true, &[]),
        ("csv, no rows", csv("csv/zero.csv").with_schema(Some(text_schema())).finish().unwrap(), true, &[]),
        ("csv, row index", csv("csv/part-*.csv").with_row_index(index()).finish().unwrap(), true, &[]),
        (
            "csv, sliced and filtered",
            csv("csv/part-*.csv").finish().unwrap().slice(950, 500).filter(col("group").gt(lit(3))),
            true,
            &[],
        ),
        ("csv, counted", csv("csv/part-*.csv").finish().unwrap().select([len()]), true, &[]),
        (
            "csv, grouped",
            csv("csv/part-*.csv").finish().unwrap().group_by([col("word")]).agg([col("id").sum(), len()]),
            false,
            &[],
        ),
        ("ndjson", ndjson("ndjson/part-*.ndjson"), true, &[]),
        (
            "ndjson, sliced and filtered",
            ndjson("ndjson/part-*.ndjson").slice(950, 500).filter(col("group").gt(lit(3))),
            true,
            &[],
        ),
        ("a frame", nasty().lazy(), true, &[]),
        ("a frame without rows", rows(0, 0).lazy().filter(col("id").gt(lit(3))), true, &[]),
        ("a frame that does not fit into the plan", rows(0, 20_000).lazy().filter(col("group").eq(lit(4))), true, &[]),
        ("a slice of such a frame", rows(0, 20_000).lazy().filter(col("group").eq(lit(4))).slice(100, 900), true, &[]),
    ];
    cases.extend(beside_each_row());
    cases
}

fn text_schema() -> SchemaRef {
    let fields =
        [("id", DataType::Int64), ("group", DataType::Int64), ("value", DataType::Float64), ("word", DataType::String)];
    Arc::new(fields.into_iter().map(|(name, dtype)| Field::new(name.into(), dtype)).collect())
}
