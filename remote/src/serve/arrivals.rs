//! Messages on their way to their actors. One that must wait, for its batches or because its actor has no place, holds up
//! those to the same actor, so that order is kept; those to others pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

use super::{Mail, Services, hand_over, patience, refuse};
use crate::error::Fault;
use crate::frame::{Header, Kind};
use crate::ids::ActorId;
use crate::link::{Arrived, Link, Serving};
use crate::net::{Aborting, Net};
use crate::parcel::Opened;
use crate::route::Routes;

/// How long an actor may give no place before those that wait for one are told that it is busy.
const PATIENCE: Duration = Duration::from_millis(100);

/// The messages of a peer.
pub(super) struct Arrivals {
    routes: Arc<Routes>,
    net: Net,
    link: Arc<Link>,
    queues: BTreeMap<u64, Queue>,
}

struct Queue {
    messages: mpsc::UnboundedSender<Waiting>, // bounded by the room
    waiting: Arc<AtomicUsize>,
}

/// A message that waits for its turn.
struct Waiting {
    message: Message,
    _room: OwnedSemaphorePermit,
}

enum Message {
    Here(Mail),
    /// `None` if it was cancelled, or its batches do not come.
    Apart(Aborting<Option<Mail>>),
}

impl Arrivals {
    pub(super) fn new(services: &Services, link: &Arc<Link>) -> Self {
        let (routes, net) = (Arc::clone(&services.routes), services.net.clone());
        Self { routes, net, link: Arc::clone(link), queues: BTreeMap::new() }
    }

    /// Hands a message to its actor, unless it has to wait for its turn.
    pub(super) fn hand_over(&self, header: &Header, message: Arrived) -> Option<Arrived> {
        let placed =
            self.routes.find(ActorId(header.recipient), header.message, self.link.peer.role).and_then(|route| {
                if message.is_apart() || self.is_waited_for(header.recipient) {
                    return Ok(None);
                }
                Ok(route.try_place(message.len())?.map(|place| (route, place)))
            });
        match placed {
            Ok(Some((route, place))) => {
                let (came, message) = (Instant::now(), Opened::plain(message.bytes));
                let mail = Mail { header: *header, message, serving: None, came, ready: came };
                hand_over(&self.link, mail, &*route, place);
                None
            }
            Ok(None) => Some(message),
            Err(fault) => {
                refuse(&self.link, header, &fault);
                None
            }
        }
    }

    /// Lets a message wait for its turn. Waits for room only, as long as its connection lasts.
    pub(super) async fn wait(&mut self, header: Header, message: Arrived) {
        let (actor, came) = (header.recipient, Instant::now());
        // From now on a cancel ends it at once.
        let serving = match header.kind {
            Kind::Ask => match self.link.serve(header.call, came + patience(&header)) {
                Ok(Some(serving)) => Some(serving),
                Ok(None) => return,
                Err(fault) => return refuse(&self.link, &header, &fault),
            },
            _ => None,
        };
        // Beyond the room of the peer the lane waits; not for what another connection of it keeps when this one is gone.
        let room = tokio::select! {
            biased;
            room = self.link.rooms.arrivals.take(message.len()) => room,
            () = self.link.over() => None,
        };
        let Some(room) = room else {
            return;
        };
        let message = if message.is_apart() {
            Message::Apart(self.net.spawn(open(Arc::clone(&self.link), header, message, serving, came)))
        } else {
            Message::Here(Mail { header, message: Opened::plain(message.bytes), serving, came, ready: came })
        };
        let queue = self.queue(actor);
        queue.waiting.fetch_add(1, Ordering::AcqRel);
        // The other end lives as long as this one.
        let _ = queue.messages.send(Waiting { message, _room: room });
    }

    /// Whether messages wait for an actor.
    fn is_waited_for(&self, actor: u64) -> bool {
        self.queues.get(&actor).is_some_and(|queue| queue.waiting.load(Ordering::Acquire) > 0)
    }

    fn queue(&mut self, actor: u64) -> &Queue {
        if !self.queues.contains_key(&actor) {
            // Those of actors that nothing waits for are not kept.
            self.queues.retain(|_, queue| queue.waiting.load(Ordering::Acquire) > 0);
        }
        self.queues.entry(actor).or_insert_with(|| {
            let (messages, next) = mpsc::unbounded_channel();
            let waiting = Arc::<AtomicUsize>::default();
            let in_order = in_order(Arc::clone(&self.routes), Arc::clone(&self.link), next, Arc::clone(&waiting));
            self.net.handle.spawn(in_order);
            Queue { messages, waiting }
        })
    }
}

/// Hands the messages of one actor on, one after the other.
async fn in_order(
    routes: Arc<Routes>,
    link: Arc<Link>,
    mut messages: mpsc::UnboundedReceiver<Waiting>,
    waiting: Arc<AtomicUsize>,
) {
    let mut turn = Turn::default();
    while let Some(Waiting { message, _room }) = messages.recv().await {
        let mail = match message {
            Message::Here(mail) => Some(mail),
            Message::Apart(opening) => opening.await.flatten(),
        };
        if let Some(mail) = mail {
            turn.of(&routes, &link, mail).await;
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whose turn it is at an actor.
#[derive(Default)]
struct Turn {
    /// Since when the actor has given no place, although it was asked for one.
    busy: Option<Instant>,
}

impl Turn {
    /// Hands a message on when the actor has a place, unless it is too busy or the message is cancelled before.
    async fn of(&mut self, routes: &Routes, link: &Arc<Link>, mail: Mail) {
        let (header, bytes) = (mail.header, mail.message.len());
        let placed = async {
            let route = routes.find(ActorId(header.recipient), header.message, link.peer.role)?;
            if let Some(place) = route.try_place(bytes)? {
                return Ok((route, place));
            }
            // Whoever has waited as long as one may is not kept waiting again by each that was before it.
            let since = self.busy.map_or_else(Instant::now, |busy| busy.max(mail.ready));
            self.busy = Some(since);
            let place = timeout_at(since + PATIENCE, route.place(bytes)).await.unwrap_or(Err(Fault::Busy))?;
            Ok((route, place))
        };
        let asker = mail.serving.as_ref().map(Serving::asker);
        let placed = match asker {
            None => placed.await,
            Some(asker) => tokio::select! {
                biased;
                placed = placed => placed,
                () = asker.gone() => return,
            },
        };
        match placed {
            Ok((route, place)) => {
                self.busy = None;
                hand_over(link, mail, &*route, place);
            }
            Err(fault) => refuse(link, &header, &fault),
        }
    }
}

/// Fetches what is beside a message, unless it is cancelled first.
async fn open(
    link: Arc<Link>,
    header: Header,
    message: Arrived,
    serving: Option<Serving>,
    came: Instant,
) -> Option<Mail> {
    let (opened, serving) = match serving {
        None => (message.open().await, None),
        Some(serving) => {
            let asker = serving.asker();
            tokio::select! {
                biased;
                opened = message.open() => (opened, Some(serving)),
                () = asker.gone() => return None,
            }
        }
    };
    match opened {
        Ok(message) => Some(Mail { header, message, serving, came, ready: Instant::now() }),
        Err(error) => {
            let fault = Fault::BadMessage { text: format!("its batches did not come: {error}") };
            refuse(&link, &header, &fault);
            None
        }
    }
}
