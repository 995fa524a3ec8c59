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
    /// Entries that were forgotten between what was asked for and `next`, wanted or not.
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
        // A number that was not given yet is of another process, which had this one's place before.
        let after = if after < self.next { after } else { 0 };
        let mut page = Page { entries: Vec::new(), next: after, missed: 0 };
        let mut fits = room::<T>(bytes);
        for entry in self.entries.iter().filter(|entry| entry.number() > after) {
            let wanted = wants(entry);
            // One that fits nowhere is not waited for.
            if wanted && (page.entries.len() >= most || !fits(entry) && !page.entries.is_empty()) {
                return page;
            }
            page.missed += entry.number() - page.next - 1;
            page.next = entry.number();
            if wanted {
                page.entries.push(entry.clone());
            }
        }
        page.missed += self.next - 1 - page.next;
        page.next = self.next - 1;
        page
    }

    /// So many entries were forgotten before they came here.
    pub(crate) fn miss(&mut self, entries: u64) {
        self.next = self.next.saturating_add(entries);
    }

    /// All entries, and how many were forgotten: the ring begins anew.
    pub(crate) fn take(&mut self) -> (Vec<T>, u64) {
        let Self { entries, next, .. } = std::mem::replace(self, Self::new(self.most));
        let forgotten = next - 1 - entries.len() as u64;
        (entries.into(), forgotten)
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
    fn what_was_forgotten_elsewhere_is_counted_once_and_a_ring_that_begins_anew_is_read_from_its_beginning() {
        let mut ring = Ring::new(1000);
        (0..5).for_each(|_| ring.push(|number| Sized(number, 400)));
        let (taken, forgotten) = ring.take();
        assert_eq!((taken.iter().map(|entry| entry.0).collect::<Vec<_>>(), forgotten), (vec![4, 5], 3));
        ring.push(|number| Sized(number, 400));
        ring.miss(7);
        ring.push(|number| Sized(number, 400));
        ring.miss(2);
        let page = ring.page(0, |_| true, 1000, 1 << 20);
        assert_eq!((numbers(&page), page.missed, page.next), (vec![1, 9], 9, 11));
        let page = ring.page(page.next, |_| true, 1000, 1 << 20);
        assert_eq!((numbers(&page), page.missed, page.next), (vec![], 0, 11));
        for never_given in [12, u64::MAX] {
            assert_eq!(all(&ring, never_given), [1, 9]);
        }
        let mut small = Ring::new(10);
        small.push(|number| Sized(number, 500));
        assert_eq!([0, 1].map(|after| small.page(after, |_| true, 9, 9).missed), [1, 0]);
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
        assert_eq!(numbers(&ring.newest(|_| true, 100, 8000)), [99, 100]);
        assert_eq!(numbers(&ring.page(90, |entry| entry.0.is_multiple_of(5), 9, 1 << 20)), [95, 100]);
    }
}
