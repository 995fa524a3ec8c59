//! What the provider of workers is to do: not on the scheduler's thread, for processes take their time to start and end; and in order,
//! for of two demands the later one counts.

use std::sync::Arc;

use actix::Handler;
use regatta_remote::NodeId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::SchedulerActor;
use crate::sched::WorkerId;

/// Where workers come from and go to. Calls may block; what cannot be done is logged, and asked for again if it is still
/// wanted.
pub(crate) trait ClusterProvider: Send + Sync {
    /// There are to be so many workers: starts what is missing. Replaces what was asked for before.
    fn demand(&self, workers: usize);

    /// Ends a worker that has nothing to do, or is lost.
    fn retire(&self, worker: WorkerId, node: Option<NodeId>);

    /// A worker has joined at this node, whoever has started it.
    fn joined(&self, _: NodeId) {}

    /// Whether it has started the worker at this node, in a place that it was given: the head then need not ask which machine that
    /// is. Must not block.
    fn has_started(&self, _: NodeId) -> bool {
        false
    }

    /// What it waits for, as the end of "it waits ...". Must not block.
    fn waits(&self) -> Option<String> {
        None
    }
}

/// Who starts and stops workers for the scheduler.
pub(crate) struct UseProvider(pub(crate) Arc<dyn ClusterProvider>);

impl actix::Message for UseProvider {
    type Result = ();
}

/// The provider, and what waits to be done by it. That is bounded by the workers that come and go.
pub(super) struct Provider {
    provider: Arc<dyn ClusterProvider>,
    tasks: mpsc::UnboundedSender<Task>,
}

type Task = Box<dyn FnOnce(&dyn ClusterProvider) + Send>;

impl Provider {
    fn new(provider: Arc<dyn ClusterProvider>, runtime: &Handle) -> Self {
        let (tasks, mut waiting) = mpsc::unbounded_channel::<Task>();
        let asked = Arc::clone(&provider);
        runtime.spawn(async move {
            while let Some(task) = waiting.recv().await {
                let provider = Arc::clone(&asked);
                drop(tokio::task::spawn_blocking(move || task(&*provider)).await);
            }
        });
        Self { provider, tasks }
    }
}

impl SchedulerActor {
    pub(super) fn provide(&self, what: impl FnOnce(&dyn ClusterProvider) + Send + 'static) {
        if let Some(Provider { tasks, .. }) = &self.provider {
            // Fails only once its threads end.
            drop(tasks.send(Box::new(what)));
        }
    }

    /// Whether the provider has started the worker at this node.
    pub(super) fn is_provided(&self, node: NodeId) -> bool {
        self.provider.as_ref().is_some_and(|Provider { provider, .. }| provider.has_started(node))
    }

    /// What the provider waits for.
    pub(super) fn provider_waits(&self) -> Option<String> {
        self.provider.as_ref()?.provider.waits()
    }
}

impl Handler<UseProvider> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, UseProvider(provider): UseProvider, _: &mut Self::Context) {
        self.provider = Some(Provider::new(provider, self.host.runtime.handle()));
    }
}
