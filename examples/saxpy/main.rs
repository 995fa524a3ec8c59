//! A kernel of one's own on columns: a * x + y on a GPU where there is one, else its twin on CPUs.
//!
//! ```text
//! cargo run --features gpu --example saxpy                            # two worker processes
//! DAFT_RUNNER=native cargo run --features gpu --example saxpy         # in this process
//! ```

use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Twin};
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Saxpy {
    a: f32,
}

#[regatta::udf]
impl GpuUdf for Saxpy {
    type State = Kernel;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Float32)
    }

    fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
        Ok(gpu.kernels(&KernelSource::new("saxpy.cu", include_str!("saxpy.cu")))?.kernel("saxpy")?)
    }

    fn launch(&self, saxpy: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let ([x, y], rows) = ([inputs[0].data(), inputs[1].data()], out.rows());
        let args = [self.a.into(), x.into(), y.into(), inputs[0].validity().into(), out.data().into(), rows.into()];
        // SAFETY: these are the kernel's parameters, and each column has that many floats.
        Ok(unsafe { gpu.launch(saxpy, Grid::over(rows), &args) }?)
    }

    fn twin(&self) -> Option<Twin> {
        let a = self.a;
        Some(Twin::function(move |batch| Ok((&(batch.column(0)? * a) + batch.column(1)?)?)))
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    match regatta::gpu::device_count() {
        Ok(devices) => eprintln!("saxpy runs on {devices} GPUs"),
        Err(why) => eprintln!("saxpy runs on CPUs: {why}"),
    }
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let numbers = 0..1_000_000;
    let x: Vec<Option<f32>> = numbers.clone().map(|n| (n % 10 != 7).then_some(n as f32)).collect();
    let y: Vec<f32> = numbers.map(|n| (n % 1000) as f32).collect();
    let saxpy = Saxpy { a: 2.0 }.pool().run_on(RunOn::PreferGpu).on([col("x"), col("y")]);
    let query = df!["x" => x, "y" => y]?.lazy().with_column(saxpy.alias("2x + y"));
    println!("{}", query.collect_on(&session)?.tail(Some(8)));
    Ok(())
}
