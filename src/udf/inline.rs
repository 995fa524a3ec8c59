//! A replica inside this process, for calls that Polars evaluates itself.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;

use polars::prelude::*;

use super::registry::conform;
use super::retry::Retry;
use super::thread::ReplicaThread;
use super::{Batch, PoolOptions, UdfError, UdfResult};

/// Runs batches and their retries; blocks its caller meanwhile.
#[derive(Debug)]
pub(super) struct Inline {
    /// `None` once a call has hung.
    replica: Option<ReplicaThread>,
}

impl Inline {
    pub(super) fn start(name: &str, arguments: &[u8]) -> UdfResult<Self> {
        let (started, ready) = sync_channel(1);
        let replica = ReplicaThread::start(name, arguments, 0, None, |_| (), move |result| drop(started.send(result)))?;
        // Ends when the thread does, at the latest: the sender lives there.
        ready.recv().unwrap_or_else(|_| Err(UdfError::new("the replica's thread ended in start")))?;
        Ok(Self { replica: Some(replica) })
    }

    pub(super) fn run(
        &mut self,
        udf: &str,
        inputs: &DataFrame,
        options: &PoolOptions,
        dtype: &DataType,
    ) -> UdfResult<Column> {
        let height = inputs.height();
        let rows = options.batch.unwrap_or(height).max(1);
        // A batch without rows never reaches a UDF.
        let mut result = Column::new_empty("".into(), dtype);
        for offset in (0..height).step_by(rows) {
            result.append_owned(self.retried(udf, &inputs.slice(offset as i64, rows), options, dtype)?)?;
        }
        Ok(result)
    }

    fn retried(&mut self, udf: &str, inputs: &DataFrame, options: &PoolOptions, dtype: &DataType) -> UdfResult<Column> {
        let mut retry = Retry::new(options);
        loop {
            let batch = Batch::new(inputs.clone(), retry.call());
            let error = match self.call(batch).and_then(|column| conform(column, dtype)) {
                Ok(column) => return Ok(column),
                Err(error) => error,
            };
            match retry.failed(&error) {
                Some(delay) => thread::sleep(delay),
                None => return retry.settle(udf, error, inputs.height(), dtype),
            }
        }
    }

    fn call(&mut self, batch: Batch) -> UdfResult<Column> {
        let replica = self.replica.as_ref().ok_or_else(|| UdfError::new("no replica is left: a call hung in it"))?;
        let gone = || UdfError::new("the replica's thread ended");
        let timeout = batch.timeout();
        let (began, begins) = sync_channel(1);
        let (done, answer) = sync_channel(1);
        replica.run(batch, move || began.send(()).is_ok(), move |result| drop(done.send(result)));
        begins.recv().map_err(|_| gone())?;
        let Some(limit) = timeout else { return answer.recv().map_err(|_| gone())? };
        match answer.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                self.replica = None;
                Err(UdfError::timed_out(limit))
            }
        }
    }
}
