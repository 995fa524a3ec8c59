//! Whether there is a GPU that this process can use, and if not, why.

use std::sync::OnceLock;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::{Arch, DriverCode, load};

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

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// As `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// What the maker calls it.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its compute capability.
    pub arch: Arch,
    /// The CUDA version of the driver: 13000 for 13.0.
    pub driver: u32,
    /// It is a part of a GPU that is partitioned.
    pub mig: bool,
}

/// The devices that this process could use.
///
/// Better asked in a process of its own: a driver may hang, and what it does to a process stays.
///
/// # Errors
/// There is no driver, or it refuses: with its code.
pub fn devices() -> Result<Vec<DeviceInfo>, GpuUnavailable> {
    let count = device_count()?;
    let refused = |error: DriverError| GpuUnavailable::Driver(error.into());
    (0..count as i32).map(|number| device(number).map_err(refused)).collect()
}

fn device(number: i32) -> Result<DeviceInfo, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(number)?;
    let name = result::device::get_name(device)?;
    let mut driver = 0;
    // SAFETY: the driver has just named this device; the last call writes a number.
    let (memory, major, minor) = unsafe {
        sys::cuDriverGetVersion(&raw mut driver).result()?;
        let attribute = |attribute| result::device::get_attribute(device, attribute);
        (result::device::total_mem(device)?, attribute(MAJOR)?, attribute(MINOR)?)
    };
    let mig = name.contains("MIG");
    let hex = result::device::get_uuid(device)?.bytes.iter().fold(String::new(), |hex, byte| {
        let dash = if matches!(hex.replace('-', "").len(), 8 | 12 | 16 | 20) { "-" } else { "" };
        format!("{hex}{dash}{:02x}", *byte as u8)
    });
    let uuid = format!("{}-{hex}", if mig { "MIG" } else { "GPU" });
    let (arch, driver) = (Arch((major * 10 + minor) as u32), u32::try_from(driver).unwrap_or(0));
    Ok(DeviceInfo { uuid, name, memory: memory as u64, arch, driver, mig })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_is_told_so_and_nothing_panics() {
        assert_eq!(devices().map(|devices| devices.len() as u32), device_count());
        match device_count() {
            Ok(_) => assert!(driver_present()),
            Err(GpuUnavailable::NoDriver) => assert!(!driver_present()),
            Err(error @ GpuUnavailable::Driver(_)) => assert!(error.to_string().contains("code")),
            Err(GpuUnavailable::Fake) => panic!("no test put a fake driver on the loader's path"),
        }
    }
}
