//! The seam between a head and who gives it places for workers.

use std::fmt::Debug;
use std::sync::Arc;

use super::provider::Start;
use super::tokens::Entrance;
use crate::actors::ClusterProvider;
use crate::error::ClusterError;

/// Who can give places for workers: a pilot, or Kubernetes. Takes orders, and nobody gives any yet.
pub(crate) trait Host: Debug + Send {
    /// The address at which workers find this machine, if it knows.
    fn host(&self) -> Option<&str>;

    /// Has workers come in there.
    ///
    /// # Errors
    /// There is no thread.
    fn serve(self: Box<Self>, start: Start, entrance: Entrance) -> Result<Arc<dyn Hosted>, ClusterError>;
}

/// Workers in places that were given. They end when this is closed or dropped, and when this process ends in any way.
pub(crate) trait Hosted: ClusterProvider + Debug {
    /// Ends all workers with their places, and lets none start any more.
    fn close(&self);
}
