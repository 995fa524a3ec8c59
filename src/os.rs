//! Calls to the operating system. Linux is tested.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;

/// CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The user that this process runs as; 0 where the system does not say.
pub(crate) fn user_id() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |process| process.uid())
}

/// This machine, as others call it; a stand-in where the system does not say.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

/// A number that no other process has drawn. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one((std::process::id(), std::thread::current().id()))
}

/// The address of this machine from which it sends to another: the one at which that, and what is near it, finds us.
/// Nothing is sent.
///
/// # Errors
/// There is no way there.
pub(crate) fn address_towards(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}
