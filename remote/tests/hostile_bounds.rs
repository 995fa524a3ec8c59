//! What peers with bad manners may cost, in memory, tasks, threads and lines of the log. As in `hostile_peers`: bare quinn against
//! real nodes, while a pair that works beside them notices nothing.

mod common;
mod hostile;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use hostile::*;
use regatta_remote::*;
use serde::{Deserialize, Serialize, Serializer, ser};
use tokio::time::{Instant, sleep, timeout, timeout_at};

on_loopback!(
    messages_of_connections_that_are_gone_wait_for_no_room,
    answers_on_all_connections_of_a_peer_share_one_room,
    lines_that_a_peer_causes_are_counted_and_not_written,
    what_a_stranger_says_forges_no_line_of_the_log,
    what_a_refusal_repeats_of_a_message_is_bounded,
    failures_that_nobody_reads_are_bounded_as_answers_are,
    ends_that_nobody_reads_are_bounded_and_none_is_lost,
    what_waits_at_an_actor_is_bounded_by_the_memory_that_it_takes,
    who_wants_a_transfer_byte_by_byte_does_not_get_it,
    a_producer_without_end_costs_its_consumer_what_that_takes,
    a_flood_at_the_registry_of_names_takes_nobodys_and_is_bounded,
    one_that_was_expelled_stays_out_however_often_it_comes,
    lanes_that_are_ended_in_every_way_leave_nothing,
    asks_that_are_dropped_at_a_peer_that_reads_nothing_are_bounded,
    streams_that_nobody_takes_are_bounded_by_their_windows,
    floods_of_small_frames_leave_the_network_to_others,
);

/// Somebody to talk to.
#[derive(Serialize, Deserialize)]
struct Meet(ActorRef<Tester>);

/// Answered by an error of so many bytes.
#[derive(Serialize, Deserialize)]
struct Complain(usize);

#[derive(Deserialize)]
struct Complaint(usize);

impl Serialize for Complaint {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(<S::Error as ser::Error>::custom("c".repeat(self.0)))
    }
}

/// Large, and nearly empty.
#[derive(Serialize, Deserialize)]
struct Hollow(Vec<Option<[u64; 16]>>);

regatta_remote::messages! {
    0x61 Meet => (),
    0x62 Complain => Complaint,
    0x63 Hollow => (),
}

impl actix::Handler<Meet> for Tester {
    type Result = ();
    fn handle(&mut self, _: Meet, _: &mut actix::Context<Self>) {}
}

impl actix::Handler<Complain> for Tester {
    type Result = actix::MessageResult<Complain>;
    fn handle(&mut self, Complain(size): Complain, _: &mut actix::Context<Self>) -> actix::MessageResult<Complain> {
        actix::MessageResult(Complaint(size))
    }
}

impl actix::Handler<Hollow> for Stuck {
    type Result = ();
    fn handle(&mut self, _: Hollow, _: &mut actix::Context<Self>) {
        let _ = self.0.recv(); // an error when the gate is gone
    }
}

/// Lines of the log about one peer, whatever it does and however often it comes: in a while ten, and how many more there were.
async fn lines_that_a_peer_causes_are_counted_and_not_written(world: World) {
    const AGAIN: u64 = 20_000;
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (_connection, mut lanes, stay) = rogue.enter().await;
    let wait = Frame { message: 4, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, 5) };
    let started = Instant::now();
    flood(&mut lanes[1].0, AGAIN, |_| wait.bytes(scene.wire, &[])).await;
    for _ in 0..1000 {
        let (mut send, mut read) = stay.data.open_bi().await.unwrap();
        send.write_all(&[0xff; 12]).await.unwrap();
        assert!(timeout(SOON, read.read_to_end(9)).await.unwrap().is_err());
    }
    // It comes again, and is closed for something else each time.
    for kind in [HELLO, OPEN, ASK, RENEW, TELL].repeat(4) {
        let (connection, mut lanes) = rogue.greet().await;
        lanes[2].0.write_all(&Frame::of(kind, 1).bytes(scene.wire, &[])).await.unwrap();
        if kind != OPEN {
            closed(&connection).await;
        }
    }
    let (name, left_out) = (rogue.name(), "were left out here");
    let counted = || -> u64 {
        let counts = lines(&["WARN", &name, left_out]);
        counts.iter().map(|line| line.split("count=").nth(1).unwrap().trim().parse::<u64>().unwrap()).sum()
    };
    in_the_end("all are counted", || counted() + logged(&["WARN", &name]) as u64 > AGAIN + 1000).await;
    let (whiles, written) = (started.elapsed().as_secs() / 10 + 1, logged(&["WARN", &name]) as u64);
    assert!(written <= 11 * whiles, "{written} lines in {:?}", started.elapsed());
    scene.unharmed().await;
}

/// Whoever closes says why, and may say it to nobody's log but as one line.
async fn what_a_stranger_says_forges_no_line_of_the_log(world: World) {
    let scene = Scene::new(&world, 8).await;
    let forged = "bye\n2026-01-01T00:00:00Z  WARN regatta_remote: forged";
    let rogue = scene.rogue();
    let connection = rogue.dial(CONTROL).await;
    connection.close(7u8.into(), forged.as_bytes());
    said(&["WARN", "refused a connection", &rogue.from(), "bye\\n2026"]).await;
    // So does the cause of all that a lost peer ends.
    let rogue = scene.rogue();
    let mut events = scene.pair.head.events();
    let (connection, _lanes, _stay) = rogue.enter().await;
    // Who leaves before it is known to have come is no peer that is lost.
    while !matches!(timeout(SOON, events.recv()).await.unwrap().unwrap(), PeerEvent::Up(peer) if Some(peer) == rogue.peer)
    {
    }
    connection.close(0u8.into(), forged.as_bytes());
    let cause = loop {
        match timeout(SOON, events.recv()).await.unwrap().unwrap() {
            PeerEvent::Down { cause, .. } => break cause,
            _ => continue,
        }
    };
    assert!(cause.contains("bye\\n2026") && !cause.contains('\n'), "{cause}");
    assert_eq!(logged(&["\n2026-01-01"]), 0);
    scene.unharmed().await;
}

/// Another type's name in a handle is what an error says, also if the name is a MiB.
async fn what_a_refusal_repeats_of_a_message_is_bounded(world: World) {
    const ASKS: u64 = 300;
    let scene = Scene::alone(&world, 8).await;
    scene.pair.head.publish(ActorId(9), &scene.pair.actor).on::<Meet>(&[Role::Worker]);
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let address = Address { node: rogue.peer.unwrap().node, actor: ECHO };
    let meet = encode(&(address, None::<SocketAddr>, "x".repeat(1 << 20))).unwrap();
    for call in 1..=ASKS {
        let ask = Frame { message: 0x61, recipient: 9, deadline_ms: 60_000, ..Frame::of(ASK, call) };
        lanes[1].0.write_all(&ask.bytes(scene.wire, &meet)).await.unwrap();
    }
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    for call in 1..=ASKS {
        let (kind, answered, text) = rogue.read(&mut lanes[0].1).await;
        assert_eq!((kind, answered), (ERROR, call));
        let text = String::from_utf8_lossy(&text);
        assert!(text.len() < MAX_TEXT + 100 && text.contains("left out ...]"), "{}", text.len());
    }
    scene.unharmed().await;
}

/// Each says as much as an error may, and none is read. Unbounded they would be half a GiB.
async fn failures_that_nobody_reads_are_bounded_as_answers_are(world: World) {
    const ASKS: u64 = 8000;
    let scene = Scene::alone(&world, ASKS as usize).await;
    scene.pair.head.publish(ActorId(9), &scene.pair.actor).on::<Complain>(&[Role::Worker]);
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let complain = Frame { message: 0x62, recipient: 9, deadline_ms: 60_000, ..Frame::of(ASK, 0) };
    let size = encode(&Complain(60_000)).unwrap();
    flood(&mut lanes[1].0, ASKS, |call| Frame { call: call + 1, ..complain }.bytes(scene.wire, &size)).await;
    in_the_end("all are answered", || scene.pair.actor.room() == scene.pair.actor.places()).await;
    let cost = scene.cost();
    assert!(cost.bytes < (320 << 20) && cost.tasks < 100, "{cost:?}");
    let (mut whole, mut cut) = (0, 0);
    for _ in 0..ASKS {
        let (kind, _, text) = rogue.read(&mut lanes[0].1).await;
        assert_eq!(kind, ERROR);
        match text.len() {
            60_000.. => whole += 1,
            _ => cut += usize::from(String::from_utf8_lossy(&text).contains("ask for less at once")),
        }
    }
    assert!(whole >= 4000 && cut > 0 && whole + cut == ASKS as usize, "{whole} {cut}");
    scene.unharmed().await;
}

/// On all connections that one peer may have, and none is read. With room for each they would be a GiB.
async fn answers_on_all_connections_of_a_peer_share_one_room(world: World) {
    const ASKS: u64 = 300;
    let scene = Scene::alone(&world, ASKS as usize).await;
    let rogue = scene.rogue();
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(rogue.enter().await);
    }
    let fill = Frame { message: 9, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, 0) };
    let size = encode(&Fill(1 << 20)).unwrap();
    for (_, lanes, _) in &mut links {
        let asks: Vec<u8> = (1..=ASKS).flat_map(|call| Frame { call, ..fill }.bytes(scene.wire, &size)).collect();
        lanes[1].0.write_all(&asks).await.unwrap();
    }
    let served = || scene.pair.actor.room() == scene.pair.actor.places();
    in_the_end("all are answered or wait to be", || served() && scene.pair.head.in_hand().served <= 1).await;
    let cost = scene.cost();
    assert!(cost.bytes < (320 << 20) && cost.tasks < 200, "{cost:?}");
    let (mut whole, mut refused) = (0, 0);
    for (_, lanes, _) in &mut links {
        for _ in 0..ASKS {
            match rogue.read(&mut lanes[0].1).await.0 {
                REPLY => whole += 1,
                _ => refused += 1,
            }
        }
    }
    assert!(whole >= 200 && whole + refused == 4 * ASKS && refused >= 500, "{whole} {refused}");
    scene.unharmed().await;
}

/// One connection keeps all the room of its peer, and others come with large messages and go: none of these stays.
async fn messages_of_connections_that_are_gone_wait_for_no_room(world: World) {
    const SIZE: usize = 8 << 20;
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (_kept, mut lanes, _stay) = rogue.enter().await;
    let beside = Frame { flags: BESIDE, message: 2, recipient: ECHO.0, ..Frame::of(TELL, 0) };
    // What nobody serves: 4096 of them are all the room, for half a minute.
    flood(&mut lanes[1].0, 5000, |number| beside.bytes(scene.wire, &one_byte_beside(number))).await;
    in_the_end("they have the room", || scene.cost().tasks > 4000).await;
    let large = [&vec![0; SIZE][..], &one_byte_beside(1)].concat();
    for _ in 0..20 {
        let (connection, mut lanes) = rogue.greet().await;
        lanes[1].0.write_all(&beside.bytes(scene.wire, &large)).await.unwrap();
        // It has come whole when an answer to what follows on the other lane may have.
        lanes[0].0.write_all(&Frame { recipient: 99, ..Frame::of(WATCH, 1) }.bytes(scene.wire, &[])).await.unwrap();
        assert_eq!(rogue.read(&mut lanes[0].1).await.0, DOWN);
        let _ = lanes[1].0.finish();
        let _ = timeout(SOON / 4, lanes[1].0.stopped()).await;
        connection.close(0u8.into(), b"");
    }
    eventually("they are gone", || scene.cost().bytes < 2 * SIZE + MUCH).await;
    scene.unharmed().await;
}

/// An actor that ends with many words, and is watched as often as may be by who does not read. Unbounded, half a GiB.
async fn ends_that_nobody_reads_are_bounded_and_none_is_lost(world: World) {
    const WATCHES: u64 = 8000;
    let scene = Scene::alone(&world, 8).await;
    let arbiter = world.runtime.arbiter().unwrap();
    let brief = arbiter.spawn(8, |_| Tester(Seen::default()));
    scene.pair.head.publish(ActorId(9), &brief).on::<Panic>(&[Role::Worker]);
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let watch = Frame { recipient: 9, ..Frame::of(WATCH, 0) };
    flood(&mut lanes[0].0, WATCHES, |call| Frame { call: call + 1, ..watch }.bytes(scene.wire, &[])).await;
    in_the_end("all are watched", || scene.pair.head.in_hand().watches as u64 >= WATCHES).await;
    brief.tell(Panic("x".repeat(60_000)), SOON).await.unwrap();
    in_the_end("all have ended", || scene.pair.head.in_hand().watches == 0).await;
    let cost = scene.cost();
    assert!(cost.bytes < (320 << 20) && cost.tasks < 100, "{cost:?}");
    let (mut whole, mut cut) = (0, 0);
    for _ in 0..WATCHES {
        let (kind, _, down) = rogue.read(&mut lanes[0].1).await;
        assert_eq!(kind, DOWN);
        let Down::Panicked { text } = decode(&down).unwrap() else { panic!("{down:?}") };
        assert!(text.starts_with("xxx"));
        if text.len() > 60_000 { whole += 1 } else { cut += 1 }
    }
    assert!(whole >= 4000 && cut > 0, "{whole} {cut}");
    scene.unharmed().await;
}

/// Messages of 4 kB that take half a MiB each when they are decoded, for an actor that does not begin. Counted by their bytes, they
/// would be 870 MiB.
async fn what_waits_at_an_actor_is_bounded_by_the_memory_that_it_takes(world: World) {
    const TELLS: usize = 1600;
    let scene = Scene::alone(&world, 8).await;
    let (gate, stuck) = std::sync::mpsc::channel();
    let arbiter = world.runtime.arbiter().unwrap();
    let stuck = arbiter.spawn(2 * TELLS, |_| Stuck(stuck));
    scene.pair.head.publish(ActorId(9), &stuck).on::<Echo>(&[Role::Worker]).on::<Hollow>(&[Role::Worker]);
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let hollow = [&[251][..], &4000u16.to_le_bytes(), &[0; 4000]].concat();
    let tell = Frame { message: 0x63, recipient: 9, ..Frame::of(TELL, 0) }.bytes(scene.wire, &hollow);
    for _ in 0..TELLS {
        lanes[1].0.write_all(&tell).await.unwrap();
    }
    let dropped = || logged(&["DEBUG", "dropped a tell", &rogue.name(), "Busy"]);
    in_the_end("the rest is dropped", || (TELLS - 500..=TELLS - 460).contains(&dropped())).await;
    let cost = scene.cost();
    assert!(cost.bytes < (300 << 20) && cost.tasks < 100, "{cost:?}");
    let ask = Frame { message: 1, recipient: 9, deadline_ms: 60_000, ..Frame::of(ASK, 1) };
    lanes[1].0.write_all(&ask.bytes(scene.wire, &encode(&Echo("y".into())).unwrap())).await.unwrap();
    drop(gate);
    assert_eq!(rogue.read(&mut lanes[0].1).await.0, REPLY);
    eventually("nothing is left", || stuck.room() == stuck.places()).await;
    scene.unharmed().await;
}

/// A transfer of which it wants a byte at a time: each would be a read of its source.
async fn who_wants_a_transfer_byte_by_byte_does_not_get_it(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (_connection, _lanes, stay) = rogue.enter().await;
    let request = [&3u32.to_le_bytes()[..], &1u64.to_le_bytes(), b"any"].concat();
    for more in [1u32, (1 << 20) - 1] {
        let (mut send, mut read) = stay.data.open_bi().await.unwrap();
        send.write_all(&[&request[..], &[1], &more.to_le_bytes()].concat()).await.unwrap();
        let error = timeout(SOON, read.read_to_end(ZEROS)).await.unwrap().unwrap_err();
        assert!(format!("{error:?}").contains("11"), "reset as a bad request: {error:?}");
    }
    scene.unharmed().await;
}

/// It answers every request for a transfer, and promises more than there is in the world.
async fn a_producer_without_end_costs_its_consumer_what_that_takes(world: World) {
    const MOST: usize = 32 << 20;
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (_connection, _lanes, stay) = rogue.enter().await;
    let (data, totals) = (stay.data.clone(), [u64::MAX, MOST as u64 + 1, MOST as u64]);
    let producing = tokio::spawn(async move {
        for total in totals {
            let (mut send, read) = data.accept_bi().await.unwrap();
            let _ = send.write_all(&[&[0][..], &total.to_le_bytes()].concat()).await;
            let endless = async move {
                while send.write_all(&[7; 64 << 10]).await.is_ok() {}
                drop(read);
            };
            let _ = timeout(2 * SOON, endless).await;
        }
    });
    let node = rogue.peer.unwrap().node;
    for total in totals {
        let fetch = scene.pair.head.fetch(node, "all".into(), 2 * SOON).await.unwrap();
        assert_eq!(fetch.total(), total);
        let error = fetch.collect(MOST).await.unwrap_err();
        match total > MOST as u64 {
            true => assert!(matches!(error, FetchError::TooLarge { .. }), "{error}"),
            // It sends no more than its credit, and then more than it has promised.
            false => assert!(matches!(error, FetchError::Protocol(_)), "{error}"),
        }
        let cost = scene.cost();
        assert!(cost.bytes < 2 * MOST + MUCH && cost.tasks < 100, "{cost:?}");
    }
    producing.abort();
    scene.unharmed().await;
}

/// Names of others, names without end, kinds of any length, and questions for what nobody has.
async fn a_flood_at_the_registry_of_names_takes_nobodys_and_is_bounded(world: World) {
    const NAMES: u64 = 17_000;
    let scene = Scene::alone(&world, 8).await;
    scene.pair.head.keep_names(&scene.pair.arbiter);
    let own = scene.pair.arbiter.spawn(8, |_| Tester(Seen::default()));
    scene.pair.worker.publish(ActorId(3), &own).on::<Echo>(&[Role::Head]);
    let names = scene.pair.worker.names(scene.pair.head.id());
    names.register("good", &own, SOON).await.unwrap();
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let ask = |message, call| Frame { message, recipient: 0, deadline_ms: 60_000, ..Frame::of(ASK, call) };
    let at = |node, actor: u64| (Address { node, actor: ActorId(actor) }, None::<SocketAddr>);
    let register = |call: u64, name: String, node, kind: &str| {
        let (address, dial) = at(node, call);
        ask(1, call).bytes(scene.wire, &encode(&(name, address, dial, kind)).unwrap())
    };
    let (us, them) = (rogue.peer.unwrap().node, scene.pair.worker.id());
    let kind = "k".repeat(3000);
    let of_others = [
        register(1, "good".into(), us, "Boat"),
        register(2, "mine".into(), them, "Boat"),
        register(3, "n".repeat(60_000), us, "Boat"),
        ask(3, 4).bytes(scene.wire, &encode(&("good", None::<Address>)).unwrap()),
        ask(2, 5).bytes(scene.wire, &encode(&"f".repeat(1 << 20)).unwrap()),
    ];
    lanes[1].0.write_all(&of_others.concat()).await.unwrap();
    for _ in &of_others {
        let (kind, call, answer) = rogue.read(&mut lanes[0].1).await;
        assert!(kind == REPLY && answer[0] == 1 && answer.len() < 8000, "{call} was taken: {answer:?}");
    }
    let (mut taken, mut refused) = (0, 0);
    for turn in (0..NAMES).step_by(500) {
        let some: Vec<u8> = (turn..turn + 500).flat_map(|n| register(10 + n, format!("name {n}"), us, &kind)).collect();
        lanes[1].0.write_all(&some).await.unwrap();
        for _ in 0..500 {
            let (kind, _, answer) = rogue.read(&mut lanes[0].1).await;
            let counts = if kind == REPLY && answer[0] == 0 { &mut taken } else { &mut refused };
            *counts += 1;
        }
    }
    assert!(taken == 16_384 && taken + refused == NAMES, "{taken} {refused}");
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    assert_eq!(names.locate("good", SOON).await.unwrap(), Address { node: them, actor: ActorId(3) });
    scene.unharmed().await;
}

/// One that was given up dials in all the time.
async fn one_that_was_expelled_stays_out_however_often_it_comes(world: World) {
    let scene = Scene::alone(&world, 8).await;
    scene.pair.head.serve_joins(Arc::clone(&scene.pair.authority)).unwrap();
    let rogue = scene.rogue();
    let (connection, _lanes, stay) = rogue.enter().await;
    scene.pair.head.give_up(rogue.peer.unwrap().node);
    assert_eq!(closed(&connection).await, 0);
    drop(stay);
    let started = Instant::now();
    let mut tried = 0;
    while started.elapsed() < SOON {
        for alpn in [CONTROL, DATA] {
            let Ok(Ok(connection)) = timeout(SOON / 8, rogue.connecting(alpn)).await else {
                continue; // its host is not answered for a while
            };
            tried += 1;
            if let Ok((mut send, _read)) = connection.open_bi().await {
                let _ = send.write_all(&hello(scene.wire, rogue.peer.unwrap(), BUILD)).await;
                let code = closed(&connection).await;
                assert!([17, 6].contains(&code), "neither as expelled nor without a control connection: {code}");
            }
        }
    }
    assert!(tried > 10, "{tried}");
    said(&["WARN", "refused a connection", &rogue.from(), "given it up"]).await;
    assert_eq!(scene.pair.head.peers().len(), 1);
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    scene.unharmed().await;
}

/// Lanes that are reset, stopped or finished, ever again: each takes its link down at once, and none leaves anything.
async fn lanes_that_are_ended_in_every_way_leave_nothing(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let mut events = scene.pair.head.events();
    let rogue = scene.rogue();
    for turn in 0..30 {
        let (connection, mut lanes, stay) = rogue.enter().await;
        let lane = &mut lanes[turn % 2];
        let watch = Frame { recipient: ECHO.0, ..Frame::of(WATCH, 1) };
        let wait = Frame { message: 4, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, 5) };
        let frame = if turn % 2 == 0 { watch } else { wait };
        lane.0.write_all(&frame.bytes(scene.wire, &[])).await.unwrap();
        match turn % 3 {
            0 => lane.0.reset(9u8.into()).unwrap(),
            1 => lane.1.stop(9u8.into()).unwrap(),
            _ => lane.0.finish().unwrap(),
        }
        assert_eq!(closed(&connection).await, 4, "as a bad frame, turn {turn}");
        // The goodbye of its other connection would end the next one, too.
        drop(stay);
        eventually("it is gone", || scene.pair.head.peers().len() == 1).await;
    }
    let head = &scene.pair.head;
    eventually("nothing is left", || head.peers().len() == 1 && head.in_hand().watches + head.in_hand().served < 2)
        .await;
    // Each time it came up, it went down.
    let (mut up, mut down) = (0, 0);
    while let Some(event) = events.try_recv() {
        match event {
            PeerEvent::Up(_) => up += 1,
            PeerEvent::Down { .. } => down += 1,
            _ => (),
        }
        assert!(up - down <= 1 && up >= down, "{up} {down}");
    }
    assert!(up > 0 && up == down, "{up} {down}");
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 200, "{cost:?}");
    scene.unharmed().await;
}

/// It reads nothing, and what is asked of it is dropped before it is answered.
async fn asks_that_are_dropped_at_a_peer_that_reads_nothing_are_bounded(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let mut rogue = scene.rogue();
    rogue.window = Some(4096);
    let (connection, _lanes, _stay) = rogue.enter().await;
    let actor = scene.pair.head.actor::<Tester>(Address { node: rogue.peer.unwrap().node, actor: ECHO });
    let mut busy = 0;
    for _ in 0..100 {
        let asks = (0..100).map(|_| actor.ask(Echo("x".repeat(100)), Duration::from_millis(20)));
        let answers = join_all(asks).await;
        busy += answers.iter().filter(|answer| matches!(answer, Err(AskError::Busy))).count();
    }
    assert!(busy > 1000, "{busy} found no place");
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    connection.close(0u8.into(), b"");
    eventually("nothing is asked", || scene.pair.head.in_hand().asks == 0).await;
    scene.unharmed().await;
}

/// Many streams at once, of items that are never taken.
async fn streams_that_nobody_takes_are_bounded_by_their_windows(world: World) {
    const STREAMS: u64 = 50;
    let scene = Scene::alone(&world, STREAMS as usize).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let count = encode(&Count { items: 10_000, size: 60_000 }).unwrap();
    for call in 1..=STREAMS {
        let ask = Frame { message: 7, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, call) };
        lanes[1].0.write_all(&ask.bytes(scene.wire, &count)).await.unwrap();
    }
    in_the_end("all are produced", || scene.pair.actor.room() == 0).await;
    sleep(Duration::from_millis(500)).await; // time to make more, or to keep it
    // A window each, and what the channel to the actor and the item in hand take.
    let cost = scene.cost();
    let each = (256 << 10) + 18 * 60_000;
    assert!(cost.bytes < STREAMS as usize * each + MUCH && cost.tasks < 2 * STREAMS as usize + 100, "{cost:?}");
    connection.close(0u8.into(), b"");
    in_the_end("all places are free", || scene.pair.actor.room() == scene.pair.actor.places()).await;
    scene.unharmed().await;
}

/// By all connections that one peer may have: small frames, as fast as they go. The threads of the network are for others too.
async fn floods_of_small_frames_leave_the_network_to_others(world: World) {
    let scene = Scene::alone(&world, 64).await;
    let rogue = scene.rogue();
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(rogue.enter().await);
    }
    let open = Frame::of(OPEN, 0).bytes(scene.wire, &[]);
    let of_no_stream = Frame::of(END, 1).bytes(scene.wire, &[]);
    let (before, end) = (scene.asked.load(Ordering::SeqCst), Instant::now() + SOON);
    let flood = async |lane: &mut quinn::SendStream, frame: &[u8]| {
        let (many, mut sent) = (frame.repeat(2000), 0);
        while let Ok(Ok(())) = timeout_at(end, lane.write_all(&many)).await {
            sent += 2000;
        }
        sent
    };
    // Two of them on each lane: of one connection, quinn would send one lane and not the other.
    let floods = links.iter_mut().enumerate().map(async |(at, (_, lanes, _))| {
        let frame = [&of_no_stream, &open][at % 2];
        flood(&mut lanes[at % 2].0, frame).await
    });
    let sent: Vec<u64> = join_all(floods).await;
    assert!(sent.iter().all(|frames| *frames > 10_000), "{sent:?}");
    // However fast the machine is: the readers of the flood took turns with others. Without, it was 20 in a million.
    let (asked, frames) = (scene.asked.load(Ordering::SeqCst) - before, sent.iter().sum::<u64>());
    assert!(asked * 1_000_000 / frames > 35, "{asked} asks beside {frames} frames");
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 200, "{cost:?}");
    scene.unharmed().await;
}
