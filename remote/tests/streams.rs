//! Streamed replies: in order, whole, never further ahead than their window, and gone when nobody takes them.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use common::*;
use futures_util::{StreamExt, stream};
use regatta_remote::*;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Notify;

both!(
    items_arrive_in_order_and_the_stream_ends_once,
    items_of_any_size_arrive_whole,
    a_producer_is_never_further_ahead_than_its_window,
    dropped_replies_stop_the_producer_and_keep_its_place_until_it_is_done,
    a_stream_that_breaks_off_is_an_error_and_not_an_end,
    a_panic_of_the_actor_reaches_the_consumer_of_its_stream,
    patience_ends_a_stream_without_items,
    a_consumer_that_takes_nothing_is_given_up,
    a_lost_connection_ends_its_streams,
    a_stream_that_cannot_begin_says_why,
    closing_lets_a_running_stream_finish,
);

const SOURCE: ActorId = ActorId(3);
const SHORT: Duration = Duration::from_millis(80);
/// Items that wait in the producer's process, with the one that waits for credit.
const HERE: u32 = 16;
/// Bytes on the way to another node, where a small item counts 4 KiB.
const WINDOW: u32 = 256 << 10;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum How {
    Stream,
    Sender,
    /// Stops before the end.
    Forgets,
    /// Panics before the end.
    Panics,
    /// An item that cannot be encoded.
    BadItem,
    /// No item before the gate opens.
    Waits,
    /// Holds on to its place until the gate opens, whoever is there.
    Stubborn,
    /// The actor holds the sender, and panics.
    Dies,
}

#[derive(Debug, Serialize, Deserialize)]
struct Flow {
    how: How,
    items: u32,
    size: usize,
}

#[derive(Debug, Deserialize)]
struct Item(u32, Vec<u8>);

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0 == u32::MAX {
            panics::wanted("not to be encoded");
        }
        (self.0, &self.1).serialize(to)
    }
}

regatta_remote::messages! {
    0x21 Flow => stream Item,
    0x22 Note => (),
    0x23 Filler => (),
}

#[derive(Debug, Serialize, Deserialize)]
struct Note;

#[derive(Clone, Default)]
struct Seen {
    sent: Arc<AtomicU32>,
    stopped: Arc<AtomicBool>,
    gate: Arc<Notify>,
}

struct Source {
    seen: Seen,
    held: Option<ItemSender<Item>>,
}

impl Actor for Source {
    type Context = Context<Self>;
}

impl Handler<Note> for Source {
    type Result = ();
    fn handle(&mut self, _: Note, _: &mut Context<Self>) {}
}

impl Handler<Flow> for Source {
    type Result = Items<Item>;

    fn handle(&mut self, message: Flow, ctx: &mut Context<Self>) -> Items<Item> {
        let Flow { how, items, size } = message;
        let seen = self.seen.clone();
        let item = move |n: u32| Item(n, vec![n as u8; size]);
        let (sender, answer) = Items::channel();
        match how {
            How::Stream => {
                let sent = Arc::clone(&seen.sent);
                let all = stream::iter(0..items).map(move |n| {
                    sent.fetch_add(1, Ordering::SeqCst);
                    item(n)
                });
                return Items::of(all);
            }
            How::Panics => {
                return Items::of(
                    stream::iter(0..items).map(move |n| if n == 3 { panics::wanted("sunk") } else { item(n) }),
                );
            }
            How::BadItem => return Items::of(stream::iter([item(0), item(u32::MAX), item(1)])),
            How::Dies => {
                self.held = Some(sender);
                ctx.run_later(SHORT, |_, _| panics::wanted("the mast broke"));
            }
            How::Sender | How::Forgets | How::Waits | How::Stubborn => {
                actix_rt::spawn(async move {
                    if matches!(how, How::Waits) {
                        tokio::select! {
                            () = seen.gate.notified() => (),
                            () = sender.closed() => return seen.stopped.store(true, Ordering::SeqCst),
                        }
                    }
                    for n in 0..items {
                        if sender.send(item(n)).await.is_err() {
                            seen.stopped.store(true, Ordering::SeqCst);
                            break;
                        }
                        seen.sent.fetch_add(1, Ordering::SeqCst);
                    }
                    if matches!(how, How::Stubborn) {
                        seen.gate.notified().await;
                    }
                    if !matches!(how, How::Forgets) {
                        sender.end();
                    }
                });
            }
        }
        answer
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Filler(Vec<u8>);

impl Handler<Filler> for Source {
    type Result = ();
    fn handle(&mut self, _: Filler, _: &mut Context<Self>) {}
}

struct Scene {
    seen: Seen,
    actor: LocalRef<Source>,
    head: Node,
    worker: Node,
    arbiter: Arbiter,
}

impl Scene {
    async fn new(world: &World, mailbox: usize) -> Self {
        let authority = world.authority();
        let head = world.bind(&authority, Role::Head);
        let worker = world.bind(&authority, Role::Worker);
        let arbiter = world.runtime.arbiter().unwrap();
        let seen = Seen::default();
        let actor = arbiter.spawn(mailbox, {
            let seen = seen.clone();
            move |_| Source { seen, held: None }
        });
        head.publish(SOURCE, &actor)
            .on::<Flow>(&[Role::Worker])
            .on::<Note>(&[Role::Worker])
            .on::<Filler>(&[Role::Worker]);
        worker.connect(head.address().unwrap(), SOON).await.unwrap();
        Self { seen, actor, head, worker, arbiter }
    }

    fn reference(&self, remote: bool) -> ActorRef<Source> {
        if remote {
            self.worker.actor(Address { node: self.head.id(), actor: SOURCE })
        } else {
            self.actor.clone().into()
        }
    }

    async fn flow(&self, remote: bool, how: How, items: u32, size: usize) -> Replies<Item> {
        self.reference(remote).stream(Flow { how, items, size }, SOON).await.unwrap()
    }

    async fn settled(&self) {
        for node in [&self.head, &self.worker] {
            eventually("nothing in hand", || node.in_hand() == InHand::default()).await;
        }
        eventually("all places free", || self.actor.room() == self.actor.places()).await;
    }
}

async fn all(replies: &mut Replies<Item>) -> Result<u32, (u32, AskError)> {
    let mut got = 0;
    loop {
        match replies.next().await {
            Ok(Some(Item(n, bytes))) => {
                assert!(n == got && bytes.iter().all(|byte| *byte == n as u8), "{n} after {got}");
                got += 1;
            }
            Ok(None) => return Ok(got),
            Err(error) => return Err((got, error)),
        }
    }
}

async fn items_arrive_in_order_and_the_stream_ends_once(world: World) {
    for remote in [false, true] {
        let scene = Scene::new(&world, 4).await;
        for how in [How::Stream, How::Sender] {
            for items in [0, 1, 1000] {
                let mut replies = scene.flow(remote, how, items, 10).await;
                assert_eq!(all(&mut replies).await.unwrap(), items);
                assert!(replies.next().await.unwrap().is_none());
            }
        }
        // Two at once, as streams of the futures crates, each in its order.
        let (a, b) = (scene.flow(remote, How::Stream, 300, 0).await, scene.flow(remote, How::Sender, 300, 0).await);
        let numbers = |replies: Replies<Item>| replies.into_stream().map(|item| item.unwrap().0).collect::<Vec<_>>();
        let (a, b) = tokio::join!(numbers(a), numbers(b));
        assert!(a == (0..300).collect::<Vec<_>>() && a == b);
        scene.settled().await;
    }
}

async fn items_of_any_size_arrive_whole(world: World) {
    let scene = Scene::new(&world, 4).await;
    for size in [0, 4 << 10, (64 << 10) - 10, 64 << 10, 700 << 10] {
        let mut replies = scene.flow(true, How::Stream, 3, size).await;
        for n in 0..3 {
            let Item(number, bytes) = replies.next().await.unwrap().unwrap();
            assert!(number == n && bytes.len() == size && bytes.iter().all(|byte| *byte == n as u8));
        }
        assert!(replies.next().await.unwrap().is_none());
    }
    scene.settled().await;
}

async fn a_producer_is_never_further_ahead_than_its_window(world: World) {
    let counts = |size: usize| WINDOW / (size as u32 + 10).max(4 << 10);
    for (remote, size, window) in
        [(false, 10, HERE), (true, 10, HERE + 1 + counts(10)), (true, 30 << 10, HERE + 1 + counts(30 << 10))]
    {
        for how in [How::Stream, How::Sender] {
            let scene = Scene::new(&world, 4).await;
            let mut replies = scene.flow(remote, how, 200, size).await;
            let sent = || scene.seen.sent.load(Ordering::SeqCst);
            // Nothing moves before a local consumer begins to take; one that takes nothing more stops the producer.
            replies.next().await.unwrap().unwrap();
            eventually("the window is used", || sent() + 1 >= window).await;
            for taken in 2..=200 {
                replies.next().await.unwrap().unwrap();
                assert!(sent() <= taken + window, "{how:?} {remote}: {} sent when {taken} were taken", sent());
            }
            assert!(replies.next().await.unwrap().is_none());
            scene.settled().await;
        }
    }
}

async fn dropped_replies_stop_the_producer_and_keep_its_place_until_it_is_done(world: World) {
    for remote in [false, true] {
        let scene = Scene::new(&world, 1).await;
        let mut replies = scene.flow(remote, How::Stubborn, u32::MAX, 1000).await;
        replies.next().await.unwrap().unwrap();
        assert!(!scene.seen.stopped.load(Ordering::SeqCst));
        drop(replies);
        eventually("the producer sees it", || scene.seen.stopped.load(Ordering::SeqCst)).await;
        // It is not done yet, so its place is not free.
        assert!(matches!(scene.actor.try_tell(Note), Err(TellError::Busy)));
        scene.seen.gate.notify_one();
        scene.settled().await;
        // Dropped before it was ever waited for.
        scene.seen.stopped.store(false, Ordering::SeqCst);
        drop(scene.flow(remote, How::Waits, 1, 1).await);
        scene.settled().await;
    }
}

async fn a_stream_that_breaks_off_is_an_error_and_not_an_end(world: World) {
    for remote in [false, true] {
        let scene = Scene::new(&world, 4).await;
        for how in [How::Forgets, How::Panics] {
            let mut replies = scene.flow(remote, how, 5, 10).await;
            let (got, error) = all(&mut replies).await.unwrap_err();
            assert_eq!(got, if matches!(how, How::Forgets) { 5 } else { 3 });
            assert!(matches!(error, AskError::NoReply) && error.may_have_run(), "{error}");
            assert!(replies.next().await.unwrap().is_none(), "it ended with the error");
        }
        scene.settled().await;
    }
    let scene = Scene::new(&world, 4).await;
    let (got, error) = all(&mut scene.flow(true, How::BadItem, 0, 10).await).await.unwrap_err();
    assert!(got == 1 && matches!(&error, AskError::BadReply { text } if text.contains("not to be encoded")), "{error}");
    scene.settled().await;
}

async fn a_panic_of_the_actor_reaches_the_consumer_of_its_stream(world: World) {
    for remote in [false, true] {
        let scene = Scene::new(&world, 4).await;
        let (_, error) = all(&mut scene.flow(remote, How::Dies, 0, 0).await).await.unwrap_err();
        assert!(matches!(&error, AskError::Panicked { text } if text.contains("the mast broke")), "{error}");
        let again = scene.reference(remote).stream(Flow { how: How::Stream, items: 1, size: 0 }, SOON).await;
        let error = match again {
            Ok(mut replies) => replies.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, AskError::Panicked { .. }), "{error}");
        for node in [&scene.head, &scene.worker] {
            eventually("nothing in hand", || node.in_hand() == InHand::default()).await;
        }
    }
}

async fn patience_ends_a_stream_without_items(world: World) {
    for remote in [false, true] {
        let scene = Scene::new(&world, 4).await;
        let flow = Flow { how: How::Waits, items: 3, size: 1 };
        let mut replies = scene.reference(remote).stream(flow, SHORT).await.unwrap();
        let error = replies.next().await.unwrap_err();
        assert!(matches!(error, AskError::Deadline) && error.may_have_run(), "{error}");
        eventually("the producer sees it", || scene.seen.stopped.load(Ordering::SeqCst)).await;
        assert!(replies.next().await.unwrap().is_none());
        // Patience is for each item, not for all: a slow stream goes on.
        let mut replies = scene.flow(remote, How::Waits, 3, 1).await;
        let waiting = tokio::time::timeout(SHORT, replies.next()).await;
        assert!(waiting.is_err(), "dropping the wait loses nothing");
        scene.seen.gate.notify_one();
        assert_eq!(all(&mut replies).await.unwrap(), 3);
        scene.settled().await;
    }
}

async fn a_consumer_that_takes_nothing_is_given_up(world: World) {
    let scene = Scene::new(&world, 4).await;
    let flow = Flow { how: How::Sender, items: u32::MAX, size: 1000 };
    let mut replies = scene.reference(true).stream(flow, SHORT).await.unwrap();
    eventually("the producer sees it", || scene.seen.stopped.load(Ordering::SeqCst)).await;
    eventually("all places free", || scene.actor.room() == scene.actor.places()).await;
    // What came is good, and then the stream has failed.
    let (got, error) = all(&mut replies).await.unwrap_err();
    assert!(got > 0 && matches!(error, AskError::Deadline), "{got}, {error}");
    scene.settled().await;
}

/// What a stream has waited for until it began is not of the patience for its items, on neither side.
#[test]
fn patience_for_items_is_whole_however_long_a_stream_waited_to_begin() {
    World::simulated(2, |world| async move {
        let sim = world.sim.clone().unwrap();
        let scene = Scene::new(&world, 8).await;
        let patience = Duration::from_secs(8);
        let hosts = [&scene.head, &scene.worker].map(|node| node.address().unwrap().ip());
        // More than the lane takes: the next message waits for a place.
        sim.partition(hosts[0], hosts[1]);
        let actor = scene.reference(true);
        let telling = world.spawn({
            let actor = actor.clone();
            async move {
                for _ in 0..2500 {
                    actor.tell(Filler(vec![0; 8 << 10]), 10 * SOON).await.unwrap();
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = world.spawn(async move {
            actor.stream(Flow { how: How::Sender, items: 200, size: 8 << 10 }, patience).await.unwrap()
        });
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(!begun.is_finished(), "it did not wait");
        sim.heal(hosts[0], hosts[1]);
        let mut replies = begun.await.unwrap();
        // Nothing is taken for most of the patience.
        tokio::time::sleep(patience - Duration::from_secs(1)).await;
        assert_eq!(all(&mut replies).await.unwrap(), 200);
        telling.await.unwrap();
        scene.settled().await;
    });
}

async fn a_lost_connection_ends_its_streams(world: World) {
    let scene = Scene::new(&world, 4).await;
    let mut replies = scene.flow(true, How::Stubborn, u32::MAX, 1000).await;
    replies.next().await.unwrap().unwrap();
    scene.worker.disconnect(scene.head.id());
    let error = loop {
        if let Err(error) = replies.next().await.map(Option::unwrap) {
            break error;
        }
    };
    assert!(matches!(error, AskError::ConnectionLost { .. }) && error.may_have_run(), "{error}");
    eventually("the producer sees it", || scene.seen.stopped.load(Ordering::SeqCst)).await;
    scene.seen.gate.notify_one();
    scene.settled().await;
    let error = scene.reference(true).stream(Flow { how: How::Stream, items: 1, size: 0 }, SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NotConnected) && !error.may_have_run(), "{error}");
}

async fn a_stream_that_cannot_begin_says_why(world: World) {
    let scene = Scene::new(&world, 1).await;
    let flow = || Flow { how: How::Waits, items: 1, size: 0 };
    let nobody = scene.worker.actor::<Source>(Address { node: scene.head.id(), actor: ActorId(99) });
    let error = nobody.stream(flow(), SOON).await.unwrap().next().await.unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor) && !error.may_have_run(), "{error}");
    // One that runs holds the only place.
    let mut first = scene.flow(true, How::Waits, 1, 0).await;
    assert!(tokio::time::timeout(SHORT, first.next()).await.is_err());
    let error = scene.reference(true).stream(flow(), SOON).await.unwrap().next().await.unwrap_err();
    assert!(matches!(error, AskError::Busy) && !error.may_have_run(), "{error}");
    let error = scene.reference(false).stream(flow(), SHORT).await.unwrap_err();
    assert!(matches!(error, AskError::Busy), "{error}");
    scene.seen.gate.notify_one();
    assert_eq!(all(&mut first).await.unwrap(), 1);
    scene.settled().await;
}

async fn closing_lets_a_running_stream_finish(world: World) {
    let scene = Scene::new(&world, 4).await;
    let mut replies = scene.flow(true, How::Sender, 2000, 100).await;
    replies.next().await.unwrap().unwrap();
    let closing = world.spawn({
        let head = scene.head.clone();
        async move { head.close(SOON).await }
    });
    for n in 1..2000 {
        assert_eq!(replies.next().await.unwrap().unwrap().0, n);
    }
    assert!(replies.next().await.unwrap().is_none());
    closing.await.unwrap();
    drop(scene.arbiter);
}

#[test]
fn a_producer_on_a_plain_thread_blocks_and_sees_the_consumer_leave() {
    let World { runtime, .. } = World::threads();
    let arbiter = runtime.arbiter().unwrap();

    struct Blocking(std::sync::mpsc::Sender<u32>);
    impl Actor for Blocking {
        type Context = Context<Self>;
    }
    struct Begin;
    impl actix::Message for Begin {
        type Result = Items<u32>;
    }
    impl Handler<Begin> for Blocking {
        type Result = Items<u32>;
        fn handle(&mut self, _: Begin, _: &mut Context<Self>) -> Items<u32> {
            let (sender, items) = Items::channel();
            let done = self.0.clone();
            std::thread::spawn(move || {
                let sent = (0..).find(|n| sender.blocking_send(*n) == Err(ConsumerGone)).unwrap();
                done.send(sent).unwrap();
            });
            items
        }
    }
    let (done, ended) = std::sync::mpsc::channel();
    let actor = arbiter.spawn(1, move |_| Blocking(done));
    let got = runtime.handle().block_on(async {
        let mut replies = actor.stream(Begin, SOON).await.unwrap();
        for n in 0..100 {
            assert_eq!(replies.next().await.unwrap(), Some(n));
        }
        100
    });
    let sent = ended.recv_timeout(SOON).unwrap();
    assert!((got..=got + HERE).contains(&sent), "{sent} were sent");
}
