//! Every kind of array survives, and whatever becomes of its bytes is no panic.

use std::collections::HashMap;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    FixedSizeListArray, Int32Array, Int64Array, LargeListViewArray, LargeStringArray, ListArray, ListViewArray,
    MapArray, NullArray, RecordBatchOptions, RunArray, StringArray, StringViewArray, StructArray, TimestampSecondArray,
    UnionArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, Fields, Int32Type, UnionFields};
use bytes::Bytes;

use super::*;
use crate::batch::written;

fn stream(batch: &RecordBatch) -> Vec<u8> {
    written(batch).unwrap().concat()
}

fn of(arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let fields: Vec<Field> =
        arrays.iter().map(|array| Field::new("x", array.data_type().clone(), array.is_nullable())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).unwrap()
}

fn field(name: &str, of: &dyn Array) -> Arc<Field> {
    Arc::new(Field::new(name, of.data_type().clone(), false))
}

/// A batch of each kind of array that takes buffers in a way of its own.
fn kinds(rows: usize) -> Vec<RecordBatch> {
    let numbers = || Int32Array::from_iter_values(0..rows as i32);
    let some = || NullBuffer::from_iter((0..rows).map(|n| !n.is_multiple_of(3)));
    let texts = || (0..rows).map(|n| (!n.is_multiple_of(3)).then(|| format!("a text of more than twelve bytes {n}")));
    let offsets = || OffsetBuffer::<i32>::from_lengths((0..rows).map(|n| n % 2));
    let halves = || Int32Array::from_iter_values(0..(rows / 2) as i32);
    let sizes = || (0..rows).map(|n| (n % 2) as i32).collect::<ScalarBuffer<i32>>();
    let large = || (0..rows).map(|n| (n % 2) as i64).collect::<ScalarBuffer<i64>>();
    let starts = (0..rows as i32).map(|n| n / 2).collect::<ScalarBuffer<i32>>();
    let pair = Fields::from(vec![field("key", &halves()), field("value", &halves())]);
    let entries = StructArray::new(pair, vec![Arc::new(halves()), Arc::new(halves())], None);
    let types = (0..rows).map(|n| [3i8, 5][n % 2]).collect::<ScalarBuffer<i8>>();
    let both =
        || UnionFields::try_new([3, 5], [field("a", &numbers()), field("b", &BooleanArray::from(vec![true]))]).unwrap();
    let flags = || Arc::new((0..rows).map(|n| Some(n.is_multiple_of(2))).collect::<BooleanArray>()) as ArrayRef;
    let keys = || {
        (0..rows).map(|n| (!n.is_multiple_of(4)).then_some(["a", "b"][n % 2])).collect::<DictionaryArray<Int32Type>>()
    };
    let ends = Int32Array::from_iter_values((1..=rows as i32).filter(|n| n % 2 == 0 || *n == rows as i32));
    let runs = Int64Array::from_iter_values(0..ends.len() as i64);
    let arrays: Vec<ArrayRef> = vec![
        flags(),
        Arc::new(Int64Array::new((0..rows as i64).collect(), Some(some()))),
        Arc::new(TimestampSecondArray::from_iter_values(0..rows as i64).with_timezone("Europe/Berlin")),
        Arc::new(Decimal128Array::from_iter_values((0..rows).map(|n| n as i128 * 1_000_000_007))),
        Arc::new(texts().collect::<StringArray>()),
        Arc::new(texts().collect::<LargeStringArray>()),
        Arc::new(texts().collect::<StringViewArray>()),
        Arc::new(texts().map(|text| text.map(String::into_bytes)).collect::<BinaryViewArray>()),
        Arc::new(keys()),
        Arc::new(NullArray::new(rows)),
        Arc::new(FixedSizeBinaryArray::new(3, Buffer::from(vec![7u8; 3 * rows]), Some(some()))),
        Arc::new(FixedSizeListArray::new(field("item", &numbers()), 1, Arc::new(numbers()), Some(some()))),
        Arc::new(ListArray::new(field("item", &halves()), offsets(), Arc::new(halves()), Some(some()))),
        Arc::new(ListViewArray::new(field("item", &halves()), starts.clone(), sizes(), Arc::new(halves()), None)),
        Arc::new(LargeListViewArray::new(
            field("item", &halves()),
            starts.iter().map(|n| i64::from(*n)).collect(),
            large(),
            Arc::new(halves()),
            Some(some()),
        )),
        Arc::new(MapArray::new(field("entries", &entries), offsets(), entries, Some(some()), false)),
        Arc::new(StructArray::new(
            Fields::from(vec![field("a", &numbers()), Arc::new(Field::new("b", keys().data_type().clone(), true))]),
            vec![Arc::new(numbers()), Arc::new(keys())],
            Some(some()),
        )),
        Arc::new(RunArray::<Int32Type>::try_new(&ends, &runs).unwrap()),
        Arc::new(UnionArray::try_new(both(), types.clone(), None, vec![Arc::new(numbers()), flags()]).unwrap()),
        Arc::new(UnionArray::try_new(both(), types, Some(starts), vec![Arc::new(numbers()), flags()]).unwrap()),
    ];
    arrays.into_iter().map(|array| of(vec![array], rows)).chain([of(Vec::new(), rows)]).collect()
}

#[test]
fn every_kind_of_array_survives_wherever_its_bytes_lie() {
    for rows in [0, 1, 2, 100] {
        for batch in kinds(rows) {
            let bytes = stream(&batch);
            for shift in 0..8 {
                let shifted = Bytes::from([vec![0; shift], bytes.clone()].concat()).slice(shift..);
                let came = read(Buffer::from(shifted)).unwrap_or_else(|error| panic!("{:?}: {error}", batch.schema()));
                assert_eq!(came, batch);
            }
        }
    }
}

#[test]
fn a_stream_that_is_cut_or_goes_on_is_an_error() {
    for batch in kinds(3) {
        let bytes = stream(&batch);
        for end in 0..bytes.len() {
            assert!(read(Buffer::from(&bytes[..end])).is_err(), "{end} of {}", bytes.len());
        }
        assert!(read(Buffer::from([&bytes[..], &[0]].concat())).is_err());
        assert!(read(Buffer::from([&bytes[..], &bytes[..]].concat())).is_err());
    }
}

/// Were one of these to panic in Arrow, this would fail.
#[test]
fn whatever_becomes_of_its_bytes_is_no_panic() {
    let mut refused = 0;
    for batch in kinds(5) {
        let bytes = stream(&batch);
        let mut spoil = |at: usize, with: &[u8]| {
            let mut spoilt = bytes.clone();
            let end = (at + with.len()).min(spoilt.len());
            spoilt[at..end].copy_from_slice(&with[..end - at]);
            match read(Buffer::from(spoilt)) {
                Ok(read) => read.columns().iter().for_each(|column| column.to_data().validate_full().unwrap()),
                Err(_) => refused += 1,
            }
        };
        for at in 0..bytes.len() {
            for with in [0, 1, 2, 7, 0x7f, 0x80, 0xff] {
                spoil(at, &[with]);
            }
            if at.is_multiple_of(4) {
                spoil(at, &[0xff; 8]);
                spoil(at, &i64::MAX.to_le_bytes());
                spoil(at, &i32::MAX.to_le_bytes());
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
}

#[test]
fn a_table_that_is_referred_to_over_and_over_is_not_made_over_and_over() {
    const FIELDS: usize = 67;
    let large = HashMap::from([("why".to_owned(), "x".repeat(64 << 10))]);
    let mut fields: Vec<Field> = (0..FIELDS).map(|n| Field::new(n.to_string(), DataType::Null, true)).collect();
    fields[0].set_metadata(large);
    let nothing = fields.iter().map(|_| Arc::new(NullArray::new(1)) as ArrayRef).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), nothing).unwrap();
    let mut bytes = stream(&batch);
    assert_eq!(read(Buffer::from(bytes.as_slice())).unwrap(), batch);
    // The list of fields: their number, and for each how far it is from there.
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    let list = (0..bytes.len() - 4).find(|at| word(&bytes, *at) == FIELDS).unwrap() + 4;
    let first = list + word(&bytes, list);
    for entry in (list..).step_by(4).take(FIELDS) {
        bytes[entry..entry + 4].copy_from_slice(&((first - entry) as u32).to_le_bytes());
    }
    let error = read(Buffer::from(bytes.as_slice())).unwrap_err().to_string();
    assert!(error.contains("no schema that this crate writes"), "{error}");
}
