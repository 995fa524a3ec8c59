//! A node that somebody else knows to be gone.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use regatta_remote::*;

both!(disconnecting_a_node_ends_what_waits_for_it_at_once, what_asks_a_node_that_was_given_up_hears_at_once);

async fn disconnecting_a_node_ends_what_waits_for_it_at_once(world: World) {
    let pair = Pair::new(&world, 8).await;
    let actor = pair.remote();
    let asking = world.spawn(async move { actor.ask(Wait, SOON * 100).await });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
    pair.worker.disconnect(pair.head.id());
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::ConnectionLost { .. }), "{error}");
    eventually("no peers", || pair.worker.peers().is_empty()).await;
    let again = pair.worker.connect(pair.head.address().unwrap(), SOON).await;
    assert_eq!(again.unwrap(), pair.head.id(), "it may be connected to again");
}

async fn what_asks_a_node_that_was_given_up_hears_at_once(world: World) {
    let pair = Pair::new(&world, 8).await;
    // A handle that came in a message: it knows where to dial.
    let sent = encode(&pair.remote()).unwrap();
    let actor: ActorRef<Tester> = pair.worker.decoding(|| decode(&sent)).unwrap();
    pair.worker.give_up(pair.head.id());
    assert!(pair.worker.has_given_up(pair.head.id()));
    let error = actor.ask(Echo("a".into()), SOON * 100).await.unwrap_err();
    assert!(matches!(error, AskError::NoSuchActor) && !error.may_have_run() && !error.is_retryable(), "{error}");
    let error = actor.tell(Note(1), SOON * 100).await.unwrap_err();
    assert!(matches!(error, TellError::NoSuchActor), "{error}");
    assert!(matches!(actor.down().await, Down::NodeLost { .. }));
    eventually("no peers", || pair.worker.peers().is_empty()).await;
}
