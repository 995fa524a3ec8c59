//! The block of a few lines that shows where queries stand.

use std::collections::BTreeMap;

use super::{PoolProgress, Progress, StageProgress};
use crate::text::{bytes, clock, columns, count, cut, fitting, line, percent, plural, time};
use crate::{QueryState, StageState};

/// How much room there is, and what it can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Columns.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// Beyond ASCII.
    pub unicode: bool,
}

/// What has been shown of bars: they never go back.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// By query and stage: thousandths.
    bars: BTreeMap<(String, u32), u32>,
}

/// Queries that are shown at once.
const QUERIES: usize = 3;
/// Cells of a bar.
const BAR: usize = 16;
/// Columns of what a stage does.
const LABEL: usize = 34;

impl Shown {
    /// Nothing was shown.
    pub const fn new() -> Self {
        Self { bars: BTreeMap::new() }
    }

    /// The part of a stage that is shown as done, in thousandths: never less than before, and all only once it is.
    pub fn part(&mut self, query: &str, stage: &StageProgress) -> Option<u32> {
        let tasks = stage.tasks.filter(|tasks| *tasks > 0)?;
        let part = (u64::from(stage.done) * 1000 / u64::from(tasks)).min(999) as u32;
        let part = if stage.state == StageState::Done { 1000 } else { part };
        let shown = self.bars.entry((query.to_owned(), stage.stage)).or_default();
        *shown = part.max(*shown);
        Some(*shown)
    }

    /// Lines that say where these queries stand, in so much room, without any codes.
    pub fn draw(&mut self, queries: &[Progress], room: Room) -> Vec<String> {
        self.bars.retain(|(id, _), _| queries.iter().any(|query| query.id == *id));
        let most = (room.height / 2).max(2);
        let shown = queries.len().min(QUERIES);
        let more = queries.len() - shown;
        let each = ((most - usize::from(more > 0)) / shown.max(1)).max(1);
        let mut lines: Vec<_> = queries[..shown].iter().flat_map(|query| self.query(query, room, each)).collect();
        if more > 0 {
            lines.push(format!("and {more} more {}", if more == 1 { "query" } else { "queries" }));
        }
        lines.truncate(most);
        lines.iter().map(|text| fit(text, room)).collect()
    }

    fn query(&mut self, query: &Progress, room: Room, most: usize) -> Vec<String> {
        let stages: Vec<_> = query.stages.iter().filter(|stage| !stage.given).collect();
        let drawn: Vec<Vec<String>> = stages.iter().map(|stage| self.stage(&query.id, stage, room)).collect();
        let notes = query.notes.iter().map(|note| format!("  !  {note}"));
        let mut lines = vec![head(query)];
        if 1 + drawn.iter().map(Vec::len).sum::<usize>() + query.notes.len() <= most {
            lines.extend(drawn.concat());
        } else {
            // Those that run are what matters.
            let all = |state| stages.iter().filter(|stage| stage.state == state).count() as u64;
            let (done, waiting) = (all(StageState::Done), all(StageState::Waiting));
            lines.extend((done > 0).then(|| format!(" ok  {} done", plural(done, "stage"))));
            let running = stages.iter().zip(drawn).filter(|(stage, _)| stage.state == StageState::Running);
            lines.extend(running.flat_map(|(_, drawn)| drawn));
            let wait = if waiting == 1 { "waits" } else { "wait" };
            lines.extend((waiting > 0).then(|| format!("  .  {} {wait}", plural(waiting, "stage"))));
        }
        lines.extend(notes);
        lines.truncate(most);
        lines
    }

    fn stage(&mut self, query: &str, stage: &StageProgress, room: Room) -> Vec<String> {
        let part = self.part(query, stage);
        let width = LABEL.min(room.width / 3).max(8);
        let label = cut(&line(&stage.label), width);
        let label = format!("{label}{}", " ".repeat(width.saturating_sub(columns(&label))));
        let begins = |mark: &str| format!("{mark} {:>2}  {label}  {:>18}", stage.stage, tasks(stage));
        match stage.state {
            StageState::Done => {
                let left = format!("{} rows  {}", count(stage.rows), bytes(stage.bytes));
                vec![format!("{}  {left}  {}", begins(" ok"), time(stage.time))]
            }
            StageState::Stopped => vec![format!("{}  {} rows", begins("  -"), count(stage.rows))],
            StageState::Waiting => {
                let stages: Vec<_> = stage.waits_for.iter().map(ToString::to_string).collect();
                let waits = match &stages[..] {
                    [] => "waits for room".to_owned(),
                    [one] => format!("waits for stage {one}"),
                    several => format!("waits for stages {}", several.join(", ")),
                };
                vec![format!("{}  {waits}", begins("  ."))]
            }
            StageState::Running => {
                let bar = part.map_or_else(String::new, |part| format!("  {}", bar(part, room.unicode)));
                let rate = stage.rate.filter(|rate| *rate >= 1.0);
                let rate = rate.map_or_else(String::new, |rate| format!(", {}/s", count(rate as u64)));
                let left = match (stage.left, &stage.no_estimate) {
                    (Some((from, to)), _) => format!("  {} left in this stage", range(from, to)),
                    (None, Some(why)) => format!("  no estimate: {why}"),
                    (None, None) => String::new(),
                };
                let first = format!("{}{bar}  {} rows{rate}{left}", begins(" >>"), count(stage.rows));
                std::iter::once(first).chain(stage.pools.iter().map(pool)).collect()
            }
        }
    }
}

fn head(query: &Progress) -> String {
    let stages: Vec<_> = query.stages.iter().filter(|stage| !stage.given).collect();
    let done = stages.iter().filter(|stage| stage.state == StageState::Done).count();
    let at = (done + 1).min(stages.len());
    let busy = match query.cpus_busy {
        Some(busy) => format!(", {} of {} CPU busy", tenths(busy), tenths(query.cpus)),
        None => format!(", {} CPU", tenths(query.cpus)),
    };
    let memory = match query.memory {
        None => String::new(),
        Some((used, 0)) => format!("   {}", bytes(used)),
        Some((used, limit)) => format!("   {} of {}", bytes(used), bytes(limit)),
    };
    let workers = plural(query.workers.into(), "worker");
    format!("{}  stage {at} of {}   {}   {workers}{busy}{memory}", name(query), stages.len(), clock(query.time))
}

/// What a query is called: by the last eight digits of its number, as elsewhere.
pub(super) fn name(query: &Progress) -> String {
    let id = query.id.get(query.id.len().saturating_sub(8)..).unwrap_or(&query.id);
    match &query.name {
        Some(name) => format!("query {id} {}", line(name)),
        None => format!("query {id}"),
    }
}

fn tenths(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

pub(super) fn tasks(stage: &StageProgress) -> String {
    let done = stage.done;
    match (stage.tasks, stage.tasks_before) {
        (Some(tasks), Some(before)) if before != tasks => format!("{done} of {before} -> {tasks} tasks"),
        (Some(1), _) => format!("{done} of 1 task"),
        (Some(tasks), _) => format!("{done} of {tasks} tasks"),
        (None, _) if stage.state == StageState::Done => "done by its readers".to_owned(),
        (None, _) => format!("{} of an unknown number", plural(done.into(), "task")),
    }
}

/// From so long to so long; whole seconds, away from each other.
pub(super) fn range(from: u64, to: u64) -> String {
    let (from, to) = (clock(from), clock(to.saturating_add(999_999_999)));
    if from == to { format!("about {to}") } else { format!("{from} to {to}") }
}

fn bar(part: u32, unicode: bool) -> String {
    let eighths = part as usize * BAR * 8 / 1000;
    let (full, rest) = (eighths / 8, eighths % 8);
    if !unicode {
        return format!("[{}{}]", "#".repeat(full), " ".repeat(BAR - full));
    }
    let tip = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][rest];
    format!("{}{tip}{}▏", "█".repeat(full), " ".repeat(BAR - full - usize::from(rest > 0)))
}

/// The last part of a path: what people call a UDF.
pub(super) fn short(udf: &str) -> &str {
    udf.rsplit("::").next().unwrap_or(udf)
}

fn pool(pool: &PoolProgress) -> String {
    let busy = pool.busy.map(|busy| format!(", {} busy", percent((busy * 1000.0) as u64, 1000))).unwrap_or_default();
    let waiting = match pool.waiting {
        0 => String::new(),
        1 => "; 1 batch waits for room".to_owned(),
        more => format!("; {more} batches wait for room"),
    };
    let starting = pool.starting.as_ref().map(|(since, worker, word)| {
        let word = word.as_ref().map(|word| format!(": {word}")).unwrap_or_default();
        format!("; one starts on worker {worker} for {}{word}", time(*since))
    });
    let (ready, most, starting) = (pool.ready, pool.most, starting.unwrap_or_default());
    format!("         {}   {ready} of {most} replicas{busy}{waiting}{starting}", short(&pool.udf))
}

/// A line that fits, and moves no cursor. It is cut behind a word: the beginning of a figure is another figure.
fn fit(text: &str, room: Room) -> String {
    const CUT: &str = " ..";
    let text: String = line(text).chars().map(|c| if room.unicode || c.is_ascii() { c } else { '?' }).collect();
    let width = room.width.saturating_sub(1).max(1);
    if columns(&text) <= width {
        return text;
    }
    let left: String = fitting(text.chars(), width.saturating_sub(CUT.len())).collect();
    let is_whole = text[left.len()..].starts_with(' ');
    match left.rfind(' ').filter(|at| !is_whole && *at > left.len() / 2) {
        Some(at) => format!("{}{CUT}", left[..at].trim_end()),
        None if left.is_empty() => fitting(text.chars(), width).collect(),
        None => format!("{}{CUT}", left.trim_end()),
    }
}

/// The line that is left of a query when it has ended.
pub(super) fn last(query: &Progress) -> String {
    let (name, took) = (name(query), time(query.time));
    let said = match query.state {
        QueryState::Running => head(query),
        QueryState::Cancelled => format!("{name}: cancelled after {took}"),
        QueryState::Failed => {
            let error = query.error.as_deref().and_then(|error| error.lines().next());
            format!("{name}: failed after {took}: {}", error.unwrap_or("no reason is known"))
        }
        QueryState::Done => {
            let peak = if query.peak > 0 { format!("; peak {}", bytes(query.peak)) } else { String::new() };
            let udf = query.udf.as_ref().filter(|(part, _)| *part >= 0.1).map(|(part, udf)| {
                let part = percent((part * 1000.0) as u64, 1000);
                format!("; {part} of task time waited for {} (run.profile() says more)", short(udf))
            });
            let (rows, workers) = (plural(query.rows, "row"), plural(query.workers.into(), "worker"));
            format!("{name}: {rows} in {took}; {workers}{peak}{}", udf.unwrap_or_default())
        }
    };
    line(&said)
}
