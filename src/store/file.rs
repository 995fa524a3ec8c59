//! The file of a stage: all tasks of it on this worker append their blocks to it. Nothing in it changes or moves, so that what has been
//! mapped of it stays what it was.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::form::ALIGN;
use crate::error::TaskFailure;
use crate::os;

/// A file that goes when its last reader does.
#[derive(Debug)]
pub(super) struct StageFile {
    path: PathBuf,
    file: File,
    end: AtomicU64,
    /// Of its beginning, as far as somebody has asked for.
    map: Mutex<Bytes>,
}

/// So much of a disk is left free, at most: what else is there must go on.
const MOST_LEFT_FREE: u64 = 2 << 30;

impl StageFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, TaskFailure> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed("make", &path, &error))?;
        Ok(Self { path, file, end: AtomicU64::new(0), map: Mutex::new(Bytes::new()) })
    }

    /// Appends bytes, whose number is a multiple of [`ALIGN`]. Returns where they are.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be written.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<Range<u64>, TaskFailure> {
        debug_assert!(bytes.len() % ALIGN == 0);
        let need = bytes.len() as u64;
        let folder = self.path.parent().unwrap_or(&self.path);
        let (room, total) = os::room(folder).map_err(|error| failed("look for room in", folder, &error))?;
        let full = || TaskFailure::DiskFull { folder: folder.display().to_string(), need, room };
        if room < need + MOST_LEFT_FREE.min(total / 20) {
            return Err(full());
        }
        let start = self.end.fetch_add(need, Ordering::Relaxed);
        let range = start..start + need;
        self.file.write_all_at(bytes, start).map_err(|error| {
            self.give_back(range.clone());
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
                _ => failed("write", &self.path, &error),
            }
        })?;
        Ok(range)
    }

    /// Gives back what nobody has read and nobody will. Where the file system cannot do that, the room comes back with the file.
    pub(super) fn give_back(&self, range: Range<u64>) {
        drop(os::give_back(&self.file, range));
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// A copy of some of its bytes: safe whatever becomes of the file.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.freeze())
    }

    /// Some of its bytes, as they are in the system's cache.
    pub(super) fn map(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if (map.len() as u64) < range.end {
            // What somebody has cut off is an error here, and would be a signal where it is read.
            if self.len()? < range.end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has been cut off"));
            }
            // SAFETY: this process wrote the file under a name of its own in a folder of its own, and changes nothing in it
            // again. Removing it leaves the mapping valid.
            *map = Bytes::from_owner(unsafe { memmap2::Mmap::map(&self.file)? });
        }
        Ok(map.slice(range.start as usize..range.end as usize))
    }
}

impl Drop for StageFile {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the folder is swept with its cluster.
        drop(std::fs::remove_file(&self.path));
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> TaskFailure {
    TaskFailure::Store(format!("could not {what} {}: {error}", path.display()))
}
