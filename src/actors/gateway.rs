//! The head's door: queries of drivers elsewhere, numbers for workers that join by token, and tokens for processes of theirs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, ResponseFuture};
use regatta_remote::{ActorId, Authority, LocalRef, Node, NodeId, Role, Sender};
use tokio::sync::{Mutex, mpsc};

use super::messages::{
    Admit, DriverDown, Enlist, Enrol, Hear, Place, Release, ReleaseOf, RunEvent, Submit, SubmitFrom,
};
use super::{CONTROL, Host, SchedulerActor};
use crate::error::ClusterError;
use crate::os;
use crate::sched::{QueryId, WorkerId};

/// Stands in for sessions of other processes at the scheduler.
pub(crate) struct GatewayActor {
    scheduler: LocalRef<SchedulerActor>,
    host: Arc<Host>,
    authority: Arc<Authority>,
    queries: BTreeMap<QueryId, Guest>,
    /// Who has got a token that is good still, and when.
    admitted: Vec<(NodeId, Instant)>,
}

/// A query of another process.
struct Guest {
    driver: NodeId,
    /// Locked by the one ask that listens.
    events: Arc<Mutex<mpsc::Receiver<RunEvent>>>,
}

/// How long an ask waits for something to tell; well below its deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a process of a worker's own may take to enter.
const ADMISSION: Duration = Duration::from_secs(30);
/// Tokens that are good still which a worker may have: those of all others are as many as there is room for.
const ADMISSIONS: usize = 256;
/// Events that go in one answer.
const EVENTS: usize = 256;

impl GatewayActor {
    /// Asks that wait here at most: each query of a driver elsewhere has one.
    pub(crate) const MAILBOX: usize = 8192;

    pub(crate) fn new(host: Arc<Host>, scheduler: LocalRef<SchedulerActor>, authority: Arc<Authority>) -> Self {
        Self { scheduler, host, authority, queries: BTreeMap::new(), admitted: Vec::new() }
    }

    /// Makes a gateway reachable.
    pub(crate) fn publish(node: &Node, id: ActorId, actor: &LocalRef<Self>) {
        Self::taking(node.publish(id, actor));
    }

    /// The query, if it is of the driver whose message is being handled.
    fn own(&self, query: QueryId) -> Option<&Guest> {
        self.queries.get(&query).filter(|guest| Sender::current().is(guest.driver))
    }

    fn release(&mut self, query: QueryId) {
        let Some(guest) = self.queries.remove(&query) else { return };
        let scheduler = self.scheduler.clone();
        // A scheduler that is gone holds no query. One that has refused this holds another of its number, perhaps.
        let release = ReleaseOf(query, guest.driver);
        self.host.runtime.handle().spawn(async move { scheduler.tell(release, CONTROL).await });
    }
}

/// A token for one process, which only finds actors and talks to them.
pub(super) fn admission(authority: &Authority) -> Result<String, ClusterError> {
    let token = authority.token(Role::Guest, ADMISSION);
    Ok(token.map_err(|e| ClusterError::network("make a token", e))?.to_string())
}

impl Actor for GatewayActor {
    type Context = Context<Self>;
}

impl Handler<Enrol> for GatewayActor {
    type Result = ResponseFuture<Result<WorkerId, ClusterError>>;

    fn handle(&mut self, _: Enrol, _: &mut Self::Context) -> Self::Result {
        let (scheduler, node) = (self.scheduler.clone(), Sender::current().node());
        Box::pin(async move {
            let enlist = Enlist(node.ok_or(ClusterError::Closed)?);
            scheduler.ask(enlist, CONTROL).await.map_err(|error| ClusterError::network("get a number", error))
        })
    }
}

impl Handler<Admit> for GatewayActor {
    type Result = Result<String, ClusterError>;

    fn handle(&mut self, _: Admit, _: &mut Self::Context) -> Self::Result {
        self.admitted.retain(|(_, at)| os::since(*at) < ADMISSION);
        if let Some(node) = Sender::current().node() {
            if self.admitted.iter().filter(|(of, _)| *of == node).count() >= ADMISSIONS {
                return Err(ClusterError::network(
                    "make a token",
                    format!("{ADMISSIONS} of this worker wait to be used"),
                ));
            }
            self.admitted.push((node, os::now()));
        }
        admission(&self.authority)
    }
}

impl Handler<SubmitFrom> for GatewayActor {
    type Result = Result<(), ClusterError>;

    fn handle(&mut self, message: SubmitFrom, _: &mut Self::Context) -> Self::Result {
        let (driver, _) = message.driver.node.ok_or(ClusterError::Closed)?;
        let refused = |why: &str| ClusterError::network("submit the query", why);
        if !Sender::current().is(driver) {
            return Err(refused("it is not of the process that submits it"));
        }
        // Its loss, which would release the query, may have been told before.
        if !self.host.knows(driver) {
            return Err(ClusterError::Closed);
        }
        let query = message.query;
        if self.queries.contains_key(&query) {
            return Err(refused("there is a query of its number"));
        }
        let (submit, events) = Submit::new(message);
        self.scheduler.try_tell(submit).map_err(|e| ClusterError::network("submit the query", e))?;
        self.queries.insert(query, Guest { driver, events: Arc::new(Mutex::new(events)) });
        Ok(())
    }
}

impl Handler<Hear> for GatewayActor {
    type Result = ResponseFuture<Result<Vec<RunEvent>, ClusterError>>;

    fn handle(&mut self, Hear(query): Hear, _: &mut Self::Context) -> Self::Result {
        let events = self.own(query).map(|guest| Arc::clone(&guest.events));
        let store = Arc::clone(&self.host.store);
        Box::pin(async move {
            let events = events.ok_or(ClusterError::Closed)?;
            let mut heard = Vec::new();
            let listen = async { events.lock().await.recv_many(&mut heard, EVENTS).await };
            if let Ok(0) = tokio::time::timeout(PATIENCE, listen).await {
                return Err(ClusterError::Closed); // released, or the scheduler is gone
            }
            for event in &mut heard {
                // What came here for the driver goes on to it.
                if let RunEvent::Partition { place: Place { worker: WorkerId::DRIVER, .. }, output, rows, .. } = event {
                    *rows = store.hand_on(output.id);
                }
            }
            Ok(heard)
        })
    }
}

impl Handler<Release> for GatewayActor {
    type Result = ();

    fn handle(&mut self, Release(query): Release, _: &mut Self::Context) {
        if self.own(query).is_some() {
            self.release(query);
        }
    }
}

impl Handler<DriverDown> for GatewayActor {
    type Result = ();

    fn handle(&mut self, DriverDown(driver): DriverDown, _: &mut Self::Context) {
        let of_driver = self.queries.iter().filter(|(_, guest)| guest.driver == driver);
        for query in of_driver.map(|(query, _)| *query).collect::<Vec<_>>() {
            tracing::info!(%query, %driver, "the driver is gone: its query ends");
            self.release(query);
        }
    }
}

impl std::fmt::Debug for GatewayActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayActor").field("queries", &self.queries.len()).finish_non_exhaustive()
    }
}
