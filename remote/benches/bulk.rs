//! Bytes from one process of this machine to another. See docs/book/src/benchmarks.md.

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

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ours::Ours;
use peer::{Peer, cpu};
use report::{Better, Case, Report};

/// Bytes that each case moves in all.
const TOTAL: u64 = 1 << 30;
/// Bytes of a piece of a transfer, as the crate cuts them.
const SLICE: usize = 256 << 10;
/// Asks that the other process can take; there are none here.
const IN_FLIGHT: usize = 1;
const MESSAGE: usize = 64;

/// One way to move the bytes, and how its figures are called.
struct Way {
    transfer: u64,
    at_once: usize,
    /// What programs in other languages call it.
    key: &'static str,
    speed: Case,
    cost: Case,
}

const fn way(transfer: u64, at_once: usize, key: &'static str, speed: &'static str, cost: &'static str) -> Way {
    let speed = Case { name: speed, unit: "GB/s", better: Better::Higher };
    let cost = Case { name: cost, unit: "CPU s/GB", better: Better::Lower };
    Way { transfer, at_once, key, speed, cost }
}

static WAYS: [Way; 3] = [
    way(64 << 20, 1, "64", "64 MiB each", "64 MiB each, CPU"),
    way(1 << 20, 1, "1", "1 MiB each", "1 MiB each, CPU"),
    way(64 << 20, 4, "64x4", "64 MiB each, 4 at once", "64 MiB each, 4 at once, CPU"),
];

fn main() {
    if let Some((system, handed)) = peer::role() {
        return serve(&system, &handed);
    }
    let mut report = Report::from_args("bulk", "quinn");
    for _ in 0..report.repetitions() {
        regatta(&mut report);
        quinn(&mut report);
        tcp(&mut report);
        memcpy(&mut report);
        ray(&mut report);
    }
    report.finish();
}

fn serve(system: &str, handed: &[u8]) {
    match system {
        "regatta" => ours::serve(handed, |address| peer::greet_and_wait(&address.to_string())),
        "tcp" => serve_tcp(),
        _ => bare::serve_until_done(handed),
    }
}

fn regatta(report: &mut Report) {
    let ours = Ours::connect();
    measure(report, "regatta-remote", Some(&ours.peer), |way| {
        let askers: Vec<_> = (0..way.at_once)
            .map(|_| {
                let (node, there) = (ours.node.clone(), ours.there);
                ours.runtime.handle().spawn(async move {
                    for _ in 0..way.transfers() {
                        Ours::fetch(&node, there, way.transfer).await;
                    }
                })
            })
            .collect();
        ours.runtime.handle().block_on(all(askers));
    });
}

fn quinn(report: &mut Report) {
    let (certificate, handed) = bare::certificate();
    let peer = Peer::start("quinn", &handed);
    let to = peer.greeting.parse().expect("an address");
    let runtime = bare::runtime();
    let (_, connection) = runtime.block_on(bare::connect(certificate, to));
    measure(report, "quinn", Some(&peer), |way| {
        let takers: Vec<_> = (0..way.at_once)
            .map(|_| {
                let connection = connection.clone();
                runtime.spawn(async move {
                    for _ in 0..way.transfers() {
                        bare::take(&connection, way.transfer).await;
                    }
                })
            })
            .collect();
        runtime.block_on(all(takers));
    });
}

/// One thread and one connection for each transfer that runs at the same time.
fn tcp(report: &mut Report) {
    let peer = Peer::start("tcp", &[]);
    measure(report, "TCP", Some(&peer), |way| {
        std::thread::scope(|scope| {
            for _ in 0..way.at_once {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(&peer.greeting).expect("the peer is there");
                    stream.set_nodelay(true).expect("a socket");
                    let mut buffer = vec![0; SLICE];
                    for _ in 0..way.transfers() {
                        stream.write_all(&way.transfer.to_le_bytes()).expect("the peer is there");
                        let mut left = way.transfer;
                        while left > 0 {
                            let got = stream.read(&mut buffer).expect("bytes");
                            assert_ne!(got, 0, "the peer is gone");
                            left -= got as u64;
                        }
                    }
                });
            }
        });
    });
}

fn serve_tcp() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let bytes = bulk_bytes();
                let mut size = [0; 8];
                while stream.read_exact(&mut size).is_ok() {
                    let mut left = u64::from_le_bytes(size) as usize;
                    while left > 0 {
                        let piece = &bytes[..left.min(SLICE)];
                        if stream.write_all(piece).is_err() {
                            return;
                        }
                        left -= piece.len();
                    }
                }
            });
        }
    });
    peer::greet_and_wait(&address.to_string());
}

/// What no way through a network beats: the copy in one process, by as many threads.
fn memcpy(report: &mut Report) {
    let most = WAYS.iter().map(|way| way.transfer).max().unwrap_or_default() as usize;
    let buffers: [_; 4] = std::array::from_fn(|_| Mutex::new((vec![7u8; most], vec![1u8; most])));
    measure(report, "memcpy", None, |way| {
        std::thread::scope(|scope| {
            for buffer in buffers.iter().take(way.at_once) {
                scope.spawn(|| {
                    let (from, to) = &mut *buffer.lock().expect("no panic");
                    for _ in 0..way.transfers() {
                        let size = way.transfer as usize;
                        to[..size].copy_from_slice(std::hint::black_box(&from[..size]));
                        std::hint::black_box(&mut *to);
                    }
                });
            }
        });
    });
}

fn ray(report: &mut Report) {
    let figures = foreign::python("ray_bulk.py", &[]);
    for way in &WAYS {
        report.add(&way.speed, "Ray", foreign::figure(&figures, way.key));
        report.add(&way.cost, "Ray", Err("its store and raylet are processes of their own".to_owned()));
    }
}

impl Way {
    /// How many transfers each of those at once makes.
    fn transfers(&self) -> u64 {
        TOTAL / self.transfer / self.at_once as u64
    }
}

/// Takes the figures of one system, all ways in turn; each runs a first time unmeasured.
fn measure(report: &mut Report, system: &'static str, peer: Option<&Peer>, run: impl Fn(&'static Way)) {
    let used = || cpu(std::process::id()) + peer.map_or(Duration::ZERO, Peer::cpu);
    for way in &WAYS {
        run(way);
        let (started, before) = (Instant::now(), used());
        run(way);
        let (took, used) = (started.elapsed(), used() - before);
        let gigabytes = TOTAL as f64 / 1e9;
        report.add(&way.speed, system, Ok(gigabytes / took.as_secs_f64()));
        report.add(&way.cost, system, Ok(used.as_secs_f64() / gigabytes));
    }
}

async fn all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("no panic");
    }
}

/// Bytes to serve, which are not copied.
fn bulk_bytes() -> Bytes {
    static BYTES: [u8; 1 << 20] = [7; 1 << 20];
    Bytes::from_static(&BYTES)
}
