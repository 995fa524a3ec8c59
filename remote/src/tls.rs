//! An identity as TLS configuration: both sides must chain to the cluster's authority.
//!
//! rustls' own verifiers do all of the checking. Names mean nothing here, so every certificate carries
//! one fixed DNS name and every connection asks for it; who the peer is stands in its URI.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, PeerIncompatible, RootCertStore,
    ServerConfig, SignatureScheme, WantsVerifier, version::TLS13,
};

use crate::ambient::Ambient;
use crate::error::IdentityError;
use crate::identity::{Applicant, Identity, Leaf, SERVER_NAME, fingerprint, peer_in};
use crate::ids::{Fingerprint, PeerId};

/// The protocol of the connection for messages.
pub(crate) const ALPN_CONTROL: &[u8] = b"regatta-ctl/1";
/// The protocol of the connection for bulk bytes.
pub(crate) const ALPN_DATA: &[u8] = b"regatta-data/1";
/// The protocol of the connection on which a node without a certificate asks for one.
pub(crate) const ALPN_JOIN: &[u8] = b"regatta-join/1";

/// TLS for accepting connections of all kinds. Where `joins` are served, a peer without a certificate gets through
/// TLS, and the handshake lets it ask for one and do nothing else.
pub(crate) fn server_config(
    identity: &Identity,
    joins: bool,
    ambient: &Ambient,
) -> Result<QuicServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&identity.leaf)?), provider());
    let verifier = if joins { verifier.allow_unauthenticated() } else { verifier };
    let verifier = verifier.build().map_err(|error| IdentityError::Tls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ambient.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(identity), key(identity))
        .map_err(tls_error)?;
    config.alpn_protocols = vec![ALPN_CONTROL.to_vec(), ALPN_DATA.to_vec()];
    if joins {
        config.alpn_protocols.push(ALPN_JOIN.to_vec());
    }
    config.send_tls13_tickets = 0; // every connection proves itself anew
    QuicServerConfig::try_from(config).map_err(|error| IdentityError::Tls(error.to_string()))
}

fn dialling(ambient: &Ambient) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, IdentityError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(ambient.clone()));
    builder.with_protocol_versions(&[&TLS13]).map_err(tls_error)
}

/// TLS for dialling a connection of one kind.
pub(crate) fn client_config(
    identity: &Identity,
    alpn: &[u8],
    ambient: &Ambient,
) -> Result<QuicClientConfig, IdentityError> {
    let config = dialling(ambient)?
        .with_root_certificates(roots(&identity.leaf)?)
        .with_client_auth_cert(chain(identity), key(identity))
        .map_err(tls_error)?;
    finish(config, alpn)
}

/// TLS for dialling without a certificate, by a node that knows nothing but the fingerprint of its authority. The flag is set when the other end's
/// authority is another one.
pub(crate) fn join_config(
    authority: Fingerprint,
    stranger: Arc<AtomicBool>,
    alpn: &[u8],
    ambient: &Ambient,
) -> Result<QuicClientConfig, IdentityError> {
    let config = dialling(ambient)?
        .dangerous() // rustls' word for a verifier of one's own; ours pins the authority and leaves the rest to rustls
        .with_custom_certificate_verifier(Arc::new(Pin { authority, stranger }))
        .with_no_client_auth();
    finish(config, alpn)
}

impl Applicant {
    /// Takes a certificate if it is for this key and from this authority.
    pub(crate) fn take(self, leaf: Leaf, authority: Fingerprint, ambient: &Ambient) -> Result<Identity, IdentityError> {
        if fingerprint(&leaf.authority) != Some(authority) {
            return Err(IdentityError::Tls("the certificate is of another cluster".to_owned()));
        }
        let identity = Identity { leaf, key: self.0.serialize_der() };
        check(&identity, ambient)?;
        Ok(identity)
    }
}

/// Whether an identity's certificate is good: of its authority, now, for its name and its key.
fn check(identity: &Identity, ambient: &Ambient) -> Result<(), IdentityError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(&identity.leaf)?), provider())
        .build()
        .map_err(|error| IdentityError::Tls(error.to_string()))?;
    let leaf = CertificateDer::from(identity.leaf.certificate.clone());
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| IdentityError::Tls(error.to_string()))?;
    verifier
        .verify_server_cert(&leaf, &[], &name, &[], UnixTime::since_unix_epoch(ambient.unix()))
        .map_err(tls_error)?;
    if peer_in(&leaf) != Some(identity.leaf.peer) {
        return Err(IdentityError::Tls("the certificate is of another node".to_owned()));
    }
    client_config(identity, ALPN_CONTROL, ambient)?; // compares it with the key
    Ok(())
}

/// Who the other end is, from the certificate that TLS has already verified. `None` if it has shown none.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    peer_in(chain.first()?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn finish(mut config: ClientConfig, alpn: &[u8]) -> Result<QuicClientConfig, IdentityError> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|error| IdentityError::Tls(error.to_string()))
}

fn roots(leaf: &Leaf) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(leaf.authority.clone())).map_err(tls_error)?;
    Ok(roots)
}

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    // Who joins pins the authority, and so must see it.
    vec![CertificateDer::from(identity.leaf.certificate.clone()), CertificateDer::from(identity.leaf.authority.clone())]
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()))
}

fn tls_error(error: rustls::Error) -> IdentityError {
    IdentityError::Tls(error.to_string())
}

/// Trusts the one authority whose fingerprint is known, once the other end has shown its certificate; rustls' own
/// verifier does the rest with that.
#[derive(Debug)]
struct Pin {
    authority: Fingerprint,
    stranger: Arc<AtomicBool>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = others.iter().find(|other| fingerprint(other) == Some(self.authority)) else {
            self.stranger.store(true, Ordering::Release);
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(leaf, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS's alert `no_application_protocol` as QUIC carries it.
pub(crate) const NO_PROTOCOL: u64 = 0x100 + 120;
