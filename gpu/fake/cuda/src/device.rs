//! Devices and contexts.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

use super::module::SHARED;
use super::{Code, INVALID_DEVICE, NO_DEVICE, NOT_FOUND, OK, call, driver, setting};

/// Whoever shows this name to a user ran no GPU.
const NAME: &[u8] = b"FAKE (no GPU)\0";

/// The first bytes of a device's UUID; its number is the last.
const UUID: [u8; 15] = *b"fake-cuda-uuid-";

thread_local! {
    static CURRENT: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

/// Whether this thread has a context.
pub(crate) fn is_current() -> bool {
    !CURRENT.get().is_null()
}

/// The devices that `CUDA_VISIBLE_DEVICES` lets this process see, by number or UUID; a name that is none ends the list.
fn visible() -> Vec<u8> {
    let all: Vec<u8> = (0..setting("FAKE_CUDA_DEVICES", 1) as u8).collect();
    let Ok(list) = std::env::var("CUDA_VISIBLE_DEVICES") else { return all };
    let named = |name: &str| all.iter().copied().find(|n| *name == n.to_string() || *name == uuid_text(*n));
    list.split(',').map(|name| named(name.trim())).map_while(|device| device).collect()
}

fn uuid(device: u8) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..15].copy_from_slice(&UUID);
    uuid[15] = device;
    uuid
}

fn uuid_text(device: u8) -> String {
    let hex: Vec<String> = uuid(device).iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex[from..to].concat();
    format!("GPU-{}-{}-{}-{}-{}", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 16))
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_: c_uint) -> Code {
    match setting("FAKE_CUDA_INIT", 0) as Code {
        OK if visible().is_empty() => NO_DEVICE,
        code => code,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    unsafe { version.write(driver().version.unwrap_or(13000) as c_int) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    unsafe { count.write(visible().len() as c_int) };
    OK
}

/// A device's handle is its number among all.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    match visible().get(ordinal as usize) {
        Some(number) => {
            unsafe { device.write(c_int::from(*number)) };
            OK
        }
        None => INVALID_DEVICE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _: c_int) -> Code {
    let length = NAME.len().min(length as usize);
    unsafe { ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, length) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(to: *mut [u8; 16], device: c_int) -> Code {
    unsafe { to.write(uuid(device as u8)) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _: c_int) -> Code {
    unsafe { bytes.write(driver().memory.limit() as usize) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _: c_int) -> Code {
    let answer = match attribute {
        1..=4 => 1024, // threads of a block, and of each of its dimensions
        8 => SHARED[0] as c_int,
        10 => 32, // threads of a warp
        16 => 4,  // multiprocessors
        40 => 3,  // copy engines
        75 => 9,  // compute capability
        97 => SHARED[1] as c_int,
        113 => 1, // host memory is registered to be read only
        115 => 1, // memory pools
        _ => 0,
    };
    unsafe { value.write(answer) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> Code {
    unsafe { context.write(ptr::without_provenance_mut(0x1000 + device as usize)) };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_: c_int) -> Code {
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(_: c_int, _: c_uint) -> Code {
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Code {
    unsafe { context.write(CURRENT.get()) };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Code {
    CURRENT.set(context);
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> Code {
    unsafe { device.write((CURRENT.get().addr().saturating_sub(0x1000)) as c_int) };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_: c_uint) -> Code {
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> Code {
    call(|driver| {
        driver.drain_all();
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(_: Code, name: *mut *const c_char) -> Code {
    unsafe { name.write(c"FAKE_ERROR".as_ptr()) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(_: Code, text: *mut *const c_char) -> Code {
    unsafe { text.write(c"an error of the fake driver".as_ptr()) };
    OK
}

/// NVRTC 13 asks any libcuda that is loaded for its tables, and does without.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, _: *const c_void) -> Code {
    unsafe { table.write(ptr::null()) };
    NOT_FOUND
}
