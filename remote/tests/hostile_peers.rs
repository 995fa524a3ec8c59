//! Strangers and peers with bad manners: each is refused or dropped with a logged reason, memory stays bounded, and a
//! pair that works beside them notices nothing. Bare quinn against real nodes, on loopback.

mod common;
mod hostile;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use hostile::*;
use regatta_remote::*;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

on_loopback!(
    strangers_are_refused,
    who_does_not_say_hello_is_refused,
    a_bad_frame_on_any_lane_closes_the_connection,
    a_bad_request_ends_its_transfer_only,
    handshakes_that_never_end_are_dropped_and_others_get_in,
    half_open_handshakes_cost_nothing_and_others_get_in,
    a_host_that_is_refused_without_end_is_not_answered,
    a_peer_that_connects_without_end_keeps_its_newest_connections,
    a_flood_of_streams_ends_at_their_number,
    asks_beyond_the_limit_of_a_peer_are_busy,
    a_flood_of_cancels_costs_nothing,
    frames_that_are_replayed_or_out_of_order_do_nothing,
    silent_joiners_leave_room_for_others,
    a_peer_that_reads_nothing_is_cut_off,
    a_role_that_may_not_send_a_message_is_told_so,
    answers_to_no_call_with_batches_cost_nothing,
    watches_that_nobody_wants_cost_nothing,
    a_watch_under_the_number_of_another_is_refused,
    messages_whose_batches_nobody_serves_cost_no_more_than_their_room,
    answers_that_nobody_reads_are_bounded_and_each_ask_is_answered,
    a_peer_that_reads_a_byte_now_and_then_is_cut_off,
    frames_that_do_not_end_are_bounded,
    a_frame_that_stops_is_cut_off,
    a_flood_at_a_busy_actor_harms_nobody_else,
    a_connection_that_is_silent_beside_another_is_closed,
    who_has_no_data_connection_does_not_stay,
    a_trailer_of_more_than_may_be_beside_a_message_is_refused,
    what_waits_at_an_actor_that_does_not_begin_is_bounded_in_bytes,
    messages_to_a_peer_that_reads_nothing_are_bounded_in_bytes,
    a_flood_of_frames_about_nothing_costs_nothing,
    a_flood_of_renewals_costs_no_more_than_their_number,
);

async fn strangers_are_refused(world: World) {
    let scene = Scene::new(&world, 8).await;
    let other = Authority::new().unwrap().issue(Role::Worker).unwrap();
    let ours = scene.pair.authority.issue(Role::Worker).unwrap();
    let cases: [(&str, Option<&Identity>, &[u8], &str); 5] = [
        ("no certificate", None, CONTROL, "not trusted"),
        ("no certificate for data", None, DATA, "not trusted"),
        ("another cluster's", Some(&other), CONTROL, "not trusted"),
        ("another protocol", Some(&ours), b"regatta-ctl/0", "no protocol in common"),
        ("a join where none are served", None, JOIN, "no protocol in common"),
    ];
    for (case, identity, alpn, reason) in cases {
        let rogue = Rogue::new(identity, scene.to, scene.wire);
        rogue.end(alpn).await;
        println!("{case}");
        said(&["WARN", "refused a connection", &rogue.from(), reason]).await;
    }
    assert_eq!(scene.pair.head.peers().len(), 1);
    scene.unharmed().await;
}

async fn who_does_not_say_hello_is_refused(world: World) {
    let scene = Scene::new(&world, 8).await;
    let wire = scene.wire;
    let other = scene.pair.authority.issue(Role::Head).unwrap();
    let other = Rogue::new(Some(&other), scene.to, wire).peer.unwrap();
    let cut = hello(wire, other, BUILD)[..40].to_vec();
    let cases = [
        ("garbage", vec![0x5a; 300], "frame version"),
        ("an ask before", Frame::of(ASK, 1).bytes(wire, b"hi"), "instead of a hello"),
        ("a length beyond the maximum", Frame::of(HELLO, 0).claiming(wire, 1 << 20, b""), "larger than the maximum"),
        ("half a hello", cut, "ended inside a frame"),
        ("nothing", Vec::new(), "no hello"),
        ("not a hello inside", Frame::of(HELLO, 0).bytes(wire, &[0xff; 50]), "cannot decode"),
        ("another's name and role", hello(wire, other, BUILD), "not what the certificate says"),
    ];
    for (case, bytes, reason) in cases {
        let rogue = scene.rogue();
        let connection = rogue.dial(CONTROL).await;
        let (mut send, _read) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        println!("{case}");
        closed(&connection).await;
        said(&["WARN", "refused a connection", &rogue.from(), reason]).await;
    }
    for (wire, build, reason) in
        [(Wire { protocol: 999, ..wire }, BUILD, "the protocols differ"), (wire, &b"build 2"[..], "the builds differ")]
    {
        let rogue = scene.rogue();
        let connection = rogue.dial(CONTROL).await;
        let (mut send, mut read) = connection.open_bi().await.unwrap();
        send.write_all(&hello(wire, rogue.peer.unwrap(), build)).await.unwrap();
        assert_eq!(rogue.read(&mut read).await.0, HELLO, "it learns what the node is");
        connection.close(0u8.into(), b"");
        said(&["WARN", "refused a connection", &rogue.from(), reason]).await;
    }
    // The name is right, and this is not the way in.
    let rogue = scene.rogue();
    closed(&rogue.dial(DATA).await).await;
    said(&["WARN", "refused a connection", &rogue.from(), "without a control one"]).await;
    assert_eq!(scene.pair.head.peers().len(), 1);
    scene.unharmed().await;
}

async fn a_bad_frame_on_any_lane_closes_the_connection(world: World) {
    let scene = Scene::new(&world, 8).await;
    let wire = scene.wire;
    let half = Frame::of(TELL, 0).claiming(wire, 100, b"half");
    let cases = [
        ("garbage", [vec![0x5a; 300], vec![0x5a; 300], vec![0x5a; 300]], "bad frame"),
        ("oversize", [REPLY, ASK, BEAT].map(|kind| Frame::of(kind, 1).claiming(wire, u32::MAX, b"")), "bad frame"),
        ("half a frame", [half.clone(), half.clone(), half], "bad frame"),
        ("wrong lane", [ASK, REPLY, TELL].map(|kind| Frame::of(kind, 1).bytes(wire, b"")), "on the wrong lane"),
        ("hello again", [HELLO; 3].map(|kind| Frame::of(kind, 1).bytes(wire, b"")), "on the wrong lane"),
    ];
    for (case, lanes, reason) in cases {
        for (at, bytes) in lanes.into_iter().enumerate() {
            let rogue = scene.rogue();
            let (connection, mut open) = rogue.greet().await;
            open[at].0.write_all(&bytes).await.unwrap();
            let _ = open[at].0.finish();
            println!("{case} on lane {at}");
            let code = closed(&connection).await;
            assert!([4, 5].contains(&code), "{code}");
            said(&["WARN", reason, &rogue.name()]).await;
        }
    }
    eventually("they are gone", || scene.pair.head.peers().len() == 1).await;
    scene.unharmed().await;
}

async fn a_bad_request_ends_its_transfer_only(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let (_control, _lanes) = rogue.greet().await;
    let data = rogue.dial(DATA).await;
    let request = |ticket: u32, credit: u64| [&ticket.to_le_bytes()[..], &credit.to_le_bytes(), b"any"].concat();
    for (case, bytes) in [
        ("a ticket without end", request(u32::MAX, 1)),
        ("another word than credit", [request(3, 1), vec![0x77; 9]].concat()),
        ("taken before it was sent", [request(3, 1), vec![2]].concat()),
    ] {
        let (mut send, mut read) = data.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        println!("{case}");
        let error = timeout(SOON, read.read_to_end(ZEROS)).await.unwrap().unwrap_err();
        assert!(format!("{error:?}").contains("11"), "reset as a bad request: {error:?}");
    }
    said(&["WARN", "not a request for a transfer", &rogue.name()]).await;
    // Half a request, and then nothing more: its stream is given back.
    let (mut send, mut read) = data.open_bi().await.unwrap();
    send.write_all(&request(3, 1)[..7]).await.unwrap();
    send.finish().unwrap();
    assert!(timeout(SOON, read.read_to_end(9)).await.unwrap().is_err());
    // The connection goes on.
    let (mut send, mut read) = data.open_bi().await.unwrap();
    send.write_all(&request(3, u64::MAX)).await.unwrap();
    let mut all = vec![0; 9 + ZEROS];
    timeout(2 * SOON, read.read_exact(&mut all)).await.unwrap().unwrap();
    assert_eq!(all[..9], [&[0][..], &(ZEROS as u64).to_le_bytes()].concat());
    scene.unharmed().await;
}

async fn handshakes_that_never_end_are_dropped_and_others_get_in(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let dialling: Vec<_> = (0..70).map(|_| tokio::spawn(timeout(SOON / 2, rogue.connecting(CONTROL)))).collect();
    let mut slow = Vec::new();
    for dialled in dialling {
        let Ok(Ok(connection)) = dialled.await.unwrap() else {
            continue; // more than its host may have: they are not answered
        };
        let lane = if slow.len() % 2 == 0 { Some(connection.open_bi().await.unwrap()) } else { None };
        slow.push((connection, lane));
    }
    assert!((50..=64).contains(&slow.len()), "{} were let in", slow.len());
    said(&["WARN", "connections are not answered", &rogue.from(), "too many handshakes"]).await;
    // One byte at a time does not make it longer.
    let dripping = async {
        let bytes = hello(scene.wire, rogue.peer.unwrap(), BUILD);
        for byte in bytes.chunks(1).cycle() {
            for (_, lane) in &mut slow {
                if let Some((send, _)) = lane {
                    let _ = send.write_all(byte).await;
                }
            }
            sleep(Duration::from_millis(400)).await;
        }
    };
    let others = async {
        let fresh = world.bind(&scene.pair.authority, Role::Worker);
        fresh.connect(scene.to, SOON).await.expect("another host is let in");
        eventually("it is up", || scene.pair.head.peers().len() == 2).await;
        said(&["WARN", "took too long", &rogue.from()]).await;
    };
    tokio::select! {
        () = others => (),
        () = dripping => (),
    }
    for (connection, _) in &slow {
        timeout(3 * SOON, connection.closed()).await.expect("it was not dropped");
    }
    scene.unharmed().await;
}

async fn half_open_handshakes_cost_nothing_and_others_get_in(world: World) {
    let scene = Scene::alone(&world, 8).await;
    // First packets of many connections, caught on their way to nobody.
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut rogue = scene.rogue();
    rogue.to = nobody.local_addr().unwrap();
    let many: Vec<_> = (0..400).map(|_| rogue.connecting(CONTROL)).collect();
    let mut first = Vec::new();
    let mut packet = vec![0; 2000];
    while first.len() < 400 {
        let size = timeout(SOON, nobody.recv(&mut packet)).await.expect("no packet").unwrap();
        first.push(packet[..size].to_vec());
    }
    drop(many);
    let liar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in &first {
        liar.send_to(packet, scene.to).await.unwrap();
    }
    for _ in 0..3 {
        let fresh = world.bind(&scene.pair.authority, Role::Worker);
        fresh.connect(scene.to, SOON).await.expect("who proves its address is let in");
    }
    said(&["WARN", "took too long", &format!("from={}", liar.local_addr().unwrap())]).await;
    assert!(scene.cost().bytes < MUCH, "{:?}", scene.cost());
    scene.unharmed().await;
}

async fn a_host_that_is_refused_without_end_is_not_answered(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = Rogue::new(None, scene.to, scene.wire);
    let started = Instant::now();
    let mut refused = 0;
    while logged(&["WARN", "connections are not answered", &rogue.from(), "refused too often"]) == 0 {
        assert!(started.elapsed() < 5 * SOON, "{refused} were refused, and all were answered");
        let tries: Vec<_> = (0..16).map(|_| timeout(SOON / 8, rogue.connecting(CONTROL))).collect();
        for one in tries {
            refused += u32::from(one.await.is_ok());
        }
    }
    let fresh = world.bind(&scene.pair.authority, Role::Worker);
    fresh.connect(scene.to, SOON).await.expect("another host is let in");
    scene.unharmed().await;
}

async fn a_peer_that_connects_without_end_keeps_its_newest_connections(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let mut entered = Vec::new();
    for _ in 0..20 {
        entered.push(rogue.enter().await);
    }
    let alive = |connections: Vec<&quinn::Connection>| {
        let alive: Vec<bool> = connections.iter().map(|connection| connection.close_reason().is_none()).collect();
        alive.iter().filter(|alive| **alive).count() == 4 && alive[16..] == [true; 4]
    };
    eventually("four of each", || {
        alive(entered.iter().map(|(control, ..)| control).collect())
            && alive(entered.iter().map(|(.., stay)| &stay.data).collect())
    })
    .await;
    said(&["WARN", "too many connections", &rogue.from()]).await;
    assert_eq!(scene.pair.head.peers().len(), 2);
    let (connection, lanes, _) = entered.last_mut().unwrap();
    let echo = Frame { message: 1, recipient: ECHO.0, deadline_ms: 4000, ..Frame::of(ASK, 1) };
    lanes[1].0.write_all(&echo.bytes(scene.wire, &encode(&Echo("x".into())).unwrap())).await.unwrap();
    assert_eq!(rogue.read(&mut lanes[0].1).await.0, REPLY);
    assert!(connection.close_reason().is_none());
    scene.unharmed().await;
}

async fn a_flood_of_streams_ends_at_their_number(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (control, _lanes) = rogue.greet().await;
    assert!(timeout(SOON / 8, control.open_bi()).await.is_err(), "a fourth lane");
    let data = rogue.dial(DATA).await;
    let mut streams = Vec::new();
    while let Ok(stream) = timeout(SOON / 8, data.open_bi()).await {
        let (mut send, read) = stream.unwrap();
        // All the credit that there is, and nothing is ever read.
        let request = [&3u32.to_le_bytes()[..], &u64::MAX.to_le_bytes(), b"any"].concat();
        send.write_all(&request).await.unwrap();
        streams.push((send, read));
    }
    assert_eq!(streams.len(), 128);
    assert!(timeout(SOON / 8, data.open_uni()).await.is_err(), "nobody needs these");
    eventually("all are served", || scene.pair.head.in_hand().transfers >= 128).await;
    sleep(Duration::from_millis(500)).await; // time to serve more, or to keep it
    assert!(scene.pair.head.in_hand().transfers <= 130, "{:?}", scene.pair.head.in_hand());
    // Each may have a piece in hand, and as much waits to be sent.
    assert!(scene.cost().bytes < streams.len() * (1 << 20) + MUCH, "{:?}", scene.cost());
    data.close(0u8.into(), b"");
    eventually("all are given back", || scene.pair.head.in_hand().transfers <= 2).await;
    scene.unharmed().await;
}

async fn asks_beyond_the_limit_of_a_peer_are_busy(world: World) {
    const LIMIT: u64 = 8192;
    const MORE: u64 = 6;
    let scene = Scene::new(&world, 2 * LIMIT as usize).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let wait = |call| Frame { message: 4, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, call) };
    let flood: Vec<u8> = (1..=LIMIT + MORE).flat_map(|call| wait(call).bytes(scene.wire, &[])).collect();
    lanes[1].0.write_all(&flood).await.unwrap();
    for call in LIMIT + 1..=LIMIT + MORE {
        let (kind, answered, payload) = rogue.read(&mut lanes[0].1).await;
        assert_eq!((kind, answered), (ERROR, call));
        assert!(payload.len() < 8, "Busy has no text: {payload:?}");
    }
    said(&["DEBUG", "refused an ask", &rogue.name(), "Busy"]).await;
    let started = || u64::from(scene.pair.seen.started.load(Ordering::SeqCst));
    eventually("the rest has started", || started() == LIMIT).await;
    assert!(scene.pair.head.in_hand().served as u64 >= LIMIT);
    connection.close(0u8.into(), b"");
    eventually("all are cancelled", || scene.pair.head.in_hand().served <= 1).await;
    eventually("all places are free", || scene.pair.actor.room() == scene.pair.actor.places()).await;
    scene.unharmed().await;
}

async fn a_flood_of_cancels_costs_nothing(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let last = 300_000;
    for turn in (1..=last).step_by(1000) {
        let flood: Vec<u8> =
            (turn..turn + 1000).flat_map(|call| Frame::of(CANCEL, call).bytes(scene.wire, &[])).collect();
        lanes[0].0.write_all(&flood).await.unwrap();
    }
    // The oldest are forgotten, the newest are not: only so much is kept. What follows on their lane is answered after them.
    lanes[0].0.write_all(&Frame { recipient: 99, ..Frame::of(WATCH, 1) }.bytes(scene.wire, &[])).await.unwrap();
    assert_eq!(rogue.read(&mut lanes[0].1).await.0, DOWN);
    let echo = encode(&Echo("x".into())).unwrap();
    for call in [last, 1, last + 2000] {
        let ask = Frame { message: 1, recipient: ECHO.0, deadline_ms: 16_000, ..Frame::of(ASK, call) };
        lanes[1].0.write_all(&ask.bytes(scene.wire, &echo)).await.unwrap();
    }
    for expected in [1, last + 2000] {
        let (kind, call, payload) = rogue.read(&mut lanes[0].1).await;
        assert_eq!((kind, call, decode::<String>(&payload).unwrap().as_str()), (REPLY, expected, "x"));
    }
    assert!(scene.cost().bytes < MUCH && scene.cost().tasks < MOST.tasks, "{:?}", scene.cost());
    scene.unharmed().await;
}

async fn frames_that_are_replayed_or_out_of_order_do_nothing(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes) = rogue.greet().await;
    let _data = rogue.dial(DATA).await;
    let wire = scene.wire;
    let ask = |message, call| Frame { message, recipient: ECHO.0, deadline_ms: 16_000, ..Frame::of(ASK, call) };
    let echo = encode(&Echo("x".into())).unwrap();
    // The same call twice: the second is dropped, the first goes on.
    lanes[1].0.write_all(&[ask(4, 5).bytes(wire, &[]), ask(4, 5).bytes(wire, &[])].concat()).await.unwrap();
    said(&["WARN", "came again", &rogue.name(), "call=5"]).await;
    let started = || scene.pair.seen.started.load(Ordering::SeqCst);
    eventually("one has started", || started() == 1).await;
    scene.pair.seen.gate.notify_one();
    assert_eq!(rogue.read(&mut lanes[0].1).await.1, 5);
    // An answer to nothing, and the end of a call that never was.
    for kind in [REPLY, ERROR] {
        lanes[0].0.write_all(&Frame::of(kind, 77).bytes(wire, b"?")).await.unwrap();
    }
    said(&["DEBUG", "nobody waits for", &rogue.name(), "call=77"]).await;
    // A cancel before its ask: lanes may overtake each other, and then the ask is skipped.
    lanes[0].0.write_all(&Frame::of(CANCEL, 9).bytes(wire, &[])).await.unwrap();
    sleep(Duration::from_millis(300)).await; // the cancel is there first
    lanes[1].0.write_all(&[ask(1, 9).bytes(wire, &echo), ask(1, 10).bytes(wire, &echo)].concat()).await.unwrap();
    assert_eq!(rogue.read(&mut lanes[0].1).await.1, 10, "9 was cancelled");
    // Beats from the future, and acknowledgements of beats that were never sent.
    for (seq, ack) in [(u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX, 0)] {
        let beat = Frame { recipient: ack, ..Frame::of(BEAT, seq) };
        lanes[2].0.write_all(&beat.bytes(wire, &[])).await.unwrap();
    }
    lanes[1].0.write_all(&ask(1, 11).bytes(wire, &echo)).await.unwrap();
    assert_eq!(rogue.read(&mut lanes[0].1).await.1, 11);
    assert_eq!((started(), connection.close_reason().is_none()), (1, true));
    scene.unharmed().await;
}

async fn silent_joiners_leave_room_for_others(world: World) {
    let scene = Scene::new(&world, 8).await;
    scene.pair.head.serve_joins(Arc::clone(&scene.pair.authority)).unwrap();
    let rogue = Rogue::new(None, scene.to, scene.wire);
    let token = scene.pair.authority.token(Role::Worker, Duration::from_secs(60)).unwrap();
    let dialling: Vec<_> = (0..40).map(|_| rogue.connecting(JOIN)).collect();
    let mut silent = Vec::new();
    for connecting in dialling {
        silent.push(connecting.await.unwrap());
    }
    let open = || silent.iter().filter(|connection| connection.close_reason().is_none()).count();
    said(&["WARN", "refused a connection", &rogue.from(), "too many joins at once"]).await;
    Identity::join(&token, scene.to, &world.runtime.with_build(BUILD), SOON).await.expect("another host may join");
    assert!(open() > 0, "nobody was silent any more");
    said(&["WARN", "refused a connection", &rogue.from(), "a join took too long"]).await;
    eventually("all are dropped", || open() == 0).await;
    scene.unharmed().await;
}

/// Takes half a minute: as long as a lane may be without progress.
async fn a_peer_that_reads_nothing_is_cut_off(world: World) {
    let scene = Scene::new(&world, 64).await;
    let rogue = scene.rogue();
    let (connection, mut lanes) = rogue.greet().await;
    let _data = rogue.dial(DATA).await;
    let started = Instant::now();
    let text = encode(&Echo("x".repeat(1 << 20))).unwrap();
    for call in 1..=16 {
        let echo = Frame { message: 1, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, call) };
        lanes[1].0.write_all(&echo.bytes(scene.wire, &text)).await.unwrap();
    }
    // It lives, and beats.
    let beating = async {
        for seq in 1.. {
            let beat = Frame { recipient: seq, ..Frame::of(BEAT, seq) };
            let _ = lanes[2].0.write_all(&beat.bytes(scene.wire, &[])).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = async {
        let end = timeout(Duration::from_secs(50), connection.closed()).await.expect("it was not cut off");
        assert!(format!("{end:?}").contains('8'), "as stalled: {end:?}");
    };
    tokio::select! {
        () = ended => (),
        () = beating => (),
    }
    assert!(started.elapsed() > Duration::from_secs(29), "{:?}", started.elapsed());
    eventually("nothing is left", || scene.pair.head.in_hand().served <= 1).await;
    scene.unharmed().await;
}

#[test]
fn a_consumer_that_takes_nothing_for_half_a_minute_loses_its_transfer() {
    World::simulated(1, |world| async move {
        let pair = Pair::new(&world, 8).await;
        pair.head.serve_data(Arc::new(Zeros));
        for (pause, whole) in [(20, true), (40, false)] {
            let fetch = pair.worker.fetch(pair.head.id(), "any".into(), SOON).await.unwrap();
            sleep(Duration::from_secs(pause)).await;
            let serving = pair.head.in_hand().transfers;
            let fetched = fetch.collect(ZEROS).await.map(|all| all.len());
            match whole {
                true => assert_eq!((serving, fetched.unwrap()), (1, ZEROS)),
                false => assert!(serving == 0 && matches!(fetched, Err(FetchError::Stalled)), "{serving} {fetched:?}"),
            }
        }
        pair.settled().await;
    });
}

async fn a_role_that_may_not_send_a_message_is_told_so(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let stop = Frame { message: 6, recipient: ECHO.0, deadline_ms: 4000, ..Frame::of(ASK, 1) };
    lanes[1].0.write_all(&stop.bytes(scene.wire, &[])).await.unwrap();
    assert_eq!(rogue.read(&mut lanes[0].1).await.0, ERROR);
    said(&["DEBUG", "refused an ask", &rogue.name(), "NotAllowed"]).await;
    assert_eq!(scene.pair.actor.room(), scene.pair.actor.places());
    scene.unharmed().await;
}

/// It reads nothing, and each makes the node say that it does not want what is beside it.
async fn answers_to_no_call_with_batches_cost_nothing(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let reply = Frame { flags: BESIDE, ..Frame::of(REPLY, 77) };
    flood(&mut lanes[0].0, 200_000, |number| reply.bytes(scene.wire, &one_byte_beside(number))).await;
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < MOST.tasks, "{cost:?}");
    assert_eq!(closed(&connection).await, 14, "as too many");
    said(&["WARN", "holds more batches than it may", &rogue.name()]).await;
    scene.unharmed().await;
}

/// It reads nothing, and each is told that there is no such actor, unless the watch is over before that can be said.
async fn watches_that_nobody_wants_cost_nothing(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let watch = |call| Frame { recipient: 99, ..Frame::of(WATCH, call) }.bytes(scene.wire, &[]);
    let both = |call| [watch(call), Frame::of(UNWATCH, call).bytes(scene.wire, &[])].concat();
    flood(&mut lanes[0].0, 100_000, both).await;
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < MOST.tasks, "{cost:?}");
    flood(&mut lanes[0].0, 100_000, |call| watch(200_000 + call)).await;
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < MOST.tasks, "{cost:?}");
    assert_eq!(closed(&connection).await, 14, "as too many");
    eventually("nothing is watched", || scene.pair.head.in_hand().watches == 0).await;
    scene.unharmed().await;
}

async fn a_watch_under_the_number_of_another_is_refused(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let watch = Frame { recipient: ECHO.0, ..Frame::of(WATCH, 1) };
    flood(&mut lanes[0].0, 100_000, |_| watch.bytes(scene.wire, &[])).await;
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < MOST.tasks, "{cost:?}");
    assert_eq!(closed(&connection).await, 4, "as a bad frame");
    said(&["WARN", "watches twice", &rogue.name()]).await;
    eventually("nothing is watched", || scene.pair.head.in_hand().watches == 0).await;
    scene.unharmed().await;
}

async fn messages_whose_batches_nobody_serves_cost_no_more_than_their_room(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, stay) = rogue.enter().await;
    let tell = Frame { flags: BESIDE, message: 2, recipient: ECHO.0, ..Frame::of(TELL, 0) };
    // More than fits on the way: it is still writing when the node takes no more.
    let flooding = flood(&mut lanes[1].0, 300_000, |number| tell.bytes(scene.wire, &one_byte_beside(number)));
    assert!(timeout(2 * SOON, flooding).await.is_err(), "all were taken: {:?}", scene.cost());
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < MOST.tasks, "{cost:?}");
    connection.close(0u8.into(), b"");
    stay.data.close(0u8.into(), b"");
    eventually("none is left", || scene.cost().tasks < 100).await;
    scene.unharmed().await;
}

async fn answers_that_nobody_reads_are_bounded_and_each_ask_is_answered(world: World) {
    // Unbounded, their answers would be a GiB; bounded, 256 MiB and what the allocator keeps.
    const ASKS: u64 = 1000;
    const SIZE: usize = 1 << 20;
    let scene = Scene::alone(&world, 1000).await;
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let fill = Frame { message: 9, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, 0) };
    let size = encode(&Fill(SIZE)).unwrap();
    let asks: Vec<u8> = (1..=ASKS).flat_map(|call| Frame { call, ..fill }.bytes(scene.wire, &size)).collect();
    lanes[1].0.write_all(&asks).await.unwrap();
    eventually("all are answered or wait to be", || scene.pair.actor.room() == scene.pair.actor.places()).await;
    let cost = scene.cost();
    assert!(cost.bytes < (512 << 20) + MUCH && cost.tasks < 100, "{cost:?}");
    let (mut whole, mut refused) = (0, 0);
    for _ in 0..ASKS {
        match rogue.read(&mut lanes[0].1).await {
            (REPLY, _, payload) => {
                assert_eq!(decode::<String>(&payload).unwrap().len(), SIZE);
                whole += 1;
            }
            (ERROR, _, payload) => {
                assert!(String::from_utf8_lossy(&payload).contains("ask for less at once"), "{payload:?}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(whole >= 200 && refused >= 100, "{whole} {refused}");
    scene.unharmed().await;
}

/// Takes half a minute: as long as a lane may be without progress. A byte in each second is none.
async fn a_peer_that_reads_a_byte_now_and_then_is_cut_off(world: World) {
    let scene = Scene::new(&world, 64).await;
    let mut rogue = scene.rogue();
    rogue.window = Some(256); // a hello fits, and a byte that is read is a byte that may be sent
    let (connection, mut lanes) = rogue.greet().await;
    let _data = rogue.dial(DATA).await;
    let fill = Frame { message: 9, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, 1) };
    lanes[1].0.write_all(&fill.bytes(scene.wire, &encode(&Fill(1 << 20)).unwrap())).await.unwrap();
    let dripping = async {
        for seq in 1.. {
            let beat = Frame { recipient: seq, ..Frame::of(BEAT, seq) };
            let _ = lanes[2].0.write_all(&beat.bytes(scene.wire, &[])).await;
            let _ = lanes[0].1.read(&mut [0; 64]).await;
            let _ = timeout(Duration::from_millis(1), lanes[2].1.read(&mut [0; 64])).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = async {
        let end = timeout(Duration::from_secs(50), connection.closed()).await.expect("it was not cut off");
        assert!(format!("{end:?}").contains('8'), "as stalled: {end:?}");
    };
    tokio::select! {
        () = ended => (),
        () = dripping => (),
    }
    scene.unharmed().await;
}

async fn frames_that_do_not_end_are_bounded(world: World) {
    const CLAIMED: usize = 60 << 20;
    const SENT: usize = 40 << 20;
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let mut links = Vec::new();
    for _ in 0..2 {
        links.push(rogue.enter().await);
    }
    // Two lanes of each: the third frame has no room.
    let mut sent = 0;
    'all: for (connection, lanes, _) in &mut links {
        for (lane, kind) in lanes.iter_mut().zip([REPLY, TELL]) {
            let half = Frame::of(kind, 1).claiming(scene.wire, CLAIMED as u32, &vec![0; SENT]);
            if lane.0.write_all(&half).await.is_err() {
                assert_eq!(closed(connection).await, 14, "as too many");
                break 'all;
            }
            sent += 1;
        }
    }
    assert_eq!(sent, 2);
    said(&["WARN", "frames that have not come whole", &rogue.name()]).await;
    let cost = scene.cost();
    assert!(cost.bytes < 6 * SENT && cost.tasks < 100, "{cost:?}");
    scene.unharmed().await;
}

/// Takes half a minute: as long as a frame may stop.
async fn a_frame_that_stops_is_cut_off(world: World) {
    let scene = Scene::new(&world, 8).await;
    let mut ends = Vec::new();
    for (lane, kind) in [(0, REPLY), (1, TELL), (2, BEAT)] {
        let (rogue, wire) = (scene.rogue(), scene.wire);
        ends.push(world.spawn(async move {
            let (connection, mut lanes) = rogue.greet().await;
            let _data = rogue.dial(DATA).await;
            let half = Frame::of(kind, 9).claiming(wire, 1000, b"half");
            if lane < 2 {
                lanes[lane].0.write_all(&half).await.unwrap();
            }
            for seq in 1..50 {
                let beat = Frame { recipient: seq, ..Frame::of(BEAT, seq) }.bytes(wire, &[]);
                // On its own lane the frame itself stops in its header.
                let beat = if lane == 2 && seq == 2 { &half[..20] } else { &beat };
                if (lane < 2 || seq < 3) && lanes[2].0.write_all(beat).await.is_err() {
                    break;
                }
                if timeout(Duration::from_secs(1), connection.closed()).await.is_ok() {
                    break;
                }
            }
            format!("{:?}", connection.close_reason())
        }));
    }
    for (lane, end) in ends.into_iter().enumerate() {
        let end = end.await.unwrap();
        // Who beats no more is dead before.
        assert!(end.contains("error_code: 8") || lane == 2 && end.contains("error_code: 15"), "lane {lane}: {end}");
    }
    scene.unharmed().await;
}

/// One certificate floods an actor that takes nothing.
async fn a_flood_at_a_busy_actor_harms_nobody_else(world: World) {
    let scene = Scene::alone(&world, 1).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let ask = |message, call| Frame { message, recipient: ECHO.0, deadline_ms: 60_000, ..Frame::of(ASK, call) };
    lanes[1].0.write_all(&ask(4, 1).bytes(scene.wire, &[])).await.unwrap();
    eventually("it is busy", || scene.pair.seen.started.load(Ordering::SeqCst) == 1).await;
    let (note, echo) = (encode(&Note(1)).unwrap(), encode(&Echo("x".repeat(4000))).unwrap());
    let tell = Frame { message: 2, recipient: ECHO.0, ..Frame::of(TELL, 0) };
    let one = |n: u64| match n % 2 {
        0 => tell.bytes(scene.wire, &note),
        _ => ask(1, n + 2).bytes(scene.wire, &echo),
    };
    let started = Instant::now();
    flood(&mut lanes[1].0, 20_000, one).await;
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    // Of its own, too, no other actor is held up behind them for long.
    scene
        .pair
        .head
        .publish(ActorId(9), &scene.pair.arbiter.spawn(8, |_| Tester(Seen::default())))
        .on::<Echo>(&[Role::Worker]);
    let idle = Frame { recipient: 9, ..ask(1, 100_000) };
    lanes[1].0.write_all(&idle.bytes(scene.wire, &encode(&Echo("y".into())).unwrap())).await.unwrap();
    while rogue.read(&mut lanes[0].1).await.1 != 100_000 {}
    println!("{:?} in all", started.elapsed());
    connection.close(0u8.into(), b"");
    eventually("all places are free", || scene.pair.actor.room() == scene.pair.actor.places()).await;
    scene.unharmed().await;
}

async fn a_connection_that_is_silent_beside_another_is_closed(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let (first, _first_lanes) = rogue.greet().await;
    let _data = rogue.dial(DATA).await;
    let (second, mut lanes) = rogue.greet().await;
    let beating = async {
        for seq in 1.. {
            let beat = Frame { recipient: 0, ..Frame::of(BEAT, seq) };
            lanes[2].0.write_all(&beat.bytes(scene.wire, &[])).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        code = closed(&first) => assert_eq!(code, 7, "as lost"),
        () = beating => (),
    }
    assert!(second.close_reason().is_none());
    scene.unharmed().await;
}

/// Takes ten seconds: as long as a handshake may.
async fn who_has_no_data_connection_does_not_stay(world: World) {
    let scene = Scene::new(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes) = rogue.greet().await;
    let beating = async {
        for seq in 1.. {
            let beat = Frame { recipient: seq, ..Frame::of(BEAT, seq) };
            let _ = lanes[2].0.write_all(&beat.bytes(scene.wire, &[])).await;
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        code = closed(&connection) => assert_eq!(code, 12, "as abandoned"),
        () = beating => (),
    }
    said(&["WARN", "took too long", &rogue.from()]).await;
    assert_eq!(scene.pair.head.peers().len(), 1);
    scene.unharmed().await;
}

/// Nothing is beside it, many times over: each of the lengths costs memory, and the message counts for nothing.
async fn a_trailer_of_more_than_may_be_beside_a_message_is_refused(world: World) {
    const LENGTHS: usize = 4 << 20;
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let tell = Frame { flags: BESIDE, message: 2, recipient: ECHO.0, ..Frame::of(TELL, 0) };
    let trailer = [&vec![0; 8 * LENGTHS][..], &(LENGTHS as u32).to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let one = tell.bytes(scene.wire, &trailer);
    for _ in 0..32 {
        if lanes[1].0.write_all(&one).await.is_err() {
            break;
        }
    }
    let cost = scene.cost();
    assert!(cost.bytes < 4 * one.len() + MUCH && cost.tasks < 100, "{cost:?}");
    assert_eq!(closed(&connection).await, 4, "as a bad frame");
    said(&["WARN", "bad frame", "batches beside one message", &rogue.name()]).await;
    scene.unharmed().await;
}

async fn what_waits_at_an_actor_that_does_not_begin_is_bounded_in_bytes(world: World) {
    // Of a mailbox that takes them all. Unbounded they would be 800 MiB.
    const TELLS: usize = 800;
    let scene = Scene::alone(&world, 8).await;
    let (gate, stuck) = std::sync::mpsc::channel();
    let arbiter = world.runtime.arbiter().unwrap();
    let stuck = arbiter.spawn(2 * TELLS, |_| Stuck(stuck));
    scene.pair.head.publish(ActorId(9), &stuck).on::<Echo>(&[Role::Worker]);
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let large = encode(&Echo("x".repeat(1 << 20))).unwrap();
    let tell = Frame { message: 1, recipient: 9, ..Frame::of(TELL, 0) }.bytes(scene.wire, &large);
    for _ in 0..TELLS {
        lanes[1].0.write_all(&tell).await.unwrap();
    }
    // A small one still has a place, behind all others.
    let small = encode(&Echo("y".into())).unwrap();
    let ask = Frame { message: 1, recipient: 9, deadline_ms: 60_000, ..Frame::of(ASK, 1) };
    lanes[1].0.write_all(&ask.bytes(scene.wire, &small)).await.unwrap();
    let dropped = || logged(&["DEBUG", "dropped a tell", &rogue.name(), "Busy"]);
    eventually("the rest is dropped", || (TELLS - 260..=TELLS - 240).contains(&dropped())).await;
    let cost = scene.cost();
    assert!(cost.bytes < (320 << 20) + MUCH && cost.tasks < 100, "{cost:?}");
    drop(gate);
    assert_eq!(rogue.read(&mut lanes[0].1).await.0, REPLY);
    eventually("nothing is left", || stuck.room() == stuck.places()).await;
    scene.unharmed().await;
}

async fn messages_to_a_peer_that_reads_nothing_are_bounded_in_bytes(world: World) {
    const SIZE: usize = 16 << 20;
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, _lanes, _stay) = rogue.enter().await;
    let actor = scene.pair.head.actor::<Tester>(Address { node: rogue.peer.unwrap().node, actor: ECHO });
    let mut told = 0;
    let busy = loop {
        match actor.tell(Echo("x".repeat(SIZE)), SOON / 4).await {
            Ok(()) => told += 1,
            Err(busy) => break busy,
        }
        assert!(told < 40, "it takes all");
    };
    assert!(matches!(busy, TellError::Busy) && told >= 14, "{told}, then {busy}");
    let cost = scene.cost();
    assert!(cost.bytes < (320 << 20) + MUCH && cost.tasks < 100, "{cost:?}");
    // What is small needs no room.
    actor.tell(Note(1), SOON).await.unwrap();
    connection.close(0u8.into(), b"");
    scene.unharmed().await;
}

/// Items, ends, credit, errors: of no stream, no call and no watch.
async fn a_flood_of_frames_about_nothing_costs_nothing(world: World) {
    let scene = Scene::alone(&world, 8).await;
    let rogue = scene.rogue();
    let (connection, mut lanes, _stay) = rogue.enter().await;
    let text = vec![0; 500];
    for kind in [ITEM, END, CREDIT, UNWANTED, UNWATCH, DOWN, ERROR, REPLY] {
        let payload: &[u8] = if [ITEM, DOWN, ERROR, REPLY].contains(&kind) { &text } else { &[] };
        flood(&mut lanes[0].0, 20_000, |call| {
            Frame { recipient: u64::MAX, ..Frame::of(kind, call) }.bytes(scene.wire, payload)
        })
        .await;
    }
    let echo = Frame { message: 1, recipient: ECHO.0, deadline_ms: 16_000, ..Frame::of(ASK, 1) };
    lanes[1].0.write_all(&echo.bytes(scene.wire, &encode(&Echo("x".into())).unwrap())).await.unwrap();
    assert_eq!(rogue.read(&mut lanes[0].1).await.0, REPLY);
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    assert!(connection.close_reason().is_none());
    scene.unharmed().await;
}

/// Each would be signed; it reads no answer.
async fn a_flood_of_renewals_costs_no_more_than_their_number(world: World) {
    let scene = Scene::alone(&world, 8).await;
    scene.pair.head.serve_joins(Arc::clone(&scene.pair.authority)).unwrap();
    let rogue = scene.rogue();
    let (_connection, mut lanes, _stay) = rogue.enter().await;
    let renew = |call| Frame::of(RENEW, call).bytes(scene.wire, &[0x30; 200]);
    flood(&mut lanes[0].0, 50_000, renew).await;
    let watch = Frame { recipient: 99, ..Frame::of(WATCH, 1) }.bytes(scene.wire, &[]);
    lanes[0].0.write_all(&watch).await.unwrap();
    let mut answers = 0;
    // What follows on their lane is answered after them.
    while rogue.read(&mut lanes[0].1).await.0 != DOWN {
        answers += 1;
    }
    assert!((1..=50_000).contains(&answers), "{answers}");
    let cost = scene.cost();
    assert!(cost.bytes < MUCH && cost.tasks < 100, "{cost:?}");
    scene.unharmed().await;
}
