//! What each task of a stage has left, in eight bytes each.

use std::collections::BTreeMap;

/// So that what is made again can be taken out of the sums, which hold what stands.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Rows and bytes, or one of the marks.
    of: Vec<(u32, u32)>,
    /// What does not fit.
    large: BTreeMap<u32, (u64, u64)>,
    /// Kept as far as there is room for it.
    pub(super) kept: bool,
}

const NONE: (u32, u32) = (u32::MAX, u32::MAX);
/// It was done; what it left is not there any more, or does not count.
const GONE: (u32, u32) = (u32::MAX, u32::MAX - 1);
const LARGE: (u32, u32) = (u32::MAX, u32::MAX - 2);

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// It was never done, or nobody knows.
    New,
    /// Its output stands.
    Stands(u64, u64),
    /// It was done.
    WasDone,
}

impl Slots {
    pub(super) fn new(tasks: u32) -> Self {
        Self { of: vec![NONE; tasks as usize], large: BTreeMap::new(), kept: true }
    }

    pub(super) fn resize(&mut self, tasks: u32) {
        self.of.resize(tasks as usize, NONE);
    }

    pub(super) fn get(&self, task: u32) -> Slot {
        match self.of.get(task as usize).copied().unwrap_or(NONE) {
            NONE => Slot::New,
            GONE => Slot::WasDone,
            LARGE => self.large.get(&task).map_or(Slot::WasDone, |(rows, bytes)| Slot::Stands(*rows, *bytes)),
            (rows, bytes) => Slot::Stands(rows.into(), bytes.into()),
        }
    }

    pub(super) fn set(&mut self, task: u32, slot: Slot) {
        let Some(of) = self.of.get_mut(task as usize) else { return };
        if *of == LARGE {
            self.large.remove(&task);
        }
        *of = match slot {
            Slot::New => NONE,
            Slot::WasDone => GONE,
            Slot::Stands(rows, bytes) => match (u32::try_from(rows), u32::try_from(bytes)) {
                (Ok(rows), Ok(bytes)) if rows < u32::MAX => (rows, bytes),
                _ => {
                    self.large.insert(task, (rows, bytes));
                    LARGE
                }
            },
        };
    }

    /// Nobody asks any more.
    pub(super) fn empty(&mut self) {
        (self.of, self.large) = (Vec::new(), BTreeMap::new());
    }

    pub(super) fn bytes(&self) -> usize {
        self.of.capacity() * size_of::<(u32, u32)>() + self.large.len() * 40
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_what_was_set_however_large() {
        let mut slots = Slots::new(2);
        assert_eq!((slots.get(1), slots.get(9)), (Slot::New, Slot::New));
        let edge = u64::from(u32::MAX);
        for (rows, bytes) in
            [(0, 0), (edge - 1, edge), (edge, 0), (edge, edge - 1), (u64::MAX, u64::MAX), (3, edge + 1)]
        {
            slots.set(1, Slot::Stands(rows, bytes));
            assert_eq!(slots.get(1), Slot::Stands(rows, bytes));
        }
        slots.set(1, Slot::WasDone);
        assert_eq!((slots.get(1), slots.large.len()), (Slot::WasDone, 0));
    }
}
