//! How deep, how many, how much memory: what a value may ask for, whatever its bytes.
//!
//! Both ends count the same depth and elements. Memory is counted where its size is known, which is at the receiver: the
//! size of each element of a sequence or map, and of what is boxed. A sender knows the size of whatever is a field; the few
//! values of which it does not, it counts, and assumes each to be large.

use std::cell::Cell;
use std::fmt;

use crate::limits::MAX_MESSAGE;

/// Levels of a value: each struct, tuple, sequence, map, enum and option inside of another is one more. Each takes some of
/// the stack of the thread that decodes.
pub const MAX_DEPTH: usize = 128;
/// Elements of sequences and maps in all, beyond one for each byte: some take no byte, and only those can be more.
const ELEMENTS: usize = 64 << 10;
/// Memory that a value may ask for, per byte and beyond that.
const PER_BYTE: usize = 32;
const MEMORY: usize = 1 << 20;
/// What a sender takes a value for of which it does not know the size.
const LARGE: usize = 4 << 10;
/// The size of a reference or box: what is behind it may have any.
pub(super) const POINTER: usize = size_of::<usize>();

/// What a value goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// [`MAX_DEPTH`].
    Depth,
    /// As many elements as it has bytes, and 65,536.
    Elements,
    /// 32 bytes of memory for each of its own, and a MiB.
    Memory,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Depth => write!(f, "is deeper than {MAX_DEPTH} levels: send what is nested as a list"),
            Self::Elements => write!(f, "has more elements than bytes by over {ELEMENTS}: send their number instead"),
            Self::Memory => write!(
                f,
                "takes more than {PER_BYTE} times its bytes as memory when it is decoded, and {} KiB: its large elements \
                 are nearly empty, so box them, or send those that are not",
                MEMORY >> 10
            ),
        }
    }
}

/// What a value has asked for so far.
pub(super) struct Scales {
    /// Bytes of the whole; the most that there can be where they are still being written.
    bytes: usize,
    depth: Cell<usize>,
    elements: Cell<usize>,
    memory: Cell<usize>,
    /// Receiving: how much of the value that is being read was counted as part of what holds it. Sending: its size, if it is
    /// not [`POINTER`].
    own: Cell<usize>,
    /// Values of a size that the sender does not know.
    unknown: Cell<usize>,
    refused: Cell<Option<Bound>>,
}

impl Scales {
    pub(super) fn for_receiving(bytes: usize) -> Self {
        Self {
            bytes,
            depth: Cell::new(0),
            elements: Cell::new(0),
            memory: Cell::new(0),
            own: Cell::new(0),
            unknown: Cell::new(0),
            refused: Cell::new(None),
        }
    }

    pub(super) fn for_sending() -> Self {
        Self { own: Cell::new(POINTER), ..Self::for_receiving(MAX_MESSAGE) }
    }

    /// Why the value was refused.
    pub(super) fn refused(&self) -> Option<Bound> {
        self.refused.get()
    }

    /// The memory that was asked for so far.
    pub(super) fn claimed(&self) -> usize {
        self.memory.get()
    }

    /// As many elements as are worth making room for at once, of so many that are said to come.
    pub(super) fn room(&self, said: usize) -> usize {
        said.min(self.bytes)
    }

    /// Reads a value of this size that holds others, or what is in its box.
    pub(super) fn read<T, E: serde::de::Error>(
        &self,
        size: usize,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.enter().map_err(E::custom)?;
        let counted = self.own.replace(size);
        let left = match counted.checked_sub(size) {
            Some(left) => left, // it is in what holds it
            None => {
                self.claim(size).map_err(E::custom)?;
                counted
            }
        };
        let value = read()?;
        self.own.set(left);
        self.depth.set(self.depth.get() - 1);
        Ok(value)
    }

    /// So many elements of this size are to be read, each after [`read_element`](Self::read_element).
    pub(super) fn read_elements(&self, count: usize, size: usize) -> Result<(), Bound> {
        self.elements(count)?;
        self.claim(size.saturating_mul(count))
    }

    pub(super) fn read_element(&self, size: usize) {
        self.own.set(size);
    }

    fn elements(&self, count: usize) -> Result<(), Bound> {
        self.elements.set(self.elements.get().saturating_add(count));
        let most = self.bytes.saturating_add(ELEMENTS);
        if self.elements.get() > most { self.refuse(Bound::Elements) } else { Ok(()) }
    }

    fn claim(&self, size: usize) -> Result<(), Bound> {
        self.memory.set(self.memory.get().saturating_add(size));
        if self.memory.get() > memory(self.bytes) { self.refuse(Bound::Memory) } else { Ok(()) }
    }

    /// A value that holds others begins. A sender calls [`leave`](Self::leave) at its end.
    pub(super) fn enter(&self) -> Result<(), Bound> {
        if self.depth.get() == MAX_DEPTH {
            return self.refuse(Bound::Depth);
        }
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    pub(super) fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }

    /// So many elements are to be written.
    pub(super) fn write_elements(&self, count: usize) -> Result<(), Bound> {
        self.hold(count.saturating_mul(POINTER));
        self.elements(count)
    }

    /// What is written next is an element of this size, or a reference to one.
    pub(super) fn write_element(&self, size: usize) {
        self.own.set(size);
        if size > POINTER {
            self.hold(size);
        }
    }

    /// What is written next is a part of this size, or a reference to one.
    pub(super) fn write_part(&self, size: usize) {
        self.own.set(size);
        self.hold(size);
    }

    /// A value is written that has so much memory of its own beyond its place.
    pub(super) fn hold(&self, size: usize) {
        self.memory.set(self.memory.get().saturating_add(size));
    }

    /// A value is written that may be smaller than others of its type.
    pub(super) fn write_variant(&self) {
        if self.own.get() == POINTER {
            self.unknown.set(self.unknown.get() + 1);
        }
    }

    /// Whether what was written in so many bytes is sure not to ask for too much memory.
    pub(super) fn weighed(&self, bytes: usize) -> Result<bool, Bound> {
        if self.elements.get() > bytes.saturating_add(ELEMENTS) {
            return Err(Bound::Elements);
        }
        let unknown = self.unknown.get().saturating_mul(LARGE);
        Ok(self.memory.get().saturating_add(unknown) <= memory(bytes))
    }

    fn refuse(&self, bound: Bound) -> Result<(), Bound> {
        self.refused.set(Some(bound));
        Err(bound)
    }
}

/// The memory that a value of so many bytes may ask for.
fn memory(bytes: usize) -> usize {
    bytes.saturating_mul(PER_BYTE).saturating_add(MEMORY)
}
