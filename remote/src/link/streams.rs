//! Streamed replies over a link, in both directions.
//!
//! Items go in pieces on lane 0, under byte credits of the consumer: so a stream has no more than its window in the
//! lane, and replies of others are not held up by a large item or a fast producer. Credit comes back as the consumer
//! takes pieces, and a consumer takes them only while it waits for an item.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::{Arrived, Hold, Letter, Link, length, sorted};
use crate::codec::MAX_MESSAGE;
use crate::error::{AskError, Fault, FetchError};
use crate::frame::{Header, Kind, MORE};
use crate::lane::Out;
use crate::parcel::{Opened, Parcel};
use crate::route::Boxed;

/// Bytes that a producer may be ahead of its consumer.
const WINDOW: usize = 256 << 10;
/// Credit is returned in pieces of at least this, so that it costs few frames.
const RETURN: usize = WINDOW / 4;
/// Largest piece of an item.
const PIECE: usize = 64 << 10;
/// What the smallest piece counts for: bounds the items in the window too.
const LEAST: usize = 4 << 10;

/// The streams of a link.
#[derive(Default)]
pub(super) struct Streams {
    ours: DashMap<u64, Consumer>,
    theirs: DashMap<u64, Arc<Semaphore>>,
}

struct Consumer {
    pieces: mpsc::UnboundedSender<Piece>, // bounded by the credit
    credit: Arc<AtomicUsize>,
}

enum Piece {
    Item { piece: Arrived, more: bool },
    End,
    Failed(Fault),
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.ours.len()
    }

    /// The producer of a stream has failed.
    pub(super) fn fail(&self, call: u64, fault: Fault) -> bool {
        self.last(call, Piece::Failed(fault))
    }

    /// The link has ended: consumers learn it. Producers do by their calls.
    pub(super) fn end(&self) {
        for call in sorted(&self.ours) {
            self.ours.remove(&call);
        }
    }

    /// False if nobody waits.
    fn last(&self, call: u64, piece: Piece) -> bool {
        let consumer = self.ours.remove(&call);
        consumer.is_some_and(|(_, consumer)| consumer.pieces.send(piece).is_ok())
    }
}

impl Link {
    /// Sends an ask that is answered by a stream; dropping what is returned cancels it there.
    pub(crate) async fn stream(self: &Arc<Self>, letter: Letter, patience: Duration) -> Result<Incoming, AskError> {
        let started = Instant::now();
        let (letter, place) = self.place(letter, patience).await?;
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (pieces, queue) = mpsc::unbounded_channel();
        let credit = Arc::new(AtomicUsize::new(WINDOW));
        self.streams.ours.insert(call, Consumer { pieces, credit: Arc::clone(&credit) });
        let mut incoming = Incoming {
            link: Arc::clone(self),
            call,
            queue,
            credit,
            taken: 0,
            part: BytesMut::new(),
            opening: None,
            hold: None,
            open: true,
        };
        // As in `ask`: the end of the link must not miss this entry.
        if self.ended.get().is_some() {
            incoming.open = false;
            return Err(AskError::NotConnected);
        }
        let left = patience.saturating_sub(started.elapsed());
        let (frame, hold) = letter.ask(call, left);
        incoming.hold = Some(hold);
        place.send(frame);
        Ok(incoming)
    }

    /// A piece of an item has come. False if the peer had no credit for it.
    pub(crate) fn item(&self, call: u64, piece: Arrived, more: bool) -> bool {
        let Some(consumer) = self.streams.ours.get(&call) else {
            return true; // cancelled meanwhile
        };
        let cost = cost(&piece.bytes, piece.is_apart());
        let left = |credit: usize| credit.checked_sub(cost);
        if consumer.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, left).is_err() {
            return false;
        }
        let _ = consumer.pieces.send(Piece::Item { piece, more }); // fails only if nobody waits any more
        true
    }

    /// A stream of the peer has ended as it should.
    pub(crate) fn end_of_stream(&self, call: u64) {
        self.streams.last(call, Piece::End);
    }

    /// The peer gives credit for a stream. False if it is more than a window.
    pub(crate) fn credit(&self, call: u64, more: u64) -> bool {
        let Some(credit) = self.streams.theirs.get(&call) else {
            return true; // ended meanwhile
        };
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        if credit.available_permits().saturating_add(more) > WINDOW {
            return false;
        }
        credit.add_permits(more);
        true
    }

    /// Begins to answer a call of the peer by a stream.
    pub(crate) fn produce(self: &Arc<Self>, call: u64) -> Outgoing {
        let credit = Arc::new(Semaphore::new(WINDOW));
        self.streams.theirs.insert(call, Arc::clone(&credit));
        Outgoing { link: Arc::clone(self), call, credit }
    }
}

/// A stream that is consumed here. Dropping it before its end cancels it.
pub(crate) struct Incoming {
    link: Arc<Link>,
    call: u64,
    queue: mpsc::UnboundedReceiver<Piece>,
    /// What the producer may still send.
    credit: Arc<AtomicUsize>,
    /// What was taken and is not yet given back as credit.
    taken: usize,
    /// The pieces so far of an item.
    part: BytesMut,
    /// An item whose batches are being fetched.
    opening: Option<Boxed<'static, Result<Opened, FetchError>>>,
    /// The batches of the message.
    hold: Option<Hold>,
    open: bool,
}

impl Incoming {
    /// The next item; `None` at the end. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Opened>, AskError> {
        loop {
            if let Some(opening) = &mut self.opening {
                let opened = opening.await;
                self.opening = None;
                let failed = |error| AskError::BadReply { text: format!("its batches did not come: {error}") };
                return opened.map(Some).map_err(failed);
            }
            if self.taken >= RETURN
                && let Ok(room) = self.link.system.reserve().await
            {
                // Before the peer can know of it.
                self.credit.fetch_add(self.taken, Ordering::AcqRel);
                let header = Header { recipient: self.taken as u64, ..Header::of_call(Kind::Credit, self.call) };
                room.send(Out::Frame(header, Bytes::new()));
                self.taken = 0;
            }
            match self.queue.recv().await {
                Some(Piece::Item { mut piece, more }) => {
                    self.hold = None; // the handler has the message
                    self.taken += cost(&piece.bytes, piece.is_apart());
                    if self.part.len() + piece.bytes.len() > MAX_MESSAGE {
                        return Err(AskError::BadReply { text: format!("an item of more than {MAX_MESSAGE} bytes") });
                    }
                    if more || !self.part.is_empty() {
                        self.part.extend_from_slice(&piece.bytes);
                        piece.bytes = Bytes::new();
                    }
                    if more {
                        continue;
                    }
                    if !self.part.is_empty() {
                        piece.bytes = self.part.split().freeze();
                    }
                    if !piece.is_apart() {
                        return Ok(Some(Opened::plain(piece.bytes)));
                    }
                    self.opening = Some(Box::pin(piece.open()));
                }
                last => {
                    self.open = false;
                    return match last {
                        Some(Piece::Failed(fault)) => Err(fault.into()),
                        None => Err(AskError::ConnectionLost { cause: self.link.cause() }),
                        _ if self.part.is_empty() => Ok(None),
                        _ => Err(AskError::BadReply { text: "the stream ended inside an item".to_owned() }),
                    };
                }
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.link.streams.ours.remove(&self.call);
        if self.open {
            self.link.send_surely(Header::of_call(Kind::Cancel, self.call), ());
        }
    }
}

/// A stream that is produced here; forgotten when dropped.
pub(crate) struct Outgoing {
    link: Arc<Link>,
    call: u64,
    credit: Arc<Semaphore>,
}

impl Outgoing {
    /// Sends an item, waiting for each credit no longer than `patience`.
    pub(crate) async fn send(&self, item: Parcel, patience: Duration) -> Result<(), Fault> {
        let Parcel { mut bytes, beside } = item;
        let apart = !beside.is_empty();
        loop {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let more = apart || !bytes.is_empty();
            self.credit(cost(&piece, false), patience).await?;
            self.queue(piece, if more { MORE } else { 0 }).await;
            if bytes.is_empty() {
                break;
            }
        }
        if apart {
            // Its last piece is what tells of its batches.
            self.credit(PIECE, patience).await?;
            let held = self.link.hold(Parcel { bytes, beside });
            let (piece, hold) = timeout(patience, held).await.map_err(|_| Fault::DeadlinePassed)?;
            self.queue(piece, hold.flags()).await;
            hold.leave();
        }
        Ok(())
    }

    async fn credit(&self, cost: usize, patience: Duration) -> Result<(), Fault> {
        match timeout(patience, self.credit.acquire_many(cost as u32)).await {
            Ok(Ok(credit)) => credit.forget(),
            _ => return Err(Fault::DeadlinePassed),
        }
        Ok(())
    }

    async fn queue(&self, piece: Bytes, flags: u8) {
        let header = Header { len: length(&piece), flags, ..Header::of_call(Kind::Item, self.call) };
        // Ends when there is room or the connection is lost, as in `answer`.
        let _ = self.link.system.send(Out::Frame(header, piece)).await;
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.link.streams.theirs.remove(&self.call);
    }
}

/// What a piece takes of the credit; no more than a window. One that tells of batches counts as a large one.
fn cost(piece: &Bytes, apart: bool) -> usize {
    if apart { PIECE } else { piece.len().max(LEAST) }
}
