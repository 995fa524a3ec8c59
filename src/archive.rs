//! What queries did, as files that are there when their session is not any more.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use regatta_observe::Profile;

/// Profiles of queries that have ended, in a folder: a file each, the newest of them. A thread writes them.
pub(crate) struct Archive {
    /// `None` when it is being dropped.
    waiting: Option<SyncSender<Box<Profile>>>,
    /// Ends when all is written.
    written: Receiver<Infallible>,
}

/// Profiles that wait to be written, of 256 KiB at most each.
const WAITING: usize = 64;
/// Files that are kept, and their bytes.
const KEPT: (usize, u64) = (1000, 1 << 30);
/// Files that are written between two looks for those that are too many.
const LOOK_AFTER: u32 = 50;
/// How long the end of a session waits for a folder that does not take what is to be written.
const LAST: Duration = Duration::from_secs(2);
/// What was not finished by then never will be: its process has been killed.
const UNFINISHED: Duration = Duration::from_secs(3600);

impl Archive {
    /// Makes the folder if it is not there, for this user alone: profiles tell paths and literals.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        make(folder)?;
        prune(folder, KEPT)?;
        let (waiting, profiles) = sync_channel::<Box<Profile>>(WAITING);
        let (ends, written) = channel();
        let folder = folder.to_owned();
        thread::Builder::new().name("history".to_owned()).spawn(move || {
            let _ends_with_this = ends;
            for (number, profile) in (1..).zip(profiles) {
                // Somebody may have cleared it away.
                let kept =
                    make(&folder).and_then(|()| write(&folder, &profile)).and_then(|()| match number % LOOK_AFTER {
                        0 => prune(&folder, KEPT),
                        _ => Ok(()),
                    });
                if let Err(error) = kept {
                    let (query, folder) = (&profile.query.id, folder.display());
                    tracing::warn!(query, %error, "what a query did cannot be kept in {folder} (REGATTA_HISTORY)");
                }
            }
        })?;
        Ok(Self { waiting: Some(waiting), written })
    }

    /// Has it written, soon. Never waits: what comes faster than it can be written is left out.
    pub(crate) fn keep(&self, profile: Box<Profile>) {
        if let Some(Err(TrySendError::Full(profile))) = self.waiting.as_ref().map(|waiting| waiting.try_send(profile)) {
            let query = &profile.query.id;
            tracing::warn!(query, "what a query did is not kept: {WAITING} others wait to be written");
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.waiting = None;
        let _ = self.written.recv_timeout(LAST);
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Names sort as queries were submitted.
fn name(profile: &Profile) -> String {
    let id = profile.query.id.chars().filter(char::is_ascii_hexdigit).collect::<String>();
    format!("{:0DIGITS$}-{id}", profile.query.submitted_ms)
}

/// Of milliseconds since 1970, until the year 2286.
const DIGITS: usize = 13;

/// Whether a file of this name, without what tells its kind, is one of these. Nothing else in the folder is touched.
fn is_ours(name: &str) -> bool {
    let digits = |text: &str, all: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|byte| all(&byte));
    let parts = name.split_once('-');
    parts.is_some_and(|(ms, id)| {
        ms.len() == DIGITS && digits(ms, u8::is_ascii_digit) && digits(id, u8::is_ascii_hexdigit)
    })
}

/// Whoever reads the folder sees a file whole or not at all.
fn write(folder: &Path, profile: &Profile) -> io::Result<()> {
    let name = name(profile);
    let part = folder.join(format!("{name}.part"));
    let written = || {
        // Never what stands there already, nor where a link of that name leads.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(profile.to_json().as_bytes())?;
        fs::rename(&part, folder.join(format!("{name}.json")))
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

/// Removes the oldest files beyond so many and so many bytes, and what was never finished. Others may do the same meanwhile; what cannot
/// be removed, as another user's, stays.
///
/// # Errors
/// The folder cannot be read.
fn prune(folder: &Path, (most, most_bytes): (usize, u64)) -> io::Result<()> {
    let (mut files, mut old) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((name, kind)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let Some(about) = entry.metadata().ok().filter(|about| about.is_file() && is_ours(name)) else { continue };
        let age = || SystemTime::now().duration_since(about.modified().ok()?).ok();
        match kind {
            "json" => files.push((name.to_owned(), about.len(), entry.path())),
            "part" if age().is_some_and(|age| age > UNFINISHED) => old.push(entry.path()),
            _ => (),
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    let mut kept = 0u64;
    for (nth, (_, bytes, file)) in files.into_iter().enumerate() {
        kept = kept.saturating_add(bytes);
        if nth >= most || kept > most_bytes {
            old.push(file);
        }
    }
    let failed = old.iter().filter_map(|file| remove(file).err().map(|error| (file, error)));
    if let Some((file, error)) = failed.collect::<Vec<_>>().first() {
        tracing::warn!(%error, "{} is too old to be kept (REGATTA_HISTORY), and cannot be removed", file.display());
    }
    Ok(())
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use regatta_observe::QueryFigures;

    use super::*;

    fn profile(submitted_ms: u64, id: &str) -> Profile {
        let mut profile = Profile::default();
        profile.regatta_profile = regatta_observe::VERSION;
        profile.query = QueryFigures { id: id.to_owned(), submitted_ms, ..QueryFigures::default() };
        profile
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = files.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_given_before_the_end_is_written_whole_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("a/b");
        let archive = Archive::open(&within).unwrap();
        // As many as wait, and no more: none may be left out.
        let given: Vec<_> = (0..WAITING as u64).map(|n| profile(1_700_000_000_000 + n, &format!("{n:016x}"))).collect();
        given.iter().for_each(|profile| archive.keep(Box::new(profile.clone())));
        drop(archive);
        let read: Vec<_> = names(&within)
            .iter()
            .map(|name| Profile::from_json(&fs::read_to_string(within.join(name)).unwrap()).unwrap())
            .collect();
        assert_eq!(read, given);
    }

    #[test]
    fn the_newest_are_kept_and_what_is_not_ours_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..6 {
            write(folder.path(), &profile(999 + n, "a1")).unwrap();
        }
        for other in ["notes.json", "0000000000000-zz.json", "1-a1.json", "0000000000000-a1.txt"] {
            fs::write(folder.path().join(other), "mine").unwrap();
        }
        prune(folder.path(), (3, u64::MAX)).unwrap();
        let ours = |names: &[&str]| names.iter().map(|ms| format!("000000000{ms}-a1.json")).collect::<Vec<_>>();
        let left = || names(folder.path()).into_iter().filter(|name| name.ends_with("-a1.json") && name.len() > 12);
        assert_eq!(left().collect::<Vec<_>>(), ours(&["1002", "1003", "1004"]));
        let bytes = fs::metadata(folder.path().join("0000000001004-a1.json")).unwrap().len();
        prune(folder.path(), (3, 2 * bytes)).unwrap();
        assert_eq!(left().collect::<Vec<_>>(), ours(&["1003", "1004"]));
        assert_eq!(names(folder.path()).len(), 6);
    }

    #[test]
    fn what_is_no_file_is_neither_counted_nor_removed_nor_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("0000000000001-a1.json")).unwrap();
        fs::write(path("theirs"), "theirs").unwrap();
        for name in ["0000000000002-a1.json", "0000000000005-a1.part"] {
            std::os::unix::fs::symlink(path("theirs"), path(name)).unwrap();
        }
        write(folder.path(), &profile(3, "a1")).unwrap();
        write(folder.path(), &profile(4, "a1")).unwrap();
        // A session starts all the same.
        prune(folder.path(), (1, u64::MAX)).unwrap();
        drop(Archive::open(folder.path()).unwrap());
        assert!(write(folder.path(), &profile(5, "a1")).is_err());
        assert_eq!(fs::read_to_string(path("theirs")).unwrap(), "theirs");
        let left = ["0000000000001-a1.json", "0000000000002-a1.json", "0000000000004-a1.json", "theirs"];
        assert_eq!(names(folder.path()), left);
    }

    #[test]
    fn a_folder_that_was_removed_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("a/b");
        let archive = Archive::open(&within).unwrap();
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        archive.keep(Box::new(profile(1, "a1")));
        drop(archive);
        assert_eq!(names(&within), ["0000000000001-a1.json"]);
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Archive::open(file.path()).is_err());
    }
}
