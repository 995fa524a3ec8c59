//! The UDF: on a GPU, and its twin.

use std::fs::File;
use std::path::PathBuf;

use regatta::gpu::{
    Blas, Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Precision, Product, Slice, Twin, takes,
};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

/// Queries, which are arrays of `dim` numbers, to the `k` row numbers of the corpus that are closest, the closest first.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TopK {
    /// A Parquet file with an array of `dim` numbers in each row of its column `vector`.
    pub(crate) corpus: PathBuf,
    pub(crate) dim: usize,
    pub(crate) k: usize,
}

pub(crate) struct OnGpu {
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
        takes(inputs, &[self.vectors()])?;
        Ok(DataType::Array(Box::new(DataType::Int32), self.k))
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
        let mut on = OnGpu { corpus, rows, blas: Blas::new(gpu)?, top_k: module.kernel("top_k")? };
        // Once for the first row: cuBLASLt loads its kernels now, and not in the first batch.
        let (query, best) = (Input::resident(1, on.corpus.pointer(), None), gpu.alloc::<i32>(self.k)?);
        self.launch(&mut on, gpu, &[query], &Output::new(1, best.pointer(), None))?;
        Ok(on)
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
            let to = best_ids.as_ref().map_or_else(|| out.data(), Slice::pointer);
            let from = ids.as_ref().map(Slice::pointer);
            let (n, k) = (width as i32, self.k as i32);
            let args = [values.pointer().into(), from.into(), n.into(), k.into(), best.pointer().into(), to.into()];
            let grid = Grid { blocks: [queries as u32, blocks as u32, 1], threads: [256, 1, 1], shared: 0 };
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
        let column = frame.column("vector")?;
        takes(&[column.field().into_owned()], &[self.vectors()])?;
        flat(column)
    }

    /// The dtype of the queries, and of the corpus.
    fn vectors(&self) -> DataType {
        DataType::Array(Box::new(DataType::Float32), self.dim)
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
        Ok(arrays(Series::new("ids".into(), best), k)?.into_column())
    }
}

/// A column of arrays of so many numbers.
pub(crate) fn arrays(numbers: Series, each: usize) -> PolarsResult<Series> {
    numbers.reshape_array(&[ReshapeDimension::Infer, ReshapeDimension::new(each as i64)])
}
