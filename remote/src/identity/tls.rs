//! An identity as TLS configuration: both sides must chain to the cluster's authority.
//!
//! rustls' own verifiers do all of the checking. Names mean nothing here, so every certificate carries
//! one fixed DNS name and every connection asks for it; who the peer is stands in its URI.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Identity, IdentityError, PeerId};
use crate::ambient::Ambient;

/// The protocol of the connection for messages.
pub(crate) const ALPN_CONTROL: &[u8] = b"regatta-ctl/1";
/// The protocol of the connection for bulk bytes.
pub(crate) const ALPN_DATA: &[u8] = b"regatta-data/1";
/// The one DNS name in every certificate.
pub(crate) const SERVER_NAME: &str = "node.regatta.internal";

/// TLS for accepting connections of both kinds.
pub(crate) fn server_config(identity: &Identity, ambient: &Ambient) -> Result<QuicServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(identity)?), provider())
        .build()
        .map_err(|error| IdentityError::Tls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ambient.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(identity), key(identity))
        .map_err(tls_error)?;
    config.alpn_protocols = vec![ALPN_CONTROL.to_vec(), ALPN_DATA.to_vec()];
    config.send_tls13_tickets = 0; // every connection proves itself anew
    QuicServerConfig::try_from(config).map_err(|error| IdentityError::Tls(error.to_string()))
}

/// TLS for dialling a connection of one kind.
pub(crate) fn client_config(
    identity: &Identity,
    alpn: &[u8],
    ambient: &Ambient,
) -> Result<QuicClientConfig, IdentityError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(ambient.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?
        .with_root_certificates(roots(identity)?)
        .with_client_auth_cert(chain(identity), key(identity))
        .map_err(tls_error)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|error| IdentityError::Tls(error.to_string()))
}

/// Who the other end is, from the certificate that TLS has already verified.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => PeerId::from_uri(uri),
        _ => None,
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(identity: &Identity) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(identity.authority.clone())).map_err(tls_error)?;
    Ok(roots)
}

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from(identity.certificate.clone())]
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()))
}

fn tls_error(error: rustls::Error) -> IdentityError {
    IdentityError::Tls(error.to_string())
}
