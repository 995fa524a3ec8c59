//! The head as a source of transfers: its own store, and what it brings from other nodes for those that cannot reach them.

use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use regatta_remote::{DataReader, DataSource, Fetch, FetchError, PeerId, Runtime, decode};

use super::Host;
use crate::store::Ticket;

/// Serves the head's transfers. Partitions pass through as they come: no more of one is held here than a credit window.
pub(crate) struct Relay {
    // The host owns the node, which owns this.
    host: Weak<Host>,
}

impl Relay {
    /// Makes a head serve transfers.
    pub(crate) fn serve(host: &Arc<Host>) {
        if let Some(node) = &host.node {
            node.serve_data(Arc::new(Self { host: Arc::downgrade(host) }));
        }
    }
}

impl DataSource for Relay {
    fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String> {
        let host = self.host.upgrade().ok_or("the head is closing")?;
        match decode(ticket).map_err(|e| e.to_string())? {
            Ticket::Through { worker, node, wanted } => {
                host.store.may_read(wanted.query, peer)?;
                let runtime = host.runtime.clone();
                // This thread may block: it is one for sources.
                let fetch = runtime.wait(host.pass_on(worker, node, wanted)).map_err(|e| e.to_string())?;
                Ok(Box::new(Passing { fetch, left: Bytes::new(), runtime }))
            }
            _ => host.store.open(ticket, peer),
        }
    }

    fn delivered(&self, ticket: &[u8], peer: PeerId) {
        if let Some(host) = self.host.upgrade() {
            host.store.delivered(ticket, peer);
        }
    }
}

struct Passing {
    fetch: Fetch,
    left: Bytes,
    runtime: Runtime,
}

impl DataReader for Passing {
    fn total(&self) -> u64 {
        self.fetch.total()
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        if self.left.is_empty() {
            let next = self.runtime.wait(self.fetch.next()).map_err(|error| match error {
                FetchError::SourceFailed => io::Error::other(error),
                // Who holds it is not to blame.
                lost => io::Error::new(io::ErrorKind::ConnectionAborted, lost),
            })?;
            self.left = next.unwrap_or_default();
        }
        Ok(self.left.split_to(max.min(self.left.len())))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use polars::prelude::*;
    use regatta_remote::{Authority, Node, Role, Runtime};

    use super::super::Place;
    use super::*;
    use crate::error::TaskFailure;
    use crate::sched::{Attempt, Output, PartitionId, QueryId, StageId, TaskId, WorkerId};
    use crate::store::{Form, Part, Store, Wanted};

    fn node(authority: &Authority, role: Role, runtime: &Runtime) -> (Node, SocketAddr) {
        let identity = authority.issue(role).unwrap();
        let node = Node::bind(identity, "127.0.0.1:0".parse().unwrap(), runtime).unwrap();
        let address = node.address().unwrap();
        (node, address)
    }

    fn partition(store: &Arc<Store>, frame: &DataFrame) -> Output {
        let task = TaskId { query: QueryId(1), stage: StageId(0), index: 0 };
        let id = PartitionId { task, attempt: Attempt(1) };
        store.keep(id, frame.clone()).unwrap()
    }

    #[test]
    fn a_transfer_that_is_lost_on_its_way_to_the_head_is_no_loss_of_what_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new("relay", 2).unwrap();
        let authority = Authority::new().unwrap();
        let (head, at_head) = node(&authority, Role::Head, &runtime);
        let (worker, at_worker) = node(&authority, Role::Worker, &runtime);
        let (driver, _) = node(&authority, Role::Driver, &runtime);
        let wait = runtime.handle();
        let dial = |node: &Node| wait.block_on(node.connect(at_head, super::super::CONTROL)).unwrap();
        dial(&worker);
        dial(&driver);
        let far = folder.path().join("far");
        std::fs::create_dir(&far).unwrap();
        let store = Store::new(&far);
        worker.serve_data(Arc::<Store>::clone(&store));
        // More than the windows on the way hold.
        let frame = df!["x" => (0..4_000_000i64).collect::<Vec<_>>()].unwrap();
        let output = partition(&store, &frame);
        let at = Host::new(runtime.clone(), Store::new(folder.path()), Some(head.clone()), None);
        Relay::serve(&at);
        at.store.own(QueryId(1), driver.id());
        let host = Host::new(runtime.clone(), Store::new(folder.path()), Some(driver), Some(head.id()));
        let place = Place { worker: WorkerId(0), node: Some((worker.id(), at_worker)) };
        // This driver has no way to the address, which is right.
        host.cannot_reach(worker.id());
        let wanted = || {
            let (query, stage, parts) = (QueryId(1), StageId(0), vec![Part::all(output.id)]);
            Wanted { query, stage, sections: 0..1, parts, machine: None }
        };
        let mut fetch = wait.block_on(host.fetch_blocks(&place, wanted())).unwrap();
        wait.block_on(fetch.next()).unwrap();
        head.disconnect(worker.id());
        let lost = loop {
            if let Err(error) = wait.block_on(fetch.next()) {
                break error;
            }
        };
        assert!(!matches!(lost, FetchError::SourceFailed), "what was made is well");
        let failure = wait.block_on(host.fetch_blocks(&place, wanted())).unwrap_err();
        assert!(matches!(&failure, TaskFailure::Transfer { from, .. } if from == "worker 0"), "{failure}");
        assert!(head.peers().iter().all(|peer| peer.node != worker.id()), "nobody is dialled on a driver's word");
        runtime.shutdown(std::time::Duration::from_secs(2));
    }

    #[test]
    fn what_cannot_be_dialled_comes_by_way_of_the_head_and_what_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new("relay", 2).unwrap();
        let authority = Authority::new().unwrap();
        let (head, at_head) = node(&authority, Role::Head, &runtime);
        let (worker, _) = node(&authority, Role::Worker, &runtime);
        let (driver, _) = node(&authority, Role::Driver, &runtime);
        let dial = |node: &Node| runtime.handle().block_on(node.connect(at_head, super::super::CONTROL)).unwrap();
        assert_eq!((dial(&worker), dial(&driver)), (head.id(), head.id()));

        let far = folder.path().join("far");
        std::fs::create_dir(&far).unwrap();
        let store = Store::new(&far);
        worker.serve_data(Arc::<Store>::clone(&store));
        // More than the head holds of it at a time.
        let frame = df!["x" => (0..2_000_000i64).collect::<Vec<_>>()].unwrap();
        let output = partition(&store, &frame);
        let empty = || Store::new(folder.path());
        let at_head = Host::new(runtime.clone(), empty(), Some(head.clone()), None);
        Relay::serve(&at_head);
        at_head.store.own(QueryId(1), driver.id());
        let host = Host::new(runtime.clone(), empty(), Some(driver), Some(head.id()));

        // Nobody is at this address: a network that the driver has no way into.
        let place = Place { worker: WorkerId(0), node: Some((worker.id(), "127.0.0.1:9".parse().unwrap())) };
        let form = Form::new(frame.schema());
        let fetched = runtime.handle().block_on(host.rows(place, output.id, &form)).unwrap();
        assert!(fetched.equals(&frame));
        store.drop_query(QueryId(1));
        let missing = runtime.handle().block_on(host.rows(place, output.id, &form)).unwrap_err().to_string();
        assert!(missing.contains("worker 0") && missing.contains("not there any more"), "{missing}");
        drop(at_head);
        runtime.shutdown(std::time::Duration::from_secs(2));
    }
}
