//! A replica inside this process, for calls that Polars evaluates itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use polars::prelude::*;
use polars_async::executor::block_in_place;
use rayon::Yield;

use super::context::Seat;
use super::retry::{Deaths, Retry};
use super::thread::{Fault, ReplicaSpec, ReplicaThread, Reply, Said};
use super::{Call, Metrics, PoolOptions, UdfError, UdfResult};

/// Runs batches and their retries, of any threads at once; each waits for its own.
#[derive(Debug)]
pub(super) struct Inline {
    replica: ReplicaThread,
    /// Why there is none: its start has failed.
    failed: Arc<OnceLock<UdfError>>,
    /// A call hangs in it.
    hung: AtomicBool,
}

impl Inline {
    /// Does not wait for the start: calls stand behind it.
    pub(super) fn start(udf: &str, arguments: &[u8], options: &PoolOptions, seat: Seat) -> UdfResult<Self> {
        let (udf, arguments, options) = (udf.to_owned(), arguments.to_vec(), options.clone());
        let failed = Arc::new(OnceLock::new());
        let tell = Arc::clone(&failed);
        let spec = ReplicaSpec { udf, arguments, options, seat, directory: None };
        let replica = ReplicaThread::start(spec, move |said| {
            if let Said::Started(Err(error)) = said {
                let _ = tell.set(error);
            }
        })?;
        Ok(Self { replica, failed, hung: AtomicBool::new(false) })
    }

    /// `called`: the UDF's name, and the task that calls and which attempt.
    pub(super) fn run(
        &self,
        called: (&str, Option<(u32, u32)>),
        inputs: &DataFrame,
        options: &PoolOptions,
        dtype: &DataType,
    ) -> UdfResult<(Column, Metrics)> {
        let height = inputs.height();
        let rows = options.batch.map_or(height, |(_, most)| most).max(1);
        // A batch without rows never reaches a UDF.
        let (mut result, mut metrics) = (Column::new_empty("".into(), dtype), Metrics::default());
        for offset in (0..height).step_by(rows) {
            let reply = self.retried(called, &inputs.slice(offset as i64, rows), options, dtype)?;
            result.append_owned(reply.column)?;
            metrics.merge(&reply.report.metrics);
        }
        Ok((result, metrics))
    }

    fn retried(
        &self,
        (udf, by): (&str, Option<(u32, u32)>),
        inputs: &DataFrame,
        options: &PoolOptions,
        dtype: &DataType,
    ) -> UdfResult<Reply> {
        let (mut retry, mut deaths) = (Retry::new(options, None, by), Deaths::default());
        loop {
            let rows = retry.rows(inputs)?;
            let answered = self.call(&rows, deaths.before(retry.call()));
            let error = match answered.and_then(|reply| Ok(retry.answered(reply, dtype)?)) {
                Ok(reply) => return Ok(reply),
                // Another try would not start it.
                Err(Fault::Failed(_)) if self.failed.get().is_some() => return Err(self.gone()),
                Err(Fault::Failed(error)) => error,
                Err(Fault::Died(why)) => match deaths.another(&why, &rows) {
                    Some(error) => return retry.settle(udf, error, inputs.height(), dtype),
                    None => continue,
                },
            };
            match retry.failed(&error) {
                Some(delay) => thread::sleep(delay),
                None => return retry.settle(udf, error, inputs.height(), dtype),
            }
        }
    }

    fn call(&self, inputs: &DataFrame, call: Call) -> Result<Reply, Fault> {
        let patience = self.replica.patience(&call);
        let (began, begins) = sync_channel(1);
        let (done, answer) = sync_channel(1);
        let told_began = move || _ = began.send(());
        let _wanted = self.replica.run(inputs.clone(), call, told_began, move |result| drop(done.send(result)));
        let gone = |_| Fault::Failed(self.gone());
        self.wait(&begins, None).map_err(gone)?;
        match self.wait(&answer, patience) {
            Ok(result) => result,
            Err(NoWord::Gone) => Err(gone(NoWord::Gone)),
            Err(NoWord::Late(limit)) => {
                self.hung.store(true, Ordering::Release);
                let hangs = "its replica hangs in it and is not used again";
                Err(UdfError::timed_out(call.timeout.unwrap_or(limit), hangs).into())
            }
        }
    }

    /// Waits for a word of the replica.
    ///
    /// A thread of Polars' keeps nobody from his work meanwhile, for the UDF may need Polars to go on: another thread takes
    /// over, or this one does some of what there is to do. So a call may wait inside another that waits: nothing is locked here.
    fn wait<T>(&self, word: &Receiver<T>, limit: Option<Duration>) -> Result<T, NoWord> {
        let until = limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        block_in_place(|| {
            loop {
                match word.try_recv() {
                    Ok(word) => return Ok(word),
                    Err(TryRecvError::Disconnected) => return Err(NoWord::Gone),
                    Err(TryRecvError::Empty) if self.hung.load(Ordering::Acquire) => return Err(NoWord::Gone),
                    Err(TryRecvError::Empty) => (),
                }
                let pause = match help() {
                    Some(Yield::Executed) => continue,
                    Some(Yield::Idle) => LOOK_FOR_WORK,
                    None => LOOK,
                };
                let left = until.map(|(limit, until)| (limit, until.saturating_duration_since(Instant::now())));
                if let Some((limit, Duration::ZERO)) = left {
                    return Err(NoWord::Late(limit));
                }
                match word.recv_timeout(left.map_or(pause, |(_, left)| left.min(pause))) {
                    Ok(word) => return Ok(word),
                    Err(RecvTimeoutError::Disconnected) => return Err(NoWord::Gone),
                    Err(RecvTimeoutError::Timeout) => (),
                }
            }
        })
    }

    /// Why there is no replica.
    fn gone(&self) -> UdfError {
        match self.failed.get() {
            Some(error) => error.clone(),
            None if self.hung.load(Ordering::Acquire) => UdfError::new("no replica is left: a call hung in it"),
            None => UdfError::new("the replica's thread ended"),
        }
    }
}

/// Why the replica says nothing.
enum NoWord {
    /// It has been given this long.
    Late(Duration),
    Gone,
}

/// How often a thread that waits looks whether there is something that it can do, if it is of a pool.
const LOOK_FOR_WORK: Duration = Duration::from_millis(1);
/// How often the others look whether a replica hangs.
const LOOK: Duration = Duration::from_millis(20);

/// Does a piece of what the pool of this thread has to do. `None`: it is in no pool.
fn help() -> Option<Yield> {
    // That may wait and help in turn, as deep as there are calls.
    stacker::maybe_grow(SPARE, MORE, rayon::yield_now)
}

/// Less stack than this is not begun with.
const SPARE: usize = 512 << 10;
const MORE: usize = 4 << 20;
