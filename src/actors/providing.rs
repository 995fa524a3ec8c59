//! What the provider of workers is to do: not on the scheduler's thread, for processes take their time to start and end; and in order,
//! for of two demands the later one counts.

use std::sync::Arc;

use actix::Handler;
use regatta_remote::NodeId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::SchedulerActor;
use super::messages::UseProvider;
use crate::cluster::ClusterProvider;

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
