//! What every figure and every finding means, in words: `docs/book/src/observe.md` is printed from here.

use crate::{RULES, Severity};

/// Names, and what they mean.
type Fields = &'static [(&'static str, &'static str)];

/// What each part of a profile is, and its fields.
const FIGURES: &[(&str, &str, Fields)] = &[
    (
        "query",
        "The whole of it.",
        &[
            ("id", "its number, in hexadecimal digits; its last eight are what messages call it"),
            ("name", "what its author calls it"),
            ("driver", "in files of a history: whose it is, the node of its driver; none: the head's own"),
            ("state", "`running`, `done`, `failed` or `cancelled`"),
            ("error", "why it has failed"),
            ("submitted_ms", "when it was submitted, in milliseconds since 1970"),
            ("planned", "how long planning took, before that"),
            ("waited", "from the submit to its first task"),
            ("ran", "from its first task to the whole result, or to now"),
            ("result", "from the whole result to when it had been taken"),
            ("rows", "rows of the result so far"),
            ("bytes", "bytes of the result so far"),
            ("busy", "how long attempts ran, all together, also those that do not count"),
            ("again", "how much of that was of attempts that failed, were lost, or did again what had been done"),
            ("workers", "workers that are there, or were when it ended, also those that had nothing of it"),
            ("cpus", "their CPUs"),
        ],
    ),
    (
        "plan",
        "How it is run.",
        &[
            ("stages", "what `explain` says of each stage: its tasks, why it has them, what it reads"),
            ("nodes", "what the stages do, each node after what it reads"),
        ],
    ),
    (
        "stages",
        "What each stage did. Rows and bytes are of outputs that stand: a task counts once, whatever was lost.",
        &[
            ("stage", "its number"),
            ("state", "`waiting`: none of its tasks has started; `running`; `done`: all that were needed are"),
            ("tasks", "how many it has, once that is known; never for one whose work the tasks do that read it"),
            ("tasks_before", "how many it had before that changed"),
            ("shape", "why it has so many, where that was decided when what it reads had been measured"),
            ("running", "tasks that run, or wait at their worker"),
            ("done", "tasks that are done, and whose output stands"),
            ("enough", "it was done before all of its tasks were: a limit had enough"),
            ("failed", "attempts that failed"),
            ("lost", "attempts that were lost with their worker, or given up for another"),
            ("stopped", "attempts that were stopped, or found their input gone"),
            (
                "again",
                "attempts that did again what had been done, because it was lost, or what another did, because that took so long",
            ),
            ("started", "when its first task started"),
            ("ended", "when it was done"),
            ("rows", "rows that its tasks left"),
            ("bytes", "bytes that they left"),
            ("busy", "how long attempts ran, all together"),
            ("busy_again", "how much of that was of attempts that failed, were lost, or did again what had been done"),
            ("spent", "what they spent it on: the next part"),
            ("durations", "how long attempts that succeeded ran, in microseconds"),
            ("rows_each", "how many rows each task left"),
            ("bytes_each", "how many bytes each task left"),
            ("slowest", "the attempt that ran longest: its task, worker and time"),
            ("largest", "the task that left most rows: its number, worker and rows"),
            ("workers", "what each worker did: its number, attempts that ended there, and how long they ran"),
            (
                "waits",
                "what its tasks, batches and replicas waited for: so many of them, times so long. Sampled, by `kind` and in words (`on`), in `time`",
            ),
        ],
    ),
    (
        "stages.spent",
        "Where the time of tasks went. What follows the engine in a task is always in one of the first four.",
        &[
            ("fetch", "it waited for the inputs to be fetched"),
            ("engine", "it waited for the engine's next batch"),
            ("udf", "it waited for UDFs"),
            ("write", "it wrote"),
            ("inputs", "empty here: `edges` has them"),
            ("calls", "empty here: `pools` has them"),
            (
                "nodes",
                "what the nodes of Polars' streaming engine did, sources first, if the query was analysed (`explain_analyze_on`): `name` and which of that name (`nth`); `rows_in` and `rows_out`; `time`, which is that of all threads; `io`, how long it read or wrote, and `io_bytes`, which Polars does not know of files that are mapped. What runs in memory is one node",
            ),
        ],
    ),
    (
        "edges",
        "What stages read of each other, also for attempts that do not count.",
        &[
            ("from", "who left it"),
            ("to", "who read it"),
            (
                "fetched",
                "`rows`, and bytes by the way they came: `here`, in the same process; `mapped`, from a file of the same machine; `network`, from where they were; `relayed`, by way of another node",
            ),
        ],
    ),
    (
        "pools",
        "The replicas of each UDF step, as far as they served it.",
        &[
            ("stage", "the stage"),
            ("step", "which of its UDF steps"),
            ("udf", "the UDF's registered name"),
            ("replicas", "the least and the most that were asked for"),
            ("batch", "the most rows of a call that were asked for"),
            ("gpus", "GPUs of each replica"),
            ("ready", "replicas that serve it now"),
            ("most_ready", "the most that did at one time"),
            ("starting", "replicas that start, by worker, with their last word"),
            ("started", "replicas that were started for it; 0 if another query had left them warm"),
            ("failed", "replicas that failed"),
            ("hung", "replicas that hung in a call"),
            ("lost", "replicas that went with their worker"),
            ("start", "how long starts took, all together"),
            ("alive", "how long replicas served it, all together"),
            (
                "calls",
                "`rows` that went in; `call`, the spread of the time from a call to its answer in microseconds, with the wait for room; `busy`, how long replicas were at it; `retried`, calls that were made again",
            ),
            ("waiting", "batches that wait for room now"),
            ("waited", "how long batches waited for room, all together"),
            (
                "reported",
                "what the UDF reports about itself: names, and sums of counters or what gauges showed last; each batch counts once",
            ),
            ("in_vain", "the same of attempts that failed, or did again what had been done"),
        ],
    ),
    (
        "workers",
        "Workers that had something of the query, or that are there while it runs.",
        &[
            ("worker", "its number"),
            ("cpus", "its CPUs"),
            ("gpus", "its GPUs"),
            ("memory", "bytes of memory that it was given; 0 if that is not known"),
            ("lost", "why it was lost"),
            ("attempts", "attempts of the query that ended there"),
            ("busy", "how long they ran, all together"),
            ("sample", "what its process used last, for all queries: `cpu` time, `memory`, and the `peak` of that"),
        ],
    ),
    (
        "strips",
        "How busy workers were, over time.",
        &[
            ("bin", "how long a bin is"),
            ("workers", "by worker: how long attempts ran there in each bin, all together"),
        ],
    ),
    (
        "tasks",
        "Some attempts of tasks: those that run, those that failed (100), the slowest of each stage (32), and every so many-th (4096).",
        &[
            ("stage", "the stage"),
            ("task", "the task's number in it"),
            ("attempt", "which attempt, from 1"),
            ("worker", "where"),
            ("placed", "when it was given to the worker"),
            ("ran", "how long it ran there"),
            ("rows", "rows that it left"),
            ("bytes", "bytes that it left"),
            ("outcome", "`running`, `done`, `failed`, `lost` or `stopped`"),
        ],
    ),
    (
        "errors",
        "What went wrong, also where it was made good.",
        &[
            ("at", "when"),
            ("stage", "the stage"),
            ("task", "the task and its attempt, if it was one's"),
            ("worker", "where"),
            ("text", "what, from its beginning and its end"),
        ],
    ),
    (
        "findings",
        "What is wrong, by which figures, and what to change: see below.",
        &[
            ("id", "the rule"),
            ("severity", "`note` or `warning`"),
            ("stage", "the stage that it is about"),
            ("says", "what is so, with its figures"),
            ("advice", "what to try"),
        ],
    ),
    (
        "dropped",
        "What was left out, to stay within the bounds.",
        &[
            ("profiles", "profiles of queries that had ended; 0 in a profile, counted by the session"),
            ("tasks", "records of single attempts; sums hold them all the same"),
            ("strips", "how busy workers were over time"),
            ("outputs", "stages of which it was not kept what each task left: what ran again there counts again"),
            ("errors", "errors"),
        ],
    ),
];

const BEGIN: &str = "# What a query does

A query's `Profile` says what it did, or does so far: `run.profile()`, during its run, after it, and after its result was taken;
`query.explain_analyze_on(&session)` for one whose result nobody wants. `{}` shows it as a tree, `{:#}` with everything; it is also JSON, Mermaid, DOT,
SVG and one HTML file (`to_json()` and so on).

`session.observe()` has the profiles of all queries that are known as frames: `.queries()`, `.stages()`, `.tasks()` and so on.
`session.sql(\"SELECT * FROM regatta_queries\")` has the same as tables: `regatta_` and the frame's name.

This page is printed from the code (`regatta_observe::guide()`), and a test compares.

All figures come from one place: a recorder beside the scheduler, which sees what the scheduler sees. Sums are exact. What is kept has a
bound in bytes (`REGATTA_OBSERVE_MEMORY`, 32 MiB); what is left out for it is counted. Times are in nanoseconds from the submit, unless
something else is said; sizes are in bytes. Spreads are histograms with four buckets a doubling: the least and the most of one are exact,
its quantiles at most a fifth too large. JSON begins with `regatta_profile`, the version of all this, and `build`, which build has made
it; within a version fields are only added. `incomplete` says in words what is missing, and why.

";

const BETWEEN: &str = "# Findings

A profile ends with what is wrong with the query, by which figures, and what to change.

| rule | | speaks when | what to do |
|---|---|---|---|
";

/// The page that says what every figure and every finding means.
pub fn guide() -> String {
    let mut page = BEGIN.to_owned();
    for (part, about, fields) in FIGURES {
        page.push_str(&format!("## `{part}`\n\n{about}\n\n| | |\n|---|---|\n"));
        fields.iter().for_each(|(name, about)| page.push_str(&format!("| `{name}` | {about} |\n")));
        page.push('\n');
    }
    page.push_str(BETWEEN);
    for rule in RULES {
        let severity = match rule.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
        };
        page.push_str(&format!("| `{}` | {severity} | {} | {} |\n", rule.id, rule.when, rule.advice));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn docs_observe_md_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/book/src/observe.md");
        if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
            std::fs::write(path, guide()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == guide(),
            "docs/book/src/observe.md is not what the code says: run this with REGATTA_TEST_GOLDEN=write"
        );
    }

    #[test]
    fn each_rule_has_its_section_on_what_is_slow() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/book/src/slow.md");
        let page = std::fs::read_to_string(path).unwrap();
        let sections = page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
        assert_eq!(sections.collect::<Vec<_>>(), RULES.iter().map(|rule| rule.id).collect::<Vec<_>>());
    }

    #[test]
    fn every_field_of_a_profile_is_said() {
        let profile = serde_json::to_value(crate::testing::lost_worker()).unwrap();
        let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut note = |part: &str, value: &serde_json::Value| {
            let one = if let Some(all) = value.as_array() { &all[0] } else { value };
            parts.insert(part.to_owned(), one.as_object().unwrap().keys().cloned().collect());
        };
        for (part, value) in profile.as_object().unwrap() {
            if !["regatta_profile", "build", "incomplete"].contains(&part.as_str()) {
                note(part, value);
            }
        }
        note("stages.spent", &profile["stages"][0]["spent"]);
        for (part, mut fields) in parts {
            let (.., said) =
                FIGURES.iter().find(|(name, ..)| *name == part).unwrap_or_else(|| panic!("{part} is not said"));
            let mut said: Vec<_> = said.iter().map(|(name, _)| (*name).to_owned()).collect();
            fields.sort();
            said.sort();
            assert_eq!(said, fields, "{part}");
        }
    }
}
