//! The traits that a UDF implements: one of them.

use std::future::Future;

use polars::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use super::{Batch, Context, Pool, Registered, Start, UdfResult};

/// A stateful, row-wise function over batches of columns.
///
/// The value itself holds the arguments: it travels to the workers, so it is serde. The state
/// (a model, a connection, a compiled kernel) is built once per replica by [`start`](Self::start)
/// and lives on that replica's own thread: it need not be [`Send`].
///
/// Row-wise means: row *i* of the result depends on row *i* of the inputs and on the state, not on
/// how rows are grouped into batches.
///
/// Each batch runs at least once: [`Pool::max_retries`] runs a failed batch again, on the same or on another replica, and a
/// lost connection may hide that a batch has run. [`Batch::attempt`] says which attempt it is. A replica whose `run` panicked
/// is started anew for its next batch, at most four times.
///
/// ```
/// use regatta::{polars::prelude::*, prelude::*};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Scale { by: f64 }
///
/// #[regatta::udf]
/// impl Udf for Scale {
///     type State = ();
///     fn output(&self, _: &[Field]) -> UdfResult<DataType> { Ok(DataType::Float64) }
///     fn start(&self, _: &mut Start) -> UdfResult<()> { Ok(()) }
///     fn run(&self, _: &mut (), batch: &Batch) -> UdfResult<Column> {
///         Ok((batch.column(0)? * self.by))
///     }
/// }
/// let expression = Scale { by: 2.0 }.pool().batch(1024).on([col("x")]).alias("twice");
/// ```
pub trait Udf: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What one replica keeps between batches. Built, used and dropped on one thread.
    type State: 'static;

    /// The dtype of the result for these inputs. Called while a query is planned.
    ///
    /// # Errors
    /// Inputs that the function cannot take: the query is refused with this text.
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// The dtypes that it takes, where they are known: literals become these.
    #[doc(hidden)]
    fn takes(&self) -> Vec<DataType> {
        Vec::new()
    }

    /// Builds the state of one replica. May take long: see
    /// [`Config::actor_udf_ready_timeout`](crate::Config::actor_udf_ready_timeout), and report with [`Start::progress`].
    ///
    /// # Errors
    /// Fails the query at once, with this text.
    fn start(&self, cx: &mut Start) -> UdfResult<Self::State>;

    /// Computes one column, as long as the batch is high.
    ///
    /// # Errors
    /// Fails the query, naming UDF, replica and worker.
    fn run(&self, state: &mut Self::State, batch: &Batch) -> UdfResult<Column>;

    /// Ends a replica that is not needed any more, a while after its query or with its session: flush, close, report. Not called for
    /// one that panicked, was lost, or is in a call when its worker ends; there it may take a second.
    ///
    /// # Errors
    /// Are logged: the batches are done.
    fn stop(&self, state: Self::State, cx: &Context) -> UdfResult<()> {
        drop((state, cx));
        Ok(())
    }

    /// A pool of replicas of this function; configure it, then call [`Pool::on`].
    fn pool(self) -> Pool<Self>
    where
        Self: Registered + Sized,
    {
        Pool::new(self)
    }

    /// The function applied to these columns, by one replica: [`pool`](Self::pool), with nothing configured. The result is named
    /// after the first.
    fn on<E: AsRef<[Expr]>>(self, inputs: E) -> Expr
    where
        Self: Registered + Sized,
    {
        self.pool().on(inputs)
    }
}

/// A stateful, row-wise function over batches that waits more than it computes: a client of some server.
///
/// As [`Udf`], but a replica has many calls in flight, on one thread with a Tokio runtime of its own:
/// [`Pool::in_flight`] bounds them. The state is shared by them; neither it nor the futures need be [`Send`]. Never block in
/// it: all calls of the replica would wait.
///
/// The end of the query drops the futures that run, and so does the time-out of a call, whose replica goes on.
///
/// ```
/// use regatta::{polars::prelude::*, prelude::*};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Lookup { server: String }
///
/// #[regatta::udf]
/// impl AsyncUdf for Lookup {
///     type State = String;                               // a client
///     fn output(&self, _: &[Field]) -> UdfResult<DataType> { Ok(DataType::String) }
///     async fn start(&self, _: &mut Start) -> UdfResult<String> { Ok(format!("connected to {}", self.server)) }
///     async fn run(&self, client: &String, batch: &Batch) -> UdfResult<Column> {
///         Ok(Column::new_scalar("".into(), Scalar::from(PlSmallStr::from(client.as_str())), batch.height()))
///     }
/// }
/// let expression = Lookup { server: "a".into() }.pool().in_flight(8).batch(16).on([col("key")]).alias("found");
/// ```
pub trait AsyncUdf: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the calls of one replica share.
    type State: 'static;

    /// Rows take places in flight, not batches.
    #[doc(hidden)]
    const BY_ROW: bool = false;

    /// See [`Udf::output`].
    ///
    /// # Errors
    /// As there.
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType>;

    /// The dtypes that it takes, where they are known: literals become these.
    #[doc(hidden)]
    fn takes(&self) -> Vec<DataType> {
        Vec::new()
    }

    /// See [`Udf::start`].
    ///
    /// # Errors
    /// As there.
    fn start(&self, cx: &mut Start) -> impl Future<Output = UdfResult<Self::State>>;

    /// See [`Udf::run`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// The future is dropped at any await when its query ends or its time is over; the same batch may run again.
    fn run(&self, state: &Self::State, batch: &Batch) -> impl Future<Output = UdfResult<Column>>;

    /// See [`Udf::stop`].
    ///
    /// # Errors
    /// As there.
    fn stop(&self, state: Self::State, cx: &Context) -> impl Future<Output = UdfResult<()>> {
        drop((state, cx));
        std::future::ready(Ok(()))
    }

    /// A pool of replicas of this function; configure it, then call [`Pool::on`].
    fn pool(self) -> Pool<Self>
    where
        Self: Registered + Sized,
    {
        Pool::new(self)
    }

    /// The function applied to these columns, by one replica: [`pool`](Self::pool), with nothing configured. The result is named
    /// after the first.
    fn on<E: AsRef<[Expr]>>(self, inputs: E) -> Expr
    where
        Self: Registered + Sized,
    {
        self.pool().on(inputs)
    }
}
