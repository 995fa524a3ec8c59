//! Streamed replies over a link, in both directions.
//!
//! Items go in pieces on lane 0, under byte credits of the consumer: so a stream has no more than its window in the
//! lane, and replies of others are not held up by a large item or a fast producer. Credit comes back as the consumer
//! takes pieces, and a consumer takes them only while it waits for an item.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::{Arrived, Hold, Letter, Link, length, sorted};
use crate::error::{AskError, Fault, FetchError};
use crate::frame::{Header, Kind, MORE};
use crate::limits::MAX_MESSAGE;
use crate::net::deadline;
use crate::parcel::{Opened, Parcel};
use crate::pieces::{Assembly, Credit, PIECE, TooLarge, WINDOW, cost, cut, may_give};

/// The streams of a link.
#[derive(Default)]
pub(super) struct Streams {
    ours: DashMap<u64, Consumer>,
    theirs: DashMap<u64, Arc<Semaphore>>,
}

struct Consumer {
    pieces: mpsc::UnboundedSender<Piece>, // bounded by the credit
    credit: Arc<Credit>,
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
        let (place, letter, room) = self.call(letter, deadline(patience)).await?;
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (pieces, queue) = mpsc::unbounded_channel();
        let credit = Arc::new(Credit::new());
        self.streams.ours.insert(call, Consumer { pieces, credit: Arc::clone(&credit) });
        let mut incoming = Incoming {
            link: Arc::clone(self),
            call,
            queue,
            credit,
            assembly: Assembly::default(),
            opening: None,
            hold: None,
            place: Some(place),
        };
        // As in `ask`: the end of the link must not miss this entry.
        if self.ended.get().is_some() {
            incoming.place = None;
            return Err(AskError::NotConnected);
        }
        // Its patience is for each item, however long it has waited for room.
        incoming.hold = Some(letter.ask(call, patience, room));
        Ok(incoming)
    }

    /// A piece of an item has come. False if the peer had no credit for it.
    pub(crate) fn item(&self, call: u64, piece: Arrived, more: bool) -> bool {
        let Some(consumer) = self.streams.ours.get(&call) else {
            return true; // cancelled meanwhile
        };
        if !consumer.credit.spend(cost(piece.bytes.len(), piece.is_apart())) {
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
        let more = may_give(credit.available_permits(), more);
        more.map(|more| credit.add_permits(more)).is_some()
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
    credit: Arc<Credit>,
    assembly: Assembly,
    /// An item whose batches are being fetched.
    opening: Option<BoxFuture<'static, Result<Opened, FetchError>>>,
    /// The batches of the message.
    hold: Option<Hold>,
    /// Its place among our calls, until the producer has ended.
    place: Option<OwnedSemaphorePermit>,
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
            if let Some(credit) = self.assembly.credit()
                && let Some(room) = self.link.system.place().await
            {
                self.credit.give(credit);
                let header = Header { recipient: credit as u64, ..Header::of_call(Kind::Credit, self.call) };
                room.send(header, Bytes::new());
                self.assembly.given();
            }
            match self.queue.recv().await {
                Some(Piece::Item { mut piece, more }) => {
                    self.hold = None; // the handler has the message
                    let bytes = std::mem::take(&mut piece.bytes);
                    match self.assembly.add(bytes, piece.is_apart(), more) {
                        Ok(None) => continue,
                        Ok(Some(item)) => piece.bytes = item,
                        Err(TooLarge) => {
                            let text = format!("an item of more than {MAX_MESSAGE} bytes");
                            return Err(AskError::BadReply { text });
                        }
                    }
                    if !piece.is_apart() {
                        return Ok(Some(Opened::plain(piece.bytes)));
                    }
                    self.opening = Some(Box::pin(piece.open()));
                }
                last => {
                    self.place = None;
                    return match last {
                        Some(Piece::Failed(fault)) => Err(fault.into()),
                        None => Err(AskError::ConnectionLost { cause: self.link.cause() }),
                        _ if self.assembly.is_whole() => Ok(None),
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
        if let Some(place) = self.place.take() {
            self.link.send_cancel(self.call, place);
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
            let piece = cut(&mut bytes);
            let more = apart || !bytes.is_empty();
            self.credit(cost(piece.len(), false), patience).await?;
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
        // Ends when there is room or the connection is lost: a writer that stalls closes it.
        if let Some(room) = self.link.system.place().await {
            room.send(header, piece);
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.link.streams.theirs.remove(&self.call);
    }
}
