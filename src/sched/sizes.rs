//! Bytes of many sections, a byte for each: they travel with the end of every task that leaves some.

use serde::{Deserialize, Serialize};

/// Bytes of each section of an output, to about a sixteenth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sizes(Vec<u8>);

/// Blocks are of whole units.
const UNIT: u64 = 64;
/// Of more sections nothing is said.
pub(crate) const MAX_SECTIONS: u32 = 1024;

impl Sizes {
    /// Of sections that come in any order, and again.
    pub(crate) fn of(parts: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let mut sums: Vec<u64> = Vec::new();
        for (section, bytes) in parts.into_iter().filter(|(section, _)| *section < MAX_SECTIONS) {
            let section = section as usize;
            if sums.len() <= section {
                sums.resize(section + 1, 0);
            }
            sums[section] += bytes;
        }
        Self(sums.into_iter().map(code).collect())
    }

    /// The same, of no more sections than these.
    pub(super) fn first(mut self, sections: u32) -> Self {
        self.0.truncate(sections as usize);
        self.0.shrink_to_fit();
        self
    }

    pub(super) fn section(&self, section: usize) -> u64 {
        self.0.get(section).copied().map_or(0, bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A number of three bits behind the first, and how often it is doubled; below sixteen units as they are.
fn code(bytes: u64) -> u8 {
    let doubled = |units: u64| units.checked_ilog2().unwrap_or_default().saturating_sub(3);
    let units = bytes.div_ceil(UNIT);
    let units = units.saturating_add((1 << doubled(units)) >> 1);
    let doubled = doubled(units);
    u8::try_from(u64::from(doubled) * 8 + (units >> doubled)).unwrap_or(u8::MAX)
}

fn bytes(code: u8) -> u64 {
    let doubled = (code / 8).saturating_sub(1);
    (u64::from(code - doubled * 8) << doubled) * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_says_how_large_a_section_is_to_a_sixteenth() {
        assert_eq!((0..=u8::MAX).map(|of| code(bytes(of))).collect::<Vec<_>>(), (0..=u8::MAX).collect::<Vec<_>>());
        assert!((0..u8::MAX).all(|of| bytes(of) < bytes(of + 1)));
        for exact in (0..16).map(|units| units * UNIT).chain((6..40).map(|power| 1 << power)) {
            assert_eq!(bytes(code(exact)), exact);
        }
        for size in (1..4000u64).map(|n| n * n * n * 7) {
            let said = bytes(code(size));
            assert!(said.abs_diff(size) <= size / 16 + UNIT, "{size}: {said}");
        }
        assert_eq!(code(u64::MAX), u8::MAX);
        assert!(bytes(u8::MAX) > 1 << 39);
    }

    #[test]
    fn parts_of_a_section_are_summed_and_there_is_a_bound() {
        let sizes = Sizes::of([(2, 64), (0, 128), (2, 64), (MAX_SECTIONS, 64), (u32::MAX, 64)]);
        assert_eq!((0..4).map(|section| sizes.section(section)).collect::<Vec<_>>(), [128, 0, 128, 0]);
        assert_eq!(sizes.clone().first(2), Sizes::of([(0, 128), (1, 0)]));
        assert!(Sizes::of([]).is_empty() && !sizes.is_empty());
    }
}
