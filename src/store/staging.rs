//! Where the files of a sink are until all of them are there, and how they come into their places.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Says, in a staging folder, that its query's owner still wants the files. It is empty: scans leave out what is.
const WANTED: &str = "wanted";
/// Says what is to be undone if its owner does not come to the end of it.
const JOURNAL: &str = "journal";
/// Between paths: none holds it.
const END: u8 = 0;

/// The staging folder of a query's sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Staging {
    folder: PathBuf,
}

/// A step on the way of staged files into their places. Each can be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Makes a folder.
    Make(PathBuf),
    /// Renames one to the other, which is not there.
    Move(PathBuf, PathBuf),
}

impl Staging {
    /// Makes a staging folder.
    ///
    /// # Errors
    /// It cannot be made. What was made until then is gone.
    pub(crate) fn make(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir(&folder)?;
        let staging = Self { folder };
        fs::write(staging.folder.join(WANTED), "").inspect_err(|_| drop(staging.remove()))?;
        Ok(staging)
    }

    /// The one of these that another process has made; `None` if its files are not wanted any more.
    pub(crate) fn find(folders: impl IntoIterator<Item = PathBuf>) -> Option<Self> {
        folders.into_iter().map(|folder| Self { folder }).find(Self::is_wanted)
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

    /// Notes what [`undo`](Self::undo) will undo until [`committed`](Self::committed).
    ///
    /// # Errors
    /// It cannot be noted: nothing is to be begun.
    pub(crate) fn begin(&self, steps: &[Step]) -> io::Result<()> {
        let paths = steps.iter().flat_map(|step| match step {
            Step::Make(folder) => [Path::new(""), folder],
            Step::Move(from, to) => [from.as_path(), to],
        });
        let text: Vec<u8> = paths.flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([END])).collect();
        // Whole, or not there.
        let unnamed = self.folder.join("journal.new");
        fs::write(&unnamed, text)?;
        fs::rename(&unnamed, self.folder.join(JOURNAL))
    }

    /// What was begun is done for good.
    ///
    /// # Errors
    /// That cannot be noted: it is not done.
    pub(crate) fn committed(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(JOURNAL))
    }

    /// Undoes what was begun and not committed, whoever began it.
    ///
    /// # Errors
    /// It cannot be undone now. It can be tried again.
    pub(crate) fn undo(&self) -> io::Result<()> {
        let text = match fs::read(self.folder.join(JOURNAL)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        let paths: Vec<_> =
            text.split(|byte| *byte == END).map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
        for step in paths.chunks_exact(2).rev() {
            let [from, to] = step else { continue };
            if from.as_os_str().is_empty() {
                // Fails if it was not made, or holds something of somebody else.
                drop(fs::remove_dir(to));
            } else if is_there(to) && !is_there(from) {
                fs::rename(to, from)?;
            } else if is_there(to) && to.starts_with(&self.folder) {
                // What is kept here goes with this folder.
                return Err(io::Error::other(format!("{} is in the way of what was there", from.display())));
            }
        }
        self.committed()
    }

    /// Removes the staging folder with what is in it.
    ///
    /// # Errors
    /// It is not there, a task writes into it at this moment, or it holds what was there before and cannot be put back.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.undo()?;
        fs::remove_dir_all(&self.folder)
    }

    /// Its path, for [`from_note`](Self::from_note).
    pub(crate) fn to_note(&self) -> &[u8] {
        self.folder.as_os_str().as_bytes()
    }

    /// `None` of an empty note.
    pub(crate) fn from_note(note: &[u8]) -> Option<Self> {
        (!note.is_empty()).then(|| Self { folder: OsStr::from_bytes(note).into() })
    }
}

impl Step {
    pub(crate) fn carry_out(&self) -> io::Result<()> {
        match self {
            Self::Make(folder) => fs::create_dir(folder),
            Self::Move(from, to) => fs::rename(from, to),
        }
    }
}

/// Whether something is at a path, be it a link to nothing.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staging_folder_is_found_while_it_is_wanted() {
        let base = tempfile::tempdir().unwrap();
        let (folder, other) = (base.path().join(".staging"), base.path().join("other"));
        assert!(Staging::make(base.path().join("a/b")).is_err());
        let staging = Staging::make(folder.clone()).unwrap();
        let find = || Staging::find([other.clone(), folder.clone()]);
        assert_eq!(find(), Some(staging.clone()));
        assert_eq!(Staging::from_note(staging.to_note()), Some(staging.clone()));
        fs::write(folder.join("file"), "x").unwrap();
        staging.unwanted();
        assert!(!staging.is_wanted() && find().is_none());
        staging.remove().unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        assert!(staging.remove().is_err(), "its folder is gone");
    }

    #[test]
    fn what_was_begun_is_undone_from_any_step_unless_it_was_committed() {
        for done in 0..=4 {
            let base = tempfile::tempdir().unwrap();
            let at = |path: &str| base.path().join(path);
            let staging = Staging::make(at("staging")).unwrap();
            fs::write(at("staging/new"), "new").unwrap();
            fs::write(at("old"), "old").unwrap();
            let steps = [
                Step::Make(at("staging/kept")),
                Step::Move(at("old"), at("staging/kept/old")),
                Step::Make(at("made")),
                Step::Move(at("staging/new"), at("made/new")),
            ];
            staging.begin(&steps).unwrap();
            steps.iter().take(done).for_each(|step| step.carry_out().unwrap());
            staging.remove().unwrap();
            assert_eq!(fs::read_to_string(at("old")).unwrap(), "old", "after {done} steps");
            assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1, "after {done} steps");
        }
        let base = tempfile::tempdir().unwrap();
        let staging = Staging::make(base.path().join("staging")).unwrap();
        let made = base.path().join("made");
        staging.begin(&[Step::Make(made.clone())]).unwrap();
        fs::create_dir(&made).unwrap();
        staging.committed().unwrap();
        staging.remove().unwrap();
        assert!(made.exists());
    }
}
