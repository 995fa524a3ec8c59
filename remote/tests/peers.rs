//! Peers: who is let in, who is up, and what their loss does.

mod common;

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use regatta_remote::*;

both!(
    a_lost_node_ends_its_asks_and_is_down_once,
    both_sides_are_up_once_and_a_live_peer_is_reused,
    two_nodes_that_dial_each_other_at_once_keep_working,
    another_clusters_certificate_is_refused,
    another_build_is_refused_naming_both,
    nobody_there_is_a_deadline,
    closing_lets_a_running_ask_finish,
);

async fn a_lost_node_ends_its_asks_and_is_down_once(world: World) {
    let pair = Pair::new(&world, 8).await;
    let mut events = pair.worker.events();
    let actor = pair.remote();
    let asking = world.spawn({
        let actor = actor.clone();
        async move { actor.ask(Wait, SOON * 100).await }
    });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
    let watching = world.spawn(async move { actor.down().await });
    let id = pair.head.id();
    let Pair { head, worker, .. } = pair;
    drop(head);
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::ConnectionLost { .. }) && error.may_have_run(), "{error}");
    let down = watching.await.unwrap();
    assert!(matches!(down, Down::NodeLost { .. }), "{down}");
    eventually("no peers", || worker.peers().is_empty()).await;
    let event = events.try_recv().unwrap();
    assert!(matches!(event, PeerEvent::Down { peer, .. } if peer.node == id), "{event:?}");
    assert!(events.try_recv().is_none());
    let gone = worker.actor::<Tester>(Address { node: id, actor: ECHO });
    let error = gone.ask(Echo("a".into()), SOON).await;
    assert!(matches!(error, Err(AskError::NotConnected)), "{error:?}");
}

async fn both_sides_are_up_once_and_a_live_peer_is_reused(world: World) {
    let authority = world.authority();
    let head = world.bind(&authority, Role::Head);
    let worker = world.bind(&authority, Role::Worker);
    let (mut at_head, mut at_worker) = (head.events(), worker.events());
    let there = head.address().unwrap();
    assert_eq!(worker.connect(there, SOON).await.unwrap(), head.id());
    assert_eq!(worker.connect(there, SOON).await.unwrap(), head.id());
    let up = at_head.recv().await.unwrap();
    assert!(matches!(up, PeerEvent::Up(peer) if peer.node == worker.id() && peer.role == Role::Worker));
    let up = at_worker.recv().await.unwrap();
    assert!(matches!(up, PeerEvent::Up(peer) if peer.node == head.id() && peer.role == Role::Head));
    assert!(at_head.try_recv().is_none() && at_worker.try_recv().is_none());
}

async fn two_nodes_that_dial_each_other_at_once_keep_working(world: World) {
    let pair = Pair::new(&world, 8).await; // for its runtime and actor
    let authority = world.authority();
    let a = world.bind(&authority, Role::Head);
    let b = world.bind(&authority, Role::Worker);
    a.publish(ECHO, &pair.actor).on::<Echo>(&[Role::Worker]);
    b.publish(ECHO, &pair.actor).on::<Echo>(&[Role::Head]);
    let (to_a, to_b) = (a.address().unwrap(), b.address().unwrap());
    let (x, y) = tokio::join!(a.connect(to_b, SOON), b.connect(to_a, SOON));
    assert_eq!((x.unwrap(), y.unwrap()), (b.id(), a.id()));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let actor = from.actor::<Tester>(Address { node: to.id(), actor: ECHO });
        assert_eq!(actor.ask(Echo("h".into()), SOON).await.unwrap(), "h");
    }
    assert_eq!((a.peers().len(), b.peers().len()), (1, 1));
}

async fn another_clusters_certificate_is_refused(world: World) {
    let head = world.bind(&world.authority(), Role::Head);
    let stranger = world.bind(&world.authority(), Role::Worker);
    let there = head.address().unwrap();
    let error = stranger.connect(there, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error}");
    assert!(head.peers().is_empty() && stranger.peers().is_empty());
}

async fn another_build_is_refused_naming_both(world: World) {
    let authority = world.authority();
    let head = world.bind(&authority, Role::Head);
    let other = world.bind_build(&authority, Role::Worker, b"build 2");
    let there = head.address().unwrap();
    let error = other.connect(there, SOON).await.unwrap_err();
    let ConnectError::BuildDiffers { ours, theirs } = &error else { panic!("{error}") };
    assert_eq!((ours.as_slice(), theirs.as_slice()), (&b"build 2"[..], &b"build 1"[..]));
    let text = error.to_string();
    assert!(text.contains("build 1") && text.contains("build 2"), "{text}");
    assert!(!error.is_retryable());
    assert!(head.peers().is_empty() && other.peers().is_empty());
}

async fn nobody_there_is_a_deadline(world: World) {
    let node = world.bind(&world.authority(), Role::Worker);
    // Bound by us and never answered; on the simulated network nobody has it.
    let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let there = silent.local_addr().unwrap();
    let error = node.connect(there, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Deadline), "{error}");
}

async fn closing_lets_a_running_ask_finish(world: World) {
    let pair = Pair::new(&world, 8).await;
    let actor = pair.remote();
    let asking = world.spawn(async move { actor.ask(Wait, SOON).await });
    eventually("started", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
    let closing = world.spawn({
        let head = pair.head.clone();
        async move { head.close(SOON).await }
    });
    // The worker learns of the closing, so it asks no more; what runs is still answered.
    let probe = pair.remote();
    loop {
        match probe.ask(Echo("a".into()), SOON).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(AskError::NotConnected | AskError::Busy) => break,
            Err(other) => panic!("{other}"),
        }
    }
    pair.seen.gate.notify_one();
    asking.await.unwrap().unwrap();
    closing.await.unwrap();
    eventually("gone", || pair.worker.peers().is_empty()).await;
}
