//! Columns of Polars as the device gets them, and its results as columns.

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField};
use polars::prelude::{Column, DataType, Field};
use regatta_gpu::{Bits, HostColumn, HostResult, PinnedBytes, Values};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::udf::{UdfError, UdfResult, column_from_arrow, column_to_arrow};

/// Whether a column of this dtype can be brought to a device; asked while a query is planned.
pub(super) fn check_input(field: &Field) -> UdfResult<()> {
    let dtype = field.dtype();
    let takes = match dtype {
        DataType::Boolean | DataType::String | DataType::Binary => true,
        DataType::List(inner) | DataType::Array(inner, _) => is_plain(inner),
        dtype => is_plain(dtype),
    };
    if takes {
        return Ok(());
    }
    Err(UdfError::new(format!(
        "column {:?} is {dtype}, which is not brought to a GPU: it takes numbers, dates, times, Boolean, String, Binary, and List \
         or Array of numbers; cast it before the UDF",
        field.name()
    )))
}

fn is_plain(dtype: &DataType) -> bool {
    dtype.is_primitive_numeric() && !matches!(dtype, DataType::Int128 | DataType::UInt128)
        || matches!(dtype, DataType::Date | DataType::Datetime(..) | DataType::Duration(_) | DataType::Time)
}

/// The type of a result, and the bytes of a row.
///
/// # Errors
/// It is none that a kernel can write.
pub(super) fn result_type(dtype: &DataType) -> UdfResult<ResultType> {
    if let DataType::Array(inner, width) = dtype
        && let Some((item, bytes)) = number(inner)
    {
        return Ok(ResultType { item, each: bytes * width, width: Some(*width) });
    }
    let (item, each) = number(dtype).ok_or_else(|| {
        UdfError::new(format!(
            "its output is {dtype}, which kernels do not write: make it a number or an Array of numbers"
        ))
    })?;
    Ok(ResultType { item, each, width: None })
}

#[derive(Debug, Clone)]
pub(super) struct ResultType {
    item: ArrowType,
    each: usize,
    /// Numbers in a row of an array.
    width: Option<usize>,
}

impl ResultType {
    /// Bytes of a row.
    pub(super) fn each(&self) -> usize {
        self.each
    }
}

fn number(dtype: &DataType) -> Option<(ArrowType, usize)> {
    Some(match dtype {
        DataType::Int8 => (ArrowType::Int8, 1),
        DataType::Int16 => (ArrowType::Int16, 2),
        DataType::Int32 => (ArrowType::Int32, 4),
        DataType::Int64 => (ArrowType::Int64, 8),
        DataType::UInt8 => (ArrowType::UInt8, 1),
        DataType::UInt16 => (ArrowType::UInt16, 2),
        DataType::UInt32 => (ArrowType::UInt32, 4),
        DataType::UInt64 => (ArrowType::UInt64, 8),
        DataType::Float32 => (ArrowType::Float32, 4),
        DataType::Float64 => (ArrowType::Float64, 8),
        _ => return None,
    })
}

/// A column's buffers, which are Polars' own where it has them in this form.
pub(super) struct Held {
    data: ArrayData,
    child: Option<ArrayData>,
}

impl Held {
    pub(super) fn new(column: &Column) -> UdfResult<Self> {
        let array = column_to_arrow(column)?;
        // Views have no offsets.
        let array: ArrayRef = match array.data_type() {
            ArrowType::Utf8View => cast(&array, &ArrowType::LargeUtf8)?,
            ArrowType::BinaryView => cast(&array, &ArrowType::LargeBinary)?,
            ArrowType::Null => return Err(UdfError::new(format!("column {:?} is nothing but nulls", column.name()))),
            _ => array,
        };
        let data = array.to_data();
        let child = match data.data_type() {
            ArrowType::LargeList(_) | ArrowType::FixedSizeList(..) => data.child_data().first().cloned(),
            _ => None,
        };
        if child.as_ref().is_some_and(|child| child.null_count() > 0 && has_null_element(&*array)) {
            let name = column.name();
            return Err(UdfError::new(format!(
                "an element of a list in column {name:?} is null: fill_null them before the UDF"
            )));
        }
        Ok(Self { data, child })
    }

    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        self.data.nulls()
    }

    /// The column as the pipeline takes it.
    pub(super) fn host(&self) -> UdfResult<HostColumn<'_>> {
        let (data, rows) = (&self.data, self.data.len());
        let unknown = || UdfError::new(format!("{} is not brought to a GPU", data.data_type()));
        let plain = |data: &ArrayData| data.data_type().primitive_width().ok_or_else(unknown);
        let buffer = |data: &ArrayData, n: usize| data.buffers().get(n).cloned().ok_or_else(unknown);
        let whole = |data: &'_ ArrayData, n: usize| -> UdfResult<()> { buffer(data, n).map(drop) };
        let offsets = || -> UdfResult<&[i64]> {
            whole(data, 0)?;
            if data.buffers()[0].is_empty() {
                return Ok(&[0]);
            }
            data.buffers()[0].typed_data::<i64>().get(data.offset()..=data.offset() + rows).ok_or_else(unknown)
        };
        let values = match data.data_type() {
            ArrowType::Boolean => {
                whole(data, 0)?;
                Values::Bits(Bits { bytes: data.buffers()[0].as_slice(), offset: data.offset() })
            }
            ArrowType::LargeUtf8 | ArrowType::LargeBinary => {
                whole(data, 1)?;
                Values::Variable { offsets: offsets()?, bytes: data.buffers()[1].as_slice(), each: 1 }
            }
            ArrowType::LargeList(_) => {
                let child = self.child.as_ref().ok_or_else(unknown)?;
                let each = plain(child)?;
                whole(child, 0)?;
                let bytes = child.buffers()[0].as_slice().get(child.offset() * each..).ok_or_else(unknown)?;
                Values::Variable { offsets: offsets()?, bytes, each }
            }
            ArrowType::FixedSizeList(_, width) => {
                let child = self.child.as_ref().ok_or_else(unknown)?;
                let (item, width) = (plain(child)?, usize::try_from(*width)?);
                whole(child, 0)?;
                let each = item * width;
                let start = child.offset() * item + data.offset() * each;
                let bytes = child.buffers()[0].as_slice().get(start..start + rows * each).ok_or_else(unknown)?;
                Values::Fixed { bytes, each }
            }
            _ => {
                let each = plain(data)?;
                whole(data, 0)?;
                let start = data.offset() * each;
                let bytes = data.buffers()[0].as_slice().get(start..start + rows * each).ok_or_else(unknown)?;
                Values::Fixed { bytes, each }
            }
        };
        let validity = data.nulls().map(|nulls| Bits { bytes: nulls.validity(), offset: nulls.offset() });
        Ok(HostColumn { values, validity })
    }
}

/// Whether an element is null in a row that is not.
fn has_null_element(array: &dyn Array) -> bool {
    use arrow::array::{FixedSizeListArray, LargeListArray};
    let any = array.as_any();
    let row = |n: usize| match (any.downcast_ref::<LargeListArray>(), any.downcast_ref::<FixedSizeListArray>()) {
        (Some(lists), _) => lists.value(n).null_count(),
        (_, Some(lists)) => lists.value(n).null_count(),
        _ => 0,
    };
    (0..array.len()).any(|n| array.is_valid(n) && row(n) > 0)
}

/// Memory for a result.
pub(super) struct Room {
    data: Data,
    validity: Option<MutableBuffer>,
    of: ResultType,
    rows: usize,
}

enum Data {
    Own(MutableBuffer),
    /// The begin of memory that holds results one after the other.
    Pinned(PinnedBytes),
}

impl Room {
    /// `pinned`: where the result is to lie, if that is long enough.
    pub(super) fn new(of: &ResultType, rows: usize, makes_nulls: bool, pinned: Option<PinnedBytes>) -> Self {
        let bytes = rows * of.each;
        let data = pinned.filter(|pinned| pinned.len() >= bytes).map(Data::Pinned);
        let data = data.unwrap_or_else(|| Data::Own(MutableBuffer::from_len_zeroed(bytes)));
        let validity = makes_nulls.then(|| MutableBuffer::from_len_zeroed(rows.div_ceil(8)));
        Self { data, validity, of: of.clone(), rows }
    }

    pub(super) fn host(&mut self) -> HostResult<'_> {
        let validity = self.validity.as_mut().map(MutableBuffer::as_slice_mut);
        let data = match &mut self.data {
            Data::Own(data) => data.as_slice_mut(),
            Data::Pinned(pinned) => &mut pinned[..self.rows * self.of.each],
        };
        HostResult { data, each: self.of.each, validity }
    }

    /// The result as a column, and its pinned memory, to which the column holds on; `nulls`: where it is null, if the kernels
    /// did not say.
    pub(super) fn column(self, nulls: Option<NullBuffer>) -> UdfResult<(Column, Option<Arc<PinnedBytes>>)> {
        let Self { data, validity, of, rows } = self;
        let (data, pinned) = match data {
            Data::Own(data) => (Buffer::from(data), None),
            Data::Pinned(pinned) => {
                let pinned = Arc::new(pinned);
                let start = NonNull::from(&**pinned).cast();
                // SAFETY: as many bytes are there, and stay there while their owner does, which nobody writes to while it is shared.
                let data = unsafe {
                    Buffer::from_custom_allocation(start, rows * of.each, Arc::<PinnedBytes>::clone(&pinned))
                };
                (data, Some(pinned))
            }
        };
        let nulls = match validity {
            Some(bits) => Some(NullBuffer::new(BooleanBuffer::new(bits.into(), 0, rows))),
            None => nulls,
        };
        let width = of.width.unwrap_or(1);
        let numbers = ArrayData::builder(of.item.clone()).len(rows * width).add_buffer(data);
        let array = match of.width {
            None => numbers.nulls(nulls).build()?,
            Some(width) => {
                let item = Arc::new(ArrowField::new("item", of.item, true));
                let lists = ArrayData::builder(ArrowType::FixedSizeList(item, i32::try_from(width)?)).len(rows);
                lists.add_child_data(numbers.build()?).nulls(nulls).build()?
            }
        };
        Ok((column_from_arrow("", &*make_array(array))?, pinned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::*;

    #[test]
    fn buffers_of_sliced_columns_are_those_of_their_rows() {
        let lists: ListChunked =
            (0..5i64).map(|n| (n != 3).then(|| Series::new("".into(), vec![n as f32; n as usize]))).collect();
        let frame = df![
            "n" => [Some(1i32), None, Some(3), Some(4), Some(5)],
            "b" => [true, false, true, true, false],
            "s" => ["", "ab", "a text longer than twelve bytes", "c", "d"],
            "l" => lists,
        ]
        .unwrap();
        let frame = frame.slice(1, 3);
        let held: Vec<_> = frame.columns().iter().map(|column| Held::new(column).unwrap()).collect();
        let host: Vec<_> = held.iter().map(|held| held.host().unwrap()).collect();
        let Values::Fixed { bytes, each: 4 } = host[0].values else { panic!("{:?}", host[0]) };
        assert_eq!(bytes[4..], [3, 0, 0, 0, 4, 0, 0, 0]);
        assert!(host[0].validity.is_some() && host[1].validity.is_none());
        let Values::Bits(bits) = host[1].values else { panic!("{:?}", host[1]) };
        let bit = |n: usize| bits.bytes[(bits.offset + n) / 8] >> ((bits.offset + n) % 8) & 1;
        assert_eq!([bit(0), bit(1), bit(2)], [0, 1, 1]);
        let text = |column: &HostColumn<'_>| {
            let Values::Variable { offsets, bytes, each } = column.values else { panic!("{column:?}") };
            offsets.windows(2).map(|o| bytes[o[0] as usize * each..o[1] as usize * each].to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(text(&host[2]), [b"ab".to_vec(), b"a text longer than twelve bytes".to_vec(), b"c".to_vec()]);
        let floats = |n: usize| vec![n as f32; n].into_iter().flat_map(f32::to_ne_bytes).collect::<Vec<u8>>();
        assert_eq!(text(&host[3])[..2], [floats(1), floats(2)]);
    }

    #[test]
    fn results_are_columns_of_their_dtype_with_their_nulls() {
        let of = result_type(&DataType::Array(Box::new(DataType::Float32), 2)).unwrap();
        let mut room = Room::new(&of, 3, false, None);
        room.host().data.copy_from_slice(&[1f32, 2., 3., 4., 5., 6.].map(f32::to_ne_bytes).concat());
        let nulls = NullBuffer::from(vec![true, false, true]);
        let (column, _) = room.column(Some(nulls)).unwrap();
        assert_eq!(column.dtype(), &DataType::Array(Box::new(DataType::Float32), 2));
        assert_eq!((column.null_count(), column.len()), (1, 3));
        let mut room = Room::new(&result_type(&DataType::Int16).unwrap(), 3, true, None);
        room.host().validity.unwrap()[0] = 0b110;
        let (column, _) = room.column(None).unwrap();
        assert!(column.equals_missing(&Column::new("".into(), [None, Some(0i16), Some(0)])), "{column:?}");
        let text = result_type(&DataType::String).unwrap_err().to_string();
        assert!(text.contains("output is str") && text.contains("number"), "{text}");
    }
}
