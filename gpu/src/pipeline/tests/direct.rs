//! Batches and results in pinned memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use bytes::Bytes;
use cudarc::driver::{result, sys};

use super::*;

const MIX: &str = r#"
extern "C" __global__ void mix(const int* a, const unsigned short* b, const long long* offsets, const unsigned char* text,
                               const unsigned* flags, const unsigned* valid, long long* out, unsigned* nulls,
                               unsigned long long n) {
  unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
  if (i >= n) return;
  long long sum = 3 * (long long)a[i] + b[i] + (flags[i / 32] >> (i % 32) & 1);
  for (long long at = offsets[i]; at < offsets[i + 1]; ++at) sum = 7 * sum + text[at];
  out[i] = sum;
  if (!(valid[i / 32] >> (i % 32) & 1)) atomicAnd(&nulls[i / 32], ~(1u << (i % 32)));
}
"#;

/// A batch of columns of all kinds. None of them starts at a word, or with the first of its rows.
struct Mixed {
    rows: usize,
    a: Vec<u8>,
    b: Vec<u8>,
    offsets: Vec<i64>,
    text: Vec<u8>,
    bits: Vec<u8>,
}

const FLAGS: usize = 5;
const VALID: usize = 11;

impl Mixed {
    fn new(rows: usize) -> Self {
        let bytes = |len: usize, step: usize| (0..len).map(|i| (i * step % 251) as u8).collect();
        let offsets: Vec<i64> = (0..=rows as i64).map(|i| 5 + i * i % 7 + 10 * i).collect();
        let text = bytes(offsets[rows] as usize + 3, 29);
        Self {
            rows,
            a: bytes(1 + rows * 4, 31),
            b: bytes(3 + rows * 2, 37),
            offsets,
            text,
            bits: bytes(rows / 8 + 3, 41),
        }
    }

    /// The values, and which rows are not null.
    fn expected(&self) -> (Vec<i64>, Vec<u8>) {
        let bit = |n: usize| self.bits[n / 8] >> (n % 8) & 1;
        let value = |row: usize| {
            let a = i32::from_ne_bytes(self.a[1 + row * 4..][..4].try_into().unwrap());
            let b = u16::from_ne_bytes(self.b[3 + row * 2..][..2].try_into().unwrap());
            let sum = 3 * i64::from(a) + i64::from(b) + i64::from(bit(row + FLAGS));
            let text = &self.text[self.offsets[row] as usize..self.offsets[row + 1] as usize];
            text.iter().fold(sum, |sum, byte| sum.wrapping_mul(7).wrapping_add(i64::from(*byte)))
        };
        let mut valid = vec![0; self.rows.div_ceil(8)];
        (0..self.rows).for_each(|row| valid[row / 8] |= bit(row + VALID) << (row % 8));
        ((0..self.rows).map(value).collect(), valid)
    }

    /// Through the device, with buffers where they are said to be. The answer, and what it took.
    fn run(&self, rig: &mut Rig, [a, b, text]: [&[u8]; 3], out: &mut [u8]) -> (Vec<u8>, Report) {
        let kernel = rig.device.kernels(&KernelSource::new("mix.cu", MIX)).unwrap().kernel("mix").unwrap();
        let fixed = |bytes, each| Values::Fixed { bytes, each };
        let bits = |offset| Bits { bytes: &self.bits, offset };
        let column = |values| HostColumn { values, validity: None };
        let columns = [
            HostColumn { values: fixed(a, 4), validity: Some(bits(VALID)) },
            column(fixed(b, 2)),
            column(Values::Variable { offsets: &self.offsets, bytes: text, each: 1 }),
            column(Values::Bits(bits(FLAGS))),
        ];
        let mut valid = vec![0; self.rows.div_ceil(8)];
        let mut result = HostResult { data: out, each: 8, validity: Some(&mut valid) };
        let report = rig.pipeline.run(self.rows, &columns, &mut result, true, |device, inputs, out| {
            let [a, b, text, flags] = inputs else { panic!("four inputs") };
            let args = [a.data(), b.data(), text.offsets().unwrap(), text.data(), flags.data(), a.validity().unwrap()];
            let to = [out.data(), out.validity().unwrap()];
            let args: Vec<_> = args.into_iter().chain(to).map(Into::into).chain([out.rows().into()]).collect();
            // SAFETY: these are the kernel's parameters, and all have that many rows.
            unsafe { device.launch(&kernel, Grid::over(out.rows()), &args) }
        });
        (valid, report.map_err(|error: GpuError| error.to_string()).unwrap())
    }
}

/// Rows of [`Mixed`] of which there are several pieces, the last one with large buffers too.
const MIXED: usize = 499_991;

#[test]
fn columns_of_all_kinds_come_back_alike_from_pinned_and_pageable_memory() {
    let mut rig = Rig::new(None);
    let batch = Mixed::new(MIXED);
    let (expected, expected_valid) = batch.expected();
    // Somebody else's, pinned for us, in the midst of other bytes; or ours.
    let others = Bytes::from([&[0; 777], &batch.a[..], &batch.b, &batch.text, &[0; 333]].concat());
    let pinning = rig.device.pin(others.clone()).unwrap();
    let (others_a, others) = others[777..].split_at(batch.a.len());
    let (others_b, others) = others.split_at(batch.b.len());
    let mut ours = rig.device.pinned(batch.a.len()).unwrap();
    ours.copy_from_slice(&batch.a);
    let pageable: [&[u8]; 3] = [&batch.a[1..], &batch.b[3..], &batch.text];
    let registered = [&others_a[1..], &others_b[3..], &others[..batch.text.len()]];
    let mut of_result = rig.device.pinned(MIXED * 8).unwrap();
    for (which, [a, b, text]) in [
        ("none", pageable),
        ("all", registered),
        ("ours", [&ours[1..], registered[1], registered[2]]),
        ("numbers", [registered[0], registered[1], pageable[2]]),
        ("text", [pageable[0], pageable[1], registered[2]]),
    ] {
        for pinned_result in [false, true] {
            rig.pipeline = Pipeline::new(&rig.device);
            let mut of_vec = vec![0; MIXED * 8];
            let out = if pinned_result { &mut *of_result } else { &mut of_vec };
            out.fill(0xEE);
            let before = rig.driver.counts();
            let (valid, report) = batch.run(&mut rig, [a, b, text], out);
            let after = rig.driver.counts();
            assert!(out == bytes_of(&expected) && valid == expected_valid, "{which}, {pinned_result}");

            let (up, down) = (after.to_device - before.to_device, after.from_device - before.from_device);
            assert_eq!((report.bytes_up, report.bytes_down), (up, down), "{which}, {pinned_result}");
            let pinned = [a, b, text].into_iter().zip(pageable).filter(|(at, other)| at.as_ptr() != other.as_ptr());
            let direct = pinned.clone().count() as u64;
            // The first and last bytes of the text are of no row.
            let rows =
                pinned.map(|(bytes, _)| if bytes.len() == batch.text.len() { bytes.len() - 8 } else { bytes.len() });
            let mut not_staged = rows.sum::<usize>() as u64;
            not_staged += if pinned_result { MIXED as u64 * 8 } else { 0 };
            assert_eq!(report.bytes_staged, up + down - not_staged, "{which}, {pinned_result}: {report:?}");
            let copies = report.pieces * (2 + direct + u64::from(pinned_result));
            assert_eq!((after.copies - before.copies, report.pieces > 1), (copies, true), "{which}, {pinned_result}");
        }
    }
    drop((pinning, ours, of_result));
    rig.end();
}

#[test]
fn nothing_is_packed_where_all_is_pinned_and_large() {
    let mut rig = Rig::new(None);
    let (x, y) = numbers(MANY, 0.5);
    let all = Bytes::from([bytes_of(&[0f32]), bytes_of(&x), bytes_of(&y)].concat());
    let pinning = rig.device.pin(all.clone()).unwrap();
    // SAFETY: any bytes are floats.
    let floats = unsafe { all.align_to::<f32>().1 };
    let (on_x, on_y) = floats[1..].split_at(MANY);
    rig.pinned = true;
    let mut out = rig.floats(&vec![0.0; MANY]);
    let before = rig.driver.counts();
    let report = rig.saxpy_into(on_x, on_y, &mut out).unwrap();
    let after = rig.driver.counts();
    assert!(*out == expected(&x, &y));
    let bytes = MANY as u64 * 4;
    assert_eq!((report.bytes_staged, report.bytes_up, report.bytes_down), (0, 2 * bytes, bytes));
    assert_eq!((after.to_device - before.to_device, after.from_device - before.from_device), (2 * bytes, bytes));
    assert_eq!(after.copies - before.copies, 3 * report.pieces);
    assert!(after.pinned_bytes - before.pinned_bytes < 100, "slots for nothing: {after:?}");

    // What is small goes together with what else is packed.
    let few = DIRECT / 4 - 1;
    let before = rig.driver.counts();
    let report = rig.saxpy_into(&on_x[..few], &on_y[..few], &mut out[..few]).unwrap();
    assert!(out[..few] == expected(&x[..few], &y[..few]));
    assert_eq!((report.bytes_staged, report.pieces), (report.bytes_up + report.bytes_down, 1));
    assert_eq!(rig.driver.counts().copies - before.copies, 2);
    drop((out, pinning));
    rig.end();
}

#[test]
fn memory_that_is_pinned_in_part_or_no_more_or_not_to_be_written_to_is_not_copied_directly() {
    let mut rig = Rig::new(None);
    let bytes = Bytes::from(vec![0u8; 1 << 20]);
    let (device, pins) = (&rig.device, rig.device.pins());
    let holds = |from: usize, to: usize| pins.hold(&bytes[from..to], false);
    let left = device.pin(bytes.slice(..500_000)).unwrap();
    let right = device.pin(bytes.slice(504_096..1_000_000)).unwrap();
    assert!(holds(0, 500_000) && holds(1, 499_999) && holds(504_096, 1_000_000) && holds(600_000, 600_000));
    assert!(!holds(0, 500_001) && !holds(499_999, 504_097) && !holds(504_095, 600_000) && !holds(0, 1 << 20));
    assert!(!holds(501_000, 502_000) && !holds(1_000_000, 1_000_001), "between and behind");
    assert!(!pins.hold(&bytes[..1000], true), "bytes are not to be written to");
    // Nor twice, nor nothing.
    let twice = device.pin(bytes.slice(499_999..503_000)).unwrap_err().to_string();
    assert!(twice.contains("pin 3001 bytes of host memory: this memory is pinned already"), "{twice}");
    assert!(device.pin(Bytes::new()).unwrap_err().to_string().contains("nothing to pin"));
    drop(left);
    assert!(!holds(1, 2) && holds(600_000, 600_001));
    drop(right);
    assert!(!holds(600_000, 600_001));
    let ours = device.pinned(1000).unwrap();
    let range = &ours[..];
    assert!(pins.hold(range, true) && ours.len() == 1000);
    // SAFETY: it is not looked at.
    let gone = unsafe { std::slice::from_raw_parts(range.as_ptr(), range.len()) };
    drop(ours);
    assert!(!rig.device.pins().hold(gone, false));

    // Through a pipeline: all rows of x, and those of y but the last.
    let (x, y) = numbers(100_000, 3.0);
    let on_y = Bytes::copy_from_slice(bytes_of(&y));
    let pinning = rig.device.pin(on_y.slice(..on_y.len() - 4)).unwrap();
    // SAFETY: any bytes are floats.
    let floats = unsafe { on_y.align_to::<f32>().1 };
    let (out, report) = rig.saxpy(&x, floats).unwrap();
    assert!(out == expected(&x, &y) && report.bytes_staged == report.bytes_up + report.bytes_down, "{report:?}");
    drop(pinning);
    rig.end();
}

#[test]
fn where_memory_cannot_be_pinned_batches_go_up_as_others() {
    let mut rig = Rig::new(None);
    let (x, y) = numbers(100_000, 3.0);
    let memory = Bytes::copy_from_slice(bytes_of(&x));
    rig.driver.fail_pins(1);
    let refused = rig.device.pin(memory.clone()).unwrap_err();
    assert_eq!(refused.to_string(), "pin 400000 bytes of host memory: the host has not enough of it");
    assert!(!refused.is_sticky() && !refused.is_out_of_memory());
    // SAFETY: any bytes are floats.
    let floats = unsafe { memory.align_to::<f32>().1 };
    let (out, report) = rig.saxpy(floats, &y).unwrap();
    assert!(out == expected(&x, &y) && report.bytes_staged == report.bytes_up + report.bytes_down);
    // The next one is.
    let pinning = rig.device.pin(memory.clone()).unwrap();
    let (out, report) = rig.saxpy(floats, &y).unwrap();
    assert!(out == expected(&x, &y) && report.bytes_staged == report.bytes_up + report.bytes_down - 400_000);
    drop(pinning);
    rig.end();
}

#[test]
fn without_any_one_event_or_wait_of_its_pieces_a_direct_batch_is_wrong_too() {
    let mut rig = Rig::new(None);
    rig.pinned = true;
    // At the end the host waits for the last three pieces. Results come down in order, and it has nothing to copy: the wait for the
    // last one is enough, and so the events of the two before it may be missing, too.
    let before = |orders: u64, these: &[u64]| these.iter().rev().map(|n| orders - 1 - n).collect::<Vec<_>>();
    let expected = before(ORDERS, &[1, 2, 9, 14]);
    assert_eq!(needless(&mut rig, true, ORDERS), expected);
    // Where slots are made, the second and third wait for what was launched before their memory is there, as the fourth piece does
    // for the first one.
    let orders = ORDERS + 3 * 2;
    let expected = before(orders, &[1, 2, 8, 9, 16, 23]);
    assert_eq!(needless(&mut rig, false, orders), expected);
    rig.end();
}

#[test]
fn inputs_may_be_written_to_again_as_soon_as_a_batch_is_back() {
    let mut rig = Rig::new(None);
    let (x, y) = numbers(MANY, 0.5);
    rig.pinned = true;
    let mut right = |wait_is_missing: bool| {
        let (mut on_x, mut on_y, mut out) = (rig.floats(&x), rig.floats(&y), rig.floats(&vec![0.0; MANY]));
        rig.pipeline = Pipeline::new(&rig.device);
        // Known from a first one, which makes the slots.
        rig.saxpy_into(&on_x, &on_y, &mut out).unwrap();
        let before = rig.driver.counts().orders;
        rig.saxpy_into(&on_x, &on_y, &mut out).unwrap();
        let orders = rig.driver.counts().orders - before;
        // One more than there are bits for: all from the wait for the last piece but two on.
        assert!(orders < 64, "{orders}");
        out.fill(0.0);
        rig.driver.leave_out(if wait_is_missing { 0b111 << (orders - 3) } else { 0 }, false);
        rig.saxpy_into(&on_x, &on_y, &mut out).unwrap();
        rig.driver.leave_out(0, false);
        on_x.fill(-1.0);
        on_y.fill(-1.0);
        // The result is looked at late, so that only what the device has read can be wrong.
        rig.device.synchronize().unwrap();
        *out == expected(&x, &y)
    };
    assert!(right(false));
    assert!(!right(true), "nobody would notice that the last waits are missing");
    rig.end();
}

#[test]
fn out_of_memory_halves_direct_batches_until_they_are_too_small_for_it() {
    let mut rig = Rig::new(None);
    rig.pinned = true;
    let (x, y) = numbers(MANY, 1.0);
    let right = expected(&x, &y);
    let (on_x, on_y, mut out) = (rig.floats(&x), rig.floats(&y), rig.floats(&vec![0.0; MANY]));
    let whole = rig.saxpy_into(&on_x, &on_y, &mut out).unwrap();
    let bytes = MANY as u64 * 12;
    for (fails, pieces) in [(1, whole.pieces), (4, 2 * whole.pieces)] {
        rig.pipeline = Pipeline::new(&rig.device);
        rig.driver.fail_allocations(fails);
        out.fill(0.0);
        let report = rig.saxpy_into(&on_x, &on_y, &mut out).unwrap();
        assert!(*out == right && report.pieces >= pieces && report.bytes_staged == 0, "{report:?}");
        assert_eq!((report.out_of_memory, report.bytes_up + report.bytes_down), (fails, bytes));
    }
    // In the midst of a batch: what has gone up of the piece that failed is waited for, and goes up again.
    let (kernel, mut launches) = (rig.saxpy.clone(), 0);
    let (driver, mut result) = (&rig.driver, into(&mut out));
    result.data.fill(0);
    let report = rig.pipeline.run(MANY, &[fixed(&on_x), fixed(&on_y)], &mut result, true, |device, inputs, out| {
        launches += 1;
        if launches == 3 {
            driver.fail_allocations(1);
        }
        let _scratch = device.alloc::<f32>(1)?;
        let [x, y] = [0, 1].map(|n: usize| inputs[n].data().into());
        // SAFETY: these are the kernel's parameters, and all three have that many floats.
        unsafe {
            let args = [2f32.into(), x, y, out.data().into(), out.rows().into()];
            device.launch(&kernel, Grid::over(out.rows()), &args)
        }
    });
    let report = report.map_err(|error: GpuError| error.to_string()).unwrap();
    assert!(*out == right && report.out_of_memory == 1 && report.bytes_staged == 0, "{report:?}");
    drop((on_x, on_y, out, kernel));
    rig.end();

    // So little that buffers of a piece are smaller than what goes directly.
    let mut rig = Rig::new(Some(400_000));
    rig.pinned = true;
    let (on_x, on_y, mut out) = (rig.floats(&x), rig.floats(&y), rig.floats(&vec![0.0; MANY]));
    let report = rig.saxpy_into(&on_x, &on_y, &mut out).unwrap();
    assert!(*out == right && report.out_of_memory > 0 && report.bytes_staged > bytes / 2, "{report:?}");
    drop((on_x, on_y, out));
    rig.end();
}

/// Says to `left` what the driver answers when it is told to let the memory go, which then is nobody's any more.
struct Owner {
    memory: Vec<u8>,
    left: Arc<AtomicU32>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the driver knows what is registered.
        let answer = unsafe { sys::cuMemHostUnregister(self.memory.as_mut_ptr().cast()) };
        self.left.store(answer as u32, Ordering::Relaxed);
    }
}

#[test]
fn memory_is_unpinned_before_it_goes_and_after_what_copies_from_it() {
    let mut rig = Rig::new(None);
    let x = vec![1.5f32; MANY];
    let left = Arc::new(AtomicU32::new(0));
    let memory = Bytes::from_owner(Owner { memory: bytes_of(&x).to_vec(), left: Arc::clone(&left) });
    let pinning = rig.device.pin(memory.clone()).unwrap();
    drop(memory);
    assert_eq!(left.load(Ordering::Relaxed), 0, "it is kept");
    drop(pinning);
    assert_eq!(left.load(Ordering::Relaxed), 713, "and is not registered any more when it goes");

    // Whoever launches kernels lets it go while pieces of the batch are on their way up.
    let memory = Bytes::copy_from_slice(bytes_of(&x));
    let mut pinning = Some(rig.device.pin(memory.clone()).unwrap());
    let (kernel, mut out, mut launches) = (rig.saxpy.clone(), vec![0f32; MANY], 0);
    let columns = [HostColumn { values: Values::Fixed { bytes: &memory, each: 4 }, validity: None }];
    let report = rig.pipeline.run(MANY, &columns, &mut into(&mut out), true, |device, inputs, out| {
        launches += 1;
        drop(if launches == 2 { pinning.take() } else { None });
        let x = inputs[0].data().into();
        // SAFETY: these are the kernel's parameters, and all three have that many floats.
        unsafe {
            device.launch(&kernel, Grid::over(out.rows()), &[2f32.into(), x, x, out.data().into(), out.rows().into()])
        }
    });
    let report = report.map_err(|error: GpuError| error.to_string()).unwrap();
    assert!(out.iter().all(|out| *out == 4.5) && report.pieces > 2, "{report:?}");
    let up = MANY as u64 * 4;
    assert!((up + 1..2 * up).contains(&report.bytes_staged), "the result, and some of the pieces: {report:?}");
    drop(kernel);

    // Ours goes wherever it is, on a thread that never used a device.
    let pinned = rig.device.pinned(1 << 20).unwrap();
    let bytes = rig.driver.counts().pinned_bytes;
    thread::spawn(move || drop(pinned)).join().unwrap();
    assert_eq!(bytes - rig.driver.counts().pinned_bytes, 1 << 20);
    // And after its device.
    let other = Device::open(0, None).unwrap();
    let (pinned, pinning) = (other.pinned(1000).unwrap(), other.pin(memory.clone()).unwrap());
    drop(other);
    drop(pinned);
    drop(pinning);
    rig.end();
}

#[test]
fn a_pipeline_uses_its_own_device_whichever_its_thread_has_used_since() {
    let mut rig = Rig::new(None);
    rig.pinned = true;
    for _ in 0..2 {
        // SAFETY: there is none then.
        let another = || unsafe { result::ctx::set_current(std::ptr::null_mut()) }.unwrap();
        let kernel = rig.doubled.clone();
        let (input, mut out) = (rig.floats(&vec![2.0; 1 << 20]), rig.floats(&vec![0.0; 1 << 20]));
        another();
        let run = rig.pipeline.run(1 << 20, &[fixed(&input)], &mut into(&mut out), true, |device, inputs, out| {
            let args = [inputs[0].data().into(), out.data().into(), out.rows().into(), 1usize.into()];
            // SAFETY: these are the kernel's parameters, and both have so many rows of that width.
            unsafe { device.launch(&kernel, Grid::over(out.rows()), &args) }?;
            another();
            Ok::<_, GpuError>(())
        });
        assert!(run.is_ok() && out.iter().all(|out| *out == 4.0), "{run:?}");
    }
    rig.end();
}
