//! What authors of user-defined functions see, and how a call finds its function again on a worker.
//!
//! A UDF is a serde value (its arguments) with a [`Udf`] implementation, registered by name through
//! [`#[regatta::udf]`](macro@crate::udf). [`Udf::pool`] turns it into a [`Pool`] of replicas, and
//! [`Pool::on`] into a Polars expression. A plain function becomes a UDF by the same attribute.

mod aggregate;
mod arrow;
mod author;
mod call;
mod context;
mod drive;
mod error;
mod found;
mod inline;
mod isolate;
mod metrics;
mod pool;
mod registry;
mod retry;
mod route;
#[doc(hidden)]
pub mod rows;
mod thread;

pub use aggregate::Aggregate;
pub use author::{AsyncUdf, Udf};
pub use context::{Batch, Context, Start};
pub use error::{UdfError, UdfResult};
pub use metrics::{Meter, Metric, Metrics, MetricsByUdf};
pub use pool::{Count, Pool, PoolOptions, RunOn};
pub use registry::Registered;
#[doc(hidden)]
pub use registry::{Erased, UdfEntry};
pub use retry::OnError;

#[doc(hidden)]
pub use {inventory, serde};

pub use self::arrow::{column_from_arrow, column_to_arrow};
pub(crate) use call::{CallingTask, UdfCall, batch_of, wire_form};
pub(crate) use context::Seat;
#[cfg(feature = "gpu")]
pub(crate) use isolate::serve_several;
pub(crate) use isolate::{OUTPUT, VISIBLE, serve as serve_isolated};
pub(crate) use metrics::{Report, TaskMeter};
pub(crate) use registry::{conform, registered};
pub(crate) use retry::{Call, Deaths, Retry};
pub(crate) use route::Router;
pub(crate) use thread::{CALLS, Fault, ReplicaSpec, ReplicaThread, Reply, Said, stop_replicas};
#[cfg(feature = "gpu")]
pub(crate) use {
    isolate::{GpuSeat, Link},
    registry::{AnyUdf, Replica, open},
};
