//! CUDA C++ to machine code for one device, by NVIDIA's run-time compiler.
//!
//! Called directly rather than through cudarc, which opens the first library of that name on the loader's path and panics
//! without one: here the file that was chosen is the one that compiles.

use std::borrow::Cow;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::Symbol;
use ring::digest;

use crate::cache::CubinCache;
use crate::load::{self, LibraryMissing};

const INSTALL: &str =
    "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc` and name its folder in REGATTA_CUDA_LIBS";

/// A device's compute capability, as in `sm_90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch(
    /// Ten times the major number, plus the minor one: 90 for 9.0.
    pub u32,
);

/// Kernels in CUDA C++, compiled for the device that runs them. There are no headers: not CUDA's, not C++'s.
#[derive(Debug, Clone)]
pub struct KernelSource {
    name: Cow<'static, str>,
    text: Cow<'static, str>,
    options: Vec<String>,
}

/// Kernels that a device can load.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Machine code (an ELF file); or, for a device that is newer than the compiler, PTX with its closing NUL, which the
    /// driver compiles.
    pub bytes: Vec<u8>,
    /// What the compiler said: warnings, and registers, spills and shared memory of each kernel. Empty from the cache.
    pub log: String,
}

/// Why kernels could not be compiled.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// There is no compiler.
    #[error(transparent)]
    NoCompiler(#[from] LibraryMissing),
    /// The source, its name or an option is not one that the compiler may see.
    #[error("{name}: {why}")]
    Refused {
        /// The source's name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The compiler refuses the source.
    #[error("{name} does not compile for {arch} (NVRTC {major}.{minor}: {code}):\n{log}")]
    Rejected {
        /// The source's name.
        name: String,
        /// For which device.
        arch: Arch,
        /// The compiler's version.
        major: u32,
        /// The compiler's version.
        minor: u32,
        /// What NVRTC calls it.
        code: &'static str,
        /// What the compiler said.
        log: String,
    },
}

impl KernelSource {
    /// Source under the name that messages of the compiler show.
    pub fn new(name: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), text: text.into(), options: vec!["--std=c++17".into()] }
    }

    /// Defines a macro: a name and, say, a number.
    pub fn define(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.options.push(format!("--define-macro={name}={value}"));
        self
    }

    /// Faster and less exact division, square roots and functions such as `expf`; denormals become zero.
    pub fn fast_math(mut self) -> Self {
        self.options.push("--use_fast_math".into());
        self
    }

    /// The most registers that a thread may use.
    pub fn max_registers(mut self, registers: u32) -> Self {
        self.options.push(format!("--maxrregcount={registers}"));
        self
    }

    /// The name that was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text that was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The macros, as `NAME=value`.
    #[doc(hidden)]
    pub fn macros(&self) -> impl Iterator<Item = &str> {
        self.options.iter().filter_map(|option| option.strip_prefix("--define-macro="))
    }

    fn check(&self) -> Result<(), CompileError> {
        let refuse = |why: String| Err(CompileError::Refused { name: self.name.to_string(), why });
        if self.name.contains('\0') || self.text.contains('\0') {
            return refuse("the source contains a NUL character".into());
        }
        let simple = |c: char| c.is_ascii_alphanumeric() || "-_=.+".contains(c);
        match self.options.iter().find(|option| !option.chars().all(simple)) {
            Some(option) => refuse(format!("{option:?} is not an option: a macro is a name and a plain value")),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("bytes", &self.bytes.len()).field("log", &self.log).finish()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

/// NVIDIA's run-time compiler.
#[derive(Debug)]
pub struct Nvrtc {
    file: PathBuf,
    version: (u32, u32),
    /// The devices that it makes machine code for, oldest first.
    archs: Vec<Arch>,
    calls: Calls,
}

type Program = *mut c_void;
type Get<T> = Symbol<unsafe extern "C" fn(Program, *mut T) -> c_int>;

/// NVRTC's functions, whose types are those of nvrtc.h.
#[derive(Debug)]
struct Calls {
    version: Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>,
    archs_len: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    archs: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    create: Symbol<
        unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int,
    >,
    compile: Symbol<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>,
    destroy: Symbol<unsafe extern "C" fn(*mut Program) -> c_int>,
    log: (Get<usize>, Get<c_char>),
    cubin: (Get<usize>, Get<c_char>),
    ptx: (Get<usize>, Get<c_char>),
}

impl Calls {
    fn of(library: &libloading::os::unix::Library) -> Result<Self, libloading::Error> {
        // SAFETY: the types are those that nvrtc.h declares, the same since CUDA 11.
        unsafe {
            Ok(Self {
                version: library.get(b"nvrtcVersion\0")?,
                archs_len: library.get(b"nvrtcGetNumSupportedArchs\0")?,
                archs: library.get(b"nvrtcGetSupportedArchs\0")?,
                create: library.get(b"nvrtcCreateProgram\0")?,
                compile: library.get(b"nvrtcCompileProgram\0")?,
                destroy: library.get(b"nvrtcDestroyProgram\0")?,
                log: (library.get(b"nvrtcGetProgramLogSize\0")?, library.get(b"nvrtcGetProgramLog\0")?),
                cubin: (library.get(b"nvrtcGetCUBINSize\0")?, library.get(b"nvrtcGetCUBIN\0")?),
                ptx: (library.get(b"nvrtcGetPTXSize\0")?, library.get(b"nvrtcGetPTX\0")?),
            })
        }
    }
}

impl Nvrtc {
    /// The compiler of this process, loaded by the first call. `driver` is the driver's major CUDA version, if there is one:
    /// it loads machine code of its own major version and of older ones, so a newer compiler is passed over.
    ///
    /// # Errors
    /// There is none: with where it was looked for.
    pub fn get(driver: Option<u32>) -> Result<&'static Self, LibraryMissing> {
        static NVRTC: OnceLock<Result<Nvrtc, LibraryMissing>> = OnceLock::new();
        NVRTC.get_or_init(|| Self::load(driver.unwrap_or(u32::MAX))).as_ref().map_err(Clone::clone)
    }

    fn load(newest: u32) -> Result<Self, LibraryMissing> {
        // The compiler opens its builtins by name, which finds them only once they are loaded.
        let builtins = |major| vec![format!("libnvrtc-builtins.so.{major}")];
        let loaded = load::load("nvrtc", builtins, newest, INSTALL)?;
        let file = loaded.file;
        let missing = |why: String| LibraryMissing {
            library: "libnvrtc.so".into(),
            looked: load::search_dirs(),
            failed: vec![(file.clone(), why)],
            remedy: INSTALL,
        };
        let calls = Calls::of(&loaded.library).map_err(|error| missing(error.to_string()))?;
        std::mem::forget(loaded.library);
        let (mut major, mut minor, mut len) = (0, 0, 0);
        // SAFETY: each writes one number.
        let codes = unsafe { [(calls.version)(&mut major, &mut minor), (calls.archs_len)(&mut len)] };
        let mut archs = vec![0; usize::try_from(len).unwrap_or(0)];
        // SAFETY: it writes as many numbers as it said.
        let code = unsafe { (calls.archs)(archs.as_mut_ptr()) };
        if codes != [0, 0] || code != 0 || archs.is_empty() {
            return Err(missing("it does not say which devices it compiles for".into()));
        }
        let number = |n: c_int| u32::try_from(n).unwrap_or(0);
        let mut archs: Vec<_> = archs.into_iter().map(|arch| Arch(number(arch))).collect();
        archs.sort_unstable();
        let version = (number(major), number(minor));
        tracing::info!(file = %file.display(), version = ?version, "NVRTC loaded");
        Ok(Self { file, version, archs, calls })
    }

    /// The file that was loaded.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Its version: of CUDA, as in (13, 0).
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Compiles for one device; for a device newer than the compiler, PTX for the newest device that it knows.
    ///
    /// # Errors
    /// The source is wrong, with what the compiler said; or it is not one that it may see.
    pub fn compile(&self, source: &KernelSource, arch: Arch) -> Result<Image, CompileError> {
        source.check()?;
        let newest = self.archs[self.archs.len() - 1];
        let ptx = arch > newest;
        let target = if ptx { format!("compute_{}", newest.0) } else { arch.to_string() };
        let mut options = vec![format!("--gpu-architecture={target}")];
        options.extend(source.options.iter().cloned());
        if !ptx {
            options.push("--ptxas-options=-v".into());
        }
        let c_string = |text: &str| CString::new(text).expect("no NUL: checked");
        let (text, name) = (c_string(&source.text), c_string(&source.name));
        let options: Vec<CString> = options.iter().map(|option| c_string(option)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        // One at a time: NVRTC may be called from many threads, and is not faster for it.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut program = Destroy { program: std::ptr::null_mut(), calls: &self.calls };
        let rejected = |code: c_int, log: String| CompileError::Rejected {
            name: source.name.to_string(),
            arch,
            major: self.version.0,
            minor: self.version.1,
            code: code_name(code),
            log: log.trim().to_owned(),
        };
        let none = std::ptr::null();
        // SAFETY: the texts live until the end of this function, after the program, which is declared later.
        let code = unsafe { (self.calls.create)(&mut program.program, text.as_ptr(), name.as_ptr(), 0, none, none) };
        if code != 0 {
            return Err(rejected(code, String::new()));
        }
        // SAFETY: the program was created; there are that many options.
        let code = unsafe { (self.calls.compile)(program.program, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.get(&self.calls.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if code != 0 {
            return Err(rejected(code, log));
        }
        let bytes = program.get(if ptx { &self.calls.ptx } else { &self.calls.cubin });
        Ok(Image { bytes: bytes.map_err(|code| rejected(code, log.clone()))?, log })
    }

    /// As [`compile`](Self::compile), from the cache if it is there, else into it. A cache that cannot be written to is
    /// logged, and costs time only.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_cached(&self, source: &KernelSource, arch: Arch, cache: &CubinCache) -> Result<Image, CompileError> {
        let key = self.key(source, arch);
        // One thread of this process compiles, the others find it in the cache.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = cache.get(&key) {
            return Ok(Image { bytes, log: String::new() });
        }
        let image = self.compile(source, arch)?;
        if let Err(error) = cache.put(&key, &image.bytes) {
            tracing::warn!(%error, "a compiled kernel cannot be kept in the cache");
        }
        Ok(image)
    }

    /// The key in the cache: of all that the machine code depends on.
    pub fn key(&self, source: &KernelSource, arch: Arch) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let (major, minor) = self.version;
        let head = [format!("{major}.{minor}"), arch.to_string(), source.name.to_string(), source.text.to_string()];
        for part in head.iter().chain(&source.options) {
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        context.finish().as_ref().iter().fold(String::new(), |mut key, byte| {
            write!(key, "{byte:02x}").expect("a string takes it");
            key
        })
    }
}

struct Destroy<'a> {
    program: Program,
    calls: &'a Calls,
}

impl Destroy<'_> {
    fn get(&self, (len, bytes): &(Get<usize>, Get<c_char>)) -> Result<Vec<u8>, c_int> {
        let mut size = 0;
        // SAFETY: the program exists; it writes one number, then that many bytes.
        unsafe {
            let code = len(self.program, &mut size);
            let mut buffer = vec![0u8; size];
            match code {
                0 => match bytes(self.program, buffer.as_mut_ptr().cast()) {
                    0 => Ok(buffer),
                    code => Err(code),
                },
                code => Err(code),
            }
        }
    }
}

impl Drop for Destroy<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: it was created, and nobody uses it after this.
            unsafe { (self.calls.destroy)(&mut self.program) };
        }
    }
}

fn code_name(code: c_int) -> &'static str {
    match code {
        1 => "out of memory",
        2 => "the program could not be created",
        3 => "invalid input",
        5 => "invalid option",
        6 => "compilation error",
        7 => "libnvrtc-builtins could not be used",
        11 => "internal error",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_more_than_a_macro_is_refused() {
        let source = KernelSource::new("k.cu", "");
        assert!(source.check().is_ok());
        assert!(source.clone().define("D", 384).max_registers(64).fast_math().check().is_ok());
        for value in ["1 --include-path=/etc", "/etc/passwd", "\"x\"", "a\0b"] {
            let error = source.clone().define("D", value).check().unwrap_err().to_string();
            assert!(error.contains("is not an option"), "{error}");
        }
        let error = KernelSource::new("k.cu", "a\0b").check().unwrap_err().to_string();
        assert_eq!(error, "k.cu: the source contains a NUL character");
    }
}
