//! The processes of a simulated cluster: its head, its workers, and a driver.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use regatta_remote::sim::Sim;
use regatta_remote::{Authority, DataReader, DataSource, LocalRef, Node, NodeId, PeerId, Role, Runtime};

use crate::actors::moments::{Point, note};
use crate::actors::{CONTROL, SchedulerActor};
use crate::cluster::{Asks, Recruit};
use crate::config::Config;
use crate::sched::{Forced, Resources};
use crate::session::OnEnd;
use crate::store::Store;
use crate::{Cluster, Session};

/// All are on one machine, each at an address of its own.
pub(crate) fn host(number: u8) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(127, 0, 0, number))
}

const PORT: u16 = 7700;
pub(crate) const HEAD: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const FIRST_WORKER: u8 = 10;

/// What all processes of a simulation have in common.
pub(crate) struct Common {
    pub(crate) sim: Sim,
    pub(crate) authority: Arc<Authority>,
    pub(crate) folder: PathBuf,
    pub(crate) config: Config,
    /// What each piece of work takes.
    pub(crate) pace: (Duration, Duration),
    pub(crate) cpus: f64,
    /// Memory of a worker for small outputs.
    pub(crate) small: u64,
    /// Workers' files are mapped by others.
    pub(crate) beside: bool,
}

impl Common {
    fn node(&self, role: Role, number: u8) -> (Runtime, Node) {
        let runtime = self.sim.runtime();
        runtime.take_time(self.pace.0, self.pace.1);
        let identity = self.authority.issue(role).unwrap();
        let node = Node::bind(identity, SocketAddr::new(host(number), PORT), &runtime).unwrap();
        (runtime, node)
    }

    fn config(&self, name: &str) -> Config {
        let scratch = self.folder.join(name);
        std::fs::create_dir(&scratch).unwrap();
        Config { scratch: vec![scratch], ..self.config.clone() }
    }
}

pub(crate) struct Head {
    cluster: RefCell<Option<Cluster>>,
    pub(crate) scheduler: LocalRef<SchedulerActor>,
    pub(crate) on_end: OnEnd,
    pub(crate) runtime: Runtime,
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
}

impl Head {
    pub(crate) fn start(common: &Common, forced: Option<Forced>) -> Self {
        let (runtime, node) = common.node(Role::Head, HEAD);
        let (id, address) = (node.id(), node.address().unwrap());
        let (authority, config) = (Arc::clone(&common.authority), common.config("head"));
        let (cluster, scheduler, on_end) =
            Cluster::simulated(runtime.clone(), node, authority, &config, forced).unwrap();
        Self { cluster: RefCell::new(Some(cluster)), scheduler, on_end, runtime, id, address }
    }

    pub(crate) fn session(&self) -> Session {
        self.cluster.borrow().as_ref().expect("it has not ended").session().clone()
    }

    pub(crate) fn take(&self) -> Option<Cluster> {
        self.cluster.take()
    }
}

pub(crate) struct Driver {
    session: RefCell<Option<Session>>,
    pub(crate) runtime: Runtime,
}

impl Driver {
    pub(crate) async fn start(common: &Common, head: &Head, tasks: usize) -> Self {
        let (runtime, node) = common.node(Role::Driver, DRIVER);
        node.connect(head.address, CONTROL).await.unwrap();
        let session = Session::simulated(runtime.clone(), node, head.id, &common.config("driver"), tasks).unwrap();
        Self { session: RefCell::new(Some(session)), runtime }
    }

    pub(crate) fn session(&self) -> Session {
        self.session.borrow().as_ref().expect("it has not ended").clone()
    }

    pub(crate) fn take(&self) -> Option<Session> {
        self.session.take()
    }
}

/// A worker's store, of which it is told when something is read.
struct Watched {
    store: Arc<Store>,
    node: NodeId,
}

impl DataSource for Watched {
    fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String> {
        note(Point::Read, Some(self.node));
        self.store.open(ticket, peer)
    }

    fn delivered(&self, ticket: &[u8], peer: PeerId) {
        self.store.delivered(ticket, peer);
    }
}

pub(crate) struct Worker {
    pub(crate) number: u8,
    pub(crate) node: NodeId,
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<Store>,
    /// It was killed, or has left.
    pub(crate) ended: Cell<bool>,
    works: Cell<Option<tokio::task::JoinHandle<()>>>,
}

impl Worker {
    /// Starts one, and hands it over once it has joined. `None` where the network keeps it from that, or the head does.
    pub(crate) async fn start(common: &Common, head: (NodeId, SocketAddr), number: u8) -> Option<Rc<Self>> {
        let (runtime, node) = common.node(Role::Worker, number);
        let name = format!("worker-{number:03}");
        // Every other has two disks.
        let disks = ["one", "other"].into_iter().take(2 - usize::from(number % 2));
        let folders = disks.map(|disk| {
            let folder = common.folder.join(disk).join(&name);
            let folder = if common.beside { folder } else { folder.join("store") };
            std::fs::create_dir_all(&folder).unwrap();
            folder
        });
        let store = Store::with_small(folders.collect(), common.small);
        node.serve_data(Arc::new(Watched { store: Arc::clone(&store), node: node.id() }));
        let events = node.events();
        let worker = Self {
            number,
            node: node.id(),
            runtime: runtime.clone(),
            store: Arc::clone(&store),
            ended: Cell::new(false),
            works: Cell::default(),
        };
        let (head, address) = head;
        let joins = async move {
            node.connect(address, CONTROL).await.map_err(|error| error.to_string())?;
            let capacity = Resources::cpus(common.cpus).with_memory(1 << 30);
            let devices = Err("there is none".to_owned());
            let recruit = Recruit { worker: None, capacity, devices, runtime, store, node, events, head };
            recruit.join().await.map_err(|error| error.to_string())
        };
        match joins.await {
            Ok(joined) => {
                let worker = Rc::new(worker);
                let ends = Rc::clone(&worker);
                let works = actix::spawn(async move {
                    joined.work(Asks::none()).await;
                    ends.exit();
                });
                worker.works.set(Some(works));
                Some(worker)
            }
            Err(_) => {
                worker.exit();
                None
            }
        }
    }

    /// The process is no more, and says nothing.
    pub(crate) fn kill(&self, sim: &Sim) {
        (1..=u8::MAX).for_each(|other| sim.partition(host(self.number), host(other)));
        self.works.take().into_iter().for_each(|works| works.abort());
        self.exit();
    }

    fn exit(&self) {
        self.ended.set(true);
        self.runtime.clone().shutdown(Duration::ZERO);
    }

    pub(crate) fn folders(&self) -> &[PathBuf] {
        self.store.folders()
    }
}
