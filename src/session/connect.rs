//! A driver of a cluster elsewhere.

use std::sync::Arc;

use regatta_remote::{Address, Role};

use super::door::Door;
use super::parts::Ground;
use super::{Session, Started, Tasks};
use crate::actors::{GATEWAY, SCHEDULER};
use crate::cluster::connect;
use crate::config::{ClusterAt, Config};
use crate::error::{ClusterError, Error};
use crate::notice::notice;
use crate::process::is_worker;
use crate::store::Store;

impl Session {
    /// Runs queries on the cluster whose head [serves](crate::Cluster::serve) at this `host:port`, with a text of its
    /// [`driver_token`](crate::Cluster::driver_token). This process only dials: it may be behind a NAT. Results come from the
    /// workers that hold them, by way of the head from those that cannot be dialled. The session's end, or its loss, ends its
    /// queries and nobody else's. Settings that concern scheduling are those of the head.
    ///
    /// # Errors
    /// Within seconds: nobody is there, the token is wrong, used or has expired, the cluster is another, or its executable is
    /// another build.
    pub fn connect(address: &str, token: &str) -> Result<Self, Error> {
        Self::connect_with(address, token, Config::from_env()?)
    }

    /// [`connect`](Self::connect), with these settings.
    ///
    /// # Errors
    /// As there.
    pub fn connect_with(address: &str, token: &str, config: Config) -> Result<Self, Error> {
        config.validate()?;
        if is_worker() {
            return Err(ClusterError::InWorker.into());
        }
        if config.dashboard.is_some() {
            notice(
                "REGATTA_DASHBOARD has no effect in a driver: the head shows what its scheduler does, or `regatta dashboard`, from anywhere",
            );
        }
        let at = ClusterAt { address: address.to_owned(), token: token.to_owned() };
        let ground = Ground::new(&config, |runtime| {
            let (node, head, ()) = connect(&at, (Role::Driver, 0), runtime, |_| ())?;
            Ok(Some((node, Some(head))))
        })?;
        Self::through(ground, Tasks::Ask)
    }

    /// On the cluster of the head that this process is connected to.
    pub(super) fn through(ground: Ground, tasks: Tasks) -> Result<Self, Error> {
        let (Some(node), Some(head)) = (ground.host.node.clone(), ground.host.head) else {
            return Err(ClusterError::Closed.into());
        };
        // Frames of queries are fetched from here, by way of the head where this process cannot be dialled.
        node.serve_data(Arc::<Store>::clone(&ground.host.store));
        let door = Door::There {
            scheduler: node.actor(Address { node: head, actor: SCHEDULER }),
            gateway: node.actor(Address { node: head, actor: GATEWAY }),
            wanted: Arc::default(),
        };
        Ok(Self::of(ground, door, Vec::new(), Started::None, tasks))
    }
}
