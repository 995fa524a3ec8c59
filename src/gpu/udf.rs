//! The trait that a UDF on a GPU implements.

use polars::prelude::{Column, DataType, Expr, Field};
use regatta_gpu::{Device, Input, Output};
use serde::{Serialize, de::DeserializeOwned};

use crate::udf::{AnyUdf, Batch, Context, Pool, Registered, Start, Udf, UdfError, UdfResult};

/// A stateful function over batches of columns that launches kernels on a GPU.
///
/// As with a [`Udf`], the value holds the arguments, which travel, and the state is built once per replica. Replicas run in a
/// process that sees only the GPUs that they were given; a device fault ends that process, and its batches run again in a
/// new one.
///
/// A replica is given a whole GPU unless [`Pool::gpus`] says a share. What it allocates is bounded by
/// [`Pool::gpu_memory`], else by its share.
///
/// # Inputs and result
///
/// | dtype | on the device |
/// |---|---|
/// | numbers, dates, times | an array |
/// | `Boolean` | bits |
/// | `String`, `Binary` | bytes of all rows, and offsets |
/// | `List` of numbers | elements of all rows, and offsets |
/// | `Array` of numbers | an array, row by row |
///
/// The result is a number or an `Array` of numbers. It is null where an input is null, unless
/// [`MAKES_NULLS`](Self::MAKES_NULLS); what stands in null rows is anything, and kernels must bear it.
///
/// ```no_run
/// use regatta::gpu::{Device, GpuUdf, Grid, Input, Kernel, KernelSource, Output, Twin, takes};
/// use regatta::{polars::prelude::*, prelude::*};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Scale { by: f32 }
///
/// const SOURCE: &str = r#"
/// extern "C" __global__ void scale(float by, const float* x, float* out, unsigned long long n) {
///     unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
///     if (i < n) out[i] = by * x[i];
/// }"#;
///
/// #[regatta::udf]
/// impl GpuUdf for Scale {
///     type State = Kernel;
///     fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
///         takes(inputs, &[DataType::Float32])?;
///         Ok(DataType::Float32)
///     }
///     fn start(&self, gpu: &Device, _: &mut Start) -> UdfResult<Kernel> {
///         Ok(gpu.kernels(&KernelSource::new("scale.cu", SOURCE))?.kernel("scale")?)
///     }
///     fn launch(&self, scale: &mut Kernel, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
///         let n = out.rows();
///         // SAFETY: these are the kernel's parameters, and both columns have `n` floats.
///         Ok(unsafe { gpu.launch(scale, Grid::over(n), &[self.by.into(), inputs[0].data().into(), out.data().into(), n.into()]) }?)
///     }
///     fn twin(&self) -> Option<Twin> {
///         let by = self.by;
///         Some(Twin::function(move |batch| Ok(batch.column(0)? * by)))
///     }
/// }
/// let expression = Scale { by: 2.0 }.pool().gpus(0.5).on([col("x")]);
/// ```
pub trait GpuUdf: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What one replica keeps on the device between batches: kernels, weights.
    type State: 'static;

    /// Row *i* of the result depends on row *i* of the inputs alone, so a batch may go through the device in pieces. If not,
    /// it goes as a whole, and fails where that does not fit.
    const ROW_WISE: bool = true;

    /// The kernels say which rows are null, in [`Output::validity`].
    const MAKES_NULLS: bool = false;

    /// The dtype of the result for these inputs. Called while a query is planned, and for each batch.
    ///
    /// Kernels read memory as what their parameters say: refuse all but that here, with [`takes`].
    ///
    /// # Errors
    /// Inputs that the function cannot take: the query is refused with this text.
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// Builds the state of one replica: compiles kernels, uploads weights. Libraries load what they launch when they first do:
    /// to have that here and not in the first batch, call [`launch`](Self::launch) for one row of your own, by
    /// [`Input::resident`] and [`Output::new`]. Report what takes long with [`Start::progress`].
    ///
    /// # Errors
    /// Fails the query at once, with this text.
    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<Self::State>;

    /// Launches what writes the result of a piece of a batch, which is never empty, and does not wait for it. May be called
    /// again for the same rows, or some of them: it has no other effects.
    ///
    /// # Errors
    /// Fails the batch. Not for want of memory: then Regatta tries again with less.
    fn launch(&self, state: &mut Self::State, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()>;

    /// The same function on CPUs, for [`RunOn::PreferGpu`](crate::udf::RunOn::PreferGpu) and
    /// [`RunOn::CpuOnly`](crate::udf::RunOn::CpuOnly).
    fn twin(&self) -> Option<Twin> {
        None
    }

    /// A pool of replicas with a GPU each; configure it, then call [`Pool::on`].
    fn pool(self) -> Pool<Self>
    where
        Self: Registered + Sized,
    {
        Pool::new(self).gpus(1.0)
    }

    /// The function applied to these columns, by one replica with a GPU: [`pool`](Self::pool), with nothing configured. The result
    /// is named after the first.
    fn on<E: AsRef<[Expr]>>(self, inputs: E) -> Expr
    where
        Self: Registered + Sized,
    {
        self.pool().on(inputs)
    }
}

/// Refuses inputs that are not of just these dtypes: for [`GpuUdf::output`].
///
/// # Errors
/// They are others: with their names and dtypes, and those that are wanted.
pub fn takes(inputs: &[Field], dtypes: &[DataType]) -> UdfResult<()> {
    if inputs.iter().map(Field::dtype).eq(dtypes) {
        return Ok(());
    }
    let wanted: Vec<_> = dtypes.iter().map(DataType::to_string).collect();
    let given: Vec<_> = inputs.iter().map(|field| format!("{:?} ({})", field.name(), field.dtype())).collect();
    Err(UdfError::new(format!(
        "it takes columns of {}, and is given {}: cast them before the UDF",
        wanted.join(", "),
        given.join(", ")
    )))
}

/// What a [`GpuUdf`] computes, on CPUs.
pub struct Twin(pub(crate) Box<dyn AnyUdf>);

impl Twin {
    /// A UDF with arguments and state of its own. It need not be registered.
    pub fn of(udf: impl Udf) -> Self {
        Self(Box::new(udf))
    }

    /// A function of a batch.
    pub fn function(run: impl Fn(&Batch) -> UdfResult<Column> + Send + Sync + 'static) -> Self {
        Self(Box::new(Function(run)))
    }
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Twin")
    }
}

struct Function<F>(F);

impl<F: Fn(&Batch) -> UdfResult<Column> + Send + Sync + 'static> AnyUdf for Function<F> {
    /// That of the GPU's form holds.
    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Null)
    }

    fn start(self: Box<Self>, _: &mut Start) -> UdfResult<Box<dyn crate::udf::Replica>> {
        Ok(self)
    }
}

impl<F: Fn(&Batch) -> UdfResult<Column> + Send + Sync + 'static> crate::udf::Replica for Function<F> {
    fn run(&mut self, batch: &Batch) -> UdfResult<Column> {
        (self.0)(batch)
    }

    fn stop(self: Box<Self>, _: &Context) -> UdfResult<()> {
        Ok(())
    }
}
