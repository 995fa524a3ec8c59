//! Whether there is a GPU that this process can use, and if not, why.

use std::sync::OnceLock;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::{DriverCode, load};

/// Why no GPU can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuUnavailable {
    /// The driver's library was not found.
    #[error(
        "no CUDA driver: the library libcuda is not on the loader's path; install the NVIDIA driver of this machine"
    )]
    NoDriver,
    /// The driver is there and refuses.
    #[error("the CUDA driver reports {0}")]
    Driver(DriverCode),
    /// The driver is the fake one of the tests, which runs kernels on the CPU.
    #[error(
        "the CUDA driver on the loader's path is Regatta's fake one, which is for tests only; take it off the path"
    )]
    Fake,
}

/// Whether the driver's library can be loaded. cudarc panics in every other call if it cannot, so all of them are
/// behind this.
pub fn driver_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: it tries to load the library by name, and calls nothing in it.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// How many devices this process could use.
///
/// # Errors
/// There is no driver, or it refuses: with its code.
pub fn device_count() -> Result<u32, GpuUnavailable> {
    if !driver_present() {
        return Err(GpuUnavailable::NoDriver);
    }
    let refused = |error: DriverError| GpuUnavailable::Driver(DriverCode(error.0 as u32));
    let count = CudaContext::device_count().map_err(refused)?;
    if count > 0 && !load::fakes_are_used() {
        let name = result::device::get(0).and_then(result::device::get_name).map_err(refused)?;
        if name.starts_with("FAKE") {
            return Err(GpuUnavailable::Fake);
        }
    }
    Ok(u32::try_from(count).unwrap_or(0))
}

/// Bytes of memory of each device that this process could use.
///
/// # Errors
/// There is no driver, or it refuses: with its code.
pub fn device_memory() -> Result<Vec<u64>, GpuUnavailable> {
    let driver = |error: DriverError| GpuUnavailable::Driver(DriverCode(error.0 as u32));
    let memory = |ordinal| {
        let device = result::device::get(ordinal)?;
        // SAFETY: the driver has just named this device.
        unsafe { result::device::total_mem(device) }
    };
    let count = device_count()?;
    (0..count as i32).map(|ordinal| Ok(memory(ordinal).map_err(driver)? as u64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_is_told_so_and_nothing_panics() {
        assert_eq!(device_memory().map(|devices| devices.len() as u32), device_count());
        match device_count() {
            Ok(_) => assert!(driver_present()),
            Err(GpuUnavailable::NoDriver) => assert!(!driver_present()),
            Err(error @ GpuUnavailable::Driver(_)) => assert!(error.to_string().contains("code")),
            Err(GpuUnavailable::Fake) => panic!("no test put a fake driver on the loader's path"),
        }
    }
}
