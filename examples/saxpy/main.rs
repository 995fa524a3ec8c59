//! A kernel of one's own: a * x + y on a GPU where there is one, else by its twin on CPUs.
//! `DAFT_RUNNER=flotilla cargo run --features gpu --example saxpy`: on worker processes; without the variable, in this one.

use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Twin, takes};
use regatta::{polars::prelude::*, prelude::*, udf::RunOn};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Saxpy {
    a: f32,
}

#[regatta::udf]
impl GpuUdf for Saxpy {
    type State = Kernel;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        takes(inputs, &[DataType::Float32, DataType::Float32])?;
        Ok(DataType::Float32)
    }

    fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
        Ok(gpu.kernels(&KernelSource::new("saxpy.cu", include_str!("saxpy.cu")))?.kernel("saxpy")?)
    }

    fn launch(&self, saxpy: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let (x, y, valid) = (inputs[0].data(), inputs[1].data(), inputs[0].validity());
        let args = [self.a.into(), x.into(), y.into(), valid.into(), out.data().into(), out.rows().into()];
        // SAFETY: these are the kernel's parameters, and each column has that many floats.
        Ok(unsafe { gpu.launch(saxpy, Grid::over(out.rows()), &args) }?)
    }

    fn twin(&self) -> Option<Twin> {
        let a = self.a;
        Some(Twin::function(move |batch| Ok((&(batch.column(0)? * a) + batch.column(1)?)?)))
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let saxpy = Saxpy { a: 2.0 }.pool().run_on(RunOn::PreferGpu).on([col("x"), col("y")]);
    let x: Vec<_> = (0..1_000_000).map(|n| (n % 10 != 7).then_some(n as f32)).collect();
    let query = df!["x" => &x, "y" => &x]?.lazy().with_column(saxpy.alias("2x + y"));
    println!("{}", query.collect_on(&Session::from_env()?)?.tail(Some(8)));
    Ok(())
}
