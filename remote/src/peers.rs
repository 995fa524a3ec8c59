//! Which peers are there: a peer is up while it has a control and a data connection.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use quinn::Connection;
use tokio::sync::{broadcast, watch};

use crate::close::Code;
use crate::identity::{NodeId, PeerId};
use crate::link::Link;

/// A peer came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// Control and data connection are there.
    Up(PeerId),
    /// The last control or data connection is gone. Comes exactly once per `Up`.
    Down {
        /// The peer.
        peer: PeerId,
        /// Why.
        cause: String,
    },
}

/// Events that a slow receiver may be behind.
const EVENTS: usize = 1024;

/// The peers of a node.
pub(crate) struct Peers {
    map: DashMap<NodeId, Peer>,
    events: broadcast::Sender<PeerEvent>,
}

struct Peer {
    id: PeerId,
    // The newest is last. Two, when both sides dialled at once: the older one is served until it ends.
    controls: Vec<Arc<Link>>,
    data: Vec<Connection>,
    up: bool,
    lost: watch::Sender<Option<String>>,
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self { map: DashMap::new(), events: broadcast::Sender::new(EVENTS) }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.events.subscribe()
    }

    /// Peers that are up.
    pub(crate) fn list(&self) -> Vec<PeerId> {
        let mut peers: Vec<PeerId> = self.map.iter().filter(|peer| peer.up).map(|peer| peer.id).collect();
        peers.sort_unstable();
        peers
    }

    /// The control connection to send on.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        let peer = self.map.get(&node)?;
        peer.controls.iter().rev().find(|link| link.is_open()).map(Arc::clone)
    }

    /// The data connection to ask on.
    pub(crate) fn data(&self, node: NodeId) -> Option<Connection> {
        self.map.get(&node)?.data.last().cloned()
    }

    /// All control connections.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = self.map.iter().flat_map(|peer| peer.controls.clone()).collect();
        links.sort_by_key(|link| link.peer);
        links
    }

    /// A peer that is up and reached at this address.
    pub(crate) fn at(&self, address: std::net::SocketAddr) -> Option<NodeId> {
        let there = |peer: &Peer| {
            peer.controls.iter().any(|link| link.is_open() && link.connection.remote_address() == address)
        };
        self.map.iter().find(|peer| peer.up && there(peer)).map(|peer| peer.id.node)
    }

    /// Tells when a peer is lost; `None` if it is not there.
    pub(crate) fn lost(&self, node: NodeId) -> Option<watch::Receiver<Option<String>>> {
        Some(self.map.get(&node)?.lost.subscribe())
    }

    pub(crate) fn add_control(&self, link: &Arc<Link>) {
        let mut peer = self.map.entry(link.peer.node).or_insert_with(|| Peer {
            id: link.peer,
            controls: Vec::new(),
            data: Vec::new(),
            up: false,
            lost: watch::Sender::new(None),
        });
        peer.controls.push(Arc::clone(link));
        self.note_up(&mut peer);
    }

    /// False if there is no control connection to that peer.
    pub(crate) fn add_data(&self, node: NodeId, data: &Connection) -> bool {
        let Some(mut peer) = self.map.get_mut(&node) else {
            return false;
        };
        peer.data.push(data.clone());
        self.note_up(&mut peer);
        true
    }

    pub(crate) fn remove_control(&self, link: &Arc<Link>, cause: &str) {
        self.remove(link.peer.node, cause, |peer| {
            peer.controls.retain(|other| !Arc::ptr_eq(other, link));
        });
    }

    pub(crate) fn remove_data(&self, node: NodeId, data: &Connection, cause: &str) {
        self.remove(node, cause, |peer| {
            peer.data.retain(|other| other.stable_id() != data.stable_id());
        });
    }

    /// Tells if a peer came up. Events are sent under the entry's lock, which keeps their order.
    fn note_up(&self, peer: &mut Peer) {
        if !peer.up && !peer.controls.is_empty() && !peer.data.is_empty() {
            peer.up = true;
            tracing::debug!(peer = %peer.id, "up");
            let _ = self.events.send(PeerEvent::Up(peer.id)); // fails only if nobody listens
        }
    }

    /// Changes a peer and tells if it went down; then its other connections are closed too.
    fn remove(&self, node: NodeId, cause: &str, change: impl FnOnce(&mut Peer)) {
        let Entry::Occupied(mut entry) = self.map.entry(node) else {
            return;
        };
        change(entry.get_mut());
        let peer = entry.get();
        let gone = peer.controls.is_empty() || (peer.up && peer.data.is_empty());
        if !gone {
            return;
        }
        for link in &peer.controls {
            link.connection.close(Code::PeerLost.var(), b"data connection lost");
        }
        for data in &peer.data {
            data.close(Code::PeerLost.var(), b"control connection lost");
        }
        peer.lost.send_replace(Some(cause.to_owned()));
        if peer.up {
            tracing::debug!(peer = %peer.id, cause, "down");
            let _ = self.events.send(PeerEvent::Down { peer: peer.id, cause: cause.to_owned() });
        }
        entry.remove();
    }
}
