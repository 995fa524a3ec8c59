//! Who is alive. Pure: events and the time go in, actions come out.
//!
//! Every node beats to each peer once per [`TICK`]; a beat names the last beat that came the other way. A peer that
//! is silent becomes suspect, then dead, and a dead one stays dead: a node's number is its incarnation, and what was
//! given up may have been given to others.
//!
//! A beat of ours that a peer has acknowledged gives us a **lease** from the time at which we sent it. It ends before
//! that peer can have declared us dead, by our clock and without asking anybody; so a node that has been cut off
//! knows that it must not act for that peer any more. There is no lease before the first acknowledgement: when the other
//! side began to listen is not known. To come by it soon, both sides beat when they are connected, and answer the first
//! beat that they hear.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::ids::NodeId;

/// Time between beats.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Silence after which a peer is suspect.
pub(crate) const SUSPECT: Duration = Duration::from_secs(3);
/// How long an acknowledged beat is good for. Shorter than [`DEAD`] by what two clocks may drift apart in that time.
pub(crate) const LEASE: Duration = Duration::from_secs(9);
/// Silence after which a peer is dead.
pub(crate) const DEAD: Duration = Duration::from_secs(10);
/// A tick that is later than this is a stall of our own, for which no peer can be blamed.
const STALL: Duration = Duration::from_secs(1);
/// When this many peers and this share of all are silent at once, it is rather our own network: then nobody is
/// declared dead for a while longer.
const BRAKE_PEERS: usize = 3;
const BRAKE_PERCENT: usize = 30;
pub(crate) const BRAKE_HOLD: Duration = Duration::from_secs(20);
/// Dead nodes that are remembered.
const GRAVES: usize = 4096;
/// Beats whose sending time is remembered: as many as a lease is long.
const BEATS: usize = (LEASE.as_secs() / TICK.as_secs()) as usize + 1;

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A peer is connected.
    Up(NodeId),
    /// Its connection has ended, for whatever reason.
    Gone(NodeId),
    /// A peer's beat: its number, and the number of the last beat of ours that it has seen.
    Beat { node: NodeId, seq: u64, ack: u64 },
    /// Comes once per [`TICK`].
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Beat {
        node: NodeId,
        seq: u64,
        ack: u64,
    },
    Suspect(NodeId),
    Recovered(NodeId),
    Dead {
        node: NodeId,
        silent: Duration,
    },
    /// That peer may have declared us dead.
    LeaseLost(NodeId),
    LeaseBack(NodeId),
    /// A dead node has come back under its old number.
    Refuse(NodeId),
    /// So many are silent that nobody is declared dead for now.
    Brake {
        silent: usize,
        of: usize,
    },
}

/// The peers of a node. Times are since any fixed moment, by a clock that never goes back.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    members: BTreeMap<NodeId, Member>,
    dead: VecDeque<NodeId>,
    ticked: Option<Duration>,
    /// Numbers of beats never start again, so that a peer which did not notice a reconnection takes the next one.
    seq: u64,
    braking: bool,
}

#[derive(Debug)]
struct Member {
    heard: Duration,
    seen: u64,
    suspect: bool,
    /// Our beats that it has not acknowledged.
    sent: VecDeque<(u64, Duration)>,
    /// Zero before the first acknowledgement that gave a lease.
    leased_until: Duration,
    leased: bool,
}

impl Member {
    fn beat(&mut self, node: NodeId, seq: u64, now: Duration) -> Action {
        if self.sent.len() == BEATS {
            self.sent.pop_front();
        }
        self.sent.push_back((seq, now));
        Action::Beat { node, seq, ack: self.seen }
    }
}

impl Membership {
    /// Takes an event; `now` is not before any earlier one.
    pub(crate) fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Up(node) => self.up(node, now),
            Event::Gone(node) => {
                self.members.remove(&node);
                Vec::new()
            }
            Event::Beat { node, seq, ack } => self.beat(node, seq, ack, now),
            Event::Tick => self.tick(now),
        }
    }

    /// Whether a node was declared dead.
    pub(crate) fn is_dead(&self, node: NodeId) -> bool {
        self.dead.contains(&node)
    }

    /// Whether a peer cannot have declared us dead yet.
    pub(crate) fn is_leased(&self, node: NodeId, now: Duration) -> bool {
        self.members.get(&node).is_some_and(|member| now < member.leased_until)
    }

    fn up(&mut self, node: NodeId, now: Duration) -> Vec<Action> {
        if self.is_dead(node) {
            return vec![Action::Refuse(node)];
        }
        let member = self.members.entry(node).or_insert_with(|| Member {
            heard: now,
            seen: 0,
            suspect: false,
            sent: VecDeque::with_capacity(BEATS),
            leased_until: Duration::ZERO,
            leased: false,
        });
        self.seq += 1;
        vec![member.beat(node, self.seq, now)]
    }

    fn beat(&mut self, node: NodeId, seq: u64, ack: u64, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(member) = self.members.get_mut(&node) else {
            return actions; // not up, or dead
        };
        if seq <= member.seen {
            return actions; // an old one says nothing about now
        }
        let first = std::mem::replace(&mut member.seen, seq) == 0;
        member.heard = now;
        if std::mem::take(&mut member.suspect) {
            actions.push(Action::Recovered(node));
        }
        let never = member.leased_until.is_zero();
        while let Some((sent, at)) = member.sent.front().copied().filter(|(sent, _)| *sent <= ack) {
            member.sent.pop_front();
            // One that comes too late gives no lease, and so the next that does gives none back.
            if sent == ack && now < at + LEASE {
                member.leased_until = member.leased_until.max(at + LEASE);
            }
        }
        if !member.leased && now < member.leased_until {
            member.leased = true;
            if !never {
                actions.push(Action::LeaseBack(node));
            }
        }
        if first {
            self.seq += 1;
            actions.push(member.beat(node, self.seq, now));
        }
        actions
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        let late = self.ticked.map_or(Duration::ZERO, |ticked| now.saturating_sub(ticked + TICK));
        self.ticked = Some(now);
        if late > STALL {
            // We did not listen, so they were not silent. Our own leases run on: theirs is the clock that counts.
            for member in self.members.values_mut() {
                member.heard = (member.heard + late).min(now);
            }
        }
        let mut actions = Vec::new();
        let of = self.members.len();
        let silent = self.members.values().filter(|member| now.saturating_sub(member.heard) >= SUSPECT).count();
        let braking = silent >= BRAKE_PEERS && silent * 100 > of * BRAKE_PERCENT;
        if braking && !self.braking {
            actions.push(Action::Brake { silent, of });
        }
        self.braking = braking;
        let patience = if braking { DEAD + BRAKE_HOLD } else { DEAD };
        self.seq += 1;
        let seq = self.seq;
        let mut dead = Vec::new();
        for (&node, member) in &mut self.members {
            if member.leased && now >= member.leased_until {
                member.leased = false;
                actions.push(Action::LeaseLost(node));
            }
            let silent = now.saturating_sub(member.heard);
            if silent >= patience {
                dead.push(node);
                actions.push(Action::Dead { node, silent });
                continue;
            }
            if silent >= SUSPECT && !member.suspect {
                member.suspect = true;
                actions.push(Action::Suspect(node));
            }
            actions.push(member.beat(node, seq, now));
        }
        for node in dead {
            self.members.remove(&node);
            if self.dead.len() == GRAVES {
                self.dead.pop_front();
            }
            self.dead.push_back(node);
        }
        actions
    }
}

#[cfg(test)]
mod tests;
