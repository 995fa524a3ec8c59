//! What breaks a device, or hangs on it, costs its own rows and no others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Twin};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::eventually;
use regatta::udf::{Metrics, Pool, RunOn};
use serde::{Deserialize, Serialize};

use super::{answer, with_gpus};

const SOURCE: &str = r#"
extern "C" __global__ void twice(const float* x, float* out, unsigned long long n) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i >= n) return;
    if (x[i] == -666.0f) __trap();
    volatile int on = x[i] == -777.0f;
    while (on) {}
    out[i] = 2 * x[i];
}
"#;
const TRAPS: f32 = -666.0;
const HANGS: f32 = -777.0;

/// Twice the number; leaves in the folder which processes its replicas have been in.
#[derive(Clone, Serialize, Deserialize)]
struct Balky {
    folder: PathBuf,
    /// The first start of replica 1 does not end, and replica 0 waits for it to be there.
    starts_badly: bool,
}

#[regatta::udf]
impl GpuUdf for Balky {
    type State = Kernel;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Float32)
    }

    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<Kernel> {
        std::fs::write(self.folder.join(format!("process-{}", std::process::id())), "")?;
        let in_start = self.folder.join("in-start");
        if self.starts_badly && cx.rank() == 1 && !in_start.exists() {
            std::fs::write(&in_start, "")?;
            loop {
                std::thread::park();
            }
        }
        if self.starts_badly && cx.rank() == 0 {
            eventually("the other is in its start", || in_start.exists());
        }
        Ok(gpu.kernels(&KernelSource::new("balky.cu", SOURCE))?.kernel("twice")?)
    }

    fn launch(&self, twice: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        let n = out.rows();
        std::fs::write(self.folder.join("launched"), "")?;
        // SAFETY: these are the kernel's parameters, and both columns have `n` floats.
        Ok(unsafe { gpu.launch(twice, Grid::over(n), &[inputs[0].data().into(), out.data().into(), n.into()]) }?)
    }

    fn twin(&self) -> Option<Twin> {
        Some(Twin::function(|batch| Ok(batch.column(0)? * 2f32)))
    }
}

fn balky(folder: &Path) -> Balky {
    Balky { folder: folder.to_owned(), starts_badly: false }
}

fn processes(folder: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_prefix("process-")?.parse().ok()).collect()
}

/// A thousand numbers, of which these batches of a hundred each have one that is not to be.
fn numbers(bad: f32, batches: &[usize]) -> DataFrame {
    let mut x: Vec<f32> = (0..1000).map(|n| n as f32).collect();
    batches.iter().for_each(|batch| x[batch * 100 + 55] = bad);
    df!["x" => x].unwrap()
}

/// Runs it; only the rows of these batches are null, and the others right.
fn only_these_are_null(session: &Session, pool: &Pool<Balky>, bad: f32, batches: &[usize]) -> Metrics {
    let query = numbers(bad, batches).lazy().select([pool.clone().batch(100).on([col("x")]).alias("r")]);
    let (got, metrics) = answer(session, query);
    let got: Vec<_> = got.column("r").unwrap().f32().unwrap().iter().collect();
    let want: Vec<_> = (0..1000).map(|n| (!batches.contains(&(n / 100))).then_some(2.0 * n as f32)).collect();
    assert_eq!(got, want);
    metrics
}

#[test]
fn many_batches_that_fault_the_device_are_null_and_no_others() {
    with_gpus();
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(1).unwrap();
    let pool = balky(folder.path()).pool().replicas(2).gpus(0.5).on_error(OnError::Null);
    only_these_are_null(&session, &pool, TRAPS, &[0, 1, 2, 4, 5, 7, 9]);
}

#[test]
fn a_replica_that_starts_while_another_breaks_the_device_starts_again() {
    with_gpus();
    let folder = tempfile::tempdir().unwrap();
    let session = Session::local(1).unwrap();
    let udf = Balky { starts_badly: true, ..balky(folder.path()) };
    let pool = udf.pool().replicas(2).gpus(0.5).on_error(OnError::Null);
    only_these_are_null(&session, &pool, TRAPS, &[0]);
    assert!(folder.path().join("in-start").exists(), "the second replica was in its start");
}

#[test]
fn a_kernel_that_outlasts_its_time_is_ended_and_the_others_go_on() {
    with_gpus();
    for session in [Session::local(1).unwrap(), Session::native().unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let pool = balky(folder.path()).pool().replicas(2).gpus(0.5).on_error(OnError::Null);
        // What waits for the same device is late, too, and has a second try.
        let pool = pool.timeout(Duration::from_secs(2));
        only_these_are_null(&session, &pool, HANGS, &[3, 6]);
        let gone = |process: &u32| !Path::new(&format!("/proc/{process}")).exists();
        drop(session);
        eventually("no process is left", || processes(folder.path()).iter().all(gone));
    }
}

#[test]
fn a_kernel_that_hangs_goes_with_its_query() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = balky(folder.path()).pool().replicas(2).gpus(0.5).batch(1000).keep_warm(Duration::from_secs(600));
    let query = |bad, batches: &[usize]| numbers(bad, batches).lazy().select([pool.on([col("x")]).alias("r")]);
    let right = || {
        let (got, _) = answer(&session, query(HANGS, &[]));
        assert_eq!(got.column("r").unwrap().f32().unwrap().sum(), Some(999_000.0));
    };
    right();
    // The other one keeps the process when the first is given up.
    eventually("both replicas are ready", || session.status().unwrap().pools.iter().any(|pool| pool.ready == 2));
    std::fs::remove_file(folder.path().join("launched")).unwrap();
    let run = session.submit(query(HANGS, &[0])).unwrap();
    eventually("the batch is on its way", || folder.path().join("launched").exists());
    run.cancel();
    let [first] = processes(folder.path())[..] else { panic!("one process") };
    eventually("its process is gone", || !Path::new(&format!("/proc/{first}")).exists());
    right();
}

#[test]
fn a_start_that_nobody_waits_for_any_more_does_not_end_the_others() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let udf = Balky { starts_badly: true, ..balky(folder.path()) };
    let pool = udf.pool().replicas(1..=2).gpus(0.5).keep_warm(Duration::from_secs(600));
    only_these_are_null(&session, &pool, TRAPS, &[]);
    let [first] = processes(folder.path())[..] else { panic!("one process") };
    assert!(folder.path().join("in-start").exists(), "the second replica was in its start, which does not end");
    // Longer than what hangs in a call is waited for.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        only_these_are_null(&session, &pool, TRAPS, &[]);
        assert!(Path::new(&format!("/proc/{first}")).exists(), "the first replica's process is gone");
    }
}

#[test]
fn each_query_has_a_process_of_its_own_on_a_gpu() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Both at once: neither ends before the other has begun.
    let pools = folders.each_ref().map(|folder| balky(folder.path()).pool().gpus(0.5));
    let runs = pools.map(|pool| {
        let pool = pool.keep_warm(Duration::from_secs(600));
        session.submit(numbers(TRAPS, &[]).lazy().select([pool.on([col("x")]).alias("r")])).unwrap()
    });
    for mut run in runs {
        assert_eq!(run.collect().unwrap().height(), 1000);
    }
    let [one, other] = folders.each_ref().map(|folder| processes(folder.path()));
    assert!(one.len() == 1 && other.len() == 1 && one != other, "{one:?} {other:?}");
}

#[test]
fn a_call_that_polars_makes_itself_has_no_gpu_of_a_session() {
    with_gpus();
    let folder = tempfile::tempdir().unwrap();
    let pool = balky(folder.path()).pool();
    let query = |pool: &Pool<Balky>| numbers(TRAPS, &[]).lazy().select([pool.on([col("x").shift(lit(1))]).alias("r")]);
    let expected = query(&pool.clone().run_on(RunOn::CpuOnly)).collect().unwrap();
    for session in [Session::local(1).unwrap(), Session::native().unwrap()] {
        let refused = session.submit(query(&pool)).unwrap_err().to_string();
        assert!(refused.contains("Balky") && refused.contains("Polars makes this call itself"), "{refused}");
        assert!(refused.contains("with_columns") && refused.contains("PreferGpu"), "{refused}");
        let (got, _) = answer(&session, query(&pool.clone().run_on(RunOn::PreferGpu)));
        assert!(got.equals_missing(&expected), "{got:?}");
    }
    // Without a session nobody else gives GPUs out.
    assert!(query(&pool).collect().unwrap().equals_missing(&expected));
    assert_eq!(processes(folder.path()).len(), 1, "that of the last query");
}

#[test]
fn numbers_go_to_the_gpu_from_the_memory_that_they_came_in_and_are_not_packed() {
    with_gpus();
    let session = Session::local(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let x: Vec<f32> = (0..1_000_000).map(|n| n as f32).collect();
    let pool = balky(folder.path()).pool().gpus(0.5).batch(250_000);
    let (got, metrics) = answer(&session, df!["x" => &x].unwrap().lazy().select([pool.on([col("x")]).alias("r")]));
    let got = got.column("r").unwrap().f32().unwrap();
    assert!(got.iter().zip(&x).all(|(got, x)| got == Some(2.0 * x)));
    let [up, down, staged] = ["up", "down", "staged"].map(|way| metrics.counter(&format!("gpu_bytes_{way}")));
    assert_eq!((up, down, staged), (4_000_000, 4_000_000, 0), "{metrics:?}");
}
