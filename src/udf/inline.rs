//! A replica on a thread of its own inside this process, for calls that Polars evaluates itself.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::registry::{run_fenced, start_fenced};
use super::{Batch, Start, UdfError, UdfResult};
use polars::prelude::*;

type Call = (Batch, SyncSender<UdfResult<Column>>);

/// Owns the thread: it ends, and drops the state, when this is dropped.
#[derive(Debug)]
pub(super) struct Inline {
    calls: SyncSender<Call>,
}

impl Inline {
    pub(super) fn start(name: &str, arguments: &[u8]) -> UdfResult<Self> {
        let (udf, arguments) = (name.to_owned(), arguments.to_vec());
        let (calls, inbox) = sync_channel::<Call>(0);
        let (started, ready) = sync_channel(1);
        thread::Builder::new().name(format!("udf {name}")).spawn(move || {
            let mut replica = match start_fenced(&udf, &arguments, &mut Start::new(0, |_| ())) {
                Ok(replica) => Some(replica),
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            serve(&inbox, |batch| run_fenced(&mut replica, batch));
        })?;
        // Ends when the thread does, at the latest: the sender lives there.
        ready.recv().unwrap_or_else(|_| Err(UdfError::new("the replica's thread ended in start")))?;
        Ok(Self { calls })
    }

    pub(super) fn run(&self, inputs: DataFrame, rows: Option<usize>) -> UdfResult<Column> {
        let height = inputs.height();
        let rows = rows.unwrap_or(height).max(1);
        let mut result: Option<Column> = None;
        for offset in (0..height.max(1)).step_by(rows) {
            let piece = self.call(Batch::new(inputs.slice(offset as i64, rows)))?;
            match &mut result {
                Some(column) => drop(column.append(&piece)?),
                None => result = Some(piece),
            }
        }
        result.ok_or_else(|| UdfError::new("no result"))
    }

    fn call(&self, batch: Batch) -> UdfResult<Column> {
        let gone = || UdfError::new("the replica's thread ended");
        let (reply, answer) = sync_channel(1);
        self.calls.send((batch, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

fn serve(inbox: &Receiver<Call>, mut run: impl FnMut(&Batch) -> UdfResult<Column>) {
    while let Ok((batch, reply)) = inbox.recv() {
        drop(reply.send(run(&batch)));
    }
}
