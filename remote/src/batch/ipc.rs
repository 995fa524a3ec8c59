//! Arrow's IPC stream of one batch, as peers send it.
//!
//! Arrow's own reader validates arrays, but not all that it reads on the way to them: it panics where a buffer is not
//! within its message, and makes as much of a few bytes as repeated references ask for. So what is needed of that is
//! checked here, before Arrow sees it: with `panic = "abort"` no peer ends the process.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{BufferSpec, layout};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::{self, MessageHeader, MetadataVersion, root_as_message};
use arrow::record_batch::RecordBatch;

/// Stands before the length of each message.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Rows of a batch, and elements of any array in it. Some take no bytes.
const ROWS: i64 = 1 << 32;
/// What a field counts for of the bytes of its schema: less than any of Arrow's own has.
const FIELD: usize = 16;

/// The one batch of a stream, whose arrays share these bytes where they are aligned.
pub(super) fn read(mut rest: Buffer) -> Result<RecordBatch, ArrowError> {
    let (mut schema, mut dictionaries, mut read) = (None, HashMap::new(), None);
    while let Some(size) = next(&mut rest)? {
        let about = take(&mut rest, size)?;
        let message = root_as_message(&about).map_err(|error| bad(format!("a message cannot be read: {error}")))?;
        let size = usize::try_from(message.bodyLength()).map_err(|_| bad("a message has less than no bytes"))?;
        let body = take(&mut rest, size)?;
        let version = message.version();
        if version != MetadataVersion::V5 {
            return Err(bad(format!("version {version:?}")));
        }
        match (message.header_type(), &schema) {
            (MessageHeader::Schema, None) => {
                let written = message.header_as_schema().ok_or_else(|| bad("a schema is missing"))?;
                let mut budget = about.len();
                check_schema(&written, &mut budget).ok_or_else(|| bad("no schema that this crate writes"))?;
                schema = Some(Arc::new(try_fb_to_schema(written)?));
            }
            (MessageHeader::DictionaryBatch, Some(schema)) if read.is_none() => {
                let written = message.header_as_dictionary_batch().ok_or_else(|| bad("a dictionary is missing"))?;
                let values = values_of(schema, written.id()).ok_or_else(|| bad("a dictionary of no field"))?;
                let arrays = written.data().ok_or_else(|| bad("a dictionary without values"))?;
                if written.isDelta() {
                    return Err(bad("a dictionary in parts"));
                }
                let body = check_arrays(&arrays, &[values], body)?;
                read_dictionary(&body, written, schema, &mut dictionaries, &version)?;
            }
            (MessageHeader::RecordBatch, Some(schema)) if read.is_none() => {
                let written = message.header_as_record_batch().ok_or_else(|| bad("a batch is missing"))?;
                let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
                let body = check_arrays(&written, &types, body)?;
                read = Some(read_record_batch(&body, written, Arc::clone(schema), &dictionaries, None, &version)?);
            }
            (other, _) => return Err(bad(format!("{other:?} where none may be"))),
        }
    }
    read.ok_or_else(|| bad("no batch"))
}

fn bad(what: impl Into<String>) -> ArrowError {
    ArrowError::IpcError(what.into())
}

/// The length of the next message's description; `None` at the end of the stream, which must be that of the bytes.
fn next(rest: &mut Buffer) -> Result<Option<usize>, ArrowError> {
    let prefix = take(rest, 8)?;
    let (mark, size) = prefix.split_first_chunk::<4>().ok_or_else(cut)?;
    let size = u32::from_le_bytes(*size.first_chunk().ok_or_else(cut)?);
    if *mark != CONTINUATION {
        return Err(bad("no message"));
    }
    match size {
        0 if rest.is_empty() => Ok(None),
        0 => Err(bad("bytes follow the end")),
        size => Ok(Some(size as usize)),
    }
}

fn take(rest: &mut Buffer, size: usize) -> Result<Buffer, ArrowError> {
    if size > rest.len() {
        return Err(cut());
    }
    let taken = rest.slice_with_length(0, size);
    rest.advance(size);
    Ok(taken)
}

fn cut() -> ArrowError {
    bad("the stream is cut off")
}

type Fields<'a> = ipc::Schema<'a>;

/// Whether a schema can be made of what is written, of no more memory than it has bytes: the same table may be referred to
/// over and over.
fn check_schema(schema: &Fields<'_>, budget: &mut usize) -> Option<()> {
    check_pairs(schema.custom_metadata().into_iter().flatten(), budget)?;
    schema.fields()?.iter().try_for_each(|field| check_field(&field, budget))
}

/// Its depth is bounded: Arrow has verified it.
fn check_field(field: &ipc::Field<'_>, budget: &mut usize) -> Option<()> {
    spend(budget, FIELD + field.name().map_or(0, str::len))?;
    check_pairs(field.custom_metadata().into_iter().flatten(), budget)?;
    let zone = field.type_as_timestamp().and_then(|timestamp| timestamp.timezone());
    spend(budget, zone.map_or(0, str::len))?;
    let children = field.children();
    let sound = match field.type_type() {
        ipc::Type::FixedSizeBinary => field.type_as_fixed_size_binary()?.byteWidth() >= 0,
        ipc::Type::FixedSizeList => field.type_as_fixed_size_list()?.listSize() >= 0,
        // Without, Arrow gives them numbers, of which it has 128.
        ipc::Type::Union => field.type_as_union()?.typeIds().is_some(),
        _ => true,
    };
    if !sound {
        return None;
    }
    children.into_iter().flatten().try_for_each(|child| check_field(&child, budget))
}

fn check_pairs<'a>(mut pairs: impl Iterator<Item = ipc::KeyValue<'a>>, budget: &mut usize) -> Option<()> {
    pairs.try_for_each(|pair| {
        let [key, value] = [pair.key(), pair.value()].map(|text| text.map_or(0, str::len));
        spend(budget, FIELD + key + value)
    })
}

fn spend(budget: &mut usize, bytes: usize) -> Option<()> {
    *budget = budget.checked_sub(bytes)?;
    Some(())
}

/// The type of the values of a dictionary.
fn values_of(schema: &Schema, dictionary: i64) -> Option<&DataType> {
    #[expect(deprecated)] // as Arrow's reader finds it
    let fields = schema.fields_with_dict_id(dictionary);
    match fields.first()?.data_type() {
        DataType::Dictionary(_, values) => Some(values),
        _ => None,
    }
}

/// Checks that there is in the body of a message what it says that there is, once and in order. Gives the body, as aligned as
/// is needed.
fn check_arrays(batch: &ipc::RecordBatch<'_>, types: &[&DataType], body: Buffer) -> Result<Buffer, ArrowError> {
    if batch.compression().is_some() {
        return Err(bad("it is compressed"));
    }
    let (nodes, buffers) = (batch.nodes().into_iter().flatten(), batch.buffers().into_iter().flatten());
    let mut end = 0;
    let mut sizes = Vec::new();
    for buffer in buffers {
        let (offset, size) = (usize::try_from(buffer.offset()).ok(), usize::try_from(buffer.length()).ok());
        let (offset, size) = offset.zip(size).filter(|(offset, _)| *offset >= end).ok_or_else(cut)?;
        end = offset.checked_add(size).filter(|end| *end <= body.len()).ok_or_else(cut)?;
        sizes.push((offset, size));
    }
    let counts = batch.variadicBufferCounts().into_iter().flatten();
    let mut layout = Layout { nodes, buffers: sizes.into_iter(), counts, offsets: false };
    let all = types.iter().try_for_each(|one| layout.array(one));
    let complete = layout.nodes.next().is_none() && layout.buffers.next().is_none() && layout.counts.next().is_none();
    if all.is_none() || !complete || !(0..=ROWS).contains(&batch.length()) {
        return Err(bad("its arrays are not those of its schema"));
    }
    // Arrow copies what is not aligned, but for the offsets of unions.
    let copied = layout.offsets && body.as_ptr().align_offset(align_of::<i32>()) != 0;
    Ok(if copied { Buffer::from_slice_ref(body.as_slice()) } else { body })
}

/// What is left of a message's description of arrays: for each its length, and its buffers' places.
struct Layout<N, B, C> {
    nodes: N,
    buffers: B,
    counts: C,
    /// Whether there are offsets of unions.
    offsets: bool,
}

impl<'a, N, B, C> Layout<N, B, C>
where
    N: Iterator<Item = &'a ipc::FieldNode>,
    B: Iterator<Item = (usize, usize)>,
    C: Iterator<Item = i64>,
{
    /// Takes what an array of this type has, in the order in which Arrow does.
    fn array(&mut self, of: &DataType) -> Option<()> {
        let node = self.nodes.next()?;
        let (rows, nulls) = (node.length(), node.null_count());
        if !(0..=ROWS).contains(&rows) || !(0..=rows).contains(&nulls) {
            return None;
        }
        let layout = layout(of);
        if layout.can_contain_null_mask {
            self.buffers.next()?;
        }
        let is_union = matches!(of, DataType::Union(..));
        for part in &layout.buffers {
            let (at, size) = self.buffers.next()?;
            if let BufferSpec::FixedWidth { byte_width, alignment } = *part {
                if size.checked_rem(byte_width).unwrap_or(size) != 0 {
                    return None;
                }
                if is_union && (size / byte_width < usize::try_from(rows).ok()? || at % alignment != 0) {
                    return None;
                }
                self.offsets |= is_union && alignment > 1;
            }
        }
        if layout.variadic {
            let more = usize::try_from(self.counts.next()?).ok()?;
            (0..more).try_for_each(|_| self.buffers.next().map(drop))?;
        }
        match of {
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::Map(field, _)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _) => self.array(field.data_type()),
            DataType::Struct(fields) => fields.iter().try_for_each(|field| self.array(field.data_type())),
            DataType::RunEndEncoded(ends, values) => {
                self.array(ends.data_type())?;
                self.array(values.data_type())
            }
            DataType::Union(fields, _) => fields.iter().try_for_each(|(_, field)| self.array(field.data_type())),
            _ => Some(()),
        }
    }
}

#[cfg(test)]
mod tests;
