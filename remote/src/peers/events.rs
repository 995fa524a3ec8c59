//! What becomes of peers, as those hear it who listen: however slow they are, they miss nothing that still holds.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::ids::{NodeId, PeerId};

/// A peer came or went, or was not heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Control and data connection are there. Comes again when a peer that was lost is connected to again.
    Up(PeerId),
    /// It was silent for 3 seconds. It may recover, and is down after 10.
    Suspect(PeerId),
    /// A suspect is heard again.
    Recovered(PeerId),
    /// It has not heard of this node for so long that it may declare it dead soon: what this node does for it must
    /// stop now. Comes before its `Down` there, by any clock.
    LeaseLost(PeerId),
    /// It has heard of this node again, and had not declared it dead.
    LeaseBack(PeerId),
    /// The last control or data connection is gone, or it was silent for too long. Comes exactly once per `Up`.
    Down {
        /// The peer.
        peer: PeerId,
        /// Why.
        cause: String,
    },
}

/// The [events](PeerEvent) of a node's peers. From [`Node::events`](crate::Node::events).
///
/// Who takes them so slowly that some had to be dropped hears instead what has changed since: a peer that went is `Down`,
/// also if it is `Up` again, and one that came is `Up`.
pub struct PeerEvents {
    board: Weak<Board>,
    told: broadcast::Receiver<Told>,
    known: Standings,
    /// What has changed while events were dropped.
    missed: VecDeque<PeerEvent>,
}

impl PeerEvents {
    /// The next event; `None` when the node is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn recv(&mut self) -> Option<PeerEvent> {
        loop {
            if let Some(event) = self.missed.pop_front() {
                return Some(event);
            }
            match self.told.recv().await {
                Ok(told) => return Some(self.note(told)),
                Err(RecvError::Lagged(count)) => self.catch_up(count),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<PeerEvent> {
        loop {
            if let Some(event) = self.missed.pop_front() {
                return Some(event);
            }
            match self.told.try_recv() {
                Ok(told) => return Some(self.note(told)),
                Err(TryRecvError::Lagged(count)) => self.catch_up(count),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    fn note(&mut self, told: Told) -> PeerEvent {
        self.known.note(&told);
        told.event
    }

    /// Events were dropped: goes on from how things stand now.
    fn catch_up(&mut self, count: u64) {
        tracing::warn!(count, "events of peers were dropped; going on with what has changed");
        let now = match self.board.upgrade() {
            Some(board) => {
                let state = board.state();
                self.told = board.sender.subscribe();
                state.clone()
            }
            None => {
                self.told = broadcast::channel(1).1;
                Standings::default()
            }
        };
        self.missed = self.known.changes(&now);
        self.known = now;
    }
}

/// What a node tells of its peers, and how they stand.
pub(super) struct Board {
    sender: broadcast::Sender<Told>,
    /// Locked while an event is sent: who looks at it and listens from then on misses nothing.
    state: Mutex<Standings>,
}

/// An event, and the how many-th `Up` it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Told {
    event: PeerEvent,
    life: u64,
}

impl Board {
    /// Of which a slow listener may be so many events behind.
    pub(super) fn new(events: usize) -> Arc<Self> {
        Arc::new(Self { sender: broadcast::Sender::new(events), state: Mutex::default() })
    }

    /// Tells an event to all who listen.
    pub(super) fn tell(&self, event: PeerEvent) {
        let mut state = self.state();
        state.lives += u64::from(matches!(event, PeerEvent::Up(_)));
        let told = Told { event, life: state.lives };
        state.note(&told);
        let _ = self.sender.send(told); // fails only if nobody listens
    }

    /// The events from now on.
    pub(super) fn listen(self: &Arc<Self>) -> PeerEvents {
        let state = self.state();
        let told = self.sender.subscribe();
        PeerEvents { board: Arc::downgrade(self), told, known: state.clone(), missed: VecDeque::new() }
    }

    fn state(&self) -> MutexGuard<'_, Standings> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How peers stand that are up.
#[derive(Clone, Debug, Default)]
struct Standings {
    peers: BTreeMap<NodeId, Standing>,
    /// Peers that came up so far.
    lives: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    peer: PeerId,
    life: u64,
    suspect: bool,
    unleased: bool,
}

impl Standings {
    fn note(&mut self, Told { event, life }: &Told) {
        let mut set = |peer: &PeerId, change: fn(&mut Standing)| {
            if let Some(standing) = self.peers.get_mut(&peer.node) {
                change(standing);
            }
        };
        match event {
            PeerEvent::Up(peer) => {
                let standing = Standing { peer: *peer, life: *life, suspect: false, unleased: false };
                self.peers.insert(peer.node, standing);
            }
            PeerEvent::Down { peer, .. } => _ = self.peers.remove(&peer.node),
            PeerEvent::Suspect(peer) => set(peer, |peer| peer.suspect = true),
            PeerEvent::Recovered(peer) => set(peer, |peer| peer.suspect = false),
            PeerEvent::LeaseLost(peer) => set(peer, |peer| peer.unleased = true),
            PeerEvent::LeaseBack(peer) => set(peer, |peer| peer.unleased = false),
        }
    }

    /// Events that lead from here to there.
    fn changes(&self, there: &Self) -> VecDeque<PeerEvent> {
        let mut events = VecDeque::new();
        let same = |a: &Standing, b: &Self| b.peers.get(&a.peer.node).is_some_and(|b| b.life == a.life);
        for gone in self.peers.values().filter(|here| !same(here, there)) {
            events.push_back(PeerEvent::Down { peer: gone.peer, cause: "it went, and why was dropped".to_owned() });
        }
        for now in there.peers.values() {
            let peer = now.peer;
            let before = if same(now, self) { self.peers.get(&peer.node).copied() } else { None };
            let before = before.unwrap_or_else(|| {
                events.push_back(PeerEvent::Up(peer));
                Standing { suspect: false, unleased: false, ..*now }
            });
            if now.suspect != before.suspect {
                let event = if now.suspect { PeerEvent::Suspect } else { PeerEvent::Recovered };
                events.push_back(event(peer));
            }
            if now.unleased != before.unleased {
                let event = if now.unleased { PeerEvent::LeaseLost } else { PeerEvent::LeaseBack };
                events.push_back(event(peer));
            }
        }
        events
    }
}

impl fmt::Debug for PeerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerEvents").field("up", &self.known.peers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::split_mix;
    use crate::ids::Role;

    fn peer(n: u64) -> PeerId {
        let [cluster, node] = [1, n].map(|n: u64| crate::encode(&n).unwrap());
        PeerId { cluster: crate::decode(&cluster).unwrap(), role: Role::Worker, node: crate::decode(&node).unwrap() }
    }

    /// By seed: peers come and go, and one listens now and then. What it hears is a possible story, and true at its end.
    #[test]
    fn who_listens_too_slowly_still_hears_of_every_down() {
        let mut lagged = 0;
        for seed in 0..200 {
            let mut random = seed;
            let mut below = |bound: u64| split_mix(&mut random) % bound;
            let board = Board::new(8);
            let mut truth = BTreeMap::new();
            for n in 0..below(3) {
                board.tell(PeerEvent::Up(peer(n)));
                truth.insert(peer(n), [false; 2]);
            }
            let mut events = board.listen();
            let mut heard = truth.clone();
            for _ in 0..200 {
                let peer = peer(below(4));
                let event = match (truth.get_mut(&peer), below(4)) {
                    (None, _) => {
                        truth.insert(peer, [false; 2]);
                        PeerEvent::Up(peer)
                    }
                    (Some(_), 0 | 1) => {
                        truth.remove(&peer);
                        PeerEvent::Down { peer, cause: String::new() }
                    }
                    (Some([suspect, _]), 2) => {
                        *suspect = !*suspect;
                        if *suspect { PeerEvent::Suspect(peer) } else { PeerEvent::Recovered(peer) }
                    }
                    (Some([_, unleased]), _) => {
                        *unleased = !*unleased;
                        if *unleased { PeerEvent::LeaseLost(peer) } else { PeerEvent::LeaseBack(peer) }
                    }
                };
                board.tell(event);
                if below(12) > 0 {
                    continue;
                }
                lagged += u32::from(events.told.len() > 8);
                while let Some(event) = events.try_recv() {
                    match &event {
                        PeerEvent::Up(peer) => {
                            assert!(heard.insert(*peer, [false; 2]).is_none(), "up twice: {event:?}")
                        }
                        PeerEvent::Down { peer, .. } => assert!(heard.remove(peer).is_some(), "never up: {event:?}"),
                        PeerEvent::Suspect(peer) => {
                            assert!(!std::mem::replace(&mut heard.get_mut(peer).unwrap()[0], true))
                        }
                        PeerEvent::Recovered(peer) => assert!(std::mem::take(&mut heard.get_mut(peer).unwrap()[0])),
                        PeerEvent::LeaseLost(peer) => {
                            assert!(!std::mem::replace(&mut heard.get_mut(peer).unwrap()[1], true))
                        }
                        PeerEvent::LeaseBack(peer) => assert!(std::mem::take(&mut heard.get_mut(peer).unwrap()[1])),
                    }
                }
                assert_eq!(heard, truth, "seed {seed}");
            }
            // A peer that went and came again while nobody listened was down.
            drop(board);
            while events.try_recv().is_some() {}
        }
        assert!(lagged > 500, "{lagged}");
    }

    #[test]
    fn who_lags_behind_a_node_that_is_gone_hears_that_all_are_down() {
        let board = Board::new(2);
        board.tell(PeerEvent::Up(peer(1)));
        let mut events = board.listen();
        for _ in 0..3 {
            board.tell(PeerEvent::Suspect(peer(1)));
        }
        drop(board);
        assert!(matches!(events.try_recv(), Some(PeerEvent::Down { .. })));
        assert_eq!(events.try_recv(), None);
    }
}
