//! The API server behind TLS, with a certificate that an authority of the cluster's own has signed.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::{KubeAccess, KubeOptions};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::server::Kubernetes;
use super::work::{slow_query, sum};
use super::{eager, session, workers};

/// Serves an API server by TLS, and writes the certificate of its authority to a file. Gives the address.
fn behind_tls(kubernetes: &Kubernetes, authority: &Path) -> String {
    let (key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(authority, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    // By its address, as pods know it.
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let (plain, acceptor) = (kubernetes.address.replace("http://", ""), TlsAcceptor::from(Arc::new(config)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, plain) = (acceptor.clone(), plain.clone());
                tokio::spawn(async move {
                    // One that does not trust us goes away.
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let mut outside = tokio::net::TcpStream::connect(plain).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut inside, &mut outside).await);
                });
            }
        });
    });
    address
}

#[test]
fn the_api_server_is_known_by_the_clusters_own_authority_and_by_nothing_else() {
    let (kubernetes, folder) = (Kubernetes::new(), tempfile::tempdir().unwrap());
    let (right, wrong) = (folder.path().join("ca.crt"), folder.path().join("other.crt"));
    let server = behind_tls(&kubernetes, &right);
    behind_tls(&kubernetes, &wrong);
    let options = |certificate: &Path| {
        let access =
            KubeAccess { server: server.clone(), certificate: Some(certificate.to_owned()), ..kubernetes.access() };
        KubeOptions { access: Some(access), ..kubernetes.options(1..=1) }
    };
    let session = session(options(&right));
    eventually("one has joined", || workers(&session) == 1);
    assert_eq!(sum(&slow_query(100).collect_on(&session).unwrap()), 99 * 50);
    drop(session);
    eventually("nothing is left", || kubernetes.names().is_empty());
    let error = Session::kubernetes_with(options(&wrong), eager()).unwrap_err().to_string();
    assert!(error.contains("cannot be reached") && error.to_lowercase().contains("certificate"), "{error}");
}
