//! Outputs that go to another store as they are, because the worker that holds them is to leave. Nothing is decoded: blocks keep their
//! order, their sections and their rows.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use regatta_remote::{decode, encode};
use serde::{Deserialize, Serialize};

use super::Store;
use super::file::StageFile;
use super::form::ALIGN;
use super::output::{Block, Data, Sealed, check};
use super::serve::HEAD_PREFIX;
use super::writer::{SMALL, STAGED, Written};
use crate::error::TaskFailure;
use crate::sched::PartitionId;

/// What is said of an output before its bytes come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) id: PartitionId,
    mark: u32,
    blocks: Vec<Block>,
    runs: Vec<usize>,
}

/// What is said of these outputs, after its length as that of every [`Head`](super::Head).
pub(super) fn head(outputs: &[(PartitionId, Arc<Sealed>)]) -> Result<Bytes, String> {
    let listed = outputs.iter().map(|(id, sealed)| {
        let (mark, blocks, runs) = (sealed.mark, sealed.blocks.clone(), sealed.runs.clone());
        Listing { id: *id, mark, blocks, runs }
    });
    let listed = encode(&listed.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
    let mut head = BytesMut::with_capacity(HEAD_PREFIX + listed.len());
    head.put_u32_le(listed.len() as u32);
    head.extend_from_slice(&listed);
    Ok(head.freeze())
}

impl Listing {
    /// What a head says from after its prefix on; `None` if it is none.
    pub(crate) fn of(bytes: &[u8]) -> Option<Vec<Self>> {
        let listed: Vec<Self> = decode(bytes).ok()?;
        let is_sound = |of: &Self| {
            let runs = of.runs.is_sorted() && of.runs.iter().all(|run| *run <= of.blocks.len());
            runs && of.blocks.iter().all(|block| (block.len as usize).is_multiple_of(ALIGN))
        };
        listed.iter().all(is_sound).then_some(listed)
    }

    /// Bytes that are to come of it.
    fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.len as usize).sum()
    }
}

/// Takes an output into a store. Dropped before the last of its bytes, it leaves nothing.
pub(crate) struct Taking {
    listing: Listing,
    /// The first block of the next piece.
    next: usize,
    written: Written,
    small: Option<Data>,
}

impl Taking {
    pub(crate) fn new(listing: Listing) -> Self {
        let mut written = Written::default();
        written.runs.clone_from(&listing.runs);
        Self { listing, next: 0, written, small: None }
    }

    /// How many bytes are to come next; `None`: all are here.
    pub(crate) fn wants(&self) -> Option<usize> {
        self.piece().map(|piece| piece.iter().map(|block| block.len as usize).sum())
    }

    /// The blocks that come together.
    fn piece(&self) -> Option<&[Block]> {
        let left = self.listing.blocks.get(self.next..).filter(|left| !left.is_empty())?;
        let mut bytes = 0;
        let fit = left.iter().take_while(|block| {
            bytes += block.len as usize;
            bytes <= STAGED
        });
        let fit = fit.count().max(1);
        left.get(..fit)
    }

    /// Takes the next bytes, as many as it wants.
    ///
    /// # Errors
    /// They are others than were written, or there is no room for them.
    pub(crate) fn add(&mut self, store: &Store, bytes: Bytes) -> Result<(), TaskFailure> {
        let is_whole = self.next == 0 && bytes.len() == self.listing.bytes();
        let mut at = 0;
        let placed = self.piece().unwrap_or_default().iter().map(|block| {
            let (start, end) = (at, at + block.len as usize);
            at = end;
            check(bytes.get(start..end).unwrap_or_default(), block.crc)?;
            Ok(Block { offset: start as u64, ..*block })
        });
        let placed = placed.collect::<std::io::Result<Vec<_>>>();
        let mut placed = placed.map_err(|error| TaskFailure::Store(error.to_string()))?;
        self.next += placed.len();
        let charge = if is_whole && bytes.len() <= SMALL { store.small.take(bytes.len() as u64) } else { None };
        if let Some(charge) = charge {
            // A copy: what has come may be a part of more.
            self.small = Some(Data::Memory(Bytes::copy_from_slice(&bytes), charge));
        } else {
            let file = self.file(store)?;
            let range = file.append([&bytes[..]].into_iter())?;
            placed.iter_mut().for_each(|block| block.offset += range.start);
            self.written.ranges.push(range);
        }
        self.written.blocks.extend(placed);
        Ok(())
    }

    /// Puts it into the store, once all is here.
    ///
    /// # Errors
    /// There is no file for it.
    pub(crate) fn seal(mut self, store: &Store) -> Result<PartitionId, TaskFailure> {
        let data = match self.small.take() {
            Some(data) => data,
            None => Data::File(self.file(store)?),
        };
        // From here on it is read.
        self.written.ranges.clear();
        let (blocks, runs) = (std::mem::take(&mut self.written.blocks), std::mem::take(&mut self.written.runs));
        store.insert(self.listing.id, Sealed::new(self.listing.mark, blocks, runs, data).brought());
        Ok(self.listing.id)
    }

    fn file(&mut self, store: &Store) -> Result<Arc<StageFile>, TaskFailure> {
        match &self.written.file {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::clone(self.written.file.insert(store.file(self.listing.id.task)?))),
        }
    }
}
