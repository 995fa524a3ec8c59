//! What one look costs, the head's side and the viewer's together, on a loopback: of a screen of 24 lines of a cluster of 1,000
//! workers, and of all of them. `cargo bench -p regatta-observe --features window --bench look`

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regatta_observe::window::{Answering, Head, Look, MAILBOX, WINDOW, Window, read};
use regatta_observe::{Answer, Ask, ClusterView, Order, QueryRow, WorkerRow};
use regatta_remote::{Address, Authority, Node, NodeId, Role, Runtime};

const SOON: Duration = Duration::from_secs(10);
const WORKERS: u32 = 1000;

struct Made(Arc<ClusterView>);

impl Head for Made {
    fn look(&self, ask: Ask) -> Answering {
        let view = Arc::clone(&self.0);
        Box::pin(async move {
            let Ask::Cluster { queries, workers, .. } = ask else { panic!("nothing else is asked") };
            Ok(Answer::Cluster(Box::new(ClusterView {
                queries: view.queries.iter().take(queries as usize).cloned().collect(),
                workers: view.workers.iter().take(workers as usize).cloned().collect(),
                ..ClusterView::default()
            })))
        })
    }

    fn act(&self, _: Order, _: NodeId) -> Answering {
        panic!("nobody does anything")
    }
}

fn view() -> ClusterView {
    let worker = |worker| WorkerRow {
        worker,
        cpus: (16.0, 15.5),
        busy: Some(12.345),
        memory: (64 << 30, 23 << 30),
        used: 12_345_678_901,
        peak: 23_456_789_012,
        tasks: (31, 2),
        address: Some(format!("10.0.{}.{}:45678", worker / 256, worker % 256)),
        ..WorkerRow::default()
    };
    let query = |query: u32| QueryRow {
        id: format!("{query:016x}"),
        name: Some("nightly".to_owned()),
        submitted_ms: 1_700_000_000_000,
        time: 42_000_000_000,
        stages: (1, 4),
        doing: "scan lineitem.parquet, filter, Embed".to_owned(),
        tasks: (311, Some(512)),
        rows: 3_638_700,
        rate: Some(86_123.4),
        waits: vec!["12 batches wait for room at a replica of UDF demo::Embed, on worker 2, for 3.10 s".to_owned(); 3],
        driver: Some("00000000000000a7".to_owned()),
        ..QueryRow::default()
    };
    ClusterView {
        workers: (0..WORKERS).map(worker).collect(),
        queries: (0..20).map(query).collect(),
        ..ClusterView::default()
    }
}

/// CPU time of this process so far, of all its threads. Ticks are a hundredth of a second.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn main() {
    let (runtime, authority) = (Runtime::new("look", 2).unwrap(), Authority::new().unwrap());
    let bind = |role| {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Node::bind(authority.issue(role).unwrap(), here, &runtime.with_build(&b"look"[..])).unwrap()
    };
    let head = bind(Role::Head);
    let (arbiter, own, made) = (runtime.arbiter().unwrap(), runtime.clone(), Arc::new(Made(Arc::new(view()))));
    Window::publish(&head, &arbiter.spawn(MAILBOX, move |_| Window::new(made, own)));
    for (what, workers, looks) in [("a screen of 24 lines", 24, 100), ("all workers", WORKERS, 8)] {
        // A viewer gets so much at once: each part has one of its own.
        let viewer = bind(Role::Observer);
        let (bytes, took, used) = runtime.handle().block_on(async {
            viewer.connect(head.address().unwrap(), SOON).await.unwrap();
            let window = viewer.actor::<Window>(Address { node: head.id(), actor: WINDOW });
            let ask = Ask::Cluster { queries: 20, from: 0, workers };
            let (began, before, mut bytes) = (Instant::now(), cpu(), 0);
            for _ in 0..looks {
                let text = window.ask(Look::new(&ask), SOON).await.unwrap();
                read(&text).unwrap();
                bytes += text.len();
            }
            (bytes / looks, began.elapsed() / looks as u32, (cpu() - before) / looks as u32)
        });
        println!("{what}: {bytes} bytes, {took:.1?}, {used:.1?} of CPU");
    }
}
