//! Sessions whose workers are pods of a Kubernetes cluster.

use super::{Cluster, Session};
use crate::cluster::KubeOptions;
use crate::config::Config;
use crate::error::Error;

impl Session {
    /// Runs queries on workers that are pods of the Kubernetes cluster which this process runs in, itself in a pod: this same
    /// executable, in the same image, which must therefore have [`#[regatta::main]`](macro@crate::main) on its `main`. Pods that wait
    /// for a node are a demand that the cluster's autoscaler sees; all end with this session, this process or this pod.
    ///
    /// Returns as soon as workers can be asked for. Queries wait for the first, for `REGATTA_WORKER_TIMEOUT` at most. Needs the feature
    /// `kubernetes`; docs/book/src/kubernetes.md has the role that this pod's service account needs.
    ///
    /// # Errors
    /// [`KubeError`](crate::error::KubeError), in [`ClusterError`](crate::error::ClusterError): this is no pod, or the API server does
    /// not answer or refuses; each says what to do. Else as [`Cluster::serve`].
    pub fn kubernetes(options: KubeOptions) -> Result<Self, Error> {
        Self::kubernetes_with(options, Config::from_env()?)
    }

    /// [`kubernetes`](Self::kubernetes), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn kubernetes_with(options: KubeOptions, config: Config) -> Result<Self, Error> {
        Ok(Cluster::kubernetes_with(None, options, config)?.session().clone())
    }
}

impl Cluster {
    /// [`Session::kubernetes`] as the head of a cluster: with tokens for drivers and for who looks, and served at an address as
    /// `0.0.0.0:7700`, which a Service can lead to; `None`: at this pod's, at a port that is free.
    ///
    /// # Errors
    /// As there.
    pub fn kubernetes(bind: Option<&str>, options: KubeOptions) -> Result<Self, Error> {
        Self::kubernetes_with(bind, options, Config::from_env()?)
    }

    /// [`kubernetes`](Self::kubernetes), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn kubernetes_with(bind: Option<&str>, options: KubeOptions, config: Config) -> Result<Self, Error> {
        Self::may_begin(&config)?;
        let (wanted, host) = options.engage()?;
        let bind = bind.map(str::to_owned);
        let bind = bind.unwrap_or_else(|| if host.contains(':') { format!("[{host}]:0") } else { format!("{host}:0") });
        Self::begin(&bind, Some(wanted), config)
    }
}
