//! Each message, by who may not send it, and of what its sender may not speak. The table in `docs/book/src/semantics.md` is made of
//! the declarations.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler};
use polars::prelude::*;
use regatta_observe::window::{Act, Look, WINDOW};
use regatta_remote::{
    ActorId, ActorRef, Address, Arbiter, AskError, Authority, FetchError, JoinToken, LocalRef, Node, NodeId, Role,
    Runtime, WireMessage, encode,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::super::messages::*;
use super::super::{GATEWAY, GatewayActor, Host, Kept, MAILBOX, Relay, SCHEDULER, SWORDFISH, SchedulerActor, UdfActor};
use crate::actor::{ActorSpec, SpawnOptions};
use crate::actors::feed::ALL_SECTIONS;
use crate::actors::udf::Ends;
use crate::error::TaskFailure;
use crate::plan::{Target, plan, scan_held};
use crate::sched::{
    Attempt, Output, PartitionId, QueryId, QueryStatus, Resources, Settings, Sizes, StageId, StepId, TaskId, WaitsFor,
    WorkerId,
};
use crate::store::{Part, Rows, Store, Ticket, Wanted};
use crate::udf::{Call, MetricsByUdf, PoolOptions, UdfError};

/// A line of the table.
pub(in crate::actors) struct Line {
    pub(in crate::actors) to: &'static str,
    pub(in crate::actors) message: &'static str,
    pub(in crate::actors) from: &'static [Role],
    pub(in crate::actors) of: &'static str,
    /// Sends a message of its number with nothing in it.
    pub(in crate::actors) send: Send,
}

/// What observers and operators send is declared where they see it, without Polars: in `regatta_observe::window`.
const FROM_OUTSIDE: &[Line] = &[
    Line {
        to: "window",
        message: "Look",
        from: &[Role::Observer, Role::Operator],
        of: "all: figures, plans, errors and log lines of every query, and what jobs print",
        send: send::<{ Look::ID }>,
    },
    Line {
        to: "window",
        message: "Act",
        from: &[Role::Operator],
        of: "any query, to cancel it; any worker, to have it leave; tokens, but none for operators; jobs, which are the head's own program",
        send: send::<{ Act::ID }>,
    },
];

fn all_lines() -> impl Iterator<Item = &'static Line> {
    TABLE.iter().chain(FROM_OUTSIDE)
}

type Send = fn(ActorRef<Anybody>) -> Pin<Box<dyn Future<Output = Result<(), AskError>>>>;

pub(in crate::actors) fn send<const ID: u32>(
    to: ActorRef<Anybody>,
) -> Pin<Box<dyn Future<Output = Result<(), AskError>>>> {
    Box::pin(async move { to.ask(Empty::<ID>, SOON).await })
}

#[derive(Serialize, Deserialize)]
pub(in crate::actors) struct Empty<const ID: u32>;

impl<const ID: u32> actix::Message for Empty<ID> {
    type Result = ();
}

impl<const ID: u32> WireMessage for Empty<ID> {
    const ID: u32 = ID;
    const NAME: &'static str = "Empty";
}

/// Stands for an actor of any type elsewhere.
pub(in crate::actors) struct Anybody;

impl Actor for Anybody {
    type Context = Context<Self>;
}

impl<const ID: u32> Handler<Empty<ID>> for Anybody {
    type Result = ();

    fn handle(&mut self, _: Empty<ID>, _: &mut Context<Self>) {}
}

const SOON: Duration = Duration::from_secs(10);
const REPLICA: ActorId = ActorId(16);

#[regatta::udf]
fn same(x: i64) -> i64 {
    x
}

/// A worker's swordfish that takes all and does nothing: the tests say what has become of it.
struct Idle {
    heard: Heard,
    at: Hosted,
}

#[derive(Clone, Default)]
struct Heard {
    runs: Arc<Mutex<Vec<(TaskId, Attempt)>>>,
    replicas: Arc<Mutex<Vec<crate::sched::ReplicaId>>>,
    drivers: Arc<Mutex<Vec<Option<NodeId>>>>,
    gone: Arc<Mutex<Vec<NodeId>>>,
    dropped: Arc<Mutex<Vec<ActorId>>>,
}

impl Actor for Idle {
    type Context = Context<Self>;
}

macro_rules! idle {
    ($($message:ident |$idle:ident, $it:ident| $does:expr;)*) => {
        $(impl Handler<$message> for Idle {
            type Result = <$message as actix::Message>::Result;

            fn handle(&mut self, $it: $message, _: &mut Context<Self>) -> Self::Result {
                let $idle = self;
                $does
            }
        })*

        fn publish_idle(node: &Node, idle: &LocalRef<Idle>) {
            node.publish(SWORDFISH, idle)$(.on::<$message>(&[Role::Head]))*;
        }
    };
}

idle! {
    Prepare |idle, it| idle.heard.drivers.lock().unwrap().push(it.driver);
    RunTasks |idle, it| idle.heard.runs.lock().unwrap().extend(it.0.iter().map(|run| (run.task, run.attempt)));
    StartReplica |idle, it| idle.heard.replicas.lock().unwrap().push(it.replica);
    StopReplica |_idle, _it| ();
    Serve |_idle, _it| ();
    End |_idle, _it| ();
    Gone |idle, it| idle.heard.gone.lock().unwrap().extend(it.0);
    Enough |_idle, _it| ();
    Dismiss |_idle, _it| ();
    Withdraw |_idle, _it| ();
    HostActor |idle, it| Ok(Hosted { address: Address { actor: it.id, ..idle.at.address }, ..idle.at });
    DropActor |idle, it| {
        idle.heard.dropped.lock().unwrap().push(it.0);
        true
    };
}

/// A head, and two nodes of each other role that are connected to it.
struct Scene {
    runtime: Runtime,
    head: Node,
    host: Arc<Host>,
    workers: [Node; 2],
    heard: [Heard; 2],
    drivers: [Node; 2],
    guest: Node,
    /// An observer and an operator.
    outside: [Node; 2],
    /// A worker that has not registered.
    spare: Node,
    /// A second head: a node of that role can send what this one can.
    other_head: Node,
    arbiter: Arbiter,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new(runtime: Runtime) -> Self {
        let authority = Arc::new(Authority::new().unwrap());
        let bind = |role| {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            Node::bind(authority.issue(role).unwrap(), any, &runtime).unwrap()
        };
        let head = bind(Role::Head);
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(runtime.clone(), Store::new(folder.path()), Some(head.clone()), None);
        Relay::serve(&host);
        let arbiter = runtime.arbiter().unwrap();
        let settings = Settings {
            task: Resources::cpus(1.0),
            ready_timeout: 6 * SOON,
            pool_warm: SOON,
            worker_timeout: 6 * SOON,
            linear: false,
            max_task_backlog: Some(0),
            scale: None,
            forced: None,
        };
        let (joining, _) = watch::channel(0);
        let scheduler = arbiter.spawn(MAILBOX, {
            let host = Arc::clone(&host);
            move |_| SchedulerActor::new(settings, Kept { memory: 1 << 20, archive: None }, host, joining)
        });
        let gateway = arbiter.spawn(GatewayActor::MAILBOX, {
            let (host, scheduler, authority) = (Arc::clone(&host), scheduler.clone(), Arc::clone(&authority));
            move |_| GatewayActor::new(host, scheduler, authority)
        });
        SchedulerActor::publish(&head, SCHEDULER, &scheduler, &arbiter);
        super::super::open_window(&head, &host, scheduler.clone(), Arc::clone(&authority), None, &arbiter);
        GatewayActor::publish(&head, GATEWAY, &gateway);
        // What watches the peers of a session tells the scheduler.
        let mut events = head.events();
        runtime.handle().spawn(async move {
            while let Some(event) = events.recv().await {
                if let regatta_remote::PeerEvent::Down { peer, cause } = event {
                    drop(scheduler.tell(WorkerDown { node: Some(peer.node), why: cause }, SOON).await);
                }
            }
        });
        let heard = [Heard::default(), Heard::default()];
        let workers = [bind(Role::Worker), bind(Role::Worker)];
        for (node, heard) in workers.iter().zip(heard.clone()) {
            let at = Hosted { address: Address { node: node.id(), actor: ActorId(0) }, at: node.address().ok() };
            publish_idle(node, &arbiter.spawn(MAILBOX, move |_| Idle { heard, at }));
        }
        let drivers = [bind(Role::Driver), bind(Role::Driver)];
        let (guest, spare, other_head) = (bind(Role::Guest), bind(Role::Worker), bind(Role::Head));
        let outside = [bind(Role::Observer), bind(Role::Operator)];
        for node in workers.iter().chain(&drivers).chain(&outside).chain([&guest, &spare, &other_head]) {
            node.connect(head.address().unwrap(), SOON).await.unwrap();
        }
        Self { runtime, head, host, workers, heard, drivers, guest, outside, spare, other_head, arbiter, folder }
    }

    fn scheduler(&self, of: &Node) -> ActorRef<SchedulerActor> {
        of.actor(Address { node: self.head.id(), actor: SCHEDULER })
    }

    fn gateway(&self, of: &Node) -> ActorRef<GatewayActor> {
        of.actor(Address { node: self.head.id(), actor: GATEWAY })
    }

    fn register(&self, worker: u32, node: &Node) -> Register {
        let capacity = Resources::cpus(4.0);
        let address = node.address().unwrap();
        Register { worker: WorkerId(worker), capacity, devices: Err("none".into()), node: node.id(), address }
    }

    /// Both workers register.
    async fn with_workers(self) -> Self {
        for (number, node) in self.workers.iter().enumerate() {
            let register = self.register(number as u32, node);
            self.scheduler(node).ask(register, SOON).await.unwrap().unwrap();
        }
        self
    }

    fn query(&self, of: &Node, query: u64, lazy: LazyFrame) -> SubmitFrom {
        let plan = plan(lazy, Target { tasks: 1, travels: true, in_flight: 1 }).unwrap();
        let driver = Place { worker: WorkerId::DRIVER, node: Some((of.id(), of.address().unwrap())) };
        SubmitFrom {
            driver,
            query: QueryId(query),
            plan,
            given: BTreeMap::new(),
            planned: Duration::ZERO,
            persist: false,
        }
    }

    async fn submit(&self, of: &Node, query: u64, lazy: LazyFrame) {
        self.gateway(of).ask(self.query(of, query, lazy), SOON).await.unwrap().unwrap();
    }

    /// The worker that was given the one task of a query, and the one that was not.
    async fn runs(&self, query: u64) -> (usize, TaskId, Attempt) {
        let has = |heard: &Heard| heard.runs.lock().unwrap().iter().copied().find(|(id, _)| id.query == QueryId(query));
        eventually(async || {
            let at = self.heard.iter().position(|heard| has(heard).is_some())?;
            has(&self.heard[at]).map(|(task, attempt)| (at, task, attempt))
        })
        .await
    }

    async fn status(&self, of: &Node, query: u64) -> Option<QueryStatus> {
        self.scheduler(of).ask(Status(QueryId(query)), SOON).await.unwrap()
    }

    /// Whether this driver is shown what a query does.
    async fn is_shown(&self, of: &Node, query: u64) -> bool {
        let (scheduler, query) = (self.scheduler(of), QueryId(query));
        let profile = scheduler.ask(ProfileOf(query), SOON).await.unwrap();
        let progress = scheduler.ask(ProgressOf(query), SOON).await.unwrap();
        let known = scheduler.ask(Known, SOON).await.unwrap();
        assert_eq!((profile.is_some(), profile.is_some()), (progress.is_some(), known.contains(&query)));
        profile.is_some()
    }

    /// The task of a query ends well.
    async fn end(&self, (at, task, attempt): (usize, TaskId, Attempt)) {
        self.scheduler(&self.workers[at]).ask(ended(task, attempt, true), SOON).await.unwrap();
    }
}

fn ended(task: TaskId, attempt: Attempt, well: bool) -> TasksEnded {
    let id = PartitionId { task, attempt };
    let outcome =
        if well { Ok(Output { id, rows: 1, bytes: 8 }) } else { Err(TaskFailure::Panicked("it lies".into())) };
    let ended = vec![TaskEnded {
        task,
        attempt,
        outcome,
        rows: Rows::Kept,
        sections: Sizes::default(),
        metrics: MetricsByUdf::new(),
        ran: 0,
    }];
    TasksEnded { ended, ..TasksEnded::default() }
}

fn numbers() -> LazyFrame {
    df!["x" => [1i64, 2, 3]].unwrap().lazy()
}

async fn eventually<T>(mut what: impl AsyncFnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(found) = what().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "not in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Runtime) -> F) {
    let runtime = Runtime::new("ownership", 2).unwrap();
    runtime.handle().clone().block_on(test(runtime));
}

#[test]
fn the_page_has_every_message_with_who_may_send_it_and_of_what_it_may_speak() {
    let name = |role: &Role| match role {
        Role::Head => "the head".to_owned(),
        role if role.is_outside() => format!("an {role}"),
        role => format!("a {role}"),
    };
    let lines = all_lines().map(|Line { to, message, from, of, .. }| {
        format!("| {to} | `{message}` | {} | {of} |", from.iter().map(name).collect::<Vec<_>>().join(", "))
    });
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/book/src/semantics.md")).unwrap();
    let section = page.split("## Who may ask what of whom").nth(1).unwrap_or_default();
    let there: Vec<&str> = section.lines().take_while(|line| !line.starts_with("## ")).collect();
    let there: Vec<_> =
        there.into_iter().filter(|line| all_lines().any(|of| line.starts_with(&format!("| {} | `", of.to)))).collect();
    let lines: Vec<String> = lines.collect();
    assert_eq!(there, lines, "the page should have:\n{}", lines.join("\n"));
}

#[test]
fn every_message_is_taken_from_the_roles_of_its_line_and_from_no_other() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await;
        // The worker's own actors, which the idle one stands for elsewhere.
        let worker = &scene.workers[0];
        let own = Host::new(scene.runtime.clone(), Store::new(scene.folder.path()), Some(worker.clone()), None);
        let place = own.place(WorkerId(0)).unwrap();
        let scheduler = scene.scheduler(worker);
        let swordfish = scene.arbiter.spawn(MAILBOX, {
            let own = Arc::clone(&own);
            move |_| super::super::SwordfishActor::new(own, place, scheduler)
        });
        super::super::SwordfishActor::publish(worker, SWORDFISH, &swordfish);
        let _replica = replica(&scene, own, place);
        let senders = [
            &scene.other_head,
            &scene.drivers[0],
            &scene.workers[1],
            &scene.guest,
            &scene.outside[0],
            &scene.outside[1],
        ];
        for (sender, role) in senders.iter().zip(Role::ALL) {
            let connected = sender.connect(worker.address().unwrap(), SOON).await;
            assert_eq!(connected.is_ok(), !role.is_outside(), "a worker lets in nobody from outside: {connected:?}");
        }
        let (mut refused, mut expected) = (0, 0);
        for line in all_lines() {
            let address = match line.to {
                "scheduler" => Address { node: scene.head.id(), actor: SCHEDULER },
                "gateway" => Address { node: scene.head.id(), actor: GATEWAY },
                "swordfish" => Address { node: worker.id(), actor: SWORDFISH },
                "replica" => Address { node: worker.id(), actor: REPLICA },
                "window" => Address { node: scene.head.id(), actor: WINDOW },
                other => panic!("where is the {other}?"),
            };
            for (sender, role) in senders.into_iter().zip(Role::ALL) {
                let answer = (line.send)(sender.actor(address)).await;
                if role.is_outside() && address.node == worker.id() {
                    assert!(matches!(answer, Err(AskError::NotConnected)), "{}: {answer:?}", line.message);
                    continue;
                }
                expected += usize::from(!line.from.contains(&role));
                let is_refused = matches!(answer, Err(AskError::NotAllowed { role: of }) if of == role);
                assert_eq!(is_refused, !line.from.contains(&role), "{} from a {role}: {answer:?}", line.message);
                assert!(!matches!(answer, Err(AskError::NoSuchActor)), "{} is not published", line.message);
                refused += usize::from(is_refused);
            }
        }
        assert_eq!(refused, expected);
        assert!(expected > 3 * TABLE.len(), "few may send any of them: {expected}");
    });
}

/// A replica of a UDF at the first worker.
fn replica(scene: &Scene, host: Arc<Host>, place: Place) -> LocalRef<UdfActor> {
    let step = StepId { query: QueryId(1), stage: StageId(0), step: 0 };
    let pool = crate::sched::PoolId(0);
    let spec = StartReplica {
        replica: crate::sched::ReplicaId { pool, rank: 0 },
        step,
        udf: "none of this name".to_owned(),
        arguments: Vec::new(),
        options: PoolOptions::default(),
        devices: Vec::new(),
    };
    let ends = Ends::of(spec.replica, &host, scene.scheduler(&scene.workers[0]));
    let replica = scene.arbiter.spawn(4, move |_| UdfActor::new(host, place, spec, REPLICA, ends));
    UdfActor::taking(scene.workers[0].publish(REPLICA, &replica));
    replica
}

#[test]
fn a_worker_joins_as_itself_once_under_its_own_number() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await;
        let [first, second] = &scene.workers;
        let enrol = async |node| scene.gateway(node).ask(Enrol, SOON).await.unwrap().unwrap();
        let number = enrol(first).await;
        assert_eq!((enrol(first).await, enrol(second).await), (number, WorkerId(number.0 + 1)));
        let register = async |by: &Node, worker, node: &Node| {
            scene
                .scheduler(by)
                .ask(scene.register(worker, node), SOON)
                .await
                .unwrap()
                .map_err(|error| error.to_string())
        };
        for (by, worker, node, why) in [
            (second, number.0 + 1, first, "at its own node"),
            (second, number.0, second, "another number"),
            (second, 7, second, "another number"),
        ] {
            let error = register(by, worker, node).await.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        register(second, number.0 + 1, second).await.unwrap();
        register(second, number.0 + 1, second).await.unwrap(); // its answer was lost
        let error = register(second, 9, second).await.unwrap_err();
        assert!(error.contains("another number"), "{error}");
        register(first, number.0, first).await.unwrap();
        assert_eq!(enrol(first).await, number);
        // One that nobody gave a number takes none that somebody has.
        for taken in [number.0, number.0 + 1] {
            let error = register(&scene.spare, taken, &scene.spare).await.unwrap_err();
            assert!(error.contains("is taken"), "{error}");
        }
        // What a worker gets for a process of its own is less than what it is itself.
        let token: JoinToken = scene.gateway(first).ask(Admit, SOON).await.unwrap().unwrap().parse().unwrap();
        assert_eq!(token.role(), Role::Guest);
        // And no more of that than leaves room for others.
        let gateway = scene.gateway(first);
        let asked = (0..300).map(|_| gateway.ask(Admit, SOON));
        let got =
            futures_util::future::join_all(asked).await.into_iter().filter(|token| token.as_ref().unwrap().is_ok());
        assert_eq!(got.count(), 255);
        scene.gateway(second).ask(Admit, SOON).await.unwrap().unwrap();
    });
}

#[test]
fn a_worker_speaks_of_nothing_that_is_on_another() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await.with_workers().await;
        let driver = &scene.drivers[0];
        // Ends of tasks: a lie would fail the query at once.
        scene.submit(driver, 1, numbers().select([col("x") + lit(1)])).await;
        let (at, task, attempt) = scene.runs(1).await;
        let other = scene.scheduler(&scene.workers[1 - at]);
        for well in [true, false] {
            other.ask(ended(task, attempt, well), SOON).await.unwrap();
        }
        let tasks = async || scene.status(driver, 1).await.unwrap().stages.last().unwrap().tasks;
        assert_eq!(tasks().await, (0, 1, 0), "it still runs");
        scene.end((at, task, attempt)).await;
        assert_eq!(tasks().await, (0, 0, 1));
        assert_eq!(scene.heard[at].drivers.lock().unwrap()[0], Some(driver.id()), "its worker knows whose it is");

        // Replicas, and batches that wait for them.
        scene.submit(driver, 2, numbers().select([same::on([col("x")])])).await;
        let (at, replica) = eventually(async || {
            let at = scene.heard.iter().position(|heard| !heard.replicas.lock().unwrap().is_empty())?;
            Some((at, scene.heard[at].replicas.lock().unwrap()[0]))
        })
        .await;
        let (own, other) = (scene.scheduler(&scene.workers[at]), scene.scheduler(&scene.workers[1 - at]));
        let word = |word| ReplicaSays { replica, word };
        let failed = || Word::Failed(UdfError::new("it lies"));
        let starting = async || {
            let status = scene.status(driver, 2).await.unwrap();
            status
                .stages
                .iter()
                .flat_map(|stage| stage.pools.clone())
                .flat_map(|pool| pool.starting)
                .collect::<Vec<_>>()
        };
        for lie in [Word::Progress("nearly".into()), Word::Ready(ActorId(9)), Word::Hung, Word::Stuck, failed()] {
            other.ask(word(lie), SOON).await.unwrap();
            assert_eq!(starting().await, [None]);
        }
        own.ask(word(Word::Progress("nearly".into())), SOON).await.unwrap();
        assert_eq!(starting().await, [Some("nearly".to_owned())]);
        own.ask(word(Word::Ready(ActorId(9))), SOON).await.unwrap();
        let step = StepId { query: QueryId(2), stage: scene.runs(2).await.1.stage, step: 0 };
        let waits = CreditWaits { worker: WorkerId(at as u32), step, batches: 3 };
        let waiting = async || {
            let status = scene.status(driver, 2).await.unwrap();
            let waits = status.stages.into_iter().flat_map(|stage| stage.waits);
            waits.filter(|wait| matches!(wait.on, WaitsFor::Credit(..))).map(|wait| wait.count).sum::<usize>()
        };
        other.ask(waits, SOON).await.unwrap();
        assert_eq!(waiting().await, 0);
        own.ask(waits, SOON).await.unwrap();
        assert_eq!(waiting().await, 3);
    });
}

#[test]
fn a_driver_speaks_of_no_query_or_actor_of_another() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await.with_workers().await;
        let [mine, other] = &scene.drivers;
        let submit = async |by: &Node, from: SubmitFrom| scene.gateway(by).ask(from, SOON).await.unwrap();
        scene.submit(mine, 1, numbers().select([col("x") + lit(1)])).await;
        let run = scene.runs(1).await;
        let query = QueryId(1);
        let error = submit(other, scene.query(mine, 5, numbers())).await.unwrap_err().to_string();
        assert!(error.contains("not of the process that submits it"), "{error}");
        let error = submit(other, scene.query(other, 1, numbers())).await.unwrap_err().to_string();
        assert!(error.contains("a query of its number"), "{error}");
        assert!(scene.gateway(other).ask(Hear(query), SOON).await.unwrap().is_err());
        assert_eq!(scene.status(other, 1).await, None);
        assert!(!scene.is_shown(other, 1).await && scene.is_shown(mine, 1).await);
        scene.gateway(other).ask(Release(query), SOON).await.unwrap();
        assert_eq!(scene.status(mine, 1).await.unwrap().state, regatta_observe::QueryState::Running, "it goes on");
        scene.end(run).await;
        let heard = scene.gateway(mine).ask(Hear(query), SOON).await.unwrap().unwrap();
        assert!(matches!(&heard[..], [RunEvent::Partition { .. }, RunEvent::Done(1)]), "{heard:?}");
        // A plan that reads it.
        let mut reads = scene.query(other, 6, numbers().select([col("x") + lit(1)]));
        reads.plan.stages.last_mut().unwrap().held = vec![vec![(query, 0)]];
        submit(other, reads).await.unwrap();
        let heard = scene.gateway(other).ask(Hear(QueryId(6)), SOON).await.unwrap().unwrap();
        let [RunEvent::Failed(error)] = &heard[..] else { panic!("{heard:?}") };
        assert!(error.to_string().contains("another driver has persisted"), "{error}");
        // The same, with another word on it: what its tasks ask for is what counts.
        let held = || scan_held(Arc::new(Schema::from_iter([Field::new("x".into(), DataType::Int64)])), query, 1);
        let asks = async |by: &Node, reader: u64| {
            let mut silent = scene.query(by, reader, held());
            silent.plan.stages.iter_mut().for_each(|stage| stage.held.clear());
            submit(by, silent).await.unwrap();
            let (at, task, _) = scene.runs(reader).await;
            let locate = Locate { query, reader: task.query, partitions: vec![0] };
            scene.scheduler(&scene.workers[at]).ask(locate, SOON).await.unwrap()
        };
        assert!(matches!(asks(other, 7).await, Located::Nowhere));
        assert!(matches!(asks(mine, 8).await, Located::There(..)));

        // Actors.
        let options =
            SpawnOptions { name: None, worker: None, mailbox: 1, restarts: regatta_remote::Restarts::default() };
        let spec = ActorSpec { kind: "any".into(), arguments: Vec::new(), options };
        let hosted = scene.scheduler(mine).ask(SpawnActor(spec), SOON).await.unwrap().unwrap();
        let stop = async |by| scene.scheduler(by).ask(StopActor(hosted.address), SOON).await.unwrap();
        let at = scene.workers.iter().position(|worker| worker.id() == hosted.address.node).unwrap();
        stop(other).await.unwrap_err();
        let ended = |on: usize| ActorEnded(WorkerId(on as u32), hosted.address.actor);
        for lie in [ended(at), ended(1 - at)] {
            scene.scheduler(&scene.workers[1 - at]).ask(lie, SOON).await.unwrap();
        }
        stop(mine).await.unwrap();
        assert_eq!(*scene.heard[at].dropped.lock().unwrap(), [hosted.address.actor]);
        scene.scheduler(&scene.workers[at]).ask(ended(at), SOON).await.unwrap();
        stop(mine).await.unwrap_err();

        // What is lost of a query is made again until its own driver has taken it, whom alone it is found for.
        let persisted = SubmitFrom { persist: true, ..scene.query(mine, 2, numbers().select([col("x") + lit(2)])) };
        submit(mine, persisted).await.unwrap();
        let second = scene.runs(2).await;
        scene.end(second).await;
        let find = async |by| {
            let find = Find { query, partition: 0, unread: None };
            scene.scheduler(by).ask(find, SOON).await.unwrap()
        };
        assert!(matches!(find(other).await, Found::Nowhere) && matches!(find(mine).await, Found::There(..)));
        scene.scheduler(mine).ask(Taken(query), SOON).await.unwrap();
        scene.scheduler(other).ask(Taken(QueryId(2)), SOON).await.unwrap();
        scene.workers.iter().for_each(|worker| scene.head.disconnect(worker.id()));
        let locate = async |query, reader| {
            let partitions = Vec::new();
            scene.scheduler(&scene.spare).ask(Locate { query, reader, partitions }, SOON).await.unwrap()
        };
        eventually(async || matches!(locate(QueryId(2), QueryId(2)).await, Located::MadeAgain).then_some(())).await;
        assert!(matches!(locate(query, query).await, Located::Nowhere), "its driver has it");
    });
}

#[test]
fn partitions_are_read_by_workers_and_by_their_own_driver_and_batches_by_whom_they_are_for() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await;
        let Scene { workers: [worker, peer], drivers: [mine, other], guest, head, .. } = &scene;
        let store = Store::new(scene.folder.path());
        worker.serve_data(Arc::<Store>::clone(&store));
        let task = TaskId { query: QueryId(1), stage: StageId(0), index: 0 };
        let partition = PartitionId { task, attempt: Attempt(1) };
        store.keep(partition, df!["x" => [1i64, 2]].unwrap()).unwrap();
        // As `Prepare` says it there, and `SubmitFrom` at the head.
        store.own(QueryId(1), mine.id());
        scene.host.store.own(QueryId(1), mine.id());
        for node in [peer, mine, other, guest, head] {
            if node.id() != head.id() {
                node.connect(worker.address().unwrap(), SOON).await.unwrap();
            }
        }
        let (stage, parts) = (StageId(0), vec![Part::all(partition)]);
        let wanted = Wanted { query: QueryId(1), stage, sections: ALL_SECTIONS, parts, machine: None };
        let through = Ticket::Through { worker: WorkerId(0), node: worker.id(), wanted: wanted.clone() };
        let fetch = async |by: &Node, from: &Node, ticket: Ticket| match by
            .fetch(from.id(), encode(&ticket).unwrap(), SOON)
            .await
        {
            Ok(fetch) => fetch.collect(1 << 30).await.is_ok(),
            Err(FetchError::Refused(why)) if why.contains("is not a query of") || why.contains("not for") => false,
            Err(error) => panic!("{error}"),
        };
        for (by, may) in [(head, true), (peer, true), (mine, true), (other, false), (guest, false)] {
            assert_eq!(fetch(by, worker, Ticket::Blocks(wanted.clone())).await, may, "by {}", by.id());
            let takes_over = may && by.id() != mine.id();
            assert_eq!(fetch(by, worker, Ticket::Whole(vec![partition])).await, takes_over, "by {}", by.id());
            if by.id() != head.id() {
                assert_eq!(fetch(by, head, through.clone()).await, may, "through the head, by {}", by.id());
            }
        }
        let offer = store.offer("batch".into(), Some(peer.id()));
        for (by, may) in [(mine, false), (guest, false), (head, false), (peer, true)] {
            assert_eq!(fetch(by, worker, offer.ticket()).await, may, "{}", by.id());
        }
        // Who has dropped a query does not remember whose it was.
        store.drop_query(QueryId(1));
        assert!(!fetch(mine, worker, Ticket::Blocks(wanted)).await);
    });
}

#[test]
fn a_replica_fetches_batches_of_its_caller_alone() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await;
        let [worker, caller] = &scene.workers;
        let own = Host::new(scene.runtime.clone(), Store::new(scene.folder.path()), Some(worker.clone()), None);
        let place = own.place(WorkerId(0)).unwrap();
        let _replica = replica(&scene, own, place);
        caller.connect(worker.address().unwrap(), SOON).await.unwrap();
        let actor: ActorRef<UdfActor> = caller.actor(Address { node: worker.id(), actor: REPLICA });
        let victim = &scene.drivers[0];
        let at = Place { worker: WorkerId::DRIVER, node: Some((victim.id(), victim.address().unwrap())) };
        let evaluate = Evaluate { inputs: BatchAt::There(at, Ticket::Batch(0)), call: Call::ONCE };
        let failure = actor.ask(evaluate, SOON).await.unwrap().unwrap_err();
        assert!(matches!(&failure, CallFailure::NotFetched(why) if why.contains("not the caller's")), "{failure:?}");
    });
}

#[test]
fn workers_that_join_later_hear_of_those_that_are_gone() {
    run(async |runtime| {
        let scene = Scene::new(runtime).await;
        let [first, second] = &scene.workers;
        scene.scheduler(first).ask(scene.register(0, first), SOON).await.unwrap().unwrap();
        scene.head.disconnect(first.id());
        eventually(async || scene.head.has_given_up(first.id()).then_some(())).await;
        scene.scheduler(second).ask(scene.register(1, second), SOON).await.unwrap().unwrap();
        eventually(async || (*scene.heard[1].gone.lock().unwrap() == [first.id()]).then_some(())).await;
        let again = first.connect(scene.head.address().unwrap(), SOON).await;
        assert!(matches!(again, Err(regatta_remote::ConnectError::Expelled)), "{again:?}");
    });
}
