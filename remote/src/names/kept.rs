//! One task for each actor with a name tells the registry of its end.

use std::time::Duration;

use actix::{Actor, Context};
use tokio::time::{Instant, sleep};

use super::registry::Unregister;
use super::{Names, REMEMBERED, TOLD};
use crate::error::AskError;
use crate::ids::Address;
use crate::kept::Key;
use crate::local::LocalRef;
use crate::node::WeakNode;

/// The pause before the registry is told again.
const AGAIN: Duration = Duration::from_millis(100);

impl Names {
    /// An actor has got a name.
    pub(super) fn keep<A: Actor<Context = Context<A>>>(&self, actor: &LocalRef<A>, address: Address, name: String) {
        let shared = self.node.shared();
        let key = (self.head, actor.number());
        if shared.named.keep(key, name) {
            let (down, node) = (actor.watch(), self.node.weak());
            shared.net.handle.spawn(async move {
                down.await;
                tell(node, key, address).await;
            });
        }
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
                named.remove(key, &name);
                heard = Instant::now();
                continue;
            }
            Err(AskError::Busy | AskError::Deadline) => heard = Instant::now(),
            Err(_) if heard.elapsed() > REMEMBERED => return named.remove_all(key),
            Err(_) => (),
        }
        drop(node);
        sleep(AGAIN).await;
    }
}
