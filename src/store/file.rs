//! The file of a stage: all tasks of it on this worker append their blocks to it. Nothing in it changes or moves, so that what has been
//! mapped of it stays what it was.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
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
    mapped: Mapped,
    end: AtomicU64,
}

/// A file of a store, of which more is mapped as more is asked for.
#[derive(Debug)]
pub(crate) struct Mapped {
    file: File,
    /// Of its beginning.
    map: Mutex<Bytes>,
}

/// What the files of stores end with.
pub(super) const BLOCKS: &str = "blocks";

/// So much of a disk is left free, at most: what else is there must go on.
const MOST_LEFT_FREE: u64 = 2 << 30;
/// Beyond that, for an output to be begun there rather than in another folder.
const TO_BEGIN: u64 = 64 << 20;

/// Bytes that may still be written to the disk of a folder, and how many of them are to stay free.
fn room(folder: &Path) -> io::Result<(u64, u64)> {
    let (room, total) = os::room(folder)?;
    Ok((room, MOST_LEFT_FREE.min(total / 20)))
}

/// Whether a task could begin to write there.
pub(super) fn has_room(folder: &Path) -> bool {
    room(folder).is_ok_and(|(room, left_free)| room >= left_free + TO_BEGIN)
}

impl StageFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, TaskFailure> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed("make", &path, &error))?;
        Ok(Self { path, mapped: Mapped::new(file), end: AtomicU64::new(0) })
    }

    /// Appends bytes one after the other, of which each number is a multiple of [`ALIGN`]. Returns where they are.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be written.
    pub(super) fn append<'a>(&self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Range<u64>, TaskFailure> {
        debug_assert!(parts.clone().all(|part| part.len().is_multiple_of(ALIGN)));
        let need = parts.clone().map(|part| part.len() as u64).sum();
        let folder = self.path.parent().unwrap_or(&self.path);
        let (room, left_free) = room(folder).map_err(|error| failed("look for room in", folder, &error))?;
        let full = || TaskFailure::DiskFull { folder: folder.display().to_string(), need, room };
        if room < need + left_free {
            return Err(full());
        }
        let start = self.end.fetch_add(need, Ordering::Relaxed);
        let range = start..start + need;
        let mut at = start;
        for part in parts {
            self.mapped.file.write_all_at(part, at).map_err(|error| {
                self.give_back(range.clone());
                match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
                    _ => failed("write", &self.path, &error),
                }
            })?;
            at += part.len() as u64;
        }
        Ok(range)
    }

    /// Gives back what nobody has read and nobody will. Where the file system cannot do that, the room comes back with the file.
    pub(super) fn give_back(&self, range: Range<u64>) {
        drop(os::give_back(&self.mapped.file, range));
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn mapped(&self) -> &Mapped {
        &self.mapped
    }
}

impl Mapped {
    fn new(file: File) -> Self {
        Self { file, map: Mutex::new(Bytes::new()) }
    }

    /// A file of another process of this machine, if it is in a store beside the one in these folders: of the same session, then.
    ///
    /// # Errors
    /// It is no such file, or is gone.
    pub(super) fn beside(folders: &[PathBuf], path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let all = path.parent().and_then(Path::parent);
        let is_beside = |folder: &PathBuf| Ok(all.is_some() && folder.canonicalize()?.parent() == all);
        if !folders.iter().map(is_beside).collect::<io::Result<Vec<_>>>()?.contains(&true)
            || path.extension() != Some(BLOCKS.as_ref())
        {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not in a store of this session"));
        }
        let file = File::open(&path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.uid() != os::user_id() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another's"));
        }
        Ok(Self::new(file))
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
            // SAFETY: a process of this session wrote the file under a name of its own in a folder of its own, and changes nothing
            // in it again that is read. Removing it leaves the mapping valid.
            *map = Bytes::from_owner(unsafe { memmap2::Mmap::map(&self.file)? });
        }
        let within = |at: u64| usize::try_from(at).map_err(|_| io::ErrorKind::InvalidData);
        Ok(map.slice(within(range.start)?..within(range.end)?))
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
