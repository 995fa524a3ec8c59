//! Lines of the log of a process: the last ones, as many as fit into so many bytes. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::line;
use crate::ring::{Entry, Page, Ring};
use crate::text::ends;

/// How much a line matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something has failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Worth to know.
    #[default]
    Info,
}

/// A line of a worker's log, and what it is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// Its number in its process, from 1.
    pub number: u64,
    /// When, by its process's clock: milliseconds since 1970.
    pub at_ms: u64,
    /// How much it matters.
    pub level: LogLevel,
    /// The part of the program that says it.
    pub target: String,
    /// The worker.
    pub worker: Option<u32>,
    /// The number of the query, in hexadecimal digits.
    pub query: Option<String>,
    /// The stage.
    pub stage: Option<u32>,
    /// The task, and which attempt.
    pub task: Option<(u32, u32)>,
    /// The UDF's registered name, and the number of the replica.
    pub udf: Option<(String, u32)>,
    /// What is said.
    pub text: String,
}

/// Which lines are wanted: those that all of this is true of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct LogFilter {
    /// Of this worker.
    pub worker: Option<u32>,
    /// Of the query whose number ends with these digits.
    pub query: Option<String>,
    /// Of this task, whatever its stage.
    pub task: Option<u32>,
    /// Of a UDF that has this in its name.
    pub udf: Option<String>,
    /// That matter at least so much.
    pub level: Option<LogLevel>,
}

/// Some lines of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPage {
    /// The lines, in order.
    pub lines: Vec<LogLine>,
    /// After this number more may follow.
    pub next: u64,
    /// Lines that were forgotten between what was asked for and the first that is there, wanted or not.
    pub missed: u64,
}

/// The last lines of a process.
#[derive(Debug)]
pub struct LogRing(Ring<LogLine>);

/// Bytes of a text, at its beginning and its end.
const TEXT: usize = 2048;
/// Bytes of a name.
const NAME: usize = 128;

impl Entry for LogLine {
    fn number(&self) -> u64 {
        self.number
    }

    fn bytes(&self) -> usize {
        let query = self.query.as_ref().map_or(0, String::len);
        let udf = self.udf.as_ref().map_or(0, |(udf, _)| udf.len());
        size_of::<Self>() + self.target.len() + query + udf + self.text.len()
    }
}

impl LogFilter {
    /// Whether it is no longer than names are: it goes to every worker.
    pub fn is_short(&self) -> bool {
        [&self.query, &self.udf].into_iter().flatten().all(|text| text.len() <= NAME)
    }

    fn wants(&self, line: &LogLine) -> bool {
        let ends_with =
            |digits: &String| line.query.as_ref().is_some_and(|query| query.ends_with(&digits.to_ascii_lowercase()));
        self.level.is_none_or(|level| line.level <= level)
            && self.query.as_ref().is_none_or(ends_with)
            && self.task.is_none_or(|task| line.task.is_some_and(|(of, _)| of == task))
            && self.udf.as_ref().is_none_or(|part| line.udf.as_ref().is_some_and(|(udf, _)| udf.contains(part)))
    }
}

impl LogRing {
    /// One that takes so many bytes at most.
    pub fn new(bytes: usize) -> Self {
        Self(Ring::new(bytes))
    }

    /// Takes in a line, and forgets the oldest for which there is no room any more.
    pub fn push(&mut self, line: LogLine) {
        self.0.push(|number| LogLine {
            number,
            text: ends(&line.text, TEXT),
            target: ends(&line.target, NAME),
            udf: line.udf.map(|(udf, rank)| (ends(&udf, NAME), rank)),
            ..line
        });
    }

    /// The lines after a number that are wanted, the oldest first, or for 0 the newest of all: so many, and so many bytes, at most.
    pub fn page(&self, after: u64, filter: &LogFilter, lines: usize, bytes: usize) -> LogPage {
        let wants = |line: &LogLine| filter.wants(line);
        let Page { entries, next, missed } = match after {
            0 => self.0.newest(wants, lines, bytes),
            _ => self.0.page(after, wants, lines, bytes),
        };
        LogPage { lines: entries, next, missed }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
        })
    }
}

/// In one line, with the time of the day in UTC.
impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.at_ms / 1000 % 86_400, self.at_ms % 1000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{ms:03}")?;
        self.worker.iter().try_for_each(|worker| write!(f, " worker {worker}"))?;
        if let Some(query) = &self.query {
            write!(f, " query {}", line(query.get(query.len().saturating_sub(8)..).unwrap_or(query)))?;
        }
        self.stage.iter().try_for_each(|stage| write!(f, " stage {stage}"))?;
        if let Some((task, attempt)) = self.task {
            write!(f, " task {task}")?;
            if attempt > 1 {
                write!(f, " attempt {attempt}")?;
            }
        }
        self.udf.iter().try_for_each(|(udf, rank)| write!(f, " {} rank {rank}", line(udf)))?;
        write!(f, " {} {}: {}", self.level, line(&self.target), line(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> LogLine {
        LogLine { text: text.to_owned(), ..LogLine::default() }
    }

    #[test]
    fn a_long_line_is_kept_by_its_ends() {
        let mut ring = LogRing::new(64 << 10);
        ring.push(said(&"y".repeat(1 << 20)));
        let [line] = &ring.page(0, &LogFilter::default(), 10, 1 << 20).lines[..] else { panic!("{ring:?}") };
        assert!(line.text.len() < 5000 && line.text.contains("bytes left out"), "{}", line.text.len());
    }

    #[test]
    fn lines_are_found_by_what_they_are_of() {
        let mut ring = LogRing::new(1 << 20);
        let of = |query: &str, task, udf: Option<&str>, level| LogLine {
            query: Some(query.to_owned()),
            stage: Some(1),
            task: Some((task, 1)),
            udf: udf.map(|udf| (udf.to_owned(), 0)),
            level,
            ..LogLine::default()
        };
        ring.push(of("00000000000000a7", 3, None, LogLevel::Info));
        ring.push(of("00000000000000a7", 4, Some("demo::Embed"), LogLevel::Warn));
        ring.push(of("00000000000000b7", 3, Some("demo::Rank"), LogLevel::Error));
        ring.push(said("of nothing"));
        let found = |filter: LogFilter| {
            ring.page(0, &filter, 10, 1 << 20).lines.iter().map(|line| line.number).collect::<Vec<_>>()
        };
        let by = LogFilter::default;
        assert_eq!(found(LogFilter { query: Some("A7".into()), ..by() }), [1, 2]);
        assert_eq!(found(LogFilter { query: Some("7".into()), task: Some(3), ..by() }), [1, 3]);
        assert_eq!(found(LogFilter { udf: Some("Embed".into()), ..by() }), [2]);
        assert_eq!(found(LogFilter { level: Some(LogLevel::Warn), ..by() }), [2, 3]);
        assert_eq!(found(by()).len(), 4);
    }

    #[test]
    fn a_line_is_one_line_of_text_whatever_is_in_it() {
        let hostile = "a\x1b[2J\r\nb\u{202e}c";
        let line = LogLine {
            at_ms: 1_700_000_003_204,
            level: LogLevel::Warn,
            target: hostile.to_owned(),
            worker: Some(2),
            query: Some("0000000000000007".to_owned()),
            stage: Some(1),
            task: Some((311, 2)),
            udf: Some((hostile.to_owned(), 1)),
            text: hostile.to_owned(),
            ..LogLine::default()
        };
        let expected = "22:13:23.204 worker 2 query 00000007 stage 1 task 311 attempt 2 a [2J  b c rank 1 WARN a [2J  b c: a [2J  b c";
        assert_eq!(line.to_string(), expected);
    }
}
