//! Frames as Arrow IPC files, by Polars' own writer: it compacts string views, so that a slice ships its strings only.

use std::io::Cursor;

use bytes::Bytes;
use polars::prelude::*;

/// A frame as one IPC file.
///
/// # Errors
/// A dtype without an Arrow form (objects).
pub(crate) fn encode_frame(frame: &DataFrame) -> PolarsResult<Bytes> {
    let mut bytes = Vec::with_capacity(frame.estimated_size() + 1024);
    IpcWriter::new(&mut bytes).finish(&mut frame.clone())?;
    Ok(bytes.into())
}

/// The frame of one IPC file.
///
/// # Errors
/// The bytes are no such file.
pub(crate) fn decode_frame(bytes: Bytes) -> PolarsResult<DataFrame> {
    IpcReader::new(Cursor::new(bytes)).finish()
}
