//! The head of a cluster of several machines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use regatta_remote::{Authority, Node, Role};

use super::door::Door;
use super::parts::{Ground, Head, scale};
use super::{Session, Started, Tasks};
use crate::actors::UseProvider;
use crate::cluster::{Entrance, Hosted, Pilot, Wanted, resolve};
use crate::config::Config;
use crate::error::{ClusterError, Error};
use crate::hello::hello;
use crate::process::is_worker;

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
        Self::begin(bind, None, config)
    }

    /// [`serve`](Self::serve), with workers in places that a pilot gives, as many as the work asks for: more are asked for when what
    /// waits is more than `DAFT_AUTOSCALING_THRESHOLD` of what there is, and idle ones go. Others may join by token all the same.
    ///
    /// Workers find the head at the address that the pilot says, at this port; else at `bind`, which must then be an address and not
    /// `0.0.0.0`.
    ///
    /// # Errors
    /// As there; [`ClusterError::Pilot`]: the pilot cannot be started, or is not ready in time. What it does wrong later is an error of
    /// queries that find no worker, and starts it again.
    pub fn serve_by(bind: &str, pilot: Pilot) -> Result<Self, Error> {
        Self::serve_by_with(bind, pilot, Config::from_env()?)
    }

    /// [`serve_by`](Self::serve_by), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn serve_by_with(bind: &str, pilot: Pilot, config: Config) -> Result<Self, Error> {
        Self::may_begin(&config)?;
        Self::begin(bind, Some(pilot.engage()?), config)
    }

    /// Whether this process may be a head, with these settings.
    pub(super) fn may_begin(config: &Config) -> Result<(), Error> {
        config.validate()?;
        if is_worker() { Err(ClusterError::InWorker.into()) } else { Ok(()) }
    }

    pub(super) fn begin(bind: &str, wanted: Option<Wanted>, config: Config) -> Result<Self, Error> {
        Self::may_begin(&config)?;
        let cannot = || format!("serve a cluster at {bind}");
        let to = resolve(bind).map_err(|e| ClusterError::network(cannot(), e))?;
        let authority = Authority::new().map_err(|e| ClusterError::network(cannot(), e))?;
        let authority = Arc::new(authority);
        let identity = authority.issue(Role::Head).map_err(|e| ClusterError::network(cannot(), e))?;
        let ground = Ground::new(&config, |runtime| {
            let node = Node::bind(identity, to, &runtime.with_build(hello()));
            Ok(Some((node.map_err(|e| ClusterError::network(cannot(), e))?, None)))
        })?;
        let scale = wanted.as_ref().map(|wanted| scale(&config, wanted.workers, wanted.each, wanted.no_gpu.clone()));
        let cluster = Self::on(Head::new(ground, &config, scale, Config::forced_shapes())?, authority, wanted)?;
        cluster.session.clone().shown_as(&config)?;
        Ok(cluster)
    }

    /// Serves it at this head.
    pub(super) fn on(head: Head, authority: Arc<Authority>, wanted: Option<Wanted>) -> Result<Self, Error> {
        let node = head.ground.host.node.clone().ok_or(ClusterError::Closed)?;
        head.serve(&node, Arc::clone(&authority))?;
        let address = node.address().map_err(|e| ClusterError::network("find the head's address", e))?;
        let started = match wanted {
            Some(Wanted { engaged, start, workers: (least, _), .. }) => {
                let address = found_at(engaged.host(), address)?;
                let entrance = Entrance { authority: Arc::clone(&authority), node, address, on_end: head.on_end() };
                let workers = engaged.serve(start, entrance)?;
                let provider = UseProvider(Arc::<dyn Hosted>::clone(&workers));
                head.scheduler.try_tell(provider).map_err(|e| ClusterError::network("start the scheduler", e))?;
                // The scheduler asks for others than these.
                workers.demand(least);
                Started::Hosted(workers)
            }
            None => Started::None,
        };
        let Head { ground, scheduler, arbiter, .. } = head;
        let session = Session::of(ground, Door::Here(scheduler), vec![arbiter], started, Tasks::Ask);
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

/// Where workers that a pilot places find the head.
fn found_at(host: Option<&str>, bound: SocketAddr) -> Result<SocketAddr, ClusterError> {
    let cannot = |why: String| ClusterError::network("tell workers where the head is", why);
    match host {
        Some(host) if host.contains(':') => resolve(&format!("[{host}]:{}", bound.port())),
        Some(host) => resolve(&format!("{host}:{}", bound.port())),
        None if bound.ip().is_unspecified() => {
            return Err(cannot(format!(
                "{bound} is no address for others: serve at one of this machine's, or have the pilot say it"
            )));
        }
        None => Ok(bound),
    }
    .map_err(|error| cannot(format!("{:?}: {error}", host.unwrap_or_default())))
}
