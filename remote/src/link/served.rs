//! Calls of the peer that are served, from their frame to their answer.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::mapref::entry::Entry;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{ANSWERS, EARLY, Hold, Link, Timed, length};
use crate::codec::encode;
use crate::error::Fault;
use crate::frame::{Header, Kind};
use crate::net::{FOREVER, deadline};
use crate::parcel::Parcel;
use crate::presence::Presence;
use crate::queue::COPY;

/// A call of the peer that has no answer yet. When it is forgotten, its asker has left.
pub(super) struct Served {
    pub(super) asker: Presence,
    /// Kept until the answer is written.
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.asker.leave();
    }
}

impl Link {
    /// Notes that a call of the peer is served, until then. `None` if it was cancelled before it came, or has come before.
    pub(crate) fn serve(self: &Arc<Self>, call: u64, until: Instant) -> Result<Option<Serving>, Fault> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Fault::Busy)?;
        let asker = Presence::default();
        let waiting = Served { asker: asker.clone(), place: Some(place) };
        {
            let mut early = self.early();
            if early.remove(&call) {
                return Ok(None);
            }
            match self.serving.entry(call) {
                Entry::Vacant(entry) => drop(entry.insert(Timed { waiting, until })),
                Entry::Occupied(_) => {
                    if self.may_say() {
                        tracing::warn!(peer = %self.peer, call, "a call that is served already came again");
                    }
                    return Ok(None);
                }
            }
        }
        self.alarm.note(until);
        let serving = Serving { link: Arc::clone(self), call, asker, known: true };
        // As in `ask`: the end of the link must not miss this entry.
        Ok(self.ended.get().is_none().then_some(serving))
    }

    /// The peer cancels a call.
    pub(crate) fn cancel(&self, call: u64) {
        let mut early = self.early();
        if self.serving.remove(&call).is_none() {
            early.insert(call);
            if early.len() > EARLY {
                early.pop_first(); // the oldest: numbers of calls grow
            }
        }
    }
}

/// An answer that is ready to be sent.
pub(crate) struct Ready {
    header: Header,
    payload: Bytes,
    room: Option<OwnedSemaphorePermit>,
    hold: Option<Hold>,
}

impl Ready {
    pub(crate) fn new(kind: Kind, call: u64, payload: Bytes) -> Self {
        let header = Header { len: length(&payload), ..Header::of_call(kind, call) };
        Self { header, payload, room: None, hold: None }
    }
}

impl Link {
    /// Makes the reply to a call ready, after there is room for its batches.
    pub(crate) async fn ready(self: &Arc<Self>, call: u64, parcel: Parcel) -> Result<Ready, Fault> {
        let room = self.room_for_answer(parcel.bytes.len() + parcel.beside.len())?;
        let (payload, hold) = self.hold(parcel).await;
        let header = Header { len: length(&payload), flags: hold.flags(), ..Header::of_call(Kind::Reply, call) };
        Ok(Ready { header, payload, room, hold: Some(hold) })
    }

    /// [`ready`](Self::ready), for a reply with nothing beside it.
    pub(crate) fn ready_now(&self, call: u64, payload: Bytes) -> Result<Ready, Fault> {
        let room = self.room_for_answer(payload.len())?;
        Ok(Ready { room, ..Ready::new(Kind::Reply, call, payload) })
    }

    /// Why a call is not answered. Where there is no room to say that, it is that there is none.
    pub(crate) fn failed(&self, call: u64, fault: &Fault) -> Ready {
        let bytes = fault_bytes(fault);
        match self.room_for_answer(bytes.len()) {
            Ok(room) => Ready { room, ..Ready::new(Kind::Error, call, bytes) },
            Err(no_room) => Ready::new(Kind::Error, call, fault_bytes(&no_room)),
        }
    }

    /// Refuses a call of the peer that is not served, if there is room: a reader never waits for a writer. Else the asker's
    /// deadline tells it.
    pub(crate) fn refuse(&self, call: u64, fault: &Fault) {
        if let Some(place) = self.system.try_place() {
            let Ready { header, payload, room, .. } = self.failed(call, fault);
            place.with(room).send(header, payload);
        }
    }

    pub(super) fn room_for_answer(&self, size: usize) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        if size <= COPY {
            return Ok(None);
        }
        let text = || format!("{} MiB of answers wait for you to read them; ask for less at once", ANSWERS >> 20);
        self.rooms.answers.try_take(size).map(Some).ok_or_else(|| Fault::BadReply { text: text() })
    }

    /// Queues an answer to the peer, which keeps the call's place until it is written.
    fn answer(&self, answer: Ready, place: OwnedSemaphorePermit) {
        let Ready { header, payload, room, hold } = answer;
        if self.system.push(header, payload, [Some(place), room])
            && let Some(hold) = hold
        {
            hold.leave();
        }
    }
}

fn fault_bytes(fault: &Fault) -> Bytes {
    // A fault too large to send arrives as one that cannot be read, which is an error all the same.
    encode(fault).unwrap_or_default()
}

/// A call of the peer that is being served; forgotten when dropped.
pub(crate) struct Serving {
    link: Arc<Link>,
    call: u64,
    asker: Presence,
    /// Whether it is not forgotten yet.
    known: bool,
}

impl Serving {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn call(&self) -> u64 {
        self.call
    }

    /// Who is gone when the peer cancels or is lost, or its deadline passes.
    pub(crate) fn asker(&self) -> Presence {
        self.asker.clone()
    }

    /// It is answered by a stream: it has no deadline any more.
    pub(crate) fn has_begun(&self) {
        if let Some(mut serving) = self.link.serving.get_mut(&self.call) {
            serving.until = deadline(FOREVER);
        }
    }

    /// Answers it, unless its asker is gone.
    pub(crate) fn answer(mut self, answer: Ready) {
        self.known = false;
        if let Some((_, mut served)) = self.link.serving.remove(&self.call)
            && let Some(place) = served.waiting.place.take()
        {
            self.link.answer(answer, place);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.known {
            self.link.serving.remove(&self.call);
        }
    }
}
