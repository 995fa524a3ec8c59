//! One GPU, as one thread uses it.

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use crate::error::Doing;
use crate::memory::{Memory, Plain, Slice};
use crate::pinned::{PinnedBytes, Pinning, Pins, Way};
use crate::{Arch, CubinCache, GpuError, KernelSource, Nvrtc, probe};

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
    /// Whether an allocation has failed for want of memory since this was last asked.
    starved: Cell<bool>,
    pins: Arc<Pins>,
}

/// Kernels on a device.
pub struct Module {
    raw: sys::CUmodule,
    device: Device,
    name: String,
}

/// One kernel. Keeps its module loaded.
#[derive(Clone)]
pub struct Kernel {
    raw: sys::CUfunction,
    module: Rc<Module>,
    name: Rc<str>,
}

/// How many threads run a kernel: blocks, threads of each block, and bytes of shared memory of a block beside what it
/// declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in each dimension; with a zero, nothing is launched.
    pub blocks: [u32; 3],
    /// Threads of a block in each dimension; 1,024 in all, at most.
    pub threads: [u32; 3],
    /// Bytes.
    pub shared: u32,
}

/// Threads of a block, where nobody says.
const THREADS: u32 = 256;

impl Grid {
    /// A thread for each of `n`, in blocks of 256. The last block may have more.
    pub fn over(n: usize) -> Self {
        Self::blocks(u32::try_from(n.div_ceil(THREADS as usize)).unwrap_or(i32::MAX as u32), THREADS)
    }

    /// So many blocks of so many threads.
    pub fn blocks(blocks: u32, threads: u32) -> Self {
        Self { blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared: 0 }
    }

    /// With so many bytes of shared memory for each block.
    #[must_use]
    pub fn shared(self, bytes: u32) -> Self {
        Self { shared: bytes, ..self }
    }
}

/// A parameter of a kernel: a number, or an address on the device.
#[derive(Debug, Clone, Copy)]
pub struct Arg(u64);

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

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Arg {
            fn from(number: $number) -> Self {
                let mut bytes = [0; 8];
                bytes[..size_of::<$number>()].copy_from_slice(&number.to_ne_bytes());
                Self(u64::from_ne_bytes(bytes))
            }
        }
    )*};
}
numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64, usize);

impl From<Pointer> for Arg {
    fn from(pointer: Pointer) -> Self {
        Self(pointer.0)
    }
}

/// `None` is a null pointer.
impl From<Option<Pointer>> for Arg {
    fn from(pointer: Option<Pointer>) -> Self {
        Self(pointer.map_or(0, |pointer| pointer.0))
    }
}

impl<T> From<&Slice<T>> for Arg {
    fn from(slice: &Slice<T>) -> Self {
        slice.pointer().into()
    }
}

impl Device {
    /// Opens a device, by its number among those that this process sees.
    ///
    /// `memory`: the bytes that may be allocated through this handle and its clones; `None`: what there is.
    ///
    /// # Errors
    /// There is none, or the driver refuses.
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
        let stream = || context.new_stream().doing("make a stream");
        let (upload, compute, download) = (stream()?, stream()?, stream()?);
        let pool = pool(context.cu_device(), memory)?;
        let arch = Arch((major * 10 + minor) as u32);
        let driver = driver_version()?;
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
            return self.load(source.name(), &nvrtc.compile(source, self.0.arch)?.bytes);
        };
        let loaded = self.load(source.name(), &nvrtc.compile_cached(source, self.0.arch, &cache)?.bytes);
        match loaded {
            Err(GpuError::Driver { code, .. }) if code.is_bad_image() => {
                cache.remove(&nvrtc.key(source, self.0.arch));
                self.load(source.name(), &nvrtc.compile_cached(source, self.0.arch, &cache)?.bytes)
            }
            loaded => loaded,
        }
    }

    /// Loads compiled kernels: a cubin for this device, or PTX with a closing NUL. `name` is for messages.
    ///
    /// # Errors
    /// The driver refuses them.
    pub fn load(&self, name: &str, image: &[u8]) -> Result<Rc<Module>, GpuError> {
        if image.is_empty() {
            return Err(GpuError::invalid(format!("{name}: there is nothing in the compiled image")));
        }
        self.bind()?;
        // SAFETY: the driver reads an ELF file by its own header, and PTX up to its NUL; `image` is one of them.
        let raw = unsafe { result::module::load_data(image.as_ptr().cast()) }.doing(format!("load kernels {name}"))?;
        Ok(Rc::new(Module { raw, device: self.clone(), name: name.to_owned() }))
    }

    /// Puts a kernel behind those that were launched before. Returns before it has run.
    ///
    /// # Errors
    /// The driver refuses the launch. What goes wrong in the kernel shows at a later call.
    ///
    /// # Safety
    /// The kernel has these parameters, in this order, of these sizes; with them it writes only to memory that nobody else
    /// uses until it has run, and reads and writes within allocations.
    pub unsafe fn launch(&self, kernel: &Kernel, grid: Grid, args: &[Arg]) -> Result<(), GpuError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let mut values: Vec<u64> = args.iter().map(|arg| arg.0).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| ptr::from_mut(value).cast()).collect();
        let ([bx, by, bz], [tx, ty, tz]) = (grid.blocks, grid.threads);
        let stream = self.0.compute.cu_stream();
        // SAFETY: as the caller says; the driver copies the parameters before it returns.
        unsafe { result::launch_kernel(kernel.raw, (bx, by, bz), (tx, ty, tz), grid.shared, stream, &mut pointers) }
            .doing(format!("launch kernel {} with {grid:?}", kernel.name))
    }

    /// Memory for so many values, with anything in it. When it is dropped, it is freed behind the kernels that were launched
    /// before.
    ///
    /// # Errors
    /// There is not enough.
    pub fn alloc<T: Plain>(&self, len: usize) -> Result<Slice<T>, GpuError> {
        Ok(Slice::new(self.memory(len * size_of::<T>())?, len))
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

    pub(crate) fn memory(&self, bytes: usize) -> Result<Memory, GpuError> {
        self.bind()?;
        // SAFETY: pool and stream are ours. The driver does not allocate nothing.
        let allocated = unsafe { result::mem_pool::alloc_async(self.0.pool, bytes.max(1), self.0.compute.cu_stream()) }
            .doing(format!("allocate {bytes} bytes"));
        if allocated.as_ref().is_err_and(GpuError::is_out_of_memory) {
            self.0.starved.set(true);
        }
        Ok(Memory::new(allocated?, self.clone()))
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

    /// Whether an allocation has failed for want of memory since this was last asked.
    pub(crate) fn was_starved(&self) -> bool {
        self.0.starved.take()
    }

    pub(crate) fn bind(&self) -> Result<(), GpuError> {
        bind(&self.0.context).doing("use the device")
    }

    pub(crate) fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<i32, GpuError> {
        self.0.context.attribute(attribute).doing("ask the device what it can")
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.0.context
    }

    /// Which host memory is pinned.
    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.0.pins
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

impl Module {
    /// The kernel of that name: in the source it is `extern "C" __global__`.
    ///
    /// # Errors
    /// There is none.
    pub fn kernel(self: &Rc<Self>, name: &str) -> Result<Kernel, GpuError> {
        let missing =
            || GpuError::invalid(format!("there is no kernel {name:?} in {}: is it extern \"C\"?", self.name));
        let c_name = CString::new(name).map_err(|_| missing())?;
        self.device.bind()?;
        // SAFETY: the module is loaded.
        match unsafe { result::module::get_function(self.raw, c_name) }.doing("find a kernel") {
            Ok(raw) => Ok(Kernel { raw, module: Rc::clone(self), name: name.into() }),
            Err(GpuError::Driver { code, .. }) if code.0 == 500 => Err(missing()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: kernels of it keep it, so none is left; the driver waits for those that run.
        let unloaded = self.device.bind().and_then(|()| unsafe { result::module::unload(self.raw) }.doing("unload"));
        log("unload kernels", unloaded);
    }
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

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).field("module", &self.module).finish_non_exhaustive()
    }
}
