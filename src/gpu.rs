//! CUDA devices. What does not know UDFs or Polars is the crate `regatta-gpu`.

pub use regatta_gpu::*;
