//! The scheduler without its shell: queue, ledger, pools and attempts as plain structs that take `now` and answer with
//! actions. No tokio, no actix, no Polars.

mod actors;
mod autoscale;
mod core;
mod ids;
mod ledger;
mod need;
mod policy;
mod pool;
mod queries;
mod query;
mod queues;
mod resources;
mod shape;
mod sizes;
mod status;
mod turns;
mod waiting;

pub(crate) use self::core::{Action, Core, Event, Settings};
pub(crate) use autoscale::ScaleSettings;
pub(crate) use ids::{Attempt, DriverId, PartitionId, PoolId, ReplicaId};
pub use ids::{QueryId, StageId, StepId, TaskId, WorkerId};
pub(crate) use need::Holds;
#[cfg(test)]
pub(crate) use need::PASSING;
pub(crate) use policy::Affinity;
pub(crate) use pool::PoolSpec;
pub(crate) use query::{Outcome, Output, QuerySpec, Report, StageSpec};
pub(crate) use resources::Resources;
pub(crate) use shape::{Fits, Forced, MOST_PARTS, Mode, Part, Reader, Shape, Small, Tasks, Way};
pub(crate) use sizes::{MAX_SECTIONS, Sizes};
pub(crate) use status::StageWaits;
pub use status::{GpuInfo, PoolStatus, QueryStatus, SessionStatus, StageStatus, Wait, WaitsFor, WorkerStatus};
