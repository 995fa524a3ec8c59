//! A stand-in for the CUDA driver, for tests: unmodified cudarc runs on it, without a GPU.
//!
//! It is stricter than a GPU, on purpose: **nothing that is put on a stream happens before something waits for it**, in any
//! order that the streams' events allow. New memory is poisoned, ends of allocations are guarded, copies are checked against
//! the allocation they touch, and everything is counted: see [`control`]. Events tell a time of its own, in which a copy
//! takes as long as it has bytes and a kernel as it has threads: what overlaps is seen. Kernels are host code: an image is a
//! shared object that the fake NVRTC has made of the CUDA source.
//!
//! Behaviour comes from the environment when the library is loaded: `FAKE_CUDA_DEVICES` (1), `FAKE_CUDA_MEMORY` (bytes of
//! each device, 1 GiB), `FAKE_CUDA_INIT` (a code that `cuInit` returns), `FAKE_CUDA_IDLE`
//! (`kernel:n`: its launches after the n-th do nothing).

#![allow(non_snake_case)]

pub mod control;
pub mod counts;
mod device;
mod memory;
mod module;
mod streams;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use counts::Counts;
use memory::Memory;
use streams::Streams;

/// What a call returns: 0, or the code of an error.
type Code = u32;

const OK: Code = 0;
const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const NO_DEVICE: Code = 100;
const INVALID_DEVICE: Code = 101;
const INVALID_IMAGE: Code = 200;
const INVALID_CONTEXT: Code = 201;
const NO_BINARY: Code = 209;
const INVALID_HANDLE: Code = 400;
const NOT_FOUND: Code = 500;
const NOT_READY: Code = 600;
const ILLEGAL_ADDRESS: Code = 700;
const ALREADY_REGISTERED: Code = 712;
const NOT_REGISTERED: Code = 713;

/// All that the driver knows.
#[derive(Default)]
struct Driver {
    streams: Streams,
    memory: Memory,
    counts: Counts,
    /// The first error on a device: every later call returns it.
    sticky: Code,
    /// How many of the next allocations fail.
    failing_allocations: u64,
    /// And of the next attempts to pin host memory, and of launches.
    failing_pins: u64,
    failing_launches: u64,
    /// A bit for each of the next calls that order: it does nothing.
    leave_out: u64,
    /// Copies to devices happen at once.
    eager: bool,
    /// The CUDA version that it says it is for.
    version: Option<u32>,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(Mutex::default);

fn driver() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call, unless the device has had an error before, or this thread has no context; and tells the error that the call
/// ran into.
fn call(body: impl FnOnce(&mut Driver) -> Result<(), Code>) -> Code {
    if !device::is_current() {
        return INVALID_CONTEXT;
    }
    let mut driver = driver();
    if driver.sticky != OK {
        return driver.sticky;
    }
    match body(&mut driver) {
        Ok(()) => driver.sticky,
        Err(code) => code,
    }
}

/// An error for want of memory, if some of the next calls of a kind are to fail so.
fn fail(next: &mut u64) -> Result<(), Code> {
    match *next {
        0 => Ok(()),
        _ => {
            *next -= 1;
            Err(OUT_OF_MEMORY)
        }
    }
}

/// A number from the environment.
fn setting(name: &str, unless: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(unless)
}
