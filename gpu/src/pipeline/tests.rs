//! On the fake driver, which does nothing before somebody waits for it.

mod direct;

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use regatta_fakes::{Counts, Driver};

use super::*;
use crate::{Bits, Grid, Kernel, KernelSource, Slice, Values, use_fakes};

const KERNELS: &str = r#"
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, unsigned long long n) {
  unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = a * x[i] + y[i];
}
extern "C" __global__ void lengths(const long long* offsets, const unsigned* valid, long long* out, unsigned* nulls, unsigned long long n) {
  unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = offsets[i + 1] - offsets[i];
  if (valid && !(valid[i / 32] >> (i % 32) & 1)) nulls[i / 32] &= ~(1u << (i % 32));
}
extern "C" __global__ void doubled(const float* in, float* out, unsigned long long rows, unsigned long long width) {
  unsigned long long row = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
  for (unsigned long long i = row * width; row < rows && i < (row + 1) * width; ++i) out[i] = 2 * in[i];
}
extern "C" __global__ void trap(float* out) { __trap(); }
"#;

struct Rig {
    pipeline: Pipeline,
    device: Device,
    saxpy: Kernel,
    doubled: Kernel,
    batches: usize,
    /// Batches that it makes lie in pinned memory, and their results.
    pinned: bool,
    /// What was there before.
    before: Counts,
    // Last: others may have it when all else is gone.
    driver: Driver,
}

impl Rig {
    fn new(memory: Option<u64>) -> Self {
        use_fakes(&regatta_fakes::folder());
        let driver = Driver::alone();
        let before = driver.counts();
        let device = Device::open(0, memory).unwrap();
        let kernels = device.kernels(&KernelSource::new("test.cu", KERNELS)).unwrap();
        let [saxpy, doubled] = ["saxpy", "doubled"].map(|name| kernels.kernel(name).unwrap());
        let pipeline = Pipeline::new(&device);
        Self { pipeline, device, saxpy, doubled, batches: 0, pinned: false, before, driver }
    }

    /// The answer, and what it took.
    fn saxpy(&mut self, x: &[f32], y: &[f32]) -> Result<(Vec<f32>, Report), GpuError> {
        let mut out = vec![0f32; x.len()];
        let report = self.saxpy_into(x, y, &mut out)?;
        Ok((out, report))
    }

    fn saxpy_into(&mut self, x: &[f32], y: &[f32], out: &mut [f32]) -> Result<Report, GpuError> {
        let kernel = &self.saxpy;
        self.pipeline.run(x.len(), &[fixed(x), fixed(y)], &mut into(out), true, |device, inputs, out| {
            let n = out.rows();
            let args = [2f32.into(), inputs[0].data().into(), inputs[1].data().into(), out.data().into(), n.into()];
            // SAFETY: these are the kernel's parameters, and all three have `n` floats.
            unsafe { device.launch(kernel, Grid::over(n), &args) }
        })
    }

    /// Memory with these floats, of the kind that is asked for.
    fn floats(&self, values: &[f32]) -> Floats {
        if !self.pinned {
            return Floats::Pageable(values.to_vec());
        }
        let mut floats = Floats::Pinned(self.device.pinned(size_of_val(values)).unwrap());
        floats.copy_from_slice(values);
        floats
    }

    /// So many rows of 256 floats, none of which was there before: whether they come back doubled, and what it took.
    /// `launches` may have its own part in each launch.
    fn doubles(
        &mut self,
        rows: usize,
        mut launches: impl FnMut(&Device, &Driver) -> Result<(), GpuError>,
    ) -> Result<(bool, Report), GpuError> {
        let (width, seed) = (256, self.batches as f32 / 8.0);
        self.batches += 1;
        let (input, mut out) = (self.floats(&numbers(rows * width, seed).0), self.floats(&vec![0f32; rows * width]));
        let columns =
            [HostColumn { values: Values::Fixed { bytes: bytes_of(&input), each: 4 * width }, validity: None }];
        let mut result = HostResult { data: bytes_of_mut(&mut out), each: 4 * width, validity: None };
        let (kernel, driver) = (&self.doubled, &self.driver);
        let report = self.pipeline.run(rows, &columns, &mut result, true, |device, inputs, out| {
            launches(device, driver)?;
            let args = [inputs[0].data().into(), out.data().into(), out.rows().into(), width.into()];
            // SAFETY: these are the kernel's parameters, and both have so many rows of that width.
            unsafe { device.launch(kernel, Grid::over(out.rows()), &args) }
        })?;
        Ok((input.iter().zip(&*out).all(|(input, out)| *out == 2.0 * input), report))
    }

    /// Nothing is left on the device, and nothing went where it should not.
    fn end(self) {
        let Self { pipeline, device, saxpy, doubled, before, driver, .. } = self;
        drop((pipeline, saxpy, doubled, device));
        let after = driver.counts();
        let left = |counts: &Counts| {
            let Counts {
                device_bytes, pinned_bytes, registered_bytes, streams, events, pools, modules, faults, ..
            } = *counts;
            [device_bytes, pinned_bytes, registered_bytes, streams, events, pools, modules, faults]
        };
        assert_eq!(left(&after), left(&before));
    }
}

enum Floats {
    Pageable(Vec<f32>),
    Pinned(PinnedBytes),
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Pageable(values) => values,
            // SAFETY: any bytes are floats; no copy to them is under way.
            Self::Pinned(bytes) => unsafe { bytes.align_to().1 },
        }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Pageable(values) => values,
            // SAFETY: as above.
            Self::Pinned(bytes) => unsafe { bytes.align_to_mut().1 },
        }
    }
}

fn bytes_of<T: crate::Plain>(values: &[T]) -> &[u8] {
    // SAFETY: numbers are bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: crate::Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: numbers are bytes, whichever.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

fn fixed(values: &[f32]) -> HostColumn<'_> {
    HostColumn { values: Values::Fixed { bytes: bytes_of(values), each: 4 }, validity: None }
}

fn into(out: &mut [f32]) -> HostResult<'_> {
    HostResult { data: bytes_of_mut(out), each: 4, validity: None }
}

fn numbers(rows: usize, seed: f32) -> (Vec<f32>, Vec<f32>) {
    ((0..rows).map(|i| i as f32 + seed).collect(), (0..rows).map(|i| (i % 1000) as f32 - seed).collect())
}

fn expected(x: &[f32], y: &[f32]) -> Vec<f32> {
    x.iter().zip(y).map(|(x, y)| 2.0 * x + y).collect()
}

/// Rows of which there are several pieces: 12 bytes each, and pieces of 4 MiB.
const MANY: usize = 2_000_000;
/// Rows of 2 KiB, of which there are four pieces.
const FOUR: usize = 9000;

#[test]
fn batches_of_any_size_come_back_right_and_each_byte_goes_once() {
    let mut rig = Rig::new(None);
    for (n, rows) in [1, 31, 32, 33, 1000, MANY, 7, 0].into_iter().enumerate() {
        let (x, y) = numbers(rows, n as f32);
        let before = rig.driver.counts();
        let (out, report) = rig.saxpy(&x, &y).unwrap();
        assert!(out == expected(&x, &y), "{rows} rows");
        let after = rig.driver.counts();
        let pieces = report.pieces;
        assert!(if rows == MANY { pieces > 3 } else { pieces == u64::from(rows > 0) }, "{pieces} pieces");
        let (up, down) = (after.to_device - before.to_device, after.from_device - before.from_device);
        assert_eq!(down, rows as u64 * 4, "the result's bytes and no more");
        assert!(up >= rows as u64 * 8 && up <= rows as u64 * 8 + pieces * 512, "{up} bytes: two inputs, aligned");
        assert_eq!((after.launches - before.launches, after.copies - before.copies), (pieces, 2 * pieces));
    }
    rig.end();
}

/// Whether what is done goes right and without a fault, and how many calls there are in it that order.
fn goes_right(rig: &mut Rig, done: impl FnOnce(&mut Rig) -> bool) -> (bool, u64) {
    let before = rig.driver.counts();
    let right = done(rig);
    rig.driver.leave_out(0, false);
    let after = rig.driver.counts();
    rig.device.synchronize().unwrap();
    // The others are not to find what was meant to be.
    rig.before.faults += after.faults - before.faults;
    (right && after.faults == before.faults, after.orders - before.orders)
}

/// Which of the calls that order a batch of four pieces are not needed, if there are so many.
fn needless(rig: &mut Rig, slots_are_there: bool, orders: u64) -> Vec<u64> {
    // What a GPU may do at once or late.
    let mut without = |call: Option<u64>, eager: bool| {
        rig.pipeline = Pipeline::new(&rig.device);
        assert!(!slots_are_there || rig.doubles(FOUR, |_, _| Ok(())).unwrap().0);
        goes_right(rig, |rig| {
            rig.driver.leave_out(call.map_or(0, |call| 1 << call), eager);
            rig.doubles(FOUR, |_, _| Ok(())).unwrap().0
        })
    };
    for eager in [false, true] {
        assert_eq!(without(None, eager), (true, orders));
    }
    let needless = |call: &u64| [false, true].into_iter().all(|eager| without(Some(*call), eager).0);
    (0..orders).filter(needless).collect()
}

/// Of each of four pieces: three events are recorded, two waited for by a stream and one by the host.
const ORDERS: u64 = 4 * 6;

#[test]
fn without_any_one_event_or_wait_of_its_pieces_the_pipeline_is_wrong() {
    let mut rig = Rig::new(None);
    // And of three slots the allocation.
    for (slots_are_there, orders) in [(true, ORDERS), (false, ORDERS + 3 * 2)] {
        assert_eq!(needless(&mut rig, slots_are_there, orders), [0; 0], "nothing is wrong without these of {orders}");
    }
    rig.end();
}

#[test]
fn what_is_under_way_is_waited_for_before_its_memory_goes() {
    #[derive(Debug, Clone, Copy)]
    enum Ends {
        Error,
        Panic,
        OutOfMemory,
    }
    // The three streams are waited for in this order: up, kernels, down. Kernels wait for what goes up, so that either of the
    // first two is enough. In slots, and where the caller has its batch.
    for (ends, memory, pinned, needed) in [
        (Ends::Error, None, false, vec![0b11, 0b100]),
        (Ends::Error, None, true, vec![0b11, 0b100]),
        (Ends::Panic, None, false, vec![0b11, 0b100]),
        (Ends::Panic, None, true, vec![0b11, 0b100]),
        // First two pieces are harvested; and after the streams, they are waited for again, for what is freed behind kernels.
        // There is enough for the slots, and not twice.
        (Ends::OutOfMemory, Some(16 << 20), false, vec![0b01, 0b10, 0b1100, 0b100_0000]),
        // What a harvest waits for the streams are waited for, too, where the host has nothing to copy.
        (Ends::OutOfMemory, Some(16 << 20), true, vec![0b1_0011, 0b1100, 0b100_0000]),
    ] {
        let mut rig = Rig::new(memory);
        rig.pinned = pinned;
        let done = |rig: &mut Rig, calls| {
            rig.pipeline = Pipeline::new(&rig.device);
            let mut launches = 0;
            let third = |device: &Device, driver: &Driver| {
                launches += 1;
                if launches != 3 {
                    return Ok(());
                }
                driver.leave_out(calls, false);
                match ends {
                    Ends::Error => Err(GpuError::invalid("no")),
                    Ends::Panic => resume_unwind(Box::new(())),
                    Ends::OutOfMemory => {
                        driver.fail_allocations(1);
                        device.alloc::<u8>(1).map(drop)
                    }
                }
            };
            let ended = catch_unwind(AssertUnwindSafe(|| rig.doubles(FOUR, third)));
            match ends {
                Ends::OutOfMemory => matches!(ended, Ok(Ok((true, Report { out_of_memory: 1, .. })))),
                Ends::Error => {
                    rig.driver.leave_out(0, false);
                    // In larger pieces: the slots are made anew.
                    matches!(ended, Ok(Err(_))) && rig.doubles(2 * FOUR, |_, _| Ok(())).unwrap().0
                }
                Ends::Panic => {
                    rig.pipeline = Pipeline::new(&rig.device);
                    ended.is_err()
                }
            }
        };
        assert!(goes_right(&mut rig, |rig| done(rig, 0)).0, "{ends:?}, pinned: {pinned}");
        for calls in needed {
            let right = goes_right(&mut rig, |rig| done(rig, calls)).0;
            assert!(!right, "{ends:?}, pinned: {pinned}: nothing is wrong without {calls:b}");
        }
        rig.end();
    }
}

#[test]
fn copies_and_kernels_overlap_by_the_times_of_their_events() {
    let mut rig = Rig::new(None);
    rig.pipeline = Pipeline::timed(&rig.device).unwrap();
    let (right, report) = rig.doubles(FOUR, |_, _| Ok(())).unwrap();
    let Times { up, kernels, down, all, .. } = report.times.unwrap();
    let (sum, longest) = (up + kernels + down, up.max(kernels).max(down));
    assert!(right && all >= longest && all < (sum + longest) / 2, "{report:?}");
    assert!(rig.saxpy(&[1.0], &[2.0]).unwrap().1.times.is_some());
    rig.pipeline = Pipeline::new(&rig.device);
    assert_eq!(rig.saxpy(&[1.0], &[2.0]).unwrap().1.times, None);
    rig.end();
}

#[test]
fn text_and_nulls_go_by_offsets_and_bits_and_kernels_make_nulls() {
    let mut rig = Rig::new(None);
    let rows = 600_000;
    let offsets: Vec<i64> = (0..=rows as i64).map(|i| 5 + i * i % 7 + 10 * i).collect();
    let text = vec![b'x'; *offsets.last().unwrap() as usize];
    let valid: Vec<u8> = (0..=rows / 8).map(|i| (i * 31) as u8 | 2).collect();
    let column = HostColumn {
        values: Values::Variable { offsets: &offsets, bytes: &text, each: 1 },
        validity: Some(Bits { bytes: &valid, offset: 3 }),
    };
    let (mut out, mut bits) = (vec![0i64; rows], vec![0u8; rows.div_ceil(8)]);
    let kernels = rig.device.kernels(&KernelSource::new("test.cu", KERNELS)).unwrap();
    let lengths = kernels.kernel("lengths").unwrap();
    let mut result = HostResult { data: bytes_of_mut(&mut out), each: 8, validity: Some(&mut bits) };
    let run = rig.pipeline.run(rows, &[column], &mut result, true, |device, inputs, out| {
        let (n, input) = (out.rows(), &inputs[0]);
        let (offsets, valid) = (input.offsets().into(), input.validity().into());
        let args = [offsets, valid, out.data().into(), out.validity().into(), n.into()];
        // SAFETY: these are the kernel's parameters; there is one offset more than rows, and a bit for each row.
        unsafe { device.launch(&lengths, Grid::over(n), &args) }
    });
    assert!(run.map_err(|error: GpuError| error.to_string()).unwrap().pieces > 1);
    let bit = |bits: &[u8], n: usize| bits[n / 8] >> (n % 8) & 1;
    for i in 0..rows {
        assert_eq!(out[i], offsets[i + 1] - offsets[i], "row {i}");
        assert_eq!(bit(&bits, i), bit(&valid, i + 3), "row {i}");
    }
    drop((lengths, kernels));
    rig.end();
}

#[test]
fn out_of_memory_drains_trims_retries_and_halves_and_pieces_grow_again() {
    let mut rig = Rig::new(None);
    let (x, y) = numbers(MANY, 1.0);
    let right = expected(&x, &y);
    let (_, whole) = rig.saxpy(&x, &y).unwrap();

    // Once: the piece that failed succeeds when it is tried again.
    rig.pipeline = Pipeline::new(&rig.device);
    rig.driver.fail_allocations(1);
    let trims = rig.driver.counts().trims;
    let (out, report) = rig.saxpy(&x, &y).unwrap();
    assert!(out == right);
    assert_eq!((report.out_of_memory, rig.driver.counts().trims - trims), (1, 1));

    // Several times: in halves, which are as many as there have to be.
    rig.pipeline = Pipeline::new(&rig.device);
    rig.driver.fail_allocations(4);
    let (out, report) = rig.saxpy(&x, &y).unwrap();
    assert!(out == right);
    assert_eq!(report.out_of_memory, 4);
    assert!(report.pieces >= 2 * whole.pieces, "{report:?} against {whole:?}");

    // And it recovers.
    let mut last = report.pieces;
    for _ in 0..20 {
        let (out, report) = rig.saxpy(&x, &y).unwrap();
        assert!(out == right && report.pieces <= last && report.out_of_memory == 0, "{report:?} after {last}");
        last = report.pieces;
    }
    assert_eq!(last, whole.pieces);
    rig.end();
}

#[test]
fn a_user_with_little_memory_gets_through_and_its_neighbour_does_not_notice() {
    let mut rig = Rig::new(Some(3 << 20));
    let (x, y) = numbers(MANY, 1.0);
    let before = rig.driver.counts();
    let (out, report) = rig.saxpy(&x, &y).unwrap();
    assert!(out == expected(&x, &y) && report.out_of_memory > 0, "{report:?}");
    assert!(rig.driver.counts().device_bytes - before.device_bytes <= 3 << 20, "within its bound");
    // Not where a batch may not be cut, and not without end.
    let launched = |_: &Device, _: &[Input], _: &Output| Ok(());
    let (mut out, columns) = (vec![0f32; MANY], [fixed(&x), fixed(&y)]);
    let refused: GpuError = rig.pipeline.run(MANY, &columns, &mut into(&mut out), false, launched).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("2000000 rows") && text.contains("gpu_memory"), "{text}");
    // Kernels that never find enough fail at one row.
    let device = rig.device.clone();
    let greedy = |_: &Device, _: &[Input], _: &Output| device.alloc::<u8>(64 << 20).map(drop);
    let refused = rig.pipeline.run(MANY, &columns, &mut into(&mut out), true, greedy).unwrap_err();
    assert_eq!(refused.to_string(), "allocate 67108864 bytes: the GPU's memory is full (CUDA error 2)");
    // Whoever launches says why, even if it has also been refused memory.
    let greedy = |_: &Device, _: &[Input], _: &Output| {
        assert!(device.alloc::<u8>(64 << 20).is_err());
        Err(GpuError::invalid("no such shape"))
    };
    let refused = rig.pipeline.run(MANY, &columns, &mut into(&mut out), true, greedy).unwrap_err();
    assert_eq!(refused.to_string(), "no such shape");
    // And where not even one row has room.
    let (long, mut out) = (vec![0; 8 << 20], [0]);
    let columns = [HostColumn { values: Values::Fixed { bytes: &long, each: 8 << 20 }, validity: None }];
    let mut result = HostResult { data: &mut out, each: 1, validity: None };
    let refused = rig.pipeline.run(1, &columns, &mut result, true, launched).unwrap_err();
    assert!(refused.to_string().contains("a piece of 1 rows (8388609 bytes"), "{refused}");
    drop(device);
    let neighbour = Device::open(0, None).unwrap();
    let slice: Slice<f32> = neighbour.upload(&x).unwrap();
    assert!(neighbour.download(&slice).unwrap() == x);
    drop((slice, neighbour));
    rig.end();
}

#[test]
fn want_of_memory_counts_as_such_wherever_it_shows() {
    let mut rig = Rig::new(None);
    let rows = 1000;
    let (x, y) = numbers(rows, 1.0);
    let kernels = KernelSource::new("test.cu", KERNELS);
    let mut blas = crate::Blas::new(&rig.device).unwrap();
    let precision = crate::Precision::F32;
    let product =
        crate::Product { rows: 4, columns: 4, inner: 4, b_transposed: false, batch: 1, scale: 1.0, precision };
    type Fails = fn(&Driver, u64);
    let cases: [(&str, Fails, &str); 5] = [
        ("pool", |driver, n| driver.fail_allocations(n), "a piece of 1 rows"),
        // For slots.
        ("host", |driver, n| driver.fail_pins(n), "of pinned memory: the host has not enough of it"),
        ("launch", |driver, n| driver.fail_launches(n), "launch kernel saxpy"),
        ("load", |driver, n| driver.fail_launches(n), "load kernels test.cu: the GPU's memory is full"),
        ("product", |driver, n| driver.fail_launches(n), "cublasLtMatmul failed with CUBLAS_STATUS_ALLOC_FAILED"),
    ];
    for (case, fail, text) in cases {
        for always in [false, true] {
            rig.pipeline = Pipeline::new(&rig.device);
            let (kernel, mut out) = (rig.saxpy.clone(), vec![0f32; rows]);
            let trims = rig.driver.counts().trims;
            fail(&rig.driver, if always { u64::MAX } else { 1 });
            let columns = [fixed(&x), fixed(&y)];
            let run = rig.pipeline.run(rows, &columns, &mut into(&mut out), true, |device, inputs, out| {
                let [x, y, to] = [inputs[0].data(), inputs[1].data(), out.data()];
                match case {
                    "load" => drop(device.kernels(&kernels)?),
                    // SAFETY: 16 numbers are there, or it fails before they are touched.
                    "product" => unsafe { blas.multiply(product, x, x, to) }?,
                    _ => (),
                }
                let args = [2f32.into(), x.into(), y.into(), to.into(), out.rows().into()];
                // SAFETY: these are the kernel's parameters, and all three have that many floats.
                unsafe { device.launch(&kernel, Grid::over(out.rows()), &args) }
            });
            fail(&rig.driver, 0);
            match run {
                Ok(report) => {
                    assert!(!always && out == expected(&x, &y), "{case}");
                    assert_eq!((report.out_of_memory, rig.driver.counts().trims - trims), (1, 1), "{case}: {report:?}");
                }
                Err(error) => {
                    let error: GpuError = error;
                    assert!(always && error.to_string().contains(text), "{case}: {error}");
                }
            }
        }
    }
    drop(blas);
    rig.end();
}

#[test]
fn a_short_rest_that_found_no_memory_does_not_make_later_pieces_short() {
    let mut rig = Rig::new(None);
    let piece = natural(1 << 20, 13 << 20);
    let rows = 3 * piece + 100;
    let (x, y) = numbers(rows, 1.0);
    let (driver, mut launches, mut out) = (&rig.driver, 0, vec![0f32; rows]);
    let columns = [fixed(&x), fixed(&y)];
    let report: Result<_, GpuError> = rig.pipeline.run(rows, &columns, &mut into(&mut out), true, |device, _, out| {
        launches += 1;
        driver.fail_allocations(u64::from(launches == 4));
        assert_eq!(out.rows(), if launches < 4 { piece } else { 100 });
        device.alloc::<u8>(1).map(drop)
    });
    let report = report.unwrap();
    assert_eq!((report.out_of_memory, report.pieces), (1, 4));
    let (out, report) = rig.saxpy(&x, &y).unwrap();
    assert!(out == expected(&x, &y) && report.pieces == 7, "pieces of one half: {report:?}");
    rig.end();
}

#[test]
fn pieces_of_long_rows_are_not_too_large_and_slots_do_not_stay_as_large_as_they_ever_were() {
    let mut rig = Rig::new(None);
    let pinned = rig.driver.counts().pinned_bytes;
    let mut run = |column: HostColumn<'_>, rows: usize, row_wise: bool| {
        let mut out = vec![0; rows];
        let mut result = HostResult { data: &mut out, each: 1, validity: None };
        let report = rig.pipeline.run::<GpuError>(rows, &[column], &mut result, row_wise, |_, _, _| Ok(()));
        (report.unwrap().pieces, (rig.driver.counts().pinned_bytes - pinned) as usize)
    };
    let bytes = vec![1; 80 << 20];
    let long = |rows: usize, each: usize| HostColumn {
        values: Values::Fixed { bytes: &bytes[..rows * each], each },
        validity: None,
    };
    // Two rows of 6 MiB in a piece.
    let (pieces, pinned) = run(long(12, 6 << 20), 12, true);
    assert!(pieces == 6 && pinned < 40 << 20, "{pieces} pieces, {pinned} bytes");
    // Only the last ten rows are long.
    let offsets: Vec<i64> = (0..=4000).map(|row: i64| row + (row - 3990).max(0) * (4 << 20)).collect();
    let text = HostColumn { values: Values::Variable { offsets: &offsets, bytes: &bytes, each: 1 }, validity: None };
    let (pieces, pinned) = run(text, 4000, true);
    assert!(pieces > 4 && pinned <= 3 * 2 * (PIECE.end + 100_000), "{pieces} pieces, {pinned} bytes");
    // What may not be cut stays as long as there are such batches.
    assert!(run(long(80, 1 << 20), 80, false).1 > 80 << 20);
    assert!(run(long(79, 1 << 20), 79, false).1 > 80 << 20);
    assert!(run(long(1, 1000), 1, true).1 < 80 << 20);
    rig.end();
}

#[test]
fn an_error_of_the_author_leaves_nothing_under_way_and_a_trap_is_sticky() {
    let mut rig = Rig::new(None);
    let (x, y) = numbers(MANY, 1.0);
    let (mut out, columns) = (vec![0f32; MANY], [fixed(&x), fixed(&y)]);
    let mut calls = 0;
    let refused = rig.pipeline.run(MANY, &columns, &mut into(&mut out), true, |_, _, _| {
        calls += 1;
        if calls == 3 { Err(GpuError::invalid("no")) } else { Ok(()) }
    });
    assert_eq!(refused.unwrap_err().to_string(), "no");
    assert!(rig.saxpy(&x, &y).unwrap().0 == expected(&x, &y), "and it goes on");

    let kernels = rig.device.kernels(&KernelSource::new("test.cu", KERNELS)).unwrap();
    let trap = kernels.kernel("trap").unwrap();
    let broken = rig.pipeline.run(MANY, &columns, &mut into(&mut out), true, |device, _, out| {
        // SAFETY: its one parameter.
        unsafe { device.launch(&trap, Grid::blocks(1, 1), &[out.data().into()]) }
    });
    let broken = broken.unwrap_err();
    assert!(broken.is_sticky() && broken.to_string().contains("trapped"), "{broken}");
    assert!(rig.saxpy(&x, &y).unwrap_err().is_sticky(), "and so is every later call");
    // What the process still had it has lost.
    drop((trap, kernels, rig.pipeline, rig.saxpy, rig.doubled, rig.device));
    rig.driver.set_sticky(0);
}

#[test]
fn a_device_or_kernel_that_is_not_there_is_named() {
    let rig = Rig::new(None);
    let error = Device::open(7, None).unwrap_err();
    assert!(error.to_string().contains("open the device: an invalid device"), "{error}");
    let kernels = rig.device.kernels(&KernelSource::new("test.cu", KERNELS)).unwrap();
    for name in ["no_such", "a\0b"] {
        let error = kernels.kernel(name).unwrap_err().to_string();
        assert!(error.contains(&format!("{name:?}")) && error.contains("test.cu"), "{error}");
    }
    // SAFETY: it is refused.
    let error = unsafe { rig.device.load("bad", b"no image") }.unwrap_err();
    assert!(error.to_string().starts_with("compiled kernels bad: it is neither"), "{error}");
    drop(kernels);
    rig.end();
}
