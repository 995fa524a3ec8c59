//! Polars LazyFrames and stateful UDF actors, from one process to a cluster, from one binary.
//!
//! Write plain Polars; call a UDF as an expression; choose where it runs in one line.
//!
//! ```no_run
//! use regatta::{polars::prelude::*, prelude::*};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Shout { mark: String }                      // arguments: they travel
//!
//! #[regatta::udf]                                    // registered under its path
//! impl Udf for Shout {
//!     type State = String;                           // built on the replica's own thread
//!     fn output(&self, _: &[Field]) -> UdfResult<DataType> { Ok(DataType::String) }
//!     fn start(&self, _: &mut Start) -> UdfResult<String> { Ok(self.mark.repeat(3)) }
//!     fn run(&self, marks: &mut String, batch: &Batch) -> UdfResult<Column> {
//!         let text = batch.column(0)?.str()?;
//!         Ok(text.apply_values(|s| format!("{s}{marks}").into()).into_column())
//!     }
//! }
//!
//! #[regatta::main]                                   // a worker when started as one
//! fn main() -> Result<(), regatta::Error> {
//!     let session = Session::local(4)?;              // or ::native(), ::from_env()
//!     let shout = Shout { mark: "!".into() }.pool().replicas(2).batch(1024);
//!     let query = LazyFrame::scan_parquet("words/*.parquet".into(), Default::default())
//!         .unwrap()
//!         .with_column(shout.on([col("word")]).alias("loud"));
//!     println!("{}", query.collect_on(&session)?);
//!     Ok(())
//! }
//! ```

#![warn(missing_docs)]

// `#[regatta::udf]` names this crate by its own name, also inside it.
extern crate self as regatta;

pub mod actor;
mod actors;
mod cluster;
mod config;
mod engine;
pub mod error;
mod frame;
#[cfg(feature = "gpu")]
pub mod gpu;
mod os;
mod plan;
mod sched;
mod session;
mod store;
pub mod testing;
pub mod udf;

pub use actors::{SchedulerActor, SwordfishActor, UdfActor};
#[doc(hidden)]
pub use cluster::become_worker_if_started_as_one;
pub use config::{ClusterAt, Config, Runner};
pub use error::Error;
pub use frame::{Batches, LazyFrameExt, Run, SinkMode};
pub use polars_ooc::Allocator;
pub use regatta_macros::{Message, actor, main, udf};
pub use sched::{
    GpuInfo, PoolStatus, QueryId, QueryStatus, SessionStatus, StageId, StageStatus, StepId, TaskId, Wait, WaitsFor,
    WorkerId, WorkerStatus,
};
pub use session::{Cluster, Persisted, Session};

/// The Polars that plans must be made with.
pub use polars;

/// What Polars' sinks are told, as [the guide](https://github.com/regatta/regatta/blob/main/docs/sinks.md) shows: Polars' own words, which
/// its prelude lacks.
pub mod sinks {
    pub use polars_plan::dsl::{FileWriteFormat, PartitionStrategy, SinkDestination, SinkTarget, UnifiedSinkArgs};
}

/// README.md's code must compile, and that of the guides.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
#[cfg(doctest)]
#[doc = include_str!("../docs/actors.md")]
struct ActorsGuide;

/// So must that of docs/cluster.md.
#[cfg(doctest)]
#[doc = include_str!("../docs/cluster.md")]
struct ClusterPage;

/// And that of the guide to sinks.
#[cfg(doctest)]
#[doc = include_str!("../docs/sinks.md")]
struct Sinks;

/// And that of the guide to UDFs.
#[cfg(doctest)]
#[doc = include_str!("../docs/udfs.md")]
struct Udfs;

/// And that of the guide to GPUs.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../docs/gpu.md")]
struct GpuPage;

/// What most programs need.
pub mod prelude {
    pub use crate::actor::RemoteActor;
    pub use crate::udf::{Aggregate, AsyncUdf, Batch, Context, OnError, Start, Udf, UdfError, UdfResult};
    pub use crate::{Cluster, LazyFrameExt, Run, Session, SinkMode};
}
