//! What the recorder is told: steps of the scheduler, and the figures that came with them.

use serde::{Deserialize, Serialize};

use crate::{Explain, Histogram, Metrics, MetricsByUdf, QueryId, StageId, StepId, TaskId, WorkerId};

/// One replica of a pool of UDF replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The pool, which may serve several steps and queries.
    pub pool: u64,
    /// Its number in the pool.
    pub rank: u32,
}

/// Something that has happened. Times come beside it, in nanoseconds since the session began.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Seen<'a> {
    /// A worker has joined.
    Joined {
        /// Which.
        worker: WorkerId,
        /// Its CPUs.
        cpus: f64,
        /// Its GPUs.
        gpus: f64,
        /// Bytes of memory that it may use; 0: not known.
        memory: u64,
    },
    /// A worker was lost, with all that it did and held.
    Lost {
        /// Which.
        worker: WorkerId,
        /// Why, for people.
        why: &'a str,
    },
    /// A worker was let go.
    Retired(WorkerId),
    /// A worker says what it uses.
    Pulse(WorkerId, Sample),
    /// A query was submitted.
    Submitted(Submitted<'a>),
    /// The rows of a stage are the driver's, and there from the beginning.
    Given {
        /// Of which query.
        query: QueryId,
        /// Which stage.
        stage: StageId,
        /// Rows.
        rows: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A stage has so many tasks: said once that is known, and again if it changes.
    Tasks {
        /// Of which query.
        query: QueryId,
        /// Which stage.
        stage: StageId,
        /// How many.
        tasks: u32,
        /// Why, if that was decided with what it reads.
        why: &'a str,
    },
    /// An attempt of a task was given to a worker.
    Placed {
        /// The task.
        task: TaskId,
        /// Which attempt, from 1.
        attempt: u32,
        /// Where.
        worker: WorkerId,
    },
    /// The same of one that does what another does already, elsewhere: that one is late, and the first end counts.
    PlacedBeside {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Where.
        worker: WorkerId,
    },
    /// An attempt has ended.
    Ended {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// How.
        end: End<'a>,
        /// How long it ran there, by the worker's clock, in nanoseconds; `None`: as long as it was there.
        ran: Option<u64>,
        /// What its UDF calls have reported.
        metrics: &'a MetricsByUdf,
    },
    /// What tasks of a stage took, on one worker.
    Spent {
        /// Of which query.
        query: QueryId,
        /// Which stage.
        stage: StageId,
        /// What.
        spent: &'a Spent,
    },
    /// A stage is done: all of its tasks, or as many as were needed.
    StageDone {
        /// Of which query.
        query: QueryId,
        /// Which.
        stage: StageId,
    },
    /// A replica is started.
    ReplicaStarts {
        /// Which.
        replica: Replica,
        /// Who is the first to need it.
        step: StepId,
        /// Where.
        worker: WorkerId,
    },
    /// A replica that starts says what it does.
    ReplicaSays {
        /// Which.
        replica: Replica,
        /// What.
        doing: &'a str,
    },
    /// A replica takes batches.
    ReplicaReady(Replica),
    /// It takes batches of this step.
    Serves {
        /// Which.
        replica: Replica,
        /// Whose.
        step: StepId,
    },
    /// A replica is no more.
    ReplicaGone {
        /// Which.
        replica: Replica,
        /// Why.
        why: Gone<'a>,
    },
    /// So many batches of tasks on this worker wait for room at a replica of this step; 0: no longer.
    Credit {
        /// Of whose.
        step: StepId,
        /// Where.
        worker: WorkerId,
        /// How many.
        batches: u32,
    },
    /// What a replica had still to report when it was stopped.
    ReplicaReports {
        /// Whose batches it took last.
        step: StepId,
        /// What.
        metrics: &'a Metrics,
    },
    /// Tasks, batches or replicas of a stage waited: so many of them times so long. Sampled.
    Waited {
        /// Of which query.
        query: QueryId,
        /// Which stage.
        stage: StageId,
        /// For what, as one of a few words.
        kind: &'static str,
        /// For what, for people.
        on: &'a str,
        /// How many.
        count: u64,
        /// For how long, in nanoseconds.
        time: u64,
    },
    /// The whole result of a query is there.
    Done(QueryId),
    /// A query has failed.
    Failed(QueryId, &'a str),
    /// Nobody wants more of a query: if it was not done, it is cancelled.
    Released(QueryId),
}

/// A query as it begins.
#[derive(Debug, Clone)]
pub struct Submitted<'a> {
    /// Which.
    pub query: QueryId,
    /// What its author calls it.
    pub name: Option<&'a str>,
    /// How it is run.
    pub plan: &'a Explain,
    /// How long planning took, in nanoseconds.
    pub planned: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    /// It has left so many rows and bytes.
    Done {
        /// Rows.
        rows: u64,
        /// Bytes.
        bytes: u64,
    },
    /// It has failed, for this reason.
    Failed(&'a str),
    /// It was stopped, or given up, as nobody wants it.
    Cancelled,
    /// What it reads is not there any more: no fault of its own.
    InputLost(&'a str),
}

/// Why a replica is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone<'a> {
    /// It was stopped.
    Stopped,
    /// It has failed.
    Failed(&'a str),
    /// It did not come back from a call.
    Hung,
}

/// What a worker's process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// CPU time since it began, in nanoseconds.
    pub cpu: u64,
    /// Bytes of memory that are resident.
    pub memory: u64,
    /// The most that were.
    pub peak: u64,
}

/// What tasks of one stage took, in sum. Times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// What follows the engine waited for the inputs to be fetched, before the first batch.
    pub fetch: u64,
    /// It waited for the engine.
    pub engine: u64,
    /// It waited for UDFs.
    pub udf: u64,
    /// It wrote.
    pub write: u64,
    /// What was read of other stages.
    pub inputs: Vec<(u32, Fetched)>,
    /// What UDF calls took, by step.
    pub calls: Vec<(u32, Calls)>,
    /// What the nodes of Polars' engine did, sources first, where that was asked for.
    pub nodes: Vec<EngineNode>,
}

/// What one node of Polars' engine did in the tasks of a stage, in sum.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineNode {
    /// What Polars calls it.
    pub name: String,
    /// Which of that name it is, from 0.
    pub nth: u32,
    /// Rows that came in, of all its inputs.
    pub rows_in: u64,
    /// Rows that went out.
    pub rows_out: u64,
    /// CPU time of it, of all threads, in nanoseconds.
    pub time: u64,
    /// How long it read or wrote.
    pub io: u64,
    /// Bytes that it read or wrote; of files that are mapped into memory Polars does not know it.
    pub io_bytes: u64,
}

/// What was read of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fetched {
    /// Rows.
    pub rows: u64,
    /// Bytes that were in this process.
    pub here: u64,
    /// Bytes that were in a file of this machine.
    pub mapped: u64,
    /// Bytes that came over the network, from where they were.
    pub network: u64,
    /// Bytes that came by way of another node, for there was no other.
    pub relayed: u64,
}

/// What calls of a UDF took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Calls {
    /// Rows that went in.
    pub rows: u64,
    /// From the call to its answer, in microseconds: waiting for room at a replica too.
    pub call: Histogram,
    /// How long replicas were busy with them, in nanoseconds.
    pub busy: u64,
    /// Calls that were made again.
    pub retried: u64,
}

impl Spent {
    /// Takes in what others took.
    pub fn merge(&mut self, other: &Self) {
        let Self { fetch, engine, udf, write, inputs, calls, nodes } = other;
        add(&mut self.fetch, *fetch);
        add(&mut self.engine, *engine);
        add(&mut self.udf, *udf);
        add(&mut self.write, *write);
        for (stage, fetched) in inputs {
            entry(&mut self.inputs, *stage).merge(fetched);
        }
        for (step, more) in calls {
            entry(&mut self.calls, *step).merge(more);
        }
        nodes.iter().for_each(|node| self.node(node));
    }

    /// Takes in what a node of the engine did. Those beyond so many are told together.
    pub fn node(&mut self, more: &EngineNode) {
        let is_it = |node: &EngineNode| node.nth == more.nth && node.name == more.name;
        let at = self.nodes.iter().position(is_it).unwrap_or_else(|| {
            if self.nodes.len() < NODES {
                self.nodes.push(EngineNode { name: more.name.clone(), nth: more.nth, ..EngineNode::default() });
            } else if self.nodes.len() == NODES {
                self.nodes.push(EngineNode { name: "others".to_owned(), ..EngineNode::default() });
            }
            self.nodes.len() - 1
        });
        let node = &mut self.nodes[at];
        add(&mut node.rows_in, more.rows_in);
        add(&mut node.rows_out, more.rows_out);
        add(&mut node.time, more.time);
        add(&mut node.io, more.io);
        add(&mut node.io_bytes, more.io_bytes);
    }

    /// All the time of it.
    pub fn time(&self) -> u64 {
        [self.fetch, self.engine, self.udf, self.write].into_iter().fold(0, u64::saturating_add)
    }

    /// What has been said of a step.
    pub fn call_mut(&mut self, step: u32) -> &mut Calls {
        entry(&mut self.calls, step)
    }

    /// What has been said of an input.
    pub fn input_mut(&mut self, stage: u32) -> &mut Fetched {
        entry(&mut self.inputs, stage)
    }
}

/// Nodes of the engine that are told one by one.
const NODES: usize = 64;

/// What a worker says of itself may be anything.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn entry<T: Default>(all: &mut Vec<(u32, T)>, key: u32) -> &mut T {
    let at = all.iter().position(|(of, _)| *of == key).unwrap_or_else(|| {
        all.push((key, T::default()));
        all.len() - 1
    });
    &mut all[at].1
}

impl Fetched {
    /// Takes in what others read.
    pub fn merge(&mut self, other: &Self) {
        add(&mut self.rows, other.rows);
        add(&mut self.here, other.here);
        add(&mut self.mapped, other.mapped);
        add(&mut self.network, other.network);
        add(&mut self.relayed, other.relayed);
    }

    /// All bytes, whichever way they came.
    pub fn bytes(&self) -> u64 {
        [self.here, self.mapped, self.network, self.relayed].into_iter().fold(0, u64::saturating_add)
    }
}

impl Calls {
    /// Takes in others.
    pub fn merge(&mut self, other: &Self) {
        add(&mut self.rows, other.rows);
        self.call.merge(&other.call);
        add(&mut self.busy, other.busy);
        add(&mut self.retried, other.retried);
    }
}
