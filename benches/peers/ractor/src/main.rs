//! The benchmark `ask` on ractor_cluster: the same message, number in flight and windows, over plain TCP (its default).

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, pg, rpc::CallResult};
use ractor_cluster::{NodeServer, NodeServerMessage, RactorClusterMessage, client_connect};

const MESSAGE: usize = 64;
const IN_FLIGHT: usize = 512;
const WINDOW: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(200);
const GROUP: &str = "echo";

#[derive(RactorClusterMessage)]
enum Message {
    #[rpc]
    Echo(String, RpcReplyPort<String>),
}

struct Echo;

impl Actor for Echo {
    type Msg = Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
        pg::join(GROUP.to_owned(), vec![me.get_cell()]);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let Message::Echo(text, port) = message;
        Ok(port.send(text)?)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--peer") {
        let port = args.next().expect("a port").parse().expect("a port");
        let (_node, done) = node("there", port).await;
        Actor::spawn(None, Echo, ()).await.expect("an actor");
        println!("up");
        done.await.expect("it runs");
        return;
    }
    let port = free_port();
    let program = std::env::current_exe().expect("this program has a path");
    let child = Command::new(program).args(["--peer", &port.to_string()]).stdout(Stdio::null()).spawn();
    let peer = Peer(child.expect("this program starts"));
    let (node, _done) = node("here", free_port()).await;
    let actor = connect(&node, port).await;
    measure(&peer, &actor).await;
}

async fn node(name: &str, port: u16) -> (ActorRef<NodeServerMessage>, tokio::task::JoinHandle<()>) {
    let server = NodeServer::new(port, "cookie".to_owned(), name.to_owned(), "localhost".to_owned(), None, None);
    Actor::spawn(None, server, ()).await.expect("a node")
}

async fn connect(node: &ActorRef<NodeServerMessage>, port: u16) -> ActorRef<Message> {
    let until = Instant::now() + Duration::from_secs(10);
    while client_connect(node, (Ipv4Addr::LOCALHOST, port)).await.is_err() {
        assert!(Instant::now() < until, "the peer does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    loop {
        if let Some(actor) = pg::get_members(&GROUP.to_owned()).into_iter().next() {
            return actor.into();
        }
        assert!(Instant::now() < until, "the peer's actor is not known here");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn measure(peer: &Peer, actor: &ActorRef<Message>) {
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < WARM_UP + WINDOW {
        let asked = Instant::now();
        ask(actor).await;
        if started.elapsed() > WARM_UP {
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        println!("{name} {}", times[((times.len() - 1) as f64 * share).round() as usize]);
    }

    let count = Arc::new(AtomicU64::new(0));
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (actor, count) = (actor.clone(), Arc::clone(&count));
        askers.spawn(async move {
            loop {
                ask(&actor).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let now = || (count.load(Ordering::Relaxed), Instant::now(), cpu(std::process::id()) + cpu(peer.0.id()));
    tokio::time::sleep(WARM_UP).await;
    let before = now();
    tokio::time::sleep(WINDOW).await;
    let after = now();
    askers.shutdown().await;
    let asks = (after.0 - before.0) as f64;
    println!("pipelined {}", asks / (after.1 - before.1).as_secs_f64());
    println!("pipelined_cpu {}", (after.2 - before.2) * 1e6 / asks);
}

async fn ask(actor: &ActorRef<Message>) {
    let answer = actor.call(|port| Message::Echo("x".repeat(MESSAGE), port), None).await.expect("it is there");
    assert!(matches!(answer, CallResult::Success(text) if text.len() == MESSAGE));
}

/// Seconds of CPU that a process has used.
fn cpu(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux tells");
    let fields = stat.rsplit(") ").next().expect("fields follow the name");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number") / 100.0).sum()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a free port").port()
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
