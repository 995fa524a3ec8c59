//! What tests ask the fake driver, and tell it. Called by name: a test loads the same library.

use super::{Code, driver};

/// What has happened, and what is there. The same struct is declared where it is read.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Bytes copied to devices, from them, and within them.
    pub to_device: u64,
    pub from_device: u64,
    pub within_device: u64,
    /// Copies in either direction between host and device.
    pub copies: u64,
    pub launches: u64,
    /// Accesses outside of an allocation, writes into the guard behind one, and memory freed twice.
    pub faults: u64,
    pub trims: u64,
    /// What lives: bytes on devices, pinned bytes, streams, events, pools, modules.
    pub device_bytes: u64,
    pub pinned_bytes: u64,
    pub streams: u64,
    pub events: u64,
    pub pools: u64,
    pub modules: u64,
    /// The most bytes on devices at once.
    pub peak_device_bytes: u64,
}

impl Counts {
    pub(crate) const NONE: Self = Self {
        to_device: 0,
        from_device: 0,
        within_device: 0,
        copies: 0,
        launches: 0,
        faults: 0,
        trims: 0,
        device_bytes: 0,
        pinned_bytes: 0,
        streams: 0,
        events: 0,
        pools: 0,
        modules: 0,
        peak_device_bytes: 0,
    };
}

/// Copies the counts.
///
/// # Safety
/// `counts` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_cuda_counts(counts: *mut Counts) {
    // SAFETY: the caller says so.
    unsafe { counts.write(driver().counts) };
}

/// Makes the next allocations fail for want of memory.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_fail_allocations(next: u64) {
    driver().failing_allocations = next;
}

/// Sets the bytes that each device has.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_set_memory(bytes: u64) {
    driver().memory.set_limit(bytes);
}

/// Sets what every call returns from now on, as after a fault on the device; 0 mends it, which no real driver does, and
/// forgets what waits in streams.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_set_sticky(code: Code) {
    let mut driver = driver();
    if code == 0 {
        driver.forget_all();
    }
    driver.sticky = code;
}
