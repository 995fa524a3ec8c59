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
//!
//! # Guides
//!
//! | you want to | |
//! |---|---|
//! | start somewhere | [README](https://github.com/regatta/regatta#readme); a [`Session`], [`LazyFrameExt`] on your frames, a [`Run`] |
//! | know what is split, and what runs whole | [frames.md](https://github.com/regatta/regatta/blob/main/docs/book/src/frames.md), [`Run::explain`] |
//! | write a function, a model, an aggregation | [udfs.md](https://github.com/regatta/regatta/blob/main/docs/book/src/udfs.md), [`mod@udf`] |
//! | use GPUs | [gpu.md](https://github.com/regatta/regatta/blob/main/docs/book/src/gpu.md), `regatta::gpu` |
//! | share state among replicas | [actors.md](https://github.com/regatta/regatta/blob/main/docs/book/src/actors.md), [`mod@actor`] |
//! | write files | [sinks.md](https://github.com/regatta/regatta/blob/main/docs/book/src/sinks.md), [`SinkMode`] |
//! | run on several machines | [cluster.md](https://github.com/regatta/regatta/blob/main/docs/book/src/cluster.md), [`Cluster`] |
//! | let workers come and go | [autoscaling.md](https://github.com/regatta/regatta/blob/main/docs/book/src/autoscaling.md), [`Session::elastic`] |
//! | see how far a query is, what it did, and what to change | [observe.md](https://github.com/regatta/regatta/blob/main/docs/book/src/observe.md), [`Run::profile`], [`mod@progress`] |
//! | see what waits for what | [scheduler.md](https://github.com/regatta/regatta/blob/main/docs/book/src/scheduler.md), [`Session::status`], [`Run::status`] |
//! | test your program | [`testing`] |
//! | know what went wrong | [`mod@error`]: each says what to do |
//! | change settings | [`Config`], which lists the variables |

#![warn(missing_docs)]

// `#[regatta::udf]` names this crate by its own name, also inside it.
extern crate self as regatta;

pub mod actor;
mod actors;
mod archive;
mod blob;
#[cfg(any(test, doctest))]
mod book;
mod cluster;
mod config;
mod engine;
pub mod error;
mod frame;
#[cfg(feature = "gpu")]
pub mod gpu;
mod hello;
mod jobs;
mod logs;
mod notice;
mod os;
mod plan;
mod process;
pub mod progress;
mod sched;
mod session;
#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;
mod spans;
mod store;
pub mod testing;
pub mod udf;
mod whose;

#[doc(hidden)]
pub use actors::{SchedulerActor, SwordfishActor, UdfActor};
#[doc(hidden)]
pub use cluster::become_worker_if_started_as_one;
#[cfg(feature = "kubernetes")]
pub use cluster::{KubeAccess, KubeOptions};
pub use cluster::{Pilot, RayOptions};
pub use config::{ClusterAt, Config, Runner};
pub use error::Error;
pub use frame::{Batches, LazyFrameExt, Run, SinkMode};
/// The allocator for a program on Polars: faster than the system's, and it keeps the account of the process's memory by which Polars
/// decides to spill to disk. Without it queries run, slower, and never spill. Set it once, in the file of `main`:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: regatta::Allocator = regatta::Allocator;
/// # fn main() {}
/// ```
pub use polars_ooc::Allocator;
/// How the pages of a session are served: see [`Session::dashboard`].
#[cfg(feature = "dashboard")]
pub use regatta_dashboard::Dashboard;
pub use regatta_macros::{Message, actor, main, udf};
/// What is shown of queries, as data: see [`Run::profile`], [`Run::explain`], [`mod@progress`].
pub use regatta_observe as observe;
pub use sched::{
    GpuInfo, PoolStatus, QueryId, QueryStatus, SessionStatus, StageId, StageStatus, StepId, TaskId, Wait, WaitsFor,
    WorkerId, WorkerStatus,
};
pub use session::{Cluster, History, Persisted, Session};

/// The Polars that plans must be made with.
pub use polars;

/// What most programs need.
pub mod prelude {
    pub use crate::actor::RemoteActor;
    pub use crate::udf::{Aggregate, AsyncUdf, Batch, Context, OnError, Start, Udf, UdfError, UdfResult};
    pub use crate::{Cluster, LazyFrameExt, Run, Session, SinkMode};
}
