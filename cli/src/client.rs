//! The way to a head: by its address and a token, and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use regatta_observe::window::{Act, Look, WINDOW, Window, read};
use regatta_observe::{Answer, Ask, Order, line};
use regatta_remote::actix::Handler;
use regatta_remote::{
    ActorRef, Address, AskError, ConnectError, Identity, JoinError, JoinToken, Node, RemoteMessage, Role, Runtime,
};

use crate::Failure;

/// How long joining, and then connecting, may take.
const STEP: Duration = Duration::from_secs(4);
/// How long the head may take to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);
/// What nodes are told that this is; heads let it in whatever it says.
const BUILD: &[u8] = concat!("regatta-cli ", env!("CARGO_PKG_VERSION")).as_bytes();

/// A connection to a head.
pub(crate) struct Client {
    runtime: Runtime,
    way: Way,
    role: Role,
}

/// The way to the head, which is found again when it was lost.
#[derive(Clone)]
pub(crate) struct Way {
    node: Node,
    head: SocketAddr,
    window: ActorRef<Window>,
}

impl Client {
    /// Joins the cluster whose head is at this `host:port`, as what the token says, and connects to the head.
    ///
    /// # Errors
    /// The head cannot be reached, or does not let this in.
    pub(crate) fn connect(address: &str, token: &str) -> Result<Self, Failure> {
        let token: JoinToken = token.parse().map_err(|error| Failure::refused(format!("{error}")))?;
        if !token.role().is_outside() {
            return Err(Failure::refused(format!(
                "this token is of the role {}: looking at a cluster needs one of Cluster::observer_token or operator_token",
                token.role()
            )));
        }
        let unreachable = |why: &dyn ToString| Failure::Unreachable(format!("{}: {}", line(address), why.to_string()));
        let to = resolve(address).map_err(|why| unreachable(&format!("{why}; the address must be host:port")))?;
        let runtime = Runtime::new("regatta-cli", 1).map_err(|error| unreachable(&error))?.with_build(BUILD);
        let (node, head) = runtime.handle().block_on(async {
            let identity = Identity::join(&token, to, &runtime, STEP).await.map_err(not_joined)?;
            let node = Node::bind(identity, from(to), &runtime).map_err(|error| unreachable(&error))?;
            let head = node.connect(to, STEP).await.map_err(|error| match error {
                ConnectError::ProtocolDiffers { .. } => Failure::refused(error.to_string()),
                error => unreachable(&error),
            })?;
            Ok::<_, Failure>((node, head))
        })?;
        let window = node.actor(Address { node: head, actor: WINDOW });
        Ok(Self { runtime, way: Way { node, head: to, window }, role: token.role() })
    }

    /// Asks.
    ///
    /// # Errors
    /// The head has refused, or is gone.
    pub(crate) fn look(&self, ask: &Ask) -> Result<Answer, Failure> {
        self.wait(self.way.look(ask))
    }

    /// Gives an order.
    ///
    /// # Errors
    /// As [`look`](Self::look). It may have been carried out if the head is gone.
    pub(crate) fn act(&self, order: &Order) -> Result<Answer, Failure> {
        self.wait(self.way.act(order))
    }

    /// The way, for who goes it on their own.
    pub(crate) fn way(&self) -> &Way {
        &self.way
    }

    /// What the token is for.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Waits on this connection's thread.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.handle().block_on(future)
    }
}

impl Way {
    /// Asks the head, once more if it could not be reached and is found again.
    pub(crate) async fn look(&self, ask: &Ask) -> Result<Answer, Failure> {
        match self.ask(Look::new(ask)).await {
            Err(Failure::Unreachable(why)) => match self.node.connect(self.head, STEP).await {
                Ok(_) => self.ask(Look::new(ask)).await,
                Err(_) => Err(Failure::Unreachable(why)),
            },
            answer => answer,
        }
    }

    /// Gives the head an order. It is not given twice.
    pub(crate) async fn act(&self, order: &Order) -> Result<Answer, Failure> {
        self.ask(Act::new(order)).await
    }

    async fn ask<M>(&self, message: M) -> Result<Answer, Failure>
    where
        Window: Handler<M>,
        M: RemoteMessage<Result = String>,
    {
        Ok(read(&self.window.ask(message, ANSWER).await.map_err(not_answered)?)?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.runtime.handle().block_on(self.way.node.close(GOODBYE));
    }
}

fn not_joined(error: JoinError) -> Failure {
    match error {
        JoinError::Deadline(_) | JoinError::Failed(_) | JoinError::NotServed(_) | JoinError::Bind(_) => {
            Failure::Unreachable(error.to_string())
        }
        error => Failure::refused(error.to_string()),
    }
}

fn not_answered(error: AskError) -> Failure {
    match error {
        AskError::NotAllowed { role: Role::Observer } => Failure::refused(
            "this token may look and do nothing else: to cancel queries, drain workers, submit and stop jobs, and make \
             tokens needs one of Cluster::operator_token"
                .to_owned(),
        ),
        AskError::NotAllowed { .. } => Failure::refused(error.to_string()),
        AskError::NoSuchActor => {
            Failure::refused("the head shows nothing: it is of another version of Regatta".to_owned())
        }
        error => Failure::Unreachable(format!("the head does not answer: {error}")),
    }
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found = address.to_socket_addrs().map_err(|error| error.to_string())?;
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| "the host has no address".to_owned())
}

/// Where to dial from.
fn from(to: SocketAddr) -> SocketAddr {
    let here: IpAddr = match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(here, 0)
}
