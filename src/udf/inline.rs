//! A replica inside this process, for calls that Polars evaluates itself.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;

use polars::prelude::*;

use super::context::Seat;
use super::registry::conform;
use super::retry::{Deaths, Retry};
use super::thread::{Fault, ReplicaSpec, ReplicaThread, Reply, Said};
use super::{Call, Metrics, PoolOptions, UdfError, UdfResult};

/// Runs batches and their retries; blocks its caller meanwhile.
#[derive(Debug)]
pub(super) struct Inline {
    /// `None` once a call has hung.
    replica: Option<ReplicaThread>,
}

impl Inline {
    pub(super) fn start(udf: &str, arguments: &[u8], options: &PoolOptions, seat: Seat) -> UdfResult<Self> {
        let (udf, arguments, options) = (udf.to_owned(), arguments.to_vec(), options.clone());
        let (started, ready) = sync_channel(1);
        let spec = ReplicaSpec { udf, arguments, options, seat, directory: None };
        let replica = ReplicaThread::start(spec, move |said| {
            if let Said::Started(result) = said {
                let _ = started.send(result);
            }
        })?;
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
    ) -> UdfResult<(Column, Metrics)> {
        let height = inputs.height();
        let rows = options.batch.map_or(height, |(_, most)| most).max(1);
        // A batch without rows never reaches a UDF.
        let (mut result, mut metrics) = (Column::new_empty("".into(), dtype), Metrics::default());
        for offset in (0..height).step_by(rows) {
            let reply = self.retried(udf, &inputs.slice(offset as i64, rows), options, dtype)?;
            result.append_owned(reply.column)?;
            metrics.merge(&reply.metrics);
        }
        Ok((result, metrics))
    }

    fn retried(&mut self, udf: &str, inputs: &DataFrame, options: &PoolOptions, dtype: &DataType) -> UdfResult<Reply> {
        let (mut retry, mut deaths) = (Retry::new(options, None), Deaths::default());
        loop {
            let error = match self.call(inputs, deaths.before(retry.call())) {
                Ok(Reply { column, metrics }) => match conform(column, dtype) {
                    Ok(column) => return Ok(Reply { column, metrics }),
                    Err(error) => error,
                },
                Err(Fault::Failed(error)) => error,
                Err(Fault::Died(why)) => match deaths.another(&why, inputs) {
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

    fn call(&mut self, inputs: &DataFrame, call: Call) -> Result<Reply, Fault> {
        let replica = self.replica.as_ref().ok_or_else(|| UdfError::new("no replica is left: a call hung in it"))?;
        let gone = || Fault::Failed(UdfError::new("the replica's thread ended"));
        let patience = replica.patience(&call);
        let (began, begins) = sync_channel(1);
        let (done, answer) = sync_channel(1);
        let told_began = move || _ = began.send(());
        let _wanted = replica.run(inputs.clone(), call, told_began, move |result| drop(done.send(result)));
        begins.recv().map_err(|_| gone())?;
        let Some(limit) = patience else { return answer.recv().map_err(|_| gone())? };
        match answer.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                self.replica = None;
                Err(UdfError::timed_out(call.timeout.unwrap_or(limit), "its replica hangs in it and is not used again")
                    .into())
            }
        }
    }
}
