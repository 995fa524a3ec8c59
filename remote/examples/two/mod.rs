//! Two processes of one cluster, as `ask` makes them: the example starts itself a second time.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use regatta_remote::{Arbiter, Authority, Identity, Node, NodeId, PeerEvent, Role, Runtime};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Publishes actors by `publish` in a second process, a worker, and runs `work` in this one, the head, with the worker's
/// number.
pub(crate) fn processes(
    publish: impl FnOnce(&Node, &Arbiter),
    work: impl AsyncFnOnce(&Node, NodeId) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        None => head(work),
        Some(address) => worker(address.parse()?, publish),
    }
}

fn head(work: impl AsyncFnOnce(&Node, NodeId) -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::new("head", 1)?;
    let authority = Arc::new(Authority::new()?);
    let node = Node::bind(authority.issue(Role::Head)?, (Ipv4Addr::LOCALHOST, 0).into(), &runtime)?;
    node.serve_joins(Arc::clone(&authority))?;
    let token = authority.token(Role::Worker, SOON)?;
    let mut events = node.events();
    let mut worker =
        Command::new(std::env::current_exe()?).arg(node.address()?.to_string()).stdin(Stdio::piped()).spawn()?;
    worker.stdin.take().ok_or("no pipe")?.write_all(token.to_string().as_bytes())?;
    runtime.handle().block_on(async {
        let worker = loop {
            if let PeerEvent::Up(peer) = events.recv().await.ok_or("the node is gone")? {
                break peer.node;
            }
        };
        work(&node, worker).await?;
        node.close(SOON).await;
        Ok::<_, Box<dyn Error>>(())
    })?;
    worker.wait()?;
    Ok(())
}

fn worker(head: SocketAddr, publish: impl FnOnce(&Node, &Arbiter)) -> Result<(), Box<dyn Error>> {
    let mut token = String::new();
    std::io::stdin().read_to_string(&mut token)?;
    let runtime = Runtime::new("worker", 1)?;
    let arbiter = runtime.arbiter()?;
    runtime.handle().block_on(async {
        let identity = Identity::join(&token.parse()?, head, &runtime, SOON).await?;
        let node = Node::bind(identity, (Ipv4Addr::LOCALHOST, 0).into(), &runtime)?;
        publish(&node, &arbiter);
        let mut events = node.events();
        node.connect(head, SOON).await?;
        while let Some(event) = events.recv().await {
            if matches!(event, PeerEvent::Down { .. }) {
                break;
            }
        }
        Ok(())
    })
}
