//! Where the fake driver and compiler are, and what tests ask the driver that this process has loaded.

#[path = "../cuda/src/counts.rs"]
mod counts;

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fs};

pub use counts::Counts;
use libloading::os::unix::{Library, Symbol};

/// The folder with the fakes, under the names of what they stand in for: for `regatta_gpu::use_fakes`.
///
/// # Panics
/// This is no test that has them among its dependencies.
pub fn folder() -> PathBuf {
    let executable = env::current_exe().expect("a test knows its executable");
    let built = executable.ancestors().skip(1).map(|folder| folder.join("deps"));
    let built = executable.parent().map(PathBuf::from).into_iter().chain(built);
    let built = built.into_iter().find(|folder| folder.join("libfake_cuda.so").is_file());
    let built = built.expect("regatta-fakes is a dev-dependency, and its libraries are beside the test");
    let folder = built.join("fakes");
    fs::create_dir_all(&folder).expect("the target folder can be written to");
    let fakes = [
        ("libcuda.so", "libfake_cuda.so"),
        ("libnvrtc.so.13", "libfake_nvrtc.so"),
        ("libcublasLt.so.13", "libfake_cublaslt.so"),
    ];
    for (name, library) in fakes {
        // Relative, so that a target folder can be copied.
        match symlink(Path::new("..").join(library), folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{name}: {error}"),
            _ => (),
        }
    }
    folder
}

/// The fake driver of this process, for one test at a time.
#[derive(Debug)]
pub struct Driver {
    library: Library,
    _alone: MutexGuard<'static, ()>,
}

impl Driver {
    /// Waits until no other test has it. All it counts but peaks and sums is then of this test.
    pub fn alone() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: its initialisers have no conditions.
        let library = unsafe { Library::new(folder().join("libcuda.so")) }.expect("the fake driver can be loaded");
        Self { library, _alone: alone }
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        // SAFETY: it writes that struct.
        unsafe { self.call::<unsafe extern "C" fn(*mut Counts)>("fake_cuda_counts")(&raw mut counts) };
        counts
    }

    /// The next allocations fail for want of memory.
    pub fn fail_allocations(&self, next: u64) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u64)>("fake_cuda_fail_allocations")(next) };
    }

    /// The next attempts to pin host memory fail for want of it.
    pub fn fail_pins(&self, next: u64) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u64)>("fake_cuda_fail_pins")(next) };
    }

    /// The next launches, products and loads of kernels fail for want of memory.
    pub fn fail_launches(&self, next: u64) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u64)>("fake_cuda_fail_launches")(next) };
    }

    /// Each device has so many bytes.
    pub fn set_memory(&self, bytes: u64) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u64)>("fake_cuda_set_memory")(bytes) };
    }

    /// The driver says that it is for this version of CUDA, as 12020 for 12.2; 0: its own.
    pub fn set_version(&self, version: u32) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u32)>("fake_cuda_set_version")(version) };
    }

    /// Every call fails so from now on; 0 mends it.
    pub fn set_sticky(&self, code: u32) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u32)>("fake_cuda_set_sticky")(code) };
    }

    /// Calls from now on that order do nothing: the `n`-th one where bit `n` is set. With `eager`, copies to a device happen
    /// at once, not when something waits for them.
    pub fn leave_out(&self, calls: u64, eager: bool) {
        // SAFETY: it takes a number and a bool.
        unsafe { self.call::<unsafe extern "C" fn(u64, bool)>("fake_cuda_leave_out")(calls, eager) };
    }

    fn call<F>(&self, name: &str) -> Symbol<F> {
        // SAFETY: callers name its type.
        unsafe { self.library.get(name.as_bytes()) }.expect("the driver at hand is the fake one")
    }
}

/// Numbers from -1 to 1, the same for each seed.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
