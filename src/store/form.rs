//! Rows as blocks: IPC record-batch messages without a file around them. Whoever reads them knows their schema.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use polars::prelude::*;
use polars_arrow::array::{Array, BinaryViewArrayGeneric, FixedSizeListArray, ListArray, StructArray, ViewType};
use polars_arrow::datatypes::PhysicalType;
use polars_arrow::io::ipc::IpcSchema;
use polars_arrow::io::ipc::format::ipc::planus::{self, ReadAsRoot};
use polars_arrow::io::ipc::format::ipc::{CompressionType, MessageHeaderRef, MessageRef};
use polars_arrow::io::ipc::read::{FileMetadata, read_batch};
use polars_arrow::io::ipc::write::schema::schema_to_bytes;
use polars_arrow::io::ipc::write::{
    Block, Compression, EncodedData, WriteOptions, default_ipc_fields, encode_record_batch,
};
use polars_arrow::mmap::mmap_unchecked;
use polars_arrow::offset::Offsets;
use polars_arrow::record_batch::RecordBatchT;
use polars_core::schema::SchemaExt;
use regatta_remote::catch;

/// Blocks begin here, and so do the buffers in them, whatever their type.
pub(super) const ALIGN: usize = 64;
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Before a message: the continuation and its length.
const PREFIX: usize = 8;

/// The schema of an output, and its form in a store: categories are text there, since their numbers are those of one process.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    schema: SchemaRef,
    stored: Schema,
    /// Columns are stored as other types than they have.
    differs: bool,
    /// Of an IPC file with this schema and no block.
    file: FileMetadata,
    mark: u32,
    /// Of what is written.
    compression: Option<Compression>,
}

/// A block whose two parts were not put together yet: what says where its columns are, and these. The length of each is a multiple of
/// [`ALIGN`].
#[derive(Default)]
pub(super) struct Encoded {
    head: Vec<u8>,
    data: EncodedData,
}

impl Encoded {
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        [&self.head, &self.data.arrow_data]
    }

    pub(super) fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

impl Form {
    pub(crate) fn new(schema: &SchemaRef) -> Arc<Self> {
        let stored = Schema::from_iter(schema.iter().map(|(name, dtype)| Field::new(name.clone(), in_store(dtype))));
        let arrow = Arc::new(stored.to_arrow(CompatLevel::newest()));
        let fields = default_ipc_fields(arrow.iter_values());
        let mark = crc32fast::hash(&schema_to_bytes(&arrow, &fields, None));
        let file = FileMetadata {
            schema: arrow,
            custom_schema_metadata: None,
            custom_metadata: None,
            ipc_schema: IpcSchema { fields, is_little_endian: cfg!(target_endian = "little") },
            blocks: Vec::new(),
            dictionaries: None,
            size: 0,
        };
        let differs = stored != **schema;
        Self { schema: Arc::clone(schema), stored, differs, file, mark, compression: None }.into()
    }

    /// The same, whose blocks are compressed. Whoever has either reads both.
    pub(crate) fn compressed(schema: &SchemaRef) -> Arc<Self> {
        let form = Self::new(schema);
        Arc::new(Self { compression: Some(Compression::LZ4), ..Self::clone(&form) })
    }

    pub(super) fn compresses(&self) -> bool {
        self.compression.is_some()
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Equal where blocks can be read: says to a reader that it is wrong about a schema before it reads garbage.
    pub(crate) fn mark(&self) -> u32 {
        self.mark
    }

    /// Whether these rows are of this schema.
    ///
    /// # Errors
    /// They are not: what the planner said of a task is wrong.
    pub(crate) fn check(&self, rows: &DataFrame) -> PolarsResult<()> {
        let same = rows.width() == self.schema.len()
            && rows
                .columns()
                .iter()
                .zip(self.schema.iter())
                .all(|(c, (name, dtype))| c.name() == name && c.dtype() == dtype);
        polars_ensure!(same, SchemaMismatch: "a task was to leave {:?} and made {:?}", self.schema, rows.schema());
        Ok(())
    }

    /// Makes a block of rows, in the room of one that is not wanted any more.
    pub(super) fn encode(&self, mut rows: DataFrame, into: &mut Encoded) -> PolarsResult<()> {
        rows.rechunk_mut();
        if self.differs {
            rows = cast(rows, &self.stored)?;
            rows.rechunk_mut();
        }
        let batch = match rows.iter_chunks(CompatLevel::newest(), false).next() {
            Some(batch) if rows.width() > 0 => batch,
            // Without a column there are no chunks either, but rows.
            Some(_) => RecordBatchT::try_new(rows.height(), Arc::clone(&self.file.schema), Vec::new())?,
            None => RecordBatchT::try_new(0, Arc::clone(&self.file.schema), Vec::new())?,
        };
        let height = batch.height();
        let arrays = batch.into_arrays().into_iter().map(compact).collect();
        let batch = RecordBatchT::try_new(height, Arc::clone(&self.file.schema), arrays)?;
        let Encoded { head, data } = into;
        encode_record_batch(&batch, &WriteOptions { compression: self.compression }, data);
        head.clear();
        head.extend_from_slice(&CONTINUATION);
        let message = (PREFIX + data.ipc_message.len()).next_multiple_of(ALIGN) - PREFIX;
        head.extend_from_slice(&(message as i32).to_le_bytes());
        head.extend_from_slice(&data.ipc_message);
        head.resize(PREFIX + message, 0);
        data.arrow_data.resize(data.arrow_data.len().next_multiple_of(ALIGN), 0);
        Ok(())
    }

    /// The rows of a block that this process has written, or another of this machine under its own name: without a copy.
    pub(crate) fn map(&self, block: Bytes) -> PolarsResult<DataFrame> {
        if !block.as_ptr().addr().is_multiple_of(ALIGN) {
            return self.decode(&block);
        }
        let file = self.with_block(&block)?;
        // SAFETY: the block is as `encode` made it: its checksum has been compared, and it was never in another's hands.
        let batch = caught(|| unsafe { mmap_unchecked(&file, &Default::default(), Arc::new(block.clone()), 0) });
        match batch {
            Ok(batch) => self.frame(batch),
            // What is compressed is not to be had where it is.
            Err(_) => self.decode(&block),
        }
    }

    /// The rows of a block that came from another process: everything in it is looked at and copied.
    pub(crate) fn decode(&self, block: &[u8]) -> PolarsResult<DataFrame> {
        let file = self.with_block(block)?;
        let (head, body) = block.split_at(file.blocks[0].meta_data_length as usize);
        holds_what_it_claims(&head[PREFIX..], body)?;
        let (mut message, mut data) = (Vec::new(), Vec::new());
        let mut source = Cursor::new(block);
        let read = || {
            let (no, dictionaries, checked) = (None, Default::default(), Default::default());
            read_batch(&mut source, &dictionaries, &file, no, None, 0, true, &mut message, &mut data, checked)
        };
        self.frame(caught(read)?)
    }

    fn with_block(&self, block: &[u8]) -> PolarsResult<FileMetadata> {
        let message = match block {
            [0xff, 0xff, 0xff, 0xff, a, b, c, d, ..] => i32::from_le_bytes([*a, *b, *c, *d]),
            _ => -1,
        };
        let head = usize::try_from(message).ok().and_then(|message| message.checked_add(PREFIX));
        let head = head.filter(|head| *head <= block.len());
        let head = head.ok_or_else(|| polars_err!(ComputeError: "a block of rows does not begin as one"))?;
        let (meta_data_length, body_length) = (head as i32, (block.len() - head) as i64);
        Ok(FileMetadata { blocks: vec![Block { offset: 0, meta_data_length, body_length }], ..self.file.clone() })
    }

    fn frame(&self, batch: RecordBatchT<Box<dyn Array>>) -> PolarsResult<DataFrame> {
        let rows = caught(|| Ok(DataFrame::from(batch)))?;
        if self.differs { cast(rows, &self.schema) } else { Ok(rows) }
    }
}

/// LZ4 makes of a byte at most so many.
const LZ4_MAKES: u64 = 255;

/// Refuses buffers that claim more bytes than they can be unpacked to: a reader asks for that much memory before it looks, and a process
/// that does not get it ends. How much other ways of packing make of a byte has no bound that is of use, and blocks have none of them.
fn holds_what_it_claims(message: &[u8], body: &[u8]) -> PolarsResult<()> {
    let no = |why: planus::Error| polars_err!(ComputeError: "a block of rows does not begin as one: {why}");
    let header = MessageRef::read_as_root(message).and_then(|message| message.header()).map_err(no)?;
    let Some(MessageHeaderRef::RecordBatch(batch)) = header else { return Ok(()) }; // which readers say
    let Some(packed) = batch.compression().map_err(no)? else { return Ok(()) };
    let codec = packed.codec().map_err(no)?;
    polars_ensure!(codec == CompressionType::Lz4Frame, ComputeError: "a block of rows is packed by {codec:?}, not by LZ4");
    for buffer in batch.buffers().map_err(no)?.into_iter().flatten() {
        let (from, len) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let bytes = from.ok().zip(len.ok()).and_then(|(from, len)| body.get(from..from.checked_add(len)?));
        let bytes = bytes.ok_or_else(|| polars_err!(ComputeError: "a buffer of a block of rows lies outside of it"))?;
        let Some((claim, packed)) = bytes.split_first_chunk() else { continue }; // an empty one
        let (claim, most) = (i64::from_le_bytes(*claim), LZ4_MAKES.saturating_mul(packed.len() as u64));
        // A negative one stands for what is not packed.
        let fits = u64::try_from(claim).is_ok_and(|claim| claim <= most) || claim < 0;
        polars_ensure!(fits, ComputeError: "a buffer of a block of rows claims {claim} bytes, and LZ4 makes at most {most} of its {}", packed.len());
    }
    Ok(())
}

/// Polars' readers panic on some bytes that they do not expect.
fn caught<T>(read: impl FnOnce() -> PolarsResult<T>) -> PolarsResult<T> {
    catch(read).unwrap_or_else(|panic| Err(polars_err!(ComputeError: "a block of rows cannot be read: {panic}")))
}

fn cast(rows: DataFrame, to: &Schema) -> PolarsResult<DataFrame> {
    polars_ensure!(rows.width() == to.len(), SchemaMismatch: "{} columns instead of {}", rows.width(), to.len());
    let height = rows.height();
    let columns = rows.into_columns().into_iter().zip(to.iter_values());
    let columns =
        columns.map(|(column, dtype)| if column.dtype() == dtype { Ok(column) } else { column.strict_cast(dtype) });
    DataFrame::new(height, columns.collect::<PolarsResult<_>>()?)
}

fn in_store(dtype: &DataType) -> DataType {
    match dtype {
        DataType::Categorical(..) | DataType::Enum(..) => DataType::String,
        DataType::List(inner) => DataType::List(Box::new(in_store(inner))),
        DataType::Array(inner, width) => DataType::Array(Box::new(in_store(inner)), *width),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name().clone(), in_store(field.dtype()))).collect(),
        ),
        other => other.clone(),
    }
}

/// Without what a slice has left out of the texts that it shares with others. Polars' writer sees to that for columns, but not for what
/// is nested in them.
fn compact(array: Box<dyn Array>) -> Box<dyn Array> {
    match array.dtype().to_physical_type() {
        PhysicalType::Utf8View => compact_view::<str>(array),
        PhysicalType::BinaryView => compact_view::<[u8]>(array),
        PhysicalType::LargeList => compact_list(array),
        PhysicalType::FixedSizeList => match array.as_any().downcast_ref::<FixedSizeListArray>() {
            Some(list) => {
                let (dtype, values) = (list.dtype().clone(), compact(list.values().clone()));
                FixedSizeListArray::new(dtype, list.len(), values, list.validity().cloned()).boxed()
            }
            None => array,
        },
        PhysicalType::Struct => match array.as_any().downcast_ref::<StructArray>() {
            Some(fields) => {
                let values = fields.values().iter().map(|values| compact(values.clone())).collect();
                StructArray::new(fields.dtype().clone(), fields.len(), values, fields.validity().cloned()).boxed()
            }
            None => array,
        },
        _ => array,
    }
}

fn compact_view<T: ViewType + ?Sized>(array: Box<dyn Array>) -> Box<dyn Array> {
    match array.as_any().downcast_ref::<BinaryViewArrayGeneric<T>>() {
        Some(views) if views.total_buffer_len() > views.total_bytes_len() + 1024 => views.clone().gc().boxed(),
        _ => array,
    }
}

fn compact_list(array: Box<dyn Array>) -> Box<dyn Array> {
    let Some(list) = array.as_any().downcast_ref::<ListArray<i64>>() else { return array };
    let offsets = list.offsets().buffer();
    let (first, last) = (*list.offsets().first(), *list.offsets().last());
    let values = compact(list.values().sliced(first as usize, (last - first) as usize));
    let Ok(offsets) = Offsets::try_from(offsets.iter().map(|at| at - first).collect::<Vec<_>>()) else { return array };
    ListArray::new(list.dtype().clone(), offsets.into(), values, list.validity().cloned()).boxed()
}
