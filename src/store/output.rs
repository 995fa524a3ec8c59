//! What one attempt of a task has left: where its blocks are, by section.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::RowRange;
use super::file::{Mapped, StageFile};
use crate::sched::Sizes;

/// Rows of one section, at a place of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    pub(crate) section: u32,
    pub(crate) rows: u32,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    pub(crate) offset: u64,
}

/// A block that somebody wants, and which of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) block: Block,
    pub(crate) from: u32,
    pub(crate) rows: u32,
}

/// An output that is complete and does not change any more.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Of the form of its blocks.
    pub(super) mark: u32,
    /// In runs, each by section. Rows of a section are in their order.
    pub(super) blocks: Vec<Block>,
    /// Where runs begin.
    pub(super) runs: Vec<usize>,
    pub(super) data: Data,
    /// Where the last of them ends.
    end: u64,
    /// Another process has made it: whoever reads it looks at everything in it.
    brought: bool,
}

#[derive(Debug)]
pub(super) enum Data {
    Memory(Bytes, #[expect(dead_code, reason = "held for its drop")] Charge),
    File(Arc<StageFile>),
}

impl Sealed {
    pub(super) fn new(mark: u32, blocks: Vec<Block>, runs: Vec<usize>, data: Data) -> Self {
        let end = blocks.iter().map(|block| block.offset + u64::from(block.len)).max().unwrap_or_default();
        Self { mark, blocks, runs, data, end, brought: false }
    }

    pub(super) fn brought(self) -> Self {
        Self { brought: true, ..self }
    }

    pub(super) fn is_brought(&self) -> bool {
        self.brought
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of each section, if all take so many together.
    pub(super) fn sections(&self, bytes: u64) -> Sizes {
        let stored = self.stored().max(1);
        let share = |block: &Block| (u128::from(block.len) * u128::from(bytes) / u128::from(stored)) as u64;
        Sizes::of(self.blocks.iter().map(|block| (block.section, share(block))))
    }

    /// Bytes of its blocks.
    pub(super) fn stored(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.len)).sum()
    }

    /// Whether its file is as long as it was.
    pub(super) fn is_whole(&self) -> bool {
        match &self.data {
            Data::Memory(..) => true,
            Data::File(file) => file.mapped().len().is_ok_and(|len| len >= self.end),
        }
    }

    /// The blocks of some sections, or those with some of its rows, in the order of the rows.
    pub(super) fn choose(&self, sections: &Range<u32>, rows: Option<RowRange>) -> Vec<Chosen> {
        let ends = self.runs.iter().skip(1).copied().chain([self.blocks.len()]);
        let runs = self.runs.iter().zip(ends).filter_map(|(start, end)| self.blocks.get(*start..end));
        let blocks = runs.flat_map(|run| {
            let at = |section: u32| run.partition_point(|block| block.section < section);
            &run[at(sections.start)..at(sections.end).max(at(sections.start))]
        });
        let Some(RowRange { offset, len }) = rows else {
            return blocks.map(|block| Chosen { block: *block, from: 0, rows: block.rows }).collect();
        };
        let mut before = 0;
        let within = blocks.filter_map(|block| {
            let first = before;
            before += u64::from(block.rows);
            let (from, to) = (offset.max(first), offset.saturating_add(len).min(before));
            (from < to).then(|| Chosen { block: *block, from: (from - first) as u32, rows: (to - from) as u32 })
        });
        within.collect()
    }

    /// The file that it is in, if it is in one.
    pub(super) fn file(&self) -> Option<&StageFile> {
        match &self.data {
            Data::Memory(..) => None,
            Data::File(file) => Some(file),
        }
    }

    /// The bytes of blocks that lie one after the other, copied.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.data {
            Data::Memory(bytes, _) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Data::File(file) => file.mapped().read(range),
        }
    }

    /// The bytes of a block, where they are.
    ///
    /// # Errors
    /// The file cannot be mapped, or holds something else than what was written.
    pub(super) fn map(&self, block: &Block) -> io::Result<Bytes> {
        let range = block.offset..block.offset + u64::from(block.len);
        match &self.data {
            Data::Memory(bytes, _) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Data::File(file) => map(file.mapped(), block),
        }
    }
}

/// The bytes of a block of a file, if they are what was written.
pub(super) fn map(file: &Mapped, block: &Block) -> io::Result<Bytes> {
    let end = block.offset.checked_add(u64::from(block.len)).ok_or(io::ErrorKind::InvalidData)?;
    let bytes = file.map(block.offset..end)?;
    check(&bytes, block.crc)?;
    Ok(bytes)
}

/// Whether these bytes are those that were written.
pub(crate) fn check(bytes: &[u8], crc: u32) -> io::Result<()> {
    if crc32fast::hash(bytes) == crc {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a block of it was changed after it was written"))
}

/// How much memory small outputs may take, all of them together.
#[derive(Debug)]
pub(super) struct Allowance {
    most: u64,
    taken: AtomicU64,
}

/// What one output takes of it; given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    of: Arc<Allowance>,
    bytes: u64,
}

impl Allowance {
    pub(super) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicU64::new(0) })
    }

    /// `None` if there is not so much left.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            taken.checked_add(bytes).filter(|taken| *taken <= self.most)
        });
        taken.ok().map(|_| Charge { of: Arc::clone(self), bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
