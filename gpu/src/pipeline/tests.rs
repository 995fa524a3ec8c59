//! On the fake driver, which does nothing before somebody waits for it.

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
extern "C" __global__ void trap(float* out) { __trap(); }
"#;

struct Rig {
    pipeline: Pipeline,
    device: Device,
    saxpy: Kernel,
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
        let saxpy = device.kernels(&KernelSource::new("test.cu", KERNELS)).unwrap().kernel("saxpy").unwrap();
        Self { pipeline: Pipeline::new(&device), device, saxpy, before, driver }
    }

    /// The answer, and what it took.
    fn saxpy(&mut self, x: &[f32], y: &[f32]) -> Result<(Vec<f32>, Report), GpuError> {
        let mut out = vec![0f32; x.len()];
        let kernel = self.saxpy.clone();
        let report =
            self.pipeline.run(x.len(), &[fixed(x), fixed(y)], &mut into(&mut out), true, |device, inputs, out| {
                let n = out.rows();
                let args = [2f32.into(), inputs[0].data().into(), inputs[1].data().into(), out.data().into(), n.into()];
                // SAFETY: these are the kernel's parameters, and all three have `n` floats.
                unsafe { device.launch(&kernel, Grid::over(n), &args) }
            })?;
        Ok((out, report))
    }

    /// Nothing is left on the device, and nothing went where it should not.
    fn end(self) {
        let Self { pipeline, device, saxpy, before, driver } = self;
        drop((pipeline, saxpy, device));
        let after = driver.counts();
        let left = |counts: &Counts| {
            let Counts { device_bytes, pinned_bytes, streams, events, pools, modules, faults, .. } = *counts;
            [device_bytes, pinned_bytes, streams, events, pools, modules, faults]
        };
        assert_eq!(left(&after), left(&before));
    }
}

fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: floats are bytes.
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

#[test]
fn without_any_one_of_its_edges_the_pipeline_is_wrong() {
    let mut rig = Rig::new(None);
    let mut seed = 0.0;
    for (edge, right) in
        [(None, true), (Some(Edge::Uploaded), false), (Some(Edge::Computed), false), (Some(Edge::Downloaded), false)]
    {
        rig.pipeline.without = edge;
        seed += 1.0;
        let (x, y) = numbers(MANY, seed);
        let (out, _) = rig.saxpy(&x, &y).unwrap();
        assert_eq!(out == expected(&x, &y), right, "without {edge:?}");
        rig.device.synchronize().unwrap();
    }
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
    assert!(refused.to_string().contains("a piece of 1 rows"), "{refused}");
    drop(device);
    let neighbour = Device::open(0, None).unwrap();
    let slice: Slice<f32> = neighbour.upload(&x).unwrap();
    assert!(neighbour.download(&slice).unwrap() == x);
    drop((slice, neighbour));
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
    drop((trap, kernels, rig.pipeline, rig.saxpy, rig.device));
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
    let error = rig.device.load("bad", b"no image").unwrap_err();
    assert!(error.to_string().contains("load kernels bad"), "{error}");
    drop(kernels);
    rig.end();
}
