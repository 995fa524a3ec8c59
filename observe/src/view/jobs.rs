//! Programs that a head runs for operators.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::tables::Table;
use crate::text::{clock, cut, line, time};

/// Where a job stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its program runs.
    #[default]
    Running,
    /// Its program has ended well.
    Done,
    /// Its program has ended otherwise.
    Failed,
    /// An operator has stopped it.
    Stopped,
}

/// A program that the head runs, or has run, in a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobRow {
    /// Its number, counted from 1 since the head began.
    pub job: u32,
    /// What its program was told.
    pub arguments: Vec<String>,
    /// Where it stands.
    pub state: JobState,
    /// How its program has ended, or who has stopped it.
    pub how: Option<String>,
    /// When it began, in milliseconds since 1970 by the head's clock.
    pub began_ms: u64,
    /// For how long it runs, or ran, in nanoseconds.
    pub time: u64,
}

/// Lines that a job's program has printed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobLog {
    /// The job.
    pub row: JobRow,
    /// The lines, standard output and error as they came.
    pub lines: Vec<String>,
    /// How many lines there were up to the last of these: more follow after that number.
    pub next: u64,
    /// Lines that were forgotten before they were asked for.
    pub missed: u64,
}

/// Columns of arguments, which may be of any length.
const LONG: usize = 80;

impl JobRow {
    fn state(&self) -> &'static str {
        match self.state {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Stopped => "stopped",
        }
    }

    fn time(&self) -> String {
        if self.state == JobState::Running { clock(self.time) } else { time(self.time) }
    }

    fn arguments(&self) -> String {
        cut(&line(&self.arguments.join(" ")), LONG)
    }
}

impl fmt::Display for JobRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.job)?;
        if !self.arguments.is_empty() {
            write!(f, " ({})", self.arguments())?;
        }
        match (self.state, &self.how) {
            (JobState::Running, _) => write!(f, " runs, for {}", self.time()),
            (JobState::Done, _) => write!(f, " is done, after {}", self.time()),
            (_, None) => write!(f, " {} after {}", self.state(), self.time()),
            (_, Some(how)) => write!(f, " {} after {}: {}", self.state(), self.time(), line(how)),
        }
    }
}

impl Table {
    /// Jobs, one a line.
    pub fn jobs(rows: &[JobRow]) -> Self {
        let heads = ["JOB", "STATE", "TIME", "ARGUMENTS", "HOW IT ENDED"];
        let rows = rows.iter().map(|row| {
            let how = row.how.as_deref().map_or_else(String::new, |how| cut(&line(how), LONG));
            vec![row.job.to_string(), row.state().to_owned(), row.time(), row.arguments(), how]
        });
        Self::new(&heads, &["JOB", "TIME"], rows.collect())
    }
}
