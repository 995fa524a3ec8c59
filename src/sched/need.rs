//! What a task needs of a worker's memory: what it holds of what it reads, by what it does, and what passes by.
//! (reference: exchanges.md §6.3)

use serde::{Deserialize, Serialize};

use super::Resources;

/// What tasks of a stage hold of what they read, the most of all that they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Holds {
    /// Rows pass by.
    #[default]
    Nothing,
    /// Tables of sides of joins, while the largest side passes by.
    Tables,
    /// All of it, which then takes so many tenths of its bytes.
    All(u32),
}

/// A table takes so many tenths of the bytes of its rows.
const TABLE: u32 = 25;

impl Holds {
    /// Merges what others have aggregated.
    pub(crate) const MERGED: Self = Self::All(TABLE);
    /// Groups, or sorts.
    pub(crate) const SORTED: Self = Self::All(30);
    /// Whatever takes all rows at once into memory, and more than one form of them.
    pub(crate) const GATHERED: Self = Self::All(40);

    /// Bytes that are taken of memory for so many that are held.
    pub(super) fn of(self, bytes: u64) -> u64 {
        (u128::from(bytes) * u128::from(self.tenths()) / 10).try_into().unwrap_or(u64::MAX)
    }

    /// Bytes that may be held where so much memory is.
    pub(super) fn within(self, memory: u64) -> u64 {
        match self.tenths() {
            0 => u64::MAX,
            tenths => (u128::from(memory) * 10 / u128::from(tenths)).try_into().unwrap_or(u64::MAX),
        }
    }

    fn tenths(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Tables => TABLE,
            Self::All(tenths) => tenths,
        }
    }
}

/// Rows that pass by take so much: queues, blocks that come, morsels.
pub(crate) const PASSING: u64 = 256 << 20;

/// What passes by in one of so many tasks that run at once in so much memory.
pub(super) fn passing(memory: u64, at_once: u64) -> u64 {
    PASSING.min(memory / (2 * at_once.max(1)))
}

/// What a task asks a worker for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) amount: Resources,
    /// So much of the memory must be there, or the worker be its own. Of the rest it takes what is left.
    pub(super) least: u64,
}

impl Need {
    /// Of a task that takes such CPU, holds so many bytes and has others pass by.
    pub(super) fn new(task: Resources, held: u64, passing: u64) -> Self {
        let memory = held.saturating_add(passing);
        Self { amount: task.with_memory(memory), least: if held == 0 { 0 } else { memory } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_takes_more_than_its_bytes_and_the_most_of_a_chain_counts() {
        assert_eq!((Holds::Nothing.of(1000), Holds::Tables.of(1000), Holds::GATHERED.of(1000)), (0, 2500, 4000));
        assert_eq!((Holds::SORTED.within(3000), Holds::Nothing.within(0)), (1000, u64::MAX));
        assert_eq!(Holds::SORTED.of(u64::MAX), u64::MAX);
        assert!(Holds::Nothing < Holds::Tables && Holds::Tables < Holds::MERGED && Holds::MERGED < Holds::SORTED);
    }

    #[test]
    fn what_passes_by_in_all_tasks_at_once_is_half_of_the_memory_at_most() {
        assert_eq!(passing(64 << 30, 4), PASSING);
        assert_eq!(passing(1 << 30, 4), 128 << 20);
        assert_eq!(passing(0, 0), 0);
        let need = Need::new(Resources::cpus(0.5), 0, PASSING);
        assert_eq!((need.least, need.amount.memory), (0, PASSING));
        assert_eq!(Need::new(Resources::cpus(0.5), 1, PASSING).least, PASSING + 1);
    }
}
