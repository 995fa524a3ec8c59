//! B0: what the driver alone can do.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use regatta_gpu::{CubinCache, Device, Grid, KernelSource, Nvrtc};

use crate::report::{Better, Case, Report};
use crate::{OURS, Outcome, Sizes, launch_saxpy, saxpy_kernel, time};

pub(crate) const UP: Case = Case { name: "B0 pinned memory to the GPU", unit: "GB/s", better: Better::Higher };
pub(crate) const DOWN: Case = Case { name: "B0 the GPU to pinned memory", unit: "GB/s", better: Better::Higher };
const BOTH: Case = Case { name: "B0 both ways at once, in all", unit: "GB/s", better: Better::Higher };
const PAGEABLE: Case = Case { name: "B0 pageable memory to the GPU", unit: "GB/s", better: Better::Higher };
pub(crate) const WITHIN: Case =
    Case { name: "B0 within the GPU, read and written", unit: "GB/s", better: Better::Higher };
const LAUNCH: Case = Case { name: "B0 a small kernel, launched", unit: "us", better: Better::Lower };
const WAIT: Case = Case { name: "B0 a small kernel, launched and waited for", unit: "us", better: Better::Lower };
const ALLOCATE: Case = Case { name: "B0 1 MiB allocated and freed", unit: "us", better: Better::Lower };
const COMPILE: Case = Case { name: "B0 kernels compiled", unit: "ms", better: Better::Lower };
const CACHED: Case = Case { name: "B0 kernels from the cache", unit: "ms", better: Better::Lower };

const fn rate(name: &'static str) -> Case {
    Case { name, unit: "GB/s", better: Better::Higher }
}
const fn micros(name: &'static str) -> Case {
    Case { name, unit: "us", better: Better::Lower }
}
/// Copies of so many bytes, one behind the other: up and down.
static SMALL: [(usize, Case, Case); 4] = [
    (4 << 10, rate("B0 copies of 4 KiB up"), rate("B0 copies of 4 KiB down")),
    (64 << 10, rate("B0 copies of 64 KiB up"), rate("B0 copies of 64 KiB down")),
    (1 << 20, rate("B0 copies of 1 MiB up"), rate("B0 copies of 1 MiB down")),
    (16 << 20, rate("B0 copies of 16 MiB up"), rate("B0 copies of 16 MiB down")),
];
const REGISTER: Case = rate("B0 memory registered");
/// So many empty kernels, and one wait.
static GRAPHS: [(u32, Case); 3] =
    [(1, micros("B0 1 empty kernel")), (10, micros("B0 10 empty kernels")), (100, micros("B0 100 empty kernels"))];

/// In words of ours: cudarc's ask the driver.
fn driver(error: DriverError) -> String {
    format!("the driver answers {:?}", error.0)
}

/// Bytes a second up, down, and both ways at once.
pub(crate) fn copies(sizes: &Sizes, report: &mut Report) -> Outcome<(f64, f64, f64)> {
    let context = CudaContext::new(0).map_err(driver)?;
    let stream: Arc<CudaStream> = context.new_stream().map_err(driver)?;
    let (len, raw) = (sizes.copy, stream.cu_stream());
    // SAFETY, of all below: each buffer has `len` bytes, lives to the end of the function, and copies are waited for.
    unsafe {
        let host: *mut c_void = result::malloc_host(len, 0).map_err(driver)?;
        let pinned = std::slice::from_raw_parts_mut(host.cast::<u8>(), len);
        pinned.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 31 % 251) as u8);
        let pageable = pinned.to_vec();
        let (a, b) = (result::malloc_sync(len).map_err(driver)?, result::malloc_sync(len).map_err(driver)?);
        let wait = || result::stream::synchronize(raw).map_err(driver);
        let up = time(sizes.runs, || {
            Ok(result::memcpy_htod_async(a, pinned, raw).map_err(driver).and_then(|()| wait())?)
        })?;
        let from_pageable = time(sizes.runs, || {
            Ok(result::memcpy_htod_async(a, &pageable, raw).map_err(driver).and_then(|()| wait())?)
        })?;
        let within = time(sizes.runs, || {
            Ok(result::memcpy_dtod_async(b, a, len, raw).map_err(driver).and_then(|()| wait())?)
        })?;
        let down = time(sizes.runs, || {
            Ok(result::memcpy_dtoh_async(pinned, b, raw).map_err(driver).and_then(|()| wait())?)
        })?;
        let other = context.new_stream().map_err(driver)?;
        let back: *mut c_void = result::malloc_host(len, 0).map_err(driver)?;
        let to = std::slice::from_raw_parts_mut(back.cast::<u8>(), len);
        let both = time(sizes.runs, || {
            result::memcpy_htod_async(a, pinned, raw).map_err(driver)?;
            result::memcpy_dtoh_async(to, b, other.cu_stream()).map_err(driver)?;
            wait()?;
            Ok(result::stream::synchronize(other.cu_stream()).map_err(driver)?)
        })?;
        result::free_host(back).map_err(driver)?;
        for device in [a, b] {
            result::free_sync(device).map_err(driver)?;
        }
        result::free_host(host).map_err(driver)?;
        let rate = |seconds: f64| len as f64 / seconds;
        report.add(&UP, OURS, Ok(rate(up) / 1e9));
        report.add(&BOTH, OURS, Ok(2.0 * rate(both) / 1e9));
        report.add(&PAGEABLE, OURS, Ok(rate(from_pageable) / 1e9));
        report.add(&DOWN, OURS, Ok(rate(down) / 1e9));
        report.add(&WITHIN, OURS, Ok(2.0 * rate(within) / 1e9));
        Ok((rate(up), rate(down), 2.0 * rate(both)))
    }
}

/// Copies of several sizes, from and to memory that the driver has allocated, and memory that was registered.
pub(crate) fn small_copies(sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let context = CudaContext::new(0).map_err(driver)?;
    let stream = context.new_stream().map_err(driver)?;
    let (raw, len) = (stream.cu_stream(), SMALL[SMALL.len() - 1].0);
    let mut ours: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
    // SAFETY, of all below: each buffer has `len` bytes, lives to the end of the function, and copies are waited for.
    unsafe {
        let wait = || result::stream::synchronize(raw).map_err(driver);
        let on_device = result::malloc_sync(len).map_err(driver)?;
        let allocated: *mut c_void = result::malloc_host(len, 0).map_err(driver)?;
        let register = |start: *mut u8| sys::cuMemHostRegister_v2(start.cast(), len, 0).result().map_err(driver);
        let unregister = |start: *mut u8| sys::cuMemHostUnregister(start.cast()).result().map_err(driver);
        let start = ours.as_mut_ptr();
        let seconds = time(sizes.runs, || Ok(register(start).and_then(|()| unregister(start))?))?;
        report.add(&REGISTER, OURS, Ok(len as f64 / seconds / 1e9));
        register(start)?;
        for (system, host) in [("allocated", allocated.cast::<u8>()), ("registered", start)] {
            let host = std::slice::from_raw_parts_mut(host, len);
            for (bytes, up, down) in &SMALL {
                let (host, count) = (&mut host[..*bytes], (sizes.copy / bytes).clamp(1, 256));
                let rate = |seconds: f64| (count * bytes) as f64 / seconds / 1e9;
                let seconds = time(sizes.runs, || {
                    (0..count).try_for_each(|_| result::memcpy_htod_async(on_device, host, raw)).map_err(driver)?;
                    Ok(wait()?)
                })?;
                report.add(up, system, Ok(rate(seconds)));
                let seconds = time(sizes.runs, || {
                    (0..count).try_for_each(|_| result::memcpy_dtoh_async(host, on_device, raw)).map_err(driver)?;
                    Ok(wait()?)
                })?;
                report.add(down, system, Ok(rate(seconds)));
            }
        }
        unregister(start)?;
        result::free_host(allocated).map_err(driver)?;
        result::free_sync(on_device).map_err(driver)?;
    }
    Ok(())
}

/// Empty kernels launched one by one, and the same as a graph that is replayed.
pub(crate) fn graphs(device: &Device, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let context = CudaContext::new(0).map_err(driver)?;
    // SAFETY: what is launched here touches no memory.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(driver)?;
    let raw = stream.cu_stream();
    let source = KernelSource::new("empty.cu", r#"extern "C" __global__ void empty() {}"#);
    let image = Nvrtc::get(Some(device.cuda_major()))?.compile(&source, device.arch())?;
    // SAFETY: the image is whole, and the kernel has no parameters.
    let (module, empty) = unsafe {
        let module = result::module::load_data(image.bytes.as_ptr().cast()).map_err(driver)?;
        (module, result::module::get_function(module, c"empty".into()).map_err(driver)?)
    };
    // SAFETY, of both: as above; the stream lives to the end of the function.
    let launch = || unsafe { result::launch_kernel(empty, (1, 1, 1), (32, 1, 1), 0, raw, &mut []) }.map_err(driver);
    let wait = || unsafe { result::stream::synchronize(raw) }.map_err(driver);
    for (count, case) in &GRAPHS {
        let launched = time(sizes.runs, || Ok((0..*count).try_for_each(|_| launch()).and_then(|()| wait())?))?;
        report.add(case, "launches", Ok(launched * 1e6));
        if device.name().starts_with("FAKE") {
            report.add(case, "a graph", Err("the fake driver has no graphs".into()));
            continue;
        }
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(driver)?;
        (0..*count).try_for_each(|_| launch())?;
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(driver)?.ok_or("no graph")?;
        graph.upload().map_err(driver)?;
        let replayed = time(sizes.runs, || Ok(graph.launch().map_err(driver).and_then(|()| wait())?))?;
        report.add(case, "a graph", Ok(replayed * 1e6));
    }
    // SAFETY: it is loaded, and its kernels have run.
    Ok(unsafe { result::module::unload(module) }.map_err(driver)?)
}

/// What single calls take.
pub(crate) fn calls(device: &Device, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let kernel = saxpy_kernel(device)?;
    let out = device.alloc::<f32>(32)?;
    let many = 1000;
    // SAFETY: no rows, so nothing is read or written.
    let launch = || unsafe { launch_saxpy(device, &kernel, [out.pointer(); 3], 0, Grid::blocks(1, 32)) };
    let issue = time(sizes.runs, || {
        for _ in 0..many {
            launch()?;
        }
        Ok(device.synchronize()?)
    })?;
    report.add(&LAUNCH, OURS, Ok(issue / f64::from(many) * 1e6));
    let wait = time(sizes.runs, || Ok(launch().and_then(|()| device.synchronize())?))?;
    report.add(&WAIT, OURS, Ok(wait * 1e6));
    let allocate = time(sizes.runs, || {
        for _ in 0..many {
            device.alloc::<u8>(1 << 20)?;
        }
        Ok(device.synchronize()?)
    });
    report.add(
        &ALLOCATE,
        OURS,
        allocate.map(|seconds| seconds / f64::from(many) * 1e6).map_err(|error| error.to_string()),
    );

    let nvrtc = Nvrtc::get(Some(device.cuda_major()))?;
    let folder = tempfile::tempdir()?;
    let cache = CubinCache::new(folder.path().join("cubin"), 1 << 30)?;
    let source = KernelSource::new("top_k.cu", include_str!("../../../examples/top_k/top_k.cu"));
    let compile = time(sizes.runs.min(5), || Ok(nvrtc.compile(&source, device.arch()).map(drop)?))?;
    report.add(&COMPILE, OURS, Ok(compile * 1e3));
    let cached = time(sizes.runs, || Ok(nvrtc.compile_cached(&source, device.arch(), &cache).map(drop)?))?;
    report.add(&CACHED, OURS, Ok(cached * 1e3));
    Ok(())
}
