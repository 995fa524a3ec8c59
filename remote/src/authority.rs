//! The authority: what signs certificates, and what knows the tokens.

mod file;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::ambient::Ambient;
use crate::desk::Desk;
use crate::error::IdentityError;
use crate::identity::{Identity, Leaf, SERVER_NAME, certificate_error, fingerprint, requested_key};
use crate::ids::{ClusterId, Fingerprint, NodeId, PeerId, Role};
use crate::token::JoinToken;

/// What an authority's certificate is called, before its cluster.
const NAME: &str = "regatta cluster ";
/// How long a certificate is good for, unless said otherwise.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The longest life of a certificate or token: the dates of certificates end with the year 9999.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Clocks of two machines may differ by this.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// A cluster's certificate authority. It lives in one process, issues every node's identity, and renews those of
/// nodes that are connected to a head which [serves joins](crate::Node::serve_joins).
pub struct Authority {
    cluster: ClusterId,
    certificate: Vec<u8>,
    fingerprint: Fingerprint,
    issuer: Issuer<'static, KeyPair>,
    lifetime: Duration,
    ambient: Ambient,
    desk: Mutex<Desk>,
}

impl Authority {
    /// A new cluster with a new key, which ends with this process. See [`kept`](Self::kept) for one that does not.
    ///
    /// # Errors
    /// No randomness, or the certificate could not be made.
    pub fn new() -> Result<Self, IdentityError> {
        Self::of(Ambient::System)
    }

    pub(crate) fn of(ambient: Ambient) -> Result<Self, IdentityError> {
        Made::new(&ambient)?.into_authority(ambient)
    }

    fn signing_with(
        cluster: ClusterId,
        certificate: &CertificateDer<'_>,
        key: KeyPair,
        ambient: Ambient,
    ) -> Result<Self, IdentityError> {
        let unreadable = || IdentityError::Certificate("the authority's own cannot be read".to_owned());
        Ok(Self {
            cluster,
            fingerprint: fingerprint(certificate).ok_or_else(unreadable)?,
            certificate: certificate.to_vec(),
            issuer: Issuer::from_ca_cert_der(certificate, key).map_err(certificate_error)?,
            lifetime: LIFETIME,
            ambient,
            desk: Mutex::new(Desk::new()),
        })
    }

    /// Makes its certificates good for `lifetime` instead of 24 hours, and a hundred years at most. They are renewed after two
    /// thirds of it.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime.min(LONGEST);
        self
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
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(certificate_error)?;
        let leaf = self.sign(self.draw(role)?, &key)?;
        Ok(Identity { leaf, key: key.serialize_der() })
    }

    /// A token with which one node of this role can [join](Identity::join) within `ttl`, a hundred years at most, once. A head
    /// must [serve joins](crate::Node::serve_joins).
    ///
    /// # Errors
    /// No randomness, or too many tokens are waiting to be used.
    pub fn token(&self, role: Role, ttl: Duration) -> Result<JoinToken, IdentityError> {
        self.token_for(1, role, ttl)
    }

    /// [`token`](Self::token), for so many nodes: whoever starts a fleet hands the same text to all of it.
    ///
    /// # Errors
    /// As there.
    pub fn token_for(&self, nodes: u32, role: Role, ttl: Duration) -> Result<JoinToken, IdentityError> {
        let now = self.ambient.unix();
        let token = JoinToken::new(self.fingerprint, role, now + ttl.min(LONGEST), self.ambient.random()?);
        if self.desk().add(&token, nodes, now) { Ok(token) } else { Err(IdentityError::TooManyTokens) }
    }

    /// Lets nobody join by a token any more. Who has joined by it stays: see [`Node::give_up`](crate::Node::give_up). False if
    /// this authority does not know it, or not any more.
    pub fn revoke(&self, token: &JoinToken) -> bool {
        self.desk().revoke(token.id())
    }

    /// The node that has [joined](Identity::join) by a token; of several, the last. `None`: nobody has, or this authority does not
    /// know the token, or not any more.
    pub fn let_in(&self, token: &JoinToken) -> Option<NodeId> {
        self.desk().let_in(token.id())
    }

    /// Signs a new node's request.
    pub(crate) fn admit(&self, role: Role, request: &[u8]) -> Result<Leaf, IdentityError> {
        self.sign_request(self.draw(role)?, request)
    }

    /// Signs a node's request under its own name.
    pub(crate) fn sign_request(&self, peer: PeerId, request: &[u8]) -> Result<Leaf, IdentityError> {
        self.sign(peer, &requested_key(request)?)
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, role: Role) -> Result<PeerId, IdentityError> {
        let node = NodeId(u64::from_le_bytes(self.ambient.random()?));
        Ok(PeerId { cluster: self.cluster, role, node })
    }

    fn sign(&self, peer: PeerId, key: &impl PublicKeyData) -> Result<Leaf, IdentityError> {
        let now = self.ambient.unix();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("regatta {}", peer.node));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial(&self.ambient)?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(SERVER_NAME.try_into().map_err(certificate_error)?),
            SanType::URI(peer.uri().as_str().try_into().map_err(certificate_error)?),
        ];
        params.not_before = date(now.saturating_sub(SKEW))?;
        params.not_after = date(now + self.lifetime)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(certificate_error)?;
        Ok(Leaf {
            peer,
            authority: self.certificate.clone(),
            certificate: certificate.der().to_vec(),
            issued: now.as_secs(),
            expires: (now + self.lifetime).as_secs(),
        })
    }
}

/// An authority that was just made.
struct Made {
    cluster: ClusterId,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Made {
    fn new(ambient: &Ambient) -> Result<Self, IdentityError> {
        let cluster = ClusterId(u128::from_le_bytes(ambient.random()?));
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(certificate_error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{NAME}{cluster}"));
        // Path length 0: what this authority signs cannot sign further.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(serial(ambient)?);
        let certificate = params.self_signed(&key).map_err(certificate_error)?;
        Ok(Self { cluster, certificate, key })
    }

    fn into_authority(self, ambient: Ambient) -> Result<Authority, IdentityError> {
        let Self { cluster, certificate, key } = self;
        Authority::signing_with(cluster, certificate.der(), key, ambient)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn date(unix: Duration) -> Result<OffsetDateTime, IdentityError> {
    let seconds = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// A random serial number, always of the same length, so that certificates of a simulation are too.
fn serial(ambient: &Ambient) -> Result<SerialNumber, IdentityError> {
    let [first, rest @ ..] = ambient.random::<16>()?;
    let bytes: Vec<u8> = [0x40 | (first & 0x3f)].into_iter().chain(rest).collect();
    Ok(SerialNumber::from(bytes))
}
