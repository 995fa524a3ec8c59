//! A node of ours in each process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use bytes::Bytes;
use regatta_remote::{
    ActorId, Authority, DataReader, DataSource, Identity, Node, NodeId, PeerId, Role, Runtime, decode, encode,
};
use serde::{Deserialize, Serialize};

use crate::peer::Peer;

/// Longer than anything takes here.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// The peer's actor.
pub(crate) const ECHO: ActorId = ActorId(1);

/// Comes back as it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo(pub(crate) String);

regatta_remote::messages! {
    1 Echo => String,
}

/// Answers an [`Echo`].
#[derive(Debug)]
pub(crate) struct Echoer;

impl Actor for Echoer {
    type Context = Context<Self>;
}

impl Handler<Echo> for Echoer {
    type Result = String;
    fn handle(&mut self, message: Echo, _: &mut Context<Self>) -> String {
        message.0
    }
}

/// The peer: serves until the process ends.
pub(crate) fn serve(handed: &[u8], wait: impl FnOnce(SocketAddr)) {
    let identity: Identity = decode(handed).expect("an identity");
    let runtime = runtime();
    let node = Node::bind(identity, ANY.into(), &runtime).expect("an endpoint");
    let arbiter = runtime.arbiter().expect("a thread");
    let actor = arbiter.spawn(crate::IN_FLIGHT, |_| Echoer);
    node.publish(ECHO, &actor).on::<Echo>(&[Role::Head]);
    node.serve_data(Arc::new(Source));
    wait(node.address().expect("bound"));
}

/// The measuring side, connected.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) runtime: Runtime,
    pub(crate) node: Node,
    pub(crate) there: NodeId,
    pub(crate) peer: Peer,
}

impl Ours {
    pub(crate) fn connect() -> Self {
        let authority = Authority::new().expect("an authority");
        let issue = |role| authority.issue(role).expect("an identity");
        let peer = Peer::start("regatta", &encode(&issue(Role::Worker)).expect("bytes"));
        let runtime = runtime();
        let node = Node::bind(issue(Role::Head), ANY.into(), &runtime).expect("an endpoint");
        let to = peer.greeting.parse().expect("an address");
        let there = runtime.handle().block_on(node.connect(to, SOON)).expect("the peer is there");
        Self { runtime, node, there, peer }
    }

    /// Takes one transfer.
    pub(crate) async fn fetch(node: &Node, from: NodeId, size: u64) {
        let ticket = Bytes::copy_from_slice(&size.to_le_bytes());
        let mut fetch = node.fetch(from, ticket, SOON).await.expect("the peer serves it");
        let mut got = 0;
        while let Some(bytes) = fetch.next().await.expect("the peer serves it") {
            got += bytes.len() as u64;
        }
        assert_eq!(got, size);
    }
}

/// Serves as many bytes as the ticket says.
struct Source;

struct Reader {
    total: u64,
    bytes: Bytes,
}

impl DataSource for Source {
    fn open(&self, ticket: &[u8], _: PeerId) -> Result<Box<dyn DataReader>, String> {
        let size = ticket.try_into().map_err(|_| "not a size".to_owned())?;
        Ok(Box::new(Reader { total: u64::from_le_bytes(size), bytes: crate::bulk_bytes() }))
    }

    fn delivered(&self, _: &[u8], _: PeerId) {}
}

impl DataReader for Reader {
    fn total(&self) -> u64 {
        self.total
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        Ok(self.bytes.slice(..max.min(self.bytes.len())))
    }

    fn waits(&self) -> bool {
        false
    }
}

fn runtime() -> Runtime {
    Runtime::new("bench", 2).expect("threads")
}

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
