//! Joining by token, and certificates that run out: each refusal names its cause, in time.

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use regatta_remote::*;
use tokio::time::{Instant, sleep};

both!(
    a_token_lets_one_node_join_in_its_role,
    a_used_token_is_refused,
    an_expired_token_is_refused,
    another_clusters_token_is_refused,
    another_build_is_refused_and_leaves_the_token,
    who_looks_from_outside_is_let_in_by_heads_alone_and_whatever_its_build,
    a_node_that_is_not_the_head_takes_no_joins,
    nobody_there_is_a_deadline_that_names_the_address,
    who_has_proven_a_token_is_refused_for_no_others_faults,
    a_revoked_token_is_refused,
    lives_without_end_are_long_ones,
    a_certificate_is_renewed_by_the_head,
    an_authority_of_another_cluster_is_not_served,
    a_role_of_an_applications_own_joins_and_is_told_from_others,
);

const BUILD: &[u8] = b"build 1";
const TTL: Duration = Duration::from_secs(600);

/// A head that serves joins.
fn head(world: &World) -> (Node, Arc<Authority>) {
    head_of(world, world.authority())
}

fn head_of(world: &World, authority: Authority) -> (Node, Arc<Authority>) {
    let head = world.bind(&authority, Role::Head);
    let authority = Arc::new(authority);
    head.serve_joins(Arc::clone(&authority)).unwrap();
    (head, authority)
}

async fn join(world: &World, token: &JoinToken, head: &Node, build: &'static [u8]) -> Result<Identity, JoinError> {
    let started = Instant::now();
    let joined = Identity::join(token, head.address().unwrap(), &world.runtime.with_build(build), SOON).await;
    assert!(started.elapsed() < SOON, "it took until the deadline");
    joined
}

async fn a_token_lets_one_node_join_in_its_role(world: World) {
    let (head, authority) = head(&world);
    for role in [Role::Worker, Role::Driver] {
        let token = authority.token(role, TTL).unwrap();
        // It travels as text.
        let token: JoinToken = token.to_string().parse().unwrap();
        let identity = join(&world, &token, &head, BUILD).await.unwrap();
        assert_eq!((identity.role(), identity.cluster()), (role, authority.cluster()));
        let node = Node::bind(identity, world.any(), &world.runtime.with_build(BUILD)).unwrap();
        let at_head = node.connect(head.address().unwrap(), SOON).await.unwrap();
        assert_eq!(at_head, head.id());
        let id = node.id();
        eventually("the head knows it", || head.peers().iter().any(|peer| (peer.node, peer.role) == (id, role))).await;
    }
}

async fn a_role_of_an_applications_own_joins_and_is_told_from_others(world: World) {
    const SENSOR: Role = Role::Own(0);
    const PRINTER: Role = Role::Own(255);
    let (head, authority) = head(&world);
    let arbiter = world.runtime.arbiter().unwrap();
    head.keep_names(&arbiter);
    let actor = arbiter.spawn(4, |_| Tester(Seen::default()));
    head.publish(ECHO, &actor).on::<Echo>(&[SENSOR]);
    let mut nodes = Vec::new();
    for role in [SENSOR, PRINTER] {
        let token: JoinToken = authority.token(role, TTL).unwrap().to_string().parse().unwrap();
        let identity = join(&world, &token, &head, BUILD).await.unwrap();
        assert_eq!((token.role(), identity.role()), (role, role));
        let node = Node::bind(identity, world.any(), &world.runtime.with_build(BUILD)).unwrap();
        node.connect(head.address().unwrap(), SOON).await.unwrap();
        nodes.push(node);
    }
    let [sensor, printer] = [0, 1].map(|at| nodes[at].actor::<Tester>(Address { node: head.id(), actor: ECHO }));
    assert_eq!(sensor.ask(Echo("a".into()), SOON).await.unwrap(), "a");
    let refused = printer.ask(Echo("b".into()), SOON).await.unwrap_err();
    assert!(matches!(refused, AskError::NotAllowed { role: PRINTER }), "{refused}");
    assert!(refused.to_string().contains("own-255"), "{refused}");
    // They name actors of theirs, and find others.
    nodes[1].publish(ECHO, &actor).on::<Echo>(&[SENSOR]);
    nodes[1].names(head.id()).register("paper", &actor, SOON).await.unwrap();
    let paper = nodes[0].names(head.id()).locate("paper", SOON).await.unwrap();
    assert_eq!(paper, Address { node: nodes[1].id(), actor: ECHO });
}

#[test]
fn a_head_that_starts_again_with_its_authority_is_of_the_same_cluster() {
    World::loopback(async |world| {
        let file = std::env::temp_dir().join(format!("regatta-restarted-{}.pem", std::process::id()));
        let (head, authority) = head_of(&world, Authority::kept(&file).unwrap());
        let [token, other] = [(); 2].map(|()| authority.token(Role::Worker, TTL).unwrap());
        let identity = join(&world, &token, &head, BUILD).await.unwrap();
        let worker = Node::bind(identity, world.any(), &world.runtime.with_build(BUILD)).unwrap();
        worker.connect(head.address().unwrap(), SOON).await.unwrap();
        head.close(SOON).await;
        drop((head, authority));
        let (head, authority) = head_of(&world, Authority::kept(&file).unwrap());
        let known = worker.connect(head.address().unwrap(), SOON).await.unwrap();
        assert_eq!(known, head.id());
        // A token is of the process that made it; its cluster is there.
        let error = join(&world, &other, &head, BUILD).await.unwrap_err();
        assert!(matches!(error, JoinError::WrongToken), "{error}");
        join(&world, &authority.token(Role::Worker, TTL).unwrap(), &head, BUILD).await.unwrap();
        std::fs::remove_file(file).unwrap();
    });
}

async fn a_used_token_is_refused(world: World) {
    let (head, authority) = head(&world);
    let token = authority.token(Role::Worker, TTL).unwrap();
    join(&world, &token, &head, BUILD).await.unwrap();
    let error = join(&world, &token, &head, BUILD).await.unwrap_err();
    assert!(matches!(error, JoinError::Used) && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("make a new one"), "{error}");
}

async fn an_expired_token_is_refused(world: World) {
    let (head, authority) = head(&world);
    let token = authority.token(Role::Worker, Duration::ZERO).unwrap();
    let error = join(&world, &token, &head, BUILD).await.unwrap_err();
    assert!(matches!(error, JoinError::Expired) && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("make a new one"), "{error}");
}

async fn another_clusters_token_is_refused(world: World) {
    let (head, _) = head(&world);
    let token = world.authority().token(Role::Worker, TTL).unwrap();
    let error = join(&world, &token, &head, BUILD).await.unwrap_err();
    assert!(matches!(error, JoinError::OtherCluster(to) if to == head.address().unwrap()), "{error}");
    assert!(error.to_string().contains("from the same head"), "{error}");
}

async fn another_build_is_refused_and_leaves_the_token(world: World) {
    let (head, authority) = head(&world);
    let token = authority.token(Role::Worker, TTL).unwrap();
    let error = join(&world, &token, &head, b"build 2").await.unwrap_err();
    let JoinError::BuildDiffers { ours, theirs } = &error else { panic!("{error}") };
    assert_eq!((ours.as_slice(), theirs.as_slice()), (&b"build 2"[..], BUILD));
    let text = error.to_string();
    assert!(text.contains("build 1") && text.contains("build 2") && text.contains("same executable"), "{text}");
    join(&world, &token, &head, BUILD).await.unwrap();
}

async fn who_looks_from_outside_is_let_in_by_heads_alone_and_whatever_its_build(world: World) {
    let (head, authority) = head(&world);
    let worker = world.bind(&authority, Role::Worker);
    let arbiter = world.runtime.arbiter().unwrap();
    head.keep_names(&arbiter);
    for role in [Role::Observer, Role::Operator] {
        let token = authority.token(role, TTL).unwrap();
        let identity = join(&world, &token, &head, b"build 2").await.unwrap();
        assert_eq!(identity.role(), role);
        let observer = Node::bind(identity, world.any(), &world.runtime.with_build(&b"build 2"[..])).unwrap();
        observer.connect(head.address().unwrap(), SOON).await.unwrap();
        // Not of its build either.
        let same = world.bind(&authority, role);
        for node in [&observer, &same] {
            let error = node.connect(worker.address().unwrap(), SOON).await.unwrap_err();
            assert!(error.to_string().contains("by heads alone"), "{error}");
            assert!(worker.connect(node.address().unwrap(), SOON).await.is_err());
        }
        assert!(observer.connect(same.address().unwrap(), SOON).await.is_err());
        // It finds no actors: whoever publishes one does not think of it.
        let error = observer.names(head.id()).locate("echo", SOON).await.unwrap_err();
        assert!(matches!(error, NameError::NoAnswer(AskError::NotAllowed { role: of }) if of == role), "{error}");
    }
    assert!(worker.peers().is_empty());
}

async fn a_node_that_is_not_the_head_takes_no_joins(world: World) {
    let authority = world.authority();
    let worker = world.bind(&authority, Role::Worker);
    let token = authority.token(Role::Worker, TTL).unwrap();
    let error = join(&world, &token, &worker, BUILD).await.unwrap_err();
    assert!(matches!(error, JoinError::NotServed(to) if to == worker.address().unwrap()), "{error}");
}

async fn nobody_there_is_a_deadline_that_names_the_address(world: World) {
    let token = world.authority().token(Role::Worker, TTL).unwrap();
    let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let there = silent.local_addr().unwrap();
    let joined = Identity::join(&token, there, &world.runtime, Duration::from_millis(100)).await;
    let error = joined.unwrap_err();
    assert!(matches!(error, JoinError::Deadline(to) if to == there) && error.is_retryable(), "{error}");
}

async fn who_has_proven_a_token_is_refused_for_no_others_faults(world: World) {
    let (head, authority) = head(&world);
    let token = authority.token(Role::Worker, TTL).unwrap();
    // Each comes from this host on loopback, and is more than may fail of one host.
    for _ in 0..40 {
        let error = join(&world, &token, &head, b"build 2").await.unwrap_err();
        assert!(matches!(error, JoinError::BuildDiffers { .. }), "{error}");
    }
    join(&world, &token, &head, BUILD).await.unwrap();
}

async fn a_revoked_token_is_refused(world: World) {
    let (head, authority) = head(&world);
    let [token, other] = [(); 2].map(|()| authority.token_for(2, Role::Worker, TTL).unwrap());
    join(&world, &token, &head, BUILD).await.unwrap();
    assert!(authority.revoke(&token) && !world.authority().revoke(&token));
    let error = join(&world, &token, &head, BUILD).await.unwrap_err();
    assert!(matches!(error, JoinError::Revoked) && !error.is_retryable(), "{error}");
    join(&world, &other, &head, BUILD).await.unwrap();
}

async fn lives_without_end_are_long_ones(world: World) {
    let (head, authority) = head_of(&world, world.authority().with_lifetime(Duration::MAX));
    let token = authority.token(Role::Worker, Duration::MAX).unwrap();
    let identity = join(&world, &token, &head, BUILD).await.unwrap();
    let in_ninety_years = std::time::SystemTime::now() + Duration::from_secs(90 * 365 * 24 * 3600);
    assert!(identity.expires() > in_ninety_years && token.expires() > in_ninety_years);
    let node = Node::bind(identity, world.any(), &world.runtime.with_build(BUILD)).unwrap();
    node.connect(head.address().unwrap(), SOON).await.unwrap();
}

async fn a_certificate_is_renewed_by_the_head(world: World) {
    let life = Duration::from_secs(3);
    let (head, authority) = head_of(&world, world.authority().with_lifetime(life));
    let worker = world.bind(&authority, Role::Worker);
    worker.connect(head.address().unwrap(), SOON).await.unwrap();
    let (id, until) = (worker.id(), worker.expires());
    // The worker's by asking the head, the head's by itself.
    eventually("both are renewed", || worker.expires() > until && head.expires() > until).await;
    assert_eq!(worker.id(), id);
    // Later connections show the new one.
    let other = world.bind(&authority, Role::Driver);
    assert_eq!(other.connect(worker.address().unwrap(), SOON).await.unwrap(), id);
    assert_eq!(worker.connect(other.address().unwrap(), SOON).await.unwrap(), other.id());
}

async fn an_authority_of_another_cluster_is_not_served(world: World) {
    let head = world.bind(&world.authority(), Role::Head);
    let error = head.serve_joins(Arc::new(world.authority())).unwrap_err();
    assert!(matches!(error, BindError::OtherCluster { .. }), "{error}");
}

#[test]
fn a_certificate_that_ran_out_is_refused_and_one_that_is_renewed_lasts() {
    World::simulated(5, |world| async move {
        let life = Duration::from_secs(60);
        let (head, authority) = head_of(&world, world.authority().with_lifetime(life));
        let renewed = world.bind(&authority, Role::Worker);
        renewed.connect(head.address().unwrap(), SOON).await.unwrap();
        let alone = world.bind(&authority, Role::Worker); // never meets a head
        sleep(3 * life).await;
        let started = Instant::now();
        for (from, to) in [(&alone, &head), (&renewed, &alone)] {
            let error = from.connect(to.address().unwrap(), SOON).await.unwrap_err();
            assert!(matches!(error, ConnectError::CertificateExpired { .. }) && !error.is_retryable(), "{error}");
            assert!(error.to_string().contains("join again"), "{error}");
        }
        assert!(started.elapsed() < SOON);
        // A live connection goes on, and a new one to a renewed node can be made.
        assert_eq!(renewed.peers().len(), 1);
        let fresh = world.bind(&authority, Role::Worker);
        fresh.connect(renewed.address().unwrap(), SOON).await.unwrap();
        fresh.connect(head.address().unwrap(), SOON).await.unwrap();
    });
}
