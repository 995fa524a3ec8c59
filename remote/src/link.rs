//! A control connection to a peer: lane 0 for the system and replies, lane 1 for messages, lane 2 for heartbeats.
//!
//! Replies go with the system's frames because nothing there ever waits for an actor: a busy actor holds up
//! messages, never the replies that it may be waiting for itself. Heartbeats wait for nothing at all: behind a large
//! reply on a slow network they would come too late.

mod beside;
mod streams;
mod watches;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quinn::{Connection, SendStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::actor::ActorId;
use crate::close::Code;
use crate::error::{AskError, Fault, TellError};
use crate::frame::{Header, Kind};
use crate::identity::PeerId;
use crate::lane::{Out, QUEUE, write_lane};
use crate::node::InHand;
use crate::parcel::{Opened, Parcel};
use crate::route::Boxed;
use crate::runtime::Net;
use crate::trace::TraceContext;
pub(crate) use beside::{Arrived, room, units};
use beside::{Held, Hold};
pub(crate) use streams::Incoming;
use streams::Streams;
use watches::Watches;

/// Streams of a control connection.
pub(crate) const LANES: usize = 3;
/// Asks of one peer that are served at a time.
const SERVING: usize = 4096;
/// Cancels kept that came before their ask, because lanes are not ordered among each other.
const EARLY: usize = 1024;

/// The answer to an ask as it came from the wire.
pub(crate) type Answer = Result<Arrived, Fault>;

/// A live control connection.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) connection: Connection,
    /// Places for asks of the peer.
    pub(crate) places: Arc<Semaphore>,
    /// Where answers are made; each holds a place, so there is always room.
    pub(crate) answering: mpsc::Sender<Boxed<'static, ()>>,
    net: Net,
    system: mpsc::Sender<Out>,
    messages: mpsc::Sender<Out>,
    beats: mpsc::Sender<Out>,
    next_call: AtomicU64,
    calls: DashMap<u64, oneshot::Sender<Answer>>,
    serving: DashMap<u64, oneshot::Sender<()>>,
    watches: Watches,
    streams: Streams,
    held: Held,
    early: Mutex<VecDeque<u64>>,
    ended: OnceLock<String>,
    going_away: AtomicBool,
}

/// A message for an actor of the peer.
pub(crate) struct Letter {
    pub(crate) message: u32,
    pub(crate) actor: ActorId,
    pub(crate) parcel: Parcel,
    pub(crate) trace: Option<TraceContext>,
}

/// A message whose batches are held until [`Hold`] is dropped, ready to be sent.
struct Sealed {
    header: Header,
    payload: Bytes,
    hold: Hold,
}

impl Letter {
    async fn seal(self, link: &Arc<Link>) -> Sealed {
        let Self { message, actor, parcel, trace } = self;
        let (payload, hold) = link.hold(parcel).await;
        let (len, flags) = (length(&payload), hold.flags());
        let header = Header { len, flags, message, recipient: actor.0, trace, ..Header::bare(Kind::Tell) };
        Sealed { header, payload, hold }
    }
}

impl Sealed {
    fn ask(self, call: u64, deadline: Duration) -> (Out, Hold) {
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
        (Out::Frame(Header { kind: Kind::Ask, call, deadline_ms, ..self.header }, self.payload), self.hold)
    }
}

/// The queues of a link's two writers, until they are started.
pub(crate) struct Writers {
    system: (SendStream, mpsc::Receiver<Out>),
    messages: (SendStream, mpsc::Receiver<Out>),
    beats: (SendStream, mpsc::Receiver<Out>),
}

impl Link {
    pub(crate) fn new(
        peer: PeerId,
        connection: Connection,
        net: Net,
        [system, messages, beats]: [SendStream; LANES],
    ) -> (Arc<Self>, Writers) {
        let (system_queue, system_waiting) = mpsc::channel(QUEUE);
        let (message_queue, message_waiting) = mpsc::channel(QUEUE);
        let (beat_queue, beat_waiting) = mpsc::channel(1);
        let _ = beats.set_priority(1); // fails only if the stream is closed
        let (answering, answers) = mpsc::channel(SERVING);
        net.handle.spawn(make_answers(answers));
        let link = Arc::new(Self {
            peer,
            connection,
            places: Arc::new(Semaphore::new(SERVING)),
            answering,
            net,
            system: system_queue,
            messages: message_queue,
            beats: beat_queue,
            next_call: AtomicU64::new(1),
            calls: DashMap::new(),
            serving: DashMap::new(),
            watches: Watches::default(),
            streams: Streams::default(),
            held: Held::default(),
            early: Mutex::default(),
            ended: OnceLock::new(),
            going_away: AtomicBool::new(false),
        });
        let writers = Writers {
            system: (system, system_waiting),
            messages: (messages, message_waiting),
            beats: (beats, beat_waiting),
        };
        (link, writers)
    }

    /// Starts the writers, on the network's runtime.
    pub(crate) fn start(&self, writers: Writers) {
        for (stream, queue) in [writers.system, writers.messages, writers.beats] {
            self.net.handle.spawn(write_lane(self.connection.clone(), stream, queue));
        }
    }

    /// Whether new messages may be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.ended.get().is_none() && !self.going_away.load(Ordering::Acquire)
    }

    /// Sends an ask and waits for its answer; dropping the future cancels it there.
    pub(crate) async fn ask(self: &Arc<Self>, letter: Letter, deadline: Duration) -> Result<Opened, AskError> {
        let started = Instant::now();
        let (letter, place) = self.place(letter, deadline).await?;
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.calls.insert(call, sender);
        let mut guard = CallGuard { link: self, call, open: true };
        // After the insert: whoever ends the link clears the calls after it has set the cause.
        if self.ended.get().is_some() {
            guard.open = false;
            return Err(AskError::NotConnected);
        }
        let left = deadline.saturating_sub(started.elapsed());
        let (frame, _hold) = letter.ask(call, left);
        place.send(frame);
        let answer = self.net.within(left, answer).await.ok_or(AskError::Deadline)?;
        guard.open = false;
        let Ok(answer) = answer else {
            return Err(AskError::ConnectionLost { cause: self.cause() });
        };
        let left = deadline.saturating_sub(started.elapsed());
        let opened = self.net.within(left, answer?.open()).await.ok_or(AskError::Deadline)?;
        opened.map_err(|error| AskError::BadReply { text: format!("its batches did not come: {error}") })
    }

    /// Waits for room for a message's batches and then for the message, no longer than `deadline`.
    async fn place(
        self: &Arc<Self>,
        letter: Letter,
        deadline: Duration,
    ) -> Result<(Sealed, mpsc::Permit<'_, Out>), TellError> {
        let placed = async {
            let letter = letter.seal(self).await;
            Ok((letter, self.messages.reserve().await.map_err(|_| TellError::NotConnected)?))
        };
        self.net.within(deadline, placed).await.ok_or(TellError::Busy)?
    }

    /// Asks for a new certificate.
    pub(crate) async fn renew(&self, request: Bytes, deadline: Duration) -> Result<Bytes, AskError> {
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.calls.insert(call, sender);
        let _guard = CallGuard { link: self, call, open: false };
        if self.ended.get().is_some() {
            return Err(AskError::NotConnected);
        }
        self.try_send(Kind::Renew, call, request);
        match self.net.within(deadline, answer).await.ok_or(AskError::Deadline)? {
            Ok(answer) => Ok(answer?.bytes),
            Err(_) => Err(AskError::ConnectionLost { cause: self.cause() }),
        }
    }

    /// Queues a message.
    pub(crate) async fn tell(self: &Arc<Self>, letter: Letter, deadline: Duration) -> Result<(), TellError> {
        let (Sealed { header, payload, hold }, place) = self.place(letter, deadline).await?;
        if self.ended.get().is_some() {
            return Err(TellError::NotConnected);
        }
        place.send(Out::Frame(header, payload));
        hold.leave();
        Ok(())
    }

    /// Queues a frame of the system's that nothing repairs if it is lost, at once or by a task; `held` is kept until
    /// then.
    fn send_surely(self: &Arc<Self>, header: Header, held: impl Send + 'static) {
        if let Err(mpsc::error::TrySendError::Full(frame)) = self.system.try_send(Out::Frame(header, Bytes::new())) {
            let link = Arc::clone(self);
            self.net.handle.spawn(async move {
                let _ = link.system.send(frame).await; // fails only if the link has ended
                drop(held);
            });
        }
    }

    /// Queues a frame of the system's, if there is room. For frames whose loss a deadline repairs, and for
    /// readers, which must never wait for a writer.
    pub(crate) fn try_send(&self, kind: Kind, call: u64, payload: Bytes) {
        let header = Header { len: length(&payload), ..Header::of_call(kind, call) };
        if self.system.try_send(Out::Frame(header, payload)).is_err() {
            tracing::debug!(peer = %self.peer, ?kind, call, "no room for a frame");
        }
    }

    /// Sends a beat. One that finds no room is as good as lost on the way.
    pub(crate) fn beat(&self, seq: u64, ack: u64) {
        let header = Header { recipient: ack, ..Header::of_call(Kind::Beat, seq) };
        let _ = self.beats.try_send(Out::Frame(header, Bytes::new()));
    }

    /// Queues the reply to a call, after there is room for its batches.
    pub(crate) async fn reply(self: &Arc<Self>, call: u64, parcel: Parcel) {
        let (payload, hold) = self.hold(parcel).await;
        let header = Header { len: length(&payload), flags: hold.flags(), ..Header::of_call(Kind::Reply, call) };
        if self.system.send(Out::Frame(header, payload)).await.is_ok() {
            hold.leave();
        }
    }

    /// Queues an answer to the peer.
    pub(crate) async fn answer(&self, call: u64, kind: Kind, payload: Bytes) {
        let header = Header { len: length(&payload), ..Header::of_call(kind, call) };
        // Ends when there is room or the connection is lost: a writer that stalls closes it.
        let _ = self.system.send(Out::Frame(header, payload)).await;
    }

    /// Gives an answer of the peer to its asker, if that still waits.
    pub(crate) fn resolve(&self, call: u64, answer: Answer) {
        let waited = match (self.calls.remove(&call), answer) {
            (Some((_, asker)), answer) => asker.send(answer).is_ok(),
            (None, Err(fault)) => self.streams.fail(call, fault),
            (None, Ok(_)) => false,
        };
        if !waited {
            tracing::debug!(peer = %self.peer, call, "an answer that nobody waits for");
        }
    }

    /// Notes that a call of the peer is served. `None` if it was cancelled before it came, or has come before.
    pub(crate) fn serve(self: &Arc<Self>, call: u64) -> Option<Serving> {
        let (cancel, cancelled) = oneshot::channel();
        {
            let mut early = self.early();
            if let Some(at) = early.iter().position(|early| *early == call) {
                early.remove(at);
                return None;
            }
            match self.serving.entry(call) {
                Entry::Vacant(entry) => drop(entry.insert(cancel)),
                Entry::Occupied(_) => {
                    tracing::warn!(peer = %self.peer, call, "a call that is served already came again");
                    return None;
                }
            }
        }
        let serving = Serving { link: Arc::clone(self), call, cancelled };
        // As in `ask`: the end of the link must not miss this entry.
        self.ended.get().is_none().then_some(serving)
    }

    /// The peer cancels a call.
    pub(crate) fn cancel(&self, call: u64) {
        let mut early = self.early();
        if self.serving.remove(&call).is_none() {
            if early.len() == EARLY {
                early.pop_front();
            }
            early.push_back(call);
        }
    }

    /// Adds what is in hand with this peer.
    pub(crate) fn count(&self, all: &mut InHand) {
        all.asks += self.calls.len() + self.streams.len();
        all.served += self.serving.len();
        all.watches += self.watches.len();
        all.batches += self.held.len();
    }

    /// The peer takes no new messages.
    pub(crate) fn peer_goes_away(&self) {
        self.going_away.store(true, Ordering::Release);
    }

    /// The connection is gone: askers learn why, served calls are cancelled.
    pub(crate) fn end(&self, cause: String) {
        let _ = self.ended.set(cause);
        // In order, so that what the askers do next is the same in every run of a seed.
        for call in sorted(&self.calls) {
            self.calls.remove(&call);
        }
        for call in sorted(&self.serving) {
            self.serving.remove(&call);
        }
        self.watches.end();
        self.streams.end();
        self.held.end();
    }

    /// Closes gracefully: no new messages, running calls finish, both lanes and what is beside messages are delivered.
    pub(crate) async fn close(&self) {
        self.going_away.store(true, Ordering::Release);
        self.try_send(Kind::GoAway, 0, Bytes::new());
        // All places free means that no call of the peer is being served.
        let _ = self.places.acquire_many(SERVING as u32).await;
        self.held.taken().await;
        for lane in [&self.messages, &self.system] {
            let (done, finished) = oneshot::channel();
            if lane.send(Out::Finish(done)).await.is_ok() {
                let _ = finished.await;
            }
        }
        self.connection.close(Code::Bye.var(), b"bye");
    }

    fn cause(&self) -> String {
        self.ended.get().cloned().unwrap_or_else(|| "closed".to_owned())
    }

    fn early(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of the peer that is being served; forgotten when dropped.
pub(crate) struct Serving {
    link: Arc<Link>,
    call: u64,
    cancelled: oneshot::Receiver<()>,
}

impl Serving {
    /// Waits until the peer cancels or is lost.
    pub(crate) async fn cancelled(&mut self) {
        let _ = (&mut self.cancelled).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.link.serving.remove(&self.call);
    }
}

/// Forgets a call when its asker goes, and cancels it there if it has no answer yet.
struct CallGuard<'a> {
    link: &'a Link,
    call: u64,
    open: bool,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.link.calls.remove(&self.call);
        if self.open {
            self.link.try_send(Kind::Cancel, self.call, Bytes::new());
        }
    }
}

/// Drives all answers of a link in one task: woken once for many, where a task each would be woken one by one.
async fn make_answers(mut new: mpsc::Receiver<Boxed<'static, ()>>) {
    let mut making = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased; // or a seed of the simulation would not repeat
            answer = new.recv() => match answer {
                // What panics in one, such as the drop of a reply, harms no other.
                Some(answer) => making.push(AssertUnwindSafe(answer).catch_unwind()),
                None => return,
            },
            Some(_) = making.next() => {}
        }
    }
}

fn sorted<T>(map: &DashMap<u64, T>) -> Vec<u64> {
    let mut keys: Vec<u64> = map.iter().map(|entry| *entry.key()).collect();
    keys.sort_unstable();
    keys
}

/// A payload's length; the codec allows nothing near 4 GiB.
fn length(payload: &Bytes) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}
