//! Processes that have GPUs: this executable, started again. This process itself never touches one: a driver that hangs, a
//! fault on a device, and what `CUDA_VISIBLE_DEVICES` says are then theirs alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use regatta_gpu::{DeviceInfo, GpuUnavailable};

use super::AnyGpuUdf;
use super::replica::GpuReplica;
use crate::os;
use crate::process::{MARKER, PROBE, replica_command};
use crate::sched::GpuInfo;
use crate::udf::{GpuSeat, Link, PoolOptions, Replica, RunOn, Seat, Start, UdfError, UdfResult, VISIBLE};

/// How long the driver may take to tell what there is.
const PATIENCE: Duration = Duration::from_secs(20);

/// The GPUs that this process sees, or why it sees none. Asks the driver once, in a child that ends with its answer.
pub(crate) fn find() -> &'static Result<Vec<GpuInfo>, String> {
    static GPUS: OnceLock<Result<Vec<GpuInfo>, String>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let found = probe().map_err(|why| why.to_string());
        match &found {
            Ok(gpus) => gpus.iter().for_each(|gpu| tracing::info!(uuid = gpu.uuid, "GPU: {gpu}")),
            Err(why) => tracing::info!(why, "no GPU here"),
        }
        found
    })
}

fn gpus() -> &'static [GpuInfo] {
    find().as_deref().unwrap_or_default()
}

fn probe() -> UdfResult<Vec<GpuInfo>> {
    crate::process::use_fakes_in_tests();
    if !regatta_gpu::driver_present() {
        return Err(GpuUnavailable::NoDriver.into());
    }
    let mut command = replica_command().ok_or_else(no_process)?;
    let (here, there) = UnixStream::pair()?;
    command.env(MARKER, PROBE).stdin(OwnedFd::from(there)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    drop(command); // and with it our copy of the child's end
    let answer = Link::new(here).receive::<Result<Vec<GpuInfo>, String>>(PATIENCE);
    // A driver that hangs may keep it from ending: nobody waits for that.
    let _ = child.kill();
    let _ = thread::Builder::new().name("regatta-child".to_owned()).spawn(move || child.wait());
    let answer = answer.map_err(|error| UdfError::new(format!("the process that asks the driver ended: {error}")))?;
    let late = || UdfError::new(format!("the CUDA driver did not answer within {} s", PATIENCE.as_secs()));
    answer.ok_or_else(late)?.map_err(UdfError::new)
}

/// The child's side: tells what GPUs there are.
pub(crate) fn prove() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    os::replace_stdin(&File::open("/dev/null")?)?;
    let gpus = regatta_gpu::devices().map_err(|error| error.to_string());
    let gpus = gpus.map(|gpus| gpus.into_iter().map(GpuInfo::from).collect::<Vec<_>>());
    Link::new(stream).send(&gpus)
}

impl From<DeviceInfo> for GpuInfo {
    fn from(info: DeviceInfo) -> Self {
        let DeviceInfo { uuid, name, memory, arch, driver, mig, .. } = info;
        let (compute_capability, driver) = ((arch.0 / 10, arch.0 % 10), (driver / 1000, driver % 1000 / 10));
        Self { name, uuid, memory, compute_capability, driver, mig }
    }
}

fn no_process() -> UdfError {
    UdfError::new(
        "a process with a GPU is this same executable, started again, and its main cannot be one: put #[regatta::main] on \
         main, or regatta::testing::worker!() into the test binary",
    )
}

/// Where a replica of a UDF on GPUs is to run: with a GPU, or `None`: its twin, on CPUs.
///
/// # Errors
/// It must have a GPU, and there is none.
pub(crate) fn seat_for(options: &PoolOptions, seat: &Seat, twin: bool) -> UdfResult<Option<GpuSeat>> {
    let on = |device: String| {
        tracing::debug!(device, "a GPU for the replica");
        Ok(Some(GpuSeat { device, share: options.gpus, memory: options.gpu_memory }))
    };
    let why = match (options.run_on, seat.devices.first()) {
        (RunOn::CpuOnly, _) => return Ok(None),
        (_, Some(device)) => match name_of(*device as usize) {
            Some(name) => return on(name),
            None => format!("this worker does not see its GPU {device}"),
        },
        // Plain Polars makes the call, and nobody gives out GPUs.
        (_, None) if seat.worker.is_none() => match gpus().first() {
            Some(gpu) => return on(gpu.uuid.clone()),
            None => "this process sees no GPU".to_owned(),
        },
        (_, None) if seat.is_in_place() => IN_PLACE.to_owned(),
        (_, None) => "no worker has a GPU".to_owned(),
    };
    if options.run_on == RunOn::PreferGpu && twin {
        tracing::warn!("{why}: the replica runs on CPUs");
        return Ok(None);
    }
    let here = find().as_ref().err().map(|why| format!(". Here: {why}")).unwrap_or_default();
    Err(UdfError::new(format!(
        "it needs a GPU, and {why}: start workers where there is one, with regatta's feature gpu, or give it a twin() and \
         .run_on(RunOn::PreferGpu){here}"
    )))
}

const IN_PLACE: &str = "Polars makes this call itself, in a task, which has no GPU: it is part of an expression that is not row by row, \
     or reads one";

/// What is wrong with a call that a task is to make.
pub(crate) fn check_in_place(options: &PoolOptions) -> Result<(), String> {
    if options.run_on != RunOn::RequireGpu {
        return Ok(()); // its twin runs
    }
    Err(format!(
        "{IN_PLACE}; make what it reads a column first (with_columns), and use its result in the next one, or give it a twin() \
         and .run_on(RunOn::PreferGpu)"
    ))
}

/// A device's name for a child's `CUDA_VISIBLE_DEVICES`, by its number here.
fn name_of(device: usize) -> Option<String> {
    // Who starts local workers names their devices by UUID.
    let given = std::env::var(VISIBLE).ok();
    let given = given.as_deref().and_then(|list| list.split(',').nth(device)).map(str::trim);
    match given {
        Some(uuid) if uuid.starts_with("GPU-") || uuid.starts_with("MIG-") => Some(uuid.to_owned()),
        _ => gpus().get(device).map(|gpu| gpu.uuid.clone()),
    }
}

/// In the process of a replica: starts it on its GPU.
pub(crate) fn start(udf: Box<dyn AnyGpuUdf>, gpu: &GpuSeat, cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
    let share = || -> UdfResult<Option<u64>> {
        let whole = regatta_gpu::devices()?.first().map_or(0, |device| device.memory);
        Ok((gpu.share > 0.0 && gpu.share < 1.0).then_some((whole as f64 * gpu.share) as u64))
    };
    let memory = if gpu.memory > 0 { Some(gpu.memory) } else { share()? };
    Ok(Box::new(GpuReplica::start(udf, memory, cx)?))
}

/// Starts the twin of a UDF, whose batches are counted: nobody is to believe that a GPU has computed them.
pub(crate) fn start_twin(udf: &dyn AnyGpuUdf, cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
    let twin = udf.twin().ok_or_else(|| UdfError::new("it has no twin on CPUs"))?;
    Ok(Box::new(OnCpu(twin.0.start(cx)?)))
}

struct OnCpu(Box<dyn Replica>);

impl Replica for OnCpu {
    fn run(&mut self, batch: &crate::udf::Batch) -> UdfResult<polars::prelude::Column> {
        let column = self.0.run(batch)?;
        batch.metrics().count("cpu_batches", 1);
        Ok(column)
    }

    fn stop(self: Box<Self>, cx: &crate::udf::Context) -> UdfResult<()> {
        self.0.stop(cx)
    }
}

/// What is wrong with the options of a UDF on GPUs, in words.
pub(crate) fn check(udf: &dyn AnyGpuUdf, options: &PoolOptions) -> Result<(), String> {
    if options.run_on != RunOn::RequireGpu && udf.twin().is_none() {
        return Err(format!(
            "run_on(RunOn::{:?}) needs the same function for CPUs: give its GpuUdf a twin(), or leave run_on out",
            options.run_on
        ));
    }
    if options.run_on != RunOn::CpuOnly && options.gpus == 0.0 && options.gpu_memory == 0 {
        return Err("gpus(0) gives it no GPU: use a share, or .run_on(RunOn::CpuOnly)".to_owned());
    }
    if options.gpus > 1.0 {
        return Err(format!(
            "gpus({}) is more than a replica of a GpuUdf uses: one GPU, or a share of it",
            options.gpus
        ));
    }
    Ok(())
}
