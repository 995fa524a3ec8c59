//! Borders between ranges of rows in some order: drawn from samples of all tasks, so that ranges have about as many rows each.
//!
//! A row's keys are compared as Polars' row encoding of them: bytes, in whatever directions, wherever nulls stand. Equal keys have equal
//! bytes, so they are in one range, in every process.

use std::any::Any;
use std::sync::Arc;

use polars::prelude::*;
use polars_arrow::array::BinaryArray;
use polars_core::prelude::row_encode::_get_rows_encoded_arr;
use polars_plan::dsl::LazySerde;
use polars_plan::prelude::{AnonymousColumnsUdf, FunctionOptions, OpaqueColumnUdf, SpecialEq};
use regatta_remote::{decode, encode};
use serde::{Deserialize, Serialize};

use crate::udf::wire_form;

/// One of the functions that lead from keys to the numbers of ranges, as a plan carries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Borders {
    pub(super) part: Part,
    /// The order of the keys: which of them go down, and where nulls are last.
    pub(super) descending: Vec<bool>,
    pub(super) nulls_last: Vec<bool>,
    /// How many ranges there are at most.
    pub(super) ranges: u32,
}

/// What a function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Part {
    /// From the keys of some rows to a sample of them, as bytes.
    Sample,
    /// From such samples to the borders, as bytes.
    Draw,
    /// From the keys of each row, and the borders behind them, to the number of its range.
    Number,
}

/// Of the keys of so many rows.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sample {
    rows: u64,
    keys: Vec<Vec<u8>>,
}

/// Keys that each task samples. There are about four ranges for each of them: with 64 keys a range is hardly ever larger than others by
/// a half.
const SAMPLED: usize = 256;
/// A border has no more bytes than this: any bytes are a border.
const BORDER: usize = 256;
/// What its wire form begins with.
const MARK: &[u8] = b"regatta:borders!";

impl Borders {
    /// What Polars is to know of such a function.
    pub(super) fn options(&self) -> FunctionOptions {
        match self.part {
            Part::Sample | Part::Draw => FunctionOptions::aggregation(),
            Part::Number => FunctionOptions::elementwise(),
        }
    }

    pub(super) fn function(self) -> OpaqueColumnUdf {
        LazySerde::Deserialized(SpecialEq::new(Arc::new(self) as Arc<dyn AnonymousColumnsUdf>))
    }

    /// Whether a function is one of these.
    pub(super) fn is(function: &OpaqueColumnUdf) -> bool {
        wire_form(function).is_some_and(|wire| wire.starts_with(MARK))
    }

    /// Reads one back, if it is one.
    pub(super) fn from_wire(bytes: &[u8]) -> Option<Self> {
        decode(bytes.strip_prefix(MARK)?).ok()
    }

    fn dtype(&self) -> DataType {
        match self.part {
            Part::Sample | Part::Draw => DataType::Binary,
            Part::Number => DataType::UInt32,
        }
    }

    fn encoded(&self, keys: &[Column]) -> PolarsResult<BinaryArray<i64>> {
        polars_ensure!(
            keys.len() == self.descending.len() && keys.len() == self.nulls_last.len(),
            ComputeError: "{} keys where {} were sorted by", keys.len(), self.descending.len()
        );
        _get_rows_encoded_arr(keys, &self.descending, &self.nulls_last, false)
    }

    /// Keys of rows that are about as far from each other: one of each stretch, so that nothing that repeats itself is met in step.
    fn sample(&self, keys: &[Column]) -> PolarsResult<Sample> {
        let rows = keys.first().map_or(0, Column::len);
        let wanted = rows.min(SAMPLED);
        let border = |stretch: usize| (rows as u128 * stretch as u128 / wanted.max(1) as u128) as usize;
        let chosen = (0..wanted).map(|stretch| {
            let (from, to) = (border(stretch), border(stretch + 1));
            (from + (mixed(stretch as u64) % (to - from).max(1) as u64) as usize) as IdxSize
        });
        let chosen = IdxCa::from_vec(PlSmallStr::EMPTY, chosen.collect());
        let keys = keys.iter().map(|key| key.take(&chosen)).collect::<PolarsResult<Vec<_>>>()?;
        let keys = self.encoded(&keys)?;
        Ok(Sample {
            rows: rows as u64,
            keys: keys.values_iter().map(|key| key[..key.len().min(BORDER)].to_vec()).collect(),
        })
    }

    /// The keys at which ranges begin that have about as many rows each.
    fn draw(&self, samples: Vec<Sample>) -> Vec<Vec<u8>> {
        let weighed = samples.into_iter().flat_map(|Sample { rows, keys }| {
            let weight = (u128::from(rows) << 32) / keys.len().max(1) as u128;
            keys.into_iter().map(move |key| (key, weight))
        });
        let mut weighed: Vec<_> = weighed.collect();
        weighed.sort_unstable();
        let all: u128 = weighed.iter().map(|(_, weight)| weight).sum();
        let (mut borders, mut before) = (Vec::new(), 0);
        for (key, weight) in weighed {
            // As many borders as should be before this key's rows end.
            let due = ((before + weight) * u128::from(self.ranges)).checked_div(all).unwrap_or_default();
            let passed = (before * u128::from(self.ranges)).checked_div(all).unwrap_or_default();
            before += weight;
            if due > passed && before < all && borders.last() != Some(&key) {
                borders.push(key);
            }
        }
        borders
    }
}

/// The number of the range of each key: of how many borders it is not before.
fn numbers(keys: &BinaryArray<i64>, borders: &[Vec<u8>]) -> Vec<u32> {
    // Most comparisons end with the first bytes.
    let first = |key: &[u8]| {
        let mut first = [0; 8];
        let len = key.len().min(8);
        first[..len].copy_from_slice(&key[..len]);
        u64::from_be_bytes(first)
    };
    let borders: Vec<_> = borders.iter().map(|border| (first(border), &border[..])).collect();
    let number = |key: &[u8]| {
        let key = (first(key), key);
        borders.partition_point(|border| *border <= key) as u32
    };
    keys.values_iter().map(number).collect()
}

/// A number that has nothing to do with the next one's (SplitMix64).
const fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn bytes<T: Serialize>(of: &T) -> PolarsResult<Column> {
    let bytes = encode(of).map_err(|e| polars_err!(ComputeError: "{e}"))?;
    Ok(BinaryChunked::from_slice(PlSmallStr::EMPTY, &[&bytes[..]]).into_column())
}

fn of_bytes<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> PolarsResult<T> {
    decode(bytes).map_err(|e| polars_err!(ComputeError: "samples of keys that are none: {e}"))
}

impl ColumnsUdf for Borders {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn call_udf(&self, inputs: &mut [Column]) -> PolarsResult<Column> {
        let first = inputs.first().ok_or_else(|| polars_err!(ComputeError: "no key to sort by"))?;
        match self.part {
            Part::Sample => bytes(&self.sample(inputs)?),
            Part::Draw => {
                let samples = first.binary()?.iter().flatten().map(of_bytes).collect::<PolarsResult<_>>()?;
                bytes(&self.draw(samples))
            }
            Part::Number => {
                let Some((borders, keys)) = inputs.split_last() else {
                    return Ok(Column::new_empty(PlSmallStr::EMPTY, &self.dtype()));
                };
                // All rows have the same ones beside them.
                let borders: Vec<Vec<u8>> = match borders.get(0) {
                    Ok(AnyValue::Binary(borders)) => of_bytes(borders)?,
                    Ok(AnyValue::BinaryOwned(borders)) => of_bytes(&borders)?,
                    _ => Vec::new(),
                };
                let numbers = numbers(&self.encoded(keys)?, &borders);
                Ok(UInt32Chunked::from_vec(PlSmallStr::EMPTY, numbers).into_column())
            }
        }
    }
}

impl AnonymousColumnsUdf for Borders {
    fn as_column_udf(self: Arc<Self>) -> Arc<dyn ColumnsUdf> {
        self
    }

    fn deep_clone(self: Arc<Self>) -> Arc<dyn AnonymousColumnsUdf> {
        self
    }

    fn get_field(&self, _: &Schema, inputs: &[Field]) -> PolarsResult<Field> {
        let first = inputs.first().ok_or_else(|| polars_err!(ComputeError: "no key to sort by"))?;
        Ok(Field::new(first.name().clone(), self.dtype()))
    }

    fn try_serialize(&self, buffer: &mut Vec<u8>) -> PolarsResult<()> {
        let encoded = encode(self).map_err(|e| polars_err!(ComputeError: "{e}"))?;
        buffer.extend_from_slice(MARK);
        buffer.extend_from_slice(&encoded);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
