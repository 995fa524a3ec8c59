//! One replica of a UDF, alone on its arbiter: the author's code blocks nobody else.

use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseActFuture, WrapFuture, fut::ActorFutureExt};
use polars::prelude::DataFrame;
use regatta_remote::ActorRef;
use tokio::sync::mpsc;

use super::messages::{BatchAt, Evaluate, Place, ReplicaSays, StartReplica, Word};
use super::{Host, SchedulerActor, insist};
use crate::sched::ReplicaId;
use crate::store::{Offer, decode_frame, encode_frame};
use crate::udf::{Batch, Replica, Start, UdfError, UdfResult, run_fenced, start_fenced};

/// A replica of a UDF: started once, then one batch at a time.
pub struct UdfActor {
    host: Arc<Host>,
    here: Place,
    spec: StartReplica,
    words: mpsc::Sender<Word>,
    number: regatta_remote::ActorId,
    /// Results that wait to be fetched: they go with this replica.
    offers: Vec<Offer>,
    /// `None` before it has started, and after a panic.
    replica: Option<Box<dyn Replica>>,
}

/// Progress reports that may wait to be sent; more are dropped.
const WORDS: usize = 16;

impl UdfActor {
    pub(super) fn new(
        host: Arc<Host>,
        here: Place,
        spec: StartReplica,
        number: regatta_remote::ActorId,
        scheduler: ActorRef<SchedulerActor>,
    ) -> Self {
        let (words, to_send) = mpsc::channel(WORDS);
        host.runtime.handle().spawn(report(spec.replica, to_send, scheduler));
        Self { host, here, spec, words, number, offers: Vec::new(), replica: None }
    }

    fn evaluate(&mut self, batch: DataFrame) -> UdfResult<DataFrame> {
        Ok(run_fenced(&mut self.replica, &Batch::new(batch))?.into_frame())
    }
}

impl Actor for UdfActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let words = self.words.clone();
        let mut cx = Start::new(self.spec.replica.rank as usize, move |doing| {
            // One place is kept for the last word.
            if words.capacity() > 1 {
                let _ = words.try_send(Word::Progress(doing.to_owned()));
            }
        });
        let word = match start_fenced(&self.spec.udf, &self.spec.arguments, &mut cx) {
            Ok(replica) => {
                self.replica = Some(replica);
                Word::Ready(self.number)
            }
            Err(error) => Word::Failed(error),
        };
        let _ = self.words.try_send(word);
    }
}

impl Handler<Evaluate> for UdfActor {
    type Result = ResponseActFuture<Self, Result<BatchAt, UdfError>>;

    fn handle(&mut self, message: Evaluate, _: &mut Self::Context) -> Self::Result {
        let place = match message.inputs {
            BatchAt::Here(frame) => {
                let result = self.evaluate(frame).map(BatchAt::Here);
                return Box::pin(async { result }.into_actor(self));
            }
            BatchAt::There(place, ticket) => (place, ticket),
        };
        let host = Arc::clone(&self.host);
        // On the network's threads, so that the next batch comes while this one runs.
        let fetched = self.host.runtime.handle().spawn(async move {
            let bytes = host.fetch(&place.0, place.1).await?;
            UdfResult::Ok(decode_frame(bytes)?)
        });
        let evaluated = fetched.into_actor(self).map(move |fetched, actor, _| {
            let result = actor.evaluate(fetched??)?;
            actor.offer(&result)
        });
        Box::pin(evaluated)
    }
}

impl UdfActor {
    fn offer(&mut self, result: &DataFrame) -> UdfResult<BatchAt> {
        // As many as callers have credits for, at most.
        self.offers.retain(Offer::waits);
        let offer = self.host.store.offer(encode_frame(result)?);
        let ticket = offer.ticket();
        self.offers.push(offer);
        Ok(BatchAt::There(self.here, ticket))
    }
}

async fn report(replica: ReplicaId, mut words: mpsc::Receiver<Word>, scheduler: ActorRef<SchedulerActor>) {
    while let Some(word) = words.recv().await {
        if let Err(error) = insist(&scheduler, ReplicaSays { replica, word }).await {
            // The scheduler's own deadline for readiness, or the loss of this worker, ends the wait for the word.
            tracing::warn!(?replica, %error, "could not report to the scheduler");
        }
    }
}

impl std::fmt::Debug for UdfActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UdfActor")
            .field("replica", &self.spec.replica)
            .field("udf", &self.spec.udf)
            .finish_non_exhaustive()
    }
}
