//! Products of matrices by cuBLASLt.
//!
//! Through cudarc's thin layer: its safe one panics where memory is short, and when something fails while it is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::fmt;

use cudarc::cublaslt::{result, sys};

use crate::load::{self, LibraryMissing};
use crate::{Device, GpuError, Pointer, Slice};

const INSTALL: &str =
    "install the CUDA toolkit, or `pip install nvidia-cublas` and name its folder in REGATTA_CUDA_LIBS";

/// Device pointers that are multiplied must be multiples of this.
const ALIGNMENT: u32 = 16;

/// What the numbers are, and how exact their products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// `f32`, multiplied as such.
    F32,
    /// `f32`, of which the tensor cores see 10 bits of the mantissa: relative errors of about 1e-3, several times faster.
    Tf32,
    /// `f16` times `f16`, summed and stored as `f32`.
    F16,
}

/// The shape of a product `c = scale * a * b`, of `batch` products that lie one after the other. Matrices are stored row by
/// row, without gaps, as Arrow stores tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// Rows of `a` and `c`.
    pub rows: u64,
    /// Columns of `b` and `c`.
    pub columns: u64,
    /// Columns of `a`, rows of `b`.
    pub inner: u64,
    /// `b` is stored with its rows as columns: `[columns, inner]`, as weights of layers and rows to compare with often are.
    pub b_transposed: bool,
    /// How many products.
    pub batch: u32,
    /// What each number of `c` is multiplied with.
    pub scale: f32,
    /// What the numbers are.
    pub precision: Precision,
}

/// Why a product was not started.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlasError {
    /// There is no cuBLASLt.
    #[error(transparent)]
    NoLibrary(#[from] LibraryMissing),
    /// It is none that cuBLASLt could compute.
    #[error("cuBLASLt cannot multiply {product}: {why}")]
    Refused {
        /// Which product.
        product: Product,
        /// What is wrong with it.
        why: String,
    },
    /// A call failed.
    #[error("cuBLASLt: {what} failed with {status}")]
    Failed {
        /// Which call.
        what: &'static str,
        /// What cuBLASLt calls it.
        status: String,
    },
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = if self.b_transposed { " (stored transposed)" } else { "" };
        write!(f, "{} x [{}, {}] times [{}, {}]{b}", self.batch, self.rows, self.inner, self.inner, self.columns)?;
        write!(f, " as {:?}", self.precision)
    }
}

/// cuBLASLt on a device. It remembers how each shape is best multiplied.
#[derive(Debug)]
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Shape, Plan>,
    workspace: Slice<u8>,
    device: Device,
}

type Shape = (u64, u64, u64, bool, u32, Precision);

impl Product {
    fn shape(&self) -> Shape {
        (self.rows, self.columns, self.inner, self.b_transposed, self.batch, self.precision)
    }

    fn check(&self, pointers: [Pointer; 3]) -> Result<(), BlasError> {
        let refuse = |why: &str| Err(BlasError::Refused { product: *self, why: why.into() });
        if [self.rows, self.columns, self.inner, self.batch.into()].contains(&0) {
            return refuse("it is empty");
        }
        if [self.rows, self.columns, self.inner, self.batch.into()].iter().any(|&side| side > i32::MAX as u64) {
            return refuse("a side is longer than 2^31");
        }
        if pointers.iter().any(|pointer| pointer.address() % u64::from(ALIGNMENT) != 0) {
            return refuse("a matrix does not begin at a multiple of 16 bytes");
        }
        Ok(())
    }
}

/// NVIDIA's advice for its newest devices.
const WORKSPACE: usize = 32 << 20;

impl Blas {
    /// cuBLASLt for this device, with 32 MiB of its memory to work in.
    ///
    /// # Errors
    /// There is no cuBLASLt, with where it was looked for; it cannot start; or there is not enough memory.
    pub fn new(device: &Device) -> Result<Self, GpuError> {
        let loaded = load::load("cublasLt", |_| Vec::new(), device.cuda_major(), INSTALL).map_err(BlasError::from)?;
        std::mem::forget(loaded.library);
        // cudarc opens it by its name, which finds the one that is loaded; or panics.
        // SAFETY: it opens libraries of NVIDIA, and calls nothing in them.
        if !unsafe { sys::is_culib_present() } {
            let failed = vec![(loaded.file, "it cannot be found by its name".to_owned())];
            let library = "libcublasLt.so".into();
            return Err(LibraryMissing { library, looked: load::search_dirs(), failed, remedy: INSTALL }.into());
        }
        tracing::info!(file = %loaded.file.display(), "cuBLASLt loaded");
        device.bind()?;
        let workspace = device.alloc(WORKSPACE)?;
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, plans: HashMap::new(), workspace, device: device.clone() })
    }

    /// Puts a product behind the kernels that were launched before. Returns before it was computed.
    ///
    /// # Errors
    /// The product is empty, a matrix is not aligned to 16 bytes, or cuBLASLt refuses it. What goes wrong on the device shows
    /// at a later call.
    ///
    /// # Safety
    /// The matrices are on this device, as long as the product says, and `c` is used by nobody else until it was computed.
    pub unsafe fn multiply(&mut self, product: Product, a: Pointer, b: Pointer, c: Pointer) -> Result<(), GpuError> {
        product.check([a, b, c])?;
        self.device.bind()?;
        let plan = match self.plans.entry(product.shape()) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(none) => none.insert(Plan::new(self.handle, &product)?),
        };
        let zero = 0f32;
        let pointer = |at: Pointer| at.address() as *mut c_void;
        // SAFETY: the caller's promise, and the plan's parts exist. cuBLASLt knows matrices column by column, in which a
        // matrix stored row by row is its transpose: so it computes b' a', which is c'.
        let started = unsafe {
            result::matmul(
                self.handle,
                plan.operation.0,
                (&raw const product.scale).cast(),
                (&raw const zero).cast(),
                pointer(b),
                plan.b.0,
                pointer(a),
                plan.a.0,
                pointer(c),
                plan.c.0,
                pointer(c),
                plan.c.0,
                &raw const plan.algorithm,
                pointer(self.workspace.pointer()),
                WORKSPACE,
                self.device.compute().cu_stream().cast(),
            )
        };
        Ok(started.map_err(failed("cublasLtMatmul"))?)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: it was created, and nobody uses it after this. After a fault of the device it may fail: the process ends.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// How products of one shape are multiplied.
#[derive(Debug)]
struct Plan {
    operation: Operation,
    a: Layout,
    b: Layout,
    c: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, product: &Product) -> Result<Self, BlasError> {
        let (input, compute) = match product.precision {
            Precision::F32 => (sys::cudaDataType::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (sys::cudaDataType::CUDA_R_32F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32),
            Precision::F16 => (sys::cudaDataType::CUDA_R_16F, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F),
        };
        let Product { rows, columns, inner, batch, .. } = *product;
        let (b_width, b_height) = if product.b_transposed { (inner, columns) } else { (columns, inner) };
        let a = Layout::new(input, inner, rows, batch)?;
        let b = Layout::new(input, b_width, b_height, batch)?;
        let c = Layout::new(sys::cudaDataType::CUDA_R_32F, columns, rows, batch)?;
        let operation = Operation::new(compute, product.b_transposed)?;
        let preference = Preference::new()?;
        // SAFETY: all parts exist.
        let heuristic =
            unsafe { result::get_matmul_algo_heuristic(handle, operation.0, b.0, a.0, c.0, c.0, preference.0) };
        let algorithm = heuristic.map_err(|error| BlasError::Refused {
            product: *product,
            why: format!("cublasLtMatmulAlgoGetHeuristic: {:?}", error.0),
        })?;
        Ok(Self { operation, a, b, c, algorithm: algorithm.algo })
    }
}

#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Matrices stored row by row, that wide and high, as cuBLASLt sees them: column by column, that high and wide.
    fn new(numbers: sys::cudaDataType, width: u64, height: u64, batch: u32) -> Result<Self, BlasError> {
        let layout = result::create_matrix_layout(numbers, width, height, width as i64);
        let layout = Self(layout.map_err(failed("cublasLtMatrixLayoutCreate"))?);
        use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
        layout.set(Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, batch as c_int)?;
        layout.set(Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, (width * height) as i64)?;
        Ok(layout)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatrixLayoutAttribute_t, value: T) -> Result<(), BlasError> {
        // SAFETY: the layout exists; the value is of the attribute's type, which is the caller's to know.
        unsafe { result::set_matrix_layout_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(failed("cublasLtMatrixLayoutSetAttribute"))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used after this.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

#[derive(Debug)]
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn new(compute: sys::cublasComputeType_t, first_transposed: bool) -> Result<Self, BlasError> {
        let operation = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F);
        let operation = Self(operation.map_err(failed("cublasLtMatmulDescCreate"))?);
        let transpose = i32::from(first_transposed);
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the operation exists; the attribute is a number of 32 bits.
        unsafe { result::set_matmul_desc_attribute(operation.0, attribute, (&raw const transpose).cast(), 4) }
            .map_err(failed("cublasLtMatmulDescSetAttribute"))?;
        Ok(operation)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used after this.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, BlasError> {
        let preference = result::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        let preference = Self(preference);
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, ALIGNMENT)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, ALIGNMENT)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, ALIGNMENT)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, ALIGNMENT)?;
        Ok(preference)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Result<(), BlasError> {
        // SAFETY: the preference exists; the value is of the attribute's type, which is the caller's to know.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(failed("cublasLtMatmulPreferenceSetAttribute"))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used after this.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn failed(what: &'static str) -> impl Fn(result::CublasError) -> BlasError {
    move |error| BlasError::Failed { what, status: format!("{:?}", error.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_cublaslt_would_not_take_are_refused_in_words() {
        let product = Product {
            rows: 2,
            columns: 3,
            inner: 4,
            b_transposed: true,
            batch: 5,
            scale: 1.0,
            precision: Precision::F32,
        };
        assert!(product.check([0, 16, 256].map(Pointer)).is_ok());
        let error = product.check([0, 8, 16].map(Pointer)).unwrap_err().to_string();
        let expected =
            "cuBLASLt cannot multiply 5 x [2, 4] times [4, 3] (stored transposed) as F32: a matrix does not begin";
        assert!(error.starts_with(expected), "{error}");
        let error = Product { inner: 0, ..product }.check([Pointer(0); 3]).unwrap_err().to_string();
        assert!(error.ends_with("it is empty"), "{error}");
        let error = Product { rows: 1 << 40, ..product }.check([Pointer(0); 3]).unwrap_err().to_string();
        assert!(error.ends_with("longer than 2^31"), "{error}");
    }
}
