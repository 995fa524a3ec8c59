//! One handle for an actor, wherever it is.

use std::fmt;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use serde::{Deserialize, Serialize};

use crate::codec::CodecError;
use crate::error::{AskError, TellError};
use crate::identity::NodeId;
use crate::link::Letter;
use crate::local::{Down, LocalRef};
use crate::message::{RemoteMessage, StreamMessage, WireMessage};
use crate::node::Node;
use crate::parcel::Parcel;
use crate::stream::Replies;
use crate::trace::TraceContext;

/// An actor's number in its node, given by whoever publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ActorId(pub u64);

/// Where an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Its node.
    pub node: NodeId,
    /// Its number there.
    pub actor: ActorId,
}

/// A handle to an actor of this or another process.
pub struct ActorRef<A: Actor<Context = Context<A>>>(Target<A>);

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    pub(crate) fn remote(node: Node, address: Address) -> Self {
        Self(Target::Remote { node, address })
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
            Target::Remote { node, address } => {
                if address.node == node.id() {
                    return Err(AskError::NoSuchActor);
                }
                let link = node.link(address.node).ok_or(AskError::NotConnected)?;
                let letter = letter(message, node, address.actor).map_err(AskError::Codec)?;
                let reply = link.ask(letter, deadline).await?;
                reply.unpack().map_err(|text| AskError::BadReply { text })
            }
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
            Target::Remote { node, address } => {
                if address.node == node.id() {
                    return Err(AskError::NoSuchActor);
                }
                let link = node.link(address.node).ok_or(AskError::NotConnected)?;
                let letter = letter(message, node, address.actor).map_err(AskError::Codec)?;
                let incoming = link.stream(letter, patience).await?;
                Ok(Replies::remote(incoming, patience, node.net().clone()))
            }
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
            Target::Remote { node, address } => {
                if address.node == node.id() {
                    return Err(TellError::NoSuchActor);
                }
                let link = node.link(address.node).ok_or(TellError::NotConnected)?;
                let letter = letter(message, node, address.actor).map_err(TellError::Codec)?;
                link.tell(letter, deadline).await
            }
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
            Target::Remote { node, address } if address.node == node.id() => Down::NoSuchActor,
            Target::Remote { node, address } => match node.link(address.node) {
                Some(link) => link.watch(address.actor).await,
                None => Down::NodeLost { cause: "not connected".to_owned() },
            },
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
            Target::Remote { node, address } => Target::Remote { node: node.clone(), address: *address },
        })
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Local(actor) => actor.fmt(f),
            Target::Remote { address, .. } => write!(f, "ActorRef({address})"),
        }
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.actor)
    }
}

enum Target<A: Actor<Context = Context<A>>> {
    Local(LocalRef<A>),
    Remote { node: Node, address: Address },
}

fn letter<M: WireMessage>(message: M, from: &Node, actor: ActorId) -> Result<Letter, CodecError> {
    let trace = TraceContext::of_message(&from.net().ambient);
    Ok(Letter { message: M::ID, actor, parcel: Parcel::pack(&message)?, trace })
}
