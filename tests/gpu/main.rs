//! UDFs on GPUs, end to end, on the fake driver and compiler: answers equal those of the CPU, faults end in new processes, and
//! what cannot be had is told.

#![cfg(feature = "gpu")]

mod columns;
mod examples;
mod faults;
mod whole;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use regatta::gpu::{self, Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Twin, takes};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::{assert_same_as_polars, eventually};
use regatta::udf::RunOn;
use regatta::{GpuInfo, SessionStatus};
use serde::{Deserialize, Serialize};

regatta::testing::worker!();

const SOURCE: &str = r#"
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, unsigned long long n) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i >= n) return;
    if (x[i] == -666.0f) __trap();
    out[i] = a * x[i] + y[i];
}
extern "C" __global__ void lengths(const long long* offsets, long long* out, unsigned long long n) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < n) out[i] = offsets[i + 1] - offsets[i];
}
extern "C" __global__ void norms(const float* in, float* out, unsigned long long rows, int width) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i >= rows) return;
    float sum = 0;
    for (int j = 0; j < width; ++j) sum += in[i * width + j] * in[i * width + j];
    out[i] = sum;
}
"#;

/// The fake driver, for this process's children. Its own process never touches a GPU.
fn with_gpus() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the first thing that each test does; no other thread reads the environment meanwhile.
        unsafe {
            std::env::set_var("REGATTA_TEST_FAKES", regatta_fakes::folder());
            std::env::set_var("FAKE_CUDA_DEVICES", "2");
        }
    });
}

#[derive(Clone, Serialize, Deserialize)]
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

    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<Kernel> {
        cx.progress("kernels");
        Ok(gpu.kernels(&KernelSource::new("saxpy.cu", SOURCE))?.kernel("saxpy")?)
    }

    fn launch(&self, saxpy: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let n = out.rows();
        let args = [self.a.into(), inputs[0].data().into(), inputs[1].data().into(), out.data().into(), n.into()];
        // SAFETY: these are the kernel's parameters, and all three columns have `n` floats.
        Ok(unsafe { gpu.launch(saxpy, Grid::over(n), &args) }?)
    }

    fn twin(&self) -> Option<Twin> {
        let a = self.a;
        Some(Twin::function(move |batch| Ok(((batch.column(0)? * a) + batch.column(1)?.clone())?)))
    }
}

/// Lengths of texts: by offsets. No twin.
#[derive(Serialize, Deserialize)]
struct Lengths;

#[regatta::udf]
impl GpuUdf for Lengths {
    type State = Kernel;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
        Ok(gpu.kernels(&KernelSource::new("saxpy.cu", SOURCE))?.kernel("lengths")?)
    }

    fn launch(&self, lengths: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let n = out.rows();
        let args = [inputs[0].offsets().into(), out.data().into(), n.into()];
        // SAFETY: these are the kernel's parameters; there is one offset more than rows.
        Ok(unsafe { gpu.launch(lengths, Grid::over(n), &args) }?)
    }
}

fn frame(rows: usize) -> DataFrame {
    let x: Vec<_> = (0..rows).map(|i| (i % 11 != 5).then_some(i as f32)).collect();
    df!["x" => x, "y" => (0..rows).map(|i| (i % 1000) as f32).collect::<Vec<_>>()].unwrap()
}

fn plain() -> Expr {
    col("x") * lit(2f32) + col("y")
}

fn answer(session: &Session, query: LazyFrame) -> (DataFrame, regatta::udf::Metrics) {
    let mut run = session.submit(query).unwrap();
    let answer = run.collect().unwrap_or_else(|error| panic!("{error}"));
    let status = run.status().unwrap().expect("a session that runs queries knows them");
    (answer, status.metrics.values().next().cloned().unwrap_or_default())
}

#[test]
fn a_kernel_on_workers_and_in_this_process_equals_the_cpu() {
    with_gpus();
    let data = frame(50_000);
    let expected = data.clone().lazy().select([plain().alias("r")]).collect().unwrap();
    for session in [Session::local(2).unwrap(), Session::native().unwrap()] {
        let call = Saxpy { a: 2.0 }.pool().replicas(2).gpus(0.5).batch(8_000).on([col("x"), col("y")]).alias("r");
        let (got, metrics) = answer(&session, data.clone().lazy().select([call]));
        assert!(got.equals_missing(&expected), "{got:?}");
        assert!(metrics.counter("gpu_batches") >= 7 && metrics.counter("cpu_batches") == 0, "{metrics:?}");
    }
}

#[test]
fn frames_without_rows_of_one_row_and_of_nulls_alone_come_back_as_on_the_cpu() {
    with_gpus();
    for session in [Session::local(1).unwrap(), Session::native().unwrap()] {
        for x in [vec![], vec![Some(1f32)], vec![None; 33]] {
            let y = vec![2f32; x.len()];
            let data = df!["x" => Float32Chunked::new("x".into(), x).into_series(), "y" => y].unwrap();
            let expected = data.clone().lazy().select([plain().alias("r")]).collect().unwrap();
            let call = Saxpy { a: 2.0 }.pool().gpus(0.5).on([col("x"), col("y")]).alias("r");
            let (got, _) = answer(&session, data.lazy().select([call]));
            assert!(got.equals_missing(&expected) && got.schema() == expected.schema(), "{got:?}");
        }
    }
}

#[test]
fn text_goes_by_offsets() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let data = df!["s" => [Some("a"), None, Some(""), Some("a text that is longer than twelve bytes")]].unwrap();
    let (got, _) = answer(&session, data.clone().lazy().select([Lengths.pool().gpus(0.5).on([col("s")]).alias("n")]));
    let expected = data.lazy().select([col("s").str().len_bytes().cast(DataType::Int64).alias("n")]).collect().unwrap();
    assert!(got.equals_missing(&expected), "{got:?}");
}

#[test]
fn the_same_query_in_plain_polars_has_the_same_answer() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let call = Saxpy { a: 2.0 }.pool().run_on(RunOn::CpuOnly).on([col("x"), col("y")]).alias("r");
    assert_same_as_polars(&session, &frame(1000).lazy().select([call]), true, &[]);
}

#[test]
fn a_batch_that_faults_the_device_is_quarantined_and_the_rest_goes_on_in_a_new_process() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let mut x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    x[555] = -666.0;
    let data = df!["x" => x, "y" => vec![1f32; 1000]].unwrap();
    // Two replicas in one process: what runs beside the batch that does it is not to blame.
    let pool = Saxpy { a: 2.0 }.pool().replicas(2).gpus(0.5).batch(100);
    let call = |pool: &regatta::udf::Pool<Saxpy>| pool.on([col("x"), col("y")]).alias("r");
    let (got, metrics) = answer(&session, data.clone().lazy().select([call(&pool.clone().on_error(OnError::Null))]));
    let result = got.column("r").unwrap().f32().unwrap().clone();
    let nulls: Vec<_> = (0..1000).filter(|i| result.get(*i).is_none()).collect();
    assert_eq!(nulls, (500..600).collect::<Vec<_>>(), "the rows of one batch");
    assert_eq!(metrics.counter("gpu_batches"), 9);
    let error = session.submit(data.lazy().select([call(&pool)])).unwrap().collect().unwrap_err().to_string();
    assert!(error.contains("has ended 2 replicas") && error.contains("trapped"), "{error}");
    assert!(error.contains("exit status: 86"), "{error}");
}

#[test]
fn a_batch_that_is_larger_than_the_pool_s_gpu_memory_goes_through_in_pieces() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let data = frame(300_000);
    let expected = data.clone().lazy().select([plain().alias("r")]).collect().unwrap();
    let pool = Saxpy { a: 2.0 }.pool().gpu_memory(256 << 10).batch(300_000);
    let (got, metrics) = answer(&session, data.lazy().select([pool.on([col("x"), col("y")]).alias("r")]));
    assert!(got.equals_missing(&expected), "{got:?}");
    assert!(metrics.counter("gpu_out_of_memory") > 0, "{metrics:?}");
    assert_eq!(metrics.counter("gpu_bytes_down"), 300_000 * 4, "each row came back once");
}

#[test]
fn udfs_that_read_each_other_hand_over_on_the_device() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let rows = 100_000;
    let data = frame(rows);
    let saxpy = |a| Saxpy { a }.pool();
    let inner = saxpy(2.0).on([col("x"), col("y")]);
    let whole = saxpy(3.0).on([inner.clone(), saxpy(4.0).on([inner, col("x")])]).alias("r");
    let query = data.clone().lazy().select([whole]);
    let explain = session.submit(query.clone()).unwrap().explain().to_string();
    assert_eq!(explain.matches("then UDF").count(), 1, "{explain}");
    assert!(explain.contains("Saxpy, then ") && explain.contains("on the device"), "{explain}");
    let expected = {
        let inner = col("x") * lit(2f32) + col("y");
        let whole = inner.clone() * lit(3f32) + (inner * lit(4f32) + col("x"));
        data.lazy().select([whole.alias("r")]).collect().unwrap()
    };
    let (got, metrics) = answer(&session, query);
    assert!(got.equals_missing(&expected), "{got:?}");
    let (up, down) = (metrics.counter("gpu_bytes_up"), metrics.counter("gpu_bytes_down"));
    assert_eq!(down, rows as u64 * 4, "one result");
    // Two columns, the bits of the one with nulls, and those of what comes from it; a little for their alignment.
    let needed = rows as u64 * 8 + 3 * rows as u64 / 8;
    assert!(up >= rows as u64 * 8 && up < needed + 64 * 1024, "{up} bytes of {needed}");
}

/// Says which process and device its replica has, and waits until another one has said so too.
#[derive(Serialize, Deserialize)]
struct Meet {
    folder: std::path::PathBuf,
}

#[regatta::udf]
impl GpuUdf for Meet {
    type State = Kernel;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<Kernel> {
        let (process, device) = (std::process::id(), std::env::var("CUDA_VISIBLE_DEVICES")?);
        std::fs::write(self.folder.join(cx.rank().to_string()), format!("{process} {device}"))?;
        eventually("two replicas have started", || {
            std::fs::read_dir(&self.folder).is_ok_and(|files| files.count() == 2)
        });
        Ok(gpu.kernels(&KernelSource::new("saxpy.cu", SOURCE))?.kernel("lengths")?)
    }

    fn launch(&self, lengths: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let n = out.rows();
        let args = [inputs[0].offsets().into(), out.data().into(), n.into()];
        // SAFETY: these are the kernel's parameters; there is one offset more than rows.
        Ok(unsafe { gpu.launch(lengths, Grid::over(n), &args) }?)
    }
}

#[test]
fn replicas_of_a_whole_gpu_have_different_ones_and_those_of_a_half_share_a_process() {
    with_gpus();
    let session = Session::local(1).unwrap();
    for (gpus, same) in [(1.0, false), (0.5, true)] {
        let folder = tempfile::tempdir().unwrap();
        let meet = Meet { folder: folder.path().to_owned() }.pool().replicas(2).gpus(gpus).batch(1);
        let data = df!["s" => vec!["abc"; 10]].unwrap();
        let (got, _) = answer(&session, data.lazy().select([meet.on([col("s")]).alias("n")]));
        assert_eq!(got.column("n").unwrap().i64().unwrap().sum(), Some(30));
        let said = ["0", "1"].map(|rank| std::fs::read_to_string(folder.path().join(rank)).unwrap());
        let [(process, device), (other_process, other_device)] =
            said.each_ref().map(|said| said.split_once(' ').unwrap());
        assert!(device.starts_with("GPU-") && other_device.starts_with("GPU-"), "by UUID: {said:?}");
        assert_eq!((process == other_process, device == other_device), (same, same), "{said:?}");
    }
}

#[test]
fn the_status_says_which_gpus_each_worker_has() {
    with_gpus();
    // As it is printed: how many, and what they are.
    let says = |status: &SessionStatus, count| {
        let text = status.to_string();
        let devices = format!("; {count} GPU: FAKE (no GPU) (9.0, 1.0 GiB, CUDA 13.0)\n");
        for part in [format!(", 0 of {count} GPU;"), devices] {
            assert_eq!(text.matches(&part).count(), status.workers.len(), "{part}: {text}");
        }
    };
    let uuid = |gpu: &GpuInfo| gpu.uuid.clone();
    let native = Session::native().unwrap().status().unwrap();
    says(&native, 2);
    let all = &native.workers[0].devices;
    assert!(all.iter().all(|gpu| gpu.name == "FAKE (no GPU)" && gpu.memory == 1 << 30 && !gpu.mig), "{all:?}");
    assert!(all.iter().all(|gpu| gpu.compute_capability == (9, 0) && gpu.driver == (13, 0)), "{all:?}");
    let uuids: BTreeSet<_> = all.iter().map(uuid).collect();
    assert!(uuids.len() == 2 && uuids.iter().all(|uuid| uuid.starts_with("GPU-")), "{uuids:?}");

    let local = Session::local(2).unwrap().status().unwrap();
    says(&local, 1);
    let dealt: BTreeSet<_> = local.workers.iter().flat_map(|worker| &worker.devices).map(uuid).collect();
    assert_eq!(dealt, uuids, "each has one of its own");

    // One that joins asks its own driver.
    let cluster = Cluster::serve("127.0.0.1:0").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["regatta_worker", "--exact", "--nocapture", "--test-threads=1"]).env("POLARS_MAX_THREADS", "1");
    command.env("REGATTA_JOIN", cluster.address().to_string());
    command.env("REGATTA_TOKEN", cluster.worker_token(1, Duration::from_secs(600)).unwrap());
    let mut worker = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it has joined", || cluster.session().status().unwrap().workers.len() == 1);
    let joined = cluster.session().status().unwrap();
    worker.kill().unwrap();
    worker.wait().unwrap();
    says(&joined, 2);
    assert_eq!(&joined.workers[0].devices, all);
}

const WITHOUT: &str = "REGATTA_TEST_WITHOUT_GPU";

/// This test binary, started again by the test below, on a machine without any library of NVIDIA, or with a driver that refuses.
#[test]
fn without_a_gpu() {
    if std::env::var_os(WITHOUT).is_none() {
        return;
    }
    let session = Session::local(1).unwrap();
    assert!(session.status().unwrap().workers[0].devices.is_empty());
    let why = gpu::device_count().unwrap_err().to_string();
    let data = frame(1000);
    let expected = data.clone().lazy().select([plain().alias("r")]).collect().unwrap();
    let query = |run_on| {
        let call = Saxpy { a: 2.0 }.pool().run_on(run_on).batch(100).on([col("x"), col("y")]).alias("r");
        data.clone().lazy().select([call])
    };
    for run_on in [RunOn::PreferGpu, RunOn::CpuOnly] {
        let (got, metrics) = answer(&session, query(run_on));
        assert!(got.equals_missing(&expected), "{got:?}");
        assert_eq!((metrics.counter("cpu_batches"), metrics.counter("gpu_batches")), (10, 0), "{run_on:?}");
    }
    let falls_back = |run_on| {
        let profile = query(run_on).explain_analyze_on(&session).unwrap();
        profile.findings.iter().any(|finding| finding.id == "gpu-fallback")
    };
    assert!(falls_back(RunOn::PreferGpu) && !falls_back(RunOn::CpuOnly), "who asks for CPUs is not told of GPUs");
    let explain = session.submit(query(RunOn::PreferGpu)).unwrap().explain().to_string();
    assert!(explain.contains("1 GPU each if there is one, else on CPUs"), "{explain}");
    // None has joined yet, one has, and this process itself.
    for session in [Session::elastic(0..=1).unwrap(), session, Session::native().unwrap()] {
        let run = session.submit(query(RunOn::RequireGpu));
        let refused = run.and_then(|mut run| run.collect()).unwrap_err().to_string();
        assert!(refused.contains("1 GPU") && refused.contains("fits on no worker"), "{refused}");
        assert!(refused.ends_with(&format!("Why workers have no GPU: {why}")), "{refused}");
    }
    // Where Polars makes the call itself.
    let refused = query(RunOn::RequireGpu).collect().unwrap_err().to_string();
    assert!(refused.contains("needs a GPU") && refused.contains("twin()") && refused.contains(&why), "{refused}");
    assert!(query(RunOn::PreferGpu).collect().unwrap().equals_missing(&expected));
}

#[test]
fn without_a_gpu_the_twin_runs_if_it_may_and_else_the_error_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    for refuses in [false, true] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "without_a_gpu", "--nocapture"]).env(WITHOUT, "1");
        match refuses {
            // A driver that is older than what the kernel has loaded of it.
            true => command.env("REGATTA_TEST_FAKES", regatta_fakes::folder()).env("FAKE_CUDA_INIT", "803"),
            false => command.env_remove("REGATTA_TEST_FAKES"),
        };
        // No GPU where there is one, and no library of NVIDIA but those of the whole machine.
        command.env("CUDA_VISIBLE_DEVICES", "").env("HOME", empty.path());
        command.env_remove("XDG_CACHE_HOME").env_remove("REGATTA_CUDA_LIBS");
        let said = command.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn wrong_options_and_dtypes_are_refused_in_words_while_the_query_is_planned() {
    with_gpus();
    let refused = |expression: Expr| {
        let query = frame(3).lazy().with_column(lit("text").alias("s")).select([expression]);
        query.collect().unwrap_err().to_string()
    };
    let both = [col("x"), col("y")];
    let saxpy = || Saxpy { a: 1.0 }.pool();
    for (expression, words) in [
        (Lengths.pool().run_on(RunOn::PreferGpu).on([col("s")]), "twin()"),
        (saxpy().gpus(0.0).on(&both), "gpus(0)"),
        (saxpy().gpus(2.0).on(&both), "one GPU, or a share of it"),
        (saxpy().on([col("s"), col("y")]), "it takes columns of f32, f32, and is given \"s\" (str), \"y\" (f32)"),
        (Lengths.pool().on([concat_list([col("s")]).unwrap()]), "not brought to a GPU"),
    ] {
        let error = refused(expression);
        assert!(error.contains(words), "{words}: {error}");
    }
}
