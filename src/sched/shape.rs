//! How a stage runs: decided once what it reads has been measured, and never again, whatever is lost. Any shape gives the right
//! rows; only its speed depends on the sizes.

mod deal;

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::StageId;
use super::resources::Bytes;
pub(super) use deal::{Left, deal, dealt};

/// How a stage reads one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// Not at all: what the input would do is a part of the stage's own tasks.
    Along,
    /// An equal share of the rows for each task.
    Share,
    /// Adjacent sections of what each task of the input has left.
    Sections,
    /// All rows, for each task.
    All,
    /// Not at all, nor does anybody do its work in the stage's tasks: it would only say which rows need not be read, or the same rows
    /// are read of another. A stage that nobody reads does not run.
    Without,
}

/// One way of running a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mode {
    /// How each input is read, in their order.
    pub(crate) ways: Vec<Way>,
    /// It has as many tasks as suits what it reads of sections, of which there are as many as the stage has tasks at most.
    pub(crate) by_size: bool,
    /// All that it reads in sections is there by the hash of keys, by which sections may be cut finer.
    pub(crate) by_hash: bool,
    /// Inputs of which several tasks may read one section, some rows each, if each of them reads all of the others' section.
    pub(crate) shared: Vec<usize>,
    pub(crate) when: Fits,
    /// What it leaves so, made again, is the same rows.
    pub(crate) stable: bool,
}

/// When a mode fits. `Input`: how an input is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fits<Input = usize> {
    Always,
    /// An input turns out to be small, of which each task could read all.
    Small(Small<Input>),
    /// An input has no more bytes than these.
    Few(Input, u64),
    /// The input that is taken in has its tasks from one of these stages, each with some sections as a whole: rows that belong
    /// together are.
    Together(Vec<StageId>),
}

/// An input that each task could read all of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Small<Input = usize> {
    /// Which input.
    pub(crate) input: Input,
    /// Bytes of what would be moved otherwise, as far as the plan tells.
    pub(crate) beside: u64,
}

impl Mode {
    /// The input whose work is a part of the stage's own tasks.
    pub(crate) fn takes_in(&self) -> Option<usize> {
        self.ways.iter().position(|way| *way == Way::Along)
    }
}

/// Who is there to run a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fleet {
    pub(crate) workers: u64,
    /// Tasks that run at once, on all of them.
    pub(crate) slots: u64,
    /// Bytes that a worker has; 0 where it is not known.
    pub(crate) memory: u64,
    /// Bytes of them that each of the tasks that run at once may hold.
    pub(crate) room: u64,
}

/// What tests want, whatever the sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forced {
    /// Whatever may be small is.
    Broadcast,
    /// Nothing is.
    Hash,
    /// Nor are there tasks that read more than one section.
    OneSection,
    /// And two tasks share each, where they may.
    Shared,
    /// And each is cut into two parts by the hash of keys, where it may be.
    Parts,
}

/// How a stage runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The stages that each task runs: those that are read along, with their modes, and then the stage itself.
    pub(crate) chain: Vec<(StageId, usize)>,
    /// What its tasks read of other stages.
    pub(crate) reads: Vec<(StageId, Way)>,
    pub(crate) tasks: Tasks,
    /// Why it is run so, for people; nothing where there was no choice.
    pub(crate) why: String,
}

/// The tasks of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tasks {
    /// One for each split of this stage, of which there are so many.
    Splits(StageId, usize),
    /// One for each of these.
    Sections(Vec<Reader>),
}

/// What one task reads of sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) sections: Range<u32>,
    /// Of this input only what these of its tasks have left. Others read the rest.
    pub(crate) only: Option<(StageId, Range<u32>)>,
    /// Of these sections it takes no more than the rows of one part.
    pub(crate) part: Option<Part>,
    /// About so many bytes in all.
    pub(crate) bytes: u64,
    /// And of the input that has most of them.
    pub(crate) largest: u64,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.sections;
        write!(f, "sections {start}..{end}")?;
        if let Some(Part { number, of, .. }) = self.part {
            write!(f, " ({number} of {of})")?;
        }
        write!(f, " with {}", Bytes(self.bytes * self.part.map_or(1, |part| u64::from(part.of))))
    }
}

/// A part of each section, by the hash of the keys: which, of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) number: u32,
    pub(crate) of: u32,
    /// It may be nearly all of the section, which is far larger than others: of one key, perhaps.
    pub(crate) may_be_all: bool,
}

/// A section is cut into no more parts than this: each of their tasks reads all of it.
pub(crate) const MOST_PARTS: u32 = 32;

impl Tasks {
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Splits(_, count) => *count,
            Self::Sections(readers) => readers.len(),
        }
    }

    /// Whether some read parts of sections.
    pub(crate) fn have_parts(&self) -> bool {
        matches!(self, Self::Sections(readers) if readers.iter().any(|reader| reader.part.is_some()))
    }

    /// Whether a task that reads sections of an input reads those of what a certain task of it has left.
    pub(crate) fn reads(&self, task: usize, input: StageId, left_by: u32) -> bool {
        let Self::Sections(readers) = self else { return true };
        let only = readers.get(task).and_then(|reader| reader.only.as_ref());
        only.is_none_or(|(of, tasks)| *of != input || tasks.contains(&left_by))
    }
}

/// What is always small enough to be read by everybody.
const SMALL: u64 = 2 << 20;
/// Making a table of a byte costs a task as much as so many bytes that are written by one and read by another.
const TABLE: u64 = 2;

/// Whether an input of so many bytes is few, of which no more than these are.
pub(super) fn is_few(bytes: u64, most: u64, forced: Option<Forced>) -> bool {
    match forced {
        Some(Forced::Broadcast) => true,
        Some(Forced::Hash | Forced::OneSection | Forced::Shared | Forced::Parts) => false,
        None => bytes <= most,
    }
}

impl Small {
    /// Whether an input of so many bytes is small: cheaper to bring to all workers than the other side is to move.
    pub(super) fn holds(self, bytes: u64, fleet: Fleet, forced: Option<Forced>) -> bool {
        match forced {
            Some(Forced::Broadcast) => return true,
            Some(Forced::Hash | Forced::OneSection | Forced::Shared | Forced::Parts) => return false,
            None => (),
        }
        let each = fleet.slots.div_ceil(fleet.workers.max(1)).max(1);
        // Every task builds its own table of it.
        let fits = fleet.memory == 0 || bytes.saturating_mul(3 * each) <= fleet.memory / 4;
        let tables = bytes.saturating_mul(TABLE * fleet.slots);
        bytes <= SMALL || (fits && tables <= self.beside.saturating_add(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet { workers: 2, slots: 4, memory: 4 << 30, room: 1 << 30 };

    #[test]
    fn small_is_what_costs_less_to_bring_to_all_than_the_other_side_to_move() {
        let small = Small { input: 1, beside: 1 << 30 };
        let holds = |bytes| small.holds(bytes, FLEET, None);
        assert!(holds(SMALL) && holds(100 << 20));
        assert!(!holds(200 << 20), "tables of it in four tasks cost more than moving all there is");
        assert!(!Small { beside: 1 << 20, ..small }.holds(SMALL + 1, FLEET, None), "so little is moved sooner");
        let memory = Fleet { memory: 1 << 30, ..FLEET };
        assert!(
            !small.holds(100 << 20, memory, None),
            "two tables of it, thrice its size, are no quarter of the memory"
        );
        assert!(small.holds(u64::MAX, FLEET, Some(Forced::Broadcast)));
        assert!(!small.holds(0, FLEET, Some(Forced::Hash)));
    }
}
