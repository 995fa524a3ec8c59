//! The head of a cluster of several machines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use regatta_remote::{Authority, Node, Role};

use super::door::Door;
use super::parts::{Ground, Head};
use super::{Session, Tasks};
use crate::cluster::{hello, is_worker, resolve};
use crate::config::Config;
use crate::error::{ClusterError, Error};

/// A cluster of several machines, whose head is this process. It ends, with its workers and queries, when the last clone of
/// this and of its session is dropped.
///
/// ```no_run
/// use regatta::prelude::*;
/// use std::time::Duration;
///
/// let cluster = regatta::Cluster::serve("0.0.0.0:7700")?;
/// let token = cluster.worker_token(8, Duration::from_secs(600))?;
/// println!("on up to 8 machines: REGATTA_JOIN=<this machine>:7700 REGATTA_TOKEN={token} ./this-program");
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cluster {
    session: Session,
    authority: Arc<Authority>,
    address: SocketAddr,
}

impl Cluster {
    /// Begins to serve a cluster at `host:port`, with no worker yet and certificates of its own. Port 0 takes a free one.
    ///
    /// A worker is this same executable, started on its machine with `REGATTA_JOIN=host:port` and `REGATTA_TOKEN` (see
    /// [`worker_token`](Self::worker_token)); its main is under [`#[regatta::main]`](macro@crate::main). It has as many CPUs as
    /// it may use, or as `POLARS_MAX_THREADS` says, and ends with this process.
    ///
    /// # Errors
    /// A variable with a bad value; an address that cannot be bound; no scratch folder, no threads.
    pub fn serve(bind: &str) -> Result<Self, Error> {
        Self::serve_with(bind, Config::from_env()?)
    }

    /// [`serve`](Self::serve), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn serve_with(bind: &str, config: Config) -> Result<Self, Error> {
        config.validate()?;
        if is_worker() {
            return Err(ClusterError::InWorker.into());
        }
        let cannot = || format!("serve a cluster at {bind}");
        let to = resolve(bind).map_err(|e| ClusterError::network(cannot(), e))?;
        let authority = Authority::new().map_err(|e| ClusterError::network(cannot(), e))?;
        let authority = Arc::new(authority);
        let identity = authority.issue(Role::Head).map_err(|e| ClusterError::network(cannot(), e))?;
        let ground = Ground::new(&config, |runtime| {
            let node = Node::bind(identity, to, &runtime.with_build(hello()));
            Ok(Some((node.map_err(|e| ClusterError::network(cannot(), e))?, None)))
        })?;
        let cluster = Self::on(Head::new(ground, &config, None, Config::forced_shapes())?, authority)?;
        cluster.session.clone().shown_as(&config)?;
        Ok(cluster)
    }

    /// Serves it at this head.
    pub(super) fn on(head: Head, authority: Arc<Authority>) -> Result<Self, Error> {
        let node = head.ground.host.node.clone().ok_or(ClusterError::Closed)?;
        head.serve(&node, Arc::clone(&authority))?;
        let address = node.address().map_err(|e| ClusterError::network("find the head's address", e))?;
        let Head { ground, scheduler, arbiter, .. } = head;
        let session = Session::of(ground, Door::Here(scheduler), vec![arbiter], None, Tasks::Ask);
        Ok(Self { session, authority, address })
    }

    /// The address that it is served at. If that is `0.0.0.0`, others use a name or an address of this machine.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs queries here at the head. Its queries wait until there is a worker, for `REGATTA_WORKER_TIMEOUT` at most.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A text that lets in so many workers within `valid`. A secret: whoever has it gets your queries and their data.
    ///
    /// # Errors
    /// No randomness from the system, or thousands of tokens wait to be used.
    pub fn worker_token(&self, workers: u32, valid: Duration) -> Result<String, Error> {
        self.token(workers, Role::Worker, valid)
    }

    /// A text that lets in so many drivers within `valid`, by [`Session::connect`]. A secret: whoever has it runs queries here.
    ///
    /// # Errors
    /// As [`worker_token`](Self::worker_token).
    pub fn driver_token(&self, drivers: u32, valid: Duration) -> Result<String, Error> {
        self.token(drivers, Role::Driver, valid)
    }

    /// A text with which the `regatta` command looks at the cluster, from any machine and any number of times within `valid`, and
    /// does nothing else. A secret: whoever has it sees every query's plan and figures, though no data.
    ///
    /// # Errors
    /// As [`worker_token`](Self::worker_token).
    pub fn observer_token(&self, valid: Duration) -> Result<String, Error> {
        self.token(u32::MAX, Role::Observer, valid)
    }

    /// The same for who operates the cluster: it also cancels queries, drains workers, and makes tokens of the other kinds. A secret: whoever has it
    /// can get what any driver or worker gets.
    ///
    /// # Errors
    /// As [`worker_token`](Self::worker_token).
    pub fn operator_token(&self, valid: Duration) -> Result<String, Error> {
        self.token(u32::MAX, Role::Operator, valid)
    }

    fn token(&self, nodes: u32, role: Role, valid: Duration) -> Result<String, Error> {
        let token = self.authority.token_for(nodes, role, valid);
        Ok(token.map_err(|e| ClusterError::network("make a token", e))?.to_string())
    }
}
