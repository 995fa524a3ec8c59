//! A cluster whose workers can be hurt.

use std::path::PathBuf;

use crate::config::Config;
use crate::error::{ActorError, Error};
use crate::os;
use crate::sched::WorkerId;
use crate::session::Session;

/// Worker processes of this machine for a test, which may kill and pause them. All goes when it is dropped, with what the workers
/// kept on disk.
///
/// ```no_run
/// use regatta::testing::TestCluster;
/// use regatta::{WorkerId, polars::prelude::*, prelude::*};
///
/// let cluster = TestCluster::start(3)?;
/// let query = LazyFrame::scan_parquet("words/*.parquet".into(), Default::default())?;
/// let mut run = cluster.session().submit(query)?;
/// cluster.kill(WorkerId(1))?;                            // what it did runs again elsewhere
/// let paused = cluster.pause(WorkerId(0))?;              // it is silent, as if the network were cut
/// drop(paused);                                          // and goes on
/// println!("{}", run.collect()?);
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug)]
pub struct TestCluster {
    // Dropped before its folders.
    session: Session,
    _folders: Folders,
}

/// A worker that is stopped, until this is dropped.
#[derive(Debug)]
#[must_use = "it goes on when this is dropped"]
pub struct Paused {
    process: u32,
}

#[derive(Debug)]
struct Folders(Vec<PathBuf>);

impl TestCluster {
    /// Starts so many workers, with the settings of the environment. The test binary needs [`worker!`](crate::testing::worker).
    ///
    /// # Errors
    /// As [`Session::local`].
    pub fn start(workers: usize) -> Result<Self, Error> {
        Self::start_with(workers, Config::from_env()?)
    }

    /// [`start`](Self::start), with these settings; but its scratch folders are below theirs.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(workers: usize, config: Config) -> Result<Self, Error> {
        let name = format!("regatta-test-{:016x}", os::random());
        let folders = Folders(config.scratch.iter().map(|base| base.join(&name)).collect());
        for folder in &folders.0 {
            let made = os::private_folder(folder);
            made.map_err(|error| crate::error::ClusterError::scratch("a folder of the test", folder, error))?;
        }
        let session = Session::local_with(workers, Config { scratch: folders.0.clone(), ..config })?;
        Ok(Self { session, _folders: folders })
    }

    /// Where to run queries.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Kills a worker's process, as a machine that fails. Another one is started in its place.
    ///
    /// # Errors
    /// There is no such worker.
    pub fn kill(&self, worker: WorkerId) -> Result<(), Error> {
        self.processes().kill(worker)
    }

    /// Stops a worker's process where it is, until what is returned is dropped. After three seconds it gets no new work, after ten
    /// it is lost.
    ///
    /// # Errors
    /// There is no such worker.
    pub fn pause(&self, worker: WorkerId) -> Result<Paused, Error> {
        self.processes().pause(worker)
    }

    pub(super) fn processes(&self) -> Processes {
        Processes(self.session.clone())
    }
}

/// The processes of a session's workers.
pub(super) struct Processes(Session);

impl Processes {
    pub(super) fn there(&self) -> Vec<WorkerId> {
        self.0.status().map_or_else(|_| Vec::new(), |status| status.workers.iter().map(|there| there.worker).collect())
    }

    pub(super) fn kill(&self, worker: WorkerId) -> Result<(), Error> {
        Ok(os::signal(self.of(worker)?, libc::SIGKILL).map_err(|_| self.missing(worker))?)
    }

    pub(super) fn pause(&self, worker: WorkerId) -> Result<Paused, Error> {
        let process = self.of(worker)?;
        os::signal(process, libc::SIGSTOP).map_err(|_| self.missing(worker))?;
        Ok(Paused { process })
    }

    pub(super) fn of(&self, worker: WorkerId) -> Result<u32, ActorError> {
        self.0.process_of(worker).ok_or_else(|| self.missing(worker))
    }

    fn missing(&self, worker: WorkerId) -> ActorError {
        let there: Vec<_> = self.there().iter().map(ToString::to_string).collect();
        ActorError::NoSuchWorker { worker, there: there.join(", ") }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // One that has been killed meanwhile does not go on.
        let _ = os::signal(self.process, libc::SIGCONT);
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        // What cannot be removed is left where temporary things are.
        self.0.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
    }
}
