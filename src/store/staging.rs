//! Where the files of a sink are until all of them are there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Says, in a staging folder, that its query's owner still wants the files; and which folders were made for the sink.
const WANTED: &str = "wanted";
/// Between paths: none holds it.
const END: &str = "\0";

/// The staging folder of a query's sink, and the folders that were made to hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Staging {
    folder: PathBuf,
    /// The innermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Makes the staging folder, and with `mkdir` those above it that are missing.
    ///
    /// # Errors
    /// It cannot be made. What was made until then is gone.
    pub(crate) fn make(folder: PathBuf, mkdir: bool) -> io::Result<Self> {
        let above = folder.ancestors().skip(1);
        let made = above.take_while(|above| mkdir && !above.exists()).map(Path::to_owned).collect();
        let staging = Self { folder, made };
        staging.make_folders().inspect_err(|_| drop(staging.remove()))?;
        Ok(staging)
    }

    fn make_folders(&self) -> io::Result<()> {
        if let Some(folder) = self.made.first() {
            fs::create_dir_all(folder)?;
        }
        fs::create_dir(&self.folder)?;
        fs::write(self.folder.join(WANTED), self.to_text())
    }

    /// The staging folder that another process has made; `None` if its files are not wanted any more.
    pub(crate) fn find(folder: &Path) -> Option<Self> {
        Self::from_text(&fs::read_to_string(folder.join(WANTED)).ok()?)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the query's owner still waits for the files.
    pub(crate) fn is_wanted(&self) -> bool {
        self.folder.join(WANTED).exists()
    }

    /// Tells the tasks that nobody waits any more: they remove what they write from here on.
    pub(crate) fn unwanted(&self) {
        drop(fs::remove_file(self.folder.join(WANTED)));
    }

    /// Something is published: the folders made for it stay, empty or not.
    pub(crate) fn keep_made(&mut self) {
        self.made.clear();
    }

    /// Removes the staging folder with what is in it, and then the folders made for it as far as they are empty.
    ///
    /// # Errors
    /// It is not there, or a task writes into it at this moment.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)?;
        self.made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
        Ok(())
    }

    /// The paths in one text, for [`from_text`](Self::from_text).
    pub(crate) fn to_text(&self) -> String {
        let paths = std::iter::once(&self.folder).chain(&self.made).map(|path| path.to_string_lossy());
        paths.collect::<Vec<_>>().join(END)
    }

    /// `None` of an empty text.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut paths = text.split_terminator(END).map(PathBuf::from);
        Some(Self { folder: paths.next()?, made: paths.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staging_folder_is_found_while_it_is_wanted_and_takes_with_it_what_was_made_for_it() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/b/.staging");
        assert!(Staging::make(folder.clone(), false).is_err() && !base.path().join("a").exists());
        let staging = Staging::make(folder.clone(), true).unwrap();
        assert_eq!(Staging::find(&folder), Some(staging.clone()));
        fs::write(folder.join("file"), "x").unwrap();
        staging.unwanted();
        assert!(!staging.is_wanted() && Staging::find(&folder).is_none());
        staging.remove().unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_holds_something_else_or_was_there_stays() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("there")).unwrap();
        let staging = Staging::make(base.path().join("there/made/.staging"), true).unwrap();
        fs::write(base.path().join("there/made/published"), "x").unwrap();
        staging.remove().unwrap();
        assert!(base.path().join("there/made/published").exists());
        fs::remove_file(base.path().join("there/made/published")).unwrap();
        assert!(staging.remove().is_err(), "its folder is gone: it takes nothing else with it");
        assert!(base.path().join("there/made").exists());
    }
}
