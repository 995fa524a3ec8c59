//! Who did something too often, forgotten with time. Pure, and bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Keys that are counted at a time.
const KEYS: usize = 1024;

/// Counts per key: each lasts for a while.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    counts: BTreeMap<K, Count>,
    burst: u32,
    each: Duration,
}

/// A key's count, as of a time.
#[derive(Debug)]
struct Count {
    count: u32,
    since: Duration,
}

impl<K: Ord + Copy> Rates<K> {
    /// A key may have `burst` counts at a time; every `each`, one of them is forgotten.
    pub(crate) fn new(burst: u32, each: Duration) -> Self {
        Self { counts: BTreeMap::new(), burst, each }
    }

    /// Whether a key has as many counts as it may.
    pub(crate) fn is_full(&mut self, key: K, now: Duration) -> bool {
        let Some(count) = self.counts.get_mut(&key) else {
            return false;
        };
        count.forget(self.each, now);
        count.count >= self.burst
    }

    /// Adds one to a key's count.
    pub(crate) fn count(&mut self, key: K, now: Duration) {
        if !self.counts.contains_key(&key) && self.counts.len() >= KEYS {
            self.counts.retain(|_, count| {
                count.forget(self.each, now);
                count.count > 0
            });
            if self.counts.len() >= KEYS {
                self.counts.pop_first();
            }
        }
        let count = self.counts.entry(key).or_insert(Count { count: 0, since: now });
        count.forget(self.each, now);
        count.count = count.count.saturating_add(1);
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> usize {
        self.counts.len()
    }
}

impl Count {
    fn forget(&mut self, each: Duration, now: Duration) {
        let over = now.saturating_sub(self.since).as_nanos() / each.as_nanos().max(1);
        self.count = self.count.saturating_sub(u32::try_from(over).unwrap_or(u32::MAX));
        // Also if the clock was set back.
        if over > 0 || now < self.since {
            self.since = now;
        }
    }
}

/// What counts as one host: of an IPv6 network, all of it.
pub(crate) fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_full_for_a_while_and_others_are_not() {
        let mut rates = Rates::new(3, Duration::from_millis(100));
        let at = Duration::from_millis;
        for _ in 0..3 {
            assert!(!rates.is_full(1, at(50)));
            rates.count(1, at(50));
        }
        assert!(rates.is_full(1, at(50)) && rates.is_full(1, at(149)) && !rates.is_full(2, at(50)));
        assert!(!rates.is_full(1, at(150)));
        rates.count(1, at(150));
        assert!(rates.is_full(1, at(10)), "a clock that is set back frees nobody");
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut rates = Rates::new(1, Duration::from_secs(1));
        for key in 0..2 * KEYS {
            rates.count(key, Duration::ZERO);
        }
        assert_eq!(rates.keys(), KEYS);
        rates.count(0, Duration::from_secs(5));
        assert_eq!(rates.keys(), 1, "the forgotten go first");
    }

    #[test]
    fn a_network_of_version_six_is_one_host() {
        let host = |text: &str| host(text.parse().unwrap());
        assert_eq!(host("2001:db8:1:2::1"), host("2001:db8:1:2:ffff::9"));
        assert_ne!(host("2001:db8:1:2::1"), host("2001:db8:1:3::1"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
        assert_ne!(host("10.0.0.1"), host("10.0.0.2"));
    }
}
