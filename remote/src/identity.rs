//! A node's certificate and key.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ED25519, PublicKey};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ambient::Ambient;
use crate::error::IdentityError;
use crate::ids::{ClusterId, Fingerprint, NodeId, PeerId, Role};

/// The one DNS name in every certificate.
pub(crate) const SERVER_NAME: &str = "node.regatta.internal";

/// A day and time of so many seconds since 1970. What no clock can show is far enough away; others say when they expire.
pub(crate) fn date(seconds: u64) -> SystemTime {
    let far = Duration::from_secs(u64::from(u32::MAX) * 64);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds).min(far)
}

/// A node's certificate and key. It travels only over a child's stdin pipe.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    pub(crate) leaf: Leaf,
    pub(crate) key: Vec<u8>,
}

/// A node's certificate, as its authority hands it out.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Leaf {
    pub(crate) peer: PeerId,
    pub(crate) authority: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    /// When it was issued and when it expires, in seconds since 1970.
    pub(crate) issued: u64,
    pub(crate) expires: u64,
}

/// A key that waits for its certificate.
pub(crate) struct Applicant(pub(crate) KeyPair);

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
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.leaf.peer).finish_non_exhaustive()
    }
}

/// The fingerprint of a certificate's key; `None` if it is not a certificate.
pub(crate) fn fingerprint(certificate: &[u8]) -> Option<Fingerprint> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    digest(&SHA256, certificate.tbs_certificate.subject_pki.raw).as_ref().try_into().ok()
}

/// The key of a signing request. Nothing else of it is taken: the names are ours to give.
pub(crate) fn requested_key(request: &[u8]) -> Result<PublicKey, IdentityError> {
    let request = CertificateSigningRequestParams::from_der(&request.into())
        .map_err(|error| IdentityError::Request(error.to_string()))?;
    if request.public_key.algorithm() != &PKCS_ED25519 {
        return Err(IdentityError::Request("not an Ed25519 key".to_owned()));
    }
    Ok(request.public_key)
}

/// Who a certificate names.
pub(crate) fn peer_in(certificate: &[u8]) -> Option<PeerId> {
    let (_, leaf) = X509Certificate::from_der(certificate).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => PeerId::from_uri(uri),
        _ => None,
    })
}

pub(crate) fn certificate_error(error: rcgen::Error) -> IdentityError {
    IdentityError::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

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
