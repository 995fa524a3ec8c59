//! The QUIC endpoint: socket, transport settings, one configuration per kind of connection.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once, PoisonError, RwLock};
use std::time::Duration;

use quinn::{
    ClientConfig, ConnectionError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ambient::Ambient;
use crate::error::BindError;
use crate::handshake::NO_PROTOCOL;
use crate::identity::{
    ALPN_CONTROL, ALPN_DATA, Fingerprint, Identity, SERVER_NAME, client_config, join_config, server_config,
};
use crate::join::JoinError;
use crate::link::LANES;
use crate::membership::{BRAKE_HOLD, DEAD};
use crate::runtime::{Net, Runtime};

/// What a node dials and accepts with.
pub(crate) struct Endpoint {
    pub(crate) quinn: quinn::Endpoint,
    dials: RwLock<Dials>,
    loopback: bool,
    ambient: Ambient,
}

#[derive(Clone)]
struct Dials {
    control: ClientConfig,
    data: ClientConfig,
}

/// Binds the endpoint of a node.
pub(crate) fn bind(identity: &Identity, address: SocketAddr, runtime: &Runtime) -> Result<Endpoint, BindError> {
    let loopback = address.ip().is_loopback();
    let ambient = runtime.net().ambient.clone();
    let server = accepts(identity, false, loopback, &ambient)?;
    let dials = RwLock::new(Dials::new(identity, loopback, &ambient)?);
    let quinn = open(Some(server), address, runtime.net())?;
    Ok(Endpoint { quinn, dials, loopback, ambient })
}

impl Endpoint {
    /// How to dial a control connection.
    pub(crate) fn control(&self) -> ClientConfig {
        self.dials.read().unwrap_or_else(PoisonError::into_inner).control.clone()
    }

    /// How to dial a data connection.
    pub(crate) fn data(&self) -> ClientConfig {
        self.dials.read().unwrap_or_else(PoisonError::into_inner).data.clone()
    }

    /// Meets later peers with this identity, and serves joins or not. Live connections go on as they are.
    pub(crate) fn present(&self, identity: &Identity, joins: bool) -> Result<(), BindError> {
        let dials = Dials::new(identity, self.loopback, &self.ambient)?;
        let server = accepts(identity, joins, self.loopback, &self.ambient)?;
        *self.dials.write().unwrap_or_else(PoisonError::into_inner) = dials;
        self.quinn.set_server_config(Some(server));
        Ok(())
    }
}

impl Dials {
    fn new(identity: &Identity, loopback: bool, ambient: &Ambient) -> Result<Self, BindError> {
        let mut control = ClientConfig::new(Arc::new(client_config(identity, ALPN_CONTROL, ambient)?));
        control.transport_config(Arc::new(CONTROL.transport(loopback)?));
        let mut data = ClientConfig::new(Arc::new(client_config(identity, ALPN_DATA, ambient)?));
        data.transport_config(Arc::new(DATA.transport(loopback)?));
        Ok(Self { control, data })
    }
}

fn accepts(identity: &Identity, joins: bool, loopback: bool, ambient: &Ambient) -> Result<ServerConfig, BindError> {
    let mut server = ServerConfig::with_crypto(Arc::new(server_config(identity, joins, ambient)?));
    server.transport_config(Arc::new(ACCEPTED.transport(loopback)?));
    // First packets wait only until the node has looked at them, which is soon.
    server.max_incoming(INCOMING).incoming_buffer_size(64 << 10).incoming_buffer_size_total(4 << 20);
    Ok(server)
}

/// The endpoint of a node that has no identity yet.
pub(crate) struct Joining {
    quinn: quinn::Endpoint,
    config: ClientConfig,
}

impl Joining {
    pub(crate) fn bind(
        authority: Fingerprint,
        stranger: Arc<AtomicBool>,
        alpn: &[u8],
        address: SocketAddr,
        runtime: &Runtime,
    ) -> Result<Self, JoinError> {
        let failed = |error: &dyn ToString| JoinError::Bind(error.to_string());
        let crypto = join_config(authority, stranger, alpn, &runtime.net().ambient)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let transport = CONTROL.transport(address.ip().is_loopback()).map_err(|error| failed(&error))?;
        config.transport_config(Arc::new(transport));
        let quinn = open(None, address, runtime.net()).map_err(|error| failed(&error))?;
        Ok(Self { quinn, config })
    }

    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<quinn::Connection, JoinError> {
        let connecting = self.quinn.connect_with(self.config.clone(), to, SERVER_NAME);
        let connecting = connecting.map_err(|error| JoinError::Failed(error.to_string()))?;
        connecting.await.map_err(|error| match &error {
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_PROTOCOL => {
                JoinError::NotServed(to)
            }
            _ => JoinError::Failed(error.to_string()),
        })
    }
}

fn open(server: Option<ServerConfig>, address: SocketAddr, net: &Net) -> io::Result<quinn::Endpoint> {
    let mut config = EndpointConfig::default();
    // Also off loopback: a peer bound to loopback sends large packets, and only the receiver pays for room.
    config.max_udp_payload_size(LOOPBACK_MTU).map_err(io::Error::other)?;
    let _inside = net.handle.enter(); // quinn spawns its driver here
    #[cfg(feature = "sim")]
    if let Some(network) = &net.network {
        config.rng_seed(Some(network.seed()));
        let socket = network.bind(address)?;
        return quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime));
    }
    quinn::Endpoint::new(config, server, socket(address)?, Arc::new(TokioRuntime))
}

/// Widens an accepted connection to what a data connection may use: its kind is known only after the
/// handshake, so it begins with the smaller windows.
pub(crate) fn widen(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(DATA.receive));
    connection.set_send_window(DATA.send);
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(DATA.streams));
}

// GSO sends ten packets at once, and ten of these must stay below 65 507 bytes.
const LOOPBACK_MTU: u16 = 6500;
const SOCKET_BUFFER: usize = 4 << 20;

// Membership decides who is dead; QUIC gives up only after it, in case a process lives and does not beat.
const IDLE: u64 = (DEAD.as_secs() + BRAKE_HOLD.as_secs()) + 10;
const CONTROL: Settings =
    Settings { streams: 0, stream: 1 << 20, receive: 4 << 20, send: 4 << 20, keep_alive: 1, idle: IDLE };
const DATA: Settings =
    Settings { streams: 128, stream: 8 << 20, receive: 64 << 20, send: 8 << 20, keep_alive: 5, idle: IDLE };
const ACCEPTED: Settings =
    Settings { streams: LANES as u32, stream: 8 << 20, receive: 4 << 20, send: 4 << 20, keep_alive: 5, idle: IDLE };
/// Connections whose first packet the node has not looked at yet.
const INCOMING: usize = 256;

struct Settings {
    /// Streams that the other side may have open: lanes are opened by who dials, transfers by either side.
    streams: u32,
    stream: u32,
    receive: u32,
    send: u64,
    keep_alive: u64,
    idle: u64,
}

impl Settings {
    fn transport(&self, loopback: bool) -> Result<TransportConfig, BindError> {
        let idle = IdleTimeout::try_from(Duration::from_secs(self.idle))
            .map_err(|error| BindError::Config(error.to_string()))?;
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.stream))
            .receive_window(VarInt::from_u32(self.receive))
            .send_window(self.send)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(Duration::from_secs(self.keep_alive)))
            .max_idle_timeout(Some(idle));
        if loopback {
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(LOOPBACK_MTU);
            config
                .initial_mtu(LOOPBACK_MTU)
                .mtu_discovery_config(Some(discovery))
                .initial_rtt(Duration::from_millis(10));
        }
        Ok(config)
    }
}

fn socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less; what it granted is read back.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let granted = socket.recv_buffer_size()?.min(socket.send_buffer_size()?);
    if granted < SOCKET_BUFFER {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                granted,
                wanted = SOCKET_BUFFER,
                "small UDP buffers lose packets under load; raise net.core.rmem_max and net.core.wmem_max"
            );
        });
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}
