//! A replica of a UDF on a GPU, inside its device process.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::buffer::NullBuffer;
use bytes::Bytes;
use polars::prelude::{Column, DataType, Field};
use regatta_gpu::{Bits, Device, GpuError, HostColumn, Input, Output, PinnedBytes, Pinning, Pipeline, Values};

use super::columns::{Held, ResultType, Room, check_input, result_type};
use super::{GpuUdf, Twin};
use crate::udf::{Batch, Context, Replica, Start, UdfError, UdfResult};

/// A [`GpuUdf`] with its type erased.
pub(crate) trait AnyGpuUdf: Send + Sync {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    fn makes_nulls(&self) -> bool;

    fn twin(&self) -> Option<Twin>;

    fn start(self: Box<Self>, gpu: &Device, cx: &mut Start) -> UdfResult<Box<dyn Started>>;
}

/// A started [`GpuUdf`]: arguments and state.
pub(crate) trait Started {
    /// For the batch that comes next.
    fn output(&mut self, inputs: &[Field]) -> UdfResult<DataType>;

    fn is_row_wise(&self) -> bool;

    fn makes_nulls(&self) -> bool;

    /// The sets of inputs for which it wants to know where one of them is null.
    fn sources(&self) -> &[Vec<usize>] {
        &[]
    }

    /// `nulls`: a column of bits for each of [`sources`](Self::sources), clear where one of them is null; `None` where there
    /// is no such row.
    fn launch(&mut self, gpu: &Device, inputs: &[Input], nulls: &[Option<Input>], out: &Output) -> UdfResult<()>;
}

struct WithState<U: GpuUdf> {
    // Dropped before the arguments, which it may have been built from.
    state: U::State,
    udf: U,
}

impl<U: GpuUdf> AnyGpuUdf for U {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        inputs.iter().try_for_each(check_input)?;
        let dtype = GpuUdf::output(self, inputs)?;
        result_type(&dtype)?;
        Ok(dtype)
    }

    fn makes_nulls(&self) -> bool {
        U::MAKES_NULLS
    }

    fn twin(&self) -> Option<Twin> {
        GpuUdf::twin(self)
    }

    fn start(self: Box<Self>, gpu: &Device, cx: &mut Start) -> UdfResult<Box<dyn Started>> {
        let state = GpuUdf::start(&*self, gpu, cx)?;
        Ok(Box::new(WithState { state, udf: *self }))
    }
}

impl<U: GpuUdf> Started for WithState<U> {
    fn output(&mut self, inputs: &[Field]) -> UdfResult<DataType> {
        GpuUdf::output(&self.udf, inputs)
    }

    fn is_row_wise(&self) -> bool {
        U::ROW_WISE
    }

    fn makes_nulls(&self) -> bool {
        U::MAKES_NULLS
    }

    fn launch(&mut self, gpu: &Device, inputs: &[Input], _: &[Option<Input>], out: &Output) -> UdfResult<()> {
        self.udf.launch(&mut self.state, gpu, inputs, out)
    }
}

/// What a process ends with that has lost its device.
const LOST: i32 = 86;

pub(crate) struct GpuReplica {
    // In this order: memory before the device that it is of.
    pipeline: Pipeline,
    host: Host,
    started: Box<dyn Started>,
    device: Device,
}

impl GpuReplica {
    /// Opens the device that this process was given, and starts the UDF on it. `memory`: what it may allocate there.
    pub(crate) fn start(udf: Box<dyn AnyGpuUdf>, memory: Option<u64>, cx: &mut Start) -> UdfResult<Self> {
        cx.progress("the GPU");
        let device = Device::open(0, memory);
        let device = device.inspect_err(|error| {
            if error.is_sticky() {
                end(error)
            }
        })?;
        cx.progress(format!("start on {}", device.name()));
        let started = udf.start(&device, cx);
        let started = started.inspect_err(|_| end_if_lost(&device))?;
        // What goes wrong in a warm-up is said here.
        device.synchronize().inspect_err(|_| end_if_lost(&device))?;
        Ok(Self { pipeline: Pipeline::new(&device), host: Host::default(), started, device })
    }

    fn compute(&mut self, batch: &Batch) -> Result<Column, Failed> {
        let rows = batch.height();
        let columns = batch.frame().columns();
        let fields: Vec<Field> = columns.iter().map(|column| column.field().into_owned()).collect();
        let of: ResultType = result_type(&self.started.output(&fields)?)?;
        let held = columns.iter().map(Held::new).collect::<UdfResult<Vec<_>>>()?;
        let mut host = held.iter().map(Held::host).collect::<UdfResult<Vec<_>>>()?;
        let nulls_of = |inputs: &[usize]| {
            inputs.iter().filter_map(|n| held.get(*n)?.nulls()).fold(None, |all, nulls| union(all.as_ref(), nulls))
        };
        // Behind the inputs, for those who ask for them.
        let asked: Vec<_> = self.started.sources().iter().map(|inputs| nulls_of(inputs)).collect();
        let masks = asked.iter().map(|nulls| {
            let nulls = nulls.as_ref()?;
            let bits = Bits { bytes: nulls.validity(), offset: nulls.offset() };
            host.push(HostColumn { values: Values::Bits(bits), validity: None });
            Some(host.len() - 1)
        });
        let masks: Vec<_> = masks.collect();
        let (row_wise, makes_nulls) = (self.started.is_row_wise(), self.started.makes_nulls());
        self.host.pin_inputs(batch.memory(), &self.device);
        let mut room = Room::new(&of, rows, makes_nulls, self.host.for_result(rows * of.each(), &self.device));
        let started = &mut self.started;
        let report = self.pipeline.run(rows, &host, &mut room.host(), row_wise, |gpu, columns, out| {
            let nulls: Vec<_> = masks.iter().map(|at| at.map(|at| columns[at])).collect();
            started.launch(gpu, &columns[..held.len()], &nulls, out).map_err(Failed::Udf)
        })?;
        batch.metrics().count("gpu_batches", 1);
        if report.out_of_memory > 0 {
            batch.metrics().count("gpu_out_of_memory", report.out_of_memory);
        }
        batch.metrics().count("gpu_bytes_up", report.bytes_up);
        batch.metrics().count("gpu_bytes_down", report.bytes_down);
        batch.metrics().count("gpu_bytes_staged", report.bytes_staged);
        let all: Vec<_> = (0..held.len()).collect();
        let (column, pinned) = room.column(nulls_of(&all))?;
        self.host.result = pinned;
        Ok(column)
    }
}

/// Memory that batches and results lie in one after the other: pinned once, so that they need no copy on their way.
#[derive(Default)]
struct Host {
    /// That of the last batch, and whether it could be pinned.
    inputs: Option<(Bytes, Option<Pinning>)>,
    /// That of the last result.
    result: Option<Arc<PinnedBytes>>,
    /// There was none for a result, and is not asked for again.
    refused: bool,
}

/// Results from here to there lie in pinned memory: less is copied as fast, and more is not to be kept.
const PINNED: RangeInclusive<usize> = 64 << 10..=256 << 20;

impl Host {
    /// Pins what a batch lies in, if it is not the same as the last time.
    fn pin_inputs(&mut self, memory: Option<&Bytes>, device: &Device) {
        let Some(memory) = memory else {
            self.inputs = None;
            return;
        };
        let same = |(known, _): &(Bytes, _)| known.as_ptr_range() == memory.as_ptr_range();
        if !self.inputs.as_ref().is_some_and(same) {
            self.inputs = None;
            let pinned = device.pin(memory.clone());
            let pinned =
                pinned.inspect_err(|error| tracing::info!(%error, "batches are copied before they go to the GPU"));
            self.inputs = Some((memory.clone(), pinned.ok()));
        }
    }

    /// Memory for a result of so many bytes, if it is worth it and there is some.
    fn for_result(&mut self, bytes: usize, device: &Device) -> Option<PinnedBytes> {
        // Whoever holds on to the last result has its memory.
        let last = self.result.take().and_then(Arc::into_inner).filter(|last| last.len() >= bytes);
        last.or_else(|| {
            let room = bytes.next_power_of_two();
            if self.refused || !PINNED.contains(&room) {
                return None;
            }
            let pinned = device.pinned(room).inspect_err(|error| {
                tracing::info!(%error, "results are copied when they come from the GPU");
                self.refused = true;
            });
            pinned.ok()
        })
    }
}

fn union(all: Option<&NullBuffer>, more: &NullBuffer) -> Option<NullBuffer> {
    NullBuffer::union(all, Some(more))
}

enum Failed {
    Gpu(GpuError),
    Udf(UdfError),
}

impl From<GpuError> for Failed {
    fn from(error: GpuError) -> Self {
        Self::Gpu(error)
    }
}

impl From<UdfError> for Failed {
    fn from(error: UdfError) -> Self {
        Self::Udf(error)
    }
}

impl Replica for GpuReplica {
    fn run(&mut self, batch: &Batch) -> UdfResult<Column> {
        self.compute(batch).map_err(|failed| {
            end_if_lost(&self.device);
            match failed {
                Failed::Gpu(error) => error.into(),
                Failed::Udf(error) => error,
            }
        })
    }

    fn stop(self: Box<Self>, _: &Context) -> UdfResult<()> {
        Ok(())
    }
}

/// After a fault on the device nothing works any more in this process: it ends, and its batches run in another one.
fn end_if_lost(device: &Device) {
    if let Some(error) = device.lost() {
        end(&error);
    }
}

fn end(lost: &GpuError) -> ! {
    eprintln!("regatta: {lost}");
    crate::os::exit_now(LOST)
}
