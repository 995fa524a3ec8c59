//! The folders of a cluster on this machine: held by locks while any of its processes lives, swept by the next start.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::ClusterError;
use crate::os::{self, private_folder};
use crate::sched::{QueryId, WorkerId};
use crate::store::Staging;

const LOCK: &str = "lock";
/// Names the staging folders of sinks, which are elsewhere and go with this one.
const SINKS: &str = "sinks";

/// A process's hold on its cluster's folders: one on each disk that was named.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// At least one.
    folders: Vec<PathBuf>,
    owner: bool,
    locks: Vec<File>,
}

impl Scratch {
    /// Sweeps what dead clusters left under each of `bases`, then makes a folder of our own there.
    ///
    /// # Errors
    /// One of them cannot be written to.
    pub(crate) fn create(bases: &[PathBuf]) -> Result<Self, ClusterError> {
        let mut scratch = Self { folders: Vec::new(), owner: true, locks: Vec::new() };
        for base in bases {
            let made = scratch.create_in(base);
            made.map_err(|error| ClusterError::scratch("a scratch folder", base, error))?;
        }
        Ok(scratch)
    }

    fn create_in(&mut self, base: &Path) -> io::Result<()> {
        let all = base.join(format!("regatta-{}", os::user_id()));
        private_folder(&all)?;
        sweep(&all);
        let folder = all.join(format!("{:016x}", os::random()));
        private_folder(&folder)?;
        self.folders.push(folder.clone());
        // Locked before it has its name, so that no sweep sees a folder whose lock is free.
        let unnamed = folder.join("lock.new");
        let lock = File::create_new(&unnamed)?;
        lock.lock_shared()?;
        fs::rename(&unnamed, folder.join(LOCK))?;
        self.locks.push(lock);
        Ok(())
    }

    /// Holds folders that another process of the cluster has made.
    ///
    /// # Errors
    /// One of them is gone.
    pub(crate) fn join(folders: Vec<PathBuf>) -> Result<Self, ClusterError> {
        let lock = |folder: &PathBuf| {
            let lock = File::open(folder.join(LOCK)).and_then(|lock| lock.lock_shared().map(|()| lock));
            lock.map_err(|error| ClusterError::scratch("a hold on the cluster's folder", folder, error))
        };
        let locks = folders.iter().map(lock).collect::<Result<_, _>>()?;
        Ok(Self { folders, owner: false, locks })
    }

    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// That for all but partitions.
    pub(crate) fn folder(&self) -> &Path {
        self.folders.first().map_or_else(|| Path::new(""), PathBuf::as_path)
    }

    /// A folder in each for one process's partitions.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub(crate) fn store(&self, name: &str) -> Result<Vec<PathBuf>, ClusterError> {
        let made = self.folders.iter().map(|folder| {
            let folder = folder.join(name);
            match private_folder(&folder) {
                Ok(()) => Ok(folder),
                Err(error) => Err(ClusterError::scratch("a folder for partitions", &folder, error)),
            }
        });
        made.collect()
    }

    /// Notes the staging folder of a query's sink, and says where: while that file is there, the staging folder goes with
    /// this one, though a task that was late has made it again. Forgets those that are gone.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn note(&self, query: QueryId, staging: &Staging) -> io::Result<PathBuf> {
        let notes = self.folder().join(SINKS);
        private_folder(&notes)?;
        let note = notes.join(format!("{:016x}", query.0));
        let gone = noted(self.folder()).filter(|(_, staging)| !staging.folder().exists());
        gone.for_each(|(note, _)| drop(fs::remove_file(note)));
        fs::write(&note, staging.to_note())?;
        Ok(note)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.owner {
            self.folders.iter().for_each(|folder| remove(folder));
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

    fn two_disks(base: &Path) -> [PathBuf; 2] {
        let disks = ["one", "other"].map(|name| base.join(name));
        disks.iter().for_each(|disk| fs::create_dir(disk).unwrap());
        disks
    }

    #[test]
    fn a_folder_lives_while_one_process_holds_it_and_is_swept_after() {
        let base = tempfile::tempdir().unwrap();
        let bases = two_disks(base.path());
        let owner = Scratch::create(&bases).unwrap();
        let folders = owner.folders().to_vec();
        assert!(folders.iter().zip(&bases).all(|(folder, base)| folder.starts_with(base)) && folders.len() == 2);
        let worker = Scratch::join(folders.clone()).unwrap();
        // A driver that is killed runs no destructor: its locks go, its folders stay.
        let Scratch { locks, .. } = &owner;
        locks.iter().for_each(|lock| lock.unlock().unwrap());
        std::mem::forget(owner);
        drop(Scratch::create(&bases).unwrap());
        assert!(folders.iter().all(|folder| folder.exists()), "a worker still holds them");
        drop(worker);
        drop(Scratch::create(&bases).unwrap());
        assert!(!folders.iter().any(|folder| folder.exists()), "nobody holds them: swept");
    }

    #[test]
    fn staging_folders_that_it_notes_go_with_it() {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(&[base.path().to_owned()]).unwrap();
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
        let bases = two_disks(base.path());
        let scratch = Scratch::create(&bases).unwrap();
        let folders = scratch.folders().to_vec();
        for store in scratch.store("worker").unwrap() {
            fs::write(store.join("0.arrow"), "x").unwrap();
        }
        drop(scratch);
        assert!(!folders.iter().any(|folder| folder.exists()));
        // Nor is there anything of one that could not be made on each disk.
        fs::write(base.path().join("file"), "x").unwrap();
        let error = Scratch::create(&[bases[0].clone(), base.path().join("file")]).unwrap_err().to_string();
        assert!(error.contains("in ") && error.contains("/file: "), "{error}");
        let left = fs::read_dir(bases[0].join(format!("regatta-{}", os::user_id()))).unwrap();
        assert_eq!(left.count(), 0);
    }
}
