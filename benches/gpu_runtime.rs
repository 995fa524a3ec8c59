//! The whole runtime with GPUs: rows that workers have go to a UDF on a GPU and back, beside the same work on a device without
//! the runtime, and beside the UDF's twin on CPUs; and what a kernel costs that breaks its device. Without a GPU it says so.
//! See docs/book/src/gpu.md.
//!
//! With REGATTA_FAKES=FOLDER it runs small on the fake driver, to see that it runs: its figures mean nothing then.

mod support;

use std::error::Error;

use regatta::gpu::{
    Device, GpuError, GpuUdf, Grid, HostColumn, HostResult, Input, Kernel, KernelSource, Output, Pipeline,
};
use regatta::gpu::{Twin, Values};
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use support::local::{seconds, workers};
use support::report::{Better, Case, Report};

const ROWS: Case = Case { name: "B6 saxpy of columns on workers", unit: "Mrow/s", better: Better::Higher };
const AGAIN: Case = Case { name: "B7 from a broken device to one that is ready", unit: "s", better: Better::Lower };

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
        Ok(gpu.kernels(&source())?.kernel("saxpy")?)
    }

    fn launch(&self, saxpy: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        Ok(launch(self.a, saxpy, gpu, inputs, out)?)
    }

    fn twin(&self) -> Option<Twin> {
        let a = self.a;
        Some(Twin::function(move |batch| Ok((&(batch.column(0)? * a) + batch.column(1)?)?)))
    }
}

fn source() -> KernelSource {
    KernelSource::new("gpu_runtime.cu", include_str!("gpu_runtime.cu"))
}

fn launch(a: f32, saxpy: &Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> Result<(), GpuError> {
    let ([x, y], rows) = ([inputs[0].data(), inputs[1].data()], out.rows());
    // SAFETY: these are the kernel's parameters, and each column has that many floats.
    unsafe { gpu.launch(saxpy, Grid::over(rows), &[a.into(), x.into(), y.into(), out.data().into(), rows.into()]) }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Every process of this program comes by here.
    let fakes = std::env::var_os("REGATTA_FAKES");
    if let Some(folder) = &fakes {
        regatta::gpu::use_fakes(folder.as_ref());
    }
    regatta::become_worker_if_started_as_one();

    let rows = if fakes.is_some() { 100_000 } else { 64_000_000 };
    let mut report = Report::from_args("gpu_runtime", "the device alone");
    let device = match Device::open(0, None) {
        Ok(device) => device,
        Err(why) => {
            println!("nothing was measured: {why}");
            return Ok(());
        }
    };
    println!("{} {}", device.name(), device.arch());
    for _ in 0..report.repetitions() {
        let x: Vec<f32> = (0..rows).map(|n| (n % 1000) as f32).collect();
        let rate = |seconds: f64| Ok(rows as f64 / seconds / 1e6);
        report.add(&ROWS, "the device alone", rate(alone(&device, &x)?));
        let session = workers();
        let data = df!["x" => &x]?.lazy().persist_on(&session)?;
        let none = |call: Expr| {
            let none = data.lazy().select([call.alias("r")]).filter(col("r").lt(lit(0f32))).collect_on(&session);
            assert_eq!(none.expect("it runs").height(), 0);
        };
        let saxpy = || Saxpy { a: 2.0 }.pool();
        let twins = std::thread::available_parallelism()?.get();
        for (system, pool) in [
            ("regatta, on a GPU", saxpy()),
            ("regatta, twins on all CPUs", saxpy().run_on(RunOn::CpuOnly).replicas(twins).cpus(0.1)),
        ] {
            report.add(&ROWS, system, rate(seconds(|| none(pool.on([col("x"), col("x")])))));
        }
        // A batch that breaks its device is tried twice, so that two processes are replaced.
        let took = |first: f32| -> Result<f64, PolarsError> {
            let pool = saxpy().batch(100).on_error(OnError::Null);
            let few = df!["x" => [&[first], &x[1..1000]].concat()]?.lazy().select([pool.on([col("x"), col("x")])]);
            Ok(seconds(|| assert_eq!(few.clone().collect_on(&session).expect("it runs").height(), 1000)))
        };
        report.add(&AGAIN, "regatta, on a GPU", Ok((took(-1.0)? - took(0.0)?) / 2.0));
    }
    report.finish();
    Ok(())
}

/// Seconds of the same work by this process, without the runtime.
fn alone(device: &Device, x: &[f32]) -> Result<f64, Box<dyn Error>> {
    let saxpy = device.kernels(&source())?.kernel("saxpy")?;
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let column = HostColumn { values: Values::Fixed { bytes: &bytes, each: 4 }, validity: None };
    let (mut out, mut pipeline) = (vec![0; bytes.len()], Pipeline::new(device));
    Ok(seconds(|| {
        let mut result = HostResult { data: &mut out, each: 4, validity: None };
        let run = pipeline
            .run(x.len(), &[column; 2], &mut result, true, |gpu, inputs, out| launch(2.0, &saxpy, gpu, inputs, out));
        run.expect("it runs");
    }))
}
