//! A node that somebody else knows to be gone.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use regatta_remote::*;

both!(disconnecting_a_node_ends_what_waits_for_it_at_once);

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
