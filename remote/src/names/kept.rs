//! The names that a node's actors have. One task for each actor tells the registry of its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{Actor, Context};
use tokio::time::{Instant, sleep};

use super::registry::Unregister;
use super::{Names, REMEMBERED, TOLD};
use crate::actor::Address;
use crate::error::AskError;
use crate::identity::NodeId;
use crate::local::LocalRef;
use crate::node::WeakNode;

/// The pause before the registry is told again.
const AGAIN: Duration = Duration::from_millis(100);

/// By head and actor, which has a number of its own in this process.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<Key, BTreeSet<String>>>);

type Key = (NodeId, u64);

impl Kept {
    /// An actor has got a name.
    pub(super) fn keep<A: Actor<Context = Context<A>>>(
        &self,
        names: &Names,
        actor: &LocalRef<A>,
        address: Address,
        name: String,
    ) {
        let key = (names.head, actor.number());
        let mut kept = self.kept();
        let is_watched = kept.contains_key(&key);
        kept.entry(key).or_default().insert(name);
        if !is_watched {
            let (down, node) = (actor.watch(), names.node.weak());
            names.node.net().handle.spawn(async move {
                down.await;
                tell(node, key, address).await;
            });
        }
    }

    /// A name was taken back.
    pub(super) fn forget(&self, names: &Names, name: &str) {
        let mut kept = self.kept();
        kept.iter_mut()
            .filter(|((head, _), _)| *head == names.head)
            .for_each(|(_, of_actor)| _ = of_actor.remove(name));
    }

    /// A name of an actor that has ended. Without one, the actor is forgotten.
    fn first(&self, key: Key) -> Option<String> {
        let mut kept = self.kept();
        let name = kept.get(&key)?.first().cloned();
        if name.is_none() {
            kept.remove(&key);
        }
        name
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes back all names of an actor that has ended: until it is heard, unless this node ends, or is lost so long that the head
/// has forgotten them.
async fn tell(node: WeakNode, key: Key, address: Address) {
    let mut heard = Instant::now();
    while let Some(node) = node.upgrade() {
        let (named, registry) = (&node.shared().named, node.names(key.0).registry());
        let Some(name) = named.first(key) else { return };
        let gone = Unregister { name: name.clone(), only: Some(address) };
        match registry.ask(gone, TOLD).await {
            Ok(_) => {
                if let Some(names) = named.kept().get_mut(&key) {
                    names.remove(&name);
                }
                heard = Instant::now();
                continue;
            }
            Err(AskError::Busy | AskError::Deadline) => heard = Instant::now(),
            Err(_) if heard.elapsed() > REMEMBERED => {
                named.kept().remove(&key);
                return;
            }
            Err(_) => (),
        }
        drop(node);
        sleep(AGAIN).await;
    }
}
