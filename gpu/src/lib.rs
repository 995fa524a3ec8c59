//! CUDA for Regatta, through cudarc: all of cudarc is in here, and no Polars, so that it builds and tests in seconds and
//! programs on it stay small. Libraries are loaded at run time: building needs no toolkit, running needs no GPU, and what is
//! missing is an error that says where it was looked for.

#![warn(missing_docs)]

mod blas;
mod cache;
mod load;
mod nvrtc;
mod probe;

pub use blas::{Blas, BlasError, Precision, Product};
pub use cache::CubinCache;
#[doc(hidden)]
pub use load::use_fakes;
pub use load::{LibraryMissing, search_dirs};
pub use nvrtc::{Arch, CompileError, Image, KernelSource, Nvrtc};
pub use probe::{DriverCode, GpuUnavailable, device_count, device_memory, driver_present};
