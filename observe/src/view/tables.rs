//! Tables of queries, workers and pools, for a terminal or a file.

use crate::text::{bytes, clock, columns, count, cut, line, time};
use crate::{PoolRow, QueryRow, QueryState, WorkerRow};

/// A table as text: columns as wide as their widest cell, those of figures to the right.
pub struct Table {
    heads: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

/// Columns of a text whose length is up to others.
const LONG: usize = 80;

impl Table {
    /// Queries, one a line.
    pub fn queries(rows: &[QueryRow]) -> Self {
        let heads = ["ID", "NAME", "STATE", "STAGE", "TASKS", "ROWS", "TIME", "DRIVER", "DOES OR WAITS FOR"];
        let rows = rows.iter().map(|row| {
            vec![
                row.short(),
                row.name.as_deref().map_or_else(|| "-".to_owned(), |name| cut(&line(name), 20)),
                row.state().to_owned(),
                row.stage(),
                row.tasks(),
                count(row.rows),
                row.time(),
                row.driver.as_deref().map_or_else(|| "head".to_owned(), |node| cut(&line(node), 16)),
                cut(&row.about(), LONG),
            ]
        });
        Self::new(&heads, &["TASKS", "ROWS", "TIME"], rows.collect())
    }

    /// Workers, one a line.
    pub fn workers(rows: &[WorkerRow]) -> Self {
        let heads = ["WORKER", "CPU", "BUSY", "MEMORY", "USED", "PEAK", "GPU", "TASKS", "STATE", "ADDRESS"];
        let rows = rows.iter().map(|row| {
            vec![
                row.worker.to_string(),
                format!("{} of {}", number(row.cpus.1), number(row.cpus.0)),
                row.busy.map_or_else(|| "-".to_owned(), |busy| number((busy * 10.0).round() / 10.0)),
                if row.memory.0 > 0 {
                    format!("{} of {}", bytes(row.memory.1), bytes(row.memory.0))
                } else {
                    "-".into()
                },
                if row.used > 0 { bytes(row.used) } else { "-".into() },
                if row.peak > 0 { bytes(row.peak) } else { "-".into() },
                row.gpu(),
                row.tasks(),
                row.state(),
                row.address.as_deref().map_or_else(|| "-".to_owned(), line),
            ]
        });
        Self::new(&heads, &["WORKER", "CPU", "BUSY", "MEMORY", "USED", "PEAK", "GPU", "TASKS"], rows.collect())
    }

    /// Pools of UDF replicas, one a line.
    pub fn pools(rows: &[PoolRow]) -> Self {
        let heads = ["UDF", "READY", "IDLE", "STARTING", "QUERIES", "STATE"];
        let rows = rows.iter().map(|row| {
            let (figures, state) = row.cells();
            let [ready, idle, starting, queries] = figures;
            vec![cut(&line(&row.udf), LONG), ready, idle, starting, queries, cut(&state, LONG)]
        });
        Self::new(&heads, &["READY", "IDLE", "STARTING", "QUERIES"], rows.collect())
    }

    /// Whether it has no line.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn new(heads: &[&'static str], right: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { heads: heads.iter().map(|head| (*head, right.contains(head))).collect(), rows }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| columns(cell));
            cells.chain([columns(self.heads[at].0)]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut text = String::new();
            for ((cell, (_, right)), width) in row.iter().zip(&self.heads).zip(&widths) {
                let room = " ".repeat(width.saturating_sub(columns(cell)));
                let (before, after) = if *right { (room, String::new()) } else { (String::new(), room) };
                text.push_str(&format!("{before}{cell}{after}  "));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

/// A number without zeros after the point.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl QueryRow {
    /// The last eight digits of its number: what messages call it.
    pub fn short(&self) -> String {
        line(self.id.get(self.id.len().saturating_sub(8)..).unwrap_or(&self.id))
    }

    /// Where it stands, in a word.
    pub fn state(&self) -> &'static str {
        match self.state {
            QueryState::Running => "runs",
            QueryState::Done => "done",
            QueryState::Failed => "failed",
            QueryState::Cancelled => "cancelled",
        }
    }

    /// Which of its stages it is at: `2/4`.
    pub fn stage(&self) -> String {
        let (done, all) = self.stages;
        format!("{}/{all}", if self.state == QueryState::Running { (done + 1).min(all) } else { done })
    }

    /// How many tasks of that stage are done: `311/512`.
    pub fn tasks(&self) -> String {
        match self.tasks {
            (0, None) => "-".to_owned(),
            (done, None) => format!("{done}/?"),
            (done, Some(all)) => format!("{done}/{all}"),
        }
    }

    /// How long it runs, or ran.
    pub fn time(&self) -> String {
        if self.state == QueryState::Running { clock(self.time) } else { time(self.time) }
    }

    /// What it waits for, or does, or why it has failed.
    pub fn about(&self) -> String {
        let text = match (self.state, &self.waits[..]) {
            (QueryState::Running, [first, ..]) => first,
            (QueryState::Running, []) => &self.doing,
            _ => self.error.as_ref().unwrap_or(&self.doing),
        };
        line(text)
    }
}

impl WorkerRow {
    /// Its GPUs.
    pub fn gpu(&self) -> String {
        let (all, charged) = self.gpus;
        if all > 0.0 { format!("{} of {}", number(charged), number(all)) } else { "-".to_owned() }
    }

    /// Tasks that run there, and that wait there: `4+2`.
    pub fn tasks(&self) -> String {
        let (running, queued) = self.tasks;
        if queued > 0 { format!("{running}+{queued}") } else { running.to_string() }
    }

    /// How it is.
    pub fn state(&self) -> String {
        if let Some(silent) = self.silent {
            return format!("silent for {}", time(silent));
        }
        if let Some((_, left)) = self.drains {
            return format!("leaves within {}", time(left));
        }
        if let Some((count, since)) = self.leaving {
            return format!("{count} unwanted for {}", time(since));
        }
        self.idle.map_or_else(|| "well".to_owned(), |idle| format!("idle for {}", time(idle)))
    }
}

impl PoolRow {
    /// Its figures, and how it is.
    fn cells(&self) -> ([String; 4], String) {
        let starting = self.starting.len();
        let state = match (self.unused, self.starting.iter().flatten().next()) {
            (Some(unused), _) => format!("kept warm, unused for {}", time(unused)),
            (None, Some(word)) => format!("one starts: {}", line(word)),
            (None, None) if starting > 0 => "starts".to_owned(),
            (None, None) => "serves".to_owned(),
        };
        let figures = [self.ready.to_string(), self.idle.to_string(), starting.to_string(), self.queries.to_string()];
        (figures, state)
    }
}
