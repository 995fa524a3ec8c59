//! One GPU, as one thread uses it.

use std::cell::Cell;
use std::fmt;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use crate::error::Doing;
use crate::memory::{Memory, Plain, Slice};
use crate::pinned::{PinnedBytes, Pinning, Pins, Way};
use crate::{Arch, CubinCache, GpuError, KernelSource, Module, Nvrtc, probe};

/// A GPU with streams and a memory pool of its own, for one thread. Cheap to clone; what it hands out keeps it.
///
/// All allocations, of the pipeline and of kernels, come from the pool, which may be bounded: several users share a GPU
/// so. All kernels run on one stream, in order.
#[derive(Clone)]
pub struct Device(Rc<Inner>);

struct Inner {
    context: Arc<CudaContext>,
    upload: Arc<CudaStream>,
    compute: Arc<CudaStream>,
    download: Arc<CudaStream>,
    pool: sys::CUmemoryPool,
    arch: Arch,
    /// The CUDA version of the driver: 13000 for 13.0.
    driver: u32,
    name: String,
    /// Whether something has failed for want of memory since this was last asked.
    starved: Cell<bool>,
    pins: Arc<Pins>,
}

/// An address in the memory of a device. What is there may be gone: it keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer(pub(crate) u64);

impl Pointer {
    /// The address, for libraries.
    pub fn address(self) -> u64 {
        self.0
    }

    /// The address so many bytes behind this one.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// The CUDA version from which on a driver bounds a memory pool. Older ones ignore the bound.
const BOUNDS_POOLS: u32 = 12020;

impl Device {
    /// Opens a device, by its number among those that this process sees.
    ///
    /// `memory`: the bytes that may be allocated through this handle and its clones; `None`: what there is.
    ///
    /// # Errors
    /// There is none, the driver refuses, or it is too old for a bound on memory.
    pub fn open(number: u32, memory: Option<u64>) -> Result<Self, GpuError> {
        probe::device_count()?;
        let context = CudaContext::new(number as usize).doing("open the device")?;
        // SAFETY: nothing was allocated yet. We order streams by events of our own: cudarc's tracking misses pinned memory,
        // and costs two events for each allocation.
        unsafe { context.disable_event_tracking() };
        let attribute = |attribute| context.attribute(attribute).doing("ask the device what it can");
        if attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            return Err(GpuError::invalid(
                "this GPU's driver has no memory pools, which bound and order allocations: update it, or use another GPU",
            ));
        }
        let (major, minor) = context.compute_capability().doing("ask the device what it can")?;
        let name = context.name().doing("ask for the device's name")?;
        let driver = driver_version()?;
        if memory.is_some() && driver < BOUNDS_POOLS {
            return Err(GpuError::invalid(format!(
                "a bound on GPU memory needs a driver for CUDA 12.2 or newer, and this one is for {}.{}: update it, or use whole \
                 GPUs without a bound",
                driver / 1000,
                driver % 1000 / 10
            )));
        }
        let stream = || context.new_stream().doing("make a stream");
        let (upload, compute, download) = (stream()?, stream()?, stream()?);
        let pool = pool(context.cu_device(), memory)?;
        let arch = Arch((major * 10 + minor) as u32);
        let (starved, pins) = (Cell::new(false), Arc::default());
        Ok(Self(Rc::new(Inner { context, upload, compute, download, pool, arch, driver, name, starved, pins })))
    }

    /// What the maker calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its compute capability.
    pub fn arch(&self) -> Arch {
        self.0.arch
    }

    /// The major version of CUDA that the driver has: libraries of that version and of older ones work with it.
    pub fn cuda_major(&self) -> u32 {
        self.0.driver / 1000
    }

    /// The CUDA version of the driver: 13000 for 13.0.
    pub(crate) fn driver(&self) -> u32 {
        self.0.driver
    }

    /// Compiles kernels for this device, or takes them from the cache on disk, and loads them.
    ///
    /// # Errors
    /// There is no NVRTC, the source does not compile, or the driver refuses the result.
    pub fn kernels(&self, source: &KernelSource) -> Result<Rc<Module>, GpuError> {
        let nvrtc = Nvrtc::get(Some(self.cuda_major()))?;
        let cache = CubinCache::of_user();
        let cache = cache.inspect_err(|error| tracing::warn!(%error, "compiled kernels are not kept: no cache folder"));
        let Ok(cache) = cache else {
            // SAFETY: the compiler has just made it.
            return unsafe { self.load(source.name(), &nvrtc.compile(source, self.0.arch)?.bytes) };
        };
        // SAFETY: the compiler has made it, and the cache gives back what was put into it, or nothing.
        let compiled =
            || unsafe { self.load(source.name(), &nvrtc.compile_cached(source, self.0.arch, &cache)?.bytes) };
        let loaded = compiled();
        match loaded {
            Err(GpuError::Driver { code, .. }) if code.is_bad_image() => {
                cache.remove(&nvrtc.key(source, self.0.arch));
                compiled()
            }
            loaded => loaded,
        }
    }

    /// Memory for so many values, with anything in it. When it is dropped, it is freed behind the kernels that were launched
    /// before.
    ///
    /// # Errors
    /// There is not enough.
    pub fn alloc<T: Plain>(&self, len: usize) -> Result<Slice<T>, GpuError> {
        let too_many =
            || GpuError::invalid(format!("{len} values of {} bytes are more than there are addresses", size_of::<T>()));
        Ok(Slice::new(self.memory(len.checked_mul(size_of::<T>()).ok_or_else(too_many)?)?, len))
    }

    /// Memory with zeros.
    ///
    /// # Errors
    /// There is not enough.
    pub fn zeros<T: Plain>(&self, len: usize) -> Result<Slice<T>, GpuError> {
        let slice = self.alloc::<T>(len)?;
        self.fill(slice.pointer(), 0, len * size_of::<T>())?;
        Ok(slice)
    }

    /// Copies values to the device, and waits until they are there.
    ///
    /// # Errors
    /// There is not enough memory, or the driver refuses.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Slice<T>, GpuError> {
        let slice = self.alloc::<T>(values.len())?;
        if !values.is_empty() {
            // SAFETY: the slice is as long as the values, which live until the copy has been waited for.
            unsafe { result::memcpy_htod_async(slice.pointer().0, values, self.0.compute.cu_stream()) }
                .doing("copy to the device")?;
            self.synchronize()?;
        }
        Ok(slice)
    }

    /// Copies values from the device, after all kernels that were launched before.
    ///
    /// # Errors
    /// A kernel failed, or the driver refuses.
    pub fn download<T: Plain>(&self, slice: &Slice<T>) -> Result<Vec<T>, GpuError> {
        let mut values = vec![T::default(); slice.len()];
        if !values.is_empty() {
            self.bind()?;
            // SAFETY: `values` is as long as the slice, and lives until the copy has been waited for.
            unsafe { result::memcpy_dtoh_async(&mut values, slice.pointer().0, self.0.compute.cu_stream()) }
                .doing("copy from the device")?;
        }
        self.synchronize()?;
        Ok(values)
    }

    /// Pins memory of somebody else, for copies from it: see [`Pinning`]. It takes long, so pin what is used often.
    ///
    /// # Errors
    /// Nothing is pinned then, and batches in it go up as all others do. It overlaps with what is pinned already, by whichever
    /// handle of this process; or the system refuses, as for the pages of a file on disk, or for a mapping that may not be
    /// written to where the device cannot pin such ones.
    pub fn pin(&self, memory: Bytes) -> Result<Pinning, GpuError> {
        Pinning::new(self, memory)
    }

    /// Memory of the host that is pinned, for batches and results: see [`PinnedBytes`].
    ///
    /// # Errors
    /// There is not enough.
    pub fn pinned(&self, bytes: usize) -> Result<PinnedBytes, GpuError> {
        PinnedBytes::new(self, bytes, Way::Down)
    }

    /// Waits until everything that was launched has run.
    ///
    /// # Errors
    /// A kernel failed.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.bind()?;
        let streams = [&self.0.upload, &self.0.compute, &self.0.download];
        // For all of them, even if one has failed: memory goes after this.
        // SAFETY: they are streams of ours.
        let waits = streams.map(|stream| unsafe { result::stream::synchronize(stream.cu_stream()) });
        waits.into_iter().try_for_each(|wait| wait.doing("wait for the device"))
    }

    /// Why this process cannot use its device any more, if so; waits for what was launched. Ask after an error: a fault shows
    /// late, and with codes that a newer driver may have more of than [`GpuError::is_sticky`] knows, so all that waiting for
    /// the device brings counts as its loss but want of memory.
    pub fn lost(&self) -> Option<GpuError> {
        self.synchronize().err().filter(|error| !error.is_out_of_memory())
    }

    pub(crate) fn memory(&self, bytes: usize) -> Result<Memory, GpuError> {
        self.bind()?;
        // SAFETY: pool and stream are ours. The driver does not allocate nothing.
        let allocated = unsafe { result::mem_pool::alloc_async(self.0.pool, bytes.max(1), self.0.compute.cu_stream()) }
            .doing(format!("allocate {bytes} bytes"));
        Ok(Memory::new(allocated.inspect_err(|error| self.note(error))?, self.clone()))
    }

    pub(crate) fn fill(&self, from: Pointer, byte: u8, bytes: usize) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: callers own so many bytes.
        unsafe { result::memset_d8_async(from.0, byte, bytes, self.0.compute.cu_stream()) }.doing("fill memory")
    }

    /// Gives back what the pool keeps for later.
    pub(crate) fn trim(&self) -> Result<(), GpuError> {
        self.bind()?;
        // SAFETY: the pool is ours.
        unsafe { result::mem_pool::trim_to(self.0.pool, 0) }.doing("trim the memory pool")
    }

    /// Remembers an error if it is for want of memory.
    pub(crate) fn note(&self, error: &GpuError) {
        self.0.starved.set(self.0.starved.get() || error.is_out_of_memory());
    }

    /// Remembers that there was not enough memory of the host.
    pub(crate) fn starve(&self) {
        self.0.starved.set(true);
    }

    /// Whether something has failed for want of memory since this was last asked: an allocation, a launch, a product.
    pub(crate) fn was_starved(&self) -> bool {
        self.0.starved.take()
    }

    pub(crate) fn bind(&self) -> Result<(), GpuError> {
        bind(&self.0.context).doing("use the device")
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    /// Which host memory is pinned.
    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.0.pins
    }

    pub(crate) fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<i32, GpuError> {
        self.0.context.attribute(attribute).doing("ask the device what it can")
    }

    pub(crate) fn streams(&self) -> (&CudaStream, &CudaStream, &CudaStream) {
        (&self.0.upload, &self.0.compute, &self.0.download)
    }

    /// The stream on which kernels run, for libraries.
    pub(crate) fn compute(&self) -> &Arc<CudaStream> {
        &self.0.compute
    }
}

/// A pool on this device, of so many bytes at most, that keeps what is freed.
fn pool(device: sys::CUdevice, memory: Option<u64>) -> Result<sys::CUmemoryPool, GpuError> {
    // SAFETY: zeros are a value of this C struct.
    let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.__bindgen_anon_1.id = device;
    properties.maxSize = memory.unwrap_or(0) as usize;
    // SAFETY: the properties are whole.
    let pool = unsafe { result::mem_pool::create(&raw const properties) }.doing("make a memory pool")?;
    let mut keep = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: that attribute is a number of 64 bits.
    unsafe { result::mem_pool::set_attribute(pool, threshold, ptr::from_mut(&mut keep).cast()) }
        .doing("set up the memory pool")?;
    Ok(pool)
}

/// Makes it this thread's context. `bind_to_thread` returns an error that an earlier drop has left instead, once: what waits
/// for copies must not end so.
pub(crate) fn bind(context: &CudaContext) -> Result<(), DriverError> {
    if result::ctx::get_current()? != Some(context.cu_ctx()) {
        // SAFETY: it lives as long as this handle.
        unsafe { result::ctx::set_current(context.cu_ctx()) }?;
    }
    Ok(())
}

fn driver_version() -> Result<u32, GpuError> {
    let mut version = 0;
    // SAFETY: it writes a number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().doing("ask for the driver's version")?;
    Ok(u32::try_from(version).unwrap_or(0))
}

impl Drop for Inner {
    fn drop(&mut self) {
        let pool = self.pool;
        // SAFETY: nothing of the pool is left but what the stream frees before this.
        let destroyed = bind(&self.context).and_then(|()| unsafe {
            result::stream::synchronize(self.compute.cu_stream())?;
            result::mem_pool::destroy(pool)
        });
        log("destroy the memory pool", destroyed.doing("destroy"));
    }
}

/// What cannot be given back is lost with the process: after a fault that is everything.
pub(crate) fn log(what: &str, result: Result<(), GpuError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "could not {what}");
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.0.name).field("arch", &self.0.arch).finish_non_exhaustive()
    }
}
