//! A node that somebody else knows to be gone.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use regatta_remote::*;

both!(
    disconnecting_a_node_ends_what_waits_for_it_at_once,
    what_asks_a_node_that_was_given_up_hears_at_once,
    a_node_that_was_given_up_is_let_in_no_more,
);

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

async fn a_node_that_was_given_up_is_let_in_no_more(world: World) {
    let pair = Pair::new(&world, 8).await;
    let [head, worker] = [&pair.head, &pair.worker];
    eventually("up", || !head.peers().is_empty()).await;
    head.give_up(worker.id());
    eventually("apart", || head.peers().is_empty() && worker.peers().is_empty()).await;
    // Whoever dials, and as often as it likes.
    for (from, to) in [(worker, head), (head, worker), (worker, head)] {
        let error = from.connect(to.address().unwrap(), SOON).await.unwrap_err();
        assert!(matches!(error, ConnectError::Expelled) && !error.is_retryable(), "{error}");
        assert!(error.to_string().contains("as a new node"), "{error}");
    }
    assert!(head.peers().is_empty());
    // The last connection that was refused may not be gone yet.
    let error = pair.remote().ask(Echo("a".into()), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::NotConnected | AskError::ConnectionLost { .. }), "{error}");
    // It has given up nobody else, and a new node of its process is another.
    let anew = world.bind(&pair.authority, Role::Worker);
    assert_eq!(anew.connect(head.address().unwrap(), SOON).await.unwrap(), head.id());
    assert_eq!(anew.connect(worker.address().unwrap(), SOON).await.unwrap(), worker.id());
}
