//! Modules and kernels: shared objects of the host, made by the fake NVRTC.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Code, INVALID_IMAGE, INVALID_VALUE, NO_BINARY, NOT_FOUND, OK, OUT_OF_MEMORY, call, fail};

// Of the C library, which std links.
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(library: *mut c_void) -> c_int;
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
}

const RTLD_NOW: c_int = 2;
/// The parameters of a kernel, at most.
const PARAMETERS: usize = 64;

/// Threads that end in a nanosecond.
const THREADS: u64 = 4;

/// Runs all blocks of a grid; returns a code if the kernel trapped.
type Run = unsafe extern "C" fn(*const c_uint, *const c_uint, c_uint, *mut *mut c_void) -> Code;
/// Writes the size of each parameter, and returns how many there are.
type Sizes = unsafe extern "C" fn(*mut usize) -> usize;

struct Function {
    run: Run,
    sizes: Vec<usize>,
    /// Bytes of shared memory that a launch may ask for.
    shared: AtomicU32,
    /// How many launches still do something.
    launches: AtomicU64,
}

/// Bytes of shared memory of a block, and of one whose kernel asks for more.
pub(crate) const SHARED: [c_uint; 2] = [48 << 10, 227 << 10];
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: c_int = 8;

/// How often a kernel runs: `FAKE_CUDA_IDLE=name:3` has launches of that kernel after the third do nothing.
fn launches(name: &str) -> u64 {
    let idle = std::env::var("FAKE_CUDA_IDLE").unwrap_or_default();
    idle.split_once(':').filter(|(kernel, _)| *kernel == name).and_then(|(_, n)| n.parse().ok()).unwrap_or(u64::MAX)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> Code {
    call(|driver| {
        fail(&mut driver.failing_launches)?;
        let library = unsafe { open(image.cast())? };
        driver.counts.modules += 1;
        unsafe { module.write(library) };
        Ok(())
    })
}

/// Loads an ELF image, whose own header says how long it is, as cubins do.
unsafe fn open(image: *const u8) -> Result<*mut c_void, Code> {
    let byte = |at: usize| unsafe { image.add(at).read() };
    if (0..4).map(byte).ne(*b"\x7fELF") {
        return Err(INVALID_IMAGE);
    }
    let number = |at: usize, bytes: usize| (0..bytes).rev().fold(0, |number, n| number << 8 | byte(at + n) as usize);
    // The section headers are last.
    let length = number(40, 8) + number(58, 2) * number(60, 2);
    let image = unsafe { std::slice::from_raw_parts(image, length) };
    let file = unsafe { memfd_create(c"fake-cuda-module".as_ptr(), 0) };
    if file < 0 {
        return Err(OUT_OF_MEMORY);
    }
    let mut file = unsafe { File::from_raw_fd(file) };
    file.write_all(image).map_err(|_| OUT_OF_MEMORY)?;
    // The loader takes a library of a name that it has seen for that one, and numbers of files come again: so each is spelled in
    // its own way.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let spelled: String = (0..32).map(|bit| if number >> bit & 1 == 1 { "/." } else { "/" }).collect();
    let path = CString::new(format!("/proc/self/fd{spelled}/{}", file.as_raw_fd())).map_err(|_| INVALID_VALUE)?;
    let library = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
    if library.is_null() { Err(NO_BINARY) } else { Ok(library) }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: *mut c_void) -> Code {
    call(|driver| {
        // Kernels of it may wait in a stream.
        driver.drain_all();
        driver.counts.modules -= 1;
        // SAFETY: it came from `dlopen`, and nothing of it is used any more.
        unsafe { dlclose(module) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) -> Code {
    call(|_| {
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| NOT_FOUND)?;
        let symbol = |suffix: &str| {
            let name = CString::new(format!("{name}{suffix}")).map_err(|_| NOT_FOUND)?;
            let symbol = unsafe { dlsym(module, name.as_ptr()) };
            if symbol.is_null() { Err(NOT_FOUND) } else { Ok(symbol) }
        };
        // SAFETY: the fake NVRTC makes them of these types.
        let (run, sizes) = unsafe {
            let run = std::mem::transmute::<*mut c_void, Run>(symbol("_on_host")?);
            (run, std::mem::transmute::<*mut c_void, Sizes>(symbol("_arg_sizes")?))
        };
        let mut all = [0; PARAMETERS];
        let count = unsafe { sizes(all.as_mut_ptr()) };
        // Functions are never freed by a driver's caller: one is small, and lives on.
        let (shared, launches) = (AtomicU32::new(SHARED[0]), AtomicU64::new(launches(name)));
        let made = Box::new(Function { run, sizes: all[..count].to_vec(), shared, launches });
        unsafe { function.write(Box::into_raw(made).cast()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(function: *mut c_void, attribute: c_int, value: c_int) -> Code {
    let function = unsafe { &*function.cast::<Function>() };
    match (attribute, c_uint::try_from(value)) {
        (MAX_DYNAMIC_SHARED, Ok(bytes)) if bytes <= SHARED[1] => function.shared.store(bytes, Ordering::Relaxed),
        _ => return INVALID_VALUE,
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: *mut c_void) -> Code {
    let function = unsafe { &*function.cast::<Function>() };
    let answer = if attribute == MAX_DYNAMIC_SHARED { function.shared.load(Ordering::Relaxed) } else { 0 };
    unsafe { value.write(answer as c_int) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetParamInfo(
    function: *mut c_void,
    parameter: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Code {
    call(|driver| {
        // Older ones have no such function.
        if driver.version.is_some_and(|version| version < 12040) {
            return Err(NOT_FOUND);
        }
        let sizes = unsafe { &(*function.cast::<Function>()).sizes };
        let bytes = *sizes.get(parameter).ok_or(INVALID_VALUE)?;
        // Each is aligned to its size.
        let end = |end: usize, size: &usize| end.next_multiple_of(*size) + size;
        unsafe {
            offset.write(sizes[..=parameter].iter().fold(0, end) - bytes);
            size.write(bytes);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
    _: *mut *mut c_void,
) -> Code {
    call(|driver| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let threads = block.iter().try_fold(1u32, |product, n| product.checked_mul(*n)).unwrap_or(u32::MAX);
        if grid.contains(&0) || threads == 0 || threads > 1024 || grid_y > 65535 || grid_z > 65535 {
            return Err(INVALID_VALUE);
        }
        let function = unsafe { &*function.cast::<Function>() };
        if shared > function.shared.load(Ordering::Relaxed) {
            return Err(INVALID_VALUE);
        }
        // The values are read now, and the kernel runs later. Words, for their alignment.
        let value = |(n, size): (usize, &usize)| {
            let mut value = vec![0u64; size.div_ceil(8)];
            unsafe { (*parameters.add(n)).cast::<u8>().copy_to(value.as_mut_ptr().cast(), *size) };
            value
        };
        let mut values: Vec<_> = function.sizes.iter().enumerate().map(value).collect();
        fail(&mut driver.failing_launches)?;
        driver.counts.launches += 1;
        let left = function.launches.load(Ordering::Relaxed);
        function.launches.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 {
            return Ok(());
        }
        let run = function.run;
        let all = u64::from(threads) * grid.iter().map(|n| u64::from(*n)).product::<u64>();
        driver.put(stream, all / THREADS, move |driver| {
            let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
            // SAFETY: there is a value of the right size for each parameter; what a kernel then touches is its author's duty.
            let code = unsafe { run(grid.as_ptr(), block.as_ptr(), shared, pointers.as_mut_ptr()) };
            if code != OK {
                driver.sticky = code;
            }
        });
        Ok(())
    })
}
