//! Bare quinn that speaks as much of the protocol as it likes, and what the node beside it must not notice.
#![allow(dead_code)] // each test binary uses a part

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use regatta_remote::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::common::*;

pub(crate) const CONTROL: &[u8] = b"regatta-ctl/1";
pub(crate) const DATA: &[u8] = b"regatta-data/1";
pub(crate) const JOIN: &[u8] = b"regatta-join/1";
pub(crate) const BUILD: &[u8] = b"build 1";
pub(crate) const HEADER: usize = 32;

pub(crate) const HELLO: u8 = 1;
pub(crate) const OPEN: u8 = 2;
pub(crate) const TELL: u8 = 3;
pub(crate) const ASK: u8 = 4;
pub(crate) const REPLY: u8 = 5;
pub(crate) const ERROR: u8 = 6;
pub(crate) const CANCEL: u8 = 7;
pub(crate) const RENEW: u8 = 10;
pub(crate) const BEAT: u8 = 11;
pub(crate) const WATCH: u8 = 12;
pub(crate) const UNWATCH: u8 = 13;
pub(crate) const DOWN: u8 = 14;
pub(crate) const ITEM: u8 = 15;
pub(crate) const END: u8 = 16;
pub(crate) const CREDIT: u8 = 17;
pub(crate) const UNWANTED: u8 = 18;
/// The flag of a payload that something is beside.
pub(crate) const BESIDE: u8 = 4;

/// The end of a payload that one byte is beside, held under this number.
pub(crate) fn one_byte_beside(number: u64) -> Vec<u8> {
    [&1u64.to_le_bytes()[..], &1u32.to_le_bytes(), &number.to_le_bytes()].concat()
}

/// Makes a test of each function.
#[macro_export]
macro_rules! on_loopback {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn loopback() {
                super::common::World::loopback(super::$name);
            }
        }
    )*};
}

/// What a flood may cost that is to cost nothing: buffers of connections, and what the allocator keeps.
pub(crate) const MUCH: usize = 96 << 20;

/// Writes until all is written or the node has closed the connection.
pub(crate) async fn flood(lane: &mut SendStream, count: u64, frames: impl Fn(u64) -> Vec<u8>) {
    for turn in (0..count).step_by(1000) {
        let flood: Vec<u8> = (turn..turn + 1000).flat_map(&frames).collect();
        if lane.write_all(&flood).await.is_err() {
            return;
        }
    }
}

/// Takes nothing until its gate is gone.
pub(crate) struct Stuck(pub std::sync::mpsc::Receiver<()>);

impl actix::Actor for Stuck {
    type Context = actix::Context<Self>;
}

impl actix::Handler<Echo> for Stuck {
    type Result = String;
    fn handle(&mut self, message: Echo, _: &mut actix::Context<Self>) -> String {
        let _ = self.0.recv(); // an error when the gate is gone
        message.0
    }
}

/// Lines of the log, of all tests of this binary.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many lines of the log hold all of these.
pub(crate) fn logged(parts: &[&str]) -> usize {
    lines(parts).len()
}

/// The lines of the log that hold all of these.
pub(crate) fn lines(parts: &[&str]) -> Vec<String> {
    LOG.lock().unwrap().iter().filter(|line| parts.iter().all(|part| line.contains(part))).cloned().collect()
}

/// Waits longer than [`eventually`] until a condition holds: for what is much work on a machine that has other work too.
pub(crate) async fn in_the_end(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + 8 * SOON;
    while !condition() {
        assert!(Instant::now() < end, "not in the end: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the log names the reason.
pub(crate) async fn said(parts: &[&str]) {
    let end = Instant::now() + 4 * SOON;
    while logged(parts) == 0 {
        assert!(Instant::now() < end, "not logged: {parts:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A frame as it is on the wire.
#[derive(Clone, Copy, Default)]
pub(crate) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub message: u32,
    pub call: u64,
    pub recipient: u64,
    pub deadline_ms: u32,
}

impl Frame {
    pub(crate) fn of(kind: u8, call: u64) -> Self {
        Self { kind, call, ..Self::default() }
    }

    pub(crate) fn bytes(self, wire: Wire, payload: &[u8]) -> Vec<u8> {
        self.claiming(wire, payload.len() as u32, payload)
    }

    /// With another length than the payload's.
    pub(crate) fn claiming(self, wire: Wire, len: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(wire.version.to_le_bytes());
        bytes.extend(self.message.to_le_bytes());
        bytes.extend(self.call.to_le_bytes());
        bytes.extend(self.recipient.to_le_bytes());
        bytes.extend(self.deadline_ms.to_le_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// Versions that the node speaks: of frames, and of what they mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub version: u16,
    pub protocol: u16,
}

/// The hello of a build.
pub(crate) fn hello(wire: Wire, peer: PeerId, build: &[u8]) -> Vec<u8> {
    let payload = encode(&(wire.protocol, peer.cluster, peer.node, peer.role, build.to_vec())).unwrap();
    Frame::of(HELLO, 0).bytes(wire, &payload)
}

/// A pair that works all the time, and where to attack it.
pub(crate) struct Scene {
    pub pair: Pair,
    pub to: SocketAddr,
    pub wire: Wire,
    /// Asks of the pair that were answered so far.
    pub asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    working: [JoinHandle<Result<Worked, String>>; 2],
    events: [PeerEvents; 2],
    before: Cost,
    _turn: Turn,
}

/// What one of the pair has done, and how long each took.
type Worked = Vec<Duration>;

/// No ask and no transfer of the pair takes longer, whoever attacks, and half of them no longer than the others; most of it is
/// other tests on the same cores, and a transfer is of 6 MiB.
const LATE: Duration = SOON;
const MEDIANS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// What any attack may cost, in memory that stays and in tasks: what is bounded in number is by 8192 at most.
pub(crate) const MOST: Cost = Cost { bytes: 320 << 20, tasks: 9000 };

/// Memory is the whole process's: who measures it is alone.
enum Turn {
    Alone(#[allow(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
    Beside(#[allow(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
}

static TURN: RwLock<()> = RwLock::new(());

/// What a process costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub bytes: usize,
    pub tasks: usize,
}

impl Scene {
    /// With a mailbox of this size at the actor that is attacked. The pair's own is another one.
    pub(crate) async fn new(world: &World, mailbox: usize) -> Self {
        Self::with(world, mailbox, Turn::Beside(TURN.read().unwrap_or_else(PoisonError::into_inner))).await
    }

    /// While no other scene is played, so that its cost can be told.
    pub(crate) async fn alone(world: &World, mailbox: usize) -> Self {
        Self::with(world, mailbox, Turn::Alone(TURN.write().unwrap_or_else(PoisonError::into_inner))).await
    }

    /// What the node costs more than before the attack. The attacker's own bytes count too.
    pub(crate) fn cost(&self) -> Cost {
        let now = self.costs();
        Cost { bytes: now.bytes.saturating_sub(self.before.bytes), tasks: now.tasks.saturating_sub(self.before.tasks) }
    }

    fn costs(&self) -> Cost {
        Cost { bytes: memory(), tasks: self.pair.world.runtime.handle().metrics().num_alive_tasks() }
    }

    async fn with(world: &World, mailbox: usize, turn: Turn) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
            log.with_writer(|| Line).init();
            // The first panic that tells where it was reads this binary's symbols: 45 MB that no attack costs.
            drop(std::backtrace::Backtrace::force_capture().to_string());
        });
        let pair = Pair::new(world, mailbox).await;
        let to = pair.head.address().unwrap();
        let own = pair.arbiter.spawn(8, |_| Tester(Seen::default()));
        pair.head.publish(OWN, &own).on::<Echo>(&[Role::Worker]);
        pair.head.serve_data(Arc::new(Zeros));
        eventually("up", || !pair.head.peers().is_empty()).await;
        let events = [pair.head.events(), pair.worker.events()];
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::<AtomicU64>::default();
        let actor = pair.worker.actor(Address { node: pair.head.id(), actor: OWN });
        let asking = world.spawn(ask_all_the_time(actor, Arc::clone(&asked), Arc::clone(&stop)));
        let fetching = world.spawn(fetch_all_the_time(pair.worker.clone(), pair.head.id(), Arc::clone(&stop)));
        let wire = learn(&pair, to).await;
        let before = Cost { bytes: 0, tasks: 0 };
        let mut scene = Self { pair, to, wire, asked, stop, working: [asking, fetching], events, before, _turn: turn };
        scene.before = scene.costs();
        scene
    }

    /// The pair has noticed nothing, and the attack has left little behind while those who attacked are still there.
    pub(crate) async fn unharmed(mut self) {
        let cost = self.cost();
        assert!(cost.bytes < MOST.bytes && cost.tasks < MOST.tasks, "{cost:?}");
        self.stop.store(true, Ordering::SeqCst);
        for (working, typical) in self.working.into_iter().zip(MEDIANS) {
            let mut worked = working.await.unwrap().unwrap();
            worked.sort_unstable();
            let (median, longest) = (worked[worked.len() / 2], worked[worked.len() - 1]);
            println!(
                "{} times, half of them within {median:?}, all within {longest:?}; it cost {cost:?}",
                worked.len()
            );
            assert!(median < typical && longest < LATE, "the pair was held up: {median:?}, {longest:?}");
        }
        let ours = [self.pair.head.id(), self.pair.worker.id()];
        for events in &mut self.events {
            while let Some(event) = events.try_recv() {
                let text = format!("{event:?}");
                assert!(!ours.iter().any(|node| text.contains(&node.to_string())), "the pair noticed: {text}");
            }
        }
    }

    /// Somebody with a certificate.
    pub(crate) fn rogue(&self) -> Rogue {
        Rogue::new(Some(&self.pair.authority.issue(Role::Worker).unwrap()), self.to, self.wire)
    }
}

const OWN: ActorId = ActorId(8);

async fn ask_all_the_time(
    actor: ActorRef<Tester>,
    asked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<Worked, String> {
    let mut worked = Worked::new();
    while !stop.load(Ordering::SeqCst) || worked.is_empty() {
        let (text, started) = (format!("ask {}", worked.len()), Instant::now());
        let answer = actor.ask(Echo(text.clone()), 2 * SOON).await.map_err(|error| error.to_string())?;
        assert_eq!(answer, text);
        worked.push(started.elapsed());
        asked.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(5)).await;
    }
    Ok(worked)
}

async fn fetch_all_the_time(worker: Node, head: NodeId, stop: Arc<AtomicBool>) -> Result<Worked, String> {
    let mut worked = Worked::new();
    while !stop.load(Ordering::SeqCst) || worked.is_empty() {
        let started = Instant::now();
        let fetched = async { worker.fetch(head, Bytes::from_static(b"ticket"), 2 * SOON).await?.collect(ZEROS).await };
        let fetched: Result<Bytes, FetchError> = fetched.await;
        assert_eq!(fetched.map_err(|error| error.to_string())?.len(), ZEROS);
        worked.push(started.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    Ok(worked)
}

pub(crate) const ZEROS: usize = 6 << 20;

/// Any ticket stands for the same bytes.
pub(crate) struct Zeros;

struct Reader(usize);

impl DataSource for Zeros {
    fn open(&self, _: &[u8], _: PeerId) -> Result<Box<dyn DataReader>, String> {
        Ok(Box::new(Reader(ZEROS)))
    }

    fn delivered(&self, _: &[u8], _: PeerId) {}
}

impl DataReader for Reader {
    fn total(&self) -> u64 {
        ZEROS as u64
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        static BYTES: [u8; 1 << 20] = [0; 1 << 20];
        let size = max.min(self.0).min(BYTES.len());
        self.0 -= size;
        Ok(Bytes::from_static(&BYTES[..size]))
    }
}

/// Somebody with a certificate of any cluster, or with none.
pub(crate) struct Rogue {
    pub endpoint: quinn::Endpoint,
    pub peer: Option<PeerId>,
    pub to: SocketAddr,
    pub wire: Wire,
    /// Bytes of a stream that it lets the node be ahead.
    pub window: Option<u32>,
    tls: rustls::ClientConfig,
}

pub(crate) type Lane = (SendStream, RecvStream);

/// What keeps a rogue in, until this is dropped.
pub(crate) struct Stay {
    pub data: Connection,
    beating: JoinHandle<()>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

impl Rogue {
    /// On a host of its own, where the system has more than one.
    pub(crate) fn new(identity: Option<&Identity>, to: SocketAddr, wire: Wire) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // What it thinks of the node is its own affair.
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut peer = None;
        let tls = match identity {
            Some(identity) => {
                let (leaf, key) = parts(identity);
                peer = Some(leaf.0);
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
                config.with_client_auth_cert(vec![CertificateDer::from(leaf.2)], key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let host = if cfg!(target_os = "linux") { [127, 0, 0, 2] } else { [127, 0, 0, 1] };
        Self { endpoint: quinn::Endpoint::client((host, 0).into()).unwrap(), peer, to, wire, window: None, tls }
    }

    /// Where it dials from, as the log has it.
    pub(crate) fn from(&self) -> String {
        format!("from={}", self.endpoint.local_addr().unwrap())
    }

    pub(crate) fn name(&self) -> String {
        self.peer.unwrap().node.to_string()
    }

    pub(crate) fn connecting(&self, alpn: &[u8]) -> quinn::Connecting {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        if let Some(window) = self.window {
            let mut transport = quinn::TransportConfig::default();
            transport.stream_receive_window(window.into());
            config.transport_config(Arc::new(transport));
        }
        self.endpoint.connect_with(config, self.to, "node.regatta.internal").unwrap()
    }

    pub(crate) async fn dial(&self, alpn: &[u8]) -> Connection {
        timeout(2 * SOON, self.connecting(alpn)).await.expect("no handshake").unwrap()
    }

    /// The error with which a connection ends, whenever that is.
    pub(crate) async fn end(&self, alpn: &[u8]) -> ConnectionError {
        let ended = async {
            match self.connecting(alpn).await {
                Ok(connection) => connection.closed().await,
                Err(error) => error,
            }
        };
        timeout(2 * SOON, ended).await.expect("it was neither refused nor closed")
    }

    /// A proper control connection; the node then serves all lanes.
    pub(crate) async fn greet(&self) -> (Connection, [Lane; 3]) {
        let connection = self.dial(CONTROL).await;
        let mut lanes = Vec::new();
        for first in [hello(self.wire, self.peer.unwrap(), BUILD), self.open(), self.open()] {
            let mut lane = connection.open_bi().await.unwrap();
            lane.0.write_all(&first).await.unwrap();
            lanes.push(lane);
        }
        let mut lanes: [Lane; 3] = lanes.try_into().ok().unwrap();
        assert_eq!(self.read(&mut lanes[0].1).await.0, HELLO);
        (connection, lanes)
    }

    /// [`greet`](Self::greet), and what else a peer does that stays: it has a data connection, and beats.
    pub(crate) async fn enter(&self) -> (Connection, [Lane; 2], Stay) {
        let (connection, [system, messages, beats]) = self.greet().await;
        let (data, wire) = (self.dial(DATA).await, self.wire);
        let beating = tokio::spawn(async move {
            let (mut send, _read) = beats;
            // The same on all of its connections.
            let second = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            while send.write_all(&Frame::of(BEAT, second()).bytes(wire, &[])).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        (connection, [system, messages], Stay { data, beating })
    }

    fn open(&self) -> Vec<u8> {
        Frame::of(OPEN, 0).bytes(self.wire, &[])
    }

    /// The next frame of the node's: its kind, its call, its payload.
    pub(crate) async fn read(&self, lane: &mut RecvStream) -> (u8, u64, Vec<u8>) {
        timeout(4 * SOON, read_frame(lane)).await.expect("no frame")
    }
}

async fn read_frame(lane: &mut RecvStream) -> (u8, u64, Vec<u8>) {
    let mut header = [0; HEADER];
    lane.read_exact(&mut header).await.unwrap();
    let mut payload = vec![0; u32::from_le_bytes(header[..4].try_into().unwrap()) as usize];
    lane.read_exact(&mut payload).await.unwrap();
    (header[4], u64::from_le_bytes(header[12..20].try_into().unwrap()), payload)
}

/// What the node's own hello says of its versions.
async fn learn(pair: &Pair, to: SocketAddr) -> Wire {
    let identity = pair.authority.issue(Role::Driver).unwrap();
    // A guess of the frame's version is right or is refused, in a close that names it.
    for version in 1..100 {
        let rogue = Rogue::new(Some(&identity), to, Wire { version, protocol: 0 });
        let connection = rogue.dial(CONTROL).await;
        let (mut send, mut read) = connection.open_bi().await.unwrap();
        send.write_all(&hello(rogue.wire, rogue.peer.unwrap(), BUILD)).await.unwrap();
        let mut header = [0; HEADER];
        if read.read_exact(&mut header).await.is_ok() {
            let mut payload = vec![0; u32::from_le_bytes(header[..4].try_into().unwrap()) as usize];
            read.read_exact(&mut payload).await.unwrap();
            let (protocol, ..) = decode::<(u16, ClusterId, NodeId, Role, Vec<u8>)>(&payload).unwrap();
            return Wire { version, protocol };
        }
    }
    panic!("the node never said hello");
}

type Leaf = (PeerId, Vec<u8>, Vec<u8>, u64, u64);

/// An identity's certificate and key: it travels, so its bytes can be read.
fn parts(identity: &Identity) -> (Leaf, Vec<u8>) {
    decode(&encode(identity).unwrap()).unwrap()
}

/// The code with which the node closed a connection.
pub(crate) async fn closed(connection: &Connection) -> u64 {
    match timeout(4 * SOON, connection.closed()).await.expect("it was not closed") {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other}"),
    }
}

/// Bytes of memory that the process has.
pub(crate) fn memory() -> usize {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called by any thread at any time, and takes no pointer.
    unsafe {
        libc::malloc_trim(0)
    };
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
