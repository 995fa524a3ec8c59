//! What is shown of a cluster to who looks from outside: what may be asked, and the answers. As JSON, of a version that says what
//! it is, so that who looks need not be of the head's build.

mod jobs;
mod say;
mod tables;
mod why;

pub use jobs::{JobLog, JobRow, JobState};
pub use tables::Table;
pub use why::Why;

use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::{AuthorSpan, Dropped, Finding, LogFilter, LogLine, Profile, Progress, QueryState, StageState, Totals};

/// The version of what observers and heads say to each other. Within one, fields are only added.
pub const VIEW: u32 = 1;

/// What an observer asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Where the cluster stands: [`Answer::Cluster`].
    Cluster {
        /// So many queries at most; those that run come first.
        queries: u32,
        /// Only workers with this number or a higher one.
        from: u32,
        /// So many workers at most.
        workers: u32,
    },
    /// Where a query stands: [`Answer::Query`].
    Query {
        /// The last digits of its number.
        query: String,
    },
    /// What a query did, or does: [`Answer::Profile`].
    Profile {
        /// The last digits of its number.
        query: String,
    },
    /// What is wrong with a query: [`Answer::Findings`].
    Findings {
        /// The last digits of its number.
        query: String,
    },
    /// Lines of the workers' logs: [`Answer::Logs`].
    Logs {
        /// By worker: only lines after this number. Of workers that are not in it the newest.
        after: Vec<(u32, u64)>,
        /// Which lines.
        filter: LogFilter,
        /// So many lines of each worker at most.
        lines: u32,
    },
    /// Spans of authors' programs that have ended on workers: [`Answer::Spans`]. They are noted only while somebody asks.
    Spans {
        /// By worker: only spans after this number. Of workers that are not in it all that are remembered.
        after: Vec<(u32, u64)>,
        /// Workers note spans for so many seconds from now, an hour at most.
        noted_s: u64,
    },
    /// What all queries did, together: [`Answer::Totals`].
    Totals,
    /// Programs that the head runs for operators, and has run, the newest first: [`Answer::Jobs`].
    Jobs,
    /// What one of them prints: [`Answer::JobLog`].
    JobLog {
        /// Its number.
        job: u32,
        /// Only lines after this number; 0 for all that are remembered.
        after: u64,
        /// So many lines at most.
        lines: u32,
    },
}

/// What an operator wants to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Stop a query: [`Answer::Cancelled`].
    Cancel {
        /// The last digits of its number.
        query: String,
    },
    /// Have a worker leave in order: [`Answer::Drains`].
    Drain {
        /// Its number.
        worker: u32,
        /// Within so many seconds.
        seconds: u64,
    },
    /// Make a token: [`Answer::Token`].
    Token {
        /// What whoever joins with it is for.
        role: TokenRole,
        /// How many processes it lets in.
        uses: u32,
        /// For so many seconds.
        seconds: u64,
    },
    /// Run the head's own program beside it, as a driver of its cluster: [`Answer::Job`].
    Submit {
        /// What the program is told.
        arguments: Vec<String>,
        /// The fingerprint of the program that is meant. The head refuses if its own is another.
        build: String,
    },
    /// Stop a program that was submitted, with all that it has started: [`Answer::Job`].
    Stop {
        /// Its number.
        job: u32,
    },
}

/// What a token may be for. Who makes tokens for operators is the head's program alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// Processes that run tasks.
    Worker,
    /// Processes that submit queries.
    Driver,
    /// Who looks, and does nothing else.
    Observer,
}

/// What a head answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Where the cluster stands.
    Cluster(Box<ClusterView>),
    /// Where a query stands.
    Query(Box<QueryView>),
    /// What a query did, or does.
    Profile(Box<Profile>),
    /// What is wrong with a query.
    Findings(Box<QueryRow>, Vec<Finding>),
    /// Lines of the workers' logs.
    Logs(Box<LogsView>),
    /// Spans of authors' programs.
    Spans(Box<SpansView>),
    /// What all queries did, together.
    Totals(Box<Totals>),
    /// This query is stopped.
    Cancelled(Box<QueryRow>),
    /// This worker leaves.
    Drains(u32),
    /// The text of a token: a secret.
    Token(String),
    /// Programs that the head runs, and has run.
    Jobs(Vec<JobRow>),
    /// One of them.
    Job(Box<JobRow>),
    /// What it prints.
    JobLog(Box<JobLog>),
}

/// An answer that is being made.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The two sides have no version in common.
    Version {
        /// The head's.
        head: u32,
    },
    /// It is not known what was asked for, or there is more than one of it, or it has ended: in words.
    NoSuch(String),
    /// Who asks has asked for too much of late, or for too much at once.
    TooMuch(String),
    /// It could not be done.
    Failed(String),
}

/// Where a cluster stands. Times are in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterView {
    /// The build that made it.
    pub build: String,
    /// Since the head began.
    pub up: u64,
    /// All of its workers.
    pub fleet: Fleet,
    /// How many workers are wanted, and for how long, if not all of them have joined.
    pub wanted: Option<(u32, u64)>,
    /// How many workers that were asked for ended before they joined, one after the other, and why the last did.
    pub not_joined: Option<(u32, String)>,
    /// CPUs that what waits for room would take.
    pub backlog: f64,
    /// Queries that run, and that have ended and are remembered.
    pub known: (u32, u32),
    /// Some of those: the ones that run, the oldest first, then those that have ended, the newest first.
    pub queries: Vec<QueryRow>,
    /// Some of the workers, by number.
    pub workers: Vec<WorkerRow>,
    /// Replicas of UDFs, also those that are kept warm.
    pub pools: Vec<PoolRow>,
    /// What was left out of all figures.
    pub dropped: Dropped,
}

/// All workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fleet {
    /// Workers that have joined.
    pub workers: u32,
    /// How many of them are silent.
    pub silent: u32,
    /// CPUs, and how many of them are charged.
    pub cpus: (f64, f64),
    /// How many are busy; not known before all workers have said so twice.
    pub busy: Option<f64>,
    /// GPUs, and how many of them are charged.
    pub gpus: (f64, f64),
    /// Memory that they may use, and how much of it is charged.
    pub memory: (u64, u64),
    /// Memory that their processes use.
    pub used: u64,
    /// Tasks that run, and that wait at their worker.
    pub tasks: (u64, u64),
}

/// A query in a line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryRow {
    /// Its number, in hexadecimal digits.
    pub id: String,
    /// What its author calls it.
    pub name: Option<String>,
    /// Where it stands.
    pub state: QueryState,
    /// Why it has failed: the first line.
    pub error: Option<String>,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted_ms: u64,
    /// Since then, or from there to its end.
    pub time: u64,
    /// Stages that are done, and all of them.
    pub stages: (u32, u32),
    /// What its first stage does that is not done.
    pub doing: String,
    /// Tasks of that stage that are done, and all of them, once that is known.
    pub tasks: (u32, Option<u32>),
    /// Tasks that run, of all stages.
    pub running: u32,
    /// Rows of the stage, or of the result when that is there.
    pub rows: u64,
    /// Rows a second, over the last half minute.
    pub rate: Option<f64>,
    /// What it waits for, the longest first: some of it, in words.
    pub waits: Vec<String>,
    /// Whose it is: the node of its driver; `None`: the head's own.
    pub driver: Option<String>,
}

impl From<&Profile> for QueryRow {
    /// Of a query that has ended.
    fn from(profile: &Profile) -> Self {
        let figures = profile.query.clone();
        let given = |number: u32| profile.plan.stage(number).is_some_and(|stage| stage.given);
        let stages = || profile.stages.iter().filter(|stage| !given(stage.stage));
        let done = stages().filter(|stage| stage.state == StageState::Done).count();
        Self {
            id: figures.id,
            name: figures.name,
            state: figures.state,
            error: figures.error.map(|error| error.lines().next().unwrap_or_default().to_owned()),
            submitted_ms: figures.submitted_ms,
            time: figures.waited.saturating_add(figures.ran),
            stages: (done as u32, stages().count() as u32),
            rows: figures.rows,
            driver: figures.driver,
            ..Self::default()
        }
    }
}

/// A worker in a line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerRow {
    /// Its number.
    pub worker: u32,
    /// Its CPUs, and how many of them are charged.
    pub cpus: (f64, f64),
    /// How many are busy; not known before it has said so twice.
    pub busy: Option<f64>,
    /// Its GPUs, and how many of them are charged.
    pub gpus: (f64, f64),
    /// What they are.
    pub devices: Vec<String>,
    /// Memory that it may use, and how much of it is charged.
    pub memory: (u64, u64),
    /// Memory that its process uses.
    pub used: u64,
    /// The most that it did.
    pub peak: u64,
    /// Tasks that run there, and that wait there.
    pub tasks: (u32, u32),
    /// Tasks that nobody wants any more and that have not ended, and for how long.
    pub leaving: Option<(u32, u64)>,
    /// For how long it has had nothing to do, where workers come and go.
    pub idle: Option<u64>,
    /// For how long it has not been heard of.
    pub silent: Option<u64>,
    /// For how long it has been leaving, and how long that may take yet.
    pub drains: Option<(u64, u64)>,
    /// Where it is.
    pub address: Option<String>,
}

/// The replicas of a UDF in a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolRow {
    /// The UDF's registered name.
    pub udf: String,
    /// Replicas that take batches.
    pub ready: u32,
    /// How many of those have had nothing to do for a while.
    pub idle: u32,
    /// Replicas that start, with their last word.
    pub starting: Vec<Option<String>>,
    /// Queries that use it.
    pub queries: u32,
    /// For how long nobody has used it: it is kept warm.
    pub unused: Option<u64>,
}

/// Where a query stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryView {
    /// In a line.
    pub row: QueryRow,
    /// Stage by stage.
    pub progress: Progress,
    /// What its stages wait for: the stage, and in words.
    pub waits: Vec<(u32, String)>,
}

/// Lines of the workers' logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogsView {
    /// The lines, by their time: each by its own worker's clock.
    pub lines: Vec<LogLine>,
    /// By worker: after this number more may follow.
    pub next: Vec<(u32, u64)>,
    /// Lines that were forgotten before they were asked for.
    pub missed: u64,
    /// Workers that have not answered in time, and why.
    pub silent: Vec<(u32, String)>,
}

/// Spans of authors' programs on workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpansView {
    /// The spans, by worker and in the order in which they ended there.
    pub spans: Vec<AuthorSpan>,
    /// By worker: after this number more may follow.
    pub next: Vec<(u32, u64)>,
    /// Spans that were forgotten before they were asked for.
    pub missed: u64,
    /// Workers that have not answered in time, and why.
    pub silent: Vec<(u32, String)>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { head } => write!(
                f,
                "the head speaks version {head} of what is shown, and this is version {VIEW}: take the `regatta` that came with the \
                 head's version of Regatta"
            ),
            Self::NoSuch(why) | Self::TooMuch(why) | Self::Failed(why) => f.write_str(&crate::line(why)),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests;
