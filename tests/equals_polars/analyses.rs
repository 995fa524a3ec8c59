//! What ordinary analyses call: each needs a feature of Polars.

use std::fs::File;
use std::sync::{Arc, LazyLock};

use polars_core::frame::PivotColumnNaming;
use polars_core::series::ops::NullBehavior;
use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, UnifiedSinkArgs};
use regatta::polars::prelude::*;
use regatta::prelude::*;

use crate::Case;
use crate::sources::{nasty_scan, path, scan};

fn sorted() -> LazyFrame {
    scan().sort(["id"], Default::default())
}

fn sql(text: &str) -> LazyFrame {
    let mut context = polars::sql::SQLContext::new();
    context.register("rows", scan());
    context.execute(text).unwrap()
}

/// A file whose types are rare; written once, for tests run beside each other.
static RARE: LazyLock<PlRefPath> = LazyLock::new(|| {
    let at = path("rare.parquet");
    let dtypes =
        [("u8", DataType::UInt8), ("u16", DataType::UInt16), ("i8", DataType::Int8), ("f16", DataType::Float16)];
    let columns: Vec<_> = dtypes.map(|(name, dtype)| (col("n") % lit(100)).cast(dtype).alias(name)).into();
    let frame = df!["n" => (0..500i64).collect::<Vec<_>>()].unwrap().lazy().with_columns(columns);
    let to = File::create(at.as_str()).unwrap();
    ParquetWriter::new(to).with_row_group_size(Some(90)).finish(&mut frame.collect().unwrap()).unwrap();
    at
});

fn rare() -> LazyFrame {
    LazyFrame::scan_parquet(RARE.clone(), Default::default()).unwrap()
}

pub(crate) fn cases() -> Vec<Case> {
    let fixed = || RollingOptionsFixedWindow { window_size: 3, min_periods: 1, ..Default::default() };
    let by_day = || RollingOptionsDynamicWindow {
        window_size: Duration::parse("20i"),
        min_periods: 1,
        closed_window: ClosedWindow::Right,
        fn_params: None,
    };
    let groups = df!["group" => [0i64, 3, 5]].unwrap();
    vec![
        ("nan_max", nasty_scan().select([col("größe").nan_max(), col("größe").nan_min().alias("least")]), true, &[]),
        (
            "nan_max of groups",
            nasty_scan().group_by([col("flag")]).agg([col("größe").nan_max(), col("größe").max().alias("most")]),
            false,
            &[],
        ),
        ("a union, counted", concat([scan(), scan()], UnionArgs::default()).unwrap().select([len()]), true, &[]),
        (
            "a union of sql, counted",
            sql("SELECT COUNT(*) AS n FROM (SELECT id FROM rows UNION ALL SELECT id FROM rows) AS both"),
            true,
            &[],
        ),
        ("unique_stable of a column", scan().select([col("group").unique_stable()]), true, &[]),
        (
            "is_first_distinct, is_last_distinct, is_unique",
            scan().select([
                col("word").is_first_distinct(),
                col("word").is_last_distinct().alias("last"),
                col("day").is_unique(),
            ]),
            true,
            &[],
        ),
        ("a file of rare types", rare().filter(col("u8").gt(lit(20))), true, &[]),
        (
            "a file of rare types, grouped",
            rare().group_by([col("u16")]).agg([col("u8").sum(), col("f16").max(), col("i8").min()]),
            false,
            &[],
        ),
        (
            "pivot",
            scan().pivot(
                by_name(["group"], true, false),
                Arc::new(groups),
                by_name(["word"], true, false),
                by_name(["id"], true, false),
                element().sum(),
                true,
                "_".into(),
                PivotColumnNaming::Auto,
            ),
            true,
            &[],
        ),
        (
            "rank, diff, top_k",
            sorted().select([
                col("group").rank(RankOptions { method: RankMethod::Average, descending: true }, None).alias("rank"),
                col("id").diff(lit(2), NullBehavior::Ignore).alias("diff"),
                col("day")
                    .is_between(lit(NULL).cast(DataType::Date), col("day"), ClosedInterval::Both)
                    .alias("between"),
            ]),
            true,
            &[],
        ),
        ("top_k in an expression", scan().select([col("id").top_k(lit(5))]), false, &[]),
        ("is_between", scan().filter(col("id").is_between(lit(50), lit(900), ClosedInterval::Left)), true, &[]),
        (
            "rolling windows",
            sorted().select([
                col("id").rolling_sum(fixed()).alias("sum"),
                col("group").rolling_max(fixed()).alias("max"),
                col("group").rolling_sum_by(col("id"), by_day()).alias("by"),
            ]),
            true,
            &[],
        ),
        ("mode", scan().select([col("group").mode(false).sort(Default::default())]), true, &[]),
        (
            "interpolate",
            sorted().select([when((col("id") % lit(3)).eq(lit(0)))
                .then(lit(NULL))
                .otherwise(col("id"))
                .alias("id")
                .interpolate(InterpolationMethod::Linear)]),
            true,
            &[],
        ),
        (
            "pct_change, sign, round, log, cum_count",
            sorted().select([
                col("id").pct_change(lit(1)).alias("pct"),
                (col("id") - lit(500)).sign().alias("sign"),
                (col("id").cast(DataType::Float64) / lit(7.0)).round(2, RoundMode::HalfToEven).alias("round"),
                (col("id") + lit(1)).log(lit(2.0)).alias("log"),
                col("word").cum_count(false).alias("count"),
            ]),
            true,
            &["log"],
        ),
    ]
}

#[test]
fn files_are_partitioned_by_a_decimal_as_by_any_other_key() {
    let keyed =
        || scan().limit(40).select([col("id"), (col("id") % lit(3)).cast(DataType::Decimal(10, 2)).alias("key")]);
    for session in [Session::native().unwrap(), Session::local(1).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let strategy =
            PartitionStrategy::Keyed { keys: vec![col("key")], include_keys: false, keys_pre_grouped: false };
        let to = SinkDestination::Partitioned {
            base_path: PlRefPath::try_from_path(&folder.path().join("out")).unwrap(),
            file_path_provider: None,
            partition_strategy: strategy,
            max_rows_per_file: IdxSize::MAX,
            approximate_bytes_per_file: u64::MAX,
        };
        let args = UnifiedSinkArgs { mkdir: true, ..Default::default() };
        let query = keyed().sink(to, FileWriteFormat::Parquet(Arc::default()), args).unwrap();
        assert!(query.collect_on(&session).unwrap().height() >= 3, "a file for each key");
        let written = format!("{}/out/**/*.parquet", folder.path().display());
        let written = LazyFrame::scan_parquet(written.as_str().into(), Default::default()).unwrap();
        let rows = written.select([col("id").sum(), len()]).collect().unwrap();
        assert!(rows.equals(&keyed().select([col("id").sum(), len()]).collect().unwrap()), "{rows}");
    }
}
