//! Writing an output: rows are queued as they come; so many bytes of them are a run, which a thread of its own encodes and appends
//! while the next one is queued.

use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use polars::prelude::*;

use super::Store;
use super::along::Rows;
use super::file::StageFile;
use super::form::{Encoded, Form};
use super::output::{Block, Data, Sealed};
use crate::error::TaskFailure;
use crate::sched::{Output, PartitionId, Sizes};

/// Bytes that make a run. While it is written, as many are queued: a task holds twice this.
const RUN: usize = 32 << 20;
/// What a task holds of what it writes, at most: of the run that is queued, of the one that is written, and what of that is encoded.
#[cfg(test)]
pub(crate) const WRITING: usize = 2 * RUN + STAGED + BLOCK;
/// Bytes that are written at once.
pub(super) const STAGED: usize = 4 << 20;
/// A block has no more rows than this, and about so many bytes: several of them are in flight in each pipeline of a reader.
pub(super) const BLOCK_ROWS: usize = 1 << 16;
const BLOCK: usize = 1 << 20;
/// An output up to this size stays in memory, while there is room for it.
pub(super) const SMALL: usize = 64 << 10;

/// Writes one output. Dropped before [`seal`](Self::seal), it leaves nothing.
pub(crate) struct Writer {
    store: Arc<Store>,
    id: PartitionId,
    form: Arc<Form>,
    /// Rows by section, in their order.
    queue: Vec<(u32, DataFrame)>,
    queued: usize,
    rows: u64,
    /// What all rows take in memory.
    bytes: u64,
    written: Written,
    /// The run that is being written, with what was before it.
    writing: Option<JoinHandle<Result<Written, TaskFailure>>>,
}

/// What is in the stage's file so far. Dropped before it is sealed, its room on the disk is given back.
#[derive(Default)]
pub(super) struct Written {
    pub(super) file: Option<Arc<StageFile>>,
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) blocks: Vec<Block>,
    pub(super) runs: Vec<usize>,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, id: PartitionId, form: Arc<Form>) -> Self {
        let (queue, written) = (Vec::new(), Written::default());
        Self { store, id, form, queue, queued: 0, rows: 0, bytes: 0, written, writing: None }
    }

    /// Appends rows of its form to a section.
    ///
    /// # Errors
    /// The disk is full, or a dtype has no Arrow form: of these rows or of earlier ones.
    pub(crate) fn write(&mut self, section: u32, rows: DataFrame) -> Result<(), TaskFailure> {
        let height = rows.height();
        self.write_sections(&rows, [(section, 0..height)])
    }

    /// The same of several sections: to each, these rows.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn write_sections(
        &mut self,
        rows: &DataFrame,
        sections: impl IntoIterator<Item = (u32, Range<usize>)>,
    ) -> Result<(), TaskFailure> {
        let sections = sections.into_iter().filter(|(_, part)| !part.is_empty());
        self.queue.extend(sections.map(|(section, part)| (section, rows.slice(part.start as i64, part.len()))));
        self.rows += rows.height() as u64;
        let bytes = size(rows);
        self.bytes += bytes as u64;
        self.queued += bytes;
        if self.queued < RUN {
            return Ok(());
        }
        let mut written = self.wait()?;
        let file = self.file(&mut written)?;
        let (queue, form, block_rows) = (self.take_queue(), Arc::clone(&self.form), self.store.block_rows);
        let write = move || {
            written.append(queue, &form, (&file, block_rows))?;
            Ok(written)
        };
        let thread = thread::Builder::new().name(format!("write {}", self.id.task.index)).spawn(write);
        self.writing = Some(thread.map_err(|e| TaskFailure::Store(format!("no thread to write with: {e}")))?);
        Ok(())
    }

    /// Completes the output and puts it into the store.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn seal(self) -> Result<Output, TaskFailure> {
        Ok(self.sealed(false)?.0)
    }

    /// Completes the output and says how many bytes each section has.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn seal_sections(self) -> Result<(Output, Sizes), TaskFailure> {
        let store = Arc::clone(&self.store);
        let output = self.seal()?;
        let sealed = store.get(output.id);
        Ok((output, sealed.map(|sealed| sealed.sections(output.bytes)).unwrap_or_default()))
    }

    /// Completes the output. If it is few bytes of one section, these are all that is left of it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn seal_along(self) -> Result<(Output, Rows), TaskFailure> {
        self.sealed(true)
    }

    fn sealed(mut self, may_go_along: bool) -> Result<(Output, Rows), TaskFailure> {
        let mut written = self.wait()?;
        let queue = self.take_queue();
        let small = if written.file.is_none() { encode_small(&queue, &self.form)? } else { None };
        if let Some((bytes, blocks)) = small.as_ref().filter(|_| may_go_along)
            && let Some(along) = Rows::along(self.form.mark(), blocks, bytes)
        {
            return Ok((Output { id: self.id, rows: self.rows, bytes: bytes.len() as u64 }, along));
        }
        let in_memory = small.and_then(|(bytes, blocks)| {
            let charge = self.store.small.take(bytes.len() as u64)?;
            Some((blocks, Data::Memory(bytes.into(), charge)))
        });
        let sealed = match in_memory {
            Some((blocks, data)) => Sealed::new(self.form.mark(), blocks, vec![0], data),
            None => {
                let file = self.file(&mut written)?;
                written.append(queue, &self.form, (&file, self.store.block_rows))?;
                // From here on it is read.
                written.ranges.clear();
                let (blocks, runs) = (std::mem::take(&mut written.blocks), std::mem::take(&mut written.runs));
                Sealed::new(self.form.mark(), blocks, runs, Data::File(file))
            }
        };
        // What they take when they are read decides who reads them.
        let bytes = if self.form.compresses() { self.bytes.max(sealed.stored()) } else { sealed.stored() };
        self.store.insert(self.id, sealed);
        Ok((Output { id: self.id, rows: self.rows, bytes }, Rows::Kept))
    }

    fn file(&self, written: &mut Written) -> Result<Arc<StageFile>, TaskFailure> {
        match &written.file {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::clone(written.file.insert(self.store.file(self.id.task)?))),
        }
    }

    /// By section, in the order of the rows.
    fn take_queue(&mut self) -> Vec<(u32, DataFrame)> {
        self.queued = 0;
        let mut queue = std::mem::take(&mut self.queue);
        queue.sort_by_key(|(section, _)| *section);
        queue
    }

    /// Waits until the run before this is written.
    fn wait(&mut self) -> Result<Written, TaskFailure> {
        match self.writing.take() {
            Some(writing) => {
                writing.join().unwrap_or_else(|_| Err(TaskFailure::Panicked("the writer's thread".to_owned())))
            }
            None => Ok(std::mem::take(&mut self.written)),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What a thread still writes is gone with its end: nobody waits for that, but for its panic there is no other witness.
        if let Some(writing) = self.writing.take()
            && writing.is_finished()
            && writing.join().is_err()
        {
            tracing::error!(task = %self.id.task, "the writer's thread has panicked");
        }
    }
}

impl Written {
    /// Appends a run, in blocks of so many rows at most.
    fn append(
        &mut self,
        queue: Vec<(u32, DataFrame)>,
        form: &Form,
        (file, block_rows): (&Arc<StageFile>, usize),
    ) -> Result<(), TaskFailure> {
        self.runs.push(self.blocks.len());
        let mut staged = Staged::default();
        for (section, rows) in sections(queue) {
            for piece in pieces(&rows, block_rows) {
                staged.add(section, rows.slice(piece.start as i64, piece.len()), form)?;
                if staged.bytes >= STAGED {
                    self.flush(&mut staged, file)?;
                }
            }
        }
        self.flush(&mut staged, file)
    }

    /// Writes what is staged.
    fn flush(&mut self, staged: &mut Staged, file: &Arc<StageFile>) -> Result<(), TaskFailure> {
        if staged.blocks.is_empty() {
            return Ok(());
        }
        let range = file.append(staged.parts())?;
        self.blocks.extend(staged.take().map(|block| Block { offset: range.start + block.offset, ..block }));
        self.ranges.push(range);
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            self.ranges.drain(..).for_each(|range| file.give_back(range));
        }
    }
}

/// Blocks that are written together: their offsets are from where the first will be.
#[derive(Default)]
struct Staged {
    blocks: Vec<Block>,
    bytes: usize,
    /// Of each block, and beyond these room for others.
    encoded: Vec<Encoded>,
}

impl Staged {
    fn add(&mut self, section: u32, rows: DataFrame, form: &Form) -> Result<(), TaskFailure> {
        if self.encoded.len() == self.blocks.len() {
            self.encoded.push(Encoded::default());
        }
        let Some(into) = self.encoded.get_mut(self.blocks.len()) else { return Ok(()) };
        self.blocks.push(encode(section, rows, form, self.bytes, into)?);
        self.bytes += into.len();
        Ok(())
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.encoded.iter().take(self.blocks.len()).flat_map(Encoded::parts)
    }

    fn take(&mut self) -> impl Iterator<Item = Block> + '_ {
        self.bytes = 0;
        self.blocks.drain(..)
    }
}

/// Bytes, and where the blocks are in them.
type Piece = (Vec<u8>, Vec<Block>);

/// All of a queue as one piece of bytes, if that is small.
fn encode_small(queue: &[(u32, DataFrame)], form: &Form) -> Result<Option<Piece>, TaskFailure> {
    if queue.iter().map(|(_, rows)| size(rows)).sum::<usize>() > SMALL {
        return Ok(None);
    }
    let (mut bytes, mut blocks, mut encoded) = (Vec::new(), Vec::new(), Encoded::default());
    for (section, rows) in sections(queue.to_vec()) {
        blocks.push(encode(section, rows, form, bytes.len(), &mut encoded)?);
        encoded.parts().into_iter().for_each(|part| bytes.extend_from_slice(part));
        if bytes.len() > SMALL {
            return Ok(None);
        }
    }
    bytes.shrink_to_fit();
    Ok(Some((bytes, blocks)))
}

/// Makes the block that will be at this offset.
fn encode(section: u32, rows: DataFrame, form: &Form, offset: usize, into: &mut Encoded) -> Result<Block, TaskFailure> {
    let height = rows.height();
    form.encode(rows, into).map_err(|e| TaskFailure::Store(e.to_string()))?;
    let len = u32::try_from(into.len());
    let len =
        len.map_err(|_| TaskFailure::Store(format!("{height} rows take more than 4 GiB, which is too much at once")))?;
    let mut crc = crc32fast::Hasher::new();
    into.parts().into_iter().for_each(|part| crc.update(part));
    Ok(Block { section, rows: height as u32, len, crc: crc.finalize(), offset: offset as u64 })
}

/// The rows of each section together.
fn sections(queue: Vec<(u32, DataFrame)>) -> impl Iterator<Item = (u32, DataFrame)> {
    let mut queue = queue.into_iter().peekable();
    std::iter::from_fn(move || {
        let (section, mut rows) = queue.next()?;
        while let Some((_, more)) = queue.next_if(|(next, _)| *next == section) {
            rows.vstack_mut_owned_unchecked(more);
        }
        Some((section, rows))
    })
}

/// The rows of each block, which has so many at most.
fn pieces(rows: &DataFrame, block_rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let height = rows.height();
    let most = (height * BLOCK / size(rows).max(1)).clamp(1, block_rows);
    (0..height).step_by(most).map(move |start| start..height.min(start + most))
}

/// What rows take, in a store and in memory.
pub(crate) fn size(rows: &DataFrame) -> usize {
    // Polars counts texts without their views.
    let views =
        rows.columns().iter().filter(|column| matches!(column.dtype(), DataType::String | DataType::Binary)).count();
    rows.estimated_size() + rows.height() * views * size_of::<u128>()
}
