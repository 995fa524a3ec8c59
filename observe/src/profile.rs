//! What a query did, as data.

use serde::{Deserialize, Serialize};

use crate::{Calls, Explain, Fetched, Histogram, Sample, Spent};

/// The version of this form. Fields are only added within one.
pub const VERSION: u32 = 1;

/// What a query does, or did. Times are in nanoseconds since it was submitted, sizes in bytes. `{}` shows it as a tree with what
/// was found, `{:#}` with everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Profile {
    /// [`VERSION`]; first, so that whatever reads it knows what it has.
    pub regatta_profile: u32,
    /// The build that made it.
    pub build: String,
    /// The whole of it.
    pub query: QueryFigures,
    /// How it is run.
    pub plan: Explain,
    /// What its stages did.
    pub stages: Vec<StageFigures>,
    /// What its stages read of each other.
    pub edges: Vec<EdgeFigures>,
    /// Its UDFs' replicas.
    pub pools: Vec<PoolFigures>,
    /// Workers that had something of it.
    pub workers: Vec<WorkerFigures>,
    /// How busy they were, over time.
    pub strips: Strips,
    /// Some of its tasks' attempts: all that ran when this was made, those that failed, the slowest, and every so many-th.
    pub tasks: Vec<TaskRecord>,
    /// What went wrong, also where it was made good.
    pub errors: Vec<ErrorRecord>,
    /// What is wrong, by which figures, and what to change.
    pub findings: Vec<Finding>,
    /// What was left out of this, because it would have been too much.
    pub dropped: Dropped,
    /// What is missing in these figures, and why.
    pub incomplete: Vec<String>,
}

/// Where a query stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryState {
    /// It waits or runs.
    #[default]
    Running,
    /// All of its result was there.
    Done,
    /// It has failed.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

/// The whole of a query.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryFigures {
    /// Its number, in hexadecimal digits.
    pub id: String,
    /// What its author calls it.
    pub name: Option<String>,
    /// Whose it is: the node of its driver; `None`: the head's own.
    pub driver: Option<String>,
    /// Where it stands.
    pub state: QueryState,
    /// Why it has failed.
    pub error: Option<String>,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted_ms: u64,
    /// How long planning took, before it was submitted.
    pub planned: u64,
    /// From there to its first task.
    pub waited: u64,
    /// From its first task to the whole result, or to now.
    pub ran: u64,
    /// From the whole result to when it had been taken.
    pub result: u64,
    /// Rows of the result so far.
    pub rows: u64,
    /// Bytes of the result so far.
    pub bytes: u64,
    /// How long attempts ran, all together, also those that do not count.
    pub busy: u64,
    /// How much of that was of attempts that failed, were lost, or did again what had been done.
    pub again: u64,
    /// Workers that are there, or were when it ended, also those that had nothing of it.
    pub workers: u32,
    /// Their CPUs.
    pub cpus: f64,
}

/// Where a stage stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// None of its tasks has started.
    #[default]
    Waiting,
    /// Some have.
    Running,
    /// All that were needed are done.
    Done,
    /// Its query ended before they were.
    Stopped,
}

/// What a stage did. Rows and bytes are of outputs that stand: a task counts once, whatever was lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageFigures {
    /// Its number.
    pub stage: u32,
    /// Where it stands.
    pub state: StageState,
    /// How many tasks it has, once that is known.
    pub tasks: Option<u32>,
    /// How many it had before that changed.
    pub tasks_before: Option<u32>,
    /// Why it has so many, where that was decided when what it reads had been measured.
    pub shape: String,
    /// Tasks that run, or wait at their worker.
    pub running: u32,
    /// Tasks that are done, and whose output stands.
    pub done: u32,
    /// It was done before all of its tasks were: there was enough.
    pub enough: bool,
    /// Attempts that failed.
    pub failed: u32,
    /// Attempts that were lost with their worker, or given up for another.
    pub lost: u32,
    /// Attempts that were stopped, or found their input gone.
    pub stopped: u32,
    /// Attempts that did again what had been done, or was done by another at the same time that was late.
    pub again: u32,
    /// When its first task started.
    pub started: Option<u64>,
    /// When it was done.
    pub ended: Option<u64>,
    /// Rows that its tasks left.
    pub rows: u64,
    /// Bytes that they left.
    pub bytes: u64,
    /// How long attempts ran, all together.
    pub busy: u64,
    /// How much of that was of attempts that failed, were lost, or did again what had been done.
    pub busy_again: u64,
    /// What they spent it on.
    pub spent: Spent,
    /// How long attempts that succeeded ran, in microseconds.
    pub durations: Histogram,
    /// How many rows each task left.
    pub rows_each: Histogram,
    /// How many bytes each task left.
    pub bytes_each: Histogram,
    /// The attempt that ran longest: its task, worker and time.
    pub slowest: Option<(u32, u32, u64)>,
    /// The task that left most rows: its number, worker and rows.
    pub largest: Option<(u32, u32, u64)>,
    /// What each worker did: its number, attempts that ended there, and how long they ran.
    pub workers: Vec<(u32, u64, u64)>,
    /// What its tasks, batches and replicas waited for.
    pub waits: Vec<WaitFigures>,
}

/// What a stage waited for. Sampled: so many of them, times so long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitFigures {
    /// One of a few words: `inputs`, `workers`, `alone`, `capacity`, `worker`, `task`, `back_off`, `replica`, `start`, `credit`.
    pub kind: String,
    /// For what, for people.
    pub on: String,
    /// How long, times how many.
    pub time: u64,
}

/// What a stage read of another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeFigures {
    /// Who left it.
    pub from: u32,
    /// Who read it.
    pub to: u32,
    /// What was read, also by attempts that do not count.
    pub fetched: Fetched,
}

/// A UDF's replicas, as far as they served one step of the query.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolFigures {
    /// The stage.
    pub stage: u32,
    /// Which of its UDF steps.
    pub step: u32,
    /// The UDF's registered name.
    pub udf: String,
    /// The least and the most replicas that were asked for.
    pub replicas: (u32, u32),
    /// The most rows of a call that were asked for.
    pub batch: Option<u32>,
    /// GPUs of each replica.
    pub gpus: f64,
    /// Replicas that serve it.
    pub ready: u32,
    /// The most that did at one time.
    pub most_ready: u32,
    /// Replicas that start, with their last word and the worker.
    pub starting: Vec<(u32, Option<String>)>,
    /// Replicas that were started for it.
    pub started: u32,
    /// Replicas that failed.
    pub failed: u32,
    /// Replicas that hung in a call.
    pub hung: u32,
    /// Replicas that went with their worker.
    pub lost: u32,
    /// How long starts took, all together.
    pub start: u64,
    /// How long replicas served it, all together.
    pub alive: u64,
    /// Its calls.
    pub calls: Calls,
    /// Batches that wait for room now.
    pub waiting: u32,
    /// How long batches waited for room, all together.
    pub waited: u64,
    /// What the UDF reports about itself: names and sums of counters. Each batch counts once.
    pub reported: Vec<(String, f64)>,
    /// What it reported in attempts that failed, or did again what had been done.
    pub in_vain: Vec<(String, f64)>,
}

/// A worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerFigures {
    /// Its number.
    pub worker: u32,
    /// Its CPUs.
    pub cpus: f64,
    /// Its GPUs.
    pub gpus: f64,
    /// Bytes of memory that it was given; 0: not known.
    pub memory: u64,
    /// Why it was lost.
    pub lost: Option<String>,
    /// Attempts of the query that ended there.
    pub attempts: u64,
    /// How long they ran, all together.
    pub busy: u64,
    /// What its process used last.
    pub sample: Sample,
}

/// How busy workers were, over time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Strips {
    /// How long a bin is.
    pub bin: u64,
    /// By worker: how long attempts ran there in each bin, all together.
    pub workers: Vec<(u32, Vec<u64>)>,
}

/// How an attempt ended, or that it has not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It runs, or waits at its worker.
    #[default]
    Running,
    /// It has left its output.
    Done,
    /// It has failed.
    Failed,
    /// It was lost with its worker, or given up for another.
    Lost,
    /// It was stopped, or found its input gone.
    Stopped,
}

/// An attempt of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskRecord {
    /// Its stage.
    pub stage: u32,
    /// The task's number in the stage.
    pub task: u32,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Where.
    pub worker: u32,
    /// When it was given to the worker.
    pub placed: u64,
    /// How long it ran there.
    pub ran: u64,
    /// Rows that it left.
    pub rows: u64,
    /// Bytes that it left.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Something that went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorRecord {
    /// When.
    pub at: u64,
    /// The stage.
    pub stage: Option<u32>,
    /// The task and its attempt, if it was one's.
    pub task: Option<(u32, u32)>,
    /// Where.
    pub worker: Option<u32>,
    /// What, from its beginning and its end.
    pub text: String,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth to know.
    #[default]
    Note,
    /// It costs time or room.
    Warning,
}

/// What is wrong, by which figures, and what to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// Which of the rules.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// The stage that it is about.
    pub stage: Option<u32>,
    /// What is so, with its figures.
    pub says: String,
    /// What to try.
    pub advice: String,
}

/// What was left out, to stay within the bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dropped {
    /// Profiles of queries that had ended.
    pub profiles: u64,
    /// Records of single attempts. Sums hold them all the same.
    pub tasks: u64,
    /// How busy workers were over time.
    pub strips: u64,
    /// What single tasks left: one that runs again then counts again.
    pub outputs: u64,
    /// Errors.
    pub errors: u64,
}

impl Dropped {
    /// Takes in more.
    pub fn merge(&mut self, other: &Self) {
        self.profiles += other.profiles;
        self.tasks += other.tasks;
        self.strips += other.strips;
        self.outputs += other.outputs;
        self.errors += other.errors;
    }
}

impl Profile {
    /// The figures of a stage.
    pub fn stage(&self, stage: u32) -> Option<&StageFigures> {
        // They are in order.
        let there = self.stages.get(stage as usize).filter(|of| of.stage == stage);
        there.or_else(|| self.stages.iter().find(|of| of.stage == stage))
    }

    /// The pools of a stage.
    pub fn pools_of(&self, stage: u32) -> impl Iterator<Item = &PoolFigures> {
        self.pools.iter().filter(move |pool| pool.stage == stage)
    }

    /// What a stage read.
    pub fn edges_to(&self, stage: u32) -> impl Iterator<Item = &EdgeFigures> {
        self.edges.iter().filter(move |edge| edge.to == stage)
    }

    /// What was read between stages, in all.
    pub fn exchanged(&self) -> Fetched {
        let mut all = Fetched::default();
        self.edges.iter().for_each(|edge| all.merge(&edge.fetched));
        all
    }

    /// From the submit to the result or to now.
    pub fn took(&self) -> u64 {
        self.query.waited + self.query.ran
    }

    /// CPUs that it could have had.
    pub fn cpus(&self) -> f64 {
        let had: f64 = self.workers.iter().map(|worker| worker.cpus).sum();
        had.max(self.query.cpus)
    }
}

impl PoolFigures {
    /// The part of its replicas' time in which they were busy; `None` if that is not known.
    pub fn busy_share(&self) -> Option<f64> {
        (self.alive > 0 && self.calls.call.count() > 0).then(|| (self.calls.busy as f64 / self.alive as f64).min(1.0))
    }
}
