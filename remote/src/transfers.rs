//! The transfers of a node, in either direction.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use quinn::Connection;

use crate::data::{self, DataSource, Fetch, Store, Ticket, fetch};
use crate::error::FetchError;
use crate::ids::{NodeId, PeerId};
use crate::link::Beside;
use crate::net::Net;
use crate::patience::STALL;
use crate::peers::Peers;

/// What a node fetches from others and others from it.
pub(crate) struct Transfers {
    peers: Arc<Peers>,
    net: Net,
    source: OnceLock<Arc<dyn DataSource>>,
    /// Every transfer holds a clone, so that they can be counted.
    counted: Arc<()>,
}

impl Transfers {
    pub(crate) fn new(peers: Arc<Peers>, net: Net) -> Self {
        Self { peers, net, source: OnceLock::new(), counted: Arc::default() }
    }

    /// Transfers that are under way.
    pub(crate) fn len(&self) -> usize {
        Arc::strong_count(&self.counted) - 1
    }

    /// Serves tickets from this source. False if there is one.
    pub(crate) fn serve_from(&self, source: Arc<dyn DataSource>) -> bool {
        self.source.set(source).is_ok()
    }

    /// Serves a peer's data connection until it ends, then removes it.
    pub(crate) fn serve(self: &Arc<Self>, peer: PeerId, connection: Connection) {
        let transfers = Arc::clone(self);
        self.net.handle.spawn(async move {
            let cause = data::serve(Arc::clone(&transfers), peer, &connection, &transfers.net).await;
            transfers.peers.remove_data(peer.node, &connection, &cause);
        });
    }

    /// Begins a transfer from a connected node.
    pub(crate) async fn begin(&self, node: NodeId, ticket: Ticket) -> Result<Fetch, FetchError> {
        let data = self.peers.data(node).await.ok_or(FetchError::NotConnected(node))?;
        fetch(data, ticket, self.net.clone(), Arc::clone(&self.counted)).await
    }
}

impl Store for Transfers {
    fn source(&self) -> Option<&Arc<dyn DataSource>> {
        self.source.get()
    }

    fn held(&self, node: NodeId, number: u64) -> Option<VecDeque<Bytes>> {
        self.peers.held(node, number)
    }

    fn let_go(&self, node: NodeId, number: u64) {
        self.peers.let_go(node, number);
    }

    fn counted(&self) -> Arc<()> {
        Arc::clone(&self.counted)
    }
}

impl Beside for Transfers {
    fn fetch(&self, node: NodeId, number: u64, total: usize) -> BoxFuture<'_, Result<Bytes, FetchError>> {
        Box::pin(async move {
            let begun = self.begin(node, Ticket::Beside(number));
            let fetch = self.net.within(STALL, begun).await.ok_or(FetchError::Stalled)??;
            if fetch.total() != total as u64 {
                return Err(FetchError::Protocol("not as many bytes as were announced"));
            }
            fetch.collect(total).await
        })
    }
}
