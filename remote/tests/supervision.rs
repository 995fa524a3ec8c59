//! Supervised actors: built again after a panic, under a limit, and nobody who holds a handle need know.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::*;
use regatta_remote::*;

both!(
    a_supervised_actor_is_built_again_and_its_handles_and_publication_stay_good,
    what_waits_survives_the_rebuild_and_only_what_panicked_is_answered_so,
    a_supervised_actor_that_panics_too_often_is_down_once_with_its_last_panic,
    a_panic_while_it_is_built_counts_as_one,
    a_supervised_actor_that_stops_is_not_built_again,
    an_arbiter_that_goes_ends_the_wait_for_the_rebuild,
);

struct Scene {
    pair: Pair,
    actor: LocalRef<Tester>,
    built: Arc<AtomicU32>,
}

/// A supervised tester in place of the pair's own.
async fn scene(world: &World, limit: Restarts) -> Scene {
    let pair = Pair::new(world, 8).await;
    let built = Arc::<AtomicU32>::default();
    let actor = pair.arbiter.supervise(8, limit, {
        let (seen, built) = (pair.seen.clone(), Arc::clone(&built));
        move |_| {
            built.fetch_add(1, Ordering::SeqCst);
            Tester(seen.clone())
        }
    });
    let worker = [Role::Worker];
    pair.head.publish(ECHO, &actor).on::<Echo>(&worker).on::<Note>(&worker).on::<Panic>(&worker).on::<Wait>(&worker);
    Scene { pair, actor, built }
}

async fn a_supervised_actor_is_built_again_and_its_handles_and_publication_stay_good(world: World) {
    for remote in [false, true] {
        let Scene { pair, actor, built } = scene(&world, Restarts::default()).await;
        let handle = if remote { pair.remote() } else { actor.clone().into() };
        for round in 1..=3 {
            assert_eq!(handle.ask(Echo("a".into()), SOON).await.unwrap(), "a");
            assert_eq!(built.load(Ordering::SeqCst), round);
            let error = handle.ask(Panic(format!("squall {round}")), SOON).await.unwrap_err();
            let AskError::Panicked { text } = &error else { panic!("{error}") };
            assert!(text.contains(&format!("squall {round}")), "{text}");
        }
        assert_eq!(handle.ask(Echo("b".into()), SOON).await.unwrap(), "b");
        // The answer may be here before its place is free.
        eventually("all places free", || actor.room() == actor.places()).await;
        let down = tokio::time::timeout(Duration::from_millis(50), actor.down()).await;
        assert!(down.is_err(), "it lives: {down:?}");
    }
}

async fn what_waits_survives_the_rebuild_and_only_what_panicked_is_answered_so(world: World) {
    let Scene { pair, actor, built } = scene(&world, Restarts::default()).await;
    // Its reply's future is outside the actor, and outlives it.
    let asking = world.spawn({
        let actor = actor.clone();
        async move { actor.ask(Wait, SOON).await }
    });
    eventually("it waits", || pair.seen.started.load(Ordering::SeqCst) == 1).await;
    let (panicked, ()) = tokio::join!(biased; actor.ask(Panic("squall".into()), SOON), async {
        for number in 0..6 {
            actor.try_tell(Note(number)).unwrap(); // behind the panic, before anybody is built again
        }
    });
    assert!(matches!(panicked, Err(AskError::Panicked { .. })), "{panicked:?}");
    eventually("all notes", || *pair.seen.notes.lock().unwrap() == [0, 1, 2, 3, 4, 5]).await;
    assert_eq!(built.load(Ordering::SeqCst), 2);
    pair.seen.gate.notify_one();
    asking.await.unwrap().unwrap();
    eventually("all places free", || actor.room() == actor.places()).await;
}

async fn a_supervised_actor_that_panics_too_often_is_down_once_with_its_last_panic(world: World) {
    let Scene { pair, actor, built } = scene(&world, Restarts { times: 2, within: SOON * 100 }).await;
    let watching = world.spawn({
        let actor = actor.clone();
        async move { actor.down().await }
    });
    for round in 0..3 {
        let error = pair.remote().ask(Panic(format!("squall {round}")), SOON).await.unwrap_err();
        assert!(matches!(error, AskError::Panicked { .. }), "{error}");
    }
    let Down::Panicked { text } = watching.await.unwrap() else { panic!("it panicked") };
    assert!(text.contains("squall 2"), "{text}");
    assert_eq!(built.load(Ordering::SeqCst), 3);
    let error = pair.remote().ask(Echo("a".into()), SOON).await.unwrap_err();
    assert!(matches!(&error, AskError::Panicked { text } if text.contains("squall 2")), "{error}");
    assert!(matches!(actor.try_tell(Note(1)), Err(TellError::Panicked { .. })));
}

async fn a_panic_while_it_is_built_counts_as_one(world: World) {
    let arbiter = world.runtime.arbiter().unwrap();
    let built = Arc::<AtomicU32>::default();
    let actor = arbiter.supervise(8, Restarts::default(), {
        let built = Arc::clone(&built);
        move |_| {
            if built.fetch_add(1, Ordering::SeqCst) < 2 {
                panics::wanted("not yet");
            }
            Tester(Seen::default())
        }
    });
    assert_eq!(actor.ask(Echo("a".into()), SOON).await.unwrap(), "a");
    assert_eq!(built.load(Ordering::SeqCst), 3);
}

async fn a_supervised_actor_that_stops_is_not_built_again(world: World) {
    let Scene { pair: _pair, actor, built } = scene(&world, Restarts::default()).await;
    actor.ask(Stop, SOON).await.unwrap();
    assert_eq!(actor.down().await, Down::Stopped);
    assert!(matches!(actor.ask(Echo("a".into()), SOON).await, Err(AskError::Stopped)));
    assert_eq!(built.load(Ordering::SeqCst), 1);
}

async fn an_arbiter_that_goes_ends_the_wait_for_the_rebuild(world: World) {
    let arbiter = world.runtime.arbiter().unwrap();
    let actor = arbiter.supervise(8, Restarts::default(), |_| Tester(Seen::default()));
    let error = actor.ask(Panic("squall".into()), SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Panicked { .. }), "{error}");
    drop(arbiter);
    assert_eq!(actor.down().await, Down::Stopped);
    assert!(matches!(actor.ask(Echo("a".into()), SOON).await, Err(AskError::Stopped)));
}
