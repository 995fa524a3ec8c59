//! A UDF that is not row by row gets its batches whole, or says that they do not fit.

use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, takes};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Saxpy, answer, with_gpus};

const SOURCE: &str = r#"
extern "C" __global__ void reverse(const float* x, float* out, unsigned long long n) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[n - 1 - i];
}
"#;

/// A batch back to front.
#[derive(Clone, Serialize, Deserialize)]
struct Reverse;

#[regatta::udf]
impl GpuUdf for Reverse {
    type State = Kernel;
    const ROW_WISE: bool = false;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        takes(inputs, &[DataType::Float32])?;
        Ok(DataType::Float32)
    }

    fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
        Ok(gpu.kernels(&KernelSource::new("reverse.cu", SOURCE))?.kernel("reverse")?)
    }

    fn launch(&self, reverse: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let n = out.rows();
        // SAFETY: these are the kernel's parameters, and both columns have `n` floats.
        Ok(unsafe { gpu.launch(reverse, Grid::over(n), &[inputs[0].data().into(), out.data().into(), n.into()]) }?)
    }
}

/// Numbers from 0 on, and as many zeros.
fn numbers(rows: usize) -> LazyFrame {
    let x: Vec<f32> = (0..rows).map(|n| n as f32).collect();
    df!["x" => x, "zero" => vec![0f32; rows]].unwrap().lazy()
}

/// Rows of the runs, each of which is back to front, that numbers from 0 on have come back in.
fn runs(back: &[f32]) -> Vec<usize> {
    let (mut runs, mut start) = (Vec::new(), 0);
    while start < back.len() {
        let end = back[start] as usize + 1;
        assert!(start < end && end <= back.len(), "row {start} has {}", back[start]);
        let run = (start..end).rev().map(|n| n as f32);
        assert!(run.eq(back[start..end].iter().copied()), "rows {start} to {end}");
        runs.push(end - start);
        start = end;
    }
    runs
}

#[test]
fn a_udf_that_is_not_row_by_row_gets_its_batches_whole_also_in_a_chain() {
    with_gpus();
    // More bytes than go to the device in one piece.
    let rows = 1_200_000;
    let alone = Reverse.pool().batch(rows).on([col("x")]);
    let chained = Saxpy { a: 2.0 }.pool().batch(rows).on([alone.clone(), col("zero")]);
    for session in [Session::native().unwrap(), Session::local(1).unwrap()] {
        for (call, times, is_chain) in [(&alone, 1.0, false), (&chained, 2.0, true)] {
            let query = numbers(rows).select([call.clone().alias("r")]);
            let explain = session.explain(&query).unwrap();
            assert_eq!(explain.contains("Reverse, then "), is_chain, "{explain}");
            let (got, metrics) = answer(&session, query);
            let got = got.column("r").unwrap().f32().unwrap();
            let back: Vec<f32> = got.iter().map(|x| x.unwrap() / times).collect();
            let runs = runs(&back);
            assert_eq!(runs.len() as u64, metrics.counter("gpu_batches"), "in pieces: {runs:?}");
            assert!(session.processes().len() == 1 || runs == [rows], "one task has one batch: {runs:?}");
        }
    }
}

#[test]
fn a_whole_batch_that_does_not_fit_says_so_and_smaller_ones_go_through() {
    with_gpus();
    let session = Session::native().unwrap();
    let pool = |rows| Reverse.pool().gpu_memory(256 << 10).batch(rows);
    let query = |rows| numbers(100_000).select([pool(rows).on([col("x")]).alias("r")]);
    let refused = session.submit(query(100_000)).unwrap().collect().unwrap_err().to_string();
    for words in ["Reverse", "a piece of 100000 rows", "does not fit into the GPU's memory", "gpu_memory"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let (got, _) = answer(&session, query(10_000));
    let back: Vec<f32> = got.column("r").unwrap().f32().unwrap().iter().flatten().collect();
    assert_eq!(runs(&back), [10_000; 10]);
}
