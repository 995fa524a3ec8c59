//! Kernels: how they are loaded, and how they are launched.

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{result, sys};

use crate::device::log;
use crate::error::Doing;
use crate::image::check_image;
use crate::{Device, GpuError, Pointer, Slice};

/// Kernels on a device.
pub struct Module {
    raw: sys::CUmodule,
    device: Device,
    name: String,
}

/// One kernel. Keeps its module loaded.
#[derive(Clone)]
pub struct Kernel(Rc<Function>);

struct Function {
    raw: sys::CUfunction,
    name: String,
    /// The bytes of each parameter, where the driver tells them.
    parameters: Option<Vec<usize>>,
    /// The bytes of shared memory that a launch may ask for.
    shared: Cell<u32>,
    module: Rc<Module>,
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

    /// With so many bytes of shared memory for each block: up to what the device has for one, less what the kernel declares.
    #[must_use]
    pub fn shared(self, bytes: u32) -> Self {
        Self { shared: bytes, ..self }
    }
}

/// A parameter of a kernel: a number, or an address on the device.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    value: u64,
    bytes: usize,
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Arg {
            fn from(number: $number) -> Self {
                let mut value = [0; 8];
                value[..size_of::<$number>()].copy_from_slice(&number.to_ne_bytes());
                Self { value: u64::from_ne_bytes(value), bytes: size_of::<$number>() }
            }
        }
    )*};
}
numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64, usize);

impl From<Pointer> for Arg {
    fn from(pointer: Pointer) -> Self {
        pointer.address().into()
    }
}

/// `None` is a null pointer.
impl From<Option<Pointer>> for Arg {
    fn from(pointer: Option<Pointer>) -> Self {
        pointer.map_or(0, Pointer::address).into()
    }
}

impl<T> From<&Slice<T>> for Arg {
    fn from(slice: &Slice<T>) -> Self {
        slice.pointer().into()
    }
}

impl Device {
    /// Loads compiled kernels: a cubin for this device, or PTX with a closing NUL. `name` is for messages.
    ///
    /// # Errors
    /// It is neither, or cut short; or the driver refuses it.
    ///
    /// # Safety
    /// The image is as a compiler made it. The driver is told where it begins, and believes what is written in it: only the
    /// headers are checked here.
    pub unsafe fn load(&self, name: &str, image: &[u8]) -> Result<Rc<Module>, GpuError> {
        check_image(image).map_err(|why| GpuError::invalid(format!("compiled kernels {name}: {why}")))?;
        self.bind()?;
        // SAFETY: all that the headers name is there, or a NUL; the rest is the caller's promise.
        let raw = unsafe { result::module::load_data(image.as_ptr().cast()) }.doing(format!("load kernels {name}"));
        let raw = raw.inspect_err(|error| self.note(error))?;
        Ok(Rc::new(Module { raw, device: self.clone(), name: name.to_owned() }))
    }

    /// Puts a kernel behind those that were launched before. Returns before it has run.
    ///
    /// # Errors
    /// The arguments are not as many, or not as large, as the kernel's parameters, where the driver tells those (for CUDA 12.4
    /// and newer); a block asks for more shared memory than there is; or the driver refuses the launch. What goes wrong in the
    /// kernel shows at a later call.
    ///
    /// # Safety
    /// The kernel has these parameters, in this order, of these sizes; with them it writes only to memory that nobody else
    /// uses until it has run, and reads and writes within allocations.
    pub unsafe fn launch(&self, kernel: &Kernel, grid: Grid, args: &[Arg]) -> Result<(), GpuError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        kernel.0.check(args)?;
        self.bind()?;
        kernel.0.make_room(grid.shared)?;
        let mut values: Vec<u64> = args.iter().map(|arg| arg.value).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| ptr::from_mut(value).cast()).collect();
        let ([bx, by, bz], [tx, ty, tz]) = (grid.blocks, grid.threads);
        let stream = self.streams().1.cu_stream();
        // SAFETY: as the caller says; the driver copies the parameters before it returns.
        unsafe { result::launch_kernel(kernel.0.raw, (bx, by, bz), (tx, ty, tz), grid.shared, stream, &mut pointers) }
            .doing(format!("launch kernel {} with {grid:?}", kernel.0.name))
            .inspect_err(|error| self.note(error))
    }
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
        let raw = match unsafe { result::module::get_function(self.raw, c_name) }.doing("find a kernel") {
            Ok(raw) => raw,
            Err(GpuError::Driver { code, .. }) if code.0 == 500 => return Err(missing()),
            // What is loaded late is loaded here.
            Err(error) => return Err(error).inspect_err(|error| self.device.note(error)),
        };
        let parameters = (self.device.driver() >= TELLS_PARAMETERS).then(|| parameters(raw)).transpose()?;
        let shared = Cell::new(attribute(raw, CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)?);
        Ok(Kernel(Rc::new(Function { raw, name: name.into(), parameters, shared, module: Rc::clone(self) })))
    }
}

/// The CUDA version from which on a driver has `cuFuncGetParamInfo`: without it cudarc panics.
const TELLS_PARAMETERS: u32 = 12040;

/// The bytes of each parameter of a kernel.
fn parameters(function: sys::CUfunction) -> Result<Vec<usize>, GpuError> {
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is loaded; it writes two numbers.
        match unsafe { sys::cuFuncGetParamInfo(function, sizes.len(), &raw mut offset, &raw mut size) } {
            sys::CUresult::CUDA_SUCCESS => sizes.push(size),
            // There are no more.
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => return Ok(sizes),
            error => error.result().doing("ask for a kernel's parameters")?,
        }
    }
}

fn attribute(function: sys::CUfunction, which: CUfunction_attribute) -> Result<u32, GpuError> {
    // SAFETY: the function is loaded.
    let value =
        unsafe { result::function::get_function_attribute(function, which) }.doing("ask for a kernel's needs")?;
    Ok(u32::try_from(value).unwrap_or(0))
}

impl Function {
    fn check(&self, args: &[Arg]) -> Result<(), GpuError> {
        let Some(takes) = &self.parameters else { return Ok(()) };
        let given: Vec<usize> = args.iter().map(|arg| arg.bytes).collect();
        if *takes == given {
            return Ok(());
        }
        Err(GpuError::invalid(format!(
            "kernel {} takes {} arguments of {takes:?} bytes and is given {} of {given:?}",
            self.name,
            takes.len(),
            given.len(),
        )))
    }

    /// Lets blocks have so many bytes of shared memory. More than 48 KiB must be asked for, once.
    fn make_room(&self, bytes: u32) -> Result<(), GpuError> {
        if bytes <= self.shared.get() {
            return Ok(());
        }
        let there =
            self.module.device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let declared = attribute(self.raw, CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let most = u32::try_from(there).unwrap_or(0).saturating_sub(declared);
        if bytes > most {
            return Err(GpuError::invalid(format!(
                "kernel {} is launched with {bytes} bytes of shared memory for a block: this device has {there} for one, of which \
                 the kernel declares {declared}",
                self.name
            )));
        }
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // All there is: another handle of this kernel may need more than this launch.
        // SAFETY: the function is loaded.
        unsafe { result::function::set_function_attribute(self.raw, which, most as i32) }
            .doing(format!("let kernel {} have {most} bytes of shared memory", self.name))?;
        self.shared.set(most);
        Ok(())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: kernels of it keep it, so none is left; the driver waits for those that run.
        let unloaded = self.device.bind().and_then(|()| unsafe { result::module::unload(self.raw) }.doing("unload"));
        log("unload kernels", unloaded);
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.0.name).field("module", &self.0.module).finish_non_exhaustive()
    }
}
