//! The files of a sink, put into their places together once all of them are there.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
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
    /// Folders that were made for the sink, the innermost first: gone again if nothing is published.
    made: Vec<PathBuf>,
}

/// How often, and how long apart, a folder is removed into which a task may still write its last file: while the query's owner
/// waits, and then beside it.
const AT_ONCE: (usize, Duration) = (20, Duration::from_millis(10));
const LATER: (usize, Duration) = (300, Duration::from_millis(100));

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
        let made: Vec<_> = self.made.iter().map(|folder| folder.to_string_lossy()).collect();
        fs::write(self.staging.join(WANTED), made.join("\0"))
    }

    /// Puts the files into their places, all or, if that fails midway, none; and says which they are.
    pub(super) fn publish(mut self, listings: Vec<Bytes>) -> Result<Bytes, Error> {
        let mut published: Vec<(PathBuf, u64)> = Vec::new();
        for listing in listings {
            for (staged, name, bytes) in files(&decode(listing)?).map_err(driver_failed)? {
                let place = self.sink.folder().join(&name);
                if let Err(error) = self.put(Path::new(&staged), Path::new(&name), &place) {
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

    fn put(&self, staged: &Path, name: &Path, place: &Path) -> io::Result<()> {
        // The names come from a worker: they may lead from the staging folder into the sink's, and nowhere else.
        let within = staged.strip_prefix(&self.staging).is_ok_and(is_plain) && is_plain(name);
        if !within {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is outside", staged.display())));
        }
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(staged, place)
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        // First: a task that ends from here on sees that nobody wants its files, and removes them.
        drop(fs::remove_file(self.staging.join(WANTED)));
        let left = Left { staging: std::mem::take(&mut self.staging), made: std::mem::take(&mut self.made) };
        if let Err(left) = left.remove(AT_ONCE) {
            // Fails only if the system gives no thread: then the folders stay, without files.
            drop(thread::Builder::new().name("regatta-unpublish".to_owned()).spawn(move || left.remove(LATER)));
        }
    }
}

/// What is to be removed when nothing is published, or all is.
struct Left {
    staging: PathBuf,
    made: Vec<PathBuf>,
}

impl Left {
    /// Given back if a task still writes there.
    fn remove(self, (times, apart): (usize, Duration)) -> Result<(), Self> {
        for _ in 0..times {
            if fs::remove_dir_all(&self.staging).is_ok() || !self.staging.exists() {
                self.made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
                return Ok(());
            }
            thread::sleep(apart);
        }
        Err(self)
    }
}

fn files(listing: &DataFrame) -> PolarsResult<Vec<(String, String, u64)>> {
    let (staged, names) = (listing.column("staged")?.str()?, listing.column("name")?.str()?);
    let files = staged.iter().zip(names.iter()).zip(listing.column("bytes")?.u64()?.iter());
    Ok(files.filter_map(|((staged, name), bytes)| Some((staged?.to_owned(), name?.to_owned(), bytes?))).collect())
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(target: &Path) -> Publication {
        let sink = FileSink { target: target.to_owned(), is_folder: true, mkdir: true };
        Publication::prepare(sink, QueryId(7)).unwrap()
    }

    fn listing(staged: &Path, name: &str) -> Bytes {
        let file = df!["staged" => [staged.to_str().unwrap()], "name" => [name], "bytes" => [1u64]];
        encode_frame(&file.unwrap()).unwrap()
    }

    #[test]
    fn a_worker_cannot_name_files_outside_of_the_sink() {
        let folder = tempfile::tempdir().unwrap();
        let (target, other) = (folder.path().join("sink"), folder.path().join("other"));
        fs::write(&other, "x").unwrap();
        for (staged, name) in [("../../other", "k=1/f"), ("f", "../f"), ("f", "/f")] {
            let publication = publication(&target);
            fs::write(publication.staging.join("f"), "x").unwrap();
            let listing = listing(&publication.staging.join(staged), name);
            let error = publication.publish(vec![listing]).unwrap_err().to_string();
            assert!(error.contains("outside"), "{error}");
        }
        assert!(other.exists() && !target.exists(), "nothing was moved, nothing is left");
    }

    #[test]
    fn when_one_file_cannot_be_published_none_is() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("sink");
        let publication = publication(&target);
        let staged = publication.staging.join("f");
        fs::write(&staged, "x").unwrap();
        let missing = publication.staging.join("missing");
        let error = publication.publish(vec![listing(&staged, "f"), listing(&missing, "g")]).unwrap_err().to_string();
        assert!(error.contains("sink/g"), "{error}");
        assert!(!target.exists(), "neither the first file nor the folder that was made for it");
    }
}
