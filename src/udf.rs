//! What authors of user-defined functions see, and how a call finds its function again on a worker.
//!
//! A UDF is a serde value (its arguments) with a [`Udf`] implementation, registered by name through
//! [`#[regatta::udf]`](macro@crate::udf). [`Udf::pool`] turns it into a [`Pool`] of replicas, and
//! [`Pool::on`] into a Polars expression. A plain function becomes a UDF by the same attribute.

mod arrow;
mod author;
mod call;
mod inline;
mod pool;
mod registry;
mod retry;
mod route;
#[doc(hidden)]
pub mod rows;
mod thread;

pub use author::{Batch, Start, Udf, UdfError, UdfResult};
pub use pool::{Pool, PoolOptions, Replicas};
pub use registry::{AnyUdf, Registered, Replica, UdfEntry};
pub use retry::OnError;

#[doc(hidden)]
pub use {inventory, serde};

pub use self::arrow::{column_from_arrow, column_to_arrow};
pub(crate) use call::{UdfCall, batch_of};
pub(crate) use registry::{conform, open, registered};
pub(crate) use retry::{Call, Retry};
pub(crate) use route::Router;
pub(crate) use thread::ReplicaThread;
