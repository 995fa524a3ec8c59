//! A connection that is lost is dialled again by the side that dialled it; one that was closed is not.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::*;
use regatta_remote::sim::Trace;
use regatta_remote::*;
use tokio::time::{Instant, sleep, timeout};

both!(
    a_disconnect_is_not_dialled_again_by_either_side,
    a_goodbye_is_not_dialled_again,
    many_who_connect_to_one_address_share_a_connection,
);

fn host(node: &Node) -> IpAddr {
    node.address().unwrap().ip()
}

/// The head forgets the worker, which only learns of it when it is heard again: its connections are reset.
async fn lose(pair: &Pair) {
    let sim = pair.world.sim.as_ref().unwrap();
    let hosts = (host(&pair.head), host(&pair.worker));
    sim.partition(hosts.0, hosts.1);
    pair.head.disconnect(pair.worker.id());
    sleep(Duration::from_secs(2)).await;
    sim.heal(hosts.0, hosts.1);
}

/// A pair of whom both know that they are up.
async fn pair(world: &World) -> Pair {
    let pair = Pair::new(world, 8).await;
    eventually("up", || !pair.head.peers().is_empty()).await;
    pair
}

async fn next(events: &mut PeerEvents) -> PeerEvent {
    timeout(SOON, events.recv()).await.expect("no event").unwrap()
}

async fn lost_and_found(world: World) -> (Duration, Trace) {
    let pair = pair(&world).await;
    let (mut at_worker, mut at_head) = (pair.worker.events(), pair.head.events());
    let asking = world.spawn({
        let actor = pair.remote();
        async move { actor.ask(Wait, 100 * SOON).await }
    });
    eventually("started", || pair.seen.started.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    lose(&pair).await;
    let started = Instant::now();
    let down = next(&mut at_worker).await;
    assert!(matches!(&down, PeerEvent::Down { peer, .. } if peer.node == pair.head.id()), "{down:?}");
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::ConnectionLost { .. }) && error.may_have_run(), "{error}");
    // Who asks for it meanwhile gets the same connection.
    let asked = world.spawn({
        let (worker, there) = (pair.worker.clone(), pair.head.address().unwrap());
        async move { worker.connect(there, SOON).await }
    });
    let up = next(&mut at_worker).await;
    assert!(matches!(up, PeerEvent::Up(peer) if peer.node == pair.head.id()), "{up:?}");
    let took = started.elapsed();
    assert_eq!(asked.await.unwrap().unwrap(), pair.head.id());
    assert_eq!(pair.remote().ask(Echo("again".into()), SOON).await.unwrap(), "again");
    assert_eq!(pair.seen.started.load(std::sync::atomic::Ordering::SeqCst), 1, "what was in flight is not sent again");
    for expected in ["Down", "Up"] {
        let event = format!("{:?}", next(&mut at_head).await);
        assert!(event.starts_with(expected), "{event}");
    }
    sleep(Duration::from_secs(30)).await;
    assert!(at_worker.try_recv().is_none() && at_head.try_recv().is_none());
    assert!(pair.worker.is_leased(pair.head.id()) && pair.head.is_leased(pair.worker.id()));
    pair.settled().await;
    (took, world.sim.as_ref().unwrap().trace())
}

#[test]
fn a_lost_connection_is_dialled_again_and_what_was_in_flight_has_failed() {
    for seed in 0..20 {
        let (took, trace) = World::simulated(seed, lost_and_found);
        assert!(took < Duration::from_secs(2), "seed {seed}: {took:?}");
        if seed < 2 {
            assert_eq!(World::simulated(seed, lost_and_found).1, trace, "seed {seed}");
        }
    }
}

#[test]
fn it_is_dialled_again_as_often_as_it_is_lost() {
    World::simulated(3, |world| async move {
        let pair = pair(&world).await;
        let mut events = pair.worker.events();
        for _ in 0..5 {
            lose(&pair).await;
            for expected in ["Down", "Up"] {
                let event = format!("{:?}", timeout(4 * SOON, events.recv()).await.unwrap().unwrap());
                assert!(event.starts_with(expected), "{event}");
            }
        }
        assert_eq!(pair.remote().ask(Echo("still".into()), SOON).await.unwrap(), "still");
    });
}

#[test]
fn a_peer_that_stays_away_is_given_up_after_ten_seconds() {
    World::simulated(4, |world| async move {
        let sim = world.sim.clone().unwrap();
        let pair = pair(&world).await;
        let mut events = pair.worker.events();
        let hosts = (host(&pair.head), host(&pair.worker));
        for (away, back) in [(7, true), (16, false)] {
            lose(&pair).await;
            assert!(matches!(next(&mut events).await, PeerEvent::Down { .. }));
            sim.partition(hosts.0, hosts.1);
            sleep(Duration::from_secs(away)).await;
            sim.heal(hosts.0, hosts.1);
            sleep(Duration::from_secs(30)).await;
            assert_eq!(pair.worker.peers().len(), usize::from(back), "away for {away} s");
            assert_eq!(matches!(events.try_recv(), Some(PeerEvent::Up(_))), back);
        }
        // Given up is not dead: it may be connected to, and is kept again.
        pair.worker.connect(pair.head.address().unwrap(), SOON).await.unwrap();
        assert!(matches!(next(&mut events).await, PeerEvent::Up(_)));
        lose(&pair).await;
        assert!(matches!(next(&mut events).await, PeerEvent::Down { .. }));
        assert!(matches!(next(&mut events).await, PeerEvent::Up(_)));
    });
}

#[test]
fn another_node_at_the_address_of_a_lost_one_is_left_alone() {
    World::simulated(5, |world| async move {
        let pair = pair(&world).await;
        let mut events = pair.worker.events();
        lose(&pair).await;
        assert!(matches!(next(&mut events).await, PeerEvent::Down { .. }));
        let Pair { authority, head, worker, .. } = pair;
        let there = head.address().unwrap();
        head.close(SOON).await;
        drop(head);
        sleep(Duration::from_millis(1)).await; // its socket is gone
        let other = Node::bind(authority.issue(Role::Head).unwrap(), there, &world.runtime.with_build("build 1"));
        let other = other.unwrap();
        sleep(Duration::from_secs(30)).await;
        assert!(worker.peers().is_empty() && other.peers().is_empty() && events.try_recv().is_none());
    });
}

/// Two nodes of a simulated world that have lost each other and are kept apart, in the middle of dialling; and the worker's events.
async fn dialling(world: &World) -> (Pair, PeerEvents) {
    let pair = pair(world).await;
    let mut events = pair.worker.events();
    lose(&pair).await;
    assert!(matches!(next(&mut events).await, PeerEvent::Down { .. }));
    world.sim.as_ref().unwrap().partition(host(&pair.head), host(&pair.worker));
    sleep(Duration::from_secs(2)).await;
    (pair, events)
}

#[test]
fn a_node_that_closes_dials_nobody_any_more() {
    World::simulated(6, |world| async move {
        let sim = world.sim.clone().unwrap();
        let (pair, _events) = dialling(&world).await;
        let started = Instant::now();
        pair.worker.close(SOON).await;
        assert!(started.elapsed() < SOON, "it waited for its redial");
        let sent = sim.trace().sent;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(sim.trace().sent, sent);
    });
}

#[test]
fn a_disconnect_ends_the_dialling() {
    World::simulated(7, |world| async move {
        let (pair, mut events) = dialling(&world).await;
        pair.worker.disconnect(pair.head.id());
        world.sim.as_ref().unwrap().heal(host(&pair.head), host(&pair.worker));
        sleep(Duration::from_secs(30)).await;
        assert!(pair.worker.peers().is_empty() && events.try_recv().is_none());
    });
}

async fn a_disconnect_is_not_dialled_again_by_either_side(world: World) {
    for by_head in [true, false] {
        let pair = pair(&world).await;
        if by_head {
            pair.head.disconnect(pair.worker.id());
        } else {
            pair.worker.disconnect(pair.head.id());
        }
        eventually("no peers", || pair.head.peers().is_empty() && pair.worker.peers().is_empty()).await;
        let (mut at_worker, mut at_head) = (pair.worker.events(), pair.head.events());
        sleep(Duration::from_millis(500)).await; // ten times the first pause
        let events = (at_worker.try_recv(), at_head.try_recv());
        assert!(events.0.is_none() && events.1.is_none(), "by head: {by_head}, at worker and head: {events:?}");
    }
}

async fn a_goodbye_is_not_dialled_again(world: World) {
    let pair = pair(&world).await;
    pair.head.close(SOON).await;
    eventually("no peers", || pair.worker.peers().is_empty()).await;
    let mut events = pair.worker.events();
    sleep(Duration::from_millis(500)).await; // ten times the first pause
    assert!(events.try_recv().is_none());
}

async fn many_who_connect_to_one_address_share_a_connection(world: World) {
    let authority = world.authority();
    let (head, worker) = (world.bind(&authority, Role::Head), world.bind(&authority, Role::Worker));
    let there = head.address().unwrap();
    let dialling: Vec<_> = (0..8)
        .map(|_| {
            let worker = worker.clone();
            world.spawn(async move { worker.connect(there, SOON).await.unwrap() })
        })
        .collect();
    for dialled in dialling {
        assert_eq!(dialled.await.unwrap(), head.id());
    }
    // One that is cut must be the only one: else the peer would stay.
    worker.disconnect(head.id());
    eventually("gone", || head.peers().is_empty() && worker.peers().is_empty()).await;
}

#[test]
fn a_name_is_there_again_with_its_node_unless_another_actor_has_taken_it() {
    World::simulated(8, |world| async move {
        let pair = pair(&world).await;
        pair.head.keep_names(&pair.arbiter);
        let tester = || pair.arbiter.spawn(1, |_| Tester(Seen::default()));
        let actors = [tester(), tester(), tester()];
        let (here, there) = (pair.head.names(pair.head.id()), pair.worker.names(pair.head.id()));
        for (number, actor) in actors.iter().enumerate() {
            pair.worker.publish(ActorId(number as u64 + 1), actor).on::<Echo>(&[Role::Head]).on::<Stop>(&[Role::Head]);
            there.register(&format!("pilot {number}"), actor, SOON).await.unwrap();
        }
        let mut events = pair.worker.events();
        lose(&pair).await;
        let error = here.find::<Tester>("pilot 0", SOON).await.unwrap_err();
        assert!(matches!(&error, NameError::Unknown { known, .. } if known.is_empty()), "{error}");
        here.register("pilot 1", &pair.actor, SOON).await.unwrap();
        // Its end is told to the head as soon as that is there again.
        ActorRef::from(actors[2].clone()).tell(Stop, SOON).await.unwrap();
        assert!(matches!(next(&mut events).await, PeerEvent::Down { .. }));
        assert!(matches!(next(&mut events).await, PeerEvent::Up(_)));
        sleep(Duration::from_secs(60)).await; // longer than what is lost is remembered
        let pilot = here.find::<Tester>("pilot 0", SOON).await.unwrap();
        assert_eq!(pilot.ask(Echo("ahoy".into()), SOON).await.unwrap(), "ahoy");
        let other = here.find::<Tester>("pilot 1", SOON).await.unwrap();
        assert_eq!(other.address().unwrap().node, pair.head.id());
        let error = here.find::<Tester>("pilot 2", SOON).await.unwrap_err();
        assert!(matches!(error, NameError::Unknown { .. }), "{error}");
    });
}
