//! Sessions of a simulation's processes.

use std::sync::Arc;

use regatta_remote::{Authority, LocalRef, Node, NodeId, Runtime};

use super::parts::{Ground, Head};
use super::{Cluster, Session, Tasks};
use crate::actors::SchedulerActor;
use crate::config::Config;
use crate::error::Error;
use crate::sched::Forced;

pub(crate) use crate::cluster::OnEnd;

impl Cluster {
    /// A cluster whose head is at this node.
    pub(crate) fn simulated(
        runtime: Runtime,
        node: Node,
        authority: Arc<Authority>,
        config: &Config,
        forced: Option<Forced>,
    ) -> Result<(Self, LocalRef<SchedulerActor>, OnEnd), Error> {
        let ground = Ground::on(runtime, config, |_| Ok(Some((node, None))))?;
        let head = Head::new(ground, config, None, forced)?;
        let (scheduler, on_end) = (head.scheduler.clone(), head.on_end());
        Ok((Self::on(head, authority, None)?, scheduler, on_end))
    }
}

impl Session {
    /// A driver at this node, which is connected to that head; stages are split into so many tasks.
    pub(crate) fn simulated(
        runtime: Runtime,
        node: Node,
        head: NodeId,
        config: &Config,
        tasks: usize,
    ) -> Result<Self, Error> {
        let ground = Ground::on(runtime, config, |_| Ok(Some((node, Some(head)))))?;
        Self::through(ground, Tasks::Fixed(tasks))
    }
}
