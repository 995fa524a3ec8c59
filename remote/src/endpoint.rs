//! The QUIC endpoint: socket, transport settings, one configuration per kind of connection.

mod transport;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quinn::{ClientConfig, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};

use crate::ambient::Ambient;
use crate::error::BindError;
use crate::identity::{Identity, SERVER_NAME};
use crate::ids::Fingerprint;
use crate::membership::{BRAKE_HOLD, DEAD};
use crate::runtime::Runtime;
use crate::tls::{ALPN_CONTROL, ALPN_DATA, client_config, join_config, server_config};
use transport::{ACCEPTED, CONTROL, DATA, LOOPBACK_MTU, Settings, socket};

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
    let quinn = open(Some(server), address, runtime)?;
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
        control.transport_config(Arc::new(transport(&CONTROL, loopback)?));
        let mut data = ClientConfig::new(Arc::new(client_config(identity, ALPN_DATA, ambient)?));
        data.transport_config(Arc::new(transport(&DATA, loopback)?));
        Ok(Self { control, data })
    }
}

fn accepts(identity: &Identity, joins: bool, loopback: bool, ambient: &Ambient) -> Result<ServerConfig, BindError> {
    let mut server = ServerConfig::with_crypto(Arc::new(server_config(identity, joins, ambient)?));
    server.transport_config(Arc::new(transport(&ACCEPTED, loopback)?));
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
    ) -> Result<Self, BindError> {
        let crypto = join_config(authority, stranger, alpn, &runtime.net().ambient)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(&CONTROL, address.ip().is_loopback())?));
        let quinn = open(None, address, runtime)?;
        Ok(Self { quinn, config })
    }

    /// To be called on the network's runtime, because quinn spawns there.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<quinn::Connecting, quinn::ConnectError> {
        self.quinn.connect_with(self.config.clone(), to, SERVER_NAME)
    }
}

fn open(server: Option<ServerConfig>, address: SocketAddr, runtime: &Runtime) -> io::Result<quinn::Endpoint> {
    let mut config = EndpointConfig::default();
    // Also off loopback: a peer bound to loopback sends large packets, and only the receiver pays for room.
    config.max_udp_payload_size(LOOPBACK_MTU).map_err(io::Error::other)?;
    let _inside = runtime.handle().enter(); // quinn spawns its driver here
    #[cfg(feature = "sim")]
    if let Some(network) = runtime.network() {
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

// Membership decides who is dead; QUIC gives up only after it, in case a process lives and does not beat.
const IDLE: Duration = Duration::from_secs(DEAD.as_secs() + BRAKE_HOLD.as_secs() + 10);

/// Connections whose first packet the node has not looked at yet.
const INCOMING: usize = 256;

fn transport(settings: &Settings, loopback: bool) -> Result<TransportConfig, BindError> {
    settings.transport(loopback, IDLE).map_err(|error| BindError::Config(error.to_string()))
}
