//! UDFs on GPUs, through CUDA: feature `gpu`.
//!
//! Libraries are loaded at run time: one build works with and without a driver, and needs no toolkit. A [`GpuUdf`] launches
//! kernels on columns that are on a device; Regatta brings them there and back, in pieces that overlap. What does not know
//! UDFs or Polars is the crate `regatta-gpu`, whose types are here too.

mod chain;
mod columns;
mod process;
mod replica;
mod udf;

pub use regatta_gpu::*;

pub(crate) use chain::{describe, fuse};
pub(crate) use process::{check, check_in_place, find, prove, seat_for, start as start_on_gpu, start_twin};
pub(crate) use replica::AnyGpuUdf;
pub use udf::{GpuUdf, Twin, takes};
