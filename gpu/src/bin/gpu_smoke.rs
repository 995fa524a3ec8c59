//! Whether a GPU and its libraries do what regatta-gpu needs of them: one line for each check, and as many failures as the
//! exit code says. Without a GPU it says so, and exits with 1.
//!
//! ```text
//! cargo run --release -p regatta-gpu --bin gpu_smoke
//! compute-sanitizer --tool memcheck target/release/gpu_smoke --once
//! ```
//!
//! `--once` leaves out what is meant to go wrong, for tools that count errors.

use std::error::Error;
use std::process::{Command, ExitCode};
use std::time::Instant;

use bytes::Bytes;
use regatta_gpu::{
    Arg, Bits, Blas, CubinCache, Device, GpuError, Grid, HostColumn, HostResult, Kernel, KernelSource, Nvrtc, Output,
    Pipeline, Precision, Product, Report, Times, Values,
};

type Outcome = Result<String, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // For the tests: the fake driver.
    if args.first().is_some_and(|arg| arg == "--fakes") {
        regatta_gpu::use_fakes(args[1].as_ref());
        args.drain(..2);
    }
    match args.first().map(String::as_str) {
        Some("--break") => return child(breaks()),
        Some("--again") => return child(again()),
        Some("--once") | None => {}
        Some(other) => {
            eprintln!("gpu_smoke takes --once or nothing, not {other:?}");
            return ExitCode::FAILURE;
        }
    }
    let mut failures = 0;
    let mut report = |name: &str, outcome: Outcome| match outcome {
        Ok(detail) => println!("ok    {name}: {detail}"),
        Err(error) => {
            failures += 1;
            println!("FAIL  {name}: {error}");
        }
    };
    let device = match Device::open(0, None) {
        Ok(device) => device,
        Err(error) => {
            report("device", Err(error.into()));
            return ExitCode::FAILURE;
        }
    };
    report("device", Ok(format!("{} {}", device.name(), device.arch())));
    report("compiler", compiler(&device));
    report("kernel", kernel(&device));
    report("shuffles", shuffles(&device));
    report("nothing", nothing(&device));
    report("pipeline", pipeline(&device));
    report("pinned memory", pinned_memory(&device));
    report("overlap", overlap(&device));
    for precision in [Precision::F32, Precision::Tf32, Precision::F16] {
        report("product", product(&device, precision));
    }
    if args.is_empty() {
        report("bounded memory", bounded_memory());
        report("exhausted memory", exhausted_memory());
        report("broken kernel", broken_kernel(&device));
        report("restart", restart());
    }
    ExitCode::from(failures)
}

fn source() -> KernelSource {
    KernelSource::new("gpu_smoke.cu", include_str!("gpu_smoke.cu"))
}

/// Numbers from -1 to 1, the same for each seed.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn largest_error(got: &[f32], expected: impl Iterator<Item = f64>) -> f64 {
    let errors = got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs());
    // A number that is none is the largest error of all.
    errors.fold(0.0, |largest, error| if error > largest || error.is_nan() { error } else { largest })
}

fn within(error: f64, bound: f64, what: &str) -> Outcome {
    let text = format!("{what}, largest error {error:.1e}");
    if error <= bound { Ok(text) } else { Err(format!("{text}, more than {bound:.0e}").into()) }
}

fn compiler(device: &Device) -> Outcome {
    let nvrtc = Nvrtc::get(Some(device.cuda_major()))?;
    let folder = tempfile::tempdir()?;
    let cache = CubinCache::new(folder.path().join("cubin"), 1 << 20)?;
    let start = Instant::now();
    let compiled = nvrtc.compile_cached(&source(), device.arch(), &cache)?;
    let (compiling, start) = (start.elapsed(), Instant::now());
    let cached = nvrtc.compile_cached(&source(), device.arch(), &cache)?;
    let reading = start.elapsed();
    if cached.bytes != compiled.bytes {
        return Err("the cache gives another image than the compiler".into());
    }
    let (major, minor) = nvrtc.version();
    let file = nvrtc.file().display();
    Ok(format!("NVRTC {major}.{minor} from {file}: {compiling:.1?} to compile, {reading:.1?} from the cache"))
}

fn kernel(device: &Device) -> Outcome {
    let saxpy = device.kernels(&source())?.kernel("saxpy")?;
    let rows = 1_000_003;
    let (x, y) = (numbers(1, rows), numbers(2, rows));
    let (on_x, on_y, out) = (device.upload(&x)?, device.upload(&y)?, device.upload(&vec![f32::NAN; rows])?);
    let none = None::<regatta_gpu::Pointer>;
    let args = [2.5f32.into(), (&on_x).into(), (&on_y).into(), none.into(), (&out).into(), none.into(), rows.into()];
    // SAFETY: these are the kernel's parameters, and each slice has that many rows.
    unsafe { device.launch(&saxpy, Grid::over(rows), &args) }?;
    let got = device.download(&out)?;
    let expected = x.iter().zip(&y).map(|(x, y)| 2.5 * f64::from(*x) + f64::from(*y));
    within(largest_error(&got, expected), 1e-6, &format!("{rows} rows"))
}

fn shuffles(device: &Device) -> Outcome {
    let sums = device.kernels(&source())?.kernel("sums")?;
    let input = numbers(3, 256 * 1000);
    let (on_device, out) = (device.upload(&input)?, device.upload(&[f32::NAN; 1000])?);
    // SAFETY: a block reads 256 numbers and writes one.
    unsafe { device.launch(&sums, Grid::blocks(1000, 256), &[(&on_device).into(), (&out).into()]) }?;
    let got = device.download(&out)?;
    let expected = input.chunks(256).map(|block| block.iter().map(|x| f64::from(*x)).sum::<f64>());
    within(largest_error(&got, expected), 1e-4, "1000 blocks")
}

fn nothing(device: &Device) -> Outcome {
    let empty = device.alloc::<f32>(0)?;
    let saxpy = device.kernels(&source())?.kernel("saxpy")?;
    // SAFETY: a grid of no blocks launches nothing.
    unsafe { device.launch(&saxpy, Grid::over(0), &[]) }?;
    device.synchronize()?;
    Ok(format!("{} values, no launch", device.download(&empty)?.len()))
}

/// Batches with nulls, in many pieces, up and down while kernels run.
fn pipeline(device: &Device) -> Outcome {
    run_saxpy(&mut Pipeline::new(device), device, 4)
}

/// Kernels for batches of a pipeline, whose results are poisoned before.
struct Poisoned {
    poison: Kernel,
    kernel: Kernel,
}

impl Poisoned {
    fn new(device: &Device, kernel: &str) -> Result<Self, GpuError> {
        let kernels = device.kernels(&source())?;
        Ok(Self { poison: kernels.kernel("poison")?, kernel: kernels.kernel(kernel)? })
    }

    /// # Safety
    /// These are the kernel's parameters, and it has a thread for each row.
    unsafe fn launch(&self, device: &Device, output: &Output, args: &[Arg]) -> Result<(), GpuError> {
        let grid = Grid::over(output.rows());
        // SAFETY: the result has a number for each row; the rest is the caller's promise.
        unsafe {
            device.launch(&self.poison, grid, &[output.data().into(), output.rows().into()])?;
            device.launch(&self.kernel, grid, args)
        }
    }
}

/// Batches go up from memory that was registered, and results come down to memory that is pinned, past the host's threads.
fn pinned_memory(device: &Device) -> Outcome {
    let saxpy = Poisoned::new(device, "saxpy")?;
    let rows = 4 << 20;
    let (x, y) = (numbers(10, rows), numbers(11, rows));
    let memory = Bytes::from([bytes_of(&x), bytes_of(&y)].concat());
    let start = Instant::now();
    let pinning = device.pin(memory.clone())?;
    let (registering, start) = (start.elapsed(), Instant::now());
    let mut out = device.pinned(rows * 4)?;
    let allocating = start.elapsed();
    let (x_bytes, y_bytes) = memory.split_at(rows * 4);
    let columns =
        [x_bytes, y_bytes].map(|bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None });
    let mut result = HostResult { data: &mut out, each: 4, validity: None };
    let start = Instant::now();
    let report =
        Pipeline::new(device).run::<GpuError>(rows, &columns, &mut result, true, |device, inputs, output| {
            let (x, y, none) =
                (inputs[0].data().into(), inputs[1].data().into(), Arg::from(None::<regatta_gpu::Pointer>));
            let args = [2.5f32.into(), x, y, none, output.data().into(), none, output.rows().into()];
            // SAFETY: these are the kernel's parameters, and each column has that many rows.
            unsafe { saxpy.launch(device, output, &args) }
        })?;
    let took = start.elapsed();
    drop(pinning);
    if report.bytes_staged > 0 {
        return Err(format!("{} bytes went through a thread of the host", report.bytes_staged).into());
    }
    let expected = x.iter().zip(&y).map(|(x, y)| 2.5 * f64::from(*x) + f64::from(*y));
    let what = format!("{rows} rows in {took:.1?}, registered in {registering:.1?}, allocated in {allocating:.1?}");
    within(largest_error(&numbers_of(&out), expected), 1e-6, &what)
}

/// Bytes of numbers.
fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn numbers_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
}

/// Copies up, kernels and copies down happen at the same time, by the device's own clock: in pinned memory, and with kernels
/// that take about as long as the copies. What one of them hides of the others is lost in the noise where it takes far longer.
fn overlap(device: &Device) -> Outcome {
    let slow = Poisoned::new(device, "slow")?;
    let rows = 2 << 20;
    let mut pipeline = Pipeline::timed(device)?;
    let [mut x_bytes, mut y_bytes, mut out] =
        [device.pinned(rows * 4)?, device.pinned(rows * 4)?, device.pinned(rows * 4)?];
    // Each run has other numbers, and so other results than those that the one before has left on the device.
    let mut run = |seed: u64, steps: i32| -> Result<(Report, f64), Box<dyn Error>> {
        let (x, y) = (numbers(2 * seed, rows), numbers(2 * seed + 1, rows));
        x_bytes.copy_from_slice(&bytes_of(&x));
        y_bytes.copy_from_slice(&bytes_of(&y));
        let columns =
            [&x_bytes, &y_bytes].map(|bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None });
        let mut result = HostResult { data: &mut out, each: 4, validity: None };
        let report = pipeline.run::<GpuError>(rows, &columns, &mut result, true, |device, inputs, output| {
            let [x, y, out] = [inputs[0].data(), inputs[1].data(), output.data()].map(Arg::from);
            // SAFETY: these are the kernel's parameters, and each column has that many rows.
            unsafe { slow.launch(device, output, &[x, y, out, steps.into(), output.rows().into()]) }
        })?;
        let expected = x.iter().zip(&y).map(|(x, y)| f64::from(*x) + f64::from(*y));
        Ok((report, largest_error(&numbers_of(&out), expected)))
    };
    // The first one loads and allocates.
    let (mut steps, mut error, mut seen) = (32, run(7, 32)?.1, String::new());
    for seed in 8..20 {
        let (Report { times, pieces, .. }, wrong) = run(seed, steps)?;
        error = if wrong.is_nan() { wrong } else { error.max(wrong) };
        let Times { up, kernels, down, all, .. } = times.ok_or("a pipeline that is timed tells no times")?;
        seen = format!("{pieces} pieces, {up:.1?} up, {kernels:.1?} of kernels, {down:.1?} down, {all:.1?} in all");
        let (sum, longest, copies) = (up + kernels + down, up.max(kernels).max(down), up + down);
        if error.is_nan() || (kernels >= copies / 2 && kernels <= copies * 2 && all <= (sum + longest) / 2) {
            return within(error, 1e-6, &seen);
        }
        let wanted = f64::from(steps) * copies.as_secs_f64() / kernels.as_secs_f64();
        steps = (wanted as i32).clamp(32, 1 << 20);
    }
    Err(format!("{seen}: most of it one after the other").into())
}

fn run_saxpy(pipeline: &mut Pipeline, device: &Device, seed: u64) -> Outcome {
    let (saxpy, rows) = (Poisoned::new(device, "saxpy")?, 5_000_017);
    let (x, y) = (numbers(seed, rows), numbers(seed + 1, rows));
    let (x_bytes, y_bytes) = (bytes_of(&x), bytes_of(&y));
    let bits: Vec<u8> = (0..rows / 8 + 2).map(|i| (i * 37 + 11) as u8).collect();
    let offset = 3;
    let fixed = |bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None };
    let columns = [HostColumn { validity: Some(Bits { bytes: &bits, offset }), ..fixed(&x_bytes) }, fixed(&y_bytes)];
    let (mut data, mut validity) = (vec![0u8; rows * 4], vec![0u8; rows.div_ceil(8)]);
    let start = Instant::now();
    let mut result = HostResult { data: &mut data, each: 4, validity: Some(&mut validity) };
    let report = pipeline.run::<GpuError>(rows, &columns, &mut result, true, |device, inputs, output| {
        let [x, y] = inputs else { return Ok(()) };
        let valid = x.validity().into();
        let args =
            [2.5f32.into(), x.data().into(), y.data().into(), valid, output.data().into(), output.validity().into()];
        let args: Vec<_> = args.into_iter().chain([output.rows().into()]).collect();
        // SAFETY: these are the kernel's parameters, and each column has that many rows.
        unsafe { saxpy.launch(device, output, &args) }
    })?;
    let took = start.elapsed();
    let bit = |bits: &[u8], at: usize| bits[at / 8] >> (at % 8) & 1;
    for row in 0..rows {
        if bit(&validity, row) != bit(&bits, row + offset) {
            return Err(format!("row {row} is null or not null wrongly").into());
        }
    }
    let got = numbers_of(&data);
    let valid = |row: &usize| bit(&bits, row + offset) == 1;
    let valid_rows: Vec<f32> = (0..rows).filter(valid).map(|row| got[row]).collect();
    let expected = (0..rows).filter(valid).map(|row| 2.5 * f64::from(x[row]) + f64::from(y[row]));
    let what =
        format!("{rows} rows in {} pieces, {} times out of memory, {took:.1?}", report.pieces, report.out_of_memory);
    within(largest_error(&valid_rows, expected), 1e-6, &what)
}

fn product(device: &Device, precision: Precision) -> Outcome {
    let (rows, columns, inner, batch) = (64, 48, 96, 3);
    let (a, b) = (numbers(6, batch * rows * inner), numbers(7, batch * inner * columns));
    let mut blas = Blas::new(device)?;
    let c = device.upload(&vec![f32::NAN; batch * rows * columns])?;
    let mut largest = 0f64;
    for b_transposed in [false, true] {
        let (batch, scale) = (batch as u32, 0.5);
        let (rows, columns, inner) = (rows as u64, columns as u64, inner as u64);
        let product = Product { rows, columns, inner, b_transposed, batch, scale, precision };
        match precision {
            Precision::F16 => {
                let (on_a, on_b) = (device.upload(&halves(&a))?, device.upload(&halves(&b))?);
                // SAFETY: the slices are as long as the product says.
                unsafe { blas.multiply(product, on_a.pointer(), on_b.pointer(), c.pointer()) }?;
            }
            Precision::F32 | Precision::Tf32 => {
                let (on_a, on_b) = (device.upload(&a)?, device.upload(&b)?);
                // SAFETY: the slices are as long as the product says.
                unsafe { blas.multiply(product, on_a.pointer(), on_b.pointer(), c.pointer()) }?;
            }
        }
        let got = device.download(&c)?;
        let (rows, columns, inner) = (rows as usize, columns as usize, inner as usize);
        let expected = (0..got.len()).map(|at| {
            let (batch, row, column) = (at / columns / rows, at / columns % rows, at % columns);
            let b_at = |i: usize| if b_transposed { column * inner + i } else { i * columns + column };
            let (a, b) = (&a[batch * rows * inner..], &b[batch * inner * columns..]);
            0.5 * (0..inner).map(|i| f64::from(a[row * inner + i]) * f64::from(b[b_at(i)])).sum::<f64>()
        });
        largest = largest.max(largest_error(&got, expected));
    }
    let bound = if precision == Precision::F32 { 1e-5 } else { 2e-2 };
    let file = blas.file().display();
    within(largest, bound, &format!("{batch} x {rows} x {inner} x {columns} as {precision:?} by {file}"))
}

/// Half-precision numbers, rounded towards zero.
fn halves(numbers: &[f32]) -> Vec<u16> {
    let half = |x: &f32| {
        let bits = x.to_bits();
        let (sign, exponent) = ((bits >> 16 & 0x8000) as u16, (bits >> 23 & 255) as i32 - 112);
        if exponent <= 0 { sign } else { sign | (exponent as u16) << 10 | (bits >> 13 & 1023) as u16 }
    };
    numbers.iter().map(half).collect()
}

/// A device with a bound refuses what is past it, works on, and the pipeline makes its pieces fit.
fn bounded_memory() -> Outcome {
    let device = Device::open(0, Some(64 << 20))?;
    match device.alloc::<u8>(256 << 20) {
        Err(error) if error.is_out_of_memory() => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("256 MiB of 64 MiB were given".into()),
    }
    let _most = device.alloc::<u8>(32 << 20)?;
    run_saxpy(&mut Pipeline::new(&device), &device, 100)
}

/// All of the device's memory, in pieces of an eighth; then the device still works, and others have the memory again.
fn exhausted_memory() -> Outcome {
    let device = Device::open(0, None)?;
    let piece = regatta_gpu::devices()?[0].memory as usize / 8;
    let mut pieces = Vec::new();
    let error = loop {
        match device.alloc::<u8>(piece) {
            Ok(memory) if pieces.len() < 8 => pieces.push(memory),
            Ok(_) => return Err("more memory was given than the device has".into()),
            Err(error) => break error,
        }
    };
    let count = pieces.len();
    drop(pieces);
    device.synchronize()?;
    if !error.is_out_of_memory() {
        return Err(error.into());
    }
    kernel(&device)?;
    // Its pool keeps what was freed, and goes with the last handle.
    drop(device);
    let half = Device::open(0, None)?.alloc::<u8>(4 * piece);
    half.map_err(|error| format!("the memory was not given back: {error}"))?;
    Ok(format!("{count} pieces of {} MiB, then: {error}", piece >> 20))
}

/// This program once more, with one more argument: what it says.
fn run_child(what: &str) -> Outcome {
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.args(std::env::args().skip(1)).arg(what).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the child ended with {}: {text} {}", output.status, stderr.trim()).into());
    }
    Ok(text)
}

/// A kernel that breaks costs its process the device, and no other.
fn broken_kernel(device: &Device) -> Outcome {
    let text = run_child("--break")?;
    kernel(device)?;
    Ok(text)
}

/// The batch that was under way in a process that lost its device is computed by a new one.
fn restart() -> Outcome {
    run_child("--break")?;
    let start = Instant::now();
    let text = run_child("--again")?;
    Ok(format!("{text}; {:.1?} from the start of the process to its end", start.elapsed()))
}

/// Says what came of it, as a child.
fn child(outcome: Outcome) -> ExitCode {
    let failed = outcome.is_err();
    println!("{}", outcome.unwrap_or_else(|error| error.to_string()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Loses the device in the middle of a batch.
fn breaks() -> Outcome {
    let device = Device::open(0, None)?;
    let breaks = device.kernels(&source())?.kernel("breaks")?;
    let out = device.zeros::<i32>(32)?;
    // SAFETY: it writes 32 numbers.
    unsafe { device.launch(&breaks, Grid::blocks(1, 32), &[(&out).into()]) }?;
    if run_saxpy(&mut Pipeline::new(&device), &device, 200).is_ok() {
        return Err("a batch was computed behind a kernel that broke".into());
    }
    let error = device.lost().ok_or("the device works on after its kernel broke")?;
    match device.alloc::<u8>(16) {
        Ok(_) => Err("memory was given after a kernel broke".into()),
        Err(_) if error.is_sticky() => Ok(error.to_string()),
        Err(_) => Err(format!("{error}, which is not known to cost the device").into()),
    }
}

/// The batch of [`breaks`].
fn again() -> Outcome {
    let device = Device::open(0, None)?;
    run_saxpy(&mut Pipeline::new(&device), &device, 200)
}
