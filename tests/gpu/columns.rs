//! Columns of all kinds go through kernels and are what plain Polars makes of them; what a kernel does not read is refused.

use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, takes};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Saxpy, answer, frame, plain, with_gpus};

const SOURCE: &str = r#"
typedef unsigned long long size;
__device__ size thread() { return blockIdx.x * (size)blockDim.x + threadIdx.x; }

extern "C" __global__ void sums(const float* items, const long long* offsets, float* out, size n) {
    size i = thread();
    if (i >= n) return;
    float sum = 0;
    for (long long j = offsets[i]; j < offsets[i + 1]; ++j) sum += items[j];
    out[i] = sum;
}
extern "C" __global__ void bits(const unsigned char* bits, const long long* none, int* out, size n) {
    size i = thread();
    if (i < n) out[i] = bits[i / 8] >> (i % 8) & 1;
}
extern "C" __global__ void days(const int* days, const long long* none, int* out, size n) {
    size i = thread();
    if (i < n) out[i] = days[i];
}
extern "C" __global__ void moments(const long long* moments, const long long* none, long long* out, size n) {
    size i = thread();
    if (i < n) out[i] = moments[i];
}
"#;

/// Columns to what a kernel reads in them.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Read {
    Sums,
    Bits,
    Days,
    Moments,
}

impl Read {
    /// The kernel, what it takes and gives.
    fn kernel(self) -> (&'static str, DataType, DataType) {
        match self {
            Self::Sums => ("sums", DataType::List(Box::new(DataType::Float32)), DataType::Float32),
            Self::Bits => ("bits", DataType::Boolean, DataType::Int32),
            Self::Days => ("days", DataType::Date, DataType::Int32),
            Self::Moments => ("moments", DataType::Datetime(TimeUnit::Milliseconds, None), DataType::Int64),
        }
    }
}

#[regatta::udf]
impl GpuUdf for Read {
    type State = Kernel;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        let (_, input, output) = self.kernel();
        takes(inputs, &[input])?;
        Ok(output)
    }

    fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
        Ok(gpu.kernels(&KernelSource::new("read.cu", SOURCE))?.kernel(self.kernel().0)?)
    }

    fn launch(&self, read: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let args = [inputs[0].data().into(), inputs[0].offsets().into(), out.data().into(), out.rows().into()];
        // SAFETY: all kernels have these parameters, and `output` lets in what they read.
        Ok(unsafe { gpu.launch(read, Grid::over(out.rows()), &args) }?)
    }
}

#[test]
fn lists_booleans_dates_and_times_come_back_as_in_plain_polars() {
    with_gpus();
    let rows = 5000usize;
    let list = |n: usize| Series::new("".into(), (0..n % 5).map(|i| (n + i) as f32).collect::<Vec<_>>());
    let lists: ListChunked = (0..rows).map(|n| (n % 7 != 3).then(|| list(n))).collect();
    let bools: Vec<Option<bool>> = (0..rows).map(|n| (n % 11 != 5).then_some(n % 3 == 0)).collect();
    let days: Vec<Option<i32>> = (0..rows).map(|n| (n % 13 != 7).then_some(n as i32 - 2500)).collect();
    let data = df!["lists" => lists.into_series(), "bools" => bools, "dates" => days].unwrap().lazy();
    let data = data.with_column(col("dates").cast(DataType::Date));
    let data = data.with_column(col("dates").cast(Read::Moments.kernel().1).alias("times")).collect().unwrap();
    // Not at the border of a byte of bits.
    let data = data.slice(3, rows - 8);
    let cases = [
        (Read::Sums, "lists", col("lists").list().sum().cast(DataType::Float32)),
        (Read::Bits, "bools", col("bools").cast(DataType::Int32)),
        (Read::Days, "dates", col("dates").cast(DataType::Int32)),
        (Read::Moments, "times", col("times").cast(DataType::Int64)),
    ];
    for session in [Session::local(1).unwrap(), Session::native().unwrap()] {
        for (read, column, expected) in &cases {
            let expected = data.clone().lazy().select([expected.clone().alias("r")]).collect().unwrap();
            let call = read.pool().gpus(0.5).batch(701).on([col(*column)]).alias("r");
            let (got, metrics) = answer(&session, data.clone().lazy().select([call]));
            assert!(
                got.equals_missing(&expected) && got.schema() == expected.schema(),
                "{column}: {got:?} {expected:?}"
            );
            assert!(metrics.counter("gpu_batches") > 0, "{metrics:?}");
        }
    }
}

#[test]
fn a_kernel_of_floats_is_right_for_floats_and_refuses_all_other_numbers() {
    use DataType::{Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
    with_gpus();
    let session = Session::native().unwrap();
    let data = frame(1000);
    let query = |[x, y]: [&DataType; 2]| {
        let cast = data.clone().lazy().select([col("x").cast(x.clone()), col("y").cast(y.clone())]);
        cast.select([Saxpy { a: 2.0 }.pool().gpus(0.5).on([col("x"), col("y")]).alias("r")])
    };
    for other in [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float64] {
        for dtypes in [[&other, &other], [&other, &Float32], [&Float32, &other]] {
            let refused = session.submit(query(dtypes)).and_then(|mut run| run.collect()).unwrap_err().to_string();
            let given = format!("is given \"x\" ({}), \"y\" ({})", dtypes[0], dtypes[1]);
            for words in ["Saxpy", "takes columns of f32, f32", &given] {
                assert!(refused.contains(words), "{words}: {refused}");
            }
        }
    }
    let (got, _) = answer(&session, query([&Float32, &Float32]));
    assert!(got.equals_missing(&data.clone().lazy().select([plain().alias("r")]).collect().unwrap()), "{got:?}");
}
