//! A stand-in for cuBLASLt, for tests: what regatta-gpu calls of it, on the fake driver, which it finds in the process. A
//! product is computed when the fake driver comes to it on its stream, by plain loops. Every product fills its workspace with
//! garbage first: one that is shorter than it was said to be, or in use, shows.

#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

/// What a call returns: 0, or the number of an error.
type Status = u32;

const OK: Status = 0;
const ALLOC_FAILED: Status = 3;
const INVALID_VALUE: Status = 7;
const EXECUTION_FAILED: Status = 13;
const NOT_SUPPORTED: Status = 15;

/// What the driver says then.
const OUT_OF_MEMORY: c_int = 2;

const R_32F: u32 = 0;
const R_16F: u32 = 2;

/// A batch of matrices, stored column by column.
#[derive(Clone, Copy)]
struct Layout {
    numbers: u32,
    rows: usize,
    cols: usize,
    leading: usize,
    batch: usize,
    stride: usize,
}

#[derive(Clone, Copy, Default)]
struct Operation {
    transposed: [bool; 2],
}

struct Product {
    operation: Operation,
    layouts: [Layout; 3],
    pointers: [usize; 3],
    scale: f32,
    beta: f32,
    workspace: (usize, usize),
}

unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(handle: *mut usize) -> Status {
    unsafe { handle.write(1) };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(_: usize) -> Status {
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut Layout,
    numbers: u32,
    rows: u64,
    cols: u64,
    leading: i64,
) -> Status {
    let (rows, cols, leading) = (rows as usize, cols as usize, leading as usize);
    if leading < rows || !matches!(numbers, R_32F | R_16F) {
        return INVALID_VALUE;
    }
    unsafe { layout.write(Box::into_raw(Box::new(Layout { numbers, rows, cols, leading, batch: 1, stride: 0 }))) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: *mut Layout,
    attribute: u32,
    value: *const c_void,
    bytes: usize,
) -> Status {
    let layout = unsafe { &mut *layout };
    match (attribute, bytes) {
        (5, 4) => layout.batch = unsafe { value.cast::<c_int>().read() } as usize,
        (6, 8) => layout.stride = unsafe { value.cast::<i64>().read() } as usize,
        _ => return INVALID_VALUE,
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut Layout) -> Status {
    drop(unsafe { Box::from_raw(layout) });
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(operation: *mut *mut Operation, _compute: u32, scale: u32) -> Status {
    if scale != R_32F {
        return NOT_SUPPORTED;
    }
    unsafe { operation.write(Box::into_raw(Box::default())) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: *mut Operation,
    attribute: u32,
    value: *const c_void,
    bytes: usize,
) -> Status {
    match (attribute, bytes) {
        (3 | 4, 4) => unsafe { (*operation).transposed[attribute as usize - 3] = value.cast::<i32>().read() != 0 },
        _ => return INVALID_VALUE,
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescDestroy(operation: *mut Operation) -> Status {
    drop(unsafe { Box::from_raw(operation) });
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut usize) -> Status {
    unsafe { preference.write(1) };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(_: usize, _: u32, _: *const c_void, _: usize) -> Status {
    OK
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(_: usize) -> Status {
    OK
}

/// Finds one algorithm, which is the only one: zeros.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: usize,
    operation: *const Operation,
    a: *const Layout,
    b: *const Layout,
    _c: *const Layout,
    d: *const Layout,
    _preference: usize,
    _wanted: c_int,
    results: *mut [u8; 96],
    found: *mut c_int,
) -> Status {
    let fits = unsafe { fits(&*operation, [&*a, &*b, &*d]) };
    unsafe {
        results.write([0; 96]);
        found.write(fits.into());
    }
    if fits { OK } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    _handle: usize,
    operation: *const Operation,
    alpha: *const f32,
    a: usize,
    a_layout: *const Layout,
    b: usize,
    b_layout: *const Layout,
    beta: *const f32,
    c: usize,
    _c_layout: *const Layout,
    d: usize,
    d_layout: *const Layout,
    _algorithm: *const c_void,
    workspace: usize,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> Status {
    type Enqueue = unsafe extern "C" fn(*mut c_void, unsafe extern "C" fn(*mut c_void), *mut c_void) -> c_int;
    // The scalars and descriptions are read now, the matrices when the stream comes to it.
    let (operation, layouts) = unsafe { (*operation, [*a_layout, *b_layout, *d_layout]) };
    if c != d || !fits(&operation, [&layouts[0], &layouts[1], &layouts[2]]) {
        return INVALID_VALUE;
    }
    let (scale, beta) = unsafe { (*alpha, *beta) };
    let workspace = (workspace, workspace_bytes);
    let product = Box::new(Product { operation, layouts, pointers: [a, b, d], scale, beta, workspace });
    let enqueue = unsafe { dlsym(std::ptr::null_mut(), c"fakeEnqueue".as_ptr()) };
    if enqueue.is_null() {
        return NOT_SUPPORTED;
    }
    let enqueue: Enqueue = unsafe { std::mem::transmute(enqueue) };
    match unsafe { enqueue(stream, compute, Box::into_raw(product).cast()) } {
        0 => OK,
        OUT_OF_MEMORY => ALLOC_FAILED,
        _ => EXECUTION_FAILED,
    }
}

fn fits(operation: &Operation, [a, b, d]: [&Layout; 3]) -> bool {
    let turned =
        |layout: &Layout, transposed| if transposed { (layout.cols, layout.rows) } else { (layout.rows, layout.cols) };
    let ((m, k), (k2, n)) = (turned(a, operation.transposed[0]), turned(b, operation.transposed[1]));
    k == k2 && (m, n) == (d.rows, d.cols) && d.numbers == R_32F && a.batch == d.batch && b.batch == d.batch
}

unsafe extern "C" fn compute(product: *mut c_void) {
    let product = unsafe { Box::from_raw(product.cast::<Product>()) };
    let (workspace, bytes) = product.workspace;
    unsafe { std::ptr::write_bytes(workspace as *mut u8, 0xA5, bytes) };
    let [a, b, d] = &product.layouts;
    let [a_transposed, b_transposed] = product.operation.transposed;
    let inner = if a_transposed { a.rows } else { a.cols };
    for batch in 0..d.batch {
        // Each number of the inputs is read once, into rows of a and columns of b that can be multiplied without gaps.
        let a_rows: Vec<f32> = (0..d.rows * inner)
            .map(|at| unsafe { read(product.pointers[0], a, batch, at / inner, at % inner, a_transposed) })
            .collect();
        let b_columns: Vec<f32> = (0..d.cols * inner)
            .map(|at| unsafe { read(product.pointers[1], b, batch, at % inner, at / inner, b_transposed) })
            .collect();
        for col in 0..d.cols {
            for row in 0..d.rows {
                let (left, right) = (&a_rows[row * inner..][..inner], &b_columns[col * inner..][..inner]);
                let sum: f32 = left.iter().zip(right).map(|(x, y)| x * y).sum();
                let at = (product.pointers[2] as *mut f32).wrapping_add(batch * d.stride + col * d.leading + row);
                // With a factor of 0, what is there is not read: it may be anything.
                let before = if product.beta == 0.0 { 0.0 } else { product.beta * unsafe { at.read() } };
                unsafe { at.write(product.scale * sum + before) };
            }
        }
    }
}

unsafe fn read(pointer: usize, layout: &Layout, batch: usize, row: usize, col: usize, transposed: bool) -> f32 {
    let (row, col) = if transposed { (col, row) } else { (row, col) };
    let at = batch * layout.stride + col * layout.leading + row;
    match layout.numbers {
        R_16F => widen(unsafe { (pointer as *const u16).add(at).read() }),
        _ => unsafe { (pointer as *const f32).add(at).read() },
    }
}

/// A half-precision number.
fn widen(half: u16) -> f32 {
    let sign = if half >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
    sign * match exponent {
        0 => mantissa * 2f32.powi(-24),
        31 if mantissa == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + mantissa) * 2f32.powi(exponent - 25),
    }
}
