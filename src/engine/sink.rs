//! A task that writes files: into a folder of its own attempt, which is gone unless the attempt succeeds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use polars::prelude::*;
use polars_plan::dsl::file_provider::FileProviderType;
use polars_plan::dsl::{SinkTarget, SinkTypeIR};
use polars_plan::plans::IR;
use polars_utils::pl_path::PlRefPath;
use tokio::sync::watch;

use super::amend;
use super::attempt::TaskRun;
use super::fragment::{self, Bound};
use crate::error::{PolarsFailure, TaskFailure};
use crate::plan::{FileSink, STAGED};
use crate::sched::{Output, PartitionId};
use crate::store::Staging;

/// Writes a task's files; its partition names them: where each is, and its name below the sink's folder.
pub(super) fn write_files(mut task: TaskRun, sink: &FileSink) -> Result<Output, TaskFailure> {
    let folder = AttemptFolder::make(sink, task.output)?;
    let mut bound = fragment::bind(&mut task)?;
    task.spending.engine_begins();
    redirect(&mut bound, &folder.path, task.waits.cancelled.clone())?;
    fragment::run(bound, task.meter(), |_| false)?;
    // Whoever began the query has cleaned up: nobody would publish these files.
    if *task.waits.cancelled.borrow() || !folder.staging.is_wanted() {
        return Err(TaskFailure::Cancelled);
    }
    let mut files = Vec::new();
    list(&folder.path, &mut files).map_err(|e| failed("list the files in", &folder.path, e))?;
    files.sort_unstable();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let paths: Vec<_> = files.iter().map(|(path, _)| text(path)).collect();
    let names: Vec<_> = files.iter().map(|(path, _)| text(&name(path, &folder.path, sink, task.output))).collect();
    let bytes: Vec<_> = files.iter().map(|(_, bytes)| *bytes).collect();
    let listing = df!["staged" => paths, "name" => names, "bytes" => bytes].map_err(PolarsFailure::from)?;
    let output = task.store.keep(task.output, listing)?;
    folder.keep();
    Ok(output)
}

/// The name of a file below the sink's folder. Tasks name their files alike, so the task is in it.
fn name(file: &Path, folder: &Path, sink: &FileSink, written: PartitionId) -> PathBuf {
    if !sink.is_folder {
        return sink.target.file_name().unwrap_or_default().into();
    }
    let name = file.strip_prefix(folder).unwrap_or(file);
    let last = name.file_name().unwrap_or_default().to_string_lossy();
    name.with_file_name(format!("{:05}-{}", written.task.index, last.strip_suffix(STAGED).unwrap_or(&last)))
}

struct AttemptFolder {
    staging: Staging,
    path: PathBuf,
    kept: bool,
}

impl AttemptFolder {
    fn make(sink: &FileSink, attempt: PartitionId) -> Result<Self, TaskFailure> {
        let folders = || sink.stagings(attempt.task.query);
        let not_wanted = || match folders().any(|folder| folder.exists()) {
            true => TaskFailure::Cancelled,
            false => not_seen(sink.folder()),
        };
        let staging = Staging::find(folders()).ok_or_else(not_wanted)?;
        let path = staging.folder().join(format!("{:05}-{}", attempt.task.index, attempt.attempt.0));
        fs::create_dir(&path).map_err(|e| failed("make the folder", &path, e))?;
        Ok(Self { staging, path, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for AttemptFolder {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What cannot be removed here is removed with the query's folder.
        drop(fs::remove_dir_all(&self.path));
        if !self.staging.is_wanted() {
            // A writer of Polars that has not seen the end yet makes its folders again.
            for _ in 0..AGAIN {
                drop(self.staging.remove());
                thread::sleep(APART);
            }
        }
    }
}

/// How often, and how long apart, what nobody wants is removed.
const AGAIN: usize = 20;
const APART: Duration = Duration::from_millis(20);

/// Lets the sink write into `folder`, and stop when the task is cancelled.
fn redirect(bound: &mut Bound, folder: &Path, cancelled: watch::Receiver<bool>) -> Result<(), TaskFailure> {
    let guard = amend::of_some_rows("until cancelled", move |batch| match *cancelled.borrow() {
        true => Err(polars_err!(ComputeError: "the task was cancelled")),
        false => Ok(batch),
    });
    let IR::Sink { input, payload } = bound.ir.get(bound.top).clone() else { return Ok(()) };
    let input = bound.ir.add(IR::MapFunction { input, function: guard });
    let path = |path: &Path| PlRefPath::try_from_path(path).map_err(PolarsFailure::from);
    let payload = match payload {
        SinkTypeIR::File(mut file) => {
            file.target = SinkTarget::Path(path(&folder.join(format!("file{STAGED}")))?);
            SinkTypeIR::File(file)
        }
        SinkTypeIR::Partitioned(mut files) => {
            files.base_path = path(folder)?;
            files.unified_sink_args.mkdir = true;
            match &mut files.file_path_provider {
                FileProviderType::Hive(named) => named.extension = format!("{}{STAGED}", named.extension).into(),
                FileProviderType::Iceberg(named) => named.extension = format!("{}{STAGED}", named.extension).into(),
                FileProviderType::Function(_) => (),
            }
            SinkTypeIR::Partitioned(files)
        }
        other => other,
    };
    bound.top = bound.ir.add(IR::Sink { input, payload });
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        match found.is_dir() {
            true => list(&entry.path(), files)?,
            false => files.push((entry.path(), found.len())),
        }
    }
    Ok(())
}

fn not_seen(folder: &Path) -> TaskFailure {
    let text =
        "the folder in which the driver collects the sink's files cannot be read here; driver and workers must share";
    TaskFailure::Sink(format!(
        "{text} the file system that they write to, the folder above that of the sink, too: {}",
        folder.display()
    ))
}

fn failed(what: &str, path: &Path, error: io::Error) -> TaskFailure {
    TaskFailure::Sink(format!("could not {what} {}: {error}", path.display()))
}
