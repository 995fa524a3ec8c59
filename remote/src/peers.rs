//! Which peers are there: a peer is up while it has a control and a data connection.

mod events;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::{Entry, OccupiedEntry};
use quinn::{Connection, ConnectionError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::close::Code;
use crate::ids::{NodeId, PeerId};
use crate::link::{Link, Rooms};
use crate::membership::{Action, Event, Membership, TICK};
use crate::net::Net;
use events::Board;
pub use events::{PeerEvent, PeerEvents};

/// Control connections of a peer, and data connections. Two are usual when both sides have dialled; a peer has more
/// while this side has not noticed that one was lost. Beyond this the oldest are closed.
const CONNECTIONS: usize = 4;
/// Nodes that have gone whose rooms are not forgotten yet.
const GONE: usize = 64;
/// Events that a slow receiver may be behind.
const EVENTS: usize = 1024;

/// The peers of a node.
pub(crate) struct Peers {
    map: DashMap<NodeId, Peer>,
    rooms: DashMap<NodeId, Weak<Rooms>>,
    net: Net,
    board: Arc<Board>,
    // May be locked under an entry of the map, never the other way.
    members: Mutex<Membership>,
    started: Instant,
}

struct Peer {
    id: PeerId,
    // The newest is last. Two, when both sides dialled at once, or when it was reached at a second address.
    controls: Vec<Arc<Link>>,
    data: Vec<Connection>,
    up: bool,
    /// Tells those who wait for a data connection that one has come, or that the peer has gone.
    changed: Arc<Notify>,
    lost: watch::Sender<Option<Loss>>,
}

impl Peer {
    /// Beats on all its connections, so that each side knows on which of them it is heard.
    fn beat(&self, seq: u64, ack: u64) {
        self.controls.iter().for_each(|link| link.beat(seq, ack));
    }

    fn newest_beat(&self) -> u64 {
        self.controls.iter().map(|link| link.heard()).max().unwrap_or(0)
    }
}

/// Tells how a peer went, when it does.
pub(crate) type Losing = watch::Receiver<Option<Loss>>;

/// How a peer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nobody wanted it: to dial again may help.
    Lost,
    /// One side has closed.
    Closed,
}

impl Peers {
    pub(crate) fn new(net: Net) -> Self {
        let (board, members) = (Board::new(EVENTS), Mutex::default());
        Self { map: DashMap::new(), rooms: DashMap::new(), net, board, members, started: Instant::now() }
    }

    pub(crate) fn events(&self) -> PeerEvents {
        self.board.listen()
    }

    /// Peers that are up.
    pub(crate) fn list(&self) -> Vec<PeerId> {
        let mut peers: Vec<PeerId> = self.map.iter().filter(|peer| peer.up).map(|peer| peer.id).collect();
        peers.sort_unstable();
        peers
    }

    /// The control connection to send on: the oldest, as long as it lasts. What is sent on another could come before what
    /// was sent on this one.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        let peer = self.map.get(&node)?;
        peer.controls.iter().find(|link| link.is_open()).map(Arc::clone)
    }

    /// The data connection to ask on; `None` if the peer is not there. Its first messages can come a moment before that
    /// connection: then this waits for it, or until the peer is lost.
    pub(crate) async fn data(&self, node: NodeId) -> Option<Connection> {
        // Nearly always it is there; to listen costs more than to look.
        let there = self.map.get(&node)?.data.last().cloned();
        if there.is_some() {
            return there;
        }
        let changed = Arc::clone(&self.map.get(&node)?.changed);
        loop {
            let change = changed.notified(); // before the look, so that none is missed
            let data = {
                let peer = self.map.get(&node).filter(|peer| Arc::ptr_eq(&peer.changed, &changed))?;
                peer.data.last().cloned()
            };
            if data.is_some() {
                return data;
            }
            change.await;
        }
    }

    /// What is held beside a message to a node.
    pub(crate) fn held(&self, node: NodeId, number: u64) -> Option<VecDeque<Bytes>> {
        let held = self.map.get(&node)?.controls.iter().find_map(|link| link.held(number))?;
        Some(held.into())
    }

    /// A node has what was held beside a message.
    pub(crate) fn let_go(&self, node: NodeId, number: u64) {
        if let Some(peer) = self.map.get(&node) {
            peer.controls.iter().for_each(|link| link.let_go(number));
        }
    }

    /// The room of a node: the same for all its connections, as long as there are any.
    pub(crate) fn rooms(&self, node: NodeId) -> Arc<Rooms> {
        if self.rooms.len() > self.map.len() + GONE {
            self.rooms.retain(|_, rooms| rooms.strong_count() > 0);
        }
        let mut entry = self.rooms.entry(node).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let rooms = Arc::<Rooms>::default();
            *entry = Arc::downgrade(&rooms);
            rooms
        })
    }

    /// All control connections.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = self.map.iter().flat_map(|peer| peer.controls.clone()).collect();
        links.sort_by_key(|link| link.peer);
        links
    }

    /// A peer that is up and reached at this address.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<NodeId> {
        let there = |peer: &Peer| peer.controls.iter().any(|link| link.is_open() && link.remote_address() == address);
        self.map.iter().find(|peer| peer.up && there(peer)).map(|peer| peer.id.node)
    }

    /// Closes all connections to a node, so that whatever waits for it ends now.
    pub(crate) fn disconnect(&self, node: NodeId) {
        // Cloned first: closing wakes tasks that want this entry.
        let open = self.map.get(&node).map(|peer| (peer.controls.clone(), peer.data.clone()));
        let (controls, data) = open.unwrap_or_default();
        controls.iter().for_each(|link| link.cut(Code::Bye, "disconnected"));
        data.iter().for_each(|data| data.close(Code::Bye.into(), b"disconnected"));
    }

    /// Tells when a peer is lost; `None` if it is not there.
    pub(crate) fn lost(&self, node: NodeId) -> Option<Losing> {
        Some(self.map.get(&node)?.lost.subscribe())
    }

    /// Whether a node was declared dead by this one.
    pub(crate) fn is_dead(&self, node: NodeId) -> bool {
        self.members().is_dead(node)
    }

    /// Whether a peer cannot have declared this node dead.
    pub(crate) fn is_leased(&self, node: NodeId) -> bool {
        self.members().is_leased(node, self.started.elapsed())
    }

    /// A peer's beat has come.
    pub(crate) fn beat(&self, link: &Link, seq: u64, ack: u64) {
        link.hear(seq);
        self.tell_members(Event::Beat { node: link.peer.node, seq, ack });
    }

    /// Beats to all peers and sees who was silent, for ever.
    pub(crate) async fn keep_beating(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.tell_members(Event::Tick);
            self.close_silent();
        }
    }

    /// Closes connections on which a peer is not heard any more while it is on others: they were lost, and nobody told us.
    fn close_silent(&self) {
        let mut silent = Vec::new();
        for peer in self.map.iter().filter(|peer| peer.controls.len() > 1) {
            let newest = peer.newest_beat();
            silent.extend(peer.controls.iter().filter(|link| link.is_behind(newest)).map(Arc::clone));
        }
        silent.sort_by_key(|link| link.peer);
        for link in silent {
            if link.may_say() {
                tracing::warn!(peer = %link.peer, from = %link.remote_address(), "not heard here but elsewhere");
            }
            link.cut(Code::PeerLost, "not heard on this connection, but on another");
        }
    }

    pub(crate) fn add_control(&self, link: &Arc<Link>) {
        let mut peer = self.map.entry(link.peer.node).or_insert_with(|| Peer {
            id: link.peer,
            controls: Vec::new(),
            data: Vec::new(),
            up: false,
            changed: Arc::default(),
            lost: watch::Sender::new(None),
        });
        link.hear(peer.newest_beat());
        peer.controls.push(Arc::clone(link));
        self.note_up(&mut peer);
        let old = (peer.controls.len() > CONNECTIONS).then(|| peer.controls.remove(0));
        drop(peer); // closing wakes tasks that want this entry
        if let Some(old) = old {
            self.supersedes(link.peer, old.remote_address());
            old.cut(Code::Superseded, SUPERSEDED);
        }
    }

    /// Tells when the peer is lost; `None` if there is no control connection to it.
    pub(crate) fn add_data(&self, node: NodeId, data: &Connection) -> Option<Losing> {
        let mut peer = self.map.get_mut(&node)?;
        peer.data.push(data.clone());
        peer.changed.notify_waiters();
        self.note_up(&mut peer);
        let old = (peer.data.len() > CONNECTIONS).then(|| peer.data.remove(0));
        let (id, losing) = (peer.id, peer.lost.subscribe());
        drop(peer); // closing wakes tasks that want this entry
        if let Some(old) = old {
            self.supersedes(id, old.remote_address());
            old.close(Code::Superseded.into(), SUPERSEDED.as_bytes());
        }
        Some(losing)
    }

    pub(crate) fn remove_control(&self, link: &Arc<Link>, loss: Loss, cause: &str) {
        self.remove(link.peer.node, cause, loss, |peer| {
            peer.controls.retain(|other| !Arc::ptr_eq(other, link));
        });
    }

    pub(crate) fn remove_data(&self, node: NodeId, data: &Connection, cause: &str) {
        self.remove(node, cause, loss_of(data), |peer| {
            peer.data.retain(|other| other.stable_id() != data.stable_id());
        });
    }

    /// Tells if a peer came up. Events are sent under the entry's lock, which keeps their order.
    fn note_up(&self, peer: &mut Peer) {
        if !peer.up && !peer.controls.is_empty() && !peer.data.is_empty() {
            peer.up = true;
            tracing::debug!(peer = %peer.id, "up");
            self.board.tell(PeerEvent::Up(peer.id));
            // Never refused: the handshake has asked before.
            let actions = self.members().handle(Event::Up(peer.id.node), self.started.elapsed());
            for action in actions {
                if let Action::Beat { seq, ack, .. } = action {
                    peer.beat(seq, ack);
                }
            }
        }
    }

    /// Changes a peer and tells if it went down; then its other connections are closed too.
    fn remove(&self, node: NodeId, cause: &str, loss: Loss, change: impl FnOnce(&mut Peer)) {
        let Entry::Occupied(mut entry) = self.map.entry(node) else {
            return;
        };
        change(entry.get_mut());
        let peer = entry.get();
        let gone = peer.controls.is_empty() || (peer.up && peer.data.is_empty());
        if !gone {
            return;
        }
        // The other side learns from this whether to dial again.
        let code = if loss == Loss::Lost { Code::PeerLost } else { Code::Bye };
        self.end(entry, loss, code, cause);
    }

    /// Takes a peer that is gone off the map.
    fn end(&self, entry: OccupiedEntry<'_, NodeId, Peer>, loss: Loss, code: Code, cause: &str) {
        let peer = entry.get();
        for link in &peer.controls {
            link.end(cause.to_owned());
            link.cut(code, cause);
        }
        for data in &peer.data {
            data.close(code.into(), cause.as_bytes());
        }
        self.members().handle(Event::Gone(peer.id.node), self.started.elapsed());
        peer.lost.send_replace(Some(loss));
        if peer.up {
            tracing::debug!(peer = %peer.id, cause, "down");
            self.board.tell(PeerEvent::Down { peer: peer.id, cause: cause.to_owned() });
        }
        entry.remove().changed.notify_waiters();
    }

    fn tell_members(&self, event: Event) {
        let actions = self.members().handle(event, self.started.elapsed());
        for action in actions {
            match action {
                Action::Beat { node, seq, ack } => {
                    if let Some(peer) = self.map.get(&node) {
                        peer.beat(seq, ack);
                    }
                }
                Action::Suspect(node) => self.tell(node, PeerEvent::Suspect),
                Action::Recovered(node) => self.tell(node, PeerEvent::Recovered),
                Action::LeaseLost(node) => self.tell(node, PeerEvent::LeaseLost),
                Action::LeaseBack(node) => self.tell(node, PeerEvent::LeaseBack),
                Action::Dead { node, silent } => {
                    if let Entry::Occupied(entry) = self.map.entry(node) {
                        tracing::warn!(peer = %entry.get().id, ?silent, "declared dead");
                        self.end(entry, Loss::Closed, Code::DeclaredDead, &format!("no heartbeat for {silent:.1?}"));
                    }
                }
                Action::Brake { silent, of } => {
                    tracing::warn!(silent, of, "many peers are silent at once; nobody is declared dead for now");
                }
                Action::Refuse(_) => (), // only as the answer to `Up`
            }
        }
    }

    fn tell(&self, node: NodeId, event: fn(PeerId) -> PeerEvent) {
        if let Some(peer) = self.map.get(&node) {
            tracing::debug!(peer = %peer.id, event = ?event(peer.id), "heartbeat");
            self.board.tell(event(peer.id));
        }
    }

    fn supersedes(&self, peer: PeerId, from: SocketAddr) {
        if self.net.may_say(peer) {
            tracing::warn!(%peer, %from, "a peer has too many connections; its oldest is closed");
        }
    }

    fn members(&self) -> MutexGuard<'_, Membership> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a peer hears whose oldest connection is closed for a new one.
const SUPERSEDED: &str = "too many connections of one node";

/// Whether a connection ended without either side wanting it. With `PeerLost`, the other side has lost another
/// connection of ours.
pub(crate) fn loss_of(connection: &Connection) -> Loss {
    match connection.close_reason() {
        Some(ConnectionError::TimedOut | ConnectionError::Reset) => Loss::Lost,
        Some(ConnectionError::ApplicationClosed(close)) if close.error_code == Code::PeerLost.into() => Loss::Lost,
        _ => Loss::Closed,
    }
}
