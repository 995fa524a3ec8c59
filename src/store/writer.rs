//! Writing a partition: into memory first, into a file once it has grown.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use polars::prelude::*;
use polars_arrow::io::ipc::write::{FileWriter, WriteOptions};
use polars_core::schema::SchemaExt;

use super::{Data, INLINE, OwnedFile, Sealed, Store};
use crate::error::TaskFailure;
use crate::sched::{Output, PartitionId};

/// Writes one partition. Dropped before [`seal`](Self::seal), it leaves nothing.
pub(crate) struct PartitionWriter {
    store: Arc<Store>,
    id: PartitionId,
    rows: u64,
    writer: FileWriter<Growing>,
    /// Batches that must be written as one: an IPC file has one dictionary for a column, and a categorical's categories
    /// grow while batches come.
    together: Option<Vec<DataFrame>>,
}

impl PartitionWriter {
    pub(super) fn new(store: Arc<Store>, id: PartitionId, path: PathBuf, schema: &Schema) -> Result<Self, TaskFailure> {
        let sink = Growing { buffer: Vec::new(), path, file: None, crc: crc32fast::Hasher::new() };
        let together = schema.iter_values().any(has_categories).then(Vec::new);
        let schema = Arc::new(schema.to_arrow(CompatLevel::newest()));
        let writer = FileWriter::try_new(sink, schema, None, WriteOptions { compression: None }).map_err(failed)?;
        Ok(Self { store, id, rows: 0, writer, together })
    }

    /// Appends a batch of the partition's schema.
    ///
    /// # Errors
    /// The disk is full, or a dtype has no Arrow form.
    pub(crate) fn write(&mut self, batch: &DataFrame) -> Result<(), TaskFailure> {
        self.rows += batch.height() as u64;
        match &mut self.together {
            Some(batches) => batches.push(batch.clone()),
            None => self.append(batch.clone())?,
        }
        Ok(())
    }

    /// Completes the partition and puts it into the store.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn seal(mut self) -> Result<Output, TaskFailure> {
        let whole = self.together.take().unwrap_or_default().into_iter().reduce(|mut whole, batch| {
            whole.vstack_mut_owned_unchecked(batch);
            whole
        });
        if let Some(mut whole) = whole {
            whole.rechunk_mut_par();
            self.append(whole)?;
        }
        self.writer.finish().map_err(failed)?;
        let sealed = self.writer.into_inner().seal().map_err(failed)?;
        let bytes = sealed.len();
        self.store.insert(self.id, sealed);
        Ok(Output { id: self.id, rows: self.rows, bytes })
    }

    fn append(&mut self, mut batch: DataFrame) -> Result<(), TaskFailure> {
        batch.align_chunks_par();
        let mut chunks = batch.iter_chunks(CompatLevel::newest(), true);
        chunks.try_for_each(|chunk| self.writer.write(&chunk, None)).map_err(failed)
    }
}

fn has_categories(dtype: &DataType) -> bool {
    match dtype {
        DataType::Categorical(..) => true,
        DataType::List(inner) | DataType::Array(inner, _) => has_categories(inner),
        DataType::Struct(fields) => fields.iter().any(|field| has_categories(field.dtype())),
        _ => false,
    }
}

fn failed(error: impl Into<PolarsError>) -> TaskFailure {
    TaskFailure::Store(error.into().to_string())
}

/// Memory up to [`INLINE`] bytes, a file from there on.
struct Growing {
    buffer: Vec<u8>,
    path: PathBuf,
    file: Option<OwnedFile>,
    crc: crc32fast::Hasher,
}

impl Growing {
    fn flush_buffer(&mut self) -> io::Result<()> {
        let owned = match &mut self.file {
            Some(owned) => owned,
            None => {
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(&self.path)?;
                self.file.insert(OwnedFile { path: self.path.clone(), file, len: 0 })
            }
        };
        (&owned.file as &File).write_all(&self.buffer)?;
        owned.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn seal(mut self) -> io::Result<Sealed> {
        if self.file.is_some() {
            self.flush_buffer()?;
        }
        let crc = self.crc.finalize();
        let data = match self.file {
            Some(file) => Data::File(file),
            None => Data::Memory(self.buffer.into()),
        };
        Ok(Sealed { data, crc })
    }
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.crc.update(bytes);
        if self.buffer.len() > INLINE {
            self.flush_buffer()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
