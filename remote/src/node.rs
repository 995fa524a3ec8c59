//! A process's place in the cluster: one endpoint, its peers, its published actors.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use actix::{Actor, Context};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::actor::ActorRef;
use crate::authority::Authority;
use crate::close::Code;
use crate::data::{DataSource, Fetch, Ticket};
use crate::dials::Dials;
use crate::door::{Door, Verdict, joins};
use crate::error::{BindError, ConnectError, FetchError, IdentityError, TellError};
use crate::given_up::GivenUp;
use crate::hello::MAX_BUILD;
use crate::identity::Identity;
use crate::ids::{ActorId, Address, NodeId, PeerId};
use crate::kept::Kept;
use crate::link::{InHand, Link};
use crate::local::{Home, LocalRef};
use crate::net::{FOREVER, Net};
use crate::peers::{PeerEvents, Peers};
use crate::redial::connect_on_demand;
use crate::route::Publication;
use crate::router::{self, Router};
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::transfers::Transfers;
use crate::{endpoint, handshake, redial, renew};

/// A process's endpoint in the cluster. Clones share it; it closes with the last one.
#[derive(Clone)]
pub struct Node(Arc<Owner>);

impl Node {
    /// Binds the endpoint and begins to accept peers: only those of the same build as this
    /// [runtime](Runtime::with_build) are let in.
    ///
    /// # Errors
    /// The address cannot be bound, or the identity or the build is unusable.
    pub fn bind(identity: Identity, bind: SocketAddr, runtime: &Runtime) -> Result<Self, BindError> {
        let build = runtime.build().clone();
        if build.len() > MAX_BUILD {
            return Err(BindError::HelloTooLong { size: build.len(), max: MAX_BUILD });
        }
        let endpoint = endpoint::bind(&identity, bind, runtime)?;
        let unreadable = || IdentityError::Certificate("the authority's certificate cannot be read".to_owned());
        let net = runtime.net().clone();
        let peers = Arc::new(Peers::new(net.clone()));
        let shared = Arc::new(Shared {
            me: identity.peer(),
            authority_print: identity.authority().ok_or_else(unreadable)?,
            identity: Mutex::new(identity),
            authority: OnceLock::new(),
            joins: joins(),
            door: Mutex::new(Door::new()),
            build,
            endpoint,
            transfers: Arc::new(Transfers::new(Arc::clone(&peers), net.clone())),
            net,
            peers,
            given_up: GivenUp::default(),
            dials: Dials::default(),
            routes: Arc::default(),
            named: Kept::default(),
        });
        runtime.handle().spawn(accept_all(Arc::clone(&shared)));
        let node = Self(Arc::new(Owner(shared)));
        let owner: Weak<Owner> = Arc::downgrade(&node.0);
        node.shared().routes.belong_to(owner);
        Ok(node)
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.shared().id()
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.shared().endpoint.quinn.local_addr()
    }

    /// Connects to the node at an address; reuses a live connection to it.
    ///
    /// When the connection is lost, and neither side has closed it, this node dials again for 10 seconds, after pauses
    /// of up to 50 ms that double up to 5 s: the peer is [`Down`](crate::PeerEvent::Down), then [`Up`](crate::PeerEvent::Up) again
    /// under the same number. What waited for it has failed; nothing is sent again.
    ///
    /// # Errors
    /// It cannot be reached in time, is of another cluster, or is another build.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    pub async fn connect(&self, to: SocketAddr, deadline: Duration) -> Result<NodeId, ConnectError> {
        let shared = self.shared();
        if let Some(node) = shared.peers.at(to) {
            return Ok(node);
        }
        let dial = shared.net.spawn(redial::connect(Arc::clone(shared), to));
        match shared.net.within(deadline, dial).await {
            Some(Some(result)) => result,
            Some(None) => Err(ConnectError::Closed), // the runtime ended the task
            None => Err(ConnectError::Deadline),
        }
    }

    /// When this node's certificate expires. It is renewed after two thirds of its life, by a connected head that
    /// [serves joins](Self::serve_joins).
    pub fn expires(&self) -> SystemTime {
        self.shared().identity().expires()
    }

    /// The peers that are up.
    pub fn peers(&self) -> Vec<PeerId> {
        self.shared().peers.list()
    }

    /// Where a peer's control connection leads; `None` if it is not up.
    pub fn address_of(&self, peer: NodeId) -> Option<SocketAddr> {
        Some(self.shared().peers.link(peer)?.remote_address())
    }

    /// Whether a peer cannot have declared this node dead: it has acknowledged a heartbeat of the last 9 seconds, and
    /// waits for 10. To be asked before doing for it what must not be done twice. False if it is not up.
    pub fn is_leased(&self, peer: NodeId) -> bool {
        self.shared().peers.is_leased(peer)
    }

    /// Peers that come and go from now on. Those that are up now go too.
    pub fn events(&self) -> PeerEvents {
        self.shared().peers.events()
    }

    /// Ends all connections to a node. Asks and transfers that wait for it fail at once, not when its silence has lasted:
    /// for who knows better than the network that it is gone. Neither side dials it again by itself; it may be
    /// connected to again.
    pub fn disconnect(&self, node: NodeId) {
        self.shared().dials.forget(node);
        self.shared().peers.disconnect(node);
    }

    /// [Disconnects](Self::disconnect) a node that is gone for good, or must be: asks of its actors fail at once, with
    /// [`AskError::NoSuchActor`](crate::AskError), and handles to them no longer make this node dial. If it dials in, it is
    /// refused; where it is a head that does this, its certificate is not renewed. Every node decides for itself. The last
    /// 65,536 are remembered. If it has joined by a token that lets in more, [revoke](Authority::revoke) that too.
    pub fn give_up(&self, node: NodeId) {
        self.shared().given_up.add(node);
        self.disconnect(node);
    }

    /// Ends when this node has [given up](Self::give_up) another: nobody is to wait for it any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until_given_up(&self, node: NodeId) {
        self.shared().given_up.until(node).await;
    }

    /// Whether this node has [given up](Self::give_up) another.
    pub fn has_given_up(&self, node: NodeId) -> bool {
        self.shared().given_up.has(node)
    }

    /// Publishes an actor under a number, in place of any other of that number, with the messages that the
    /// [`Publication`] names: all at once. It is kept alive until it is
    /// unpublished or the node closes. An actor that holds this `Node`, or a remote [`ActorRef`] of it, keeps the
    /// node open in turn: then [`close`](Self::close) ends both.
    pub fn publish<A>(&self, id: ActorId, actor: &LocalRef<A>) -> Publication<A>
    where
        A: Actor<Context = Context<A>>,
    {
        let owner: Weak<Owner> = Arc::downgrade(&self.0);
        actor.move_to(owner, id);
        self.shared().routes.publish(id, actor)
    }

    /// Takes an actor's number back.
    pub fn unpublish(&self, id: ActorId) {
        self.shared().routes.unpublish(id);
    }

    /// A handle to the actor at an address. An actor published here is reached directly.
    pub fn actor<A>(&self, address: Address) -> ActorRef<A>
    where
        A: Actor<Context = Context<A>>,
    {
        ActorRef::at(self.router(), address, None)
    }

    /// Runs `decode` so that handles of actors that it reads are handles of this node, as they are in messages.
    pub fn decoding<T>(&self, decode: impl FnOnce() -> T) -> T {
        let _receiving = router::enter(self.router());
        decode()
    }

    /// Serves transfers from `source`. The first source stays.
    pub fn serve_data(&self, source: Arc<dyn DataSource>) {
        if !self.shared().transfers.serve_from(source) {
            tracing::warn!("this node has a data source already");
        }
    }

    /// Lets nodes join with tokens of this authority, and renews their certificates; this node's own too. To be
    /// called on a head, whose certificate is of the same authority. The first authority stays.
    ///
    /// # Errors
    /// The authority is of another cluster, or the endpoint cannot be configured.
    pub fn serve_joins(&self, authority: Arc<Authority>) -> Result<(), BindError> {
        let shared = self.shared();
        if authority.cluster() != shared.me.cluster {
            return Err(BindError::OtherCluster { ours: shared.me.cluster, theirs: authority.cluster() });
        }
        if shared.authority.set(authority).is_err() {
            tracing::warn!("this node has an authority already");
        }
        shared.endpoint.present(&shared.identity(), true)
    }

    /// Begins a transfer from a connected node; `deadline` is for its answer.
    ///
    /// # Errors
    /// The node is not connected, does not answer, or refuses.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfer.
    pub async fn fetch(&self, node: NodeId, ticket: Bytes, deadline: Duration) -> Result<Fetch, FetchError> {
        let shared = self.shared();
        let begun = shared.transfers.begin(node, Ticket::Of(ticket));
        shared.net.within(deadline, begun).await.unwrap_or(Err(FetchError::Deadline))
    }

    /// What this node is busy with.
    pub fn in_hand(&self) -> InHand {
        let shared = self.shared();
        let mut all = InHand { transfers: shared.transfers.len(), ..InHand::default() };
        for link in shared.peers.links() {
            link.count(&mut all);
        }
        all
    }

    /// Closes gracefully within `deadline`: no new messages, running calls finish and are answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the node half closed; its drop closes the rest.
    pub async fn close(&self, deadline: Duration) {
        let shared = self.shared();
        let end = Instant::now() + deadline.min(FOREVER);
        let left = || end.saturating_duration_since(Instant::now());
        let closing: Vec<_> =
            shared.peers.links().into_iter().map(|link| shared.net.spawn(async move { link.close().await })).collect();
        for link in closing {
            if shared.net.within(left(), link).await.is_none() {
                tracing::debug!("a peer was closed without its acknowledgement");
            }
        }
        self.0.shut();
        let _ = shared.net.within(left(), shared.endpoint.quinn.wait_idle()).await;
    }

    /// [`actor`](Self::actor), for one whose node is dialled at this address when it is needed and not connected.
    pub fn actor_at<A>(&self, address: Address, at: Option<SocketAddr>) -> ActorRef<A>
    where
        A: Actor<Context = Context<A>>,
    {
        ActorRef::at(self.router(), address, at)
    }

    pub(crate) fn weak(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.0))
    }

    pub(crate) fn router(&self) -> Arc<dyn Router> {
        Arc::<Owner>::clone(&self.0)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.shared().me).finish_non_exhaustive()
    }
}

/// A node, while somebody else keeps it open.
#[derive(Clone, Default)]
pub(crate) struct WeakNode(Weak<Owner>);

impl WeakNode {
    pub(crate) fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(Node)
    }
}

/// Closes the endpoint with the last `Node`; the tasks, which hold `Shared`, end by that.
struct Owner(Arc<Shared>);

impl Owner {
    fn shut(&self) {
        self.0.dials.stop();
        self.0.endpoint.quinn.close(Code::Bye.into(), b"bye");
        // Routes keep actors alive, and actors may hold handles to this node.
        self.0.routes.clear();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Home for Owner {
    fn id(&self) -> NodeId {
        self.0.id()
    }

    fn dialled_at(&self) -> Option<SocketAddr> {
        self.0.endpoint.quinn.local_addr().ok().filter(|address| !address.ip().is_unspecified())
    }

    fn holds(&self, id: ActorId, number: u64) -> bool {
        self.0.routes.holds(id, number)
    }
}

impl Router for Owner {
    fn net(&self) -> &Net {
        &self.0.net
    }

    fn published(&self, id: ActorId) -> Option<Arc<dyn Any + Send + Sync>> {
        self.0.routes.published(id)
    }

    fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.0.peers.link(node)
    }

    fn dial(
        &self,
        node: NodeId,
        at: Option<SocketAddr>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Link>, TellError>> {
        Box::pin(async move {
            let mut dialling = connect_on_demand(&self.0, at.ok_or(TellError::NotConnected)?);
            tokio::select! {
                biased;
                () = self.0.given_up.until(node) => return Err(TellError::NoSuchActor),
                _ = self.0.net.within(deadline, dialling.changed()) => (), // ends with an error
            }
            self.link(node).ok_or(TellError::NotConnected)
        })
    }

    fn has_given_up(&self, node: NodeId) -> bool {
        self.0.given_up.has(node)
    }
}

/// Accepts peers, and does what a node does all the time, until the endpoint is closed.
async fn accept_all(shared: Arc<Shared>) {
    let _renewing = shared.net.spawn(renew::keep_fresh(Arc::clone(&shared)));
    let _beating = shared.net.spawn({
        let shared = Arc::clone(&shared);
        async move { shared.peers.keep_beating().await }
    });
    while let Some(incoming) = shared.endpoint.quinn.accept().await {
        let (from, proven) = (incoming.remote_address(), incoming.remote_address_validated());
        let verdict = shared.door().knock(from.ip(), proven, shared.net.ambient.unix());
        match verdict {
            Verdict::Enter(place) => {
                let accepted = handshake::accept(Arc::clone(&shared), incoming);
                tokio::spawn(async move {
                    let _place = place;
                    accepted.await;
                });
            }
            Verdict::Prove => {
                // Fails only for who has proven it.
                let _ = incoming.retry();
            }
            Verdict::Ignore { why, say } => {
                incoming.ignore();
                if let Some(count) = say {
                    tracing::warn!(%from, why, count, "connections are not answered");
                }
            }
        }
    }
}
