//! Where the files of a sink are until all of them are there, and how they come into their places.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

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

    /// Keeps others from removing the folder while files go from it into their places.
    ///
    /// # Errors
    /// Another does so, or nobody wants the files any more.
    pub(crate) fn hold(&self) -> io::Result<File> {
        let wanted = File::open(self.folder.join(WANTED))?;
        wanted.try_lock()?;
        Ok(wanted)
    }

    /// Notes what [`undo`](Self::undo) will undo until [`committed`](Self::committed).
    ///
    /// # Errors
    /// It cannot be noted: nothing is to be begun.
    pub(crate) fn begin(&self, steps: &[Step]) -> io::Result<()> {
        let mut text = Vec::new();
        for step in steps {
            let (from, to, file) = match step {
                Step::Make(folder) => (Path::new(""), folder, 0),
                Step::Move(from, to) => (from.as_path(), to, inode(from).unwrap_or_default()),
            };
            for part in [from.as_os_str().as_bytes(), to.as_os_str().as_bytes(), file.to_string().as_bytes()] {
                text.extend(part.iter().copied().chain([END]));
            }
        }
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
        let parts: Vec<_> = text.split(|byte| *byte == END).collect();
        // Another query has put its files where these were: what was there before them is gone for good.
        let mut superseded = false;
        for step in parts.chunks_exact(3).rev() {
            let &[from, to, file] = step else { continue };
            let [from, to] = [from, to].map(|path| Path::new(OsStr::from_bytes(path)));
            let file = std::str::from_utf8(file).ok().and_then(|file| file.parse().ok());
            // Workers write into this folder: what they say leads from here to beside here, and nowhere else.
            if !(self.is_near(to) && (from.as_os_str().is_empty() || self.is_near(from))) {
                continue;
            }
            if from.as_os_str().is_empty() {
                // Fails if it was not made, or holds something of somebody else.
                drop(fs::remove_dir(to));
            } else if superseded && to.starts_with(&self.folder) {
                // It goes with this folder.
            } else if is_there(to) && !is_there(from) {
                if inode(to) == file {
                    fs::rename(to, from)?;
                } else {
                    superseded = true;
                }
            } else if is_there(to) && to.starts_with(&self.folder) {
                // What is kept here goes with this folder.
                return Err(io::Error::other(format!("{} is in the way of what was there", from.display())));
            }
        }
        self.committed()
    }

    /// Whether a path is in this folder, or in the one that it is in.
    fn is_near(&self, path: &Path) -> bool {
        let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        self.folder.parent().is_some_and(|above| path.strip_prefix(above).is_ok_and(plain))
    }

    /// Whether something was begun and neither committed nor undone; or, where that cannot be seen now, whether it may have been.
    pub(crate) fn may_be_half_done(&self) -> bool {
        is_there(&self.folder.join(JOURNAL)) || !self.folder.parent().is_some_and(Path::is_dir)
    }

    /// Removes the staging folder with what is in it.
    ///
    /// # Errors
    /// It is not there, a task writes into it at this moment, its files are being put into their places, or it holds what was there
    /// before and cannot be put back.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // Who removes it first says that it is not wanted, or is its owner's heir.
        let _alone = match self.hold() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            held => held.ok(),
        };
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
            Self::Make(folder) => match fs::create_dir(folder) {
                // Another query needs it, too.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
                made => made,
            },
            Self::Move(from, to) => match fs::rename(from, to) {
                // Another query, which had made the folder, has removed it again.
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_there(from) => {
                    fs::create_dir_all(to.parent().unwrap_or(to))?;
                    fs::rename(from, to)
                }
                moved => moved,
            },
        }
    }
}

/// What a file is known by, whatever its name.
fn inode(path: &Path) -> Option<u64> {
    path.symlink_metadata().ok().map(|metadata| metadata.ino())
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
    }

    #[test]
    fn files_of_another_query_that_came_after_are_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let at = |path: &str| base.path().join(path);
        let staging = Staging::make(at("staging")).unwrap();
        fs::write(at("staging/new"), "new").unwrap();
        fs::write(at("file"), "old").unwrap();
        let kept = at("staging/kept");
        let steps = [Step::Move(at("file"), kept), Step::Move(at("staging/new"), at("file"))];
        staging.begin(&steps).unwrap();
        steps.iter().for_each(|step| step.carry_out().unwrap());
        // Killed here; another runs the query again.
        fs::write(at("other"), "of another").unwrap();
        fs::rename(at("other"), at("file")).unwrap();
        staging.remove().unwrap();
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "of another");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_journal_leads_nowhere_else() {
        let base = tempfile::tempdir().unwrap();
        let at = |path: &str| base.path().join(path);
        fs::create_dir_all(at("sinks")).unwrap();
        let staging = Staging::make(at("sinks/staging")).unwrap();
        fs::write(at("secret"), "x").unwrap();
        staging.begin(&[Step::Move(at("sinks/staging/a"), at("secret"))]).unwrap();
        staging.begin(&[Step::Move(at("sinks/staging/a"), at("sinks/../secret"))]).unwrap();
        staging.remove().unwrap();
        assert!(at("secret").exists());
    }

    #[test]
    fn a_folder_is_not_removed_while_its_files_go_into_their_places() {
        let base = tempfile::tempdir().unwrap();
        let staging = Staging::make(base.path().join("staging")).unwrap();
        let held = staging.hold().unwrap();
        assert_eq!(staging.remove().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        staging.remove().unwrap();
    }

    #[test]
    fn what_was_committed_stays() {
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
