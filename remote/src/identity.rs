//! Who is who: a cluster's certificate authority, and a certificate per node with its role.

mod authority;
mod tls;

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use serde::{Deserialize, Serialize};

use crate::ambient::Ambient;

pub use authority::Authority;
pub(crate) use authority::{Fingerprint, fingerprint};
pub(crate) use tls::{
    ALPN_CONTROL, ALPN_DATA, ALPN_JOIN, SERVER_NAME, client_config, join_config, peer_of, server_config,
};
#[cfg(any(fuzzing, test))]
pub(crate) use {authority::requested_key, tls::peer_in};

/// A cluster. Random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(u128);

/// A node: one process's life. Drawn anew at each start, so it is also the incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(u64);

/// A day and time of so many seconds since 1970. What no clock can show is far enough away; others say when they expire.
pub(crate) fn date(seconds: u64) -> SystemTime {
    let far = Duration::from_secs(u64::from(u32::MAX) * 64);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds).min(far)
}

/// What a node is for; decides which messages it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Runs the scheduler.
    Head,
    /// Submits queries.
    Driver,
    /// Runs tasks.
    Worker,
    /// Finds actors by name and talks to those that take messages from it: a process that a worker has started.
    Guest,
}

/// A node as its certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerId {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its role.
    pub role: Role,
    /// The node.
    pub node: NodeId,
}

/// A node's certificate and key. It travels only over a child's stdin pipe.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    leaf: Leaf,
    key: Vec<u8>,
}

/// A node's certificate, as its authority hands it out.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) peer: PeerId,
    authority: Vec<u8>,
    certificate: Vec<u8>,
    /// When it was issued and when it expires, in seconds since 1970.
    issued: u64,
    expires: u64,
}

/// A key that waits for its certificate.
pub(crate) struct Applicant(KeyPair);

/// An identity could not be made or used.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system's source of randomness failed.
    #[error("no randomness from the system")]
    Random,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// More tokens wait to be used than an authority keeps.
    #[error("too many unused tokens; let some expire first")]
    TooManyTokens,
    /// The request for a certificate is not one.
    #[error("bad request for a certificate: {0}")]
    Request(String),
    /// TLS refused the certificate or the key.
    #[error("TLS refuses this identity: {0}")]
    Tls(String),
}

impl Identity {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.leaf.peer.node
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.leaf.peer.role
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.leaf.peer.cluster
    }

    /// When its certificate expires. A bound [`Node`](crate::Node) renews it before.
    pub fn expires(&self) -> SystemTime {
        date(self.leaf.expires)
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.leaf.peer
    }

    /// The fingerprint of its authority; `None` if that is unreadable.
    pub(crate) fn authority(&self) -> Option<Fingerprint> {
        fingerprint(&self.leaf.authority)
    }

    /// How long until two thirds of the certificate's life are over, and how long between tries after that.
    pub(crate) fn renewal(&self, ambient: &Ambient) -> (Duration, Duration) {
        let life = Duration::from_secs(self.leaf.expires.saturating_sub(self.leaf.issued));
        let due = Duration::from_secs(self.leaf.issued).saturating_add(life / 3 * 2);
        let again = (life / 30).clamp(Duration::from_secs(1), Duration::from_secs(60));
        (due.saturating_sub(ambient.unix()), again)
    }
}

impl Applicant {
    pub(crate) fn new() -> Result<Self, IdentityError> {
        KeyPair::generate_for(&PKCS_ED25519).map(Self).map_err(certificate_error)
    }

    /// A signing request: the public key, signed by its own private key.
    pub(crate) fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.0).map_err(certificate_error)?;
        Ok(request.der().to_vec())
    }

    /// Takes a certificate if it is for this key and from this authority.
    pub(crate) fn take(self, leaf: Leaf, authority: Fingerprint, ambient: &Ambient) -> Result<Identity, IdentityError> {
        if fingerprint(&leaf.authority) != Some(authority) {
            return Err(IdentityError::Tls("the certificate is of another cluster".to_owned()));
        }
        let identity = Identity { leaf, key: self.0.serialize_der() };
        tls::check(&identity, ambient)?;
        Ok(identity)
    }
}

impl PeerId {
    /// The name in the certificate: `regatta://<cluster>/<role>/<node>`.
    pub(crate) fn uri(&self) -> String {
        format!("regatta://{}/{}/{}", self.cluster, self.role, self.node)
    }

    pub(crate) fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("regatta://")?.split('/');
        let cluster = ClusterId(u128::from_str_radix(parts.next()?, 16).ok()?);
        let role = Role::from_name(parts.next()?)?;
        let node = NodeId(u64::from_str_radix(parts.next()?, 16).ok()?);
        let peer = Self { cluster, role, node };
        // One spelling per peer: compare with what we would have written.
        (peer.uri() == uri).then_some(peer)
    }
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Head, Self::Driver, Self::Worker, Self::Guest];

    fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Driver => "driver",
            Self::Worker => "worker",
            Self::Guest => "guest",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.node)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.leaf.peer).finish_non_exhaustive()
    }
}

fn certificate_error(error: rcgen::Error) -> IdentityError {
    IdentityError::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_survives_its_uri_and_only_its_own_spelling() {
        let peer = Authority::new().unwrap().issue(Role::Worker).unwrap().peer();
        assert_eq!(PeerId::from_uri(&peer.uri()), Some(peer));
        assert_eq!(PeerId::from_uri(&format!("{}/more", peer.uri())), None);
        assert_eq!(PeerId::from_uri(&peer.uri().to_uppercase()), None);
        assert_eq!(PeerId::from_uri("regatta://1/worker/2"), None);
    }

    #[test]
    fn debug_hides_the_key() {
        let identity = Authority::new().unwrap().issue(Role::Head).unwrap();
        let text = format!("{identity:?}");
        assert!(!text.contains("key"), "{text}");
        assert!(text.contains(&identity.node().to_string()), "{text}");
    }

    #[test]
    fn an_identity_survives_the_codec() {
        let identity = Authority::new().unwrap().issue(Role::Driver).unwrap();
        let copy: Identity = crate::decode(&crate::encode(&identity).unwrap()).unwrap();
        assert_eq!((copy.peer(), copy.key), (identity.peer(), identity.key));
    }
}
