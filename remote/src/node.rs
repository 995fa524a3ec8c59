//! A process's place in the cluster: one endpoint, its peers, its published actors.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use actix::{Actor, Context};
use bytes::Bytes;
use tokio::time::Instant;

use crate::actor::{ActorId, ActorRef, Address};
use crate::close::Code;
use crate::data::{DataSource, Fetch, Ticket, fetch};
use crate::door::{Crowd, Door, Verdict};
use crate::endpoint::{self, Endpoint};
use crate::error::{BindError, ConnectError, FetchError, TellError};
use crate::handshake::{self, MAX_BUILD};
use crate::identity::{Authority, Fingerprint, Identity, IdentityError, NodeId, PeerId};
use crate::join::{JOINS, JOINS_OF_HOST};
use crate::link::Link;
use crate::local::LocalRef;
use crate::names::Kept;
use crate::peers::{PeerEvents, Peers};
use crate::redial::{self, Redial};
use crate::renew;
use crate::route::{Publication, Routes};
use crate::runtime::{Net, Runtime};
use crate::travel::{self, Dials};

/// A process's endpoint in the cluster. Clones share it; it closes with the last one.
#[derive(Clone)]
pub struct Node(Arc<Owner>);

impl Node {
    /// Binds the endpoint and begins to accept peers. `hello` describes this build: only peers with the same
    /// bytes are let in.
    ///
    /// # Errors
    /// The address cannot be bound, or the identity or `hello` is unusable.
    pub fn bind(identity: Identity, bind: SocketAddr, hello: Bytes, runtime: &Runtime) -> Result<Self, BindError> {
        if hello.len() > MAX_BUILD {
            return Err(BindError::HelloTooLong { size: hello.len(), max: MAX_BUILD });
        }
        let endpoint = endpoint::bind(&identity, bind, runtime)?;
        let unreadable = || IdentityError::Certificate("the authority's certificate cannot be read".to_owned());
        let shared = Arc::new(Shared {
            me: identity.peer(),
            authority_print: identity.authority().ok_or_else(unreadable)?,
            identity: Mutex::new(identity),
            authority: OnceLock::new(),
            joins: Crowd::new(JOINS, JOINS_OF_HOST),
            door: Mutex::new(Door::new()),
            hello,
            endpoint,
            net: runtime.net().clone(),
            peers: Peers::new(),
            redial: Redial::default(),
            routes: Arc::default(),
            source: OnceLock::new(),
            transfers: Arc::default(),
            dials: Dials::default(),
            named: Kept::default(),
        });
        runtime.handle().spawn(accept_all(Arc::clone(&shared)));
        let node = Self(Arc::new(Owner(shared)));
        node.shared().routes.belong_to(node.weak());
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
        Some(self.link(peer)?.connection.remote_address())
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
        self.shared().redial.forget(node);
        self.shared().peers.disconnect(node);
    }

    /// [Disconnects](Self::disconnect) a node that is gone for good, or must be: asks of its actors fail at once, with
    /// [`AskError::NoSuchActor`](crate::AskError), and handles to them no longer make this node dial. If it dials in, it is
    /// refused; where it is a head that does this, its certificate is not renewed. Every node decides for itself. The last
    /// 65,536 are remembered. If it has joined by a token that lets in more, [revoke](Authority::revoke) that too.
    pub fn give_up(&self, node: NodeId) {
        self.shared().redial.give_up(node);
        self.disconnect(node);
    }

    /// Ends when this node has [given up](Self::give_up) another: nobody is to wait for it any more.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until_given_up(&self, node: NodeId) {
        self.shared().redial.until_given_up(node).await;
    }

    /// Whether this node has [given up](Self::give_up) another.
    pub fn has_given_up(&self, node: NodeId) -> bool {
        self.shared().redial.has_given_up(node)
    }

    /// Publishes an actor under a number, in place of any other of that number. It is kept alive until it is
    /// unpublished or the node closes. An actor that holds this `Node`, or a remote [`ActorRef`] of it, keeps the
    /// node open in turn: then [`close`](Self::close) ends both.
    pub fn publish<A>(&self, id: ActorId, actor: &LocalRef<A>) -> Publication<A>
    where
        A: Actor<Context = Context<A>>,
    {
        actor.move_to(self.weak(), id);
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
        self.actor_at(address, None)
    }

    /// Runs `decode` so that handles of actors that it reads are handles of this node, as they are in messages.
    pub fn decoding<T>(&self, decode: impl FnOnce() -> T) -> T {
        let _receiving = travel::enter(self.clone());
        decode()
    }

    /// Serves transfers from `source`. The first source stays.
    pub fn serve_data(&self, source: Arc<dyn DataSource>) {
        if self.shared().source.set(source).is_err() {
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
        let begun = async {
            let data = shared.peers.data(node).await.ok_or(FetchError::NotConnected(node))?;
            fetch(data, Ticket::Of(ticket), shared.net.clone(), Arc::clone(&shared.transfers)).await
        };
        shared.net.within(deadline, begun).await.unwrap_or(Err(FetchError::Deadline))
    }

    /// What this node is busy with.
    pub fn in_hand(&self) -> InHand {
        let shared = self.shared();
        let mut all = InHand { transfers: Arc::strong_count(&shared.transfers) - 1, ..InHand::default() };
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
        let end = Instant::now() + deadline.min(crate::runtime::FOREVER);
        let left = || end.saturating_duration_since(Instant::now());
        let closing: Vec<_> =
            shared.peers.links().into_iter().map(|link| shared.net.spawn(async move { link.close().await })).collect();
        for link in closing {
            if shared.net.within(left(), link).await.is_none() {
                tracing::debug!("a peer was closed without its acknowledgement");
            }
        }
        shared.shut();
        let _ = shared.net.within(left(), shared.endpoint.quinn.wait_idle()).await;
    }

    /// [`actor`](Self::actor), for one whose node is dialled at this address when it is needed and not connected.
    pub fn actor_at<A>(&self, address: Address, at: Option<SocketAddr>) -> ActorRef<A>
    where
        A: Actor<Context = Context<A>>,
    {
        if address.node == self.id()
            && let Some(actor) = self.shared().routes.local::<A>(address.actor)
        {
            return actor.into();
        }
        ActorRef::remote(self.clone(), address, at)
    }

    /// Whether this actor is published here under this number.
    pub(crate) fn holds<A: Actor<Context = Context<A>>>(&self, id: ActorId, actor: &LocalRef<A>) -> bool {
        self.shared().routes.local::<A>(id).is_some_and(|published| published.is(actor))
    }

    /// Where others can dial this node, as far as it knows itself.
    pub(crate) fn dialled_at(&self) -> Option<SocketAddr> {
        self.address().ok().filter(|address| !address.ip().is_unspecified())
    }

    pub(crate) fn weak(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.0))
    }

    /// The control connection to a node, made by dialling `at` if there is none.
    pub(crate) async fn reach(
        &self,
        node: NodeId,
        at: Option<SocketAddr>,
        deadline: Duration,
    ) -> Result<Arc<Link>, TellError> {
        if self.has_given_up(node) {
            return Err(TellError::NoSuchActor);
        }
        if let Some(link) = self.link(node) {
            return Ok(link);
        }
        let mut dialling = travel::dial(self.shared(), at.ok_or(TellError::NotConnected)?);
        tokio::select! {
            biased;
            () = self.until_given_up(node) => return Err(TellError::NoSuchActor),
            _ = self.shared().net.within(deadline, dialling.changed()) => (), // ends with an error
        }
        self.link(node).ok_or(TellError::NotConnected)
    }

    /// The control connection to a node.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.shared().peers.link(node)
    }

    pub(crate) fn net(&self) -> &Net {
        &self.shared().net
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

/// What a node is busy with at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InHand {
    /// Asks to other nodes that wait for their answer.
    pub asks: usize,
    /// Asks of other nodes that are being served.
    pub served: usize,
    /// Transfers in either direction.
    pub transfers: usize,
    /// Actors of other nodes that are watched here, and actors of this node that are watched there.
    pub watches: usize,
    /// Messages, replies and items whose batches wait to be fetched from here.
    pub batches: usize,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.shared().me).finish_non_exhaustive()
    }
}

/// What a node's tasks share.
pub(crate) struct Shared {
    pub(crate) me: PeerId,
    pub(crate) authority_print: Fingerprint,
    identity: Mutex<Identity>,
    /// On a head: what signs certificates.
    pub(crate) authority: OnceLock<Arc<Authority>>,
    /// Places for joins.
    pub(crate) joins: Crowd,
    door: Mutex<Door>,
    pub(crate) hello: Bytes,
    pub(crate) endpoint: Endpoint,
    pub(crate) net: Net,
    pub(crate) peers: Peers,
    pub(crate) redial: Redial,
    pub(crate) routes: Arc<Routes>,
    pub(crate) source: OnceLock<Arc<dyn DataSource>>,
    /// Every transfer holds a clone, so that they can be counted.
    pub(crate) transfers: Arc<()>,
    pub(crate) dials: Dials,
    pub(crate) named: Kept,
}

impl Shared {
    pub(crate) fn id(&self) -> NodeId {
        self.me.node
    }

    pub(crate) fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shut(&self) {
        self.redial.stop();
        self.endpoint.quinn.close(Code::Bye.var(), b"bye");
        // Routes keep actors alive, and actors may hold handles to this node.
        self.routes.clear();
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

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.shut();
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
