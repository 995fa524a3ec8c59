//! Polars columns as arrow-rs arrays and back, through the Arrow C data interface: buffers are shared, not copied.

use ::arrow::array::{Array, ArrayRef, NullArray, make_array};
use ::arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use polars::prelude::*;
use polars_arrow::ffi as polars_ffi;
use std::sync::Arc;

use super::{UdfError, UdfResult};

// Both crates declare the same C struct; what is moved below is that struct.
const _: () = assert!(size_of::<FFI_ArrowArray>() == size_of::<polars_ffi::ArrowArray>());
const _: () = assert!(size_of::<FFI_ArrowSchema>() == size_of::<polars_ffi::ArrowSchema>());

/// A Polars column as an arrow-rs array.
///
/// # Errors
/// 128-bit integers and objects, which arrow-rs does not have.
pub fn column_to_arrow(column: &Column) -> UdfResult<ArrayRef> {
    let series = column.as_materialized_series().rechunk();
    match series.dtype() {
        // The C data interface's null arrays have no buffer; arrow-rs wants to count them itself.
        DataType::Null => return Ok(Arc::new(NullArray::new(series.len()))),
        dtype @ (DataType::Int128 | DataType::UInt128) => {
            return Err(UdfError::new(format!(
                "column {:?} is {dtype}, which arrow-rs does not have: cast it to Decimal or Int64 before the UDF",
                column.name()
            )));
        }
        _ => (),
    }
    let level = CompatLevel::newest();
    let field = series.dtype().to_arrow_field(series.name().clone(), level);
    let array = polars_ffi::export_array_to_c(series.to_arrow(0, level));
    let schema = polars_ffi::export_field_to_c(&field);
    // SAFETY: `repr(C)` structs of the Arrow C data interface on both sides, of equal size (asserted above); ownership
    // with the release callback moves, `transmute` forgets the source. `from_ffi` then trusts lengths and buffers,
    // which Polars has just exported from a live array.
    let data = unsafe {
        let array = std::mem::transmute::<polars_ffi::ArrowArray, FFI_ArrowArray>(array);
        let schema = std::mem::transmute::<polars_ffi::ArrowSchema, FFI_ArrowSchema>(schema);
        from_ffi(array, &schema)?
    };
    Ok(make_array(data))
}

/// An arrow-rs array as a Polars column. String and binary arrays with offsets become views.
///
/// # Errors
/// A type that Polars does not have (unions, run-end encoding, intervals).
pub fn column_from_arrow(name: &str, array: &dyn Array) -> UdfResult<Column> {
    let (array, schema) = to_ffi(&array.to_data())?;
    // SAFETY: as above, the other way; Polars imports what arrow-rs has just exported.
    let (field, array) = unsafe {
        let array = std::mem::transmute::<FFI_ArrowArray, polars_ffi::ArrowArray>(array);
        let schema = std::mem::transmute::<FFI_ArrowSchema, polars_ffi::ArrowSchema>(schema);
        let field = polars_ffi::import_field_from_c(&schema)?;
        let array = polars_ffi::import_array_from_c(array, field.dtype.clone())?;
        (field, array)
    };
    let metadata = field.metadata.as_deref();
    // SAFETY: dtype and metadata are those of the imported array itself.
    let series =
        unsafe { Series::_try_from_arrow_unchecked_with_md(name.into(), vec![array], &field.dtype, metadata)? };
    Ok(series.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_cross_to_arrow_and_back_unchanged() {
        let frame = df![
            "i" => [Some(1i64), None, Some(-3)],
            "f" => [1.5, f64::NAN, -0.0],
            "s" => [Some("a"), None, Some("a string that is longer than twelve bytes")],
            "b" => [true, false, true],
            "l" => [Series::new("".into(), [1i32, 2]), Series::new("".into(), [3i32]), Series::new_empty("".into(), &DataType::Int32)],
        ]
        .unwrap();
        for column in frame.columns() {
            let there = column_to_arrow(column).unwrap();
            assert_eq!(there.len(), 3);
            let back = column_from_arrow(column.name(), &*there).unwrap();
            assert!(back.equals_missing(column), "{column:?} came back as {back:?}");
        }
    }

    #[test]
    fn numbers_share_their_buffer_with_arrow() {
        let column = Column::new("i".into(), [1i64, 2, 3]);
        let there = column_to_arrow(&column).unwrap();
        let ours = column.as_materialized_series().i64().unwrap().cont_slice().unwrap().as_ptr();
        assert_eq!(there.to_data().buffers()[0].as_ptr(), ours.cast());
    }
}
