//! Items of streams in pieces, and the credit that these take. Pure.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

use crate::limits::MAX_MESSAGE;

/// Bytes that a producer may be ahead of its consumer.
pub(crate) const WINDOW: usize = 256 << 10;
/// Credit is returned in pieces of at least this, so that it costs few frames.
const RETURN: usize = WINDOW / 4;
/// Largest piece of an item.
pub(crate) const PIECE: usize = 64 << 10;
/// What the smallest piece counts for: bounds the items in the window too.
const LEAST: usize = 4 << 10;

/// What a piece takes of the credit; no more than a window. One that tells of batches counts as a large one.
pub(crate) fn cost(bytes: usize, apart: bool) -> usize {
    if apart { PIECE } else { bytes.max(LEAST) }
}

/// Takes the next piece off an item. Its last may be empty, and is the last when nothing is left.
pub(crate) fn cut(item: &mut Bytes) -> Bytes {
    item.split_to(item.len().min(PIECE))
}

/// What a producer may still send, as its consumer's node has it.
#[derive(Debug)]
pub(crate) struct Credit(AtomicUsize);

impl Credit {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(WINDOW))
    }

    /// A piece has come. False if there was no credit for it.
    #[must_use]
    pub(crate) fn spend(&self, cost: usize) -> bool {
        let left = |credit: usize| credit.checked_sub(cost);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, left).is_ok()
    }

    /// Credit goes back to the producer. To be called before that can know of it.
    pub(crate) fn give(&self, more: usize) {
        self.0.fetch_add(more, Ordering::AcqRel);
    }
}

/// Whether a consumer may give a producer more credit that has so much.
pub(crate) fn may_give(has: usize, more: u64) -> Option<usize> {
    usize::try_from(more).ok().filter(|more| has.saturating_add(*more) <= WINDOW)
}

/// The item whose pieces come, and the credit for those that were taken.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    part: BytesMut,
    taken: usize,
}

/// An item is larger than a message may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Assembly {
    /// A piece is taken; the item if that was its last.
    pub(crate) fn add(&mut self, piece: Bytes, apart: bool, more: bool) -> Result<Option<Bytes>, TooLarge> {
        self.taken += cost(piece.len(), apart);
        if self.part.len() + piece.len() > MAX_MESSAGE {
            return Err(TooLarge);
        }
        if !more && self.part.is_empty() {
            return Ok(Some(piece));
        }
        self.part.extend_from_slice(&piece);
        Ok((!more).then(|| self.part.split().freeze()))
    }

    /// Credit to give back, if it is worth a frame.
    pub(crate) fn credit(&self) -> Option<usize> {
        (self.taken >= RETURN).then_some(self.taken)
    }

    /// The credit is given.
    pub(crate) fn given(&mut self) {
        self.taken = 0;
    }

    /// Whether no item has come in part.
    pub(crate) fn is_whole(&self) -> bool {
        self.part.is_empty()
    }
}
