//! The folder of a cluster on this machine: held by a lock while any of its processes lives, swept by the next start.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::os::{self, private_folder};
use crate::sched::{QueryId, WorkerId};
use crate::store::Staging;

const LOCK: &str = "lock";
/// Names the staging folders of sinks, which are elsewhere and go with this one.
const SINKS: &str = "sinks";

/// A process's hold on its cluster's folder.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    owner: bool,
    _lock: File,
}

impl Scratch {
    /// Sweeps what dead clusters left under `base`, then makes a folder of our own.
    ///
    /// # Errors
    /// `base` cannot be written to.
    pub(crate) fn create(base: &Path) -> io::Result<Self> {
        let all = base.join(format!("regatta-{}", os::user_id()));
        private_folder(&all)?;
        sweep(&all);
        let folder = all.join(format!("{:016x}", os::random()));
        private_folder(&folder)?;
        // Locked before it has its name, so that no sweep sees a folder whose lock is free.
        let unnamed = folder.join("lock.new");
        let lock = File::create_new(&unnamed)?;
        lock.lock_shared()?;
        fs::rename(&unnamed, folder.join(LOCK))?;
        Ok(Self { folder, owner: true, _lock: lock })
    }

    /// Holds a folder that another process of the cluster has made.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn join(folder: &Path) -> io::Result<Self> {
        let lock = File::open(folder.join(LOCK))?;
        lock.lock_shared()?;
        Ok(Self { folder: folder.to_owned(), owner: false, _lock: lock })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder in it for one process's partitions.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn store(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.join(name);
        private_folder(&folder)?;
        Ok(folder)
    }

    /// Notes the staging folder of a query's sink, and says where: while that file is there, the staging folder goes with
    /// this one, though a task that was late has made it again. Forgets those that are gone.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn note(&self, query: QueryId, staging: &Staging) -> io::Result<PathBuf> {
        let note = self.store(SINKS)?.join(format!("{:016x}", query.0));
        let gone = noted(&self.folder).filter(|(_, staging)| !staging.folder().exists());
        gone.for_each(|(note, _)| drop(fs::remove_file(note)));
        fs::write(&note, staging.to_note())?;
        Ok(note)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.owner {
            remove(&self.folder);
        }
    }
}

/// What the folder of a worker's partitions is called.
pub(super) fn folder_of(worker: WorkerId) -> String {
    format!("worker-{}", worker.0)
}

/// Removes a cluster's folder and what it names. What is left, the next start sweeps: the folder stays while a sink could not be
/// brought back to what it was.
fn remove(folder: &Path) {
    let mut left = false;
    for (note, staging) in noted(folder) {
        match staging.remove() {
            Err(error) if staging.may_be_half_done() => {
                let staging = staging.folder().display();
                tracing::warn!(%staging, %error, "a sink's files cannot be put back now; the next start tries again");
                left = true;
            }
            Ok(()) | Err(_) => drop(fs::remove_file(note)),
        }
    }
    if !left {
        drop(fs::remove_dir_all(folder));
    }
}

/// The notes in a cluster's folder, and the staging folders that they name.
fn noted(folder: &Path) -> impl Iterator<Item = (PathBuf, Staging)> {
    let notes = fs::read_dir(folder.join(SINKS)).into_iter().flatten().flatten().map(|entry| entry.path());
    notes.filter_map(|note| Some((note.clone(), Staging::from_note(&fs::read(note).ok()?)?)))
}

/// Removes the folders that no process holds. One that another sweep removes at the same time is no error.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                tracing::info!(folder = %entry.path().display(), "sweeping the folder of a dead cluster");
                remove(&entry.path());
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lives_while_one_process_holds_it_and_is_swept_after() {
        let base = tempfile::tempdir().unwrap();
        let owner = Scratch::create(base.path()).unwrap();
        let folder = owner.folder().to_owned();
        let worker = Scratch::join(&folder).unwrap();
        // A driver that is killed runs no destructor: its lock goes, its folder stays.
        let Scratch { _lock, .. } = &owner;
        _lock.unlock().unwrap();
        std::mem::forget(owner);
        drop(Scratch::create(base.path()).unwrap());
        assert!(folder.exists(), "a worker still holds it");
        drop(worker);
        drop(Scratch::create(base.path()).unwrap());
        assert!(!folder.exists(), "nobody holds it: swept");
    }

    #[test]
    fn staging_folders_that_it_notes_go_with_it() {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(base.path()).unwrap();
        let staging = Staging::make(base.path().join("staging")).unwrap();
        let first = scratch.note(QueryId(6), &Staging::make(base.path().join("first")).unwrap()).unwrap();
        fs::remove_dir_all(base.path().join("first")).unwrap();
        scratch.note(QueryId(7), &staging).unwrap();
        assert!(!first.exists(), "that one is gone: there is nothing to remember");
        drop(scratch);
        assert!(!base.path().join("staging").exists());
    }

    #[test]
    fn a_session_that_ends_removes_its_folder() {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(base.path()).unwrap();
        let folder = scratch.folder().to_owned();
        fs::write(scratch.store("worker").unwrap().join("0.arrow"), "x").unwrap();
        drop(scratch);
        assert!(!folder.exists());
    }
}
