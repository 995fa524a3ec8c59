//! Workers that leave: who asks for it, and how others take over what they hold.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix::Handler;
use regatta_remote::{FetchError, MAX_MESSAGE, NodeId, Runtime, Sender};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::feeding::Incoming;
use super::messages::Place;
use super::outbox::Outgoing;
use super::{Host, SchedulerActor, SwordfishActor, insist};
use crate::error::{ActorError, ClusterError, TaskFailure};
use crate::os;
use crate::sched::{Event, PartitionId, QueryId, WorkerId};
use crate::store::{HEAD_PREFIX, Listing, Taking, head_size};

/// Has a worker leave within this time. Who asks hears that it is gone from the end of the other side.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) worker: WorkerId,
    pub(crate) within: Duration,
}

impl actix::Message for Drain {
    type Result = Result<oneshot::Receiver<Infallible>, ActorError>;
}

/// A worker is to leave within this time, as somebody has asked it to. False: it is none of the cluster's.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Departs {
    pub(crate) within: Duration,
}

/// Take over what tasks of a stage have left on a worker that is to leave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TakeOver {
    from: Place,
    query: QueryId,
    /// Whose query it is; `None`: of the head.
    driver: Option<NodeId>,
    outputs: Vec<PartitionId>,
}

/// A worker has what it was to take over, or as much of it as it could.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TookOver {
    from: WorkerId,
    to: WorkerId,
    taken: Vec<PartitionId>,
    /// Its disk is full.
    full: bool,
}

/// Ends all queries with this error.
#[derive(Debug)]
pub(crate) struct EndAll(pub(crate) ClusterError);

impl actix::Message for EndAll {
    type Result = ();
}

/// How long a worker may take to send the next bytes of what is taken over from it.
const STALLED: Duration = Duration::from_secs(10);

impl SchedulerActor {
    /// Lets a worker go, and hears of it no more.
    pub(super) fn part_with(&mut self, worker: WorkerId) {
        if let Some(crew) = self.workers.remove(&worker) {
            tracing::debug!(%worker, "leaves");
            self.forget_worker(worker, &crew);
        }
    }

    /// Has a worker take over outputs of another.
    pub(super) fn have_moved(&mut self, from: WorkerId, to: WorkerId, query: QueryId, outputs: Vec<PartitionId>) {
        let there = self.workers.get(&from).map(|crew| crew.place);
        let (Some(from), Some(of)) = (there, self.queries.get(&query)) else { return };
        let driver = of.driver.node.map(|(node, _)| node);
        self.send(to, Outgoing::TakeOver(TakeOver { from, query, driver, outputs }));
    }
}

impl Handler<Drain> for SchedulerActor {
    type Result = <Drain as actix::Message>::Result;

    fn handle(&mut self, Drain { worker, within }: Drain, _: &mut Self::Context) -> Self::Result {
        // One of this process cannot leave it.
        let Some(crew) = self.workers.get_mut(&worker).filter(|crew| crew.place.node.is_some()) else {
            let mut there: Vec<_> = self.workers().collect();
            there.sort_unstable();
            let there: Vec<_> = there.iter().map(ToString::to_string).collect();
            return Err(ActorError::NoSuchWorker { worker, there: there.join(", ") });
        };
        let (awaited, gone) = oneshot::channel();
        crew.awaited.push(awaited);
        self.leaves(worker, within);
        Ok(gone)
    }
}

impl Handler<Departs> for SchedulerActor {
    type Result = bool;

    fn handle(&mut self, Departs { within }: Departs, _: &mut Self::Context) -> Self::Result {
        let worker = Sender::current().node().and_then(|node| self.worker_at(node));
        worker.into_iter().for_each(|worker| self.leaves(worker, within));
        worker.is_some()
    }
}

impl SchedulerActor {
    fn leaves(&mut self, worker: WorkerId, within: Duration) {
        let now = os::now();
        // Who gives it all the time there is gives it a day.
        let until = now + within.min(Duration::from_secs(24 * 3600));
        tracing::info!(%worker, ?within, "is to leave");
        self.take(Event::Drain { worker, until });
    }
}

impl Handler<EndAll> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, EndAll(error): EndAll, _: &mut Self::Context) {
        for query in self.queries.keys().copied().collect::<Vec<_>>() {
            self.take(Event::Fail(query, error.clone().into()));
        }
    }
}

impl Handler<TookOver> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, TookOver { from, to, taken, full }: TookOver, _: &mut Self::Context) {
        if self.is_from(to) {
            self.take(Event::Moved { from, to, taken, full });
        }
    }
}

impl Handler<TakeOver> for SwordfishActor {
    type Result = ();

    fn handle(&mut self, message: TakeOver, _: &mut Self::Context) {
        let (host, scheduler, to) = (Arc::clone(&self.host), self.scheduler.clone(), self.here.worker);
        let runtime = self.host.runtime.clone();
        // It writes to the disk.
        self.host.runtime.spawn_blocking(move || {
            let (mut taken, from, of) = (Vec::new(), message.from.worker, (message.query, message.driver));
            let failed = take_over(&host, &runtime, message, &mut taken).err();
            if let Some(failure) = &failed {
                tracing::warn!(%failure, %from, "could not take over what it holds");
            }
            // Of what is here the end of its query will be told.
            if let (false, (query, Some(driver))) = (taken.is_empty(), of) {
                host.store.own(query, driver);
            }
            let full = matches!(failed, Some(TaskFailure::DiskFull { .. }));
            // An error: this worker, or its head, is on its way out.
            drop(runtime.wait(insist(&scheduler, TookOver { from, to, taken, full })));
        });
    }
}

/// Brings outputs into this store one after the other: as many as can be.
fn take_over(
    host: &Arc<Host>,
    runtime: &Runtime,
    TakeOver { from, outputs, .. }: TakeOver,
    taken: &mut Vec<PartitionId>,
) -> Result<(), TaskFailure> {
    let failed = |why: String| TaskFailure::Transfer { from: from.worker.to_string(), why };
    let fetch = runtime.wait(host.fetch_whole(&from, outputs))?;
    let mut incoming = Incoming::new(fetch);
    let mut take = |len: usize| {
        let next = runtime.wait(async { timeout(STALLED, incoming.take(len)).await });
        next.unwrap_or(Err(FetchError::Deadline)).map_err(|error| failed(error.to_string()))
    };
    let mut prefix = [0; HEAD_PREFIX];
    prefix.copy_from_slice(&take(HEAD_PREFIX)?);
    let size = head_size(prefix);
    let head =
        if size <= MAX_MESSAGE { take(size)? } else { return Err(failed("it lists too many blocks".to_owned())) };
    let listed = Listing::of(&head).ok_or_else(|| failed("it does not say what comes".to_owned()))?;
    for listing in listed {
        let mut taking = Taking::new(listing);
        while let Some(wanted) = taking.wants() {
            taking.add(&host.store, take(wanted)?)?;
        }
        taken.push(taking.seal(&host.store)?);
    }
    Ok(())
}
