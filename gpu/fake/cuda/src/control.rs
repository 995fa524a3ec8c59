//! What tests ask the fake driver, and tell it. Called by name: a test loads the same library.

use super::counts::Counts;
use super::{Code, driver};

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

/// Makes the next attempts to pin host memory fail for want of it: to allocate such memory, or to register it.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_fail_pins(next: u64) {
    driver().failing_pins = next;
}

/// Makes the next launches, products and loads of kernels fail for want of memory.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_fail_launches(next: u64) {
    driver().failing_launches = next;
}

/// Sets the bytes that each device has.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_set_memory(bytes: u64) {
    driver().memory.set_limit(bytes);
}

/// Sets the CUDA version that the driver says it is for, as 12020 for 12.2; 0: its own.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_set_version(version: u32) {
    driver().version = Some(version).filter(|version| *version != 0);
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

/// Makes calls from now on that order, of those that [`Counts::orders`] counts, do nothing: the `n`-th one where bit `n` is
/// set. With `eager`, a copy to a device happens at once, not when something waits for it: a GPU may do either.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_leave_out(calls: u64, eager: bool) {
    let mut driver = driver();
    (driver.leave_out, driver.eager) = (calls, eager);
}
