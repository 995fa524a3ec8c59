//! Which published actor takes which message from whom.

use std::any::{Any, TypeId};
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use actix::{Actor, Context, Handler};
use dashmap::DashMap;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OwnedSemaphorePermit;

use crate::actor::ActorId;
use crate::error::Fault;
use crate::fence;
use crate::identity::{PeerId, Role};
use crate::local::{Down, LocalRef, Reply, Sender};
use crate::message::WireMessage;
use crate::node::{Node, WeakNode};
use crate::parcel::{Opened, Parcel};
use crate::runtime::busy;
use crate::stream::{Items, Producing};
use crate::travel;

/// An actor being published: name the messages that it takes from other nodes.
pub struct Publication<A: Actor<Context = Context<A>>> {
    routes: Arc<Routes>,
    id: ActorId,
    actor: LocalRef<A>,
}

impl<A: Actor<Context = Context<A>>> Publication<A> {
    /// Takes `M` from nodes of these roles.
    ///
    /// # Panics
    /// Another message of this actor has the same number: one of the two would be read as the other.
    pub fn on<M>(self, roles: &[Role]) -> Self
    where
        A: Handler<M>,
        M: WireMessage,
    {
        let node = self.routes.node.get().cloned().unwrap_or_default();
        let route = Typed::<A, M> { actor: self.actor.clone(), roles: roles.to_vec(), node, message: PhantomData };
        let before = self.routes.table.insert((self.id, M::ID), Arc::new(route));
        if let Some(other) = before.filter(|other| other.message() != TypeId::of::<M>()) {
            let (other, actor) = (other.name(), std::any::type_name::<A>());
            panic!("{other} and {} of {actor} have the same number {:#06x}: give one of them another", M::NAME, M::ID);
        }
        if let Some(mut published) = self.routes.actors.get_mut(&self.id) {
            published.roles.extend(roles);
        }
        self
    }
}

/// The routing table of a node.
#[derive(Default)]
pub(crate) struct Routes {
    table: DashMap<(ActorId, u32), Arc<dyn Route>>,
    actors: DashMap<ActorId, Published>,
    node: OnceLock<WeakNode>,
}

struct Published {
    /// A [`LocalRef`].
    actor: Arc<dyn Any + Send + Sync>,
    watch: Box<dyn Fn() -> Boxed<'static, Down> + Send + Sync>,
    /// Who may send it any message.
    roles: Vec<Role>,
}

impl Routes {
    /// Whose table this is.
    pub(crate) fn belong_to(&self, node: WeakNode) {
        let _ = self.node.set(node); // once, when the node is made
    }

    pub(crate) fn publish<A: Actor<Context = Context<A>>>(
        self: &Arc<Self>,
        id: ActorId,
        actor: &LocalRef<A>,
    ) -> Publication<A> {
        self.unpublish(id);
        let watched = actor.clone();
        let watch = Box::new(move || -> Boxed<'static, Down> { Box::pin(watched.watch()) });
        self.actors.insert(id, Published { actor: Arc::new(actor.clone()), watch, roles: Vec::new() });
        Publication { routes: Arc::clone(self), id, actor: actor.clone() }
    }

    pub(crate) fn unpublish(&self, id: ActorId) {
        self.actors.remove(&id);
        self.table.retain(|(actor, _), _| *actor != id);
    }

    pub(crate) fn clear(&self) {
        self.actors.clear();
        self.table.clear();
    }

    /// The published actor, if it is of this type.
    pub(crate) fn local<A: Actor<Context = Context<A>>>(&self, id: ActorId) -> Option<LocalRef<A>> {
        self.actors.get(&id)?.actor.downcast_ref::<LocalRef<A>>().cloned()
    }

    /// The end of a published actor, for a node of this role. Holds the actor no longer than this call.
    pub(crate) fn watch(&self, id: ActorId, role: Role) -> Option<Boxed<'static, Down>> {
        let published = self.actors.get(&id)?;
        published.roles.contains(&role).then(|| (published.watch)())
    }

    /// Where a message of a node of this role goes.
    pub(crate) fn find(&self, id: ActorId, message: u32, role: Role) -> Result<Arc<dyn Route>, Fault> {
        let route = self.table.get(&(id, message)).ok_or(Fault::NoSuchActor)?;
        if route.allows(role) { Ok(Arc::clone(&route)) } else { Err(Fault::NotAllowed { role }) }
    }
}

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One message type of one actor.
pub(crate) trait Route: Send + Sync {
    fn message(&self) -> TypeId;

    fn name(&self) -> &'static str;

    fn allows(&self, role: Role) -> bool;

    /// A place in the actor's mailbox, if there is one.
    fn try_place(&self) -> Result<Option<OwnedSemaphorePermit>, Fault>;

    /// Waits for a place in the actor's mailbox.
    fn place(&self) -> Boxed<'_, Result<OwnedSemaphorePermit, Fault>>;

    /// Hands a peer's ask to the actor; the future is the wait for the answer.
    fn ask(&self, from: PeerId, message: Opened, place: OwnedSemaphorePermit) -> Result<Boxed<'static, Answer>, Fault>;

    /// Hands a peer's tell to the actor.
    fn tell(&self, from: PeerId, message: Opened, place: OwnedSemaphorePermit) -> Result<(), Fault>;
}

/// What goes back to the peer.
pub(crate) type Answer = Result<Answered, Fault>;

pub(crate) enum Answered {
    Value(Parcel),
    Items(Box<dyn EncodedItems>),
}

/// A stream of this process, item by item as bytes.
pub(crate) trait EncodedItems: Send {
    fn next(&mut self) -> Boxed<'_, Result<Option<Parcel>, Fault>>;
}

impl<T: Serialize + DeserializeOwned + Send + 'static> EncodedItems for Producing<T> {
    fn next(&mut self) -> Boxed<'_, Result<Option<Parcel>, Fault>> {
        Box::pin(async move { Self::next(self).await?.map(written).transpose() })
    }
}

/// How a handler's result goes back to the peer.
pub(crate) trait Respond: Sized + Send + 'static {
    fn answer(reply: Reply<Self>) -> Boxed<'static, Answer>;
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Respond for T {
    fn answer(reply: Reply<Self>) -> Boxed<'static, Answer> {
        Box::pin(async move { written(reply.wait().await?).map(Answered::Value) })
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Respond for Items<T> {
    fn answer(reply: Reply<Self>) -> Boxed<'static, Answer> {
        Box::pin(ready(Ok(Answered::Items(Box::new(Producing::new(reply))))))
    }
}

struct Typed<A: Actor<Context = Context<A>>, M> {
    actor: LocalRef<A>,
    roles: Vec<Role>,
    node: WeakNode,
    message: PhantomData<fn(M)>,
}

impl<A, M> Route for Typed<A, M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: WireMessage,
{
    fn message(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn name(&self) -> &'static str {
        M::NAME
    }

    fn allows(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    fn try_place(&self) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        self.actor.try_permit().map_err(gone)
    }

    fn place(&self) -> Boxed<'_, Result<OwnedSemaphorePermit, Fault>> {
        Box::pin(async move { self.actor.permit().await.map_err(gone) })
    }

    fn ask(&self, from: PeerId, message: Opened, place: OwnedSemaphorePermit) -> Result<Boxed<'static, Answer>, Fault> {
        let message = read::<M>(message, self.node.upgrade())?;
        let reply = self.actor.enqueue_ask(message, place, Sender::Node(from)).map_err(gone)?;
        Ok(M::Result::answer(reply))
    }

    fn tell(&self, from: PeerId, message: Opened, place: OwnedSemaphorePermit) -> Result<(), Fault> {
        let message = read::<M>(message, self.node.upgrade())?;
        self.actor.enqueue_tell(message, place, Sender::Node(from)).map_err(gone)
    }
}

/// Payloads above this are decoded with other tasks moved out of the way.
const LARGE: usize = 256 << 10;

/// Decodes a peer's message; a `Deserialize` that panics must not take the lane with it.
fn read<M: WireMessage>(message: Opened, node: Option<Node>) -> Result<M, Fault> {
    let large = message.bytes.len() > LARGE || !message.beside.is_empty();
    let read = || {
        let _receiving = node.map(travel::enter);
        message.unpack()
    };
    let message: Result<M, String> = if large { busy(read) } else { read() };
    message.map_err(|text| Fault::BadMessage { text: format!("{}: {text}", M::NAME) })
}

/// Encodes a reply; one that panics there, or when it is dropped, costs no more than itself.
fn written<T: Serialize + DeserializeOwned>(value: T) -> Result<Parcel, Fault> {
    match fence::catch(move || Parcel::pack(&value)) {
        Ok(Ok(parcel)) => Ok(parcel),
        Ok(Err(error)) => Err(Fault::BadReply { text: error.to_string() }),
        Err(text) => Err(Fault::BadReply { text }),
    }
}

fn gone(error: crate::error::TellError) -> Fault {
    Fault::from(crate::error::AskError::from(error))
}

impl<A: Actor<Context = Context<A>>> std::fmt::Debug for Publication<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publication").field("id", &self.id).finish_non_exhaustive()
    }
}
