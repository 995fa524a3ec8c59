//! Products of matrices by cuBLASLt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::Path;

use cudarc::cublaslt::sys;

use crate::cublaslt::{CublasLt, Description, Handle};
use crate::{Device, GpuError, LibraryMissing, Pointer, Slice};

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
        what: String,
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

/// cuBLASLt on a device. It remembers how the shapes of late are best multiplied.
#[derive(Debug)]
pub struct Blas {
    // Before the handle that they were made with.
    plans: Plans,
    handle: Handle,
    lt: &'static CublasLt,
    workspace: Slice<u8>,
    device: Device,
}

/// Shapes whose plans are kept. A batch has pieces of two lengths, the last one being shorter; batches of other lengths come.
const PLANS: usize = 64;

/// The plans that were used last.
#[derive(Debug, Default)]
struct Plans {
    /// Each with when it was used.
    all: HashMap<Shape, (u64, Plan)>,
    now: u64,
}

impl Plans {
    fn get(&mut self, shape: Shape, make: impl FnOnce() -> Result<Plan, BlasError>) -> Result<&Plan, BlasError> {
        self.now += 1;
        if self.all.len() >= PLANS && !self.all.contains_key(&shape) {
            let oldest = self.all.iter().min_by_key(|(_, (used, _))| *used).map(|(shape, _)| *shape);
            // cuBLASLt has read it when a product was put on the stream.
            oldest.and_then(|oldest| self.all.remove(&oldest));
        }
        let (used, plan) = match self.all.entry(shape) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert((0, make()?)),
        };
        *used = self.now;
        Ok(plan)
    }
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
        let lt = CublasLt::get(device.cuda_major()).map_err(BlasError::from)?;
        device.bind()?;
        let workspace = device.alloc(WORKSPACE)?;
        Ok(Self { plans: Plans::default(), handle: lt.handle()?, lt, workspace, device: device.clone() })
    }

    /// The file that cuBLASLt was loaded from; a name alone, if the system's loader found it.
    pub fn file(&self) -> &Path {
        &self.lt.file
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
        // SAFETY: the caller's promise.
        let put = unsafe { self.put(product, a, b, c) }.map_err(GpuError::from);
        put.inspect_err(|error| self.device.note(error))
    }

    /// # Safety
    /// As for a product; and it was checked.
    unsafe fn put(&mut self, product: Product, a: Pointer, b: Pointer, c: Pointer) -> Result<(), BlasError> {
        let plan = self.plans.get(product.shape(), || Plan::new(self.lt, &self.handle, &product))?;
        let pointer = |at: Pointer| at.address() as *mut c_void;
        let matrices = [(pointer(b), &plan.b), (pointer(a), &plan.a), (pointer(c), &plan.c)];
        let workspace = (pointer(self.workspace.pointer()), WORKSPACE);
        let stream = self.device.compute().cu_stream().cast();
        // SAFETY: the caller's promise; products are computed one after the other. cuBLASLt knows matrices column by column, in
        // which a matrix stored row by row is its transpose: so it computes b' a', which is c'.
        unsafe { self.handle.multiply(&plan.operation, product.scale, matrices, &plan.algorithm, workspace, stream) }
    }
}

/// How products of one shape are multiplied.
#[derive(Debug)]
struct Plan {
    operation: Description,
    a: Description,
    b: Description,
    c: Description,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(lt: &'static CublasLt, handle: &Handle, product: &Product) -> Result<Self, BlasError> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        use sys::cudaDataType::{CUDA_R_16F, CUDA_R_32F};
        let (input, compute) = match product.precision {
            Precision::F32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32),
            Precision::F16 => (CUDA_R_16F, CUBLAS_COMPUTE_32F),
        };
        let Product { rows, columns, inner, batch, .. } = *product;
        let (b_width, b_height) = if product.b_transposed { (inner, columns) } else { (columns, inner) };
        let a = layout(lt, input, inner, rows, batch)?;
        let b = layout(lt, input, b_width, b_height, batch)?;
        let c = layout(lt, CUDA_R_32F, columns, rows, batch)?;
        let operation = lt.operation(compute, CUDA_R_32F)?;
        let transposed = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: that attribute is a number of 32 bits.
        unsafe { operation.set(transposed as u32, i32::from(product.b_transposed)) }?;
        let algorithm = handle.heuristic(&operation, [&b, &a, &c], &preference(lt)?);
        let algorithm = algorithm.map_err(|why| BlasError::Refused { product: *product, why })?;
        Ok(Self { operation, a, b, c, algorithm })
    }
}

/// Matrices stored row by row, that wide and high, as cuBLASLt sees them: column by column, that high and wide.
fn layout(
    lt: &'static CublasLt,
    numbers: sys::cudaDataType,
    width: u64,
    height: u64,
    batch: u32,
) -> Result<Description, BlasError> {
    use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
    let layout = lt.layout(numbers, width, height, width)?;
    // SAFETY: the first is a number of 32 bits, the second one of 64.
    unsafe {
        layout.set(Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as u32, batch as c_int)?;
        layout.set(Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as u32, (width * height) as i64)?;
    }
    Ok(layout)
}

fn preference(lt: &'static CublasLt) -> Result<Description, BlasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = lt.preference()?;
    let alignments = [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    // SAFETY: the first is a number of 64 bits, the others have 32.
    unsafe {
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32, WORKSPACE as u64)?;
        alignments.into_iter().try_for_each(|attribute| preference.set(attribute as u32, ALIGNMENT))?;
    }
    Ok(preference)
}

#[cfg(test)]
mod tests {
    use regatta_fakes::Driver;

    use super::*;

    #[test]
    fn plans_of_the_shapes_used_last_are_kept_and_no_more() {
        crate::use_fakes(&regatta_fakes::folder());
        let _driver = Driver::alone();
        let device = Device::open(0, None).unwrap();
        let mut blas = Blas::new(&device).unwrap();
        let most = 3 * PLANS;
        let a = device.upload(&vec![2f32; most * 4]).unwrap();
        let (b, c) = (device.upload(&[3f32; 4]).unwrap(), device.zeros::<f32>(most).unwrap());
        let precision = Precision::F32;
        let product = Product { rows: 1, columns: 1, inner: 4, b_transposed: true, batch: 1, scale: 1.0, precision };
        for rows in 1..=most as u64 {
            // The first shape is used all the time.
            for rows in [1, rows] {
                // SAFETY: there are so many rows of four numbers, and room for one number of each.
                unsafe { blas.multiply(Product { rows, ..product }, a.pointer(), b.pointer(), c.pointer()) }.unwrap();
            }
            assert!(blas.plans.all.len() <= PLANS, "{} plans after {rows} shapes", blas.plans.all.len());
        }
        let mut kept: Vec<u64> = blas.plans.all.keys().map(|shape| shape.0).collect();
        kept.sort_unstable();
        let last = (most - PLANS + 2..=most).map(|rows| rows as u64);
        assert_eq!(kept, std::iter::once(1).chain(last).collect::<Vec<_>>());
        assert_eq!(device.download(&c).unwrap(), vec![24f32; most]);
    }

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
