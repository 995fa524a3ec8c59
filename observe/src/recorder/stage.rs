//! One stage's figures.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::rates::{Rates, Standing};
use super::records::Slowest;
use super::slots::{Slot, Slots};
use super::step::Step;
use crate::{End, Fetched, Node, Outcome, StageFigures, StagePlan, StageState, TaskRecord, WaitFigures};

#[derive(Debug, Default)]
pub(super) struct Stage {
    /// All but what is worked out when somebody asks.
    pub(super) figures: StageFigures,
    slots: Slots,
    running: BTreeMap<u32, Running>,
    /// Attempts that do what another does, or has done meanwhile.
    beside: BTreeMap<u32, Running>,
    workers: BTreeMap<u32, (u64, u64)>,
    pub(super) inputs: BTreeMap<u32, Fetched>,
    pub(super) steps: Vec<Step>,
    waits: BTreeMap<(&'static str, String), u64>,
    pub(super) rates: Rates,
    pub(super) slowest: Slowest,
    /// Tasks that were done at some time: never fewer than before.
    pub(super) ever_done: u32,
    /// Tasks that are in the driver's hands from the beginning.
    given: bool,
    /// What it does, in a line.
    pub(super) label: String,
}

/// An attempt that runs, or waits at its worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) attempt: u32,
    pub(super) worker: u32,
    pub(super) placed: u64,
    /// It does again what was done.
    again: bool,
}

/// Columns of what a stage does.
const LABEL: usize = 200;

/// What these nodes do, in a line: there may be thousands.
fn label(nodes: &[&Node]) -> String {
    let labels: Vec<_> = nodes.iter().map(|node| node.label.as_str()).collect();
    crate::text::cut(&labels.join(", "), LABEL)
}

/// What it was waiting for, at most so many kinds of a stage.
const WAITS: usize = 64;

impl Stage {
    pub(super) fn new(plan: &StagePlan, nodes: &[&Node], room: &mut usize) -> Self {
        let state = if plan.given { StageState::Done } else { StageState::Waiting };
        let mut stage = Self {
            figures: StageFigures { stage: plan.stage, state, ..StageFigures::default() },
            steps: nodes.iter().filter_map(|node| node.udf.clone()).map(Step::new).collect(),
            given: plan.given,
            label: label(nodes),
            ..Self::default()
        };
        if let Some(tasks) = plan.tasks {
            stage.set_tasks(tasks, room);
        }
        stage
    }

    /// It has so many tasks; what each of them leaves is kept if that takes no more than the room there is.
    pub(super) fn set_tasks(&mut self, tasks: u32, room: &mut usize) {
        if self.figures.tasks.is_some_and(|before| before != tasks) {
            self.figures.tasks_before = self.figures.tasks;
        }
        let is_first = self.figures.tasks.replace(tasks).is_none();
        if self.given {
            (self.figures.done, self.ever_done) = (tasks, tasks);
            return;
        }
        let takes = tasks as usize * size_of::<(u32, u32)>();
        if takes > *room {
            self.slots = Slots::default();
        } else if is_first {
            *room -= takes;
            self.slots = Slots::new(tasks);
        } else if self.slots.kept {
            self.slots.resize(tasks);
        }
    }

    /// The rows are there that the driver has for it.
    pub(super) fn give(&mut self, rows: u64, bytes: u64) {
        (self.figures.rows, self.figures.bytes) = (rows, bytes);
    }

    /// Whether this attempt would be the first to do its task.
    pub(super) fn is_first(&self, task: u32, attempt: u32) -> bool {
        let runs = self.running.get(&task).is_some_and(|known| known.attempt == attempt);
        runs && self.slots.get(task) == Slot::New
    }

    pub(super) fn keeps_outputs(&self) -> bool {
        self.given || self.slots.kept || self.figures.tasks.is_none()
    }

    /// An attempt is given to a worker. Yields the one that it takes the place of.
    pub(super) fn place(&mut self, task: u32, attempt: u32, worker: u32, now: u64) -> Option<TaskRecord> {
        let before = self.running.get(&task).copied();
        let lost = before.and_then(|before| self.end(task, before.attempt, Outcome::Lost, (0, 0), None, now));
        let again = match self.slots.get(task) {
            Slot::New => false,
            Slot::WasDone => true,
            Slot::Stands(rows, bytes) => {
                self.take_out(rows, bytes);
                self.slots.set(task, Slot::WasDone);
                true
            }
        };
        let figures = &mut self.figures;
        figures.again += u32::from(again);
        figures.started.get_or_insert(now);
        (figures.state, figures.ended) = (StageState::Running, None);
        self.running.insert(task, Running { attempt, worker, placed: now, again });
        figures.running = self.running.len() as u32;
        lost
    }

    /// An attempt is given to a worker that does what another does already.
    pub(super) fn place_beside(&mut self, task: u32, attempt: u32, worker: u32, now: u64) {
        self.beside.insert(task, Running { attempt, worker, placed: now, again: false });
    }

    /// Attempts that are at workers.
    pub(super) fn at_workers(&self) -> impl Iterator<Item = (u32, Running)> + '_ {
        self.running.iter().chain(&self.beside).map(|(task, one)| (*task, *one))
    }

    fn take_out(&mut self, rows: u64, bytes: u64) {
        let figures = &mut self.figures;
        figures.done = figures.done.saturating_sub(1);
        (figures.rows, figures.bytes) = (figures.rows.saturating_sub(rows), figures.bytes.saturating_sub(bytes));
        figures.rows_each.take_out(rows);
        figures.bytes_each.take_out(bytes);
    }

    pub(super) fn ended(
        &mut self,
        task: u32,
        attempt: u32,
        end: End<'_>,
        ran: Option<u64>,
        now: u64,
    ) -> Option<TaskRecord> {
        let (outcome, left) = match end {
            End::Done { rows, bytes } => (Outcome::Done, (rows, bytes)),
            End::Failed(_) => (Outcome::Failed, (0, 0)),
            End::Cancelled | End::InputLost(_) => (Outcome::Stopped, (0, 0)),
        };
        self.end(task, attempt, outcome, left, ran, now)
    }

    /// An attempt has ended; `None` if it is not one that is known to run.
    pub(super) fn end(
        &mut self,
        task: u32,
        attempt: u32,
        outcome: Outcome,
        (rows, bytes): (u64, u64),
        ran: Option<u64>,
        now: u64,
    ) -> Option<TaskRecord> {
        let (mut outcome, mut in_vain) = (outcome, false);
        if let Entry::Occupied(mut beside) = self.beside.entry(task)
            && beside.get().attempt == attempt
        {
            match self.running.get_mut(&task) {
                // It is the first to end: the other does in vain what it does.
                Some(first) if outcome == Outcome::Done => std::mem::swap(first, beside.get_mut()),
                _ => {
                    in_vain = true;
                    // The other was the first.
                    outcome = if outcome == Outcome::Done { Outcome::Stopped } else { outcome };
                }
            }
        }
        let running = if in_vain { &mut self.beside } else { &mut self.running };
        let Entry::Occupied(known) = running.entry(task) else { return None };
        if known.get().attempt != attempt {
            return None;
        }
        let Running { worker, placed, again, .. } = known.remove();
        if !in_vain
            && outcome != Outcome::Done
            && let Some(other) = self.beside.remove(&task)
        {
            self.running.insert(task, other);
        }
        // It waited there for others at first. No clock is so far off that it ran longer than it was there.
        let ran = ran.unwrap_or(u64::MAX).min(now.saturating_sub(placed));
        let figures = &mut self.figures;
        figures.again += u32::from(in_vain);
        figures.running = self.running.len() as u32;
        figures.busy = figures.busy.saturating_add(ran);
        let (attempts, busy) = self.workers.entry(worker).or_default();
        (*attempts, *busy) = (*attempts + 1, busy.saturating_add(ran));
        match outcome {
            Outcome::Done => {
                let was_done = self.slots.get(task) != Slot::New;
                self.slots.set(task, Slot::Stands(rows, bytes));
                figures.done += 1;
                (figures.rows, figures.bytes) =
                    (figures.rows.saturating_add(rows), figures.bytes.saturating_add(bytes));
                figures.durations.add(ran / 1000);
                figures.rows_each.add(rows);
                figures.bytes_each.add(bytes);
                if figures.largest.is_none_or(|(_, _, most)| rows > most) {
                    figures.largest = Some((task, worker, rows));
                }
                if figures.slowest.is_none_or(|(_, _, most)| ran > most) {
                    figures.slowest = Some((task, worker, ran));
                }
                if !was_done {
                    self.ever_done = (self.ever_done + 1).min(figures.tasks.unwrap_or(u32::MAX));
                    self.rates.add(rows, now);
                }
            }
            Outcome::Failed => figures.failed += 1,
            Outcome::Lost => figures.lost += 1,
            Outcome::Stopped | Outcome::Running => figures.stopped += 1,
        }
        if again || in_vain || matches!(outcome, Outcome::Failed | Outcome::Lost) {
            figures.busy_again = figures.busy_again.saturating_add(ran);
        }
        let stage = figures.stage;
        let record = TaskRecord { stage, task, attempt, worker, placed, ran, rows, bytes, outcome };
        if outcome == Outcome::Done {
            self.slowest.add(record);
        }
        Some(record)
    }

    /// A worker was lost: what ran there did so in vain.
    pub(super) fn lose(&mut self, worker: u32, now: u64) -> Vec<TaskRecord> {
        let there: Vec<_> = self.at_workers().filter(|(_, one)| one.worker == worker).collect();
        let there: Vec<_> = there.into_iter().map(|(task, one)| (task, one.attempt)).collect();
        let lost = there.into_iter();
        lost.filter_map(|(task, attempt)| self.end(task, attempt, Outcome::Lost, (0, 0), None, now)).collect()
    }

    pub(super) fn done(&mut self, now: u64) {
        if self.figures.state != StageState::Done {
            (self.figures.state, self.figures.ended) = (StageState::Done, Some(now));
        }
        self.figures.enough = self.figures.tasks.is_some_and(|tasks| self.figures.done < tasks);
        self.steps.iter_mut().for_each(|step| step.leave(now));
    }

    /// Its query has ended. If it was not done, it never will be.
    pub(super) fn stop(&mut self, now: u64) {
        if self.figures.state == StageState::Running {
            (self.figures.state, self.figures.ended) = (StageState::Stopped, Some(now));
        }
    }

    pub(super) fn waited(&mut self, kind: &'static str, on: &str, time: u64) {
        let many = self.waits.len() >= WAITS;
        let key = (kind, crate::text::ends(on, 200));
        let key = if many && !self.waits.contains_key(&key) { (kind, String::new()) } else { key };
        let waited = self.waits.entry(key).or_default();
        *waited = waited.saturating_add(time);
    }

    /// For what kinds of things it was waited, and for how long.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.waits.iter().map(|((kind, _), time)| (*kind, *time))
    }

    /// The query has ended: what is needed only while it runs goes.
    pub(super) fn close(&mut self) {
        self.slots.empty();
        self.rates = Rates::default();
    }

    /// Gives up to know what each task has left.
    pub(super) fn forget_outputs(&mut self) -> bool {
        std::mem::take(&mut self.slots).kept
    }

    pub(super) fn standing(&self) -> Standing {
        let StageFigures { tasks, tasks_before, durations, .. } = &self.figures;
        let each = |part| durations.quantile(part).saturating_mul(1000);
        let running = self.running.len() as u32;
        Standing {
            tasks: *tasks,
            changed: tasks_before.is_some(),
            done: self.ever_done,
            running,
            each: (each(0.25), each(0.5), each(0.95)),
            pending: tasks.unwrap_or(0).saturating_sub(self.figures.done + running),
        }
    }

    pub(super) fn figures(&self) -> StageFigures {
        let waits = self.waits.iter();
        StageFigures {
            workers: self.workers.iter().map(|(worker, (attempts, busy))| (*worker, *attempts, *busy)).collect(),
            waits: waits
                .map(|((kind, on), time)| WaitFigures { kind: (*kind).to_owned(), on: on.clone(), time: *time })
                .collect(),
            ..self.figures.clone()
        }
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        self.workers.iter().map(|(worker, (attempts, busy))| (*worker, *attempts, *busy))
    }

    pub(super) fn bytes_of_outputs(&self) -> usize {
        self.slots.bytes()
    }

    pub(super) fn bytes(&self) -> usize {
        let StageFigures { durations, rows_each, bytes_each, .. } = &self.figures;
        let spread = durations.bytes() + rows_each.bytes() + bytes_each.bytes();
        let maps = (self.running.len() + self.beside.len()) * 64
            + self.workers.len() * 48
            + self.inputs.len() * 96
            + self.waits.len() * 300;
        let steps: usize = self.steps.iter().map(Step::bytes).sum();
        let nodes: usize = self.figures.spent.nodes.iter().map(|node| node.name.len() + 80).sum();
        size_of::<Self>() + self.label.len() + nodes + self.slots.bytes() + self.slowest.bytes() + spread + maps + steps
    }
}
