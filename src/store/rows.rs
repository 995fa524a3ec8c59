//! Some rows of a partition, as an IPC file of their own.

use std::io::Cursor;

use bytes::Bytes;
use polars::prelude::*;
use polars_arrow::io::ipc::read::{FileReader, get_row_count_from_blocks, read_file_metadata};
use polars_arrow::io::ipc::write::{FileWriter, WriteOptions};
use polars_arrow::record_batch::RecordBatchT;

use super::RowRange;

/// Reads only the record batches that hold these rows.
pub(super) fn rows(file: &Bytes, range: RowRange) -> PolarsResult<Bytes> {
    let mut source = Cursor::new(file);
    let mut metadata = read_file_metadata(&mut source)?;
    let (mut before, mut skip) = (0, None);
    let mut blocks = std::mem::take(&mut metadata.blocks);
    let mut fails = Ok(());
    blocks.retain(|block| {
        let rows = match get_row_count_from_blocks(&mut source, std::slice::from_ref(block)) {
            Ok(rows) => rows as u64,
            Err(error) => {
                fails = Err(error);
                return false;
            }
        };
        let wanted = before + rows > range.offset && before < range.offset + range.len;
        if wanted {
            skip.get_or_insert_with(|| range.offset.saturating_sub(before));
        }
        before += rows;
        wanted
    });
    fails?;
    metadata.blocks = blocks;
    let schema = Arc::clone(&metadata.schema);
    let mut writer = FileWriter::try_new(Vec::new(), schema, None, WriteOptions { compression: None })?;
    let (mut skip, mut left) = (skip.unwrap_or_default() as usize, range.len as usize);
    for batch in FileReader::new(source, metadata, None, None) {
        let batch = batch?;
        let take = batch.height().saturating_sub(skip).min(left);
        let (schema, arrays) = batch.into_schema_and_arrays();
        let arrays = arrays.into_iter().map(|array| array.sliced(skip, take)).collect();
        writer.write(&RecordBatchT::try_new(take, schema, arrays)?, None)?;
        (skip, left) = (0, left - take);
    }
    writer.finish()?;
    Ok(writer.into_inner().into())
}
