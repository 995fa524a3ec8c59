//! One replica of a UDF. The author's code runs on a thread of its own, so that this actor can always answer, also for a
//! call that hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, ResponseFuture};
use polars::prelude::DataFrame;
use regatta_remote::{ActorRef, Asker, Sender};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::messages::{BatchAt, CallFailure, Evaluate, Evaluated, Place, ReplicaSays, StartReplica, Word};
use super::{Host, SchedulerActor, insist};
use crate::actor::ActorDirectory;
use crate::os;
use crate::sched::ReplicaId;
use crate::store::{Offer, decode_frame, encode_frame};
use crate::udf::{Call, Fault, ReplicaSpec, ReplicaThread, Reply, Said, Seat, UdfError};

/// A replica of a UDF: started once, then one batch at a time, of whatever query.
pub struct UdfActor {
    host: Arc<Host>,
    here: Place,
    spec: StartReplica,
    words: mpsc::Sender<Word>,
    /// Until its thread has it.
    ends: Option<Ends>,
    number: regatta_remote::ActorId,
    /// Results that wait to be fetched: they go with this replica.
    offers: Arc<Mutex<Vec<Offer>>>,
    /// `None` if there was no thread for it.
    thread: Option<ReplicaThread>,
    /// True once a call has outlasted its time-out.
    hung: Arc<watch::Sender<bool>>,
    calls: Arc<Calls>,
    /// How many calls had begun when it was last looked, and whether the scheduler was told that there are none.
    looked: (u64, bool),
}

/// What a replica has to do, also if nobody waits for it any more.
#[derive(Default)]
struct Calls {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// How often is looked whether a replica has anything to do: it is idle if it had nothing from one look to the next.
const LOOK: Duration = Duration::from_millis(500);

/// Progress reports that may wait to be sent; more are dropped.
const WORDS: usize = 16;

impl UdfActor {
    pub(super) fn new(
        host: Arc<Host>,
        here: Place,
        spec: StartReplica,
        number: regatta_remote::ActorId,
        ends: Ends,
    ) -> Self {
        Self {
            host,
            here,
            spec,
            words: ends.words.clone(),
            ends: Some(ends),
            number,
            offers: Arc::default(),
            thread: None,
            hung: Arc::default(),
            calls: Arc::default(),
            looked: (0, false),
        }
    }
}

impl UdfActor {
    /// Says so if the replica has become idle, or is so no longer.
    fn look(&mut self) {
        let (begun, ended) = (self.calls.begun.load(Ordering::Relaxed), self.calls.ended.load(Ordering::Relaxed));
        let idle = begun == ended && begun == self.looked.0;
        // What has no place now is said at the next look.
        let said = idle == self.looked.1 || self.words.try_send(Word::Idle(idle)).is_ok();
        self.looked = (begun, if said { idle } else { !idle });
    }
}

/// A call that nobody wants any more may go on for so long before its replica is given up. Others may wait behind it.
const ABANDONED: Duration = Duration::from_secs(10);

/// A call, or the start, for as long as it takes.
struct UnderWay(Arc<Calls>);

impl UnderWay {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(calls))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Actor for UdfActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let StartReplica { replica, step, udf, arguments, options, devices } = self.spec.clone();
        // The start counts as a call: who starts is not idle.
        let mut starting = Some(UnderWay::begin(&self.calls));
        let (words, number) = (self.words.clone(), self.number);
        let ends = self.ends.take();
        let tell = move |said: Said<'_>| {
            let _: &Option<Ends> = &ends;
            if matches!(said, Said::Started(_)) {
                drop(starting.take());
            }
            let word = match said {
                // Places are kept for the words that must be heard.
                Said::Progress(_) if words.capacity() <= 2 => return,
                Said::Progress(doing) => Word::Progress(doing.to_owned()),
                Said::Started(Ok(())) => Word::Ready(number),
                Said::Started(Err(error)) => Word::Failed(error),
                Said::Stopped(_, metrics) if metrics.is_empty() => return,
                Said::Stopped(served, metrics) => Word::Stopped(served.unwrap_or(step), metrics),
            };
            let _ = words.try_send(word);
        };
        tracing::debug!(udf, rank = replica.rank, ?devices, "starts");
        let (worker, scratch) = (self.here.worker, self.host.store.folder());
        let seat = Seat::of(step, replica.rank, worker, options.replicas.1, devices, scratch);
        let directory: Arc<dyn ActorDirectory> = Arc::<Host>::clone(&self.host);
        let spec = ReplicaSpec { udf, arguments, options, seat, directory: Some(directory) };
        match ReplicaThread::start(spec, tell) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => drop(self.words.try_send(Word::Failed(error))),
        }
        ctx.run_interval(LOOK, |actor, _| actor.look());
    }
}

impl Handler<Evaluate> for UdfActor {
    type Result = ResponseFuture<Result<Evaluated, CallFailure>>;

    fn handle(&mut self, message: Evaluate, _: &mut Self::Context) -> Self::Result {
        let Evaluate { inputs, call } = message;
        let (host, here, hung) = (Arc::clone(&self.host), self.here, Arc::clone(&self.hung));
        let (offers, words) = (Arc::clone(&self.offers), self.words.clone());
        let thread = self.thread.clone();
        let (under_way, asker, sender) = (UnderWay::begin(&self.calls), Asker::current(), Sender::current());
        let is_callers = match &inputs {
            BatchAt::Here(_) => sender == Sender::Here,
            BatchAt::There(place, _) => place.node.is_some_and(|(node, _)| sender.is(node)),
        };
        let evaluate = async move {
            if !is_callers {
                return Err(CallFailure::NotFetched("the batch is not the caller's".to_owned()));
            }
            let thread = thread.ok_or_else(|| UdfError::new("the replica has no thread"))?;
            let (frame, is_here) = match inputs {
                BatchAt::Here(frame) => (frame, true),
                BatchAt::There(place, ticket) => {
                    // The next batch comes while this one runs.
                    let fetched = host.fetch(&place, ticket).await;
                    let bytes = fetched.map_err(|failure| CallFailure::NotFetched(failure.to_string()))?;
                    (decode_frame(bytes).map_err(|error| CallFailure::NotFetched(error.to_string()))?, false)
                }
            };
            let evaluation = Evaluation { thread, hung, words, runtime: host.runtime.handle().clone() };
            let (Reply { column, report }, busy) = evaluation.run(frame, call, under_way).await?;
            let result = column.into_frame();
            if is_here {
                return Ok(Evaluated { column: BatchAt::Here(result), report, busy });
            }
            let bytes = encode_frame(&result).map_err(UdfError::from)?;
            let offer = host.store.offer(bytes, sender.node());
            let ticket = offer.ticket();
            let mut offers = offers.lock().unwrap_or_else(PoisonError::into_inner);
            // As many as callers have credits for, at most.
            offers.retain(Offer::waits);
            offers.push(offer);
            Ok(Evaluated { column: BatchAt::There(here, ticket), report, busy })
        };
        Box::pin(async move {
            tokio::select! {
                biased;
                evaluated = evaluate => evaluated,
                () = asker.gone() => Err(CallFailure::NotFetched("nobody waits for it any more".to_owned())),
            }
        })
    }
}

/// Says that a replica has ended: when the thread on which it lives has, or when it is dropped before it has one. What is
/// stopped at once may never come to be an actor.
pub(super) struct Ends {
    words: mpsc::Sender<Word>,
    runtime: Handle,
}

impl Ends {
    pub(super) fn of(replica: ReplicaId, host: &Arc<Host>, scheduler: ActorRef<SchedulerActor>) -> Self {
        let (words, to_send) = mpsc::channel(WORDS);
        let runtime = host.runtime.handle().clone();
        runtime.spawn(report(replica, to_send, scheduler, Arc::clone(host)));
        Self { words, runtime }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let words = self.words.clone();
        self.runtime.spawn(async move { drop(words.send(Word::Ended).await) });
    }
}

/// What runs one batch.
struct Evaluation {
    thread: ReplicaThread,
    hung: Arc<watch::Sender<bool>>,
    words: mpsc::Sender<Word>,
    runtime: Handle,
}

impl Evaluation {
    /// Has the replica's thread run one batch, and says how long that took. The time-out begins when the batch does.
    async fn run(self, inputs: DataFrame, call: Call, under_way: UnderWay) -> Result<(Reply, Duration), CallFailure> {
        let (began, begins) = oneshot::channel();
        let (done, result) = oneshot::channel();
        let told_began = move || _ = began.send(());
        let tell_result = move |result| {
            drop(under_way);
            drop(done.send(result));
        };
        // The call ends with this future, if it is dropped.
        let _wanted = self.thread.run(inputs, call, told_began, tell_result);
        let mut hangs = self.hung.subscribe();
        tokio::select! {
            biased;
            _ = begins => (), // an error: the thread has ended, and so has `result`
            _ = hangs.wait_for(|hangs| *hangs) => return Err(CallFailure::Hung),
        }
        let began = os::now();
        let mut running = Running { result: Some(result), words: self.words.clone(), runtime: self.runtime };
        let result = match self.thread.patience(&call) {
            None => running.ends().await,
            Some(limit) => match tokio::time::timeout(limit, running.ends()).await {
                Ok(result) => result,
                Err(_) => {
                    running.result = None;
                    self.hung.send_replace(true);
                    let _ = self.words.send(Word::Hung).await;
                    return Err(CallFailure::TimedOut);
                }
            },
        };
        running.result = None;
        let reply = result.unwrap_or_else(|_| Err(UdfError::new("the replica's thread ended").into()))?;
        Ok((reply, os::since(began)))
    }
}

type CallResult = Result<Reply, Fault>;

/// A call that has begun. If this is dropped before it has ended, it is seen to that it ends.
struct Running {
    result: Option<oneshot::Receiver<CallResult>>,
    words: mpsc::Sender<Word>,
    runtime: Handle,
}

impl Running {
    /// Cancel safe: it can be waited for again.
    async fn ends(&mut self) -> Result<CallResult, oneshot::error::RecvError> {
        match &mut self.result {
            Some(result) => result.await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            let words = self.words.clone();
            self.runtime.spawn(async move {
                if tokio::time::timeout(ABANDONED, result).await.is_err() {
                    let _ = words.send(Word::Stuck).await;
                }
            });
        }
    }
}

async fn report(
    replica: ReplicaId,
    mut words: mpsc::Receiver<Word>,
    scheduler: ActorRef<SchedulerActor>,
    host: Arc<Host>,
) {
    while let Some(word) = words.recv().await {
        if let Err(error) = insist(&scheduler, ReplicaSays { replica, word }).await {
            tracing::error!(?replica, %error, "could not report to the scheduler");
            // It would wait for the word as long as this worker is there: a replica that has ended is charged until it says so.
            return host.leave();
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
