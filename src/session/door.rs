//! How a session talks to its scheduler, in this process or at the head of a cluster elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regatta_remote::{ActorRef, AskError, LocalRef, RemoteMessage};
use tokio::sync::mpsc;

use crate::actors::{
    CONTROL, Drain, EndAll, GatewayActor, Hear, Host, Release, RunEvent, SchedulerActor, Status, Submit, SubmitFrom,
    WholeStatus, insist,
};
use crate::error::{ClusterError, Error};
use crate::plan::QueryPlan;
use crate::sched::{Output, QueryId, QueryStatus, SessionStatus, StageId, WorkerId};
use crate::store::Rows;

/// The way to the scheduler.
#[derive(Debug)]
pub(super) enum Door {
    /// It is in this process.
    Here(LocalRef<SchedulerActor>),
    /// It is at the head, which this driver only dials: events are asked for.
    There { scheduler: ActorRef<SchedulerActor>, gateway: ActorRef<GatewayActor>, wanted: Arc<Wanted> },
}

/// Queries of this driver that were not let go: what comes along for another would stay for ever.
#[derive(Debug, Default)]
pub(super) struct Wanted(Mutex<BTreeSet<QueryId>>);

impl Wanted {
    fn queries(&self) -> MutexGuard<'_, BTreeSet<QueryId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this for a query, unless it was let go. What lets it go waits until it is done.
    fn still<T>(&self, query: QueryId, does: impl FnOnce() -> T) -> Option<T> {
        let queries = self.queries();
        queries.contains(&query).then(does)
    }
}

/// How long handing over a plan may take: it may be large, and the network slow.
const HAND_OVER: Duration = Duration::from_secs(60);
/// Events that wait for whoever collects the result.
const EVENTS: usize = 256;

impl Door {
    /// Submits a query; its events come out of the receiver, `Done` or `Failed` last.
    pub(super) fn submit(
        &self,
        host: &Arc<Host>,
        query: QueryId,
        plan: QueryPlan,
        given: BTreeMap<StageId, Vec<Output>>,
        planned: Duration,
        persist: bool,
    ) -> Result<mpsc::Receiver<RunEvent>, ClusterError> {
        let driver = host.place(WorkerId::DRIVER).ok_or(ClusterError::Closed)?;
        let submit = SubmitFrom { driver, query, plan, given, planned, persist };
        let (gateway, wanted) = match self {
            Self::Here(scheduler) => {
                let (submit, events) = Submit::new(submit);
                scheduler.try_tell(submit).map_err(|e| ClusterError::network("submit the query", e))?;
                return Ok(events);
            }
            Self::There { gateway, wanted, .. } => (gateway.clone(), Arc::clone(wanted)),
        };
        let asked = gateway.clone();
        let taken = host.wait(async move { asked.ask(submit, HAND_OVER).await })?;
        taken.map_err(|e| failed("submit the query", e)).flatten()?;
        let (events, heard) = mpsc::channel(EVENTS);
        wanted.queries().insert(query);
        host.runtime.handle().spawn(listen(gateway, query, events, Arc::clone(host), wanted));
        Ok(heard)
    }

    /// Ends a query, whatever its state: nothing of it is taken in any more. Never waits.
    pub(super) fn release(&self, host: &Host, query: QueryId) {
        let runtime = host.runtime.handle();
        // Waits for room in the mailbox on a thread of ours if it must. A scheduler that is gone holds no query.
        match self {
            Self::Here(scheduler) => {
                let scheduler = scheduler.clone();
                runtime.spawn(async move { drop(scheduler.tell(Release(query), CONTROL).await) });
            }
            Self::There { gateway, wanted, .. } => {
                wanted.queries().remove(&query);
                let gateway = gateway.clone();
                runtime.spawn(async move { drop(insist(&gateway, Release(query)).await) });
            }
        }
    }

    pub(super) async fn query_status(&self, query: QueryId) -> Result<Option<QueryStatus>, ClusterError> {
        self.scheduler().ask(Status(query), CONTROL).await.map_err(|e| failed("ask for the status", e))
    }

    pub(super) fn status(&self, host: &Host) -> Result<SessionStatus, ClusterError> {
        let scheduler = self.scheduler();
        let status = host.wait(async move { scheduler.ask(WholeStatus, CONTROL).await })?;
        status.map_err(|e| failed("ask for the status", e))
    }

    /// Asks the scheduler for what may take it a while.
    pub(super) fn ask<M>(&self, host: &Host, message: M) -> Result<M::Result, ClusterError>
    where
        SchedulerActor: actix::Handler<M>,
        M: RemoteMessage,
    {
        let scheduler = self.scheduler();
        let answer = host.wait(async move { scheduler.ask(message, 3 * CONTROL).await })?;
        answer.map_err(|e| failed("ask the scheduler", e))
    }

    /// Has a worker leave, and waits until it is gone.
    pub(super) fn drain(&self, host: &Host, worker: WorkerId, within: Duration) -> Result<(), Error> {
        let Self::Here(scheduler) = self else {
            let why = "only a session at the head of the cluster can";
            return Err(ClusterError::network(format!("have {worker} leave"), why).into());
        };
        let scheduler = scheduler.clone();
        let asked = host.wait(async move { scheduler.ask(Drain { worker, within }, CONTROL).await })?;
        let gone = asked.map_err(|e| failed("ask the scheduler", e))??;
        // An error is what is waited for.
        Ok(host.wait(async move { drop(gone.await) })?)
    }

    /// Ends all queries of this session's scheduler with this error, and waits until they have.
    pub(super) fn end_all(&self, host: &Host, error: ClusterError) {
        if let Self::Here(scheduler) = self {
            let scheduler = scheduler.clone();
            // A scheduler that is gone has no query.
            drop(host.wait(async move { scheduler.ask(EndAll(error), CONTROL).await }));
        }
    }

    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    pub(super) fn scheduler(&self) -> ActorRef<SchedulerActor> {
        match self {
            Self::Here(scheduler) => scheduler.clone().into(),
            Self::There { scheduler, .. } => scheduler.clone(),
        }
    }
}

/// Asks for a query's events until the last, or until nobody wants them.
async fn listen(
    gateway: ActorRef<GatewayActor>,
    query: QueryId,
    events: mpsc::Sender<RunEvent>,
    host: Arc<Host>,
    wanted: Arc<Wanted>,
) {
    loop {
        let heard = tokio::select! {
            biased;
            () = events.closed() => return,
            heard = insist(&gateway, Hear(query)) => heard,
        };
        let heard = heard.map_err(|e| failed("hear of the query", e)).flatten();
        let heard = heard.map_err(|error| host.ended.get().cloned().unwrap_or(error));
        for mut event in heard.unwrap_or_else(|error| vec![RunEvent::Failed(error.into())]) {
            if let RunEvent::Partition { place, output, rows: Rows::Along(along), .. } = &event {
                match wanted.still(query, || host.store.take_in(*output, place.worker, along)) {
                    None => return,
                    Some(Ok(())) => (),
                    Some(Err(failure)) => {
                        event = RunEvent::Failed(ClusterError::network("take in the result", failure).into());
                    }
                }
            }
            let last = matches!(event, RunEvent::Done(_) | RunEvent::Failed(_));
            if events.send(event).await.is_err() || last {
                return;
            }
        }
    }
}

fn failed(what: &str, error: AskError) -> ClusterError {
    match error {
        // A scheduler of this process is connected to, and answers at once.
        AskError::NotConnected | AskError::ConnectionLost { .. } | AskError::Deadline => {
            ClusterError::Gone { why: error.to_string() }
        }
        error => ClusterError::network(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_along_of_a_query_that_was_let_go_is_not_taken_in_and_whoever_lets_it_go_waits_for_what_is() {
        let (wanted, query) = (Arc::new(Wanted::default()), QueryId(7));
        assert_eq!(wanted.still(query, || ()), None, "it is not known");
        wanted.queries().insert(query);
        let (taken, lets_go) = (Mutex::new(0), Arc::clone(&wanted));
        let until_let_go = || {
            let take = || *taken.lock().unwrap() += 1;
            while wanted.still(query, take).is_some() {}
        };
        std::thread::scope(|scope| {
            let takes = scope.spawn(until_let_go);
            while *taken.lock().unwrap() == 0 {
                std::thread::yield_now();
            }
            lets_go.queries().remove(&query);
            let at_the_end = *taken.lock().unwrap();
            takes.join().unwrap();
            assert_eq!(*taken.lock().unwrap(), at_the_end, "nothing comes after it");
        });
    }
}
