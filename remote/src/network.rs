//! A simulation's network: packets under way, and the sockets that they go to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::ambient::split_mix;

/// Packets that may be under way to one socket; more are lost, as in a socket's buffer.
const QUEUE: usize = 16 << 10;

/// What the network does to packets. The default only delays them, by 1 ms to 3 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Least delay. tokio's timers have a grain of 1 ms.
    pub latency: Duration,
    /// Greatest delay on top of it; each packet's is drawn.
    pub jitter: Duration,
    /// Bytes per second from one socket to another; 0 is without limit.
    pub rate: u64,
    /// Packets lost, of a million.
    pub loss: u32,
    /// Packets, of a million, that come late, by ten times the latency and jitter: only these are overtaken.
    pub late: u32,
}

/// What a network has carried so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Depends on the time, sender, receiver and size of every packet, in order.
    pub hash: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets lost, by chance, partition or a full socket.
    pub lost: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { latency: Duration::from_millis(1), jitter: Duration::from_millis(2), rate: 0, loss: 0, late: 0 }
    }
}

/// An in-memory network. Everything that it decides follows its seed and the order of what it is asked.
#[derive(Debug)]
pub(crate) struct Network(Mutex<State>);

#[derive(Debug)]
struct State {
    started: Instant,
    random: u64,
    faults: Faults,
    cut: BTreeSet<(IpAddr, IpAddr)>,
    paused: BTreeSet<IpAddr>,
    held: Vec<(SocketAddr, Packet)>,
    sockets: BTreeMap<SocketAddr, Inbox>,
    /// When the last packet of a path arrives: later ones do not overtake it.
    paths: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    trace: Trace,
}

#[derive(Debug, Default)]
struct Inbox {
    /// By the time of arrival, then in the order in which they were sent.
    packets: BTreeMap<(Instant, u64), Packet>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(State {
            started: Instant::now(),
            random: seed ^ 0x6e65_7477_6f72_6b00, // not the sequence of names
            faults: Faults::default(),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            held: Vec::new(),
            sockets: BTreeMap::new(),
            paths: BTreeMap::new(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, sent: 0, lost: 0 },
        }))
    }

    /// A socket at an address; a host or port that is left open is filled in.
    pub(crate) fn bind(self: &Arc<Self>, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.state();
        let host = if address.ip().is_unspecified() { state.free_host() } else { address.ip() };
        let port = if address.port() == 0 { state.free_port(host) } else { address.port() };
        let address = SocketAddr::new(host, port);
        if state.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.sockets.insert(address, Inbox::default());
        Ok(Arc::new(Socket { address, network: Arc::clone(self), alarm: Mutex::new(None) }))
    }

    /// A seed for one endpoint's own randomness.
    pub(crate) fn seed(&self) -> [u8; 32] {
        let mut state = self.state();
        let mut seed = [0; 32];
        for piece in seed.chunks_mut(8) {
            piece.copy_from_slice(&split_mix(&mut state.random).to_le_bytes());
        }
        seed
    }

    pub(super) fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    pub(super) fn cut(&self, from: IpAddr, to: IpAddr) {
        self.state().cut.insert((from, to));
    }

    pub(super) fn heal(&self, a: IpAddr, b: IpAddr) {
        self.state().cut.retain(|pair| ![(a, b), (b, a)].contains(pair));
    }

    pub(super) fn pause(&self, host: IpAddr) {
        let mut state = self.state();
        state.paused.insert(host);
        // What is under way to it waits too.
        let mut waiting = Vec::new();
        for (to, inbox) in state.sockets.iter_mut().filter(|(to, _)| to.ip() == host) {
            waiting.extend(std::mem::take(&mut inbox.packets).into_values().map(|packet| (*to, packet)));
        }
        state.held.extend(waiting);
    }

    pub(super) fn resume(&self, host: IpAddr) {
        let mut state = self.state();
        state.paused.remove(&host);
        for (to, packet) in std::mem::take(&mut state.held) {
            state.carry(to, packet);
        }
    }

    pub(super) fn trace(&self) -> Trace {
        self.state().trace
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(&mut self, to: SocketAddr, packet: Packet) {
        self.trace.sent += 1;
        self.note(self.started.elapsed().as_micros() as u64);
        self.note_address(packet.from);
        self.note_address(to);
        self.note(packet.bytes.len() as u64);
        tracing::trace!(at = ?self.started.elapsed(), from = %packet.from, %to, bytes = packet.bytes.len(), "packet");
        if self.cut.contains(&(packet.from.ip(), to.ip())) || self.chance(self.faults.loss) {
            self.trace.lost += 1;
            return;
        }
        self.carry(to, packet);
    }

    /// Puts a packet on its way, or aside if an end is paused.
    fn carry(&mut self, to: SocketAddr, packet: Packet) {
        if self.paused.contains(&to.ip()) || self.paused.contains(&packet.from.ip()) {
            self.held.push((to, packet));
            return;
        }
        let Faults { latency, jitter, rate, late, .. } = self.faults;
        let delay = latency + Duration::from_micros(self.below(jitter.as_micros() as u64 + 1));
        let mut at = Instant::now() + delay;
        if self.chance(late) {
            at += 10 * (latency + jitter); // and others overtake it
        } else {
            let last = self.paths.entry((packet.from, to)).or_insert(at);
            let nanos = (packet.bytes.len() as u64 * 1_000_000_000).checked_div(rate).unwrap_or(0);
            at = at.max(*last + Duration::from_nanos(nanos));
            *last = at;
        }
        let number = self.trace.sent;
        match self.sockets.get_mut(&to) {
            Some(inbox) if inbox.packets.len() < QUEUE => inbox.put(at, number, packet),
            _ => self.trace.lost += 1,
        }
    }

    fn chance(&mut self, of_a_million: u32) -> bool {
        of_a_million > 0 && self.below(1_000_000) < u64::from(of_a_million)
    }

    fn below(&mut self, bound: u64) -> u64 {
        split_mix(&mut self.random) % bound
    }

    fn note(&mut self, value: u64) {
        self.trace.hash = (self.trace.hash ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }

    fn note_address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.note(u64::from(ip.to_bits())),
            IpAddr::V6(ip) => self.note(ip.to_bits() as u64),
        }
        self.note(u64::from(address.port()));
    }

    fn free_host(&self) -> IpAddr {
        let hosts = (1..=u16::MAX).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0aff_0000 | u32::from(n))));
        hosts
            .into_iter()
            .find(|host| !self.sockets.keys().any(|at| at.ip() == *host))
            .unwrap_or_else(|| IpAddr::from([10; 4]))
    }

    fn free_port(&self, host: IpAddr) -> u16 {
        (1024..=u16::MAX).find(|port| !self.sockets.contains_key(&SocketAddr::new(host, *port))).unwrap_or(1)
    }
}

impl Inbox {
    fn put(&mut self, at: Instant, mut number: u64, packet: Packet) {
        while self.packets.contains_key(&(at, number)) {
            number += 1; // what a pause kept back comes at once
        }
        self.packets.insert((at, number), packet);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A node's socket on the network. Its address is free again when it is dropped.
struct Socket {
    address: SocketAddr,
    network: Arc<Network>,
    alarm: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let packet = Packet { from: self.address, bytes: transmit.contents.to_vec() };
        self.network.state().send(transmit.destination, packet);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut state = self.network.state();
            let inbox = state.sockets.entry(self.address).or_default();
            let now = Instant::now();
            let mut count = 0;
            while count < bufs.len().min(meta.len())
                && let Some(first) = inbox.packets.first_entry()
                && first.key().0 <= now
            {
                let packet = first.remove();
                let (buf, meta) = (&mut bufs[count], &mut meta[count]);
                let len = packet.bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&packet.bytes[..len]);
                *meta = RecvMeta { addr: packet.from, len, stride: len, ecn: None, dst_ip: Some(self.address.ip()) };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            inbox.waker = Some(cx.waker().clone());
            let Some((at, _)) = inbox.packets.first_key_value().map(|(key, _)| *key) else {
                return Poll::Pending;
            };
            drop(state);
            let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
            alarm.as_mut().reset(at);
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.network.state().sockets.remove(&self.address);
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
