//! Messages: order, deadlines, cancel, bounds, panics, for local and remote actors alike.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use regatta_remote::*;

const SHORT: Duration = Duration::from_millis(80);

#[test]
fn local_and_remote_asks_are_answered() {
    let pair = Pair::new(16);
    let local: ActorRef<Tester> = pair.actor.clone().into();
    for actor in [local, pair.remote()] {
        let answer = pair.block_on(actor.ask(Echo("ahoy".into()), SOON)).unwrap();
        assert_eq!(answer, "ahoy");
    }
}

#[test]
fn a_published_actor_of_this_node_is_reached_directly() {
    let pair = Pair::new(16);
    let here = Address { node: pair.head.id(), actor: ECHO };
    let actor = pair.head.actor::<Tester>(here);
    assert_eq!(pair.block_on(actor.ask(Echo("a".into()), SOON)).unwrap(), "a");
    pair.head.unpublish(ECHO);
    let actor = pair.head.actor::<Tester>(here);
    let error = pair.block_on(actor.ask(Echo("a".into()), SOON)).unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor), "{error}");
}

#[test]
fn a_large_message_and_its_reply_survive() {
    let pair = Pair::new(16);
    let text = "x".repeat(9 << 20);
    let answer = pair.block_on(pair.remote().ask(Echo(text.clone()), SOON)).unwrap();
    assert!(answer == text);
}

#[test]
fn tells_arrive_in_order() {
    for remote in [false, true] {
        let pair = Pair::new(8);
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        pair.block_on(async {
            for n in 0..1000 {
                actor.tell(Note(n), SOON).await.unwrap();
            }
        });
        eventually("1000 notes", || pair.seen.notes.lock().unwrap().len() == 1000);
        let notes = pair.seen.notes.lock().unwrap();
        assert_eq!(*notes, (0..1000).collect::<Vec<_>>());
    }
}

#[test]
fn a_deadline_ends_the_ask_and_the_handler_sees_it() {
    for remote in [false, true] {
        let pair = Pair::new(8);
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        let error = pair.block_on(actor.ask(Wait, SHORT)).unwrap_err();
        assert!(matches!(error, AskError::Deadline), "{error}");
        assert!(error.may_have_run());
        eventually("the handler sees it", || pair.seen.cancelled.load(Ordering::SeqCst));
    }
}

#[test]
fn a_dropped_ask_cancels_the_remote_handler() {
    let pair = Pair::new(8);
    let actor = pair.remote();
    let asking = pair.runtime.handle().spawn(async move { actor.ask(Wait, SOON * 100).await });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1);
    asking.abort();
    eventually("cancelled", || pair.seen.cancelled.load(Ordering::SeqCst));
}

#[test]
fn busy_is_certain_not_to_have_run() {
    for remote in [false, true] {
        let pair = Pair::new(1);
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        let first = pair.runtime.handle().spawn({
            let actor = actor.clone();
            async move { actor.ask(Wait, SOON).await }
        });
        eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1);
        let deadline = if remote { SOON } else { SHORT };
        let error = pair.block_on(actor.ask(Note(1), deadline)).unwrap_err();
        assert!(matches!(error, AskError::Busy), "{error}");
        assert!(error.is_retryable() && !error.may_have_run());
        assert!(matches!(pair.actor.try_tell(Note(2)), Err(TellError::Busy)));
        pair.seen.gate.notify_one();
        pair.block_on(first).unwrap().unwrap();
        pair.block_on(actor.ask(Note(3), SOON)).unwrap();
        assert_eq!(*pair.seen.notes.lock().unwrap(), [3]);
    }
}

#[test]
fn a_cancelled_ask_keeps_its_place_until_the_actor_is_done_with_it() {
    let pair = Pair::new(2);
    pair.block_on(async {
        for _ in 0..2 {
            let error = pair.actor.ask(Stubborn, SHORT).await.unwrap_err();
            assert!(matches!(error, AskError::Deadline), "{error}");
        }
    });
    // Both handlers go on although nobody waits: no place is free until they end.
    assert!(matches!(pair.actor.try_tell(Note(1)), Err(TellError::Busy)));
    pair.seen.gate.notify_waiters();
    eventually("room again", || pair.actor.try_tell(Note(2)).is_ok());
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

#[test]
fn a_panic_reaches_the_asker_with_its_text_and_place() {
    for remote in [false, true] {
        let pair = Pair::new(8);
        let actor = if remote { pair.remote() } else { pair.actor.clone().into() };
        let error = pair.block_on(actor.ask(Panic("rudder lost".into()), SOON)).unwrap_err();
        let AskError::Panicked { text } = &error else { panic!("{error}") };
        assert!(text.contains("rudder lost") && text.contains("common/mod.rs:"), "{text}");
        assert_eq!(pair.block_on(pair.actor.down()), Down::Panicked { text: text.clone() });
        // Others of the thread live on.
        let other = pair.arbiter.spawn(1, |_| Tester(Seen::default()));
        assert_eq!(pair.block_on(other.ask(Echo("b".into()), SOON)).unwrap(), "b");
    }
}

#[test]
fn a_panic_in_make_is_a_panic_of_the_actor() {
    let pair = Pair::new(8);
    let actor = pair.arbiter.spawn::<Tester, _>(1, |_| panic!("never built"));
    let error = pair.block_on(actor.ask(Echo("a".into()), SOON)).unwrap_err();
    let AskError::Panicked { text } = &error else { panic!("{error}") };
    assert!(text.contains("never built"), "{text}");
}

#[test]
fn a_reply_future_that_panics_gives_no_reply_and_spares_the_actor() {
    let pair = Pair::new(8);
    let error = pair.block_on(pair.remote().ask(Drown, SOON)).unwrap_err();
    assert!(matches!(error, AskError::NoReply) && error.may_have_run(), "{error}");
    assert_eq!(pair.block_on(pair.remote().ask(Echo("c".into()), SOON)).unwrap(), "c");
}

#[test]
fn a_stopped_actor_refuses_and_its_watch_says_so() {
    let pair = Pair::new(8);
    pair.block_on(pair.actor.ask(Stop, SOON)).unwrap();
    assert_eq!(pair.block_on(pair.actor.down()), Down::Stopped);
    let error = pair.block_on(pair.remote().ask(Echo("d".into()), SOON)).unwrap_err();
    assert!(matches!(error, AskError::Stopped) && !error.may_have_run(), "{error}");
}

#[test]
fn an_actor_lives_as_long_as_its_references() {
    struct Flag(Arc<std::sync::atomic::AtomicBool>);
    impl actix::Actor for Flag {
        type Context = actix::Context<Self>;
        fn stopped(&mut self, _: &mut Self::Context) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let runtime = runtime();
    let arbiter = runtime.arbiter().unwrap();
    let stopped = Arc::<std::sync::atomic::AtomicBool>::default();
    let flag = Arc::clone(&stopped);
    let actor = arbiter.spawn(1, move |_| Flag(flag));
    let second = actor.clone();
    drop(actor);
    assert!(!stopped.load(Ordering::SeqCst));
    drop(second);
    eventually("stopped", || stopped.load(Ordering::SeqCst));
}

#[test]
fn dropping_an_arbiter_ends_its_actors() {
    let runtime = runtime();
    let arbiter = runtime.arbiter().unwrap();
    let actor = arbiter.spawn(1, |_| Tester(Seen::default()));
    drop(arbiter);
    assert_eq!(runtime.handle().block_on(actor.down()), Down::Stopped);
    runtime.shutdown(SOON);
}

#[test]
fn a_role_that_is_not_named_is_refused() {
    let pair = Pair::new(8);
    let error = pair.block_on(pair.remote().ask(Stop, SOON)).unwrap_err();
    assert!(matches!(error, AskError::NotAllowed { role: Role::Worker }), "{error}");
    assert_eq!(pair.block_on(pair.remote().ask(Echo("e".into()), SOON)).unwrap(), "e");
}

#[test]
fn an_unknown_actor_is_named_so() {
    let pair = Pair::new(8);
    let nobody = Address { node: pair.head.id(), actor: ActorId(99) };
    let actor = pair.worker.actor::<Tester>(nobody);
    let error = pair.block_on(actor.ask(Echo("f".into()), SOON)).unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn it_works_inside_another_tokio_runtime() {
    let runtime = runtime();
    let authority = Authority::new().unwrap();
    let head = bind(&authority, Role::Head, &runtime);
    let worker = bind(&authority, Role::Worker, &runtime);
    let arbiter = runtime.arbiter().unwrap();
    let actor = arbiter.spawn(4, |_| Tester(Seen::default()));
    head.publish(ECHO, &actor).on::<Echo>(&[Role::Worker]);
    worker.connect(head.address().unwrap(), SOON).await.unwrap();
    let remote = worker.actor::<Tester>(Address { node: head.id(), actor: ECHO });
    assert_eq!(remote.ask(Echo("g".into()), SOON).await.unwrap(), "g");
    worker.close(SOON).await;
    drop((head, worker, arbiter, actor, remote));
    drop(runtime); // must not panic in an async context
}
