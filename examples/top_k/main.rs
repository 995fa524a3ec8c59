//! The vectors of a corpus that are closest to each query by cosine: one matrix product and a kernel that keeps the best. The
//! corpus stays on the device between batches; where the scores do not fit, Regatta hands over fewer queries at a time.
//!
//! ```text
//! cargo run --features gpu --example top_k                            # two worker processes
//! DAFT_RUNNER=native cargo run --features gpu --example top_k         # in this process
//! ```

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;

use regatta::gpu::{Blas, Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Precision, Product, Slice, Twin};
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

/// Queries, which are arrays of `dim` numbers, to the `k` row numbers of the corpus that are closest, the closest first.
#[derive(Clone, Serialize, Deserialize)]
struct TopK {
    /// A Parquet file with an array of `dim` numbers in each row of its column `vector`.
    corpus: PathBuf,
    dim: usize,
    k: usize,
}

struct OnGpu {
    corpus: Slice<f32>,
    rows: usize,
    blas: Blas,
    top_k: Kernel,
}

/// Scores that a block of the kernel takes.
const SPAN: usize = 2048;

#[regatta::udf]
impl GpuUdf for TopK {
    type State = OnGpu;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs {
            [query] if query.dtype() == &DataType::Array(Box::new(DataType::Float32), self.dim) => {
                Ok(DataType::Array(Box::new(DataType::Int32), self.k))
            }
            _ => Err(UdfError::new(format!("TopK takes one column of arrays of {} floats", self.dim))),
        }
    }

    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<OnGpu> {
        let module = gpu.kernels(&KernelSource::new("top_k.cu", include_str!("top_k.cu")))?;
        cx.progress("corpus");
        let read = self.read()?;
        let (raw, corpus) = (gpu.upload(&read)?, gpu.alloc::<f32>(read.len())?);
        let rows = read.len() / self.dim;
        let args = [(&raw).into(), (&corpus).into(), (self.dim as i32).into()];
        // SAFETY: a warp for each row, and both slices have that many rows.
        unsafe { gpu.launch(&module.kernel("normalise")?, Grid::blocks(rows as u32, 32), &args) }?;
        Ok(OnGpu { corpus, rows, blas: Blas::new(gpu)?, top_k: module.kernel("top_k")? })
    }

    fn launch(&self, on: &mut OnGpu, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let queries = out.rows();
        let scores = gpu.alloc::<f32>(queries * on.rows)?;
        let product = Product {
            rows: queries as u64,
            columns: on.rows as u64,
            inner: self.dim as u64,
            b_transposed: true,
            batch: 1,
            scale: 1.0,
            precision: Precision::F32,
        };
        // SAFETY: the queries, the corpus and the scores are as long as the product says.
        unsafe { on.blas.multiply(product, inputs[0].data(), on.corpus.pointer(), scores.pointer()) }?;
        let (mut values, mut ids, mut width) = (scores, None::<Slice<i32>>, on.rows);
        loop {
            let blocks = width.div_ceil(SPAN);
            let best = gpu.alloc::<f32>(queries * blocks * self.k)?;
            let best_ids = if blocks == 1 { None } else { Some(gpu.alloc::<i32>(queries * blocks * self.k)?) };
            let to = best_ids.as_ref().map_or(out.data(), Slice::pointer);
            let from = ids.as_ref().map(Slice::pointer);
            let (n, k) = (width as i32, self.k as i32);
            let args = [values.pointer().into(), from.into(), n.into(), k.into(), best.pointer().into(), to.into()];
            let grid = Grid { blocks: [blocks as u32, queries as u32, 1], threads: [256, 1, 1], shared: 0 };
            // SAFETY: each block reads its part of a row of that width, and writes `k` places of both results.
            unsafe { gpu.launch(&on.top_k, grid, &args) }?;
            if best_ids.is_none() {
                return Ok(());
            }
            (values, ids, width) = (best, best_ids, blocks * self.k);
        }
    }

    fn twin(&self) -> Option<Twin> {
        Some(Twin::of(OnCpu(self.clone())))
    }
}

impl TopK {
    fn read(&self) -> UdfResult<Vec<f32>> {
        let frame = ParquetReader::new(File::open(&self.corpus)?).finish()?;
        flat(frame.column("vector")?)
    }
}

/// The numbers of all arrays of a column, one after the other.
fn flat(arrays: &Column) -> UdfResult<Vec<f32>> {
    let inner = arrays.as_materialized_series().array()?.get_inner();
    Ok(inner.f32()?.iter().map(|number| number.unwrap_or(f32::NAN)).collect())
}

#[derive(Serialize, Deserialize)]
struct OnCpu(TopK);

impl Udf for OnCpu {
    type State = Vec<f32>;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        GpuUdf::output(&self.0, inputs)
    }

    fn start(&self, _: &mut Start) -> UdfResult<Vec<f32>> {
        self.0.read()
    }

    fn run(&self, corpus: &mut Vec<f32>, batch: &Batch) -> UdfResult<Column> {
        let TopK { dim, k, .. } = self.0;
        let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let mut best = Vec::new();
        for query in flat(batch.column(0)?)?.chunks(dim) {
            let score = |row: &[f32]| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>() / length(row);
            let mut scores: Vec<(f32, i32)> = corpus.chunks(dim).map(score).zip(0..).collect();
            scores.sort_by(|a, b| b.0.total_cmp(&a.0));
            best.extend(scores.iter().take(k).map(|(_, id)| *id));
        }
        let ids = Series::new("ids".into(), best);
        Ok(ids.reshape_array(&[ReshapeDimension::Infer, ReshapeDimension::new(k as i64)])?.into_column())
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    match regatta::gpu::device_count() {
        Ok(devices) => eprintln!("top_k runs on {devices} GPUs"),
        Err(why) => eprintln!("top_k runs on CPUs: {why}"),
    }
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let folder = tempfile::tempdir()?;
    let (path, dim, rows) = (folder.path().join("corpus.parquet"), 64, 5000);
    let corpus = numbers(rows * dim);
    let mut file = File::create(&path)?;
    ParquetWriter::new(&mut file).finish(&mut df!["vector" => arrays(corpus.clone(), dim)?]?)?;

    // Every 500th vector, longer and bent a little: it is the closest to its original.
    let bend = |row: &[f32]| row.iter().zip(numbers(dim)).map(|(x, noise)| 3.0 * x + 0.3 * noise).collect::<Vec<_>>();
    let queries: Vec<f32> = corpus.chunks(dim).step_by(500).flat_map(bend).collect();
    let originals: Vec<i32> = (0..rows as i32).step_by(500).collect();
    let top = TopK { corpus: path, dim, k: 3 }.pool().run_on(RunOn::PreferGpu).on([col("query")]);
    let closest = df!["original" => originals, "query" => arrays(queries, dim)?]?
        .lazy()
        .select([col("original"), top.alias("closest")])
        .collect_on(&session)?;
    println!("{closest}");
    Ok(())
}

fn arrays(numbers: Vec<f32>, dim: usize) -> PolarsResult<Series> {
    Series::new("".into(), numbers).reshape_array(&[ReshapeDimension::Infer, ReshapeDimension::new(dim as i64)])
}

/// Numbers from -1 to 1, always the same.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
