//! One handle for an actor, wherever it is.

mod travel;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler};

use crate::codec::CodecError;
use crate::error::{AskError, Down, TellError};
use crate::ids::{ActorId, Address};
use crate::link::Letter;
use crate::local::LocalRef;
use crate::message::{RemoteMessage, StreamMessage, WireMessage};
use crate::net;
use crate::parcel::Parcel;
use crate::replies::Replies;
use crate::router::{Router, reach, read};
use crate::trace::TraceContext;
use travel::Travelling;

/// A handle to an actor of this or another process. It can be part of a message, if the actor is published: whoever
/// receives it reaches the actor, wherever the three of them are, by a connection that is made when it is first needed.
pub struct ActorRef<A: Actor<Context = Context<A>>>(Target<A>);

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    /// The actor at an address; its node is dialled `at` when it is needed and not connected.
    pub(crate) fn at(node: Arc<dyn Router>, address: Address, at: Option<SocketAddr>) -> Self {
        if address.node == node.id()
            && let Some(actor) = node.published(address.actor)
            && let Some(actor) = actor.downcast_ref::<LocalRef<A>>()
        {
            return Self(Target::Local(actor.clone()));
        }
        Self(Target::Remote { node, address, at })
    }

    /// Sends a message and waits for its reply.
    ///
    /// # Errors
    /// [`AskError::may_have_run`] says which errors leave open whether the handler ran.
    ///
    /// # Cancel safety
    /// Dropping the future skips the message if it has not started; else its handler can see it by
    /// [`Asker`](crate::Asker). So does a deadline that passes.
    ///
    /// # Delivery
    /// At most once, in the sender's order.
    pub async fn ask<M>(&self, message: M, deadline: Duration) -> Result<M::Result, AskError>
    where
        A: Handler<M>,
        M: RemoteMessage,
    {
        match &self.0 {
            Target::Local(actor) => actor.ask(message, deadline).await,
            Target::Remote { node, address, at } => {
                if address.node == node.id() {
                    return Err(AskError::NoSuchActor);
                }
                let until = net::deadline(deadline);
                let link = reach(&**node, address.node, *at, deadline).await?;
                let letter = letter(message, &**node, address.actor).map_err(AskError::Codec)?;
                read(node, link.ask(letter, until).await?)
            }
            Target::Detached(_) => Err(AskError::Detached),
        }
    }

    /// Sends a message that is answered by a stream. `patience` is how long to wait for room, and then for each item.
    ///
    /// # Errors
    /// No room in time, or the actor or its node is known to be gone: the message has not run. What goes wrong later
    /// is an error of [`Replies::next`].
    ///
    /// # Cancel safety
    /// Dropping the future sends nothing. Dropping the [`Replies`] stops the producer, which can see it.
    ///
    /// # Delivery
    /// The message at most once, in the sender's order; its items in their order, without a gap, up to the end or an
    /// error. A producer is ahead of its consumer by a bounded number of items, and to another node of bytes. It waits for a
    /// consumer on another node that takes nothing no longer than `patience`.
    pub async fn stream<M>(&self, message: M, patience: Duration) -> Result<Replies<M::Item>, AskError>
    where
        A: Handler<M>,
        M: StreamMessage,
    {
        match &self.0 {
            Target::Local(actor) => actor.stream(message, patience).await,
            Target::Remote { node, address, at } => {
                if address.node == node.id() {
                    return Err(AskError::NoSuchActor);
                }
                let link = reach(&**node, address.node, *at, patience).await?;
                let letter = letter(message, &**node, address.actor).map_err(AskError::Codec)?;
                let incoming = link.stream(letter, patience).await?;
                Ok(Replies::remote(incoming, patience, Arc::clone(node)))
            }
            Target::Detached(_) => Err(AskError::Detached),
        }
    }

    /// Sends a message, waiting only for room.
    ///
    /// # Errors
    /// No room before the deadline, or the actor or its node is known to be gone. The message has not run.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done sends nothing.
    ///
    /// # Delivery
    /// At most once, in the sender's order. To another node, success means that the message is on its way:
    /// it is lost if the connection is, or if the actor there stays busy.
    pub async fn tell<M>(&self, message: M, deadline: Duration) -> Result<(), TellError>
    where
        A: Handler<M>,
        M: RemoteMessage,
    {
        match &self.0 {
            Target::Local(actor) => actor.tell(message, deadline).await,
            Target::Remote { node, address, at } => {
                if address.node == node.id() {
                    return Err(TellError::NoSuchActor);
                }
                let until = net::deadline(deadline);
                let link = reach(&**node, address.node, *at, deadline).await?;
                let letter = letter(message, &**node, address.actor).map_err(TellError::Codec)?;
                link.tell(letter, until).await
            }
            Target::Detached(_) => Err(TellError::Detached),
        }
    }

    /// [`ask`](Self::ask) for a plain thread, such as that of a UDF; blocks it until the answer or the deadline.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Delivery
    /// As there.
    pub fn ask_blocking<M>(&self, message: M, deadline: Duration) -> Result<M::Result, AskError>
    where
        A: Handler<M>,
        M: RemoteMessage,
    {
        let runtime = match &self.0 {
            Target::Local(actor) => actor.net().handle.clone(),
            Target::Remote { node, .. } => node.net().handle.clone(),
            Target::Detached(_) => return Err(AskError::Detached),
        };
        let (answered, answer) = std::sync::mpsc::sync_channel(1);
        let actor = self.clone();
        runtime.spawn(async move { answered.send(actor.ask(message, deadline).await) });
        answer.recv().unwrap_or_else(|_| Err(AskError::ConnectionLost { cause: "the runtime ended".to_owned() }))
    }

    /// Where the actor is; `None` for one of this process that is not published.
    pub fn address(&self) -> Option<Address> {
        match &self.0 {
            Target::Local(actor) => actor.home().map(|(node, actor)| Address { node: node.id(), actor }),
            Target::Remote { address, .. } => Some(*address),
            Target::Detached(travelling) => Some(travelling.address),
        }
    }

    /// Waits until the actor is gone, and says why. For an actor of another node, the loss of the connection is
    /// [`Down::NodeLost`], also if it is made again at once.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn down(&self) -> Down {
        match &self.0 {
            Target::Local(actor) => actor.down().await,
            Target::Remote { node, address, .. } if address.node == node.id() => Down::NoSuchActor,
            Target::Remote { node, address, at } => {
                // Nobody may have needed it before.
                match reach(&**node, address.node, *at, REACH).await {
                    Ok(link) => link.watch(address.actor).await,
                    Err(why) => Down::NodeLost { cause: why.to_string() },
                }
            }
            Target::Detached(_) => Down::NodeLost { cause: TellError::Detached.to_string() },
        }
    }
}

impl<A: Actor<Context = Context<A>>> From<LocalRef<A>> for ActorRef<A> {
    fn from(actor: LocalRef<A>) -> Self {
        Self(Target::Local(actor))
    }
}

impl<A: Actor<Context = Context<A>>> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Target::Local(actor) => Target::Local(actor.clone()),
            Target::Remote { node, address, at } => {
                Target::Remote { node: Arc::clone(node), address: *address, at: *at }
            }
            Target::Detached(travelling) => Target::Detached(travelling.clone()),
        })
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Local(actor) => actor.fmt(f),
            Target::Remote { address, .. } => write!(f, "ActorRef({address})"),
            Target::Detached(travelling) => write!(f, "ActorRef({travelling:?})"),
        }
    }
}

/// Where the actor is.
enum Target<A: Actor<Context = Context<A>>> {
    Local(LocalRef<A>),
    Remote {
        /// Our node, not the actor's.
        node: Arc<dyn Router>,
        address: Address,
        /// Where to dial, if there is no connection.
        at: Option<SocketAddr>,
    },
    /// Read outside of any node.
    Detached(Travelling),
}

/// How long a watch waits for its connection.
const REACH: Duration = Duration::from_secs(5);

fn letter<M: WireMessage>(message: M, from: &dyn Router, actor: ActorId) -> Result<Letter, CodecError> {
    let trace = TraceContext::of_message(&from.net().ambient);
    Ok(Letter { message: M::ID, actor, parcel: Parcel::pack(&message)?, trace })
}
