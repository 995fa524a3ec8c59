//! References to actors inside messages: what of them travels, and how the receiver finds the actor again.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, Context};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::actor::{ActorRef, Address, Target};
use crate::node::{Node, Shared};
use crate::redial;

/// A reference on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Travelling {
    pub(crate) address: Address,
    /// Where to dial its node; `None` where the sender does not know.
    at: Option<SocketAddr>,
    /// The actor's type. One cluster is one build, so that names agree.
    actor: String,
}

/// # Errors
/// An actor of this process that is not published cannot be found by others.
impl<A: Actor<Context = Context<A>>> Serialize for ActorRef<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let actor = || type_name::<A>().to_owned();
        let travelling = match self.target() {
            Target::Local(local) => {
                let unpublished = || {
                    let text = format!("{} is not published, so nobody could reach it: publish it first", actor());
                    <S::Error as ser::Error>::custom(text)
                };
                let (node, id) = local.home().ok_or_else(unpublished)?;
                Travelling { address: Address { node: node.id(), actor: id }, at: node.dialled_at(), actor: actor() }
            }
            Target::Remote { node, address, at } => {
                let at = at.or_else(|| Some(node.link(address.node)?.connection.remote_address()));
                Travelling { address: *address, at, actor: actor() }
            }
            Target::Detached(travelling) => travelling.clone(),
        };
        travelling.serialize(serializer)
    }
}

/// Read as part of a message, the reference is of the node that received it. Read elsewhere, outside of
/// [`Node::decoding`], it reaches nobody, but can be sent on.
///
/// # Errors
/// The reference is to an actor of another type.
impl<'de, A: Actor<Context = Context<A>>> Deserialize<'de> for ActorRef<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let travelling = Travelling::deserialize(deserializer)?;
        if travelling.actor != type_name::<A>() {
            let text = format!("a reference to a {}, not to a {}", travelling.actor, type_name::<A>());
            return Err(<D::Error as de::Error>::custom(text));
        }
        Ok(match CURRENT.with_borrow(Clone::clone) {
            Some(node) => node.actor_at(travelling.address, travelling.at),
            None => {
                DETACHED.set(true);
                Self::detached(travelling)
            }
        })
    }
}

/// Makes a node the receiver of the references that this thread reads, until the guard is dropped.
pub(crate) fn enter(node: Node) -> Receiving {
    Receiving(CURRENT.replace(Some(node)))
}

/// Restores the receiver that was there before.
pub(crate) struct Receiving(Option<Node>);

impl Drop for Receiving {
    fn drop(&mut self) {
        let before = self.0.take();
        // Fails only while the thread ends; then nothing is read on it.
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}

/// Runs `decode`, and says whether it read references that reach nobody, because it ran outside of
/// [`Node::decoding`]: for who makes a node only if one is needed.
pub fn detached_in<T>(decode: impl FnOnce() -> T) -> (T, bool) {
    DETACHED.set(false);
    let decoded = decode();
    (decoded, DETACHED.get())
}

/// Runs what decodes for nobody: whoever asks [`detached_in`] hears nothing of it.
pub(crate) fn unnoticed<T>(decode: impl FnOnce() -> T) -> T {
    let before = DETACHED.get();
    let decoded = decode();
    DETACHED.set(before);
    decoded
}

thread_local! {
    static CURRENT: RefCell<Option<Node>> = const { RefCell::new(None) };
    static DETACHED: Cell<bool> = const { Cell::new(false) };
}

/// How long a connection on demand may take; whoever waits for it has a deadline of its own.
const DIAL: Duration = Duration::from_secs(10);

/// Connections that are being made on demand: one for all who want it.
#[derive(Default)]
pub(crate) struct Dials(Mutex<HashMap<SocketAddr, watch::Receiver<()>>>);

/// Connects to the node at an address; the receiver ends when that is done, however.
pub(crate) fn dial(shared: &Arc<Shared>, at: SocketAddr) -> watch::Receiver<()> {
    let mut dials = shared.dials.0.lock().unwrap_or_else(PoisonError::into_inner);
    let dialling = dials.entry(at).or_insert_with(|| {
        let (done, dialling) = watch::channel(());
        let shared = Arc::clone(shared);
        shared.net.handle.clone().spawn(async move {
            match timeout(DIAL, redial::connect(Arc::clone(&shared), at)).await {
                Ok(Ok(node)) => tracing::debug!(%node, %at, "connected on demand"),
                Ok(Err(error)) => tracing::warn!(%at, %error, "could not connect on demand"),
                Err(_) => tracing::warn!(%at, "could not connect on demand within {DIAL:?}"),
            }
            shared.dials.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
            drop(done);
        });
        dialling
    });
    dialling.clone()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::{Authority, Role, Runtime};

    #[test]
    fn all_who_want_a_node_at_once_wait_for_one_dial() {
        let runtime = Runtime::new("dial", 1).unwrap();
        let identity = Authority::new().unwrap().issue(Role::Worker).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = Node::bind(identity, any, "build".into(), &runtime).unwrap();
        let silent = [(); 2].map(|()| UdpSocket::bind(any).unwrap()); // bound, and never answers
        let [here, there] = silent.each_ref().map(|socket| socket.local_addr().unwrap());
        let first = dial(node.shared(), here);
        assert!(first.same_channel(&dial(node.shared(), here)));
        assert!(!first.same_channel(&dial(node.shared(), there)));
        // What ends a dial, here the end of the node, lets the next begin.
        let shared = Arc::clone(node.shared());
        drop(node);
        runtime.handle().block_on(async {
            assert!(timeout(DIAL / 2, first.clone().changed()).await.unwrap().is_err());
        });
        assert!(!first.same_channel(&dial(&shared, here)));
    }
}
