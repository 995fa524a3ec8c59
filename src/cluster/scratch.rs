//! The folder of a cluster on this machine: held by a lock while any of its processes lives, swept by the next start.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::os::{self, private_folder};

const LOCK: &str = "lock";

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
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.owner {
            // What is left, the next start sweeps.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Removes the folders that no process holds. One that another sweep removes at the same time is no error.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                tracing::info!(folder = %entry.path().display(), "sweeping the folder of a dead cluster");
                let _ = fs::remove_dir_all(entry.path());
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
    fn a_session_that_ends_removes_its_folder() {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(base.path()).unwrap();
        let folder = scratch.folder().to_owned();
        fs::write(scratch.store("worker").unwrap().join("0.arrow"), "x").unwrap();
        drop(scratch);
        assert!(!folder.exists());
    }
}
