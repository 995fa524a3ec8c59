//! Who is who: a cluster's certificate authority, and a certificate per node with its role.

mod tls;

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};

use crate::ambient::Ambient;

pub(crate) use tls::{ALPN_CONTROL, ALPN_DATA, SERVER_NAME, client_config, peer_of, server_config};

/// A cluster. Random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(u128);

/// A node: one process's life. Drawn anew at each start, so it is also the incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(u64);

/// What a node is for; decides which messages it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Runs the scheduler.
    Head,
    /// Submits queries.
    Driver,
    /// Runs tasks.
    Worker,
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

/// A cluster's certificate authority. It lives in one process and issues every node's identity.
pub struct Authority {
    cluster: ClusterId,
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    ambient: Ambient,
}

/// A node's certificate and key. It travels only over a child's stdin pipe.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    peer: PeerId,
    authority: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// An identity could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system's source of randomness failed.
    #[error("no randomness from the system")]
    Random,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// TLS refused the certificate or the key.
    #[error("TLS refuses this identity: {0}")]
    Tls(String),
}

impl Authority {
    /// A new cluster with a new key.
    ///
    /// # Errors
    /// No randomness, or the certificate could not be made.
    pub fn new() -> Result<Self, IdentityError> {
        Self::of(Ambient::System)
    }

    pub(crate) fn of(ambient: Ambient) -> Result<Self, IdentityError> {
        let cluster = ClusterId(u128::from_le_bytes(ambient.random()?));
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(certificate_error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("regatta cluster {cluster}"));
        // Path length 0: what this authority signs cannot sign further.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(serial(&ambient)?);
        let certificate = params.self_signed(&key).map_err(certificate_error)?;
        let certificate = certificate.der().to_vec();
        Ok(Self { cluster, certificate, issuer: Issuer::new(params, key), ambient })
    }

    /// The cluster that this authority stands for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// A new node's identity; draws its [`NodeId`].
    ///
    /// # Errors
    /// No randomness, or the certificate could not be made.
    pub fn issue(&self, role: Role) -> Result<Identity, IdentityError> {
        let node = NodeId(u64::from_le_bytes(self.ambient.random()?));
        let peer = PeerId { cluster: self.cluster, role, node };
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(certificate_error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("regatta {node}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial(&self.ambient)?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(SERVER_NAME.try_into().map_err(certificate_error)?),
            SanType::URI(peer.uri().as_str().try_into().map_err(certificate_error)?),
        ];
        let certificate = params.signed_by(&key, &self.issuer).map_err(certificate_error)?;
        Ok(Identity {
            peer,
            authority: self.certificate.clone(),
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        })
    }
}

impl Identity {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.peer.node
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.peer.role
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.peer.cluster
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }
}

impl PeerId {
    /// The name in the certificate: `regatta://<cluster>/<role>/<node>`.
    fn uri(&self) -> String {
        format!("regatta://{}/{}/{}", self.cluster, self.role, self.node)
    }

    fn from_uri(uri: &str) -> Option<Self> {
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
    fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Driver => "driver",
            Self::Worker => "worker",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Head, Self::Driver, Self::Worker].into_iter().find(|role| role.name() == name)
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

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A random serial number, always of the same length, so that certificates of a simulation are too.
fn serial(ambient: &Ambient) -> Result<SerialNumber, IdentityError> {
    let [first, rest @ ..] = ambient.random::<16>()?;
    let bytes: Vec<u8> = [0x40 | (first & 0x3f)].into_iter().chain(rest).collect();
    Ok(SerialNumber::from(bytes))
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
        assert_eq!((copy.peer, copy.key), (identity.peer, identity.key));
    }
}
