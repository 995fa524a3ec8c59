//! Actors by name: one registry, at the head.

mod common;

use std::time::Duration;

use common::*;
use regatta_remote::*;
use serde::{Deserialize, Serialize};

both!(
    a_name_finds_its_actor_from_every_role,
    a_taken_name_is_refused_and_says_by_whom,
    an_unknown_name_and_another_type_are_errors_that_say_what_there_is,
    a_name_goes_with_its_actor_also_after_restarts,
    a_name_goes_with_its_node_and_can_be_given_anew,
    a_name_that_is_taken_back_is_free_and_its_actor_goes_on,
    an_actor_that_is_not_published_gets_no_name,
    nobody_takes_a_name_away_or_gives_one_to_an_actor_of_another_node,
    what_is_kept_of_a_name_is_bounded_in_bytes,
    a_node_that_keeps_no_names_says_so,
);

/// A head that keeps names, and a node of each other role. The worker publishes a tester.
struct Harbour {
    head: Node,
    driver: Node,
    worker: Node,
    second: Node,
    actor: LocalRef<Tester>,
    arbiter: Arbiter,
    seen: Seen,
}

impl Harbour {
    async fn new(world: &World) -> Self {
        let authority = world.authority();
        let roles = [Role::Head, Role::Driver, Role::Worker, Role::Worker];
        let [head, driver, worker, second] = roles.map(|role| world.bind(&authority, role));
        let arbiter = world.runtime.arbiter().unwrap();
        head.keep_names(&arbiter);
        for node in [&driver, &worker, &second] {
            node.connect(head.address().unwrap(), SOON).await.unwrap();
        }
        let seen = Seen::default();
        let actor = arbiter.supervise(16, Restarts { times: 1, ..Restarts::default() }, {
            let seen = seen.clone();
            move |_| Tester(seen.clone())
        });
        publish(&worker, ECHO, &actor);
        Self { head, driver, worker, second, actor, arbiter, seen }
    }

    fn names(&self, node: &Node) -> Names {
        node.names(self.head.id())
    }

    /// Waits until a name is unknown at the head.
    async fn forgotten(&self, name: &str) {
        let names = self.names(&self.head);
        let end = tokio::time::Instant::now() + SOON;
        loop {
            match names.find::<Tester>(name, SOON).await {
                Err(NameError::Unknown { .. }) => return,
                found => assert!(tokio::time::Instant::now() < end, "still there: {found:?}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn publish(node: &Node, id: ActorId, actor: &LocalRef<Tester>) {
    let all = [Role::Head, Role::Driver, Role::Worker];
    node.publish(id, actor).on::<Echo>(&all).on::<Panic>(&all).on::<Stop>(&all);
}

async fn a_name_finds_its_actor_from_every_role(world: World) {
    let harbour = Harbour::new(&world).await;
    let Harbour { head, driver, worker, second, actor, .. } = &harbour;
    harbour.names(worker).register("pilot", actor, SOON).await.unwrap();
    for node in [head, driver, worker, second] {
        let pilot = harbour.names(node).find::<Tester>("pilot", SOON).await.unwrap();
        assert_eq!(pilot.ask(Echo("ahoy".into()), SOON).await.unwrap(), "ahoy");
    }
    // An actor of the head itself.
    publish(head, ECHO, actor);
    harbour.names(head).register("harbour master", actor, SOON).await.unwrap();
    let master = harbour.names(second).find::<Tester>("harbour master", SOON).await.unwrap();
    assert_eq!(master.ask(Echo("a".into()), SOON).await.unwrap(), "a");
}

async fn a_taken_name_is_refused_and_says_by_whom(world: World) {
    let harbour = Harbour::new(&world).await;
    let other = harbour.arbiter.spawn(1, |_| Tester(Seen::default()));
    publish(&harbour.second, ECHO, &other);
    let first = harbour.names(&harbour.worker);
    first.register("pilot", &harbour.actor, SOON).await.unwrap();
    first.register("pilot", &harbour.actor, SOON).await.unwrap();
    let error = harbour.names(&harbour.second).register("pilot", &other, SOON).await.unwrap_err();
    let NameError::Taken { by, kind, .. } = &error else { panic!("{error}") };
    assert_eq!(*by, Address { node: harbour.worker.id(), actor: ECHO });
    assert!(kind.contains("Tester") && error.to_string().contains(&by.to_string()), "{error}");
}

async fn an_unknown_name_and_another_type_are_errors_that_say_what_there_is(world: World) {
    struct Other;
    impl actix::Actor for Other {
        type Context = actix::Context<Self>;
    }
    let harbour = Harbour::new(&world).await;
    let names = harbour.names(&harbour.driver);
    let error = names.find::<Tester>("pilot", SOON).await.unwrap_err();
    assert!(error.to_string().contains("no name is registered"), "{error}");
    harbour.names(&harbour.worker).register("pilot", &harbour.actor, SOON).await.unwrap();
    let error = names.find::<Tester>("pilto", SOON).await.unwrap_err();
    assert!(matches!(&error, NameError::Unknown { known, .. } if known == &["pilot"]), "{error}");
    let error = names.find::<Other>("pilot", SOON).await.unwrap_err();
    assert!(matches!(&error, NameError::OtherType { kind, .. } if kind.contains("Tester")), "{error}");
    assert!(error.to_string().contains("Other"), "{error}");
}

async fn a_name_goes_with_its_actor_also_after_restarts(world: World) {
    let harbour = Harbour::new(&world).await;
    harbour.names(&harbour.worker).register("pilot", &harbour.actor, SOON).await.unwrap();
    let pilot = harbour.names(&harbour.driver).find::<Tester>("pilot", SOON).await.unwrap();
    pilot.ask(Panic("squall".into()), SOON).await.unwrap_err();
    assert_eq!(pilot.ask(Echo("a".into()), SOON).await.unwrap(), "a", "it was built again");
    harbour.names(&harbour.driver).find::<Tester>("pilot", SOON).await.unwrap();
    pilot.ask(Panic("squall".into()), SOON).await.unwrap_err();
    harbour.forgotten("pilot").await;
}

async fn a_name_goes_with_its_node_and_can_be_given_anew(world: World) {
    let Harbour { head, driver, worker, second, actor, arbiter, seen } = Harbour::new(&world).await;
    worker.names(head.id()).register("pilot", &actor, SOON).await.unwrap();
    drop(worker);
    let harbour = Harbour { worker: second.clone(), head, driver, second, actor, arbiter, seen };
    harbour.forgotten("pilot").await;
    publish(&harbour.second, ECHO, &harbour.actor);
    harbour.names(&harbour.second).register("pilot", &harbour.actor, SOON).await.unwrap();
    let pilot = harbour.names(&harbour.driver).find::<Tester>("pilot", SOON).await.unwrap();
    assert_eq!(pilot.ask(Echo("a".into()), SOON).await.unwrap(), "a");
}

async fn a_name_that_is_taken_back_is_free_and_its_actor_goes_on(world: World) {
    let harbour = Harbour::new(&world).await;
    let names = harbour.names(&harbour.worker);
    names.register("pilot", &harbour.actor, SOON).await.unwrap();
    let pilot = names.find::<Tester>("pilot", SOON).await.unwrap();
    names.unregister("pilot", SOON).await.unwrap();
    assert!(matches!(names.find::<Tester>("pilot", SOON).await, Err(NameError::Unknown { .. })));
    assert!(matches!(names.unregister("pilot", SOON).await, Err(NameError::Unknown { .. })));
    assert_eq!(pilot.ask(Echo("a".into()), SOON).await.unwrap(), "a");
    let other = harbour.arbiter.spawn(1, |_| Tester(Seen::default()));
    publish(&harbour.second, ECHO, &other);
    harbour.names(&harbour.second).register("pilot", &other, SOON).await.unwrap();
    // The end of who had the name before takes nothing from who has it now.
    pilot.ask(Stop, SOON).await.unwrap();
    assert_eq!(harbour.actor.down().await, Down::Stopped);
    for _ in 0..20 {
        names.find::<Tester>("pilot", SOON).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await; // the end is told by itself
    }
}

async fn an_actor_that_is_not_published_gets_no_name(world: World) {
    let harbour = Harbour::new(&world).await;
    let hidden = harbour.arbiter.spawn(1, |_| Tester(Seen::default()));
    let names = harbour.names(&harbour.worker);
    let error = names.register("hidden", &hidden, SOON).await.unwrap_err();
    assert!(matches!(error, NameError::NotPublished { .. }), "{error}");
    publish(&harbour.second, ECHO, &hidden);
    let error = names.register("hidden", &hidden, SOON).await.unwrap_err();
    assert!(matches!(error, NameError::NotPublished { .. }), "of another node: {error}");
}

/// What registers a name, as somebody may send it who keeps to nothing.
#[derive(Serialize, Deserialize)]
struct Claim {
    name: String,
    address: Address,
    at: Option<std::net::SocketAddr>,
    kind: String,
}
/// What takes a name back, likewise.
#[derive(Serialize, Deserialize)]
struct Seize {
    name: String,
    only: Option<Address>,
}

regatta_remote::messages! {
    0x01 Claim => Result<(), NameError>,
    0x03 Seize => Result<(), NameError>,
}

impl actix::Handler<Claim> for Tester {
    type Result = Result<(), NameError>;
    fn handle(&mut self, _: Claim, _: &mut actix::Context<Self>) -> Self::Result {
        unreachable!("it is for the registry")
    }
}

impl actix::Handler<Seize> for Tester {
    type Result = Result<(), NameError>;
    fn handle(&mut self, _: Seize, _: &mut actix::Context<Self>) -> Self::Result {
        unreachable!("it is for the registry")
    }
}

async fn nobody_takes_a_name_away_or_gives_one_to_an_actor_of_another_node(world: World) {
    let harbour = Harbour::new(&world).await;
    let Harbour { head, driver, worker, second, actor, .. } = &harbour;
    harbour.names(worker).register("pilot", actor, SOON).await.unwrap();
    let pilot = Address { node: worker.id(), actor: ECHO };
    for node in [driver, second] {
        let registry = node.actor::<Tester>(Address { node: head.id(), actor: ActorId(0) });
        for only in [None, Some(pilot)] {
            let error = registry.ask(Seize { name: "pilot".into(), only }, SOON).await.unwrap().unwrap_err();
            assert!(matches!(error, NameError::NotYours { by, .. } if by == pilot), "{error}");
        }
        let error = harbour.names(node).unregister("pilot", SOON).await.unwrap_err();
        assert!(matches!(error, NameError::NotYours { .. }), "{error}");
        for victim in [worker.id(), head.id()] {
            let address = Address { node: victim, actor: ECHO };
            let claim = Claim { name: "master".into(), address, at: None, kind: "Tester".into() };
            let error = registry.ask(claim, SOON).await.unwrap().unwrap_err();
            assert!(matches!(error, NameError::OtherNode { node } if node == victim), "{error}");
        }
    }
    harbour.names(driver).find::<Tester>("pilot", SOON).await.unwrap();
    harbour.names(head).unregister("pilot", SOON).await.unwrap();
    harbour.forgotten("pilot").await;
}

async fn what_is_kept_of_a_name_is_bounded_in_bytes(world: World) {
    let harbour = Harbour::new(&world).await;
    let registry = harbour.second.actor::<Tester>(Address { node: harbour.head.id(), actor: ActorId(0) });
    let address = Address { node: harbour.second.id(), actor: ECHO };
    let long = "x".repeat(1 << 20);
    let claim = |name: &str| Claim { name: name.into(), address, at: None, kind: long.clone() };
    registry.ask(claim("long"), SOON).await.unwrap().unwrap();
    let error = harbour.names(&harbour.driver).find::<Tester>("long", SOON).await.unwrap_err();
    assert!(matches!(&error, NameError::OtherType { kind, .. } if kind.len() == 1024), "{}", error.to_string().len());
    let error = registry.ask(claim(&long), SOON).await.unwrap().unwrap_err();
    assert!(matches!(&error, NameError::Malformed { name, .. } if name.len() == 256), "{error}");
    let error = harbour.names(&harbour.driver).find::<Tester>(&long, SOON).await.unwrap_err();
    assert!(matches!(error, NameError::Malformed { .. }), "{error}");
}

#[test]
fn an_actor_of_many_names_has_one_task_that_waits_for_its_end() {
    World::loopback(async |world| {
        let harbour = Harbour::new(&world).await;
        let (names, tasks) = (harbour.names(&harbour.worker), world.runtime.handle().metrics());
        names.register("first", &harbour.actor, SOON).await.unwrap();
        let before = tasks.num_alive_tasks();
        for number in 0..200 {
            let name = format!("pilot {}", number % 100);
            names.register(&name, &harbour.actor, SOON).await.unwrap();
            names.register(&name, &harbour.actor, SOON).await.unwrap();
            if number % 3 == 0 {
                names.unregister(&name, SOON).await.unwrap();
            }
        }
        eventually("no task for each name", || tasks.num_alive_tasks() <= before + 8).await;
        harbour.actor.ask(Stop, SOON).await.unwrap();
        for number in 0..100 {
            harbour.forgotten(&format!("pilot {number}")).await;
        }
        harbour.forgotten("first").await;
    });
}

async fn a_node_that_keeps_no_names_says_so(world: World) {
    let harbour = Harbour::new(&world).await;
    let error = harbour.driver.names(harbour.driver.id()).find::<Tester>("pilot", SOON).await.unwrap_err();
    assert!(matches!(error, NameError::NoAnswer(AskError::NoSuchActor)), "{error}");
}
