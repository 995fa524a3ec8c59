//! The files of a sink, put into their places together once all of them are there.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use polars::prelude::*;

use super::driver_failed;
use crate::cluster::Scratch;
use crate::error::{ClusterError, Error};
use crate::plan::FileSink;
use crate::sched::QueryId;
use crate::store::Staging;

/// Files that wait to be published. Dropped before that, they are gone.
#[derive(Debug)]
pub(crate) struct Publication {
    sink: FileSink,
    staging: Staging,
    /// Names the staging folder to the end of the session, or, if that does not come to it, to the next start.
    note: PathBuf,
}

impl Publication {
    /// Makes the folder in which the files of a query are until they are published, and notes it in `scratch`.
    ///
    /// # Errors
    /// The sink's folder is not there and is not to be made, or cannot be written to.
    pub(crate) fn prepare(sink: FileSink, query: QueryId, scratch: &Scratch) -> Result<Self, Error> {
        let prepared = || {
            let staging = Staging::make(sink.staging(query), sink.mkdir)?;
            let note = scratch.note(query, &staging).inspect_err(|_| drop(staging.remove()))?;
            Ok((staging, note))
        };
        let (staging, note) = prepared().map_err(|error: io::Error| {
            let folder = sink.folder().display();
            let what = format!("prepare the sink's folder {folder}, which this process must be able to write to");
            ClusterError::os(what, error)
        })?;
        Ok(Self { sink, staging, note })
    }

    /// Puts the files into their places, all or, if that fails midway, none; and says which they are.
    pub(super) fn publish(mut self, listings: Vec<DataFrame>) -> Result<DataFrame, Error> {
        let mut published: Vec<(PathBuf, u64)> = Vec::new();
        for listing in listings {
            for (staged, name, bytes) in files(&listing).map_err(driver_failed)? {
                let place = self.sink.folder().join(&name);
                if let Err(error) = self.put(Path::new(&staged), Path::new(&name), &place) {
                    published.iter().for_each(|(path, _)| drop(fs::remove_file(path)));
                    return Err(ClusterError::os(format!("publish {}", place.display()), error).into());
                }
                published.push((place, bytes));
            }
        }
        self.staging.keep_made();
        drop(fs::remove_file(&self.note));
        let paths: Vec<_> = published.iter().map(|(path, _)| path.to_string_lossy().into_owned()).collect();
        let bytes: Vec<_> = published.iter().map(|(_, bytes)| *bytes).collect();
        Ok(df!["path" => paths, "bytes" => bytes].map_err(driver_failed)?)
    }

    fn put(&self, staged: &Path, name: &Path, place: &Path) -> io::Result<()> {
        // The names come from a worker: they may lead from the staging folder into the sink's, and nowhere else.
        let within = staged.strip_prefix(self.staging.folder()).is_ok_and(is_plain) && is_plain(name);
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
        self.staging.unwanted();
        drop(self.staging.remove());
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

    fn publication(target: &Path, scratch: &Scratch) -> Publication {
        let sink = FileSink { target: target.to_owned(), is_folder: true, mkdir: true };
        Publication::prepare(sink, QueryId(7), scratch).unwrap()
    }

    fn listing(staged: &Path, name: &str) -> DataFrame {
        df!["staged" => [staged.to_str().unwrap()], "name" => [name], "bytes" => [1u64]].unwrap()
    }

    #[test]
    fn a_worker_cannot_name_files_outside_of_the_sink() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(folder.path()).unwrap();
        let (target, other) = (folder.path().join("sink"), folder.path().join("other"));
        fs::write(&other, "x").unwrap();
        for (staged, name) in [("../../other", "k=1/f"), ("f", "../f"), ("f", "/f")] {
            let publication = publication(&target, &scratch);
            fs::write(publication.staging.folder().join("f"), "x").unwrap();
            let listing = listing(&publication.staging.folder().join(staged), name);
            let error = publication.publish(vec![listing]).unwrap_err().to_string();
            assert!(error.contains("outside"), "{error}");
        }
        assert!(other.exists() && !target.exists(), "nothing was moved, nothing is left");
    }

    #[test]
    fn when_one_file_cannot_be_published_none_is() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(folder.path()).unwrap();
        let target = folder.path().join("sink");
        let publication = publication(&target, &scratch);
        let staged = publication.staging.folder().join("f");
        fs::write(&staged, "x").unwrap();
        let missing = publication.staging.folder().join("missing");
        let error = publication.publish(vec![listing(&staged, "f"), listing(&missing, "g")]).unwrap_err().to_string();
        assert!(error.contains("sink/g"), "{error}");
        assert!(!target.exists(), "neither the first file nor the folder that was made for it");
    }
}
