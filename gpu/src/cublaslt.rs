//! cuBLASLt's functions, of the file that was chosen.
//!
//! Called directly rather than through cudarc, which opens `libcublasLt.so` and then other names on the loader's path: that may be
//! another file than the one that was chosen and logged, of a version that the driver is too old for.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::cublaslt::sys;
use libloading::os::unix::{Library, Symbol};

use crate::BlasError;
use crate::load::{self, LibraryMissing};

const INSTALL: &str =
    "install the CUDA toolkit, or `pip install nvidia-cublas` and name its folder in REGATTA_CUDA_LIBS";

/// What a call returns: 0, or the number of an error.
type Status = u32;
type Raw = *mut c_void;

/// The library.
#[derive(Debug)]
pub(crate) struct CublasLt {
    /// The file that was loaded.
    pub(crate) file: PathBuf,
    create: Symbol<unsafe extern "C" fn(*mut Raw) -> Status>,
    destroy: Symbol<unsafe extern "C" fn(Raw) -> Status>,
    create_layout: Symbol<unsafe extern "C" fn(*mut Raw, u32, u64, u64, i64) -> Status>,
    create_operation: Symbol<unsafe extern "C" fn(*mut Raw, u32, u32) -> Status>,
    create_preference: Symbol<unsafe extern "C" fn(*mut Raw) -> Status>,
    layout: Kind,
    operation: Kind,
    preference: Kind,
    heuristic: Symbol<Heuristic>,
    multiply: Symbol<Multiply>,
}

type Heuristic = unsafe extern "C" fn(
    Raw,
    Raw,
    Raw,
    Raw,
    Raw,
    Raw,
    Raw,
    c_int,
    *mut sys::cublasLtMatmulHeuristicResult_t,
    *mut c_int,
) -> Status;
type Multiply = unsafe extern "C" fn(
    Raw,
    Raw,
    *const c_void,
    *const c_void,
    Raw,
    *const c_void,
    Raw,
    *const c_void,
    *const c_void,
    Raw,
    *mut c_void,
    Raw,
    *const sys::cublasLtMatmulAlgo_t,
    *mut c_void,
    usize,
    *mut c_void,
) -> Status;

/// What descriptions of one kind have in common.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    set: Symbol<unsafe extern "C" fn(Raw, u32, *const c_void, usize) -> Status>,
    destroy: Symbol<unsafe extern "C" fn(Raw) -> Status>,
}

/// A description: of a matrix, of what is done with matrices, or of which ways to do it are taken.
#[derive(Debug)]
pub(crate) struct Description {
    raw: Raw,
    kind: &'static Kind,
}

/// A user of the library.
#[derive(Debug)]
pub(crate) struct Handle {
    raw: Raw,
    lt: &'static CublasLt,
}

impl CublasLt {
    /// The library of this process, loaded by the first call: not newer than the driver's major version of CUDA.
    pub(crate) fn get(driver: u32) -> Result<&'static Self, LibraryMissing> {
        static LIBRARY: OnceLock<Result<CublasLt, LibraryMissing>> = OnceLock::new();
        LIBRARY.get_or_init(|| Self::load(driver)).as_ref().map_err(Clone::clone)
    }

    fn load(driver: u32) -> Result<Self, LibraryMissing> {
        let loaded = load::load("cublasLt", |_| Vec::new(), driver, INSTALL)?;
        let library = Self::of(&loaded.library, loaded.file.clone()).map_err(|error| LibraryMissing {
            library: "libcublasLt.so".into(),
            looked: load::search_dirs(),
            failed: vec![(loaded.file.clone(), error.to_string())],
            remedy: INSTALL,
        })?;
        std::mem::forget(loaded.library);
        tracing::info!(file = %library.file.display(), "cuBLASLt loaded");
        Ok(library)
    }

    fn of(library: &Library, file: PathBuf) -> Result<Self, libloading::Error> {
        let kind = |name, set: &str, destroy: &str| -> Result<Kind, libloading::Error> {
            // SAFETY: as below; the three kinds have such functions of the same types.
            unsafe { Ok(Kind { name, set: library.get(set.as_bytes())?, destroy: library.get(destroy.as_bytes())? }) }
        };
        // SAFETY: the types are those that cublasLt.h declares, the same since CUDA 11; enums are numbers of 32 bits.
        unsafe {
            Ok(Self {
                file,
                create: library.get(b"cublasLtCreate\0")?,
                destroy: library.get(b"cublasLtDestroy\0")?,
                create_layout: library.get(b"cublasLtMatrixLayoutCreate\0")?,
                create_operation: library.get(b"cublasLtMatmulDescCreate\0")?,
                create_preference: library.get(b"cublasLtMatmulPreferenceCreate\0")?,
                layout: kind("layout", "cublasLtMatrixLayoutSetAttribute\0", "cublasLtMatrixLayoutDestroy\0")?,
                operation: kind("operation", "cublasLtMatmulDescSetAttribute\0", "cublasLtMatmulDescDestroy\0")?,
                preference: kind(
                    "preference",
                    "cublasLtMatmulPreferenceSetAttribute\0",
                    "cublasLtMatmulPreferenceDestroy\0",
                )?,
                heuristic: library.get(b"cublasLtMatmulAlgoGetHeuristic\0")?,
                multiply: library.get(b"cublasLtMatmul\0")?,
            })
        }
    }

    pub(crate) fn handle(&'static self) -> Result<Handle, BlasError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes a handle.
        check("cublasLtCreate", unsafe { (self.create)(&raw mut raw) })?;
        Ok(Handle { raw, lt: self })
    }

    /// Matrices of so many rows and columns, column by column, each `leading` numbers behind the one before.
    pub(crate) fn layout(
        &'static self,
        numbers: sys::cudaDataType,
        rows: u64,
        columns: u64,
        leading: u64,
    ) -> Result<Description, BlasError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes a description.
        let status = unsafe { (self.create_layout)(&raw mut raw, numbers as u32, rows, columns, leading as i64) };
        check("cublasLtMatrixLayoutCreate", status)?;
        Ok(Description { raw, kind: &self.layout })
    }

    pub(crate) fn operation(
        &'static self,
        compute: sys::cublasComputeType_t,
        scale: sys::cudaDataType,
    ) -> Result<Description, BlasError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes a description.
        let status = unsafe { (self.create_operation)(&raw mut raw, compute as u32, scale as u32) };
        check("cublasLtMatmulDescCreate", status)?;
        Ok(Description { raw, kind: &self.operation })
    }

    pub(crate) fn preference(&'static self) -> Result<Description, BlasError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes a description.
        check("cublasLtMatmulPreferenceCreate", unsafe { (self.create_preference)(&raw mut raw) })?;
        Ok(Description { raw, kind: &self.preference })
    }
}

impl Description {
    /// # Safety
    /// The value is of the attribute's type.
    pub(crate) unsafe fn set<T>(&self, attribute: u32, value: T) -> Result<(), BlasError> {
        // SAFETY: the description exists; the type is the caller's promise.
        let status = unsafe { (self.kind.set)(self.raw, attribute, (&raw const value).cast(), size_of::<T>()) };
        match status {
            0 => Ok(()),
            _ => Err(failed(format!("attribute {attribute} of a {}", self.kind.name), status)),
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used after this.
        unsafe { (self.kind.destroy)(self.raw) };
    }
}

impl Handle {
    /// The fastest way to multiply `[a, b, c]` so, by cuBLASLt's own guess; `Err` has what it says against it.
    pub(crate) fn heuristic(
        &self,
        operation: &Description,
        [a, b, c]: [&Description; 3],
        preference: &Description,
    ) -> Result<sys::cublasLtMatmulAlgo_t, String> {
        // SAFETY: zeros are a value of this C struct: numbers, and a status of success.
        let mut found: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let (mut count, preference) = (0, preference.raw);
        // SAFETY: all parts exist, and there is room for one answer.
        let status = unsafe {
            let (a, b, c, d) = (a.raw, b.raw, c.raw, c.raw);
            (self.lt.heuristic)(self.raw, operation.raw, a, b, c, d, preference, 1, &raw mut found, &raw mut count)
        };
        match (status, count) {
            (0, 1..) => Ok(found.algo),
            (0, _) => Err("cuBLASLt knows no way to do it".into()),
            _ => Err(format!("cublasLtMatmulAlgoGetHeuristic: {}", name(status))),
        }
    }

    /// Puts `c = scale * a * b` on a stream.
    ///
    /// # Safety
    /// The memory is as large as the descriptions say, and nobody else uses `c` and the workspace until it has been done.
    pub(crate) unsafe fn multiply(
        &self,
        operation: &Description,
        scale: f32,
        [(a, a_layout), (b, b_layout), (c, c_layout)]: [(*mut c_void, &Description); 3],
        algorithm: &sys::cublasLtMatmulAlgo_t,
        (workspace, bytes): (*mut c_void, usize),
        stream: *mut c_void,
    ) -> Result<(), BlasError> {
        let (alpha, beta) = (&raw const scale, &raw const ZERO);
        let (alpha, beta) = (alpha.cast(), beta.cast());
        // SAFETY: all parts exist; the memory is the caller's promise.
        let status = unsafe {
            let (a_layout, b_layout, c_layout) = (a_layout.raw, b_layout.raw, c_layout.raw);
            (self.lt.multiply)(
                self.raw,
                operation.raw,
                alpha,
                a,
                a_layout,
                b,
                b_layout,
                beta,
                c,
                c_layout,
                c,
                c_layout,
                algorithm,
                workspace,
                bytes,
                stream,
            )
        };
        check("cublasLtMatmul", status)
    }
}

static ZERO: f32 = 0.0;

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it was created, and nobody uses it after this. After a fault of the device it may fail: the process ends.
        unsafe { (self.lt.destroy)(self.raw) };
    }
}

fn check(what: &str, status: Status) -> Result<(), BlasError> {
    if status == 0 { Ok(()) } else { Err(failed(what.to_owned(), status)) }
}

fn failed(what: String, status: Status) -> BlasError {
    BlasError::Failed { what, status: name(status) }
}

fn name(status: Status) -> String {
    let name = match status {
        1 => "NOT_INITIALIZED",
        3 => "ALLOC_FAILED",
        7 => "INVALID_VALUE",
        8 => "ARCH_MISMATCH",
        11 => "MAPPING_ERROR",
        13 => "EXECUTION_FAILED",
        14 => "INTERNAL_ERROR",
        15 => "NOT_SUPPORTED",
        16 => "LICENSE_ERROR",
        other => return format!("status {other}"),
    };
    format!("CUBLAS_STATUS_{name}")
}
