//! Batches beside messages: held here until the peer has fetched them or does not want them, and fetched from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Link, sorted};
use crate::close::Code;
use crate::error::FetchError;
use crate::frame::{BESIDE, FrameError, Header, Kind};
use crate::ids::NodeId;
use crate::limits::MAX_BATCHES;
use crate::parcel::{Manifest, Opened, Parcel};
use crate::room::Room;

/// What fetches from a peer what it holds beside a message.
pub(crate) trait Beside: Send + Sync {
    /// All of what is held under a number: so many bytes, or an error.
    fn fetch(&self, node: NodeId, number: u64, total: usize) -> BoxFuture<'_, Result<Bytes, FetchError>>;
}

/// What the least message counts for of room for batches: so no more than [`HELD`] are held for or fetched from a peer.
const LEAST: usize = 64 << 10;
const HELD: usize = MAX_BATCHES / LEAST;

/// What is held for the peer of a link, and what that need not hold any more.
pub(super) struct Held {
    room: Room,
    slices: DashMap<u64, (Vec<Bytes>, OwnedSemaphorePermit)>,
    /// For letting go of what the peer holds, which is no more than it may hold.
    unwanted: Arc<Semaphore>,
}

impl Default for Held {
    fn default() -> Self {
        Self { room: room(), slices: DashMap::new(), unwanted: Arc::new(Semaphore::new(HELD)) }
    }
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.slices.len()
    }

    /// Waits until the peer has everything, or does not want it, or the link ends.
    pub(super) async fn taken(&self) {
        self.room.empty().await;
    }

    /// The link has ended.
    pub(super) fn end(&self) {
        self.room.close();
        for number in sorted(&self.slices) {
            self.slices.remove(&number);
        }
    }
}

/// Room for messages and their batches.
pub(super) fn room() -> Room {
    Room::new(MAX_BATCHES, LEAST)
}

/// Lets go of batches when it is dropped, unless they are left to the peer.
pub(crate) struct Hold {
    link: Arc<Link>,
    number: Option<u64>,
}

impl Hold {
    /// The flags of the frame that tells of them.
    pub(crate) fn flags(&self) -> u8 {
        if self.number.is_some() { BESIDE } else { 0 }
    }

    /// Holds them until the peer has them or does not want them, or the link ends.
    pub(crate) fn leave(mut self) {
        self.number = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.link.held.slices.remove(&number);
        }
    }
}

impl Link {
    /// Holds what is beside a value, waiting for room, and gives the payload that tells of it.
    pub(crate) async fn hold(self: &Arc<Self>, parcel: Parcel) -> (Bytes, Hold) {
        let Parcel { bytes, beside } = parcel;
        let mut hold = self.hold_nothing();
        if beside.is_empty() {
            return (bytes, hold);
        }
        // One number means one thing on both links that a peer may have.
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        hold.number = Some(number);
        let room = self.held.room.take(beside.len()).await;
        let payload = beside.trail(bytes, number);
        if let Some(room) = room {
            self.held.slices.insert(number, (beside.slices, room));
            // As in `ask`: the end of the link must not miss this entry.
            if self.ended.get().is_some() {
                self.held.slices.remove(&number);
            }
        }
        (payload, hold)
    }

    pub(super) fn hold_nothing(self: &Arc<Self>) -> Hold {
        Hold { link: Arc::clone(self), number: None }
    }

    /// What is held under a number.
    pub(crate) fn held(&self, number: u64) -> Option<Vec<Bytes>> {
        Some(self.held.slices.get(&number)?.0.clone())
    }

    /// The peer need not hold something any more. One that makes us say so oftener than it may hold anything, and does
    /// not take what we say, is cut off.
    fn unwanted(&self, number: u64) {
        match Arc::clone(&self.held.unwanted).try_acquire_owned() {
            Ok(place) => {
                _ = self.system.push(Header::of_call(Kind::Unwanted, number), Bytes::new(), [Some(place), None])
            }
            Err(_) => {
                if self.may_say() {
                    tracing::warn!(peer = %self.peer, "a peer holds more batches than it may");
                }
                self.cut(Code::TooMany, "too many batches");
            }
        }
    }

    /// The peer has what was held, or does not want it.
    pub(crate) fn let_go(&self, number: u64) {
        self.held.slices.remove(&number);
    }
}

/// A payload that has come. Dropping it before it is opened lets the peer go of what is beside it.
pub(crate) struct Arrived {
    pub(crate) bytes: Bytes,
    beside: Option<Unfetched>,
}

struct Unfetched {
    fetcher: Arc<dyn Beside>,
    link: Arc<Link>,
    manifest: Manifest,
    fetched: bool,
}

impl Arrived {
    pub(crate) fn new(
        fetcher: &Arc<dyn Beside>,
        link: &Arc<Link>,
        header: &Header,
        mut bytes: Bytes,
    ) -> Result<Self, FrameError> {
        let beside = if header.flags & BESIDE == 0 {
            None
        } else {
            let manifest = Manifest::take(&mut bytes)?;
            Some(Unfetched { fetcher: Arc::clone(fetcher), link: Arc::clone(link), manifest, fetched: false })
        };
        Ok(Self { bytes, beside })
    }

    /// Whether something is still to be fetched.
    pub(crate) fn is_apart(&self) -> bool {
        self.beside.is_some()
    }

    /// Bytes of it and beside it.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.beside.as_ref().map_or(0, |beside| beside.manifest.total)
    }

    /// Fetches what is beside it.
    pub(crate) async fn open(self) -> Result<Opened, FetchError> {
        let Self { bytes, beside } = self;
        let Some(mut beside) = beside else {
            return Ok(Opened::plain(bytes));
        };
        let Unfetched { fetcher, link, manifest, .. } = &beside;
        let all = fetcher.fetch(link.peer.node, manifest.number, manifest.total).await?;
        let all = manifest.divide(all).ok_or(FetchError::Protocol("not as many bytes as were announced"))?;
        beside.fetched = true;
        Ok(Opened { bytes, beside: all })
    }
}

impl Drop for Unfetched {
    fn drop(&mut self) {
        if !self.fetched {
            self.link.unwanted(self.manifest.number);
        }
    }
}
