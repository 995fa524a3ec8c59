//! Which published actor takes which message from whom.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use bytes::Bytes;
use dashmap::DashMap;

use crate::actor::ActorId;
use crate::codec::{decode, encode};
use crate::error::Fault;
use crate::fence;
use crate::identity::Role;
use crate::link::Answer;
use crate::local::LocalRef;
use crate::message::RemoteMessage;
use crate::runtime::busy;

/// An actor being published: name the messages that it takes from other nodes.
pub struct Publication<A: Actor<Context = Context<A>>> {
    routes: Arc<Routes>,
    id: ActorId,
    actor: LocalRef<A>,
}

impl<A: Actor<Context = Context<A>>> Publication<A> {
    /// Takes `M` from nodes of these roles.
    pub fn on<M>(self, roles: &[Role]) -> Self
    where
        A: Handler<M>,
        M: RemoteMessage,
    {
        let route = Typed::<A, M> { actor: self.actor.clone(), roles: roles.to_vec(), message: PhantomData };
        self.routes.table.insert((self.id, M::ID), Arc::new(route));
        self
    }
}

/// The routing table of a node.
#[derive(Default)]
pub(crate) struct Routes {
    table: DashMap<(ActorId, u32), Arc<dyn Route>>,
    actors: DashMap<ActorId, Arc<dyn Any + Send + Sync>>,
}

impl Routes {
    pub(crate) fn publish<A: Actor<Context = Context<A>>>(
        self: &Arc<Self>,
        id: ActorId,
        actor: &LocalRef<A>,
    ) -> Publication<A> {
        self.unpublish(id);
        self.actors.insert(id, Arc::new(actor.clone()));
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
        self.actors.get(&id)?.downcast_ref::<LocalRef<A>>().cloned()
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
    fn allows(&self, role: Role) -> bool;

    /// Hands an ask to the actor in order, waiting for room no longer than `patience`; the inner future is the
    /// wait for the answer.
    fn ask(&self, payload: Bytes, patience: Duration) -> Boxed<'_, Result<Boxed<'static, Answer>, Fault>>;

    /// Hands a tell to the actor in order.
    fn tell(&self, payload: Bytes, patience: Duration) -> Boxed<'_, Result<(), Fault>>;
}

struct Typed<A: Actor<Context = Context<A>>, M> {
    actor: LocalRef<A>,
    roles: Vec<Role>,
    message: PhantomData<fn(M)>,
}

impl<A, M> Typed<A, M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: RemoteMessage,
{
    /// A place in the mailbox and the message to put there.
    async fn take(&self, payload: Bytes, patience: Duration) -> Result<(M, tokio::sync::OwnedSemaphorePermit), Fault> {
        let message = read::<M>(&payload)?;
        let permit = tokio::time::timeout(patience, self.actor.permit()).await;
        let permit = permit.map_err(|_| Fault::Busy)?.map_err(gone)?;
        Ok((message, permit))
    }
}

impl<A, M> Route for Typed<A, M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: RemoteMessage,
{
    fn allows(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    fn ask(&self, payload: Bytes, patience: Duration) -> Boxed<'_, Result<Boxed<'static, Answer>, Fault>> {
        Box::pin(async move {
            let (message, permit) = self.take(payload, patience).await?;
            let reply = self.actor.enqueue_ask(message, permit).map_err(gone)?;
            let answer: Boxed<'static, Answer> = Box::pin(async move {
                let value = reply.wait().await.map_err(Fault::from)?;
                match fence::catch(move || encode(&value)) {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(error)) => Err(Fault::BadReply { text: error.to_string() }),
                    Err(text) => Err(Fault::BadReply { text }),
                }
            });
            Ok(answer)
        })
    }

    fn tell(&self, payload: Bytes, patience: Duration) -> Boxed<'_, Result<(), Fault>> {
        Box::pin(async move {
            let (message, permit) = self.take(payload, patience).await?;
            self.actor.enqueue_tell(message, permit).map_err(gone)
        })
    }
}

/// Payloads above this are decoded with other tasks moved out of the way.
const LARGE: usize = 256 << 10;

/// Decodes a peer's message; a `Deserialize` that panics must not take the lane with it.
fn read<M: RemoteMessage>(payload: &Bytes) -> Result<M, Fault> {
    let read = || fence::catch(|| decode::<M>(payload));
    let message = if payload.len() > LARGE { busy(read) } else { read() };
    match message {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(Fault::BadMessage { text: format!("{}: {error}", M::NAME) }),
        Err(text) => Err(Fault::BadMessage { text: format!("{}: {text}", M::NAME) }),
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
