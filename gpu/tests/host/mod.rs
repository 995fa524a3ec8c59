//! Kernels built by the host's C++ compiler through the shim of the fake NVRTC, called directly.

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;

use libloading::os::unix::{Library, Symbol};
use regatta_gpu::KernelSource;

#[derive(Debug)]
pub(crate) struct HostKernels {
    library: Library,
}

impl HostKernels {
    pub(crate) fn compile(source: &KernelSource) -> Self {
        let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("fake/nvrtc/cuda_shim.h");
        let folder = tempfile::tempdir().unwrap();
        let (file, built) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        std::fs::write(&file, format!("{}\n{}", source.text(), wrappers(source.text()))).unwrap();
        let mut compiler = Command::new("g++");
        compiler.args([
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-shared",
            "-ffp-contract=off",
            "-Wno-unknown-pragmas",
            "-include",
        ]);
        compiler.arg(&shim).args(source.macros().map(|define| format!("-D{define}"))).arg(&file).arg("-o").arg(&built);
        let output = compiler.output().expect("g++ is needed for this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: it has just been built, and has no initialisers but those of empty vectors.
        let library = unsafe { Library::new(&built) }.unwrap();
        Self { library }
    }

    /// Runs a whole grid.
    pub(crate) fn run(&self, kernel: &str, grid: [u32; 3], block: [u32; 3], args: &[*mut c_void]) {
        assert_eq!(
            self.code(kernel, grid, block, args),
            0,
            "{kernel}: a trap, or a barrier that not all threads reach"
        );
    }

    /// The same, with the code that a driver would give: 0 or 719.
    pub(crate) fn code(&self, kernel: &str, grid: [u32; 3], block: [u32; 3], args: &[*mut c_void]) -> u32 {
        type Run = unsafe extern "C" fn(*const u32, *const u32, u32, *mut *mut c_void) -> u32;
        type Sizes = unsafe extern "C" fn(*mut usize) -> usize;
        let mut args = args.to_vec();
        // SAFETY: the shim's macro declares them like this; the arguments are as the kernel declares them, in number at least.
        unsafe {
            let sizes: Symbol<Sizes> = self.library.get(format!("{kernel}_arg_sizes\0").as_bytes()).unwrap();
            assert_eq!(sizes([0; 64].as_mut_ptr()), args.len(), "arguments of {kernel}");
            let run: Symbol<Run> = self.library.get(format!("{kernel}_on_host\0").as_bytes()).unwrap();
            run(grid.as_ptr(), block.as_ptr(), 0, args.as_mut_ptr())
        }
    }
}

/// The shim's wrapper for each kernel of a source.
fn wrappers(source: &str) -> String {
    let kernels = source.split("__global__").skip(1).filter_map(|rest| {
        let (_, rest) = rest.split_once("void ")?;
        Some(format!("REGATTA_KERNEL({})\n", rest.split('(').next()?.trim()))
    });
    kernels.collect()
}

/// Where an argument lies.
pub(crate) fn arg<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// A buffer that a kernel reads.
pub(crate) fn at<T>(values: &[T]) -> *const T {
    values.as_ptr()
}

/// A buffer that a kernel writes.
pub(crate) fn at_mut<T>(values: &mut [T]) -> *mut T {
    values.as_mut_ptr()
}
