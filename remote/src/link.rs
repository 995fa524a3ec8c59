//! A control connection to a peer: lane 0 for the system and replies, lane 1 for messages, lane 2 for heartbeats.
//!
//! Replies go with the system's frames because nothing there ever waits for an actor: a busy actor holds up
//! messages, never the replies that it may be waiting for itself. Heartbeats wait for nothing at all: behind a large
//! reply on a slow network they would come too late.

mod streams;
mod watches;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
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
use crate::runtime::Net;
use crate::trace::TraceContext;
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
pub(crate) type Answer = Result<Bytes, Fault>;

/// A live control connection.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) connection: Connection,
    /// Places for asks of the peer.
    pub(crate) places: Arc<Semaphore>,
    net: Net,
    system: mpsc::Sender<Out>,
    messages: mpsc::Sender<Out>,
    beats: mpsc::Sender<Out>,
    next_call: AtomicU64,
    calls: DashMap<u64, oneshot::Sender<Answer>>,
    serving: DashMap<u64, oneshot::Sender<()>>,
    watches: Watches,
    streams: Streams,
    early: Mutex<VecDeque<u64>>,
    ended: OnceLock<String>,
    going_away: AtomicBool,
}

/// A message for an actor of the peer.
pub(crate) struct Letter {
    pub(crate) message: u32,
    pub(crate) actor: ActorId,
    pub(crate) payload: Bytes,
    pub(crate) trace: Option<TraceContext>,
}

impl Letter {
    fn ask(self, call: u64, deadline: Duration) -> Out {
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
        self.frame(Header { deadline_ms, ..Header::of_call(Kind::Ask, call) })
    }

    fn frame(self, header: Header) -> Out {
        let Self { message, actor, payload, trace } = self;
        Out::Frame(Header { len: length(&payload), message, recipient: actor.0, trace, ..header }, payload)
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
        let link = Arc::new(Self {
            peer,
            connection,
            places: Arc::new(Semaphore::new(SERVING)),
            net,
            system: system_queue,
            messages: message_queue,
            beats: beat_queue,
            next_call: AtomicU64::new(1),
            calls: DashMap::new(),
            serving: DashMap::new(),
            watches: Watches::default(),
            streams: Streams::default(),
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
    pub(crate) async fn ask(self: &Arc<Self>, letter: Letter, deadline: Duration) -> Result<Bytes, AskError> {
        let started = Instant::now();
        let place = self.net.within(deadline, self.messages.reserve()).await;
        let place = place.ok_or(AskError::Busy)?.map_err(|_| AskError::NotConnected)?;
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
        place.send(letter.ask(call, left));
        let answer = self.net.within(left, answer).await.ok_or(AskError::Deadline)?;
        guard.open = false;
        match answer {
            Ok(answer) => answer.map_err(AskError::from),
            Err(_) => Err(AskError::ConnectionLost { cause: self.cause() }),
        }
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
            Ok(answer) => answer.map_err(AskError::from),
            Err(_) => Err(AskError::ConnectionLost { cause: self.cause() }),
        }
    }

    /// Queues a message.
    pub(crate) async fn tell(&self, letter: Letter, deadline: Duration) -> Result<(), TellError> {
        let place = self.net.within(deadline, self.messages.reserve()).await;
        let place = place.ok_or(TellError::Busy)?.map_err(|_| TellError::NotConnected)?;
        if self.ended.get().is_some() {
            return Err(TellError::NotConnected);
        }
        place.send(letter.frame(Header::bare(Kind::Tell)));
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
    }

    /// Closes gracefully: no new messages, running calls finish, both lanes are delivered.
    pub(crate) async fn close(&self) {
        self.going_away.store(true, Ordering::Release);
        self.try_send(Kind::GoAway, 0, Bytes::new());
        // All places free means that no call of the peer is being served.
        let _ = self.places.acquire_many(SERVING as u32).await;
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

fn sorted<T>(map: &DashMap<u64, T>) -> Vec<u64> {
    let mut keys: Vec<u64> = map.iter().map(|entry| *entry.key()).collect();
    keys.sort_unstable();
    keys
}

/// A payload's length; the codec allows nothing near 4 GiB.
fn length(payload: &Bytes) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}
