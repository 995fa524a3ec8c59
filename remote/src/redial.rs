//! A peer whose connection was lost is dialled again, by the side that had dialled it.
//!
//! Lost, not closed: a reset or a time-out. A connection that one side has closed stays closed, be it by a goodbye, a
//! `disconnect`, a broken protocol or a declaration of death.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::dials::{Dialling, Turn};
use crate::error::ConnectError;
use crate::handshake::dial;
use crate::ids::NodeId;
use crate::membership::{DEAD, SUSPECT, TICK};
use crate::peers::{Losing, Loss};
use crate::shared::Shared;

/// How long a lost peer is dialled: with the time that it takes to notice the loss, as long as a silent one is waited for. Then its work
/// may have been given away.
pub(crate) const WINDOW: Duration = DEAD.saturating_sub(TICK.saturating_mul(2));
/// How long one dial may take.
const PATIENCE: Duration = SUSPECT;
/// Longest pause before the first dial; it doubles up to the last, and each pause is drawn from all up to it.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);
/// How long a connection on demand may take; whoever waits for it has a deadline of its own.
const ON_DEMAND: Duration = Duration::from_secs(10);

/// Connects to the node at an address, unless it is, and keeps it connected. To run on the network's runtime.
pub(crate) async fn connect(shared: Arc<Shared>, to: SocketAddr) -> Result<NodeId, ConnectError> {
    let turn = shared.dials.turn(to);
    let _turn = turn.lock().await;
    if let Some(node) = shared.peers.at(to) {
        return Ok(node);
    }
    let (node, losing) = dial(Arc::clone(&shared), to, None).await?;
    let keeper = Keeper { shared: Arc::clone(&shared), node, to, turn: Arc::clone(&turn), losing, pause: FIRST };
    shared.dials.keep(to, node, shared.net.handle.spawn(keeper.run()).abort_handle());
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
            sleep(self.next_pause().min(end.duration_since(Instant::now()))).await;
            let _turn = self.turn.lock().await;
            if let Some(losing) = self.shared.peers.lost(self.node) {
                self.losing = losing;
                return true; // it has dialled us, or somebody here has
            }
            let (node, to) = (self.node, self.to);
            // Once at least, however long it was somebody else's turn.
            let patience = PATIENCE.min(end.duration_since(Instant::now()).max(FIRST));
            let dialled = timeout(patience, dial(Arc::clone(&self.shared), to, Some(node))).await;
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

/// Connects to the node at an address, for all who want it now. What is returned ends when that is done, however.
pub(crate) fn connect_on_demand(shared: &Arc<Shared>, to: SocketAddr) -> Dialling {
    shared.dials.on_demand(to, |done| {
        let dialling = Arc::clone(shared);
        shared.net.handle.spawn(async move {
            match timeout(ON_DEMAND, connect(Arc::clone(&dialling), to)).await {
                Ok(Ok(node)) => tracing::debug!(%node, at = %to, "connected on demand"),
                // Handles that others have sent say where.
                failed if dialling.net.may_say(to) => {
                    let error = failed.unwrap_or(Err(ConnectError::Deadline)).err();
                    tracing::warn!(at = %to, error = error.map(tracing::field::display), "could not connect on demand");
                }
                _ => (),
            }
            dialling.dials.done(to);
            drop(done);
        });
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::{Authority, Node, Role, Runtime};

    #[test]
    fn all_who_want_a_node_at_once_wait_for_one_dial() {
        let runtime = Runtime::new("dial", 1).unwrap();
        let identity = Authority::new().unwrap().issue(Role::Worker).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = Node::bind(identity, any, &runtime).unwrap();
        let silent = [(); 2].map(|()| UdpSocket::bind(any).unwrap()); // bound, and never answers
        let [here, there] = silent.each_ref().map(|socket| socket.local_addr().unwrap());
        let first = connect_on_demand(node.shared(), here);
        assert!(first.same_channel(&connect_on_demand(node.shared(), here)));
        assert!(!first.same_channel(&connect_on_demand(node.shared(), there)));
        // What ends a dial, here the end of the node, lets the next begin.
        let shared = Arc::clone(node.shared());
        drop(node);
        runtime.handle().block_on(async {
            assert!(timeout(ON_DEMAND / 2, first.clone().changed()).await.unwrap().is_err());
        });
        assert!(!first.same_channel(&connect_on_demand(&shared, here)));
    }
}
