//! A peer whose connection was lost is dialled again, by the side that had dialled it.
//!
//! Lost, not closed: a reset or a time-out. A connection that one side has closed stays closed, be it by a goodbye, a
//! `disconnect`, a broken protocol or a declaration of death.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashSet;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::error::ConnectError;
use crate::handshake::dial;
use crate::identity::NodeId;
use crate::membership::{DEAD, SUSPECT};
use crate::node::Shared;
use crate::peers::{Losing, Loss};

/// How long a lost peer is dialled: as long as a silent one is waited for. Then its work may have been given away.
pub(crate) const WINDOW: Duration = DEAD;
/// How long one dial may take.
const PATIENCE: Duration = SUSPECT;
/// Longest pause before the first dial; it doubles up to the last, and each pause is drawn from all up to it.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);
/// Nodes given up that are remembered. Without renewal a certificate lasts a day.
const GIVEN_UP: usize = 64 << 10;

/// The addresses that a node has dialled.
#[derive(Default)]
pub(crate) struct Redial {
    turns: Mutex<BTreeMap<SocketAddr, Turn>>,
    keepers: Mutex<BTreeMap<SocketAddr, (NodeId, AbortHandle)>>,
    /// Gone for good: a node is one life of one process.
    given_up: DashSet<NodeId>,
    gave_up: Notify,
    /// The same, the oldest first.
    order: Mutex<VecDeque<NodeId>>,
}

/// Who holds it may dial its address.
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Redial {
    /// Dials nobody again.
    pub(crate) fn stop(&self) {
        self.keepers().values().for_each(|(_, keeper)| keeper.abort());
    }

    /// Does not dial a node again.
    pub(crate) fn forget(&self, node: NodeId) {
        self.keepers().values().filter(|(kept, _)| *kept == node).for_each(|(_, keeper)| keeper.abort());
    }

    /// From now on nothing makes this node dial that one, or let it in.
    pub(crate) fn give_up(&self, node: NodeId) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.given_up.insert(node) {
            order.push_back(node);
        }
        if order.len() > GIVEN_UP
            && let Some(oldest) = order.pop_front()
        {
            self.given_up.remove(&oldest);
        }
        drop(order);
        self.gave_up.notify_waiters();
    }

    /// Ends when a node is given up.
    pub(crate) async fn until_given_up(&self, node: NodeId) {
        loop {
            let given_up = self.gave_up.notified(); // before the look: it hears every later one
            if self.has_given_up(node) {
                return;
            }
            given_up.await;
        }
    }

    pub(crate) fn has_given_up(&self, node: NodeId) -> bool {
        self.given_up.contains(&node)
    }

    fn turn(&self, to: SocketAddr) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(to).or_default())
    }

    /// The newest of an address stays.
    fn keep(&self, keeper: Keeper) {
        let (to, node, handle) = (keeper.to, keeper.node, keeper.shared.net.handle.clone());
        let keeper = handle.spawn(keeper.run()).abort_handle();
        let mut keepers = self.keepers();
        keepers.retain(|_, (_, keeper)| !keeper.is_finished());
        if let Some((_, old)) = keepers.insert(to, (node, keeper)) {
            old.abort();
        }
    }

    fn keepers(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, (NodeId, AbortHandle)>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the node at an address, unless it is, and keeps it connected. To run on the network's runtime.
pub(crate) async fn connect(shared: Arc<Shared>, to: SocketAddr) -> Result<NodeId, ConnectError> {
    let turn = shared.redial.turn(to);
    let _turn = turn.lock().await;
    if let Some(node) = shared.peers.at(to) {
        return Ok(node);
    }
    let (node, losing) = dial(Arc::clone(&shared), to, None).await?;
    let keeper = Keeper { shared: Arc::clone(&shared), node, to, turn: Arc::clone(&turn), losing, pause: FIRST };
    shared.redial.keep(keeper);
    Ok(node)
}

/// Dials one peer again, as often as it is lost.
struct Keeper {
    shared: Arc<Shared>,
    node: NodeId,
    to: SocketAddr,
    turn: Turn,
    losing: Losing,
    pause: Duration,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let up = Instant::now();
            let loss = self.losing.wait_for(Option::is_some).await.ok().and_then(|loss| *loss);
            if up.elapsed() > LAST {
                self.pause = FIRST; // else it is up and down in turns: no more often than it was
            }
            if loss == Some(Loss::Lost) && self.restore().await {
                continue;
            }
            let _turn = self.turn.lock().await;
            // Somebody else may have connected.
            if let Some(losing) = self.shared.peers.lost(self.node) {
                self.losing = losing;
            } else {
                return;
            }
        }
    }

    /// Dials until the peer is up; false if it is given up.
    async fn restore(&mut self) -> bool {
        let end = Instant::now() + WINDOW;
        loop {
            sleep(self.next_pause()).await;
            let _turn = self.turn.lock().await;
            if let Some(losing) = self.shared.peers.lost(self.node) {
                self.losing = losing;
                return true; // it has dialled us, or somebody here has
            }
            let (node, to) = (self.node, self.to);
            let dialled = timeout(PATIENCE, dial(Arc::clone(&self.shared), to, Some(node))).await;
            match dialled.unwrap_or(Err(ConnectError::Deadline)) {
                Ok((_, losing)) => {
                    self.losing = losing;
                    tracing::info!(%node, %to, "connected again");
                    return true;
                }
                Err(error) if !error.is_retryable() || Instant::now() >= end => {
                    tracing::warn!(%node, %to, %error, "a lost peer is given up");
                    return false;
                }
                Err(error) => tracing::debug!(%node, %to, %error, "a lost peer is not back yet"),
            }
        }
    }

    /// Full jitter, so that those who were lost together do not all come back at once.
    fn next_pause(&mut self) -> Duration {
        let longest = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
        self.pause = (self.pause * 2).min(LAST);
        let drawn = self.shared.net.ambient.random().map_or(longest, u64::from_le_bytes);
        Duration::from_micros(drawn.checked_rem(longest).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_nodes_that_were_given_up_are_remembered() {
        let (redial, node) =
            (Redial::default(), |n: usize| crate::decode(&crate::encode(&(n as u64)).unwrap()).unwrap());
        for n in (0..GIVEN_UP + 2).chain([5, GIVEN_UP + 1]) {
            redial.give_up(node(n));
        }
        let known = [0, 1, 2, 5, GIVEN_UP + 1, GIVEN_UP + 2].map(|n| redial.has_given_up(node(n)));
        assert_eq!(known, [false, false, true, true, true, false]);
    }
}
