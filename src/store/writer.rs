//! Writing an output: rows are queued as they come; so many bytes of them are a run, which a thread of its own encodes and appends
//! while the next one is queued.

use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use polars::prelude::*;
use polars_arrow::io::ipc::write::EncodedData;

use super::Store;
use super::along::Rows;
use super::file::StageFile;
use super::form::Form;
use super::output::{Block, Data, Sealed};
use crate::error::TaskFailure;
use crate::sched::{Output, PartitionId};

/// Bytes that make a run. While it is written, as many are queued: a task holds twice this.
const RUN: usize = 32 << 20;
/// Bytes that are written at once.
const STAGED: usize = 4 << 20;
/// A block has no more rows than this, and about so many bytes: several of them are in flight in each pipeline of a reader.
const BLOCK_ROWS: usize = 1 << 16;
const BLOCK: usize = 1 << 20;
/// An output up to this size stays in memory, while there is room for it.
const SMALL: usize = 64 << 10;

/// Writes one output. Dropped before [`seal`](Self::seal), it leaves nothing.
pub(crate) struct Writer {
    store: Arc<Store>,
    id: PartitionId,
    form: Arc<Form>,
    /// Rows by section, in their order.
    queue: Vec<(u32, DataFrame)>,
    queued: usize,
    rows: u64,
    written: Written,
    /// The run that is being written, with what was before it.
    writing: Option<JoinHandle<Result<Written, TaskFailure>>>,
}

/// What is in the stage's file so far. Dropped before it is sealed, its room on the disk is given back.
#[derive(Default)]
struct Written {
    file: Option<Arc<StageFile>>,
    ranges: Vec<Range<u64>>,
    blocks: Vec<Block>,
    runs: Vec<usize>,
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, id: PartitionId, form: Arc<Form>) -> Self {
        let (queue, written) = (Vec::new(), Written::default());
        Self { store, id, form, queue, queued: 0, rows: 0, written, writing: None }
    }

    /// Appends rows of its form to a section.
    ///
    /// # Errors
    /// The disk is full, or a dtype has no Arrow form: of these rows or of earlier ones.
    pub(crate) fn write(&mut self, section: u32, rows: DataFrame) -> Result<(), TaskFailure> {
        if rows.height() == 0 {
            return Ok(());
        }
        self.rows += rows.height() as u64;
        self.queued += size(&rows);
        self.queue.push((section, rows));
        if self.queued < RUN {
            return Ok(());
        }
        let mut written = self.wait()?;
        let file = self.file(&mut written)?;
        let (queue, form) = (self.take_queue(), Arc::clone(&self.form));
        let write = move || {
            written.append(queue, &form, &file)?;
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
                written.append(queue, &self.form, &file)?;
                // From here on it is read.
                written.ranges.clear();
                let (blocks, runs) = (std::mem::take(&mut written.blocks), std::mem::take(&mut written.runs));
                Sealed::new(self.form.mark(), blocks, runs, Data::File(file))
            }
        };
        let bytes = sealed.blocks.iter().map(|block| u64::from(block.len)).sum();
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
    /// Appends a run.
    fn append(&mut self, queue: Vec<(u32, DataFrame)>, form: &Form, file: &Arc<StageFile>) -> Result<(), TaskFailure> {
        self.runs.push(self.blocks.len());
        let (mut staged, mut scratch, mut first) =
            (Vec::with_capacity(STAGED + BLOCK), EncodedData::default(), self.blocks.len());
        for (section, rows) in sections(queue) {
            for piece in pieces(&rows) {
                let block =
                    encode(section, rows.slice(piece.start as i64, piece.len()), form, &mut scratch, &mut staged)?;
                self.blocks.push(block);
                if staged.len() >= STAGED {
                    self.flush(&mut staged, &mut first, file)?;
                }
            }
        }
        self.flush(&mut staged, &mut first, file)
    }

    /// Writes what is staged, and puts the blocks from the `first` on where they are now.
    fn flush(&mut self, staged: &mut Vec<u8>, first: &mut usize, file: &Arc<StageFile>) -> Result<(), TaskFailure> {
        if staged.is_empty() {
            return Ok(());
        }
        let range = file.append(staged)?;
        self.blocks.iter_mut().skip(*first).for_each(|block| block.offset += range.start);
        *first = self.blocks.len();
        self.ranges.push(range);
        staged.clear();
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

/// Bytes, and where the blocks are in them.
type Piece = (Vec<u8>, Vec<Block>);

/// All of a queue as one piece of bytes, if that is small.
fn encode_small(queue: &[(u32, DataFrame)], form: &Form) -> Result<Option<Piece>, TaskFailure> {
    if queue.iter().map(|(_, rows)| size(rows)).sum::<usize>() > SMALL {
        return Ok(None);
    }
    let (mut bytes, mut blocks, mut scratch) = (Vec::new(), Vec::new(), EncodedData::default());
    for (section, rows) in sections(queue.to_vec()) {
        blocks.push(encode(section, rows, form, &mut scratch, &mut bytes)?);
        if bytes.len() > SMALL {
            return Ok(None);
        }
    }
    bytes.shrink_to_fit();
    Ok(Some((bytes, blocks)))
}

/// Appends a block to what is staged. Its offset is the one there.
fn encode(
    section: u32,
    rows: DataFrame,
    form: &Form,
    scratch: &mut EncodedData,
    staged: &mut Vec<u8>,
) -> Result<Block, TaskFailure> {
    let (start, height) = (staged.len(), rows.height());
    form.encode(rows, scratch, staged).map_err(|e| TaskFailure::Store(e.to_string()))?;
    let bytes = staged.get(start..).unwrap_or_default();
    let len = u32::try_from(bytes.len());
    let len =
        len.map_err(|_| TaskFailure::Store(format!("{height} rows take more than 4 GiB, which is too much at once")))?;
    Ok(Block { section, rows: height as u32, len, crc: crc32fast::hash(bytes), offset: start as u64 })
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

/// The rows of each block.
fn pieces(rows: &DataFrame) -> impl Iterator<Item = Range<usize>> + use<> {
    let height = rows.height();
    let most = (height * BLOCK / size(rows).max(1)).clamp(1, BLOCK_ROWS);
    (0..height).step_by(most).map(move |start| start..height.min(start + most))
}

/// What rows take, in a store and in memory.
pub(crate) fn size(rows: &DataFrame) -> usize {
    // Polars counts texts without their views.
    let views =
        rows.columns().iter().filter(|column| matches!(column.dtype(), DataType::String | DataType::Binary)).count();
    rows.estimated_size() + rows.height() * views * size_of::<u128>()
}
