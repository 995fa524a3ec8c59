//! Actors of this process.
//!
//! Messages do not go through actix's mailbox, which has no real bound, but through a queue of our own that
//! a future in the actor's context drains. That future is also the death watch: it is dropped with
//! the actor, and knows then whether a panic is under way.

mod asker;
mod life;
mod mailbox;
mod producing;
mod reply;
mod sender;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use actix::dev::MessageResponse;
use actix::{Actor, Context, Handler, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::{AskError, Down, TellError};
use crate::ids::{ActorId, NodeId};
use crate::limits::MAX_BATCHES;
use crate::net::Net;
use crate::presence::Presence;
use crate::queue::COPY;
use crate::room::Room;
use crate::supervise::{History, Restarts};
use crate::trace::Handling;

pub use asker::Asker;
use life::Story;
use mailbox::{Envelope, Factory, Seat, Supervisor};
pub(crate) use producing::Producing;
pub(crate) use reply::Reply;
pub use sender::Sender;

/// A node that publishes actors of this process.
pub(crate) trait Home: Send + Sync {
    fn id(&self) -> NodeId;

    /// Where others can dial it, as far as it knows itself.
    fn dialled_at(&self) -> Option<SocketAddr>;

    /// Whether it publishes the actor of this number in this process under this id.
    fn holds(&self, id: ActorId, number: u64) -> bool;
}

/// A handle to an actor of this process. While one exists, the actor lives.
///
/// Messages sent through handles arrive in the order in which each sender sent them. Messages that the
/// actor sends to itself by actix means (`ctx.notify`, `ctx.address()`) are another queue.
pub struct LocalRef<A: Actor<Context = Context<A>>>(Arc<Shared<A>>);

impl<A: Actor<Context = Context<A>>> LocalRef<A> {
    /// Sends a message and waits for its reply. The message's place in the mailbox is freed by the reply.
    ///
    /// # Errors
    /// [`AskError::Busy`] if there was no room before the deadline; [`AskError::may_have_run`] says which
    /// errors leave open whether the handler ran.
    ///
    /// # Cancel safety
    /// Dropping the future skips the message if it has not started; else its handler can see it by [`Asker`].
    ///
    /// # Delivery
    /// At most once, in the sender's order.
    pub async fn ask<M>(&self, message: M, deadline: Duration) -> Result<M::Result, AskError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let asked = async {
            let permit = self.permit().await?;
            self.enqueue_ask(message, permit)
        };
        let started = Instant::now();
        let reply = self.0.net.within(deadline, asked).await.ok_or(AskError::Busy)??;
        let left = deadline.saturating_sub(started.elapsed());
        self.0.net.within(left, reply.wait()).await.unwrap_or(Err(AskError::Deadline))
    }

    /// Sends a message, waiting only for room.
    ///
    /// # Errors
    /// No room before the deadline, or the actor is gone. The message has not run.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done sends nothing.
    ///
    /// # Delivery
    /// At most once, in the sender's order; lost if the actor stops first.
    pub async fn tell<M>(&self, message: M, deadline: Duration) -> Result<(), TellError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let permit = self.0.net.within(deadline, self.permit()).await.ok_or(TellError::Busy)??;
        self.enqueue_tell(message, Admitted { permit, room: None }, Sender::Here)
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    /// No room, or the actor is gone. The message has not run.
    pub fn try_tell<M>(&self, message: M) -> Result<(), TellError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let permit = self.try_permit()?.ok_or(TellError::Busy)?;
        self.enqueue_tell(message, Admitted { permit, room: None }, Sender::Here)
    }

    /// Waits until the actor is gone, and is not built again by its [supervisor](crate::Arbiter::supervise).
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn down(&self) -> Down {
        self.watch().await
    }

    /// Places in the mailbox.
    pub fn places(&self) -> usize {
        self.0.queue.max_capacity()
    }

    /// Places that are free now.
    pub fn room(&self) -> usize {
        self.0.permits.available_permits()
    }

    /// [`down`](Self::down), without a handle that keeps the actor alive.
    pub(crate) fn watch(&self) -> impl Future<Output = Down> + Send + use<A> {
        let life = self.0.life.clone();
        async move { life.wait(|life| life.down.clone()).await }
    }

    /// The runtime that its waits are timed by.
    pub(crate) fn net(&self) -> &Net {
        &self.0.net
    }

    /// Its number in this process, which no other actor gets.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// Notes where it is published now.
    pub(crate) fn move_to(&self, node: Weak<dyn Home>, id: ActorId) {
        *self.0.home.lock().unwrap_or_else(PoisonError::into_inner) = Some((node, id));
    }

    /// Where it is published.
    pub(crate) fn home(&self) -> Option<(Arc<dyn Home>, ActorId)> {
        let (node, id) = self.0.home.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let node = node.upgrade()?;
        node.holds(id, self.0.number).then_some((node, id))
    }

    /// A place in the mailbox.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit, TellError> {
        Arc::clone(&self.0.permits).acquire_owned().await.map_err(|_| self.why_down())
    }

    /// A place in the mailbox, if there is one now.
    pub(crate) fn try_permit(&self) -> Result<Option<OwnedSemaphorePermit>, TellError> {
        match Arc::clone(&self.0.permits).try_acquire_owned() {
            Ok(permit) => Ok(Some(permit)),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(self.why_down()),
        }
    }

    /// A place for a message of a node, and room for its bytes.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<Admitted, TellError> {
        let permit = self.permit().await?;
        let room = match bytes {
            ..=COPY => None,
            bytes => Some(self.0.room.take(bytes).await.ok_or_else(|| self.why_down())?),
        };
        Ok(Admitted { permit, room })
    }

    /// [`admit`](Self::admit), if there is both now.
    pub(crate) fn try_admit(&self, bytes: usize) -> Result<Option<Admitted>, TellError> {
        let Some(permit) = self.try_permit()? else {
            return Ok(None);
        };
        let room = (bytes > COPY).then(|| self.0.room.try_take(bytes));
        Ok(match room {
            None => Some(Admitted { permit, room: None }),
            Some(room) => room.map(|room| Admitted { permit, room: Some(room) }),
        })
    }

    /// A place with room for so many bytes, if there is that now.
    pub(crate) fn widen(&self, mut place: Admitted, bytes: usize) -> Option<Admitted> {
        if bytes > COPY {
            place.room = Some(self.0.room.try_grow(place.room, bytes)?);
        }
        Some(place)
    }

    pub(crate) fn enqueue_tell<M>(
        &self,
        message: M,
        Admitted { permit, room }: Admitted,
        sender: Sender,
    ) -> Result<(), TellError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let trace = Handling::new(&self.0.net.ambient);
        self.enqueue(Box::new(move |actor, ctx, _| {
            let _permit = permit; // freed when the handler has run
            drop(room);
            let _sender = sender.enter();
            trace.run::<M, _>(|| A::handle(actor, message, ctx).handle(ctx, None));
        }))
    }

    pub(crate) fn enqueue_ask<M>(&self, message: M, permit: OwnedSemaphorePermit) -> Result<Reply<M::Result>, TellError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let (sender, receiver) = oneshot::channel();
        let asker = Presence::default();
        let seen = asker.clone();
        let trace = Handling::new(&self.0.net.ambient);
        self.enqueue(Box::new(move |actor, ctx, panics| {
            if !seen.start(panics) {
                return; // the asker left while the message waited
            }
            let _current = (Asker::enter(seen), Sender::Here.enter());
            trace.run::<M, _>(|| A::handle(actor, message, ctx).handle(ctx, Some(sender)));
        }))?;
        Ok(self.reply(receiver, permit, asker))
    }

    /// Queues a node's ask. Where its asker has not left before, `answer` gets the reply when the handler has returned, on
    /// this actor's thread, or when it is certain not to run.
    pub(crate) fn enqueue_call<M>(
        &self,
        message: M,
        Admitted { permit, room }: Admitted,
        from: Sender,
        asker: Presence,
        answer: impl FnOnce(Reply<M::Result>) + Send + 'static,
    ) where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let (sender, receiver) = oneshot::channel();
        let call = Called(Some((self.reply(receiver, permit, asker.clone()), answer)));
        let trace = Handling::new(&self.0.net.ambient);
        // Where the actor is gone, the call is answered as the envelope is dropped.
        let _ = self.enqueue(Box::new(move |actor, ctx, panics| {
            drop(room);
            let mut call = call; // dropped last
            if !asker.start(panics) {
                call.0 = None;
                return;
            }
            let _current = (Asker::enter(asker), from.enter());
            trace.run::<M, _>(|| A::handle(actor, message, ctx).handle(ctx, Some(sender)));
        }));
    }

    fn reply<R: Send>(
        &self,
        receiver: oneshot::Receiver<R>,
        permit: OwnedSemaphorePermit,
        asker: Presence,
    ) -> Reply<R> {
        Reply::new(receiver, permit, asker, self.0.life.clone(), self.0.net.clone())
    }

    fn enqueue(&self, envelope: Envelope<A>) -> Result<(), TellError> {
        // Never full: each envelope holds a permit, and there are as many permits as places.
        self.0.queue.try_send(envelope).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TellError::Busy,
            mpsc::error::TrySendError::Closed(_) => self.why_down(),
        })
    }

    fn why_down(&self) -> TellError {
        self.0.life.so_far().down.clone().unwrap_or(Down::Stopped).into()
    }
}

impl<A: Actor<Context = Context<A>>> Clone for LocalRef<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for LocalRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRef")
            .field("actor", &std::any::type_name::<A>())
            .field("down", &self.0.life.so_far().down)
            .finish()
    }
}

/// A place for a message of a node, and room for its bytes until its handler begins.
pub(crate) struct Admitted {
    permit: OwnedSemaphorePermit,
    room: Option<OwnedSemaphorePermit>,
}

/// A node's ask at an actor: answered when this is dropped.
struct Called<R: Send + 'static, F: FnOnce(Reply<R>)>(Option<(Reply<R>, F)>);

impl<R: Send + 'static, F: FnOnce(Reply<R>)> Drop for Called<R, F> {
    fn drop(&mut self) {
        if let Some((reply, answer)) = self.0.take() {
            answer(reply);
        }
    }
}

/// Bytes of messages of other nodes that wait at one actor. Small ones need no room: each has a place.
const WAITING: usize = MAX_BATCHES;

struct Shared<A: Actor<Context = Context<A>>> {
    number: u64,
    queue: mpsc::Sender<Envelope<A>>,
    permits: Arc<Semaphore>,
    room: Arc<Room>,
    life: Story,
    net: Net,
    /// Where it was published last.
    home: Mutex<Option<(Weak<dyn Home>, ActorId)>>,
}

/// Where and how an actor is started.
pub(crate) struct Place<'a> {
    pub(crate) arbiter: &'a actix_rt::ArbiterHandle,
    /// The actor ends when the sender is dropped.
    pub(crate) end: Option<watch::Receiver<()>>,
    pub(crate) net: &'a Net,
    pub(crate) mailbox: usize,
}

/// Starts an actor.
pub(crate) fn start<A, F>(place: Place<'_>, make: F) -> LocalRef<A>
where
    A: Actor<Context = Context<A>>,
    F: FnOnce(&mut Context<A>) -> A + Send + 'static,
{
    let arbiter = place.arbiter;
    let (actor, seat) = seat(place, None);
    seat.start(arbiter, make);
    actor
}

/// Starts an actor that is built again after a panic.
pub(crate) fn supervise<A>(place: Place<'_>, limit: Restarts, make: Factory<A>) -> LocalRef<A>
where
    A: Actor<Context = Context<A>>,
{
    let (arbiter, net) = (place.arbiter.clone(), place.net.clone());
    let supervisor = Supervisor {
        make: Arc::clone(&make),
        arbiter: arbiter.clone(),
        net,
        history: History::new(limit),
        started: Instant::now(),
    };
    let (actor, seat) = seat(place, Some(supervisor));
    seat.start(&arbiter, move |ctx| make(ctx));
    actor
}

fn seat<A: Actor<Context = Context<A>>>(place: Place<'_>, supervisor: Option<Supervisor<A>>) -> (LocalRef<A>, Seat<A>) {
    let places = place.mailbox.clamp(1, Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(places));
    let (queue, waiting) = mpsc::channel(places);
    let life = Story::default();
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let room = Arc::new(Room::new(WAITING, 0));
    let seat = Seat::new(waiting, life.clone(), (Arc::clone(&permits), Arc::clone(&room)), place.end, supervisor);
    let (net, home) = (place.net.clone(), Mutex::default());
    (LocalRef(Arc::new(Shared { number, queue, permits, room, life, net, home })), seat)
}
