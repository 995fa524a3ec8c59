//! Sessions whose workers are on a Ray cluster.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Cluster, Inner, Session};
use crate::cluster::RayOptions;
use crate::config::Config;
use crate::error::Error;

/// The session on Ray that this process has begun last.
static ON_RAY: Mutex<Weak<Inner>> = Mutex::new(Weak::new());

impl Session {
    /// Runs queries on workers that a Ray cluster places: this same executable, started on its nodes by an actor of Ray's each, which
    /// must therefore have [`#[regatta::main]`](macro@crate::main) on its `main`. This process, the head, runs on a node of the cluster,
    /// as a job's entrypoint or by hand. Workers that wait for room are a demand that Ray's autoscaler sees; they end with this session
    /// or this process.
    ///
    /// Returns as soon as workers can be asked for. Queries wait for the first, for `REGATTA_WORKER_TIMEOUT` at most.
    ///
    /// # Errors
    /// [`RayError`](crate::error::RayError), in [`ClusterError`](crate::error::ClusterError): there is no Python with Ray, no cluster, or
    /// it does not answer; each says what to do. Else as [`Cluster::serve`].
    pub fn ray(options: RayOptions) -> Result<Self, Error> {
        Self::ray_with(options, Config::from_env()?)
    }

    /// [`ray`](Self::ray), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn ray_with(options: RayOptions, config: Config) -> Result<Self, Error> {
        let mut last = ON_RAY.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = last.upgrade().filter(|_| options.noop_if_initialized) {
            return Ok(Self { inner });
        }
        let session = Cluster::ray_with(options, config)?.session().clone();
        *last = Arc::downgrade(&session.inner);
        Ok(session)
    }
}

impl Cluster {
    /// [`Session::ray`] as the head of a cluster: with tokens for drivers and for who looks.
    ///
    /// # Errors
    /// As there.
    pub fn ray(options: RayOptions) -> Result<Self, Error> {
        Self::ray_with(options, Config::from_env()?)
    }

    /// [`ray`](Self::ray), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn ray_with(options: RayOptions, mut config: Config) -> Result<Self, Error> {
        Self::may_begin(&config)?;
        config.max_task_backlog = options.max_task_backlog.or(config.max_task_backlog);
        let (wanted, host) = options.engage()?;
        // Only where Ray's own processes find this node, too.
        let bind = if host.contains(':') { format!("[{host}]:0") } else { format!("{host}:0") };
        Self::begin(&bind, Some(wanted), config)
    }
}
