//! Where the fake driver and compiler are, and what tests ask the driver that this process has loaded.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fs};

use libloading::os::unix::{Library, Symbol};

/// What has happened, and what is there: the struct of the same name in the driver.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub to_device: u64,
    pub from_device: u64,
    pub within_device: u64,
    pub copies: u64,
    pub launches: u64,
    pub faults: u64,
    pub trims: u64,
    pub device_bytes: u64,
    pub pinned_bytes: u64,
    pub streams: u64,
    pub events: u64,
    pub pools: u64,
    pub modules: u64,
    pub peak_device_bytes: u64,
}

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
        match symlink(built.join(library), folder.join(name)) {
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

    /// Each device has so many bytes.
    pub fn set_memory(&self, bytes: u64) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u64)>("fake_cuda_set_memory")(bytes) };
    }

    /// Every call fails so from now on; 0 mends it.
    pub fn set_sticky(&self, code: u32) {
        // SAFETY: it takes a number.
        unsafe { self.call::<unsafe extern "C" fn(u32)>("fake_cuda_set_sticky")(code) };
    }

    fn call<F>(&self, name: &str) -> Symbol<F> {
        // SAFETY: callers name its type.
        unsafe { self.library.get(name.as_bytes()) }.expect("the driver at hand is the fake one")
    }
}
