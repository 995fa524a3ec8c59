//! CUDA devices through cudarc, loaded at run time: one build works with and without a driver. All of cudarc is in here.

mod probe;

pub use probe::{DriverCode, GpuUnavailable, device_count, device_memory, driver_present};
