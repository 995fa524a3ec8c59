//! Membership against a clock that the tests hold.

use std::cell::Cell;

use super::*;

/// Node numbers without certificates.
fn node(n: u64) -> NodeId {
    crate::decode(&crate::encode(&n).unwrap()).unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Ticks each second from `from` to `to`, inclusive; what it did but for beats, with the time.
fn run(core: &mut Membership, from: u64, to: u64) -> Vec<(u64, Action)> {
    let tick = |at| core.handle(Event::Tick, secs(at)).into_iter().map(move |action| (at, action)).collect::<Vec<_>>();
    (from..=to).flat_map(tick).filter(|(_, action)| !matches!(action, Action::Beat { .. })).collect()
}

/// The number of the beat that goes to a peer.
fn beat_to(actions: &[Action], to: NodeId) -> u64 {
    let beat = actions.iter().rev().find_map(|action| match action {
        Action::Beat { node, seq, .. } if *node == to => Some(*seq),
        _ => None,
    });
    beat.unwrap()
}

/// Peers that have acknowledged a beat of 0 s, by their own first one.
fn with_peers(count: u64) -> Membership {
    let mut core = Membership::default();
    core.handle(Event::Tick, secs(0));
    for n in 1..=count {
        let ack = beat_to(&core.handle(Event::Up(node(n)), secs(0)), node(n));
        core.handle(Event::Beat { node: node(n), seq: 1, ack }, secs(0));
    }
    core
}

#[test]
fn there_is_no_lease_before_a_beat_was_answered() {
    let mut core = Membership::default();
    let peer = node(1);
    let first = core.handle(Event::Up(peer), secs(0));
    assert_eq!(first, [Action::Beat { node: peer, seq: 1, ack: 0 }], "it beats at once");
    assert!(!core.is_leased(peer, secs(0)));
    let dead = run(&mut core, 1, 20);
    assert_eq!(dead, [(3, Action::Suspect(peer)), (10, Action::Dead { node: peer, silent: secs(10) })]);
    // The first beat that comes is answered at once, and only that; what it acknowledges counts from when it was sent.
    let mut core = Membership::default();
    core.handle(Event::Up(peer), secs(1));
    assert_eq!(
        core.handle(Event::Beat { node: peer, seq: 7, ack: 0 }, secs(4)),
        [Action::Beat { node: peer, seq: 2, ack: 7 }]
    );
    assert!(!core.is_leased(peer, secs(4)));
    assert_eq!(core.handle(Event::Beat { node: peer, seq: 8, ack: 2 }, secs(5)), []);
    assert!(core.is_leased(peer, secs(12)) && !core.is_leased(peer, secs(4) + LEASE));
}

#[test]
fn silence_makes_suspect_then_unleased_then_dead_once() {
    let mut core = with_peers(1);
    let peer = node(1);
    let expected =
        [(3, Action::Suspect(peer)), (9, Action::LeaseLost(peer)), (10, Action::Dead { node: peer, silent: secs(10) })];
    assert_eq!(run(&mut core, 1, 60), expected);
    assert!(core.is_dead(peer));
}

#[test]
fn a_beat_recovers_and_its_acknowledgement_renews_the_lease_from_when_it_was_sent() {
    let mut core = with_peers(1);
    let peer = node(1);
    assert_eq!(run(&mut core, 1, 4), [(3, Action::Suspect(peer))]);
    // Beats 4 to 7 were sent at 1 to 4 s: three went before.
    let actions = core.handle(Event::Beat { node: peer, seq: 2, ack: 5 }, secs(4));
    assert_eq!(actions, [Action::Recovered(peer)]);
    assert!(core.is_leased(peer, secs(2) + LEASE - Duration::from_millis(1)));
    assert!(!core.is_leased(peer, secs(2) + LEASE));
}

#[test]
fn a_lease_that_was_lost_comes_back_with_an_acknowledgement() {
    let mut core = with_peers(1);
    let peer = node(1);
    // It is heard, but hears nothing of us.
    for at in 1..=9 {
        core.handle(Event::Beat { node: peer, seq: 1 + at, ack: 0 }, secs(at));
        let lost = run(&mut core, at, at);
        assert_eq!(lost, if at == 9 { vec![(9, Action::LeaseLost(peer))] } else { vec![] });
    }
    let actions = core.handle(Event::Beat { node: peer, seq: 11, ack: 12 }, secs(10));
    assert_eq!(actions, [Action::LeaseBack(peer)]);
}

#[test]
fn old_beats_and_made_up_acknowledgements_count_for_nothing() {
    let mut core = with_peers(1);
    let peer = node(1);
    core.handle(Event::Beat { node: peer, seq: 5, ack: 0 }, secs(1));
    let mut done = Vec::new();
    for at in 1..=12 {
        for (seq, ack) in [(5, at), (4, at)] {
            core.handle(Event::Beat { node: peer, seq, ack }, secs(at));
        }
        done.extend(run(&mut core, at, at));
    }
    assert!(done.contains(&(9, Action::LeaseLost(peer))), "{done:?}");
    assert!(done.contains(&(11, Action::Dead { node: peer, silent: secs(10) })), "{done:?}");
    let mut core = with_peers(1);
    core.handle(Event::Beat { node: peer, seq: 6, ack: u64::MAX }, secs(3));
    assert!(!core.is_leased(peer, secs(9)), "an acknowledgement of a beat that was never sent");
}

#[test]
fn the_dead_stay_dead_and_others_do_not_care() {
    let mut core = with_peers(1);
    run(&mut core, 1, 10);
    assert_eq!(core.handle(Event::Up(node(1)), secs(11)), [Action::Refuse(node(1))]);
    assert_eq!(core.handle(Event::Beat { node: node(1), seq: 99, ack: 0 }, secs(11)), []);
    assert_eq!(run(&mut core, 11, 30), []);
    // A new incarnation is another node.
    core.handle(Event::Up(node(2)), secs(30));
    assert!(!core.is_dead(node(2)));
}

#[test]
fn who_leaves_is_not_dead() {
    let mut core = with_peers(1);
    core.handle(Event::Gone(node(1)), secs(2));
    assert_eq!(run(&mut core, 2, 30), []);
    assert!(matches!(core.handle(Event::Up(node(1)), secs(31))[..], [Action::Beat { .. }]));
}

#[test]
fn our_own_stall_is_nobodys_silence_but_costs_our_leases() {
    let mut core = with_peers(2);
    assert_eq!(run(&mut core, 1, 1), []);
    // Stopped for a minute: silence counts on from where it was.
    let lost = [(62, Action::LeaseLost(node(1))), (62, Action::LeaseLost(node(2)))];
    assert_eq!(run(&mut core, 62, 62), lost);
    assert_eq!(run(&mut core, 63, 63), [(63, Action::Suspect(node(1))), (63, Action::Suspect(node(2)))]);
    // Without an excuse they would have died at 62 s.
    let dead = run(&mut core, 64, 72);
    assert_eq!(dead.len(), 2);
    assert!(dead.iter().all(|(at, action)| *at == 70 && matches!(action, Action::Dead { .. })), "{dead:?}");
}

#[test]
fn when_many_are_silent_at_once_the_brake_holds_for_a_while() {
    let mut core = with_peers(9);
    let done = run(&mut core, 1, 40);
    assert!(done.contains(&(3, Action::Brake { silent: 9, of: 9 })));
    let deaths: Vec<u64> = done.iter().filter(|(_, a)| matches!(a, Action::Dead { .. })).map(|(at, _)| *at).collect();
    assert_eq!(deaths, [30; 9]);
}

#[test]
fn the_brake_is_not_for_a_few_and_lets_go_when_others_are_heard() {
    // Three of ten are no more than the share.
    let mut core = with_peers(10);
    let mut deaths = Vec::new();
    for at in 1..=12 {
        for n in 4..=10 {
            core.handle(Event::Beat { node: node(n), seq: 1 + at, ack: 0 }, secs(at));
        }
        deaths.extend(run(&mut core, at, at).into_iter().filter(|(_, a)| matches!(a, Action::Dead { .. })));
    }
    assert_eq!(deaths.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [10; 3]);
    // All silent, then all but one are back: that one is dead at once.
    let mut core = with_peers(5);
    run(&mut core, 1, 14);
    for n in 2..=5 {
        core.handle(Event::Beat { node: node(n), seq: 2, ack: 0 }, secs(14));
    }
    assert_eq!(run(&mut core, 15, 15), [(15, Action::Dead { node: node(1), silent: secs(15) })]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut core = Membership::default();
    for n in 0..GRAVES as u64 + 7 {
        core.handle(Event::Up(node(n)), secs(0));
    }
    run(&mut core, 1, 30);
    assert_eq!((core.dead.len(), core.members.len()), (GRAVES, 0));
    let mut core = with_peers(1);
    for at in 1..100 {
        core.handle(Event::Beat { node: node(1), seq: 1 + at, ack: 0 }, secs(at));
        run(&mut core, at, at);
    }
    assert_eq!(core.members[&node(1)].sent.len(), BEATS);
}

/// Two nodes over a network that loses, delays and stops them, by seed. Neither knows when the other began to listen.
#[test]
fn nobody_is_declared_dead_who_still_holds_a_lease() {
    let (mut deaths, mut recoveries, mut stalls) = (0, 0, 0);
    for seed in 0..300 {
        let random = Cell::new(seed);
        let below = |bound: u64| {
            let mut state = random.get();
            let drawn = crate::ambient::split_mix(&mut state) % bound;
            random.set(state);
            drawn
        };
        let names = [node(1), node(2)];
        let mut cores = [Membership::default(), Membership::default()];
        let up = [below(2) * below(9000), below(9000)];
        let mut next_tick = [below(1000), below(1000)];
        let mut wire: Vec<(u64, usize, u64, u64)> = Vec::new(); // when, to, seq, ack
        let mut cut_until = [0; 2];
        let loss = below(60);
        for ms in 0..120_000u64 {
            let now = Duration::from_millis(ms);
            if below(20_000) == 0 {
                let side = below(2) as usize;
                cut_until[side] = ms + below(14_000); // one direction
            }
            let mut act = |core: &mut Membership, side: usize, event, wire: &mut Vec<_>| {
                for action in core.handle(event, now) {
                    match action {
                        Action::Beat { seq, ack, .. } if ms >= cut_until[side] && below(100) >= loss => {
                            wire.push((ms + 1 + below(900), 1 - side, seq, ack));
                        }
                        Action::Dead { .. } => return true,
                        Action::Recovered(_) => recoveries += 1,
                        _ => (),
                    }
                }
                false
            };
            let mut dead = None;
            for side in 0..2 {
                if ms == up[side] {
                    act(&mut cores[side], side, Event::Up(names[1 - side]), &mut wire);
                }
                if ms >= next_tick[side] {
                    let stall = if below(200) == 0 { below(15_000) } else { 0 };
                    stalls += u32::from(stall > 1000);
                    next_tick[side] = ms + 1000 + stall;
                    if act(&mut cores[side], side, Event::Tick, &mut wire) {
                        dead = Some(1 - side);
                    }
                }
                while let Some(at) = wire.iter().position(|beat| beat.0 <= ms && beat.1 == side) {
                    let (_, _, seq, ack) = wire.swap_remove(at);
                    act(&mut cores[side], side, Event::Beat { node: names[1 - side], seq, ack }, &mut wire);
                }
            }
            if let Some(dead) = dead {
                assert!(!cores[dead].is_leased(names[1 - dead], now), "seed {seed}: dead at {now:?} under a lease");
                deaths += 1;
                break;
            }
        }
    }
    // The runs were worth something.
    assert!(deaths > 30 && recoveries > 100 && stalls > 100, "{deaths} {recoveries} {stalls}");
}
