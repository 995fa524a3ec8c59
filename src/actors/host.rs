//! What every process of a cluster has: threads, a store, and a place in the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashSet;
use regatta_remote::{
    ActorId, ActorRef, Address, Arbiter, Authority, Fetch, FetchError, Names, Node, NodeId, Role, Runtime, encode,
};

use super::feed::Feed;
use super::gateway::admission;
use super::messages::{Admit, Place};
use super::{CONTROL, FIRST_REPLICA, GATEWAY, GatewayActor, SWORDFISH, SwordfishActor, UdfActor};
use crate::actor::ActorDirectory;
use crate::config::ClusterAt;
use crate::error::{ClusterError, TaskFailure};
use crate::hello::hello;
use crate::sched::{PartitionId, WorkerId};
use crate::store::{Dropped, Store, Ticket, Wanted};

/// The parts of a process that its actors share.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<Store>,
    /// `None`: everything is in this process.
    pub(crate) node: Option<Node>,
    /// The head of the cluster, unless it is this process: it passes on what cannot be reached from here.
    pub(crate) head: Option<NodeId>,
    replicas: AtomicU64,
    /// Where all is in this process: a node for users' actors, made when the first is started or looked for. They are then
    /// found, sent and decoded as they are on a cluster.
    own: OnceLock<Result<OwnNode, ClusterError>>,
    /// Nodes that cannot be dialled from here, though they may live.
    unreachable: DashSet<NodeId>,
    /// The session ends: from here on a worker that goes is nobody's loss.
    pub(crate) closing: Arc<AtomicBool>,
    /// Why it has ended, though somebody has it still.
    pub(crate) ended: OnceLock<ClusterError>,
}

/// How long the first byte of a partition or batch may take.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// The most bytes of what is taken at once, as batches for replicas are: how many come, the other side says.
const LARGEST: usize = 4 << 30;
const NO_NETWORK: &str = "this process has no network";
/// How long a node may take to be connected to before the head is asked to pass on what it holds.
const REACH: Duration = Duration::from_secs(2);

impl Host {
    pub(crate) fn new(runtime: Runtime, store: Arc<Store>, node: Option<Node>, head: Option<NodeId>) -> Arc<Self> {
        let (replicas, own) = (AtomicU64::new(FIRST_REPLICA), OnceLock::new());
        let unreachable = DashSet::new();
        let (closing, ended) = (Arc::default(), OnceLock::new());
        Arc::new(Self { runtime, store, node, head, replicas, own, unreachable, closing, ended })
    }

    /// Waits for a future on our threads, from any thread: also one of another runtime, which this blocks.
    ///
    /// # Errors
    /// Our threads are gone.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ClusterError> {
        wait(&self.runtime, future)
    }

    /// The node of users' actors, and the names that they have in the cluster.
    ///
    /// # Errors
    /// All is in this process, and it gets no node of its own.
    pub(crate) fn actor_node(&self) -> Result<(Node, Names), ClusterError> {
        let node = match &self.node {
            Some(node) => node.clone(),
            None => self.own()?.node.clone(),
        };
        let head = node.peers().into_iter().find(|peer| peer.role == Role::Head).map(|head| head.node);
        let names = node.names(head.unwrap_or_else(|| node.id()));
        Ok((node, names))
    }

    fn own(&self) -> Result<&OwnNode, ClusterError> {
        self.own.get_or_init(|| OwnNode::new(&self.runtime)).as_ref().map_err(Clone::clone)
    }

    /// A node is gone: what waits for it ends now, and nobody dials it again, which would take a time-out to fail.
    pub(super) fn forget(&self, gone: NodeId) {
        if let Some(node) = &self.node {
            node.give_up(gone);
        }
    }

    /// Whether a node is connected to this one.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.node.as_ref().is_some_and(|here| here.id() == node || here.address_of(node).is_some())
    }

    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.node.as_ref().is_some_and(|here| here.has_given_up(node))
    }

    /// Leaves the cluster, because its head does not answer: to it this worker is then lost, and what it did runs elsewhere.
    pub(super) fn leave(&self) {
        if let Some(node) = &self.node {
            let heads = node.peers().into_iter().filter(|peer| peer.role == Role::Head);
            heads.for_each(|head| node.disconnect(head.node));
        }
    }

    /// Lets go of what the store no longer has, on a thread that nobody waits for.
    pub(super) fn let_go(&self, dropped: Dropped) {
        self.runtime.spawn_blocking(move || drop(dropped));
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
    pub(crate) fn place(&self, worker: WorkerId) -> Option<Place> {
        let node = match &self.node {
            Some(node) => Some((node.id(), node.address().ok()?)),
            None => None,
        };
        Some(Place { worker, node })
    }

    /// Begins to bring blocks from another process; by way of the head from a node that cannot be dialled.
    ///
    /// # Errors
    /// Neither that node nor the head can be reached.
    ///
    /// # Cancel safety
    /// Safe: dropping the future resets the transfer.
    pub(super) async fn fetch_blocks(&self, place: &Place, wanted: Wanted) -> Result<Fetch, TaskFailure> {
        let (Some((node, address)), Some(head)) = (place.node, self.head) else {
            let (_, id) = self.connected(place, CONTROL).await?;
            return self.fetch_from(place.worker, id, Ticket::Blocks(wanted)).await;
        };
        if !self.unreachable.contains(&node) {
            match self.connected(place, REACH).await {
                Ok((_, id)) => return self.fetch_from(place.worker, id, Ticket::Blocks(wanted)).await,
                Err(failure) if self.is_gone(node) => return Err(failure),
                Err(failure) => {
                    tracing::info!(%address, %failure, "cannot be reached from here: the head passes on what it holds");
                    self.unreachable.insert(node);
                }
            }
        }
        let through = Ticket::Through { worker: place.worker, node, wanted };
        self.fetch_from(place.worker, head, through).await
    }

    /// Begins to bring what another worker has of these outputs, to keep it here.
    pub(super) async fn fetch_whole(&self, place: &Place, outputs: Vec<PartitionId>) -> Result<Fetch, TaskFailure> {
        let (_, id) = self.connected(place, CONTROL).await?;
        self.fetch_from(place.worker, id, Ticket::Whole(outputs)).await
    }

    /// Whether what this worker has of a feed is passed on by the head, as it cannot be reached from here.
    pub(super) fn is_passed_on(&self, feed: &Feed, worker: WorkerId) -> bool {
        let place = feed.places.iter().find(|place| place.worker == worker);
        let node = place.and_then(|place| place.node).filter(|_| self.head.is_some());
        node.is_some_and(|(node, _)| self.unreachable.contains(&node))
    }

    /// What a ticket stands for, from another process.
    pub(super) async fn fetch(&self, place: &Place, ticket: Ticket) -> Result<Bytes, TaskFailure> {
        let (_, id) = self.connected(place, CONTROL).await?;
        let fetch = self.fetch_from(place.worker, id, ticket).await?;
        let failed = |why: FetchError| TaskFailure::Transfer { from: place.worker.to_string(), why: why.to_string() };
        fetch.collect(LARGEST).await.map_err(failed)
    }

    async fn fetch_from(&self, worker: WorkerId, id: NodeId, ticket: Ticket) -> Result<Fetch, TaskFailure> {
        let failed = |why: String| TaskFailure::Transfer { from: worker.to_string(), why };
        let node = self.node.as_ref().ok_or_else(|| failed(NO_NETWORK.to_owned()))?;
        let ticket = encode(&ticket).map_err(|e| failed(e.to_string()))?;
        node.fetch(id, ticket, FIRST_BYTE).await.map_err(|e| failed(e.to_string()))
    }

    /// Begins to bring what another node wants of one that is connected to this: see [`Ticket::Through`]. Nobody is dialled.
    pub(super) async fn pass_on(&self, worker: WorkerId, from: NodeId, wanted: Wanted) -> Result<Fetch, TaskFailure> {
        self.fetch_from(worker, from, Ticket::Blocks(wanted)).await
    }

    /// From here on the head passes on what this node holds.
    #[cfg(test)]
    pub(super) fn cannot_reach(&self, node: NodeId) {
        self.unreachable.insert(node);
    }

    /// A replica that may be in another process; connects to it first.
    pub(super) async fn replica(&self, place: &Place, actor: ActorId) -> Result<ActorRef<UdfActor>, TaskFailure> {
        let (node, id) = self.connected(place, CONTROL).await?;
        Ok(node.actor(Address { node: id, actor }))
    }

    /// The swordfish of a worker that has connected to us.
    pub(super) fn swordfish(&self, node: NodeId) -> Option<ActorRef<SwordfishActor>> {
        Some(self.node.as_ref()?.actor(Address { node, actor: SWORDFISH }))
    }

    // Whoever needs a connection dials it; one that is there, whoever dialled, is used.
    async fn connected(&self, place: &Place, deadline: Duration) -> Result<(&Node, NodeId), TaskFailure> {
        let failed = |why: String| TaskFailure::Transfer { from: place.worker.to_string(), why };
        let (Some(node), Some((id, address))) = (&self.node, place.node) else {
            return Err(failed(NO_NETWORK.to_owned()));
        };
        if node.has_given_up(id) {
            return Err(failed("it is gone".to_owned()));
        }
        if node.id() != id && !node.peers().iter().any(|peer| peer.node == id) {
            let found = tokio::select! {
                biased;
                () = node.until_given_up(id) => return Err(failed("it is gone".to_owned())),
                found = node.connect(address, deadline) => found.map_err(|e| failed(e.to_string()))?,
            };
            if found != id {
                return Err(failed(format!("another process answers at {address}: the worker was restarted")));
            }
        }
        Ok((node, id))
    }
}

/// [`Host::wait`], where there is no host yet.
///
/// # Errors
/// Our threads are gone.
pub(crate) fn wait<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, ClusterError> {
    runtime.wait_anywhere(future).ok_or(ClusterError::Closed)
}

impl ActorDirectory for Host {
    fn names(&self) -> Result<(Names, tokio::runtime::Handle), ClusterError> {
        Ok((self.actor_node()?.1, self.runtime.handle().clone()))
    }

    fn receiver(&self) -> Option<Node> {
        self.node.clone().or_else(|| Some(self.own.get()?.as_ref().ok()?.node.clone()))
    }

    fn admit(&self) -> Result<ClusterAt, ClusterError> {
        let failed = |error: &dyn std::fmt::Display| ClusterError::network("enter the cluster", error);
        let Some(node) = &self.node else {
            let own = self.own()?;
            let address = own.node.address().map_err(|error| failed(&error))?;
            return Ok(ClusterAt { address: address.to_string(), token: admission(&own.authority)? });
        };
        let head = self.head.ok_or(ClusterError::Closed)?;
        let address = node.address_of(head).ok_or_else(|| failed(&"the head is not connected"))?;
        let gateway = node.actor::<GatewayActor>(Address { node: head, actor: GATEWAY });
        let token = self.wait(async move { gateway.ask(Admit, CONTROL).await })?;
        Ok(ClusterAt { address: address.to_string(), token: token.map_err(|error| failed(&error))?? })
    }
}

/// The head of a cluster on the loopback, which keeps its own names. Isolated replicas enter it.
#[derive(Debug)]
struct OwnNode {
    node: Node,
    authority: Arc<Authority>,
    _names: Arbiter,
}

impl OwnNode {
    fn new(runtime: &Runtime) -> Result<Self, ClusterError> {
        let failed =
            |error: &dyn std::fmt::Display| ClusterError::network("make a node for actors of this process", error);
        let authority = Arc::new(Authority::new().map_err(|error| failed(&error))?);
        let identity = authority.issue(Role::Head).map_err(|error| failed(&error))?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = Node::bind(identity, loopback, &runtime.with_build(hello())).map_err(|error| failed(&error))?;
        let arbiter = runtime.arbiter().map_err(|error| failed(&error))?;
        node.keep_names(&arbiter);
        node.serve_joins(Arc::clone(&authority)).map_err(|error| failed(&error))?;
        Ok(Self { node, authority, _names: arbiter })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sched::{Attempt, QueryId, StageId, TaskId};
    use crate::store::Form;

    #[test]
    fn a_node_that_is_known_to_be_gone_is_not_waited_for_though_it_is_being_dialled() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new("gone", 2).unwrap();
        let authority = Authority::new().unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = |role| Node::bind(authority.issue(role).unwrap(), any, &runtime).unwrap();
        let (here, gone) = (node(Role::Worker), authority.issue(Role::Worker).unwrap().node());
        // A socket that takes what comes and answers nothing, as a machine that was switched off.
        let silent = std::net::UdpSocket::bind(any).unwrap();
        let host = Host::new(runtime.clone(), Store::new(folder.path()), Some(here), None);
        let place = Place { worker: WorkerId(1), node: Some((gone, silent.local_addr().unwrap())) };
        let task = TaskId { query: QueryId(1), stage: StageId(0), index: 0 };
        let id = PartitionId { task, attempt: Attempt(1) };
        let reads = Arc::clone(&host);
        let read = runtime.handle().spawn(async move { reads.rows(place, id, &Form::new(&Arc::default())).await });
        // Its first packet says that it dials.
        silent.recv(&mut [0; 2048]).unwrap();
        let before = Instant::now();
        host.forget(gone);
        let failure = runtime.handle().block_on(read).unwrap().unwrap_err();
        assert!(failure.is_retryable() && failure.to_string().contains("worker 1"), "{failure}");
        assert!(before.elapsed() < CONTROL / 2, "{:?}", before.elapsed());
        runtime.shutdown(Duration::from_secs(2));
    }
}
