//! A control connection to a peer: lane 0 for the system and replies, lane 1 for messages, lane 2 for heartbeats.
//!
//! Replies go with the system's frames because nothing there ever waits for an actor: a busy actor holds up
//! messages, never the replies that it may be waiting for itself. Heartbeats wait for nothing at all: behind a large
//! reply on a slow network they would come too late.

mod beside;
mod served;
mod streams;
mod watches;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::close::Code;
use crate::error::{AskError, Fault, TellError};
use crate::frame::{Header, Kind};
use crate::ids::{ActorId, PeerId};
use crate::limits::MAX_BATCHES;
use crate::membership::{SUSPECT, TICK};
use crate::net::{Net, deadline};
use crate::parcel::{MAX_PAYLOAD, Opened, Parcel};
use crate::queue::{COPY, Place, QUEUE, Queue, Waiting};
use crate::room::Room;
use crate::trace::TraceContext;
pub(crate) use beside::{Arrived, Beside};
use beside::{Held, Hold, room};
use served::Served;
pub(crate) use served::{Ready, Serving};
pub(crate) use streams::Incoming;
use streams::Streams;
pub(crate) use watches::NotBorne;
use watches::Watches;

/// Streams of a control connection.
pub(crate) const LANES: usize = 3;
/// Asks and streams of ours that one peer serves at a time; more wait for a place.
const ASKS: usize = 4096;
/// Those of one peer that are served at a time: with room for those that have ended and are not yet told.
const SERVED: usize = 2 * ASKS;
/// Bytes of answers of one peer that wait to be written. Small ones need no room: each keeps a place.
const ANSWERS: usize = MAX_BATCHES;
/// Bytes of messages for one peer that wait to be written. Small ones need no room: each has a place of its lane's queue.
const SENDING: usize = MAX_BATCHES;
/// Beats that a link may be behind another of its peer: as long as a silent peer is not suspect.
const BEHIND: u64 = SUSPECT.as_secs() / TICK.as_secs();
/// Cancels kept that came before their ask, because lanes are not ordered among each other.
const EARLY: usize = SERVED;

/// The answer to an ask as it came from the wire.
pub(crate) type Answer = Result<Arrived, Fault>;

/// What a link's frames go over.
pub(crate) trait Wire: Send + Sync {
    /// Ends it for both sides, which see why.
    fn close(&self, code: Code, why: &str);

    /// Where it leads.
    fn remote_address(&self) -> SocketAddr;
}

/// What a node is busy with at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InHand {
    /// Asks to other nodes that wait for their answer.
    pub asks: usize,
    /// Asks of other nodes that are being served.
    pub served: usize,
    /// Transfers in either direction.
    pub transfers: usize,
    /// Actors of other nodes that are watched here, and actors of this node that are watched there.
    pub watches: usize,
    /// Messages, replies and items whose batches wait to be fetched from here.
    pub batches: usize,
}

/// A live control connection.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    wire: Box<dyn Wire>,
    /// Places for asks of the peer.
    places: Arc<Semaphore>,
    /// Where answers are made that are not there when their handler returns; each comes with a place of its actor.
    pub(crate) answering: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    net: Net,
    system: Queue,
    messages: Queue,
    beats: Queue,
    /// Places for asks of ours.
    asking: Arc<Semaphore>,
    pub(crate) rooms: Arc<Rooms>,
    /// For messages that wait to be written.
    sending: Room,
    next_call: AtomicU64,
    calls: DashMap<u64, Timed<oneshot::Sender<Answer>>>,
    serving: DashMap<u64, Timed<Served>>,
    /// For the deadlines of both.
    alarm: Alarm,
    watches: Watches,
    streams: Streams,
    held: Held,
    early: Mutex<BTreeSet<u64>>,
    ended: OnceLock<String>,
    over: Notify,
    going_away: AtomicBool,
    /// The last beat that came, and how often in a row others of the peer's links were far ahead of it.
    heard: AtomicU64,
    behind: AtomicU32,
}

/// Room for what one peer makes this node hold, on all its links together.
pub(crate) struct Rooms {
    /// For large frames that have not come whole: as many as both lanes of one link may have.
    pub(crate) frames: Room,
    /// For messages that wait for their actor or for their batches.
    pub(crate) arrivals: Room,
    /// For answers that it has not read.
    answers: Room,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { frames: Room::new(2 * MAX_PAYLOAD, 0), arrivals: room(), answers: Room::new(ANSWERS, 0) }
    }
}

/// Who waits, and no longer than until.
struct Timed<T> {
    waiting: T,
    until: Instant,
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

/// A place among our calls, a message, and its own place.
type Placed<'a> = (OwnedSemaphorePermit, Sealed, Place<'a>);

impl Letter {
    async fn seal(mut self, link: &Arc<Link>) -> Sealed {
        let (bytes, hold) = link.hold(std::mem::take(&mut self.parcel)).await;
        self.parcel.bytes = bytes;
        self.sealed(hold)
    }

    /// With nothing left beside it.
    fn sealed(self, hold: Hold) -> Sealed {
        let Self { message, actor, parcel: Parcel { bytes: payload, .. }, trace } = self;
        let (len, flags) = (length(&payload), hold.flags());
        let header = Header { len, flags, message, recipient: actor.0, trace, ..Header::bare(Kind::Tell) };
        Sealed { header, payload, hold }
    }
}

impl Sealed {
    /// Queues it as a call.
    fn ask(self, call: u64, deadline: Duration, place: Place<'_>) -> Hold {
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
        place.send(Header { kind: Kind::Ask, call, deadline_ms, ..self.header }, self.payload);
        self.hold
    }
}

impl Link {
    /// A link, and what its lanes are to write.
    pub(crate) fn new(peer: PeerId, wire: Box<dyn Wire>, net: Net, rooms: Arc<Rooms>) -> (Arc<Self>, [Waiting; LANES]) {
        let (system, system_waiting) = Queue::new(QUEUE);
        let (messages, messages_waiting) = Queue::new(QUEUE);
        let (beats, beats_waiting) = Queue::new(1);
        let (answering, answers) = mpsc::unbounded_channel();
        net.handle.spawn(make_answers(answers));
        let link = Arc::new(Self {
            peer,
            wire,
            places: Arc::new(Semaphore::new(SERVED)),
            answering,
            net,
            system,
            messages,
            beats,
            asking: Arc::new(Semaphore::new(ASKS)),
            rooms,
            sending: Room::new(SENDING, 0),
            next_call: AtomicU64::new(1),
            calls: DashMap::new(),
            serving: DashMap::new(),
            alarm: Alarm::new(),
            watches: Watches::default(),
            streams: Streams::default(),
            held: Held::default(),
            early: Mutex::default(),
            ended: OnceLock::new(),
            over: Notify::new(),
            going_away: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            behind: AtomicU32::new(0),
        });
        (link, [system_waiting, messages_waiting, beats_waiting])
    }

    /// Ends its connection, which ends it.
    pub(crate) fn cut(&self, code: Code, why: &str) {
        self.wire.close(code, why);
    }

    /// Where it leads.
    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.wire.remote_address()
    }

    /// Whether a line about the peer may be written to the log.
    pub(crate) fn may_say(&self) -> bool {
        self.net.may_say(self.peer)
    }

    /// Whether new messages may be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.ended.get().is_none() && !self.going_away.load(Ordering::Acquire)
    }

    /// Sends an ask and waits for its answer; dropping the future cancels it there.
    pub(crate) async fn ask(self: &Arc<Self>, letter: Letter, until: Instant) -> Result<Opened, AskError> {
        let (place, letter, room) = match self.call_now(letter) {
            Ok(placed) => placed,
            Err(letter) => Box::pin(self.call(letter, until)).await?,
        };
        let (call, answer) = self.await_answer(until);
        let mut guard = CallGuard { link: self, call, known: true, open: Some(place) };
        // After the insert: whoever ends the link clears the calls after it has set the cause.
        if self.ended.get().is_some() {
            guard.open = None;
            return Err(AskError::NotConnected);
        }
        let _hold = letter.ask(call, until.saturating_duration_since(Instant::now()), room);
        let answer = self.answered(answer).await;
        guard.known = false;
        if !matches!(answer, Err(AskError::Deadline)) {
            guard.open = None;
        }
        let answer = answer??;
        if !answer.is_apart() {
            return Ok(Opened::plain(answer.bytes));
        }
        let opened = Box::pin(self.net.until(until, answer.open())).await.ok_or(AskError::Deadline)?;
        opened.map_err(|error| AskError::BadReply { text: format!("its batches did not come: {error}") })
    }

    /// A number for a call, and where its answer will be, if it comes until then.
    fn await_answer(&self, until: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (waiting, answer) = oneshot::channel();
        self.calls.insert(call, Timed { waiting, until });
        self.alarm.note(until);
        (call, answer)
    }

    /// The answer, unless the deadline passes or the link ends: whoever sees to that forgets the call.
    async fn answered(&self, answer: oneshot::Receiver<Answer>) -> Result<Answer, AskError> {
        answer.await.map_err(|_| match self.ended.get() {
            Some(cause) => AskError::ConnectionLost { cause: cause.clone() },
            None => AskError::Deadline,
        })
    }

    /// [`call`](Self::call), where there is nothing to wait for, as for most: without the future of what waits, which is large.
    fn call_now(self: &Arc<Self>, letter: Letter) -> Result<Placed<'_>, Letter> {
        let Ok(asking) = Arc::clone(&self.asking).try_acquire_owned() else {
            return Err(letter);
        };
        self.place_now(letter).map(|(letter, place)| (asking, letter, place))
    }

    /// A place among our calls, a message whose batches have room, and its own place; no later than then.
    async fn call(self: &Arc<Self>, letter: Letter, until: Instant) -> Result<Placed<'_>, TellError> {
        let placed = async {
            let asking = Arc::clone(&self.asking).acquire_owned().await.map_err(|_| TellError::NotConnected)?;
            let (letter, place) = self.place(letter).await?;
            Ok((asking, letter, place))
        };
        self.net.until(until, placed).await.ok_or(TellError::Busy)?
    }

    /// A place for a small message, if there is one now.
    fn place_now(self: &Arc<Self>, letter: Letter) -> Result<(Sealed, Place<'_>), Letter> {
        if letter.parcel.bytes.len() > COPY || !letter.parcel.beside.is_empty() {
            return Err(letter);
        }
        match self.messages.try_place() {
            Some(place) => Ok((letter.sealed(self.hold_nothing()), place)),
            None => Err(letter),
        }
    }

    /// Waits for room for a message's batches and then for the message.
    async fn place(self: &Arc<Self>, letter: Letter) -> Result<(Sealed, Place<'_>), TellError> {
        let letter = letter.seal(self).await;
        let room = match letter.payload.len() {
            ..=COPY => None,
            size => Some(self.sending.take(size).await.ok_or(TellError::NotConnected)?),
        };
        let place = self.messages.place().await.ok_or(TellError::NotConnected)?;
        Ok((letter, place.with(room)))
    }

    /// Asks for a new certificate.
    pub(crate) async fn renew(&self, request: Bytes, patience: Duration) -> Result<Bytes, AskError> {
        let (call, answer) = self.await_answer(deadline(patience));
        let _guard = CallGuard { link: self, call, known: true, open: None };
        if self.ended.get().is_some() {
            return Err(AskError::NotConnected);
        }
        self.try_send(Kind::Renew, call, request);
        Ok(self.answered(answer).await??.bytes)
    }

    /// Queues a message.
    pub(crate) async fn tell(self: &Arc<Self>, letter: Letter, until: Instant) -> Result<(), TellError> {
        let (Sealed { header, payload, hold }, place) = match self.place_now(letter) {
            Ok(placed) => placed,
            Err(letter) => {
                let placed = Box::pin(self.net.until(until, self.place(letter)));
                placed.await.ok_or(TellError::Busy)??
            }
        };
        if self.ended.get().is_some() {
            return Err(TellError::NotConnected);
        }
        place.send(header, payload);
        hold.leave();
        Ok(())
    }

    /// Cancels a call of ours, whose place is free when that is written.
    fn send_cancel(&self, call: u64, place: OwnedSemaphorePermit) {
        self.system.push(Header::of_call(Kind::Cancel, call), Bytes::new(), [Some(place), None]);
    }

    /// Queues a frame of the system's, if there is room. For frames whose loss a deadline repairs, and for
    /// readers, which must never wait for a writer.
    pub(crate) fn try_send(&self, kind: Kind, call: u64, payload: Bytes) {
        let header = Header { len: length(&payload), ..Header::of_call(kind, call) };
        match self.system.try_place() {
            Some(place) => place.send(header, payload),
            None => tracing::debug!(peer = %self.peer, ?kind, call, "no room for a frame"),
        }
    }

    /// Sends a beat. One that finds no room is as good as lost on the way.
    pub(crate) fn beat(&self, seq: u64, ack: u64) {
        if let Some(place) = self.beats.try_place() {
            place.send(Header { recipient: ack, ..Header::of_call(Kind::Beat, seq) }, Bytes::new());
        }
    }

    /// A beat has come, or need not come any more.
    pub(crate) fn hear(&self, seq: u64) {
        self.heard.fetch_max(seq, Ordering::AcqRel);
    }

    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Whether this link is silent while others are not; to be asked at each tick. The newest beat is that of all links of
    /// the peer.
    pub(crate) fn is_behind(&self, newest: u64) -> bool {
        if newest.saturating_sub(self.heard()) < BEHIND {
            self.behind.store(0, Ordering::Release);
            return false;
        }
        // Once may be a stall of our own, after which one lane is read before the other.
        self.behind.fetch_add(1, Ordering::AcqRel) > 0
    }

    /// Gives an answer of the peer to its asker, if that still waits.
    pub(crate) fn resolve(&self, call: u64, answer: Answer) {
        let waited = match (self.calls.remove(&call), answer) {
            (Some((_, asker)), answer) => asker.waiting.send(answer).is_ok(),
            (None, Err(fault)) => self.streams.fail(call, fault),
            (None, Ok(_)) => false,
        };
        if !waited {
            tracing::debug!(peer = %self.peer, call, "an answer that nobody waits for");
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
        self.over.notify_waiters();
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
        self.asking.close();
        self.sending.close();
        self.alarm.note(Instant::now()); // who waits for it looks, and sees that all is over
        for lane in [&self.system, &self.messages, &self.beats] {
            lane.close();
        }
    }

    /// Waits until the connection is gone.
    pub(crate) async fn over(&self) {
        loop {
            let over = self.over.notified(); // before the look, so that none is missed
            if self.ended.get().is_some() {
                return;
            }
            over.await;
        }
    }

    /// Ends what has waited until its deadline, for as long as the link lasts: our calls, and those of the peer, whose
    /// asker has given up at the same time. When this is dropped, as at the end of the runtime, it ends the link: nothing
    /// would end the waiting any more.
    pub(crate) async fn keep_deadlines(self: Arc<Self>) {
        struct Ending(Arc<Link>);
        impl Drop for Ending {
            fn drop(&mut self) {
                self.0.end("the runtime is shut down".to_owned());
            }
        }
        let Ending(link) = &Ending(self);
        while link.ended.get().is_none() {
            link.alarm.look();
            let now = Instant::now();
            let soonest = [expire(&link.calls, now), expire(&link.serving, now)].into_iter().flatten().min();
            link.alarm.ring(soonest).await;
        }
    }

    /// Closes gracefully: no new messages, running calls finish, both lanes and what is beside messages are delivered.
    pub(crate) async fn close(&self) {
        self.going_away.store(true, Ordering::Release);
        self.goodbye(&self.system).await;
        // All places free means that no call of the peer is being served, and all answers are written.
        let _ = self.places.acquire_many(SERVED as u32).await;
        self.held.taken().await;
        // Each lane ends by a goodbye of its own: they are not ordered among each other.
        self.goodbye(&self.messages).await;
        for lane in [&self.messages, &self.system] {
            let _ = lane.finish().await;
        }
        self.cut(Code::Bye, "bye");
    }

    async fn goodbye(&self, lane: &Queue) {
        if let Some(place) = lane.place().await {
            place.send(Header::bare(Kind::GoAway), Bytes::new());
        }
    }

    fn cause(&self) -> String {
        self.ended.get().cloned().unwrap_or_else(|| "closed".to_owned())
    }

    fn early(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a call when its asker goes, and cancels it there if it has no answer yet.
struct CallGuard<'a> {
    link: &'a Link,
    call: u64,
    /// Whether it is not forgotten yet.
    known: bool,
    /// Its place among our calls, until it is answered.
    open: Option<OwnedSemaphorePermit>,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        if self.known {
            self.link.calls.remove(&self.call);
        }
        if let Some(place) = self.open.take() {
            self.link.send_cancel(self.call, place);
        }
    }
}

/// Drives all answers of a link in one task: woken once for many, where a task each would be woken one by one.
async fn make_answers(mut new: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
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

/// Forgets those who have waited until their deadline, in order. The soonest deadline of the others.
fn expire<T>(map: &DashMap<u64, Timed<T>>, now: Instant) -> Option<Instant> {
    let (mut over, mut soonest) = (Vec::new(), None);
    for entry in map {
        if entry.until <= now {
            over.push(*entry.key());
        } else {
            soonest = Some(soonest.map_or(entry.until, |soonest: Instant| soonest.min(entry.until)));
        }
    }
    over.sort_unstable();
    for key in over {
        map.remove(&key);
    }
    soonest
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
