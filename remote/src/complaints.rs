//! Lines of the log that others cause: a few about each of them in a while, and then how many more there were. Pure, and bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::ids::{NodeId, PeerId};
use crate::rates::host;

/// Lines about one of them in a while.
const LINES: u32 = 10;
pub(crate) const WHILE: Duration = Duration::from_secs(10);
/// Those that are told apart at a time. Whoever comes beyond counts as one with all others.
const TOLD_APART: usize = 128;

/// Who is complained of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// By its certificate.
    Node(NodeId),
    Host(IpAddr),
    /// All who are too many to be told apart.
    Others,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Written,
    /// The first of a while that is not: at the end of it [`over`](Complaints::over) says how many those were, of whom.
    First(About, Duration),
    LeftOut,
}

/// The lines of the last while.
#[derive(Debug, Default)]
pub(crate) struct Complaints(BTreeMap<About, Count>);

#[derive(Debug)]
struct Count {
    since: Duration,
    lines: u32,
    left_out: u64,
}

impl Complaints {
    /// Somebody has caused a line. `now` is not before any earlier one.
    pub(crate) fn line(&mut self, about: About, now: Duration) -> Line {
        let about = if self.0.contains_key(&about) || self.makes_room(now) { about } else { About::Others };
        let count = self.0.entry(about).or_insert(Count { since: now, lines: 0, left_out: 0 });
        if count.left_out == 0 && now.saturating_sub(count.since) >= WHILE {
            (count.since, count.lines) = (now, 0);
        }
        if count.lines < LINES {
            count.lines += 1;
            return Line::Written;
        }
        count.left_out += 1;
        match count.left_out {
            1 => Line::First(about, (count.since + WHILE).saturating_sub(now)),
            _ => Line::LeftOut,
        }
    }

    /// A while is over in which lines were left out: so many. The next is another's.
    pub(crate) fn over(&mut self, about: About) -> u64 {
        self.0.remove(&about).map_or(0, |count| count.left_out)
    }

    /// Whether one more can be told apart.
    fn makes_room(&mut self, now: Duration) -> bool {
        if self.0.len() >= TOLD_APART {
            self.0.retain(|_, count| count.left_out > 0 || now.saturating_sub(count.since) < WHILE);
        }
        self.0.len() < TOLD_APART
    }
}

impl From<PeerId> for About {
    fn from(peer: PeerId) -> Self {
        Self::Node(peer.node)
    }
}

impl From<SocketAddr> for About {
    fn from(address: SocketAddr) -> Self {
        Self::Host(host(address.ip()))
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Others => f.write_str("many others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn node(n: u64) -> About {
        About::Node(NodeId(n))
    }

    #[test]
    fn a_few_lines_are_written_in_a_while_and_the_rest_is_counted() {
        let mut complaints = Complaints::default();
        let lines: Vec<Line> = (0..100).map(|_| complaints.line(node(1), 3 * SECOND)).collect();
        assert_eq!(lines.iter().filter(|line| **line == Line::Written).count(), LINES as usize);
        assert_eq!(lines[LINES as usize], Line::First(node(1), WHILE));
        assert_eq!(complaints.line(node(2), 3 * SECOND), Line::Written, "another has its own");
        // Until that is said, all are counted; then it begins anew.
        assert_eq!(complaints.line(node(1), 14 * SECOND), Line::LeftOut);
        assert_eq!((complaints.over(node(1)), complaints.over(node(1))), (101 - u64::from(LINES), 0));
        assert_eq!(complaints.line(node(1), 14 * SECOND), Line::Written);
        // Who is slow enough is never left out.
        assert!((20..1000).all(|at| complaints.line(node(3), at * SECOND) == Line::Written));
    }

    #[test]
    fn those_who_are_told_apart_are_bounded_and_the_rest_counts_as_one() {
        let mut complaints = Complaints::default();
        let of_each = |complaints: &mut Complaints, now| {
            (0..10_000).filter(|n| complaints.line(node(*n), now) == Line::Written).count()
        };
        assert_eq!(of_each(&mut complaints, SECOND), TOLD_APART + LINES as usize);
        assert_eq!(complaints.0.len(), TOLD_APART + 1);
        assert_eq!(complaints.over(About::Others), 10_000 - (TOLD_APART as u64 + u64::from(LINES)));
        assert_eq!(of_each(&mut complaints, 20 * SECOND), TOLD_APART + LINES as usize, "the forgotten make room");
    }
}
