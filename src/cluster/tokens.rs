//! Which worker has come to which berth: each is let in by a token that was made for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regatta_remote::{Authority, JoinToken, Node, NodeId, Role};

use super::fleet::Berth;
use super::local::OnEnd;
use crate::error::ClusterError;

/// What lets workers in, and where.
pub(crate) struct Entrance {
    pub(crate) authority: Arc<Authority>,
    pub(crate) node: Node,
    /// The address at which they find the head.
    pub(crate) address: SocketAddr,
    /// Called when a worker is lost, or does not come.
    pub(crate) on_end: OnEnd,
}

/// One for each berth whose worker was started, or may start.
pub(super) struct Tokens {
    authority: Arc<Authority>,
    of: Mutex<BTreeMap<Berth, JoinToken>>,
}

impl Tokens {
    pub(super) fn new(authority: Arc<Authority>) -> Self {
        Self { authority, of: Mutex::default() }
    }

    fn of(&self) -> MutexGuard<'_, BTreeMap<Berth, JoinToken>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the text of one that is good for a berth, and once.
    ///
    /// # Errors
    /// No randomness from the system, or thousands of tokens wait to be used.
    pub(super) fn make(&self, berth: Berth, life: Duration) -> Result<String, ClusterError> {
        let token = self.authority.token(Role::Worker, life);
        let token = token.map_err(|e| ClusterError::network("make a token", e))?;
        let text = token.to_string();
        self.of().insert(berth, token);
        Ok(text)
    }

    /// The berth that this node has come from, while it is one.
    pub(super) fn berth_of(&self, node: NodeId) -> Option<Berth> {
        let of = self.of();
        let came = |token: &JoinToken| self.authority.let_in(token) == Some(node);
        of.iter().find(|(_, token)| came(token)).map(|(berth, _)| *berth)
    }

    /// The node that has come by the token of a berth.
    pub(super) fn let_in(&self, berth: Berth) -> Option<NodeId> {
        self.of().get(&berth).and_then(|token| self.authority.let_in(token))
    }

    /// Says that the worker of a berth is lost, or does not come.
    pub(super) fn lose(&self, entrance: &Entrance, (berth, had_joined): (Berth, bool), why: String) {
        let node = self.let_in(berth);
        if !had_joined {
            (entrance.on_end)(None, why.clone());
        }
        // It may have joined just now.
        if node.is_some() {
            (entrance.on_end)(node, why);
        }
    }

    /// Nobody comes to this berth any more.
    pub(super) fn forget(&self, entrance: &Entrance, berth: Berth) {
        let Some(token) = self.of().remove(&berth) else { return };
        self.authority.revoke(&token);
        // Whoever has come by it ends of this, if it has not: its process may be beyond the reach of who has started it.
        if let Some(node) = self.authority.let_in(&token) {
            entrance.node.give_up(node);
        }
    }
}
