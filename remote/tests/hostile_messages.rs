//! Messages of a peer with a good certificate that are made to hurt whoever decodes them.

mod common;
mod hostile;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use hostile::*;
use regatta_remote::*;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

#[derive(Serialize, Deserialize)]
struct Nest(Vec<Self>);
#[derive(Serialize, Deserialize)]
struct Deep(Nest);
#[derive(Serialize, Deserialize)]
struct Endless(Vec<()>);
#[derive(Serialize, Deserialize)]
struct Wide(Vec<Option<[u64; 16]>>);

regatta_remote::messages! {
    0x51 Deep => (),
    0x52 Endless => (),
    0x53 Wide => usize,
}

impl actix::Handler<Deep> for Tester {
    type Result = ();
    fn handle(&mut self, _: Deep, _: &mut actix::Context<Self>) {}
}

impl actix::Handler<Endless> for Tester {
    type Result = ();
    fn handle(&mut self, _: Endless, _: &mut actix::Context<Self>) {}
}

impl actix::Handler<Wide> for Tester {
    type Result = usize;
    fn handle(&mut self, Wide(wide): Wide, _: &mut actix::Context<Self>) -> usize {
        wide.into_iter().flatten().count()
    }
}

const ROUNDS: u64 = 20;
/// What the attack may take beyond what there was, at any time. One of its messages would take 511 MiB.
const MUCH: usize = 96 << 20;
/// How long a good peer may wait for an answer meanwhile.
const LATE: Duration = Duration::from_secs(2);

#[test]
fn messages_that_ask_for_more_than_they_are_worth_are_refused_and_others_are_served() {
    World::loopback(async |world| {
        let scene = Scene::new(&world, 64).await;
        let all = [Role::Worker];
        let publication = scene.pair.head.publish(ECHO, &scene.pair.actor).on::<Echo>(&all);
        publication.on::<Deep>(&all).on::<Endless>(&all).on::<Wide>(&all);
        let (stop, peak, before) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default(), memory());
        let watching = std::thread::spawn({
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    peak.fetch_max(memory(), Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let good = world.spawn({
            let (stop, actor) = (Arc::clone(&stop), scene.pair.remote());
            async move {
                let (mut asked, mut slowest) = (0, Duration::ZERO);
                while !stop.load(Ordering::SeqCst) {
                    let started = Instant::now();
                    actor.ask(Echo("ahoy".into()), 2 * SOON).await.unwrap();
                    (asked, slowest) = (asked + 1, slowest.max(started.elapsed()));
                }
                (asked, slowest)
            }
        });

        let rogue = scene.rogue();
        let (_connection, mut lanes, _stay) = rogue.enter().await;
        let kinds = [
            (0x51, vec![1; 200_000], "deeper"),
            (0x52, [&[253][..], &u64::MAX.to_le_bytes()].concat(), "elements"),
            (0x53, [&[252][..], &(2u32 << 20).to_le_bytes(), &vec![0; 2 << 20]].concat(), "memory"),
        ];
        for round in 0..ROUNDS {
            for (call, (message, payload, why)) in (3 * round + 1..).zip(&kinds) {
                let ask = Frame { message: *message, recipient: ECHO.0, deadline_ms: 16_000, ..Frame::of(ASK, call) };
                lanes[1].0.write_all(&ask.bytes(scene.wire, payload)).await.unwrap();
                let (kind, answered, text) = rogue.read(&mut lanes[0].1).await;
                assert_eq!((kind, answered), (ERROR, call));
                assert!(String::from_utf8_lossy(&text).contains(why), "{text:?}");
            }
        }
        stop.store(true, Ordering::SeqCst);
        watching.join().unwrap();
        let (asked, slowest) = good.await.unwrap();
        assert!(asked > 0 && slowest < LATE, "{asked} asks, the slowest took {slowest:?}");
        let most = peak.load(Ordering::SeqCst).saturating_sub(before);
        assert!(most < MUCH, "{most} bytes more");
        scene.unharmed().await;
    });
}
