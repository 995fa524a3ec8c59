//! Whose call a replica takes next: those who call it take turns, one call each.

use std::collections::VecDeque;

/// Calls that wait, by caller. Each caller's are taken in their order.
#[derive(Debug)]
pub(super) struct Turns<K, T> {
    callers: VecDeque<(K, VecDeque<T>)>,
}

impl<K: PartialEq, T> Turns<K, T> {
    pub(super) fn new() -> Self {
        Self { callers: VecDeque::new() }
    }

    pub(super) fn push(&mut self, caller: K, call: T) {
        match self.callers.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, calls)) => calls.push_back(call),
            None => self.callers.push_back((caller, [call].into())),
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (caller, mut calls) = self.callers.pop_front()?;
        let call = calls.pop_front();
        if !calls.is_empty() {
            self.callers.push_back((caller, calls));
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_take_turns_and_each_ones_calls_keep_their_order() {
        let mut turns = Turns::new();
        (0..5).for_each(|n| turns.push("many", n));
        turns.push("few", 10);
        turns.push("few", 11);
        assert_eq!(turns.pop(), Some(0));
        turns.push("late", 20);
        let rest: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(rest, [10, 1, 20, 11, 2, 3, 4]);
    }
}
