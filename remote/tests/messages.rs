//! Messages: order, deadlines, cancel, bounds, panics, for local and remote actors alike.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use regatta_remote::*;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

both!(
    local_and_remote_asks_are_answered,
    a_published_actor_of_this_node_is_reached_directly,
    a_large_message_and_its_reply_survive,
    tells_arrive_in_order,
    a_deadline_ends_the_ask_and_the_handler_sees_it,
    a_dropped_ask_cancels_the_remote_handler,
    asks_that_are_dropped_together_are_all_cancelled,
    asks_beyond_those_that_a_peer_serves_wait_for_a_place,
    a_busy_actor_holds_up_no_other,
    a_slow_actor_gets_all_in_order_while_others_are_asked,
    busy_is_certain_not_to_have_run,
    a_cancelled_ask_keeps_its_place_until_the_actor_is_done_with_it,
    a_panic_reaches_the_asker_with_its_text_and_place,
    a_panic_in_make_is_a_panic_of_the_actor,
    a_reply_future_that_panics_gives_no_reply_and_spares_the_actor,
    a_reply_that_panics_when_dropped_is_an_error_and_spares_other_answers,
    a_handler_knows_its_sender_by_certificate_and_its_future_knows_nobody,
    a_message_or_reply_beyond_the_bounds_is_refused_at_both_ends_and_harms_nobody,
    a_stopped_actor_refuses_and_its_watch_says_so,
    an_actor_lives_as_long_as_its_references,
    dropping_an_arbiter_ends_its_actors,
    a_role_that_is_not_named_is_refused,
    an_actor_is_published_with_all_its_messages_at_once,
    an_unknown_actor_is_named_so,
    no_trace_begins_where_nobody_looks,
);

const SHORT: Duration = Duration::from_millis(80);

async fn local_and_remote_asks_are_answered(world: World) {
    let pair = Pair::new(&world, 16).await;
    let local: ActorRef<Tester> = pair.actor.clone().into();
    for actor in [local, pair.remote()] {
        let answer = actor.ask(Echo("ahoy".into()), SOON).await.unwrap();
        assert_eq!(answer, "ahoy");
    }
    pair.settled().await;
}

async fn a_published_actor_of_this_node_is_reached_directly(world: World) {
    let pair = Pair::new(&world, 16).await;
    let here = Address { node: pair.head.id(), actor: ECHO };
    let actor = pair.head.actor::<Tester>(here);
    assert_eq!(actor.ask(Echo("a".into()), SOON).await.unwrap(), "a");
    pair.head.unpublish(ECHO);
    let actor = pair.head.actor::<Tester>(here);
    let error = actor.ask(Echo("a".into()), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor), "{error}");
}

async fn an_actor_is_published_with_all_its_messages_at_once(world: World) {
    let pair = Pair::new(&world, 16).await;
    let (remote, roles) = (pair.remote(), [Role::Worker]);
    let other = Seen::default();
    let publication = {
        let other = pair.arbiter.spawn(4, {
            let other = other.clone();
            move |_| Tester(other)
        });
        pair.head.publish(ECHO, &other).on::<Note>(&roles).on::<Wait>(&roles)
    };
    // Until all that it takes is named, the one before it is there as it was.
    assert_eq!(remote.ask(Echo("a".into()), SOON).await.unwrap(), "a");
    remote.ask(Note(1), SOON).await.unwrap();
    drop(publication);
    remote.ask(Note(2), SOON).await.unwrap();
    assert!(matches!(remote.ask(Echo("b".into()), SOON).await, Err(AskError::NoSuchActor)));
    assert_eq!((&*pair.seen.notes.lock().unwrap(), &*other.notes.lock().unwrap()), (&vec![1], &vec![2]));
    // Where naming them fails, nothing changes.
    let failed = catch(|| drop(pair.head.publish(ECHO, &pair.actor).on::<Echo>(&roles).on::<Impostor>(&roles)));
    assert!(failed.is_err());
    remote.ask(Note(3), SOON).await.unwrap();
    assert_eq!(other.notes.lock().unwrap().len(), 2);
}

async fn a_large_message_and_its_reply_survive(world: World) {
    let pair = Pair::new(&world, 16).await;
    let text = "x".repeat(9 << 20);
    let answer = pair.remote().ask(Echo(text.clone()), SOON).await.unwrap();
    assert!(answer == text);
}

async fn tells_arrive_in_order(world: World) {
    for remote in [false, true] {
        let pair = Pair::new(&world, 8).await;
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        for n in 0..1000 {
            actor.tell(Note(n), SOON).await.unwrap();
        }
        eventually("1000 notes", || pair.seen.notes.lock().unwrap().len() == 1000).await;
        assert_eq!(*pair.seen.notes.lock().unwrap(), (0..1000).collect::<Vec<_>>());
        pair.settled().await;
    }
}

async fn a_deadline_ends_the_ask_and_the_handler_sees_it(world: World) {
    for remote in [false, true] {
        let pair = Pair::new(&world, 8).await;
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        let error = actor.ask(Wait, SHORT).await.unwrap_err();
        assert!(matches!(error, AskError::Deadline), "{error}");
        assert!(error.may_have_run());
        eventually("the handler sees it", || pair.seen.cancelled.load(Ordering::SeqCst)).await;
        pair.settled().await;
    }
}

async fn a_dropped_ask_cancels_the_remote_handler(world: World) {
    let pair = Pair::new(&world, 8).await;
    let actor = pair.remote();
    let asking = world.spawn(async move { actor.ask(Wait, SOON * 100).await });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
    asking.abort();
    eventually("cancelled", || pair.seen.cancelled.load(Ordering::SeqCst)).await;
    pair.settled().await;
}

async fn asks_that_are_dropped_together_are_all_cancelled(world: World) {
    const MANY: usize = 3000;
    let pair = Pair::new(&world, MANY).await;
    for started in [true, false] {
        let actor = pair.remote();
        let asking = world.spawn(async move { join_all((0..MANY).map(|_| actor.ask(Wait, 100 * SOON))).await });
        if started {
            eventually("all have started", || pair.seen.started.load(Ordering::SeqCst) == MANY as u32).await;
        } else {
            eventually("all are asked", || pair.worker.in_hand().asks == MANY).await;
        }
        asking.abort();
        pair.settled().await;
    }
}

async fn asks_beyond_those_that_a_peer_serves_wait_for_a_place(world: World) {
    const PLACES: usize = 4096;
    const MORE: usize = 200;
    let pair = Pair::new(&world, 2 * PLACES).await;
    let actor = pair.remote();
    let asking = world.spawn(async move { join_all((0..PLACES + MORE).map(|_| actor.ask(Wait, 10 * SOON))).await });
    eventually("the places are used", || pair.seen.started.load(Ordering::SeqCst) == PLACES as u32).await;
    assert!(matches!(pair.remote().ask(Echo("a".into()), SHORT).await, Err(AskError::Busy)));
    for _ in 0..MORE {
        pair.seen.gate.notify_one();
    }
    eventually("as many more start as have ended", || {
        pair.seen.started.load(Ordering::SeqCst) as usize == PLACES + MORE
    })
    .await;
    pair.seen.gate.notify_waiters();
    assert!(asking.await.unwrap().iter().all(Result::is_ok));
    pair.settled().await;
}

/// Time, which a loaded machine may take some more of.
fn soon(world: &World) -> Duration {
    if world.sim.is_some() { Duration::from_millis(250) } else { SOON }
}

async fn a_busy_actor_holds_up_no_other(world: World) {
    let pair = Pair::new(&world, 1).await;
    let idle = pair.arbiter.spawn(8, |_| Tester(Seen::default()));
    pair.head.publish(ActorId(8), &idle).on::<Echo>(&[Role::Worker]);
    let idle = pair.worker.actor::<Tester>(Address { node: pair.head.id(), actor: ActorId(8) });
    let waiting = world.spawn({
        let actor = pair.remote();
        async move { actor.ask(Wait, 100 * SOON).await }
    });
    eventually("it is busy", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
    for n in 0..100 {
        pair.remote().tell(Note(n), SOON).await.unwrap();
    }
    let started = Instant::now();
    assert_eq!(idle.ask(Echo("ahoy".into()), 4 * SOON).await.unwrap(), "ahoy");
    assert!(started.elapsed() < soon(&world) / 4, "{:?}", started.elapsed());
    // Those that have waited as long as one may are all refused, not one after the other.
    let (started, actor) = (Instant::now(), pair.remote());
    for asked in join_all((0..100).map(|n| actor.ask(Note(n), 4 * SOON))).await {
        assert!(matches!(asked, Err(AskError::Busy)), "{asked:?}");
    }
    assert!(started.elapsed() < soon(&world), "{:?}", started.elapsed());
    assert!(pair.seen.notes.lock().unwrap().is_empty());
    pair.seen.gate.notify_one();
    waiting.await.unwrap().unwrap();
    actor.ask(Note(7), SOON).await.unwrap();
    assert_eq!(*pair.seen.notes.lock().unwrap(), [7]);
    pair.settled().await;
}

/// Its actor takes nothing for a while after it.
#[derive(Serialize, Deserialize)]
struct Slow(u32);

regatta_remote::messages! {
    0x41 Slow => (),
}

impl actix::Handler<Slow> for Tester {
    type Result = ();
    fn handle(&mut self, Slow(number): Slow, ctx: &mut actix::Context<Self>) {
        self.0.notes.lock().unwrap().push(number);
        actix::AsyncContext::wait(ctx, actix::fut::wrap_future(tokio::time::sleep(Duration::from_millis(5))));
    }
}

async fn a_slow_actor_gets_all_in_order_while_others_are_asked(world: World) {
    const MANY: u32 = 200;
    let pair = Pair::new(&world, 2).await;
    pair.head.publish(ECHO, &pair.actor).on::<Slow>(&[Role::Worker]);
    let idle = pair.arbiter.spawn(8, |_| Tester(Seen::default()));
    pair.head.publish(ActorId(8), &idle).on::<Echo>(&[Role::Worker]);
    let idle = pair.worker.actor::<Tester>(Address { node: pair.head.id(), actor: ActorId(8) });
    let slow = pair.remote();
    for n in 0..MANY {
        slow.tell(Slow(n), SOON).await.unwrap();
    }
    let done = || pair.seen.notes.lock().unwrap().len() == MANY as usize;
    let mut passed = 0;
    while !done() {
        let started = Instant::now();
        assert_eq!(idle.ask(Echo("ahoy".into()), SOON).await.unwrap(), "ahoy");
        passed += u32::from(!done() && started.elapsed() < soon(&world) / 4);
        assert!(passed < 100_000, "it gets no further");
    }
    assert!(passed > 2, "{passed} asks passed");
    assert_eq!(*pair.seen.notes.lock().unwrap(), (0..MANY).collect::<Vec<_>>());
    pair.settled().await;
}

async fn busy_is_certain_not_to_have_run(world: World) {
    for remote in [false, true] {
        let pair = Pair::new(&world, 1).await;
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        let first = world.spawn({
            let actor = actor.clone();
            async move { actor.ask(Wait, SOON).await }
        });
        eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
        let deadline = if remote { SOON } else { SHORT };
        let error = actor.ask(Note(1), deadline).await.unwrap_err();
        assert!(matches!(error, AskError::Busy), "{error}");
        assert!(error.is_retryable() && !error.may_have_run());
        assert!(matches!(pair.actor.try_tell(Note(2)), Err(TellError::Busy)));
        pair.seen.gate.notify_one();
        first.await.unwrap().unwrap();
        actor.ask(Note(3), SOON).await.unwrap();
        assert_eq!(*pair.seen.notes.lock().unwrap(), [3]);
        pair.settled().await;
    }
}

async fn a_cancelled_ask_keeps_its_place_until_the_actor_is_done_with_it(world: World) {
    let pair = Pair::new(&world, 2).await;
    for _ in 0..2 {
        let error = pair.actor.ask(Stubborn, SHORT).await.unwrap_err();
        assert!(matches!(error, AskError::Deadline), "{error}");
    }
    // Both handlers go on although nobody waits: no place is free until they end.
    assert!(matches!(pair.actor.try_tell(Note(1)), Err(TellError::Busy)));
    pair.seen.gate.notify_waiters();
    eventually("room again", || pair.actor.try_tell(Note(2)).is_ok()).await;
}

/// Waits for the gate whether or not somebody waits for it.
struct Stubborn;

impl actix::Message for Stubborn {
    type Result = ();
}

impl actix::Handler<Stubborn> for Tester {
    type Result = actix::ResponseFuture<()>;
    fn handle(&mut self, _: Stubborn, _: &mut actix::Context<Self>) -> Self::Result {
        let gate = Arc::clone(&self.0.gate);
        Box::pin(async move { gate.notified().await })
    }
}

async fn a_panic_reaches_the_asker_with_its_text_and_place(world: World) {
    for remote in [false, true] {
        let pair = Pair::new(&world, 8).await;
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        let error = actor.ask(Panic("rudder lost".into()), SOON).await.unwrap_err();
        let AskError::Panicked { text } = &error else { panic!("{error}") };
        assert!(text.contains("rudder lost") && text.contains("common/mod.rs:"), "{text}");
        assert_eq!(pair.actor.down().await, Down::Panicked { text: text.clone() });
        // Others of the thread live on.
        let other = pair.arbiter.spawn(1, |_| Tester(Seen::default()));
        assert_eq!(other.ask(Echo("b".into()), SOON).await.unwrap(), "b");
    }
}

async fn a_panic_in_make_is_a_panic_of_the_actor(world: World) {
    let pair = Pair::new(&world, 8).await;
    let actor = pair.arbiter.spawn::<Tester, _>(1, |_| panics::wanted("never built"));
    let error = actor.ask(Echo("a".into()), SOON).await.unwrap_err();
    let AskError::Panicked { text } = &error else { panic!("{error}") };
    assert!(text.contains("never built"), "{text}");
}

async fn a_reply_future_that_panics_gives_no_reply_and_spares_the_actor(world: World) {
    let pair = Pair::new(&world, 8).await;
    let error = pair.remote().ask(Drown, SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NoReply) && error.may_have_run(), "{error}");
    assert_eq!(pair.remote().ask(Echo("c".into()), SOON).await.unwrap(), "c");
}

#[derive(Serialize, Deserialize)]
struct Arm;
/// Panics when it is dropped, except where it was decoded.
#[derive(Serialize, Deserialize)]
struct Bomb {
    #[serde(skip)]
    armed: bool,
}

regatta_remote::messages! {
    0x40 Arm => Bomb,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.armed {
            panics::wanted("the bomb went off");
        }
    }
}

impl actix::Handler<Arm> for Tester {
    type Result = actix::MessageResult<Arm>;
    fn handle(&mut self, _: Arm, _: &mut actix::Context<Self>) -> Self::Result {
        actix::MessageResult(Bomb { armed: true })
    }
}

async fn a_reply_that_panics_when_dropped_is_an_error_and_spares_other_answers(world: World) {
    let pair = Pair::new(&world, 16).await;
    pair.head.publish(ECHO, &pair.actor).on::<Arm>(&[Role::Worker]).on::<Echo>(&[Role::Worker]);
    let error = pair.remote().ask(Arm, SOON).await.err().unwrap();
    assert!(matches!(&error, AskError::BadReply { text } if text.contains("the bomb went off")), "{error}");
    assert_eq!(pair.remote().ask(Echo("ahoy".into()), SOON).await.unwrap(), "ahoy");
    pair.settled().await;
}

/// Who sends it, in the handler and in its reply's future.
#[derive(Debug, Serialize, Deserialize)]
struct Who;
/// The same, by a stream.
#[derive(Debug, Serialize, Deserialize)]
struct WhoInItems;

regatta_remote::messages! {
    0x43 Who => (String, String),
    0x44 WhoInItems => stream String,
}

impl actix::Handler<Who> for Tester {
    type Result = actix::ResponseFuture<(String, String)>;
    fn handle(&mut self, _: Who, _: &mut actix::Context<Self>) -> Self::Result {
        let sender = Sender::current().to_string();
        self.0.started.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { (sender, Sender::current().to_string()) })
    }
}

impl actix::Handler<WhoInItems> for Tester {
    type Result = Items<String>;
    fn handle(&mut self, _: WhoInItems, _: &mut actix::Context<Self>) -> Items<String> {
        Items::of(futures_util::stream::iter([Sender::current().to_string()]))
    }
}

async fn a_handler_knows_its_sender_by_certificate_and_its_future_knows_nobody(world: World) {
    let pair = Pair::new(&world, 8).await;
    pair.head.publish(ECHO, &pair.actor).on::<Who>(&Role::ALL).on::<WhoInItems>(&Role::ALL);
    let second = world.bind(&pair.authority, Role::Driver);
    second.connect(pair.head.address().unwrap(), SOON).await.unwrap();
    let here: ActorRef<Tester> = pair.actor.clone().into();
    let theirs = second.actor::<Tester>(Address { node: pair.head.id(), actor: ECHO });
    let [first, second] =
        [("worker", pair.worker.id()), ("driver", second.id())].map(|(role, id)| format!("{role} {id}"));
    for (actor, sender) in [(&here, "this process"), (&pair.remote(), &first), (&theirs, &second)] {
        assert_eq!(actor.ask(Who, SOON).await.unwrap(), (sender.to_owned(), "nobody".to_owned()));
        let mut items = actor.stream(WhoInItems, SOON).await.unwrap();
        assert_eq!(items.next().await.unwrap().as_deref(), Some(sender));
    }
    assert!(Sender::current() == Sender::Nobody && !Sender::Nobody.is(pair.head.id()));
}

/// As deep as its sender likes.
#[derive(Debug, Serialize, Deserialize)]
struct Nest(Vec<Self>);
/// Answered by a nest of so many levels.
#[derive(Debug, Serialize, Deserialize)]
struct Dig(u32, Nest);
/// What goes for a [`Dig`] on the wire, as another build may send it.
#[derive(Debug, Serialize, Deserialize)]
struct Forged(#[serde(serialize_with = "raw")] Vec<u8>);

fn raw<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeTuple;
    let mut tuple = to.serialize_tuple(bytes.len())?;
    bytes.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
    tuple.end()
}

fn nest(levels: u32) -> Nest {
    (1..levels).fold(Nest(Vec::new()), |inside, _| Nest(vec![inside]))
}

regatta_remote::messages! {
    0x42 Dig => Nest,
}
regatta_remote::messages! {
    0x42 Forged => (),
}

impl actix::Handler<Dig> for Tester {
    type Result = actix::MessageResult<Dig>;
    fn handle(&mut self, Dig(levels, _): Dig, _: &mut actix::Context<Self>) -> Self::Result {
        actix::MessageResult(nest(levels))
    }
}

impl actix::Handler<Forged> for Tester {
    type Result = ();
    fn handle(&mut self, _: Forged, _: &mut actix::Context<Self>) {}
}

async fn a_message_or_reply_beyond_the_bounds_is_refused_at_both_ends_and_harms_nobody(world: World) {
    let pair = Pair::new(&world, 8).await;
    let (actor, most) = (pair.remote(), MAX_DEPTH as u32 / 2);
    pair.head.publish(ECHO, &pair.actor).on::<Dig>(&[Role::Worker]).on::<Echo>(&[Role::Worker]);
    actor.ask(Dig(most, nest(most - 1)), SOON).await.unwrap();
    let error = actor.ask(Dig(1, nest(most)), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Codec(CodecError::Beyond(Bound::Depth))), "{error}");
    assert!(!error.may_have_run() && error.to_string().contains("deeper than 128 levels"), "{error}");
    let error = actor.ask(Dig(most + 1, nest(1)), SOON).await.unwrap_err();
    assert!(matches!(&error, AskError::BadReply { text } if text.contains("deeper than")), "{error}");
    // A message of 200 kB that would take all of a thread's stack, and one of nine bytes that would take for ever.
    for made in [vec![1; 200_000], [&[0, 253][..], &u64::MAX.to_le_bytes()].concat()] {
        let error = actor.ask(Forged(made), SOON).await.unwrap_err();
        assert!(matches!(&error, AskError::BadMessage { text } if text.starts_with("Dig: ")), "{error}");
    }
    assert_eq!(actor.ask(Echo("ahoy".into()), SOON).await.unwrap(), "ahoy");
    pair.settled().await;
}

async fn a_stopped_actor_refuses_and_its_watch_says_so(world: World) {
    let pair = Pair::new(&world, 8).await;
    pair.actor.ask(Stop, SOON).await.unwrap();
    assert_eq!(pair.actor.down().await, Down::Stopped);
    let error = pair.remote().ask(Echo("d".into()), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Stopped) && !error.may_have_run(), "{error}");
}

async fn an_actor_lives_as_long_as_its_references(world: World) {
    struct Flag(Arc<std::sync::atomic::AtomicBool>);
    impl actix::Actor for Flag {
        type Context = actix::Context<Self>;
        fn stopped(&mut self, _: &mut Self::Context) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let arbiter = world.runtime.arbiter().unwrap();
    let stopped = Arc::<std::sync::atomic::AtomicBool>::default();
    let flag = Arc::clone(&stopped);
    let actor = arbiter.spawn(1, move |_| Flag(flag));
    let second = actor.clone();
    drop(actor);
    assert!(!stopped.load(Ordering::SeqCst));
    drop(second);
    eventually("stopped", || stopped.load(Ordering::SeqCst)).await;
}

async fn dropping_an_arbiter_ends_its_actors(world: World) {
    /// Holds on to itself.
    #[allow(dead_code, reason = "only held")]
    struct Keeper(actix::Addr<Self>, Arc<()>);
    impl actix::Actor for Keeper {
        type Context = actix::Context<Self>;
    }
    let arbiter = world.runtime.arbiter().unwrap();
    let actor = arbiter.spawn(1, |_| Tester(Seen::default()));
    let kept = Arc::new(());
    let keeper = arbiter.spawn(1, {
        let kept = Arc::clone(&kept);
        |ctx| Keeper(actix::AsyncContext::address(ctx), kept)
    });
    assert_eq!(keeper.room(), 1);
    drop(arbiter);
    eventually("the keeper is gone", || Arc::strong_count(&kept) == 1).await;
    assert_eq!(actor.down().await, Down::Stopped);
    world.runtime.shutdown(SOON);
}

async fn a_role_that_is_not_named_is_refused(world: World) {
    let pair = Pair::new(&world, 8).await;
    let error = pair.remote().ask(Stop, SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NotAllowed { role: Role::Worker }), "{error}");
    assert_eq!(pair.remote().ask(Echo("e".into()), SOON).await.unwrap(), "e");
}

async fn an_unknown_actor_is_named_so(world: World) {
    let pair = Pair::new(&world, 8).await;
    let nobody = Address { node: pair.head.id(), actor: ActorId(99) };
    let actor = pair.worker.actor::<Tester>(nobody);
    let error = actor.ask(Echo("f".into()), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor), "{error}");
}

async fn no_trace_begins_where_nobody_looks(world: World) {
    struct Look;
    impl actix::Message for Look {
        type Result = bool;
    }
    impl actix::Handler<Look> for Tester {
        type Result = bool;
        fn handle(&mut self, _: Look, _: &mut actix::Context<Self>) -> bool {
            TraceContext::current().is_some()
        }
    }
    let pair = Pair::new(&world, 8).await;
    assert!(!pair.actor.ask(Look, SOON).await.unwrap());
    // One that is there goes on, whether or not somebody looks.
    let context = TraceContext::new(1, 2).unwrap();
    assert!(context.scope(pair.actor.ask(Look, SOON)).await.unwrap());
}

#[test]
fn a_plain_thread_asks_and_is_blocked_no_longer_than_the_deadline() {
    let world = World::threads();
    let pair = world.runtime.handle().block_on(Pair::new(&world, 8));
    for actor in [pair.actor.clone().into(), pair.remote()] {
        assert_eq!(actor.ask_blocking(Echo("ahoy".into()), SOON).unwrap(), "ahoy");
        let error = actor.ask_blocking(Wait, SHORT).unwrap_err();
        assert!(matches!(error, AskError::Deadline), "{error}");
    }
}

/// Has the number of [`Echo`].
#[derive(serde::Serialize, serde::Deserialize, RemoteMessage)]
#[message(id = 0x01, reply = u32)]
struct Impostor;

impl actix::Handler<Impostor> for Tester {
    type Result = u32;
    fn handle(&mut self, _: Impostor, _: &mut actix::Context<Self>) -> u32 {
        0
    }
}

#[test]
fn two_messages_of_one_number_cannot_be_published() {
    let world = World::threads();
    let pair = world.runtime.handle().block_on(Pair::new(&world, 8));
    let roles = [Role::Worker];
    let text = catch(|| drop(pair.head.publish(ECHO, &pair.actor).on::<Echo>(&roles).on::<Impostor>(&roles)));
    let text = text.unwrap_err();
    assert!(["Echo", "Impostor", "0x0001", "Tester"].iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn an_ask_that_waits_when_the_runtime_ends_is_told_so() {
    let world = World::threads();
    let pair = world.runtime.handle().block_on(Pair::new(&world, 8));
    let remote = pair.remote();
    // From elsewhere: what waits on the runtime itself goes with it.
    let asking = std::thread::spawn(move || {
        let elsewhere = tokio::runtime::Builder::new_current_thread().build().unwrap();
        elsewhere.block_on(remote.ask(Wait, Duration::from_secs(600)))
    });
    while pair.seen.started.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    world.runtime.clone().shutdown(SOON);
    let error = asking.join().unwrap().unwrap_err();
    // Both ends are of that runtime: the handler goes with it, too, and its last word may come before the connection's end.
    assert!(matches!(error, AskError::ConnectionLost { .. } | AskError::NoReply), "{error}");
    drop(pair);
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_inside_another_tokio_runtime() {
    let world = World::threads();
    let authority = world.authority();
    let head = world.bind(&authority, Role::Head);
    let worker = world.bind(&authority, Role::Worker);
    let arbiter = world.runtime.arbiter().unwrap();
    let actor = arbiter.spawn(4, |_| Tester(Seen::default()));
    head.publish(ECHO, &actor).on::<Echo>(&[Role::Worker]);
    worker.connect(head.address().unwrap(), SOON).await.unwrap();
    let remote = worker.actor::<Tester>(Address { node: head.id(), actor: ECHO });
    assert_eq!(remote.ask(Echo("g".into()), SOON).await.unwrap(), "g");
    worker.close(SOON).await;
    drop((head, worker, arbiter, actor, remote));
    drop(world); // must not panic in an async context
}
