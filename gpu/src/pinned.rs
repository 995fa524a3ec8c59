//! Host memory that does not move, for copies that the host does not have to do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::device::{bind, log};
use crate::error::Doing;
use crate::{Device, DriverCode, GpuError};

/// Which host memory a device has pinned.
#[derive(Default)]
pub(crate) struct Pins(Mutex<BTreeMap<usize, Pin>>);

struct Pin {
    end: usize,
    writable: bool,
}

impl Pins {
    fn all(&self) -> MutexGuard<'_, BTreeMap<usize, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, start: *const u8, len: usize, writable: bool) {
        self.all().insert(start.addr(), Pin { end: start.addr() + len, writable });
    }

    fn remove(&self, start: *const u8) {
        self.all().remove(&start.addr());
    }

    /// Whether all of it was pinned at once, and may be written to if that is wanted. Copies across two pins are refused.
    pub(crate) fn hold(&self, memory: &[u8], written: bool) -> bool {
        let range = memory.as_ptr_range();
        let all = self.all();
        let pin = all.range(..=range.start.addr()).next_back();
        pin.is_some_and(|(_, pin)| range.end.addr() <= pin.end && (pin.writable || !written))
    }
}

/// Host memory that is pinned from the start. Copies between it and its device need no other memory, where [a
/// batch](crate::Pipeline::run) lies or is to lie in it. It takes long to make: keep it.
///
/// Holds anything at first.
pub struct PinnedBytes {
    start: NonNull<u8>,
    len: usize,
    context: Arc<CudaContext>,
    pins: Arc<Pins>,
}

// SAFETY: the memory is its own, like that of a `Box`, and any thread may free it.
unsafe impl Send for PinnedBytes {}
// SAFETY: shared, it is only read.
unsafe impl Sync for PinnedBytes {}

/// What the host does with it.
pub(crate) enum Way {
    /// It writes from front to back and never reads.
    Up,
    Down,
}

impl PinnedBytes {
    pub(crate) fn new(device: &Device, len: usize, way: Way) -> Result<Self, GpuError> {
        device.bind()?;
        let flags = match way {
            Way::Up => sys::CU_MEMHOSTALLOC_WRITECOMBINED,
            Way::Down => 0,
        };
        // SAFETY: it is freed in `drop`. The driver does not allocate nothing.
        let start = unsafe { result::malloc_host(len.max(1), flags) };
        let start = start.map_err(|error| refused(device, error, format!("allocate {len} bytes of pinned memory")))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| GpuError::invalid("the driver pinned memory nowhere"))?;
        device.pins().add(start.as_ptr(), len, true);
        Ok(Self { start, len, context: Arc::clone(device.context()), pins: Arc::clone(device.pins()) })
    }
}

impl Deref for PinnedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many are there; what the driver or a copy left in them are bytes. Whoever starts copies to them has
        // borrowed them alone until these are over.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for PinnedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBytes {
    fn drop(&mut self) {
        self.pins.remove(self.start.as_ptr());
        // SAFETY: it was allocated so; copies of it have been waited for by those who borrowed it for them.
        let freed = bind(&self.context).and_then(|()| unsafe { result::free_host(self.start.as_ptr().cast()) });
        log("free pinned memory", freed.doing("free"));
    }
}

impl fmt::Debug for PinnedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Host memory of somebody else, pinned as long as this lives: copies from it to the device need no other memory, where a
/// column of [a batch](crate::Pipeline::run) lies in it. Keeps the memory.
pub struct Pinning {
    memory: Bytes,
    device: Device,
}

impl Pinning {
    pub(crate) fn new(device: &Device, memory: Bytes) -> Result<Self, GpuError> {
        if memory.is_empty() {
            return Err(GpuError::invalid("there is nothing to pin"));
        }
        device.bind()?;
        // `Bytes` are not to be written to. Where the device cannot promise that, we do: no result goes there.
        let read_only = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED;
        let flags = match device.attribute(read_only)? {
            0 => 0,
            _ => sys::CU_MEMHOSTREGISTER_READ_ONLY,
        };
        let start = memory.as_ptr().cast_mut().cast();
        // SAFETY: the bytes are there until `drop`, which takes it back.
        let pinned = unsafe { sys::cuMemHostRegister_v2(start, memory.len(), flags) }.result();
        pinned.map_err(|error| refused(device, error, format!("pin {} bytes of host memory", memory.len())))?;
        device.pins().add(memory.as_ptr(), memory.len(), false);
        Ok(Self { memory, device: device.clone() })
    }
}

impl Drop for Pinning {
    fn drop(&mut self) {
        self.device.pins().remove(self.memory.as_ptr());
        // Who launches kernels may drop this while a batch copies from it.
        let over = self.device.synchronize();
        // SAFETY: it was registered so, nothing copies from it any more, and nothing will.
        let unpinned = over.and_then(|()| {
            unsafe { sys::cuMemHostUnregister(self.memory.as_ptr().cast_mut().cast()) }.result().doing("unpin")
        });
        if unpinned.is_err() {
            // The driver takes other memory at this address for it, if there ever is some.
            std::mem::forget(std::mem::take(&mut self.memory));
        }
        log("unpin memory", unpinned);
    }
}

/// For memory of the host, the code of memory that is full means another one than the GPU's.
fn refused(device: &Device, error: DriverError, doing: String) -> GpuError {
    match DriverCode::from(error) {
        code if code.is_out_of_memory() => {
            device.starve();
            GpuError::invalid(format!("{doing}: the host has not enough of it"))
        }
        code => GpuError::Driver { doing: doing.into(), code },
    }
}

impl fmt::Debug for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinning").field("len", &self.memory.len()).finish_non_exhaustive()
    }
}
