//! How two nodes meet: certificates, then a hello on lane 0, then the data connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use tokio::time::timeout;

use crate::close::Code;
use crate::codec::{decode, encode};
use crate::error::ConnectError;
use crate::frame::{Header, Kind};
use crate::hello::{Hello, MAX_HELLO, PROTOCOL};
use crate::identity::SERVER_NAME;
use crate::ids::{NodeId, PeerId, Role};
use crate::lane::{FrameReader, send};
use crate::link::{LANES, Link};
use crate::peers::Losing;
use crate::queue::Waiting;
use crate::serve::{self, Services};
use crate::shared::Shared;
use crate::text::line;
use crate::tls::{ALPN_CONTROL, ALPN_DATA, ALPN_JOIN, NO_PROTOCOL, peer_of};
use crate::transfers::Transfers;
use crate::{endpoint, join};

/// How long the accepting side of a handshake may take.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a refused peer has to read why.
const REFUSED_DEADLINE: Duration = Duration::from_secs(2);

/// Dials a node: any, or the one that is expected. To run on the network's runtime, because quinn spawns there.
pub(crate) async fn dial(
    shared: Arc<Shared>,
    to: SocketAddr,
    expected: Option<NodeId>,
) -> Result<(NodeId, Losing), ConnectError> {
    let endpoint = &shared.endpoint;
    let control = Closing(Some(connect(endpoint, endpoint.control(), to).await?));
    let connection = control.connection()?;
    let peer = peer_of(connection).ok_or_else(no_name)?;
    if expected.is_some_and(|node| node != peer.node) {
        return Err(ConnectError::BadHello(format!("{peer} is at its address now")));
    }
    let (mut system_send, system_read) = connection.open_bi().await.map_err(failed)?;
    let (mut message_send, message_read) = connection.open_bi().await.map_err(failed)?;
    let (mut beat_send, beat_read) = connection.open_bi().await.map_err(failed)?;
    let mut system_read = FrameReader::new(system_read, MAX_HELLO);
    send(&mut system_send, Kind::Hello, hello(&shared)?).await.map_err(|e| why(connection, e))?;
    // Nothing else may follow on the other lanes for long, and the peer learns of them only by a frame.
    for lane in [&mut message_send, &mut beat_send] {
        send(lane, Kind::Open, Bytes::new()).await.map_err(|e| why(connection, e))?;
    }
    let theirs = read_hello(&mut system_read).await.map_err(|error| why(connection, error))?;
    if let Err(refusal) = check(&theirs, &shared, peer) {
        refuse(connection, &refusal);
        return Err(refusal);
    }

    let data = Closing(Some(connect(endpoint, endpoint.data(), to).await?));
    if peer_of(data.connection()?) != Some(peer) {
        return Err(ConnectError::BadHello("another node has the data connection".to_owned()));
    }
    let rooms = shared.peers.rooms(peer.node);
    let link = Link::new(peer, Box::new(connection.clone()), shared.net.clone(), rooms);
    let lanes = [(system_send, system_read), lane(message_send, message_read), lane(beat_send, beat_read)];
    begin(&shared, control.keep()?, link, lanes);
    let data = data.keep()?;
    if let Some(losing) = shared.peers.add_data(peer.node, &data) {
        shared.transfers.serve(peer, data);
        Ok((peer.node, losing))
    } else {
        data.close(Code::PeerLost.into(), b"control connection lost");
        Err(ConnectError::Failed("the control connection was lost again".to_owned()))
    }
}

/// Takes a connection of either kind.
pub(crate) async fn accept(shared: Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let mut proven = incoming.remote_address_validated();
    let accepted = async {
        let connection = incoming.accept().map_err(trust)?.await.map_err(trust)?;
        proven = true;
        match protocol(&connection).as_deref() {
            Some(ALPN_JOIN) => join::accept(&shared, connection).await,
            // Where joins are served, TLS lets nodes through that have no certificate yet.
            _ if connection.peer_identity().is_none() => {
                connection.close(Code::NoCertificate.into(), b"no certificate; join with a token first");
                Err(no_name())
            }
            Some(ALPN_CONTROL) => accept_control(&shared, connection).await,
            Some(ALPN_DATA) => accept_data(&shared, connection),
            _ => Err(ConnectError::BadHello("unknown protocol".to_owned())),
        }
    };
    let error = match timeout(ACCEPT_DEADLINE, accepted).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => ConnectError::Failed("its handshake took too long".to_owned()),
    };
    // The door bounds how often a host is refused that has proven its address; anybody may claim to be another.
    if proven || shared.net.may_say(from) {
        tracing::warn!(%from, %error, "refused a connection");
    }
    shared.door().refused(from.ip(), proven, shared.net.ambient.unix());
}

/// A lane on which nothing but its first frame has come yet.
fn lane(send: SendStream, read: RecvStream) -> (SendStream, FrameReader) {
    (send, FrameReader::new(read, MAX_HELLO))
}

/// Adds a control connection, unless its node was given up meanwhile: that closes the connections which it finds. Then
/// serves it.
fn begin(
    shared: &Arc<Shared>,
    connection: Connection,
    (link, waiting): (Arc<Link>, [Waiting; LANES]),
    [system, messages, beats]: [(SendStream, FrameReader); LANES],
) {
    shared.peers.add_control(&link);
    if shared.given_up.has(link.peer.node) {
        shared.peers.disconnect(link.peer.node);
    }
    serve::write(&shared.net, &connection, [system.0, messages.0, beats.0], waiting);
    let services = Services {
        routes: Arc::clone(&shared.routes),
        peers: Arc::clone(&shared.peers),
        beside: Arc::<Transfers>::clone(&shared.transfers),
        renewer: Arc::<Shared>::clone(shared),
        net: shared.net.clone(),
    };
    serve::run(services, &link, connection, [system.1, messages.1, beats.1]);
}

async fn accept_control(shared: &Arc<Shared>, connection: Connection) -> Result<(), ConnectError> {
    let control = Closing(Some(connection.clone()));
    let peer = peer_of(&connection).ok_or_else(no_name)?;
    let (mut system_send, system_read) = connection.accept_bi().await.map_err(failed)?;
    let mut system_read = FrameReader::new(system_read, MAX_HELLO);
    let theirs = read_hello(&mut system_read).await.map_err(|error| why(&connection, error))?;
    if let Err(refusal) = check(&theirs, shared, peer) {
        if matches!(refusal, ConnectError::DeclaredDead | ConnectError::Expelled) {
            refuse(&connection, &refusal); // no hello of ours could tell it that
            return Err(refusal);
        }
        // The peer learns our side of the difference from our hello, and then closes.
        send(&mut system_send, Kind::Hello, hello(shared)?).await.map_err(|e| why(&connection, e))?;
        let _ = timeout(REFUSED_DEADLINE, connection.closed()).await;
        refuse(&connection, &refusal);
        return Err(refusal);
    }
    let (message_send, message_read) = connection.accept_bi().await.map_err(failed)?;
    let (beat_send, beat_read) = connection.accept_bi().await.map_err(failed)?;
    let link = Link::new(peer, Box::new(connection), shared.net.clone(), shared.peers.rooms(peer.node));
    // Our hello lets the peer dial the data connection, which must find this one in the table: so it is
    // queued before, and written after, the table knows.
    link.0.try_send(Kind::Hello, 0, hello(shared)?);
    let lanes = [(system_send, system_read), lane(message_send, message_read), lane(beat_send, beat_read)];
    begin(shared, control.connection()?.clone(), link, lanes);
    // Without a data connection it is no peer: nobody would see that it is silent. The handshake lasts until that is there.
    let data = shared.peers.data(peer.node).await;
    control.keep()?;
    data.map(drop).ok_or_else(|| ConnectError::Failed("it went before its data connection came".to_owned()))
}

fn accept_data(shared: &Arc<Shared>, connection: Connection) -> Result<(), ConnectError> {
    let peer = peer_of(&connection).ok_or_else(no_name)?;
    endpoint::widen(&connection);
    if shared.peers.add_data(peer.node, &connection).is_none() {
        connection.close(Code::NoControl.into(), b"no control connection");
        return Err(ConnectError::BadHello("a data connection without a control one".to_owned()));
    }
    shared.transfers.serve(peer, connection);
    Ok(())
}

/// Whether we talk to the peer of this hello, whose certificate says `peer`.
fn check(theirs: &Hello, shared: &Shared, peer: PeerId) -> Result<(), ConnectError> {
    if theirs.protocol != PROTOCOL {
        return Err(ConnectError::ProtocolDiffers { ours: PROTOCOL, theirs: theirs.protocol });
    }
    if (theirs.cluster, theirs.node, theirs.role) != (peer.cluster, peer.node, peer.role) {
        return Err(ConnectError::BadHello("it is not what the certificate says".to_owned()));
    }
    if peer.node == shared.id() {
        return Err(ConnectError::BadHello("a node cannot connect to itself".to_owned()));
    }
    if shared.peers.is_dead(peer.node) {
        return Err(ConnectError::DeclaredDead);
    }
    if shared.given_up.has(peer.node) {
        return Err(ConnectError::Expelled);
    }
    let roles = [shared.me.role, theirs.role];
    if roles.iter().any(|role| role.is_outside()) {
        // What they say to each other has a version of its own.
        let alone = || ConnectError::BadHello("who looks from outside is let in by heads alone".to_owned());
        return if roles.contains(&Role::Head) { Ok(()) } else { Err(alone()) };
    }
    if theirs.build != shared.build {
        return Err(ConnectError::BuildDiffers { ours: shared.build.to_vec(), theirs: theirs.build.clone() });
    }
    Ok(())
}

/// Closes a connection if it is dropped before it is kept.
struct Closing(Option<Connection>);

impl Closing {
    fn connection(&self) -> Result<&Connection, ConnectError> {
        self.0.as_ref().ok_or(ConnectError::Closed)
    }

    fn keep(mut self) -> Result<Connection, ConnectError> {
        self.0.take().ok_or(ConnectError::Closed)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close(Code::Abandoned.into(), b"handshake abandoned");
        }
    }
}

async fn connect(
    endpoint: &endpoint::Endpoint,
    config: quinn::ClientConfig,
    to: SocketAddr,
) -> Result<Connection, ConnectError> {
    let connecting = endpoint.quinn.connect_with(config, to, SERVER_NAME);
    let connecting = connecting.map_err(|error| match error {
        quinn::ConnectError::EndpointStopping => ConnectError::Closed,
        other => ConnectError::Failed(other.to_string()),
    })?;
    connecting.await.map_err(trust)
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

fn hello(shared: &Shared) -> Result<Bytes, ConnectError> {
    let hello = Hello::new(shared.me, &shared.build);
    encode(&hello).map_err(|error| ConnectError::BadHello(error.to_string()))
}

async fn read_hello(lane: &mut FrameReader) -> Result<Hello, String> {
    let frame = lane.next().await.map_err(|error| error.to_string())?;
    match frame {
        Some((Header { kind: Kind::Hello, .. }, payload)) => decode(&payload).map_err(|error| error.to_string()),
        Some((header, _)) => Err(format!("{:?} instead of a hello", header.kind)),
        None => Err("no hello".to_owned()),
    }
}

fn refuse(connection: &Connection, refusal: &ConnectError) {
    let code = match refusal {
        ConnectError::BuildDiffers { .. } => Code::BuildDiffers,
        ConnectError::ProtocolDiffers { .. } => Code::ProtocolDiffers,
        ConnectError::DeclaredDead => Code::DeclaredDead,
        ConnectError::Expelled => Code::Expelled,
        _ => Code::BadHello,
    };
    connection.close(code.into(), refusal.to_string().as_bytes());
}

/// A hello failed: because the connection was refused, or for a reason of its own.
fn why(connection: &Connection, error: String) -> ConnectError {
    match connection.close_reason() {
        Some(reason) => trust(reason),
        None => ConnectError::BadHello(error),
    }
}

/// A connection failed in its handshake; TLS alerts say that a certificate is not trusted.
fn trust(error: ConnectionError) -> ConnectError {
    let alert = match &error {
        ConnectionError::ApplicationClosed(close) if close.error_code == Code::DeclaredDead.into() => {
            return ConnectError::DeclaredDead;
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == Code::Expelled.into() => {
            return ConnectError::Expelled;
        }
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => 0,
    };
    match alert {
        EXPIRED => ConnectError::CertificateExpired { reason: line(error) },
        NO_PROTOCOL => ConnectError::BadHello("the two sides have no protocol in common".to_owned()),
        // TLS alerts, RFC 9001 section 4.8.
        0x100..0x200 => ConnectError::NotTrusted { reason: line(error) },
        _ => failed(error),
    }
}

/// TLS's alert `certificate_expired` as QUIC carries it.
const EXPIRED: u64 = 0x100 + 45;

fn failed(error: ConnectionError) -> ConnectError {
    ConnectError::Failed(line(error))
}

fn no_name() -> ConnectError {
    ConnectError::BadHello("the certificate names no node".to_owned())
}
