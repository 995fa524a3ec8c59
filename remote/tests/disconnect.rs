//! A node that somebody else knows to be gone.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use regatta_remote::*;

#[test]
fn disconnecting_a_node_ends_what_waits_for_it_at_once() {
    let pair = Pair::new(8);
    let actor = pair.remote();
    let asking = pair.runtime.handle().spawn(async move { actor.ask(Wait, SOON * 100).await });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1);
    pair.worker.disconnect(pair.head.id());
    let error = pair.runtime.handle().block_on(asking).unwrap().unwrap_err();
    assert!(matches!(error, AskError::ConnectionLost { .. }), "{error}");
    eventually("no peers", || pair.worker.peers().is_empty());
    let there = pair.head.address().unwrap();
    let again = pair.runtime.handle().block_on(pair.worker.connect(there, SOON));
    assert_eq!(again.unwrap(), pair.head.id(), "it may be connected to again");
}
