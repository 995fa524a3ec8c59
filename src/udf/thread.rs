//! A replica on a thread of its own: the author's code blocks nobody else, and a call that hangs can be left behind.

mod calls;
mod ending;
mod life;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use polars::prelude::{Column, DataFrame};
use regatta_remote::spawn_thread;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

pub(super) use calls::fenced;
pub(crate) use ending::stop_replicas;
pub(super) use life::log_stop;

use super::context::Seat;
use super::registry::{Kind, open};
use super::{Call, Metrics, PoolOptions, Report, UdfError, UdfResult};
use crate::actor::Directory;
use crate::error::ClusterError;
use crate::os;
use crate::sched::{QueryId, StepId};
use crate::whose;

/// How often a replica that panicked or died is started again for one query.
const RESTARTS: usize = 4;
/// Calls that may be at a replica, from all tasks of all queries that use it. Each of them has a credit of its own task stream.
pub(crate) const CALLS: usize = 4096;
/// What a replica that ends overdue calls itself is given to do so, beyond their time.
const GRACE: Duration = Duration::from_secs(2);

/// What a replica is.
#[derive(Clone)]
pub(crate) struct ReplicaSpec {
    pub(crate) udf: String,
    pub(crate) arguments: Vec<u8>,
    pub(crate) options: PoolOptions,
    pub(crate) seat: Seat,
    /// How it finds actors.
    pub(crate) directory: Directory,
}

/// What a replica says of itself, from its thread.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    Progress(&'a str),
    /// How `start` ended, once.
    Started(UdfResult<()>),
    /// It has ended in order: what is left to report, to the step that it served last.
    Stopped(Option<StepId>, Metrics),
}

type Tell = Box<dyn FnMut(Said<'_>) + Send>;

/// What a UDF has made of a batch.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) column: Column,
    pub(crate) report: Report,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The UDF failed.
    Failed(UdfError),
    /// The batch took its replica's process with it, or was there when that died.
    Died(String),
}

impl From<UdfError> for Fault {
    fn from(error: UdfError) -> Self {
        Self::Failed(error)
    }
}

/// Calls to a replica. The thread ends, and drops the state, after the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaThread {
    // As many as the places in its actor's mailbox; an in-place call waits for its result.
    jobs: mpsc::Sender<Job>,
    ends_calls: bool,
}

/// The asker's side of a call: the call is wanted while this lives.
#[derive(Debug)]
pub(crate) struct Wanted {
    _asker: oneshot::Sender<()>,
}

struct Job {
    inputs: DataFrame,
    call: Call,
    /// Closed when nobody wants the call any more.
    asker: oneshot::Receiver<()>,
    began: Box<dyn FnOnce() + Send>,
    done: Box<dyn FnOnce(Result<Reply, Fault>) + Send>,
}

impl Job {
    fn is_wanted(&mut self) -> bool {
        is_wanted(&mut self.asker)
    }
}

/// How often a replica has ended for the query that it ended for last, and why. Each query has its own restarts: a replica
/// outlives the one that it broke for.
#[derive(Debug, Default)]
struct Ends {
    query: Option<QueryId>,
    count: usize,
    last: String,
}

impl Ends {
    fn note(&mut self, call: Option<StepId>, why: String) {
        let query = call.map(|step| step.query);
        self.count = if self.query == query { self.count + 1 } else { 1 };
        (self.query, self.last) = (query, why);
    }

    /// Why the replica is not started again for this call.
    fn spent(&self, call: Option<StepId>) -> Option<UdfError> {
        let spent = self.count > RESTARTS && self.query == call.map(|step| step.query);
        spent.then(|| {
            let (count, last) = (self.count, &self.last);
            UdfError::new(format!(
                "the replica ended {count} times and is not started again for this query; the last time: {last}"
            ))
        })
    }
}

fn is_wanted(asker: &mut oneshot::Receiver<()>) -> bool {
    !matches!(asker.try_recv(), Err(oneshot::error::TryRecvError::Closed))
}

impl ReplicaThread {
    /// Starts the thread, and the replica on it.
    ///
    /// # Errors
    /// There is no such UDF, or no thread.
    pub(crate) fn start(spec: ReplicaSpec, mut tell: impl FnMut(Said<'_>) + Send + 'static) -> UdfResult<Self> {
        let (jobs, inbox) = mpsc::channel(CALLS);
        let udf = open(&spec.udf, &spec.arguments)?;
        let ends_calls = spec.options.isolated || udf.is_async() || udf.is_for_gpus();
        spawn_thread(format!("udf {}", spec.udf), move || {
            let folder = match Folder::new(&spec.seat.scratch) {
                Ok(folder) => folder,
                Err(error) => {
                    let error = ClusterError::scratch("a folder of the replica", &spec.seat.scratch, error);
                    return tell(Said::Started(Err(error.into())));
                }
            };
            let seat = Arc::new(Seat { scratch: folder.path.clone(), ..spec.seat.clone() });
            match udf.kind() {
                Kind::Async(_) => calls::live(spec, seat, inbox, Box::new(tell)),
                Kind::Batches(_) => life::live(spec, seat, inbox, Box::new(tell)),
                #[cfg(feature = "gpu")]
                Kind::Gpu(_) => life::live(spec, seat, inbox, Box::new(tell)),
                Kind::Aggregate(_) => tell(Said::Started(Err(UdfError::new("an aggregation has no replicas")))),
            }
        })?;
        Ok(Self { jobs, ends_calls })
    }

    /// Puts a call behind those that wait. `began` and `done` are called on the replica's thread, or dropped if it has ended.
    pub(crate) fn run(
        &self,
        inputs: DataFrame,
        call: Call,
        began: impl FnOnce() + Send + 'static,
        done: impl FnOnce(Result<Reply, Fault>) + Send + 'static,
    ) -> Wanted {
        let (wanted, asker) = oneshot::channel();
        let job = Job { inputs, call, asker, began: Box::new(began), done: Box::new(done) };
        match self.jobs.try_send(job) {
            // The thread ends early only where `start` failed, and its caller has heard that.
            Ok(()) | Err(TrySendError::Closed(_)) => (),
            Err(TrySendError::Full(job)) => {
                (job.done)(Err(UdfError::new(format!("{CALLS} calls wait at the replica already")).into()));
            }
        }
        Wanted { _asker: wanted }
    }

    /// How long after it began a call counts as hung. A replica that ends overdue calls itself is given time to do so.
    pub(crate) fn patience(&self, call: &Call) -> Option<Duration> {
        let grace = if self.ends_calls { GRACE } else { Duration::ZERO };
        call.timeout.map(|limit| limit.saturating_add(grace))
    }
}

impl ReplicaSpec {
    /// The span of what it does for a step, or for a task's call.
    fn span(&self, of: Option<StepId>, by: Option<(u32, u32)>) -> tracing::Span {
        whose::replica(&self.udf, self.seat.rank, of, by)
    }
}

/// A replica's own folder.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(scratch: &Path) -> io::Result<Self> {
        let path = scratch.join(format!("replica-{:016x}", os::random()));
        os::private_folder(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed goes with its cluster's folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}
