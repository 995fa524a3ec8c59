//! The last entries of a process, as many as fit into so many bytes. Pure.

use std::collections::VecDeque;

/// What a ring holds.
pub(crate) trait Entry: Clone {
    /// Its number in its process, from 1.
    fn number(&self) -> u64;

    /// Bytes that it takes, about.
    fn bytes(&self) -> usize;
}

/// The last entries.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    entries: VecDeque<T>,
    bytes: usize,
    most: usize,
    next: u64,
}

/// Some of them.
#[derive(Debug)]
pub(crate) struct Page<T> {
    /// In order.
    pub(crate) entries: Vec<T>,
    /// After this number more may follow.
    pub(crate) next: u64,
    /// Entries that were forgotten between what was asked for and the first that is there, wanted or not.
    pub(crate) missed: u64,
}

impl<T: Entry> Ring<T> {
    /// One that takes so many bytes at most.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, most: bytes, next: 1 }
    }

    /// Takes in the entry with this number, and forgets the oldest for which there is no room any more.
    pub(crate) fn push(&mut self, entry: impl FnOnce(u64) -> T) {
        let entry = entry(self.next);
        self.next += 1;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.bytes > self.most {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// The newest entries that are wanted, in order: so many, and so many bytes, at most.
    pub(crate) fn newest(&self, wants: impl Fn(&T) -> bool, most: usize, bytes: usize) -> Page<T> {
        let mut fits = room::<T>(bytes);
        let wanted = self.entries.iter().rev().filter(|entry| wants(entry)).take(most);
        let mut entries: Vec<T> = wanted.take_while(|entry| fits(entry)).cloned().collect();
        entries.reverse();
        Page { entries, next: self.next - 1, missed: 0 }
    }

    /// The entries after a number that are wanted, the oldest first: so many, and so many bytes, at most.
    pub(crate) fn page(&self, after: u64, wants: impl Fn(&T) -> bool, most: usize, bytes: usize) -> Page<T> {
        let mut page = Page { entries: Vec::new(), next: after, missed: 0 };
        let mut fits = room::<T>(bytes);
        let first = self.entries.front().map_or(self.next, Entry::number);
        page.missed = first.saturating_sub(after.saturating_add(1));
        for entry in self.entries.iter().filter(|entry| entry.number() > after) {
            if wants(entry) {
                // One that fits nowhere is not waited for.
                if page.entries.len() >= most || !fits(entry) && !page.entries.is_empty() {
                    return page;
                }
                page.entries.push(entry.clone());
            }
            page.next = entry.number();
        }
        page
    }
}

/// Whether one more entry fits into what is left of so many bytes.
fn room<T: Entry>(bytes: usize) -> impl FnMut(&T) -> bool {
    let mut room = bytes;
    move |entry| {
        let left = room.checked_sub(entry.bytes());
        room = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone)]
    struct Sized(u64, usize);

    impl Entry for Sized {
        fn number(&self) -> u64 {
            self.0
        }

        fn bytes(&self) -> usize {
            self.1
        }
    }

    fn numbers(page: &Page<Sized>) -> Vec<u64> {
        page.entries.iter().map(|entry| entry.0).collect()
    }

    fn all(ring: &Ring<Sized>, after: u64) -> Vec<u64> {
        numbers(&ring.page(after, |_| true, 1000, 1 << 20))
    }

    #[test]
    fn the_newest_stay_within_their_bytes_and_what_was_forgotten_is_counted() {
        let mut ring = Ring::new(64 << 10);
        (0..1000).for_each(|_| ring.push(|number| Sized(number, 500)));
        assert!(ring.bytes <= 64 << 10 && ring.bytes > 60 << 10, "{}", ring.bytes);
        let first = ring.entries[0].0;
        assert_eq!((all(&ring, first - 1).len(), all(&ring, 998)), (ring.entries.len(), vec![999, 1000]));
        let page = ring.page(10, |_| true, 1000, 1 << 20);
        assert_eq!((page.missed, page.next), (first - 11, 1000));
        let page = ring.page(1000, |_| true, 10, 1000);
        assert_eq!((numbers(&page), page.missed, page.next), (vec![], 0, 1000));
        let mut small = Ring::new(10);
        small.push(|number| Sized(number, 500));
        assert_eq!((small.bytes, all(&small, 0)), (0, vec![]), "one that is too large is not there");
    }

    #[test]
    fn pages_follow_each_other_without_a_gap_whatever_fits_into_one() {
        let mut ring = Ring::new(1 << 20);
        (0..100).for_each(|n: usize| ring.push(|number| Sized(number, n * 40)));
        for (most, bytes) in [(7, 1 << 20), (1000, 3000), (1, 1), (1000, 1 << 20)] {
            let (mut seen, mut next) = (vec![], 0);
            loop {
                let page = ring.page(next, |_| true, most, bytes);
                if page.entries.is_empty() {
                    break;
                }
                assert!(page.entries.len() <= most);
                seen.extend(numbers(&page));
                next = page.next;
            }
            assert_eq!(seen, (1..=100).collect::<Vec<_>>(), "{most} entries, {bytes} bytes");
        }
        assert_eq!(numbers(&ring.newest(|_| true, 3, 1 << 20)), [98, 99, 100]);
        assert_eq!(numbers(&ring.newest(|_| true, 100, 7000)), [99, 100]);
        assert_eq!(numbers(&ring.page(90, |entry| entry.0.is_multiple_of(5), 9, 1 << 20)), [95, 100]);
    }
}
