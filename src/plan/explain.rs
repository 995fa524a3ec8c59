//! A plan as what people see of it.

use std::fmt;

use regatta_observe::{Explain, Node, NodeKind, Reads, StagePlan, UdfPlan};

use super::label::label;
use super::{QueryPlan, Read, Scatter, Split, Stage, UdfStep};
use crate::sched::{Part, Way};
use crate::udf::RunOn;

impl fmt::Display for QueryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explained().fmt(f)
    }
}

impl QueryPlan {
    /// The plan as data.
    pub(crate) fn explained(&self) -> Explain {
        let mut nodes = Vec::new();
        for stage in &self.stages {
            explain_nodes(stage, &mut nodes);
        }
        Explain::new(self.stages.iter().map(explain_stage).collect(), nodes)
    }
}

fn explain_stage(stage: &Stage) -> StagePlan {
    let reads = stage.reads.iter().enumerate().map(|(input, Read { from, .. })| {
        let mut ways: Vec<_> = stage.modes.iter().filter_map(|mode| mode.ways.get(input)).map(in_words).collect();
        ways.dedup();
        Reads { stage: from.0, what: ways.join(", or else "), one_attempt: stage.one_attempt.inputs.contains(from) }
    });
    let scatter = stage.program().and_then(|program| program.scatter.as_ref());
    StagePlan {
        stage: stage.id.0,
        // Else its shape decides that.
        tasks: stage.tasks().map(|tasks| tasks as u32),
        given: stage.program().is_none(),
        why: stage.why.clone(),
        reads: reads.collect(),
        limit: stage.program().and_then(|program| program.limit),
        scatter: scatter.map(|Scatter { keys, into, ranges_of, .. }| {
            (ranges_of.as_ref().map_or_else(|| keys.clone(), |of| vec![of.clone()]), *into as u32)
        }),
        ranges: scatter.is_some_and(|scatter| scatter.ranges_of.is_some()),
    }
}

/// What a stage does, in the order of its rows.
fn explain_nodes(stage: &Stage, nodes: &mut Vec<Node>) {
    let first = nodes.len() as u32;
    let next = |nodes: &Vec<Node>| Node {
        id: nodes.len() as u32,
        stage: stage.id.0,
        inputs: (nodes.len() as u32).checked_sub(1).filter(|before| *before >= first).into_iter().collect(),
        ..Node::default()
    };
    let kind = if stage.program().is_some() { NodeKind::Fragment } else { NodeKind::Frame };
    let details = stage.describe.lines().map(str::to_owned).collect();
    let label = if kind == NodeKind::Frame { "frame".to_owned() } else { label(&stage.describe) };
    nodes.push(Node { kind, label, details, ..next(nodes) });
    for (number, step) in stage.steps().iter().enumerate() {
        let udf = explain_udf(number as u32, step);
        let label = udf.udf.rsplit("::").next().unwrap_or(&udf.udf).to_owned();
        nodes.push(Node { kind: NodeKind::Udf, label, udf: Some(udf), ..next(nodes) });
    }
}

fn explain_udf(number: u32, step: &UdfStep) -> UdfPlan {
    let number_of = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
    let options = &step.options;
    let wants_gpu = options.gpus > 0.0 || options.gpu_memory > 0;
    let on = if wants_gpu {
        let else_cpus = if options.run_on == RunOn::PreferGpu { " if there is one, else on CPUs" } else { "" };
        Some(format!("{} GPU each{else_cpus}", options.gpus))
    } else {
        (options.run_on == RunOn::CpuOnly).then(|| "on CPUs".to_owned())
    };
    UdfPlan {
        step: number,
        udf: step.udf.clone(),
        does: step.describe(),
        inputs: step.inputs.clone(),
        replicas: (number_of(options.replicas.0), number_of(options.replicas.1)),
        batch: options.batch.map(|(least, most)| (number_of(least), number_of(most))),
        gpus: options.gpus,
        wants_gpu,
        on,
        then: step.then.is_some(),
    }
}

fn in_words(way: &Way) -> &'static str {
    match way {
        Way::Along => "nothing, but does itself the work",
        Way::Share => "shares",
        Way::Sections => "sections",
        Way::All => "all",
        Way::Without => "nothing",
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Files { files, .. } => write!(f, "files {files:?}"),
            Self::Rows { file, offset, len, .. } => write!(f, "file {file} rows {offset}..{}", offset + len),
            Self::Lines { file, from, to } => write!(f, "file {file} bytes {}..{}", from.at, to.at),
            Self::Slice { offset, len } => write!(f, "rows {offset}..{}", offset + len),
            Self::Share { part, of, .. } => write!(f, "share {part} of {of}"),
            Self::Branch { input, split } => write!(f, "{split} of input {input}"),
            Self::Sections { from, to, part: None } => write!(f, "sections {from}..{to}"),
            Self::Sections { from, to, part: Some(Part { number, of, .. }) } => {
                write!(f, "sections {from}..{to} ({number} of {of})")
            }
        }
    }
}
