//! What connections and their socket are set to. Knows nothing of the crate, so that the benchmarks can set bare
//! quinn to the same.

use std::io;
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt, VarIntBoundsExceeded};
use socket2::{Domain, Protocol, Socket, Type};

// GSO sends ten packets at once, and ten of these must stay below 65 507 bytes.
pub(crate) const LOOPBACK_MTU: u16 = 6500;
const SOCKET_BUFFER: usize = 4 << 20;

pub(crate) const CONTROL: Settings =
    Settings { streams: 0, stream: 1 << 20, receive: 4 << 20, send: 4 << 20, keep_alive: 1 };
pub(crate) const DATA: Settings =
    Settings { streams: 128, stream: 8 << 20, receive: 64 << 20, send: 8 << 20, keep_alive: 5 };
/// Not known to be for data: streams for the lanes of a control connection, and no more.
pub(crate) const ACCEPTED: Settings =
    Settings { streams: 3, stream: 8 << 20, receive: 4 << 20, send: 4 << 20, keep_alive: 5 };

pub(crate) struct Settings {
    /// Streams that the other side may have open: lanes are opened by who dials, transfers by either side.
    pub(crate) streams: u32,
    stream: u32,
    pub(crate) receive: u32,
    pub(crate) send: u64,
    keep_alive: u64,
}

impl Settings {
    pub(crate) fn transport(&self, loopback: bool, idle: Duration) -> Result<TransportConfig, VarIntBoundsExceeded> {
        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.stream))
            .receive_window(VarInt::from_u32(self.receive))
            .send_window(self.send)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(Duration::from_secs(self.keep_alive)))
            .max_idle_timeout(Some(IdleTimeout::try_from(idle)?));
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

/// A bound socket with large buffers.
pub(crate) fn socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
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
