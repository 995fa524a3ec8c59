//! A replica on a thread of its own: the author's code blocks nobody else, and a call that hangs can be left behind.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use polars::prelude::Column;

use crate::actor::Directory;

use super::registry::{run_fenced, start_fenced};
use super::{Batch, Replica, Start, UdfError, UdfResult};

/// How often a replica that panicked is started again.
const RESTARTS: usize = 4;

/// Calls to a replica, run one after the other. The thread ends, and drops the state, after the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaThread {
    // Bounded by who calls: an actor by its mailbox's places, an in-place call by waiting for its result.
    calls: Sender<Call>,
}

struct Call {
    batch: Batch,
    /// Told when the call begins; false if nobody wants it any more.
    began: Box<dyn FnOnce() -> bool + Send>,
    done: Box<dyn FnOnce(UdfResult<Column>) + Send>,
}

impl ReplicaThread {
    /// Starts the thread, and the replica on it; `started` hears how that ended.
    pub(crate) fn start(
        name: &str,
        arguments: &[u8],
        rank: usize,
        directory: Directory,
        progress: impl FnMut(&str) + Send + 'static,
        started: impl FnOnce(UdfResult<()>) + Send + 'static,
    ) -> io::Result<Self> {
        let (calls, inbox) = channel();
        let (udf, arguments) = (name.to_owned(), arguments.to_vec());
        thread::Builder::new().name(format!("udf {name}")).spawn(move || {
            let replica = match start_fenced(&udf, &arguments, &mut Start::new(rank, directory.clone(), progress)) {
                Ok(replica) => Some(replica),
                Err(error) => return started(Err(error)),
            };
            started(Ok(()));
            Seat { udf, arguments, rank, directory, replica, restarts: 0, last_panic: String::new() }.serve(&inbox);
        })?;
        Ok(Self { calls })
    }

    /// Puts a call behind those that wait. Both are called on the replica's thread, or dropped if it has ended.
    pub(crate) fn run(
        &self,
        batch: Batch,
        began: impl FnOnce() -> bool + Send + 'static,
        done: impl FnOnce(UdfResult<Column>) + Send + 'static,
    ) {
        // The thread ends early only where `start` failed, and its caller has heard that.
        let _ = self.calls.send(Call { batch, began: Box::new(began), done: Box::new(done) });
    }
}

struct Seat {
    udf: String,
    arguments: Vec<u8>,
    rank: usize,
    directory: Directory,
    /// `None` after a panic: what the panic left is not trusted.
    replica: Option<Box<dyn Replica>>,
    restarts: usize,
    last_panic: String,
}

impl Seat {
    fn serve(&mut self, inbox: &Receiver<Call>) {
        while let Ok(Call { batch, began, done }) = inbox.recv() {
            if began() {
                done(self.run(&batch));
            }
        }
    }

    fn run(&mut self, batch: &Batch) -> UdfResult<Column> {
        if self.replica.is_none() {
            if self.restarts == RESTARTS {
                let (times, last) = (RESTARTS + 1, &self.last_panic);
                let text =
                    format!("the replica panicked {times} times and is not started again; the last time it {last}");
                return Err(UdfError::new(text));
            }
            self.restarts += 1;
            let mut cx = Start::new(self.rank, self.directory.clone(), |_| ());
            self.replica = Some(start_fenced(&self.udf, &self.arguments, &mut cx)?);
        }
        let result = run_fenced(&mut self.replica, batch);
        if let (None, Err(panic)) = (&self.replica, &result) {
            self.last_panic = panic.to_string();
        }
        result
    }
}
