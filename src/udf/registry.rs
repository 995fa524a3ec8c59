//! UDFs by name: every UDF of the program is known to the driver and to each worker, which are the same executable.

use std::collections::{BTreeMap, btree_map::Entry};
use std::sync::LazyLock;

use polars::prelude::{Column, DataType, Field};
use regatta_remote::{catch, decode};

use super::{Batch, Start, Udf, UdfError, UdfResult};

/// A UDF that [`#[regatta::udf]`](macro@crate::udf) has registered.
pub trait Registered: Udf {
    /// The name under which it travels: the type's path unless the attribute says otherwise.
    const NAME: &'static str;
}

/// A registration. Made by [`#[regatta::udf]`](macro@crate::udf); nobody else needs it.
#[derive(Debug)]
pub struct UdfEntry {
    name: &'static str,
    open: fn(&[u8]) -> UdfResult<Box<dyn AnyUdf>>,
}

impl UdfEntry {
    /// The entry of one UDF type.
    pub const fn of<U: Registered>() -> Self {
        Self { name: U::NAME, open: |arguments| Ok(Box::new(decode::<U>(arguments)?)) }
    }
}

inventory::collect!(UdfEntry);

/// A UDF with its type erased.
pub trait AnyUdf: Send + Sync {
    /// See [`Udf::output`].
    ///
    /// # Errors
    /// As there.
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// See [`Udf::start`]. The replica borrows nothing: it keeps the UDF's arguments.
    ///
    /// # Errors
    /// As there.
    fn start(self: Box<Self>, cx: &mut Start) -> UdfResult<Box<dyn Replica>>;
}

/// A started UDF: arguments and state.
pub trait Replica {
    /// See [`Udf::run`].
    ///
    /// # Errors
    /// As there; also a result of another length or dtype than promised is caught by the caller.
    fn run(&mut self, batch: &Batch) -> UdfResult<Column>;
}

struct Started<U: Udf> {
    // Dropped before the arguments, which it may have been built from.
    state: U::State,
    udf: U,
}

impl<U: Udf> AnyUdf for U {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        Udf::output(self, inputs)
    }

    fn start(self: Box<Self>, cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
        let state = Udf::start(&*self, cx)?;
        Ok(Box::new(Started { state, udf: *self }))
    }
}

impl<U: Udf> Replica for Started<U> {
    fn run(&mut self, batch: &Batch) -> UdfResult<Column> {
        self.udf.run(&mut self.state, batch)
    }
}

/// Starts a replica; a panic in the author's code is an error with its text.
pub(crate) fn start_fenced(name: &str, arguments: &[u8], cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
    let udf = cx.decoding(|| open(name, arguments))?;
    catch(|| udf.start(cx)).unwrap_or_else(|panic| Err(UdfError::new(format!("start panicked: {panic}"))))
}

/// Runs one batch; a result of the wrong length is an error. A replica that panicked is dropped: what the panic left of it
/// is not trusted.
pub(crate) fn run_fenced(replica: &mut Option<Box<dyn Replica>>, batch: &Batch) -> UdfResult<Column> {
    let started = replica.as_mut().ok_or_else(|| UdfError::new("the replica broke in an earlier batch"))?;
    let column = catch(|| started.run(batch)).unwrap_or_else(|panic| {
        *replica = None;
        Err(UdfError::new(format!("panicked: {panic}")))
    })?;
    if column.len() != batch.height() {
        let (got, want) = (column.len(), batch.height());
        return Err(UdfError::new(format!(
            "it returned {got} rows for a batch of {want}; a UDF returns one row per row"
        )));
    }
    Ok(column)
}

/// The column, if it is of the dtype that was promised. Nothing but nulls is every dtype.
pub(crate) fn conform(column: Column, dtype: &DataType) -> UdfResult<Column> {
    match column.dtype() {
        got if got == dtype => Ok(column),
        DataType::Null => Ok(column.cast(dtype)?),
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

type Table = BTreeMap<&'static str, Result<fn(&[u8]) -> UdfResult<Box<dyn AnyUdf>>, UdfError>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::new();
    for entry in inventory::iter::<UdfEntry> {
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
});

/// The UDF of that name, with its arguments decoded.
pub(crate) fn open(name: &str, arguments: &[u8]) -> UdfResult<Box<dyn AnyUdf>> {
    let open = TABLE.get(name).ok_or_else(|| {
        UdfError::new(format!(
            "no UDF {name:?} is registered in this program; put #[regatta::udf] on its impl, and link the crate that holds it"
        ))
    })?;
    open.clone()?(arguments)
}

/// The names of all registered UDFs, sorted. Two programs can share a cluster only if these agree.
pub(crate) fn registered() -> Vec<&'static str> {
    TABLE.keys().copied().collect()
}
