//! A plan in words.

use std::fmt;

use super::{QueryPlan, Read, Scatter, Split, Stage};
use crate::sched::Way;
use crate::udf::RunOn;

impl fmt::Display for QueryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last().map(|stage| stage.id);
        for stage in &self.stages {
            let to = if Some(stage.id) == last { "the result" } else { "the stage that reads it" };
            write_stage(stage, f)?;
            writeln!(f, "  -> {to}")?;
        }
        Ok(())
    }
}

fn write_stage(stage: &Stage, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let parts = stage.splits.len();
    let what = if stage.program().is_some() { "task" } else { "partition" };
    match (parts, if parts == 1 { "" } else { "s" }) {
        (0, _) => writeln!(f, "stage {}: tasks as what it reads turns out ({})", stage.id.0, stage.why)?,
        (parts, s) => writeln!(f, "stage {}: {parts} {what}{s} ({})", stage.id.0, stage.why)?,
    }
    for (input, Read { from, .. }) in stage.reads.iter().enumerate() {
        let mut ways: Vec<_> = stage.modes.iter().filter_map(|mode| mode.ways.get(input)).map(in_words).collect();
        ways.dedup();
        let one = stage.one_attempt.inputs.contains(from);
        let again = if one { "; lost and made again it may be other rows: then all tasks run again" } else { "" };
        writeln!(f, "  reads {} of stage {}{again}", ways.join(", or else "), from.0)?;
    }
    for line in stage.describe.lines() {
        writeln!(f, "  | {line}")?;
    }
    for step in stage.steps() {
        let (least, most) = step.options.replicas;
        let batch = match step.options.batch {
            None => "as they come".to_owned(),
            Some((least, most)) if least == most => format!("of {most} rows"),
            Some((least, most)) => format!("of {least} to {most} rows"),
        };
        write!(
            f,
            "  then UDF {} on [{}], {least}..={most} replicas, batches {batch}",
            step.describe(),
            step.inputs.join(", ")
        )?;
        if step.options.gpus > 0.0 || step.options.gpu_memory > 0 {
            let else_cpus = if step.options.run_on == RunOn::PreferGpu { " if there is one, else on CPUs" } else { "" };
            write!(f, ", {} GPU each{else_cpus}", step.options.gpus)?;
        } else if step.options.run_on == RunOn::CpuOnly {
            write!(f, ", on CPUs")?;
        }
        writeln!(f, "{}", if step.then.is_some() { ", then row-wise work" } else { "" })?;
    }
    if let Some(rows) = stage.program().and_then(|program| program.limit) {
        writeln!(f, "  ends with the first {rows} rows")?;
    }
    if let Some(Scatter { keys, into, .. }) = stage.program().and_then(|program| program.scatter.as_ref()) {
        let s = if *into == 1 { "" } else { "s" };
        writeln!(f, "  leaves its rows in {into} section{s}, by the hash of {}", keys.join(", "))?;
    }
    Ok(())
}

fn in_words(way: &Way) -> &'static str {
    match way {
        Way::Along => "nothing, but does itself the work",
        Way::Share => "shares",
        Way::Sections => "sections",
        Way::All => "all",
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Files { files, .. } => write!(f, "files {files:?}"),
            Self::Rows { file, offset, len, .. } => write!(f, "file {file} rows {offset}..{}", offset + len),
            Self::Slice { offset, len } => write!(f, "rows {offset}..{}", offset + len),
            Self::Share { part, of } => write!(f, "share {part} of {of}"),
            Self::Branch { input, split } => write!(f, "{split} of input {input}"),
            Self::Sections { from, to } => write!(f, "sections {from}..{to}"),
        }
    }
}
