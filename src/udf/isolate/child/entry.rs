//! How a replica in a process of its own finds actors: by a node of that process, made when the first is looked for.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use regatta_remote::{Names, Node, NodeId, Runtime};

use super::super::wire::{FromChild, Link};
use crate::actor::{ActorDirectory, LOOK_UP};
use crate::config::ClusterAt;
use crate::error::ClusterError;
use crate::udf::{UdfError, UdfResult};

/// The way of this process into the cluster of its parent.
pub(super) struct Entry {
    node: OnceLock<Result<Entered, ClusterError>>,
    /// Asks the parent; the answer comes with its other words.
    parent: Mutex<(Link, Receiver<Admitted>)>,
    answer: Sender<Admitted>,
    way: Way,
}

/// Joins the cluster there as a guest, and says where its head is.
pub(crate) type Way = fn(&ClusterAt, &Runtime) -> Result<(Node, NodeId), ClusterError>;

type Admitted = UdfResult<(String, String)>;

struct Entered {
    node: Node,
    head: NodeId,
    runtime: Runtime,
}

/// How long the parent may take to ask its head.
const PATIENCE: Duration = LOOK_UP.saturating_mul(2);
/// How long a goodbye may take. Without it, the node would be waited for like one that is lost.
const GOODBYE: Duration = Duration::from_millis(200);

impl Entry {
    pub(super) fn new(parent: Link, way: Way) -> Self {
        let (answer, answers) = channel();
        Self { node: OnceLock::new(), parent: Mutex::new((parent, answers)), answer, way }
    }

    /// What the parent has answered.
    pub(super) fn admitted(&self, admitted: Admitted) {
        let _ = self.answer.send(admitted); // both ends are here
    }

    /// Says goodbye, if it has entered.
    pub(super) fn leave(&self) {
        if let Some(Ok(Entered { node, runtime, .. })) = self.node.get() {
            let (node, (gone, left)) = (node.clone(), channel());
            runtime.handle().spawn(async move {
                node.close(GOODBYE).await;
                gone.send(())
            });
            let _ = left.recv_timeout(GOODBYE);
        }
    }

    fn entered(&self) -> Result<&Entered, ClusterError> {
        self.node.get_or_init(|| self.enter()).as_ref().map_err(Clone::clone)
    }

    fn enter(&self) -> Result<Entered, ClusterError> {
        let failed =
            |why: &dyn std::fmt::Display| ClusterError::network("enter the cluster from an isolated replica", why);
        let mut parent = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
        let (link, answers) = &mut *parent;
        link.send(&FromChild::Admit).map_err(|error| failed(&error))?;
        let admitted = answers.recv_timeout(PATIENCE).map_err(|_| failed(&"its worker did not answer"))?;
        let (address, token) = admitted.map_err(|error: UdfError| failed(&error))?;
        let runtime =
            Runtime::new("regatta", 1).map_err(|error| ClusterError::os("start threads for actors", error))?;
        let (node, head) = (self.way)(&ClusterAt { address, token }, &runtime)?;
        Ok(Entered { node, head, runtime })
    }
}

impl ActorDirectory for Entry {
    fn names(&self) -> Result<(Names, tokio::runtime::Handle), ClusterError> {
        let Entered { node, head, runtime } = self.entered()?;
        Ok((node.names(*head), runtime.handle().clone()))
    }

    fn receiver(&self) -> Option<Node> {
        Some(self.node.get()?.as_ref().ok()?.node.clone())
    }

    fn admit(&self) -> Result<ClusterAt, ClusterError> {
        Err(ClusterError::InWorker)
    }
}
