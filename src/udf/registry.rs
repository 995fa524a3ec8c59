//! UDFs by name: every UDF of the program is known to the driver and to each worker, which are the same executable.

use std::collections::{BTreeMap, btree_map::Entry};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use futures_util::future::{FutureExt, LocalBoxFuture};
use polars::prelude::{Column, DataType, Field};
use regatta_remote::{catch, decode};
use serde::{Serialize, de::DeserializeOwned};

use super::aggregate::AnyAggregate;
use super::isolate::{Ended, GpuSeat};
use super::{Aggregate, AsyncUdf, Batch, Context, PoolOptions, Seat, Start, Udf, UdfError, UdfResult};

/// A UDF that [`#[regatta::udf]`](macro@crate::udf) has registered.
pub trait Registered: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name under which it travels: the type's path unless the attribute says otherwise.
    const NAME: &'static str;

    /// Whether its author promises that results depend on its arguments and inputs alone: `#[regatta::udf(deterministic)]`.
    const DETERMINISTIC: bool = false;

    #[doc(hidden)]
    fn erase(self) -> Erased;
}

/// A UDF with its type erased. Made by [`#[regatta::udf]`](macro@crate::udf); nobody else needs it.
pub struct Erased(Kind);

/// Which of the traits a UDF implements.
pub(super) enum Kind {
    Batches(Box<dyn AnyUdf>),
    Async(Box<dyn AnyAsyncUdf>),
    Aggregate(Arc<dyn AnyAggregate>),
    #[cfg(feature = "gpu")]
    Gpu(Box<dyn crate::gpu::AnyGpuUdf>),
}

impl Erased {
    /// A [`Udf`].
    pub fn udf(udf: impl Udf) -> Self {
        Self(Kind::Batches(Box::new(udf)))
    }

    /// An [`AsyncUdf`].
    pub fn async_udf(udf: impl AsyncUdf) -> Self {
        Self(Kind::Async(Box::new(udf)))
    }

    /// An [`Aggregate`].
    pub fn aggregate(udf: impl Aggregate) -> Self {
        Self(Kind::Aggregate(Arc::new(udf)))
    }

    /// A [`GpuUdf`](crate::gpu::GpuUdf).
    #[cfg(feature = "gpu")]
    pub fn gpu_udf(udf: impl crate::gpu::GpuUdf) -> Self {
        Self::gpu(Box::new(udf))
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn gpu(udf: Box<dyn crate::gpu::AnyGpuUdf>) -> Self {
        Self(Kind::Gpu(udf))
    }

    /// The UDF, if it is one on GPUs.
    #[cfg(feature = "gpu")]
    pub(crate) fn into_gpu(self) -> Option<Box<dyn crate::gpu::AnyGpuUdf>> {
        match self.0 {
            Kind::Gpu(udf) => Some(udf),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Erased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Kind::Batches(_) => "Udf",
            Kind::Async(_) => "AsyncUdf",
            Kind::Aggregate(_) => "Aggregate",
            #[cfg(feature = "gpu")]
            Kind::Gpu(_) => "GpuUdf",
        })
    }
}

/// A registration. Made by [`#[regatta::udf]`](macro@crate::udf); nobody else needs it.
#[derive(Debug)]
pub struct UdfEntry {
    name: &'static str,
    deterministic: bool,
    open: fn(&[u8]) -> UdfResult<Erased>,
}

impl UdfEntry {
    /// The entry of one UDF type.
    pub const fn of<U: Registered>() -> Self {
        let (name, deterministic) = (U::NAME, U::DETERMINISTIC);
        Self { name, deterministic, open: |arguments| Ok(decode::<U>(arguments)?.erase()) }
    }
}

inventory::collect!(UdfEntry);

/// A [`Udf`] with its type erased.
pub(crate) trait AnyUdf: Send + Sync {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// The dtypes that it takes, where they are known.
    fn takes(&self) -> Vec<DataType> {
        Vec::new()
    }

    /// The replica borrows nothing: it keeps the UDF's arguments.
    fn start(self: Box<Self>, cx: &mut Start) -> UdfResult<Box<dyn Replica>>;
}

/// A started [`Udf`]: arguments and state.
pub(crate) trait Replica {
    fn run(&mut self, batch: &Batch) -> UdfResult<Column>;

    fn stop(self: Box<Self>, cx: &Context) -> UdfResult<()>;
}

struct Started<U, S> {
    // Dropped before the arguments, which it may have been built from.
    state: S,
    udf: U,
}

impl<U: Udf> AnyUdf for U {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Udf::output(self, inputs)
    }

    fn takes(&self) -> Vec<DataType> {
        Udf::takes(self)
    }

    fn start(self: Box<Self>, cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
        let state = Udf::start(&*self, cx)?;
        Ok(Box::new(Started { state, udf: *self }))
    }
}

impl<U: Udf> Replica for Started<U, U::State> {
    fn run(&mut self, batch: &Batch) -> UdfResult<Column> {
        self.udf.run(&mut self.state, batch)
    }

    fn stop(self: Box<Self>, cx: &Context) -> UdfResult<()> {
        self.udf.stop(self.state, cx)
    }
}

/// An [`AsyncUdf`] with its type erased.
pub(super) trait AnyAsyncUdf: Send + Sync {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    fn takes(&self) -> Vec<DataType>;

    fn start<'a>(self: Box<Self>, cx: &'a mut Start) -> LocalBoxFuture<'a, UdfResult<Rc<dyn AsyncReplica>>>;
}

/// A started [`AsyncUdf`].
pub(super) trait AsyncReplica {
    /// Whether its process is gone, if it is one.
    fn has_ended(&self) -> bool {
        false
    }

    fn run(self: Rc<Self>, batch: Batch) -> LocalBoxFuture<'static, Result<Column, Ended>>;

    /// Does nothing while a call holds on to the replica.
    fn stop<'a>(self: Rc<Self>, cx: &'a Context) -> LocalBoxFuture<'a, UdfResult<()>>;
}

impl<U: AsyncUdf> AnyAsyncUdf for U {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        AsyncUdf::output(self, inputs)
    }

    fn takes(&self) -> Vec<DataType> {
        AsyncUdf::takes(self)
    }

    fn start<'a>(self: Box<Self>, cx: &'a mut Start) -> LocalBoxFuture<'a, UdfResult<Rc<dyn AsyncReplica>>> {
        let start = async move {
            let state = AsyncUdf::start(&*self, cx).await?;
            Ok(Rc::new(Started { state, udf: *self }) as Rc<dyn AsyncReplica>)
        };
        start.boxed_local()
    }
}

impl<U: AsyncUdf> AsyncReplica for Started<U, U::State> {
    fn run(self: Rc<Self>, batch: Batch) -> LocalBoxFuture<'static, Result<Column, Ended>> {
        let run = async move {
            // Rows take their places themselves.
            let _place = match U::BY_ROW {
                true => None,
                false => Some(batch.slots().acquire().await.map_err(UdfError::from)?),
            };
            Ok(self.udf.run(&self.state, &batch).await?)
        };
        run.boxed_local()
    }

    fn stop<'a>(self: Rc<Self>, cx: &'a Context) -> LocalBoxFuture<'a, UdfResult<()>> {
        let stop = async move {
            match Rc::try_unwrap(self) {
                Ok(Self { state, udf }) => udf.stop(state, cx).await,
                Err(_) => Ok(()),
            }
        };
        stop.boxed_local()
    }
}

/// Starts a replica; a panic in the author's code is an error with its text.
pub(super) fn start_fenced(name: &str, arguments: &[u8], cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
    match cx.decoding(|| open(name, arguments))?.0 {
        Kind::Batches(udf) => catch(|| udf.start(cx)).unwrap_or_else(|panic| Err(panicked_in("start ", panic))),
        #[cfg(feature = "gpu")]
        Kind::Gpu(udf) => {
            catch(|| crate::gpu::start_twin(&*udf, cx)).unwrap_or_else(|panic| Err(panicked_in("start ", panic)))
        }
        Kind::Async(_) | Kind::Aggregate(_) => Err(UdfError::new("it is no UDF over batches")),
    }
}

/// As [`start_fenced`], of a UDF on the GPU that this process was given.
pub(super) fn start_on_gpu(name: &str, arguments: &[u8], gpu: &GpuSeat, cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
    let _ = (gpu, &cx);
    match cx.decoding(|| open(name, arguments))?.0 {
        #[cfg(feature = "gpu")]
        Kind::Gpu(udf) => {
            catch(|| crate::gpu::start_on_gpu(udf, gpu, cx)).unwrap_or_else(|panic| Err(panicked_in("start ", panic)))
        }
        _ => Err(UdfError::new("it is no UDF on GPUs")),
    }
}

/// Runs one batch; a result of the wrong length is an error. A replica that panicked is dropped: what the panic left of it
/// is not trusted.
pub(super) fn run_fenced(replica: &mut Option<Box<dyn Replica>>, batch: &Batch) -> UdfResult<Column> {
    let started = replica.as_mut().ok_or_else(|| UdfError::new("the replica broke in an earlier batch"))?;
    let column = catch(|| started.run(batch)).unwrap_or_else(|panic| {
        *replica = None;
        Err(panicked_in("", panic))
    })?;
    as_high_as(column, batch.height())
}

pub(super) fn panicked_in(place: &str, panic: impl std::fmt::Display) -> UdfError {
    UdfError::new(format!("{place}panicked: {panic}"))
}

/// The column, if it has a row for each row.
pub(super) fn as_high_as(column: Column, want: usize) -> UdfResult<Column> {
    if column.len() != want {
        let got = column.len();
        return Err(UdfError::new(format!(
            "it returned {got} rows for a batch of {want}; a UDF returns one row per row"
        )));
    }
    Ok(column)
}

/// The column, if it is of the dtype that was promised. Nothing but nulls is every dtype, in lists and fields too.
pub(crate) fn conform(column: Column, dtype: &DataType) -> UdfResult<Column> {
    match column.dtype() {
        got if got == dtype => Ok(column),
        got if is_but_for_nulls(got, dtype) => Ok(column.cast(dtype)?),
        got => {
            // The short form of a struct leaves its fields out.
            let (want, got) = match (dtype.to_string(), got.to_string()) {
                (want, short) if want == short => (format!("{dtype:?}"), format!("{got:?}")),
                short => short,
            };
            let advice = "make what output() or `dtype` says and what it returns agree";
            let text = format!("it promised {want} and returned {got}: {advice}");
            Err(UdfError::new(text))
        }
    }
}

/// Whether the one is the other where it is not all null.
fn is_but_for_nulls(got: &DataType, want: &DataType) -> bool {
    match (got, want) {
        (DataType::Null, _) => true,
        (DataType::List(got), DataType::List(want)) => is_but_for_nulls(got, want),
        (DataType::Array(got, width), DataType::Array(want, wide)) => width == wide && is_but_for_nulls(got, want),
        (DataType::Struct(got), DataType::Struct(want)) => {
            let same = |(got, want): (&Field, &Field)| {
                got.name() == want.name() && is_but_for_nulls(got.dtype(), want.dtype())
            };
            got.len() == want.len() && got.iter().zip(want).all(same)
        }
        (got, want) => got == want,
    }
}

type Table = BTreeMap<&'static str, Result<fn(&[u8]) -> UdfResult<Erased>, UdfError>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| table(inventory::iter::<UdfEntry>));

fn table(entries: impl IntoIterator<Item = &'static UdfEntry>) -> Table {
    let mut table = Table::new();
    for entry in entries {
        match table.entry(entry.name) {
            Entry::Vacant(slot) => {
                slot.insert(Ok(entry.open));
            }
            Entry::Occupied(mut slot) => {
                let twice = Err(UdfError::new(format!(
                    "two UDFs of this program are registered as {:?}: give one another name, #[regatta::udf(name = \"...\")]",
                    entry.name
                )));
                drop(slot.insert(twice));
            }
        }
    }
    table
}

impl Erased {
    pub(super) fn kind(self) -> Kind {
        self.0
    }

    pub(super) fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match &self.0 {
            Kind::Batches(udf) => udf.output(inputs),
            Kind::Async(udf) => udf.output(inputs),
            Kind::Aggregate(udf) => udf.output(inputs),
            #[cfg(feature = "gpu")]
            Kind::Gpu(udf) => udf.output(inputs),
        }
    }

    /// The dtypes that it takes, where they are known.
    pub(super) fn takes(&self) -> Vec<DataType> {
        match &self.0 {
            Kind::Batches(udf) => udf.takes(),
            Kind::Async(udf) => udf.takes(),
            _ => Vec::new(),
        }
    }

    /// What is wrong with these options for this UDF, and those that hold for it.
    pub(super) fn planned(&self, options: PoolOptions) -> UdfResult<PoolOptions> {
        match &self.0 {
            #[cfg(feature = "gpu")]
            Kind::Gpu(udf) => {
                crate::gpu::check(&**udf, &options).map_err(UdfError::new)?;
                let none = options.run_on == super::RunOn::CpuOnly;
                Ok(if none { PoolOptions { gpus: 0.0, gpu_memory: 0, ..options } } else { options })
            }
            _ => Ok(options),
        }
    }

    /// The GPU for a replica, if it is to have one.
    pub(super) fn gpu_for(&self, options: &PoolOptions, seat: &Seat) -> UdfResult<Option<GpuSeat>> {
        let _ = (options, seat);
        match &self.0 {
            #[cfg(feature = "gpu")]
            Kind::Gpu(udf) => crate::gpu::seat_for(options, seat, udf.twin().is_some()),
            _ => Ok(None),
        }
    }

    pub(super) fn is_async(&self) -> bool {
        matches!(self.0, Kind::Async(_))
    }

    /// Whether its replicas are processes with GPUs, where there are GPUs.
    pub(super) fn is_for_gpus(&self) -> bool {
        #[cfg(feature = "gpu")]
        return matches!(self.0, Kind::Gpu(_));
        #[cfg(not(feature = "gpu"))]
        return false;
    }

    /// What is wrong with a call that a task is to make, as Polars evaluates it.
    pub(super) fn check_in_place(&self, options: &PoolOptions) -> UdfResult<()> {
        let _ = options;
        match &self.0 {
            #[cfg(feature = "gpu")]
            Kind::Gpu(_) => crate::gpu::check_in_place(options).map_err(UdfError::new),
            _ => Ok(()),
        }
    }
}

/// The UDF of that name, with its arguments decoded.
pub(crate) fn open(name: &str, arguments: &[u8]) -> UdfResult<Erased> {
    open_in(&TABLE, name, arguments)
}

fn open_in(table: &Table, name: &str, arguments: &[u8]) -> UdfResult<Erased> {
    let open = table.get(name).ok_or_else(|| {
        UdfError::new(format!(
            "no UDF {name:?} is registered in this program; put #[regatta::udf] on its impl, and link the crate that holds it"
        ))
    })?;
    open.clone()?(arguments)
}

/// Whether the author of this UDF promises that its results depend on its arguments and inputs alone.
pub(super) fn is_deterministic(name: &str) -> bool {
    let mut entries = inventory::iter::<UdfEntry>.into_iter().filter(|entry| entry.name == name);
    entries.next().is_some_and(|entry| entry.deterministic)
}

/// The names of all registered UDFs, sorted. Two programs can share a cluster only if these agree.
pub(crate) fn registered() -> Vec<&'static str> {
    TABLE.keys().copied().collect()
}

#[cfg(test)]
mod tests {
    use polars::prelude::*;

    use super::*;

    static ONE: UdfEntry = UdfEntry { name: "keel", deterministic: false, open: |_| Err(UdfError::new("opened")) };
    static TWO: UdfEntry =
        UdfEntry { name: "keel", deterministic: false, open: |_| Err(UdfError::new("opened another")) };

    #[test]
    fn nulls_and_empty_lists_are_of_the_promised_dtype_at_any_depth() {
        let field = |name: &str, dtype| Field::new(name.into(), dtype);
        let list = |dtype| DataType::List(Box::new(dtype));
        let array = |dtype| DataType::Array(Box::new(dtype), 2);
        let words = || DataType::from_categories(Categories::random("".into(), CategoricalPhysical::U32));
        let nothing = |dtype: DataType| Column::full_null("".into(), 3, &dtype);
        let pair = |a, b| DataType::Struct(vec![field("a", a), field("b", b)]);
        for (got, want) in [
            (DataType::Null, DataType::Decimal(10, 2)),
            (list(DataType::Null), list(words())),
            (list(list(DataType::Null)), list(list(DataType::Int64))),
            (array(DataType::Null), array(DataType::Date)),
            (pair(DataType::Int64, DataType::Null), pair(DataType::Int64, list(DataType::String))),
            (list(pair(DataType::Null, DataType::Null)), list(pair(DataType::Boolean, DataType::Binary))),
        ] {
            for column in [nothing(got.clone()), nothing(got.clone()).clear()] {
                let conformed = conform(column.clone(), &want).unwrap_or_else(|e| panic!("{got} as {want}: {e}"));
                assert_eq!((conformed.dtype(), conformed.len()), (&want, column.len()));
            }
        }
        let lists = Series::new("".into(), [Series::new_empty("".into(), &DataType::Null)]);
        let empty = conform(lists.into_column(), &list(DataType::Int64)).unwrap();
        assert_eq!((empty.dtype(), empty.null_count()), (&list(DataType::Int64), 0));
        for (got, want) in [
            (list(DataType::Int32), list(DataType::Int64)),
            (pair(DataType::Null, DataType::Null), DataType::Struct(vec![field("a", DataType::Int64)])),
            (DataType::Int64, DataType::String),
        ] {
            assert!(conform(nothing(got.clone()), &want).is_err(), "{got} is not {want}");
        }
    }

    #[test]
    fn a_name_that_is_missing_or_there_twice_is_an_error_that_names_it() {
        let text = |table: &Table, name| open_in(table, name, &[]).unwrap_err().to_string();
        assert_eq!(text(&table([&ONE]), "keel"), "opened");
        let missing = text(&table([&ONE]), "mast");
        assert!(missing.contains("no UDF \"mast\"") && missing.contains("#[regatta::udf]"), "{missing}");
        let twice = text(&table([&ONE, &TWO]), "keel");
        assert!(twice.contains("two UDFs") && twice.contains("\"keel\"") && twice.contains("name = "), "{twice}");
    }
}
