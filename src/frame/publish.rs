//! The files of a sink, put into their places together once all of them are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use polars::prelude::*;

use super::{decode, driver_failed};
use crate::error::{ClusterError, Error};
use crate::plan::{FileSink, WANTED};
use crate::sched::QueryId;
use crate::store::encode_frame;

/// Files that wait to be published. Dropped before that, they are gone.
#[derive(Debug)]
pub(crate) struct Publication {
    sink: FileSink,
    staging: PathBuf,
    /// Folders that were made for the sink, the outermost first: gone again if nothing is published.
    made: Vec<PathBuf>,
}

/// How often, and how long apart, a folder is removed into which a task may still write its last file.
const REMOVALS: (usize, Duration) = (20, Duration::from_millis(10));

impl Publication {
    /// Makes the folder in which the files of a query are until they are published.
    ///
    /// # Errors
    /// The sink's folder is not there and is not to be made, or cannot be written to.
    pub(crate) fn prepare(sink: FileSink, query: QueryId) -> Result<Self, Error> {
        let mut publication = Self { staging: sink.staging(query), sink, made: Vec::new() };
        publication.make_folders().map_err(|error| {
            let folder = publication.sink.folder().display();
            ClusterError::os(
                format!("prepare the sink's folder {folder}, which this process must be able to write to"),
                error,
            )
        })?;
        Ok(publication)
    }

    fn make_folders(&mut self) -> io::Result<()> {
        let folder = self.sink.folder();
        if self.sink.mkdir {
            let missing: Vec<_> =
                folder.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
            fs::create_dir_all(folder)?;
            self.made = missing;
        }
        fs::create_dir(&self.staging)?;
        fs::write(self.staging.join(WANTED), [])
    }

    /// Puts the files into their places, all or, if that fails midway, none; and says which they are.
    pub(super) fn publish(mut self, listings: Vec<Bytes>) -> Result<Bytes, Error> {
        let mut published: Vec<(PathBuf, u64)> = Vec::new();
        for (task, listing) in listings.into_iter().enumerate() {
            for (staged, name, bytes) in files(&decode(listing)?).map_err(driver_failed)? {
                let place = self.place(task, Path::new(&name));
                if let Err(error) = put(Path::new(&staged), &place) {
                    published.iter().for_each(|(path, _)| drop(fs::remove_file(path)));
                    return Err(ClusterError::os(format!("publish {}", place.display()), error).into());
                }
                published.push((place, bytes));
            }
        }
        self.made.clear();
        let paths: Vec<_> = published.iter().map(|(path, _)| path.to_string_lossy().into_owned()).collect();
        let bytes: Vec<_> = published.iter().map(|(_, bytes)| *bytes).collect();
        let written = df!["path" => paths, "bytes" => bytes].and_then(|files| encode_frame(&files));
        Ok(written.map_err(driver_failed)?)
    }

    /// Where a task's file belongs. Tasks name their files alike, so the task is in the name.
    fn place(&self, task: usize, name: &Path) -> PathBuf {
        if !self.sink.is_folder {
            return self.sink.target.clone();
        }
        let file = name.file_name().unwrap_or_default().to_string_lossy();
        self.sink.target.join(name).with_file_name(format!("{task:05}-{file}"))
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        // First: a task that ends from here on sees that nobody wants its files, and removes them.
        drop(fs::remove_file(self.staging.join(WANTED)));
        let (times, apart) = REMOVALS;
        for _ in 0..times {
            if fs::remove_dir_all(&self.staging).is_ok() || !self.staging.exists() {
                break;
            }
            thread::sleep(apart);
        }
        self.made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

fn files(listing: &DataFrame) -> PolarsResult<Vec<(String, String, u64)>> {
    let (staged, names) = (listing.column("staged")?.str()?, listing.column("name")?.str()?);
    let files = staged.iter().zip(names.iter()).zip(listing.column("bytes")?.u64()?.iter());
    Ok(files.filter_map(|((staged, name), bytes)| Some((staged?.to_owned(), name?.to_owned(), bytes?))).collect())
}

fn put(staged: &Path, place: &Path) -> io::Result<()> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(staged, place)
}
