//! How a query is run, as data: stages, what is in each, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::line;

/// A query's stages and what they are made of. `{}` tells it to people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Explain {
    /// Inputs come before those that read them; the last one yields the result.
    pub stages: Vec<StagePlan>,
    /// What the stages do, each after what it reads.
    pub nodes: Vec<Node>,
}

/// A part of a query whose output is partitions, one for each of its tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagePlan {
    /// Its number.
    pub stage: u32,
    /// How many tasks it has; not known for one that decides that when its inputs are there.
    pub tasks: Option<u32>,
    /// Its rows are a frame of the driver: it has partitions, and no tasks.
    pub given: bool,
    /// Why it has these tasks.
    pub why: String,
    /// What it reads of other stages.
    pub reads: Vec<Reads>,
    /// How many rows of its first tasks are enough.
    pub limit: Option<u64>,
    /// Columns by whose hash it leaves its rows, and in how many sections.
    pub scatter: Option<(Vec<String>, u32)>,
    /// It leaves them by ranges of those columns instead.
    pub ranges: bool,
}

/// What a stage reads of another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reads {
    /// Of which.
    pub stage: u32,
    /// What each task reads: `all`, `shares` or `a hash partition`.
    pub what: String,
    /// Lost and made again it may be other rows: then all tasks run again.
    pub one_attempt: bool,
}

/// What a stage does at one point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its number in the plan.
    pub id: u32,
    /// The stage that it is in.
    pub stage: u32,
    /// What kind of work it is.
    pub kind: NodeKind,
    /// What it does, in a line.
    pub label: String,
    /// More of it, in lines.
    pub details: Vec<String>,
    /// The nodes of the same stage whose rows it takes.
    pub inputs: Vec<u32>,
    /// What is known of a UDF.
    pub udf: Option<UdfPlan>,
}

/// What kind of work a node does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeKind {
    /// What Polars runs.
    #[default]
    Fragment,
    /// Calls of a UDF.
    Udf,
    /// Rows that the driver holds.
    Frame,
}

/// A UDF call of a stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UdfPlan {
    /// Which of the stage's UDF steps, from 0.
    pub step: u32,
    /// Its registered name.
    pub udf: String,
    /// What it does, for people: its name, or those of several that are one.
    pub does: String,
    /// Columns that it is handed.
    pub inputs: Vec<String>,
    /// The least and the most replicas.
    pub replicas: (u32, u32),
    /// The least and the most rows of a call; `None`: as they come.
    pub batch: Option<(u32, u32)>,
    /// GPUs of each replica.
    pub gpus: f64,
    /// It runs on GPUs, or is to where there are some.
    pub wants_gpu: bool,
    /// Where it runs, if that was asked for.
    pub on: Option<String>,
    /// Row-wise work follows it, in the same stage.
    pub then: bool,
}

impl Explain {
    /// A plan of these stages and nodes.
    pub fn new(stages: Vec<StagePlan>, nodes: Vec<Node>) -> Self {
        Self { stages, nodes }
    }

    /// The stage with this number.
    pub fn stage(&self, stage: u32) -> Option<&StagePlan> {
        // They are in order.
        let there = self.stages.get(stage as usize).filter(|of| of.stage == stage);
        there.or_else(|| self.stages.iter().find(|of| of.stage == stage))
    }

    /// What a stage does, in the order of its rows.
    pub fn nodes_of(&self, stage: u32) -> impl DoubleEndedIterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.stage == stage)
    }

    /// The UDFs of a stage, by step.
    pub fn udfs_of(&self, stage: u32) -> impl Iterator<Item = &UdfPlan> {
        self.nodes_of(stage).filter_map(|node| node.udf.as_ref())
    }

    /// What a stage does, in a line: `scan orders.parquet, Embed`.
    pub fn label(&self, stage: u32) -> String {
        let labels: Vec<_> = self.nodes_of(stage).map(|node| node.label.as_str()).collect();
        labels.join(", ")
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let stages = self.stages.iter().map(|stage| size_of::<StagePlan>() + stage.why.len() + stage.reads.len() * 64);
        let text = |node: &Node| node.label.len() + node.details.iter().map(|line| line.len() + 24).sum::<usize>();
        let nodes = self.nodes.iter().map(|node| size_of::<Node>() + size_of::<UdfPlan>() + text(node));
        stages.sum::<usize>() + nodes.sum::<usize>()
    }
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.stages.last().map(|stage| stage.stage);
        for stage in &self.stages {
            let to = if Some(stage.stage) == last { "the result" } else { "the stage that reads it" };
            self.write_stage(stage, f)?;
            writeln!(f, "  -> {to}")?;
        }
        Ok(())
    }
}

impl Explain {
    fn write_stage(&self, stage: &StagePlan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if stage.given { "partition" } else { "task" };
        let parts = match stage.tasks {
            Some(1) => format!("1 {what}"),
            Some(parts) => format!("{parts} {what}s"),
            None => format!("{what}s as what it reads turns out"),
        };
        writeln!(f, "stage {}: {parts} ({})", stage.stage, line(&stage.why))?;
        for Reads { stage, what, one_attempt } in &stage.reads {
            let again =
                if *one_attempt { "; lost and made again it may be other rows: then all tasks run again" } else { "" };
            writeln!(f, "  reads {} of stage {stage}{again}", line(what))?;
        }
        for node in self.nodes_of(stage.stage) {
            node.details.iter().try_for_each(|detail| writeln!(f, "  | {}", line(detail)))?;
            node.udf.iter().try_for_each(|udf| writeln!(f, "  then {udf}"))?;
        }
        if let Some(rows) = stage.limit {
            writeln!(f, "  ends with the first {rows} rows")?;
        }
        if let Some((keys, into)) = &stage.scatter {
            let s = if *into == 1 { "" } else { "s" };
            let by = if stage.ranges { "ranges" } else { "the hash" };
            writeln!(f, "  leaves its rows in {into} section{s}, by {by} of {}", line(&keys.join(", ")))?;
        }
        Ok(())
    }
}

impl fmt::Display for UdfPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { udf, does, inputs, replicas: (least, most), .. } = self;
        let does = if does.is_empty() { udf } else { does };
        let (does, inputs) = (line(does), line(&inputs.join(", ")));
        write!(f, "UDF {does} on [{inputs}], {least}..={most} replicas, batches ")?;
        match self.batch {
            None => write!(f, "as they come")?,
            Some((least, most)) if least == most => write!(f, "of {most} rows")?,
            Some((least, most)) => write!(f, "of {least} to {most} rows")?,
        }
        self.on.iter().try_for_each(|on| write!(f, ", {}", line(on)))?;
        write!(f, "{}", if self.then { ", then row-wise work" } else { "" })
    }
}
