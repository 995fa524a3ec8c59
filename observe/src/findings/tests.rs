use super::*;
use crate::WaitFigures;
use crate::testing::{self, SECOND};

fn ids(profile: &Profile) -> Vec<&'static str> {
    RULES.iter().filter(|rule| !(rule.check)(profile).is_empty()).map(|rule| rule.id).collect()
}

/// A query of which nothing is to be said.
fn fine() -> Profile {
    let mut profile = testing::pipeline();
    let stage = &mut profile.stages[2];
    stage.durations = crate::Histogram::default();
    (0..8).for_each(|_| stage.durations.add(200_000));
    stage.slowest = Some((5, 1, 200_000_000));
    profile.stages[1].spent.udf = SECOND;
    profile.pools[0].calls.retried = 0;
    assert_eq!(ids(&profile), Vec::<&str>::new());
    profile
}

/// Each rule speaks of what it is about, and is silent at the other side of its bounds.
#[test]
fn each_rule_speaks_when_it_says_and_is_silent_else() {
    type Change = fn(&mut Profile);
    let cases: &[(&str, Change, Change)] = &[
        ("pool-bound", |p| p.stages[1].spent.udf = 60 * SECOND, |p| p.pools[0].calls.busy = p.pools[0].alive / 2),
        ("pool-idle", |p| p.pools[0].calls.busy = p.pools[0].alive / 6, |p| p.pools[0].alive = 19 * SECOND),
        ("start-dominates", |p| p.pools[0].start = 40 * SECOND, |p| p.pools[0].started = 4),
        ("small-batches", |p| p.pools[0].batch = Some(20_000), |p| p.pools[0].calls.busy = SECOND / 2),
        (
            "gpu-fallback",
            |p| {
                p.pools[0].reported = vec![("cpu_batches".into(), 3.0)];
                p.plan.nodes[2].udf.as_mut().unwrap().wants_gpu = true;
            },
            |p| p.plan.nodes[2].udf.as_mut().unwrap().wants_gpu = false,
        ),
        (
            "skew",
            |p| {
                p.stages[2].durations.add(9_000_000);
                p.stages[2].slowest = Some((5, 1, 9 * SECOND));
            },
            |p| p.query.ran = 100 * SECOND,
        ),
        (
            "whole-stage",
            |p| p.stages[3].started = Some(0),
            |p| {
                p.workers.truncate(1);
                p.query.workers = 1;
            },
        ),
        (
            "tiny-tasks",
            |p| (0..20_000).for_each(|_| p.stages[0].durations.add(2_000)),
            |p| (0..30_000).for_each(|_| p.stages[0].durations.add(9_000)),
        ),
        ("few-tasks", |p| p.stages[1].tasks = Some(7), |p| p.stages[1].tasks = Some(8)),
        ("waited-for-room", |p| p.query.waited = 20 * SECOND, |p| p.query.ran = 100 * SECOND),
        ("memory-near", |p| p.workers[1].sample.peak = p.workers[1].memory - 1, |p| p.workers[1].memory *= 2),
        ("relayed", |p| p.edges[1].fetched.relayed = 100 << 20, |p| p.edges[1].fetched.relayed = 20 << 20),
        ("retries", |p| p.stages[1].failed = 1, |p| p.stages[1].failed = 0),
        ("lost-worker", |p| p.workers[0].lost = Some("signal 9".into()), |p| p.workers[0].lost = None),
    ];
    for (id, fault, mend) in cases {
        let mut profile = fine();
        fault(&mut profile);
        assert_eq!(ids(&profile), [*id]);
        let said = findings(&profile).remove(0);
        assert!(!said.advice.is_empty() && said.says.ends_with('.'), "{said:?}");
        mend(&mut profile);
        assert!(!ids(&profile).contains(id), "{id} speaks without reason");
    }
    let tested: Vec<_> = cases.iter().map(|(id, ..)| *id).collect();
    assert_eq!(tested, RULES.iter().map(|rule| rule.id).collect::<Vec<_>>(), "each rule has a case");
}

#[test]
fn findings_say_their_figures() {
    let profile = testing::pipeline();
    let says: Vec<_> = profile.findings.iter().map(|finding| format!("{}: {}", finding.id, finding.says)).collect();
    assert_eq!(
        says,
        [
            "pool-bound: bound by Embed: tasks waited 70 s for it, its replicas were 95 % busy, 6 of 8 CPUs were idle.",
            "skew: skewed: task 5 on worker 1 left 7.3x the middle one's rows, and ran 7.99 s longer than most.",
            "retries: 2 UDF calls were made again.",
        ]
    );
    assert_eq!(profile.findings[0].advice, "Try .replicas(1..=4)");
}

/// What to do about a wait depends on what it was for.
#[test]
fn who_waited_for_a_start_is_not_told_to_get_more_workers() {
    let mut profile = fine();
    profile.query.waited = 20 * SECOND;
    let advice = |profile: &Profile, kind: &str| {
        let mut profile = profile.clone();
        let wait = WaitFigures { kind: kind.to_owned(), on: "UDF x".to_owned(), time: 15 * SECOND };
        profile.stages[1].waits = vec![wait];
        stages::waited(&profile)[0].advice.clone()
    };
    assert!(advice(&profile, "start").contains("REGATTA_POOL_WARM_SECONDS"));
    assert!(advice(&profile, "capacity").contains("more workers"));
}
