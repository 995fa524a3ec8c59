//! Entering a cluster elsewhere, by a token of its head.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use regatta_remote::{Identity, JoinError, JoinToken, JoinTokenError, Node, NodeId, Role, Runtime};

use crate::actors::wait;
use crate::config::ClusterAt;
use crate::error::ClusterError;
use crate::hello::{difference, hello};
use crate::os;

/// How long joining, and then connecting, may take. Almost all that can be wrong shows in the first.
const STEP: Duration = Duration::from_secs(4);

/// Joins a cluster in a role, at this port or at any, and connects to its head. `prepare` gets the node before it is connected.
///
/// # Errors
/// What failed, and what to do about it.
pub(crate) fn connect<T>(
    at: &ClusterAt,
    (role, port): (Role, u16),
    runtime: &Runtime,
    prepare: impl FnOnce(&Node) -> T,
) -> Result<(Node, NodeId, T), ClusterError> {
    let failed = |why: String| ClusterError::Join { address: at.address.clone(), why };
    let token: JoinToken = at.token.parse().map_err(|e: JoinTokenError| failed(e.to_string()))?;
    if token.role() != role {
        let theirs = token.role();
        let a = if theirs.is_outside() { "an" } else { "a" };
        return Err(failed(format!(
            "the token lets in {a} {theirs}, not a {role}; use a text of Cluster::{role}_token"
        )));
    }
    let address = resolve(&at.address).map_err(|e| failed(format!("{e}; it must be host:port")))?;
    let here = os::address_towards(address).map_err(|e| failed(format!("there is no way to {address} ({e})")))?;
    let runtime = &runtime.with_build(hello());
    let joining = runtime.clone();
    let joined = wait(runtime, async move { Identity::join(&token, address, &joining, STEP).await })?;
    let identity = joined.map_err(|error| {
        failed(match error {
            JoinError::BuildDiffers { ours, theirs } => difference(&ours, &theirs),
            error => error.to_string(),
        })
    })?;
    let said = if port == 0 { "" } else { "; REGATTA_PORT says which port" };
    let node = Node::bind(identity, SocketAddr::new(here, port), runtime).map_err(|e| failed(format!("{e}{said}")))?;
    let prepared = prepare(&node);
    let dialling = node.clone();
    let head = wait(runtime, async move { dialling.connect(address, STEP).await })?;
    Ok((node, head.map_err(|e| failed(e.to_string()))?, prepared))
}

/// The address that `host:port` stands for; of several, IPv4 first.
///
/// # Errors
/// It is none, or its host is not known.
pub(crate) fn resolve(text: &str) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    text.to_socket_addrs()?.min_by_key(SocketAddr::is_ipv6).ok_or_else(unknown)
}
