//! Peers: who is let in, who is up, and what their loss does.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use regatta_remote::*;

#[test]
fn a_lost_node_ends_its_asks_and_is_down_once() {
    let pair = Pair::new(8);
    let mut events = pair.worker.events();
    let actor = pair.remote();
    let asking = pair.runtime.handle().spawn({
        let actor = actor.clone();
        async move { actor.ask(Wait, SOON * 100).await }
    });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1);
    let watching = pair.runtime.handle().spawn(async move { actor.down().await });
    let id = pair.head.id();
    let Pair { head, worker, runtime, .. } = pair;
    drop(head);
    let error = runtime.handle().block_on(asking).unwrap().unwrap_err();
    assert!(matches!(error, AskError::ConnectionLost { .. }) && error.may_have_run(), "{error}");
    let down = runtime.handle().block_on(watching).unwrap();
    assert!(matches!(down, Down::NodeLost { .. }), "{down}");
    eventually("no peers", || worker.peers().is_empty());
    let event = events.try_recv().unwrap();
    assert!(matches!(event, PeerEvent::Down { peer, .. } if peer.node == id), "{event:?}");
    assert!(events.try_recv().is_err());
    let error = runtime
        .handle()
        .block_on(worker.actor::<Tester>(Address { node: id, actor: ECHO }).ask(Echo("a".into()), SOON));
    assert!(matches!(error, Err(AskError::NotConnected)), "{error:?}");
}

#[test]
fn both_sides_are_up_once_and_a_live_peer_is_reused() {
    let runtime = runtime();
    let authority = Authority::new().unwrap();
    let head = bind(&authority, Role::Head, &runtime);
    let worker = bind(&authority, Role::Worker, &runtime);
    let (mut at_head, mut at_worker) = (head.events(), worker.events());
    let there = head.address().unwrap();
    runtime.handle().block_on(async {
        assert_eq!(worker.connect(there, SOON).await.unwrap(), head.id());
        assert_eq!(worker.connect(there, SOON).await.unwrap(), head.id());
        let up = at_head.recv().await.unwrap();
        assert!(matches!(up, PeerEvent::Up(peer) if peer.node == worker.id() && peer.role == Role::Worker));
        let up = at_worker.recv().await.unwrap();
        assert!(matches!(up, PeerEvent::Up(peer) if peer.node == head.id() && peer.role == Role::Head));
    });
    assert!(at_head.try_recv().is_err() && at_worker.try_recv().is_err());
}

#[test]
fn two_nodes_that_dial_each_other_at_once_keep_working() {
    let pair = Pair::new(8); // for its runtime and actor
    let authority = Authority::new().unwrap();
    let a = bind(&authority, Role::Head, &pair.runtime);
    let b = bind(&authority, Role::Worker, &pair.runtime);
    a.publish(ECHO, &pair.actor).on::<Echo>(&[Role::Worker]);
    b.publish(ECHO, &pair.actor).on::<Echo>(&[Role::Head]);
    let (to_a, to_b) = (a.address().unwrap(), b.address().unwrap());
    pair.block_on(async {
        let (x, y) = tokio::join!(a.connect(to_b, SOON), b.connect(to_a, SOON));
        assert_eq!((x.unwrap(), y.unwrap()), (b.id(), a.id()));
        for (from, to) in [(&a, &b), (&b, &a)] {
            let actor = from.actor::<Tester>(Address { node: to.id(), actor: ECHO });
            assert_eq!(actor.ask(Echo("h".into()), SOON).await.unwrap(), "h");
        }
    });
    assert_eq!((a.peers().len(), b.peers().len()), (1, 1));
}

#[test]
fn another_clusters_certificate_is_refused() {
    let runtime = runtime();
    let head = bind(&Authority::new().unwrap(), Role::Head, &runtime);
    let stranger = bind(&Authority::new().unwrap(), Role::Worker, &runtime);
    let there = head.address().unwrap();
    let error = runtime.handle().block_on(stranger.connect(there, SOON)).unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error}");
    assert!(head.peers().is_empty() && stranger.peers().is_empty());
}

#[test]
fn another_build_is_refused_naming_both() {
    let runtime = runtime();
    let authority = Authority::new().unwrap();
    let head = bind(&authority, Role::Head, &runtime);
    let other = authority.issue(Role::Worker).unwrap();
    let other = Node::bind(other, any(), Bytes::from_static(b"build 2"), &runtime).unwrap();
    let there = head.address().unwrap();
    let error = runtime.handle().block_on(other.connect(there, SOON)).unwrap_err();
    let ConnectError::BuildDiffers { ours, theirs } = &error else { panic!("{error}") };
    assert_eq!((ours.as_slice(), theirs.as_slice()), (&b"build 2"[..], &b"build 1"[..]));
    let text = error.to_string();
    assert!(text.contains("build 1") && text.contains("build 2"), "{text}");
    assert!(!error.is_retryable());
    assert!(head.peers().is_empty() && other.peers().is_empty());
}

#[test]
fn nobody_there_is_a_deadline() {
    let runtime = runtime();
    let node = bind(&Authority::new().unwrap(), Role::Worker, &runtime);
    // Bound by us and never answered.
    let silent = std::net::UdpSocket::bind(any()).unwrap();
    let connecting = node.connect(silent.local_addr().unwrap(), Duration::from_millis(100));
    let error = runtime.handle().block_on(connecting).unwrap_err();
    assert!(matches!(error, ConnectError::Deadline), "{error}");
}

#[test]
fn closing_lets_a_running_ask_finish() {
    let pair = Pair::new(8);
    let actor = pair.remote();
    let asking = pair.runtime.handle().spawn(async move { actor.ask(Wait, SOON).await });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1);
    let closing = pair.runtime.handle().spawn({
        let head = pair.head.clone();
        async move { head.close(SOON).await }
    });
    // The worker learns of the closing, so it asks no more; what runs is still answered.
    let probe = pair.remote();
    eventually("the worker knows", || {
        let asked = pair.block_on(probe.ask(Echo("a".into()), SOON));
        matches!(asked, Err(AskError::NotConnected | AskError::Busy))
    });
    pair.seen.gate.notify_one();
    pair.block_on(asking).unwrap().unwrap();
    pair.block_on(closing).unwrap();
    eventually("gone", || pair.worker.peers().is_empty());
}
