//! What a GPU takes for copies, launches and whole jobs, each beside the limit that this GPU's own copies and products set, and
//! beside PyTorch and CuPy where they are installed. Without a GPU it says so. See docs/book/src/gpu.md.
//!
//! With REGATTA_FAKES=FOLDER it runs small on the fake driver, to see that it runs: its figures mean nothing then.

use regatta_gpu as gpu;

#[path = "../../../examples/embed/src/gpu/encoder.rs"]
mod encoder;
#[path = "../../../benches/support/report.rs"]
mod report;

mod driver;

use std::error::Error;
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use encoder::{Encoder, MINILM, Shape};
use gpu::{
    Arg, Blas, Device, GpuError, Grid, HostColumn, HostResult, Kernel, KernelSource, Pipeline, Pointer, Precision,
    Product, Slice, Values,
};
use report::{Better, Case, Report, quantile};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PRODUCT: Case = Case { name: "B0 product of matrices, tf32", unit: "TFLOP/s", better: Better::Higher };
const SAXPY: Case = Case { name: "B1 saxpy of columns on the host", unit: "Mrow/s", better: Better::Higher };
const SAXPY_PINNED: Case =
    Case { name: "B1 saxpy of columns in pinned memory", unit: "Mrow/s", better: Better::Higher };
const TOP_K: Case = Case { name: "B2 cosine top 10, f16", unit: "ms", better: Better::Lower };
const TOP_ONE: Case = Case { name: "B2 cosine top 10 of one query, f16", unit: "ms", better: Better::Lower };
const RESIZE: Case = Case { name: "B3 1080p to 224 and normalised", unit: "pictures/s", better: Better::Higher };
const EMBED: Case = Case { name: "B4 MiniLM, 128 tokens, tf32", unit: "/s", better: Better::Higher };
const CHAIN: Case = Case { name: "B5 three kernels, resident between", unit: "Mrow/s", better: Better::Higher };
const HOPS: Case = Case { name: "B5 three kernels, through the host between", unit: "Mrow/s", better: Better::Higher };
const fn rate(name: &'static str) -> Case {
    Case { name, unit: "Mrow/s", better: Better::Higher }
}
const fn passes(name: &'static str) -> Case {
    Case { name, unit: "passes", better: Better::Lower }
}
/// Batches that are so many times as large as the memory there is.
static TIGHT: [(usize, Case, Case); 3] = [
    (2, rate("B7 saxpy in half of its memory"), passes("B7 launches over the rows, in half")),
    (4, rate("B7 saxpy in a quarter of its memory"), passes("B7 launches over the rows, in a quarter")),
    (8, rate("B7 saxpy in an eighth of its memory"), passes("B7 launches over the rows, in an eighth")),
];
/// As the programs of peers name them.
static CASES: [(&str, &Case); 11] = [
    ("up", &driver::UP),
    ("down", &driver::DOWN),
    ("within", &driver::WITHIN),
    ("product", &PRODUCT),
    ("saxpy", &SAXPY),
    ("top_k", &TOP_K),
    ("top_one", &TOP_ONE),
    ("resize", &RESIZE),
    ("embed", &EMBED),
    ("chain", &CHAIN),
    ("hops", &HOPS),
];

const OURS: &str = "regatta-gpu";
const LIMIT: &str = "limit";

/// How large the jobs are.
struct Sizes {
    copy: usize,
    product: usize,
    rows: usize,
    corpus: usize,
    queries: usize,
    pictures: usize,
    sentences: usize,
    shape: Shape,
    runs: usize,
}

const FULL: Sizes = Sizes {
    copy: 256 << 20,
    product: 8192,
    rows: 16 << 20,
    corpus: 1 << 20,
    queries: 1024,
    pictures: 64,
    sentences: 1024,
    shape: MINILM,
    runs: 20,
};
const TINY: Sizes = Sizes {
    copy: 1 << 20,
    product: 64,
    rows: 1 << 14,
    corpus: 4096,
    queries: 4,
    pictures: 1,
    sentences: 1,
    shape: Shape { vocabulary: 100, layers: 1, ..MINILM },
    runs: 1,
};

fn main() {
    let fakes = std::env::var_os("REGATTA_FAKES");
    if let Some(folder) = &fakes {
        regatta_gpu::use_fakes(folder.as_ref());
    }
    let sizes = if fakes.is_some() { TINY } else { FULL };
    let mut report = Report::from_args("gpu", LIMIT);
    let device = match Device::open(0, None) {
        Ok(device) => device,
        Err(why) => {
            println!("nothing was measured: {why}");
            return;
        }
    };
    println!("{} {}", device.name(), device.arch());
    for _ in 0..report.repetitions() {
        if let Err(error) = measure(&device, &sizes, &mut report) {
            println!("stopped: {error}");
            std::process::exit(1);
        }
        if fakes.is_none() {
            peers(&mut report);
        }
    }
    report.finish();
}

fn measure(device: &Device, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let [up, down, both, within] = driver::copies(sizes, report)?;
    driver::small_copies(sizes, report)?;
    driver::calls(device, sizes, report)?;
    driver::graphs(device, sizes, report)?;
    let flops = product(device, sizes)?;
    report.add(&PRODUCT, OURS, Ok(flops / 1e12));

    let rows = sizes.rows as f64;
    // Each row is 8 bytes up and 4 down, at the same time.
    let limit = rows / (rows * 8.0 / up).max(rows * 4.0 / down).max(rows * 12.0 / both);
    let (pageable, pinned) = saxpy(device, sizes)?;
    for (case, seconds) in [(&SAXPY, pageable), (&SAXPY_PINNED, pinned)] {
        report.add(case, LIMIT, Ok(limit / 1e6));
        report.add(case, OURS, Ok(rows / seconds / 1e6));
    }
    let (whole, alone) = top_k(device, sizes, sizes.queries)?;
    report.add(&TOP_K, LIMIT, Ok(alone * 1e3));
    report.add(&TOP_K, OURS, Ok(whole * 1e3));
    // One query reads the corpus once.
    report.add(&TOP_ONE, LIMIT, Ok((sizes.corpus * DIM * 2) as f64 / within * 1e3));
    report.add(&TOP_ONE, OURS, Ok(top_k(device, sizes, 1)?.0 * 1e3));
    report.add(&RESIZE, LIMIT, Ok(up / PICTURE as f64));
    report.add(&RESIZE, OURS, Ok(sizes.pictures as f64 / resize(device, sizes)?));
    let Shape { hidden, inner, layers, .. } = sizes.shape;
    let attention = 2 * 2 * TOKENS * TOKENS * hidden;
    let dense = 2 * TOKENS * (4 * hidden * hidden + 2 * hidden * inner);
    report.add(&EMBED, LIMIT, Ok(flops / (layers * (attention + dense)) as f64));
    report.add(&EMBED, OURS, Ok(sizes.sentences as f64 / embed(device, sizes)?));
    let (resident, hops, kernel) = chain(device, sizes)?;
    // Up, three kernels and down follow each other.
    let (there, back) = (rows * 8.0 / up, rows * 4.0 / down);
    report.add(&CHAIN, LIMIT, Ok(rows / (there + 3.0 * kernel + back) / 1e6));
    report.add(&CHAIN, OURS, Ok(rows / resident / 1e6));
    report.add(&HOPS, LIMIT, Ok(rows / (3.0 * there.max(back).max(kernel)) / 1e6));
    report.add(&HOPS, OURS, Ok(rows / hops / 1e6));
    tight(sizes, report)
}

/// Seconds that a call takes: the median, after three for warming up.
fn time(runs: usize, mut call: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut seconds = Vec::new();
    for run in 0..runs + 3 {
        let start = Instant::now();
        call()?;
        if run >= 3 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    quantile(seconds, 0.5).ok_or_else(|| "no runs".into())
}

/// Numbers from -1 to 1: some GPUs are faster at zeros.
fn numbers(len: usize) -> Vec<f32> {
    regatta_fakes::numbers(1, len)
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// Operations a second of a large product.
fn product(device: &Device, sizes: &Sizes) -> Outcome<f64> {
    let side = sizes.product as u64;
    let input = device.upload(&numbers(sizes.product * sizes.product))?;
    let out = device.alloc::<f32>(sizes.product * sizes.product)?;
    let mut blas = Blas::new(device)?;
    let precision = Precision::Tf32;
    let product =
        Product { rows: side, columns: side, inner: side, b_transposed: true, batch: 1, scale: 1.0, precision };
    let seconds = time(sizes.runs, || {
        // SAFETY: all three are squares of that side.
        unsafe { blas.multiply(product, input.pointer(), input.pointer(), out.pointer()) }?;
        Ok(device.synchronize()?)
    })?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}

fn saxpy_kernel(device: &Device) -> Outcome<Kernel> {
    let source = KernelSource::new("saxpy.cu", include_str!("../../../examples/saxpy/saxpy.cu"));
    Ok(device.kernels(&source)?.kernel("saxpy")?)
}

/// # Safety
/// Each pointer has so many floats.
unsafe fn launch_saxpy(
    device: &Device,
    saxpy: &Kernel,
    [x, y, out]: [Pointer; 3],
    rows: usize,
    grid: Grid,
) -> Result<(), GpuError> {
    let none = None::<Pointer>;
    let args = [2.0f32.into(), x.into(), y.into(), none.into(), out.into(), rows.into()];
    // SAFETY: these are the kernel's parameters; the caller says that the columns have that many rows.
    unsafe { device.launch(saxpy, grid, &args) }
}

/// Seconds from pageable memory and back, and the same where all is pinned: the columns by registration.
fn saxpy(device: &Device, sizes: &Sizes) -> Outcome<(f64, f64)> {
    let (rows, saxpy) = (sizes.rows, saxpy_kernel(device)?);
    let (x, y, mut out) = (bytes_of(&numbers(rows)), bytes_of(&numbers(rows)), vec![0; rows * 4]);
    let mut pipeline = Pipeline::new(device);
    let pageable = time(sizes.runs, || through(&mut pipeline, &saxpy, rows, [&x, &y], &mut out).map(drop))?;
    let columns = Bytes::from([x, y].concat());
    let _pinning = device.pin(columns.clone())?;
    let (x, y) = columns.split_at(rows * 4);
    let mut in_pinned = device.pinned(rows * 4)?;
    let mut pipeline = Pipeline::new(device);
    let pinned = time(sizes.runs, || through(&mut pipeline, &saxpy, rows, [x, y], &mut in_pinned).map(drop))?;
    if *in_pinned != out[..] {
        return Err("another result from pinned memory".into());
    }
    Ok((pageable, pinned))
}

/// Batches for which there is too little memory, each on a pipeline that does not know yet.
fn tight(sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let rows = sizes.rows;
    let (x, y, mut expected, mut out) =
        (bytes_of(&numbers(rows)), bytes_of(&numbers(rows)), vec![0; rows * 4], vec![0; rows * 4]);
    let run = |device: &Device, out: &mut [u8]| -> Outcome<(f64, usize)> {
        let (saxpy, mut launched) = (saxpy_kernel(device)?, 0);
        let seconds = time(sizes.runs, || {
            launched = through(&mut Pipeline::new(device), &saxpy, rows, [&x, &y], out)?;
            Ok(())
        })?;
        Ok((rows as f64 / seconds / 1e6, launched))
    };
    let (whole, _) = run(&Device::open(0, None)?, &mut expected)?;
    for (times, rate, passes) in &TIGHT {
        out.fill(0);
        let (part, launched) = run(&Device::open(0, Some((rows * 12 / times) as u64))?, &mut out)?;
        if out != expected {
            return Err(format!("{}: another result than with all memory", rate.name).into());
        }
        report.add(rate, LIMIT, Ok(whole));
        report.add(rate, OURS, Ok(part));
        report.add(passes, LIMIT, Ok(1.0));
        report.add(passes, OURS, Ok(launched as f64 / rows as f64));
    }
    Ok(())
}

/// One saxpy of columns on the host. Returns how many rows were launched.
fn through(
    pipeline: &mut Pipeline,
    saxpy: &Kernel,
    rows: usize,
    columns: [&[u8]; 2],
    out: &mut [u8],
) -> Outcome<usize> {
    let columns = columns.map(|bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None });
    let mut result = HostResult { data: out, each: 4, validity: None };
    let mut launched = 0;
    pipeline.run::<GpuError>(rows, &columns, &mut result, true, |device, inputs, out| {
        launched += out.rows();
        let pointers = [inputs[0].data(), inputs[1].data(), out.data()];
        // SAFETY: each of them has that many rows.
        unsafe { launch_saxpy(device, saxpy, pointers, out.rows(), Grid::over(out.rows())) }
    })?;
    Ok(launched)
}

const DIM: usize = 384;
const K: usize = 10;

/// Seconds with the search for the best, and of the product alone.
fn top_k(device: &Device, sizes: &Sizes, queries: usize) -> Outcome<(f64, f64)> {
    const SPAN: usize = 2048;
    let source = KernelSource::new("top_k.cu", include_str!("../../../examples/top_k/top_k.cu"));
    let kernel = device.kernels(&source)?.kernel("top_k")?;
    let corpus = sizes.corpus;
    // Any bits but those of infinities and of what is no number: from -1 to 1.
    let half =
        |len: usize| numbers(len).iter().map(|x| (x.to_bits() >> 16 & 0x8000) as u16 | 0x3800).collect::<Vec<u16>>();
    let (rows, wanted) = (device.upload(&half(corpus * DIM))?, device.upload(&half(queries * DIM))?);
    let scores = device.alloc::<f32>(queries * corpus)?;
    let blocks = corpus.div_ceil(SPAN);
    let best: [Slice<f32>; 2] = [device.alloc(queries * blocks * K)?, device.alloc(queries * blocks * K)?];
    let ids: [Slice<i32>; 2] = [device.alloc(queries * blocks * K)?, device.alloc(queries * blocks * K)?];
    let mut blas = Blas::new(device)?;
    let product = Product {
        rows: queries as u64,
        columns: corpus as u64,
        inner: DIM as u64,
        b_transposed: true,
        batch: 1,
        scale: 1.0,
        precision: Precision::F16,
    };
    let mut multiply = || {
        // SAFETY: the slices are as long as the product says.
        unsafe { blas.multiply(product, wanted.pointer(), rows.pointer(), scores.pointer()) }
    };
    let alone = time(sizes.runs, || Ok(multiply().and_then(|()| device.synchronize())?))?;
    let whole = time(sizes.runs, || {
        multiply()?;
        let (mut from, mut known, mut width, mut to) = (scores.pointer(), None, corpus, 0);
        loop {
            let blocks = width.div_ceil(SPAN);
            let (n, k) = (width as i32, K as i32);
            let args = [from.into(), Arg::from(known), n.into(), k.into(), (&best[to]).into(), (&ids[to]).into()];
            let grid = Grid { blocks: [queries as u32, blocks as u32, 1], threads: [256, 1, 1], shared: 0 };
            // SAFETY: blocks read rows of that width and write `K` places each, for which there is room.
            unsafe { device.launch(&kernel, grid, &args) }?;
            (from, known, width, to) = (best[to].pointer(), Some(ids[to].pointer()), blocks * K, 1 - to);
            if blocks == 1 {
                return Ok(device.synchronize()?);
            }
        }
    })?;
    Ok((whole, alone))
}

const HEIGHT: usize = 1080;
const WIDTH: usize = 1920;
const PICTURE: usize = HEIGHT * WIDTH * 3;
const SIDE: usize = 224;

fn resize(device: &Device, sizes: &Sizes) -> Outcome<f64> {
    let source = KernelSource::new("resize.cu", include_str!("../../../examples/resize/resize.cu"));
    let kernel = device.kernels(&source)?.kernel("resize")?;
    let count = sizes.pictures;
    let bytes: Vec<u8> = (0..count * PICTURE).map(|i| (i * 31 % 251) as u8).collect();
    let offsets: Vec<i64> = (0..=count).map(|i| (i * PICTURE) as i64).collect();
    let sides = |side: usize| vec![(side as i32).to_ne_bytes(); count].concat();
    let (heights, widths) = (sides(HEIGHT), sides(WIDTH));
    let fixed = |bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None };
    let pictures =
        HostColumn { values: Values::Variable { offsets: &offsets, bytes: &bytes, each: 1 }, validity: None };
    let columns = [pictures, fixed(&heights), fixed(&widths)];
    let each = 3 * SIDE * SIDE * 4;
    let (mut out, mut valid) = (vec![0; count * each], vec![0; count.div_ceil(8)]);
    let mut pipeline = Pipeline::new(device);
    time(sizes.runs, || {
        let mut result = HostResult { data: &mut out, each, validity: Some(&mut valid) };
        pipeline.run::<GpuError>(count, &columns, &mut result, true, |device, inputs, out| {
            let [bytes, heights, widths] = [0, 1, 2].map(|n: usize| inputs[n].data().into());
            let (offsets, valid) = (inputs[0].offsets().into(), out.validity().into());
            let (side, no_nulls) = ((SIDE as i32).into(), Arg::from(None));
            let [to, rows] = [out.data().into(), out.rows().into()];
            let args = [bytes, offsets, heights, widths, no_nulls, no_nulls, no_nulls, side, to, valid, rows];
            // SAFETY: these are the kernel's parameters; it checks each picture's bytes.
            unsafe { device.launch(&kernel, Grid::over(out.rows() * SIDE * SIDE), &args) }
        })?;
        Ok(())
    })
}

const TOKENS: usize = 128;

fn embed(device: &Device, sizes: &Sizes) -> Outcome<f64> {
    let Shape { vocabulary, hidden, inner, .. } = sizes.shape;
    let weight = |name: &str| {
        let len = match name {
            "embeddings.word_embeddings.weight" => vocabulary * hidden,
            "embeddings.position_embeddings.weight" => TOKENS * hidden,
            _ if name.ends_with("bias") || name.contains("LayerNorm") => inner.max(hidden),
            _ => inner.max(hidden) * hidden,
        };
        Ok::<_, GpuError>(numbers(len).iter().map(|x| x / 20.0).collect())
    };
    let mut encoder = Encoder::new(device, sizes.shape, Precision::Tf32, weight)?;
    let tokens: Vec<i32> = (0..sizes.sentences * TOKENS).map(|i| 1 + (i * 7919 % (vocabulary - 1)) as i32).collect();
    let (tokens, out) = (device.upload(&tokens)?, device.alloc::<f32>(sizes.sentences * hidden)?);
    time(sizes.runs, || {
        // SAFETY: the slices are that long.
        unsafe { encoder.encode(device, tokens.pointer(), sizes.sentences, TOKENS, out.pointer()) }?;
        Ok(device.synchronize()?)
    })
}

/// Seconds of three kernels that hand over on the device, of three through the host, and of one kernel alone.
fn chain(device: &Device, sizes: &Sizes) -> Outcome<(f64, f64, f64)> {
    let (rows, saxpy) = (sizes.rows, saxpy_kernel(device)?);
    let (x, y) = (numbers(rows), numbers(rows));
    let (on_x, on_y, on_out) = (device.upload(&x)?, device.upload(&y)?, device.alloc::<f32>(rows)?);
    let kernel = time(sizes.runs, || {
        let pointers = [on_x.pointer(), on_y.pointer(), on_out.pointer()];
        // SAFETY: each of them has that many rows.
        unsafe { launch_saxpy(device, &saxpy, pointers, rows, Grid::over(rows)) }?;
        Ok(device.synchronize()?)
    })?;
    let (x, y) = (bytes_of(&x), bytes_of(&y));
    let mut out = vec![0; rows * 4];
    let mut pipeline = Pipeline::new(device);
    let columns = [&x, &y].map(|bytes| HostColumn { values: Values::Fixed { bytes, each: 4 }, validity: None });
    let resident = time(sizes.runs, || {
        let mut result = HostResult { data: &mut out, each: 4, validity: None };
        pipeline.run::<GpuError>(rows, &columns, &mut result, true, |device, inputs, out| {
            let middle = device.alloc::<f32>(out.rows())?;
            let (x, y, n) = (inputs[0].data(), inputs[1].data(), out.rows());
            for [from, to] in [[x, out.data()], [out.data(), middle.pointer()], [middle.pointer(), out.data()]] {
                // SAFETY: each of them has that many rows.
                unsafe { launch_saxpy(device, &saxpy, [from, y, to], n, Grid::over(n)) }?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    let mut middle = vec![0; rows * 4];
    let hops = time(sizes.runs, || {
        through(&mut pipeline, &saxpy, rows, [&x, &y], &mut out)?;
        through(&mut pipeline, &saxpy, rows, [&out, &y], &mut middle)?;
        through(&mut pipeline, &saxpy, rows, [&middle, &y], &mut out).map(drop)
    })?;
    Ok((resident, hops, kernel))
}

/// PyTorch and CuPy, if Python has them: lines of `system case figure`, or why there is none.
fn peers(report: &mut Report) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/peers/gpu.py");
    let output = Command::new("python3").arg(program).output();
    let text = match &output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("peers python3 cannot be started: {error}"),
    };
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (system, name, figure) = (words.next(), words.next(), words.next().unwrap_or_default());
        let system = match system {
            Some("torch") => "PyTorch",
            Some("torch-f16") => "PyTorch in f16",
            Some("cupy") => "CuPy",
            _ => {
                println!("{line}");
                continue;
            }
        };
        if let Some((_, case)) = CASES.iter().find(|(known, _)| Some(*known) == name) {
            report.add(case, system, figure.parse().map_err(|_| figure.to_owned()));
        }
    }
}
