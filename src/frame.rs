//! A query that runs: its result as a frame or as batches, its status, and its end.

mod publish;

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc as blocking;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt, unfold};
use polars::prelude::*;
use tokio::sync::mpsc;

use crate::actors::{Host, Place, RunEvent};
use crate::error::{ClusterError, Error, PolarsFailure, TaskError, TaskFailure};
use crate::plan::Marker;
use crate::sched::{Output, QueryId, QueryStatus};
use crate::session::Session;
use crate::store::Ticket;

pub(crate) use publish::Publication;

/// A query that was submitted. Dropping it ends the query and frees what it holds, on all workers.
#[derive(Debug)]
pub struct Run {
    session: Session,
    query: QueryId,
    schema: SchemaRef,
    explain: String,
    events: Option<mpsc::Receiver<RunEvent>>,
    publication: Option<Publication>,
}

/// Partitions of the result that are brought here at once.
const FETCHES: usize = 4;

impl Run {
    pub(crate) fn new(
        session: Session,
        query: QueryId,
        schema: SchemaRef,
        explain: String,
        events: mpsc::Receiver<RunEvent>,
    ) -> Self {
        Self { session, query, schema, explain, events: Some(events), publication: None }
    }

    /// The query writes files: taking its result publishes them.
    pub(crate) fn will_publish(&mut self, publication: Publication) {
        self.publication = Some(publication);
    }

    /// The whole result. Blocks until it is there; may be called from any thread, an async one too.
    ///
    /// # Errors
    /// Why the query failed; [`ClusterError::Closed`] if the result has been taken already.
    pub fn collect(&mut self) -> Result<DataFrame, Error> {
        let mut result: Option<DataFrame> = None;
        for batch in self.batches() {
            append(&mut result, batch?)?;
        }
        Ok(result.unwrap_or_else(|| DataFrame::empty_with_schema(&self.schema)))
    }

    /// The result's partitions, in order, as tasks finish. Blocks for each. After an error there is none.
    pub fn batches(&mut self) -> Batches {
        let (sender, batches) = blocking::sync_channel(1);
        let host = Arc::clone(self.session.host());
        let publication = self.publication.take();
        match self.events.take() {
            Some(events) => {
                self.session.host().runtime.handle().spawn(async move {
                    let mut partitions = std::pin::pin!(results(events, host, publication));
                    while let Some(partition) = partitions.next().await {
                        let failed = partition.is_err();
                        // The reader may be slow: it must not hold a network thread meanwhile.
                        let sender = sender.clone();
                        let sent = tokio::task::spawn_blocking(move || sender.send(partition)).await;
                        if failed || !matches!(sent, Ok(Ok(()))) {
                            return;
                        }
                    }
                });
            }
            None => drop(sender.send(Err(ClusterError::Closed.into()))),
        }
        Batches { partitions: batches }
    }

    /// Where the query stands; `None` when it has ended.
    ///
    /// # Errors
    /// The session is gone.
    pub fn status(&self) -> Result<Option<QueryStatus>, Error> {
        let (session, query) = (self.session.clone(), self.query);
        self.session.host().wait(async move { session.query_status(query).await })?
    }

    /// Stops the query. What waits for its result gets [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.session.release(self.query);
    }

    /// How the query is run, in words: stages, tasks, and why.
    pub fn explain(&self) -> &str {
        &self.explain
    }

    /// Columns of the result.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.session.release(self.query);
    }
}

/// `.await` a run for the whole result, on any executor.
///
/// Cancel safety: dropping the future drops the [`Run`], which ends the query.
impl IntoFuture for Run {
    type Output = Result<DataFrame, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        let runtime = self.session.host().runtime.handle().clone();
        let (sender, result) = tokio::sync::oneshot::channel();
        let (events, publication) = (self.events.take(), self.publication.take());
        let (host, schema) = (Arc::clone(self.session.host()), Arc::clone(&self.schema));
        runtime.spawn(async move { sender.send(collect(events, host, schema, publication).await) });
        Box::pin(async move {
            let result = result.await;
            drop(self);
            result.map_err(|_| ClusterError::Closed)?
        })
    }
}

async fn collect(
    events: Option<mpsc::Receiver<RunEvent>>,
    host: Arc<Host>,
    schema: SchemaRef,
    publication: Option<Publication>,
) -> Result<DataFrame, Error> {
    let bytes: Vec<_> = results(events.ok_or(ClusterError::Closed)?, host, publication).try_collect().await?;
    let decoded = tokio::task::spawn_blocking(move || {
        let mut result = None;
        for partition in bytes {
            append(&mut result, decode(partition)?)?;
        }
        Ok(result.unwrap_or_else(|| DataFrame::empty_with_schema(&schema)))
    });
    decoded.await.map_err(|_| ClusterError::Closed)?
}

/// The result of a query, partition by partition: see [`Run::batches`].
#[derive(Debug)]
pub struct Batches {
    partitions: blocking::Receiver<Result<Bytes, Error>>,
}

impl Iterator for Batches {
    type Item = Result<DataFrame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.partitions.recv().ok()?.and_then(decode))
    }
}

/// What a query can ask of a session beside what Polars knows. Plain Polars runs these queries too; the answer is the same.
pub trait LazyFrameExt: Sized {
    /// Submits the query and waits for its whole result.
    ///
    /// # Errors
    /// As [`Session::submit`] and [`Run::collect`].
    fn collect_on(self, session: &Session) -> Result<DataFrame, Error>;

    /// Adds the column `name` with one row for each element of `lists`, and repeats the other columns: a row whose list is empty
    /// or null is gone. With a UDF that returns a `Vec`, a row makes 0 to n rows.
    ///
    /// ```
    /// use regatta::{polars::prelude::*, prelude::*};
    ///
    /// #[regatta::udf]
    /// fn words(text: &str) -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() }
    ///
    /// let lines = df!["line" => [1, 2, 3], "text" => ["a b", "", "c"]].unwrap().lazy();
    /// let words = lines.generate("word", words::on([col("text")])).collect_on(&Session::native()?)?;
    /// assert_eq!(words.column("line").unwrap().i32().unwrap().to_vec(), [Some(1), Some(1), Some(3)]);
    /// # Ok::<(), regatta::Error>(())
    /// ```
    #[must_use]
    fn generate(self, name: &str, lists: Expr) -> Self;

    /// Deals the rows into `partitions` of equal row counts, in order, by splitting and merging; what follows runs as so
    /// many tasks. Moves only rows that change partitions' hands. Without effect in a [native](Session::native) session,
    /// which has one partition.
    fn into_partitions(self, partitions: usize) -> LazyFrame;

    /// Hands the rows on, to UDFs and to what else follows, in batches of at most `rows` rows, and of at least 0.8 of them but
    /// for the last of each partition. Order is kept, and so are partitions.
    fn into_batches(self, rows: usize) -> LazyFrame;
}

impl LazyFrameExt for LazyFrame {
    fn collect_on(self, session: &Session) -> Result<DataFrame, Error> {
        session.submit(self)?.collect()
    }

    fn generate(self, name: &str, lists: Expr) -> Self {
        let no_row_for_none = ExplodeOptions { empty_as_null: false, keep_nulls: false };
        self.with_column(lists.alias(name)).explode(by_name([name], true, false), no_row_for_none)
    }

    fn into_partitions(self, partitions: usize) -> LazyFrame {
        Marker::IntoPartitions(partitions.max(1)).on(self)
    }

    fn into_batches(self, rows: usize) -> LazyFrame {
        Marker::IntoBatches(rows.max(1)).on(self)
    }
}

fn decode(partition: Bytes) -> Result<DataFrame, Error> {
    Ok(crate::store::decode_frame(partition).map_err(driver_failed)?)
}

fn append(result: &mut Option<DataFrame>, batch: DataFrame) -> Result<(), Error> {
    match result {
        Some(frame) => drop(frame.vstack_mut_owned(batch).map_err(driver_failed)?),
        None => *result = Some(batch),
    }
    Ok(())
}

fn driver_failed(error: PolarsError) -> ClusterError {
    ClusterError::network("read the result", PolarsFailure::from(error))
}

/// What a query yields: its partitions, or, once they are published, the files that it wrote.
fn results(
    events: mpsc::Receiver<RunEvent>,
    host: Arc<Host>,
    publication: Option<Publication>,
) -> BoxStream<'static, Result<Bytes, Error>> {
    let partitions = partitions(events, host);
    let Some(publication) = publication else { return partitions.boxed() };
    let published = async move {
        let listings = partitions.try_collect().await?;
        let published = tokio::task::spawn_blocking(move || publication.publish(listings));
        published.await.map_err(|_| ClusterError::Closed)?
    };
    stream::once(published).boxed()
}

/// The result's partitions in order, as IPC files, while tasks finish.
fn partitions(events: mpsc::Receiver<RunEvent>, host: Arc<Host>) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let fetches = in_order(events).map(move |next| {
        let host = Arc::clone(&host);
        async move {
            let (place, output) = next?;
            let bytes = host.read(&place, Ticket::Partition(output.id)).await;
            bytes.map_err(|cause| fetch_failed(&place, &output, cause))
        }
    });
    fetches.buffered(FETCHES)
}

fn in_order(events: mpsc::Receiver<RunEvent>) -> impl Stream<Item = Result<(Place, Output), Error>> + Send {
    let waiting: BTreeMap<usize, (Place, Output)> = BTreeMap::new();
    unfold((events, waiting, 0, false), |(mut events, mut waiting, next, ended)| async move {
        if ended {
            return None;
        }
        loop {
            if let Some(partition) = waiting.remove(&next) {
                return Some((Ok(partition), (events, waiting, next + 1, false)));
            }
            match events.recv().await {
                // One that was made again after its worker was lost replaces the first, unless that was taken already.
                Some(RunEvent::Partition { index, place, output }) if index >= next => {
                    waiting.insert(index, (place, output));
                }
                Some(RunEvent::Partition { .. }) => (),
                Some(RunEvent::Done) => return None,
                Some(RunEvent::Failed(error)) => return Some((Err(error), (events, waiting, next, true))),
                None => return Some((Err(ClusterError::Closed.into()), (events, waiting, next, true))),
            }
        }
    })
}

fn fetch_failed(place: &Place, output: &Output, cause: TaskFailure) -> Error {
    let (task, attempt) = (output.id.task, output.id.attempt.0);
    TaskError { task, attempt, worker: place.worker.to_string(), cause }.into()
}
