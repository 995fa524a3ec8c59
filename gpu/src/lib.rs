//! CUDA for Regatta, through cudarc: all of cudarc is in here, and no Polars, so that it builds and tests in seconds and
//! programs on it stay small. Libraries are loaded at run time: building needs no toolkit, running needs no GPU, and what is
//! missing is an error that says where it was looked for.

#![warn(missing_docs)]

mod blas;
mod cache;
mod column;
mod cublaslt;
mod device;
mod error;
mod image;
mod kernel;
mod load;
mod memory;
mod nvrtc;
mod pinned;
mod pipeline;
mod probe;

pub use blas::{Blas, BlasError, Precision, Product};
pub use cache::CubinCache;
pub use column::{Bits, HostColumn, Input, Output, Values};
pub use device::{Device, Pointer};
pub use error::{DriverCode, GpuError};
#[doc(hidden)]
pub use image::check_image;
pub use kernel::{Arg, Grid, Kernel, Module};
#[doc(hidden)]
pub use load::use_fakes;
pub use load::{LibraryMissing, search_dirs};
pub use memory::{Plain, Slice};
pub use nvrtc::{Arch, CompileError, Image, KernelSource, Nvrtc};
pub use pinned::{PinnedBytes, Pinning};
pub use pipeline::{HostResult, Pipeline, Report, Times};
pub use probe::{DeviceInfo, GpuUnavailable, device_count, devices, driver_present};
