//! A result comes here: partition by partition, in order, while tasks finish. What is lost before it is here is made again and
//! waited for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::ready;
use futures_util::stream::{self, Stream, StreamExt};
use polars::prelude::DataFrame;
use regatta_remote::ActorRef;
use tokio::sync::{mpsc, watch};

use crate::actors::{Find, Found, Host, Place, RunEvent, SchedulerActor, Taken, insist};
use crate::error::{ClusterError, Error, TaskError, TaskFailure};
use crate::progress::Shows;
use crate::sched::{Attempt, Output, QueryId, TaskId, WorkerId};
use crate::store::{Form, Rows};

/// Partitions of the result that are brought here at once.
const FETCHES: usize = 4;
/// How often one that is there is tried before its worker is taken for unreachable; and how long apart, at first.
const TRIES: u32 = 6;
const APART: Duration = Duration::from_millis(250);

/// Where a result comes from.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) host: Arc<Host>,
    pub(super) scheduler: ActorRef<SchedulerActor>,
    pub(super) query: QueryId,
    pub(super) form: Arc<Form>,
    pub(super) shows: Arc<Shows>,
}

/// The result's partitions.
pub(super) fn partitions(
    events: mpsc::Receiver<RunEvent>,
    from: Source,
) -> impl Stream<Item = Result<DataFrame, Error>> + Send {
    let (told, reports) = watch::channel(Reports::default());
    from.host.runtime.handle().spawn(hear(events, told));
    let fetched = from.clone();
    let fetches = stream::iter(0..).map(move |index| fetch(index, reports.clone(), fetched.clone()));
    fetches.buffered(FETCHES).scan(Some(from), |from, fetched| {
        let over = from.is_none();
        if matches!(fetched, None | Some(Err(_)))
            && let Some(from) = from.take()
            && fetched.is_none()
        {
            from.all_is_here();
        }
        ready(fetched.filter(|_| !over))
    })
}

/// A result, with whose end it is shown that the query has ended.
pub(super) fn ending(
    result: impl Stream<Item = Result<DataFrame, Error>> + Send + 'static,
    from: Source,
) -> impl Stream<Item = Result<DataFrame, Error>> + Send {
    stream::unfold((result.boxed(), Some(from)), |(mut result, mut from)| async move {
        let next = result.next().await;
        if !matches!(next, Some(Ok(_)))
            && let Some(from) = from.take()
        {
            from.is_over().await;
        }
        Some((next?, (result, from)))
    })
}

/// What is known of a result.
#[derive(Default)]
struct Reports {
    made: BTreeMap<usize, (Place, Output, Rows)>,
    /// How many partitions it has, once all are made.
    end: Option<Result<usize, Error>>,
}

/// Notes what the scheduler says. It lets go of the other end with the query.
async fn hear(mut events: mpsc::Receiver<RunEvent>, told: watch::Sender<Reports>) {
    loop {
        let end = match events.recv().await {
            Some(RunEvent::Partition { index, place, output, rows }) => {
                told.send_modify(|reports| {
                    reports.made.insert(index, (place, output, rows));
                });
                continue;
            }
            Some(RunEvent::Done(partitions)) => Ok(partitions),
            Some(RunEvent::Failed(error)) => Err(error),
            None => Err(ClusterError::Closed.into()),
        };
        told.send_modify(|reports| reports.end = Some(end));
        return;
    }
}

/// A partition of the result; `None` if it has fewer.
async fn fetch(index: usize, mut reports: watch::Receiver<Reports>, from: Source) -> Option<Result<DataFrame, Error>> {
    let found = match reports.wait_for(|reports| reports.end.is_some() || reports.made.contains_key(&index)).await {
        Ok(reports) => match (reports.made.get(&index).cloned(), &reports.end) {
            (_, Some(Err(error))) => return Some(Err(error.clone())),
            (None, Some(Ok(partitions))) if index >= *partitions => return None,
            (found, _) => found,
        },
        Err(_) => return Some(Err(ClusterError::Closed.into())),
    };
    // Never fewer rows than there are.
    let untold = || ClusterError::network("take the result", format!("nobody has said where partition {index} is"));
    let (place, output, rows) = match found.ok_or_else(untold) {
        Ok(found) => found,
        Err(error) => return Some(Err(error.into())),
    };
    if let Rows::Here(frame) = rows {
        return Some(Ok(frame));
    }
    let read = from.read(index, place, output);
    let failed = reports.wait_for(|reports| matches!(reports.end, Some(Err(_))));
    tokio::select! {
        biased;
        read = read => Some(read),
        Ok(reports) = failed => Some(Err(reports.end.clone().and_then(Result::err).unwrap_or(Error::Cancelled))),
    }
}

impl Source {
    /// Brings a partition here from where it is, or from where it is then: one that was lost is made again.
    async fn read(&self, index: usize, mut place: Place, mut output: Output) -> Result<DataFrame, Error> {
        let mut tries = 0;
        loop {
            // Who holds it may have left since that was said, and given it to another.
            if let Some((node, _)) = place.node
                && place.worker != WorkerId::DRIVER
                && !self.host.knows(node)
                && let Ok(Found::There(now, same)) = insist(&self.scheduler, self.find(index, None)).await
            {
                (place, output) = (now, same);
            }
            let cause = match self.host.rows(place, output.id, &self.form).await {
                Ok(frame) => {
                    // What came here with the ends of tasks is wanted once.
                    if place.worker == WorkerId::DRIVER {
                        self.host.store.drop_attempt(output.id.task, output.id.attempt);
                    }
                    return Ok(frame);
                }
                Err(cause) => cause,
            };
            tries += 1;
            if tries >= TRIES || !cause.is_retryable() {
                return Err(failed(&place, &output, cause));
            }
            let mut unread = match &cause {
                TaskFailure::LostInput { why, .. } => Some((output.id.task, output.id.attempt, why.clone())),
                _ => None,
            };
            // Its worker may be lost, which is known in a while.
            tokio::time::sleep(APART * 2u32.pow(tries - 1)).await;
            let there = loop {
                match insist(&self.scheduler, self.find(index, unread.take())).await {
                    Ok(Found::There(place, output)) => break (place, output),
                    Ok(Found::MadeAgain) => tokio::time::sleep(APART).await,
                    Ok(Found::Failed(error)) => return Err(error),
                    Ok(Found::Nowhere) => return Err(failed(&place, &output, cause)),
                    Err(error) => return Err(ClusterError::network("ask for the result", error).into()),
                }
            };
            if there.1.id != output.id || there.0.worker != place.worker {
                tries = 0;
            }
            (place, output) = there;
        }
    }

    fn find(&self, partition: usize, unread: Option<(TaskId, Attempt, String)>) -> Find {
        Find { query: self.query, partition, unread }
    }

    /// The query has ended: shows that, if it is shown.
    pub(super) async fn is_over(&self) {
        self.shows.ended(&self.scheduler, self.query).await;
    }

    /// What is lost of the result from here on is not made again.
    fn all_is_here(self) {
        let runtime = self.host.runtime.handle().clone();
        // Whoever does not hear it makes again what nobody reads.
        runtime.spawn(async move { drop(insist(&self.scheduler, Taken(self.query)).await) });
    }
}

fn failed(place: &Place, output: &Output, cause: TaskFailure) -> Error {
    let (task, attempt) = (output.id.task, output.id.attempt.0);
    TaskError { task, attempt, worker: place.worker.to_string(), cause, before: Vec::new() }.into()
}
