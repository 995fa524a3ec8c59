//! A message of 64 bytes and its answer between two processes of this machine. See docs/book/src/benchmarks.md.

#[path = "support/bare.rs"]
mod bare;
#[path = "../../benches/support/foreign.rs"]
mod foreign;
#[path = "support/ours.rs"]
mod ours;
#[path = "support/peer.rs"]
mod peer;
#[path = "../../benches/support/report.rs"]
mod report;
#[path = "../src/endpoint/transport.rs"]
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bare::Service;
use bytes::Bytes;
use foreign::{Figures, figure};
use ours::{ECHO, Echo, Echoer, Ours, SOON};
use peer::{Peer, cpu};
use quinn::{RecvStream, SendStream};
use regatta_remote::Address;
use report::{Better, Case, Report, quantile};

/// Bytes of a message.
const MESSAGE: usize = 64;
/// Asks under way when they are pipelined.
const IN_FLIGHT: usize = 512;
/// How long each case is measured, after its warm-up.
const WINDOW: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(200);
/// Bytes of each transfer beside the asks.
const TRANSFER: u64 = 64 << 20;
/// Bytes of a piece of a transfer, as the crate cuts them.
const SLICE: usize = 256 << 10;

const P50: Case = Case { name: "one at a time, p50", unit: "us", better: Better::Lower };
const P99: Case = Case { name: "one at a time, p99", unit: "us", better: Better::Lower };
const P999: Case = Case { name: "one at a time, p99.9", unit: "us", better: Better::Lower };
const PIPELINED: Case = Case { name: "512 in flight", unit: "/s", better: Better::Higher };
const PIPELINED_CPU: Case = Case { name: "512 in flight, CPU", unit: "us each", better: Better::Lower };
const BULK_P50: Case = Case { name: "beside bulk, p50", unit: "us", better: Better::Lower };
const BULK_P99: Case = Case { name: "beside bulk, p99", unit: "us", better: Better::Lower };
const BULK: Case = Case { name: "that bulk", unit: "GB/s", better: Better::Higher };
/// In the order in which programs in other languages name them.
static CASES: [(&str, Case); 8] = [
    ("p50", P50),
    ("p99", P99),
    ("p99.9", P999),
    ("pipelined", PIPELINED),
    ("pipelined_cpu", PIPELINED_CPU),
    ("bulk_p50", BULK_P50),
    ("bulk_p99", BULK_P99),
    ("bulk", BULK),
];

fn main() {
    if let Some((system, handed)) = peer::role() {
        return serve(&system, &handed);
    }
    let mut report = Report::from_args("ask", "quinn, echo on a thread");
    for _ in 0..report.repetitions() {
        add(&mut report, "regatta-remote", Ok(regatta()));
        add(&mut report, "quinn, echo on a thread", Ok(quinn(Service::EchoOnThread)));
        add(&mut report, "quinn, echo inline", Ok(quinn(Service::EchoInline)));
        add(&mut report, "ractor_cluster", foreign::foreign("ractor/bin/ractor-peer", &[]));
        add(&mut report, "Ray actor", foreign::python("ray_ask.py", &[]));
    }
    report.finish();
}

fn add(report: &mut Report, system: &'static str, figures: Result<Figures, String>) {
    for (name, case) in &CASES {
        report.add(case, system, figure(&figures, name));
    }
}

fn serve(system: &str, handed: &[u8]) {
    if system == "regatta" {
        return ours::serve(handed, |address| peer::greet_and_wait(&address.to_string()));
    }
    bare::serve_until_done(handed);
}

fn regatta() -> Figures {
    let ours = Ours::connect();
    let actor = ours.node.actor::<Echoer>(Address { node: ours.there, actor: ECHO });
    ours.runtime.handle().block_on(async {
        let ask = async || {
            actor.ask(message(), SOON).await.expect("an answer");
        };
        let alone = one_at_a_time(ask).await;
        let count = Arc::new(AtomicU64::new(0));
        let askers = (0..IN_FLIGHT).map(|_| {
            let (actor, count) = (actor.clone(), Arc::clone(&count));
            async move {
                loop {
                    actor.ask(message(), SOON).await.expect("an answer");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let pipelined = pipelined(&ours.peer, &count, askers).await;
        let (node, there) = (ours.node.clone(), ours.there);
        let transfers = async move |count: Arc<AtomicU64>| {
            loop {
                Ours::fetch(&node, there, TRANSFER).await;
                count.fetch_add(TRANSFER, Ordering::Relaxed);
            }
        };
        let beside = beside(transfers, ask).await;
        figures(alone, pipelined, beside)
    })
}

fn quinn(echo: Service) -> Figures {
    let (certificate, handed) = bare::certificate();
    let peer = Peer::start("quinn", &handed);
    let to = peer.greeting.parse().expect("an address");
    bare::runtime().block_on(async {
        let (control, data) = bare::connect(certificate, to).await;
        let (mut send, mut read) = bare::open(&control, echo).await;
        let mut ask = async || {
            send.write_all(&[b'x'; MESSAGE]).await.expect("the peer is there");
            read.read_exact(&mut [0; MESSAGE]).await.expect("an answer");
        };
        let alone = one_at_a_time(&mut ask).await;
        let count = Arc::new(AtomicU64::new(0));
        let asker = answers_again(bare::open(&control, echo).await, Arc::clone(&count));
        let pipelined = pipelined(&peer, &count, [asker]).await;
        let transfers = async move |count: Arc<AtomicU64>| {
            loop {
                bare::take(&data, TRANSFER).await;
                count.fetch_add(TRANSFER, Ordering::Relaxed);
            }
        };
        let beside = beside(transfers, ask).await;
        figures(alone, pipelined, beside)
    })
}

/// Keeps `IN_FLIGHT` messages under way: what has come back goes out again, all of it at once.
async fn answers_again((mut send, mut read): (SendStream, RecvStream), count: Arc<AtomicU64>) {
    send.write_all(&[b'x'; MESSAGE * IN_FLIGHT]).await.expect("the peer is there");
    let mut messages = bare::Messages::default();
    loop {
        let chunk = read.read_chunk(64 << 10, true).await.expect("answers").expect("answers");
        let echoed = messages.cut(&chunk.bytes);
        count.fetch_add(echoed.len() as u64, Ordering::Relaxed);
        send.write_all(&echoed.concat()).await.expect("the peer is there");
    }
}

/// Microseconds of each ask.
async fn one_at_a_time(mut ask: impl AsyncFnMut()) -> Vec<f64> {
    let mut times = Vec::new();
    let started = Instant::now();
    loop {
        let asked = Instant::now();
        ask().await;
        match started.elapsed() {
            past if past > WARM_UP + WINDOW => return times,
            past if past > WARM_UP => times.push(asked.elapsed().as_secs_f64() * 1e6),
            _ => (),
        }
    }
}

/// Asks per second while these askers run, and microseconds of CPU that each costs in both processes.
async fn pipelined<F>(peer: &Peer, count: &AtomicU64, askers: impl IntoIterator<Item = F>) -> (f64, f64)
where
    F: Future<Output = ()> + Send + 'static,
{
    let askers: Vec<_> = askers.into_iter().map(tokio::spawn).collect();
    let now = || (count.load(Ordering::Relaxed), Instant::now(), cpu(std::process::id()) + peer.cpu());
    tokio::time::sleep(WARM_UP).await;
    let before = now();
    tokio::time::sleep(WINDOW).await;
    let after = now();
    askers.iter().for_each(tokio::task::JoinHandle::abort);
    let asks = (after.0 - before.0) as f64;
    (asks / (after.1 - before.1).as_secs_f64(), (after.2 - before.2).as_secs_f64() * 1e6 / asks)
}

/// Asks one at a time while one transfer after the other runs: the asks' microseconds, and the transfers' GB/s.
async fn beside<F>(transfers: impl FnOnce(Arc<AtomicU64>) -> F, ask: impl AsyncFnMut()) -> (Vec<f64>, f64)
where
    F: Future<Output = ()> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let transfers = tokio::spawn(transfers(Arc::clone(&count)));
    let times = one_at_a_time(ask).await;
    let rate = count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64() / 1e9;
    transfers.abort();
    (times, rate)
}

fn figures(alone: Vec<f64>, pipelined: (f64, f64), beside: (Vec<f64>, f64)) -> Figures {
    let at = |times: &[f64], share| quantile(times.to_vec(), share).expect("something was measured");
    let values = [
        at(&alone, 0.5),
        at(&alone, 0.99),
        at(&alone, 0.999),
        pipelined.0,
        pipelined.1,
        at(&beside.0, 0.5),
        at(&beside.0, 0.99),
        beside.1,
    ];
    CASES.iter().map(|(name, _)| (*name).to_owned()).zip(values).collect()
}

fn message() -> Echo {
    Echo("x".repeat(MESSAGE))
}

/// Bytes to serve, which are not copied.
fn bulk_bytes() -> Bytes {
    static BYTES: [u8; 1 << 20] = [7; 1 << 20];
    Bytes::from_static(&BYTES)
}
