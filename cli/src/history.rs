//! Queries that have ended, from the folder in which their session has kept them: no head is asked.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use regatta_dashboard::Source;
use regatta_observe::{
    Answer, Answering, Ask, ClusterView, Order, Profile, Progress, QueryRow, QueryView, Refusal, Table, line,
};

use crate::Failure;
use crate::asking::NEWEST;
use crate::command::What;
use crate::out::Out;
use crate::pages;

/// Does what needs no cluster.
///
/// # Errors
/// Why not.
pub(crate) fn run(folder: &Path, what: &What, out: &mut Out<'_>) -> Result<(), Failure> {
    match what {
        What::Queries { .. } => {
            let rows: Vec<QueryRow> = all(folder)?.map(|profile| QueryRow::from(&profile)).collect();
            out.rows(&rows, Table::queries(&rows), "no query has ended")
        }
        What::Query { query, format, full, explain, output } => {
            out.profile(&one(folder, query)?, (*format, *full, *explain), output.as_deref())
        }
        What::Findings { query } => {
            let profiles: Vec<Profile> = match query {
                Some(query) => vec![one(folder, query)?],
                None => all(folder)?.take(NEWEST as usize).collect(),
            };
            out.findings(profiles.into_iter().map(|profile| (QueryRow::from(&profile), profile.findings)).collect())
        }
        What::Dashboard { listen, host, control: false } => {
            files(folder)?; // that it can be read is known before somebody opens a page
            pages::run_alone(Arc::new(Shown(Arc::new(Kept::of(folder)))), *listen, host, out)
        }
        _ => Err(Failure::Usage(
            "a history has `queries`, `query`, `findings` and `dashboard`, without --control; for what a cluster does now leave --history out and say --connect"
                .to_owned(),
        )),
    }
}

/// Bytes of a file that is read. Those of a session are far smaller.
const LARGEST: u64 = 64 << 20;

/// The files, the newest first: their names begin with the time.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed =
        |error: io::Error| Failure::Failed(format!("cannot read the history in {}: {error}", folder.display()));
    let entries = fs::read_dir(folder).map_err(failed)?;
    let files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut files = files.map_err(failed)?;
    files.retain(|file| file.extension() == Some(OsStr::new("json")));
    files.sort_unstable_by(|a, b| b.cmp(a));
    Ok(files)
}

fn read(file: &Path) -> Result<Profile, Failure> {
    told(file, &text(file)?)
}

/// What a text of a history says.
fn told(file: &Path, text: &str) -> Result<Profile, Failure> {
    Profile::from_json(text).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
}

fn text(file: &Path) -> Result<String, Failure> {
    let failed = |why: &dyn ToString| Failure::Failed(format!("{}: {}", file.display(), why.to_string()));
    // What is no file may be one without an end, or of which nobody writes.
    let about = fs::metadata(file).map_err(|error| failed(&error))?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(failed(&format!("this is not a file of {} MiB at most", LARGEST >> 20)));
    }
    fs::read_to_string(file).map_err(|error| failed(&error))
}

/// All that can be read; what cannot is said, and hides no other.
fn all(folder: &Path) -> Result<impl Iterator<Item = Profile>, Failure> {
    let read = |file: PathBuf| {
        // Nobody reads it any more if the writing fails.
        read(&file).inspect_err(|failure| drop(writeln!(io::stderr(), "regatta: {failure}"))).ok()
    };
    Ok(files(folder)?.into_iter().filter_map(read))
}

/// A history, for pages.
struct Kept {
    folder: PathBuf,
    /// Of each file in it, once it was read: what is in one does not change. One that cannot be read may be on its way here.
    rows: Mutex<HashMap<PathBuf, Result<QueryRow, Looks>>>,
}

/// The bytes of a file, and when it was written.
type Looks = Option<(u64, SystemTime)>;

impl Kept {
    fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), rows: Mutex::default() }
    }

    /// So many of the newest queries, and how many files there are.
    fn rows(&self, most: usize) -> Result<(Vec<QueryRow>, usize), Failure> {
        let files = files(&self.folder)?;
        let mut known = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest come first.
        known.retain(|file, _| files.binary_search_by(|other| file.cmp(other)).is_ok());
        let row = |file: &PathBuf| {
            let looks = || fs::metadata(file).and_then(|about| Ok((about.len(), about.modified()?))).ok();
            match known.get(file) {
                Some(Ok(row)) => return Some(row.clone()),
                Some(Err(before)) if *before == looks() => return None,
                _ => (),
            }
            // As it looks before it is read: it may grow meanwhile.
            let before = looks();
            // Of what could not be read now, as for want of descriptors, nothing is known.
            let text = text(file).ok()?;
            let row = told(file, &text).map(|profile| QueryRow::from(&profile)).map_err(|_| before);
            known.insert(file.clone(), row.clone());
            row.ok()
        };
        Ok((files.iter().filter_map(row).take(most).collect(), files.len()))
    }

    fn answer(&self, ask: Ask) -> Result<Answer, Failure> {
        Ok(match ask {
            Ask::Cluster { queries, .. } => {
                let (queries, all) = self.rows(queries as usize)?;
                let known = (0, u32::try_from(all).unwrap_or(u32::MAX));
                Answer::Cluster(Box::new(ClusterView { known, queries, ..ClusterView::default() }))
            }
            Ask::Query { query } => {
                let row = QueryRow::from(&one(&self.folder, &query)?);
                let mut progress = Progress::default();
                (progress.id, progress.name, progress.error) = (row.id.clone(), row.name.clone(), row.error.clone());
                (progress.state, progress.time, progress.rows) = (row.state, row.time, row.rows);
                Answer::Query(Box::new(QueryView { row, progress, waits: Vec::new() }))
            }
            Ask::Profile { query } => Answer::Profile(Box::new(one(&self.folder, &query)?)),
            Ask::Findings { query } => {
                let profile = one(&self.folder, &query)?;
                Answer::Findings(Box::new(QueryRow::from(&profile)), profile.findings)
            }
            Ask::Totals => Answer::Totals(Box::default()),
            Ask::Logs { .. } => Answer::Logs(Box::default()),
            Ask::Spans { .. } => Answer::Spans(Box::default()),
            Ask::Jobs => Answer::Jobs(Vec::new()),
            Ask::JobLog { job, .. } => return Err(Failure::Failed(format!("a history has no jobs, so no job {job}"))),
        })
    }
}

struct Shown(Arc<Kept>);

impl Source for Shown {
    fn name(&self) -> String {
        format!("the history in {}", line(&self.0.folder.display().to_string()))
    }

    fn look(&self, ask: Ask) -> Answering {
        let kept = Arc::clone(&self.0);
        Box::pin(async move {
            // Files are read.
            let answer = tokio::task::spawn_blocking(move || kept.answer(ask)).await;
            answer.map_err(|error| Refusal::Failed(error.to_string()))?.map_err(pages::refused)
        })
    }

    fn may_act(&self) -> bool {
        false
    }

    fn act(&self, _: Order) -> Answering {
        Box::pin(async { Err(Refusal::Failed("what is in a history has ended".to_owned())) })
    }
}

/// The one whose number ends with these digits.
fn one(folder: &Path, digits: &str) -> Result<Profile, Failure> {
    let number = |file: &Path| {
        let name = file.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        name.split_once('-').map(|(_, number)| number.to_owned()).unwrap_or_default()
    };
    let mut files = files(folder)?;
    files.retain(|file| number(file).ends_with(digits));
    match &files[..] {
        [file] => read(file),
        [] => Err(Failure::Failed(format!(
            "no query whose number ends with {} is in {}: `queries` says which are",
            line(digits),
            folder.display()
        ))),
        several => {
            let numbers: Vec<_> = several.iter().take(8).map(|file| number(file)).collect();
            Err(Failure::Failed(format!("several queries' numbers end with {}: {}", line(digits), numbers.join(", "))))
        }
    }
}
