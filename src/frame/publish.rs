//! The files of a sink, put into their places together once all of them are there.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polars::prelude::*;

use super::driver_failed;
use crate::cluster::Scratch;
use crate::error::{ClusterError, Error, SinkError};
use crate::os;
use crate::plan::FileSink;
use crate::sched::QueryId;
use crate::store::{Staging, Step, is_there};

/// What a sink into a folder does about what is there. One file is replaced, as Polars does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkMode {
    /// There must be nothing: else it is an error, before anything runs.
    #[default]
    Error,
    /// All that is there is replaced, also what the query has no files for.
    Overwrite,
    /// Its files are put beside those that are there, under names of their own.
    Append,
}

/// Files that wait to be published. Dropped before that, they are gone.
#[derive(Debug)]
pub(crate) struct Publication {
    sink: FileSink,
    mode: SinkMode,
    query: QueryId,
    staging: Staging,
    /// Names the staging folder to the end of the session, or, if that does not come to it, to the next start.
    note: PathBuf,
    published: bool,
}

/// Where a folder is put together, and where what it replaces is kept, in the staging folder. Tasks have numbers there.
const WHOLE: &str = "whole";
const OLD: &str = "old";
/// How long a query waits while another puts its files into the same folder.
const TURN: Duration = Duration::from_secs(60);

impl Publication {
    /// Makes the folder in which the files of a query are until they are published, and notes it in `scratch`.
    ///
    /// # Errors
    /// There is something where the files are to be; the sink's folder is not there and is not to be made, or cannot be written
    /// to.
    pub(crate) fn prepare(sink: FileSink, mode: SinkMode, query: QueryId, scratch: &Scratch) -> Result<Self, Error> {
        let folder = sink.folder().to_owned();
        let failed = |error: io::Error| SinkError::Prepare { folder: folder.clone(), why: error.to_string() };
        match mode {
            SinkMode::Error if sink.is_folder && !entries(&folder).map_err(failed)?.is_empty() => {
                return Err(SinkError::Taken { folder }.into());
            }
            SinkMode::Append if !sink.is_folder => return Err(SinkError::OneFile { file: sink.target }.into()),
            _ => (),
        }
        if !folder.exists() && !sink.mkdir {
            return Err(SinkError::Missing { folder }.into());
        }
        let staging = stage(&sink, query).map_err(failed)?;
        let note = scratch.note(query, &staging).inspect_err(|_| drop(staging.remove()));
        let note = note.map_err(|error| ClusterError::scratch("a note of the sink", scratch.folder(), error))?;
        Ok(Self { sink, mode, query, staging, note, published: false })
    }

    /// Puts the files into their places, all or, if that fails midway, none; and says which they are.
    pub(super) fn publish(mut self, listings: Vec<DataFrame>) -> Result<DataFrame, Error> {
        let mut files = Vec::new();
        for listing in listings {
            for (staged, name, bytes) in listed(&listing).map_err(driver_failed)? {
                let (staged, name) = (PathBuf::from(staged), self.named(name.into()));
                // The names come from a worker: they may lead from the staging folder into the sink's, and nowhere else.
                if !(staged.strip_prefix(self.staging.folder()).is_ok_and(is_plain) && is_plain(&name)) {
                    let outside =
                        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is outside", staged.display()));
                    return Err(self.failed(outside).into());
                }
                files.push((staged, name, bytes));
            }
        }
        self.put(&files)?;
        self.published = true;
        let place = |name: &Path| self.sink.folder().join(name).to_string_lossy().into_owned();
        let paths: Vec<_> = files.iter().map(|(_, name, _)| place(name)).collect();
        let bytes: Vec<_> = files.iter().map(|(_, _, bytes)| *bytes).collect();
        Ok(df!["path" => paths, "bytes" => bytes].map_err(driver_failed)?)
    }

    fn put(&self, files: &[(PathBuf, PathBuf, u64)]) -> Result<(), SinkError> {
        let folder = self.sink.folder();
        let failed = |error| self.failed(error);
        // The end of the session must not take the files away meanwhile, nor another query of this machine the folder.
        let _held = self.staging.hold().map_err(failed)?;
        let _turn = self.turn().map_err(failed)?;
        let to = |folder: &Path| files.iter().map(|(staged, name, _)| (staged.clone(), folder.join(name))).collect();
        let moves: Vec<_> = to(folder);
        if !self.sink.is_folder {
            // A rename replaces what is there, or fails.
            let made = fs::create_dir_all(folder);
            let put = made.and_then(|()| moves.iter().try_for_each(|(staged, place)| fs::rename(staged, place)));
            return put.map_err(failed);
        }
        if self.is_beside() && self.mode != SinkMode::Append {
            // As one, by one step, so that readers see all or nothing of it.
            let whole = self.staging.folder().join(WHOLE);
            let assembly = moves_to(&whole, to(&whole), is_there);
            assembly.iter().try_for_each(Step::carry_out).map_err(failed)?;
            return self.take_place(&whole, folder);
        }
        self.carry_out(&self.steps(moves)?)
    }

    /// Waits until no other query of this machine publishes beside this one; `None` where the file system knows no locks.
    fn turn(&self) -> io::Result<Option<File>> {
        let Some(above) = self.staging.folder().parent() else { return Ok(None) };
        let (above, deadline) = (File::open(above)?, Instant::now() + TURN);
        loop {
            match above.try_lock() {
                Ok(()) => return Ok(Some(above)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    let why = format!("another query has published there for {} s", TURN.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// How files come into a folder one by one.
    fn steps(&self, moves: Vec<(PathBuf, PathBuf)>) -> Result<Vec<Step>, SinkError> {
        let (folder, kept) = (self.sink.folder(), self.staging.folder().join(OLD));
        let there = entries(folder).map_err(|error| self.failed(error))?;
        let old = match self.mode {
            SinkMode::Error if !there.is_empty() => return Err(SinkError::Taken { folder: folder.to_owned() }),
            SinkMode::Overwrite => there,
            SinkMode::Error | SinkMode::Append => Vec::new(),
        };
        let old = old.into_iter().filter_map(|path| Some((path.clone(), kept.join(path.file_name()?))));
        let mut steps = moves_to(&kept, old, is_there);
        // What is in the folder has left it by then.
        let stays = |there: &Path| is_there(there) && (self.mode != SinkMode::Overwrite || !is_below(there, folder));
        steps.extend(moves_to(folder, moves, stays));
        Ok(steps)
    }

    /// Puts a folder into the place of another, or of none.
    fn take_place(&self, whole: &Path, folder: &Path) -> Result<(), SinkError> {
        let prepared = match fs::metadata(folder) {
            Ok(old) => fs::set_permissions(whole, old.permissions()),
            Err(_) => folder.parent().map_or(Ok(()), fs::create_dir_all),
        };
        prepared.map_err(|error| self.failed(error))?;
        match fs::rename(whole, folder) {
            Err(error) if [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::AlreadyExists].contains(&error.kind()) => {}
            // Also an empty folder makes room for it.
            renamed => return renamed.map_err(|error| self.failed(error)),
        }
        if self.mode == SinkMode::Error {
            return Err(SinkError::Taken { folder: folder.to_owned() });
        }
        if os::swap(whole, folder).is_ok() {
            return Ok(());
        }
        // Not every file system can do that.
        self.carry_out(&self.replace(whole, folder))
    }

    fn replace(&self, whole: &Path, folder: &Path) -> [Step; 2] {
        let kept = self.staging.folder().join(OLD);
        [Step::Move(folder.to_owned(), kept), Step::Move(whole.to_owned(), folder.to_owned())]
    }

    /// All of these steps or none, also if this process is killed between two of them.
    fn carry_out(&self, steps: &[Step]) -> Result<(), SinkError> {
        let staging = &self.staging;
        let done = staging.begin(steps).and_then(|()| steps.iter().try_for_each(Step::carry_out));
        done.and_then(|()| staging.committed()).map_err(|error| match staging.undo() {
            Ok(()) => self.failed(error),
            Err(undone) => {
                let (why, kept) = (format!("{error}; {undone}"), staging.folder().to_owned());
                SinkError::HalfDone { folder: self.sink.folder().to_owned(), kept, why }
            }
        })
    }

    fn is_beside(&self) -> bool {
        self.staging.folder().parent() != Some(self.sink.folder())
    }

    /// A file's name below the sink's folder. One that is appended has the time in it: those of a later run are read after those
    /// of an earlier one.
    fn named(&self, name: PathBuf) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        match name.file_name() {
            Some(last) if self.mode == SinkMode::Append => {
                name.with_file_name(format!("a{now:012x}-{:016x}-{}", self.query.0, last.to_string_lossy()))
            }
            _ => name,
        }
    }

    fn failed(&self, error: io::Error) -> SinkError {
        SinkError::Publish { folder: self.sink.folder().to_owned(), why: error.to_string() }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        // First: a task that ends from here on sees that nobody wants its files, and removes them.
        self.staging.unwanted();
        let removed = self.staging.remove();
        // Last: until then somebody must know what is left. Unpublished, a late task may make the folder again.
        if self.published && removed.is_ok() {
            drop(fs::remove_file(&self.note));
        }
    }
}

/// Makes the staging folder: beside the sink's folder, where its readers do not look, or in it where a file cannot be renamed
/// from there, as where that folder is a mount point or a link.
fn stage(sink: &FileSink, query: QueryId) -> io::Result<Staging> {
    let folder = sink.folder();
    let above = folder.ancestors().skip(1).find(|above| above.is_dir());
    let beside = above.filter(|_| !folder.is_symlink()).map(|above| {
        let staging = Staging::make(FileSink::staging_in(above, query))?;
        let (here, there) = (staging.folder().join("probe"), FileSink::staging_in(folder, query));
        let probe =
            || fs::create_dir(&here).and_then(|()| fs::rename(&here, &there)).and_then(|()| fs::remove_dir(&there));
        match is_there(folder).then(probe) {
            Some(Err(error)) => {
                drop(staging.remove());
                Err(error)
            }
            _ => Ok(staging),
        }
    });
    match beside {
        Some(Ok(staging)) => Ok(staging),
        Some(Err(error)) if !is_there(folder) => Err(error),
        _ => Staging::make(FileSink::staging_in(folder, query)),
    }
}

/// What is in a folder, if it is there, but for what other queries stage there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !is_there(folder) {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|entry| !FileSink::is_staging(entry)).collect())
}

/// Moves into a folder, and before them what makes it and those in it that they need, but for those that are there.
fn moves_to(
    folder: &Path,
    moves: impl IntoIterator<Item = (PathBuf, PathBuf)>,
    is_there: impl Fn(&Path) -> bool,
) -> Vec<Step> {
    let moves: Vec<_> = moves.into_iter().collect();
    let parents = moves.iter().filter_map(|(_, to)| to.parent()).chain([folder]);
    // In their order, each is before those that are in it.
    let missing: BTreeSet<_> = parents.flat_map(Path::ancestors).filter(|folder| !is_there(folder)).collect();
    let make: Vec<_> = missing.into_iter().map(|folder| Step::Make(folder.to_owned())).collect();
    make.into_iter().chain(moves.into_iter().map(|(from, to)| Step::Move(from, to))).collect()
}

fn is_below(path: &Path, folder: &Path) -> bool {
    path != folder && path.starts_with(folder)
}

fn listed(listing: &DataFrame) -> PolarsResult<Vec<(String, String, u64)>> {
    let (staged, names) = (listing.column("staged")?.str()?, listing.column("name")?.str()?);
    let files = staged.iter().zip(names.iter()).zip(listing.column("bytes")?.u64()?.iter());
    Ok(files.filter_map(|((staged, name), bytes)| Some((staged?.to_owned(), name?.to_owned(), bytes?))).collect())
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests;
