//! A query that runs: its result as a frame or as batches, its status, and its end.

mod publish;
mod results;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc as blocking;

use futures_util::future::ready;
use futures_util::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use polars::prelude::*;
use regatta_observe::{Explain, Profile};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::actors::RunEvent;
use crate::error::{ClusterError, Error, PolarsFailure};
use crate::plan::{FileSink, Marker, beside_columns};
use crate::sched::{QueryId, QueryStatus};
use crate::session::{Persisted, Session};
use crate::store::Form;

pub(crate) use publish::Publication;
pub use publish::SinkMode;
use results::{Source, ending, partitions};

/// A query that was submitted. Dropping it ends the query and frees what it holds, on all workers.
///
/// Of a query that ends in a sink, taking the result publishes the files, all or none, and yields their names and sizes.
pub struct Run {
    session: Session,
    query: QueryId,
    schema: SchemaRef,
    explain: Explain,
    events: Option<mpsc::Receiver<RunEvent>>,
    publication: Option<Publication>,
    /// Say where it stands.
    watches: Vec<AbortHandle>,
}

impl Run {
    pub(crate) fn new(session: Session, query: QueryId, schema: SchemaRef, explain: Explain) -> Self {
        Self { session, query, schema, explain, events: None, publication: None, watches: Vec::new() }
    }

    /// Where the events come once the query is submitted.
    pub(crate) fn hear(&mut self, events: mpsc::Receiver<RunEvent>, watches: Vec<AbortHandle>) {
        (self.events, self.watches) = (Some(events), watches);
    }

    /// The query writes files: taking its result publishes them.
    pub(crate) fn will_publish(&mut self, publication: Publication) {
        self.publication = Some(publication);
    }

    /// The whole result. Blocks until it is there; may be called from any thread, an async one too.
    ///
    /// # Errors
    /// Why the query failed; [`Error::Taken`] if the result has been taken already.
    pub fn collect(&mut self) -> Result<DataFrame, Error> {
        let (events, publication) = (self.events.take(), self.publication.take());
        let (from, schema) = (self.source(), Arc::clone(&self.schema));
        self.session.host().wait(collect(events, from, schema, publication))?
    }

    /// The result's partitions, in order, as tasks finish. Blocks for each. After an error there is none.
    pub fn batches(&mut self) -> Batches {
        let (sender, batches) = blocking::sync_channel::<Told>(1);
        let (from, publication) = (self.source(), self.publication.take());
        match self.events.take() {
            Some(events) => {
                self.session.host().runtime.handle().spawn(async move {
                    let mut partitions = std::pin::pin!(results(events, from, publication));
                    loop {
                        let told = partitions.next().await.transpose();
                        let over = !matches!(told, Ok(Some(_)));
                        let is_read = match sender.try_send(told) {
                            Ok(()) => true,
                            Err(blocking::TrySendError::Disconnected(_)) => false,
                            Err(blocking::TrySendError::Full(told)) => {
                                // The reader may be slow: it must not hold a network thread meanwhile.
                                let sender = sender.clone();
                                let sent = tokio::task::spawn_blocking(move || sender.send(told)).await;
                                matches!(sent, Ok(Ok(())))
                            }
                        };
                        if over || !is_read {
                            return;
                        }
                    }
                });
            }
            None => drop(sender.send(Err(Error::Taken))),
        }
        Batches { partitions: Some(batches) }
    }

    /// [`batches`](Self::batches) for async code, on any executor. Dropping it ends the query.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future of a next batch is dropped.
    pub fn stream(mut self) -> impl Stream<Item = Result<DataFrame, Error>> + Send + Unpin + use<> {
        let (sender, frames) = mpsc::channel(1);
        let (events, from, publication) = (self.events.take(), self.source(), self.publication.take());
        self.session.host().runtime.handle().spawn(async move {
            let mut frames = match events {
                Some(events) => results(events, from, publication),
                None => stream::once(ready(Err(Error::Taken))).boxed(),
            };
            loop {
                let told = frames.next().await.transpose();
                let over = !matches!(told, Ok(Some(_)));
                if sender.send(told).await.is_err() || over {
                    return;
                }
            }
        });
        stream::unfold(Some((frames, self)), |reading| async {
            let (mut frames, run) = reading?;
            let frame = frames.recv().await.unwrap_or_else(|| Err(ClusterError::Closed.into())).transpose()?;
            let goes_on = frame.is_ok().then_some((frames, run));
            Some((frame, goes_on))
        })
        .boxed()
    }

    /// Waits until the whole result is there, and leaves it where it is: so many partitions.
    pub(crate) fn left(&mut self) -> Result<usize, Error> {
        let mut events = self.events.take().ok_or(ClusterError::Closed)?;
        let made = self.session.host().wait(async move {
            loop {
                match events.recv().await {
                    Some(RunEvent::Partition { .. }) => (),
                    Some(RunEvent::Done(partitions)) => return Ok(partitions),
                    Some(RunEvent::Failed(error)) => return Err(error),
                    None => return Err(ClusterError::Closed.into()),
                }
            }
        });
        let from = self.source();
        self.session.host().wait(async move { from.is_over().await })?;
        made?
    }

    fn source(&self) -> Source {
        let (host, scheduler) = (Arc::clone(self.session.host()), self.session.scheduler());
        let shows = Arc::clone(self.session.shows());
        Source { host, scheduler, query: self.query, form: Form::new(&self.schema), shows }
    }

    pub(crate) fn query(&self) -> QueryId {
        self.query
    }

    /// Where the query stands, or stood when it ended; `None` when the session has [forgotten](Self::profile) it.
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

    /// How the query is run: stages, tasks, and why. `{}` says it in words.
    pub fn explain(&self) -> &Explain {
        &self.explain
    }

    /// What the query does so far, or did: also after its end, and after its result was taken. `{}` shows it as a tree that ends
    /// with what is wrong and what to change, `{:#}` with everything;
    /// [docs/book/src/observe.md](https://github.com/regatta/regatta/blob/main/docs/book/src/observe.md) says what each figure means.
    ///
    /// ```
    /// use regatta::{polars::prelude::*, prelude::*};
    ///
    /// let mut run = Session::native()?.submit(df!["x" => [1, 2, 3]].unwrap().lazy().filter(col("x").gt(1)))?;
    /// run.collect()?;
    /// let profile = run.profile()?;
    /// assert_eq!(profile.query.rows, 2);
    /// println!("{profile}");
    /// # Ok::<(), regatta::Error>(())
    /// ```
    ///
    /// # Errors
    /// The session is gone, or has forgotten it: it keeps the last 64 queries that have ended, as far as
    /// `REGATTA_OBSERVE_MEMORY` goes.
    pub fn profile(&self) -> Result<Profile, Error> {
        self.session.profile(self.query)
    }

    /// Columns of the result.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("query", &self.query).field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.watches.iter().for_each(AbortHandle::abort);
        self.session.shows().gone(self.query);
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
        let (from, schema) = (self.source(), Arc::clone(&self.schema));
        runtime.spawn(async move { sender.send(collect(events, from, schema, publication).await) });
        Box::pin(async move {
            let result = result.await;
            drop(self);
            result.map_err(|_| ClusterError::Closed)?
        })
    }
}

async fn collect(
    events: Option<mpsc::Receiver<RunEvent>>,
    from: Source,
    schema: SchemaRef,
    publication: Option<Publication>,
) -> Result<DataFrame, Error> {
    let mut frames = results(events.ok_or(Error::Taken)?, from, publication);
    let mut result = None;
    while let Some(frame) = frames.try_next().await? {
        append(&mut result, frame)?;
    }
    Ok(result.unwrap_or_else(|| DataFrame::empty_with_schema(&schema)))
}

/// The result of a query, partition by partition: see [`Run::batches`].
#[derive(Debug)]
pub struct Batches {
    /// `None` once it is over.
    partitions: Option<blocking::Receiver<Told>>,
}

/// The next partition, or that there is none. Without either the result is cut off: its session has gone.
type Told = Result<Option<DataFrame>, Error>;

impl Iterator for Batches {
    type Item = Result<DataFrame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let told = self.partitions.as_ref()?.recv().unwrap_or_else(|_| Err(ClusterError::Closed.into()));
        let batch = told.transpose();
        if !matches!(batch, Some(Ok(_))) {
            self.partitions = None;
        }
        batch
    }
}

/// What a query can ask of a session beside what Polars knows. Plain Polars runs these queries too; the answer is the same.
pub trait LazyFrameExt: Sized {
    /// Submits the query and waits for its whole result. As nothing of that is given out before all is here, a query that has lost
    /// rows which cannot be made again as they were ([`Error::MadeOtherwise`]) is submitted again, up to four times.
    ///
    /// # Errors
    /// As [`Session::submit`] and [`Run::collect`].
    fn collect_on(self, session: &Session) -> Result<DataFrame, Error>;

    /// Runs a query that ends in a sink into a folder, and yields what it has written. `mode` says what is done about what is
    /// there; [`collect_on`](Self::collect_on) takes it for an error.
    ///
    /// # Errors
    /// As [`Session::submit_sink`] and [`Run::collect`].
    fn sink_on(self, session: &Session, mode: SinkMode) -> Result<DataFrame, Error>;

    /// How the query would be run on this session, as data; `{}` says it in words.
    ///
    /// # Errors
    /// The query cannot be planned.
    fn explain_on(self, session: &Session) -> Result<Explain, Error>;

    /// Runs the query, drops its result where it is, and yields what it did, with rows and time of each node of Polars' engine
    /// (`{:#}` shows them). Publishes no files.
    ///
    /// # Errors
    /// As [`collect_on`](Self::collect_on) and [`Run::profile`].
    fn explain_analyze_on(self, session: &Session) -> Result<Profile, Error>;

    /// Runs the query and leaves its result on the workers, as a source for further queries of this session: see
    /// [`Persisted`]. Blocks until it is there.
    ///
    /// # Errors
    /// As [`collect_on`](Self::collect_on).
    fn persist_on(self, session: &Session) -> Result<Persisted, Error>;

    /// Prints the first rows, as Polars prints a frame. Runs no more of the query than they need.
    ///
    /// # Errors
    /// As [`collect_on`](Self::collect_on).
    fn show_on(self, session: &Session, rows: u32) -> Result<(), Error>;

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

    /// Moves the rows into `partitions` partitions, so that all rows for which `by` yields the same are in one of them; what
    /// follows runs as so many tasks. Each of `by` yields one column. Nulls are equal, as are NaNs. The rows' order is lost. Without
    /// `by` it is [`into_partitions`](Self::into_partitions). Without effect in a [native](Session::native) session, which has one
    /// partition.
    fn repartition(self, partitions: usize, by: impl AsRef<[Expr]>) -> LazyFrame;

    /// Puts the rows into a random order, which is the same for the same rows and seed, wherever the query runs. A sort by
    /// random numbers: it runs whole on one worker. With `limit`, a random sample.
    ///
    /// ```
    /// use regatta::{polars::prelude::*, prelude::*};
    ///
    /// let cards = df!["card" => (1..=52).collect::<Vec<_>>()].unwrap().lazy();
    /// let hand = cards.shuffle(7).limit(5).collect_on(&Session::native()?)?;
    /// assert_eq!(hand.height(), 5);
    /// # Ok::<(), regatta::Error>(())
    /// ```
    #[must_use]
    fn shuffle(self, seed: u64) -> Self;

    /// Deals the rows into `partitions` of equal row counts, in order, by splitting and merging; what follows runs as so
    /// many tasks. Moves only rows that change partitions' hands. Without effect in a [native](Session::native) session,
    /// which has one partition.
    fn into_partitions(self, partitions: usize) -> LazyFrame;

    /// Hands the rows on, to UDFs and to what else follows, in batches of at most `rows` rows, and of at least 0.8 of them but
    /// for the last of each partition. Order is kept, and so are partitions.
    fn into_batches(self, rows: usize) -> LazyFrame;
}

/// How often a query is run of which nobody has seen anything when it turns out that it has to begin anew.
const RUNS: u32 = 5;

/// The result of a query, all of it from one run.
fn whole(submit: impl Fn() -> Result<Run, Error>) -> Result<DataFrame, Error> {
    let mut runs = 1;
    loop {
        match submit()?.collect() {
            Err(Error::MadeOtherwise(why)) if runs < RUNS => tracing::info!(%why, "the query runs again"),
            result => return result,
        }
        runs += 1;
    }
}

impl LazyFrameExt for LazyFrame {
    fn collect_on(self, session: &Session) -> Result<DataFrame, Error> {
        whole(|| session.submit(self.clone()))
    }

    fn sink_on(self, session: &Session, mode: SinkMode) -> Result<DataFrame, Error> {
        whole(|| session.submit_sink(self.clone(), mode))
    }

    fn explain_on(self, session: &Session) -> Result<Explain, Error> {
        session.explained(self)
    }

    fn explain_analyze_on(self, session: &Session) -> Result<Profile, Error> {
        let mut run = session.submit_to_analyze(self)?;
        run.left()?;
        run.profile()
    }

    fn persist_on(self, session: &Session) -> Result<Persisted, Error> {
        Persisted::new(session.submit_to_persist(self)?)
    }

    fn show_on(self, session: &Session, rows: u32) -> Result<(), Error> {
        println!("{}", self.limit(rows).collect_on(session)?);
        Ok(())
    }

    fn generate(self, name: &str, lists: Expr) -> Self {
        let no_row_for_none = ExplodeOptions { empty_as_null: false, keep_nulls: false };
        self.with_column(lists.alias(name)).explode(by_name([name], true, false), no_row_for_none)
    }

    fn repartition(self, partitions: usize, by: impl AsRef<[Expr]>) -> LazyFrame {
        match by.as_ref() {
            [] => self.into_partitions(partitions),
            by => Marker::repartition(self, partitions.max(1), by),
        }
    }

    fn shuffle(self, seed: u64) -> Self {
        beside_columns(self, move |query, names| {
            let row = names.fresh("row");
            let numbered = query.with_row_index(row.clone(), None);
            let shuffled = numbered.sort_by_exprs([random(col(row.clone()), seed)], Default::default());
            shuffled.drop(by_name([row], true, false))
        })
    }

    fn into_partitions(self, partitions: usize) -> LazyFrame {
        Marker::IntoPartitions(partitions.max(1)).on(self)
    }

    fn into_batches(self, rows: usize) -> LazyFrame {
        Marker::IntoBatches(rows.max(1)).on(self)
    }
}

/// A number for each row number, no two alike: SplitMix64, whose steps can all be undone.
fn random(row: Expr, seed: u64) -> Expr {
    let mix = |x: Expr, shift: u32, by: u64| x.clone().xor(x.floor_div(lit(1u64 << shift))) * lit(by);
    let x = row.cast(DataType::UInt64) * lit(0x9e37_79b9_7f4a_7c15u64) + lit(seed);
    let x = mix(mix(x, 30, 0xbf58_476d_1ce4_e5b9), 27, 0x94d0_49bb_1331_11eb);
    mix(x, 31, 1)
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
    from: Source,
    publication: Option<Publication>,
) -> BoxStream<'static, Result<DataFrame, Error>> {
    let Some(publication) = publication else { return ending(partitions(events, from.clone()), from).boxed() };
    let end = from.clone();
    let partitions = partitions(events, Source { form: Form::new(&FileSink::listing()), ..from });
    let published = async move {
        let listings = partitions.try_collect().await;
        // Also what removes files blocks.
        let published =
            tokio::task::spawn_blocking(move || listings.and_then(|listings| publication.publish(listings)));
        published.await.map_err(|_| ClusterError::Closed)?
    };
    ending(stream::once(published), end).boxed()
}
