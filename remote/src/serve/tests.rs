//! Peers with a good certificate and bad manners.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};

use crate::close::Code;
use crate::door::Verdict;
use crate::endpoint::{self, Endpoint, Joining};
use crate::frame::{HEADER, Header, Kind};
use crate::hello::hello_frame;
use crate::identity::SERVER_NAME;
use crate::link::{LANES, Letter};
use crate::parcel::Parcel;
use crate::tls::{ALPN_CONTROL, ALPN_DATA, ALPN_JOIN, NO_PROTOCOL};
use crate::{ActorId, Authority, Identity, Items, JoinError, JoinToken, Node, NodeId, Role, Runtime};

const BUILD: &[u8] = b"build";

struct Scene {
    runtime: Runtime,
    authority: Arc<Authority>,
    node: Node,
    rogue: Endpoint,
    rogue_id: NodeId,
    hello: Vec<u8>,
}

fn scene() -> Scene {
    let runtime = Runtime::new("hostile", 1).unwrap().with_build(BUILD);
    let authority = Arc::new(Authority::new().unwrap());
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let identity = authority.issue(Role::Head).unwrap();
    let node = Node::bind(identity, any, &runtime).unwrap();
    let identity = authority.issue(Role::Worker).unwrap();
    let rogue = endpoint::bind(&identity, any, &runtime).unwrap();
    let hello = hello_frame(identity.peer(), BUILD);
    Scene { runtime, authority, node, rogue, rogue_id: identity.node(), hello }
}

impl Scene {
    /// Runs a rogue's acts and returns the code with which the node closed the connection.
    fn closed_with<F>(&self, data: bool, act: impl FnOnce(Connection, Vec<u8>) -> F) -> u64
    where
        F: Future,
    {
        self.runtime.handle().block_on(async {
            let config = if data { self.rogue.data() } else { self.rogue.control() };
            let to = self.node.address().unwrap();
            let connecting = self.rogue.quinn.connect_with(config, to, SERVER_NAME);
            let connection = connecting.unwrap().await.unwrap();
            let _kept = act(connection.clone(), self.hello.clone()).await;
            let closed = tokio::time::timeout(Duration::from_secs(8), connection.closed()).await;
            match closed.unwrap() {
                ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
                other => panic!("{other}"),
            }
        })
    }
}

type Lanes = [(SendStream, RecvStream); LANES];

/// A proper hello; the node then serves all lanes.
async fn greet(connection: &Connection, hello: &[u8]) -> Lanes {
    let mut system = connection.open_bi().await.unwrap();
    let mut messages = connection.open_bi().await.unwrap();
    system.0.write_all(hello).await.unwrap();
    let mut beats = connection.open_bi().await.unwrap();
    for lane in [&mut messages, &mut beats] {
        lane.0.write_all(&Header::bare(Kind::Open).encode()).await.unwrap();
    }
    let mut theirs = [0; HEADER];
    system.1.read_exact(&mut theirs).await.unwrap();
    [system, messages, beats]
}

fn number(code: Code) -> u64 {
    u64::from(code.number())
}

#[test]
fn an_oversized_frame_closes_the_connection_before_its_payload() {
    let scene = scene();
    let code = scene.closed_with(false, |connection, hello| async move {
        let mut lanes = greet(&connection, &hello).await;
        // Only the header comes: a node that waited for the payload, or made room for it, would not close.
        let header = Header { len: u32::MAX, ..Header::bare(Kind::Tell) };
        lanes[1].0.write_all(&header.encode()).await.unwrap();
        lanes
    });
    assert_eq!(code, number(Code::FrameTooLarge));
}

#[test]
fn a_peer_that_watches_too_many_actors_is_disconnected() {
    struct Idle;
    impl actix::Actor for Idle {
        type Context = actix::Context<Self>;
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Nothing;
    crate::messages!(0x01 Nothing => ());
    impl actix::Handler<Nothing> for Idle {
        type Result = ();
        fn handle(&mut self, _: Nothing, _: &mut actix::Context<Self>) {}
    }
    let scene = scene();
    let arbiter = scene.runtime.arbiter().unwrap();
    let actor = arbiter.spawn(1, |_| Idle);
    scene.node.publish(ActorId(1), &actor).on::<Nothing>(&[Role::Worker]);
    let code = scene.closed_with(false, |connection, hello| async move {
        let mut lanes = greet(&connection, &hello).await;
        for call in 0..8193 {
            let header = Header { recipient: 1, ..Header::of_call(Kind::Watch, call) };
            lanes[0].0.write_all(&header.encode()).await.unwrap();
        }
        lanes
    });
    assert_eq!(code, number(Code::TooMany));
}

#[test]
fn a_stream_beyond_its_window_closes_the_connection() {
    struct Endless;
    impl actix::Actor for Endless {
        type Context = actix::Context<Self>;
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Begin;
    crate::messages!(0x01 Begin => stream u8);
    impl actix::Handler<Begin> for Endless {
        type Result = Items<u8>;
        fn handle(&mut self, _: Begin, _: &mut actix::Context<Self>) -> Items<u8> {
            Items::of(futures_util::stream::repeat(7))
        }
    }
    // A consumer that gives more credit than a window may hold.
    let rogue_consumes = scene();
    let arbiter = rogue_consumes.runtime.arbiter().unwrap();
    let actor = arbiter.spawn(1, |_| Endless);
    rogue_consumes.node.publish(ActorId(1), &actor).on::<Begin>(&[Role::Worker]);
    let code = rogue_consumes.closed_with(false, |connection, hello| async move {
        let mut lanes = greet(&connection, &hello).await;
        let ask = Header { message: 1, recipient: 1, deadline_ms: 5000, ..Header::of_call(Kind::Ask, 1) };
        lanes[1].0.write_all(&ask.encode()).await.unwrap();
        let credit = Header { recipient: u64::MAX, ..Header::of_call(Kind::Credit, 1) };
        // Until the stream has begun nobody minds.
        while lanes[0].0.write_all(&credit.encode()).await.is_ok() && connection.close_reason().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lanes
    });
    assert_eq!(code, number(Code::BadFrame));
    // A producer that sends more than it has credit for.
    let rogue_produces = scene();
    let (node, rogue) = (rogue_produces.node.clone(), rogue_produces.rogue_id);
    let code = rogue_produces.closed_with(false, |connection, hello| async move {
        let mut lanes = greet(&connection, &hello).await;
        let link = node.shared().peers.link(rogue).unwrap();
        let letter = Letter { message: 1, actor: ActorId(1), parcel: Parcel::default(), trace: None };
        let streaming = link.stream(letter, Duration::from_secs(5)).await.unwrap();
        for _ in 0..65 {
            lanes[0].0.write_all(&Header::of_call(Kind::Item, 1).encode()).await.unwrap();
        }
        (lanes, streaming)
    });
    assert_eq!(code, number(Code::BadFrame));
}

#[test]
fn an_oversized_hello_closes_the_connection() {
    let code = scene().closed_with(false, |connection, _| async move {
        let mut lane = connection.open_bi().await.unwrap();
        let header = Header { len: 1 << 20, ..Header::bare(Kind::Hello) };
        lane.0.write_all(&header.encode()).await.unwrap();
        lane
    });
    assert_eq!(code, number(Code::Abandoned));
}

#[test]
fn a_frame_on_the_wrong_lane_closes_the_connection() {
    for (lane, kind) in
        [(0, Kind::Ask), (0, Kind::Beat), (1, Kind::Reply), (1, Kind::Watch), (1, Kind::Item), (2, Kind::Tell)]
    {
        let scene = scene();
        let code = scene.closed_with(false, |connection, hello| async move {
            let mut lanes = greet(&connection, &hello).await;
            lanes[lane].0.write_all(&Header::bare(kind).encode()).await.unwrap();
            lanes
        });
        assert_eq!(code, number(Code::BadFrame), "{kind:?}");
    }
}

#[test]
fn a_lane_that_is_reset_stopped_or_finished_takes_its_link_down() {
    for lane in 0..LANES {
        for how in ["reset", "stopped", "finished"] {
            let scene = scene();
            let code = scene.closed_with(false, |connection, hello| async move {
                let mut lanes = greet(&connection, &hello).await;
                // It is not about frames that cannot be written: nothing is sent.
                match how {
                    "reset" => lanes[lane].0.reset(7u8.into()).unwrap(),
                    "stopped" => lanes[lane].1.stop(7u8.into()).unwrap(),
                    _ => lanes[lane].0.finish().unwrap(),
                }
                lanes
            });
            assert_eq!(code, number(Code::BadFrame), "lane {lane} was {how}");
        }
    }
}

#[test]
fn who_says_goodbye_and_does_not_go_is_closed() {
    let scene = scene();
    let code = scene.closed_with(false, |connection, hello| async move {
        let mut lanes = greet(&connection, &hello).await;
        for lane in &mut lanes[..2] {
            lane.0.write_all(&Header::bare(Kind::GoAway).encode()).await.unwrap();
            lane.0.finish().unwrap();
        }
        lanes
    });
    assert_eq!(code, number(Code::Bye));
}

#[test]
fn a_hello_that_is_not_the_certificates_is_refused() {
    let scene = scene();
    let other = Authority::new().unwrap().issue(Role::Head).unwrap();
    let code = scene.closed_with(false, |connection, _| async move {
        let mut lane = connection.open_bi().await.unwrap();
        lane.0.write_all(&hello_frame(other.peer(), BUILD)).await.unwrap();
        lane
    });
    assert_eq!(code, number(Code::BadHello));
    assert!(scene.node.peers().is_empty());
}

#[test]
fn a_node_without_a_certificate_can_do_nothing_but_join() {
    let scene = scene();
    let pin = fingerprint_of(&scene.authority);
    let dial = |alpn: &'static [u8]| {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let anonymous = Joining::bind(pin, Arc::default(), alpn, any, &scene.runtime).unwrap();
        let to = scene.node.address().unwrap();
        scene.runtime.handle().block_on(async {
            let closed = match anonymous.connect(to).unwrap().await {
                Ok(connection) => tokio::time::timeout(Duration::from_secs(4), connection.closed()).await.unwrap(),
                Err(ConnectionError::ConnectionClosed(close)) if u64::from(close.error_code) == NO_PROTOCOL => {
                    return None;
                }
                Err(error) => panic!("{error}"),
            };
            Some(match closed {
                ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
                ConnectionError::ConnectionClosed(close) => close.error_code.into(),
                other => panic!("{other}"),
            })
        })
    };
    // TLS itself refuses it where no joins are served.
    const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;
    assert_eq!(dial(ALPN_CONTROL), Some(CERTIFICATE_REQUIRED));
    assert_eq!(dial(ALPN_JOIN), None);
    scene.node.serve_joins(Arc::clone(&scene.authority)).unwrap();
    for alpn in [ALPN_CONTROL, ALPN_DATA] {
        assert_eq!(dial(alpn), Some(number(Code::NoCertificate)));
    }
    assert!(scene.node.peers().is_empty());
}

fn fingerprint_of(authority: &Authority) -> [u8; 32] {
    authority.issue(Role::Worker).unwrap().authority().unwrap()
}

#[test]
fn claims_that_prove_nothing_count_at_the_door_and_lock_out_no_good_one() {
    let scene = scene();
    scene.node.serve_joins(Arc::clone(&scene.authority)).unwrap();
    let to = scene.node.address().unwrap();
    let soon = Duration::from_secs(20);
    let token = |secret| JoinToken::new(fingerprint_of(&scene.authority), Role::Worker, Duration::MAX, [secret; 32]);
    let good = scene.authority.token(Role::Worker, soon).unwrap();
    let is_ignored = || {
        let shared = scene.node.shared();
        let verdict = shared.door().knock(to.ip(), true, shared.net.ambient.unix());
        matches!(verdict, Verdict::Ignore { why, .. } if why.contains("refused"))
    };
    scene.runtime.handle().block_on(async {
        let bad = (0..20).map(token).collect::<Vec<_>>();
        let runtime = &scene.runtime;
        let tries = async |deadline| join_all(bad.iter().map(|bad| Identity::join(bad, to, runtime, deadline))).await;
        for joined in tries(soon).await {
            assert!(matches!(joined, Err(JoinError::WrongToken)), "{joined:?}");
        }
        Identity::join(&good, to, &scene.runtime, soon).await.unwrap();
        for _ in 0..20 {
            if is_ignored() {
                return;
            }
            tries(Duration::from_secs(1)).await;
        }
        panic!("a host may claim without end");
    });
}

#[test]
fn a_data_connection_without_a_control_one_is_refused() {
    let code = scene().closed_with(true, |_, _| async {});
    assert_eq!(code, number(Code::NoControl));
}
