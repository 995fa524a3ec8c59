//! Which published actor takes which message from whom.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use actix::{Actor, Context, Handler};
use dashmap::DashMap;
use futures_util::future::BoxFuture;

use crate::answer::Call;
use crate::error::{AskError, Down, Fault, TellError};
use crate::ids::{ActorId, PeerId, Role};
use crate::local::{Admitted, LocalRef, Sender};
use crate::message::WireMessage;
use crate::net::busy;
use crate::parcel::Opened;
use crate::router::{Router, enter};

/// An actor being published: name the messages that it takes from other nodes. They are published together, at the end of
/// the statement: when this is dropped. Until then others reach what was published before under that number.
pub struct Publication<A: Actor<Context = Context<A>>> {
    routes: Arc<Routes>,
    id: ActorId,
    actor: LocalRef<A>,
    messages: BTreeMap<u32, Arc<dyn Route>>,
}

impl<A: Actor<Context = Context<A>>> Publication<A> {
    /// Takes `M` from nodes of these roles.
    ///
    /// # Panics
    /// Another message of this actor has the same number: one of the two would be read as the other. Nothing is published then.
    pub fn on<M>(self, roles: &[Role]) -> Self
    where
        A: Handler<M>,
        M: WireMessage,
    {
        self.taking::<M>(Takers::These(roles.to_vec()))
    }

    /// Takes `M` from nodes of these and of all roles that an application has made its own.
    pub(crate) fn on_own<M>(self, roles: &[Role]) -> Self
    where
        A: Handler<M>,
        M: WireMessage,
    {
        self.taking::<M>(Takers::TheseAndOwn(roles.to_vec()))
    }

    fn taking<M>(mut self, from: Takers) -> Self
    where
        A: Handler<M>,
        M: WireMessage,
    {
        let node = self.routes.node.get().cloned();
        let route = Typed::<A, M> { actor: self.actor.clone(), from, node, message: PhantomData };
        let before = self.messages.insert(M::ID, Arc::new(route));
        if let Some(other) = before.filter(|other| other.message() != TypeId::of::<M>()) {
            let (other, actor) = (other.name(), std::any::type_name::<A>());
            panic!("{other} and {} of {actor} have the same number {:#06x}: give one of them another", M::NAME, M::ID);
        }
        self
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Publication<A> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let watched = self.actor.clone();
        let published = Published {
            actor: Arc::new(self.actor.clone()),
            number: self.actor.number(),
            watch: Box::new(move || -> BoxFuture<'static, Down> { Box::pin(watched.watch()) }),
            messages: std::mem::take(&mut self.messages),
        };
        self.routes.actors.insert(self.id, published);
    }
}

/// The routing table of a node.
#[derive(Default)]
pub(crate) struct Routes {
    actors: DashMap<ActorId, Published>,
    node: OnceLock<Weak<dyn Router>>,
}

struct Published {
    /// A [`LocalRef`].
    actor: Arc<dyn Any + Send + Sync>,
    /// The actor's number in this process.
    number: u64,
    watch: Box<dyn Fn() -> BoxFuture<'static, Down> + Send + Sync>,
    messages: BTreeMap<u32, Arc<dyn Route>>,
}

impl Routes {
    /// Whose table this is.
    pub(crate) fn belong_to(&self, node: Weak<dyn Router>) {
        let _ = self.node.set(node); // once, when the node is made
    }

    pub(crate) fn publish<A: Actor<Context = Context<A>>>(
        self: &Arc<Self>,
        id: ActorId,
        actor: &LocalRef<A>,
    ) -> Publication<A> {
        Publication { routes: Arc::clone(self), id, actor: actor.clone(), messages: BTreeMap::new() }
    }

    pub(crate) fn unpublish(&self, id: ActorId) {
        self.actors.remove(&id);
    }

    pub(crate) fn clear(&self) {
        self.actors.clear();
    }

    /// The published actor: a [`LocalRef`] to it.
    pub(crate) fn published(&self, id: ActorId) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(&self.actors.get(&id)?.actor))
    }

    /// Whether the actor of this number in this process is published under this id.
    pub(crate) fn holds(&self, id: ActorId, number: u64) -> bool {
        self.actors.get(&id).is_some_and(|published| published.number == number)
    }

    /// The end of a published actor, for a node of this role. Holds the actor no longer than this call.
    pub(crate) fn watch(&self, id: ActorId, role: Role) -> Option<BoxFuture<'static, Down>> {
        let published = self.actors.get(&id)?;
        published.messages.values().any(|route| route.allows(role)).then(|| (published.watch)())
    }

    /// Where a message of a node of this role goes.
    pub(crate) fn find(&self, id: ActorId, message: u32, role: Role) -> Result<Arc<dyn Route>, Fault> {
        let published = self.actors.get(&id).ok_or(Fault::NoSuchActor)?;
        let route = published.messages.get(&message).ok_or(Fault::NoSuchActor)?;
        if route.allows(role) { Ok(Arc::clone(route)) } else { Err(Fault::NotAllowed { role }) }
    }
}

/// From nodes of which roles a message is taken.
enum Takers {
    These(Vec<Role>),
    TheseAndOwn(Vec<Role>),
}

/// One message type of one actor.
pub(crate) trait Route: Send + Sync {
    fn message(&self) -> TypeId;

    fn name(&self) -> &'static str;

    fn allows(&self, role: Role) -> bool;

    /// A place at the actor for a message of so many bytes, if there is one.
    fn try_place(&self, bytes: usize) -> Result<Option<Admitted>, Fault>;

    /// Waits for a place at the actor.
    fn place(&self, bytes: usize) -> BoxFuture<'_, Result<Admitted, Fault>>;

    /// Hands a peer's ask to the actor, whose reply answers the call.
    fn ask(&self, from: PeerId, message: Opened, place: Admitted, call: Call) -> Result<(), Fault>;

    /// Hands a peer's tell to the actor.
    fn tell(&self, from: PeerId, message: Opened, place: Admitted) -> Result<(), Fault>;
}

struct Typed<A: Actor<Context = Context<A>>, M> {
    actor: LocalRef<A>,
    from: Takers,
    node: Option<Weak<dyn Router>>,
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
        match &self.from {
            Takers::These(roles) => roles.contains(&role),
            Takers::TheseAndOwn(roles) => matches!(role, Role::Own(_)) || roles.contains(&role),
        }
    }

    fn try_place(&self, bytes: usize) -> Result<Option<Admitted>, Fault> {
        self.actor.try_admit(bytes).map_err(gone)
    }

    fn place(&self, bytes: usize) -> BoxFuture<'_, Result<Admitted, Fault>> {
        Box::pin(async move { self.actor.admit(bytes).await.map_err(gone) })
    }

    fn ask(&self, from: PeerId, message: Opened, place: Admitted, call: Call) -> Result<(), Fault> {
        let (message, place) = self.read(message, place)?;
        self.actor.enqueue_call(message, place, Sender::Node(from), call.asker(), |reply| call.answer(reply));
        Ok(())
    }

    fn tell(&self, from: PeerId, message: Opened, place: Admitted) -> Result<(), Fault> {
        let (message, place) = self.read(message, place)?;
        self.actor.enqueue_tell(message, place, Sender::Node(from)).map_err(gone)
    }
}

/// Payloads above this are decoded with other tasks moved out of the way.
const LARGE: usize = 256 << 10;

impl<A: Actor<Context = Context<A>>, M: WireMessage> Typed<A, M> {
    /// Decodes a peer's message; a `Deserialize` that panics must not take the lane with it. Its place grows to the memory that it
    /// takes, which may be many times its bytes.
    fn read(&self, message: Opened, place: Admitted) -> Result<(M, Admitted), Fault> {
        let large = message.bytes.len() > LARGE || !message.beside.is_empty();
        let node = self.node.as_ref().and_then(Weak::upgrade);
        let read = || {
            let _receiving = node.map(enter);
            message.unpack()
        };
        let message: Result<(M, usize), String> = if large { busy(read) } else { read() };
        let (message, memory) = message.map_err(|text| Fault::BadMessage { text: format!("{}: {text}", M::NAME) })?;
        let place = self.actor.widen(place, memory).ok_or(Fault::Busy)?;
        Ok((message, place))
    }
}

fn gone(error: TellError) -> Fault {
    AskError::from(error).into()
}

impl<A: Actor<Context = Context<A>>> std::fmt::Debug for Publication<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publication").field("id", &self.id).finish_non_exhaustive()
    }
}
