//! Memory on a device, and events.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use cudarc::driver::{result, sys};

use crate::device::log;
use crate::error::Doing;
use crate::{Device, GpuError, Pointer};

/// Values that mean the same on the host and on a device, whatever their bytes.
///
/// # Safety
/// Every pattern of bits is a value, and there is no padding.
pub unsafe trait Plain: Copy + Default + Send + 'static {}

macro_rules! plain {
    ($($number:ty),*) => {$(
        // SAFETY: it is a number.
        unsafe impl Plain for $number {}
    )*};
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Bytes on a device, freed behind what was launched before.
pub(crate) struct Memory {
    address: u64,
    device: Device,
}

impl Memory {
    pub(crate) fn new(address: u64, device: Device) -> Self {
        Self { address, device }
    }

    pub(crate) fn pointer(&self) -> Pointer {
        Pointer(self.address)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let stream = self.device.streams().1.cu_stream();
        // SAFETY: it was allocated on that stream, and nothing launched later has its address.
        let freed = self.device.bind().and_then(|()| unsafe { result::free_async(self.address, stream) }.doing("free"));
        log("free memory", freed);
    }
}

/// Values on a device. When it is dropped, it is freed behind the kernels that were launched before.
pub struct Slice<T> {
    memory: Memory,
    len: usize,
    values: PhantomData<T>,
}

impl<T> Slice<T> {
    pub(crate) fn new(memory: Memory, len: usize) -> Self {
        Self { memory, len, values: PhantomData }
    }

    /// Where it is.
    pub fn pointer(&self) -> Pointer {
        self.memory.pointer()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> fmt::Debug for Slice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slice").field("at", &self.pointer()).field("len", &self.len).finish_non_exhaustive()
    }
}

/// A point in a stream that others wait for.
pub(crate) struct Event {
    raw: sys::CUevent,
    device: Device,
}

/// What an event is for, beside the order of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing.
    Order,
    /// A thread waits for it, and sleeps instead of turning.
    Sleep,
    /// It tells when.
    Time,
}

impl Event {
    pub(crate) fn new(device: &Device, what: Use) -> Result<Self, GpuError> {
        device.bind()?;
        // The bindings have no value for both flags, so those for sleeping have times too.
        let flags = match what {
            Use::Order => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
            Use::Sleep => sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC,
            Use::Time => sys::CUevent_flags::CU_EVENT_DEFAULT,
        };
        Ok(Self { raw: result::event::create(flags).doing("make an event")?, device: device.clone() })
    }

    pub(crate) fn record(&self, stream: sys::CUstream) -> Result<(), GpuError> {
        // SAFETY: both are ours.
        unsafe { result::event::record(self.raw, stream) }.doing("record an event")
    }

    /// Has a stream wait for it.
    pub(crate) fn before(&self, stream: sys::CUstream) -> Result<(), GpuError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are ours.
        unsafe { result::stream::wait_event(stream, self.raw, flags) }.doing("order two streams")
    }

    pub(crate) fn wait(&self) -> Result<(), GpuError> {
        // SAFETY: it is ours.
        unsafe { result::event::synchronize(self.raw) }.doing("wait for the device")
    }

    /// How long before another one it was. Both have been reached, and tell when.
    pub(crate) fn until(&self, end: &Self) -> Result<Duration, GpuError> {
        // SAFETY: both are ours.
        let milliseconds = unsafe { result::event::elapsed(self.raw, end.raw) }.doing("read the time of events")?;
        Ok(Duration::try_from_secs_f32(milliseconds / 1e3).unwrap_or_default())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody waits for it any more.
        let destroyed = self.device.bind().and_then(|()| unsafe { result::event::destroy(self.raw) }.doing("destroy"));
        log("destroy an event", destroyed);
    }
}
