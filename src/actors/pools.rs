//! The replicas that serve one stage, as its tasks on one worker see them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polars::prelude::{Column, DataFrame};
use regatta_remote::{ActorRef, AskError, LocalRef};
use tokio::sync::Notify;

use super::messages::{BatchAt, Evaluate, Place, ReplicaAt};
use super::{Host, UdfActor};
use crate::engine::Pools;
use crate::error::{PolarsFailure, TaskFailure};
use crate::store::{decode_frame, encode_frame};
use crate::udf::{Router, UdfError};

/// How long one call may take before it counts as hung. The end of the query or of the replica's worker ends it sooner.
const CALL: Duration = Duration::from_secs(3600);

/// The pools of one stage on one worker: one for each UDF step.
pub(super) struct StagePools {
    host: Arc<Host>,
    here: Place,
    steps: Vec<StepPool>,
}

struct StepPool {
    udf: String,
    seats: Mutex<Seats>,
    /// A credit came back, or a replica came.
    room: Notify,
}

#[derive(Default)]
struct Seats {
    router: Router,
    replicas: Vec<Seat>,
}

#[derive(Clone)]
struct Seat {
    at: ReplicaAt,
    local: Option<LocalRef<UdfActor>>,
}

impl StagePools {
    pub(super) fn new(host: Arc<Host>, here: Place, udfs: impl IntoIterator<Item = String>) -> Self {
        let steps = udfs.into_iter().map(|udf| StepPool { udf, seats: Mutex::default(), room: Notify::new() });
        Self { host, here, steps: steps.collect() }
    }

    /// Adds a replica, or takes one in again that was thought lost. `local`: it runs in this process.
    pub(super) fn add(&self, at: ReplicaAt, local: Option<LocalRef<UdfActor>>) {
        let Some(step) = self.steps.get(at.replica.pool.step as usize) else { return };
        let mut seats = step.seats();
        match seats.replicas.iter().position(|seat| seat.at.replica == at.replica) {
            Some(known) => seats.router.set_gone(known, false),
            None => {
                seats.router.add(local.is_some());
                seats.replicas.push(Seat { at, local });
            }
        }
        drop(seats);
        step.room.notify_waiters();
    }

    /// Runs a batch on some replica; on another one if that is lost with it, so a batch may run more than once.
    async fn call(&self, step: usize, inputs: DataFrame) -> Result<Column, TaskFailure> {
        let unknown = || TaskFailure::Panicked(format!("step {step} has no pool"));
        let step = self.steps.get(step).ok_or_else(unknown)?;
        loop {
            let Some((seat, credit)) = step.credit(inputs.height()).await else {
                let why = "all its replicas are lost".to_owned();
                return Err(TaskFailure::Transfer { from: format!("the pool of UDF {}", step.udf), why });
            };
            match self.call_at(&seat, &step.udf, inputs.clone()).await {
                Err(failure) if failure.is_retryable() => {
                    tracing::warn!(replica = ?seat.at.replica, %failure, "a UDF replica is lost; its batch goes to another");
                    step.seats().router.set_gone(credit.index, true);
                    // Who waits for room there must look again.
                    step.room.notify_waiters();
                }
                result => return result,
            }
        }
    }

    async fn call_at(&self, seat: &Seat, udf: &str, inputs: DataFrame) -> Result<Column, TaskFailure> {
        let worker = || seat.at.place.worker.to_string();
        let failed = |error: UdfError| TaskFailure::Udf {
            udf: udf.to_owned(),
            rank: seat.at.replica.rank,
            worker: worker(),
            error,
        };
        let unanswered = |error: AskError| match error {
            AskError::NotConnected
            | AskError::ConnectionLost { .. }
            | AskError::NoSuchActor
            | AskError::NoReply
            | AskError::Stopped => TaskFailure::Transfer { from: worker(), why: error.to_string() },
            error => failed(error.into()),
        };
        let reply = match &seat.local {
            Some(actor) => actor.ask(Evaluate { inputs: BatchAt::Here(inputs) }, CALL).await,
            None => {
                let bytes = encode_frame(&inputs).map_err(PolarsFailure::from)?;
                drop(inputs);
                // Taken back if the call is cancelled before the replica has fetched it.
                let offer = self.host.store.offer(bytes);
                let actor: ActorRef<UdfActor> = self.host.replica(&seat.at.place, seat.at.actor).await?;
                actor.ask(Evaluate { inputs: BatchAt::There(self.here, offer.ticket()) }, CALL).await
            }
        };
        let frame = self.result(reply.map_err(unanswered)?.map_err(failed)?).await?;
        let got = frame.width();
        let column = frame.into_columns().pop().filter(|_| got == 1);
        column.ok_or_else(|| failed(UdfError::new(format!("the reply has {got} columns"))))
    }

    async fn result(&self, reply: BatchAt) -> Result<DataFrame, TaskFailure> {
        match reply {
            BatchAt::Here(frame) => Ok(frame),
            BatchAt::There(place, ticket) => {
                let bytes = self.host.fetch(&place, ticket).await?;
                Ok(decode_frame(bytes).map_err(PolarsFailure::from)?)
            }
        }
    }
}

impl Pools for StagePools {
    fn call(
        &self,
        step: usize,
        inputs: DataFrame,
    ) -> Pin<Box<dyn Future<Output = Result<Column, TaskFailure>> + Send + '_>> {
        Box::pin(self.call(step, inputs))
    }
}

impl StepPool {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a replica with room; `None` if there is none to wait for. The query's end cancels the wait.
    async fn credit(&self, rows: usize) -> Option<(Seat, Credit<'_>)> {
        loop {
            let room = self.room.notified(); // before the look: it hears every later change
            {
                let mut seats = self.seats();
                if let Some(index) = seats.router.acquire(rows) {
                    return Some((seats.replicas[index].clone(), Credit { step: self, index, rows }));
                }
                if seats.router.is_empty() {
                    return None;
                }
            }
            room.await;
        }
    }
}

/// A place at a replica; given back on drop, however the call ended.
struct Credit<'a> {
    step: &'a StepPool,
    index: usize,
    rows: usize,
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.step.seats().router.release(self.index, self.rows);
        self.step.room.notify_one();
    }
}
