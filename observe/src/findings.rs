//! What is wrong with a query, by which figures, and what to change.

mod pools;
mod stages;
mod workers;

use std::fmt;

use crate::{Finding, Profile, Severity, StageFigures, line};

/// A rule over a profile.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name, in findings and in the guide.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// When it speaks.
    pub when: &'static str,
    /// What to do.
    pub advice: &'static str,
    check: fn(&Profile) -> Vec<Said>,
}

/// What a rule has found.
struct Said {
    stage: Option<u32>,
    says: String,
    advice: String,
}

impl Said {
    fn of(stage: u32, says: String, advice: impl Into<String>) -> Self {
        Self { stage: Some(stage), says, advice: advice.into() }
    }
}

/// All rules, in the order in which they speak.
pub const RULES: &[Rule] = &[
    Rule {
        id: "pool-bound",
        severity: Severity::Warning,
        when: "tasks of a stage spend more than half of their time waiting for a UDF whose replicas are busy for more than 90 % of theirs",
        advice: "more replicas, if CPUs or GPUs are free; else larger batches, or more workers",
        check: pools::bound,
    },
    Rule {
        id: "pool-idle",
        severity: Severity::Note,
        when: "replicas of a UDF that served for more than 10 s were busy for less than 20 % of it",
        advice: "fewer replicas; or more partitions, so that rows arrive from more tasks at once (rows >= batch x replicas / workers)",
        check: pools::idle,
    },
    Rule {
        id: "start-dominates",
        severity: Severity::Note,
        when: "starting a replica took more than 30 % of a query that took more than 2 s",
        advice: "keep the pool warm for the next query (`keep_warm`), or persist what it made (`persist_on`)",
        check: pools::start,
    },
    Rule {
        id: "small-batches",
        severity: Severity::Note,
        when: "calls of a UDF had less than half of the rows that its `batch` asks for, in 16 calls or more, and replicas were busy with them for more than a second",
        advice: "fewer, larger partitions, as a call never holds rows of two of them; or a smaller `batch`",
        check: pools::small_batches,
    },
    Rule {
        id: "gpu-fallback",
        severity: Severity::Warning,
        when: "a UDF that was to use GPUs where there are some ran batches on CPUs",
        advice: "`session.status()` says of each worker why it has no GPU, or none that is free",
        check: pools::gpu_fallback,
    },
    Rule {
        id: "skew",
        severity: Severity::Warning,
        when: "the slowest task of a stage took more than three times the middle one's time, and more than 10 % of the query longer than three of four others",
        advice: "`repartition` by another key, or more partitions",
        check: stages::skew,
    },
    Rule {
        id: "whole-stage",
        severity: Severity::Warning,
        when: "a stage of one task took more than half of a query of more than 2 s, though there were several workers",
        advice: "explain says why it is not split; what is row-wise can be done before it",
        check: stages::whole,
    },
    Rule {
        id: "tiny-tasks",
        severity: Severity::Note,
        when: "a stage has more than 10,000 tasks, half of which took less than 5 ms",
        advice: "fewer partitions: `into_partitions(n)`",
        check: stages::tiny_tasks,
    },
    Rule {
        id: "few-tasks",
        severity: Severity::Note,
        when: "the stage that took more than half of a query of more than 2 s has fewer tasks than there are CPUs",
        advice: "more partitions: `into_partitions(n)`",
        check: stages::few_tasks,
    },
    Rule {
        id: "waited-for-room",
        severity: Severity::Note,
        when: "a query waited for more than 20 % of its time, and for more than a second, before its first task started",
        advice: "more workers; a smaller request of its UDFs; fewer queries at once; where it was for the `start` of a UDF, a shorter one, or replicas that stay warm",
        check: stages::waited,
    },
    Rule {
        id: "memory-near",
        severity: Severity::Warning,
        when: "a worker's memory came to more than 90 % of what it was given",
        advice: "more memory, more partitions, or fewer tasks at once",
        check: workers::memory,
    },
    Rule {
        id: "relayed",
        severity: Severity::Warning,
        when: "more than 10 % of what stages read of each other, and more than a mebibyte, went by way of another node",
        advice: "let the workers reach each other: open their UDP ports between their machines",
        check: workers::relayed,
    },
    Rule {
        id: "retries",
        severity: Severity::Warning,
        when: "more than 1 % of the attempts of a stage failed, or calls of its UDF were made again",
        advice: "the errors of the profile say why",
        check: workers::retries,
    },
    Rule {
        id: "lost-worker",
        severity: Severity::Warning,
        when: "a worker was lost that had something of the query",
        advice: "the reason says whether its process ended, by what, or could not be reached",
        check: workers::lost,
    },
];

/// What all rules find in a profile.
pub fn findings(profile: &Profile) -> Vec<Finding> {
    let found = RULES.iter().flat_map(|rule| {
        (rule.check)(profile).into_iter().map(|Said { stage, says, advice }| Finding {
            id: rule.id.to_owned(),
            severity: rule.severity,
            stage,
            says,
            advice,
        })
    });
    found.collect()
}

const SECOND: u64 = 1_000_000_000;

/// How long a stage has taken.
fn time_of(stage: &StageFigures, profile: &Profile) -> u64 {
    let end = stage.ended.unwrap_or_else(|| profile.took());
    stage.started.map_or(0, |began| end.saturating_sub(began))
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.iter().try_for_each(|stage| write!(f, "stage {stage}: "))?;
        let (says, advice) = (line(&self.says), line(self.advice.trim_end_matches('.')));
        write!(f, "{says}  {advice}. ({})", line(&self.id))
    }
}

#[cfg(test)]
mod tests;
