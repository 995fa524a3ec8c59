//! The server: a socket, its connections, and what all of them share.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::Source;
use crate::access::{Access, Token};
use crate::answer::{Shared, answer};
use crate::http::{self, Response};
use crate::profiles::Profiles;
use crate::seats::{CONNECTIONS, Seat, Seats};
use crate::views::Views;

/// How a dashboard is served. At `127.0.0.1:7780` unless said otherwise, or at the next port that is free; with a token of its own.
#[derive(Debug, Clone)]
pub struct Dashboard {
    address: SocketAddr,
    names: Vec<String>,
    may_act: bool,
    token: Option<Token>,
}

/// Ports that are tried after one that is taken.
const PORTS: u16 = 16;
/// How long nobody is let in when the system cannot take a connection, as when it has too many open files.
const BREATH: Duration = Duration::from_millis(200);

impl Default for Dashboard {
    fn default() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7780));
        Self { address, names: Vec::new(), may_act: false, token: None }
    }
}

impl Dashboard {
    /// As it is by default.
    pub fn new() -> Self {
        Self::default()
    }

    /// At this address. What is not on this machine's loopback goes over the network as it is, with the token: there a proxy with TLS
    /// belongs before it. Port 0 takes any that is free.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Answers under this name, too, as a proxy asks that keeps the name by which it is asked itself.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Whoever looks may also cancel queries. Without this nobody may.
    pub fn with_control(mut self) -> Self {
        self.may_act = true;
        self
    }

    /// With this token, and not one that nobody knows yet.
    pub fn with_token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Takes the port. It is to be called within a Tokio runtime with a network and a clock.
    ///
    /// # Errors
    /// No port is free, or the address is not this machine's; no randomness.
    pub async fn bind(self, source: Arc<dyn Source>) -> io::Result<Bound> {
        let listener = listen(self.address).await?;
        let address = listener.local_addr()?;
        let token = self.token.map_or_else(Token::random, Ok)?;
        let profiles = Arc::new(Profiles::new(Arc::clone(&source)));
        let shared = Arc::new(Shared {
            access: Access::new(token.clone(), self.names),
            may_act: self.may_act && source.may_act(),
            views: Views::new(Arc::clone(&source), Arc::clone(&profiles)),
            profiles,
            source,
            seats: Seats::default(),
        });
        Ok(Bound { listener, address, token, shared })
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let mut port = address.port();
    loop {
        match TcpListener::bind((address.ip(), port)).await {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && port != 0
                    && port < address.port().saturating_add(PORTS) =>
            {
                port += 1;
            }
            bound => return bound,
        }
    }
}

/// A dashboard that has its port.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    token: Token,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Bound {
    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What lets viewers in. A secret.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// What a browser is to open, with the token: a secret, too. The token is in the part that browsers do not send.
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        format!("http://{}/#t={}", SocketAddr::new(ip, self.address.port()), self.token)
    }

    /// Serves, without end. Dropping the future closes the port, and ends what is being answered.
    pub async fn run(self) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => accepted,
                // What has ended is forgotten.
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = stream else {
                tokio::time::sleep(BREATH).await;
                continue;
            };
            let shared = Arc::clone(&self.shared);
            // One for which there is no room is closed.
            self.shared.seats.take(CONNECTIONS, |seat| connections.spawn(converse(stream, seat, shared)));
        }
    }
}

/// Answers what comes by a connection.
async fn converse(mut stream: TcpStream, seat: Seat, shared: Arc<Shared>) {
    // It is only slower without.
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        let request = match http::read(&mut stream, &mut buffer).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(bad) => {
                let _ = http::write(&mut stream, &Response::text(bad.status, bad.why), false).await;
                return;
            }
        };
        let response = tokio::select! {
            response = answer(&shared, &request, &seat) => response,
            () = is_gone(&stream) => return,
        };
        if http::write(&mut stream, &response, request.stays).await.is_err() || !request.stays {
            return;
        }
    }
}

/// Waits until nobody reads the answer any more.
async fn is_gone(stream: &TcpStream) {
    if matches!(stream.peek(&mut [0]).await, Ok(1..)) {
        // The next request is there already.
        std::future::pending::<()>().await;
    }
}
