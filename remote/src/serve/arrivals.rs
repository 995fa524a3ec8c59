//! Messages whose batches are still to come. Later ones to the same actor wait behind them, so that order is kept; those
//! to others pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::{fault_bytes, handle};
use crate::actor::ActorId;
use crate::error::Fault;
use crate::frame::{Header, Kind};
use crate::link::{Arrived, Link, Serving, room, units};
use crate::node::Shared;
use crate::parcel::Opened;
use crate::runtime::Aborting;

/// The actors of a peer's messages that wait for batches.
pub(super) struct Arrivals {
    shared: Arc<Shared>,
    link: Arc<Link>,
    queues: BTreeMap<u64, Queue>,
    /// For all that waits: beyond it the lane waits.
    room: Arc<Semaphore>,
}

struct Queue {
    messages: mpsc::UnboundedSender<Message>, // bounded by the room
    waiting: Arc<AtomicUsize>,
}

struct Message {
    header: Header,
    came: Instant,
    /// `None` if it was cancelled, or its batches do not come.
    opening: Aborting<Option<Ready>>,
    _room: OwnedSemaphorePermit,
}

struct Ready {
    message: Opened,
    serving: Option<Serving>,
}

impl Arrivals {
    pub(super) fn new(shared: &Arc<Shared>, link: &Arc<Link>) -> Self {
        Self { shared: Arc::clone(shared), link: Arc::clone(link), queues: BTreeMap::new(), room: room() }
    }

    /// Whether a message must go this way: it has something to wait for, or others before it have.
    pub(super) fn concern(&self, actor: u64, message: &Arrived) -> bool {
        let busy = |queue: &Queue| queue.waiting.load(Ordering::Acquire) > 0;
        message.is_apart() || self.queues.get(&actor).is_some_and(busy)
    }

    /// Fetches what is beside a message and hands it to its actor when all before it are there. Waits for room only.
    pub(super) async fn push(&mut self, header: Header, message: Arrived) {
        let actor = header.recipient;
        if let Err(fault) = self.shared.routes.find(ActorId(actor), header.message, self.link.peer.role) {
            return self.refuse(header, &fault);
        }
        // From now on a cancel ends it at once.
        let serving = match header.kind {
            Kind::Ask => match self.link.serve(header.call) {
                Some(serving) => Some(serving),
                None => return,
            },
            _ => None,
        };
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(units(message.len())).await else {
            return;
        };
        let opening = self.shared.net.spawn(open(Arc::clone(&self.link), header, message, serving));
        let queue = self.queue(actor);
        queue.waiting.fetch_add(1, Ordering::AcqRel);
        // The other end lives as long as this one.
        let _ = queue.messages.send(Message { header, came: Instant::now(), opening, _room: room });
    }

    fn queue(&mut self, actor: u64) -> &Queue {
        if !self.queues.contains_key(&actor) {
            // Those of actors that have not waited for long are not kept.
            self.queues.retain(|_, queue| queue.waiting.load(Ordering::Acquire) > 0);
        }
        self.queues.entry(actor).or_insert_with(|| {
            let (messages, next) = mpsc::unbounded_channel();
            let waiting = Arc::<AtomicUsize>::default();
            let in_order = in_order(Arc::clone(&self.shared), Arc::clone(&self.link), next, Arc::clone(&waiting));
            self.shared.net.handle.spawn(in_order);
            Queue { messages, waiting }
        })
    }

    fn refuse(&self, header: Header, fault: &Fault) {
        if header.kind == Kind::Ask {
            self.link.try_send(Kind::Error, header.call, fault_bytes(fault));
        }
    }
}

/// Hands the messages of one actor on, one after the other.
async fn in_order(
    shared: Arc<Shared>,
    link: Arc<Link>,
    mut messages: mpsc::UnboundedReceiver<Message>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(Message { mut header, came, opening, _room }) = messages.recv().await {
        if let Some(Ready { message, serving }) = opening.await.flatten() {
            let left = Duration::from_millis(u64::from(header.deadline_ms)).saturating_sub(came.elapsed());
            header.deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            handle(&shared, &link, header, message, serving).await;
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Fetches what is beside a message, unless it is cancelled first.
async fn open(link: Arc<Link>, header: Header, message: Arrived, serving: Option<Serving>) -> Option<Ready> {
    let (opened, serving) = match serving {
        None => (message.open().await, None),
        Some(mut serving) => tokio::select! {
            biased;
            opened = message.open() => (opened, Some(serving)),
            () = serving.cancelled() => return None,
        },
    };
    match opened {
        Ok(message) => return Some(Ready { message, serving }),
        Err(error) if header.kind == Kind::Ask => {
            let fault = Fault::BadMessage { text: format!("its batches did not come: {error}") };
            link.answer(header.call, Kind::Error, fault_bytes(&fault)).await;
        }
        Err(error) => {
            tracing::debug!(peer = %link.peer, message = header.message, %error, "dropped a tell without its batches");
        }
    }
    None
}
