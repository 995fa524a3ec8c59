//! The first step: a process asks an actor in another one. `cargo run -p regatta-remote --example ask`
//!
//! The example starts itself a second time. The first process is the cluster's head: it makes the authority that
//! certificates come from, and a token with which the second one may join. The second one has the actor.
//!
//! ```text
//! 2 + 3 = 5, said worker
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use regatta_remote::actix::{Actor, Context, Handler};
use regatta_remote::{ActorId, Address, Authority, Identity, Node, PeerEvent, RemoteMessage, Role, Runtime};
use serde::{Deserialize, Serialize};

/// A message has a number of its own, and a reply.
#[derive(Serialize, Deserialize, RemoteMessage)]
#[message(id = 0x0001, reply = u64)]
struct Add(u64, u64);

struct Calculator;

impl Actor for Calculator {
    type Context = Context<Self>;
}

impl Handler<Add> for Calculator {
    type Result = u64;

    fn handle(&mut self, Add(a, b): Add, _: &mut Context<Self>) -> u64 {
        a + b
    }
}

/// The number under which the actor is published at its node.
const CALCULATOR: ActorId = ActorId(1);
const SOON: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        None => head(),
        Some(address) => worker(address.parse()?),
    }
}

/// The first process.
fn head() -> Result<(), Box<dyn Error>> {
    // Threads for the network and for actors. It works inside any program, also under another runtime of tokio.
    let runtime = Runtime::new("head", 1)?;
    let authority = Arc::new(Authority::new()?);
    let node = Node::bind(authority.issue(Role::Head)?, (Ipv4Addr::LOCALHOST, 0).into(), &runtime)?;
    node.serve_joins(Arc::clone(&authority))?;
    let token = authority.token(Role::Worker, SOON)?;
    let mut events = node.events();
    let mut worker = Command::new(std::env::current_exe()?)
        .arg(node.address()?.to_string())
        .stdin(Stdio::piped()) // the token is a secret, which arguments are not
        .spawn()?;
    worker.stdin.take().ok_or("no pipe")?.write_all(token.to_string().as_bytes())?;
    runtime.handle().block_on(async {
        let peer = loop {
            match events.recv().await.ok_or("the node is gone")? {
                PeerEvent::Up(peer) => break peer,
                other => println!("{other:?}"),
            }
        };
        let calculator = node.actor::<Calculator>(Address { node: peer.node, actor: CALCULATOR });
        let sum = calculator.ask(Add(2, 3), SOON).await?;
        println!("2 + 3 = {sum}, said {}", peer.role);
        node.close(SOON).await;
        Ok::<_, Box<dyn Error>>(())
    })?;
    worker.wait()?;
    Ok(())
}

/// The second process.
fn worker(head: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut token = String::new();
    std::io::stdin().read_to_string(&mut token)?;
    let runtime = Runtime::new("worker", 1)?;
    let arbiter = runtime.arbiter()?; // a thread for actors
    runtime.handle().block_on(async {
        let identity = Identity::join(&token.parse()?, head, &runtime, SOON).await?;
        let node = Node::bind(identity, (Ipv4Addr::LOCALHOST, 0).into(), &runtime)?;
        let calculator = arbiter.spawn(16, |_| Calculator);
        // Published before anybody can ask, with the roles that may.
        node.publish(CALCULATOR, &calculator).on::<Add>(&[Role::Head]);
        let mut events = node.events();
        node.connect(head, SOON).await?;
        while let Some(event) = events.recv().await {
            if matches!(event, PeerEvent::Down { .. }) {
                break; // the head has closed: the work is done
            }
        }
        Ok(())
    })
}
