//! Death watch over the network: one reason per watch, and nothing left of it.

mod common;

use common::*;
use regatta_remote::*;

both!(
    the_end_of_a_remote_actor_comes_with_its_reason,
    a_lost_connection_ends_a_watch_and_frees_both_sides,
    an_actor_that_is_not_there_or_not_for_us_is_named_so,
    a_dropped_watch_is_ended_there_and_keeps_no_actor_alive,
    watches_are_bounded_and_more_of_them_wait,
);

const OTHER: ActorId = ActorId(8);

fn watch(world: &World, actor: ActorRef<Tester>) -> tokio::task::JoinHandle<Down> {
    world.spawn(async move { actor.down().await })
}

async fn the_end_of_a_remote_actor_comes_with_its_reason(world: World) {
    let pair = Pair::new(&world, 8).await;
    let doomed = pair.arbiter.spawn(8, |_| Tester(Seen::default()));
    pair.head.publish(OTHER, &doomed).on::<Panic>(&[Role::Worker]);
    let other = pair.worker.actor::<Tester>(Address { node: pair.head.id(), actor: OTHER });
    let watching = [watch(&world, pair.remote()), watch(&world, pair.remote())];
    let fearing = watch(&world, other.clone());
    eventually("three are watched", || pair.head.in_hand().watches == 3).await;
    pair.actor.ask(Stop, SOON).await.unwrap();
    for watching in watching {
        assert_eq!(watching.await.unwrap(), Down::Stopped);
    }
    other.ask(Panic("mast broken".into()), SOON).await.unwrap_err();
    let down = fearing.await.unwrap();
    assert!(matches!(&down, Down::Panicked { text } if text.contains("mast broken")), "{down}");
    // Who asks later learns the same.
    assert_eq!(other.down().await, down);
    pair.settled().await;
}

async fn a_lost_connection_ends_a_watch_and_frees_both_sides(world: World) {
    let pair = Pair::new(&world, 8).await;
    let watching = watch(&world, pair.remote());
    eventually("watched", || pair.head.in_hand().watches == 1).await;
    pair.worker.disconnect(pair.head.id());
    assert!(matches!(watching.await.unwrap(), Down::NodeLost { .. }));
    eventually("no peers", || pair.worker.peers().is_empty() && pair.head.peers().is_empty()).await;
    assert_eq!(pair.remote().down().await, Down::NodeLost { cause: "not connected to the node".into() });
    // Connected again, a new watch is as good as the first; the old one stays ended.
    pair.worker.connect(pair.head.address().unwrap(), SOON).await.unwrap();
    let watching = watch(&world, pair.remote());
    eventually("watched", || pair.head.in_hand().watches == 1).await;
    pair.actor.ask(Stop, SOON).await.unwrap();
    assert_eq!(watching.await.unwrap(), Down::Stopped);
    pair.settled().await;
}

async fn an_actor_that_is_not_there_or_not_for_us_is_named_so(world: World) {
    let pair = Pair::new(&world, 8).await;
    pair.head.publish(OTHER, &pair.actor).on::<Echo>(&[Role::Driver]);
    for actor in [OTHER, ActorId(99)] {
        let there = pair.worker.actor::<Tester>(Address { node: pair.head.id(), actor });
        assert_eq!(there.down().await, Down::NoSuchActor);
        let here = pair.worker.actor::<Tester>(Address { node: pair.worker.id(), actor });
        assert_eq!(here.down().await, Down::NoSuchActor);
    }
    pair.settled().await;
}

async fn a_dropped_watch_is_ended_there_and_keeps_no_actor_alive(world: World) {
    let pair = Pair::new(&world, 8).await;
    let watching = watch(&world, pair.remote());
    eventually("watched", || pair.head.in_hand().watches == 1).await;
    watching.abort();
    eventually("not watched", || pair.head.in_hand().watches == 0).await;
    let brief = pair.arbiter.spawn(8, |_| Tester(Seen::default()));
    pair.head.publish(OTHER, &brief).on::<Echo>(&[Role::Worker]);
    let watching = watch(&world, pair.worker.actor(Address { node: pair.head.id(), actor: OTHER }));
    eventually("watched", || pair.head.in_hand().watches == 1).await;
    drop(brief);
    pair.head.unpublish(OTHER);
    assert_eq!(watching.await.unwrap(), Down::Stopped);
    pair.settled().await;
}

async fn watches_are_bounded_and_more_of_them_wait(world: World) {
    const PLACES: usize = 4096;
    let pair = Pair::new(&world, 8).await;
    let watching: Vec<_> = (0..PLACES + 500).map(|_| watch(&world, pair.remote())).collect();
    eventually("all places are taken", || pair.head.in_hand().watches == PLACES).await;
    // One that goes makes room for one that waits, and the count stays.
    for watching in &watching[..100] {
        watching.abort();
    }
    assert_eq!(pair.remote().ask(Echo("still".into()), SOON).await.unwrap(), "still");
    eventually("all places are taken", || pair.head.in_hand().watches == PLACES).await;
    pair.actor.ask(Stop, SOON).await.unwrap();
    for watching in watching.into_iter().skip(100) {
        assert_eq!(watching.await.unwrap(), Down::Stopped);
    }
    pair.settled().await;
}
