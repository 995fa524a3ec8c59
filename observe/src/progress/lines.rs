//! Where a query stands as lines of a log: at its start, at each stage's end, now and then, and at its end.

use super::Progress;
use super::draw::{last, name, range, tasks};
use crate::text::{bytes, clock, count, cut, line, plural, time};
use crate::{QueryState, StageState};

/// What has been said of a query.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    started: bool,
    done: Vec<u32>,
    /// How often it was said where it stands.
    said: usize,
    over: bool,
}

/// When it is said where a query stands, in seconds; then as often as the last.
const WHEN: [u64; 5] = [10, 30, 60, 120, 300];
const SECOND: u64 = 1_000_000_000;

impl Lines {
    /// What there is to say now; no line has a control character in it.
    pub fn next(&mut self, query: &Progress) -> Vec<String> {
        let mut lines = Vec::new();
        if self.over {
            return lines;
        }
        let name = name(query);
        let stages = || query.stages.iter().filter(|stage| !stage.given);
        if !std::mem::replace(&mut self.started, true) {
            let workers = plural(query.workers.into(), "worker");
            lines.push(format!("{name} starts: {}, {workers}", plural(stages().count() as u64, "stage")));
        }
        for stage in stages().filter(|stage| stage.state == StageState::Done) {
            if !self.done.contains(&stage.stage) {
                self.done.push(stage.stage);
                let what = format!("stage {} ({}) is done: {}", stage.stage, cut(&stage.label, 60), tasks(stage));
                let (rows, size, took) = (count(stage.rows), bytes(stage.bytes), time(stage.time));
                lines.push(format!("{name}: {what}, {rows} rows, {size}, {took}"));
            }
        }
        if query.state != QueryState::Running {
            self.over = true;
            lines.push(last(query));
        } else if query.time >= self.due() {
            while query.time >= self.due() {
                self.said += 1;
            }
            let running = stages().filter(|stage| stage.state == StageState::Running).map(|stage| {
                let left = match (stage.left, &stage.no_estimate) {
                    (Some((from, to)), _) => format!(", {} left", range(from, to)),
                    (None, Some(why)) => format!(", no estimate: {why}"),
                    (None, None) => String::new(),
                };
                format!("stage {}: {}, {} rows{left}", stage.stage, tasks(stage), count(stage.rows))
            });
            let running: Vec<_> = running.collect();
            let what = if running.is_empty() { "nothing of it runs".to_owned() } else { running.join("; ") };
            lines.push(format!("{name} runs for {}: {what}", clock(query.time)));
            lines.extend(query.notes.iter().map(|note| format!("{name}: {note}")));
        }
        lines.iter().map(|text| line(text)).collect()
    }

    /// When it is said next where it stands.
    fn due(&self) -> u64 {
        let last = WHEN.len() - 1;
        (WHEN[self.said.min(last)] + WHEN[last] * self.said.saturating_sub(last) as u64) * SECOND
    }
}
