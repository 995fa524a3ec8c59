//! Calls of the peer that are served, from their frame to their answer.

use std::sync::Arc;

use dashmap::mapref::entry::Entry;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{EARLY, Link, Ready, Timed};
use crate::error::Fault;
use crate::net::{FOREVER, deadline};
use crate::presence::Presence;

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
