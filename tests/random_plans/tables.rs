//! Random tables: every dtype, with what is easily got wrong, in files and frames.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use regatta::polars::prelude::*;

use super::rng::Rng;

/// The column that numbers the rows of a table.
pub(crate) const ID: &str = "id";

/// A table of so many columns as a query, by files or in memory.
pub(crate) fn source(rng: &mut Rng, folder: &Path, name: &str) -> LazyFrame {
    let rows = match rng.below(12) {
        0 => 0,
        1 => 1,
        2 => 900 + rng.below(400),
        _ => rng.below(160),
    };
    let frame = table(rng, rows);
    let kind = rng.below(10);
    match kind {
        0..=1 => frame.lazy(),
        // Text knows few types.
        2 => text_files(rng, folder, name, frame),
        _ => {
            // Polars cannot skip row groups by statistics of these, and panics.
            let only_ipc = frame.dtypes().contains(&DataType::Int128);
            files(rng, folder, name, frame, kind >= 7 || only_ipc)
        }
    }
}

pub(crate) fn table(rng: &mut Rng, rows: usize) -> DataFrame {
    let ids: Vec<i64> = (0..rows as i64).collect();
    let mut columns = vec![Column::new(ID.into(), ids)];
    let mut names = ["a", "b", "größe", "d d", "__regatta_udf_1", "f", "g", "h"];
    rng.shuffle(&mut names);
    for name in names.iter().take(3 + rng.below(5)) {
        let dtype = dtype(rng, 2);
        columns.push(column(rng, name, &dtype, rows));
    }
    DataFrame::new(rows, columns).unwrap()
}

fn dtype(rng: &mut Rng, depth: usize) -> DataType {
    use DataType::*;
    let nested = if depth == 0 { 0 } else { 6 };
    match rng.below(27 + nested) {
        0 => Boolean,
        1 => Int8,
        2 => Int16,
        3 => Int32,
        4..=6 => Int64,
        7 => UInt8,
        8 => UInt16,
        9 => UInt32,
        10 => UInt64,
        11 => Int128,
        12 => Float32,
        13..=14 => Float64,
        15..=17 => String,
        18 => Binary,
        19 => Date,
        20 => Datetime(unit(rng), None),
        21 => Datetime(unit(rng), TimeZone::opt_try_new(Some("Europe/Lisbon")).unwrap()),
        22 => Duration(unit(rng)),
        23 => Time,
        24 => Decimal(12, 2),
        25 => DataType::from_categories(Categories::global()),
        26 => DataType::from_frozen_categories(FrozenCategories::new(WORDS).unwrap()),
        27..=28 => List(Box::new(dtype(rng, depth - 1))),
        29 => Array(Box::new(dtype(rng, 0)), 2),
        30..=31 => {
            let fields = ["x", "y"].map(|name| Field::new(name.into(), dtype(rng, depth - 1)));
            Struct(fields.into())
        }
        _ => Null,
    }
}

fn unit(rng: &mut Rng) -> TimeUnit {
    [TimeUnit::Milliseconds, TimeUnit::Microseconds, TimeUnit::Nanoseconds][rng.below(3)]
}

pub(crate) const WORDS: [&str; 6] = ["", "oak", "elm", "船", "a word that is longer than twelve bytes", "Oak"];

fn column(rng: &mut Rng, name: &str, dtype: &DataType, rows: usize) -> Column {
    let nulls = [0, 15, 15, 60, 100][rng.below(5)];
    let values: Vec<_> = (0..rows).map(|_| value(rng, dtype, nulls)).collect();
    let series = Series::from_any_values_and_dtype(name.into(), &values, dtype, true);
    series.unwrap_or_else(|e| panic!("{dtype:?}: {e}")).into_column()
}

fn value(rng: &mut Rng, dtype: &DataType, nulls: usize) -> AnyValue<'static> {
    use DataType::*;
    if rng.percent(nulls) {
        return AnyValue::Null;
    }
    let n = rng.between(-9, 9);
    match dtype {
        Boolean => AnyValue::Boolean(n > 0),
        Int8 => AnyValue::Int8(n as i8),
        Int16 => AnyValue::Int16(n as i16),
        Int32 => AnyValue::Int32(n as i32),
        Int64 => AnyValue::Int64(n * if rng.percent(10) { 1_000_000_007 } else { 1 }),
        Int128 => AnyValue::Int128(i128::from(n)),
        UInt8 => AnyValue::UInt8(n.unsigned_abs() as u8),
        UInt16 => AnyValue::UInt16(n.unsigned_abs() as u16),
        UInt32 => AnyValue::UInt32(n.unsigned_abs() as u32),
        UInt64 => AnyValue::UInt64(n.unsigned_abs()),
        // Sums of quarters are exact, in whatever order.
        Float32 => AnyValue::Float32(float(rng, n) as f32),
        Float64 => AnyValue::Float64(float(rng, n)),
        String => AnyValue::StringOwned(word(rng).into()),
        Binary => AnyValue::BinaryOwned(word(rng).into_bytes()),
        Date => AnyValue::Date(n as i32 * 40),
        Datetime(unit, zone) => AnyValue::DatetimeOwned(n * 3_600_000_123, *unit, zone.clone().map(Into::into)),
        Duration(unit) => AnyValue::Duration(n * 1001, *unit),
        Time => AnyValue::Time(n.abs() * 1_000_000_001),
        Decimal(precision, scale) => AnyValue::Decimal(i128::from(n) * 25, *precision, *scale),
        Categorical(..) | Enum(..) => AnyValue::StringOwned(WORDS[rng.below(WORDS.len())].into()),
        List(inner) => {
            let len = rng.below(4);
            AnyValue::List(series(rng, inner, len))
        }
        Array(inner, width) => AnyValue::Array(series(rng, inner, *width), *width),
        Struct(fields) => {
            let values = fields.iter().map(|field| value(rng, field.dtype(), nulls.min(50))).collect();
            AnyValue::StructOwned(Box::new((values, fields.clone())))
        }
        _ => AnyValue::Null,
    }
}

fn series(rng: &mut Rng, dtype: &DataType, len: usize) -> Series {
    let values: Vec<_> = (0..len).map(|_| value(rng, dtype, 20)).collect();
    Series::from_any_values_and_dtype("".into(), &values, dtype, true).unwrap()
}

fn float(rng: &mut Rng, n: i64) -> f64 {
    match rng.below(14) {
        0 => f64::NAN,
        1 => -0.0,
        2 => f64::INFINITY,
        _ => n as f64 / 4.0,
    }
}

fn word(rng: &mut Rng) -> String {
    match rng.below(5) {
        0 => format!("{}, and so on for a while", rng.below(9)),
        _ => WORDS[rng.below(WORDS.len())].to_owned(),
    }
}

/// The rows in several files: one may be empty, another large.
fn pieces(rng: &mut Rng, frame: &DataFrame) -> Vec<DataFrame> {
    let of = 1 + rng.below(5);
    let mut ends: Vec<_> = (1..of).map(|_| rng.below(frame.height() + 1)).collect();
    ends.sort_unstable();
    ends.push(frame.height());
    let mut from = 0;
    let piece = |end| {
        let piece = frame.slice(from as i64, end - from);
        from = end;
        piece
    };
    ends.into_iter().map(piece).collect()
}

fn files(rng: &mut Rng, folder: &Path, name: &str, frame: DataFrame, ipc: bool) -> LazyFrame {
    let part = 5 + rng.below(60);
    for (at, mut piece) in pieces(rng, &frame).into_iter().enumerate() {
        piece.rechunk_mut();
        let to = File::create(folder.join(format!("{name}-{at}.{}", if ipc { "arrow" } else { "parquet" }))).unwrap();
        let written = match ipc {
            true => IpcWriter::new(to).with_record_batch_size(Some(part)).finish(&mut piece),
            false => ParquetWriter::new(to).with_row_group_size(Some(part)).finish(&mut piece).map(drop),
        };
        if written.is_err() {
            return frame.lazy();
        }
    }
    let pattern = format!("{}/{name}-*.{}", folder.display(), if ipc { "arrow" } else { "parquet" });
    match ipc {
        true => LazyFrame::scan_ipc(pattern.as_str().into(), Default::default(), Default::default()).unwrap(),
        false => LazyFrame::scan_parquet(pattern.as_str().into(), Default::default()).unwrap(),
    }
}

fn text_files(rng: &mut Rng, folder: &Path, name: &str, frame: DataFrame) -> LazyFrame {
    let says = |dtype: &DataType| matches!(dtype, DataType::Int64 | DataType::Boolean | DataType::String);
    let names: Vec<_> = frame.columns().iter().filter(|c| says(c.dtype())).map(|c| c.name().clone()).collect();
    let frame = frame.select(names).unwrap();
    for (at, mut piece) in pieces(rng, &frame).into_iter().enumerate() {
        let to = File::create(folder.join(format!("{name}-{at}.csv"))).unwrap();
        CsvWriter::new(to).finish(&mut piece).unwrap();
    }
    let pattern = format!("{}/{name}-*.csv", folder.display());
    let schema = Some(Arc::clone(frame.schema()));
    LazyCsvReader::new(pattern.as_str().into()).with_schema(schema).with_has_header(true).finish().unwrap()
}
