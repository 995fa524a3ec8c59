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

/// Makes the next registrations of host memory fail as not permitted.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_fail_registrations(next: u64) {
    driver().failing_registrations = next;
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

/// Makes calls from now on that order, of those that [`Counts::orders`] counts, do nothing: the `n`-th one where bit `n` is
/// set. With `eager`, a copy to a device happens at once, not when something waits for it: a GPU may do either.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_leave_out(calls: u64, eager: bool) {
    let mut driver = driver();
    (driver.leave_out, driver.eager) = (calls, eager);
}
