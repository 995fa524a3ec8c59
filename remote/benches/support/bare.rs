//! quinn without this crate, set to the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime};
use regatta_remote::{decode, encode};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;

use crate::transport::{ACCEPTED, CONTROL, DATA, LOOPBACK_MTU, Settings, socket};
use crate::{MESSAGE, SLICE, peer};

/// What a stream is for, in its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Service {
    /// Messages are echoed by another thread, as an actor would be.
    EchoOnThread,
    /// Messages are echoed by the task that reads them.
    EchoInline,
    /// A `u64` follows; that many bytes come back.
    Bulk,
}

/// A certificate, and its key as the peer needs it.
pub(crate) fn certificate() -> (CertificateDer<'static>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate");
    let handed = encode(&(made.cert.der().to_vec(), made.signing_key.serialize_der())).expect("bytes");
    (made.cert.der().clone(), handed.to_vec())
}

/// The peer as a whole process, until it is no longer needed.
pub(crate) fn serve_until_done(handed: &[u8]) {
    runtime().block_on(serve(handed, |address| {
        std::thread::spawn(move || {
            peer::greet_and_wait(&address.to_string());
            std::process::exit(0);
        });
    }));
}

/// As many threads for the network as a node of ours has here.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

/// Connects to the peer as a node of ours does: for messages, and for bulk.
pub(crate) async fn connect(certificate: CertificateDer<'static>, to: SocketAddr) -> (Connection, Connection) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = Arc::new(QuicClientConfig::try_from(config).expect("TLS for QUIC"));
    let endpoint = endpoint(None);
    let dial = async |settings: &Settings| {
        let mut client = ClientConfig::new(Arc::<QuicClientConfig>::clone(&config));
        client.transport_config(Arc::new(settings.transport(true, IDLE).expect("settings")));
        endpoint.connect_with(client, to, NAME).expect("a name").await.expect("the peer is there")
    };
    (dial(&CONTROL).await, dial(&DATA).await)
}

/// Takes one transfer.
pub(crate) async fn take(connection: &Connection, size: u64) {
    let (mut send, mut read) = open(connection, Service::Bulk).await;
    send.write_all(&size.to_le_bytes()).await.expect("the peer is there");
    let mut got = 0;
    while let Some(chunk) = read.read_chunk(SLICE, true).await.expect("bytes") {
        got += chunk.bytes.len() as u64;
    }
    assert_eq!(got, size);
}

/// Opens a stream for a service.
pub(crate) async fn open(connection: &Connection, service: Service) -> (SendStream, RecvStream) {
    let (mut send, read) = connection.open_bi().await.expect("a stream");
    send.write_all(&[service as u8]).await.expect("the peer is there");
    (send, read)
}

async fn serve(handed: &[u8], greet: impl FnOnce(SocketAddr)) {
    let (certificate, key): (Vec<u8>, Vec<u8>) = decode(handed).expect("a certificate and its key");
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
        .expect("they fit");
    config.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).expect("TLS for QUIC")));
    server.transport_config(Arc::new(ACCEPTED.transport(true, IDLE).expect("settings")));
    let endpoint = endpoint(Some(server));
    greet(endpoint.local_addr().expect("bound"));
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await.expect("a handshake");
            connection.set_receive_window(DATA.receive.into());
            connection.set_send_window(DATA.send);
            connection.set_max_concurrent_bi_streams(DATA.streams.into());
            while let Ok((send, read)) = connection.accept_bi().await {
                tokio::spawn(answer(send, read));
            }
        });
    }
}

async fn answer(send: SendStream, mut read: RecvStream) {
    let mut service = [0];
    if read.read_exact(&mut service).await.is_err() {
        return;
    }
    match service[0] {
        on_thread if on_thread == Service::EchoOnThread as u8 => echo_on_thread(send, read).await,
        inline if inline == Service::EchoInline as u8 => echo_inline(send, read).await,
        _ => bulk(send, read).await,
    }
}

async fn echo_inline(mut send: SendStream, mut read: RecvStream) {
    let mut messages = Messages::default();
    while let Ok(Some(chunk)) = read.read_chunk(64 << 10, true).await {
        let echo: Vec<u8> = messages.cut(&chunk.bytes).concat();
        if send.write_all(&echo).await.is_err() {
            return;
        }
    }
}

async fn echo_on_thread(mut send: SendStream, mut read: RecvStream) {
    let (to_thread, asked) = mpsc::channel::<Vec<u8>>();
    let (answer, mut answers) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || asked.into_iter().try_for_each(|message| answer.send(message)));
    tokio::spawn(async move {
        let mut ready = Vec::new();
        while answers.recv_many(&mut ready, 1024).await > 0 {
            if send.write_all(&ready.concat()).await.is_err() {
                return;
            }
            ready.clear();
        }
    });
    let mut messages = Messages::default();
    while let Ok(Some(chunk)) = read.read_chunk(64 << 10, true).await {
        for message in messages.cut(&chunk.bytes) {
            let _ = to_thread.send(message); // fails only if the writer has ended
        }
    }
}

async fn bulk(mut send: SendStream, mut read: RecvStream) {
    let mut size = [0; 8];
    if read.read_exact(&mut size).await.is_err() {
        return;
    }
    let mut left = u64::from_le_bytes(size) as usize;
    let bytes = crate::bulk_bytes();
    while left > 0 {
        let mut slices: Vec<Bytes> = Vec::new();
        while left > 0 && slices.len() < 4 {
            slices.push(bytes.slice(..left.min(SLICE)));
            left -= left.min(SLICE);
        }
        if send.write_all_chunks(&mut slices).await.is_err() {
            return;
        }
    }
    let _ = send.finish(); // fails only if the consumer has stopped it
}

/// An endpoint on loopback.
fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(LOOPBACK_MTU).expect("a size");
    let socket = socket((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}

/// Whole messages out of what comes.
#[derive(Default)]
pub(crate) struct Messages(Vec<u8>);

impl Messages {
    pub(crate) fn cut(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        let whole = self.0.len() / MESSAGE * MESSAGE;
        let rest = self.0.split_off(whole);
        std::mem::replace(&mut self.0, rest).chunks_exact(MESSAGE).map(<[u8]>::to_vec).collect()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

const NAME: &str = "bare";
const ALPN: &[u8] = b"bare/1";
const IDLE: Duration = Duration::from_secs(30);
