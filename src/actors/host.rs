//! What every process of a cluster has: threads, a store, and a place in the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashSet;
use regatta_remote::{ActorId, ActorRef, Address, Arbiter, Authority, Names, Node, NodeId, Role, Runtime, encode};

use super::messages::Place;
use super::{CONTROL, FIRST_REPLICA, SWORDFISH, SwordfishActor, UdfActor};
use crate::actor::ActorDirectory;
use crate::cluster::hello;
use crate::error::{ClusterError, TaskFailure};
use crate::sched::WorkerId;
use crate::store::{Store, Ticket};

/// The parts of a process that its actors share.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<Store>,
    /// `None`: everything is in this process.
    pub(crate) node: Option<Node>,
    replicas: AtomicU64,
    /// Where all is in this process: a node for users' actors, made when the first is started or looked for. They are then
    /// found, sent and decoded as they are on a cluster.
    own: OnceLock<Result<(Node, Arbiter), ClusterError>>,
    /// Nodes that are gone for good: a node is one life of one process.
    gone: DashSet<NodeId>,
}

/// How long the first byte of a partition or batch may take.
const FIRST_BYTE: Duration = Duration::from_secs(30);

impl Host {
    pub(crate) fn new(runtime: Runtime, store: Arc<Store>, node: Option<Node>) -> Arc<Self> {
        let replicas = AtomicU64::new(FIRST_REPLICA);
        Arc::new(Self { runtime, store, node, replicas, own: OnceLock::new(), gone: DashSet::new() })
    }

    /// Waits for a future on our threads, from any thread: also one of another runtime, which this blocks.
    ///
    /// # Errors
    /// Our threads are gone.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ClusterError> {
        let (sender, result) = std::sync::mpsc::sync_channel(1);
        self.runtime.handle().spawn(async move { sender.send(future.await) });
        result.recv().map_err(|_| ClusterError::Closed)
    }

    /// The node of users' actors, and the names that they have in the cluster.
    ///
    /// # Errors
    /// All is in this process, and it gets no node of its own.
    pub(crate) fn actor_node(&self) -> Result<(Node, Names), ClusterError> {
        let node = match &self.node {
            Some(node) => node.clone(),
            None => self.own.get_or_init(|| own_node(&self.runtime)).as_ref().map_err(Clone::clone)?.0.clone(),
        };
        let head = node.peers().into_iter().find(|peer| peer.role == Role::Head).map(|head| head.node);
        let names = node.names(head.unwrap_or_else(|| node.id()));
        Ok((node, names))
    }

    /// A node is gone: what waits for it ends now, and nobody dials it again, which would take a time-out to fail.
    pub(super) fn forget(&self, gone: NodeId) {
        self.gone.insert(gone);
        if let Some(node) = &self.node {
            node.disconnect(gone);
        }
    }

    /// Leaves the cluster, because its head does not answer: to it this worker is then lost, and what it did runs elsewhere.
    pub(super) fn leave(&self) {
        if let Some(node) = &self.node {
            let heads = node.peers().into_iter().filter(|peer| peer.role == Role::Head);
            heads.for_each(|head| node.disconnect(head.node));
        }
    }

    /// A number for a new replica of this process.
    pub(super) fn replica_number(&self) -> ActorId {
        ActorId(self.replicas.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn is_here(&self, place: &Place) -> bool {
        match (&self.node, place.node) {
            (Some(node), Some((id, _))) => node.id() == id,
            _ => true,
        }
    }

    /// Where this process is, under this number.
    pub(super) fn place(&self, worker: WorkerId) -> Option<Place> {
        let node = match &self.node {
            Some(node) => Some((node.id(), node.address().ok()?)),
            None => None,
        };
        Some(Place { worker, node })
    }

    /// What a task reads, as one IPC file: shared if it is here, else brought by a transfer.
    ///
    /// # Errors
    /// The partition is gone, or its worker is.
    ///
    /// # Cancel safety
    /// Safe: dropping the future resets the transfer.
    pub(crate) async fn read(&self, place: &Place, ticket: Ticket) -> Result<Bytes, TaskFailure> {
        if self.is_here(place) {
            let read = self.store.read(ticket);
            return read.map_err(|why| TaskFailure::Transfer { from: place.worker.to_string(), why });
        }
        self.fetch(place, ticket).await
    }

    /// What a ticket stands for, from another process.
    pub(super) async fn fetch(&self, place: &Place, ticket: Ticket) -> Result<Bytes, TaskFailure> {
        let failed = |why: String| TaskFailure::Transfer { from: place.worker.to_string(), why };
        let (node, id) = self.connected(place).await?;
        let ticket = encode(&ticket).map_err(|e| failed(e.to_string()))?;
        let fetch = node.fetch(id, ticket, FIRST_BYTE).await.map_err(|e| failed(e.to_string()))?;
        fetch.collect().await.map_err(|e| failed(e.to_string()))
    }

    /// A replica that may be in another process; connects to it first.
    pub(super) async fn replica(&self, place: &Place, actor: ActorId) -> Result<ActorRef<UdfActor>, TaskFailure> {
        let (node, id) = self.connected(place).await?;
        Ok(node.actor(Address { node: id, actor }))
    }

    /// The swordfish of a worker that has connected to us.
    pub(super) fn swordfish(&self, node: NodeId) -> Option<ActorRef<SwordfishActor>> {
        Some(self.node.as_ref()?.actor(Address { node, actor: SWORDFISH }))
    }

    // Whoever needs a connection dials it; one that is there, whoever dialled, is used.
    async fn connected(&self, place: &Place) -> Result<(&Node, NodeId), TaskFailure> {
        let failed = |why: String| TaskFailure::Transfer { from: place.worker.to_string(), why };
        let (Some(node), Some((id, address))) = (&self.node, place.node) else {
            return Err(failed("this process has no network".to_owned()));
        };
        if self.gone.contains(&id) {
            return Err(failed("it is gone".to_owned()));
        }
        if node.id() != id && !node.peers().iter().any(|peer| peer.node == id) {
            let found = node.connect(address, CONTROL).await.map_err(|e| failed(e.to_string()))?;
            if found != id {
                return Err(failed(format!("another process answers at {address}: the worker was restarted")));
            }
        }
        Ok((node, id))
    }
}

impl ActorDirectory for Host {
    fn names(&self) -> Result<(Names, tokio::runtime::Handle), ClusterError> {
        Ok((self.actor_node()?.1, self.runtime.handle().clone()))
    }

    fn receiver(&self) -> Option<Node> {
        self.node.clone().or_else(|| Some(self.own.get()?.as_ref().ok()?.0.clone()))
    }
}

/// A cluster of one node on the loopback, which keeps its own names.
fn own_node(runtime: &Runtime) -> Result<(Node, Arbiter), ClusterError> {
    let failed = |error: &dyn std::fmt::Display| ClusterError::network("make a node for actors of this process", error);
    let authority = Authority::new().map_err(|error| failed(&error))?;
    let identity = authority.issue(Role::Head).map_err(|error| failed(&error))?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let node = Node::bind(identity, loopback, hello(), runtime).map_err(|error| failed(&error))?;
    let arbiter = runtime.arbiter().map_err(|error| failed(&error))?;
    node.keep_names(&arbiter);
    Ok((node, arbiter))
}
